"""pr-verify: how long a reviewer waits for the verdict about 10,000 ledger entries.

The bundle holds what four years of one busy gateway would: a block a week with its windows,
features and labels, a retraining in each block (every fourth one Poisson sampled), a signed and
a confirmed head for every batch of entries, and every envelope. Beside it stands the ledger's
own replay of the same entries, which checks no signature and no envelope.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from fedge.identity import Artefact, Envelope, EnvelopeKind, Identity
from fedge.privacy.approval import approve
from fedge.privacy.entries import (
    FIRST_HASH,
    Adopted,
    Created,
    Entry,
    Opened,
    RunReserved,
    Settled,
    WindowReserved,
)
from fedge.privacy.heads import sign_head, witness_head
from fedge.privacy.merkle import Frontier, leaf_hash
from fedge.privacy.policy import new_policy
from fedge.privacy.replay import replay
from fedge.records import (
    BlockLength,
    DiscreteGaussianEvent,
    Participant,
    PoissonGaussianEvent,
    PrivacyEvent,
    RunSpec,
    SignedHead,
    TrainingPlan,
    sha256_hex,
)
from fedge.review.bundle import write_bundle
from fedge.review.source import BundleSource, GatewayLedger, RunFact
from fedge.review.verifier import Verdict, verify_bundle

ENTRIES, GOAL_S, BATCH, WINDOWS = 10_000, 10.0, 10, 12
GATEWAY, CENTRE, REVIEWER = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
POLICY = new_policy(
    epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=WINDOWS), label_rho=0.008
)
FEATURES = DiscreteGaussianEvent(sensitivity2=33, sigma2=900, count=1, dimension=130)
LABELS = DiscreteGaussianEvent(sensitivity2=1, sigma2=100, count=1, dimension=2)


def measure() -> list[Figure]:
    """Seconds to the verdict, the better of two runs, each in a process that is warm."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.zip"
        author = Author()
        author.write(ENTRIES)
        write_bundle(path, author.source, CENTRE, float(len(author.entries)))
        ours, verdict = _timed(lambda: _verify(path))
        theirs, _ = _timed(lambda: replay(author.entries))
    return [
        Figure(
            id="pr-verify",
            what=f"verdict about {len(author.entries)} entries, {len(author.artefacts)} envelopes",
            ours=ours,
            peer=theirs,
            peer_name="the ledger's own replay, no signatures",
            unit="s",
            goal=f"<= {GOAL_S:g} s",
            holds=_clean(verdict) and ours <= GOAL_S,
        )
    ]


def _verify(path: Path) -> Verdict:
    return verify_bundle(
        path,
        witness_key=CENTRE.public_key.hex(),
        reviewer_keys=[REVIEWER.public_key.hex()],
        gateway_keys=[GATEWAY.public_key.hex()],
    )


def _clean(verdict: Verdict) -> bool:
    """Accepted, with nothing against it but the floating-point noise of its sampled runs."""
    kinds = {finding.kind for finding in verdict.findings}
    return verdict.accepted and kinds <= {"floating-point-noise"}


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    best, answer = float("inf"), None
    for _ in range(2):
        start = time.perf_counter()
        answer = action()
        best = min(best, time.perf_counter() - start)
    return best, answer


@dataclass
class Author:
    """Writes entries as a ledger chains them, without a disk under it."""

    entries: list[bytes] = field(default_factory=list)
    artefacts: list[Artefact] = field(default_factory=list)
    heads: list[SignedHead] = field(default_factory=list)
    runs: list[RunFact] = field(default_factory=list)
    frontier: Frontier = field(default_factory=Frontier)
    reservations: int = 0

    def write(self, entries: int) -> None:
        """At least so many entries, whole blocks only."""
        self._append(Created, gateway=GATEWAY.fingerprint, public_key=GATEWAY.public_key.hex())
        approval = approve(POLICY, REVIEWER, reviewer="R. Reader", reason="a year", at=0.0)
        self._append(Adopted, policy=POLICY, approval=approval)
        block = 0
        while len(self.entries) < entries:
            self._block(block)
            block += 1
        self._sign()

    @property
    def source(self) -> BundleSource:
        """What was written, as the source of a bundle that the centre exports, heads witnessed."""
        ledger = GatewayLedger(
            gateway=GATEWAY.fingerprint,
            public_key=GATEWAY.public_key.hex(),
            name="busy",
            entries=tuple(self.entries),
            heads=tuple(self.heads),
            witnessed=tuple(witness_head(CENTRE, head, head.at) for head in self.heads),
            artefacts=tuple(self.artefacts),
        )
        return BundleSource(
            made_by="coordinator",
            simulated=False,
            witness_key=CENTRE.public_key.hex(),
            gateways=(ledger,),
            runs=tuple(self.runs),
        )

    def _block(self, block: int) -> None:
        self._append(Opened, block=block, policy=POLICY)
        for window in range(WINDOWS * block, WINDOWS * (block + 1)):
            self._window(window, block, "features", "report", FEATURES)
            self._window(window, block, "labels", "labels", LABELS)
        self._run(block)

    def _window(
        self, window: int, block: int, purpose: str, kind: EnvelopeKind, event: PrivacyEvent
    ) -> None:
        self._append(
            WindowReserved,
            reservation=self.reservations,
            window=window,
            block=block,
            purpose=purpose,
            events=(event,),
        )
        self._settle(kind, f"{purpose}/{window}", event)
        self.reservations += 1

    def _run(self, block: int) -> None:
        spec = _spec(block)
        plan = spec.plan
        self._append(
            RunReserved,
            reservation=self.reservations,
            run_id=spec.run_id,
            blocks=(block,),
            events=plan.events,
            purposes=("training", "evaluation"),
            task=spec.task,
            base_release=spec.base_release,
            base_sha256=spec.base_sha256,
        )
        updates = [
            self._settle("update", f"{spec.run_id}/train/{n}", plan.round_event)
            for n in range(plan.rounds)
        ]
        counts = self._settle("counts", f"{spec.run_id}/evaluate/0", plan.evaluation_event)
        self.reservations += 1
        self.runs.append(RunFact(spec=spec, update_sha256=tuple(updates), counts_sha256=(counts,)))

    def _settle(self, kind: EnvelopeKind, key: str, event: PrivacyEvent) -> str:
        payload = f"{kind} {key}".encode()
        channel = "reply" if kind in ("update", "counts") else "push"
        envelope = Envelope.seal(GATEWAY, kind, len(self.artefacts), payload)
        self.artefacts.append(Artefact.of(envelope, channel))  # type: ignore[arg-type]
        self._append(
            Settled,
            reservation=self.reservations,
            key=key,
            event=event,
            artefact_sha256=sha256_hex(payload),
            noise="os-float" if isinstance(event, PoissonGaussianEvent) else "os",
        )
        return sha256_hex(payload)

    def _append(self, kind: type[Entry], **facts: object) -> None:
        seq = len(self.entries)
        previous = leaf_hash(self.entries[-1]).hex() if self.entries else FIRST_HASH
        values = {"seq": seq, "previous": previous, "at": float(seq), "simulated": False}
        data = kind.model_validate({**values, **facts}).to_bytes()
        self.entries.append(data)
        self.frontier = self.frontier.appended(leaf_hash(data))
        if len(self.entries) % BATCH == 0:
            self._sign()

    def _sign(self) -> None:
        size = self.frontier.size
        if not self.heads or self.heads[-1].size < size:
            self.heads.append(sign_head(GATEWAY, size, self.frontier.root.hex(), float(size)))


def _spec(block: int) -> RunSpec:
    sampled = block % 4 == 3
    plan = TrainingPlan(
        adapter="input",
        rounds=3,
        steps=20,
        clip=1.0,
        learning_rate=0.5,
        divisor=300,
        grid_bits=10,
        # Another noise in each block, so that no price is known from the block before.
        sigma2=(200 + block) * 2**20,
        evaluation_sigma2=400,
        dimension=26,
        sampling="poisson" if sampled else "full",
        rate_ppm=250_000 if sampled else None,
    )
    member = Participant(
        gateway=GATEWAY.fingerprint,
        public_key=GATEWAY.public_key.hex(),
        first_window=WINDOWS * block,
        last_window=WINDOWS * (block + 1) - 1,
    )
    return RunSpec(
        run_id=f"run-{block}",
        task="digits",
        base_release=1,
        base_sha256=hashlib.sha256(b"base").hexdigest(),
        plan=plan,
        participants=(member,),
        episodes=(),
    )


def profile(lines: int = 25) -> Iterator[str]:
    """Where the time goes; `python -m benchmarks.privacy.verify --profile`."""
    import cProfile
    import io
    import pstats

    with tempfile.TemporaryDirectory() as folder:
        path, author = Path(folder) / "bundle.zip", Author()
        author.write(ENTRIES)
        write_bundle(path, author.source, CENTRE, float(len(author.entries)))
        profiler = cProfile.Profile()
        profiler.runcall(_verify, path)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(lines)
    yield from text.getvalue().splitlines()


if __name__ == "__main__":
    if "--profile" in sys.argv:
        print("\n".join(profile()))
    for figure in measure():
        print(figure.line())
