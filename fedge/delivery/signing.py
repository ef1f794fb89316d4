"""How repository metadata is dated and signed: shared by everyone who holds a key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

Clock = Callable[[], float]
SignedT = TypeVar("SignedT", Root, Timestamp, Snapshot, Targets)

ROOT_DAYS, TARGETS_DAYS, FAMILY_DAYS = 365, 365, 365
SNAPSHOT_DAYS, ROLLOUT_DAYS, TIMESTAMP_DAYS = 30, 30, 7


def after(clock: Clock, days: int) -> datetime:
    """The expiry date `days` from now."""
    return datetime.fromtimestamp(int(clock()), UTC) + timedelta(days=days)


def signed(content: SignedT, *signers: CryptoSigner) -> Metadata[SignedT]:
    """Metadata with one signature by each signer."""
    metadata = Metadata(content)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata
