"""`python -m fedge.audit multi-run | one-run`: run an audit, print it, keep its evidence.

Exit status: 0 where the code passed and every planted bug was found, 3 where not, 1 where
the audit could not be carried out, 2 for wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from fedge.audit.evidence import FOLDER, AuditEvidence, write_evidence
from fedge.errors import FedgeError, SettingError
from fedge.records import AdapterKind

EXIT_OK, EXIT_FAILED, EXIT_VIOLATION, EXIT_INTERRUPTED = 0, 1, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one audit; see the module for exit statuses."""
    options = _parser().parse_args(arguments)
    try:
        evidence: AuditEvidence = options.audit(options)
        path = write_evidence(evidence, options.out)
    except FedgeError as error:
        print(f"fedge.audit: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("fedge.audit: interrupted, no evidence was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(evidence.to_bytes().decode() if options.json else table(evidence))
    print(f"written to {path}", file=sys.stderr)
    return EXIT_OK if evidence.passed else EXIT_VIOLATION


def table(evidence: AuditEvidence) -> str:
    """What was audited, found and concluded, for people."""
    lines = [
        f"claimed: epsilon {evidence.claimed_epsilon:.2f} at delta {evidence.delta:g}; "
        f"lower bounds at {evidence.confidence:.0%} from {evidence.runs} runs, "
        f"{evidence.canaries} canary guesses each",
        f"{'audited':30}{'claimed':>9}{'counted':>9}{'gaussian':>10}  verdict",
    ]
    for case in evidence.cases:
        gaussian = "-" if case.gaussian_epsilon is None else f"{case.gaussian_epsilon:.2f}"
        verdict = "above the claim" if evidence.flags(case) else "within the claim"
        wanted = evidence.flags(case) == case.seeded_bug
        note = "planted bug, " if case.seeded_bug else ""
        lines.append(
            f"{case.name:30}{evidence.claim_of(case):9.2f}{case.counted_epsilon:9.2f}"
            f"{gaussian:>10}  "
            f"{note}{verdict}{'' if wanted else '  <- WRONG'}"
        )
    lines.append(f"the audit {'passed' if evidence.passed else 'FAILED'}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fedge.audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(required=True, metavar="multi-run | one-run")
    many = kinds.add_parser("multi-run", help="train a toy with and without a worst-case record")
    many.add_argument("--runs", type=int, default=1000, help="with, and as many without")
    many.add_argument("--processes", type=int, default=2, help="0 trains in this one")
    many.add_argument("--seed", type=int, default=1, help="of all noise, from 0")
    many.set_defaults(audit=_multi_run)
    one = kinds.add_parser("one-run", help="plant canaries in a staging gateway's run")
    one.add_argument("--canaries", "--runs", type=int, default=300)
    one.add_argument("--seed", type=int, help="of canaries and coins; the system's by default")
    one.add_argument("--adapter", choices=get_args(AdapterKind), default="input")
    one.add_argument(
        "--state", type=Path, help="state directory of a stopped staging gateway; digits without"
    )
    one.add_argument("--release", type=Path, help="folder of its release: task.json, weights.npz")
    one.add_argument("--counter", type=int, help="of that release")
    one.set_defaults(audit=_one_run)
    for kind in (many, one):
        kind.add_argument("--json", action="store_true", help="print the evidence itself")
        kind.add_argument("--out", type=Path, default=FOLDER, help=f"folder, {FOLDER} by default")
    return parser


def _multi_run(options: argparse.Namespace) -> AuditEvidence:
    from fedge.audit.multi_run import multi_run

    with _Bar() as bar:
        return multi_run(
            runs=options.runs, processes=options.processes, seed=options.seed, progress=bar.show
        )


def _one_run(options: argparse.Namespace) -> AuditEvidence:
    from fedge.audit.one_run import one_run
    from fedge.audit.staging import digits_staging, opened_staging
    from fedge.config import TrainingSettings
    from fedge.privacy.noise import OsNoise

    if (options.state is None) != (options.release is None):
        raise SettingError("--state and --release belong together")
    if options.counter is not None and (options.state is None or options.counter < 1):
        raise SettingError("--counter is the number, from 1, of the release that --release names")
    opened = (
        digits_staging()
        if options.state is None
        else opened_staging(options.state, options.release, options.counter)
    )
    settings = TrainingSettings(adapter=options.adapter)
    with opened as staging:
        return one_run(staging, settings, OsNoise(), canaries=options.canaries, seed=options.seed)


class _Bar:
    """A progress bar on stderr."""

    def __enter__(self) -> _Bar:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("training", total=None)
        self._progress.start()
        return self

    def show(self, done: int, total: int) -> None:
        """See `multi_run`."""
        self._progress.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


if __name__ == "__main__":
    sys.exit(main())
