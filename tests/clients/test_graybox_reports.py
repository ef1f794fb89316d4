"""Reports seen from inside: two gateways whose streams differ in one record.

The record is hostile in one and a null record in the other, in the same slot. Both run the
real agent on the same seed: what it asks of the noise must come at the same times with the
same parameters, and differ by no more than what the ledger was charged for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fakes.recording_noise import RecordingNoise, Transcript
from tests_clients import ALL_PURPOSES, WINDOW, Gateway

from fedge.privacy.entries import WindowReserved, read_entry
from fedge.privacy.noise import SeededNoise
from fedge.records.purposes import INFERENCE
from fedge.serving.marks import NOBODY, Marks

MakeGateway = Callable[..., Gateway]

WINDOWS, SLOT = 4, 7
HOSTILE = [0.0, 9.5, -9.5, 1e30, float("nan"), float("inf"), float("-inf")]
LOGITS = [(0.0, 4.0), (4.0, 0.0), (1e30, -1e30), (float("nan"), float("nan")), (float("inf"), 0.0)]


def append(gateway: Gateway, feature: float, logits: tuple[float, float], purposes: int) -> None:
    gateway.writer.append(
        lambda slot, now: slot // (gateway.block_windows * WINDOW),
        1,
        gateway.wall(),
        Marks(purposes, NOBODY),
        np.zeros((1, 2), np.float32),
        np.array([logits], np.float32),
        np.array([[feature]], np.float32),
    )


def played(
    make_gateway: MakeGateway,
    *,
    feature: float,
    logits: tuple[float, float],
    null: bool,
    label: int,
) -> tuple[Transcript, list[WindowReserved]]:
    """What an agent asked of the noise over four windows, and what its ledger reserved."""
    noise = RecordingNoise(SeededNoise(21))
    gateway = make_gateway(noise=noise, label_rho=0.005)
    rng = np.random.default_rng(4)
    for slot in range(WINDOWS * WINDOW):
        ordinary = float(rng.normal()), (0.0, float(rng.normal()))
        mine = slot == SLOT
        purposes = INFERENCE if mine and null else ALL_PURPOSES
        append(gateway, *((feature, logits) if mine else ordinary), purposes)
        if slot == WINDOW - 1:  # long before the watermark
            gateway.label([0, 1, 2], 1)
            gateway.label([SLOT], label)
    assert gateway.agent is not None
    while gateway.agent.watch_once():
        pass
    entries = [read_entry(body) for body in gateway.agent.ledger.entries()]
    return noise.transcript, [entry for entry in entries if isinstance(entry, WindowReserved)]


@pytest.mark.parametrize(
    ("feature", "logits"), [(value, LOGITS[at % len(LOGITS)]) for at, value in enumerate(HOSTILE)]
)
@pytest.mark.parametrize("label", [0, 1])
def test_one_record_moves_reports_by_what_is_charged(
    make_gateway: MakeGateway, feature: float, logits: tuple[float, float], label: int
) -> None:
    """Same draws, same parameters, same ledger; counts no further apart than their sensitivity."""
    hostile, charged = played(make_gateway, feature=feature, logits=logits, null=False, label=label)
    nothing, also = played(make_gateway, feature=feature, logits=logits, null=True, label=label)

    assert hostile.flow == nothing.flow
    assert [entry.events for entry in charged] == [entry.events for entry in also]
    moved: dict[int, list[int]] = {}
    for ours, theirs in zip(hostile.draws, nothing.draws, strict=True):
        distance2 = sum(int(d) ** 2 for d in ours.exact - theirs.exact)
        assert distance2 <= ours.sensitivity2
        moved.setdefault(ours.exact.size, []).append(distance2)
    labels, features = moved[2], moved[max(moved)]
    assert features[0] > 0 and not any(features[1:]), "its own window's report, and no other"
    assert labels == [1, 0], "its own window's labels, and no other"


def test_what_is_executed_is_what_was_reserved(make_gateway: MakeGateway) -> None:
    """Each window's entries in the ledger name exactly the draws that were made for it."""
    drawn, reserved = played(make_gateway, feature=1.0, logits=(0.0, 4.0), null=False, label=1)

    charged = [
        (event.sensitivity2, event.sigma2, event.dimension, None)
        for entry in reserved
        for event in entry.events
        for _ in range(event.count)
    ]
    assert {entry.purpose for entry in reserved} == {"features", "labels"}
    assert [draw.parameters for draw in drawn.draws] == charged
