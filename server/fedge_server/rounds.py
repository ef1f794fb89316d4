"""The Flower ServerApp: runs a retraining's rounds over Flower's grid.

Which run comes in Flower's run config; where its files lie, in the settings that the
SuperLink was started with. What the rounds decide is in `round_logic`; here messages are
pushed to every connected node and replies pulled in short steps (Flower's own strategies
wait three seconds between looks, average raw weights and accept NaN). Nothing of ours
trusts a node id.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedge.config import ServerSettings
from fedge.errors import FedgeError, RunFailedError
from fedge.flower import MESSAGE_TYPE, RECORD, RUN_KEY
from fedge.learning.aggregation import CHECKS
from fedge.records import RoundRequest
from fedge_server.objects import ObjectStore
from fedge_server.round_files import RunFiles
from fedge_server.round_logic import run_rounds
from fedge_server.round_replies import Enough, Exchange, Reply
from fedge_server.superlink import SETTINGS_VARIABLE

log = logging.getLogger(__name__)

NODE_LOOK_S = 1.0


class GridExchange:
    """Sends requests over a Flower grid.

    Args:
        timeout_s: how long one request may take, all answers included.
        poll_s: pause between two looks for replies.
        clock, sleep: seconds that only grow, and a pause.
    """

    def __init__(
        self,
        grid: Grid,
        timeout_s: float,
        *,
        poll_s: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid, self._timeout_s, self._poll_s = grid, timeout_s, poll_s
        self._clock, self._sleep = clock, sleep

    def __call__(self, request: RoundRequest, array: bytes, enough: Enough) -> Sequence[Reply]:
        fields = {"request": request.to_bytes(), "array": array}
        deadline = self._clock() + self._timeout_s
        asked: set[int] = set()
        open_ids: set[str] = set()
        replies: list[Reply] = []
        next_look = self._clock()
        while (left_s := deadline - self._clock()) > 0:
            if self._clock() >= next_look:
                # Again and again: a restarted SuperNode is a new node to Flower.
                new = sorted(set(self._grid.get_node_ids()) - asked)
                asked.update(new)
                open_ids.update(self._push(new, fields, request, left_s))
                next_look = self._clock() + NODE_LOOK_S
            for message in self._grid.pull_messages(sorted(open_ids)) if open_ids else ():
                open_ids.discard(message.metadata.reply_to_message_id)
                replies.append(read_reply(message))
            if enough(replies, len(open_ids)):
                break
            self._sleep(self._poll_s)
        return replies

    def _push(
        self, nodes: Sequence[int], fields: dict[str, bytes], request: RoundRequest, ttl_s: float
    ) -> list[str]:
        messages = [
            Message(
                RecordDict({RECORD: ConfigRecord(dict(fields))}),
                dst_node_id=node,
                message_type=MESSAGE_TYPE,
                group_id=f"{request.phase}-{request.round}",
                ttl=ttl_s,
            )
            for node in nodes
        ]
        return [number for number in self._grid.push_messages(messages) if number]


def read_reply(message: Message) -> Reply:
    """Turn a courier's message, or Flower's error in its place, into a reply."""
    if message.has_error():
        return Reply(reason="flower-error", detail=str(message.error.reason)[:500])
    try:
        record = message.content.config_records[RECORD]
        ok, reason, envelope = record["ok"], record["reason"], record["envelope"]
    except KeyError:
        return Reply(reason="malformed-reply")
    if not isinstance(reason, str) or not isinstance(envelope, bytes) or ok is not bool(envelope):
        return Reply(reason="malformed-reply")
    return Reply(envelope=envelope, reason=reason[:64])


def conduct(files: RunFiles, exchange: Exchange, *, simulated: bool = False) -> None:
    """Run the rounds of one run and leave its result, or why there is none, in its files.

    Does nothing where there is a result already.

    Args:
        simulated: whether envelopes must be marked as simulated; others are refused.

    Raises:
        RunFailedError: the attempt ended without a result; `failed.json` says the same.
    """
    if files.finished():
        log.info("run %s has its result", files.run_id)
        return
    try:
        spec, initial = files.spec(), files.initial()
        result, adapter = run_rounds(
            spec, initial, exchange, CHECKS, journal=files, simulated=simulated
        )
        files.finish(result, adapter)
    except FedgeError as error:
        files.fail(str(error))
        raise RunFailedError(str(error)) from error


app = ServerApp()


@app.main()  # type: ignore[untyped-decorator, unused-ignore]
def main(grid: Grid, context: Context) -> None:
    """What Flower calls: the whole run.

    Raises:
        RunFailedError: Flower then shows the run as failed.
    """
    try:
        settings = ServerSettings.load(Path(os.environ[SETTINGS_VARIABLE]))
    except KeyError as error:
        raise RunFailedError(f"{SETTINGS_VARIABLE} is not set") from error
    except FedgeError as error:
        raise RunFailedError(str(error)) from error
    files = RunFiles(ObjectStore(settings.objects_dir), str(context.run_config.get(RUN_KEY, "")))
    exchange = GridExchange(grid, settings.training.round_timeout_s)
    conduct(files, exchange, simulated=settings.simulated)
