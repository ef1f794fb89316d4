"""Promises of the content store: whole, verified files or none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge.delivery.store import ContentStore
from fedge.errors import StateError, TamperedFileError
from fedge.records import ReleaseFile, sha256_hex


def described(data: bytes) -> ReleaseFile:
    return ReleaseFile(sha256=sha256_hex(data), length=len(data))


@given(chunks=st.lists(st.binary(max_size=64), max_size=8))
def test_pieces_become_the_file(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    """However a download is cut up, the stored file is its bytes."""
    store = ContentStore(tmp_path_factory.mktemp("store"))
    data = b"".join(chunks)

    store.add(chunks, described(data))

    assert store.read(sha256_hex(data)) == data


@given(
    data=st.binary(min_size=1, max_size=64), position=st.integers(0, 10**6), bit=st.integers(0, 7)
)
def test_any_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, position: int, bit: int
) -> None:
    """No single changed bit enters the store, nor is it read from a bad disk."""
    store = ContentStore(tmp_path_factory.mktemp("store"))
    changed = bytearray(data)
    changed[position % len(data)] ^= 1 << bit
    with pytest.raises(TamperedFileError):
        store.add([bytes(changed)], described(data))
    assert list(store.folder.iterdir()) == []

    store.add([data], described(data))
    (store.folder / sha256_hex(data)).write_bytes(bytes(changed))
    with pytest.raises(TamperedFileError):
        store.read(sha256_hex(data))
    assert not store.has(sha256_hex(data)), "a damaged file would never be fetched again"


def test_endless_download_is_cut(tmp_path: Path) -> None:
    """A server cannot fill the disk: one byte too many ends the download."""
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 10
            yield b"x" * 10

    with pytest.raises(TamperedFileError):
        ContentStore(tmp_path).add(endless(), described(b"x" * 25))  # type: ignore[arg-type]
    assert taken == 30


def test_full_disk_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is the gateway's trouble, not a reason to distrust the release."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = ContentStore(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space"):
        store.add([b"data"], described(b"data"))

    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_removed_and_the_rest_kept(tmp_path: Path) -> None:
    """What a killed download left goes at the next start; whole files stay until not wanted."""
    store = ContentStore(tmp_path)
    for data in (b"one", b"two"):
        store.add([data], described(data))
    (tmp_path / f"{sha256_hex(b'three')}.part").write_bytes(b"thr")

    store = ContentStore(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    store.keep_only([sha256_hex(b"two")])

    assert [p.name for p in tmp_path.iterdir()] == [sha256_hex(b"two")]
