"""Takes a bundle apart and puts it together again, signed with whatever keys a forger holds."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fakes.honest_bundle import BEGAN, CENTRE, OTHER, OWN

from fedge.identity import MAGIC, Identity
from fedge.privacy.heads import sign_head, witness_head
from fedge.privacy.merkle import leaf_hash, tree_hash
from fedge.records import SignedHead, canonical, sha256_hex

Entry = dict[str, Any]
STANDING = "evidence/standing.json"
_KEYS = {who.fingerprint: who for who in (OWN, OTHER)}


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of the form that a bundle has."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, files[name])
    return stream.getvalue()


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class Forger:
    """A bundle whose files may be changed; `data` is then the bundle again, signed.

    Args:
        gateway: whose ledger the shortcuts are about.
    """

    def __init__(self, path: Path, gateway: Identity = OWN) -> None:
        self.files = unzipped(path.read_bytes())
        self.identity, self.folder = gateway, f"gateways/{gateway.fingerprint}"

    # --- lines ------------------------------------------------------------------------

    def read(self, name: str) -> list[Any]:
        return [json.loads(line) for line in self.files[name].splitlines()]

    def write(self, name: str, values: list[Any]) -> None:
        self.files[name] = b"".join(canonical(value) + b"\n" for value in values)

    def own(self, name: str) -> str:
        return f"{self.folder}/{name}.jsonl"

    def change(self, name: str, change: Callable[[list[Any]], None]) -> None:
        values = self.read(name)
        change(values)
        self.write(name, values)

    @property
    def entries(self) -> list[Entry]:
        return self.read(self.own("entries"))

    def find(self, kind: str, number: int = 0, **fields: object) -> int:
        """The number of the entry of a kind with these fields; the last with number -1."""
        found = [
            seq
            for seq, entry in enumerate(self.entries)
            if entry["kind"] == kind and all(entry[key] == one for key, one in fields.items())
        ]
        return found[number]

    # --- signing again ----------------------------------------------------------------

    def put_entries(self, entries: list[Entry], *, chain: bool = True) -> None:
        """Write entries, each chained to the one before unless told otherwise."""
        previous = "0" * 64
        if chain:
            for seq, entry in enumerate(entries):
                entry["seq"], entry["previous"] = seq, previous
                previous = leaf_hash(canonical(entry)).hex()
        self.write(self.own("entries"), entries)

    def change_entries(
        self, change: Callable[[list[Entry]], None], *, confirmed: bool = True
    ) -> None:
        """Change entries, chain them again and sign heads again with the gateway's own key.

        Args:
            confirmed: the coordinator's key confirms the new heads, too; else its old ones stay.
        """
        entries = self.entries
        before = len(entries)
        change(entries)
        self.put_entries(entries)
        sizes = {min(head["size"], len(entries)) for head in self.read(self.own("heads"))}
        sizes = {len(entries) if size == before else size for size in sizes} | {len(entries)}
        self.sign_heads(sorted(sizes), confirmed=confirmed)
        if confirmed:
            self.know(self.identity.fingerprint, entries=len(entries), witnessed=len(entries))

    def know(self, gateway: str, **fields: object) -> None:
        """Change what the coordinator says that it knows of a ledger, where it says anything."""
        if STANDING not in self.files:
            return
        standing = json.loads(self.files[STANDING])
        next(one for one in standing["gateways"] if one["gateway"] == gateway).update(fields)
        self.files[STANDING] = canonical(standing)

    def sign_heads(self, sizes: list[int], *, confirmed: bool) -> None:
        lines = self.files[self.own("entries")].splitlines()
        simulated = bool(self.entries[0].get("simulated"))
        heads = [
            sign_head(self.identity, n, tree_hash(lines[:n]).hex(), BEGAN + n, simulated=simulated)
            for n in sizes
        ]
        self.write(self.own("heads"), [json.loads(head.to_bytes()) for head in heads])
        if confirmed:
            self.confirm(heads, CENTRE)

    def confirm(self, heads: list[SignedHead], witness: Identity) -> None:
        confirmed = [witness_head(witness, head, head.at) for head in heads]
        self.write(self.own("witnessed"), [json.loads(one.to_bytes()) for one in confirmed])

    def sign_artefact(self, artefact: dict[str, Any]) -> None:
        header = artefact["header"]
        for name in ("kind", "seq", "payload_sha256"):
            header[name] = artefact[name]
        artefact["signature"] = self.identity.sign(MAGIC + canonical(header)).hex()

    # --- the bundle -------------------------------------------------------------------

    def data(self, *, exporter: Identity = CENTRE, **index: object) -> bytes:
        """The bundle, with its hashes and its exporter's signature made again."""
        known = json.loads(self.files.pop("bundle.json"))
        self.files.pop("bundle.sig")
        files = {name: data for name, data in self.files.items() if data}
        known |= {"files": {name: sha256_hex(data) for name, data in files.items()}}
        known |= {"exporter_key": exporter.public_key.hex(), **index}
        text = canonical(known)
        signature = {
            "public_key": exporter.public_key.hex(),
            "signature": exporter.sign(b"fedge bundle 1\n" + text).hex(),
        }
        return zipped({**files, "bundle.json": text, "bundle.sig": canonical(signature)})
