"""The streams that a demo plays and the sets that it evaluates on: all fixed by the plan.

Whoever holds these streams may compute a non-private yardstick; a gateway never can.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedge.demo.plan import PlayPlan
from fedge.tasks.camera import Fault, capture, fault_named
from fedge.tasks.digits import Glyphs, gateway_share, glyphs
from fedge.tasks.glyph_stream import GlyphStream

EVALUATION_CAPTURES = 5


def stream_of(plan: PlayPlan, gateway: int) -> GlyphStream:
    """What is played to one gateway: captures of its own share of the private glyphs."""
    return GlyphStream(
        gateway_share(gateway, plan.gateways),
        plan.seeds("stream", gateway),
        fault=fault_named(plan.fault),
        onset_row=plan.onset_rows[gateway],
    )


def evaluation_set(
    plan: PlayPlan, gateway: int, fault: Fault
) -> tuple[npt.NDArray[np.float32], Glyphs]:
    """Every test glyph captured five times, fixed by the seed: inputs glyph by glyph, and glyphs.

    The same random source serves the clean and the faulty set, so that both hold the same
    captures but for the fault.
    """
    test = glyphs("test")
    repeated = np.repeat(test.images, EVALUATION_CAPTURES, axis=0)
    rng = np.random.default_rng(plan.seeds("evaluation", gateway))
    return capture(repeated, rng, fault)[:, None], test
