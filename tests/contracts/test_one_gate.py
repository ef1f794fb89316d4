"""The egress gate is one place: whatever leaves a gateway passed it, or is on a list with a reason.

Static: who may open a connection, who may put into the spool, who may settle a charge. The
lists are read from the source; a new file that talks to anything shows up here. Dynamic: what
a played gateway sent, down to each request.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from contracts_world import World

from fedge.privacy.entries import read_entry
from fedge.privacy.replay import replay
from fedge.records import AuditBatch, GatewayStatus
from fedge_client.agent.egress import PUBLIC_FACTS

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "fedge_client"
FOLDERS = (CLIENT, ROOT / "fedge" / "delivery", ROOT / "fedge" / "serving")

NETWORK = {
    *("socket", "socketserver", "ssl", "http.client", "http.server", "urllib.request"),
    *("urllib3", "requests", "httpx", "aiohttp", "websockets", "httptools", "uvicorn"),
    *("grpc", "flwr", "opentelemetry", "smtplib", "ftplib", "xmlrpc", "telnetlib"),
}
"""Modules with which one can talk to another process."""

OPENERS = {
    *("open_connection", "open_unix_connection", "start_server", "start_unix_server"),
    *("create_connection", "create_unix_connection", "create_server", "create_unix_server"),
    *("create_datagram_endpoint", "sock_connect", "connect_accepted_socket"),
}
"""Calls of asyncio and of the socket module that open a connection or wait for one."""

LEAVES_THE_HOST = {
    "agent/post.py": "sends what the gate let into the spool, asks for the ledger's standing",
    "agent/telemetry.py": "exports the status, public facts alone; off unless a collector is set",
    "courier.py": "Flower's side: answers with envelopes that the gate sealed",
    "supernode.py": "Flower's side: starts its SuperNode and refuses other bundles",
    "doctor.py": "asks once, by hand, whether the servers can be reached; sends nothing",
    "fedge/delivery/fetcher.py": "asks for public files by name",
    "fedge/serving/upstream.py": "what `escalation` sends, for records that the ledger excluded",
}

STAYS_ON_THE_HOST = {
    "admin_client.py": "unix socket of the agent, same user",
    "agent/admin_port.py": "unix socket of the agent, same user",
    "agent/alarm_webhook.py": "local alarms, to a loopback address by its number; off unless set",
    "agent/courier_port.py": "unix socket of the agent, same group",
    "peers.py": "who is at the other end of a unix socket",
    "children.py": "hands listening sockets to workers",
    "control.py": "unix socket of the supervisor",
    "control_port.py": "unix socket of the supervisor",
    "facts.py": "asks the agent over its unix socket",
    "frames.py": "what courier and agent say to each other",
    "notify.py": "systemd's datagram socket",
    "ops.py": "status and metrics, on loopback only",
    "slot_keeper.py": "readiness of its workers",
    "sockets.py": "the listening sockets of the supervisor",
    "supervisor.py": "the listening sockets of the supervisor",
}

ANSWERS = {
    "fedge/serving/composition.py": "what a worker is made of",
    "fedge/serving/connection.py": "HTTP of the inference port: answers who asked",
    "fedge/serving/heads.py": "reads the address in a request's head; opens nothing",
    "fedge/serving/listener.py": "the inference port",
    "fedge/serving/tls.py": "TLS of the inference port",
    "fedge/serving/worker.py": "the inference port",
    "fedge/serving/relay.py": "another model's worker on this host, over a unix socket",
    "fedge/serving/escalation.py": "decides what `upstream` may send",
}


# --- who may talk at all -----------------------------------------------------------------


def test_only_listed_files_can_open_a_connection() -> None:
    """A file that imports a network module, or opens a connection, is listed with its reason."""
    listed = {**LEAVES_THE_HOST, **STAYS_ON_THE_HOST, **ANSWERS}
    found = {
        _name(path)
        for path in _sources()
        if any(_is_network(module) for module in _imports(path)) or OPENERS & set(_calls(path))
    }
    assert sorted(found - set(listed)) == []


def test_only_the_sender_speaks_http_in_the_agent() -> None:
    """Beside Flower, the fetcher, escalation and telemetry there is one HTTP client."""
    found = {
        _name(path)
        for path in _sources()
        for module in _imports(path)
        if module.partition(".")[0] in ("urllib3", "requests", "httpx", "aiohttp", "grpc", "flwr")
    }
    assert found == {
        *("agent/post.py", "courier.py", "supernode.py", "doctor.py"),
        "fedge/delivery/fetcher.py",
    }


def test_a_breaker_stands_before_every_server() -> None:
    """Each resident caller of another host stops asking one that does not answer."""
    for name in ("agent/sender.py", "agent/telemetry.py", "fedge/delivery/fetcher.py"):
        assert "CircuitBreaker(" in _path(name).read_text(), name
    escalation = [p for p in _sources() if p.name.startswith("escalation")]
    assert any("CircuitBreaker" in path.read_text() for path in escalation)


# --- who may put anything on its way -----------------------------------------------------


def test_only_the_gate_puts_into_the_spool() -> None:
    """No other file on the gateway calls `Spool.put` or writes the spool's table."""
    callers = {_name(p) for p in _sources() if {"put", "put_status"} & set(_calls(p))}
    assert callers == {"agent/egress.py", "agent/spool.py"}
    writers = {
        _name(path)
        for path in _sources()
        if any(
            text in path.read_text()
            for text in ("INTO spool", "UPDATE spool ", "DELETE FROM spool")
        )
    }
    assert writers == {"agent/spool_rows.py"}
    assert {_name(p) for p in _sources() if "Spool" in _calls(p)} == {"agent/agent.py"}
    assert {_name(p) for p in _sources() if "SpoolRows" in _calls(p)} == {"agent/spool.py"}
    users = {
        _name(path)
        for path in _sources()
        if any(
            module.endswith((".spool_rows", ".spool_gaps", ".spool_quota"))
            for module in _imports(path)
        )
    }
    assert users == {"agent/spool.py", "agent/spool_gaps.py", "agent/spool_quota.py"}


def test_only_the_spool_signs() -> None:
    """Nothing else makes an envelope, so nothing else can be taken by the coordinator."""
    own = [path for path in _sources() if path.is_relative_to(CLIENT)]
    assert {_name(p) for p in own if {"seal", "sign"} & set(_calls(p))} == {"agent/spool_rows.py"}


def test_only_the_audit_trail_signs_heads() -> None:
    """Beside envelopes one thing is signed: hashes over entries that are handed over, or that a
    reviewer is given by hand."""
    own = [path for path in _sources() if path.is_relative_to(CLIENT)]
    makers = {_name(p) for p in own if "sign_head" in _calls(p)}
    assert makers == {"agent/audit.py", "ledger_export.py"}


def test_only_the_gate_settles() -> None:
    """A charge is settled where its bytes are kept, and nowhere else."""
    assert {_name(p) for p in _sources() if "settle" in _calls(p)} == {"agent/egress.py"}


def test_only_the_sender_posts() -> None:
    """The one `Post` is made with the agent's ports and used by its sender."""
    makers = {_name(p) for p in _sources() if "HttpPost" in _calls(p)}
    assert makers <= {"agent/__main__.py", "agent/process.py"}
    assert {_name(p) for p in _sources() if "Sender" in _calls(p)} == {"agent/agent.py"}
    assert {_name(p) for p in _sources() if "_post" in _calls(p)} == {"agent/sender.py"}


def test_public_facts_are_closed_types() -> None:
    """What passes free is a record with declared fields, none of them text of any length."""
    assert {kind.__name__ for kind in PUBLIC_FACTS} == {"GatewayStatus"}
    for name, field in GatewayStatus.model_fields.items():
        if field.annotation is str:
            limits = [getattr(m, "max_length", None) for m in field.metadata]
            assert any(limits) or name == "release_sha256", name


# --- what stays with the operator ---------------------------------------------------------

LOCAL = {"agent/local_drift.py", "agent/alarm_book.py", "agent/alarm_webhook.py"}
"""The local fast path: it computes from records without noise."""

KNOWS_LOCAL = {
    "agent/agent.py": "feeds it, and puts what it found into the local facts alone",
    "agent/local_drift.py": "is it",
}

OUTWARD = (
    *("egress", "spool", "spool_rows", "spool_gaps", "spool_quota", "sender", "post"),
    *("telemetry", "audit", "training", "courier_port"),
)
"""Modules of the agent through which something leaves, or by which the gateway acts."""

CLOSES = ("watch", "window_close", "window_report")
"""Modules of the agent that close windows."""


def test_the_local_fast_path_knows_no_way_out() -> None:
    """It imports nothing that sends, charges, trains or closes windows, and nothing asks it."""
    for name in LOCAL:
        known = {module.rpartition(".")[2] for module in _imports(_path(name))}
        assert not known & {*OUTWARD, *CLOSES, "ledger", "sqlite"}, name
    users = {
        _name(path)
        for path in _sources()
        if any("local_drift" in m or "alarm_" in m for m in _imports(path))
    }
    assert users == set(KNOWS_LOCAL)
    assert {_name(p) for p in _sources() if "AlarmWebhook" in _calls(p)} == {"agent/local_drift.py"}


def test_public_facts_are_collected_without_it() -> None:
    """Of the agent's two kinds of facts only the local ones mention it."""
    tree = ast.parse(_path("agent/agent.py").read_text())
    using = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and part.attr == "local"
    }
    wired = {"_open_stream", "_open_rights"}
    assert using == {*wired, "tidy_once", "local_facts", "tell_alarms_once"}


# --- what a played gateway did -----------------------------------------------------------


def test_every_request_is_an_envelope_or_asks_for_a_public_file(world: World) -> None:
    """The one server that the gateway knows heard nothing else, but what it knows of this very
    ledger; and no query or cookie."""
    lines = [request.split(b"\r\n", 1)[0].decode() for request in world.of("request")]
    posts = [line for line in lines if line.startswith("POST")]
    assert set(posts) == {"POST /v1/envelopes HTTP/1.1"}
    assert len(posts) <= len(world.of("envelope"))
    for line in set(lines) - set(posts):
        method, path, _ = line.split(" ")
        asks_for_file = path.startswith("/releases/") and "?" not in path
        # Names nobody but this gateway, which the envelopes name as well; the rest is drawn anew.
        asks_for_standing = re.fullmatch(r"/v1/ledgers/[0-9a-f]{32}/standing/[0-9a-f]{32}", path)
        assert method == "GET" and (asks_for_file or asks_for_standing), line
    assert not any(b"\r\nCookie" in request for request in world.of("request"))


def test_audits_are_the_ledger_and_nothing_else(world: World) -> None:
    """Entries that left are, byte for byte and in order, those that the ledger holds."""
    sent = {
        seq: entry
        for envelope in world.envelopes()
        if envelope.header.kind == "audit"
        for batch in [AuditBatch.from_bytes(envelope.payload)]
        for seq, entry in enumerate(batch.entries, batch.first_seq)
    }
    assert sorted(sent) == list(range(len(sent))) and len(sent) > 10
    assert [sent[seq] for seq in sorted(sent)] == list(world.entries[: len(sent)])
    assert not replay(sent[seq] for seq in sorted(sent)).simulated
    assert {read_entry(entry).kind for entry in sent.values()} >= {"created", "opened", "window"}


# --- reading the source ------------------------------------------------------------------


def _sources() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted(folder.rglob("*.py"))


def _name(path: Path) -> str:
    """Relative to the client's folder, or to the repository."""
    return str(path.relative_to(CLIENT if path.is_relative_to(CLIENT) else ROOT))


def _path(name: str) -> Path:
    return ROOT / name if name.startswith("fedge/") else CLIENT / name


def _is_network(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in NETWORK)


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions and by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _last_name(node) in ("import_module", "__import__"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def _calls(path: Path) -> list[str]:
    """The last name of every call in a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [_last_name(node) for node in nodes if isinstance(node, ast.Call)]


def _last_name(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
