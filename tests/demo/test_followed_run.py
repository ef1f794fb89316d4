"""Which of several runs a demo waits for."""

from __future__ import annotations

import itertools

import pytest
from fakes.runs import run_spec

from fedge.demo.facts import followed_run, published_run
from fedge_server.facts import Run


def stored(number: int, state: str, release: int | None = None) -> Run:
    return Run(
        spec=run_spec(f"run-{number}"),
        state=state,
        detail="",
        created_at=float(number),
        updated_at=float(number),
        release=release,
    )


def test_no_run_is_no_run() -> None:
    """Before the cohort froze there is nothing to follow."""
    assert followed_run([]) is None


@pytest.mark.parametrize("state", ["created", "training", "trained", "signed", "failed", "refused"])
def test_a_late_second_run_takes_nothing_over(state: str) -> None:
    """However a second run stands, the demo goes on with the first release."""
    first, second = stored(1, "published", 2), stored(2, state)

    assert followed_run([first]) == followed_run([first, second]) == first


def test_of_two_releases_the_first_is_followed() -> None:
    """Gateways are watched on the release that the demo is about, also after another one."""
    first, second = stored(1, "published", 2), stored(2, "published", 3)

    assert followed_run([first, second]) == published_run([first, second]) == first


def test_before_a_release_a_failure_is_not_overlooked() -> None:
    """A failed run is the demo's end, not something that a later run hides."""
    for bad in ("failed", "refused"):
        assert followed_run([stored(1, bad), stored(2, "created")]) == stored(1, bad)
    assert published_run([stored(1, "failed")]) is None


def test_the_latest_unfinished_run_is_followed() -> None:
    """With neither release nor failure, the run that is on its way."""
    states = ("created", "training", "trained", "signed")
    for early, late in itertools.product(states, states):
        assert followed_run([stored(1, early), stored(2, late)]) == stored(2, late)
