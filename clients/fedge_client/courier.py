"""The Flower ClientApp: hands a round's message to the agent and carries its answer back.

It decides nothing, reads no data and keeps nothing. Whether this gateway takes part, on what
and at which price is the agent's business; what leaves here is the agent's sealed envelope,
or a public reason why there is none. Runs in a process that Flower starts per message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedge.errors import OutboundError
from fedge.flower import MESSAGE_ACTION, RECORD
from fedge_client.frames import AgentAnswer, ask_agent

log = logging.getLogger(__name__)

AGENT_KEY = "agent"
"""Key of the SuperNode's node config that holds the path of the agent's socket."""
UNREACHABLE = "agent-unreachable"
MALFORMED = "malformed-request"

Ask = Callable[[bytes, bytes, float], AgentAnswer]
"""Takes a `RoundRequest`'s bytes, float32 bytes and seconds to wait."""


def courier(ask_for: Callable[[Context], Ask]) -> ClientApp:
    """A ClientApp that answers `query.round` through `ask_for(context)`."""
    app = ClientApp()

    @app.query(MESSAGE_ACTION)  # type: ignore[untyped-decorator, unused-ignore]
    def answer(message: Message, context: Context) -> Message:
        return Message(_reply(message, ask_for(context)), reply_to=message)

    return app


def _reply(message: Message, ask: Ask) -> RecordDict:
    try:
        request, array = _request(message.content)
    except (KeyError, TypeError):
        return _content(AgentAnswer(False, MALFORMED, b""))
    left_s = message.metadata.created_at + message.metadata.ttl - time.time()
    try:
        return _content(ask(request, array, left_s))
    except OutboundError as error:
        # The cause names a path of this host, which is not the server's business.
        log.error("%s", error)
        return _content(AgentAnswer(False, UNREACHABLE, b""))


def _request(content: RecordDict) -> tuple[bytes, bytes]:
    record = content.config_records[RECORD]
    request, array = record["request"], record["array"]
    if not isinstance(request, bytes) or not isinstance(array, bytes):
        raise TypeError("request and array are bytes")
    return request, array


def _content(answer: AgentAnswer) -> RecordDict:
    record = ConfigRecord({"ok": answer.ok, "reason": answer.reason, "envelope": answer.envelope})
    return RecordDict({RECORD: record})


def _ask_on_socket(context: Context) -> Ask:
    path = Path(str(context.node_config[AGENT_KEY]))
    return lambda request, array, timeout_s: ask_agent(path, request, array, timeout_s)


app = courier(_ask_on_socket)
