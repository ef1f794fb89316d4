"""Merkle trees over a growing list, as in RFC 6962 and RFC 9162, section 2.1.

A root commits to every entry and to their order. An inclusion proof shows that one entry
is among them, a consistency proof that an older list is the beginning of a newer one;
both hold a number of hashes that grows as the logarithm of the list. Nothing here
knows what an entry says, keeps anything, or signs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedge.errors import ProofError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of one entry: SHA-256 over 0x00 and its bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256 over 0x01 and its children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_hash(leaves: Iterable[bytes]) -> bytes:
    """The root over entries, given as their bytes."""
    return root_of(leaf_hash(leaf) for leaf in leaves)


def root_of(hashes: Iterable[bytes]) -> bytes:
    """The root over entries, given as their leaf hashes."""
    frontier = Frontier()
    for one in hashes:
        frontier = frontier.appended(one)
    return frontier.root


@dataclass(frozen=True, slots=True)
class Frontier:
    """What must be kept of a tree so that it can grow: the roots of its full subtrees.

    Attributes:
        size: number of leaves.
        peaks: one root for each bit that is set in `size`, the largest subtree's first.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def appended(self, leaf: bytes) -> Frontier:
        """The frontier after another leaf hash; at most log2(size) hashes are computed."""
        peaks, size = list(self.peaks), self.size
        while size & 1:
            leaf, size = node_hash(peaks.pop(), leaf), size >> 1
        return Frontier(self.size + 1, (*peaks, leaf))

    @property
    def root(self) -> bytes:
        """The tree's root; SHA-256 of nothing for an empty one."""
        if not self.peaks:
            return EMPTY_ROOT
        *others, root = self.peaks
        for peak in reversed(others):
            root = node_hash(peak, root)
        return root

    def to_bytes(self) -> bytes:
        return b"".join(self.peaks)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Frontier:
        """Read what `to_bytes` wrote for `size` leaves.

        Raises:
            ProofError: so many leaves have another number of full subtrees.
        """
        if size < 0 or len(data) != HASH_BYTES * size.bit_count():
            raise ProofError(f"no frontier of {size} leaves has {len(data)} bytes")
        parts = range(0, len(data), HASH_BYTES)
        return cls(size, tuple(data[start : start + HASH_BYTES] for start in parts))


class Roots:
    """The roots over every beginning of a growing list, each from some log2(size) hashes."""

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = [[]]

    def append(self, leaf: bytes) -> None:
        """Take in another leaf hash."""
        for level in range(len(self._levels) + 1):
            if level == len(self._levels):
                self._levels.append([])
            subtrees = self._levels[level]
            subtrees.append(leaf)
            if len(subtrees) & 1:
                return
            leaf = node_hash(subtrees[-2], subtrees[-1])

    def of(self, size: int) -> bytes:
        """The root over the first `size` leaves.

        Raises:
            ProofError: there are not so many.
        """
        if not 0 <= size <= len(self._levels[0]):
            raise ProofError(f"there is no beginning of {size} among {len(self._levels[0])} leaves")
        peaks, start = [], 0
        for level in reversed(range(size.bit_length())):
            if size >> level & 1:
                peaks.append(self._levels[level][start >> level])
                start += 1 << level
        return Frontier(size, tuple(peaks)).root


# --- proofs ---------------------------------------------------------------------------


def inclusion_proof(hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The hashes beside the way from leaf `index` to the root over all leaf hashes.

    Raises:
        ProofError: there is no such leaf.
    """
    if not 0 <= index < len(hashes):
        raise ProofError(f"no leaf {index} in a tree of {len(hashes)}")
    proof: list[bytes] = []
    start, end = 0, len(hashes)
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(root_of(hashes[middle:end]))
            end = middle
        else:
            proof.append(root_of(hashes[start:middle]))
            start = middle
    return tuple(reversed(proof))


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the entry with this leaf hash is number `index` of the `size` under `root`.

    RFC 9162, section 2.1.3.2.

    Raises:
        ProofError: it is not shown to be.
    """
    if not 0 <= index < size:
        raise ProofError(f"no leaf {index} in a tree of {size}")
    node, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if node & 1 or node == last:
            found = node_hash(sibling, found)
            node, last = _climb(node, last)
        else:
            found = node_hash(found, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or found != root:
        raise ProofError(f"leaf {index} is not shown to be under this root")


def consistency_proof(hashes: Sequence[bytes], old: int) -> tuple[bytes, ...]:
    """What shows that the first `old` leaf hashes are the beginning of all of them.

    Raises:
        ProofError: there are not so many leaves, or `old` is 0.
    """
    if not 1 <= old <= len(hashes):
        raise ProofError(f"no older tree of {old} leaves in one of {len(hashes)}")
    proof: list[bytes] = []
    start, end, whole = 0, len(hashes), True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(root_of(hashes[middle:end]))
            end = middle
        else:
            proof.append(root_of(hashes[start:middle]))
            start, whole = middle, False
    if not whole:
        proof.append(root_of(hashes[start:end]))
    return tuple(reversed(proof))


def verify_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the `old` entries under one root are the first of the `new` under the other.

    RFC 9162, section 2.1.4.2.

    Raises:
        ProofError: they are not shown to be.
    """
    if not 1 <= old <= new:
        raise ProofError(f"no tree of {new} leaves grew from one of {old}")
    if old == new:
        if proof or old_root != new_root:
            raise ProofError("two trees of one size differ")
        return
    # A full older tree is a node of the newer one, and the proof leaves it out.
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise ProofError("the consistency proof is empty")
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if node & 1 or node == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            node, last = _climb(node, last)
        else:
            newer = node_hash(newer, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or older != old_root or newer != new_root:
        raise ProofError(f"the first {old} entries are not shown to be under both roots")


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _climb(node: int, last: int) -> tuple[int, int]:
    """Pass the levels at which a left node has no sibling in an incomplete tree."""
    while not node & 1 and node != 0:
        node, last = node >> 1, last >> 1
    return node, last
