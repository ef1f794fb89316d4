"""The simulated camera keeps what it says about faults."""

from __future__ import annotations

import numpy as np
import pytest

from fedge.errors import TaskError
from fedge.tasks.camera import DIRT, HEALTHY, LENS, Fault, capture, fault_named

DOT = np.zeros((400, 8, 8), dtype=np.float32)
DOT[:, 3, 3] = 1.0


def centre(images: np.ndarray) -> tuple[float, float]:
    """Mean column and row of the light above the darkest level."""
    light = images.mean(axis=0) - images.mean(axis=0).min()
    y, x = np.mgrid[0:8, 0:8]
    return float((light * x).sum() / light.sum()), float((light * y).sum() / light.sum())


class TestCapture:
    def test_same_source_same_captures(self) -> None:
        """The same random source gives the same captures, under every fault."""
        for fault in (HEALTHY, LENS, DIRT):
            one = capture(DOT, np.random.default_rng(3), fault)
            other = capture(DOT, np.random.default_rng(3), fault)

            np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("fault", [HEALTHY, LENS, DIRT])
    def test_stays_in_public_bounds(self, fault: Fault) -> None:
        """Every capture lies in the input's public bounds and is float32."""
        images = capture(DOT, np.random.default_rng(1), fault)

        assert images.dtype == np.float32
        assert images.shape == DOT.shape
        assert images.min() >= 0.0
        assert images.max() <= 1.0

    def test_shift_moves_right_and_down(self) -> None:
        """A shift of (1.2, 0.6) px moves the picture 1.2 to the right and 0.6 down."""
        still = capture(DOT, np.random.default_rng(2), Fault(noise=0.0))
        moved = capture(DOT, np.random.default_rng(2), Fault(noise=0.0, shift_px=(1.2, 0.6)))

        assert centre(still) == pytest.approx((3.0, 3.0), abs=0.05)
        assert centre(moved) == pytest.approx((4.2, 3.6), abs=0.05)

    def test_lens_fault_loses_contrast(self) -> None:
        """The brightest light falls by the contrast that the lens lost."""
        bright = np.ones((200, 8, 8), dtype=np.float32)
        fault = Fault(contrast=LENS.contrast, noise=0.0)

        assert capture(bright, np.random.default_rng(1), fault)[:, 4, 4].mean() == pytest.approx(
            0.6, abs=0.02
        )

    def test_captures_differ(self) -> None:
        """Two captures of one glyph are not the same picture."""
        images = capture(DOT[:2], np.random.default_rng(1))

        assert not np.array_equal(images[0], images[1])


def test_unknown_fault_is_refused() -> None:
    """A fault that does not exist is refused with the names that do."""
    assert fault_named("lens") is LENS
    with pytest.raises(TaskError, match="dirt"):
        fault_named("fog")
