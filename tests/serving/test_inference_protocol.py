"""Strict parsing: exactly the protocol and the task, or a refusal that names the field."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fakes.bad_requests import BAD_REQUESTS, ROW
from fakes.gateways import MAX_BATCH, TASK, infer_body, toy_inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import RequestError
from fedge.serving.protocol import parse_feedback, parse_infer

GATEWAY = "abcdef01"


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_refused_by_field(case: str) -> None:
    """Every way to be wrong gets a 400 that names where."""
    body, field = BAD_REQUESTS[case]
    with pytest.raises(RequestError) as refusal:
        parse_infer(body, TASK, max_batch=MAX_BATCH)
    assert (refusal.value.status, refusal.value.field) == (400, field)


@given(rows=st.integers(1, 4), nested=st.booleans(), integers=st.booleans())
def test_flat_and_nested_tensors_are_the_same(rows: int, nested: bool, integers: bool) -> None:
    """Both forms of the protocol, and numbers without a point, give the same rows."""
    inputs = toy_inputs(rows, seed=rows)
    inputs = np.round(inputs * 10) if integers else inputs
    data: Any = inputs.tolist() if nested else inputs.ravel().tolist()
    if integers and not nested:
        data = [int(value) for value in data]
    request = parse_infer(infer_body(inputs, data=data), TASK, max_batch=MAX_BATCH)
    assert request.inputs.dtype == np.float32
    assert np.array_equal(request.inputs, inputs)


def test_outputs_can_be_chosen() -> None:
    """`outputs` selects by name, in its order; `id` comes back."""
    body = json.dumps(
        {
            **json.loads(infer_body(ROW)),
            "id": "7",
            "outputs": [{"name": "class"}, {"name": "logits"}],
        }
    ).encode()
    request = parse_infer(body, TASK, max_batch=MAX_BATCH)
    assert (request.outputs, request.id) == (("class", "logits"), "7")


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
    for parse in (
        lambda: parse_infer(body, TASK, max_batch=MAX_BATCH),
        lambda: parse_feedback(body, TASK, gateway=GATEWAY, next_slot=50, feedback_slots=10),
    ):
        try:
            parse()
        except RequestError as refusal:
            assert 400 <= refusal.status < 500


def feedback(*labels: dict[str, Any]) -> Any:
    body = json.dumps({"labels": list(labels)}).encode()
    return parse_feedback(body, TASK, gateway=GATEWAY, next_slot=50, feedback_slots=10)


def test_labels_come_through() -> None:
    """A label is the index of its class, at its record's slot."""
    got = feedback(
        {"id": f"{GATEWAY}-1-49", "label": "blue"}, {"id": f"{GATEWAY}-0-40", "label": "red"}
    )
    assert got.slots.tolist() == [49, 40]
    assert got.labels.tolist() == [2, 0]


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
        ({"id": f"{GATEWAY}-1-50", "label": "red"}, 404, "labels[1].id"),
        ({"id": f"{GATEWAY}-1-39", "label": "red"}, 410, "labels[1].id"),
    ],
)
def test_one_wrong_label_refuses_all(entry: dict[str, Any], status: int, field: str) -> None:
    """A foreign, unknown, expired or malformed entry is named; nothing is taken."""
    with pytest.raises(RequestError) as refusal:
        feedback({"id": f"{GATEWAY}-1-49", "label": "red"}, entry)
    assert (refusal.value.status, refusal.value.field) == (status, field)
