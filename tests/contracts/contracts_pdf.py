"""What stands in a PDF, taken out of its compressed streams."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator

_STREAM = re.compile(rb"<<((?:(?!stream\r?\n).)*?)>>\s*stream\r?\n(.*?)\r?\n?endstream", re.DOTALL)
_SHOWN = re.compile(rb"\(((?:[^()\\]|\\.)*)\)", re.DOTALL)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)", re.DOTALL)
_CONTROLS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}


def opened(data: bytes) -> Iterator[bytes]:
    """The file itself, each of its streams without compression, and all that it writes as one text.

    A word that was broken over lines is whole again in the text. Letters beyond ASCII are
    codes of the file's own fonts, and stay so.

    Raises:
        ValueError: a stream cannot be opened, so that nobody can say what is in it.
    """
    yield data
    found = [_plain(head, body) for head, body in _STREAM.findall(data)]
    if len(found) != data.count(b"endstream") or not found:
        raise ValueError(f"{len(found)} streams were opened of {data.count(b'endstream')}")
    yield from found
    yield b"".join(_text(body) for body in found if b" Tj" in body)


def _plain(head: bytes, body: bytes) -> bytes:
    listed = re.search(rb"/Filter\s*\[?([^\]>]*?)(?:\]|/Length|$)", head)
    filters = re.findall(rb"/(\w+)", listed[1]) if listed else []
    for name in filters:
        if name == b"ASCII85Decode":
            body = base64.a85decode(b"<~" + body.strip(), adobe=True)
        elif name == b"FlateDecode":
            body = zlib.decompress(body)
        else:
            raise ValueError(f"a stream has the filter {name!r}")
    return body


def _text(body: bytes) -> bytes:
    return b"".join(_ESCAPE.sub(_unescaped, one) for one in _SHOWN.findall(body))


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code, 8) & 255]) if code.isdigit() else _CONTROLS.get(code, code)
