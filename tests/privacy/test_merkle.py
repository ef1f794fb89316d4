"""Merkle trees: roots and proofs against the recursive definitions of RFC 6962, section 2.1."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import ProofError
from fedge.privacy.merkle import (
    EMPTY_ROOT,
    Frontier,
    Roots,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    tree_hash,
    verify_consistency,
    verify_inclusion,
)

Entries = list[bytes]
LONGEST = 70


def entries(size: int) -> Entries:
    return [b"entry %d" % number for number in range(size)]


def below(size: int) -> int:
    """The largest power of two below `size`."""
    power = 1
    while 2 * power < size:
        power *= 2
    return power


def defined_root(data: Entries) -> bytes:
    """MTH(D[n])."""
    if not data:
        return sha256(b"").digest()
    if len(data) == 1:
        return sha256(b"\x00" + data[0]).digest()
    split = below(len(data))
    left, right = defined_root(data[:split]), defined_root(data[split:])
    return sha256(b"\x01" + left + right).digest()


def defined_path(index: int, data: Entries) -> list[bytes]:
    """PATH(m, D[n])."""
    if len(data) == 1:
        return []
    split = below(len(data))
    if index < split:
        return [*defined_path(index, data[:split]), defined_root(data[split:])]
    return [*defined_path(index - split, data[split:]), defined_root(data[:split])]


def defined_subproof(old: int, data: Entries, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[n], b); PROOF(m, D[n]) is that with b true."""
    if old == len(data):
        return [] if whole else [defined_root(data)]
    split = below(len(data))
    if old <= split:
        return [*defined_subproof(old, data[:split], whole), defined_root(data[split:])]
    return [*defined_subproof(old - split, data[split:], False), defined_root(data[:split])]


def hashes(data: Entries) -> Entries:
    return [leaf_hash(entry) for entry in data]


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def test_known_roots() -> None:
    """Of nothing, of one empty entry, and of two: as the definition says, written out."""
    empty_leaf = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert tree_hash([]) == EMPTY_ROOT
    assert tree_hash([b""]).hex() == empty_leaf
    both = sha256(b"\x01" + 2 * bytes.fromhex(empty_leaf)).digest()
    assert tree_hash([b"", b""]) == both


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=LONGEST))
def test_a_root_is_the_defined_one(data: Entries) -> None:
    """Whatever the entries, all at once or one after the other."""
    frontier = Frontier()
    for size, entry in enumerate(data):
        assert frontier.root == defined_root(data[:size])
        frontier = frontier.appended(leaf_hash(entry))

    assert tree_hash(data) == root_of(hashes(data)) == frontier.root == defined_root(data)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_a_frontier_is_short_and_read_back(size: int) -> None:
    """One hash for each bit of the size; another length belongs to another size."""
    peaks = tuple(leaf_hash(bytes([number])) for number in range(size.bit_count()))
    frontier = Frontier(size, peaks)

    assert Frontier.from_bytes(size, frontier.to_bytes()) == frontier
    with pytest.raises(ProofError):
        Frontier.from_bytes(size, frontier.to_bytes() + bytes(32))
    with pytest.raises(ProofError):
        Frontier.from_bytes(-1, b"")


def test_every_beginning_has_its_root() -> None:
    roots = Roots()
    for size in range(LONGEST):
        for known in range(size + 1):
            assert roots.of(known) == tree_hash(entries(known))
        roots.append(leaf_hash(entries(size + 1)[-1]))
    with pytest.raises(ProofError):
        roots.of(LONGEST + 1)


def test_inclusion_is_proven_as_defined() -> None:
    """Every entry of every tree up to a size: the defined path, which verifies."""
    for size in range(1, 40):
        data = entries(size)
        root = defined_root(data)
        for index in range(size):
            proof = inclusion_proof(hashes(data), index)
            assert list(proof) == defined_path(index, data)
            verify_inclusion(leaf_hash(data[index]), index, size, proof, root)


def test_consistency_is_proven_as_defined() -> None:
    """Every pair of sizes: the defined proof, which verifies."""
    data = entries(40)
    for new in range(1, 40):
        for old in range(1, new + 1):
            proof = consistency_proof(hashes(data[:new]), old)
            assert list(proof) == defined_subproof(old, data[:new], True)
            verify_consistency(old, new, defined_root(data[:old]), defined_root(data[:new]), proof)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_nothing_else_is_shown_to_be_included(draw: st.DataObject) -> None:
    """Another leaf, place, size, root or proof, of any tree: refused."""
    size = draw.draw(st.integers(1, LONGEST))
    index = draw.draw(st.integers(0, size - 1))
    data = entries(size)
    root, leaf = tree_hash(data), leaf_hash(data[index])
    proof = inclusion_proof(hashes(data), index)

    wrong = [
        (leaf_hash(b"another"), index, size, proof, root),
        (leaf, index, size, proof, flipped(root)),
        (leaf, size, size, proof, root),
        (leaf, -1, size, proof, root),
        (leaf, index, 4 * size, proof, root),
        (leaf, index, size, (*proof, bytes(32)), root),
    ]
    if proof:
        place = draw.draw(st.integers(0, len(proof) - 1))
        changed = [*proof]
        changed[place] = flipped(changed[place])
        wrong += [(leaf, index, size, changed, root), (leaf, index, size, proof[:-1], root)]
    other = draw.draw(st.integers(0, size - 1))
    if other != index:
        wrong.append((leaf, other, size, proof, root))
    for claim in wrong:
        with pytest.raises(ProofError):
            verify_inclusion(*claim)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_other_history_is_shown_to_be_consistent(draw: st.DataObject) -> None:
    """A tree whose first entries are others has no proof, and a proof fits its own sizes only."""
    new = draw.draw(st.integers(2, LONGEST))
    old = draw.draw(st.integers(1, new - 1))
    data = entries(new)
    older, newer = tree_hash(data[:old]), tree_hash(data)
    proof = consistency_proof(hashes(data), old)
    changed_at = draw.draw(st.integers(0, old - 1))
    forked = [*data]
    forked[changed_at] = b"another"

    wrong = [
        (old, new, tree_hash(forked[:old]), newer, proof),
        (old, new, older, tree_hash(forked), proof),
        (old, new, older, tree_hash(forked), consistency_proof(hashes(forked), old)),
        (old, new, older, newer, (*proof, bytes(32))),
        (old, new, older, newer, proof[:-1]),
        (new, old, newer, older, proof),
        (0, new, EMPTY_ROOT, newer, proof),
        (old, old, older, flipped(older), ()),
    ]
    place = draw.draw(st.integers(0, len(proof) - 1))
    wrong.append(
        (old, new, older, newer, (*proof[:place], flipped(proof[place]), *proof[place + 1 :]))
    )
    for claim in wrong:
        with pytest.raises(ProofError):
            verify_consistency(*claim)


@pytest.mark.parametrize("index", [-1, 3, 99])
def test_what_is_not_there_has_no_proof(index: int) -> None:
    """Neither an entry nor an older tree."""
    with pytest.raises(ProofError):
        inclusion_proof(hashes(entries(3)), index)
    with pytest.raises(ProofError):
        consistency_proof(hashes(entries(3)), 0 if index < 0 else index + 1)
