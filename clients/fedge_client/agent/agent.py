"""The agent of one served model, put together from its parts.

`Agent` holds no thread of its own: each `*_once` method does one bounded piece of
work, so that a simulation drives the same code under a virtual clock. In a process
of its own `loops` repeats them.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedge.config import GatewaySettings
from fedge.data.blocks import BlockStore
from fedge.data.consent import WITHDRAWALS_FILE
from fedge.data.consent_book import ConsentBook
from fedge.data.subjects import SubjectKey
from fedge.delivery.installer import Installer, ReleaseSource
from fedge.delivery.store import ContentStore
from fedge.delivery.switch import SlotSwitch
from fedge.identity import Identity
from fedge.models.hardware import hardware_class
from fedge.privacy.approval import read_policy_and_approval
from fedge.privacy.ledger import Ledger
from fedge.privacy.noise import Noise
from fedge.records import GatewayStatus, LedgerStanding, RoundRequest
from fedge.serving.grants import GRANTS_FILE
from fedge.serving.record_ids import block_numbering, id_prefix
from fedge.statefile import StateFile
from fedge_client.agent import facts
from fedge_client.agent.admin_port import Command
from fedge_client.agent.audit import AuditTrail
from fedge_client.agent.egress import EgressGate
from fedge_client.agent.erasure import Eraser, admin_commands
from fedge_client.agent.escalation_desk import EscalationDesk
from fedge_client.agent.housekeeping import Housekeeper
from fedge_client.agent.label_report import LabelReporter
from fedge_client.agent.post import Post
from fedge_client.agent.recovery import Recoverer
from fedge_client.agent.releases import InstalledReleases
from fedge_client.agent.sender import Sender
from fedge_client.agent.spool import Spool
from fedge_client.agent.standing import Standing
from fedge_client.agent.telemetry import open_telemetry
from fedge_client.agent.training import StartTrainer, TrainingDesk
from fedge_client.agent.trusted_witness import TrustedWitness
from fedge_client.agent.watch import Watcher
from fedge_client.agent.window_clock import WindowClock
from fedge_client.agent.window_report import WindowReporter

if TYPE_CHECKING:
    from fedge_client.agent.local_drift import LocalDrift

SECURING_PUSHES = 3
"""Pushes after which a round is declined whose charge did not arrive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Everything through which the agent reaches the world.

    Attributes:
        clock: seconds since the epoch. steady: seconds of the host's monotonic clock, the one
            that workers stamp rows with.
        boot: names the boot in which `steady` counts; None asks the system.
    """

    clock: Callable[[], float]
    noise: Noise
    switch: SlotSwitch
    post: Post
    releases: ReleaseSource
    start_trainer: StartTrainer
    worker_restarts: Callable[[], int]
    steady: Callable[[], float] = time.monotonic
    boot: str | None = None


class Agent:
    """One gateway's agent on its state directory.

    Raises:
        StateError: another agent owns the state directory, or it is corrupt.
        SettingError: identity, policy or settings are wrong.
    """

    def __init__(self, settings: GatewaySettings, identity: Identity, ports: Ports) -> None:
        state_dir = settings.state_dir
        self.settings, self._ports = settings, ports
        self.policy, self._approval = read_policy_and_approval(
            state_dir / "policy.toml", settings.policy_reviewers
        )
        self.state = StateFile(state_dir / "state.sqlite")
        try:
            self._put_together(identity)
        except BaseException:
            self.state.close()
            raise

    def _put_together(self, identity: Identity) -> None:
        self._open_books(identity)
        self._open_releases(identity)
        labels = self._open_stream()
        self._open_line(identity, labels)
        self._open_training(identity)
        self._open_rights(identity)
        self._open_escalation()
        self._worker_restarts = 0
        self.telemetry = open_telemetry(
            self.settings.telemetry,
            gateway=identity.fingerprint,
            status=lambda: self.gate.checked(self.public_facts()),
        )

    def _open_books(self, identity: Identity) -> None:
        """What is charged, what waits to be sent, and the one gate between."""
        settings, ports = self.settings, self._ports
        self._pushing = threading.Lock()  # the push loop, and a round that waits for its charge
        self.clock = WindowClock(ports.clock, ports.steady, ports.boot)
        # A policy that changed since the last start is entered here.
        self.ledger = Ledger(
            self.state,
            self.policy,
            clock=ports.clock,
            simulated=settings.simulated,
            gateway=identity.fingerprint,
            public_key=identity.public_key.hex(),
            approval=self._approval,
        )
        self.spool = Spool(
            self.state,
            identity,
            ports.clock,
            max_bytes=settings.spool_bytes,
            simulated=settings.simulated,
        )
        self.gate = EgressGate(self.state, self.ledger, self.spool)
        self.audit = AuditTrail(
            self.state, self.ledger, self.gate, self.spool, identity, ports.clock
        )

    def _open_releases(self, identity: Identity) -> None:
        settings, ports, state_dir = self.settings, self._ports, self.settings.state_dir
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

    def _open_stream(self) -> LabelReporter:
        """What becomes of records: kept, counted, reported."""
        settings, ports, state_dir = self.settings, self._ports, self.settings.state_dir
        self.store = BlockStore(state_dir / "blocks", self.state, ports.clock)
        self.consent = ConsentBook(self.state, state_dir / WITHDRAWALS_FILE)
        reporter = WindowReporter(
            state=self.state,
            store=self.store,
            ledger=self.ledger,
            noise=ports.noise,
            policy=self.policy,
            window_slots=settings.window_slots,
            withdrawn=self.consent.withdrawn,
        )
        self.local = self._open_local_drift(reporter)
        labels = LabelReporter(
            state=self.state,
            store=self.store,
            ledger=self.ledger,
            noise=ports.noise,
            gate=self.gate,
            allowed=reporter.allowed,
            watermark_windows=settings.label_watermark_windows,
        )
        self.watcher = Watcher(
            state_dir / "ring.bin",
            state=self.state,
            installed=self.installed,
            store=self.store,
            gate=self.gate,
            reporter=reporter,
            label_reporter=labels,
            clock=self.clock,
            window_slots=settings.window_slots,
            window_s=settings.window_s,
            spare_slots=settings.ring_slots + settings.window_slots,
            local=self.local,
        )
        self._block_of = block_numbering(self.policy.block, settings.window_slots)
        return labels

    def _open_line(self, identity: Identity, labels: LabelReporter) -> None:
        """The way to the coordinator, and what it confirmed."""
        self.witness = TrustedWitness(self.state, self.settings.witness_key)
        self.standing = Standing(
            self.state,
            self.ledger,
            gateway=identity.fingerprint,
            public_key=identity.public_key,
            witness=self.witness,
            recover=self._recoverer(labels),
            greeted=self._greeted,
            clock=self._ports.steady,
        )
        self.sender = Sender(
            self.spool,
            self._ports.post,
            self.standing,
            interval_s=self.settings.push_interval_s,
        )

    def _open_training(self, identity: Identity) -> None:
        settings = self.settings
        self.desk = TrainingDesk(
            gateway=identity.fingerprint,
            task=settings.task,
            ledger=self.ledger,
            store=self.store,
            gate=self.gate,
            spool=self.spool,
            serving=lambda: self.installed.serving(self.installer.status()),
            closed_windows=lambda: self.watcher.windows,
            in_step=lambda: self.sender.greet() and self.standing.cleared is not None,
            secured=self._secured,
            start_trainer=self._ports.start_trainer,
            enabled=settings.train,
        )

    def _open_rights(self, identity: Identity) -> None:
        """Erasure, consent and retention."""
        settings, ports, state_dir = self.settings, self._ports, self.settings.state_dir
        self.eraser = Eraser(
            gateway=id_prefix(identity.fingerprint),
            state=self.state,
            store=self.store,
            ledger=self.ledger,
            consent=self.consent,
            subjects=SubjectKey.open(state_dir),
            ring=state_dir / "ring.bin",
            stream=self.watcher,
            end_training=self.desk.close,
            forget_local=(lambda: None) if self.local is None else self.local.forget,
            clock=ports.clock,
        )
        self.housekeeper = Housekeeper(
            state=self.state,
            store=self.store,
            ledger=self.ledger,
            retention=settings.retention,
            reserved=lambda: self.desk.reading,
            end_training=self.desk.close,
            eraser=self.eraser,
            clock=ports.clock,
        )

    def _open_escalation(self) -> None:
        self.escalation: EscalationDesk | None = None
        grants = self.settings.state_dir / GRANTS_FILE
        desk = EscalationDesk(self.ledger, grants, self._may_escalate)
        if self.settings.escalation.url:
            self.escalation = desk
        elif grants.exists():
            desk.revoke()

    def _recoverer(self, labels: LabelReporter) -> Recoverer:
        block = self.policy.block
        return Recoverer(
            self.state,
            self.ledger,
            spool=self.spool,
            audit=self.audit,
            labels=labels,
            still=self.watcher.standing_still,
            present_block=self._present_block,
            given_out=self.watcher.given_out,
            block_slots=self.settings.window_slots * block.value if block.kind == "windows" else 0,
        )

    def _present_block(self) -> int:
        """The latest block in which a record may have arrived."""
        slot = max(self.watcher.next_slot, self.watcher.given_out() - 1)
        return max(self._block_of(slot, self.clock.wall()), self.watcher.last_block)

    def _secured(self) -> bool:
        """Whether the coordinator has all ledger entries up to now; sends them if it has not."""
        size = self.ledger.size
        for _ in range(SECURING_PUSHES):
            if (cleared := self.standing.cleared) is None:
                return False
            if cleared >= size:
                return True
            self.push_once()
        return (self.standing.cleared or 0) >= size

    def _greeted(self, found: LedgerStanding) -> None:
        """Take numbers and entries that the coordinator has into account."""
        self.spool.never_below(found.next_seq)
        self.audit.resend_from(found.entries)

    def _open_local_drift(self, reporter: WindowReporter) -> LocalDrift | None:
        if not self.settings.local_drift.enabled:
            return None
        # Nothing of it is loaded where it is off.
        from fedge_client.agent.local_drift import open_local_drift

        return open_local_drift(
            self.settings,
            state=self.state,
            purposes=reporter.purposes,
            installed=self.installed.get,
            clock=self._ports.clock,
            steady=self._ports.steady,
        )

    def _may_escalate(self) -> bool:
        status = self.installer.status()
        serving = None if status.slot == "none" else self.installed.get(status.release)
        return serving is not None and "escalation" in serving.task.purposes

    # --- one bounded piece of work each ---------------------------------------------------

    def watch_once(self) -> int:
        """Take in what the worker observed; answers 0 where there was nothing to do."""
        if self.escalation is not None:
            # Before the first record of a block may leave, the ledger says so.
            block = self._block_of(self.watcher.next_slot, self.clock.wall())
            self.escalation.cover(max(block, self.watcher.last_block))
        return self.watcher.poll()

    def install_once(self) -> None:
        """Move the installer one step; a refusal is recorded and visible in the status."""
        self.installer.step()

    def report_facts_once(self) -> None:
        """Put a snapshot of public facts into the spool."""
        self._worker_restarts = self._ports.worker_restarts()
        self.gate.public_facts(self.public_facts())

    def push_once(self) -> float:
        """Push ledger entries and the spool; answers the seconds until the next push."""
        with self._pushing:
            if self.standing.cleared is not None:
                self.audit.resend_from(self.standing.stored)
            self.audit.hand_over()
            return self.sender.push()

    def tidy_once(self) -> float:
        """Delete what is too old or too much; answers the seconds until the next time."""
        if self.local is not None:
            self.local.expire()
        return self.housekeeper.step()

    def tell_alarms_once(self) -> float:
        """Tell one local alarm to the webhook on this host; answers the seconds until the next."""
        if self.local is None or self.local.webhook is None:
            return math.inf
        return self.local.webhook.deliver()

    def answer(self, request: RoundRequest, arrays: bytes) -> bytes:
        """Answer one message of a run; see `TrainingDesk.answer`."""
        return self.desk.answer(request, arrays)

    # --- what it says about itself --------------------------------------------------------

    def public_facts(self) -> GatewayStatus:
        """A snapshot of public facts; restarts of the worker as they were last asked for."""
        return facts.collect(
            installer=self.installer,
            ledger=self.ledger,
            spool=self.spool,
            standing=self.standing.state,
            stream=self.watcher,
            worker_restarts=lambda: self._worker_restarts,
            now=self._ports.clock(),
        )

    def local_facts(self) -> dict[str, Any]:
        """What the machine's own operator may know besides; it never leaves the host."""
        return {
            "dropped_labels": self.watcher.dropped_labels,
            "refused_labels": self.watcher.refused_labels,
            "stored_bytes": self.store.bytes_on_disk,
            "damaged_windows": self.store.damaged,
            "evicted_windows": self.store.evicted,
            "unfinished_erasures": self.eraser.unfinished,
            "ledger_entries_sent": self.audit.next_seq,
            "ledger_standing": self.standing.detail,
            "witness_key": self.witness.key,
            "refused_witness_key": self.witness.refused,
            "training": bool(self.desk.reading),
            "local_drift": None if self.local is None else self.local.facts(),
        }

    def commands(self) -> dict[str, Command]:
        """What the admin socket answers."""

        def status(_: dict[str, Any]) -> dict[str, Any]:
            public = self.public_facts().model_dump(mode="json")
            return {**public, "spool_bytes": self.spool.bytes_kept, "local": self.local_facts()}

        return {"status": status, **admin_commands(self.eraser)}

    def close(self) -> None:
        """End in good order: what is under way is stored or ended, and the last heads are kept."""
        self.sender.stop()
        self.telemetry.close()
        self.desk.close()
        self.watcher.close()
        self.sender.last_look()
        self.state.close()
