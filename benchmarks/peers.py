"""Where the peers live: each in an environment of its own, made by `make bench-peers`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(".peers")
PEERS: dict[str, tuple[str, ...]] = {
    "mlserver": ("mlserver==1.7.1", "onnxruntime"),
    "whylogs": ("whylogs==1.6.4", "numpy<2", "pandas<2.3"),
    "evidently": ("evidently==0.7.23", "numpy<2.3", "pandas<3"),
    "nannyml": ("nannyml==0.13.1", "statsmodels", "numpy<2.3", "pandas<3"),
    "frouros": ("frouros==0.9.0",),
}


def python_of(peer: str) -> Path | None:
    """The interpreter of a peer's environment; None where it was not installed."""
    path = FOLDER / peer / "bin" / "python"
    return path.absolute() if path.exists() else None


def install() -> int:
    """Make every environment that is missing."""
    for peer, packages in PEERS.items():
        if python_of(peer) is not None:
            continue
        print(f"installing {peer}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER / peer)], check=True)
        pip = [str(FOLDER / peer / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *packages], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(install())
