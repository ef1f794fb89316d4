"""The whole HTTP surface of a worker, in this process, with a real model and a real ring."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes.asgi_apps import GATEWAY, INFER, MAX_BODY_BYTES, AsgiApp, binary_body
from fakes.bad_requests import BAD_BINARY_REQUESTS, BAD_REQUESTS, request
from fakes.gateways import FAMILY, TASK, infer_body, toy_inputs, toy_logits

from fedge.errors import InferenceError, TooManyRequestsError
from fedge.records.purposes import ESCALATION, INFERENCE, MONITORING, TRAINING
from fedge.serving import answers
from fedge.serving.app import Answer
from fedge.serving.escalation import EscalationOutcome
from fedge.serving.ring import LABEL
from fedge.serving.ring_reader import RingReader

MODEL = f"/v2/models/{FAMILY}"
ALL = TASK.model_copy(update={"purposes": ("inference", "monitoring", "training", "escalation")})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[AsgiApp]:
    with closing(AsgiApp(tmp_path)) as app:
        yield app


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "holds"),
    [
        ("/v2", {"name": "fedge", "extensions": ["binary_tensor_data"]}),
        ("/v2/", {"name": "fedge", "version": "2"}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        (MODEL, {"name": FAMILY, "versions": ["1"], "platform": "onnx_onnxv1"}),
        (f"{MODEL}/versions/1", {"name": FAMILY, "versions": ["1"]}),
        (f"{MODEL}/ready", {"name": FAMILY, "ready": True}),
        (f"{MODEL}/versions/1/ready", {"name": FAMILY, "ready": True}),
        ("/fedge/v1/status", {"gateway": GATEWAY, "release": 1, "next_slot": 0}),
    ],
)
def test_what_can_be_read(served: AsgiApp, method: str, path: str, holds: dict[str, Any]) -> None:
    """Health and metadata come where the protocol says, with and without the version."""
    answer = served.ask(method, path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert holds.items() <= answer.json.items()


@pytest.mark.parametrize(
    ("method", "path", "status", "start"),
    [
        ("POST", "/v2/models/other/infer", 404, "model: Request for unknown model 'other'"),
        ("GET", "/v2/models/other", 404, "model: "),
        ("GET", f"{MODEL}/versions/2", 404, "version: Request for unknown version '2'"),
        ("GET", f"{MODEL}/versions/01/ready", 404, "version: "),
        ("POST", f"{MODEL}/versions/x/infer", 404, "version: "),
        ("GET", f"{MODEL}/versions", 404, "path: "),
        ("GET", f"{MODEL}/versions/1/config", 404, "path: "),
        ("GET", "/v2/nothing", 404, "path: "),
        ("GET", "/", 404, "path: "),
        ("GET", "/v2/models/" + "m" * 1000, 404, "model: "),
        ("GET", INFER, 405, "method: must be POST"),
        ("HEAD", INFER, 405, "method: must be POST"),
        ("PUT", f"{MODEL}/versions/1/infer", 405, "method: must be POST"),
        ("GET", "/fedge/v1/feedback", 405, "method: must be POST"),
        ("POST", "/v2/health/live", 405, "method: must be GET"),
        ("DELETE", MODEL, 405, "method: must be GET"),
    ],
)
def test_what_cannot_be_asked(
    served: AsgiApp, method: str, path: str, status: int, start: str
) -> None:
    """Another model, version, path or method is refused in words; a 405 says what is allowed."""
    answer = served.ask(method, path)
    assert answer.status == status and answer.error.startswith(start)
    assert answer.headers.get("allow") == (
        None if status == 404 else "POST" if "POST" in start else "GET, HEAD"
    )
    assert len(answer.body) < 400


@pytest.mark.parametrize("base", [MODEL, f"{MODEL}/versions/1"])
def test_an_answer_holds_what_the_protocol_says(served: AsgiApp, base: str) -> None:
    """All outputs by default, one record id per row, and the id that came."""
    inputs = toy_inputs(3)
    body = {**json.loads(infer_body(inputs)), "id": "a-7"}
    answer = served.ask("POST", f"{base}/infer", json.dumps(body).encode())
    logits = toy_logits(1, inputs)
    best = logits.argmax(1)
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    found = answer.json
    assert (found["model_name"], found["model_version"], found["id"]) == (FAMILY, "1", "a-7")
    assert found["parameters"] == {
        "fedge_record_ids": [f"{GATEWAY}-0-{slot}" for slot in range(3)],
        "fedge_release": 1,
    }
    assert [(o["name"], o["datatype"], o["shape"]) for o in found["outputs"]] == [
        ("logits", "FP32", [3, 3]),
        ("class", "INT64", [3]),
        ("label", "BYTES", [3]),
        ("confidence", "FP32", [3]),
    ]
    assert np.allclose(answer.output("logits"), logits.ravel(), atol=1e-4)
    assert answer.output("class") == best.tolist()
    assert answer.output("label") == [TASK.classes[index] for index in best]
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(answer.output("confidence"), softmax.max(1), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_binary_outputs_say_the_same_as_json(served: AsgiApp, rows: int) -> None:
    """All binary, or some; every answer's parts add up to its length."""
    inputs = toy_inputs(rows, seed=rows)
    plain = served.infer(infer_body(inputs))
    whole = served.infer_binary(inputs, parameters={"binary_data_output": True})
    mixed = served.infer_binary(
        inputs,
        outputs=[
            {"name": "label", "parameters": {"binary_data": True}},
            {"name": "class"},
            {"name": "logits", "parameters": {"binary_data": True}},
        ],
    )
    names = TASK.classes
    for answer in (whole, mixed):
        assert answer.headers["content-type"] == "application/octet-stream"
        sizes = [o.get("parameters", {}).get("binary_data_size", 0) for o in answer.json["outputs"]]
        assert int(answer.headers["inference-header-content-length"]) + sum(sizes) == len(
            answer.body
        )
        logits = np.frombuffer(answer.output("logits"), np.float32)
        assert np.allclose(logits, plain.output("logits"), rtol=1e-6)
        texts = b"".join(
            len(text).to_bytes(4, "little") + text.encode() for text in plain.output("label")
        )
        assert answer.output("label") == texts
    assert mixed.output("class") == plain.output("class")
    assert "data" not in mixed.json["outputs"][0] and len(mixed.json["outputs"]) == 3
    assert np.frombuffer(whole.output("class"), np.int64).tolist() == plain.output("class")
    confidence = np.frombuffer(whole.output("confidence"), np.float32)
    assert np.allclose(confidence, plain.output("confidence"), rtol=1e-6)
    assert set(plain.output("label")) <= set(names)


def test_few_and_many_rows_are_judged_alike(
    served: AsgiApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short way for few rows and numpy's for many give the same class and confidence."""
    body = infer_body(toy_inputs(32))
    short = served.infer(body)
    monkeypatch.setattr(answers, "FEW_LOGITS", 0)
    long = served.infer(body)
    assert short.output("class") == long.output("class")
    assert short.output("label") == long.output("label")
    assert np.allclose(short.output("confidence"), long.output("confidence"), rtol=1e-6)


def test_every_bad_request_is_answered_by_field(served: AsgiApp) -> None:
    """With a 400 whose error names the field; the next good request is served."""
    cases: list[tuple[bytes, dict[str, str], str]] = [
        (body, {}, field) for body, field in BAD_REQUESTS.values()
    ]
    cases += [
        (body, {"inference_header_content_length": told}, field)
        for (body, told), field in BAD_BINARY_REQUESTS.values()
    ]
    for body, headers, field in cases:
        answer = served.infer(body, **headers)
        assert (answer.status, answer.error.split(":")[0]) == (400, field)
    binary_without_header = served.infer(binary_body(toy_inputs(1))[0])
    assert binary_without_header.error.startswith("body: ")
    size = {"binary_data_size": 24}
    answer = served.infer(infer_body(toy_inputs(1), parameters=size).replace(b'data":', b'dat":'))
    assert answer.status == 400
    assert served.infer(infer_body(toy_inputs(1))).status == 200


def test_a_size_needs_the_header(served: AsgiApp) -> None:
    """A binary tensor without the length of its JSON cannot be found."""
    body = json.loads(infer_body(toy_inputs(1), parameters={"binary_data_size": 24}))
    del body["inputs"][0]["data"]
    answer = served.infer(json.dumps(body).encode())
    assert answer.status == 400 and "Inference-Header-Content-Length" in answer.error


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
}


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("parts", [1, 3])
def test_compressed_requests_are_inflated(served: AsgiApp, encoding: str, parts: int) -> None:
    """JSON and binary; the JSON's length is that before compression."""
    inputs = toy_inputs(4)
    body, length = binary_body(inputs)
    wanted = served.infer(infer_body(inputs)).output("logits")
    for data, headers in (
        (infer_body(inputs), {}),
        (body, {"inference_header_content_length": str(length)}),
    ):
        packed = ENCODERS[encoding](data)
        cut = [
            packed[n * len(packed) // parts : (n + 1) * len(packed) // parts] for n in range(parts)
        ]
        answer = served.infer(cut, content_encoding=encoding, **headers)
        assert answer.status == 200 and answer.output("logits") == wanted


def zipped(data: bytes) -> bytes:
    """The same bytes every time: a test's name may hold them."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("encoding", "body", "status", "start"),
    [
        ("br", b"{}", 415, "content-encoding: "),
        ("gzip, gzip", zipped(zipped(b"{}")), 415, "content-encoding: "),
        ("gzip", b"{}", 400, "body: is no gzip data"),
        ("deflate", zipped(b"{}"), 400, "body: is no deflate data"),
        ("gzip", zipped(b"{}")[:-5], 400, "body: holds less or more"),
        ("gzip", zipped(b"{}") + b"x", 400, "body: holds less or more"),
        ("gzip", b"", 400, "body: holds less or more"),
        ("gzip", zipped(b" " * (MAX_BODY_BYTES + 1)), 413, "body: is larger than"),
        ("deflate", zlib.compress(b" " * 50_000_000), 413, "body: is larger than"),
    ],
)
def test_bad_compression_is_refused(
    served: AsgiApp, encoding: str, body: bytes, status: int, start: str
) -> None:
    """Unknown, damaged, unfinished, or far larger than it looked."""
    answer = served.infer(body, content_encoding=encoding)
    assert (answer.status, answer.error[: len(start)]) == (status, start)


def test_too_large_a_body_is_refused(served: AsgiApp) -> None:
    """As soon as that is seen: what still comes is not held."""
    answer = served.infer([b" " * MAX_BODY_BYTES, b" ", b"never read"])
    assert answer.status == 413
    assert answer.error == f"body: is larger than {MAX_BODY_BYTES} bytes"
    assert served.infer(infer_body(toy_inputs(1)) + b" " * 60_000).status == 200


def test_readiness_ends_with_the_drain(served: AsgiApp) -> None:
    """A draining worker answers, says that it is not ready, and asks to reconnect."""
    served.app.draining = True
    for path in ("/v2/health/ready", f"{MODEL}/ready", f"{MODEL}/versions/1/ready"):
        answer = served.ask("GET", path)
        assert answer.status == 400 and answer.json["ready"] is False
    assert served.ask("GET", "/v2/health/live").json == {"live": True}
    answer = served.infer(infer_body(toy_inputs(1)))
    assert answer.status == 200 and answer.headers["connection"] == "close"


def test_logits_that_are_not_finite_are_no_answer(served: AsgiApp) -> None:
    """The caller gets a 422 that names the values; the rows are observed as unknown."""
    answer = served.infer(infer_body(np.full((1, 2, 3), 3e38, np.float32)))
    assert answer.status == 422 and answer.error.startswith("inputs[0].data: ")
    answer = served.infer(infer_body(toy_inputs(1)))
    assert answer.json["parameters"]["fedge_record_ids"] == [f"{GATEWAY}-0-1"]
    rows, _ = RingReader(served.ring_path).read(0, 10)
    assert not np.isfinite(rows["logits"][0]).all() and np.isfinite(rows["logits"][1]).all()


class BrokenEngine:
    """Fails as ONNX Runtime does on an index beyond a table, and repeats the value."""

    async def infer(self, inputs: npt.NDArray[Any], marks: object) -> Any:
        raise InferenceError(f"the model failed: idx={inputs.ravel()[0]} is out of bounds")


def test_an_input_that_the_model_cannot_run_on_is_the_inputs_fault(served: AsgiApp) -> None:
    """No input is answered with a 5xx, and none of the runtime's words about it leave."""
    served.app._engine = BrokenEngine()
    answer = served.infer(infer_body(np.full((1, 2, 3), 0.625, np.float32)))
    assert answer.status == 422 and answer.error == "inputs[0].data: the model cannot be run on it"


@pytest.mark.parametrize(
    ("parameters", "withdrawn", "purposes", "subject"),
    [
        ({}, 0, INFERENCE | MONITORING | TRAINING | ESCALATION, bytes(16)),
        ({"fedge_purposes": "inference"}, 0, INFERENCE, bytes(16)),
        ({"fedge_purposes": "training,inference"}, 0, INFERENCE | TRAINING, bytes(16)),
        (
            {"fedge_subject": "anna"},
            TRAINING | ESCALATION,
            INFERENCE | MONITORING,
            b"anna".ljust(16, b"\1"),
        ),
        (
            {"fedge_subject": "anna", "fedge_purposes": "inference,training"},
            TRAINING,
            INFERENCE,
            bytes(16),
        ),
        ({"fedge_subject": "anna"}, 15, INFERENCE, bytes(16)),
    ],
)
def test_rows_serve_what_all_allow(
    tmp_path: Path, parameters: dict[str, str], withdrawn: int, purposes: int, subject: bytes
) -> None:
    """Schema, request and subject, who reaches the ring as a pseudonym, and only where needed."""
    app = AsgiApp(tmp_path, task=ALL, withdrawn=lambda who: withdrawn if any(who) else 0)
    with closing(app):
        assert app.infer(request(parameters=parameters)).status == 200
        rows, _ = RingReader(app.ring_path).read(0, 10)
    assert rows["purposes"].tolist() == [purposes]
    assert rows["subject"][0].tobytes() == subject


def test_a_request_extends_no_purpose(tmp_path: Path) -> None:
    """What the schema does not allow, no request can."""
    few = TASK.model_copy(update={"purposes": ("inference", "monitoring")})
    with closing(AsgiApp(tmp_path, task=few)) as app:
        asked = {"fedge_purposes": "inference,monitoring,training,escalation"}
        assert app.infer(request(parameters=asked)).status == 200
        rows, _ = RingReader(app.ring_path).read(0, 10)
    assert rows["purposes"].tolist() == [INFERENCE | MONITORING]


def test_labels_reach_the_ring(served: AsgiApp) -> None:
    """Taken for records of this gateway, all or none."""
    ids = served.infer(infer_body(toy_inputs(2))).json["parameters"]["fedge_record_ids"]
    labels = [{"id": ids[1], "label": "blue"}, {"id": ids[0], "label": "red"}]
    body = json.dumps({"labels": labels}).encode()
    answer = served.ask("POST", "/fedge/v1/feedback", body)
    assert (answer.status, answer.json) == (200, {"accepted": 2})
    rows, _ = RingReader(served.ring_path).read(0, 10)
    assert rows["kind"].tolist()[2:] == [LABEL, LABEL]
    assert (rows["slot"][2:].tolist(), rows["label"][2:].tolist()) == ([1, 0], [2, 0])
    for wrong in (f"{GATEWAY}-1-1", f"{GATEWAY}-0-2", "00000000-0-1"):
        bad = json.dumps({"labels": [labels[0], {"id": wrong, "label": "red"}]}).encode()
        assert served.ask("POST", "/fedge/v1/feedback", bad).status == 404
    assert len(RingReader(served.ring_path).read(0, 10)[0]) == 4


def test_without_monitoring_requests_are_served_and_labels_are_not(tmp_path: Path) -> None:
    """There is no record that a label could join."""
    with closing(AsgiApp(tmp_path, monitored=False)) as app:
        answer = app.infer(infer_body(toy_inputs(2)))
        ids = answer.json["parameters"]["fedge_record_ids"]
        assert ids == [f"{GATEWAY}-0-0", f"{GATEWAY}-0-1"]
        body = json.dumps({"labels": [{"id": ids[0], "label": "red"}]}).encode()
        refused = app.ask("POST", "/fedge/v1/feedback", body)
        assert refused.status == 404 and "monitored" in refused.error
        assert app.ask("GET", "/fedge/v1/status").json["next_slot"] is None
        assert not app.ring_path.exists()


class OtherModels:
    """A relay that answers what it was asked."""

    def __init__(self, *families: str) -> None:
        self._families = families

    def serves(self, family: str) -> bool:
        return family in self._families

    async def forward(
        self, method: str, target: str, headers: Any, body: bytes, *, family: str = ""
    ) -> Any:
        asked = [family, method, target, body.decode(), sorted(n.decode() for n, _ in headers)]
        answered = json.dumps(asked).encode()
        return 418, [(b"content-type", b"text/plain"), (b"x-model", family.encode())], answered


def test_requests_for_another_model_are_relayed_as_they_came(tmp_path: Path) -> None:
    """Path, query, headers and body; whatever comes back is the answer."""
    app = AsgiApp(tmp_path, relay=OtherModels("other"), neighbours={"12345678": "other"})
    with closing(app):
        path = "/v2/models/other/infer"
        answer = app.ask(
            "POST", path, [b"bo", b"dy"], {"Content-Encoding": "gzip"}, query_string=b"a=b"
        )
        assert (answer.status, answer.headers["x-model"]) == (418, "other")
        assert answer.json == ["other", "POST", f"{path}?a=b", "body", ["content-encoding"]]
        assert app.ask("GET", "/v2/models/third").status == 404
        labels = json.dumps({"labels": [{"id": "12345678-0-0", "label": "x"}]})
        answer = app.ask("POST", "/fedge/v1/feedback", labels.encode(), {"Content-Length": "9"})
        assert answer.json == ["other", "POST", "/fedge/v1/feedback", labels, []]
        assert app.ask("POST", path, b"{}", {"Fedge-Relayed": "1"}, client=None).status == 404


class LargerModel:
    """An escalator with one answer to all."""

    def __init__(self, outcome: EscalationOutcome) -> None:
        self.outcome, self.asked = outcome, 0

    async def escalate(self, inputs: Any, served: Any, marks: Any, wanted: Any) -> Any:
        self.asked += 1
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "notes", "label"),
    [
        (EscalationOutcome(considered=False), {}, None),
        (
            EscalationOutcome(considered=True, reason="budget"),
            {"fedge_escalated": False, "fedge_escalation": "budget"},
            None,
        ),
        (
            EscalationOutcome(
                considered=True,
                outputs={"label": ["blue"], "logits": np.array([[0, 1, 2]], np.float32)},
            ),
            {"fedge_escalated": True},
            "blue",
        ),
    ],
)
def test_the_answer_says_who_gave_it(
    tmp_path: Path, outcome: EscalationOutcome, notes: dict[str, Any], label: str | None
) -> None:
    """The larger model's outputs stand where it was asked; else the local ones, marked."""
    escalator = LargerModel(outcome)
    with closing(AsgiApp(tmp_path, task=ALL, escalator=escalator)) as app:
        wanted = [{"name": "label"}, {"name": "logits", "parameters": {"binary_data": True}}]
        local = app.infer(request(outputs=wanted, parameters={"fedge_purposes": "inference"}))
        assert escalator.asked == 0
        answer = app.infer(request(outputs=wanted))
    assert escalator.asked == 1
    parameters = answer.json["parameters"]
    assert {k: v for k, v in parameters.items() if k.startswith("fedge_esc")} == notes
    assert answer.output("label") == ([label] if label else local.output("label"))
    if label:
        assert np.frombuffer(answer.output("logits"), np.float32).tolist() == [0, 1, 2]


def test_a_limit_says_when_to_come_back() -> None:
    """In whole seconds, rounded up, at least one."""
    for seconds, header in ((0.0, "1"), (0.2, "1"), (1.5, "2"), (3.0, "3")):
        answer = Answer.refusal(TooManyRequestsError("requests", "too many", seconds))
        assert (answer.status, answer.headers[-1]) == (429, (b"retry-after", header.encode()))
