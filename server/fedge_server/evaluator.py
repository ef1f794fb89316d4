"""The second signature: a process of its own that judges candidates and signs those that pass.

    python -m fedge_server.evaluator --config server.toml

It holds the evaluator key and no other, believes nothing that the builder wrote
down, and looks for work in `objects/candidates/*/ready.json`. Each candidate ends
with `accepted.json` or `refused.json`. Putting a signed candidate before gateways
is `publish`'s work, with a third key.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from fedge.config import ServerSettings
from fedge.delivery.candidate import (
    ACCEPTED,
    READY,
    REFUSED,
    check_candidate,
    countersign,
)
from fedge.delivery.extension import DELEGATION
from fedge.durable import write_file
from fedge.errors import (
    CandidateError,
    ChoiceError,
    FedgeError,
    GateFailedError,
    RecordError,
    SettingError,
    StateError,
)
from fedge.learning.chosen import check_recorded
from fedge.records import CHOICE_FILE, CHOICE_MEASURES, ReleaseManifest, RunResult, canonical

log = logging.getLogger(__name__)

INITIAL_RUN = "initial"
POLL_S = 0.5


class Report(Protocol):
    """What the gates answer (`fedge.models.gates.GateReport`)."""

    @property
    def passed(self) -> bool: ...

    def to_bytes(self) -> bytes: ...


Judge = Callable[[Path, RunResult | None, float], Report]


class Evaluator:
    """Judges what is ready, once each; may be killed and started again at any point.

    Args:
        settings: names the folders, the evaluator key and the smallest gain.
        judge: the gates.

    Raises:
        SettingError: the settings name no evaluator key, or another key as well: whoever holds
            two of the keys makes a release alone.
    """

    def __init__(self, settings: ServerSettings, judge: Judge) -> None:
        keys = settings.keys
        if keys.evaluator is None or keys.builder is not None or keys.online is not None:
            raise SettingError("keys: the evaluator must be given `evaluator` and no other key")
        self._key = keys.evaluator
        self._objects, self._releases = settings.objects_dir, settings.releases_dir
        self._min_gain_sigmas = settings.training.min_gain_sigmas
        self._judge = judge

    def run_once(self) -> int:
        """Judge every candidate that is ready and not yet judged.

        Returns:
            How many were judged.
        """
        judged = 0
        for folder in self._waiting():
            try:
                self._evaluate(folder)
                judged += 1
            except (StateError, SettingError, OSError):
                # Our own trouble, not the candidate's: it is judged at a later look.
                log.exception("candidate %s could not be judged now", folder.name)
        return judged

    def _waiting(self) -> Iterator[Path]:
        for ready in sorted(self._objects.glob(f"candidates/*/{READY}")):
            folder = ready.parent
            if not ((folder / ACCEPTED).exists() or (folder / REFUSED).exists()):
                yield folder

    def _evaluate(self, folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="fedge-evaluator-") as scratch:
            # Judged and signed is this copy: the builder could change its own folder between.
            copy = Path(scratch) / "candidate"
            shutil.copytree(folder, copy)
            try:
                report = self._accept(copy)
            except (CandidateError, GateFailedError) as error:
                write_file(folder / REFUSED, canonical({"reason": str(error)}))
                log.warning("candidate %s refused: %s", folder.name, error)
                return
            write_file(folder / DELEGATION, (copy / DELEGATION).read_bytes())
        write_file(folder / ACCEPTED, report.to_bytes())
        log.info("candidate %s countersigned", folder.name)

    def _accept(self, copy: Path) -> Report:
        manifest = check_candidate(self._releases, copy)
        result = self._result(manifest)
        check_choice(copy, manifest, result)
        try:
            report = self._judge(copy, result, self._min_gain_sigmas)
        except (StateError, SettingError):
            raise
        except FedgeError as error:
            raise GateFailedError(str(error)) from error
        except Exception as error:
            # The candidate's bytes run through large libraries here; whatever they answer to
            # bad ones, the evaluator lives on and does not sign.
            log.exception("the gates broke on a candidate")
            raise GateFailedError(f"the gates broke on it: {error!r}") from error
        if not report.passed:
            raise GateFailedError(report.to_bytes().decode())
        countersign(self._releases, copy, self._key)
        return report

    def _result(self, manifest: ReleaseManifest) -> RunResult | None:
        """What the run behind this candidate measured; only a first release has none."""
        if manifest.run_id == INITIAL_RUN:
            if manifest.counter != 1:
                raise CandidateError("only the first release comes from no run")
            return None
        path = self._objects / "runs" / manifest.run_id / "result.json"
        try:
            result = RunResult.from_bytes(path.read_bytes())
        except (OSError, RecordError) as error:
            raise CandidateError(f"run {manifest.run_id} left no result: {error}") from error
        spec = result.spec
        if (spec.run_id, spec.base_release) != (manifest.run_id, manifest.parent):
            raise CandidateError(
                f"run {spec.run_id} started from release {spec.base_release}, "
                f"the candidate says {manifest.run_id} from {manifest.parent}"
            )
        return result


def check_choice(folder: Path, manifest: ReleaseManifest, result: RunResult | None) -> None:
    """Refuse a release that says another choice of its adapter than its run, or other figures.

    Args:
        folder: its files, which were compared with the manifest.

    Raises:
        CandidateError: says what differs.
    """
    data = (folder / CHOICE_FILE).read_bytes() if CHOICE_FILE in manifest.files else None
    try:
        choice = check_recorded(data, None if result is None else result.spec)
    except ChoiceError as error:
        raise CandidateError(str(error)) from error
    said = {name: v for name, v in manifest.measures.items() if name.startswith(CHOICE_MEASURES)}
    if said != (choice.measures if choice is not None else {}):
        raise CandidateError("its manifest gives other figures than the choice of its adapter")


def main(argv: list[str] | None = None) -> int:
    """Judge until SIGTERM or SIGINT. Exit status 0 then, 1 if it could not start."""
    from fedge.models.gates import judge  # heavy, and not needed by whoever passes a judge

    parser = argparse.ArgumentParser(prog="fedge_server.evaluator", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="server.toml")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # It reports every signature that is still missing, which is what a candidate begins with.
    logging.getLogger("tuf").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        evaluator = Evaluator(ServerSettings.load(arguments.config), judge)
    except FedgeError as error:
        print(f"fedge evaluator: {error}", file=sys.stderr)
        return 1
    log.info("evaluator ready")
    while not stop.is_set():
        evaluator.run_once()
        stop.wait(POLL_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
