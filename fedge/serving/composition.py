"""What one worker is made of, by its settings: release, engine, app, guard, counters.

Everything but sockets and processes is put together here, and ready to serve afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedge.config import BatchingSettings, GatewaySettings, LimitSettings
from fedge.data.consent import WITHDRAWALS_FILE, Withdrawals
from fedge.errors import FedgeError, RequestError, StateError
from fedge.identity import Identity
from fedge.privacy.policy import read_policy
from fedge.records import TaskSchema
from fedge.serving.app import InferenceApp, Limits
from fedge.serving.engine import DirectEngine, Engine, Inputs, Served
from fedge.serving.escalation_counts import counts_path
from fedge.serving.front import Observer, Unobserved
from fedge.serving.guard import Guard, checks
from fedge.serving.marks import Marks
from fedge.serving.probes import ProbeResult, probe
from fedge.serving.record_ids import block_numbering, id_prefix
from fedge.serving.release import load_release
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import RowLayout
from fedge.serving.ring_keeper import RingKeeper
from fedge.serving.slot_floor import unobserved_slot
from fedge.serving.stats import WorkerStats, stats_path
from fedge.serving.tls import ServerTls
from fedge.serving.upkeep import Subjects, Upkeep

if TYPE_CHECKING:
    from fedge.serving.batching import Batcher
    from fedge.serving.escalation import Escalator
    from fedge.serving.relay import Relay

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """A worker without its sockets.

    Attributes:
        app: serves whoever calls it; for callers that were checked already.
        guard: the app for everybody else.
        probed: what the release showed on this machine.
        stats: None where the counters cannot be written; serving goes on.
        tls: of the shared port; None serves in the clear.
        batcher: lets requests wait for each other; None where each runs on its own.
        upkeep: to be run while it serves.
    """

    app: InferenceApp
    guard: Guard
    probed: ProbeResult
    limits: LimitSettings
    stats: WorkerStats | None
    tls: ServerTls | None
    batcher: Batcher | None
    upkeep: Upkeep

    @property
    def observer(self) -> Observer:
        return self.stats if self.stats is not None else Unobserved()


def compose(settings: GatewaySettings, family: str, slot: str) -> Serving:
    """Load and probe the release in `slot`, and put everything around it.

    Args:
        settings: of the gateway, with all its models.
        family: which of them this worker serves.

    Raises:
        FedgeError: it must not serve; says why.
    """
    own = settings.for_model(family)
    state_dir = own.state_dir
    tls = None if own.tls is None else ServerTls(own.tls)
    admission = checks(own.token_file, own.limits)
    release = load_release(state_dir / "slots" / slot, own)
    probed = probe(release)
    task = release.task
    block_length = read_policy(state_dir / "policy.toml").block
    block_of = block_numbering(block_length, own.window_slots)
    keeper = _keeper(own, task)
    ring = None if keeper is None else keeper.ring
    stats = _stats(own, slot, release.manifest.counter)
    # Ids of rows that nobody observes must not name rows that somebody did, before or later.
    unobserved = unobserved_slot(time.time())
    direct = DirectEngine(release, ring, block_of, time.time, unobserved=unobserved)
    batcher = _batcher(direct, own.batching)
    engine: Engine = batcher or direct
    if stats is not None:
        engine = _Counted(engine, stats)
    subjects = Subjects(state_dir)
    relay, escalator = _relay(settings, family), _escalator(own, slot, task)
    app = InferenceApp(
        release,
        probed,
        engine,
        ring,
        Limits(own.max_body_bytes, own.max_batch, own.feedback_slots),
        # Only the name is kept: the worker signs nothing.
        gateway=_prefix(own),
        subject_of=subjects.pseudonym,
        withdrawn=Withdrawals(state_dir / WITHDRAWALS_FILE).withdrawn,
        block_of=(lambda of: block_of(of, 0.0)) if block_length.kind == "windows" else None,
        relay=relay,
        neighbours=_neighbours(settings, family) if relay else None,
        escalator=escalator,
    )
    guard = Guard(app, admission, max_concurrent=own.limits.max_concurrent, observer=stats)
    if keeper is not None:

        def use(ring: RingWriter) -> None:
            direct.watch(ring)
            app.watch(ring)

        keeper.use = use
    upkeep = Upkeep(keeper, subjects, lambda on: None if stats is None else stats.observed(on))
    return Serving(app, guard, probed, own.limits, stats, tls, batcher, upkeep)


class _Counted:
    """An engine whose rows are counted."""

    def __init__(self, engine: Engine, stats: WorkerStats) -> None:
        self._engine, self._served = engine, stats.served

    async def infer(self, inputs: Inputs, marks: Marks) -> Served:
        """See `Engine.infer`."""
        try:
            served = await self._engine.infer(inputs, marks)
        except RequestError:
            # Such rows have slots, too: if they were not counted, slots less rows, of which both
            # are exported, would tell how many the model had no finite answer for.
            self._served(len(inputs))
            raise
        self._served(len(inputs))
        return served


def _keeper(own: GatewaySettings, task: TaskSchema) -> RingKeeper | None:
    """Of where rows are observed, with no ring yet if the disk refuses; None where none is wanted.

    Raises:
        TaskError: as `open_writer`.
    """
    if not own.monitoring:
        return None
    keeper = RingKeeper(own.state_dir / "ring.bin", RowLayout.of(task), own.ring_slots)
    try:
        keeper.open()
    except StateError as error:
        log.error("nothing is observed: %s", error)
    return keeper


def _stats(own: GatewaySettings, slot: str, release: int) -> WorkerStats | None:
    try:
        return WorkerStats(stats_path(own.runtime_dir, own.family, slot), release=release)
    except StateError as error:
        log.error("nothing is counted: %s", error)
        return None


def _batcher(direct: DirectEngine, wanted: BatchingSettings) -> Batcher | None:
    if wanted.max_rows == 1:
        return None
    from fedge.serving.batching import Batcher  # off by default

    return Batcher(direct, max_rows=wanted.max_rows, max_delay_ms=wanted.max_delay_ms)


def _relay(settings: GatewaySettings, family: str) -> Relay | None:
    others = [own.family for own in settings.served if own.family != family]
    if not others:
        return None
    from fedge.serving.relay import Relay  # most gateways serve one model

    return Relay({name: settings.runtime_dir / f"model-{name}.sock" for name in others})


def _neighbours(settings: GatewaySettings, family: str) -> dict[str, str]:
    """The other models by the prefix of their record ids, as far as they have an identity yet."""
    found = {}
    for own in settings.served:
        if own.family != family:
            try:
                found[_prefix(own)] = own.family
            except FedgeError as error:
                log.warning("no feedback is handed on to model %s: %s", own.family, error)
    return found


def _prefix(own: GatewaySettings) -> str:
    return id_prefix(Identity.load(own.state_dir / "identity.pem").fingerprint)


def _escalator(own: GatewaySettings, slot: str, task: TaskSchema) -> Escalator | None:
    counts = counts_path(own.runtime_dir, own.family, slot)
    if not own.escalation.url:
        with contextlib.suppress(OSError):
            counts.unlink(missing_ok=True)  # of a worker before, when it was on
        return None
    from fedge.serving.escalation import Escalator  # off on most gateways

    try:
        return Escalator.open(own, task, counts=counts)
    except StateError as error:
        # The file also tells whoever exports metrics that latencies depend on what requests held.
        log.error("nothing is escalated, because it could not be counted: %s", error)
        return None
