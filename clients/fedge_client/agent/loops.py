"""The agents' loops: each bounded piece of an agent's work in a thread, again and again.

A thread each, because none of them may delay another: a report waits for no download,
and a window for no network. What a piece does is the agent's part.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence

from fedge.errors import FedgeError
from fedge_client.agent.agent import Agent

log = logging.getLogger(__name__)

WATCH_INTERVAL_S, IDLE_INTERVAL_S = 0.05, 0.25
"""Seconds between looks at the ring: under traffic, and after a while without."""


ALARMS = "alarms"
"""The loop whose work depends on what records hold: no trace of it may be exported."""
_untraced = contextlib.nullcontext


def run_forever(agents: Sequence[Agent], stop: threading.Event) -> None:
    """Run the loops of all agents, each in its thread, until `stop`."""
    threads = [
        threading.Thread(target=_loop, args=(agent, name, step, stop), name=name)
        for agent in agents
        for name, step in _loops(agent)
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    for agent in agents:
        agent.sender.stop()
    for thread in threads:
        thread.join()


def _loops(agent: Agent) -> list[tuple[str, Callable[[], float]]]:
    """Each loop's name and step, which answers the seconds until it is due again."""
    settings = agent.settings

    def tell_then_wait() -> float:
        agent.report_facts_once()
        return settings.status_interval_s

    def install_then_wait() -> float:
        agent.install_once()
        return settings.poll_interval_s

    loops: list[tuple[str, Callable[[], float]]] = [
        ("install", install_then_wait),
        ("tidy", agent.tidy_once),
    ]
    if settings.monitoring:
        loops.append(("watch", Pacing(agent.watch_once, lambda: agent.watcher.behind)))
    if agent.local is not None and agent.local.webhook is not None:
        loops.append((ALARMS, agent.tell_alarms_once))
    if settings.coordinator_url:
        # Apart from each other: facts ask the supervisor, and reports must not wait for it.
        loops += [("facts", tell_then_wait), ("push", agent.push_once)]
    return loops


class Pacing:
    """Looks often while there is something to see, and seldom after a while without.

    Args:
        look: answers 0 where there was nothing to do.
        behind: whether more was there than one look takes in.
    """

    def __init__(self, look: Callable[[], int], behind: Callable[[], bool]) -> None:
        self._look, self._behind = look, behind
        self._pause_s = WATCH_INTERVAL_S

    def __call__(self) -> float:
        """Look once; answers the seconds until the next look."""
        if self._look():
            self._pause_s = WATCH_INTERVAL_S
            if self._behind():
                return 0.0
        else:
            self._pause_s = min(2 * self._pause_s, IDLE_INTERVAL_S)
        return self._pause_s


def _loop(agent: Agent, name: str, step: Callable[[], float], stop: threading.Event) -> None:
    """Repeat `step`; one that fails is logged and tried again, the other loops go on."""
    while not stop.is_set():
        try:
            with _untraced() if name == ALARMS else agent.telemetry.span(name):
                pause = step()
        except FedgeError as error:
            log.warning("%s: %s", name, error)
            pause = 1.0
        except Exception:  # a bug here must not silence the rest of the agent
            log.exception("%s failed", name)
            pause = 5.0
        stop.wait(pause)
