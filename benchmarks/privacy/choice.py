"""pr-choice: the study that chose the adapter of `digits`, run again, chooses the same.

On public data alone. Its record is left beside the figures; the one that fedge ships was made by
the same command.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.figures import Figure
from benchmarks.privacy.fleets import policy
from fedge.durable import make_folder, write_file
from fedge.errors import ChoiceError
from fedge.learning.choice import CANDIDATES, choose_adapter
from fedge.learning.chosen import choice_from, shipped_choice
from fedge.records import CHOICE_FILE
from fedge.records.choices import DECIDED
from fedge.tasks.digits import CODE

RECORD = Path("runs/bench") / CHOICE_FILE


def measure(seeds: Sequence[int] = ()) -> list[Figure]:
    """Repeat the study with the shipped one's seeds, or with others.

    Raises:
        ChoiceError: fedge ships no study of this task.
    """
    torch.set_num_threads(1)
    data = shipped_choice(CODE.schema.name)
    if data is None:
        raise ChoiceError(f"no study of task {CODE.schema.name} is shipped")
    shipped = choice_from(data)
    again = choose_adapter(
        CODE,
        CODE.base_weights(1),
        policy(shipped.epsilon),
        CANDIDATES,
        seeds or shipped.seeds,
        time.time(),
    )
    make_folder(RECORD.parent)
    write_file(RECORD, again.to_bytes())
    best = again.chosen
    other = next(one for one in again.ranked if one.adapter != best.adapter)
    same = all(getattr(best, name) == getattr(shipped.chosen, name) for name in DECIDED)
    return [
        Figure(
            id="pr-choice",
            what=(
                f"public rows right with the chosen adapter ({best.adapter}, rate "
                f"{best.learning_rate:g}; shipped: {shipped.chosen.adapter}, rate "
                f"{shipped.chosen.learning_rate:g}, {shipped.chosen.accuracy:.3f}), before "
                f"{statistics.fmean(again.stale):.3f}, {len(again.seeds)} faults"
            ),
            ours=best.accuracy,
            peer=other.accuracy,
            peer_name=f"the next best adapter ({other.adapter})",
            unit="share",
            goal="the shipped choice again",
            holds=same,
        )
    ]
