"""What the coordinator promises as witness: one chain for each gateway, confirmed when whole."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from fakes.centre import WITNESS, Centre, FakeClock, Sender, server_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete
from typer.testing import CliRunner

from fedge.cli.server import app
from fedge.config import ServerSettings
from fedge.errors import AuditConflictError, SettingError, SignatureError
from fedge.identity import Identity
from fedge.privacy.heads import sign_head, verify_standing, verify_witnessed
from fedge.privacy.ledger import Ledger
from fedge.privacy.merkle import tree_hash
from fedge.privacy.policy import new_policy
from fedge.records import AuditBatch, BlockLength, LedgerStanding, SignedHead, WitnessedStanding
from fedge.statefile import StateFile
from fedge_server.database import Database
from fedge_server.fleet import Fleet
from fedge_server.ingest import Ingest
from fedge_server.ledger_report import LedgersState, ledgers_state
from fedge_server.ledgers import PAGE_BYTES, Ledgers, read_ledger
from fedge_server.tables import ledger_heads
from fedge_server.witness import KEY_FILE, open_witness

POLICY = new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=4))
SIZE = 12
NONCE = "5" * 32


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return _chain(tmp_path_factory.mktemp("chain"), 1000.0)


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Another ledger of the same gateway, from the first entry on."""
    return _chain(tmp_path_factory.mktemp("fork"), 2000.0)


def _chain(folder: Path, at: float) -> list[bytes]:
    state = StateFile(folder / "state.sqlite")
    ledger = Ledger(state, POLICY, clock=lambda: at)
    for block in range(SIZE - ledger.size):
        ledger.open_block(block)
    entries = list(ledger.entries())
    state.close()
    assert len(entries) == SIZE
    return entries


def batch(
    sender: Sender, seq: int, chain: list[bytes], first: int, end: int, **changes: object
) -> bytes:
    """Entries `first` to `end` (excluded) under the head of all before `end`."""
    head = sign_head(sender.identity, end, tree_hash(chain[:end]).hex(), 1.0)
    head = SignedHead(**{**head.model_dump(), **changes})
    payload = AuditBatch(first, tuple(chain[first:end]), head).to_bytes()
    sealed: bytes = sender.seal("audit", seq, payload)
    return sealed


def standing(centre: Centre, sender: Sender) -> LedgerStanding:
    answer = centre.client.get(f"/v1/ledgers/{sender.fingerprint}/standing/{NONCE}")
    assert answer.status_code == 200
    found = WitnessedStanding.from_bytes(answer.content)
    verify_standing(found, NONCE, sender.identity.public_key)
    return found.standing


def witnessed_size(centre: Centre, sender: Sender) -> int:
    head = standing(centre, sender).witnessed
    return 0 if head is None else head.head.size


class TestConfirming:
    def test_a_whole_ledger_is_confirmed_batch_by_batch(
        self, centre: Centre, chain: list[bytes]
    ) -> None:
        """Each head is countersigned by the key that the coordinator shows."""
        sender = centre.admitted()
        for seq, (first, end) in enumerate([(0, 3), (3, 4), (4, SIZE)]):
            assert centre.post(batch(sender, seq, chain, first, end))[0] == 200

        key = bytes.fromhex(centre.client.get("/v1/witness").json()["public_key"])
        heads = Ledgers(centre.database).witnessed(sender.fingerprint)
        assert [head.head.size for head in heads] == [3, 4, SIZE]
        for head in heads:
            verify_witnessed(head, key, sender.identity.public_key)
            assert head.head.root == tree_hash(chain[: head.head.size]).hex()
        found = standing(centre, sender)
        assert (found.entries, found.next_seq, found.next_window) == (SIZE, 3, 0)

    @given(order=st.permutations([(0, 2), (2, 5), (5, 6), (6, 9), (9, SIZE)]))
    @settings(max_examples=25, deadline=None)
    def test_order_of_arrival_does_not_matter(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        chain: list[bytes],
        order: list[tuple[int, int]],
    ) -> None:
        """A batch that comes before those it follows waits, and is confirmed with the last of
        them; in the end each head is."""
        with Database(f"sqlite:///{tmp_path_factory.mktemp('order') / 'db'}") as database:
            sender, clock = Sender(), FakeClock()
            Fleet(database, clock).admit(sender.public_key, "one")
            ingest = Ingest(database, clock, WITNESS, max_payload_bytes=2**20)
            ledgers, have = Ledgers(database), set[int]()
            for seq, (first, end) in enumerate(order):
                ingest.accept(batch(sender, seq, chain, first, end))
                have |= set(range(first, end))
                whole = next((n for n in range(SIZE) if n not in have), SIZE)
                sizes = [head.head.size for head in ledgers.witnessed(sender.fingerprint)]
                assert max(sizes, default=0) == whole
            assert sizes == [2, 5, 6, 9, SIZE]

    def test_overlapping_batches_and_late_heads(self, centre: Centre, chain: list[bytes]) -> None:
        """Entries that are there already may come again under a head of their own size."""
        sender = centre.admitted()
        centre.post(batch(sender, 0, chain, 0, 8))
        assert centre.post(batch(sender, 1, chain, 2, 5))[0] == 200
        assert centre.post(batch(sender, 2, chain, 6, 10))[0] == 200

        heads = Ledgers(centre.database).witnessed(sender.fingerprint)
        assert [head.head.size for head in heads] == [5, 8, 10]

    def test_entries_of_an_earlier_version_count(self, centre: Centre, chain: list[bytes]) -> None:
        """Batches without heads, and a database that never followed them: the first head after
        them is confirmed over all."""
        sender = centre.admitted()
        for seq, (first, end) in enumerate([(0, 3), (3, 6)]):
            data = AuditBatch(first, tuple(chain[first:end])).to_bytes()
            assert centre.post(sender.seal("audit", seq, data))[0] == 200
        assert standing(centre, sender).witnessed is None
        with centre.database.writing() as connection:
            connection.execute(delete(ledger_heads))
        assert standing(centre, sender).entries == 6

        assert centre.post(batch(sender, 2, chain, 6, 9))[0] == 200
        assert witnessed_size(centre, sender) == 9

    def test_the_same_again_is_confirmed_once(self, centre: Centre, chain: list[bytes]) -> None:
        """A retry gets the same answer and adds nothing."""
        sender = centre.admitted()
        data = batch(sender, 0, chain, 0, 4)
        assert centre.post(data) == centre.post(data)
        assert len(Ledgers(centre.database).witnessed(sender.fingerprint)) == 1


class TestRefusing:
    @pytest.mark.parametrize(
        "changes",
        [
            {"root": "0" * 64},
            {"signature": "0" * 128},
            {"gateway": "0" * 32},
            {"simulated": True},
            {"size": 5},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_a_head_that_does_not_hold(
        self, centre: Centre, chain: list[bytes], changes: dict[str, object]
    ) -> None:
        """A wrong root, signature, gateway, kind or size: nothing of the batch is stored."""
        sender = centre.admitted()
        centre.post(batch(sender, 0, chain, 0, 2))

        code, body = centre.post(batch(sender, 1, chain, 2, 4, **changes))

        assert code == 409 and "ledger" in body["error"]
        assert standing(centre, sender).entries == 2
        assert witnessed_size(centre, sender) == 2
        assert len(Ledgers(centre.database).refusals(sender.fingerprint)) == 1

    def test_a_signed_lie_about_the_root(self, centre: Centre, chain: list[bytes]) -> None:
        """The signature is right, the root is that of other entries."""
        sender = centre.admitted()
        head = sign_head(sender.identity, 4, "a" * 64, 1.0)
        data = AuditBatch(0, tuple(chain[:4]), head).to_bytes()
        assert centre.post(sender.seal("audit", 0, data))[0] == 409

        # The lie comes first this time, and its gap closes later.
        data = AuditBatch(2, tuple(chain[2:4]), head).to_bytes()
        assert centre.post(sender.seal("audit", 1, data))[0] == 200
        assert centre.post(batch(sender, 2, chain, 0, 2))[0] == 200
        assert witnessed_size(centre, sender) == 2
        assert standing(centre, sender).entries == 4
        assert len(Ledgers(centre.database).refusals(sender.fingerprint)) == 2
        assert centre.post(batch(sender, 3, chain, 4, 6))[0] == 200
        assert witnessed_size(centre, sender) == 6

    @pytest.mark.parametrize(("first", "end"), [(0, 3), (2, 5), (5, 8), (0, SIZE)])
    def test_a_fork(
        self, centre: Centre, chain: list[bytes], fork: list[bytes], first: int, end: int
    ) -> None:
        """Another ledger of the same gateway is refused wherever it overlaps or touches, and
        shown."""
        sender = centre.admitted()
        centre.post(batch(sender, 0, chain, 0, 5))

        assert centre.post(batch(sender, 1, fork, first, end))[0] == 409

        assert witnessed_size(centre, sender) == 5
        state = ledgers_state(centre.database, WITNESS.public_key, 1.0).gateways[0]
        assert state.in_conflict and state.refusals[0].entry <= end
        assert "IN CONFLICT" in state.describe()

    def test_two_heads_of_one_size(self, centre: Centre, chain: list[bytes]) -> None:
        """While entries are missing a second head of the same size is refused at once."""
        sender = centre.admitted()
        centre.post(batch(sender, 0, chain, 4, 6))
        other = sign_head(sender.identity, 6, "b" * 64, 1.0)
        data = AuditBatch(4, tuple(chain[4:6]), other).to_bytes()

        assert centre.post(sender.seal("audit", 1, data))[0] == 409

    def test_refusals_of_one_gateway_are_bounded(
        self, centre: Centre, chain: list[bytes], fork: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A gateway that keeps trying fills no database."""
        monkeypatch.setattr("fedge_server.witness.MAX_REFUSALS", 3)
        sender = centre.admitted()
        centre.post(batch(sender, 0, chain, 0, 5))
        for seq in range(1, 9):
            assert centre.post(batch(sender, seq, fork, 0, 3))[0] == 409
        assert len(Ledgers(centre.database).refusals(sender.fingerprint)) == 3


class TestAnswers:
    def test_entries_come_back_in_pages(
        self, centre: Centre, chain: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Byte for byte, each page bounded; from behind the last there is nothing."""
        monkeypatch.setattr("fedge_server.ledgers.PAGE_BYTES", 1000)
        sender = centre.admitted()
        centre.post(batch(sender, 0, chain, 0, 7))
        centre.post(batch(sender, 1, chain, 7, SIZE))
        found: list[bytes] = []
        while True:
            path = f"/v1/ledgers/{sender.fingerprint}/entries?from={len(found)}"
            answer = centre.client.get(path)
            if answer.status_code == 204:
                break
            page = AuditBatch.from_bytes(answer.content)
            assert page.first_seq == len(found)
            assert sum(map(len, page.entries[:-1])) < 1000 <= PAGE_BYTES
            found += page.entries
        assert found == chain

    @pytest.mark.parametrize(
        "question", [f"/standing/{NONCE}", "/entries?from=0", "/entries?from=7"]
    )
    def test_a_simulation_hears_the_same(
        self, centre: Centre, chain: list[bytes], question: str
    ) -> None:
        """Over HTTP and in one process a gateway's questions get the same answers."""
        sender = centre.admitted()
        centre.post(batch(sender, 0, chain, 0, 7))
        path = f"/v1/ledgers/{sender.fingerprint}{question}"

        answer = centre.client.get(path)
        witness = open_witness(centre.settings)

        assert read_ledger(Ledgers(centre.database), witness, path) == (
            answer.status_code,
            answer.content,
        )

    def test_an_answer_is_to_one_question(self, centre: Centre, chain: list[bytes]) -> None:
        """Signed with the question's number: heard earlier, or changed on its way, it is none."""
        sender = centre.admitted()
        centre.post(batch(sender, 0, chain, 0, 7))
        path = f"/v1/ledgers/{sender.fingerprint}/standing"
        answer = WitnessedStanding.from_bytes(centre.client.get(f"{path}/{NONCE}").content)
        key = sender.identity.public_key
        shorter = answer.standing.model_copy(update={"entries": 6})
        changes: list[dict[str, object]] = [
            {"standing": shorter},
            {"nonce": "6" * 32},
            {"witness": WITNESS.public_key.hex()},
        ]

        verify_standing(answer, NONCE, key)
        with pytest.raises(SignatureError, match="another question"):
            verify_standing(answer, "6" * 32, key)
        for change in changes:
            lie = answer.model_copy(update=change)
            with pytest.raises(SignatureError):
                verify_standing(lie, lie.nonce, key)

    def test_a_new_key_confirms_what_the_old_one_did(
        self, centre: Centre, chain: list[bytes]
    ) -> None:
        """A coordinator whose key was replaced speaks with one voice; what is stored stays."""
        sender = centre.admitted()
        centre.post(batch(sender, 0, chain, 0, 7))
        ledgers = Ledgers(centre.database)

        answer = ledgers.answer(sender.fingerprint, NONCE, WITNESS)

        assert answer is not None and answer.standing.witnessed is not None
        verify_standing(answer, NONCE, sender.identity.public_key)
        verify_witnessed(answer.standing.witnessed, WITNESS.public_key, sender.identity.public_key)
        (stored,) = ledgers.witnessed(sender.fingerprint)
        assert stored.witness == open_witness(centre.settings).public_key.hex()

    @pytest.mark.parametrize("nonce", ["", "x" * 32, "5" * 31, "5" * 33])
    def test_a_question_without_a_number_is_not_answered(self, centre: Centre, nonce: str) -> None:
        sender = centre.admitted()
        path = f"/v1/ledgers/{sender.fingerprint}/standing/{nonce}"
        assert centre.client.get(path).status_code == (400 if nonce else 404)
        assert read_ledger(Ledgers(centre.database), WITNESS, path)[0] == 404

    @pytest.mark.parametrize("path", [f"/standing/{NONCE}", "/entries?from=0"])
    def test_a_stranger_is_not_told(self, centre: Centre, path: str) -> None:
        assert centre.client.get(f"/v1/ledgers/{'0' * 32}{path}").status_code == 404

    @pytest.mark.parametrize("first", ["-1", "x", "1" * 30])
    def test_a_number_that_is_none(self, centre: Centre, first: str) -> None:
        """A wrong question is a 400 in our form, never a crash."""
        sender = centre.admitted()
        answer = centre.client.get(f"/v1/ledgers/{sender.fingerprint}/entries?from={first}")
        assert answer.status_code == 400 and set(answer.json()) == {"error"}

    def test_numbers_go_on_above_what_was_seen(self, centre: Centre) -> None:
        """Envelopes and windows of a gateway that comes back without its state."""
        sender = centre.admitted()
        centre.post(sender.report(7, window=40))
        found = standing(centre, sender)
        assert (found.next_seq, found.next_window, found.entries) == (8, 41, 0)


class TestKey:
    def test_made_once_beside_the_database(self, tmp_path: Path) -> None:
        """Readable by its owner alone, and the same at the next start."""
        settings = server_settings(tmp_path / "data")
        first = open_witness(settings)
        assert open_witness(settings).public_key == first.public_key
        mode = (settings.data_dir / KEY_FILE).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600

    def test_shown_to_whoever_sets_gateways_up(self, tmp_path: Path) -> None:
        """Before anything else ran, and the same that the coordinator then signs with."""
        settings = server_settings(tmp_path)
        (tmp_path / "server.toml").write_text('data_dir = "."\npolicy = "policy.toml"\n')
        shown = CliRunner().invoke(app, ["witness", "--config", str(tmp_path / "server.toml")])
        assert shown.exit_code == 0
        assert shown.stdout.split() == [open_witness(settings).public_key.hex()]

    def test_one_that_is_named_is_never_made(self, tmp_path: Path) -> None:
        """A key that settings name and that is missing is an error, not a new witness."""
        named = tmp_path / "w.pem"
        settings = server_settings(tmp_path, keys={"witness": named})
        with pytest.raises(SettingError):
            open_witness(settings)
        made = Identity.create(named)
        assert open_witness(settings).public_key == made.public_key


class TestStatus:
    def test_what_lags_and_what_was_spent(self, centre: Centre, chain: list[bytes]) -> None:
        """Entries stored and confirmed, how far behind the gateway says, charges by block."""
        sender = centre.admitted()
        centre.post(batch(sender, 0, chain, 0, 8))
        (state,) = ledgers_state(centre.database, WITNESS.public_key, 1.0).gateways
        assert state.lag is None
        centre.post(sender.status(1, ledger_entries=11, ledger_standing="in-step"))

        (state,) = ledgers_state(centre.database, WITNESS.public_key, 1.0).gateways

        assert (state.entries, state.witnessed_size, state.lag) == (8, 8, 3)
        assert state.standing == "in-step" and not state.in_conflict and state.fault == ""
        assert all(0 < block.epsilon <= POLICY.epsilon for block in state.spent)
        assert "3 behind the gateway" in state.describe()

    def test_a_conflict_error_survives_its_journey(self) -> None:
        """It is made from plain arguments."""
        error = AuditConflictError("a" * 32, 3)
        assert AuditConflictError(*error.args).reason == error.reason


class TestCommand:
    def test_ledgers_at_the_command_line(
        self, tmp_path: Path, chain: list[bytes], fork: list[bytes]
    ) -> None:
        """Text for people, JSON for scripts, status 3 while a ledger is in conflict."""
        config = tmp_path / "server.toml"
        config.write_text('data_dir = "data"\npolicy = "policy.toml"\n')
        settings = ServerSettings.load(config)
        sender, clock, witness = Sender(), FakeClock(), open_witness(settings)
        with Database(settings.database) as database:
            Fleet(database, clock).admit(sender.public_key, "one")
            ingest = Ingest(database, clock, witness, max_payload_bytes=2**20)
            ingest.accept(batch(sender, 0, chain, 0, 5))
            calm = CliRunner().invoke(app, ["ledgers", "--config", str(config)])
            with pytest.raises(AuditConflictError):
                ingest.accept(batch(sender, 1, fork, 3, 6))
            loud = CliRunner().invoke(app, ["ledgers", "--json", "--config", str(config)])

        assert calm.exit_code == 0 and loud.exit_code == 3
        assert witness.public_key.hex() in calm.stdout and "5 entries" in calm.stdout
        state = LedgersState.from_bytes(loud.stdout)
        assert state.gateways[0].in_conflict and state.simulated == ()
