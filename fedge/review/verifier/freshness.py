"""As of when a bundle speaks, and whether its times and the exporter's own words agree.

No bundle can show what was charged after its last confirmation: a ledger that was cut off at an
older confirmed head looks like one that was young then. So the verdict says as of when it holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedge.review.verifier.clocks import DAY, date, odd_clock
from fedge.review.verifier.form import moment
from fedge.review.verifier.heads import Heads
from fedge.review.verifier.replay import Replay
from fedge.review.verifier.verdict import Finding
from fedge.review.verifier.words import counted

STALE_S = 3 * DAY
"""A gateway reports each window and notes each charge: silence for longer is noted, unless three
of its blocks are longer still."""
LONGEST_S = 30 * DAY
SKEW_S = 3600.0
"""By which the clocks of an exporter and of a witness may differ."""


def earliest(moments: Sequence[float | None]) -> float | None:
    """The smallest, if all are known."""
    known = [one for one in moments if one is not None]
    return min(known) if known and len(known) == len(moments) else None


def check_times(replay: Replay, heads: Heads, made_at: float) -> list[Finding]:
    """Findings about the times of a ledger's heads and of the export."""
    gateway, since, findings = heads.gateway, heads.as_of, []
    if heads.ahead_s > DAY:
        what = "it signed a head days after that head was confirmed"
        findings.append(odd_clock(gateway, what, unproven=replay.numbering.pace.needed > 0))
    findings += _check_pace(replay, heads)
    if since is None:
        return findings
    if not all(at is None or moment(at) for at in (heads.signed_at, heads.witnessed_at)):
        what = "its last head bears no time between 1970 and 2200"
        findings.append(odd_clock(gateway, what))
    if since > made_at + SKEW_S:
        what = f"the bundle is of {date(made_at)}, its last head of {date(since)}: a clock is wrong"
        findings.append(odd_clock(gateway, what))
    if made_at > since + _patience(replay):
        findings.append(
            Finding(
                kind="stale",
                what=f"the bundle is of {date(made_at)}, its last head of {date(since)}: what was "
                "charged in between is not in it",
                gateway=gateway,
                unproven=True,
            )
        )
    return findings


def _check_pace(replay: Replay, heads: Heads) -> list[Finding]:
    """Whether blocks of so many seconds fit into the time until the last head.

    Entries are written before it is signed, by the same clock: what they say beyond is no time.
    """
    needed, signed_at = replay.numbering.pace.needed, heads.signed_at
    if not needed or signed_at is None or needed <= signed_at - replay.times.earliest + DAY:
        return []
    what = "it opened more blocks than there was time for until it signed its last head"
    return [Finding(kind="short-block", what=what, gateway=heads.gateway, unproven=True)]


def _patience(replay: Replay) -> float:
    policy = replay.adoptions.policy
    length = policy.values["block"] if policy else {"kind": "windows"}
    if length["kind"] != "seconds":
        return STALE_S
    return float(max(STALE_S, min(3 * length["value"], LONGEST_S)))


def coverage(heads: Heads, entries: int) -> list[Finding]:
    """Entries that nobody signed or confirmed, or nobody who is named: whoever made the bundle may
    have made them."""
    found = []
    if heads.witness_key is None and heads.witnesses:
        keys = counted(len(heads.witnesses), "key")
        found.append(
            Finding(
                kind="unnamed-witness",
                what=f"it was confirmed under {keys} that neither the bundle nor the caller names",
                gateway=heads.gateway,
                unproven=True,
            )
        )
    for kind, size, what in (
        ("unsigned-entries", heads.signed_size, "under no head that the gateway signed"),
        ("unwitnessed-entries", heads.witnessed_size, "not confirmed by a witness"),
    ):
        if size < entries:
            found.append(
                Finding(
                    kind=kind,
                    what=f"the last of its entries, {entries - size} of {entries}: {what}",
                    gateway=heads.gateway,
                    entry=size,
                    unproven=True,
                )
            )
    return found
