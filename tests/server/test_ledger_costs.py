"""What a ledger costs the coordinator, counted in SQLite's own steps: it grows as the ledger does.

A gateway may push its entries one by one for years, so a ledger lies in thousands of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from fakes.centre import WITNESS, FakeClock, Sender
from sqlalchemy import event

from fedge.config import ServerSettings
from fedge.privacy.heads import sign_head
from fedge.privacy.ledger import Ledger
from fedge.privacy.merkle import Frontier, leaf_hash
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import AuditBatch, BlockLength
from fedge.statefile import StateFile
from fedge_server import ledgers as ledgers_module
from fedge_server import witness as witness_module
from fedge_server.admin import init_server
from fedge_server.database import Database
from fedge_server.fleet import Fleet
from fedge_server.ingest import Ingest
from fedge_server.ledger_report import ledgers_state
from fedge_server.ledgers import Ledgers
from fedge_server.review import collect_fleet

POLICY = new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=4))
BATCHES, SHORT = 160, 40


class Log:
    """A coordinator's database that counts steps; one gateway pushes an entry at a time."""

    def __init__(self, folder: Path, settings: ServerSettings, database: Database) -> None:
        self.database, self.sender, self.steps = database, Sender(), 0
        event.listen(database._engine.pool, "checkout", self._count)
        self.settings, clock = settings, FakeClock()
        Fleet(database, clock).admit(self.sender.public_key, "one")
        ingest = Ingest(database, clock, WITNESS, max_payload_bytes=2**20)
        self.pushes, frontier = list[int](), Frontier()
        for seq, entry in enumerate(_entries(folder)):
            frontier = frontier.appended(leaf_hash(entry))
            head = sign_head(self.sender.identity, frontier.size, frontier.root.hex(), 1.0)
            batch = self.sender.seal("audit", 2 * seq, AuditBatch(seq, (entry,), head).to_bytes())
            # What else a gateway sends lies between.
            ingest.accept(self.sender.status(2 * seq + 1))
            self.pushes.append(self.taken(lambda data=batch: ingest.accept(data)))

    def taken(self, work: Callable[[], object]) -> int:
        """Steps that `work` makes SQLite take."""
        before = self.steps
        work()
        return self.steps - before

    def _count(self, connection: object, *_: object) -> None:
        def step() -> int:
            self.steps += 1
            return 0

        connection.set_progress_handler(step, 1)  # type: ignore[attr-defined]


def _entries(folder: Path) -> tuple[bytes, ...]:
    with closing(StateFile(folder / "state.sqlite")) as state:
        ledger = Ledger(state, POLICY, clock=lambda: 1.0)
        with state.transaction():
            for block in range(BATCHES - ledger.size):
                ledger.open_block(block)
        return ledger.entries()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    folder = tmp_path_factory.mktemp("costs")
    write_policy(POLICY, folder / "policy.toml")
    settings = init_server(folder / "host", policy=folder / "policy.toml")
    with Database(settings.database) as database:
        yield Log(folder, settings, database)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> Iterator[list[int]]:
    """Calls of a function while it is entered; what it does stays."""
    calls, real = [0], getattr(module, name)

    def called(*given: object, **more: object) -> object:
        calls[0] += 1
        return real(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, called)
        yield calls


def test_the_steps_are_counted(log: Log) -> None:
    """Reading a row takes some, reading nothing none."""
    assert log.taken(lambda: None) == 0
    assert log.taken(lambda: next(Ledgers(log.database).entries(log.sender.fingerprint))) > 10


def test_a_batch_is_found_in_the_same_steps_wherever_it_lies(log: Log) -> None:
    """The first, one in the middle and the last of all."""

    def find(seq: int) -> int:
        with log.database.reading() as connection:
            return log.taken(
                lambda: witness_module.batch_with(connection, log.sender.fingerprint, seq)
            )

    costs = [find(seq) for seq in (0, BATCHES // 2, BATCHES - 1)]
    assert min(costs) > 5 and max(costs) - min(costs) <= 5


def test_reading_a_whole_ledger_reads_each_batch_once(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And finds it in as many steps as any other: four times the ledger is four times the work."""
    reader, who = Ledgers(log.database), log.sender.fingerprint

    def some(count: int) -> None:
        assert len(list(zip(range(count), reader.entries(who), strict=False))) == count

    with counted(monkeypatch, witness_module, "read_stored_audit") as read:
        assert len(list(reader.entries(who))) == BATCHES
    assert read == [BATCHES]
    short, long = log.taken(lambda: some(SHORT)), log.taken(lambda: some(BATCHES))
    assert long <= 1.1 * (BATCHES / SHORT) * short


def test_a_page_reads_its_own_batches_alone(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch, witness_module, "read_stored_audit") as read:
        page = Ledgers(log.database).page(log.sender.fingerprint, BATCHES - 3)

    assert page is not None and len(page.entries) == 3
    assert read == [3]


def test_a_push_costs_the_same_however_long_the_ledger_is(log: Log) -> None:
    """Storing it, following the chain and confirming its head; index pages may split."""
    early, late = sum(log.pushes[10:SHORT]), sum(log.pushes[-(SHORT - 10) :])

    assert late <= 1.3 * early


def test_a_gateway_is_told_how_it_stands_in_steps_that_do_not_grow(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what is kept beside the entries: none of them is read."""
    with counted(monkeypatch, witness_module, "read_stored_audit") as read:
        found = Ledgers(log.database).standing(log.sender.fingerprint)

    assert found is not None and found.entries == BATCHES
    assert read == [0]


@pytest.mark.parametrize("reading", ["a bundle of it", "how it stands"])
def test_reviews_read_each_batch_a_fixed_number_of_times(
    log: Log, monkeypatch: pytest.MonkeyPatch, reading: str
) -> None:
    """Once for its entries, whatever is derived from them."""

    def review() -> object:
        if reading == "a bundle of it":
            return collect_fleet(log.settings, log.database, WITNESS)
        return ledgers_state(log.database, WITNESS.public_key, 9.0)

    with (
        counted(monkeypatch, witness_module, "read_stored_audit") as read,
        counted(monkeypatch, ledgers_module, "batch_with") as found,
    ):
        review()
    assert read == [BATCHES] and found == [BATCHES + 1]
