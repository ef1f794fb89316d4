"""A demonstration trains what the shipped study chose, under the policy that it was made under."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from fedge.demo.centre import Centre
from fedge.demo.plan import make_plan
from fedge.learning.chosen import chosen_training, shipped_choice
from fedge.privacy.policy import read_policy


def test_it_trains_what_the_shipped_study_chose(tmp_path: Path) -> None:
    """Adapter, clip, rate, records and the very policy: the study rehearsed this demonstration."""
    plan = make_plan()
    settings = Centre(plan, tmp_path, cast(Any, None)).settings  # nothing is started
    policy = read_policy(settings.policy)
    chosen = chosen_training(settings.training, policy, settings.task)

    assert chosen.choice is not None and chosen.choice.to_bytes() == shipped_choice("digits")
    best, own = chosen.choice.chosen, chosen.settings
    assert (own.adapter, own.clip, own.learning_rate) == (
        best.adapter,
        best.clip,
        best.learning_rate,
    )
    assert (own.rounds, own.steps) == (best.rounds, best.steps)
    assert own.records == plan.records == chosen.choice.records
    assert chosen.choice.policy_sha256 == policy.content_sha256
