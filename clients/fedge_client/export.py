"""`fedge gateway export-state`: what support needs of a gateway, and no record of it.

One zip file: settings without secrets, the findings of `doctor`, status, the ledger,
what lies in spool and journal (sizes and states, no payloads), the latest logs. It is
made from a list of what goes in: records, labels, sketches, the ring, keys and tokens
are on no list. What local detectors found is left out of findings and logs: an export
goes to somebody else.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from fedge.config import GatewaySettings
from fedge.errors import FedgeError, StateError
from fedge_client.control import SupervisorClient
from fedge_client.doctor import examine
from fedge_client.local_marks import CHECK, LOG_MARK
from fedge_client.state_layout import read_layout

QUERIES = {
    "install": "SELECT * FROM install",
    "install_refusals": "SELECT * FROM install_refusals",
    "spool": (
        "SELECT channel, seq, kind, state, created, LENGTH(envelope) AS bytes, detail FROM spool"
    ),
    "spool_counters": "SELECT * FROM spool_counters",
    "windows": "SELECT window, slot, position, withheld FROM watch",
    "stored_windows": "SELECT window, block, first_slot, last_slot, rows FROM block_windows",
}
"""What is read of the state file, by name in the export. Nothing else is."""

LOG_TAIL_BYTES = 256 * 1024
SECRET_WORDS = ("token", "secret", "password", "key")
IN_ADDRESS = re.compile(rb"(?<=://)[^/@\s\"]+@")
"""User and password in an address, wherever it is told."""


def export_state(settings: GatewaySettings, config: Path, target: Path) -> list[str]:
    """Write the export; answers the names in it.

    Raises:
        StateError: `target` exists, or the state file cannot be read.
    """
    if target.exists():
        raise StateError(f"{target} exists; choose another name")
    names: list[str] = []
    part = target.with_name(f".{target.name}.part")
    try:
        part.unlink(missing_ok=True)
        part.touch(mode=0o600, exist_ok=False)
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in _contents(settings, config):
                archive.writestr(name, IN_ADDRESS.sub(b"(left out)@", data))
                names.append(name)
        part.replace(target)
    except OSError as error:
        raise StateError(f"cannot write {target}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return names


def _contents(settings: GatewaySettings, config: Path) -> list[tuple[str, bytes]]:
    found = [
        ("settings.json", _json(_without_secrets(tomllib.loads(config.read_text())))),
        ("doctor.json", _json([f.to_json() for f in examine(settings) if f.check != CHECK])),
        ("status.json", _json(_status(settings))),
    ]
    for served in settings.served:
        found += _state(served)
        found += _logs(served)
    return found


def _status(settings: GatewaySettings) -> dict[str, Any]:
    try:
        return SupervisorClient(settings.runtime_dir / "supervisor.sock").status()
    except FedgeError as error:
        return {"error": str(error)}


def _state(served: GatewaySettings) -> list[tuple[str, bytes]]:
    folder, path = served.family, served.state_dir / "state.sqlite"
    found = [(f"{folder}/layout.json", _json({"layout": read_layout(served.state_dir)}))]
    plain = (served.state_dir / name for name in ("policy.toml", "active.json"))
    found += [(f"{folder}/{file.name}", file.read_bytes()) for file in plain if file.exists()]
    if not path.exists():
        return found
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            known = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            for name, query in QUERIES.items():
                if query.rpartition(" FROM ")[2] in known:
                    found.append((f"{folder}/{name}.json", _json(_rows(db, query))))
            if "ledger_entries" in known:
                bodies = db.execute("SELECT body FROM ledger_entries ORDER BY seq")
                found.append((f"{folder}/ledger.jsonl", b"\n".join(bytes(b) for (b,) in bodies)))
    except sqlite3.DatabaseError as error:
        raise StateError(f"cannot read {path}: {error}") from error
    return found


def _rows(db: sqlite3.Connection, query: str) -> list[dict[str, object]]:
    cursor = db.execute(query)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _logs(served: GatewaySettings) -> list[tuple[str, bytes]]:
    folder = served.state_dir / "logs"
    return [
        (f"{served.family}/logs/{path.name}", _without_alarms(path.read_bytes()[-LOG_TAIL_BYTES:]))
        for path in sorted(folder.glob("*.log"))
    ]


def _without_alarms(log: bytes) -> bytes:
    """A log's lines except those about local alarms, the first of which may be cut."""
    lines = log.splitlines(keepends=True)
    if len(log) == LOG_TAIL_BYTES:
        lines = lines[1:]
    return b"".join(line for line in lines if LOG_MARK.encode() not in line)


def _without_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """Settings name files, not secrets; a key that looks like one is left out all the same."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if any(word in name.lower() for word in SECRET_WORDS):
            kept[name] = "(left out)"
        elif isinstance(value, dict):
            kept[name] = _without_secrets(value)
        elif isinstance(value, list):
            kept[name] = [_without_secrets(v) if isinstance(v, dict) else v for v in value]
        else:
            kept[name] = value
    return kept


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, default=str).encode() + b"\n"
