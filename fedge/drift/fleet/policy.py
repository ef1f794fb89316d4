"""What drift leads to: a table of rules, the first that fits decides.

The rules of the settings come first (`[[drift.policy.rules]]`), then the defaults
below. What an action does, and that it is done once, belongs to the flows.
"""

from __future__ import annotations

from fedge.config import PolicyRule, PolicySettings
from fedge.drift.words import Action, Cause, Scope, Severity

RETRAINING: tuple[Action, ...] = ("retrain-gateway", "retrain-fleet")
"""Actions that wait for a cohort and become a run."""

INTERVENTIONS: tuple[Action, ...] = ("recalibrate", "check-sensor", "quarantine")
"""Actions that are taken for one gateway, as soon as its drift has settled."""

DEFAULTS: tuple[PolicyRule, ...] = (
    # Nothing that a broken sensor says should be learnt, and a person has to look.
    PolicyRule(cause="sensor", severity="high", action="quarantine"),
    PolicyRule(cause="sensor", action="check-sensor"),
    # The classes look as ever: the model is right about each of them.
    PolicyRule(cause="label", severity="high", scope="fleet", action="retrain-fleet"),
    PolicyRule(cause="label", severity="high", action="retrain-gateway"),
    PolicyRule(cause="label", action="recalibrate"),
    # Inputs that moved without harm cost no privacy budget yet; `watch` looks again.
    PolicyRule(cause="covariate", severity="low", action="watch"),
    PolicyRule(cause="ood", severity="low", action="watch"),
    PolicyRule(cause="unknown", severity="low", action="watch"),
    PolicyRule(cause="unknown", severity="unknown", action="watch"),
    PolicyRule(scope="fleet", action="retrain-fleet"),
    PolicyRule(action="retrain-gateway"),
)


def decide(
    settings: PolicySettings, *, cause: Cause, scope: Scope, severity: Severity, effect: float
) -> Action:
    """The action for one gateway's drift.

    Args:
        effect: strongest movement in reference standard deviations.
    """
    found: dict[str, str] = {"cause": cause, "scope": scope, "severity": severity}
    for rule in (*settings.rules, *DEFAULTS):
        fits = all(getattr(rule, name) in ("any", value) for name, value in found.items())
        if fits and effect >= rule.min_effect:
            return rule.action
    raise RuntimeError("the last of the default rules fits everything")


def severity(
    settings: PolicySettings,
    *,
    cause: Cause,
    effect: float,
    loss: float | None,
) -> Severity:
    """How much the model is expected to suffer.

    `low` says that an estimate of the loss is there and small. A far shift of the inputs is
    severe also where the model stays confident: it may be sure and wrong.

    Args:
        effect: strongest movement in reference standard deviations.
        loss: expected or labelled loss of accuracy; None where nobody can say.
    """
    if loss is not None and loss >= settings.high_loss:
        return "high"
    # A feature that moves because classes are mixed otherwise, or because one sensor broke, moves
    # far without telling anything of the model.
    tells = cause not in ("label", "sensor") or (cause == "sensor" and loss is None)
    if tells and effect >= settings.high_effect:
        return "high"
    return "unknown" if loss is None else "low"
