"""The part of a report about what it rests on: signatures over the ledgers, and whose they are."""

from __future__ import annotations

from fedge.review.report import words
from fedge.review.report.document import Block, Grid, Paragraph, Section, cut
from fedge.review.report.model import ComplianceReport

MOST_ROWS = 80


def integrity_section(report: ComplianceReport) -> Section:
    """How far signatures reach, and what is missing."""
    rows = tuple(
        (
            one.name,
            f"{one.entries:,}",
            f"{one.signed:,}",
            f"{one.witnessed:,} ({words.when(one.witnessed_at)})" if one.witnessed else "none",
            f"{one.linked} of {one.settled}",
            one.root[:16],
            "not said" if one.lag is None else one.lag or "nothing",
        )
        for one in report.integrity
    )
    marked = frozenset(
        place
        for place, one in enumerate(report.integrity)
        if one.lag or one.witnessed < one.entries
    )
    heads = (
        *("gateway", "entries", "signed by it", "countersigned (UTC)", "releases linked"),
        *("root (start)", "missing, as the exporter says"),
    )
    text = (
        "Each ledger is a chain of hashes under the gateway's own signature; the coordinator "
        "countersigns it as it grows. A ledger with a changed or exchanged entry is rejected, and "
        "so is one that is shorter than a signed head of it in this same bundle says; one that is "
        "shorter than the coordinator's own account in this bundle, or whose last head is much "
        "older than the bundle, leaves the guarantee unproven. What nothing "
        "in a bundle can show is that it is an old one, whole in itself: it was true when it was "
        "countersigned, and says nothing about what came later. So look at the time of the last "
        "countersignature, and ask for a newer bundle if that is long ago. Entries that are not "
        "countersigned yet rest on the gateway's word. Releases linked: sent payloads whose signed "
        "hash in this bundle is the one in the ledger."
    )
    blocks: list[Block] = [Paragraph(text)]
    if rows:
        shown, hidden = cut(rows, MOST_ROWS)
        widths = (2, 1.1, 1.3, 2.6, 1.5, 2, 3)
        blocks.append(Grid(heads, shown, marked=marked, widths=widths, hidden=hidden))
    return Section("Integrity of the ledgers", "integrity", tuple(blocks))


def key_section(report: ComplianceReport) -> Section:
    """All keys in full, and which of them still have to be compared."""
    text = (
        "Anybody can make a bundle that holds together under keys of their own. The verdict is "
        "worth as much as the certainty that these are the keys of those who are named. A key that "
        "was given from outside was compared by the verifier. One that was taken from the bundle "
        "is to be compared by hand, digit by digit, with what its owner says: the coordinator's is "
        "shown by 'fedge server witness' on its host, a gateway's is known to whoever admitted it, "
        "a reviewer's to the reviewer."
    )
    rows = tuple(
        (
            f"{one.kind}: {one.name}",
            one.fingerprint,
            one.public_key,
            "yes" if one.given else "NO: compare it",
        )
        for one in report.keys
    )
    shown, hidden = cut(rows, MOST_ROWS)
    marked = frozenset(place for place, one in enumerate(report.keys) if not one.given)
    heads = ("whose", "fingerprint", "public key (Ed25519)", "given from outside")
    grid = Grid(heads, shown, marked=marked, widths=(1.9, 3.1, 3.7, 1.3), hidden=hidden)
    return Section("Keys to compare", "keys", (Paragraph(text), grid))
