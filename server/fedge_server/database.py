"""The coordinator's database: one engine, short transactions, migrations at start.

Several processes (coordinator, flows, command line) share it. On SQLite each
transaction that returned is on the disk (WAL, `synchronous=FULL`), readers never wait
for the writer, and a writer takes its lock when it begins, so that nobody fails half-way.
What the rows mean belongs to `ingest`, `fleet` and `facts`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from fedge.errors import SettingError, StateError

HEAD = "0005"
"""The newest migration. Kept here so that a start on a current file needs no alembic."""

BUSY_TIMEOUT_S = 30.0
MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """An open, current database.

    Args:
        url: an SQLAlchemy address, e.g. `sqlite:////var/lib/fedge/fedge.sqlite`. The folder
            of an SQLite file must exist; the file is made where it is missing.

    Raises:
        SettingError: the address is wrong or its driver is not installed.
        StateError: the database cannot be read, or a newer fedge wrote it.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._sqlite = self._engine.dialect.name == "sqlite"
        # SQLite lets writers of one file in at random; inside a process they queue in order.
        self._writer = threading.Lock() if self._sqlite else contextlib.nullcontext()
        try:
            self._migrate()
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view of the database.

        Raises:
            StateError: the database does not answer.
        """
        with _typed_errors(self._engine), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """All or nothing, on disk when it returns.

        Raises:
            StateError: the database does not answer, is locked for too long, or the disk is full.
            sqlalchemy.exc.IntegrityError: a constraint spoke; nothing changed.
        """
        with self._writer, _typed_errors(self._engine), self._engine.connect() as connection:
            connection.execution_options(fedge_begin="BEGIN IMMEDIATE")
            with connection.begin():
                yield connection

    @property
    def revision(self) -> str | None:
        """The migration that the database stands at; None where it is empty."""
        with self.reading() as connection:
            return _revision(connection)

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _migrate(self) -> None:
        if self.revision == HEAD:
            return
        # One transaction around all steps: a process killed inside leaves the old schema, and
        # of two that start at once the second finds the work done.
        with self.writing() as connection:
            _run_migrations(connection)


def _run_migrations(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        found = _revision(connection)
        raise StateError(
            f"the database stands at migration {found!r}, this fedge knows up to {HEAD!r}; "
            f"install the fedge that wrote it ({error})"
        ) from error


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _engine(url: str) -> Engine:
    try:
        sqlite = make_url(url).get_backend_name() == "sqlite"
        # The pool must not be what 40 request threads wait for.
        options: dict[str, Any] = {"pool_size": 8, "max_overflow": 40}
        if sqlite:
            options["connect_args"] = {"timeout": BUSY_TIMEOUT_S}
        engine = create_engine(url, **options)
    except (ArgumentError, ImportError, TypeError) as error:
        raise SettingError(f"database_url cannot be used: {error}") from error
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Python's driver would open transactions by itself, and late; ours are opened below.
    connection.isolation_level = None
    cursor = connection.cursor()
    # First of all: switching to WAL asks for the whole file, which another start may hold.
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("fedge_begin", "BEGIN"))


@contextlib.contextmanager
def _typed_errors(engine: Engine) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except SQLAlchemyError as error:
        where = engine.url.render_as_string(hide_password=True)
        reason = getattr(error, "orig", None) or error
        raise StateError(f"the database {where} cannot be used: {reason}") from error
