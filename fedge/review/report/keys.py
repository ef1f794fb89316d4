"""Which keys a verdict rests on, so that a reader can compare them with what they know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedge.identity import fingerprint
from fedge.review.report import words
from fedge.review.report.model import Key, KeyKind, PolicyChange
from fedge.review.verifier import Facts, Verdict


def unpinned_kinds(verdict: Verdict) -> tuple[KeyKind, ...]:
    """Kinds of keys that nobody gave from outside; all of them where that cannot be told."""
    if verdict.pinned:
        return ()
    said = [finding.what for finding in verdict.findings if finding.kind == "unpinned"]
    found = tuple(
        kind
        for kind, whose in words.WHOSE_KEYS.items()
        if any(what.startswith(whose.removesuffix(" key").removesuffix(" keys")) for what in said)
    )
    return found if len(found) == len(said) and found else tuple(words.WHOSE_KEYS)


def key_lines(
    facts: Facts | None,
    policies: Iterable[PolicyChange],
    unpinned: Iterable[KeyKind],
    names: Mapping[str, str],
) -> tuple[Key, ...]:
    """Every key that a signature in the bundle was checked with: witness, reviewers, gateways.

    Args:
        names: what each gateway is called, by fingerprint.
    """
    if facts is None:
        return ()
    named: dict[tuple[KeyKind, str], str] = {}
    if facts.witness_key is not None:
        named["witness", facts.witness_key] = "the coordinator, which countersigns"
    for change in policies:
        if change.reviewer_key:
            named["reviewer", change.reviewer_key] = change.reviewer
    for one in facts.gateways:
        named["gateway", one.public_key] = names[one.gateway]
    missing, order = set(unpinned), tuple(words.WHOSE_KEYS)
    return tuple(
        Key(
            kind=kind,
            name=name,
            fingerprint=fingerprint(bytes.fromhex(key)),
            public_key=key,
            given=kind not in missing,
        )
        for (kind, key), name in sorted(
            named.items(), key=lambda item: (order.index(item[0][0]), item[1], item[0][1])
        )
    )
