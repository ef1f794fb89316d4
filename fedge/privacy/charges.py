"""What events cost together, what fits into a reservation, and which noise an event takes.

The rules that the ledger applies and a replay applies again stand here once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from fedge.errors import SettingError
from fedge.privacy.rdp import cap_nano, event_nano
from fedge.records import PoissonGaussianEvent, PrivacyEvent, PrivacyPolicy

Parameters = tuple[str, int, int, int, int]


def events_nano(events: Iterable[PrivacyEvent], alpha: int) -> int:
    """Nano-RDP of all `events` together, each rounded up.

    Raises:
        UnknownEventError: one of them has no price.
    """
    return sum(event_nano(event, alpha) for event in events)


def fits(reserved: Iterable[PrivacyEvent], parts: Iterable[PrivacyEvent]) -> bool:
    """Whether `parts` together ask for no release that `reserved` does not hold."""
    left = releases(reserved)
    return all(left.get(one, 0) >= count for one, count in releases(parts).items())


def releases(events: Iterable[PrivacyEvent]) -> dict[Parameters, int]:
    """How many releases `events` are, by mechanism."""
    counts: dict[Parameters, int] = {}
    for event in events:
        counts[parameters(event)] = counts.get(parameters(event), 0) + event.count
    return counts


def parameters(event: PrivacyEvent) -> Parameters:
    """What two releases must share to be the same mechanism; full batches have rate 0."""
    rate = event.rate_ppm if isinstance(event, PoissonGaussianEvent) else 0
    return event.kind, rate, event.sensitivity2, event.sigma2, event.dimension


def noise_of(event: PrivacyEvent, source: str) -> str:
    """What an entry calls the noise of `event` drawn from a source of randomness.

    The system's entropy (`os`) gives integers or floating-point numbers as the event has them;
    which of them the caller named already is left as it is.
    """
    continuous = isinstance(event, PoissonGaussianEvent)
    return "os-float" if continuous and source == "os" else source


def takes_noise(event: PrivacyEvent, noise: str, *, simulated: bool) -> bool:
    """Whether noise of this kind makes `event` what it says.

    Integers from the system's entropy (`os`) for a discrete Gaussian, floating point from the
    system's entropy (`os-float`) for a continuous one; a simulation may seed either.
    """
    real = "os-float" if isinstance(event, PoissonGaussianEvent) else "os"
    return noise == real or (simulated and noise == "seeded")


@lru_cache(maxsize=256)
def cap_at(policy: PrivacyPolicy, epsilon: float) -> int:
    """The cap in nano-RDP, at a policy's order and delta, of another epsilon; 0 if none is left."""
    try:
        return cap_nano(policy.model_copy(update={"epsilon": epsilon}))
    except SettingError:
        return 0
