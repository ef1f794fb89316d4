"""A noise port that adds nothing, so that a test reads exact counts from what would leave.

Only a simulated ledger settles it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedge.privacy.grants import Grant
from fedge.privacy.noise import NoiseKind


class ExactNoise:
    """Takes the grant and draws zeros."""

    kind: NoiseKind = "seeded"

    def discrete_gaussian(
        self, exact: npt.NDArray[np.int64], *, sensitivity2: int, sigma2: int, grant: Grant
    ) -> npt.NDArray[np.int64]:
        """See `Noise.discrete_gaussian`; refuses a real ledger's grant."""
        assert grant.simulated, "counts without noise must never be made under a real ledger"
        grant.take(sensitivity2, sigma2, exact.size)
        return exact.copy()
