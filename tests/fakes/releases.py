"""A release world in a folder: keys, repository, candidates, a static HTTP server, a switch.

Everything but the model bytes and the switch is the real thing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fedge.delivery.candidate import countersign, describe_files, publish, stage
from fedge.delivery.keys import KeyFiles
from fedge.delivery.repository import ReleaseRepository
from fedge.delivery.signing import Clock
from fedge.delivery.slots import read_slot
from fedge.delivery.switch import ProbeReport, Slot
from fedge.durable import write_file
from fedge.errors import TrialFailedError
from fedge.records import (
    CategoricalStream,
    ModelInput,
    NumericFeature,
    NumericStream,
    Reference,
    ReleaseManifest,
    TaskSchema,
)

FAMILY = "toy"
HARDWARE = "x86-avx2"
GATEWAY = "ab" * 16
OTHER_GATEWAY = "cd" * 16
FILES = (
    "task.json",
    "reference.json",
    "golden.npz",
    "weights.npz",
    "model.int8.onnx",
    "model.float.onnx",
)


def toy_task(name: str = "toy", version: int = 1) -> TaskSchema:
    return TaskSchema(
        name=name,
        version=version,
        input=ModelInput(name="x", shape=(4,), low=0.0, high=1.0),
        classes=("no", "yes"),
        features=(NumericFeature(name="mean", type="float32", low=0.0, high=1.0),),
        code="toy.task:TASK",
    )


def toy_reference(task: TaskSchema) -> Reference:
    numeric = [
        NumericStream(
            name=name, edges=tuple(i / 16 for i in range(1, 16)), histogram=(1 / 16,) * 16
        )
        for name in ("mean", "confidence", "ood")
    ]
    classes = CategoricalStream(name="class", categories=task.classes, histogram=(0.5, 0.5, 0.0))
    return Reference(
        task=task.name,
        source="a test",
        rows=1,
        model_sha256="0" * 64,
        ood_quantile_95=0.0,
        streams=(numeric[0], classes, numeric[1], numeric[2]),
    )


class ReleaseWorld:
    """Makes candidates and releases in `folder`; `releases_dir` is what gateways see."""

    def __init__(self, folder: Path, *, clock: Clock | None = None) -> None:
        self.folder, self.releases_dir = folder, folder / "releases"
        self.clock_argument = {} if clock is None else {"clock": clock}
        self.keys = KeyFiles.create(offline=folder / "offline", online=folder / "keys")
        self.repository = ReleaseRepository.create(
            self.releases_dir, self.keys, [FAMILY], **self.clock_argument
        )

    def candidate(
        self,
        counter: int,
        *,
        hardware: str = HARDWARE,
        task: TaskSchema | None = None,
        task_version: int = 1,
        run_id: str = "initial",
        salt: str = "",
    ) -> tuple[Path, ReleaseManifest]:
        """A folder with files and the manifest that fits them; not staged."""
        folder = self.folder / "candidates" / f"{counter}{salt}"
        folder.mkdir(parents=True, exist_ok=True)
        task = task or toy_task()
        for name in FILES:
            (folder / name).write_bytes(f"{name} {counter} {salt}".encode() * 50)
        (folder / "task.json").write_bytes(task.to_bytes())
        (folder / "reference.json").write_bytes(toy_reference(task).to_bytes())
        manifest = ReleaseManifest(
            family=FAMILY,
            task_version=task_version,
            counter=counter,
            parent=counter - 1,
            run_id=run_id,
            variants={hardware: "int8"},
            files=describe_files(folder, FILES),
            cohort=(),
            privacy_epsilon=0.0,
            measures={},
        )
        return folder, manifest

    def signed_candidate(self, counter: int, **options: object) -> Path:
        folder, manifest = self.candidate(counter, **options)  # type: ignore[arg-type]
        stage(self.releases_dir, folder, manifest, self.keys.builder, **self.clock_argument)
        countersign(self.releases_dir, folder, self.keys.evaluator)
        return folder

    def release(
        self, counter: int, *, gateways: Sequence[str] | None = None, **options: object
    ) -> ReleaseManifest:
        """Stage, countersign and publish release `counter`."""
        folder = self.signed_candidate(counter, **options)
        publish(
            self.releases_dir, folder, self.keys.online, gateways=gateways, **self.clock_argument
        )
        return ReleaseManifest.from_bytes((folder / "release.json").read_bytes())

    def served_file(self, counter: int, name: str) -> Path:
        """Where a release's file lies in the repository."""
        (path,) = (self.releases_dir / "targets" / FAMILY / str(counter)).glob(f"*.{name}")
        return path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`folder` over HTTP on a free loopback port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class FileSwitch:
    """A supervisor without processes: which slot is active lies in a file, so kills keep it.

    Like the real one it refuses to start a slot whose content is not whole. `bad` names
    releases whose model fails its trial; `dying` those that fail once they serve.
    """

    def __init__(
        self, folder: Path, slots_dir: Path, *, bad: Sequence[int] = (), dying: Sequence[int] = ()
    ) -> None:
        self._file, self._slots_dir = folder / "switch.json", slots_dir
        self.bad, self.dying = set(bad), set(dying)
        self.trials: list[Slot] = []

    def active(self) -> Slot | None:
        state = self._state()
        active, fallback = state["active"], state["fallback"]
        if active and fallback and read_slot(self._slots_dir, active)[0].counter in self.dying:
            self._write(active=fallback, fallback=None, ready=None)
            return fallback  # type: ignore[return-value]
        return active  # type: ignore[return-value]

    def fallback(self) -> Slot | None:
        return self._state()["fallback"]  # type: ignore[return-value]

    def trial(self, slot: Slot) -> ProbeReport:
        assert slot != self._state()["active"], "a trial of the active slot"
        self.trials.append(slot)
        manifest, _ = read_slot(self._slots_dir, slot)
        if manifest.counter in self.bad:
            raise TrialFailedError("golden vectors are off by 3.0")
        self._write(**{**self._state(), "ready": slot})
        return ProbeReport(latency_us=20.0, golden_max_abs=0.0)

    def takeover(self, slot: Slot) -> None:
        state = self._state()
        if state["ready"] != slot:
            raise TrialFailedError("no worker waits in this slot")
        self._write(active=slot, fallback=state["active"], ready=None)

    def discard(self, slot: Slot) -> None:
        state = self._state()
        assert slot != state["active"], "the active slot was discarded"
        kept = {name: None if value == slot else value for name, value in state.items()}
        self._write(**kept)

    def _state(self) -> dict[str, str | None]:
        if not self._file.exists():
            return {"active": None, "fallback": None, "ready": None}
        state: dict[str, str | None] = json.loads(self._file.read_text())
        return state

    def _write(self, **state: str | None) -> None:
        write_file(self._file, json.dumps(state).encode())
