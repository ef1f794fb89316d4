"""One file for a reviewer: ledgers, heads and hashes, signed by whoever exported them.

A zip without compression, names sorted, times fixed: the same source, key and moment
give the same bytes. `bundle.json` names every other file with its hash, `bundle.sig`
signs it. Reading here checks form, hashes and that one signature; everything that
the contents claim is for `fedge.review.verifier`, which shares no code with this.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from fedge.durable import write_file
from fedge.errors import BundleError, NonFiniteValueError, RecordError, StateError
from fedge.identity import Artefact, Identity
from fedge.records import RunSpec, SignedHead, WitnessedHead, canonical, sha256_hex
from fedge.review.source import (
    Bundle,
    BundleSource,
    GatewayLedger,
    ReleaseFact,
    RunFact,
)

SIGNED = b"fedge bundle 1\n"
INDEX, SIGNATURE = "bundle.json", "bundle.sig"
MAX_BYTES = 96 * 2**20
MAX_LINES = 200_000
"""A larger bundle is neither written nor read: some 110,000 entries with heads and envelopes."""

_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_EVIDENCE = re.compile(r"[a-z0-9][a-z0-9\-]{0,63}")
_LEDGER_FILES = ("entries", "heads", "witnessed", "artefacts")
T = TypeVar("T")


# --- writing ----------------------------------------------------------------------------


def write_bundle(path: Path, source: BundleSource, exporter_identity: Identity, at: float) -> str:
    """Write a bundle in one step, over one that is there; answers the file's SHA-256.

    Args:
        exporter_identity: the gateway's own key, or the coordinator's witness key.
        at: when it is made, seconds since the epoch.

    Raises:
        StateError: the disk refused.
        NonFiniteValueError: `at` is not finite.
        BundleError: an entry holds a line break, evidence has a name that is no plain word, or it
            would be too large to be verified.
    """
    data = bundle_bytes(source, exporter_identity, at)
    try:
        write_file(path, data)
    except OSError as error:
        raise StateError(f"cannot write the bundle {path}: {error}") from error
    return sha256_hex(data)


def bundle_bytes(source: BundleSource, exporter_identity: Identity, at: float) -> bytes:
    """The bytes that `write_bundle` writes."""
    if not math.isfinite(at):
        raise NonFiniteValueError(f"the moment of export is {at}")
    files = _files(source)
    index = canonical(_index(source, exporter_identity, at, files))
    signature = canonical(
        {
            "public_key": exporter_identity.public_key.hex(),
            "signature": exporter_identity.sign(SIGNED + index).hex(),
        }
    )
    data = _zipped({**files, INDEX: index, SIGNATURE: signature})
    lines = sum(one.count(b"\n") for name, one in files.items() if name.endswith(".jsonl"))
    if len(data) > MAX_BYTES or lines > MAX_LINES:
        raise BundleError(
            f"the bundle would have {len(data)} bytes and {lines} lines; a verifier reads "
            f"{MAX_BYTES} and {MAX_LINES}: have gateways export their ledgers one by one"
        )
    return data


def _index(
    source: BundleSource, identity: Identity, at: float, files: Mapping[str, bytes]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "made_at": at,
        "made_by": source.made_by,
        "fedge": version("fedge"),
        "simulated": source.simulated,
        "exporter_key": identity.public_key.hex(),
        "witness_key": source.witness_key,
        "gateways": [
            {"gateway": g.gateway, "public_key": g.public_key, "name": g.name}
            for g in _by_fingerprint(source)
        ],
        "files": {name: sha256_hex(data) for name, data in files.items()},
    }


def _files(source: BundleSource) -> dict[str, bytes]:
    """Every file but the index and its signature; empty ones are left out."""
    files: dict[str, bytes] = {}
    for one in _by_fingerprint(source):
        heads = sorted(one.heads, key=lambda head: (head.size, head.at))
        witnessed = sorted(one.witnessed, key=lambda head: (head.head.size, head.at))
        lines: dict[str, Iterable[bytes]] = {
            "entries": one.entries,
            "heads": (head.to_bytes() for head in heads),
            "witnessed": (head.to_bytes() for head in witnessed),
            "artefacts": (each.to_bytes() for each in sorted(one.artefacts, key=_place)),
        }
        for name in _LEDGER_FILES:
            files[f"gateways/{one.gateway}/{name}.jsonl"] = _lines(lines[name])
    releases = sorted(source.releases, key=lambda r: (r.family, r.counter))
    files["runs.jsonl"] = _lines(map(_run_line, source.runs))
    files["releases.jsonl"] = _lines(map(_release_line, releases))
    for name, value in source.evidence.items():
        if not _EVIDENCE.fullmatch(name):
            raise BundleError(f"evidence is named {name!r}, not by letters, digits and hyphens")
        files[f"evidence/{name}.json"] = canonical(dict(value))
    return {name: data for name, data in files.items() if data}


def _by_fingerprint(source: BundleSource) -> list[GatewayLedger]:
    return sorted(source.gateways, key=lambda one: one.gateway)


def _place(artefact: Artefact) -> tuple[str, int, str]:
    return artefact.channel, artefact.seq, artefact.kind


def _lines(lines: Iterable[bytes]) -> bytes:
    found = list(lines)
    if any(b"\n" in line for line in found):
        raise BundleError("an entry holds a line break, so it is not in its canonical form")
    return b"".join(line + b"\n" for line in found)


def _run_line(run: RunFact) -> bytes:
    return canonical(
        {
            "run_id": run.spec.run_id,
            "spec": run.spec.model_dump(mode="json"),
            "adapter_sha256": run.adapter_sha256,
            "update_sha256": list(run.update_sha256),
            "counts_sha256": list(run.counts_sha256),
            "release": run.release,
        }
    )


def _release_line(release: ReleaseFact) -> bytes:
    return canonical(
        {
            "counter": release.counter,
            "family": release.family,
            "manifest_sha256": release.manifest_sha256,
            "run_id": release.run_id,
            "parent": release.parent,
            "privacy": dict(release.privacy),
        }
    )


def _zipped(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _TIME)
            info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
            archive.writestr(info, files[name])
    return stream.getvalue()


# --- reading ----------------------------------------------------------------------------


def read_bundle(path: Path) -> Bundle:
    """Read what `write_bundle` wrote.

    Raises:
        BundleError: it cannot be read, a file is missing, added or changed, the exporter's
            signature does not fit, or a line is no such record. Names the file.
    """
    data = _read(path)
    files = _unzipped(data)
    index = _json(files, INDEX)
    _check_signature(files, index)
    named = index.get("files")
    if not isinstance(named, dict) or set(named) != files.keys() - {INDEX, SIGNATURE}:
        raise BundleError("the bundle does not hold the files that its index names")
    for name, sha256 in named.items():
        if sha256_hex(files[name]) != sha256:
            raise BundleError(f"{name} is not the file that was signed")
    try:
        return _assembled(index, files, sha256_hex(data))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BundleError(f"the bundle's index or a line lacks something: {error!r}") from error


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BundleError(f"{path} is larger than {MAX_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read the bundle {path}: {error}") from error


def _unzipped(data: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > len(data):
                raise BundleError("the bundle is no whole zip file: its files lie in one another")
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.filename in files:
                    raise BundleError(f"{info.filename} is compressed or stands there twice")
                files[info.filename] = archive.read(info)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise BundleError(f"the bundle is no whole zip file: {error}") from error
    return files


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        value = json.loads(files[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise BundleError(f"the bundle has no readable {name}") from error
    if not isinstance(value, dict):
        raise BundleError(f"{name} is no JSON object")
    return value


def _check_signature(files: Mapping[str, bytes], index: Mapping[str, Any]) -> None:
    signature = _json(files, SIGNATURE)
    try:
        if signature["public_key"] != index["exporter_key"]:
            raise BundleError("the bundle is signed by another key than its index names")
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature["public_key"]))
        key.verify(bytes.fromhex(signature["signature"]), SIGNED + files[INDEX])
    except (InvalidSignature, KeyError, TypeError, ValueError) as error:
        raise BundleError("the exporter's signature does not fit the bundle") from error


def _assembled(index: Mapping[str, Any], files: Mapping[str, bytes], sha256: str) -> Bundle:
    if index["schema"] != 1:
        raise BundleError(f"the bundle has schema {index['schema']!r}, this fedge reads 1")
    source = BundleSource(
        made_by=index["made_by"],
        simulated=bool(index["simulated"]),
        witness_key=index["witness_key"],
        gateways=tuple(_ledger(files, one) for one in index["gateways"]),
        runs=tuple(map(_run, _split(files, "runs.jsonl"))),
        releases=tuple(map(_release, _split(files, "releases.jsonl"))),
        evidence={
            name.removeprefix("evidence/").removesuffix(".json"): _json(files, name)
            for name in sorted(files)
            if name.startswith("evidence/")
        },
    )
    return Bundle(
        made_at=float(index["made_at"]),
        fedge=str(index["fedge"]),
        exporter_key=str(index["exporter_key"]),
        sha256=sha256,
        source=source,
    )


def _ledger(files: Mapping[str, bytes], about: Mapping[str, str]) -> GatewayLedger:
    folder = f"gateways/{about['gateway']}"
    return GatewayLedger(
        gateway=about["gateway"],
        public_key=about["public_key"],
        name=about["name"],
        entries=_split(files, f"{folder}/entries.jsonl"),
        heads=_records(files, f"{folder}/heads.jsonl", SignedHead.from_bytes),
        witnessed=_records(files, f"{folder}/witnessed.jsonl", WitnessedHead.from_bytes),
        artefacts=_records(files, f"{folder}/artefacts.jsonl", Artefact.from_bytes),
    )


def _records(files: Mapping[str, bytes], name: str, reader: Callable[[bytes], T]) -> tuple[T, ...]:
    try:
        return tuple(map(reader, _split(files, name)))
    except (RecordError, ValidationError) as error:
        raise BundleError(f"{name}: {error}") from error


def _split(files: Mapping[str, bytes], name: str) -> tuple[bytes, ...]:
    data = files.get(name, b"")
    if data and not data.endswith(b"\n"):
        raise BundleError(f"{name} is truncated")
    return tuple(data.split(b"\n")[:-1])


def _run(line: bytes) -> RunFact:
    values = json.loads(line)
    return RunFact(
        spec=RunSpec.from_bytes(canonical(values["spec"])),
        adapter_sha256=values["adapter_sha256"],
        update_sha256=_strings(values["update_sha256"]),
        counts_sha256=_strings(values["counts_sha256"]),
        release=values["release"],
    )


def _release(line: bytes) -> ReleaseFact:
    return ReleaseFact(**json.loads(line))


def _strings(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
