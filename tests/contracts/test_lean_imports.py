"""What the resident processes of a gateway load: little, and nothing that computes in bulk.

Elsewhere: `tests/clients/test_supervisor.py` holds the supervisor to the standard library,
`tests/serving/test_worker.py` the worker to a longer list, `tests/flower/` Flower's processes.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from contracts_world import World

HEAVY = (
    *("torch", "opacus", "scipy", "pandas", "polars", "sklearn", "dp_accounting"),
    *("opendp.prelude", "river", "flwr", "grpc", "prefect", "ray", "matplotlib"),
    *("fastapi", "sqlalchemy", "alembic", "onnx", "requests", "httpx"),
)
"""Never in an agent or a worker. The agent may load numpy, Arrow, datasketches, OpenDP, tuf."""

FAR = (*HEAVY, "pyarrow", "onnxruntime", "datasketches", "opendp", "tuf", "urllib3", "orjson")
"""Not loaded by `import fedge` either; numpy, pydantic and cryptography may be."""

REACHES_OUT = (
    *("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto"),
)
"""Audit events (PEP 578) of what an import must not do."""

PROGRAM = """
import json, sys, threading
watched, did = set(json.loads(sys.argv[2])), []
sys.addaudithook(lambda event, args: did.append(event) if event in watched else None)
before = set(sys.modules)
__import__(sys.argv[1])
print(json.dumps({
    "loaded": sorted(set(sys.modules) - before),
    "did": did,
    "threads": [t.name for t in threading.enumerate()][1:],
}))
"""


def imported(module: str) -> dict[str, list[str]]:
    """What importing `module` in a fresh process loads and does."""
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, module, json.dumps(REACHES_OUT)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found: dict[str, list[str]] = json.loads(answer.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("module", ["fedge_client.agent.process", "fedge.serving.worker"])
def test_resident_processes_load_nothing_heavy(module: str) -> None:
    """Agent and worker live for months beside the owner's own work."""
    loaded = imported(module)["loaded"]
    assert sorted(set(HEAVY) & set(loaded)) == []
    assert not any(name.startswith("fedge.drift") for name in loaded)


def test_the_local_fast_path_loads_river_and_nothing_heavy_with_it() -> None:
    """Its modules load none of it; a detector loads two modules of river, where it is wanted."""
    loaded = imported("fedge_client.agent.local_drift")["loaded"]
    assert sorted(set(HEAVY) & set(loaded)) == []
    program = "from fedge.drift.local.alarms import standard_detector as make;"
    program += "make('adwin', 'up', 30); make('page-hinkley', 'up', 30)"
    program = PROGRAM.replace("__import__(sys.argv[1])", program)
    answer = subprocess.run(
        [sys.executable, "-c", program, "", json.dumps(REACHES_OUT)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(answer.stdout)
    assert sorted(set(HEAVY) & set(found["loaded"])) == ["river"]
    assert "river.drift.adwin" in found["loaded"] and (found["did"], found["threads"]) == ([], [])


@pytest.mark.parametrize("process", ["agent", "worker"])
def test_nothing_heavy_is_loaded_later(world: World, process: str) -> None:
    """After rows, labels, refusals, windows and reports no native part of a library came in."""
    mapped = world.mapped[process]
    assert "/numpy/" in mapped
    native = ("torch", "scipy", "pandas", "polars", "sklearn", "grpc", "matplotlib", "river")
    assert [name for name in native if f"/{name}/" in mapped] == []
    assert ("/onnxruntime/" in mapped) == (process == "worker")
    assert ("/pyarrow/" in mapped) == (process == "agent")


def test_importing_fedge_loads_and_starts_nothing() -> None:
    """`import fedge` is free: no heavy library, no process, no thread, no connection."""
    found = imported("fedge")
    assert sorted(set(FAR) & set(found["loaded"])) == []
    assert (found["did"], found["threads"]) == ([], [])


def test_the_supervisor_loads_only_light_modules_of_ours() -> None:
    """Beside the standard library: a few light modules, and its own files."""
    loaded = imported("fedge_client.supervisor")["loaded"]
    ours = {name for name in loaded if name.partition(".")[0].startswith("fedge")}
    others = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    own = ("admin_client", "children", "control_port", "facts", "logfiles", "metrics", "notify")
    own += ("ops", "slot_keeper", "sockets", "supervisor", "supervisor_settings")
    assert others == {"fedge", "fedge_client"}
    assert ours == {
        *("fedge", "fedge.durable", "fedge.errors", "fedge.lifetime", "fedge.logs"),
        *("fedge.serving", "fedge.serving.escalation_counts", "fedge.serving.stats"),
        *("fedge_client", *(f"fedge_client.{name}" for name in own)),
    }


def test_the_probe_sees_what_it_looks_for() -> None:
    """A heavy module and a started process would be found."""
    found = imported("onnx")
    assert "onnx" in found["loaded"]
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''])"
    program = PROGRAM.replace("__import__(sys.argv[1])", program)
    answer = subprocess.run(
        [sys.executable, "-c", program, "", '["subprocess.Popen"]'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(answer.stdout)["did"] == ["subprocess.Popen"]
