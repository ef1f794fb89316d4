"""Heads of a ledger: signed by the gateway that keeps it, countersigned by its witness."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedge.errors import SignatureError
from fedge.identity import Identity, fingerprint
from fedge.records import SignedHead, WitnessedHead

UNSIGNED = "00" * 64


def sign_head(
    identity: Identity, size: int, root: str, at: float, *, simulated: bool = False
) -> SignedHead:
    """What a gateway says of its first `size` entries.

    Args:
        root: the Merkle root over them, in hex.
        at: seconds since the epoch.
    """
    head = SignedHead(
        gateway=identity.fingerprint,
        size=size,
        root=root,
        at=at,
        simulated=simulated,
        signature=UNSIGNED,
    )
    return head.model_copy(update={"signature": identity.sign(head.signed).hex()})


def verify_head(head: SignedHead, public_key: bytes) -> None:
    """Check a head against the key (32 raw bytes) of the gateway that it names.

    Raises:
        SignatureError: the key is another gateway's, or the signature does not fit.
    """
    if fingerprint(public_key) != head.gateway:
        raise SignatureError("the key is not that of the head's gateway")
    check_signature(public_key, head.signature, head.signed)


def witness_head(identity: Identity, head: SignedHead, at: float) -> WitnessedHead:
    """Countersign a head; whoever does holds all its entries and knows of no other chain."""
    witnessed = WitnessedHead(
        head=head, at=at, witness=identity.public_key.hex(), signature=UNSIGNED
    )
    return witnessed.model_copy(update={"signature": identity.sign(witnessed.signed).hex()})


def verify_witnessed(
    witnessed: WitnessedHead, witness_key: bytes, public_key: bytes | None = None
) -> None:
    """Check a countersigned head against the witness's key (32 raw bytes).

    Args:
        public_key: the gateway's; where it is given, its own signature is checked, too.

    Raises:
        SignatureError: another witness signed, or a signature does not fit.
    """
    if witnessed.witness != witness_key.hex():
        raise SignatureError("the head was confirmed by another witness")
    check_signature(witness_key, witnessed.signature, witnessed.signed)
    if public_key is not None:
        verify_head(witnessed.head, public_key)


def check_signature(public_key: bytes, signature: str, data: bytes) -> None:
    """Check an Ed25519 signature in hex.

    Raises:
        SignatureError: it does not fit.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("the signature does not fit") from error
