"""Damage to requests: to the bytes of valid bodies, to values in them, to whole HTTP messages."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
from fakes.asgi_apps import GATEWAY, binary_body
from fakes.gateways import infer_body, toy_inputs

STRANGE_BYTES = [b"", b"\0", b"\xff", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"-", b"e9"]
STRANGE_BYTES += [b"NaN", b"1e999", b"null", b"true", b"\\ud800", b"\xed\xa0\x80", b"[" * 2000]
STRANGE_BYTES += [b"9" * 5000, b"0.1", b"\xef\xbb\xbf", b"\r\n\r\n"]
STRANGE_VALUES: list[Any] = [None, True, -1, 0, 2**31, 2**63, 10**30, 0.5, float("nan"), "", "x"]
STRANGE_VALUES += [[], {}, [[]], [{}], "\0", "x" * 300, "INT64", "BYTES", [1, 2, 3], {"name": "x"}]
STRANGE_VALUES += [{"binary_data_size": 24}, {"binary_data": True}, {"fedge_subject": 1}]

Request = tuple[bytes, dict[str, str]]
"""A body and the headers that go with it."""


def valid_requests() -> list[Request]:
    """One of each kind: JSON, binary in, binary out, mixed, marked."""
    inputs = toy_inputs(2)
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "label"}]
    marks = {"fedge_purposes": "inference,monitoring", "fedge_subject": "anna"}
    plain = json.loads(infer_body(inputs))
    requests: list[Request] = [
        (infer_body(inputs), {}),
        (infer_body(inputs, data=inputs.tolist()), {}),
        (json.dumps({**plain, "id": "7", "outputs": outputs, "parameters": marks}).encode(), {}),
    ]
    for options in ({}, {"parameters": {"binary_data_output": True}}, {"outputs": outputs}):
        body, length = binary_body(inputs, **options)
        requests.append((body, {"Inference-Header-Content-Length": str(length)}))
    return requests


def valid_feedback() -> bytes:
    """Labels for the first two slots."""
    labels = [{"id": f"{GATEWAY}-0-{slot}", "label": "red"} for slot in range(2)]
    return json.dumps({"labels": labels}).encode()


def damaged(chance: random.Random, data: bytes) -> bytes:
    """A few random changes of bytes: flipped, cut, doubled, moved, or replaced by strange ones."""
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        begin = chance.randrange(len(data) + 1)
        end = min(len(data), begin + chance.choice([0, 1, 1, 2, 8, 64]))
        part = data[begin:end]
        flipped = bytes([chance.randrange(256)]) if part else b""
        replacement = chance.choice([b"", flipped, part * 2, part[::-1], *STRANGE_BYTES])
        data = data[:begin] + replacement + data[end:]
    return data


def bent(chance: random.Random, value: Any) -> Any:
    """The same JSON value with one place in it replaced, removed or renamed."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(sorted(value))
        if chance.random() < 0.1:
            return {other: value[other] for other in value if other != name}
        if chance.random() < 0.05:
            return {**value, name + "x": value[name]}
        return {**value, name: bent(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        return [*value[:place], bent(chance, value[place]), *value[place + 1 :]]
    return chance.choice(STRANGE_VALUES)


def damaged_request(chance: random.Random, valid: list[Request]) -> Request:
    """A valid request with something wrong in its bytes, its values, or the length it tells."""
    body, headers = chance.choice(valid)
    told = headers.get("Inference-Header-Content-Length")
    how = chance.randrange(4)
    if how == 0:
        length = len(body) if told is None else int(told)
        text = json.dumps(bent(chance, json.loads(body[:length]))).encode()
        body = text + body[length:]
        headers = headers if told is None else {"Inference-Header-Content-Length": str(len(text))}
    elif how == 1 and told is not None:
        lengths = [str(int(told) + chance.choice([-2, -1, 1, 2, 24])), "0", "-1", "x", "1e3", ""]
        headers = {"Inference-Header-Content-Length": chance.choice(lengths)}
    elif how == 2 and told is not None:
        # Only the tensor data: any floats, most of them strange.
        random_bits = np.frombuffer(chance.randbytes(48), np.uint8).tobytes()
        body = body[: int(told)] + random_bits
    else:
        body = damaged(chance, body)
    return body, headers


def damaged_message(chance: random.Random, valid: list[Request], path: str) -> bytes:
    """A whole HTTP request, damaged within its body, within its head, or anywhere."""
    body, headers = chance.choice(valid)
    if chance.random() < 0.5:
        body, headers = damaged_request(chance, valid)
    lines = [f"POST {path} HTTP/1.1", "Host: gateway", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    message = "\r\n".join([*lines, "", ""]).encode() + body
    return damaged(chance, message) if chance.random() < 0.6 else message
