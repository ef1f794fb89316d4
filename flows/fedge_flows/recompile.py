"""From a run's adapter to a candidate that waits for the evaluator's signature.

Builds into a folder of its own and renames it when whole, so that a killed build
leaves nothing that could be taken for a candidate. The builder applies the gates before it
signs; the evaluator, which holds the second key, applies them again by itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from fedge.delivery.candidate import READY, REFUSED
from fedge.durable import write_file
from fedge.errors import GateFailedError, OutboundError
from fedge_flows.ports import Clock, Sleep


def recompile(
    name: str,
    *,
    objects_dir: Path,
    build: Callable[[Path], None],
    gate: Callable[[Path], None],
    stage: Callable[[Path], None],
    countersigned: Callable[[Path], bool],
    clock: Clock,
    sleep: Sleep,
    wait_s: float = 120.0,
    poll_s: float = 0.25,
) -> Path:
    """Bring the candidate `name` to two signatures, going on from what is there.

    Args:
        build: fills an empty folder with the candidate's files.
        gate: raises GateFailedError for a candidate that must not be signed.
        stage: adds the manifest and the builder's signature.
        countersigned: whether both signatures are there and valid.

    Returns:
        the candidate's folder, ready for `publish`.

    Raises:
        GateFailedError: the builder's or the evaluator's gates refused it; final.
        OutboundError: the evaluator said nothing in `wait_s`; run again later.
    """
    folder = objects_dir / "candidates" / name
    if not folder.exists():
        _build_whole(folder, objects_dir / "building" / name, build)
    if not (folder / READY).exists():
        gate(folder)
        stage(folder)
        write_file(folder / READY, json.dumps({"candidate": name}).encode())
    deadline = clock() + wait_s
    while not countersigned(folder):
        if (folder / REFUSED).exists():
            raise GateFailedError(f"candidate {name} was refused: {_reason(folder)}")
        if clock() >= deadline:
            raise OutboundError(f"no word from the evaluator about {name} in {wait_s:g} s")
        sleep(poll_s)
    return folder


def _build_whole(folder: Path, work: Path, build: Callable[[Path], None]) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    build(work)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work.rename(folder)


def _reason(folder: Path) -> str:
    try:
        return str(json.loads((folder / REFUSED).read_bytes())["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "no reason given"
