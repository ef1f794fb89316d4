"""Heads of requests that must be rewritten before they are served as any other."""

from __future__ import annotations

from collections.abc import Sequence

import httptools

from fedge.serving.asgi import Scope


def plain_head(scope: Scope, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The head of a request again, without its offer to speak another protocol.

    Args:
        url: as it came.
        headers: names in lower case.
    """
    version = scope["http_version"].encode()
    lines = [b"%s %s HTTP/%s" % (scope["method"].encode(), url, version)]
    lines += [b"%s: %s" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def origin_form(url: bytes) -> bytes:
    """The path and query of `http://host/path?query`, which proxies send."""
    parsed = httptools.parse_url(url)
    path: bytes = parsed.path or b"/"
    return path + b"?" + parsed.query if parsed.query else path
