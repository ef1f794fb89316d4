"""Plain JSON, read as strictly as it can be: one byte string for one value, exact fields.

A value is taken only if writing it again in canonical form (sorted keys, no blanks, no NaN)
gives the very bytes. That refuses repeated keys, other spellings of a number and trailing
blanks, over which two readers could disagree.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedge.review.verifier.limits import MAX_DOCUMENT, MAX_TEXT, MAX_WORD

_SMALL_ORDER = frozenset(
    (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
"""y of the points of order 1, 2, 4 and 8, in each of its encodings, without the sign of x."""

Check = Callable[[Any], bool]
Shape = Mapping[str, Check]


class FormError(ValueError):
    """Bytes or a value are not of the form that fedge writes."""


def canonical(value: Any) -> bytes:
    """The canonical bytes of a JSON value."""
    text = json.dumps(
        value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True
    )
    return text.encode("utf-8")


def parse(data: bytes) -> Any:
    """The value of canonical JSON.

    Raises:
        FormError: it is no JSON, not the canonical form of what it says, or too long.
    """
    if len(data) > MAX_DOCUMENT:
        raise FormError(f"longer than {MAX_DOCUMENT} bytes")
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_number)
        same = canonical(value) == data
    except (ValueError, RecursionError) as error:
        raise FormError(f"no JSON: {type(error).__name__}") from error
    if not same:
        raise FormError("not in canonical form")
    return value


def require(value: Any, shape: Shape, what: str) -> dict[str, Any]:
    """`value`, if it is an object with exactly these fields and each passes its check.

    Raises:
        FormError: names the first field that does not.
    """
    if not isinstance(value, dict):
        raise FormError(f"{what} is no object")
    if value.keys() != shape.keys():
        odd = sorted(value.keys() ^ shape.keys())
        raise FormError(f"{what} lacks or adds the field {odd[0]!r}")
    for name, check in shape.items():
        if not check(value[name]):
            raise FormError(f"{what}: {name} is out of range")
    return value


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fingerprint(public_key: str) -> str:
    """The name of a key that is given in hex."""
    return sha256(bytes.fromhex(public_key))[:32]


def signed_by(public_key: str, signature: str, data: bytes) -> bool:
    """Whether an Ed25519 signature fits; key and signature in hex.

    Never under a point of small order: some signatures fit every text there, so nobody signed.
    """
    if public_key[:-2] + f"{int(public_key[-2:], 16) & 0x7F:02x}" in _SMALL_ORDER:
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def without(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: one for key, one in value.items() if key != name}


# --- checks -------------------------------------------------------------------------------


def whole(low: int, high: int | None = None) -> Check:
    """An integer, low <= value < high; no float and no bool passes."""
    return lambda value: type(value) is int and low <= value and (high is None or value < high)


def real(low: float, high: float) -> Check:
    """A float, low < value < high."""
    return lambda value: type(value) is float and low < value < high


def one_of(*choices: Any) -> Check:
    return lambda value: any(type(value) is type(c) and value == c for c in choices)


def matches(pattern: str) -> Check:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def nullable(check: Check) -> Check:
    return lambda value: value is None or check(value)


def listed(check: Check, *, least: int = 0, most: int = MAX_DOCUMENT) -> Check:
    return lambda value: (
        isinstance(value, list) and least <= len(value) <= most and all(map(check, value))
    )


def shaped(shape: Shape) -> Check:
    """An object of a shape, as part of another one."""

    def check(value: Any) -> bool:
        try:
            require(value, shape, "part")
        except FormError:
            return False
        return True

    return check


def text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def said(most: int) -> Check:
    """Words for people, not none and not too many."""
    return lambda value: isinstance(value, str) and 1 <= len(value) <= most


def word(value: Any) -> bool:
    """Text that may be shown as it is: without line breaks and terminal commands."""
    return isinstance(value, str) and len(value) <= MAX_WORD and value.isprintable()


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def number(value: Any) -> bool:
    """A finite float; canonical JSON holds no other."""
    return type(value) is float


def moment(value: Any) -> bool:
    """Seconds since the epoch of a time that a clock may show: from 1970 until 2200."""
    return type(value) in (int, float) and 0 <= value < LATEST


LATEST = 7_258_118_400.0
"""2200-01-01."""
count = whole(0, 2**53)
hex64 = matches("[0-9a-f]{64}")
hex128 = matches("[0-9a-f]{128}")
name32 = matches("[0-9a-f]{32}")
plain_name = matches(r"[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,63}")
run_name = matches(r"[a-z0-9][a-z0-9\-]{0,63}")


def _no_number(constant: str) -> NoReturn:
    raise FormError(f"{constant} is no number")
