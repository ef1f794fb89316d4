"""A replayed ledger as facts for a reader."""

from __future__ import annotations

from collections.abc import Mapping

from fedge.review.verifier import prices
from fedge.review.verifier.accounts import Account
from fedge.review.verifier.heads import Heads
from fedge.review.verifier.replay import Replay
from fedge.review.verifier.reserved import Reserved
from fedge.review.verifier.tree import roots
from fedge.review.verifier.verdict import BlockFacts, Charge, GatewayFacts


def gateway_facts(about: Mapping[str, str], replay: Replay, heads: Heads) -> GatewayFacts:
    """What is known of one gateway, as far as its ledger could be replayed."""
    size, approval = len(replay.hashes), replay.adoptions.approval
    policy = replay.adoptions.policy
    return GatewayFacts(
        gateway=about["gateway"],
        public_key=about["public_key"],
        name=about["name"],
        entries=size,
        root=roots(replay.hashes, [size])[size],
        signed_size=heads.signed_size,
        witnessed_size=heads.witnessed_size,
        witnessed_at=heads.witnessed_at,
        policy=policy.values if policy else None,
        reviewer=approval["reviewer"] if approval else None,
        reviewer_key=approval["public_key"] if approval else None,
        erasures=replay.erasures,
        blocks=tuple(
            _block(replay, block, account) for block, account in sorted(replay.accounts.items())
        ),
        charges=tuple(_charge(reserved) for reserved in replay.book.reservations.values()),
        as_of=heads.as_of,
    )


def _block(replay: Replay, block: int, account: Account) -> BlockFacts:
    policy, recovered = account.policy, block <= replay.recovered_through
    cap = max(account.cap_nano, account.spent_nano)
    # What a lost state had spent is unknown; it obeyed the cap, so all of it counts.
    spent = cap if recovered else account.spent_nano
    return BlockFacts(
        block=block,
        policy_sha256=policy.sha256,
        unit=policy.unit,
        max_records=policy.max_records,
        adjacency="zero-out",
        alpha=policy.alpha,
        delta=policy.delta,
        epsilon_cap=account.epsilon,
        cap_nano=cap,
        telemetry_nano=policy.telemetry_nano,
        training_nano=account.training_nano,
        window_nano=max(account.window_nano.values(), default=0),
        spent_nano=spent,
        remaining_nano=cap - spent,
        epsilon=prices.epsilon_of(spent, policy.delta, policy.alpha),
        windows=account.windows,
        runs=account.runs,
        recovered=recovered,
        excluded=tuple(sorted(replay.excluded.get(block, ()))),
    )


def _charge(reserved: Reserved) -> Charge:
    entry = reserved.entry
    about = f"run {entry['run_id']}" if reserved.is_run else f"window {entry['window']}"
    return Charge(
        entry=entry["seq"],
        at=entry["at"],
        reservation=entry["reservation"],
        kind=entry["kind"],
        about=about,
        task=entry.get("task", ""),
        purposes=reserved.purposes,
        nano=reserved.nano,
        events=tuple(entry["events"]),
        settled=len(reserved.released),
    )
