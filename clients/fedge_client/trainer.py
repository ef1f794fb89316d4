"""The trainer: a process that lives for one run, at low priority, and then is gone.

The agent starts it, hands it the records of the run through a pipe (they touch no
other file) and asks for one round at a time. Every answer was noised here, under
a grant of the agent's ledger, before it enters the pipe. This is the only process
of a gateway that loads torch.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from fedge.data.blocks import LabelledRecords
from fedge.errors import FedgeError, RunFailedError
from fedge.lifetime import die_with_parent
from fedge.logs import log_to_stderr
from fedge.privacy.grants import Grant
from fedge.records import TrainingPlan, canonical

log = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]
TRAINER_NICENESS = 10
ANSWER_LIMIT_S = 1800.0
"""A slow gateway may need long; one that needs longer has hung."""
END_S = 2.0
"""A trainer that waits for nothing but its next round ends by itself within this time."""
_ARRAYS = ("slots", "blocks", "inputs", "labels", "predictions", "subjects")


def _send(pipe: IO[bytes], *frames: bytes) -> None:
    for frame in frames:
        pipe.write(len(frame).to_bytes(8, "big") + frame)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    length = int.from_bytes(_exactly(pipe, 8), "big")
    return _exactly(pipe, length)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if data is None or len(data) < size:
        raise EOFError("the other side of the trainer's pipe is gone")
    return data


def _pack(records: LabelledRecords) -> bytes:
    buffer = io.BytesIO()
    arrays = {name: getattr(records, name) for name in _ARRAYS}
    np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
    return buffer.getvalue()


def _unpack(data: bytes) -> LabelledRecords:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return LabelledRecords(**{name: arrays[name] for name in _ARRAYS if name in arrays.files})


class TrainerProcess:
    """The agent's side: starts the process and asks it.

    Args:
        release: folder of the committed release (`task.json`, `weights.npz`).
        plan: fixed before any data is touched.
        records: at most `plan.divisor` of them are used, in slot order.
        log_path: where the process's stderr goes.
    """

    noise_kind = "os"

    def __init__(
        self, release: Path, plan: TrainingPlan, records: LabelledRecords, *, log_path: Path
    ) -> None:
        with log_path.open("ab") as errors:
            self._process = subprocess.Popen(
                # -P: the agent's working folder lends it no code.
                [sys.executable, "-P", "-m", "fedge_client.trainer", str(release)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the trainer was started without pipes")
        self._to, self._from = self._process.stdin, self._process.stdout
        try:
            self._ask(plan.to_bytes(), _pack(records))
        except RunFailedError:
            self.close()
            raise

    def round(self, vector: Vector, grant: Grant) -> Vector:
        """See `Trainer.round`.

        Raises:
            RunFailedError: the process died or hung.
        """
        answer = self._ask(b"round", vector.astype("<f4").tobytes(), grant.to_bytes())
        return np.frombuffer(answer, dtype="<f4").astype(np.float32)

    def evaluate(self, vector: Vector, grant: Grant) -> int:
        """See `Trainer.evaluate`.

        Raises:
            RunFailedError: the process died or hung.
        """
        answer = self._ask(b"evaluate", vector.astype("<f4").tobytes(), grant.to_bytes())
        (difference,) = np.frombuffer(answer, dtype="<i8")
        return int(difference)

    def close(self) -> None:
        """See `Trainer.close`; a process that does not end within `END_S` is killed."""
        # A round under way in another thread holds a pipe's lock: to close that pipe would wait
        # for the round, and not end it.
        with self._killed_after(END_S):
            # Closing writes what a dead trainer did not take, and says so again.
            with contextlib.suppress(OSError):
                self._to.close()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._from.close()

    def _ask(self, *frames: bytes) -> bytes:
        # A trainer that hangs must not hold the agent's only courier thread for ever.
        with self._killed_after(ANSWER_LIMIT_S):
            try:
                _send(self._to, *frames)
                return _receive(self._from)
            except (EOFError, OSError, ValueError) as error:  # the last: closed by another thread
                raise RunFailedError(
                    f"the trainer ended (exit {self._process.poll()}); its log says why"
                ) from error

    @contextlib.contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        """Kill the process if the context is open for longer."""
        limit = threading.Timer(seconds, self._process.kill)
        limit.daemon = True
        limit.start()
        try:
            yield
        finally:
            limit.cancel()


def main() -> int:
    """Serve one run over stdin and stdout."""
    die_with_parent()
    os.nice(TRAINER_NICENESS)
    # The pipe is ours alone: a library that prints must not write into it.
    pipe_in, pipe_out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Errors of others are logged without their text, which may quote a record.
    log_to_stderr("trainer")
    try:
        _serve(pipe_in, pipe_out)
    except FedgeError as error:
        log.error("%s", error)
        return 1
    return 0


def _serve(pipe_in: IO[bytes], pipe_out: IO[bytes]) -> None:
    """Answer until the agent closes its end."""
    # Heavy imports wait until the process has its priority and its pipes. One thread: a gateway
    # shares its cores, and threads that spin for each other cost more than they bring here.
    import torch

    from fedge.learning.session import TrainingSession
    from fedge.models.weights import read_weights
    from fedge.privacy.noise import OsNoise
    from fedge.tasks.code import load_task_code
    from fedge.tasks.schema import read_task

    torch.set_num_threads(1)
    release = Path(sys.argv[1])
    plan = TrainingPlan.from_bytes(_receive(pipe_in))
    records = _unpack(_receive(pipe_in))
    code = load_task_code(read_task(release / "task.json").code)
    weights = read_weights(release / "weights.npz")
    session = TrainingSession(code, weights, plan, records, OsNoise())
    _send(pipe_out, canonical({"ready": True}))
    while True:
        try:
            command = _receive(pipe_in)
        except EOFError:
            return
        vector = np.frombuffer(_receive(pipe_in), dtype="<f4").astype(np.float32)
        grant = Grant.from_bytes(_receive(pipe_in))
        if command == b"round":
            _send(pipe_out, session.round(vector, grant).astype("<f4").tobytes())
        else:
            _send(pipe_out, np.array([session.evaluate(vector, grant)], dtype="<i8").tobytes())


if __name__ == "__main__":
    sys.exit(main())
