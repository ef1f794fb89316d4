"""Looking for planted numbers and texts in bytes, in whatever encoding they may stand there."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterable, Iterator


def number_needles(value: float) -> set[bytes]:
    """How a number may stand in bytes: 32 and 64 bits in both orders, and decimal text."""
    texts = {f"{value:.6g}", f"{value:.5e}".partition("e")[0]}
    texts |= {repr(float(value))[: 8 + (value < 0)], f"{value:.12e}"[: 7 + (value < 0)]}
    packed = {struct.pack(form, value) for form in ("<f", ">f", "<d", ">d")}
    # Text loses its sign, so that a canary is found with or without it.
    return packed | {text.lstrip("-").encode() for text in texts}


def text_needles(text: str) -> set[bytes]:
    forms = {text, text.lower(), text.upper()}
    return {form.encode(code) for form in forms for code in ("utf-8", "utf-16-le", "utf-16-be")}


def unwrapped(data: bytes) -> Iterator[bytes]:
    """The bytes themselves, and what stands in them as hexadecimal or base64."""
    yield data
    for run in re.findall(rb"[0-9A-Fa-f]{8,}", data):
        for start in (0, 1):
            yield binascii.unhexlify(run[start : start + (len(run) - start) // 2 * 2])
    for run in re.findall(rb"[A-Za-z0-9+/_-]{8,}", data):
        plain = run.replace(b"-", b"+").replace(b"_", b"/")
        for start in range(4):
            piece = plain[start : start + (len(plain) - start) // 4 * 4]
            rest = plain[start + len(piece) :]
            # An unfinished last group of two or three letters holds one or two bytes more.
            last = rest + b"=" * (4 - len(rest)) if len(rest) > 1 else b""
            yield base64.b64decode(piece + last)


def leaks(data: bytes, needles: Iterable[bytes]) -> list[bytes]:
    """The needles that stand in `data`, in whatever encoding."""
    wanted, found = list(needles), set()
    for piece in unwrapped(data):
        found |= {needle for needle in wanted if needle in piece}
    return sorted(found)
