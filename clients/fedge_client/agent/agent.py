"""The agent put together from its parts, and its loops.

`Agent` holds no thread of its own: each `*_once` method does one bounded piece of
work, so that a simulation drives the same code under a virtual clock. `run_forever`
gives each piece a thread, because none of them may delay another.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from fedge.config import GatewaySettings
from fedge.data.blocks import BlockStore
from fedge.delivery.installer import Installer, ReleaseSource
from fedge.delivery.store import ContentStore
from fedge.delivery.switch import SlotSwitch
from fedge.errors import FedgeError
from fedge.identity import Identity
from fedge.models.hardware import hardware_class
from fedge.privacy.ledger import Ledger
from fedge.privacy.noise import Noise
from fedge.privacy.policy import read_policy
from fedge.records import RoundRequest
from fedge.statefile import StateFile
from fedge_client.agent import facts
from fedge_client.agent.egress import EgressGate
from fedge_client.agent.releases import InstalledReleases
from fedge_client.agent.sender import Post, Sender
from fedge_client.agent.spool import Spool
from fedge_client.agent.training import StartTrainer, TrainingDesk
from fedge_client.agent.watch import Watcher

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Everything through which the agent reaches the world."""

    clock: Callable[[], float]
    noise: Noise
    switch: SlotSwitch
    post: Post
    releases: ReleaseSource
    start_trainer: StartTrainer
    worker_restarts: Callable[[], int]


class Agent:
    """One gateway's agent on its state directory.

    Raises:
        StateError: another agent owns the state directory, or it is corrupt.
        SettingError: identity, policy or settings are wrong.
    """

    def __init__(self, settings: GatewaySettings, identity: Identity, ports: Ports) -> None:
        state_dir = settings.state_dir
        self.settings, self._ports = settings, ports
        self.policy = read_policy(state_dir / "policy.toml")
        self.state = StateFile(state_dir / "state.sqlite")
        self.ledger = Ledger(
            self.state, self.policy, clock=ports.clock, simulated=settings.simulated
        )
        self.spool = Spool(
            self.state,
            identity,
            ports.clock,
            max_bytes=settings.spool_bytes,
            simulated=settings.simulated,
        )
        self.gate = EgressGate(self.state, self.ledger, self.spool)
        self.installed = InstalledReleases(state_dir / "slots")
        self.installer = Installer(
            self.state,
            ports.releases,
            ContentStore(state_dir / "store"),
            state_dir / "slots",
            ports.switch,
            gateway=identity.fingerprint,
            task=settings.task,
            task_version=settings.task_version,
            hardware=hardware_class(),
            clock=ports.clock,
            trial_s=settings.trial_s,
        )
        self.store = BlockStore(state_dir / "blocks", self.state)
        self.watcher = Watcher(
            state_dir / "ring.bin",
            state=self.state,
            installed=self.installed,
            store=self.store,
            ledger=self.ledger,
            gate=self.gate,
            noise=ports.noise,
            policy=self.policy,
            window_slots=settings.window_slots,
            clock=ports.clock,
        )
        self.desk = TrainingDesk(
            gateway=identity.fingerprint,
            task=settings.task,
            ledger=self.ledger,
            store=self.store,
            gate=self.gate,
            spool=self.spool,
            serving=lambda: self.installed.serving(self.installer.status()),
            closed_windows=lambda: self.watcher.windows,
            start_trainer=ports.start_trainer,
            enabled=settings.train,
        )
        self.sender = Sender(self.spool, ports.post, interval_s=settings.push_interval_s)

    def watch_once(self) -> int:
        """Take in what the worker observed; answers how many windows were closed."""
        return self.watcher.poll()

    def install_once(self) -> None:
        """Move the installer one step; a refusal is recorded and visible in the status."""
        self.installer.step()

    def report_facts_once(self) -> None:
        """Put a snapshot of public facts into the spool."""
        self.gate.public_facts(
            facts.collect(
                installer=self.installer,
                ledger=self.ledger,
                spool=self.spool,
                stream=self.watcher,
                worker_restarts=self._ports.worker_restarts,
                now=self._ports.clock(),
            )
        )

    def push_once(self) -> float:
        """Push the spool; answers the seconds until the next push."""
        return self.sender.push()

    def answer(self, request: RoundRequest, arrays: bytes) -> bytes:
        """Answer one message of a run; see `TrainingDesk.answer`."""
        return self.desk.answer(request, arrays)

    def close(self) -> None:
        self.desk.close()
        self.watcher.close()
        self.state.close()


def run_forever(agent: Agent, stop: threading.Event) -> None:
    """Run the agent's loops, each in its thread, until `stop`."""
    settings = agent.settings

    def tell_then_wait() -> float:
        agent.report_facts_once()
        return settings.status_interval_s

    def install_then_wait() -> float:
        agent.install_once()
        return settings.poll_interval_s

    loops: list[tuple[str, Callable[[], float]]] = [
        ("watch", lambda: WATCH_INTERVAL_S * (not agent.watch_once())),
        ("install", install_then_wait),
    ]
    if settings.coordinator_url:
        # Apart from each other: facts ask the supervisor, and reports must not wait for it.
        loops += [("facts", tell_then_wait), ("push", agent.push_once)]
    threads = [
        threading.Thread(target=_loop, args=(name, step, stop), name=name) for name, step in loops
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _loop(name: str, step: Callable[[], float], stop: threading.Event) -> None:
    """Repeat `step`; one that fails is logged and tried again, the other loops go on."""
    while not stop.is_set():
        try:
            pause = step()
        except FedgeError as error:
            log.warning("%s: %s", name, error)
            pause = 1.0
        except Exception:  # a bug here must not silence the rest of the agent
            log.exception("%s failed", name)
            pause = 5.0
        stop.wait(pause)
