"""What the coordinator's database promises: migrations, durability, several processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from fakes.centre import WITNESS, FakeClock, Sender
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from fedge.errors import SettingError, StateError
from fedge_server import database as module
from fedge_server.database import HEAD, MIGRATIONS, Database
from fedge_server.fleet import Fleet
from fedge_server.ingest import Ingest
from fedge_server.tables import metadata, run_states


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'fedge.sqlite'}"


def admit_one(database: Database) -> None:
    Fleet(database, FakeClock()).admit(Sender().public_key, "one")


class TestMigrations:
    def test_an_empty_file_becomes_current(self, tmp_path: Path) -> None:
        """A first start needs no step by hand."""
        with Database(url(tmp_path)) as database:
            assert database.revision == HEAD
            admit_one(database)

    def test_a_second_start_changes_nothing(self, tmp_path: Path) -> None:
        """Starting is idempotent: same schema, same rows."""
        with Database(url(tmp_path)) as database:
            admit_one(database)
        before = list(sqlite3.connect(tmp_path / "fedge.sqlite").iterdump())

        Database(url(tmp_path)).close()

        assert list(sqlite3.connect(tmp_path / "fedge.sqlite").iterdump()) == before

    def test_migrations_make_the_tables_that_the_code_uses(self, tmp_path: Path) -> None:
        """Comparing the migrated file with `tables.py` finds no difference."""
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        with Database(url(tmp_path)) as database, database.reading() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []

    def test_head_is_the_newest_migration(self) -> None:
        """The constant that spares a start the migration tool is not out of date."""
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        assert ScriptDirectory.from_config(config).get_heads() == [HEAD]

    def test_the_statements_exist_for_postgres(self) -> None:
        """The migrations use no type that Postgres does not have. (No server is asked here.)"""
        from alembic import command
        from alembic.config import Config

        printed = StringIO()
        config = Config(output_buffer=printed)
        config.set_main_option("script_location", str(MIGRATIONS))
        config.set_main_option("sqlalchemy.url", "postgresql://")
        command.upgrade(config, "head", sql=True)

        assert "CREATE TABLE envelopes" in printed.getvalue()
        assert "BIGSERIAL" in printed.getvalue()
        assert "BYTEA" in printed.getvalue()

    def test_a_current_file_opens_without_the_migration_tool(self, tmp_path: Path) -> None:
        """Flow processes are short: the usual start imports no alembic."""
        Database(url(tmp_path)).close()
        code = (
            "import sys; from fedge_server.database import Database;"
            f"Database({url(tmp_path)!r}).close(); print('alembic' in sys.modules)"
        )

        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

        assert output.stdout.strip() == "False", output.stderr

    def test_a_file_of_the_first_version_keeps_its_envelopes(self, tmp_path: Path) -> None:
        """Rows that were stored before ledger entries and gap records came are read as before."""
        from alembic import command
        from alembic.config import Config

        with Database(url(tmp_path)) as database:
            clock, sender = FakeClock(), Sender()
            admit_one(database)
            Ingest(database, clock, WITNESS, max_payload_bytes=20_000).accept(sender.report(0))
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            with database.writing() as connection:
                config.attributes["connection"] = connection
                command.downgrade(config, "0001")
            assert database.revision == "0001"

        with Database(url(tmp_path)) as database:
            assert database.revision == HEAD
            (state,) = Fleet(database, clock).state().gateways
            assert (state.reports, state.given_up, state.audit_seq) == (1, 0, None)

    def test_a_newer_file_is_refused(self, tmp_path: Path) -> None:
        """A file written by a newer fedge is left as it is."""
        Database(url(tmp_path)).close()
        with sqlite3.connect(tmp_path / "fedge.sqlite") as file:
            file.execute("UPDATE alembic_version SET version_num = '9999'")

        with pytest.raises(StateError, match="9999"):
            Database(url(tmp_path))

    def test_a_killed_migration_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All steps are one transaction: failing after them leaves an empty file."""
        real = module._run_migrations

        def failing(connection: object) -> None:
            real(connection)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "_run_migrations", failing)
        with pytest.raises(KeyboardInterrupt):
            Database(url(tmp_path))
        file = sqlite3.connect(tmp_path / "fedge.sqlite")
        assert file.execute("SELECT name FROM sqlite_master").fetchall() == []

        monkeypatch.undo()
        with Database(url(tmp_path)) as database:
            assert database.revision == HEAD

    def test_four_first_starts_at_once(self, tmp_path: Path) -> None:
        """Coordinator and flows may all find an empty file: each start succeeds."""
        code = f"from fedge_server.database import Database; Database({url(tmp_path)!r}).close()"

        starts = [
            subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)
        ]

        assert [(start.communicate()[1], start.returncode) for start in starts] == [(b"", 0)] * 4


class TestAddresses:
    @pytest.mark.parametrize("address", ["", "nonsense", "nodialect://x", "sqlite+nodriver:///x"])
    def test_a_wrong_address_is_a_setting_error(self, address: str) -> None:
        """It is named as the setting it comes from."""
        with pytest.raises(SettingError, match="database_url"):
            Database(address)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        """An unusable file is said to be one."""
        with pytest.raises(StateError, match="cannot be used"):
            Database(url(tmp_path / "missing"))

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        """Bytes of something else are not overwritten."""
        (tmp_path / "fedge.sqlite").write_bytes(b"precious" * 1000)

        with pytest.raises(StateError):
            Database(url(tmp_path))
        assert (tmp_path / "fedge.sqlite").read_bytes() == b"precious" * 1000


class TestTransactions:
    def test_an_error_undoes_all(self, tmp_path: Path) -> None:
        """All or nothing."""
        with Database(url(tmp_path)) as database:
            with pytest.raises(RuntimeError), database.writing() as connection:
                connection.exec_driver_sql("DELETE FROM gateways")
                connection.exec_driver_sql("INSERT INTO gateways VALUES ('a', 'b', 'c', 1.0)")
                raise RuntimeError
            assert Fleet(database, FakeClock()).admitted() == ()

    def test_a_constraint_speaks(self, tmp_path: Path) -> None:
        """Foreign keys are enforced."""
        with Database(url(tmp_path)) as database:
            row = {"run_id": "ghost", "state": "created", "detail": "", "at": 1.0}
            with pytest.raises(IntegrityError), database.writing() as connection:
                connection.execute(insert(run_states).values(**row))

    def test_commits_reach_the_disk(self, tmp_path: Path) -> None:
        """WAL with full synchronisation, on every connection of the pool."""
        with (
            Database(url(tmp_path)) as database,
            database.reading() as one,
            database.reading() as two,
            database.writing() as three,
        ):
            for connection in (one, two, three):
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"

    def test_a_reader_keeps_its_view_and_holds_nobody_up(self, tmp_path: Path) -> None:
        """A long look at the log sees one moment, while writing goes on."""
        with Database(url(tmp_path)) as database, database.reading() as connection:
            count = "SELECT count(*) FROM gateways"
            assert connection.exec_driver_sql(count).scalar() == 0
            admit_one(database)
            assert connection.exec_driver_sql(count).scalar() == 0
            with database.reading() as later:
                assert later.exec_driver_sql(count).scalar() == 1
