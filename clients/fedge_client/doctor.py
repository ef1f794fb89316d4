"""`fedge gateway doctor`: what would keep this gateway from working, and what to do about it.

Each check looks at one thing and changes nothing (two write a file and remove it). What
cannot be found out is `unknown`, never `ok`. Whether findings matter is for who reads
them; only `fail` makes the command fail.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import urllib3

from fedge.config import GatewaySettings
from fedge.errors import FedgeError, StateError
from fedge.identity import Identity
from fedge.models.hardware import hardware_class
from fedge.privacy.approval import read_policy_and_approval
from fedge_client.agent.trusted_witness import TABLE as WITNESS_TABLE
from fedge_client.agent.trusted_witness import WHAT_TO_DO
from fedge_client.control import SupervisorClient
from fedge_client.local_marks import ALARMS_TABLE, CHECK, LATEST_ALARMS
from fedge_client.state_layout import LAYOUT, read_layout

Level = Literal["ok", "warn", "fail", "unknown"]

EARLIEST_S = 1_735_689_600.0
"""2025-01-01: a clock before it was never set."""
MAX_SKEW_S, WARN_SKEW_S = 300.0, 5.0
SLOW_FSYNC_S = 0.1
SPARE_BYTES = 512 * 2**20
MIN_OPEN_FILES = 1024
TIMEOUT_S = 5.0
RECENT_S = 86400.0
"""A local alarm is worth a warning for a day."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at.
        level: ok, warn (works, not for long or not well), fail (does not work), unknown.
        detail: what was seen.
        todo: what to do; empty where nothing is to be done.
    """

    check: str
    level: Level
    detail: str
    todo: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def examine(settings: GatewaySettings, clock: Callable[[], float] = time.time) -> list[Finding]:
    """Run every check; one that breaks by itself is reported as `unknown`."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("clock", lambda: _clock(settings, clock)),
        ("disk", lambda: _disk(settings)),
        ("permissions", lambda: _permissions(settings)),
        ("identity and policy", lambda: _identity(settings)),
        ("state", lambda: _state(settings)),
        ("processor", _processor),
        ("limits", lambda: _limits(settings)),
        ("reachability", lambda: _reachability(settings)),
        ("processes", lambda: _processes(settings)),
        ("ledger", lambda: _ledger(settings)),
        (CHECK, lambda: _local_drift(settings, clock)),
    ]
    found: list[Finding] = []
    for name, check in checks:
        try:
            found += list(check())
        except (FedgeError, OSError, ValueError) as error:
            found.append(Finding(name, "unknown", str(error), "see the message"))
    return found


def _clock(settings: GatewaySettings, clock: Callable[[], float]) -> Iterator[Finding]:
    now = clock()
    if now < EARLIEST_S:
        yield Finding(
            "clock",
            "fail",
            f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now))}",
            "set it (timedatectl set-ntp true); releases are judged by their expiry dates",
        )
        return
    there = _server_time(settings.coordinator_url)
    if there is None:
        yield Finding(
            "clock",
            "unknown",
            "no server to compare with",
            "check coordinator_url, or compare the clock by hand",
        )
        return
    skew = now - there
    level: Level = "ok" if abs(skew) <= WARN_SKEW_S else "warn"
    if abs(skew) > MAX_SKEW_S:
        level = "fail"
    todo = "" if level == "ok" else "let NTP or PTP set the clock (timedatectl status)"
    yield Finding("clock", level, f"{skew:+.0f} s against the coordinator", todo)


def _server_time(url: str) -> float | None:
    """The coordinator's clock, by the Date header of its answer; good to about a second."""
    if not url:
        return None
    try:
        answer = _get(url + "/health")
        date = answer.headers.get("date")
        return parsedate_to_datetime(date).timestamp() if date else None
    except (urllib3.exceptions.HTTPError, ValueError):
        return None


def _disk(settings: GatewaySettings) -> Iterator[Finding]:
    folder = settings.state_dir
    if not folder.is_dir():
        yield Finding("disk", "fail", f"{folder} is missing", "run `fedge gateway init`")
        return
    free = shutil.disk_usage(folder).free
    held = sum(map(_size, folder.rglob("*")))
    want = settings.retention.max_bytes + settings.spool_bytes + SPARE_BYTES - held
    level: Level = "ok" if free >= want else "warn"
    if free < SPARE_BYTES:
        level = "fail"
    yield Finding(
        "disk space",
        level,
        f"{free / 2**20:.0f} MiB free, quotas may still take {max(want, 0) / 2**20:.0f} MiB",
        "" if level == "ok" else "free some, or lower retention.max_bytes and spool_bytes",
    )
    yield _write_probe(folder)


def _size(path: Path) -> int:
    """Of a file; 0 for what is none, or gone meanwhile, as files of a running gateway may be."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _write_probe(folder: Path) -> Finding:
    probe = folder / f".doctor-{os.getpid()}"
    try:
        started = time.monotonic()
        with probe.open("wb") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        took = time.monotonic() - started
    except OSError as error:
        return Finding(
            "disk writes",
            "fail",
            str(error),
            f"remount it writable, or give {folder} to the user who runs the gateway",
        )
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    if took > SLOW_FSYNC_S:
        return Finding(
            "disk writes", "warn", f"fsync takes {took:.2f} s", "the disk is slow or worn"
        )
    return Finding("disk writes", "ok", f"fsync takes {1000 * took:.1f} ms")


def _permissions(settings: GatewaySettings) -> Iterator[Finding]:
    states = [served.state_dir for served in settings.served]
    for path in (state / name for state in states for name in ("identity.pem", "subject.key")):
        if path.exists() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding(
                "permissions", "fail", f"{path} is readable by others", f"chmod 600 {path}"
            )
    lent = [settings.token_file, *(each.escalation.token_file for each in settings.served)]
    lent += [settings.tls.key] if settings.tls is not None else []
    for borrowed in lent:
        # The group may read these: they belong to somebody else who lends them to the gateway.
        if borrowed and borrowed.exists() and borrowed.stat().st_mode & stat.S_IRWXO:
            todo = f"chmod o= {borrowed}"
            yield Finding("permissions", "fail", f"{borrowed} is open to others", todo)
    mode = stat.S_IMODE(settings.state_dir.stat().st_mode)
    if mode & stat.S_IRWXO:
        todo = f"chmod 700 {settings.state_dir}"
        yield Finding("permissions", "fail", f"{settings.state_dir} is open to others", todo)
    else:
        yield Finding("permissions", "ok", f"{settings.state_dir} has mode {mode:o}")
    if not os.access(settings.runtime_dir, os.W_OK):
        todo = f"make {settings.runtime_dir} and give it to the user who runs the gateway"
        yield Finding("permissions", "fail", f"{settings.runtime_dir} is not writable", todo)


def _identity(settings: GatewaySettings) -> Iterator[Finding]:
    for served in settings.served:
        state = served.state_dir
        identity = Identity.load(state / "identity.pem")
        policy, approval = read_policy_and_approval(
            state / "policy.toml", settings.policy_reviewers
        )
        missing = [] if (state / "root.json").exists() else ["root.json"]
        if missing:
            todo = "copy root.json from the release repository"
            yield Finding("identity", "fail", f"{state / 'root.json'} is missing", todo)
        yield Finding(
            "identity",
            "ok",
            f"{served.family}: {identity.fingerprint}, epsilon {policy.epsilon:g} a block, "
            + ("signed by nobody" if approval is None else f"allowed by {approval.reviewer}"),
        )


def _state(settings: GatewaySettings) -> Iterator[Finding]:
    for served in settings.served:
        layout = read_layout(served.state_dir)
        if layout not in (None, LAYOUT):
            todo = "`fedge gateway run` migrates an older one; a newer one needs a newer fedge"
            yield Finding("state layout", "warn", f"{layout}, this build has {LAYOUT}", todo)
        path = served.state_dir / "state.sqlite"
        if not path.exists():
            yield Finding("state file", "ok", f"{served.family}: none yet, nothing was served")
            continue
        try:
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:  # locked, or not ours to read: no damage
            todo = "look again as the user who runs the gateway, while it runs or is stopped"
            yield Finding("state file", "unknown", f"{path}: {error}", todo)
            continue
        except sqlite3.DatabaseError as error:
            verdict = str(error)
        if verdict == "ok":
            yield Finding("state file", "ok", f"{path} is sound")
        else:
            todo = (
                "stop the gateway and keep a copy of the folder; a new state_dir with a new "
                "identity serves again, the budgets of the old blocks are gone for good"
            )
            yield Finding("state file", "fail", f"{path}: {verdict}", todo)


def _processor() -> Iterator[Finding]:
    found = hardware_class()
    if found == "x86":
        todo = "expect slow inference: releases are tuned for AVX2 or VNNI"
        yield Finding("processor", "warn", "x86 without AVX2", todo)
    else:
        yield Finding("processor", "ok", found)


def _limits(settings: GatewaySettings) -> Iterator[Finding]:
    soft = _open_files(settings)
    if soft is None:
        return  # without a worker there is nothing to judge; `processes` says so
    if soft < max(MIN_OPEN_FILES, settings.limits.max_connections + 64):
        todo = "raise LimitNOFILE of the unit, or lower limits.max_connections"
        yield Finding("open files", "warn", f"at most {soft}", todo)
    else:
        yield Finding("open files", "ok", f"at most {soft}")


def _open_files(settings: GatewaySettings) -> int | None:
    """How many files the worker may have open; None where there is none."""
    try:
        facts = SupervisorClient(settings.runtime_dir / "supervisor.sock").status()
        limits = Path(f"/proc/{facts['worker_pid']}/limits").read_text()
    except (FedgeError, OSError):
        return None
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    return int(line.split()[3])


def _reachability(settings: GatewaySettings) -> Iterator[Finding]:
    if not settings.coordinator_url:
        yield Finding(
            "coordinator", "warn", "none is set", "set coordinator_url to report anything"
        )
    else:
        yield _http("coordinator", settings.coordinator_url + "/health")
    if settings.releases_url:
        yield _http("releases", settings.releases_url + "/metadata/timestamp.json")
    if settings.superlink and settings.train:
        host, _, port = settings.superlink.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=TIMEOUT_S).close()
            yield Finding("superlink", "ok", f"{settings.superlink} accepts connections")
        except (OSError, ValueError) as error:
            todo = "check the network and `superlink`; serving and watching go on without it"
            yield Finding("superlink", "warn", f"{settings.superlink}: {error}", todo)
    if settings.escalation.url:
        yield _http("escalation", settings.escalation.url.rstrip("/") + "/v2/health/ready")


def _http(name: str, url: str) -> Finding:
    try:
        status = _get(url).status
    except urllib3.exceptions.HTTPError as error:
        todo = "check network, firewall and the address; the gateway works on and catches up later"
        return Finding(name, "warn", f"{url}: {type(error).__name__}", todo)
    if status == 200:
        return Finding(name, "ok", f"{url} answers")
    return Finding(
        name, "warn", f"{url} answers {status}", "check that the address is the right one"
    )


def _get(url: str) -> urllib3.BaseHTTPResponse:
    pool = urllib3.PoolManager(num_pools=1, timeout=urllib3.Timeout(TIMEOUT_S), retries=False)
    return pool.request("GET", url)


def _processes(settings: GatewaySettings) -> Iterator[Finding]:
    facts: dict[str, Any] = {}
    for served in settings.served:
        try:
            facts = SupervisorClient(
                settings.runtime_dir / "supervisor.sock", served.family
            ).status()
        except FedgeError:
            yield Finding("processes", "warn", "the gateway does not run", "fedge gateway run")
            return
        if facts.get("worker_pid") is None:
            todo = f"no release is installed yet, or see {served.state_dir / 'logs'}/worker-*.log"
            yield Finding("worker", "fail", f"no model {served.family} is served", todo)
        else:
            seen = f"{served.family}: slot {facts['slot']}, {facts['worker_restarts']} restarts"
            yield Finding("worker", "ok", seen)
    if facts.get("agent_pid") is None:
        yield Finding("agent", "fail", "it does not run", "see logs/agent.log")
    else:
        yield Finding("agent", "ok", f"{facts['agent_restarts']} restarts")


def _ledger(settings: GatewaySettings) -> Iterator[Finding]:
    """Whether each model's ledger goes on from what the coordinator confirmed."""
    for served in settings.served:
        path = served.state_dir / "state.sqlite"
        rows = _rows(path, "ledger_standing", "SELECT state, detail FROM ledger_standing")
        state, detail = rows[0] if rows else ("unknown", "no agent has asked yet")
        seen = f"{served.family}: {state}, {detail}"
        trusted, refused = _witness_keys(served, path)
        if refused is not None:
            seen = f"{served.family}: another witness answers, {refused}; trusted is {trusted}"
            yield Finding("ledger", "fail", seen, WHAT_TO_DO)
        elif state == "in-step":
            yield Finding("ledger", "ok", seen)
        elif state == "out-of-step":
            todo = "restart the gateway: it recovers its ledger; if it does not, see the log"
            yield Finding("ledger", "fail", seen, todo)
        else:
            todo = "reports wait until the coordinator was asked: see that it can be reached, and "
            todo += "that it admitted this gateway (fedge server admit)"
            yield Finding("ledger", "warn", seen, todo)


def _witness_keys(served: GatewaySettings, path: Path) -> tuple[str | None, str | None]:
    """The trusted witness's key, and the other one that answered last."""
    rows = _rows(path, WITNESS_TABLE, f"SELECT trusted, refused FROM {WITNESS_TABLE}")
    trusted, refused = rows[0] if rows else (None, None)
    if served.witness_key not in (None, trusted):
        return served.witness_key, None  # set since: the next start goes by it
    return trusted, refused


def _local_drift(settings: GatewaySettings, clock: Callable[[], float]) -> Iterator[Finding]:
    """What the local detectors found: for this machine's operator, and in no export."""
    for served in settings.served:
        if not served.local_drift.enabled:
            continue
        if importlib.util.find_spec("river") is None:
            todo = "pip install 'fedge[drift]', or set local_drift.enabled = false"
            yield Finding(CHECK, "fail", f"{served.family}: river is not installed", todo)
            continue
        alarm = _latest_alarm(served.state_dir / "state.sqlite")
        if alarm is None:
            yield Finding(CHECK, "ok", f"{served.family}: no alarm is kept")
            continue
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(alarm["at"]))
        seen = f"{served.family}: {alarm['signal']} {alarm['before']} -> {alarm['after']}, {at}"
        if clock() - alarm["at"] > RECENT_S:
            yield Finding(CHECK, "ok", seen)
        else:
            todo = "look at what the gateway sees (camera, sensors); the centre judges by itself"
            yield Finding(CHECK, "warn", seen, todo)


def _latest_alarm(path: Path) -> dict[str, Any] | None:
    """The newest local alarm in a state file; None where there is none."""
    rows = _rows(path, ALARMS_TABLE, LATEST_ALARMS, 1)
    found: dict[str, Any] | None = json.loads(rows[0][0]) if rows else None
    return found


def _rows(path: Path, table: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Rows of a state file beside a running agent; none where file or table are missing.

    Raises:
        StateError: it cannot be read.
    """
    if not path.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            known = "SELECT 1 FROM sqlite_master WHERE name = ?"
            if db.execute(known, (table,)).fetchone() is None:
                return []
            return db.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise StateError(f"cannot read {path}: {error}") from error
