"""Heads of a ledger: who signed what, and nothing else passes for it."""

from __future__ import annotations

import pytest

from fedge.errors import SignatureError
from fedge.identity import Identity
from fedge.privacy.heads import sign_head, verify_head, verify_witnessed, witness_head
from fedge.records import SignedHead, WitnessedHead

GATEWAY, WITNESS, OTHER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
HEAD = sign_head(GATEWAY, 7, "ab" * 32, 1000.0)
WITNESSED = witness_head(WITNESS, HEAD, 1001.0)


def test_a_head_is_read_back_and_verified() -> None:
    """Both carry all that their signatures are over."""
    head = SignedHead.from_bytes(HEAD.to_bytes())
    witnessed = WitnessedHead.from_bytes(WITNESSED.to_bytes())

    verify_head(head, GATEWAY.public_key)
    verify_witnessed(witnessed, WITNESS.public_key, GATEWAY.public_key)
    assert (head.gateway, head.size, head.simulated) == (GATEWAY.fingerprint, 7, False)
    assert (witnessed.head, witnessed.witness) == (head, WITNESS.public_key.hex())


@pytest.mark.parametrize(
    "change",
    [
        {"size": 6},
        {"root": "ac" * 32},
        {"at": 1000.5},
        {"simulated": True},
        {"gateway": OTHER.fingerprint},
        {"signature": "00" * 64},
        {"signature": sign_head(OTHER, 7, "ab" * 32, 1000.0).signature},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_head_is_refused(change: dict[str, object]) -> None:
    """Every field is signed, by the gateway that it names, also where a witness confirmed it."""
    changed = HEAD.model_copy(update=change)

    with pytest.raises(SignatureError):
        verify_head(changed, GATEWAY.public_key)
    with pytest.raises(SignatureError):
        verify_witnessed(
            WITNESSED.model_copy(update={"head": changed}), WITNESS.public_key, GATEWAY.public_key
        )
    confirmed = witness_head(WITNESS, changed, 1.0)
    with pytest.raises(SignatureError):
        verify_witnessed(confirmed, WITNESS.public_key, GATEWAY.public_key)


@pytest.mark.parametrize(
    "change",
    [{"at": 5.0}, {"witness": OTHER.public_key.hex()}, {"signature": HEAD.signature}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_confirmation_is_refused(change: dict[str, object]) -> None:
    """Its time, its witness and its signature belong together."""
    with pytest.raises(SignatureError):
        verify_witnessed(WITNESSED.model_copy(update=change), WITNESS.public_key)


def test_another_witness_is_none() -> None:
    """What somebody else confirmed is not confirmed."""
    with pytest.raises(SignatureError):
        verify_witnessed(witness_head(OTHER, HEAD, 1.0), WITNESS.public_key)
    with pytest.raises(SignatureError):
        verify_head(HEAD, OTHER.public_key)
    with pytest.raises(SignatureError):
        verify_head(HEAD, b"no key")
