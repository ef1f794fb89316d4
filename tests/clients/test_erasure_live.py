"""The rights of whom records are about, asked of a running gateway by its commands."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.gateways import FAMILY, ask_once, toy_inputs, wait_until
from fakes.loop import DEADLINE_S, WINDOW_SLOTS, Loop

from fedge.data.consent import WITHDRAWALS_FILE

CANARY = np.float32(0.73519265)
PATIENT = "patient 17"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    running = Loop(tmp_path_factory.mktemp("loop"))
    yield running
    running.close()


def infer(loop: Loop, inputs: np.ndarray, **parameters: str) -> list[str]:
    """Ask the worker; answers the record ids."""
    tensor: dict[str, Any] = {
        "name": "x",
        "shape": list(inputs.shape),
        "datatype": "FP32",
        "data": inputs.ravel().tolist(),
    }
    body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    path = f"/v2/models/{FAMILY}/infer"
    status, answer = ask_once(loop.gateway.port, "POST", path, body)
    assert status == 200, answer
    found: list[str] = answer["parameters"]["fedge_record_ids"]
    return found


def canaries(rows: int) -> np.ndarray:
    return np.full((rows, 2, 3), CANARY, dtype=np.float32)


def windows(loop: Loop) -> int:
    rows = loop.gateway.rows("SELECT window FROM watch")
    return int(rows[0][0]) if rows else 0


def command(loop: Loop, *arguments: str, stdin: str = "") -> dict[str, Any]:
    """Run `fedge gateway ...`; answers what it printed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fedge.cli.main", "gateway", *arguments),
            *("--config", str(loop.gateway.config), "--json"),
        ],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def traces(loop: Loop, *needles: bytes) -> list[str]:
    """Files of the gateway that hold one of these."""
    home = loop.gateway.config.parent
    files: list[Path] = [path for path in home.rglob("*") if path.is_file()]
    return [str(p) for p in files if any(needle in content(p) for needle in needles)]


def content(path: Path) -> bytes:
    """What a file holds; nothing where its owner has just renamed or removed it."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def test_a_subject_is_erased_from_a_running_gateway(loop: Loop) -> None:
    """Rows in a closed window and in the open one; feedback on them is refused from then on."""
    infer(loop, toy_inputs(3))
    about = infer(loop, canaries(WINDOW_SLOTS), fedge_subject=PATIENT)
    before = windows(loop)
    wait_until(lambda: windows(loop) > before or before > 0, DEADLINE_S, "a window closes")
    wait_until(
        lambda: any("blocks" in name for name in traces(loop, CANARY.tobytes())),
        DEADLINE_S,
        "the rows are kept",
    )
    assert any("ring.bin" in name for name in traces(loop, CANARY.tobytes()))

    answer = command(loop, "erase", "--subject-file", "-", stdin=PATIENT)

    assert answer["records"] == len(about)
    assert traces(loop, CANARY.tobytes(), PATIENT.encode()) == []
    feedback = json.dumps({"id": about[0], "label": "red"}).encode()
    ask_once(loop.gateway.port, "POST", "/fedge/v1/feedback", feedback)
    infer(loop, toy_inputs(2 * WINDOW_SLOTS))
    closed = windows(loop)
    infer(loop, toy_inputs(WINDOW_SLOTS))
    wait_until(lambda: windows(loop) > closed, DEADLINE_S, "the label was read")
    slot = about[0].rsplit("-", 1)[1]
    assert loop.gateway.rows(f"SELECT * FROM block_labels WHERE slot = {slot}") == []


def test_records_are_erased_by_id(loop: Loop) -> None:
    """Those and no others, asked for while traffic goes on."""
    ids = infer(loop, canaries(2))
    infer(loop, toy_inputs(WINDOW_SLOTS))

    answer = command(loop, "erase", *(f"--record={name}" for name in ids))

    assert answer["records"] == 2
    assert traces(loop, CANARY.tobytes()) == []
    assert command(loop, "erase", f"--record={ids[0]}")["records"] == 0


def test_what_was_withdrawn_serves_no_more(loop: Loop) -> None:
    """The worker learns of it within a second; until then the agent knows better."""
    command(loop, "withdraw", "--purpose", "training", "--purpose", "monitoring", "--subject", "me")
    assert (loop.gateway.settings.state_dir / WITHDRAWALS_FILE).exists()

    infer(loop, canaries(2 * WINDOW_SLOTS), fedge_subject="me")
    closed = windows(loop)
    infer(loop, toy_inputs(WINDOW_SLOTS))

    wait_until(lambda: windows(loop) > closed, DEADLINE_S, "a window closes")
    assert not any("blocks" in name for name in traces(loop, CANARY.tobytes()))
