"""Setting up a central host, and admitting gateways, for the command line and the demo."""

from __future__ import annotations

import time
from pathlib import Path

from fedge.config import ServerSettings
from fedge.delivery.keys import KeyFiles
from fedge.delivery.repository import ReleaseRepository
from fedge.drift.fleet.interventions import Intervention
from fedge.durable import make_folder, write_file
from fedge.errors import SettingError
from fedge.learning.chosen import shipped_fits
from fedge.privacy.approval import copy_policy, read_policy_and_approval
from fedge.records import CHOICE_FILE, PrivacyPolicy
from fedge_server.alerts import alert_troubles
from fedge_server.database import Database
from fedge_server.fleet import Fleet, FleetState, Gateway
from fedge_server.interventions import InterventionLog
from fedge_server.ledger_report import LedgersState, ledgers_state
from fedge_server.published import choice_troubles
from fedge_server.verdicts import FleetStanding, fleet_standing
from fedge_server.witness import open_witness

Toml = dict[str, object]


def init_server(
    folder: Path,
    *,
    policy: Path,
    offline_keys: Path | None = None,
    settings: Toml | None = None,
) -> ServerSettings:
    """Make a central host in `folder`; nothing there is ever overwritten.

    Writes `server.toml`, which names no key, and one file for each process that signs,
    `builder.toml`, `evaluator.toml` and `publisher.toml`, each naming the one key that this
    process may read. Makes the keys in `keys/`, the database and an empty release repository,
    whose `releases/metadata/1.root.json` under the data folder is what gateways are given.

    Where fedge brings the study that chose the adapter of this task, and it was made under a
    budget like this policy's, its record is put there and named as `[training] choice`.

    Args:
        policy: the fleet's privacy policy, checked and copied, and its approval.
        offline_keys: where the root and targets keys go, which no process reads;
            `offline-keys` in `folder` unless given. Carry them away.
        settings: further keys of `server.toml`, tables as dictionaries.

    Raises:
        SettingError: the folder holds a server already or cannot be made, or a setting or the
            policy is wrong.
    """
    if (folder / "server.toml").exists():
        raise SettingError(f"{folder} already holds a server; choose another folder")
    allowed, _ = read_policy_and_approval(policy)
    values: Toml = {"data_dir": "data", "policy": "policy.toml", **(settings or {})}
    checked = ServerSettings.parse(values, folder.resolve(), "server.toml")
    try:
        make_folder(folder)
    except OSError as error:
        raise SettingError(f"cannot make the folder {folder}: {error}") from error
    if (choice := _shipped_choice(checked, allowed)) is not None:
        write_file(folder / CHOICE_FILE, choice)
        training = {"choice": CHOICE_FILE, **checked.training.model_dump(exclude_unset=True)}
        values |= {"training": training}
        checked = ServerSettings.parse(values, folder.resolve(), "server.toml")
    copy_policy(policy, folder / "policy.toml")
    make_folder(checked.data_dir)
    keys = KeyFiles.create(offline=offline_keys or folder / "offline-keys", online=folder / "keys")
    ReleaseRepository.create(checked.releases_dir, keys, [checked.family])
    Database(checked.database).close()
    for name, key in (("builder", "builder"), ("evaluator", "evaluator"), ("publisher", "online")):
        own = values | {"keys": {key: f"keys/{key}.pem"}}
        write_file(folder / f"{name}.toml", _toml(own).encode())
    # Last: a folder with a `server.toml` is whole.
    write_file(folder / "server.toml", _toml(values).encode())
    return checked


def _shipped_choice(settings: ServerSettings, policy: PrivacyPolicy) -> bytes | None:
    training = settings.training
    if training.choice is not None:
        return None  # the caller names his own
    return shipped_fits(settings.task, training, policy)


def admit(settings: ServerSettings, public_key: str, name: str) -> Gateway:
    """Accept what the holder of `public_key` (64 hex digits) signs; see `Fleet.admit`.

    Works while the coordinator runs: the next envelope is checked against it.
    """
    with Database(settings.database) as database:
        return Fleet(database, time.time).admit(public_key, name)


def fleet_state(settings: ServerSettings) -> FleetState:
    """The fleet as the log shows it, also while no coordinator runs."""
    with Database(settings.database) as database:
        return Fleet(database, time.time).state()


def ledgers(settings: ServerSettings) -> LedgersState:
    """How the gateways' ledgers stand, also while no coordinator runs."""
    witness = open_witness(settings).public_key
    with Database(settings.database) as database:
        return ledgers_state(database, witness, time.time())


def troubles(settings: ServerSettings) -> tuple[str, ...]:
    """What is wrong at the centre itself, in words; `alert_troubles` and `choice_troubles`."""
    with Database(settings.database) as database:
        return (*alert_troubles(settings, database), *choice_troubles(settings))


def standing(settings: ServerSettings) -> FleetStanding:
    """How the fleet stands by the verdicts stored last, also while no coordinator runs."""
    with Database(settings.database) as database:
        return fleet_standing(settings, database, time.time())


def lift_hold(settings: ServerSettings, gateway: str, *, by: str, reason: str) -> Intervention:
    """End a gateway's hold; see `InterventionLog.lift`."""
    with Database(settings.database) as database:
        return InterventionLog(database, time.time).lift(gateway, by=by, reason=reason)


def _toml(values: Toml) -> str:
    """TOML of plain values and one level of tables."""
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    lines = [f"{name} = {_value(v)}" for name, v in values.items() if name not in tables]
    for table, entries in tables.items():
        lines += ["", f"[{table}]", *(f"{name} = {_value(v)}" for name, v in entries.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
