"""The audit of many runs: it lets the code pass, and finds what is planted in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedge.audit import __main__ as command
from fedge.audit import multi_run as audit
from fedge.audit import toy
from fedge.audit.multi_run import Piece, multi_run, train_piece
from fedge.audit.programs import PROGRAMS, Laboratory, canary_pull
from fedge.errors import SettingError
from fedge.learning import session
from fedge.records import AuditEvidence

RUNS = 200


@pytest.fixture(scope="module")
def evidence() -> AuditEvidence:
    """A small audit in this process; a minute's worth of it is `make audit`."""
    return multi_run(runs=RUNS, processes=0, seed=3, clock=lambda: 7.0)


@pytest.mark.slow
def test_the_code_passes_and_every_bug_is_found(evidence: AuditEvidence) -> None:
    """Halved noise, no clipping, a forgetful accountant, samples of everybody: each shows more
    than was claimed."""
    assert evidence.passed
    assert evidence.bugs_flagged == (
        *("halved noise", "no clipping", "accountant reset per round"),
        "samples that leave nobody out",
    )
    assert [case.seeded_bug for case in evidence.cases] == [False, True, True, True, False, True]


@pytest.mark.slow
def test_the_claim_is_what_the_ledger_says(evidence: AuditEvidence) -> None:
    """Nearly all of epsilon 8, and the bound on the code comes near it: the audit has power."""
    assert 7.9 < evidence.claimed_epsilon <= 8.0
    assert evidence.lower_bound is not None
    assert 2.0 < evidence.lower_bound < evidence.claimed_epsilon
    assert (evidence.kind, evidence.at, evidence.runs) == ("multi-run", 7.0, 2 * RUNS)


@pytest.mark.slow
def test_runs_on_samples_are_held_against_their_own_claim(evidence: AuditEvidence) -> None:
    """By counts alone: they are no Gaussian mechanism."""
    claims = [case.claimed_epsilon for case in evidence.cases]
    assert claims[:4] == [None] * 4
    assert all(claim is not None and 0.99 < claim <= 1.0 for claim in claims[4:])
    assert all(case.gaussian_epsilon is None for case in evidence.cases[4:])
    assert evidence.cases[4].counted_epsilon < 1.0 < evidence.cases[5].counted_epsilon


def test_the_same_seed_gives_the_same_scores(tmp_path: Path) -> None:
    """Also in pieces; another run, seed or side has noise of its own."""
    whole = train_piece(Piece(0, True, 0, 6, 3), tmp_path).scores
    part = train_piece(Piece(0, True, 4, 2, 3), tmp_path).scores
    other = train_piece(Piece(0, False, 0, 6, 3), tmp_path).scores

    np.testing.assert_array_equal(whole[4:], part)
    assert len({*whole, *other}) == 12
    assert not any(tmp_path.iterdir()), "ledgers of the audit are removed"


def test_a_planted_bug_is_gone_afterwards() -> None:
    """Also when the training under it fails."""
    right = session.on_grid
    no_clipping = next(program for program in PROGRAMS if program.name == "no clipping")
    with pytest.raises(RuntimeError), no_clipping.planted():
        assert session.on_grid is not right
        raise RuntimeError

    assert session.on_grid is right


def test_the_canary_pulls_where_nobody_else_does(tmp_path: Path) -> None:
    """Its own column and the bias, nothing else."""
    laboratory = Laboratory(tmp_path, PROGRAMS[0])
    pull = canary_pull(toy.CODE.base_weights(0), laboratory.plan)
    laboratory.close()
    weights = pull[toy.CLASSES :].reshape(toy.CLASSES, toy.WIDTH)

    assert np.linalg.norm(pull) == pytest.approx(1.0)
    assert np.abs(weights[:, :-1]).max() == 0.0
    assert np.abs(weights[:, -1]).min() > 0.7


def test_every_training_is_charged(tmp_path: Path) -> None:
    """One block each, and one for each round where the accountant forgets."""
    for number, program in enumerate(PROGRAMS):
        blocks = 8 if program.name == "accountant reset per round" else 2
        folder = tmp_path / str(number)
        folder.mkdir()
        laboratory = Laboratory(folder, program)
        laboratory.score(1, with_canary=True)
        laboratory.score(2, with_canary=False)
        assert len(laboratory.ledger.spendings()) == blocks
        laboratory.ledger.check_chain()
        laboratory.close()


def test_a_sampled_program_reads_samples(tmp_path: Path) -> None:
    """With the bug everybody is in each, and the noise and the charge are the same."""
    drawn, plans = [], []
    for number, program in enumerate(PROGRAMS[-2:]):
        (tmp_path / str(number)).mkdir()
        laboratory = Laboratory(tmp_path / str(number), program)
        noise = program.noise(1)
        rate = laboratory.plan.rate_ppm
        assert rate is not None and laboratory.plan.round_event.kind == "poisson-gaussian"
        drawn.append(np.mean([noise.poisson_sample(toy.RECORDS, rate) for _ in range(200)]))
        plans.append(laboratory.plan)
        laboratory.close()

    assert plans[0] == plans[1]
    assert drawn[0] < 0.02 and drawn[1] == 1.0


@pytest.mark.parametrize("wrong", ["processes", "seed"])
def test_a_negative_number_is_refused(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In words, before any training."""
    given = ["multi-run", f"--{wrong}", "-1", "--out", str(tmp_path / "out")]

    assert command.main(given) == command.EXIT_FAILED
    assert wrong in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_too_few_runs_are_refused() -> None:
    """They could not bound anything, and would pass."""
    with pytest.raises(SettingError):
        multi_run(runs=10, processes=0)


def test_interrupted_it_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No folder, and no evidence."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(audit, "_PIECE", 2)
    with pytest.raises(KeyboardInterrupt):
        multi_run(runs=20, processes=0, progress=progress)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_processes_find_the_same() -> None:
    """Pieces are trained anywhere, in any order."""
    here = multi_run(runs=20, processes=0, seed=5, clock=lambda: 1.0)
    there = multi_run(runs=20, processes=2, seed=5, clock=lambda: 1.0)

    assert here == there
