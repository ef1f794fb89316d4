"""Five gateways of digits before a drifted camera: what recovery and speed are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedge.data.blocks import LabelledRecords
from fedge.learning.adapters import TrainableAdapter
from fedge.learning.rehearsal import labelled, predict
from fedge.models.weights import Weights
from fedge.privacy.policy import new_policy
from fedge.records import BlockLength, PrivacyPolicy
from fedge.tasks.camera import capture, fault_named
from fedge.tasks.digits import CODE, gateway_share, glyphs

GATEWAYS, RECORDS, CAPTURES = 5, 300, 5

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fleet:
    """One seed's fleet under one fault.

    Attributes:
        weights: a base model trained on clean public captures.
        records: 300 labelled captures of each gateway's own private glyphs, with the
            predictions that the base model served.
        test: captures of test glyphs under the fault, and their labels.
    """

    weights: Weights
    records: tuple[LabelledRecords, ...]
    test: Floats
    labels: Integers

    @property
    def pooled(self) -> tuple[Floats, Integers]:
        """All gateways' records together, for the yardstick that no gateway computes."""
        inputs = np.concatenate([records.inputs for records in self.records])
        labels = np.concatenate([records.labels for records in self.records])
        return inputs.reshape(-1, *CODE.schema.input.shape).astype(np.float32), labels

    def accuracy(self, adapter: TrainableAdapter) -> float:
        """Share of test captures that the adapter's model gets right."""
        return float((predict(adapter, self.test) == self.labels).mean())


@lru_cache(maxsize=2)
def fleet(fault: str, seed: int) -> Fleet:
    """The same fleet for the same fault and seed."""
    weights, broken, test = CODE.base_weights(seed), fault_named(fault), glyphs("test")
    served = TrainableAdapter(CODE, weights, "head")
    records = []
    for number in range(GATEWAYS):
        share, rng = gateway_share(number, GATEWAYS), np.random.default_rng([seed, number])
        chosen = rng.integers(0, len(share), size=RECORDS)
        inputs = capture(share.images[chosen], rng, broken)[:, None]
        records.append(labelled(inputs, share.labels[chosen], predict(served, inputs)))
    rng = np.random.default_rng([seed, GATEWAYS])
    return Fleet(
        weights=weights,
        records=tuple(records),
        test=capture(np.repeat(test.images, CAPTURES, axis=0), rng, broken)[:, None],
        labels=np.repeat(test.labels, CAPTURES),
    )


def policy(epsilon: float) -> PrivacyPolicy:
    """What `fedge policy new` makes of (epsilon, 1e-5), monitoring's share included."""
    return new_policy(epsilon=epsilon, delta=1e-5, block=BlockLength(kind="windows", value=400))
