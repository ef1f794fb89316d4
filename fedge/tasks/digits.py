"""The built-in task: handwritten digits before a simulated camera.

scikit-learn's bundled real digits are split by glyph: public ones make the model
and the reference, private ones make the gateways' streams, test ones are only ever
evaluated on. The privacy unit is one capture. Torch is loaded only when a model is
asked for, so streams and tests stay light.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from fedge.errors import SettingError
from fedge.records import ModelInput, NumericFeature, TaskSchema
from fedge.tasks.camera import HEALTHY, Fault, Images, capture
from fedge.tasks.code import PublicData, Weights

if TYPE_CHECKING:
    from fedge.tasks.adapted import AdaptedModel

Split = Literal["public", "private", "test"]

SIZE = 8
PUBLIC_GLYPHS, PRIVATE_GLYPHS = 600, 800
_SPLIT_SEED, _PUBLIC_SEED = 20240501, 20240502
_PUBLIC_CAPTURES = 5

SCHEMA = TaskSchema(
    name="digits",
    version=1,
    input=ModelInput(name="image", shape=(1, SIZE, SIZE), low=0.0, high=1.0),
    classes=tuple("0123456789"),
    features=(
        NumericFeature(name="mean", type="float32", low=0.0, high=1.0),
        NumericFeature(name="spread", type="float32", low=0.0, high=0.5),
        NumericFeature(name="edge_energy", type="float32", low=0.0, high=0.5),
        NumericFeature(name="centroid_x", type="float32", low=0.0, high=SIZE - 1.0),
        NumericFeature(name="centroid_y", type="float32", low=0.0, high=SIZE - 1.0),
        NumericFeature(name="maximum", type="float32", low=0.0, high=1.0),
    ),
    code="fedge.tasks.digits:CODE",
)


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Some of the real glyphs.

    Attributes:
        ids: int64 [n], each glyph's place in scikit-learn's data set.
        images: float32 [n, 8, 8], 0 to 1.
        labels: int64 [n], the digits.
    """

    ids: npt.NDArray[np.int64]
    images: Images
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def glyphs(split: Split) -> Glyphs:
    """The glyphs of one split, the same on every machine: 600 public, 800 private, 397 test."""
    everything = _all_glyphs()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(everything))
    last_private = PUBLIC_GLYPHS + PRIVATE_GLYPHS
    places = {
        "public": order[:PUBLIC_GLYPHS],
        "private": order[PUBLIC_GLYPHS:last_private],
        "test": order[last_private:],
    }
    return _chosen(everything, places[split])


def gateway_share(gateway: int, gateways: int) -> Glyphs:
    """The private glyphs that one of `gateways` gateways streams; no two share a glyph.

    Raises:
        SettingError: there is no such gateway, or there are more gateways than glyphs.
    """
    if not 0 <= gateway < gateways <= PRIVATE_GLYPHS:
        raise SettingError(
            f"need 0 <= gateway < gateways <= {PRIVATE_GLYPHS}, not {gateway=}, {gateways=}"
        )
    private = glyphs("private")
    return _chosen(private, np.array_split(np.arange(len(private)), gateways)[gateway])


@lru_cache(maxsize=1)
def _all_glyphs() -> Glyphs:
    from sklearn.datasets import load_digits  # heavy: only whoever makes streams pays for it

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)
    return Glyphs(np.arange(len(images)), images, digits.target.astype(np.int64))


def _chosen(source: Glyphs, places: npt.NDArray[np.int64]) -> Glyphs:
    return Glyphs(source.ids[places], source.images[places], source.labels[places])


class DigitsTask:
    """The code part of `digits`."""

    schema = SCHEMA

    def new_model(self) -> AdaptedModel:
        """See `TaskCode.new_model`."""
        from fedge.tasks.digits_model import DigitsModel

        return DigitsModel()

    def public(self) -> PublicData:
        """Every public glyph captured five times clean and five times under as many faults."""
        rng = np.random.default_rng(_PUBLIC_SEED)
        public = glyphs("public")
        clean = [capture(public.images, rng, HEALTHY) for _ in range(_PUBLIC_CAPTURES)]
        faulted = [_under_family(public.images, rng) for _ in range(_PUBLIC_CAPTURES)]
        labels = np.tile(public.labels, _PUBLIC_CAPTURES)
        return PublicData(
            clean=np.concatenate(clean)[:, None],
            labels=labels,
            faulted=np.concatenate(faulted)[:, None],
            faulted_labels=labels,
        )

    def faulted_rows(self, seed: int, rows: int) -> tuple[Images, npt.NDArray[np.int64]]:
        """See `FaultFamily.faulted_rows`; each glyph is captured as often as needed."""
        rng = np.random.default_rng([_PUBLIC_SEED, seed])
        public = glyphs("public")
        order = np.repeat(rng.permutation(len(public)), -(-rows // len(public)))[:rows]
        images = capture(public.images[order], rng, _family_fault(rng))
        return images[:, None], public.labels[order]

    def base_weights(self, seed: int) -> Weights:
        """See `TaskCode.base_weights`; takes a few seconds on one core."""
        from fedge.tasks.digits_model import train_base

        return train_base(glyphs("public"), seed)


_FAMILY_GROUP = 20


def _under_family(images: Images, rng: np.random.Generator) -> Images:
    """Captures under many public faults, a new one for every twenty glyphs.

    What a camera may plausibly suffer: it names no fault that a demonstration plays.
    """
    groups = [
        capture(images[start : start + _FAMILY_GROUP], rng, _family_fault(rng))
        for start in range(0, len(images), _FAMILY_GROUP)
    ]
    return np.concatenate(groups)


def _family_fault(rng: np.random.Generator) -> Fault:
    return Fault(
        shift_px=(float(rng.uniform(-1.5, 1.5)), float(rng.uniform(-1.5, 1.5))),
        contrast=float(rng.uniform(0.5, 1.0)),
        offset=float(rng.uniform(0.0, 0.2)),
        noise=float(rng.uniform(0.03, 0.12)),
        blur=float(rng.uniform(0.0, 0.6)),
    )


CODE = DigitsTask()
