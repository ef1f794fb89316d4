"""A simulated camera that captures small glyphs, and the faults that may befall it.

Every capture shifts and brightens a glyph a little differently, so a few
hundred real glyphs make a stream of any length. A fault changes what all later
captures have in common. Plain numpy: streams and tests need no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedge.errors import TaskError

Images = npt.NDArray[np.float32]
"""float32 [n, height, width], 0 (dark) to 1 (bright)."""

_SHIFT_PX = 0.3
_GAIN = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What is wrong with a camera; the defaults describe a healthy one.

    Attributes:
        shift_px: how far the picture moved, (right, down), in pixels.
        contrast: factor on the picture.
        offset: brightness added everywhere.
        noise: standard deviation of the sensor's noise.
        blur: share of each pixel's light that a film on the lens spreads over its neighbours.
        specks: (row, column, darkness) of grains on the lens, each about a pixel wide.
    """

    shift_px: tuple[float, float] = (0.0, 0.0)
    contrast: float = 1.0
    offset: float = 0.0
    noise: float = 0.03
    blur: float = 0.0
    specks: tuple[tuple[float, float, float], ...] = ()


HEALTHY = Fault()
LENS = Fault(shift_px=(1.2, 0.6), contrast=0.6, offset=0.1, noise=0.1)
"""The lens slipped and lost contrast."""
DIRT = Fault(
    blur=0.5,
    contrast=0.65,
    offset=0.1,
    noise=0.06,
    specks=((2.0, 4.5, 0.65), (5.0, 2.5, 0.55)),
)
"""A film that scatters light, and two grains on it."""

FAULTS = {"lens": LENS, "dirt": DIRT}


def fault_named(name: str) -> Fault:
    """The fault of that name.

    Raises:
        TaskError: there is none; lists those that exist.
    """
    try:
        return FAULTS[name]
    except KeyError as error:
        raise TaskError(f"no camera fault {name!r}; choose one of {sorted(FAULTS)}") from error


def capture(glyphs: Images, rng: np.random.Generator, fault: Fault = HEALTHY) -> Images:
    """Capture each glyph once.

    Args:
        glyphs: float32 [n, height, width], 0 to 1.
        rng: gives each capture its own small shift, gain and noise.

    Returns:
        float32 of the same shape, clipped to 0 to 1 as a sensor does.
    """
    n, height, width = glyphs.shape
    jitter = rng.uniform(-_SHIFT_PX, _SHIFT_PX, size=(2, n)).astype(np.float32)
    rows = _shifted(height, jitter[0] + np.float32(fault.shift_px[1]))
    columns = _shifted(width, jitter[1] + np.float32(fault.shift_px[0]))
    images = rows @ glyphs @ columns.transpose(0, 2, 1)
    if fault.blur:
        spread = _spread(height, fault.blur) @ images @ _spread(width, fault.blur)
        images = spread.astype(np.float32)
    gain = rng.uniform(1 - _GAIN, 1 + _GAIN, size=(n, 1, 1)).astype(np.float32)
    images = images * gain * np.float32(fault.contrast) + np.float32(fault.offset)
    if fault.specks:
        images = images * _transparency(height, width, fault.specks)
    noise = rng.standard_normal(size=images.shape, dtype=np.float32)
    images = images + noise * np.float32(fault.noise)
    return np.clip(images, 0.0, 1.0).astype(np.float32)


def _shifted(size: int, shift: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Matrices [n, size, size] that move a line of pixels by `shift`, dark flowing in."""
    at = np.arange(size, dtype=np.float32)
    distance = np.abs(at[None, :, None] - at[None, None, :] - shift[:, None, None])
    weights: npt.NDArray[np.float32] = np.clip(1 - distance, 0.0, 1.0).astype(np.float32)
    return weights


def _spread(size: int, share: float) -> npt.NDArray[np.float32]:
    """Matrix [size, size] that hands half of `share` of a pixel's light to each neighbour."""
    eye = np.eye(size, dtype=np.float32)
    sides = np.eye(size, k=1, dtype=np.float32) + np.eye(size, k=-1, dtype=np.float32)
    return ((1 - share) * eye + share / 2 * sides).astype(np.float32)


def _transparency(
    height: int, width: int, specks: tuple[tuple[float, float, float], ...]
) -> npt.NDArray[np.float32]:
    """How much light [height, width] the grains let through."""
    y, x = np.mgrid[0:height, 0:width]
    clear = np.ones((height, width))
    for row, column, darkness in specks:
        clear *= 1 - darkness * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2.0)
    return clear.astype(np.float32)
