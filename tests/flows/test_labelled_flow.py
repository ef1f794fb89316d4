"""Stored label reports reach the drift rules that `monitor` asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from fakes.drifting_sites import REFERENCE, SHA, Site
from flow_fakes import PLAN, Clock, FakeGateway, FileFacts, MemoryBus, MemoryInterventions

from fedge.config import DriftSettings
from fedge.drift.fleet.monitor import FleetAssessment, assess
from fedge.records import LabelReport, WindowReport
from fedge_flows.monitor import Actions, Planned, monitor
from fedge_flows.progress import Announcer, Claims

GATEWAYS = [name * 32 for name in "ab"]
WINDOWS, ONSET, LABELS, SIGMA2 = 28, 14, 100, 25


class LabelledFacts(FileFacts):
    """Two steady gateways; from window 14 on half of the first one's answers are wrong."""

    def __init__(
        self, folder: Path, *, turned: bool, watermark: int = 1, windows: int = WINDOWS
    ) -> None:
        super().__init__(folder, [FakeGateway(g, g[0] * 64) for g in GATEWAYS])
        self._turned, self._watermark, self._windows = turned, watermark, windows

    def reports(self) -> Mapping[str, Sequence[WindowReport]]:
        return {g: Site(seed=n).stream(self._windows) for n, g in enumerate(GATEWAYS)}

    def labels(self) -> Mapping[str, Sequence[LabelReport]]:
        rng = np.random.default_rng(5)
        return {
            gateway: [
                self._pair(rng, window, n == 0) for window in range(self._windows - self._watermark)
            ]
            for n, gateway in enumerate(GATEWAYS)
        }

    def _pair(self, rng: np.random.Generator, window: int, first: bool) -> LabelReport:
        wrong = int(
            rng.binomial(LABELS, 0.5 if self._turned and first and window >= ONSET else 0.1)
        )
        noise = np.rint(rng.normal(scale=SIGMA2**0.5, size=2)).astype(int)
        return LabelReport(
            task="digits",
            window=window,
            block=0,
            release=1,
            watermark_windows=self._watermark,
            right=LABELS - wrong + int(noise[0]),
            wrong=wrong + int(noise[1]),
            sigma2=SIGMA2,
        )


def looked(
    folder: Path, *, turned: bool, watermark: int = 1, windows: int = WINDOWS
) -> FleetAssessment:
    claims, clock = Claims(folder / "claims"), Clock()
    return monitor(
        facts=LabelledFacts(folder / "facts", turned=turned, watermark=watermark, windows=windows),
        references={SHA: REFERENCE},
        settings=DriftSettings(baseline_windows=12, gather_windows=10, max_fleet=2),
        plan=lambda release: Planned(PLAN),
        release_sha256=lambda release: "e" * 64,
        task="digits",
        announcer=Announcer(MemoryBus(), folder / "sent", claims, clock),
        actions=Actions(log=MemoryInterventions(), channels=(), clock=clock),
        judge=assess,
    ).assessment


def test_answers_that_turn_wrong_are_concept_drift(tmp_path: Path) -> None:
    """No stream moved, errors did: the verdict says so, of that gateway alone."""
    found = looked(tmp_path, turned=True)

    drifted = [verdict for verdict in found.verdicts if verdict.state == "drift"]
    assert [(v.gateway, v.cause, v.scope) for v in drifted] == [(GATEWAYS[0], "concept", "gateway")]
    assert [episode.streams for episode in found.episodes] == [("labels",)]


def test_others_are_waited_for_from_when_labels_were_counted(tmp_path: Path) -> None:
    """However late the watermark: a cohort gathers after the errors were known, not before."""
    early = looked(tmp_path / "early", turned=True, watermark=12, windows=30)
    assert early.episodes[0].opened_at >= closing(ONSET + 12)
    assert early.cohort is None

    late = looked(tmp_path / "late", turned=True, watermark=12, windows=40)
    assert late.episodes[0].opened_at == early.episodes[0].opened_at
    assert late.cohort is not None


def closing(window: int) -> float:
    """When a window of the steady sites closed."""
    return Site(seed=0).stream(window + 1)[window].closed_at


def test_steady_answers_are_none(tmp_path: Path) -> None:
    """Noisy pairs alone raise nothing."""
    found = looked(tmp_path, turned=False)

    assert {verdict.state for verdict in found.verdicts} == {"stable"}
    assert found.episodes == ()
