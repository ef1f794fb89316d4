"""What a run's rounds promise, whatever carries their messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from fakes.flower_fleet import DIMENSION, make_spec, sealed_answer
from hypothesis import given
from hypothesis import strategies as st

from fedge.errors import RunFailedError, UpdateInvalidError
from fedge.identity import Artefact, Envelope, Identity
from fedge.records import AdapterUpdate, RoundRequest, TrainingPlan, sha256_hex
from fedge_server.round_logic import MemoryJournal, adapter_sha256, run_rounds
from fedge_server.round_replies import Enough, Reply

IDENTITIES = [Identity.from_seed(bytes([i]) * 32) for i in range(4)]
ZERO = np.zeros(DIMENSION, dtype=np.float32)
Speak = Callable[[RoundRequest, bytes], Reply]


class Table:
    """An exchange from memory: every node answers at once, or never."""

    def __init__(self, *speakers: Speak | None) -> None:
        self.speakers = list(speakers)
        self.requests: list[RoundRequest] = []
        self.looks = 0

    def __call__(self, request: RoundRequest, array: bytes, enough: Enough) -> Sequence[Reply]:
        assert request.arrays_sha256 == sha256_hex(array)
        self.requests.append(request)
        replies: list[Reply] = []
        for number, speak in enumerate(self.speakers):
            if speak is not None:
                replies.append(speak(request, array))
            silent = sum(s is None for s in self.speakers)
            unanswered = len(self.speakers) - number - 1 + silent
            self.looks += 1
            if enough(replies, unanswered):
                break
        return replies


def honest(number: int, change: float) -> Speak:
    return lambda request, _: Reply(sealed_answer(IDENTITIES[number], request, change))


def declines(reason: str) -> Speak:
    return lambda request, array: Reply(reason=reason)


def finite(update: npt.NDArray[np.float32], plan: TrainingPlan) -> None:
    if update.shape != (plan.dimension,) or not np.isfinite(update).all():
        raise UpdateInvalidError("not finite")


def test_weights_are_equal_and_public() -> None:
    """Two rounds of changes 1 and 3 move the adapter by 2 each, however much data each had."""
    table = Table(honest(0, 1.0), honest(1, 3.0), declines("not-in-cohort"))
    result, adapter = run_rounds(make_spec(IDENTITIES[:2]), ZERO, table, [finite])
    assert adapter.tolist() == [4.0] * DIMENSION
    assert [(r.phase, r.round) for r in table.requests] == [
        ("train", 0),
        ("train", 1),
        ("evaluate", 2),
    ]
    both = tuple(sorted(i.fingerprint for i in IDENTITIES[:2]))
    assert result.contributors == (both, both)
    assert result.gain == 6
    assert len(result.update_bytes) == 4 and min(result.update_bytes) > 4 * DIMENSION
    assert result.adapter_sha256 == adapter_sha256(adapter)


class Archive(MemoryJournal):
    """A journal that remembers what it was given to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[str, str]] = []

    def keep_replies(self, name: str, replies: Iterable[Artefact]) -> None:
        self.kept += [(name, reply.payload_sha256) for reply in replies]


def test_each_answer_can_be_linked_to_a_ledger() -> None:
    """The result names the hash of each update and count, and every reply is kept."""
    table, archive = Table(honest(0, 1.0), honest(1, 3.0)), Archive()
    result, _ = run_rounds(make_spec(IDENTITIES[:2]), ZERO, table, [finite], journal=archive)

    named = [*result.update_sha256, *result.counts_sha256]
    assert [len(result.update_sha256), len(result.counts_sha256)] == [4, 2]
    assert sorted(named) == sorted(sha256 for _, sha256 in archive.kept)
    assert {name for name, _ in archive.kept} == {"train-0", "train-1", "evaluate-2"}


def test_what_was_released_for_nothing_is_kept_too() -> None:
    """An update that no sum took, and those of a round that failed."""
    archive, spec = Archive(), make_spec(IDENTITIES[:2])
    with pytest.raises(RunFailedError):
        table = Table(honest(0, 1.0), declines("failed"))
        run_rounds(spec, ZERO, table, [finite], journal=archive)
    assert len(archive.kept) == 1
    table = Table(honest(0, 1.0), honest(1, np.nan))
    result, _ = run_rounds(spec, ZERO, table, [finite], journal=archive)
    assert len(result.update_sha256) == 2
    assert len(archive.kept) == 1 + 2 + 2 + 2


@given(order=st.permutations(range(4)), changes=st.lists(st.floats(-9, 9, width=32), min_size=4))
def test_the_order_of_arrival_changes_no_bit(order: list[int], changes: list[float]) -> None:
    """The same updates give the same adapter, bit for bit, in whatever order they come."""
    spec = make_spec(IDENTITIES, rounds=1)
    shuffled = Table(*(honest(i, changes[i]) for i in order))
    sorted_ = Table(*(honest(i, changes[i]) for i in range(4)))
    first, second = (run_rounds(spec, ZERO, t, [finite])[1] for t in (shuffled, sorted_))
    assert first.tobytes() == second.tobytes()


def test_a_gateway_that_declines_is_left_out() -> None:
    """It decides for itself; the others' mean is taken without it."""
    table = Table(honest(0, 1.0), declines("budget-exhausted"))
    result, adapter = run_rounds(make_spec(IDENTITIES[:2]), ZERO, table, [finite])
    assert adapter.tolist() == [2.0] * DIMENSION
    assert result.contributors[0] == (IDENTITIES[0].fingerprint,)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_fails_a_check_is_not_summed(value: float) -> None:
    """A NaN from one gateway does not reach the adapter."""
    table = Table(honest(0, 1.0), honest(1, value))
    result, adapter = run_rounds(make_spec(IDENTITIES[:2]), ZERO, table, [finite])
    assert adapter.tolist() == [2.0] * DIMENSION
    assert result.contributors[0] == (IDENTITIES[0].fingerprint,)


def forged(request: RoundRequest, _: bytes) -> Reply:
    envelope = bytearray(sealed_answer(IDENTITIES[1], request, 1.0))
    envelope[-1] ^= 1
    return Reply(bytes(envelope))


def stranger(request: RoundRequest, _: bytes) -> Reply:
    return Reply(sealed_answer(IDENTITIES[3], request, 1.0))


def simulated(request: RoundRequest, _: bytes) -> Reply:
    return Reply(sealed_answer(IDENTITIES[1], request, 1.0, simulated=True))


def of_another_round(request: RoundRequest, _: bytes) -> Reply:
    other = request.model_copy(update={"round": request.round + 1})
    return Reply(sealed_answer(IDENTITIES[1], other, 1.0))


def of_another_kind(request: RoundRequest, _: bytes) -> Reply:
    payload = Envelope.from_bytes(sealed_answer(IDENTITIES[1], request, 1.0)).payload
    return Reply(Envelope.seal(IDENTITIES[1], "report", 1, payload).to_bytes())


def that_lies_about_its_length(request: RoundRequest, _: bytes) -> Reply:
    update = AdapterUpdate(
        run_id=request.spec.run_id, round=request.round, dimension=DIMENSION, values=b"\0" * 4
    )
    return Reply(Envelope.seal(IDENTITIES[1], "update", 1, update.to_bytes()).to_bytes())


def without_form(request: RoundRequest, _: bytes) -> Reply:
    return Reply(b"FEDGE1 or not")


@pytest.mark.parametrize(
    "speak",
    [
        forged,
        stranger,
        simulated,
        of_another_round,
        of_another_kind,
        that_lies_about_its_length,
        without_form,
        declines("failed"),
        declines("agent-unreachable"),
        declines("flower-error"),
        None,
    ],
    ids=lambda s: getattr(s, "__name__", "silent"),
)
def test_a_gateway_that_fails_fails_the_run(speak: Speak | None) -> None:
    """An envelope that is not the cohort's counts as none, and a gateway that neither answers
    nor declines fails the run, which may be retried."""
    with pytest.raises(RunFailedError):
        run_rounds(make_spec(IDENTITIES[:2]), ZERO, Table(honest(0, 1.0), speak), [finite])


def test_a_whole_cohort_that_declines_is_no_success() -> None:
    """Without a single update there is no adapter."""
    with pytest.raises(RunFailedError, match="budget-exhausted"):
        run_rounds(make_spec(IDENTITIES[:1]), ZERO, Table(declines("budget-exhausted")), [finite])


def test_nobody_waits_for_strangers() -> None:
    """Once the cohort answered, gateways outside of it are not waited for."""
    table = Table(honest(0, 1.0), None, None)
    run_rounds(make_spec(IDENTITIES[:1], rounds=1), ZERO, table, [finite])
    assert table.looks == 2


def test_a_retry_goes_on_from_the_same_adapter() -> None:
    """A finished round is not asked again, even if other gateways would answer now."""
    spec, journal = make_spec(IDENTITIES[:2]), MemoryJournal()
    calls: list[int] = []

    def fails_later(request: RoundRequest, array: bytes) -> Reply:
        calls.append(request.round)
        return Reply(reason="failed") if request.round else honest(1, 3.0)(request, array)

    with pytest.raises(RunFailedError):
        run_rounds(spec, ZERO, Table(honest(0, 1.0), fails_later), [finite], journal=journal)
    table = Table(honest(0, 1.0), honest(1, 30.0))
    result, adapter = run_rounds(spec, ZERO, table, [finite], journal=journal)
    assert [r.round for r in table.requests] == [1, 2]
    assert adapter.tolist() == [2.0 + 15.5] * DIMENSION
    assert len(result.contributors) == 2


def test_a_bad_start_is_refused() -> None:
    """A run never starts from an adapter of another size or from NaN."""
    for initial in (np.zeros(3, dtype=np.float32), np.full(DIMENSION, np.nan, dtype=np.float32)):
        with pytest.raises(RunFailedError):
            run_rounds(make_spec(IDENTITIES[:1]), initial, Table(honest(0, 1.0)), [finite])
