"""Following a run from what the centre has stored, as an operator would: phase by phase.

Reads the latest assessment that the monitor flow stored, the runs, and the public
facts of the gateways; it derives nothing again, because a look must be cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from fedge.demo.facts import ENDED_BADLY, RunFolder, followed_run
from fedge.demo.plan import PlayPlan
from fedge.demo.report import Moment
from fedge.drift.fleet.monitor import FleetAssessment
from fedge.errors import RunFailedError
from fedge.records import GatewayStatus, RunSpec
from fedge_server.admin import fleet_state

BY_RUN_STATE = {
    "created": "training",
    "training": "training",
    "trained": "building the candidate",
    "signed": "publishing",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The run at one moment.

    Attributes:
        phase: one word or two for the progress display.
        statuses: latest public facts by gateway name.
        assessment: None before the monitor flow ran.
        release: counter of the release that the run led to.
        done: the loop closed and was watched long enough.
    """

    phase: str = ""
    statuses: Mapping[str, GatewayStatus]
    assessment: FleetAssessment | None
    run_state: str
    run: RunSpec | None
    release: int | None
    done: bool = False


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
    _committed_at: dict[str, int] = field(default_factory=dict)

    def look(self) -> View:
        """Read everything once.

        Raises:
            RunFailedError: a run failed or its candidate was refused, before any release.
        """
        names = {fingerprint: name for name, fingerprint in self.folder.gateways.items()}
        with self.folder.facts() as facts:
            run = followed_run(facts.runs())
        if run is not None and run.release is None and run.state in ENDED_BADLY:
            raise RunFailedError(f"run {run.spec.run_id} is {run.state}: {run.detail}")
        view = View(
            statuses={
                names[gateway.fingerprint]: gateway.status
                for gateway in fleet_state(self.folder.settings).gateways
                if gateway.status is not None
            },
            assessment=self.folder.latest_assessment(),
            run_state=run.state if run is not None else "",
            run=run.spec if run is not None else None,
            release=run.release if run is not None else None,
        )
        self._note(view, names)
        phase, done = self._phase(view)
        return replace(view, phase=phase, done=done)

    def _phase(self, view: View) -> tuple[str, bool]:
        if view.release is not None and view.run is not None:
            return self._after_release(view, view.run, view.release)
        if view.run_state in BY_RUN_STATE:
            return BY_RUN_STATE[view.run_state], False
        if view.assessment is not None and view.assessment.episodes:
            return "drift noticed, gathering the cohort", False
        closed = [status.windows for status in view.statuses.values()]
        if len(closed) == self.plan.gateways and min(closed) >= self.plan.baseline_windows:
            return "watching", False
        return "forming baselines", False

    def _after_release(self, view: View, run: RunSpec, release: int) -> tuple[str, bool]:
        names = {fingerprint: name for name, fingerprint in self.folder.gateways.items()}
        cohort = [names[p.gateway] for p in run.participants]
        for name in cohort:
            status = view.statuses.get(name)
            if status and status.release == release and status.install_state == "committed":
                self._committed_at.setdefault(name, status.windows)
        if len(self._committed_at) < len(cohort):
            return f"taking up release {release}", False
        # The window that was open at the commit may be a cut one: it does not count.
        full = min(view.statuses[name].windows - self._committed_at[name] - 1 for name in cohort)
        if full < self.plan.baseline_windows:
            return "re-baselining", False
        # Where rows were dropped a baseline takes more windows than these.
        episodes = view.assessment.episodes if view.assessment else ()
        if any(episode.state == "re-baselining" for episode in episodes):
            return "re-baselining", False
        judged = full >= self.plan.baseline_windows + self.plan.watch_windows
        return "watching the new release", judged

    def _note(self, view: View, names: Mapping[str, str]) -> None:
        """Add to the timeline what was not there before."""
        for episode in view.assessment.episodes if view.assessment else ():
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
