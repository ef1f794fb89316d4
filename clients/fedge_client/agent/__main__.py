"""`python -m fedge_client.agent --config gateway.toml`: the agent's process."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedge.lifetime import die_with_parent
from fedge_client.agent.lean import become_lean, give_way


def main() -> int:
    """Run the agent until it is told to end; answers the exit status. It dies with its parent."""
    die_with_parent()
    become_lean()
    give_way()
    parser = argparse.ArgumentParser(prog="fedge_client.agent")
    parser.add_argument("--config", type=Path, required=True)
    config: Path = parser.parse_args().config
    # Only now: what it imports must find the process lean already.
    from fedge_client.agent.process import run

    return run(config)


if __name__ == "__main__":
    sys.exit(main())
