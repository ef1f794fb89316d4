"""One gateway and its centre, all real processes: what is killed comes back, what is wrong is
refused, and no caller of the inference port notices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from fakes.gateways import FAMILY, Load, wait_until
from fakes.loop import DEADLINE_S, WINDOW_SLOTS, Loop
from tuf.api.metadata import Targets

from fedge.delivery.candidate import publish
from fedge.delivery.extension import read_delegation
from fedge.delivery.keys import create_key, load_signer
from fedge.delivery.signing import signed
from fedge.errors import CandidateError
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import read_policy
from fedge.records import GatewayStatus, WindowReport
from fedge.statefile import StateFile


def check_windows(reports: Sequence[WindowReport], slots: int, gaps: Sequence[int] = ()) -> None:
    """Every played slot lies in exactly one window that is reported, or that the ledger calls
    lost; but those of the open one."""
    windows = range(slots // WINDOW_SLOTS)
    assert sorted([*gaps, *(r.window for r in reports)]) == [*windows]
    assert all(r.first_slot == r.window * WINDOW_SLOTS for r in reports)
    assert all(r.slots == WINDOW_SLOTS and r.dropped == 0 for r in reports)


def lost_windows(entries: Sequence[bytes]) -> list[int]:
    """Windows whose noise was under way when a process ended."""
    read = [json.loads(entry) for entry in entries]
    window = {e["reservation"]: e["window"] for e in read if e["kind"] == "window"}
    return [window[e["reservation"]] for e in read if e["kind"] == "lost"]


@contextmanager
def closed_ledger(loop: Loop) -> Iterator[Ledger]:
    """Stop the gateway and open its ledger, as its next agent would."""
    loop.gateway.stop()
    state_dir = loop.gateway.settings.state_dir
    state = StateFile(state_dir / "state.sqlite")
    try:
        yield Ledger(state, read_policy(state_dir / "policy.toml"), clock=lambda: 2e9)
    finally:
        state.close()


@pytest.mark.slow
def test_a_killed_agent_loses_no_slot_and_no_charge(loop: Loop) -> None:
    """SIGKILL while windows close, three times: each window is reported once, all are charged.

    Only what the killed agent was noising may be missing: the ledger says which window that is.
    """
    gateway = loop.gateway
    stood: list[list[bytes]] = []
    with Load(gateway.port, callers=2, pause_s=0.02) as load:
        for round_ in range(1, 4):
            loop.wait_for_windows(10 * round_)
            stood.append(gateway.entries())
            gateway.kill_agent()
        loop.wait_for_windows(len(loop.reports()) + 5)
    assert load.failed == []
    slots = gateway.next_slot()
    gaps = lost_windows(gateway.entries())
    assert len(gaps) <= 3

    reports = loop.wait_for_windows(slots // WINDOW_SLOTS - len(gaps))
    check_windows(reports, slots, gaps)
    wait_until(lambda: gateway.spooled_reports() == 0, DEADLINE_S, "the spool drains")
    assert gateway.facts()["agent_restarts"] == 3
    assert gateway.facts()["worker_restarts"] == 0
    entries = gateway.entries()
    for earlier in stood:
        assert entries[: len(earlier)] == earlier, "an entry was taken back"
    with closed_ledger(loop) as ledger:
        ledger.check_chain()
        charged = {s.block for s in ledger.spendings() if s.telemetry_nano > 0}
    assert charged >= {r.block for r in reports}
    assert len(charged) - len({r.block for r in reports}) <= len(gaps)


@pytest.mark.slow
def test_a_killed_coordinator_costs_no_report(loop: Loop) -> None:
    """Reports wait in the spool; after a restart on the same port all arrive, stored once."""
    gateway = loop.gateway
    with Load(gateway.port, callers=2, pause_s=0.02) as load:
        loop.wait_for_windows(5)
        loop.coordinator.kill()
        stored = len(loop.reports())
        wait_until(lambda: gateway.spooled_reports() >= 20, DEADLINE_S, "reports wait")
        assert len(loop.reports()) == stored
        loop.coordinator.restart()
        assert loop.coordinator.url() == loop.url
        wait_until(lambda: len(loop.reports()) > stored + 20, DEADLINE_S, "reports arrive")
    assert load.failed == []
    slots = gateway.next_slot()

    check_windows(loop.wait_for_windows(slots // WINDOW_SLOTS), slots)
    wait_until(lambda: gateway.spooled_reports() == 0, DEADLINE_S, "the spool drains")
    # One number is used for one envelope, and none was given up. A status may come after the
    # reports that were put in later: they are more important.
    wait_until(lambda: loop.fleet().missing == 0, DEADLINE_S, "every number arrives")
    state = loop.fleet()
    assert state.reports == slots // WINDOW_SLOTS and state.given_up == 0
    assert state.status is not None and state.status.spool_dropped == 0


Attack = Callable[[Loop], None]


def tampered_model(loop: Loop) -> None:
    """The bytes of the published model are changed; their length is not."""
    loop.centre.release(2)
    path = loop.centre.served_file(2, "model.float.onnx")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def one_signature(loop: Loop) -> None:
    """Signed by its builder only; publishing refuses it, so a thief stores it himself."""
    folder = loop.centre.staged(2)
    with pytest.raises(CandidateError, match="1 of 2 signatures"):
        publish(loop.centre.releases_dir, folder, loop.centre.keys.online, gateways=None)
    loop.centre.commit(lambda _: {FAMILY: read_delegation(folder)})
    loop.centre.assign(2)


def wrong_key(loop: Loop) -> None:
    """Two signatures, the second by a key that nobody gave the family."""
    folder = loop.centre.staged(2)
    stranger = loop.centre.folder / "stranger.pem"
    create_key(stranger)
    content: Targets = read_delegation(folder).signed
    signers = load_signer(loop.centre.keys.builder), load_signer(stranger)
    loop.centre.commit(lambda _: {FAMILY: signed(content, *signers)})
    loop.centre.assign(2)


def wrong_golden_vectors(loop: Loop) -> None:
    """Honestly signed, but on this machine it computes something else."""
    loop.centre.release(2, golden_shift=0.5)


@pytest.mark.parametrize(
    ("attack", "release", "reason", "state"),
    [
        (tampered_model, 2, "tampered-file", "committed"),
        # Metadata that cannot be trusted names no release.
        (one_signature, 0, "untrusted-metadata", "committed"),
        (wrong_key, 0, "untrusted-metadata", "committed"),
        (wrong_golden_vectors, 2, "trial-failed", "stepped-back"),
    ],
    ids=["tampered-model", "one-signature", "wrong-key", "wrong-golden-vectors"],
)
def test_a_wrong_release_is_refused(
    loop: Loop, attack: Attack, release: int, reason: str, state: str
) -> None:
    """The model before serves on without a failed request, and the fleet state says why."""
    with Load(loop.gateway.port, callers=1, pause_s=0.02) as load:
        attack(loop)
        status = loop.wait_for_status(lambda s: bool(s.refused_reason))
        served = load.served
        wait_until(lambda: load.served > served + 10, what="it serves on")
    assert (status.refused_release, status.refused_reason) == (release, reason)
    assert load.failed == [] and set(load.releases[0]) == {1}
    shown = loop.fleet()
    assert reason in shown.describe() and shown.status is not None
    assert (shown.status.release, shown.status.slot) == (1, "A")
    assert shown.status.install_state == state
    assert loop.gateway.facts()["worker_restarts"] == 0


def test_an_older_release_is_refused(loop: Loop) -> None:
    """Below the floor nothing is installed, though it was signed and once served here."""
    with Load(loop.gateway.port, callers=1, pause_s=0.02) as load:
        loop.centre.release(2)
        loop.wait_for_status(_committed(2))
        loop.centre.assign(1)
        status = loop.wait_for_status(lambda s: bool(s.refused_reason))
        served = load.served
        wait_until(lambda: load.served > served + 10, what="it serves on")
    assert (status.refused_release, status.refused_reason) == (1, "older-than-floor")
    assert load.failed == [] and load.releases[0] == sorted(load.releases[0])
    shown = loop.offline_fleet().status
    assert shown is not None and (shown.release, shown.refused_reason) == (2, "older-than-floor")


def test_after_a_refusal_the_next_good_release_is_taken(loop: Loop) -> None:
    """A refusal is about one release: the one after it is installed, and the reason goes."""
    wrong_golden_vectors(loop)
    loop.wait_for_status(lambda s: s.refused_reason == "trial-failed")
    loop.centre.release(3)
    status = loop.wait_for_status(_committed(3))
    assert status.refused_reason == ""


def _committed(counter: int) -> Callable[[GatewayStatus], bool]:
    return lambda s: (s.release, s.install_state) == (counter, "committed")
