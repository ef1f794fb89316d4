"""Planning: all that the budget allows, and never more."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fakes.digits_base import demo_policy, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.config import TrainingSettings
from fedge.errors import SettingError
from fedge.learning.planning import noise_multiplier, plan_training, run_nano
from fedge.privacy.policy import new_policy
from fedge.privacy.rdp import cap_nano, telemetry_nano
from fedge.records import BlockLength, Quota

SETTINGS = st.builds(
    TrainingSettings,
    rounds=st.integers(1, 5),
    steps=st.integers(1, 200),
    clip=st.floats(0.001, 100.0),
    records=st.integers(1, 10_000),
    evaluation_rho=st.floats(0.0005, 0.1),
)


@settings(max_examples=40)
@given(SETTINGS, st.integers(1, 2_000))
def test_a_run_never_costs_more_than_a_block_has(asked: TrainingSettings, size: int) -> None:
    """Monitoring's share and the whole run stay under the cap; one grain less noise would not."""
    policy = demo_policy()
    left = cap_nano(policy) - telemetry_nano(policy)

    made = plan_training(policy, asked, size)

    assert run_nano(made, policy.alpha) <= left
    if made.sigma2 > 1:
        louder = made.model_copy(update={"sigma2": made.sigma2 - 1})
        assert run_nano(louder, policy.alpha) > left


def test_the_default_plan_is_the_recipe() -> None:
    """Epsilon 3, two rounds of 20 steps and one evaluation: noise of 10.26 clips a step."""
    made = plan()

    assert (made.rounds, made.steps, made.divisor, made.evaluation_sigma2) == (2, 20, 300, 100)
    assert noise_multiplier(made) == pytest.approx(10.26, abs=0.01)


def test_the_evaluation_never_costs_more_than_was_set() -> None:
    """The noise on the paired difference is rounded up."""
    for rho in (0.003, 0.005, 0.007, 0.011):
        made = plan(evaluation_rho=rho)
        assert 1 / (2 * made.evaluation_sigma2) <= rho


def test_a_policy_that_leaves_nothing_is_refused() -> None:
    """Where monitoring takes the whole budget, planning says so instead of training on nothing."""
    policy = new_policy(
        epsilon=3.0,
        delta=1e-5,
        block=BlockLength(kind="windows", value=10),
        telemetry_rho=0.22,
        window_rho=0.2,
    )
    with pytest.raises(SettingError, match="leaves nothing"):
        plan_training(policy, TrainingSettings(evaluation_rho=0.01), 26)


@pytest.mark.parametrize("records", [300, 5_000], ids=["full", "poisson"])
def test_a_quota_that_leaves_nothing_is_refused(records: int) -> None:
    """A share so small that no release fits under it is a wrong policy, said as such."""
    quota = Quota(purpose="training", task="digits", share=1e-15)
    policy = demo_policy().model_copy(update={"quotas": (quota,)})

    with pytest.raises(SettingError, match="quota"):
        plan_training(policy, TrainingSettings(records=records), 26)


def test_noise_beyond_what_can_be_drawn_is_refused() -> None:
    """A plan is checked with its noise in it: nobody is asked to draw more than 64 bits hold."""
    quota = Quota(purpose="training", task="*", share=1e-9)
    policy = demo_policy().model_copy(update={"quotas": (quota,)})
    most = TrainingSettings(rounds=16, steps=10_000, clip=1_000.0)

    with pytest.raises(SettingError, match="sigma2"):
        plan_training(policy, most, 26)


@pytest.mark.parametrize("clip", [1e-6, 2e3])
def test_a_clip_that_does_not_fit_the_grid_is_refused(clip: float) -> None:
    """A clip that rounds to nothing would train on zeros; too large a one is not exact."""
    with pytest.raises(SettingError, match="grid"):
        plan_training(demo_policy(), TrainingSettings(clip=clip), 26)


def test_a_number_out_of_range_is_named() -> None:
    """A wrong setting is refused by its name."""
    with pytest.raises(SettingError, match="rounds"):
        plan_training(demo_policy(), TrainingSettings(rounds=17), 26)


def test_needs_no_torch() -> None:
    """The centre plans and adds up updates without torch."""
    program = (
        "import sys, fedge.learning.planning, fedge.learning.aggregation, fedge.models.weights;"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
