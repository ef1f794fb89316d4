"""A bundle is judged as the bytes that it is: nothing in the file may be other than it must be."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.forger import Forger, unzipped, zipped
from fakes.honest_bundle import CENTRE, OTHER, OWN, STRANGER, write_honest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.privacy.replay import replay
from fedge.records import canonical
from fedge.review.bundle import read_bundle
from fedge.review.verifier import UnreadableBundleError, Verdict, verify_bundle


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_honest(tmp_path_factory.mktemp("honest"))


def judged(honest: Path, data: bytes) -> Verdict:
    path = honest.with_name("forged.zip")
    path.write_bytes(data)
    return verify_bundle(path)


def packed(files: dict[str, bytes], **changes: object) -> bytes:
    """A zip by Python's own writer, with whatever it may do otherwise than a bundle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **changes) as archive:  # type: ignore[call-overload]
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), files[name])
    return stream.getvalue()


def twice(data: bytes) -> bytes:
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("bundle.json", b"{}")
    return stream.getvalue()


def bomb(data: bytes) -> bytes:
    """Ten million zeros in a few kilobytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted((unzipped(data) | {"runs.jsonl": bytes(10**7)}).items()):
            archive.writestr(name, content)
    return stream.getvalue()


def lying(data: bytes) -> bytes:
    """A member that claims to be four gigabytes."""
    return data[:18] + b"\xff\xff\xff\xff" + data[22:]


FILES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "no zip": lambda data: b"a text",
    "half of it": lambda data: data[: len(data) // 2],
    "all but a byte": lambda data: data[:-1],
    "a byte more": lambda data: data + b"\0",
    "something before it": lambda data: b"#!/bin/sh\n" + data,
    "two of them": lambda data: data + data,
    "a comment": lambda data: data[:-2] + b"\x03\x00abc",
    "a file more": lambda data: zipped(unzipped(data) | {"extra.txt": b"x"}),
    "a way out": lambda data: zipped(unzipped(data) | {"../../etc/passwd": b"x"}),
    "an absolute name": lambda data: zipped(unzipped(data) | {"/etc/passwd": b"x"}),
    "a name twice": twice,
    "a bomb": bomb,
    "a length that lies": lying,
    "other times": lambda data: packed(unzipped(data)),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_form_is_refused(honest: Path, name: str) -> None:
    """Without unpacking anything that is larger than the file itself."""
    verdict = judged(honest, FILES[name](honest.read_bytes()))

    assert [deviation.kind for deviation in verdict.deviations] == ["archive"]
    assert verdict.facts is None and not verdict.accepted


def unsigned(honest: Path, name: str, data: bytes | None) -> bytes:
    """The bundle with one file changed or left out, its index as it was."""
    files = unzipped(honest.read_bytes())
    files.pop(name, None)
    return zipped(files if data is None else files | {name: data})


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("runs.jsonl", None, "files"),
        ("runs.jsonl", b"{}\n", "files"),
        ("evidence/more.json", b"{}", "files"),
        (f"gateways/{STRANGER.fingerprint}/entries.jsonl", b"", "files"),
        ("bundle.json", None, "files"),
        ("bundle.sig", None, "files"),
        ("bundle.json", b"{}", "form"),
        ("bundle.sig", b"{}", "form"),
    ],
)
def test_a_file_that_the_index_does_not_sign_is_refused(
    honest: Path, name: str, data: bytes | None, kind: str
) -> None:
    verdict = judged(honest, unsigned(honest, name, data))

    assert [deviation.kind for deviation in verdict.deviations] == [kind]


def other_exporter(honest: Path) -> bytes:
    return Forger(honest).data(exporter=STRANGER)


def other_name(honest: Path) -> bytes:
    """Signed by one key, naming another."""
    files = unzipped(Forger(honest).data(exporter=STRANGER))
    index = json.loads(files["bundle.json"]) | {"exporter_key": CENTRE.public_key.hex()}
    return zipped(files | {"bundle.json": canonical(index)})


def unsigned_index(honest: Path) -> bytes:
    files = unzipped(honest.read_bytes())
    index = json.loads(files["bundle.json"]) | {"made_at": 1.0}
    return zipped(files | {"bundle.json": canonical(index)})


def own_witness(honest: Path) -> bytes:
    """The forger names itself as witness and exports with that key."""
    return Forger(honest).data(exporter=STRANGER, witness_key=STRANGER.public_key.hex())


def gateways_of(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"gateway": name, "public_key": key, "name": "x"} for name, key in pairs]


def exchanged_keys(honest: Path) -> bytes:
    pairs = [
        (OWN.fingerprint, OTHER.public_key.hex()),
        (OTHER.fingerprint, OWN.public_key.hex()),
    ]
    return Forger(honest).data(gateways=gateways_of(*sorted(pairs)))


def one_gateway_less(honest: Path) -> bytes:
    return Forger(honest).data(gateways=gateways_of((OWN.fingerprint, OWN.public_key.hex())))


def a_gateway_more(honest: Path) -> bytes:
    keys = (OWN, OTHER, STRANGER)
    pairs = sorted((who.fingerprint, who.public_key.hex()) for who in keys)
    return Forger(honest).data(gateways=gateways_of(*pairs))


def a_later_schema(honest: Path) -> bytes:
    return Forger(honest).data(schema=2)


def simulated(honest: Path) -> bytes:
    return Forger(honest).data(simulated=True)


INDEXES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "another exporter": (other_exporter, "signature"),
    "another exporter's name": (other_name, "signature"),
    "no signature of its own": (unsigned_index, "signature"),
    "a witness of its own": (own_witness, "witness"),
    "exchanged keys": (exchanged_keys, "owner"),
    "a gateway less": (one_gateway_less, "files"),
    "a gateway more": (a_gateway_more, "truncated"),
    "a later schema": (a_later_schema, "form"),
    "a simulation": (simulated, "simulated"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_that_claims_something_else_is_refused(honest: Path, name: str) -> None:
    change, kind = INDEXES[name]

    verdict = judged(honest, change(honest))

    assert not verdict.accepted
    assert verdict.deviations[0].kind == kind


@settings(max_examples=150, deadline=None)
@given(where=st.data())
def test_any_flipped_bit_in_any_file_is_noticed(honest: Path, where: st.DataObject) -> None:
    """Where hashes and signatures were not made again, with a zip that is whole."""
    files = unzipped(honest.read_bytes())
    name = where.draw(st.sampled_from(sorted(files)))
    place = where.draw(st.integers(0, len(files[name]) - 1))
    data = bytearray(files[name])
    data[place] ^= 1 << where.draw(st.integers(0, 7))

    verdict = judged(honest, zipped(files | {name: bytes(data)}))

    assert not verdict.accepted and verdict.deviations


@settings(max_examples=150, deadline=None)
@given(where=st.data())
def test_any_flipped_bit_of_the_file_is_noticed(honest: Path, where: st.DataObject) -> None:
    """Names, times and the zip's own directory included."""
    data = bytearray(honest.read_bytes())
    data[where.draw(st.integers(0, len(data) - 1))] ^= 1 << where.draw(st.integers(0, 7))

    assert not judged(honest, bytes(data)).accepted


odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "x", "ab" * 32, "ab" * 16, "\ud7ff\n", "run", "os", "opened", "policy"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["kind", "x"]), st.integers(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value something could be put instead."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@settings(max_examples=200, deadline=None)
@given(where=st.data())
def test_any_value_anywhere_gets_an_answer(honest: Path, where: st.DataObject) -> None:
    """Signed by everybody: accepted or refused, never an exception, never more than a cap."""
    forger = Forger(honest)
    name = where.draw(st.sampled_from(sorted(n for n in forger.files if n.endswith(".jsonl"))))
    lines = forger.read(name)
    line = where.draw(st.sampled_from(lines))
    *path, last = where.draw(st.sampled_from(list(places(line))))
    inner = line
    for key in path:
        inner = inner[key]
    inner[last] = where.draw(odd)
    if name == forger.own("entries"):
        forger.put_entries(lines)
        forger.sign_heads([len(lines)], confirmed=True)
    else:
        forger.write(name, lines)

    verdict = judged(honest, forger.data())

    assert json.dumps(verdict.to_json())
    if verdict.accepted:
        assert verdict.facts is not None
        blocks = [block for one in verdict.facts.gateways for block in one.blocks]
        assert all(0 <= block.spent_nano <= block.cap_nano for block in blocks)
        bundle = read_bundle(
            honest.with_name("forged.zip")
        )  # what is accepted, the report can be written of
        for one in bundle.source.gateways:
            replay(one.entries)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_get_an_answer(honest: Path, data: bytes) -> None:
    """Never an exception, never acceptance."""
    assert not judged(honest, b"PK\x03\x04" + data).accepted


def test_there_must_be_a_file(tmp_path: Path) -> None:
    """Nothing to judge is not the same as a bundle that is refused."""
    with pytest.raises(UnreadableBundleError):
        verify_bundle(tmp_path / "none.zip")
    with pytest.raises(UnreadableBundleError):
        verify_bundle(tmp_path)


@pytest.mark.parametrize("key", ["", "zz" * 32, "AB" * 32, "ab" * 31])
def test_a_key_that_is_none_is_wrong_use(honest: Path, key: str) -> None:
    """It must not pass for "no key was given"."""
    with pytest.raises(ValueError):
        verify_bundle(honest, witness_key=key)
    with pytest.raises(ValueError):
        verify_bundle(honest, gateway_keys=[key])
