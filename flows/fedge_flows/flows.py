"""The flows as Prefect runs them: thin shells around the steps.

Prefect is told nothing that matters: no result, no artefact, no state of ours lives
there, so that a lost Prefect database loses schedules and history, never a decision.
"""

from __future__ import annotations

import logging

from prefect import flow

from fedge_flows.bus import PrefectBus
from fedge_flows.context import open_context

log = logging.getLogger(__name__)

# Retrying is `monitor`'s task, from stored state; Prefect's retries would know less.
_OPTIONS = {"retries": 0, "persist_result": False, "validate_parameters": True}


@flow(name="monitor", **_OPTIONS)  # type: ignore[call-overload,untyped-decorator]
def monitor_flow() -> None:
    """Judge the fleet and start what is due."""
    with open_context("server", PrefectBus()) as context:
        context.monitor()


@flow(name="retrain", **_OPTIONS)  # type: ignore[call-overload,untyped-decorator]
def retrain_flow(run_id: str | None = None) -> dict[str, str]:
    """Run the rounds of a run; without `run_id`, as on a plain schedule, of all that are due."""
    with open_context("server", PrefectBus()) as context:
        due = context.due_for_training() if run_id is None else (run_id,)
        return {one: context.retrain(one) for one in due}


@flow(name="recompile", **_OPTIONS)  # type: ignore[call-overload,untyped-decorator]
def recompile_flow(run_id: str) -> str:
    """Build and sign the candidate of a trained run."""
    with open_context("builder", PrefectBus()) as context:
        return context.recompile(run_id)


@flow(name="publish", **_OPTIONS)  # type: ignore[call-overload,untyped-decorator]
def publish_flow(run_id: str) -> str:
    """Publish a signed candidate."""
    with open_context("publisher", PrefectBus()) as context:
        return context.publish(run_id)


@flow(name="renew", **_OPTIONS)  # type: ignore[call-overload,untyped-decorator]
def renew_flow() -> None:
    """Sign the release repository's dates again, before gateways refuse them as expired."""
    with open_context("publisher", PrefectBus()) as context:
        context.renew()


@flow(name="compliance", **_OPTIONS)  # type: ignore[call-overload,untyped-decorator]
def compliance_flow() -> str | None:
    """Report on the privacy ledgers; fails where they are rejected. Answers the folder."""
    with open_context("server", PrefectBus()) as context:
        made = context.compliance()
        return None if made is None else str(made.folder)
