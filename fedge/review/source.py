"""What a bundle holds about gateways, runs and releases: facts, each signed where it was made.

Nothing here is a verdict. Who exports decides only what to put in; whether it holds
together is the verifier's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fedge.identity import Artefact
from fedge.records import RunSpec, SignedHead, WitnessedHead

MadeBy = Literal["gateway", "coordinator"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayLedger:
    """One gateway's ledger as far as the exporter holds it.

    Attributes:
        gateway: fingerprint of its key.
        public_key: 64 hex digits.
        name: for people.
        entries: canonical bytes from the first entry on, without a gap.
        heads, witnessed: of these entries, none of a larger size.
        artefacts: the content-derived envelopes that the exporter holds.
    """

    gateway: str
    public_key: str
    name: str
    entries: tuple[bytes, ...]
    heads: tuple[SignedHead, ...] = ()
    witnessed: tuple[WitnessedHead, ...] = ()
    artefacts: tuple[Artefact, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFact:
    """A retraining as it was decided, and hashes of what came back.

    Attributes:
        adapter_sha256: of the summed adapter; None while there is none.
        update_sha256, counts_sha256: of the payloads of gateways' train and evaluation replies.
        release: counter of the release that it led to; None if to none.
    """

    spec: RunSpec
    adapter_sha256: str | None = None
    update_sha256: tuple[str, ...] = ()
    counts_sha256: tuple[str, ...] = ()
    release: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseFact:
    """A published release.

    Attributes:
        privacy: what its manifest says about privacy, such as `epsilon`.
    """

    counter: int
    family: str
    manifest_sha256: str
    run_id: str
    parent: int
    privacy: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleSource:
    """Everything that goes into a bundle.

    Attributes:
        witness_key: the coordinator's public key, 64 hex digits; None where there is none.
        evidence: what the exporter adds by itself, as JSON objects by name: measured accuracy,
            audits, lagging gateways, contacts. Shown as the exporter's word, never verified.
    """

    made_by: MadeBy
    simulated: bool
    witness_key: str | None
    gateways: tuple[GatewayLedger, ...]
    runs: tuple[RunFact, ...] = ()
    releases: tuple[ReleaseFact, ...] = ()
    evidence: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle that was read: what it holds, and who put it together when.

    Attributes:
        made_at: seconds since the epoch by the exporter's clock.
        fedge: version of the exporter.
        exporter_key: 64 hex digits; its signature over the bundle's index was checked.
        sha256: of the file.
    """

    made_at: float
    fedge: str
    exporter_key: str
    sha256: str
    source: BundleSource
