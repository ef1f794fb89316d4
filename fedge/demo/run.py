"""One run of the demonstration, from an empty folder to its summary, report and ledger bundle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fedge.demo.centre import Centre
from fedge.demo.compliance import lagging, leave_bundle
from fedge.demo.display import Display
from fedge.demo.facts import RunFolder, cohort_run
from fedge.demo.gateways import DemoGateway, connect, make_gateways, start_gateway
from fedge.demo.plan import PlayPlan
from fedge.demo.player import Player
from fedge.demo.report import Heat, Moment, ReportData, flatten, render
from fedge.demo.services import Services
from fedge.demo.summary import Played, spendings, summarise
from fedge.demo.watch import RunWatcher, View
from fedge.errors import FedgeError, OutboundError

LOOK_INTERVAL_S = 2.0
RUN_TIMEOUT_S = 900.0
HAND_OVER_TIMEOUT_S = 20.0
VERSIONS = ("flwr", "prefect", "torch", "onnxruntime", "pyarrow", "opendp", "tuf", "datasketches")


def run_demo(plan: PlayPlan, runs: Path, *, as_json: bool) -> None:
    """Play `plan` in a new folder of `runs` and print what came out.

    Raises:
        FedgeError: the loop did not close; the folder with all logs is kept and named.
        KeyboardInterrupt: Ctrl-C, or SIGTERM; every process has ended.
    """
    started = time.monotonic()

    def elapsed() -> float:
        return time.monotonic() - started

    folder = new_folder(runs)
    print(f"fedge: run folder {folder.path}", file=sys.stderr)
    try:
        with _ended_by_signals():
            summary = _play(plan, folder, elapsed)
    except FedgeError as error:
        raise FedgeError(f"{error}\n       logs are in {folder.logs}") from error
    link_latest(folder.path)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        for name, value in flatten(summary):
            print(f"{name:36} {'unknown' if value is None else value}")
        print(f"\nreport: {folder.report}")


def new_folder(runs: Path) -> RunFolder:
    """A new folder named by the time."""
    runs.mkdir(parents=True, exist_ok=True)
    name = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{n}" for n in range(2, 100))):
        path = (runs / f"{name}{suffix}").resolve()
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return RunFolder(path)
    raise FedgeError(f"{runs} already holds many runs of this second; try again")


def link_latest(path: Path) -> None:
    """Let `runs/latest` point at a finished run, replacing the link in one step."""
    link = path.parent / f".latest-{path.name}"
    link.symlink_to(path.name)
    link.replace(path.parent / "latest")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: everything is cleaned up."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _play(plan: PlayPlan, folder: RunFolder, elapsed: Callable[[], float]) -> dict[str, Any]:
    services = Services(folder.logs)
    # A socket's path is short by law of the kernel; a run's folder need not be.
    runtime = Path(tempfile.mkdtemp(prefix="fedge-"))
    players: dict[str, Player] = {}
    try:
        with Display(elapsed) as display:
            display.say("starting the centre")
            centre = Centre(plan, folder.path, services)
            gateways = make_gateways(plan, folder.path, runtime, centre)
            folder.write_plan(plan, {g.name: g.fingerprint for g in gateways})
            centre.start()
            centre.wait()
            display.say("starting the gateways")
            for gateway in gateways:
                start_gateway(gateway, services)
            for gateway in gateways:
                players[gateway.name] = connect(gateway, plan, services)
            watcher = RunWatcher(plan, folder, elapsed)
            watcher.timeline.append(Moment(at_s=elapsed(), what="first request"))
            for player in players.values():
                player.start()
            view = _until_closed(plan, folder, services, display, watcher, players)
    finally:
        try:
            for player in players.values():
                player.stop()
        finally:
            services.end()
            shutil.rmtree(runtime, ignore_errors=True)
    return _write_results(plan, folder, gateways, players, watcher, view, elapsed)


def _until_closed(
    plan: PlayPlan,
    folder: RunFolder,
    services: Services,
    display: Display,
    watcher: RunWatcher,
    players: dict[str, Player],
) -> View:
    """Play until the loop closed and was watched, and the evaluation beside it is done."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    evaluating = False
    while True:
        services.check()
        view = watcher.look()
        correct = {name: player.correct for name, player in players.items()}
        display.show(view, folder.gateways, correct, plan.window_slots)
        if view.release is not None and not evaluating:
            services.start(
                "evaluation",
                [sys.executable, "-m", "fedge.demo.evaluation", str(folder.path)],
                errand=True,
            )
            evaluating = True
        if view.done:
            display.say("ending the fleet")
            for player in players.values():
                player.stop()
            _until_ledgers_arrived(folder, services)
            services.end_others("evaluation", first=folder.gateways)
            display.say("evaluating")
            services.finish("evaluation", deadline - time.monotonic())
            return view
        if time.monotonic() > deadline:
            raise OutboundError(f"the loop did not close in {RUN_TIMEOUT_S:g} s ({view.phase})")
        time.sleep(LOOK_INTERVAL_S)


def _until_ledgers_arrived(folder: RunFolder, services: Services) -> None:
    """Let the gateways hand over their last entries; what is late is named in the bundle."""
    deadline = time.monotonic() + HAND_OVER_TIMEOUT_S
    while time.monotonic() < deadline and lagging(folder):
        services.check()
        time.sleep(LOOK_INTERVAL_S / 2)


def _write_results(
    plan: PlayPlan,
    folder: RunFolder,
    gateways: list[DemoGateway],
    players: dict[str, Player],
    watcher: RunWatcher,
    view: View,
    elapsed: Callable[[], float],
) -> dict[str, Any]:
    setup = os.environ.get("FEDGE_SETUP_SECONDS")
    played = Played(
        setup_s=float(setup) if setup else None,
        wall_s=elapsed(),
        rows_served=sum(player.rows_served for player in players.values()),
        failed_requests=sum(len(player.failed) for player in players.values()),
    )
    summary = summarise(folder, played)
    data = _report_data(plan, folder, players, watcher, view, summary)
    folder.report.write_text(render(data))
    print(f"fedge: {leave_bundle(folder)}", file=sys.stderr)
    summary["wall_s"] = elapsed()
    folder.summary.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _report_data(
    plan: PlayPlan,
    folder: RunFolder,
    players: dict[str, Player],
    watcher: RunWatcher,
    view: View,
    summary: dict[str, Any],
) -> ReportData:
    release = cohort_run(plan, folder).release
    with folder.facts() as facts:
        reports = facts.reports()
    committed = {
        name: next(
            (r.first_slot // plan.window_slots for r in reports[fp] if r.release == release), None
        )
        for name, fp in folder.gateways.items()
    }
    return ReportData(
        summary=summary,
        accuracy={name: _by_window(p.correct, plan.window_slots) for name, p in players.items()},
        onset={f"g{n}": plan.onset_window(n) for n in range(plan.gateways)},
        committed=committed,
        heat=_heat(folder),
        threshold=_threshold(folder),
        spent=_spent(folder),
        timeline=watcher.timeline,
        versions={"fedge": version("fedge")} | {name: version(name) for name in VERSIONS},
    )


def _by_window(correct: list[bool], window: int) -> list[float]:
    return [
        sum(correct[start : start + window]) / window
        for start in range(0, len(correct) - window + 1, window)
    ]


def _heat(folder: RunFolder) -> dict[str, Heat]:
    """Each gateway's maps, one after the other, in units in which `_threshold` is an alarm."""
    assessment, threshold = folder.assess(), _threshold(folder)
    found = {}
    for name, fingerprint in folder.gateways.items():
        maps = sorted(
            (m for m in assessment.heat if m.gateway == fingerprint), key=lambda m: m.release
        )
        rows = [
            [np.nan if v is None else v * threshold / (m.limit or threshold) for v in row]
            for m in maps
            for row in m.z
        ]
        found[name] = Heat(
            windows=[w for m in maps for w in m.windows],
            streams=maps[0].streams if maps else (),
            scores=np.array(rows, dtype=np.float64),
        )
    return found


def _threshold(folder: RunFolder) -> float:
    """The smallest of the maps' limits: what the display calls an alarm."""
    return min((m.limit for m in folder.assess().heat if m.limit is not None), default=6.0)


def _spent(folder: RunFolder) -> dict[str, tuple[float, float, float]]:
    spent = {}
    for name in folder.gateways:
        worst = max(spendings(folder, name), key=lambda s: s.telemetry_nano + s.training_nano)
        spent[name] = (
            worst.telemetry_nano / 1e9,
            worst.training_nano / 1e9,
            worst.cap_nano / 1e9,
        )
    return spent
