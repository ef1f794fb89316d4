"""Evidence about one release: its training carried out once more, with canaries, in staging.

What is trained is the run's own plan from the run's own base release, on a fresh simulated
ledger and public rows; the release itself never sees a canary. Only a staging centre does it:
its settings say so, and so does the ledger of every gateway that it knows. The evidence lies
beside the candidate. It decides about nothing: where noise is large it shows little.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from fedge.audit.evidence import ONE_RUN, read_evidence, write_evidence
from fedge.delivery.candidate import read_manifest
from fedge.errors import AuditRefusedError, RecordError
from fedge.models.weights import read_weights
from fedge.privacy.entries import read_entry
from fedge.privacy.policy import read_policy
from fedge.records import AuditEvidence, PrivacyPolicy, RunSpec, TrainingPlan
from fedge.tasks.code import load_task_code
from fedge.tasks.schema import read_task
from fedge_server.database import Database
from fedge_server.fleet import Fleet
from fedge_server.ledgers import Ledgers

log = logging.getLogger(__name__)

LIMIT_S = 60.0
"""No further round of an audit begins after so many seconds."""


def refuse_real_fleet(database: Database, spec: RunSpec) -> None:
    """Make sure that this is a staging fleet, by the ledgers that its gateways signed.

    Raises:
        AuditRefusedError: a gateway's ledger is a real one, or a participant's is not known.
        StateError: a stored ledger is damaged.
    """
    members = {one.gateway for one in spec.participants}
    admitted = {one.fingerprint for one in Fleet(database, time.time).admitted()}
    for gateway in sorted(members | admitted):
        first = next(Ledgers(database).entries(gateway), None)
        if first is None and gateway in members:
            raise AuditRefusedError(
                f"no ledger of gateway {gateway} is stored: it is not known to be a staging gateway"
            )
        if first is not None and not read_entry(first).simulated:
            raise AuditRefusedError(
                f"gateway {gateway} has a real ledger: no canaries in a production fleet; unset "
                "[compliance] one_run_audit"
            )


def audit_candidate(
    candidate: Path,
    spec: RunSpec,
    *,
    base: Path,
    policy: Path,
    seed: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    limit_s: float = LIMIT_S,
) -> AuditEvidence:
    """Audit the training of a staged candidate and leave the evidence beside it; once.

    Args:
        candidate: folder with its manifest.
        spec: of the run that made it.
        base: folder of the release that the run started from.
        policy: the fleet's.
        seed: of canaries and coins; drawn from the system unless given.
        clock: seconds; only differences count.

    Raises:
        CandidateError: the candidate has no manifest.
        BudgetError: the policy no longer allows what the run was planned to spend.
        SettingError: the plan has room for too few canaries.
        StateError: the disk refused.
    """
    release = read_manifest(candidate).counter
    found = _known(candidate / ONE_RUN, release)
    if found is None:
        go_on = _until(limit_s, clock, f"audit of release {release}", spec.plan.rounds)
        found = _trained(spec.plan, release, base, read_policy(policy), seed, go_on)
        write_evidence(found, candidate)
        _tell(found)
    return found


def _trained(
    plan: TrainingPlan,
    release: int,
    base: Path,
    policy: PrivacyPolicy,
    seed: int | None,
    go_on: Callable[[int], bool],
) -> AuditEvidence:
    # Load torch and OpenDP, which no other flow needs.
    from fedge.audit.one_run import CANARIES, audit_plan
    from fedge.audit.staging import planned_staging
    from fedge.privacy.noise import OsNoise

    code = load_task_code(read_task(base / "task.json").code)
    weights, canaries = read_weights(base / "weights.npz"), min(CANARIES, plan.divisor)
    with planned_staging(code, weights, policy, plan, canaries=canaries, release=release) as place:
        return audit_plan(place, plan, OsNoise(), canaries=canaries, seed=seed, go_on=go_on)


def _until(
    limit_s: float, clock: Callable[[], float], what: str, rounds: int
) -> Callable[[int], bool]:
    """Says after each round how far it is, and whether there is time for another one."""
    start = clock()

    def go_on(done: int) -> bool:
        spent = clock() - start
        log.info("%s: round %d of %d, %.1f s", what, done, rounds, spent)
        return spent < limit_s

    return go_on


def _known(path: Path, release: int) -> AuditEvidence | None:
    """Evidence of an earlier try about this very release; what cannot be read is made again."""
    try:
        found = read_evidence(path)
    except RecordError:
        return None
    return found if found.release == release else None


def _tell(found: AuditEvidence) -> None:
    level = logging.INFO if found.passed else logging.ERROR
    log.log(
        level,
        "audit of release %s: epsilon of at least %.2f shown, %.2f claimed",
        found.release,
        found.lower_bound,
        found.claimed_epsilon,
    )
