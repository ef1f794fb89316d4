"""What the installer must remember across power loss: three tables of the state file.

Facts only; what to do next is the installer's. Every method is one transaction
and joins a larger one that is open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from fedge.delivery.switch import Slot
from fedge.errors import UpdateRejectedError
from fedge.records import ReleaseManifest
from fedge.statefile import StateFile

InstallState = Literal[
    "idle", "offered", "downloaded", "staged", "trial", "probation", "committed", "stepped-back"
]
TABLES = (
    """CREATE TABLE IF NOT EXISTS install (
        one INTEGER PRIMARY KEY CHECK (one = 1), state TEXT NOT NULL, manifest BLOB, variant TEXT,
        slot TEXT, tries_left INTEGER NOT NULL, since REAL NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS install_running (
        one INTEGER PRIMARY KEY CHECK (one = 1), slot TEXT NOT NULL, variant TEXT NOT NULL,
        manifest BLOB NOT NULL, floor INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS install_refusals (
        number INTEGER PRIMARY KEY AUTOINCREMENT, counter INTEGER NOT NULL, sha256 TEXT NOT NULL,
        reason TEXT NOT NULL, detail TEXT NOT NULL, at REAL NOT NULL, current INTEGER NOT NULL,
        UNIQUE (counter, sha256))""",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Install:
    """The install under way, or how the last one ended.

    Attributes:
        manifest: the release concerned; None before the first.
        variant, slot: set once chosen.
        tries_left: trials that may still be started.
        since: clock time at which probation began.
    """

    state: InstallState = "idle"
    manifest: ReleaseManifest | None = None
    variant: str = "none"
    slot: Slot | None = None
    tries_left: int = 0
    since: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """The release that serves, and the lowest counter that may still be installed."""

    slot: Slot
    variant: str
    manifest: ReleaseManifest
    floor: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a release was refused. Counter 0: what was offered could not even be read."""

    counter: int
    reason: str
    detail: str
    at: float


class InstallJournal:
    """The installer's memory inside the gateway's one state file."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        state.ensure(*TABLES)

    def install(self) -> Install:
        """The install under way, or how the last one ended; an idle one before the first."""
        rows = self._state.rows(
            "SELECT state, manifest, variant, slot, tries_left, since FROM install"
        )
        if not rows:
            return Install()
        state, manifest, variant, slot, tries_left, since = rows[0]
        return Install(
            state=cast(InstallState, state),
            manifest=None if manifest is None else _manifest(manifest),
            variant=cast(str, variant),
            slot=cast("Slot | None", slot),
            tries_left=cast(int, tries_left),
            since=cast(float, since),
        )

    def write(self, install: Install) -> None:
        """Replace what is known about the install under way."""
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO install VALUES (1, ?, ?, ?, ?, ?, ?)",
                (
                    install.state,
                    None if install.manifest is None else install.manifest.to_bytes(),
                    install.variant,
                    install.slot,
                    install.tries_left,
                    install.since,
                ),
            )

    def running(self) -> Running | None:
        """The release that serves; None before the first was taken up."""
        rows = self._state.rows("SELECT slot, variant, manifest, floor FROM install_running")
        if not rows:
            return None
        slot, variant, manifest, floor = rows[0]
        return Running(
            slot=cast(Slot, slot),
            variant=cast(str, variant),
            manifest=_manifest(manifest),
            floor=cast(int, floor),
        )

    def commit(self, install: Install, running: Running) -> None:
        """A release is taken up: from here on its refused predecessors are history."""
        with self._state.transaction() as db:
            self.write(install)
            self._write_running(running)
            db.execute("UPDATE install_refusals SET current = 0")

    def end(
        self,
        install: Install,
        *,
        refused: ReleaseManifest | None,
        error: UpdateRejectedError,
        at: float,
        running: Running | None = None,
    ) -> None:
        """An install ended with a refusal; both facts are written together.

        Args:
            refused: the release; None if what was offered could not be read.
            running: given when another release serves now than before.
        """
        counter, sha256 = (refused.counter, refused.content_sha256) if refused else (0, "")
        with self._state.transaction() as db:
            self.write(install)
            if running is not None:
                self._write_running(running)
            db.execute(
                "INSERT OR REPLACE INTO install_refusals"
                " (counter, sha256, reason, detail, at, current) VALUES (?, ?, ?, ?, ?, 1)",
                (counter, sha256, error.reason, str(error), at),
            )

    def metadata_is_readable(self) -> None:
        """What is offered can be read (again): an unreadable offer is history."""
        with self._state.transaction() as db:
            db.execute("UPDATE install_refusals SET current = 0 WHERE counter = 0 AND current = 1")

    def refusal_of(self, manifest: ReleaseManifest) -> Refusal | None:
        """Whether exactly this release was refused before, and why."""
        return self._refusal(
            "WHERE counter = ? AND sha256 = ?", manifest.counter, manifest.content_sha256
        )

    def current_refusal(self) -> Refusal | None:
        """The latest refusal since the last release was taken up."""
        return self._refusal("WHERE current = 1 ORDER BY number DESC LIMIT 1")

    def _refusal(self, where: str, *values: object) -> Refusal | None:
        rows = self._state.rows(
            f"SELECT counter, reason, detail, at FROM install_refusals {where}", *values
        )
        if not rows:
            return None
        counter, reason, detail, at = rows[0]
        return Refusal(
            counter=cast(int, counter),
            reason=cast(str, reason),
            detail=cast(str, detail),
            at=cast(float, at),
        )

    def _write_running(self, running: Running) -> None:
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO install_running VALUES (1, ?, ?, ?, ?)",
                (running.slot, running.variant, running.manifest.to_bytes(), running.floor),
            )


def _manifest(data: object) -> ReleaseManifest:
    return ReleaseManifest.from_bytes(cast(bytes, data))
