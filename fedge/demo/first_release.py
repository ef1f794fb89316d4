"""`python -m fedge.demo.first_release SERVER_DIR`: train the base model and have it signed."""

from __future__ import annotations

import sys
from pathlib import Path

from fedge.config import ServerSettings
from fedge.errors import FedgeError
from fedge_flows.initial import build_initial

CODE = "fedge.tasks.digits:CODE"
SEED = 0
"""The base model is the same in every run: what a run's seed varies are the streams."""


def main() -> int:
    """Build and sign what `SERVER_DIR/builder.toml` asks for; answers the exit status, 0 or 1."""
    try:
        build_initial(ServerSettings.load(Path(sys.argv[1]) / "builder.toml"), CODE, seed=SEED)
    except FedgeError as error:
        print(f"fedge: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
