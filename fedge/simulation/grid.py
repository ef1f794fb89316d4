"""An in-process Flower grid: the same ServerApp and courier code without SuperLink or Ray.

`push_messages` runs each node's ClientApp at once, in the caller's thread, so a simulated
run needs no clock and no polling. Flower 1.41 builds messages from one task identity per
process, which it has no public way to set: it is set here, process-wide, so one simulated
run per process at a time, and never beside a real Flower task.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedge.flower import require_flwr
from fedge_client.courier import Ask, courier

SERVER_NODE, SERVER_TASK = 1, 1
_run_ids = itertools.count(1)


class InProcessGrid(Grid):
    """A grid whose nodes are functions.

    Args:
        nodes: for each node id how its agent is asked. Ids start at 2; nodes may be added and
            removed between messages.

    Raises:
        SettingError: Flower is another version than the one this was proven on.
    """

    def __init__(self, nodes: Mapping[int, Ask]) -> None:
        require_flwr()
        self._nodes = nodes
        self._replies: dict[str, Message] = {}
        self._message_ids = itertools.count(1)
        self._courier = courier(lambda context: self._nodes[context.node_id])
        self.set_run(Run.create_empty(next(_run_ids)))

    def set_run(self, run: Run) -> None:
        self._run = run
        TaskIdentity.run_id = run.run_id
        TaskIdentity.task_id = SERVER_TASK
        TaskIdentity.node_id = SERVER_NODE

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See Flower's `Grid.create_message`; `ttl` in seconds, None for Flower's own."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ids = [number for number in message_ids if number in self._replies]
        return [self._replies.pop(number) for number in ids]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> str:
        number = str(next(self._message_ids))
        # Flower sets it on the way out, too: a message is frozen otherwise.
        message.metadata.__dict__["_message_id"] = number
        context = Context(
            run_id=self._run.run_id,
            node_id=message.metadata.dst_node_id,
            node_config={},
            state=RecordDict(),
            run_config={},
        )
        self._replies[number] = self._courier(message, context)
        return number
