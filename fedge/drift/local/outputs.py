"""What one release's outputs say about its rows, as numbers for the detectors.

Its ranks and threshold come from the reference that travels, signed, with the release.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.drift.local.calibration import Ranks, Threshold
from fedge.drift.local.ood import LogitScore
from fedge.errors import SettingError
from fedge.records import Reference

Floats = npt.NDArray[np.float64]

_MEMORY_ROWS = 1000
"""Rows that the recent share looks back on, and up to twice as many."""


class StrangeRows:
    """Ranks the OOD scores of served rows, and counts those beyond the threshold.

    Args:
        rate: share of rows like the reference's that may be beyond it.

    Attributes:
        threshold: None where the reference is too small for this rate, or says nothing of it.
        why: in words, where there is none.

    Raises:
        SettingError: the reference says nothing about this score at all.
    """

    def __init__(self, reference: Reference, score: LogitScore, rate: float) -> None:
        self._ranks = Ranks.of_reference(reference, score)
        self.threshold: Threshold | None = None
        self.why = ""
        try:
            self.threshold = Threshold.of_reference(reference, score, rate)
        except SettingError as error:
            self.why = str(error)
        self._rows = self._strange = 0.0

    def ranks(self, scores: npt.NDArray[np.floating[Any]]) -> Floats:
        """Take in the scores of some rows; float64[n] in [0, 1], NaN where a score is."""
        if self.threshold is not None and len(scores):
            self._rows += len(scores)
            self._strange += int(np.count_nonzero(self.threshold.strange(scores)))
            if self._rows > 2 * _MEMORY_ROWS:
                self._strange *= _MEMORY_ROWS / self._rows
                self._rows = _MEMORY_ROWS
        return self._ranks.of_scores(scores)

    @property
    def recent_share(self) -> float | None:
        """Share of the latest thousand rows or two beyond the threshold; None without any."""
        return self._strange / self._rows if self._rows else None
