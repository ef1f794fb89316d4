"""The unix socket on which the agent answers the courier.

Group-only, and the peer's credentials are checked: Flower's process may ask,
nothing else on the host may. One message at a time, on one long-lived thread: a
trainer started here would otherwise end with the thread that started it.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from fedge.errors import FedgeError, ParticipationRefusedError, RecordError
from fedge.records import RoundRequest
from fedge_client.frames import AgentAnswer, read_request, write_answer
from fedge_client.peers import Peer
from fedge_client.sockets import OWNER_AND_GROUP, bind_local, close_local

log = logging.getLogger(__name__)

Answer = Callable[[RoundRequest, bytes], bytes]
FINISH_S = 2.0
"""How long an orderly end waits for an answer under way: less than the supervisor waits for it."""


def answer_request(answer: Answer, header: bytes, arrays: bytes) -> AgentAnswer:
    """The agent's answer to a courier's request; a refusal carries a public reason, no detail."""
    try:
        return AgentAnswer(True, "", answer(RoundRequest.from_bytes(header), arrays))
    except ParticipationRefusedError as error:
        return AgentAnswer(False, error.reason, b"")
    except RecordError as error:
        log.warning("malformed request: %s", error)
        return AgentAnswer(False, "malformed-request", b"")
    except FedgeError as error:
        log.error("the run failed here: %s", error)
        return AgentAnswer(False, "failed", b"")
    except Exception:  # whatever a request provokes, the next one is still answered
        log.exception("the run failed here")
        return AgentAnswer(False, "failed", b"")


def peer_is_allowed(connection: socket.socket, group: int) -> bool:
    """Whether the process at the other end is this user, root, or of the socket's group."""
    peer = Peer.of(connection)
    return peer.is_owner or peer.gid == group


class CourierPort:
    """Serves `answer` on a unix socket until `close`.

    Args:
        path: the socket; a file left there by a killed agent is replaced.
        answer: takes a request and its arrays, gives a sealed envelope.

    Raises:
        SettingError: the socket cannot be made there.
    """

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path, self._answer = path, answer
        self._socket = bind_local(path, OWNER_AND_GROUP)
        self._group = path.stat().st_gid
        self._socket.listen(4)
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="courier-port", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections and remove the socket.

        An answer under way has `FINISH_S` to be stored, for what was noised and is not stored is
        lost. After that it goes on until the agent ends.
        """
        self._stopping = True
        close_local(self._socket, self._path)
        self._thread.join(FINISH_S)

    def _serve(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                if not peer_is_allowed(connection, self._group):
                    log.warning("refused a peer of another user and group")
                    continue
                try:
                    self._exchange(connection)
                except (OSError, EOFError) as error:
                    log.warning("the courier went away: %s", error)
                except RecordError as error:
                    log.warning("the exchange was broken off: %s", error)

    def _exchange(self, connection: socket.socket) -> None:
        found = answer_request(self._answer, *read_request(connection))
        write_answer(connection, ok=found.ok, reason=found.reason, envelope=found.envelope)
