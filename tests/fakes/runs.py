"""A small valid run."""

from __future__ import annotations

from fedge.records import Participant, RunSpec, TrainingPlan

PLAN = TrainingPlan(
    adapter="input",
    rounds=2,
    steps=20,
    clip=0.5,
    learning_rate=2.4,
    divisor=300,
    grid_bits=14,
    sigma2=10,
    evaluation_sigma2=100,
    dimension=26,
)


def run_spec(run_id: str = "run-1", episodes: tuple[str, ...] = ("a-1-3",)) -> RunSpec:
    """A run of one gateway over windows 3 to 5."""
    who = Participant(gateway="a" * 32, public_key="b" * 64, first_window=3, last_window=5)
    return RunSpec(
        run_id=run_id,
        task="digits",
        base_release=1,
        base_sha256="c" * 64,
        plan=PLAN,
        participants=(who,),
        episodes=episodes,
    )
