"""Following a run from the centre's stored facts, as an operator would: phase by phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedge.demo.facts import RunFolder, published_run
from fedge.demo.plan import PlayPlan
from fedge.demo.report import Moment
from fedge.drift.monitor import FleetAssessment
from fedge.errors import RunFailedError
from fedge.records import GatewayStatus, RunSpec, WindowReport
from fedge_server.admin import fleet_state

ENDED_BADLY = ("failed", "refused")


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The run at one moment.

    Attributes:
        phase: one word or two for the progress display.
        windows: closed windows by gateway name, on its present release.
        statuses: latest public facts by gateway name.
        done: the loop closed and was watched long enough.
    """

    phase: str
    windows: Mapping[str, int]
    total_windows: Mapping[str, int]
    statuses: Mapping[str, GatewayStatus]
    assessment: FleetAssessment
    run_state: str
    run: RunSpec | None
    release: int | None
    done: bool


@dataclass
class RunWatcher:
    """Looks at the stored facts again and again and notes what changed.

    Args:
        elapsed: seconds of the run so far.
    """

    plan: PlayPlan
    folder: RunFolder
    elapsed: Callable[[], float]
    timeline: list[Moment] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def look(self) -> View:
        """Read everything once.

        Raises:
            RunFailedError: a run failed or its candidate was refused.
        """
        names = {fingerprint: name for name, fingerprint in self.folder.gateways.items()}
        statuses = {
            names[gateway.fingerprint]: gateway.status
            for gateway in fleet_state(self.folder.settings).gateways
            if gateway.status is not None
        }
        with self.folder.facts() as facts:
            reports, runs = facts.reports(), facts.runs()
            published = published_run(facts)
        assessment = self.folder.assess()
        for run in runs:
            if run.state in ENDED_BADLY:
                raise RunFailedError(f"run {run.spec.run_id} is {run.state}: {run.detail}")
        latest = runs[-1] if runs else None
        release = published.release if published else None
        own = {names[fingerprint]: windows for fingerprint, windows in reports.items()}
        view = View(
            phase="",
            windows={
                name: sum(r.release == _release(statuses, name) for r in windows)
                for name, windows in own.items()
            },
            total_windows={name: len(windows) for name, windows in own.items()},
            statuses=statuses,
            assessment=assessment,
            run_state=latest.state if latest else "",
            run=latest.spec if latest else None,
            release=release,
            done=False,
        )
        self._note(view, names)
        phase, done = self._phase(view, own)
        return View(
            **{
                **{name: getattr(view, name) for name in View.__slots__},
                "phase": phase,
                "done": done,
            }
        )

    def _phase(self, view: View, own: Mapping[str, tuple[WindowReport, ...]]) -> tuple[str, bool]:
        if view.release is not None and view.run is not None:
            return self._after_release(view, own, view.run, view.release)
        by_state = {
            "created": "training",
            "training": "training",
            "trained": "building the candidate",
            "signed": "publishing",
        }
        if view.run_state in by_state:
            return by_state[view.run_state], False
        if view.assessment.episodes:
            return "drift noticed, gathering the cohort", False
        if all(
            view.total_windows.get(name, 0) >= self.plan.baseline_windows
            for name in self.folder.gateways
        ):
            return "watching", False
        return "forming baselines", False

    def _after_release(
        self,
        view: View,
        own: Mapping[str, tuple[WindowReport, ...]],
        run: RunSpec,
        release: int,
    ) -> tuple[str, bool]:
        names = {fingerprint: name for name, fingerprint in self.folder.gateways.items()}
        cohort = [names[p.gateway] for p in run.participants]
        waiting = [
            name
            for name in cohort
            if name not in view.statuses
            or view.statuses[name].release != release
            or view.statuses[name].install_state != "committed"
        ]
        if waiting:
            return f"taking up release {release}", False
        full = {
            name: sum(r.release == release and r.slots == r.planned_slots for r in own[name])
            for name in cohort
        }
        fewest = min(full.values())
        if fewest < self.plan.baseline_windows:
            return "re-baselining", False
        needed = self.plan.baseline_windows + self.plan.watch_windows
        return "watching the new release", fewest >= needed

    def _note(self, view: View, names: Mapping[str, str]) -> None:
        """Add to the timeline what was not there before."""
        for episode in view.assessment.episodes:
            self._once(f"drift {episode.id}", "drift noticed", names[episode.gateway])
        if view.run_state:
            self._once(f"run {view.run_state}", f"run {view.run_state}", "")
        for name, status in view.statuses.items():
            if status.release and status.install_state == "committed":
                self._once(f"{name} {status.release}", f"release {status.release} committed", name)

    def _once(self, key: str, what: str, gateway: str) -> None:
        if key not in self._seen:
            self._seen.add(key)
            self.timeline.append(Moment(at_s=self.elapsed(), what=what, gateway=gateway))


def _release(statuses: Mapping[str, GatewayStatus], name: str) -> int:
    return statuses[name].release if name in statuses else 0
