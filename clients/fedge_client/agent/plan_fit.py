"""Whether a run's plan fits the release that serves, before anything is reserved for it.

The trainer would refuse a plan for another model, but only after the charge: for nothing would
be spent what cannot be had back. The agent loads no model, so it reads shapes, once for each
release. What is said in answer follows from the plan and the release, both public.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fedge.errors import ParticipationRefusedError, TaskError
from fedge.models.weights import read_dimensions
from fedge.records import AdapterKind, TrainingPlan

log = logging.getLogger(__name__)


class PlanFit:
    """Compares plans with the adapters that a release's model has."""

    def __init__(self) -> None:
        self._release = ""
        self._dimensions: dict[AdapterKind, int] = {}

    def check(self, plan: TrainingPlan, release_sha256: str, folder: Path) -> None:
        """Refuse a plan that the release's trainer could not carry out.

        Args:
            release_sha256: which release lies in `folder`.

        Raises:
            ParticipationRefusedError: the model has no such adapter, or one of another length, or
                its weights cannot be read; then they are looked at again the next time.
        """
        if self._release != release_sha256:
            try:
                self._dimensions = read_dimensions(folder / "weights.npz")
            except TaskError as error:
                log.error("no run can be answered: %s", error)
                raise ParticipationRefusedError("weights-not-readable") from error
            self._release = release_sha256
        dimension = self._dimensions.get(plan.adapter)
        if dimension is None:
            raise ParticipationRefusedError("no-such-adapter")
        if plan.dimension != dimension:
            raise ParticipationRefusedError("other-dimension")
