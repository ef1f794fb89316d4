"""A killed agent: what it reserved stands, what it had not settled was not released."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.faults_disk import Fault, FaultyDisk, How, calls, compiled, compiler

from fedge.errors import DrawLostError, ReservationError
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import read_policy, write_policy
from fedge.privacy.rdp import event_nano
from fedge.privacy.replay import replay
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
    ("point", "charged", "end"),
    [
        ("inside reserve", False, None),
        ("reserved", True, None),
        ("granted", True, "lost"),
        ("noised", True, "lost"),
        ("inside settle", True, "lost"),
        ("settled", True, "settled"),
    ],
)
def test_a_kill_leaves_the_charge_standing(
    tmp_path: Path, policy: PrivacyPolicy, point: str, charged: bool, end: str | None
) -> None:
    """Killed between reserve and settle: charged, not released, and no noise is drawn twice."""
    state, ledger = killed_at(tmp_path, policy, point)
    price = event_nano(EVENT, policy.alpha)
    try:
        assert ledger.spending(0).training_nano == (price if charged else 0)
        ledger.check_chain()

        reservation = ledger.reserve_run("run", [0], [EVENT])
        assert ledger.spending(0).training_nano == price
        assert ledger.settled(reservation, "train/0") == (BYTES if end == "settled" else None)
        outbox = state.rows("SELECT name FROM sqlite_master WHERE name = 'outbox'")
        assert len(outbox) == (1 if end == "settled" else 0)
        assert replay(ledger.entries()).lost == ({(0, "train/0")} if end == "lost" else set())

        if end is not None:
            with pytest.raises(DrawLostError if end == "lost" else ReservationError):
                ledger.grant(reservation, "train/0", EVENT)
            with pytest.raises(ReservationError):  # nor under another name
                ledger.grant(reservation, "train/1", EVENT)
        if end != "settled":
            with pytest.raises(ReservationError):
                ledger.settle(reservation, "train/0", BYTES, "os")
        if end is None:
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


WRITER = """
import sys
from pathlib import Path
from fedge.errors import DrawLostError
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import read_policy
from fedge.records import DiscreteGaussianEvent, sha256_hex
from fedge.statefile import StateFile

folder = Path(sys.argv[1])
event = DiscreteGaussianEvent(sensitivity2=1, sigma2=1000, count=2, dimension=3)
state = StateFile(folder / "state" / "state.sqlite")
ledger = Ledger(state, read_policy(folder / "policy.toml"), clock=lambda: 5.0)
state.ensure("CREATE TABLE IF NOT EXISTS outbox (run TEXT PRIMARY KEY)")
ledger.open_block(0)
for run in ("a", "b", "c"):
    reservation = ledger.reserve_run(run, [0], [event])
    if ledger.settled(reservation, "train/0") is None:
        try:
            ledger.grant(reservation, "train/0", event).take(1, 1000, 3)
        except DrawLostError:
            continue
        with state.transaction() as db:
            db.execute("INSERT INTO outbox VALUES (?)", (run,))
            ledger.settle(reservation, "train/0", sha256_hex(run.encode()), "os")
state.close()
"""


class TestDisk:
    """A real process whose disk fails, or that is killed, at some of all its writes."""

    @pytest.fixture(scope="class")
    def disk(self, tmp_path_factory: pytest.TempPathFactory) -> FaultyDisk:
        if compiler() is None:
            pytest.skip("no C compiler to build the faulty disk with")
        return compiled(tmp_path_factory.mktemp("faulty"))

    @pytest.fixture
    def folder(self, tmp_path: Path, policy: PrivacyPolicy) -> Path:
        (tmp_path / "state").mkdir()
        write_policy(policy, tmp_path / "policy.toml")
        return tmp_path

    def write(self, disk: FaultyDisk, folder: Path, fault: Fault) -> int:
        """Run the writer with a fault; its exit status."""
        faulty = disk.environment(folder / "state", folder / "log", fault)
        return subprocess.run(
            [sys.executable, "-c", WRITER, str(folder)],
            env=os.environ | faulty,
            stderr=subprocess.DEVNULL,
            timeout=60,
        ).returncode

    def check(self, folder: Path, policy: PrivacyPolicy) -> tuple[set[str], int]:
        """Charged is at least released, and the chain holds; what was released, how much lost."""
        state = StateFile(folder / "state" / "state.sqlite")
        try:
            ledger = Ledger(state, policy, clock=lambda: 6.0)
            ledger.check_chain()
            known = state.rows("SELECT name FROM sqlite_master WHERE name = 'outbox'")
            sent = {run for (run,) in state.rows("SELECT run FROM outbox")} if known else set()
            charged = sum(spending.training_nano for spending in ledger.spendings())
            assert charged >= len(sent) * event_nano(EVENT, policy.alpha)
            totals = replay(ledger.entries())
            assert set(totals.settled.values()) == {sha256_hex(run.encode()) for run in sent}
            assert not totals.lost & totals.settled.keys()
            return sent, len(totals.lost)
        finally:
            state.close()

    @pytest.mark.parametrize("how", [How.KILL_BEFORE, How.KILL_WITHIN, How.FULL, How.BROKEN])
    def test_charged_is_never_less_than_released(
        self, disk: FaultyDisk, folder: Path, policy: PrivacyPolicy, how: How
    ) -> None:
        """Three faults one after the other on one state, and a last start that finishes."""
        whole = folder / "whole"
        (whole / "state").mkdir(parents=True)
        write_policy(policy, whole / "policy.toml")
        assert self.write(disk, whole, Fault()) == 0
        writes = len(calls(whole / "log"))
        assert writes > 20

        for part in (0.45, 0.3, 0.15):
            assert self.write(disk, folder, Fault(how, int(part * writes))) != 0
            self.check(folder, policy)
        assert self.write(disk, folder, Fault()) == 0

        sent, lost = self.check(folder, policy)
        assert sent <= {"a", "b", "c"}
        assert len(sent) + lost == 3
        state = StateFile(folder / "state" / "state.sqlite")
        try:
            charged = Ledger(state, policy, clock=lambda: 7.0).spending(0).training_nano
        finally:
            state.close()
        assert charged == 3 * event_nano(EVENT, policy.alpha)
