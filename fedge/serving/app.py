"""The worker's HTTP face: the Open Inference Protocol and feedback as a plain ASGI app.

One model, no framework. A refused request gets a 4xx whose `error` names the
field; whatever a request holds, the worker goes on. Connections, sockets and
swaps belong to `fedge.serving.listener`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from fedge.errors import InferenceError, RequestError
from fedge.serving.probes import ProbeResult
from fedge.serving.protocol import infer_answer, model_metadata, parse_feedback, parse_infer
from fedge.serving.record_ids import BlockOf, format_ids
from fedge.serving.release import ServedRelease
from fedge.serving.ring import RingWriter

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DISCARD_FACTOR = 8
"""A body up to so many times the limit is read and thrown away, so that its sender, who
writes before it reads, gets to see the answer."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask: body size in bytes, rows, slots back for a label."""

    max_body_bytes: int
    max_batch: int
    feedback_slots: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer with a JSON body."""

    status: int
    body: bytes

    @classmethod
    def of(cls, value: object, status: int = 200) -> Answer:
        return cls(status, orjson.dumps(value))

    @classmethod
    def error(cls, status: int, message: str) -> Answer:
        return cls.of({"error": message}, status)


class ClientGoneError(Exception):
    """The caller hung up; there is nobody to answer."""


Handler = Callable[[bytes], Answer]


class InferenceApp:
    """Serves one release.

    Args:
        release, probes: what is served, and what its probes measured.
        ring: where observations and labels go.
        gateway: prefix of this gateway's record ids.
        block_of: which block a row belongs to.
        clock: seconds since the epoch.

    Set `draining` and every answer asks its caller to reconnect.
    """

    def __init__(
        self,
        release: ServedRelease,
        probes: ProbeResult,
        ring: RingWriter,
        limits: Limits,
        *,
        gateway: str,
        block_of: BlockOf,
        clock: Callable[[], float],
    ) -> None:
        self._release, self._probes, self._ring, self._limits = release, probes, ring, limits
        self._gateway, self._block_of, self._clock = gateway, block_of, clock
        self.draining = False
        self._family = release.manifest.family
        self._counter = release.manifest.counter
        model = f"/v2/models/{self._family}"
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v2": ("GET", self._server),
            "/v2/": ("GET", self._server),
            "/v2/health/live": ("GET", lambda _: Answer.of({"live": True})),
            "/v2/health/ready": ("GET", lambda _: Answer.of({"ready": True})),
            model: ("GET", self._model),
            f"{model}/ready": ("GET", self._model_ready),
            f"{model}/infer": ("POST", self._infer),
            "/fedge/v1/feedback": ("POST", self._feedback),
            "/fedge/v1/status": ("GET", self._status),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive)
        except ClientGoneError:
            return
        except RequestError as error:
            answer = Answer.error(error.status, str(error))
        except InferenceError as error:
            answer = Answer.error(500, str(error))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer.body)).encode()),
        ]
        if self.draining or answer.status == 413:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        # The body is read first, also where it is not wanted: the next request follows it.
        body = await self._body(scope, receive)
        path = scope["path"]
        if path not in self._routes:
            raise self._unknown(path)
        method, handler = self._routes[path]
        if scope["method"] != method:
            raise RequestError(405, "method", f"must be {method} for {path}")
        if method == "POST":
            self._check_headers(dict(scope["headers"]))
        return handler(body)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limit = self._limits.max_body_bytes
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            size += len(part)
            if size <= limit:
                parts.append(part)
            elif size > DISCARD_FACTOR * limit:
                break
            if not message.get("more_body", False):
                break
        if size > limit:
            raise RequestError(413, "body", f"is larger than {limit} bytes")
        return b"".join(parts)

    def _check_headers(self, headers: dict[bytes, bytes]) -> None:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise RequestError(415, "content-encoding", "must not be set: send plain JSON")
        if b"inference-header-content-length" in headers:
            raise RequestError(
                415, "inference-header-content-length", "binary tensors are not taken: send JSON"
            )

    def _unknown(self, path: str) -> RequestError:
        parts = path.split("/")
        if parts[:3] == ["", "v2", "models"] and len(parts) > 3 and parts[3] != self._family:
            name = parts[3][:64]
            return RequestError(
                404, "model", f"Request for unknown model {name!r}; {self._family!r} is served"
            )
        return RequestError(404, "path", f"nothing is served at {path[:128]}")

    def _server(self, _: bytes) -> Answer:
        return Answer.of({"name": "fedge", "version": "2", "extensions": []})

    def _model(self, _: bytes) -> Answer:
        return Answer.of(model_metadata(self._release.task, self._family, self._counter))

    def _model_ready(self, _: bytes) -> Answer:
        return Answer.of({"name": self._family, "ready": True})

    def _infer(self, body: bytes) -> Answer:
        task = self._release.task
        request = parse_infer(body, task, max_batch=self._limits.max_batch)
        scores = self._release.model.run(request.inputs)
        now = self._clock()
        first_slot = self._ring.append_batch(
            self._block_of, self._counter, now, request.inputs, scores
        )
        if not scores.finite:
            # It was served a slot and is observed as unknown; the caller gets no number for it.
            raise InferenceError("the model's logits are not finite for this input")
        slots = np.arange(first_slot, first_slot + len(request.inputs), dtype=np.int64)
        blocks = self._block_of(slots, now).tolist()
        return Answer(
            200,
            infer_answer(
                request,
                scores,
                task=task,
                family=self._family,
                release=self._counter,
                record_ids=format_ids(self._gateway, blocks, first_slot),
            ),
        )

    def _feedback(self, body: bytes) -> Answer:
        feedback = parse_feedback(
            body,
            self._release.task,
            gateway=self._gateway,
            next_slot=self._ring.next_slot,
            feedback_slots=self._limits.feedback_slots,
        )
        if not self._ring.append_labels(feedback.slots, feedback.labels):
            return Answer.error(503, "labels: no room now, none was taken; send them again later")
        return Answer.of({"accepted": len(feedback.slots)})

    def _status(self, _: bytes) -> Answer:
        """Public facts only: nothing here depends on what a request held."""
        return Answer.of(
            {
                "gateway": self._gateway,
                "family": self._family,
                "task": self._release.task.name,
                "task_version": self._release.task.version,
                "release": self._counter,
                "variant": self._release.variant,
                "next_slot": self._ring.next_slot,
                "dropped": self._ring.dropped,
                "latency_us": self._probes.latency_us,
                "golden_max_abs": self._probes.golden_max_abs,
            }
        )
