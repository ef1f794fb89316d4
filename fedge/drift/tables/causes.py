"""From evidence against each hypothesis to one cause: the rules, without any data.

Each strength is a normal quantile, already corrected for how many comparisons it was picked from:
below 2 nothing speaks against the hypothesis, above 4 hardly anything speaks for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedge.drift.words import Cause

CLEAR = 3.0
"""Strength at which something has moved."""

QUIET = 2.5
"""Strength below which nothing speaks against a hypothesis."""

SMALL_PART = 0.4
"""A hypothesis is close to the truth if what speaks against it is so small a part of what speaks
against its rivals: enough rows refute any approximation."""


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """What speaks against each part of the joint distribution having stayed as it was.

    Attributes:
        inputs: against P(X) as before, which concept drift leaves alone.
        relation: against P(Y|X) as before, which covariate drift leaves alone.
        within: against P(X|Y) as before, which label shift leaves alone.
        shares: against P(Y) as before.

    NaN where it could not be tested.
    """

    inputs: float
    relation: float
    within: float
    shares: float


def choose(found: Hypotheses, *, errors_alarmed: bool, inputs_alarmed: bool) -> tuple[Cause, float]:
    """The first cause, from the narrowest to the widest, that the rows do not refute.

    Label shift comes first because it says most: how all inputs move follows from a few class
    shares. (Where the inputs decide the label without noise, a label shift leaves P(Y|X) as it was,
    too, and only this order tells it from covariate drift.) Concept drift leaves all inputs alone.
    Covariate drift may move them in any way.

    Args:
        errors_alarmed, inputs_alarmed: whether statistics of that kind raised the alarm; they
            decide where the rows refute nothing.

    Returns:
        The cause and the confidence in it, 0 to 1.
    """
    inputs, relation, within, shares = (
        0.0 if math.isnan(one) else one
        for one in (found.inputs, found.relation, found.within, found.shares)
    )
    if shares > QUIET and not math.isnan(found.within):
        # A changed relation is no rival's failure while the inputs, its own mark, stay quiet.
        rivals = max(relation if inputs > QUIET else 0.0, min(inputs, shares))
        if _fits(within, rivals):
            return "label", confidence(min(shares, max(relation, rivals)) - within)
    if inputs <= QUIET and (relation > QUIET or (errors_alarmed and not inputs_alarmed)):
        return "concept", confidence(relation - inputs)
    if inputs > QUIET or inputs_alarmed:
        if _fits(relation, inputs):
            # Without overlap nothing could be said against it, and nothing for it.
            tested = 0.0 if math.isnan(found.relation) else inputs - relation
            return "covariate", confidence(tested)
        return "concept", confidence(relation - inputs)
    if errors_alarmed:
        return "concept", confidence(0.0)
    return "unknown", 0.3


def confidence(margin: float) -> float:
    """From how much better the chosen hypothesis stands than the next: 0.5 at a draw."""
    return round(0.5 + 0.49 * math.tanh(max(0.0, margin) / 5), 3)


def _fits(against: float, rivals: float) -> bool:
    return against <= max(QUIET, SMALL_PART * rivals)
