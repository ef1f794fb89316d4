"""What a gateway sends on its own account: window reports and its status."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedge.records.base import Count, Name, NoisyCount, Record, Sha256
from fedge.records.privacy import BlockSpending


class FeatureCounts(Record):
    """The noised counts of one stream in one window.

    `numeric` holds 15 dyadic sums over 16 frozen bins, level by level from the root, each the
    sum of +1 (right half) or -1 (left half) over the records that reach the node, then the
    count of missing or non-finite values. `categorical` holds one count per declared category,
    then one for all others, missing ones included.
    """

    name: Name
    kind: Literal["numeric", "categorical"]
    counts: tuple[NoisyCount, ...] = Field(min_length=1, max_length=4096)
    sigma2: int = Field(gt=0)


class WindowReport(Record):
    """What leaves a gateway about one window: public facts and noised counts.

    Attributes:
        window: this gateway's window index, never used twice.
        block, release, reference_sha256: what the window belongs to; it is cut when one changes.
        first_slot, slots: arrival slots covered; a slot may be empty (null record).
        opened_at, closed_at: arrival time of the first slot and time of closing.
        planned_slots: what a full window covers: `slots` themselves, at least 1, where the clock
            closed it as planned. `slots` is smaller for a window that was cut, or empty.
        dropped: slots whose observation was lost because the ring was full (load, not content).
    """

    task: Name
    window: Count
    block: Count
    release: int = Field(ge=1)
    reference_sha256: Sha256
    first_slot: Count
    slots: Count
    planned_slots: int = Field(gt=0)
    dropped: Count = 0
    opened_at: float = Field(ge=0)
    closed_at: float = Field(ge=0)
    features: tuple[FeatureCounts, ...] = Field(min_length=1, max_length=4096)


class LabelReport(Record):
    """How a window's labelled records were answered: public facts and two noised counts.

    Attributes:
        window, block, release: those of the window's `WindowReport`.
        watermark_windows: further windows that had closed when labels were counted; later ones
            count nowhere.
        right, wrong: labels that agree and disagree with the prediction that was served.
        sigma2: variance of the noise in each of the two.
    """

    task: Name
    window: Count
    block: Count
    release: int = Field(ge=1)
    watermark_windows: int = Field(gt=0, lt=2**31)
    right: NoisyCount
    wrong: NoisyCount
    sigma2: int = Field(gt=0)


class GatewayStatus(Record):
    """Public facts a gateway reports about itself. Nothing here depends on a record's content.

    Fields with a default were added later: statuses without them are still read.

    Attributes:
        dropped_labels: 0. How many labels came is no public fact; earlier versions sent it.
        lost_records: records of the ring that were damaged, and rings that had to be given up.
        refused_envelopes: refused by the coordinator for good, and kept aside.
        spool_depth: envelopes that wait to be pushed.
        spool_dropped: envelopes that the spool's quota pushed out; gap records name them.
        spool_gaps: gap records that still wait to be pushed.
        spool_corrupt: envelopes whose stored bytes were damaged, set aside unsent.
        ledger_entries: how many entries its ledger has; None in statuses of earlier versions.
        ledger_standing: whether the ledger follows from what the coordinator confirmed; nothing
            content-derived is sent while it does not, or while that is not known.
    """

    release: int = Field(ge=0)
    release_sha256: str
    variant: Literal["int8", "float", "none"]
    slot: Literal["A", "B", "none"]
    hardware: str = Field(max_length=32)
    install_state: str = Field(max_length=32)
    refused_release: int = Field(ge=0)
    refused_reason: str = Field(max_length=64)
    next_slot: Count
    windows: Count
    dropped_observations: Count
    dropped_labels: Count = 0
    withheld_windows: Count = 0
    lost_records: Count = 0
    refused_envelopes: Count = 0
    spool_depth: Count
    spool_dropped: Count
    spool_gaps: Count = 0
    spool_corrupt: Count = 0
    ledger_entries: Count | None = None
    ledger_standing: Literal["unknown", "in-step", "out-of-step"] = "unknown"
    worker_restarts: Count
    blocks: tuple[BlockSpending, ...] = Field(max_length=64)
    at: float = Field(ge=0)
