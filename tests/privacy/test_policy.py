"""Making, writing and reading a policy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import SettingError
from fedge.privacy.policy import new_policy, read_policy, write_policy
from fedge.privacy.rdp import cap_nano, telemetry_nano
from fedge.records import BlockLength

BLOCK = BlockLength(kind="seconds", value=86_400)


def test_monitoring_takes_what_the_recipes_found() -> None:
    """0.0281 at epsilon 3, and little enough at epsilon 1 to leave room for training."""
    assert new_policy(epsilon=3.0, delta=1e-5, block=BLOCK).telemetry_rho == 0.0281
    assert 0.006 < new_policy(epsilon=1.0, delta=1e-5, block=BLOCK).telemetry_rho <= 0.0077


@settings(max_examples=15, deadline=None)
@given(epsilon=st.floats(0.2, 20), delta=st.floats(1e-9, 1e-3))
def test_every_computed_policy_leaves_room_for_training(epsilon: float, delta: float) -> None:
    """Monitoring never takes more than a quarter of the budget by itself."""
    policy = new_policy(epsilon=epsilon, delta=delta, block=BLOCK)

    assert 0 < telemetry_nano(policy) <= cap_nano(policy) / 4 + 1


def test_a_file_gives_the_same_policy(tmp_path: Path) -> None:
    """What is written is read back exactly, and the folder holds no remains."""
    policy = new_policy(epsilon=1.0, delta=1e-6, block=BLOCK, telemetry_rho=0.007, window_rho=0.005)

    write_policy(policy, tmp_path / "policy.toml")

    assert read_policy(tmp_path / "policy.toml") == policy
    assert [path.name for path in tmp_path.iterdir()] == ["policy.toml"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", "nan"),
        ("epsilon", "inf"),
        ("delta", "nan"),
        ("delta", "0.5"),
        ("window_rho", "nan"),
        ("telemetry_rho", "0.3"),
        ("alpha", "2"),
        ("alpha", "8.0"),
        ("epsilon", '"3"'),
        ("surprise", "1"),
        ("adjacency", '"replace-one"'),
    ],
)
def test_a_wrong_value_is_refused(tmp_path: Path, name: str, value: str) -> None:
    """NaN, a wrong type, an unknown key, an order or a share that leaves nothing."""
    path = tmp_path / "policy.toml"
    write_policy(new_policy(epsilon=3.0, delta=1e-5, block=BLOCK), path)
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name} =")]
    path.write_text("\n".join([f"{name} = {value}", *lines]))

    with pytest.raises(SettingError):
        read_policy(path)


@pytest.mark.parametrize("text", [b"", b"epsilon = ", b"\xff\xfe", b"epsilon = 3.0"])
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, text: bytes) -> None:
    """Broken, foreign or partial bytes never give a policy."""
    path = tmp_path / "policy.toml"
    path.write_bytes(text)

    with pytest.raises(SettingError):
        read_policy(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """There is no default policy."""
    with pytest.raises(SettingError):
        read_policy(tmp_path / "policy.toml")


@pytest.mark.parametrize(
    ("epsilon", "delta", "telemetry_rho", "window_rho"),
    [
        (math.nan, 1e-5, None, None),
        (math.inf, 1e-5, None, None),
        (3.0, math.nan, None, None),
        (3.0, 1e-5, math.nan, None),
        (3.0, 1e-5, 0.01, math.nan),
        (3.0, 1e-5, 0.01, 0.02),
        (3.0, 1e-5, 0.5, None),
        (3.0, 1e-5, 0.0, None),
        (0.0, 1e-5, None, None),
        (-1.0, 1e-5, None, None),
        (1e-6, 1e-9, None, None),
    ],
)
def test_a_bound_that_is_none_is_refused(
    epsilon: float, delta: float, telemetry_rho: float | None, window_rho: float | None
) -> None:
    """NaN, infinity, and shares that exceed what they are part of."""
    with pytest.raises(SettingError):
        new_policy(
            epsilon=epsilon,
            delta=delta,
            block=BLOCK,
            telemetry_rho=telemetry_rho,
            window_rho=window_rho,
        )
