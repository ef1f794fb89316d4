"""Heads of a ledger: signed by the gateway that keeps it, countersigned by its witness."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedge.errors import SignatureError, WitnessKeyError
from fedge.identity import Identity, fingerprint
from fedge.records import LedgerStanding, SignedHead, WitnessedHead, WitnessedStanding

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


def confirmed_again(identity: Identity, witnessed: WitnessedHead) -> WitnessedHead:
    """The same confirmation under the present key of the witness.

    Who took the entries over, with the database, vouches for what an earlier key confirmed.
    """
    if witnessed.witness == identity.public_key.hex():
        return witnessed
    return witness_head(identity, witnessed.head, witnessed.at)


def verify_witnessed(
    witnessed: WitnessedHead, witness_key: bytes, public_key: bytes | None = None
) -> None:
    """Check a countersigned head against the witness's key (32 raw bytes).

    Args:
        public_key: the gateway's; where it is given, its own signature is checked, too.

    Raises:
        WitnessKeyError: another witness signed.
        SignatureError: a signature does not fit.
    """
    if witnessed.witness != witness_key.hex():
        raise WitnessKeyError(witnessed.witness, witness_key.hex())
    check_signature(witness_key, witnessed.signature, witnessed.signed)
    if public_key is not None:
        verify_head(witnessed.head, public_key)


def witness_standing(identity: Identity, standing: LedgerStanding, nonce: str) -> WitnessedStanding:
    """Answer the question `nonce` for a ledger's standing, all of it under the present key."""
    if standing.witnessed is not None:
        again = confirmed_again(identity, standing.witnessed)
        standing = standing.model_copy(update={"witnessed": again})
    answer = WitnessedStanding(
        standing=standing, nonce=nonce, witness=identity.public_key.hex(), signature=UNSIGNED
    )
    return answer.model_copy(update={"signature": identity.sign(answer.signed).hex()})


def verify_standing(answer: WitnessedStanding, nonce: str, public_key: bytes) -> None:
    """Check an answer to the question `nonce`, and the head in it, under the key that it names.

    Whether that key is the right one is for the caller to say.

    Args:
        public_key: of the gateway that asked, 32 raw bytes.

    Raises:
        SignatureError: it answers another question, or a signature does not fit.
    """
    if answer.nonce != nonce:
        raise SignatureError("the answer is that to another question")
    witness_key, head = bytes.fromhex(answer.witness), answer.standing.witnessed
    check_signature(witness_key, answer.signature, answer.signed)
    if head is None:
        return
    if head.witness != answer.witness:
        raise SignatureError("the head in the answer was confirmed by another witness")
    verify_witnessed(head, witness_key, public_key)


def check_signature(public_key: bytes, signature: str, data: bytes) -> None:
    """Check an Ed25519 signature in hex.

    Raises:
        SignatureError: it does not fit.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("the signature does not fit") from error
