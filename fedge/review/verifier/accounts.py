"""What is charged to one block, and what of its policy that leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from fedge.review.verifier import prices
from fedge.review.verifier.adoptions import Adoptions
from fedge.review.verifier.policies import Policy


@dataclass(slots=True)
class Account:
    """What is charged to one open block.

    Args:
        opened_at: number of the adoption after the one under which it opened.

    Attributes:
        training_nano: by runs.
        uses: the same by (purpose, task).
        window_nano: reserved about each of its windows.
        window_uses: the most about one window, by purpose.
    """

    policy: Policy
    adoptions: Adoptions
    opened_at: int
    training_nano: int = 0
    runs: int = 0
    windows: int = 0
    uses: dict[tuple[str, str], int] = field(default_factory=dict)
    window_nano: dict[int, int] = field(default_factory=dict)
    window_uses: dict[str, int] = field(default_factory=dict)

    @property
    def epsilon(self) -> float:
        """The smallest adopted since it opened, its own included."""
        return min(self.policy.epsilon, self.adoptions.lowest_since(self.opened_at))

    @property
    def cap_nano(self) -> int:
        """At the order and delta of its opening; never below 0."""
        return max(0, prices.cap(self.epsilon, self.policy.delta, self.policy.alpha))

    @property
    def spent_nano(self) -> int:
        return self.training_nano + self.policy.telemetry_nano

    @property
    def withholds_windows(self) -> bool:
        """Whether a quota refuses reports of windows by now, so that these are in no entry.

        When it opened no quota did; its cap fell since.
        """
        price = prices.share(self.policy.values["window_rho"], self.policy.alpha)
        limit = max(self.cap_nano, self.spent_nano)
        return any(
            quota["purpose"] == "features" and Fraction(quota["share"]) * limit < price
            for quota in self.policy.values.get("quotas", ())
        )

    def charge_window(self, window: int, purpose: str, nano: int) -> str:
        """Take what is reserved about a window; says what forbids it, if anything."""
        total = self.window_nano.get(window, 0) + nano
        if total > self.policy.telemetry_nano:
            return (
                f"overdraws the monitoring share of window {window}: {total} nano-RDP of "
                f"{self.policy.telemetry_nano}"
            )
        self.window_nano[window] = total
        self.window_uses[purpose] = max(self.window_uses.get(purpose, 0), nano)
        self.windows += 1
        return ""

    def charge_run(self, parts: Mapping[str, int], task: str) -> str:
        """Take a run's prices by purpose; says what forbids it, if anything."""
        total = self.spent_nano + sum(parts.values())
        if total > self.cap_nano:
            return f"{total} nano-RDP of {self.cap_nano}"
        for purpose, nano in parts.items():
            use = (purpose, task)
            self.uses[use] = self.uses.get(use, 0) + nano
        self.training_nano += sum(parts.values())
        self.runs += 1
        return ""

    def exceeded_quotas(self) -> list[str]:
        """Quotas of its policy that were taken more than in full: rules of the house."""
        limit = max(self.cap_nano, self.spent_nano)
        used: dict[tuple[str, str], int] = dict(self.uses)
        for (purpose, _), nano in self.uses.items():
            used[purpose, "*"] = used.get((purpose, "*"), 0) + nano
        for purpose, nano in self.window_uses.items():
            used[purpose, "*"] = max(used.get((purpose, "*"), 0), nano)
        return [
            f"{quota['purpose']} of {'every task' if quota['task'] == '*' else quota['task']}"
            for quota in self.policy.values.get("quotas", ())
            if used.get((quota["purpose"], quota["task"]), 0) > Fraction(quota["share"]) * limit
        ]
