"""Which connections are one client's, and how many each of them has."""

from __future__ import annotations

from ipaddress import IPv6Address


def client_key(client: tuple[str, int] | None) -> bytes:
    """What callers of one client share: the IPv4 address, or the /64 network in IPv6."""
    if client is None:
        return b""
    host = client[0]
    if ":" not in host:
        return host.encode()
    address = IPv6Address(host)
    mapped = address.ipv4_mapped
    return address.packed[:8] if mapped is None else str(mapped).encode()


class OpenConnections:
    """How many connections each client has.

    Args:
        most: of one client; 0 is no limit.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[bytes, int] = {}

    def opened(self, key: bytes) -> bool:
        """Count one; false where its client has as many as it may, and it was not counted."""
        now = self._of.get(key, 0)
        if self._most and now >= self._most:
            return False
        self._of[key] = now + 1
        return True

    def closed(self, key: bytes) -> None:
        """Forget one that was counted."""
        self._of[key] -= 1
        if not self._of[key]:
            del self._of[key]
