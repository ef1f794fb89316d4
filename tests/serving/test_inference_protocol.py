"""Strict parsing: exactly the protocol and the task, or a refusal that names the field."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fakes.asgi_apps import binary_body
from fakes.bad_requests import BAD_BINARY_REQUESTS, BAD_REQUESTS, ROW, request
from fakes.gateways import MAX_BATCH, TASK, infer_body, toy_inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import RequestError
from fedge.records.purposes import INFERENCE, MONITORING
from fedge.serving.bodies import Body, whole_body
from fedge.serving.feedback import Feedback, Known, parse_feedback
from fedge.serving.protocol import (
    ALL_PURPOSES,
    OUTPUT_NAMES,
    InferRequest,
    RequestParser,
    parse_json,
)

GATEWAY, SLOTS_PER_BLOCK, LIMIT = "abcdef01", 25, 65_536
PARSER = RequestParser(TASK, max_batch=MAX_BATCH)


def parse(body: bytes) -> InferRequest:
    return PARSER.parse(Body.plain(body))


def parse_binary(parts: list[bytes], json_length: str) -> InferRequest:
    headers = {b"inference-header-content-length": json_length.encode()}
    return PARSER.parse(whole_body(parts, headers, LIMIT))


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_refused_by_field(case: str) -> None:
    """Every way to be wrong gets a 400 that names where."""
    body, field = BAD_REQUESTS[case]
    with pytest.raises(RequestError) as refusal:
        parse(body)
    assert (refusal.value.status, refusal.value.field) == (400, field)


@pytest.mark.parametrize("case", BAD_BINARY_REQUESTS)
def test_a_bad_binary_request_is_refused_by_field(case: str) -> None:
    """So does every way in which JSON and tensor data do not fit together."""
    (body, told), field = BAD_BINARY_REQUESTS[case]
    with pytest.raises(RequestError) as refusal:
        parse_binary([body], told)
    assert (refusal.value.status, refusal.value.field) == (400, field)


@given(rows=st.integers(1, 4), nested=st.booleans(), integers=st.booleans())
def test_flat_and_nested_tensors_are_the_same(rows: int, nested: bool, integers: bool) -> None:
    """Both forms of the protocol, and numbers without a point, give the same rows."""
    inputs = toy_inputs(rows, seed=rows)
    inputs = np.round(inputs * 10) if integers else inputs
    data: Any = inputs.tolist() if nested else inputs.ravel().tolist()
    if integers and not nested:
        data = [int(value) for value in data]
    got = parse(infer_body(inputs, data=data))
    assert got.inputs.dtype == np.float32
    assert np.array_equal(got.inputs, inputs)


@given(
    rows=st.integers(1, MAX_BATCH),
    id_length=st.integers(0, 40),
    cuts=st.lists(st.integers(0, 900), max_size=4),
)
def test_a_binary_tensor_is_used_where_it_lies(rows: int, id_length: int, cuts: list[int]) -> None:
    """However a body arrives, its values are an aligned view of it, and are not copied again."""
    inputs = toy_inputs(rows, seed=rows)
    body, length = binary_body(inputs, id="i" * id_length)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    parts = [body[begin:end] for begin, end in pairwise(edges)]
    whole = whole_body(parts, {b"inference-header-content-length": b"%d" % length}, LIMIT)
    got = PARSER.parse(whole)
    assert np.array_equal(got.inputs, inputs) and got.id == "i" * id_length
    assert got.inputs.flags.aligned
    assert np.shares_memory(got.inputs, np.frombuffer(whole.buffer, np.uint8))


def test_json_may_be_sent_with_its_length() -> None:
    """The header alone does not make a tensor binary."""
    body = infer_body(ROW)
    assert np.array_equal(parse_binary([body], str(len(body))).inputs, ROW)


def test_outputs_can_be_chosen() -> None:
    """`outputs` selects by name, in its order; `id` comes back."""
    got = parse(request(id="7", outputs=[{"name": "class"}, {"name": "logits"}]))
    assert ([output.name for output in got.outputs], got.id) == (["class", "logits"], "7")
    for none in (None, []):
        assert [output.name for output in parse(request(outputs=none)).outputs] == [*OUTPUT_NAMES]


@pytest.mark.parametrize(
    ("parameters", "outputs", "wanted"),
    [
        ({}, None, dict.fromkeys(OUTPUT_NAMES, False)),
        ({"binary_data_output": True}, None, dict.fromkeys(OUTPUT_NAMES, True)),
        ({"binary_data_output": False}, None, dict.fromkeys(OUTPUT_NAMES, False)),
        ({}, [("logits", True), ("label", None)], {"logits": True, "label": False}),
        (
            {"binary_data_output": True},
            [("logits", False), ("label", None)],
            {"logits": False, "label": True},
        ),
    ],
)
def test_binary_outputs_are_asked_for(
    parameters: dict[str, Any], outputs: Any, wanted: dict[str, bool]
) -> None:
    """For all outputs at once, or for each, which wins."""
    entries = outputs and [
        {"name": name, "parameters": {} if binary is None else {"binary_data": binary}}
        for name, binary in outputs
    ]
    assert dict(parse(request(parameters=parameters, outputs=entries)).outputs) == wanted


def test_parameters_of_others_are_let_through() -> None:
    """What a client sends for schedulers and sequences that are not here changes nothing."""
    body = json.loads(request(parameters={"priority": 3, "timeout": 100, "sequence_id": 7}))
    body["inputs"][0]["parameters"] = {"content_type": "np"}
    got = parse(json.dumps(body).encode())
    assert got == parse(request())._replace(inputs=got.inputs)


def test_a_request_can_restrict_what_its_rows_serve() -> None:
    """Purposes are taken from a list, subjects as they are; without either all is left open."""
    got = parse(
        request(parameters={"fedge_purposes": "inference, monitoring", "fedge_subject": "José"})
    )
    assert (got.purposes, got.subject) == (INFERENCE | MONITORING, "José")
    got = parse(request())
    assert (got.purposes, got.subject) == (ALL_PURPOSES, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["inputs", "id", "outputs", "name", "shape", "datatype", "data", "labels"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=200)
def test_no_json_breaks_the_parsers(value: Any) -> None:
    """Whatever arrives is either a request or a 4xx, never another error."""
    body = json.dumps(value).encode()
    for reads in (lambda: parse(body), lambda: parse_feedback(parse_json(body), TASK, known())):
        try:
            reads()
        except RequestError as refusal:
            assert 400 <= refusal.status < 500


def known(**changes: Any) -> Known:
    facts = {"block_of": lambda slot: slot // SLOTS_PER_BLOCK, **changes}
    return Known(GATEWAY, next_slot=50, feedback_slots=10, **facts)


def feedback(*labels: dict[str, Any], **changes: Any) -> Feedback:
    return parse_feedback({"labels": list(labels)}, TASK, known(**changes))


def test_labels_come_through() -> None:
    """A label is the index of its class, at its record's slot."""
    got = feedback(
        {"id": f"{GATEWAY}-1-49", "label": "blue"}, {"id": f"{GATEWAY}-1-40", "label": "red"}
    )
    assert (got.slots.tolist(), got.labels.tolist()) == ([49, 40], [2, 0])
    assert (got.slots.dtype, got.labels.dtype) == (np.int64, np.int32)


@pytest.mark.parametrize(
    ("entry", "status", "field"),
    [
        ({"id": f"{GATEWAY}-1-49", "label": "pink"}, 400, "labels[1].label"),
        ({"id": f"{GATEWAY}-1-49", "label": 2}, 400, "labels[1].label"),
        ({"id": f"{GATEWAY}-1-49", "label": ["red"]}, 400, "labels[1].label"),
        ({"id": "49", "label": "red"}, 400, "labels[1].id"),
        ({"id": 49, "label": "red"}, 400, "labels[1].id"),
        ({"label": "red"}, 400, "labels[1].id"),
        ({"id": f"{GATEWAY}-1-49", "label": "red", "weight": 1}, 400, "labels[1].weight"),
        ({"id": "00000000-1-49", "label": "red"}, 404, "labels[1].id"),
        ({"id": f"{GATEWAY}-2-50", "label": "red"}, 404, "labels[1].id"),
        ({"id": f"{GATEWAY}-0-49", "label": "red"}, 404, "labels[1].id"),
        ({"id": f"{GATEWAY}-1-39", "label": "red"}, 410, "labels[1].id"),
    ],
)
def test_one_wrong_label_refuses_all(entry: dict[str, Any], status: int, field: str) -> None:
    """A foreign, unknown, expired or malformed entry is named; nothing is taken."""
    with pytest.raises(RequestError) as refusal:
        feedback({"id": f"{GATEWAY}-1-49", "label": "red"}, entry)
    assert (refusal.value.status, refusal.value.field) == (status, field)


def test_a_block_numbered_by_time_is_for_the_agent_to_check() -> None:
    """Only it knows when a slot was given out."""
    got = feedback({"id": f"{GATEWAY}-20000-49", "label": "red"}, block_of=None)
    assert got.slots.tolist() == [49]


def test_more_labels_than_can_ever_wait_are_refused_for_good() -> None:
    """Asking to send them again later would be asking for ever."""
    entries = [{"id": f"{GATEWAY}-1-45", "label": TASK.classes[0]}] * 3
    assert len(parse_feedback({"labels": entries}, TASK, known(places=3)).slots) == 3
    with pytest.raises(RequestError, match="more than 2") as refusal:
        parse_feedback({"labels": entries}, TASK, known(places=2))
    assert refusal.value.status == 400
