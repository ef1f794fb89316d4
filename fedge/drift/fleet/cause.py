"""Which kind of drift it is, from the counts of one gateway before and after.

Rules in order, because an earlier one explains what a later one would name:

1. *label*: another mix of classes explains how the streams moved;
2. *sensor*: one feature alone moved, with the mark of a broken channel;
3. *ood*: rows look unfamiliar to the model while the features hardly moved;
4. *covariate*: features moved;
5. *concept*: labelled errors rose and no feature moved;
6. *unknown*: only the model's own answers moved.

Counts show marginals. What moved only in how features hang together shows in the
model's answers alone, and is then called by what they say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedge.drift.fleet.class_mix import ClassMix, class_mix
from fedge.drift.fleet.labelled import ErrorRise
from fedge.drift.fleet.movement import OUTPUTS, Movement, StreamMove
from fedge.drift.fleet.sensors import sensor_faults
from fedge.drift.words import Cause, SensorFault
from fedge.records import CLASS_STREAM, OOD_STREAM, NumericStream, Reference

LEAST_EXPLAINED = 0.7
"""Part of the movement that a change of class shares must explain to be the cause."""

LEAST_MIX = 0.05
"""Least share of rows that must have changed class."""

FAR = 0.5
"""Rise of the OOD score, in reference standard deviations, that is far."""

LEAST_OOD = 0.2
"""Share of rows above the OOD calibration (0.05 of the reference lie there) that is far, too."""

HARDLY = 0.5
"""Features hardly moved if the strongest moved by less than this part of the OOD score's move."""


@dataclass(frozen=True, slots=True)
class CauseFound:
    """A cause and what speaks for it.

    Attributes:
        reason: in words, for people.
        features: features that moved, strongest first.
        faults: features with a broken sensor.
        mix: None where the reference cannot say how classes look.
        ood_before, ood_after: share of rows above the OOD calibration; None without that stream.
    """

    cause: Cause
    reason: str
    features: tuple[str, ...]
    faults: tuple[tuple[str, SensorFault], ...]
    mix: ClassMix | None
    ood_before: float | None
    ood_after: float | None


def find_cause(
    reference: Reference,
    moved: Movement | None,
    alarmed: Sequence[str],
    rise: ErrorRise | None,
    min_effect: float,
) -> CauseFound:
    """Name the cause of one gateway's drift.

    Args:
        moved: None where the windows hold too little to say.
        alarmed: streams with a finding; they count as moved, whatever was seen since.
        rise: of the labelled errors, if there are labels and they rose.
    """
    if moved is None:
        return CauseFound("unknown", "too few rows since the onset", (), (), None, None, None)
    features = _features(moved, alarmed, min_effect)
    faults = sensor_faults(reference, moved, [one.name for one in features])
    mix = class_mix(reference, moved)
    shares = ood_shares(reference, moved)
    cause, reason = _decide(_Seen(moved, features, faults, mix, shares, rise))
    names = tuple(one.name for one in features)
    return CauseFound(cause, reason, names, faults, mix, *shares)


def ood_shares(reference: Reference, moved: Movement) -> tuple[float, float] | tuple[None, None]:
    """Share of rows above the OOD calibration before and after, as far as the bins can tell.

    Counted from the bin that the calibration's quantile lies in.
    """
    stream = next((s for s in reference.streams if s.name == OOD_STREAM), None)
    move = moved.stream(OOD_STREAM)
    if not isinstance(stream, NumericStream) or move is None:
        return None, None
    first = int(np.searchsorted(stream.edges, reference.ood_quantile_95, side="right"))
    before, after = (float(np.clip(c[first:-1].sum(), 0, 1)) for c in (move.before, move.after))
    return before, after


def _features(moved: Movement, alarmed: Sequence[str], min_effect: float) -> list[StreamMove]:
    found = [
        one
        for one in moved.streams
        if one.name not in OUTPUTS and (one.name in alarmed or one.moved(min_effect))
    ]
    return sorted(found, key=lambda one: (-one.effect, one.name))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the rules look at; `features` are those that moved, strongest first."""

    moved: Movement
    features: Sequence[StreamMove]
    faults: Sequence[tuple[str, SensorFault]]
    mix: ClassMix | None
    ood: tuple[float, float] | tuple[None, None]
    rise: ErrorRise | None


def _label(seen: _Seen) -> str | None:
    mix = seen.mix
    if mix is None or not _class_moved(seen.moved):
        return None
    if mix.explained < LEAST_EXPLAINED or mix.change < LEAST_MIX:
        return None
    return (
        f"another mix of classes explains {mix.explained:.0%} of the movement; "
        f"{mix.change:.0%} of the rows changed class"
    )


def _sensor(seen: _Seen) -> str | None:
    named = [f"{name} looks {_FAULTS[fault]}" for name, fault in seen.faults]
    return ", ".join(named) or None


def _ood(seen: _Seen) -> str | None:
    score = seen.moved.stream(OOD_STREAM)
    if score is None or not score.moved(0.0):
        return None
    rise, (before, after) = score.effect_of("location"), seen.ood
    unfamiliar = after is not None and before is not None and after >= max(LEAST_OOD, 2 * before)
    if not (rise > 0 and (rise >= FAR or unfamiliar)):
        return None
    strongest = max((one.effect for one in seen.features), default=0.0)
    if strongest > HARDLY * rise:
        return None
    return "rows look unfamiliar to the model, their features hardly moved"


def _covariate(seen: _Seen) -> str | None:
    if not seen.features:
        return None
    # An alarm of the inputs that has passed since does not explain errors that are there now.
    if seen.rise is not None and not any(one.moved(0.0) for one in seen.features):
        return None
    reason = "the inputs moved"
    if seen.mix is None and _class_moved(seen.moved):
        reason += "; the reference cannot say whether another mix of classes explains it"
    if seen.rise is not None:
        reason += f"; {_risen(seen.rise)}"
    return reason


def _concept(seen: _Seen) -> str | None:
    return f"{_risen(seen.rise)} while no input moves" if seen.rise is not None else None


Rule = Callable[[_Seen], str | None]
RULES: tuple[tuple[Cause, Rule], ...] = (
    ("label", _label),
    ("sensor", _sensor),
    ("ood", _ood),
    ("covariate", _covariate),
    ("concept", _concept),
)
"""In order: the first that finds a reason names the cause."""


def _decide(seen: _Seen) -> tuple[Cause, str]:
    for cause, rule in RULES:
        reason = rule(seen)
        if reason is not None:
            return cause, reason
    return "unknown", "only the model's own answers moved, no input that is watched"


def _risen(rise: ErrorRise) -> str:
    return f"labelled errors rose from {rise.before:.0%} to {rise.after:.0%}"


_FAULTS: dict[SensorFault, str] = {
    "stuck": "stuck at one value",
    "dead": "dead",
    "saturated": "saturated",
    "offset": "shifted by a constant, alone",
    "unit-change": "measured in another unit",
}


def _class_moved(moved: Movement) -> bool:
    classes = moved.stream(CLASS_STREAM)
    return classes is not None and classes.moved(0.0)
