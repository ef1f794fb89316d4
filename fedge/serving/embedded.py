"""In-process inference: the gateway's model, slots, ring and feedback, without HTTP.

    with EmbeddedModel.open("gateway.toml") as model:
        answer = model.infer(rows)
        model.feedback(answer.ids, ["ok", "worn"])

The caller's process takes the worker's place beside the gateway's agent, or works
next to it: both may append to one ring. It serves the release that was active when it
was opened; open it again after an update.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fedge.config import GatewaySettings
from fedge.data.consent import WITHDRAWALS_FILE, Withdrawals
from fedge.data.subjects import MAX_SUBJECT_CHARS, SubjectKey
from fedge.errors import RequestError, StateError
from fedge.identity import Identity
from fedge.privacy.policy import read_policy
from fedge.records.purposes import INFERENCE, PURPOSES, Purpose, purpose_bits
from fedge.serving.engine import DirectEngine, Served
from fedge.serving.feedback import Known, checked_labels
from fedge.serving.marks import Marks
from fedge.serving.probes import probe
from fedge.serving.record_ids import block_numbering, format_ids, id_prefix
from fedge.serving.release import ServedRelease, load_release
from fedge.serving.ring_file import RowLayout
from fedge.serving.ring_keeper import LOOK_S, RingKeeper
from fedge.serving.scores import Scores
from fedge.serving.slot_floor import unobserved_slot
from fedge.serving.tensors import DTYPES


class Prediction:
    """What the model said about n rows. Everything but the logits is derived when asked for."""

    __slots__ = ("__dict__", "_classes", "_gateway", "_served", "logits")

    def __init__(self, served: Served, classes: tuple[str, ...], gateway: str) -> None:
        self._served, self._classes, self._gateway = served, classes, gateway
        self.logits = served.logits

    @cached_property
    def ids(self) -> list[str]:
        """Record ids, one per row: what `EmbeddedModel.feedback` takes."""
        return format_ids(self._gateway, self._served.blocks, self._served.first_slot)

    @cached_property
    def scores(self) -> Scores:
        """Class indices (`predictions`), confidence, OOD score and monitored features."""
        return self._served.scores

    @property
    def labels(self) -> list[str]:
        """The predicted class of each row."""
        return [self._classes[index] for index in self.scores.predictions.tolist()]

    def __len__(self) -> int:
        return len(self.logits)

    def __repr__(self) -> str:
        return f"Prediction(labels={self.labels}, ids={self.ids})"


@dataclass(frozen=True, slots=True)
class _Gateway:
    """What of a gateway an embedded model needs besides its release."""

    prefix: str
    feedback_slots: int
    subject_of: Callable[[str], bytes]
    withdrawn: Callable[[bytes], int]


class EmbeddedModel:
    """A gateway's model in this process. Not for use by several threads at once.

    Made by `open`.
    """

    def __init__(
        self, release: ServedRelease, engine: DirectEngine, keeper: RingKeeper | None, of: _Gateway
    ) -> None:
        self._serve, self._keeper, self._gateway = engine.serve, keeper, of
        self._look_at = time.monotonic() + LOOK_S
        self.task = task = release.task
        self.release = release.manifest.counter
        self._shape, self._dtype = task.input.shape, DTYPES[task.input.datatype]
        self._purposes = purpose_bits(task.purposes)
        self._unmarked = Marks(self._purposes)

    @classmethod
    def open(
        cls,
        config_path: str | Path,
        family: str | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Load and probe the active release of a gateway.

        Args:
            config_path: the gateway's `gateway.toml`.
            family: which of its models; by default the first.
            clock: seconds since the epoch.

        Raises:
            SettingError: the configuration is wrong, or names no such model.
            StateError: no release is installed yet, or state is damaged.
            UpdateRejectedError: the installed release is damaged or does not work here.
        """
        settings = GatewaySettings.load(Path(config_path))
        settings = settings.for_model(family or settings.family)
        state_dir = settings.state_dir
        release = load_release(state_dir / "slots" / _active_slot(state_dir), settings)
        probe(release)
        block_of = block_numbering(
            read_policy(state_dir / "policy.toml").block, settings.window_slots
        )
        gateway = _Gateway(
            id_prefix(Identity.load(state_dir / "identity.pem").fingerprint),
            settings.feedback_slots,
            SubjectKey.open(state_dir).pseudonym,
            Withdrawals(state_dir / WITHDRAWALS_FILE).withdrawn,
        )
        keeper = ring = None
        if settings.monitoring:
            layout = RowLayout.of(release.task)
            keeper = RingKeeper(state_dir / "ring.bin", layout, settings.ring_slots)
            ring = keeper.open()
        # Ids of rows that nobody observes must not name rows that somebody did.
        unobserved = unobserved_slot(clock())
        engine = DirectEngine(release, ring, block_of, clock, unobserved=unobserved)
        if keeper is not None:
            keeper.use = engine.watch
        return cls(release, engine, keeper, gateway)

    def infer(
        self,
        inputs: npt.ArrayLike,
        *,
        purposes: Iterable[Purpose] | None = None,
        subject: str | None = None,
    ) -> Prediction:
        """Score rows, and let them be observed.

        Args:
            inputs: one row, or n rows, of the task's input shape. Numbers of another type are
                converted if that loses nothing but digits.
            purposes: what the rows may be used for; by default all that the task allows.
            subject: who they are about. Kept as a pseudonym.

        Raises:
            RequestError: the inputs are not the task's, not finite, or the model knows no finite
                answer for them; or the marks are wrong.
            InferenceError: the model could not be run.
        """
        marks = self._unmarked
        if purposes is not None or subject is not None:
            marks = self._marks(purposes, subject)
        rows = self._rows(inputs)
        if time.monotonic() >= self._look_at:
            self._look()
        return Prediction(self._serve(rows, marks), self.task.classes, self._gateway.prefix)

    def feedback(self, ids: Sequence[str], labels: Sequence[str]) -> bool:
        """Hand in true classes for records served lately.

        Returns:
            False where there was no room: none was taken, try again later.

        Raises:
            RequestError: a record is unknown or too old, a label is no class, or they are more than
                can ever wait; none was taken.
        """
        ring = None if self._keeper is None else self._keeper.ring
        if ring is None:
            raise RequestError(404, "labels", "are not taken: nothing is monitored here")
        if len(ids) != len(labels):
            raise RequestError(400, "labels", f"are {len(labels)}, for {len(ids)} records")
        known = Known(
            self._gateway.prefix,
            ring.next_slot,
            self._gateway.feedback_slots,
            places=ring.label_places,
        )
        feedback = checked_labels(zip(ids, labels, strict=True), self.task, known)
        return ring.append_labels(feedback.slots, feedback.labels, feedback.blocks)

    def close(self) -> None:
        """Let go of the ring. The model must not be used any more."""
        if self._keeper is not None and self._keeper.ring is not None:
            self._keeper.ring.close()
            self._keeper = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _look(self) -> None:
        """See to the ring: there is no event loop that could do it beside the calls."""
        self._look_at = time.monotonic() + LOOK_S
        ring = None if self._keeper is None else self._keeper.look()
        if ring is not None and self._keeper is not None:
            self._keeper.take(ring)

    def _rows(self, inputs: npt.ArrayLike) -> npt.NDArray[Any]:
        rows = np.asarray(inputs)
        if rows.shape == self._shape:
            rows = rows[None]
        if rows.shape[1:] != self._shape or not len(rows):
            raise RequestError(
                400, "inputs", f"have shape {rows.shape}, the task takes (rows, *{self._shape})"
            )
        if rows.dtype != self._dtype:
            try:
                with np.errstate(over="ignore", invalid="ignore"):
                    taken = rows.astype(self._dtype)
            except (TypeError, ValueError, OverflowError) as error:
                raise RequestError(400, "inputs", f"are no {self._dtype}: {error}") from error
            if self._dtype.kind != "f" and not np.array_equal(taken, rows):
                raise RequestError(400, "inputs", f"are {rows.dtype}, the task takes {self._dtype}")
            rows = taken
        if self._dtype.kind == "f" and not np.isfinite(rows).all():
            raise RequestError(400, "inputs", "must be finite")
        return np.ascontiguousarray(rows)

    def _marks(self, purposes: Iterable[Purpose] | None, subject: str | None) -> Marks:
        bits = self._purposes
        if purposes is not None:
            names = tuple(purposes)
            if not set(names) <= set(PURPOSES) or "inference" not in names:
                raise RequestError(400, "purposes", f"need inference, out of {PURPOSES}")
            bits &= purpose_bits(names)
        if subject is None:
            return Marks(bits)
        if not 0 < len(subject) <= MAX_SUBJECT_CHARS:
            raise RequestError(400, "subject", f"needs 1 to {MAX_SUBJECT_CHARS} characters")
        pseudonym = self._gateway.subject_of(subject)
        return Marks(bits & ~(self._gateway.withdrawn(pseudonym) & ~INFERENCE), pseudonym)


def _active_slot(state_dir: Path) -> str:
    path = state_dir / "active.json"
    try:
        slot = json.loads(path.read_bytes())["slot"]
    except FileNotFoundError:
        raise StateError(f"no release is installed yet: {path} is missing") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StateError(f"{path} is damaged: {error}") from error
    if slot not in ("A", "B"):
        raise StateError(f"{path} names no slot: {slot!r}")
    return str(slot)
