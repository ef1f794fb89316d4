"""The audit of ourselves as a figure: the code passes, and every planted bug is found."""

from __future__ import annotations

import sys

from benchmarks.figures import Figure
from fedge.audit.evidence import AuditEvidence, write_evidence
from fedge.audit.multi_run import multi_run


def measure() -> list[Figure]:
    """`pr-audit`: verdicts of the many-run audit that are as they must be, of all."""
    evidence = multi_run(progress=_show)
    print(f"evidence: {write_evidence(evidence)}", file=sys.stderr)
    return [figure_of(evidence)]


def figure_of(evidence: AuditEvidence) -> Figure:
    """How many programs got the verdict that they deserve."""
    right = sum(evidence.flags(case) == case.seeded_bug for case in evidence.cases)
    bounds = ", ".join(f"{case.name} {case.lower_bound:.1f}" for case in evidence.cases)
    return Figure(
        id="pr-audit",
        what=f"code passes and planted bugs are flagged, {evidence.runs} runs each, claimed "
        f"epsilon {evidence.claimed_epsilon:.1f}, lower bounds at 95 %: {bounds}",
        ours=float(right),
        peer=None,
        peer_name="",
        unit=f"of {len(evidence.cases)}",
        goal=f"{len(evidence.cases)} of {len(evidence.cases)}",
        holds=evidence.passed,
    )


def _show(done: int, total: int) -> None:
    if done % (total // 8) == 0:
        print(f"audit: {done} of {total} trainings", file=sys.stderr)
