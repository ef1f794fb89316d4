"""What the privacy tests share: policies, events and ledgers on fresh state files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import new_policy
from fedge.records import BlockLength, DiscreteGaussianEvent, PrivacyPolicy
from fedge.statefile import StateFile

MakeLedger = Callable[..., Ledger]


@pytest.fixture
def policy() -> PrivacyPolicy:
    return new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=100))


@pytest.fixture
def report_event(policy: PrivacyPolicy) -> DiscreteGaussianEvent:
    """One window's feature report: 33 levels of +-1 at the policy's window_rho."""
    sigma2 = int(33 / (2 * policy.window_rho)) + 1
    return DiscreteGaussianEvent(sensitivity2=33, sigma2=sigma2, count=1, dimension=130)


@pytest.fixture
def training_event() -> DiscreteGaussianEvent:
    """40 steps at z = 10.26, as in the recipes: one such run fits into a block."""
    bound = 2**19
    return DiscreteGaussianEvent(
        sensitivity2=bound**2, sigma2=int((10.26 * bound) ** 2), count=40, dimension=26
    )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    file = StateFile(tmp_path / "state.sqlite")
    yield file
    file.close()


@pytest.fixture
def ledger(state: StateFile, policy: PrivacyPolicy) -> Ledger:
    """A real ledger with block 0 open."""
    ledger = Ledger(state, policy, clock=lambda: 1000.0)
    ledger.open_block(0)
    return ledger
