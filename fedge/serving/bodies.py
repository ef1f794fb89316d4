"""Request bodies: read up to a limit, inflated up to the same, cut into JSON and tensor data.

With the protocol's binary extension a body is JSON followed by tensor data; the header
`Inference-Header-Content-Length` tells the length of the JSON. The parts of a body are joined
such that the tensor data lies aligned in memory, so that it is used where it is.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

from fedge.errors import RequestError

if TYPE_CHECKING:  # what is read here may come from elsewhere
    from fedge.serving.asgi import Receive

Headers = dict[bytes, bytes]

HEADER_LENGTH = b"inference-header-content-length"
_WBITS = {b"gzip": 16 + zlib.MAX_WBITS, b"x-gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
_ALIGNMENT = 16
"""Of the tensor data within the joined bytes, whose own start is aligned like this."""


class ClientGoneError(Exception):
    """The caller hung up; there is nobody to answer."""


class Body(NamedTuple):
    """A whole body.

    Attributes:
        json: its JSON part.
        buffer, offset: where the tensor data begins; it ends where the buffer ends.
        binary: whether the caller used the binary extension.
    """

    json: bytes | memoryview
    buffer: bytes
    offset: int
    binary: bool

    @classmethod
    def plain(cls, data: bytes) -> Body:
        """A body of JSON alone."""
        return cls(data, data, len(data), False)

    @classmethod
    def mixed(cls, parts: list[bytes], json_length: int) -> Body:
        """A body of JSON and tensor data, given in pieces."""
        padding = -json_length % _ALIGNMENT
        buffer = b"".join([bytes(padding), *parts]) if padding or len(parts) > 1 else parts[0]
        offset = padding + json_length
        return cls(memoryview(buffer)[padding:offset], buffer, offset, True)


async def read_parts(receive: Receive, limit: int) -> list[bytes]:
    """Read a body to its end.

    Args:
        limit: bytes that are taken at most.

    Raises:
        RequestError: it is larger (413). What still comes is for the connection to throw away.
        ClientGoneError: the connection ended before the body did.
    """
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise RequestError(413, "body", f"is larger than {limit} bytes")
        parts.append(part)
        more = message.get("more_body", False)
    return parts


def whole_body(parts: list[bytes], headers: Headers, limit: int) -> Body:
    """Make a body of its pieces as the headers say.

    Args:
        headers: of the request, names in lower case.
        limit: bytes that an inflated body may have.

    Raises:
        RequestError: an encoding that is not known (415), inflated data that is damaged (400) or
            too large (413), or a JSON length that is none (400).
    """
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding != b"identity":
        parts = [inflated(b"".join(parts), encoding, limit)]
    told = headers.get(HEADER_LENGTH)
    if told is None:
        return Body.plain(parts[0] if len(parts) == 1 else b"".join(parts))
    size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
    json_length = int(told) if told.isdigit() and len(told) < 16 else 0
    if not 0 < json_length <= size:
        where = HEADER_LENGTH.decode()
        raise RequestError(400, where, f"must be the length of the JSON, 1 to {size}")
    return Body.mixed(parts, json_length)


def inflated(data: bytes, encoding: bytes, limit: int) -> bytes:
    """Undo a content encoding; never holds more than `limit` + 1 bytes of the result.

    Raises:
        RequestError: as `whole_body`.
    """
    wbits = _WBITS.get(encoding.strip().lower())
    if wbits is None:
        raise RequestError(415, "content-encoding", "must be gzip, deflate or identity")
    stream = zlib.decompressobj(wbits)
    try:
        result = stream.decompress(data, limit + 1)
    except zlib.error as error:
        name = encoding.decode("latin-1")
        raise RequestError(400, "body", f"is no {name[:16]} data") from error
    if len(result) > limit:
        raise RequestError(413, "body", f"is larger than {limit} bytes when inflated")
    if not stream.eof or stream.unused_data:
        raise RequestError(400, "body", "holds less or more than one compressed stream")
    return result
