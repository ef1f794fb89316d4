"""The sockets that a gateway's processes accept on: bound here, or inherited from systemd.

One TCP socket is shared by all workers. Where several models are served each family has a
unix socket too, over which a worker hands on a request that is meant for another model. The
agent has unix sockets of its own. Standard library alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from fedge.errors import SettingError

log = logging.getLogger(__name__)

FIRST_HANDLE = 3
"""sd_listen_fds(3): inherited sockets are numbered from here."""
INFERENCE = "inference"
"""`FileDescriptorName=` of the inference socket, where more than one socket is handed over."""

OWNER_ONLY, OWNER_AND_GROUP = 0o177, 0o117
"""What a unix socket's file denies: who may open it is who may connect."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What a worker accepts on: the shared socket, and its family's own (None: only one model)."""

    shared: socket.socket
    local: socket.socket | None = None


def bind(host: str, port: int) -> socket.socket:
    """The inference socket, bound; the first worker makes it listen.

    Until then a caller is refused at once, instead of waiting for a model that is not there.

    Raises:
        SettingError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise SettingError(f"cannot serve on {host}:{port}: {error}") from error
    return listening


def bind_local(path: Path, denied: int = OWNER_ONLY) -> socket.socket:
    """A unix socket, bound; what was at `path` before, as a killed process leaves it, is replaced.

    Args:
        denied: bits of the file's mode that are not set.

    Raises:
        SettingError: the path is too long (107 bytes at most), or its folder is not ours.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(denied)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
    except OSError as error:
        listening.close()
        raise SettingError(f"cannot open the socket {path}: {error}") from error
    finally:
        os.umask(mask)
    return listening


def close_local(listening: socket.socket, path: Path) -> None:
    """Close a unix socket that `bind_local` gave, and remove its file."""
    # `close` alone would leave a thread waiting in `accept`.
    with contextlib.suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    path.unlink(missing_ok=True)


def inherited(environment: MutableMapping[str, str]) -> socket.socket | None:
    """The inference socket that systemd handed over, or None where it handed over none.

    The protocol is that of sd_listen_fds(3). Its variables are taken out of `environment`:
    no child may take them for its own. Sockets beside the inference socket are closed.

    Raises:
        SettingError: what was handed over is not one listening TCP socket.
    """
    said = {n: environment.pop(f"LISTEN_{n}", "") for n in ("PID", "FDS", "FDNAMES")}
    if said["PID"] != str(os.getpid()) or not said["FDS"]:
        return None
    try:
        count = int(said["FDS"])
    except ValueError:
        raise SettingError(f"LISTEN_FDS is {said['FDS']!r}, not a number") from None
    if count < 1:
        return None
    handles = range(FIRST_HANDLE, FIRST_HANDLE + count)
    names = said["FDNAMES"].split(":")
    chosen = [h for h, name in zip(handles, names, strict=False) if name == INFERENCE]
    if not chosen and count == 1:
        chosen = [FIRST_HANDLE]
    if len(chosen) != 1:
        raise SettingError(
            f"{count} sockets were handed over, and {len(chosen)} of them are named "
            f"{INFERENCE!r}: set FileDescriptorName={INFERENCE} in one socket unit"
        )
    for handle in handles:
        if handle not in chosen:
            log.warning("an inherited socket that nothing here uses is closed")
            with contextlib.suppress(OSError):
                os.close(handle)
    return _listening(chosen[0])


def _listening(handle: int) -> socket.socket:
    wrong = "the inherited inference socket is not a listening TCP socket"
    try:
        os.set_inheritable(handle, False)
        listening = socket.socket(fileno=handle)
    except OSError as error:
        raise SettingError(f"{wrong}: {error}") from error
    fits = (
        listening.family in (socket.AF_INET, socket.AF_INET6)
        and listening.type == socket.SOCK_STREAM
        and listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    )
    if not fits:
        listening.close()
        raise SettingError(wrong)
    return listening
