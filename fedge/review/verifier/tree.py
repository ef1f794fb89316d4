"""Merkle tree hashes over a growing list (RFC 6962, section 2.1), all asked sizes in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def roots(leaves: Iterable[bytes], sizes: Collection[int]) -> dict[int, str]:
    """The root over the first `size` leaf hashes, in hex, for each of `sizes` that exists."""
    wanted, found = set(sizes), dict[int, str]()
    peaks: list[tuple[int, bytes]] = []  # (leaves under it, hash), the largest subtree first
    if 0 in wanted:
        found[0] = hashlib.sha256(b"").hexdigest()
    for size, one in enumerate(leaves, 1):
        peaks.append((1, one))
        while len(peaks) > 1 and peaks[-1][0] == peaks[-2][0]:
            (width, right), (_, left) = peaks.pop(), peaks.pop()
            peaks.append((2 * width, _node(left, right)))
        if size in wanted:
            found[size] = _joined(peaks)
    return found


def _joined(peaks: list[tuple[int, bytes]]) -> str:
    right = peaks[-1][1]
    for _, left in reversed(peaks[:-1]):
        right = _node(left, right)
    return right.hex()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
