"""A disk that refuses while the coordinator is asked says nothing about the ledger."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes.receipts import standing_for
from tests_clients import WINDOW, Centre, Gateway

from fedge.errors import StateError
from fedge.identity import Identity

WITNESS = Identity.from_seed(b"w" * 32)


class Confirming(Centre):
    """Confirms the latest head that it has all entries of."""

    def get(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        return 200, standing_for(path, self.taken, WITNESS)


def test_a_full_disk_while_greeting_is_waited_out(make_gateway: Callable[..., Gateway]) -> None:
    """The agent is not out of step for it until its next start, but asks again and goes on."""
    gateway = make_gateway()
    gateway.centre = Confirming()
    agent = gateway.start()
    agent.push_once()
    agent = gateway.start()
    assert agent.standing.state == "unknown"
    agent.state.rows("PRAGMA query_only = ON")
    with pytest.raises(StateError):
        agent.standing.greet(gateway.centre.get)
    agent.state.rows("PRAGMA query_only = OFF")
    assert agent.standing.state != "out-of-step"

    gateway.serve(WINDOW)
    while agent.watch_once():
        pass
    agent.push_once()

    assert agent.standing.state == "in-step"
    assert agent.spool.bytes_kept == 0
    agent = gateway.start()
    agent.push_once()
    assert agent.standing.stored == agent.ledger.size and agent.ledger.recovered_through == -1
