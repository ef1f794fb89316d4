"""Gateways on which canaries may be planted: ones made up for it, or a staging gateway's own.

A staging gateway is one whose ledger was created as simulated: its reports and updates are
refused by every real coordinator, its ledger by every reviewer.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from fedge.audit.one_run import Staging
from fedge.data.blocks import BlockStore, LabelledRecords
from fedge.errors import AuditRefusedError, StateError
from fedge.models.weights import Weights, read_weights
from fedge.privacy.entries import read_entry
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import new_policy, read_policy
from fedge.records import BlockLength, PrivacyPolicy, TrainingPlan
from fedge.statefile import StateFile
from fedge.tasks.camera import LENS, capture
from fedge.tasks.code import PublicData, TaskCode, load_task_code
from fedge.tasks.digits import CODE, gateway_share
from fedge.tasks.schema import read_task

MOST_RECORDS = 2000
"""Of a staging gateway's own labelled records that a run is given."""

_CAPTURES, _GATEWAYS, _SEED = 300, 5, 20240602


@contextmanager
def digits_staging(
    *, epsilon: float = 3.0, delta: float = 1e-5, seed: int = _SEED
) -> Iterator[Staging]:
    """A gateway of the built-in task whose lens has shifted, with a fresh simulated ledger."""
    policy = new_policy(epsilon=epsilon, delta=delta, block=BlockLength(kind="windows", value=1))
    with (
        tempfile.TemporaryDirectory(prefix="fedge-staging-") as folder,
        closing(StateFile(Path(folder) / "state.sqlite")) as state,
    ):
        ledger = Ledger(state, policy, clock=lambda: 0.0, simulated=True)
        yield Staging(
            code=CODE, weights=CODE.base_weights(1), ledger=ledger, records=_captures(seed)
        )


@contextmanager
def planned_staging(
    code: TaskCode,
    weights: Weights,
    policy: PrivacyPolicy,
    plan: TrainingPlan,
    *,
    canaries: int,
    release: int | None = None,
) -> Iterator[Staging]:
    """A gateway that carries out a given plan, on a fresh simulated ledger under `policy`.

    Its own records are the task's public rows, rightly labelled, as many as the plan has room
    for beside the canaries and no more than `MOST_RECORDS`.

    Args:
        weights: what the run starts from.
        release: counter of the release that the audit is evidence for.
    """
    room = max(0, min(plan.divisor, MOST_RECORDS) - canaries)
    with (
        tempfile.TemporaryDirectory(prefix="fedge-staging-") as folder,
        closing(StateFile(Path(folder) / "state.sqlite")) as state,
    ):
        ledger = Ledger(state, policy, clock=lambda: 0.0, simulated=True)
        records = _public_rows(code.public(), room)
        yield Staging(code=code, weights=weights, ledger=ledger, records=records, release=release)


@contextmanager
def opened_staging(state: Path, release: Path, counter: int | None = None) -> Iterator[Staging]:
    """A staging gateway's own ledger, labelled records and release, while its agent is stopped.

    Args:
        state: its state directory.
        release: folder of the release, with `task.json` and `weights.npz`.

    Raises:
        AuditRefusedError: its ledger is a real one; nothing was changed.
        StateError: there is no such gateway, or its agent is running.
        SettingError: its policy cannot be read.
        TaskError: the release cannot be read.
    """
    if not (state / "state.sqlite").is_file():
        raise StateError(f"{state} holds no gateway's state")
    policy = read_policy(state / "policy.toml")
    code = load_task_code(read_task(release / "task.json").code)
    weights = read_weights(release / "weights.npz")
    with closing(StateFile(state / "state.sqlite")) as file:
        _refuse_a_real_ledger(file)
        ledger = Ledger(file, policy, clock=time.time, simulated=True)
        records = BlockStore(state / "blocks", file).labelled(0, 2**53 - 1, MOST_RECORDS)
        yield Staging(code=code, weights=weights, ledger=ledger, records=records, release=counter)


def _refuse_a_real_ledger(file: StateFile) -> None:
    """Before anything is opened that writes."""
    known = file.rows("SELECT 1 FROM sqlite_master WHERE name = 'ledger_entries'")
    first = file.rows("SELECT body FROM ledger_entries WHERE seq = 0") if known else []
    if not first:
        raise StateError(f"{file.path} holds no ledger")
    if not read_entry(bytes(first[0][0])).simulated:
        raise AuditRefusedError(f"{file.path} holds a real ledger; audit a staging gateway")


def _public_rows(public: PublicData, count: int) -> LabelledRecords:
    """The first public rows, from the beginning again where there are too few."""
    slots = np.arange(count, dtype=np.int64)
    chosen = slots % len(public.labels)
    return LabelledRecords(
        slots=slots,
        blocks=np.zeros_like(slots),
        inputs=public.clean.reshape(len(public.clean), -1)[chosen],
        labels=public.labels[chosen],
        predictions=public.labels[chosen],
    )


def _captures(seed: int) -> LabelledRecords:
    share = gateway_share(0, _GATEWAYS)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(share), size=_CAPTURES)
    slots = np.arange(_CAPTURES, dtype=np.int64)
    return LabelledRecords(
        slots=slots,
        blocks=np.zeros_like(slots),
        inputs=capture(share.images[chosen], rng, LENS).reshape(_CAPTURES, -1),
        labels=share.labels[chosen],
        predictions=np.zeros_like(slots),
    )
