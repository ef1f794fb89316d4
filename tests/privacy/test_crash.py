"""A killed agent: what it reserved stands, what it had not settled was not released."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedge.errors import ReservationError
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import read_policy, write_policy
from fedge.privacy.rdp import event_nano
from fedge.records import DiscreteGaussianEvent, PrivacyPolicy, sha256_hex
from fedge.statefile import StateFile

EVENT = DiscreteGaussianEvent(sensitivity2=1, sigma2=1000, count=2, dimension=3)
BYTES = sha256_hex(b"noised bytes")

AGENT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from fedge.privacy.ledger import Ledger
from fedge.privacy.noise import OsNoise
from fedge.privacy.policy import read_policy
from fedge.records import DiscreteGaussianEvent, sha256_hex
from fedge.statefile import StateFile

folder, die_at = Path(sys.argv[1]), sys.argv[2]
event = DiscreteGaussianEvent(sensitivity2=1, sigma2=1000, count=2, dimension=3)

def point(name):
    if name == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

state = StateFile(folder / "state.sqlite")
ledger = Ledger(state, read_policy(folder / "policy.toml"), clock=lambda: 5.0)
ledger.open_block(0)
with state.transaction():
    reservation = ledger.reserve_run("run", [0], [event])
    point("inside reserve")
point("reserved")
grant = ledger.grant(reservation, "train/0", event)
point("granted")
OsNoise().discrete_gaussian(np.zeros(3, np.int64), sensitivity2=1, sigma2=1000, grant=grant)
point("noised")
with state.transaction() as db:
    db.execute("CREATE TABLE outbox (bytes BLOB)")
    ledger.settle(reservation, "train/0", sha256_hex(b"noised bytes"), "os")
    db.execute("INSERT INTO outbox VALUES (?)", (b"noised bytes",))
    point("inside settle")
point("settled")
"""


def killed_at(folder: Path, policy: PrivacyPolicy, point: str) -> tuple[StateFile, Ledger]:
    """Run an agent that dies at `point`, and open what it left."""
    write_policy(policy, folder / "policy.toml")
    agent = subprocess.run([sys.executable, "-c", AGENT, str(folder), point], timeout=60)
    assert agent.returncode == -signal.SIGKILL
    state = StateFile(folder / "state.sqlite")
    return state, Ledger(state, read_policy(folder / "policy.toml"), clock=lambda: 6.0)


@pytest.mark.parametrize(
    ("point", "charged", "settled"),
    [
        ("inside reserve", False, False),
        ("reserved", True, False),
        ("granted", True, False),
        ("noised", True, False),
        ("inside settle", True, False),
        ("settled", True, True),
    ],
)
def test_a_kill_leaves_the_charge_standing(
    tmp_path: Path, policy: PrivacyPolicy, point: str, charged: bool, settled: bool
) -> None:
    """Killed between reserve and settle: charged, not released, and the retry costs nothing."""
    state, ledger = killed_at(tmp_path, policy, point)
    price = event_nano(EVENT, policy.alpha)
    try:
        assert ledger.spending(0).training_nano == (price if charged else 0)
        ledger.check_chain()

        reservation = ledger.reserve_run("run", [0], [EVENT])
        assert ledger.spending(0).training_nano == price
        assert ledger.settled(reservation, "train/0") == (BYTES if settled else None)
        outbox = state.rows("SELECT name FROM sqlite_master WHERE name = 'outbox'")
        assert len(outbox) == (1 if settled else 0)

        if settled:
            with pytest.raises(ReservationError):
                ledger.grant(reservation, "train/0", EVENT)
            return
        with pytest.raises(ReservationError):
            ledger.settle(reservation, "train/0", BYTES, "os")
        ledger.grant(reservation, "train/0", EVENT).take(1, 1000, 3)
        ledger.settle(reservation, "train/0", BYTES, "os")
        assert ledger.spending(0).training_nano == price
        ledger.check_chain()
    finally:
        state.close()


def test_a_second_owner_is_kept_out(tmp_path: Path) -> None:
    """Two processes never charge the same ledger at once."""
    state = StateFile(tmp_path / "state.sqlite")
    code = (
        "import sys\nfrom pathlib import Path\nfrom fedge.errors import StateError\n"
        "from fedge.statefile import StateFile\n"
        "try:\n    StateFile(Path(sys.argv[1]))\n"
        "except StateError:\n    sys.exit(7)\n"
    )
    try:
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "state.sqlite")],
            env=os.environ.copy(),
            timeout=60,
        )
    finally:
        state.close()

    assert other.returncode == 7
