"""Who signed this: Ed25519 identities and the envelope that everything leaving a gateway wears.

A gateway's identity is the fingerprint of its key. Any number of transports may
carry an envelope; none of them is trusted. Which keys are admitted is the
receiver's business, not decided here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from fedge.durable import create_file
from fedge.errors import RecordError, SettingError, SignatureError
from fedge.records import Count, Fingerprint, Record, Sha256, sha256_hex
from fedge.records.base import SignatureHex

MAGIC = b"FEDGE1"
MAX_HEADER_BYTES = 4096
EnvelopeKind = Literal["report", "labels", "status", "audit", "gap", "update", "counts"]
"""What an envelope holds: a window's report and its labelled errors, public facts, ledger entries,
what a spool gave up; and, as replies in a round, an adapter update and paired counts."""


def fingerprint(public_key: bytes) -> str:
    """The name of a key: the first 16 bytes of its SHA-256, in hex."""
    return sha256_hex(public_key)[:32]


class Identity:
    """A private Ed25519 key that names and signs for one gateway."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self.fingerprint = fingerprint(self.public_key)

    @classmethod
    def create(cls, path: Path) -> Identity:
        """Make a new key and write it (PEM, mode 0600), whole or not at all.

        Raises:
            SettingError: the file exists, for an identity is never overwritten; or it cannot be
                written.
        """
        identity = cls(Ed25519PrivateKey.generate())
        pem = identity._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        try:
            create_file(path, pem, mode=0o600)
        except FileExistsError as error:
            raise SettingError(f"{path} exists; a gateway's identity is never replaced") from error
        except OSError as error:
            raise SettingError(f"cannot write the key {path}: {error}") from error
        return identity

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read a key that `create` wrote.

        Raises:
            SettingError: the file is missing or holds no Ed25519 key.
        """
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise SettingError(f"cannot read the key {path}: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SettingError(f"{path} holds no Ed25519 key")
        return cls(key)

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """A reproducible key for simulations: 32 bytes of seed are the private key."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


class EnvelopeHeader(Record):
    """What is signed: the payload enters through its hash."""

    schema_version: Literal[1] = 1
    kind: EnvelopeKind
    gateway: Fingerprint
    seq: Count
    payload_sha256: Sha256
    simulated: bool = Field(default=False)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed payload. `from_bytes` checks form only; call `verify` before use."""

    header: EnvelopeHeader
    payload: bytes
    signature: bytes

    @classmethod
    def seal(
        cls,
        identity: Identity,
        kind: EnvelopeKind,
        seq: int,
        payload: bytes,
        *,
        simulated: bool = False,
    ) -> Envelope:
        """Sign `payload` as number `seq` of `identity`."""
        header = EnvelopeHeader(
            kind=kind,
            gateway=identity.fingerprint,
            seq=seq,
            payload_sha256=sha256_hex(payload),
            simulated=simulated,
        )
        return cls(header, payload, identity.sign(MAGIC + header.to_bytes()))

    def verify(self, public_key: bytes) -> None:
        """Check payload hash, key and signature.

        Raises:
            SignatureError: one of them does not fit.
        """
        if sha256_hex(self.payload) != self.header.payload_sha256:
            raise SignatureError("the payload is not the one that was signed")
        if fingerprint(public_key) != self.header.gateway:
            raise SignatureError("the key is not the sender's")
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(
                self.signature, MAGIC + self.header.to_bytes()
            )
        except (InvalidSignature, ValueError) as error:
            raise SignatureError("the signature does not fit") from error

    def to_bytes(self) -> bytes:
        """`FEDGE1`, header length (u16, big-endian), header, 64 bytes of signature, payload."""
        header = self.header.to_bytes()
        return MAGIC + struct.pack(">H", len(header)) + header + self.signature + self.payload

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """Take apart what `to_bytes` wrote.

        Raises:
            RecordError: the bytes are no envelope.
        """
        start = len(MAGIC) + 2
        if len(data) < start or data[: len(MAGIC)] != MAGIC:
            raise RecordError("not a fedge envelope")
        (length,) = struct.unpack(">H", data[len(MAGIC) : start])
        end = start + length + 64
        if length > MAX_HEADER_BYTES or len(data) < end:
            raise RecordError("the envelope is truncated")
        header = EnvelopeHeader.from_bytes(data[start : start + length])
        return cls(header, data[end:], data[start + length : end])


class Artefact(Record):
    """An envelope without its payload: that a gateway signed these bytes, and nothing of them.

    Attributes:
        channel: how it left: pushed to the coordinator, or as the reply to a round's message.
        header: what was signed; `kind`, `seq` and `payload_sha256` repeat it for readers.
        signature: over the magic and the header's canonical bytes, in hex.
    """

    kind: EnvelopeKind
    seq: Count
    channel: Literal["push", "reply"]
    payload_sha256: Sha256
    header: EnvelopeHeader
    signature: SignatureHex

    @classmethod
    def of(cls, envelope: Envelope, channel: Literal["push", "reply"]) -> Self:
        """What of `envelope` a reviewer can link to a ledger entry."""
        header = envelope.header
        return cls(
            kind=header.kind,
            seq=header.seq,
            channel=channel,
            payload_sha256=header.payload_sha256,
            header=header,
            signature=envelope.signature.hex(),
        )
