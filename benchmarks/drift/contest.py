"""Who finds known drift soonest at the same false-alarm budget.

Every rival gets the stream's numbers and, where there are labels, the errors of one and the same
model. A rival's threshold is the highest score that it showed on five normal streams of the family,
so that it would have been silent there and alarms on about every sixth other one. That budget is
what ours is asked to keep, a sixth of an alarm in as many windows; it sees none of those streams.
What a detector misses counts as found at the end of the stream.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.rivals import river_scores
from benchmarks.drift.streams import SETTINGS, Setting, Stream
from benchmarks.figures import Figure
from benchmarks.peers import python_of
from fedge.drift.tables.model import fit_model
from fedge.drift.tables.reading import read_table
from fedge.drift.tables.replay import replay

CALIBRATION_SEEDS = tuple(range(900, 905))
QUICK_SEEDS, STUDY_SEEDS = 3, 30
BUDGET_PER_STREAM = 1 / (len(CALIBRATION_SEEDS) + 1)
"""A new value exceeds the largest of k earlier ones with probability 1 / (k + 1)."""

WINDOWS_PER_MONTH = 720
"""Windows to which `false_alarms` refers."""

Events = list[tuple[int, float]]
OURS = "fedge"
_SCRIPTS = Path(__file__).parent / "rivals"
_PEERS = {
    "evidently": "evidently_scores.py",
    "nannyml": "nannyml_scores.py",
    "frouros": "frouros_scores.py",
}


@dataclass(frozen=True, slots=True)
class Result:
    """One detector on one stream.

    Attributes:
        delay: rows from the onset to the first alarm after it; what is missed counts to the end.
        false_alarms: alarms before the onset.
        cause_named: whether the cause was named rightly; None for those who name none.
    """

    delay: int
    missed: bool
    false_alarms: int
    cause_named: bool | None = None


def ours(stream: Stream) -> tuple[list[int], list[str]]:
    """Rows and causes of the alarms of `replay`, all but the budget as by default."""
    table = read_table(dict(stream.columns), label=stream.label)
    windows = (stream.rows - stream.reference_rows) / stream.window
    found = replay(
        table,
        reference_rows=stream.reference_rows,
        window=stream.window,
        false_alarms=BUDGET_PER_STREAM * WINDOWS_PER_MONTH / windows,
    )
    return [alarm.row for alarm in found.alarms], [str(alarm.cause) for alarm in found.alarms]


def numbers(stream: Stream) -> NDArray[np.float64]:
    """What rivals see: float64[n, d], categories as codes; the model's errors last, if any."""
    table = read_table(dict(stream.columns), label=stream.label)
    columns = [column.values for column in table.features]
    if stream.label is not None:
        model = fit_model(table[: stream.reference_rows])
        truth = model.target.read(table)
        later = model.answers(table[stream.reference_rows :]).mean(axis=0)
        answers = np.concatenate([model.reference.mean(axis=0), later])
        columns.append((answers.argmax(axis=1) != truth).astype(np.float64))
    return np.column_stack(columns)


def rivals(streams: Mapping[str, Stream]) -> dict[str, dict[str, Events]]:
    """Stream -> detector -> what it said: (row, score), higher meaning drift."""
    found: dict[str, dict[str, Events]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for key, stream in streams.items():
            values = numbers(stream)
            labelled = stream.label is not None
            np.savez(
                Path(folder) / f"{key}.npz",
                values=values,
                reference_rows=stream.reference_rows,
                window=stream.window,
                labelled=labelled,
            )
            found[key] = river_scores.scores(values, stream.reference_rows, labelled)
        for peer, script in _PEERS.items():
            for key, events in _ask(peer, script, folder).items():
                found[key].update(events)
    return found


def _ask(peer: str, script: str, folder: str) -> dict[str, dict[str, Events]]:
    python = python_of(peer)
    if python is None:
        print(f"{peer} is not installed: `make bench-peers`", file=sys.stderr)
        return {}
    done = subprocess.run(
        [str(python), str(_SCRIPTS / script), folder],
        env={
            "OMP_NUM_THREADS": "1",
            "PATH": os.defpath,
            "DO_NOT_TRACK": "1",
            "NML_DISABLE_USAGE_LOGGING": "1",
        },
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    answers: dict[str, dict[str, Events]] = json.loads(done.stdout)
    return answers


def judge(rows: Sequence[int], stream: Stream) -> Result:
    """Compare alarms with the truth."""
    onset = stream.onset if stream.onset is not None else stream.rows
    after = [row for row in rows if row >= onset]
    delay = (after[0] if after else stream.rows) - onset
    return Result(delay, not after, sum(row < onset for row in rows))


def baselines(stream: Stream) -> dict[str, Result]:
    """What detectors score that look at nothing: always, every tenth window, never."""
    ends = list(range(stream.reference_rows - 1 + stream.window, stream.rows, stream.window))
    return {
        "always": judge(ends, stream),
        "every 10th window": judge(ends[9::10], stream),
        "never": judge([], stream),
    }


def contest(setting: Setting, seeds: int) -> dict[str, list[Result]]:
    """Every detector on `seeds` drifting streams of one setting."""
    calibration = {f"n{seed}": setting.normal(seed) for seed in CALIBRATION_SEEDS}
    drifting = {f"d{seed}": setting.drifting(seed) for seed in range(seeds)}
    said = rivals({**calibration, **drifting})
    limits: dict[str, float] = {}
    for key in calibration:
        for name, events in said[key].items():
            limits[name] = max([limits.get(name, -np.inf), *(score for _, score in events)])
    results: dict[str, list[Result]] = {}
    for key, stream in drifting.items():
        for name, events in said[key].items():
            rows = [row for row, score in events if score > limits[name]]
            results.setdefault(name, []).append(judge(rows, stream))
        for name, result in baselines(stream).items():
            results.setdefault(name, []).append(result)
        results.setdefault(OURS, []).append(_our_result(stream))
    return results


def _our_result(stream: Stream) -> Result:
    rows, causes = ours(stream)
    result = judge(rows, stream)
    first = next((i for i, row in enumerate(rows) if row - result.delay == stream.onset), None)
    named = None if first is None else causes[first] == stream.cause
    return Result(result.delay, result.missed, result.false_alarms, named)


def measure(seeds: int = QUICK_SEEDS, out: Path = Path("runs/bench")) -> list[Figure]:
    """dr-streams: mean delay in rows on every drift type, best rival beside ours."""
    lines, wins, table = [], 0, {}
    for setting in SETTINGS:
        print(f"measuring {setting.name}", file=sys.stderr)
        results = contest(setting, seeds)
        delays = {n: float(np.mean([r.delay for r in found])) for n, found in results.items()}
        rival, best = _best_rival(delays)
        tied = delays[OURS] <= best + setting.drifting(0).window
        wins += tied
        lines.append(_line(setting, results, delays, rival, tied))
        table[setting.name] = {
            name: {
                "delay": delays[name],
                "missed": sum(r.missed for r in found),
                "false_alarms": sum(r.false_alarms for r in found),
            }
            for name, found in results.items()
        }
    out.mkdir(parents=True, exist_ok=True)
    (out / "drift-streams.json").write_text(json.dumps(table, indent=2) + "\n")
    print("\n".join(lines))
    return [
        Figure(
            id="dr-streams",
            what=f"drift types where ours is the soonest or within one window of it, {seeds} seeds",
            ours=float(wins),
            peer=None,
            peer_name="",
            unit=f"of {len(SETTINGS)}",
            goal="best or tied with the best on each drift type",
            holds=wins == len(SETTINGS) and all(python_of(peer) for peer in _PEERS),
        )
    ]


def _best_rival(delays: Mapping[str, float]) -> tuple[str, float]:
    blind = {"always", "every 10th window", "never", OURS}
    return min(((n, d) for n, d in delays.items() if n not in blind), key=lambda item: item[1])


def _line(
    setting: Setting,
    results: Mapping[str, Sequence[Result]],
    delays: Mapping[str, float],
    rival: str,
    tied: bool,
) -> str:
    own = results[OURS]
    named = [r.cause_named for r in own if r.cause_named is not None]
    return (
        f"  {setting.name:24} ours {delays[OURS]:6.0f} rows, missed {sum(r.missed for r in own)}, "
        f"false {sum(r.false_alarms for r in own)}, cause {sum(named)}/{len(own)}; "
        f"{rival} {delays[rival]:6.0f}, missed {sum(r.missed for r in results[rival])}, "
        f"false {sum(r.false_alarms for r in results[rival])}; "
        f"never {delays['never']:.0f}{'' if tied else '  MISSED'}"
    )


if __name__ == "__main__":
    for figure in measure():
        print(figure.line())
