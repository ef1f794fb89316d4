"""Each field that leaves a gateway free of charge was decided on, and this list says why.

A field that is added to a status, a gap record or a ledger entry fails here until somebody
writes down why no record's content can show in it. A record that stands in another one is
held against the list, too.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator

from contracts_world import World

from fedge.privacy import entries
from fedge.records import AuditBatch, GapRecord, GatewayStatus, Record
from fedge.records.audit import AuditHead
from fedge_client.agent.egress import PUBLIC_FACTS

VERSION = "of the record's form, a constant"
OWN_COUNT = "counts envelopes by what became of them on their way, whatever they hold"
PARAMETER = "a parameter that was fixed before any record came"
ENTRY = {
    "schema_version": VERSION,
    "kind": "names the record's type",
    "seq": "counts entries, and each of them is public",
    "previous": "a hash of the entry before, which is public",
    "at": "time of a public event",
    "simulated": "a setting",
}

WHY_PUBLIC: dict[str, dict[str, str]] = {
    "GatewayStatus": {
        "release": "a release's number, which came from the centre",
        "release_sha256": "a release's hash, which came from the centre",
        "variant": "chosen by hardware and golden vectors, never by records",
        "slot": "where the release lies",
        "hardware": "of the machine",
        "install_state": "of an installation, which no record moves",
        "refused_release": "a release's number, which came from the centre",
        "refused_reason": "verification, golden vectors or a start that failed: no record's doing",
        "next_slot": "number of requests' rows: declared as not protected",
        "windows": "windows close by slots or by the clock",
        "dropped_observations": "load: thinned by arrival slot alone",
        "dropped_labels": "always 0: label counts stay; kept for statuses of earlier versions",
        "withheld_windows": "windows whose release is no longer installed",
        "lost_records": "damage of the ring, whatever lay there",
        "refused_envelopes": OWN_COUNT,
        "spool_depth": OWN_COUNT,
        "spool_dropped": OWN_COUNT,
        "spool_gaps": OWN_COUNT,
        "spool_corrupt": OWN_COUNT,
        "worker_restarts": "crashes: declared as not protected",
        "blocks": "sums of ledger entries",
        "ledger_entries": "counts entries, and each of them is public",
        "ledger_standing": "what the centre confirmed of the ledger, in a fixed word",
        "at": "time of the status",
    },
    "BlockSpending": {
        "block": "numbered by slots or by the clock",
        "cap_nano": PARAMETER,
        "telemetry_nano": PARAMETER,
        "training_nano": "sums of charges, which are taken in full whatever the block holds",
        "epsilon": "computed from the others",
    },
    "GapRecord": {
        "schema_version": VERSION,
        "kind": "of the envelopes that were given up",
        "count": OWN_COUNT,
        "first_seq": "a number that the spool gave out",
        "last_seq": "a number that the spool gave out",
        "first_at": "when an envelope was put into the spool: windows and timers decide",
        "last_at": "when an envelope was put into the spool: windows and timers decide",
    },
    "AuditHead": {
        "schema_version": VERSION,
        "first_seq": "a ledger entry's number",
        "entries": "counts entries, and each of them is public",
        "head": "what the gateway signs about its entries, which are public",
    },
    "SignedHead": {
        "schema_version": VERSION,
        "gateway": "the name under which it was admitted",
        "size": "counts entries, and each of them is public",
        "root": "a hash of entries, and each of them is public",
        "at": "when the entries were handed over",
        "simulated": "a setting",
        "signature": "over the fields above, which are public",
    },
    "Created": {
        **ENTRY,
        "gateway": "the name under which it was admitted",
        "public_key": "the key under which it was admitted",
    },
    "Adopted": {
        **ENTRY,
        "policy": "the owner's, whatever records come",
        "approval": "who allowed the policy, and why",
    },
    "PolicyApproval": {
        "schema_version": VERSION,
        "policy_sha256": "a hash of the policy, which is public",
        "reviewer": "who allowed the policy: a person's name, meant to be read",
        "reason": "why the policy was allowed, meant to be read",
        "at": "when the policy was allowed",
        "public_key": "the reviewer's",
        "signature": "over the fields above, which are public",
    },
    "Recovered": {
        **ENTRY,
        "through_block": "numbered by slots or by the clock",
        "witnessed_size": "counts entries, and each of them is public",
        "witnessed_root": "a hash of entries, and each of them is public",
        "reason": "how the state that came back differs from what the centre confirmed",
    },
    "Opened": {
        **ENTRY,
        "block": "numbered by slots or by the clock",
        "policy": "the owner's, fixed before the block's first record",
    },
    "WindowReserved": {
        **ENTRY,
        "reservation": "counts reservations",
        "window": "windows close by slots or by the clock",
        "block": "numbered by slots or by the clock",
        "purpose": "names the planned release",
        "events": "the planned noise: each window has the same releases, sent even if empty",
    },
    "RunReserved": {
        **ENTRY,
        "reservation": "counts reservations",
        "run_id": "came from the centre",
        "blocks": "those of the windows that the centre named",
        "events": "the planned noise, also where no record has a label",
        "purposes": "names the planned releases",
        "task": "came from the centre",
        "base_release": "a release's number, which came from the centre",
        "base_sha256": "a release's hash, which came from the centre",
    },
    "Settled": {
        **ENTRY,
        "reservation": "counts reservations",
        "key": "names a part of the plan",
        "event": "the planned noise",
        "artefact_sha256": "a hash of bytes that were noised and charged",
        "noise": "where its randomness comes from",
    },
    "Lost": {
        **ENTRY,
        "reservation": "counts reservations",
        "key": "names a part of the plan",
        "event": "the planned noise; that a process ended before it was stored is a crash's time",
    },
    "Excluded": {
        **ENTRY,
        "block": "numbered by slots or by the clock",
        "what": "what a setting and the task's purposes switch on",
    },
    "Erased": {
        **ENTRY,
        "records": "record ids in the request, found or not; 0 where no ids were named",
        "reason": "what was asked for, or which rule",
    },
    "PrivacyPolicy": {
        "schema_version": VERSION,
        "epsilon": PARAMETER,
        "delta": PARAMETER,
        "alpha": PARAMETER,
        "telemetry_rho": PARAMETER,
        "window_rho": PARAMETER,
        "block": PARAMETER,
        "unit": PARAMETER,
        "adjacency": PARAMETER,
        "max_records": PARAMETER,
        "quotas": PARAMETER,
        "public": PARAMETER,
    },
    "Quota": {"purpose": PARAMETER, "task": PARAMETER, "share": PARAMETER},
    "BlockLength": {"kind": PARAMETER, "value": PARAMETER},
    "DiscreteGaussianEvent": {
        "kind": PARAMETER,
        "sensitivity2": PARAMETER,
        "sigma2": PARAMETER,
        "count": PARAMETER,
        "dimension": PARAMETER,
    },
    "PoissonGaussianEvent": {
        "kind": PARAMETER,
        "rate_ppm": PARAMETER,
        "sensitivity2": PARAMETER,
        "sigma2": PARAMETER,
        "count": PARAMETER,
        "dimension": PARAMETER,
    },
}

ENTRY_TYPES: tuple[type[Record], ...] = typing.get_args(typing.get_args(entries.AnyEntry)[0])
FREE: tuple[type[Record], ...] = (*PUBLIC_FACTS, GapRecord, AuditHead, *ENTRY_TYPES)


def records_within(kinds: typing.Iterable[typing.Any]) -> Iterator[type[Record]]:
    """Record types, and those of which their fields are made."""
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Record):
            yield kind
            yield from records_within(field.annotation for field in kind.model_fields.values())
        else:
            yield from records_within(typing.get_args(kind))


def test_each_free_field_was_decided_on() -> None:
    """Neither a field nor a record type is free of charge without a reason in the list."""
    found = {kind.__name__: set(kind.model_fields) for kind in records_within(FREE)}
    assert found == {name: set(fields) for name, fields in WHY_PUBLIC.items()}
    assert all(len(why) > 8 for fields in WHY_PUBLIC.values() for why in fields.values())


def test_the_list_knows_every_kind_of_entry() -> None:
    """A ledger writes these and no others."""
    assert {kind.__name__ for kind in ENTRY_TYPES} == {
        *("Created", "Adopted", "Opened", "WindowReserved", "RunReserved", "Settled"),
        *("Lost", "Excluded", "Erased", "Recovered"),
    }


def test_what_left_free_holds_these_fields_and_no_others(world: World) -> None:
    """Of a played gateway that was given labels; how many came is in no status."""
    statuses = [e.payload for e in world.envelopes() if e.header.kind == "status"]
    batches = [e.payload for e in world.envelopes() if e.header.kind == "audit"]
    assert statuses and batches
    for payload in statuses:
        status = GatewayStatus.from_bytes(payload)
        assert set(status.model_dump()) == set(WHY_PUBLIC["GatewayStatus"])
        assert status.dropped_labels == 0
    for payload in batches:
        for data in AuditBatch.from_bytes(payload).entries:
            entry = entries.read_entry(data)
            assert set(entry.model_dump()) == set(WHY_PUBLIC[type(entry).__name__])
