"""What Flower's processes on a gateway and in the centre may load and write."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "opacus", "scipy", "pandas", "sklearn", "onnxruntime", "opendp", "prefect", "ray")


@pytest.mark.parametrize("module", ["fedge_client.courier", "fedge_server.rounds"])
def test_a_message_costs_no_heavy_import(module: str) -> None:
    """Courier and rounds move bytes; neither loads a framework for computing."""
    program = f"import sys, {module}; print(sorted(set(sys.modules) & set({HEAVY})))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", ["fedge_client.supernode", "fedge_server.superlink"])
def test_flower_is_imported_after_its_switches_are_set(module: str) -> None:
    """Flower reads its switches when imported, so importing a wrapper must not import it."""
    program = f"import sys, {module}; print('flwr' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "False"


def test_calls_home_and_installations_are_off() -> None:
    """Every Flower process of ours runs without telemetry, update checks and `uv sync`."""
    program = (
        "import importlib, os, pathlib, tempfile; from fedge.flower import use_environment;"
        "use_environment(pathlib.Path(tempfile.mkdtemp()));"
        "from flwr.supercore import telemetry;"
        "cli = importlib.import_module('flwr.superlink.cli.flower_superlink');"
        "print(telemetry.FLWR_TELEMETRY_ENABLED, cli._runtime_dependency_install_default());"
        "print(os.environ['FLWR_DISABLE_UPDATE_CHECK'])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.split() == ["0", "False", "1"], ran.stderr
