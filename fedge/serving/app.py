"""The worker's HTTP face: the Open Inference Protocol and feedback as a plain ASGI app.

One model, no framework. A refused request gets a 4xx whose `error` names the field;
whatever a request holds, the worker goes on. Scoring belongs to the engine, connections,
sockets and swaps to `fedge.serving.listener`, limits of callers to `fedge.serving.guard`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from fedge.errors import InferenceError, RequestError, TooManyRequestsError
from fedge.records.purposes import ESCALATION, INFERENCE, purpose_bits
from fedge.serving.answers import AnswerWriter
from fedge.serving.asgi import Receive, Scope, Send
from fedge.serving.bodies import HEADER_LENGTH, Body, ClientGoneError, read_parts, whole_body
from fedge.serving.feedback import Known, named_gateway, parse_feedback
from fedge.serving.marks import NOBODY, Marks
from fedge.serving.protocol import (
    InferRequest,
    RequestParser,
    family_of,
    model_metadata,
    parse_json,
)
from fedge.serving.relay import was_relayed

if TYPE_CHECKING:
    import numpy.typing as npt

    from fedge.serving.engine import Engine, Served
    from fedge.serving.escalation import EscalationOutcome
    from fedge.serving.probes import ProbeResult
    from fedge.serving.release import ServedRelease
    from fedge.serving.ring import RingWriter

Headers = list[tuple[bytes, bytes]]

JSON_TYPE = ((b"content-type", b"application/json"),)
RETRY_LABELS_S = 5
"""A label that found no room may be sent again after this time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask: body size in bytes, rows, slots back for a label."""

    max_body_bytes: int
    max_batch: int
    feedback_slots: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole HTTP answer, JSON unless its headers say otherwise."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = JSON_TYPE

    @classmethod
    def of(cls, value: object, status: int = 200, **headers: str) -> Answer:
        named = ((k.replace("_", "-").encode(), v.encode()) for k, v in headers.items())
        return cls(status, orjson.dumps(value), (*JSON_TYPE, *named))

    @classmethod
    def error(cls, status: int, message: str, **headers: str) -> Answer:
        return cls.of({"error": message}, status, **headers)

    @classmethod
    def refusal(cls, error: RequestError) -> Answer:
        """The answer to a refused request; says when to come back where that helps."""
        if isinstance(error, TooManyRequestsError):
            seconds = max(1, -int(-error.retry_after_s // 1))
            return cls.error(error.status, str(error), retry_after=str(seconds))
        return cls.error(error.status, str(error))

    async def send(self, send: Send, *, close: bool = False) -> None:
        """Send it whole; with `close` as the last one of its connection."""
        headers = [(b"content-length", b"%d" % len(self.body)), *self.headers]
        if close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class Relay(Protocol):
    """Passes requests on to the workers of this host's other models."""

    def serves(self, family: str) -> bool:
        """Whether it knows a worker of that model."""

    async def forward(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        *,
        family: str = "",
    ) -> tuple[int, Headers, bytes]:
        """Ask that worker the same; answers its status, headers and body, or a 503."""


class Escalator(Protocol):
    """Asks a larger model about requests that the local one finds hard."""

    async def escalate(
        self, inputs: npt.NDArray[Any], served: Served, marks: Marks, wanted: tuple[str, ...]
    ) -> EscalationOutcome:
        """See `fedge.serving.escalation`. Never raises."""


class InferenceApp:
    """Serves one release.

    Args:
        release, probes: what is served, and what its probes measured.
        engine: scores requests.
        ring: where labels go; None where nothing is monitored, and no label is taken.
        gateway: prefix of this gateway's record ids.
        subject_of: the pseudonym (16 bytes) of a subject that a request names.
        withdrawn: the purposes that a subject withdrew, as bits.
        block_of: the block of a slot where blocks are numbered by slot, None where by time.
        relay: reaches the workers of other models; None where this is the only one.
        neighbours: families of the other models by the prefix of their record ids.
        escalator: asks a larger model; None where nothing is ever sent on.

    Set `draining` and every answer asks its caller to reconnect, and readiness is false.
    """

    def __init__(
        self,
        release: ServedRelease,
        probes: ProbeResult,
        engine: Engine,
        ring: RingWriter | None,
        limits: Limits,
        *,
        gateway: str,
        subject_of: Callable[[str], bytes],
        withdrawn: Callable[[bytes], int] = lambda _: 0,
        block_of: Callable[[int], int] | None = None,
        relay: Relay | None = None,
        neighbours: Mapping[str, str] | None = None,
        escalator: Escalator | None = None,
    ) -> None:
        self._release, self._probes, self._limits = release, probes, limits
        self._engine, self._ring, self._gateway = engine, ring, gateway
        self._subject_of, self._withdrawn, self._block_of = subject_of, withdrawn, block_of
        self._relay, self._neighbours = relay, neighbours or {}
        self._escalator = escalator
        self.draining = False
        task = release.task
        self._family, self._counter = release.manifest.family, release.manifest.counter
        self._parser = RequestParser(task, max_batch=limits.max_batch)
        self._writer = AnswerWriter(
            task, family=self._family, release=self._counter, gateway=gateway
        )
        self._purposes = purpose_bits(task.purposes)
        self._unmarked = Marks(self._purposes)
        self._views: dict[str, Callable[[], Answer]] = {
            "/v2": self._server,
            "/v2/": self._server,
            "/v2/health/live": lambda: Answer.of({"live": True}),
            "/v2/health/ready": self._server_ready,
            "/fedge/v1/status": self._status,
        }
        self._actions: dict[str, Callable[[Scope, Body], Awaitable[Answer]]] = {
            "/fedge/v1/feedback": self._feedback
        }
        self._model_path = f"/v2/models/{self._family}"
        for base in (self._model_path, f"{self._model_path}/versions/{self._counter}"):
            self._views[base] = self._model
            self._views[f"{base}/ready"] = self._model_ready
            self._actions[f"{base}/infer"] = self._infer

    def watch(self, ring: RingWriter) -> None:
        """Take labels for another ring from now on."""
        self._ring = ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive)
        except ClientGoneError:
            return
        except RequestError as error:
            answer = Answer.refusal(error)
        except InferenceError:
            # The release was probed: what makes it fail now is the input. Why is not said: the
            # runtime's text may hold values.
            answer = Answer.error(422, "inputs[0].data: the model cannot be run on it")
        await answer.send(send, close=self.draining)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path, method, limit = scope["path"], scope["method"], self._limits.max_body_bytes
        action = self._actions.get(path)
        if action is not None and method == "POST":
            parts = await read_parts(receive, limit)
            return await action(scope, whole_body(parts, dict(scope["headers"]), limit))
        view = self._views.get(path)
        if view is not None and method in ("GET", "HEAD"):
            return view()
        if action is not None or view is not None:
            allowed = "POST" if view is None else "GET, HEAD"
            message = f"method: must be {allowed.partition(',')[0]} for {path}"
            return Answer.error(405, message, allow=allowed)
        family = family_of(path)
        if family and self._relays(family, scope):
            # Nothing that is looked at has a body; and readiness anybody may ask for.
            looks = method in ("GET", "HEAD")
            parts = [] if looks else await read_parts(receive, limit)
            return await self._relayed(family, scope, b"".join(parts))
        raise self._unknown(path, family)

    def _relays(self, family: str, scope: Scope) -> bool:
        relay = self._relay
        return relay is not None and relay.serves(family) and not was_relayed(scope)

    async def _relayed(self, family: str, scope: Scope, body: bytes) -> Answer:
        if self._relay is None:
            raise RuntimeError("there is nobody to relay to")
        target, query = scope["raw_path"], scope["query_string"]
        if query:
            target += b"?" + query
        status, headers, answer = await self._relay.forward(
            scope["method"], target.decode("latin-1"), scope["headers"], body, family=family
        )
        return Answer(status, answer, tuple(headers))

    def _unknown(self, path: str, family: str) -> RequestError:
        if family and family != self._family:
            return RequestError(
                404,
                "model",
                f"Request for unknown model {family[:64]!r}; {self._family!r} is served",
            )
        version = path.split("/")[5:6] if path.startswith(f"{self._model_path}/versions/") else []
        if version and version[0] != str(self._counter):
            return RequestError(
                404,
                "version",
                f"Request for unknown version {version[0][:64]!r} of model {family!r}; "
                f"{self._counter} is served",
            )
        return RequestError(404, "path", f"nothing is served at {path[:128]}")

    def _server(self) -> Answer:
        return Answer.of({"name": "fedge", "version": "2", "extensions": ["binary_tensor_data"]})

    def _server_ready(self) -> Answer:
        return self._readiness({})

    def _model(self) -> Answer:
        return Answer.of(model_metadata(self._release.task, self._family, self._counter))

    def _model_ready(self) -> Answer:
        return self._readiness({"name": self._family})

    def _readiness(self, names: dict[str, object]) -> Answer:
        """A 4xx says "not ready" in this protocol."""
        if not self.draining:
            return Answer.of({**names, "ready": True})
        why = "ready: this worker takes no new callers; connect again"
        return Answer.of({**names, "ready": False, "error": why}, 400)

    async def _infer(self, _: Scope, body: Body) -> Answer:
        request = self._parser.parse(body)
        marks = self._marks(request)
        served = await self._engine.infer(request.inputs, marks)
        if self._escalator is not None and marks.purposes & ESCALATION:
            text, json_length = await self._escalated(self._escalator, request, served, marks)
        else:
            text, json_length = self._writer.write(request, served)
        if json_length is None:
            return Answer(200, text)
        headers = (
            (b"content-type", b"application/octet-stream"),
            (HEADER_LENGTH, b"%d" % json_length),
        )
        return Answer(200, text, headers)

    def _marks(self, request: InferRequest) -> Marks:
        """What the rows may serve: what the schema, the request and their subject all allow."""
        if request.subject is None:
            both = self._purposes & request.purposes
            return self._unmarked if both == self._purposes else Marks(both, NOBODY)
        subject = self._subject_of(request.subject)
        # The caller asked for an answer: whatever was withdrawn, that is what inference means.
        withdrawn = self._withdrawn(subject) & ~INFERENCE
        return Marks(self._purposes & request.purposes & ~withdrawn, subject)

    async def _escalated(
        self, escalator: Escalator, request: InferRequest, served: Served, marks: Marks
    ) -> tuple[bytes, int | None]:
        wanted = tuple(output.name for output in request.outputs)
        outcome = await escalator.escalate(request.inputs, served, marks, wanted)
        notes: dict[str, object] = {}
        if outcome.considered:
            notes["fedge_escalated"] = outcome.outputs is not None
            if outcome.reason:
                notes["fedge_escalation"] = outcome.reason
        return self._writer.write(request, served, outputs=outcome.outputs, notes=notes)

    async def _feedback(self, scope: Scope, body: Body) -> Answer:
        request = parse_json(body.json)
        family = self._neighbours.get(named_gateway(request) or "")
        if family is not None and self._relays(family, scope):
            # Inflated and cut already: its headers no longer fit, and JSON needs none.
            return await self._relayed(family, {**scope, "headers": []}, bytes(body.json))
        if self._ring is None:
            raise RequestError(404, "labels", "are not taken: nothing is monitored here")
        ring, slots = self._ring, self._limits.feedback_slots
        known = Known(self._gateway, ring.next_slot, slots, self._block_of, ring.label_places)
        feedback = parse_feedback(request, self._release.task, known)
        if not ring.append_labels(feedback.slots, feedback.labels, feedback.blocks):
            message = "labels: no room now, none was taken; send them again later"
            return Answer.error(503, message, retry_after=str(RETRY_LABELS_S))
        return Answer.of({"accepted": len(feedback.slots)})

    def _status(self) -> Answer:
        """Public facts only: nothing here depends on what a request held."""
        ring = self._ring
        return Answer.of(
            {
                "gateway": self._gateway,
                "family": self._family,
                "task": self._release.task.name,
                "task_version": self._release.task.version,
                "release": self._counter,
                "variant": self._release.variant,
                "observed": ring is not None,
                "next_slot": ring.next_slot if ring else None,
                "dropped": ring.dropped if ring else None,
                "latency_us": self._probes.latency_us,
                "golden_max_abs": self._probes.golden_max_abs,
            }
        )
