"""Who is at the other end of a unix socket, as the kernel knows it. Standard library alone."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """A process, by the ids that it had when it connected (`SO_PEERCRED`, unix(7))."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return cls(*_UCRED.unpack(found))

    @property
    def is_owner(self) -> bool:
        """Whether it belongs to this user or to root."""
        return self.uid in (0, os.getuid())
