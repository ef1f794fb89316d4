"""The coordinator's process: `python -m fedge_server.main --config server.toml`.

Opens the database, takes the port, serves until SIGTERM or SIGINT. Exit status: 0
stopped as asked, 1 could not start (the message says why).
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from fedge.config import ServerSettings
from fedge.durable import make_folder, write_file
from fedge.errors import FedgeError, SettingError
from fedge_server.app import create_app
from fedge_server.database import Database

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED = 0, 1
GRACE_S = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the coordinator; answers the exit status that the module's docstring tells."""
    parser = argparse.ArgumentParser(prog="fedge_server.main", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="server.toml")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        serve(ServerSettings.load(args.config))
    except FedgeError as error:
        print(f"coordinator: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def serve(settings: ServerSettings) -> None:
    """Serve until told to stop. `data_dir/port` holds the port for as long as it is served.

    Raises:
        SettingError: the port cannot be taken, or the settings are wrong.
        StateError: the database cannot be used.
    """
    make_folder(settings.data_dir)
    port_file = settings.data_dir / "port"
    port_file.unlink(missing_ok=True)
    with Database(settings.database) as database, _listener(settings) as listener:
        port = listener.getsockname()[1]
        app = create_app(settings, database, time.time)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        _stop_on_signals(server)
        write_file(port_file, f"{port}\n".encode())
        log.info("coordinator on http://%s:%d", settings.host, port)
        try:
            server.run(sockets=[listener])
        finally:
            port_file.unlink(missing_ok=True)


def _listener(settings: ServerSettings) -> socket.socket:
    """A bound and listening socket, so that who reads the port file can connect at once."""
    if not _loopback(settings.host):
        log.warning("%s is reached from outside over plain HTTP: put TLS before it", settings.host)
    try:
        listener = socket.create_server((settings.host, settings.port), backlog=512)
    except OSError as error:
        raise SettingError(f"cannot listen on {settings.host}:{settings.port}: {error}") from error
    listener.set_inheritable(False)
    return listener


def _stop_on_signals(server: uvicorn.Server) -> None:
    """End with status 0: uvicorn stops by itself, but then raises the signal again."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main())
