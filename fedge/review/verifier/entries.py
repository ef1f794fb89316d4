"""The form of each kind of ledger entry, in both versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedge.review.verifier.form import (
    FormError,
    Shape,
    count,
    flag,
    hex64,
    listed,
    matches,
    name32,
    nullable,
    number,
    one_of,
    parse,
    require,
    shaped,
    whole,
    word,
)
from fedge.review.verifier.limits import LARGEST, MAX_BLOCKS, MAX_EVENTS

_BASE: Shape = {
    "kind": word,
    "schema_version": one_of(1, 2),
    "seq": count,
    "previous": hex64,
    "at": number,
    "simulated": flag,
}
_GAUSSIAN: Shape = {
    "kind": one_of("discrete-gaussian"),
    "sensitivity2": whole(1, LARGEST),
    "sigma2": whole(1, LARGEST),
    "count": whole(1, 2**31),
    "dimension": whole(1, 2**31),
}
_POISSON: Shape = {
    **_GAUSSIAN,
    "kind": one_of("poisson-gaussian"),
    "rate_ppm": whole(1, 10**6),
}


def is_event(value: Any) -> bool:
    """Whether it is an event of a known kind, all numbers in range."""
    kind = value.get("kind") if isinstance(value, dict) else None
    return shaped(_POISSON if kind == "poisson-gaussian" else _GAUSSIAN)(value)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


_PURPOSE = matches(r"[a-z][a-z0-9\-]{0,31}")
_OPENED: Shape = {"block": count, "policy": _object}
_WINDOW: Shape = {
    "reservation": count,
    "window": count,
    "block": count,
    "purpose": _PURPOSE,
    "events": listed(is_event, least=1, most=MAX_EVENTS),
}
_RUN: Shape = {
    "reservation": count,
    "run_id": word,
    "blocks": listed(count, least=1, most=MAX_BLOCKS),
    "events": listed(is_event, least=1, most=MAX_EVENTS),
}
_SETTLED: Shape = {
    "reservation": count,
    "key": word,
    "event": is_event,
    "artefact_sha256": hex64,
    "noise": one_of("os", "seeded", "os-float"),
}
_LOST: Shape = {"reservation": count, "key": word, "event": is_event}
_EXCLUDED: Shape = {"block": count, "what": one_of("escalation", "sketches")}
_ERASED: Shape = {
    "records": count,
    "reason": one_of("erasure", "consent", "retention", "quota"),
}

SHAPES: Mapping[tuple[str, int], Shape] = {
    ("created", 1): {},
    ("created", 2): {"gateway": nullable(name32), "public_key": nullable(hex64)},
    ("policy", 2): {"policy": _object, "approval": nullable(_object)},
    **{
        (kind, version): shape
        for version in (1, 2)
        for kind, shape in (
            ("opened", _OPENED),
            ("window", _WINDOW),
            ("settled", _SETTLED),
            ("excluded", _EXCLUDED),
            ("erased", _ERASED),
        )
    },
    ("run", 1): _RUN,
    ("run", 2): {
        **_RUN,
        "purposes": listed(one_of("training", "evaluation"), least=1),
        "task": lambda value: word(value) and len(value) <= 64,
        "base_release": nullable(count),
        "base_sha256": nullable(hex64),
    },
    ("lost", 2): _LOST,
    ("recovered", 2): {
        "through_block": count,
        "witnessed_size": count,
        "witnessed_root": hex64,
        "reason": one_of("wiped", "restored", "forked"),
    },
}


def read_entry(data: bytes) -> dict[str, Any]:
    """One entry.

    Raises:
        FormError: it is not canonical, of no known kind and version, or a value is out of range.
    """
    value = parse(data)
    if not isinstance(value, dict):
        raise FormError("it is no object")
    kind, version = value.get("kind"), value.get("schema_version")
    shape = SHAPES.get((kind, version)) if type(kind) is str and type(version) is int else None
    if shape is None:
        raise FormError("it is of no known kind and version")
    return require(value, {**_BASE, **shape}, f"a {kind} entry")
