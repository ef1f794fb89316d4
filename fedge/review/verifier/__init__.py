"""Checks a bundle without trusting whoever made it: a second implementation of every rule.

Shares no code with the rest of fedge: it imports the standard library, `cryptography` for
Ed25519 and `mpmath` for logarithms, and reads plain JSON. A mistake in the ledger's arithmetic,
canonical form or tree therefore shows as a disagreement instead of being made twice. Nothing
here opens a socket or writes a file.
"""

from fedge.review.verifier.verdict import (
    HARMLESS,
    BlockFacts,
    Charge,
    Deviation,
    Facts,
    Finding,
    GatewayFacts,
    UnreadableBundleError,
    Verdict,
)
from fedge.review.verifier.verify import verify_bundle

__all__ = [
    "HARMLESS",
    "BlockFacts",
    "Charge",
    "Deviation",
    "Facts",
    "Finding",
    "GatewayFacts",
    "UnreadableBundleError",
    "Verdict",
    "verify_bundle",
]
