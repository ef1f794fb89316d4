"""A bundle is one file: the same facts give the same bytes, and every changed byte is noticed."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import pytest

from fedge.errors import BundleError, NonFiniteValueError, StateError
from fedge.identity import Artefact, Envelope, Identity
from fedge.records import SignedHead, WitnessedHead
from fedge.review.bundle import bundle_bytes, read_bundle, write_bundle
from fedge.review.source import BundleSource, GatewayLedger, ReleaseFact

OWN, OTHER = Identity.from_seed(b"\1" * 32), Identity.from_seed(b"\2" * 32)
CENTRE = Identity.from_seed(b"\3" * 32)


def head(identity: Identity, size: int) -> SignedHead:
    return SignedHead(
        gateway=identity.fingerprint, size=size, root="ab" * 32, at=float(size), signature="c" * 128
    )


def ledger(identity: Identity) -> GatewayLedger:
    envelope = Envelope.seal(identity, "report", 4, b"noised")
    return GatewayLedger(
        gateway=identity.fingerprint,
        public_key=identity.public_key.hex(),
        name="a gateway",
        entries=(b'{"seq":0}', b'{"seq":1}'),
        heads=(head(identity, 2), head(identity, 1)),
        witnessed=(
            WitnessedHead(
                head=head(identity, 1),
                at=9.0,
                witness=CENTRE.public_key.hex(),
                signature="d" * 128,
            ),
        ),
        artefacts=(Artefact.of(envelope, "push"),),
    )


def source(*identities: Identity) -> BundleSource:
    return BundleSource(
        made_by="coordinator",
        simulated=False,
        witness_key=CENTRE.public_key.hex(),
        gateways=tuple(map(ledger, identities)),
        releases=(
            ReleaseFact(
                counter=1,
                family="toy",
                manifest_sha256="ef" * 32,
                run_id="initial",
                parent=0,
                privacy={"epsilon": 0.0},
            ),
        ),
        evidence={"standing": {"gateways": []}},
    )


def written(folder: Path) -> Path:
    path = folder / "ledger-bundle.zip"
    write_bundle(path, source(OWN, OTHER), CENTRE, 12.5)
    return path


def rewritten(path: Path, name: str, data: bytes | None) -> Path:
    """The same zip with one file changed, added or (None) left out."""
    with zipfile.ZipFile(path) as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    files.pop(name, None)
    if data is not None:
        files[name] = data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for each, content in files.items():
            archive.writestr(each, content)
    return path


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    """Entries byte for byte, heads and artefacts in their order, and who exported when."""
    bundle = read_bundle(written(tmp_path))

    assert (bundle.made_at, bundle.exporter_key) == (12.5, CENTRE.public_key.hex())
    assert bundle.source.releases == source().releases
    assert bundle.source.evidence == source().evidence
    by_name = {one.gateway: one for one in bundle.source.gateways}
    assert list(by_name) == sorted(by_name)
    assert by_name[OWN.fingerprint].entries == ledger(OWN).entries
    assert by_name[OWN.fingerprint].heads == (head(OWN, 1), head(OWN, 2))
    assert by_name[OWN.fingerprint].artefacts == ledger(OWN).artefacts


def test_the_same_facts_give_the_same_bytes() -> None:
    """Whatever order gateways and heads were collected in: two exports can be compared."""
    assert bundle_bytes(source(OWN, OTHER), CENTRE, 1.0) == bundle_bytes(
        source(OTHER, OWN), CENTRE, 1.0
    )
    assert bundle_bytes(source(OWN), CENTRE, 1.0) != bundle_bytes(source(OWN), CENTRE, 2.0)


def test_a_bundle_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A moment that is no number writes nothing; nor does a folder that is missing."""
    with pytest.raises(NonFiniteValueError):
        write_bundle(tmp_path / "b.zip", source(OWN), CENTRE, math.nan)
    with pytest.raises(StateError):
        write_bundle(tmp_path / "none" / "b.zip", source(OWN), CENTRE, 1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "UP", "", "a b", "a/b"])
def test_evidence_has_plain_names(name: str) -> None:
    """A name becomes a path in the zip."""
    with pytest.raises(BundleError, match="evidence"):
        bundle_bytes(
            BundleSource(
                made_by="gateway",
                simulated=False,
                witness_key=None,
                gateways=(),
                evidence={name: {}},
            ),
            OWN,
            1.0,
        )


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    name = f"gateways/{OWN.fingerprint}/entries.jsonl"
    path = rewritten(written(tmp_path), name, b'{"seq":0}\n')

    with pytest.raises(BundleError, match=r"entries\.jsonl is not the file"):
        read_bundle(path)


@pytest.mark.parametrize(("name", "data"), [("extra.txt", b"x"), ("releases.jsonl", None)])
def test_a_file_more_or_less_is_refused(tmp_path: Path, name: str, data: bytes | None) -> None:
    path = rewritten(written(tmp_path), name, data)

    with pytest.raises(BundleError, match="files that its index names"):
        read_bundle(path)


def test_a_changed_index_is_refused(tmp_path: Path) -> None:
    """The signature is over the index, and the index over everything else."""
    path = written(tmp_path)
    with zipfile.ZipFile(path) as archive:
        index = archive.read("bundle.json")
    rewritten(path, "bundle.json", index.replace(b"12.5", b"13.5"))

    with pytest.raises(BundleError, match="signature"):
        read_bundle(path)


@pytest.mark.parametrize("kept", [0, 10, 500, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(BundleError):
        read_bundle(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.zip"):
        read_bundle(tmp_path / "none.zip")
