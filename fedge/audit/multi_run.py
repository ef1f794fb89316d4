"""The audit of many runs: does training with one record look like training without it?

Each program is trained many times with a canary and as often without. From the scores
follows a lower bound on epsilon, which must stay under the claim for the code as it is and
exceed it for every planted bug: an audit that finds no bug has shown nothing about the code.
Full-batch training with Gaussian noise is a Gaussian mechanism up to its integer grid, so
the Gaussian bound is one of the mechanism itself and close to the truth. Training on samples
is none, so only counts bound it, against a smaller claim of its own; its planted bug, whose
samples leave nobody out, shows more than that even so.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from fedge.audit.estimators import (
    Floats,
    counted_epsilon,
    error_rates,
    gaussian_epsilon,
    gaussian_mu,
)
from fedge.audit.evidence import AuditedCase, AuditEvidence, installed_versions
from fedge.audit.programs import DELTA, PROGRAMS, Laboratory, Program
from fedge.audit.toy import SCHEMA
from fedge.errors import RunFailedError, SettingError
from fedge.lifetime import die_with_parent

RUNS = 1000
"""Trainings with the canary, and as many without, of each program."""
CONFIDENCE = 0.95
LEAST_RUNS = 20
_PIECE = 50
"""Trainings between two looks at whether someone wants to stop."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some trainings of one program: what a process is given at a time."""

    program: int
    with_canary: bool
    first: int
    count: int
    seed: int


@dataclass(frozen=True, slots=True)
class Scored:
    """What a piece gave: a score for each training, and what the ledger said of each block."""

    piece: Piece
    scores: Floats
    claimed_epsilon: float


def multi_run(
    *,
    runs: int = RUNS,
    processes: int = 2,
    seed: int = 1,
    clock: Callable[[], float] = time.time,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> AuditEvidence:
    """Audit the code as it is and with each bug planted.

    Args:
        runs: trainings with the canary, and as many without, of each program.
        processes: 0 trains in this process.
        seed: the same seed gives the same scores.
        progress: told how many trainings of how many are done.

    Raises:
        SettingError: too few runs to bound anything, or a negative number of something.
        RunFailedError: a process was killed.
    """
    if runs < LEAST_RUNS:
        raise SettingError(f"an audit needs at least {LEAST_RUNS} runs, not {runs}")
    if processes < 0 or seed < 0:
        raise SettingError(f"processes and seed start at 0, not {processes} and {seed}")
    pieces = list(_pieces(runs, seed))
    total, done, found = 2 * runs * len(PROGRAMS), 0, list[Scored]()
    with tempfile.TemporaryDirectory(prefix="fedge-audit-") as folder:
        for scored in _trained(pieces, Path(folder), processes):
            found.append(scored)
            done += scored.piece.count
            progress(done, total)
    return AuditEvidence(
        kind="multi-run",
        at=clock(),
        versions=installed_versions(),
        task=SCHEMA.name,
        runs=2 * runs,
        canaries=1,
        claimed_epsilon=max(
            one.claimed_epsilon for one in found if not PROGRAMS[one.piece.program].sampled
        ),
        delta=DELTA,
        confidence=CONFIDENCE,
        cases=tuple(_case(number, program, found) for number, program in enumerate(PROGRAMS)),
    )


def train_piece(piece: Piece, folder: Path) -> Scored:
    """Train a piece, with a ledger of its own in `folder`."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        laboratory = Laboratory(Path(own), PROGRAMS[piece.program])
        try:
            scores = [
                laboratory.score(_seed_of(piece, run), with_canary=piece.with_canary)
                for run in range(piece.first, piece.first + piece.count)
            ]
        finally:
            laboratory.close()
    return Scored(piece, np.array(scores), laboratory.claimed_epsilon)


def _pieces(runs: int, seed: int) -> Iterator[Piece]:
    for program in range(len(PROGRAMS)):
        for with_canary in (True, False):
            for first in range(0, runs, _PIECE):
                yield Piece(program, with_canary, first, min(_PIECE, runs - first), seed)


def _trained(pieces: Iterable[Piece], folder: Path, processes: int) -> Iterator[Scored]:
    if processes == 0:
        yield from (train_piece(piece, folder) for piece in pieces)
        return
    # Fresh processes: a forked one would inherit torch's threads without their owners.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _start_process)
    try:
        waiting = [pool.submit(train_piece, piece, folder) for piece in pieces]
        for future in as_completed(waiting):
            yield future.result()
    except BrokenProcessPool as error:
        raise RunFailedError("a process of the audit was killed; no evidence") from error
    finally:
        # Also when interrupted: what is under way ends within a second, the rest never starts.
        pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    die_with_parent()
    # Interrupting is the parent's business, which then waits for what is under way.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _seed_of(piece: Piece, run: int) -> int:
    """Every training has noise of its own."""
    source = [piece.seed, piece.program, int(piece.with_canary), run]
    return int(np.random.SeedSequence(source).generate_state(1, np.uint64)[0])


def _case(number: int, program: Program, found: Iterable[Scored]) -> AuditedCase:
    mine = sorted(
        (one for one in found if one.piece.program == number), key=lambda one: one.piece.first
    )
    scores_with, scores_without = (
        np.concatenate([one.scores for one in mine if one.piece.with_canary == present])
        for present in (True, False)
    )
    rates = error_rates(scores_with, scores_without, CONFIDENCE)
    return AuditedCase(
        name=program.name,
        seeded_bug=program.seeded_bug,
        counted_epsilon=counted_epsilon(rates, DELTA),
        gaussian_epsilon=None if program.sampled else gaussian_epsilon(gaussian_mu(rates), DELTA),
        claimed_epsilon=max(one.claimed_epsilon for one in mine) if program.sampled else None,
    )
