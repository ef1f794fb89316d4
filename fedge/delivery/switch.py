"""What an installer asks of others: releases, and two slots of which one is active.

The supervisor implements `SlotSwitch`, `ReleaseClient` is the real `ReleaseSource`;
the installer decides when to call them. Every call may be repeated: a call that was
already carried out changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from fedge.delivery.store import ContentStore
from fedge.records import ReleaseManifest

Slot = Literal["A", "B"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeReport:
    """What a trial measured before the model was let at a request.

    Attributes:
        latency_us: time of one single-row inference, in microseconds.
        golden_max_abs: largest absolute difference to a golden logit.
    """

    latency_us: float
    golden_max_abs: float


@runtime_checkable
class SlotSwitch(Protocol):
    """Starts a release in a slot, hands the socket to it, and forgets slots.

    Any method raises `OutboundError` when the supervisor does not answer; then it is
    unknown whether the call took effect, and it is asked again later.
    """

    def active(self) -> Slot | None:
        """The slot whose worker owns the socket; None before the first takeover.

        It changes without being asked when the active slot's worker fails to start
        repeatedly and there is a fallback slot.
        """
        ...

    def trial(self, slot: Slot) -> ProbeReport:
        """Start a worker on `slot` beside the active one and run its probes; no request yet.

        Raises:
            TrialFailedError: it did not start, or failed its golden vectors or its latency
                probe; its process is gone and the active slot is untouched.
        """
        ...

    def takeover(self, slot: Slot) -> None:
        """Hand the socket to the worker that passed its trial in `slot`.

        The slot active before becomes the fallback; this is on the disk on return.

        Raises:
            TrialFailedError: there is no such worker any more; the active slot is untouched.
        """
        ...

    def discard(self, slot: Slot) -> None:
        """Never start `slot` again: end its trial, and forget it as a fallback.

        The installer calls this before it touches the slot's files. It never names the
        active slot.
        """
        ...


class ReleaseSource(Protocol):
    """Where verified releases come from; see `ReleaseClient` for what each call raises."""

    def offered(self, gateway: str) -> ReleaseManifest | None: ...

    def fetch(
        self, manifest: ReleaseManifest, store: ContentStore, names: Sequence[str]
    ) -> None: ...
