"""The `fedge` command.

Results go to stdout, talk goes to stderr. Exit status: 0 done, 1 failed (the
message says what to do), 2 wrong usage, 130 interrupted; a command that judges
something documents its own status, 3 for a negative verdict.
"""

from __future__ import annotations

import sys

import typer

from fedge.cli import demo, drift, gateway, ledger, policy, server
from fedge.errors import FedgeError
from fedge.texts import escaped

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130

app = typer.Typer(
    name="fedge",
    help="Federated learning and drift monitoring for edge gateways.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.add_typer(drift.app, name="drift")
app.add_typer(gateway.app, name="gateway")
app.add_typer(server.app, name="server")
app.add_typer(policy.app, name="policy")
app.add_typer(ledger.app, name="ledger")


def main() -> None:
    """Run the command line; only our own errors are turned into a message."""
    try:
        app()
    except FedgeError as error:
        # It may quote what a file or a bundle holds.
        print(f"fedge: {escaped(error, keep=chr(10))}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
