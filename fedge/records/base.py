"""Frozen records that cross a wire or a disk.

Every record forbids unknown fields, checks its values when it is built, refuses
NaN and infinity, and has one canonical JSON form (sorted keys, no blanks), so
that hashes and signatures over it mean something. Facts are fields; verdicts
are properties derived from them. A record names its kind from a closed list,
never a class to import.

Counts and indices: windows, blocks, arrival slots and sequence numbers start at
0 (release counters at 1). Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from fedge.errors import RecordError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""The first 16 bytes of SHA-256 over a raw Ed25519 public key, in hex: a gateway's name."""
PublicKeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SignatureHex = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
"""An Ed25519 signature in hex."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,63}$")]
RunId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9\-]{0,63}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
NoisyCount = Annotated[int, Field(gt=-(2**31), lt=2**31)]


def canonical(value: Any) -> bytes:
    """One byte string for one JSON value: sorted keys, no blanks, UTF-8, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256_hex(data: bytes) -> str:
    """SHA-256 of `data` in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def first_fault(error: ValidationError, whole: str) -> str:
    """Where the first wrong value is and what is wrong with it, without the value itself.

    Args:
        whole: what to call the place where the value as a whole is wrong.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or whole
    return f"{where}: {first['msg']}"


class Record(BaseModel):
    """Base of all records: frozen, strict, closed, finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, ser_json_bytes="base64"
    )

    def to_bytes(self) -> bytes:
        """The canonical JSON of this record."""
        return canonical(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes | str) -> Self:
        """Read what `to_bytes` wrote; `from_bytes(r.to_bytes()) == r`.

        Raises:
            RecordError: the bytes are no such record. Names the first wrong field.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise RecordError(f"{cls.__name__}: {first_fault(error, 'record')}") from error

    @property
    def content_sha256(self) -> str:
        """SHA-256 over the canonical bytes."""
        return sha256_hex(self.to_bytes())


class SignedRecord(Record):
    """A record with a field `signature`: Ed25519, in hex, over `signed`.

    Each kind begins what is signed with words of its own, so that a signature over one kind of
    record never fits another.
    """

    SIGNED: ClassVar[bytes]
    signature: SignatureHex

    @property
    def signed(self) -> bytes:
        """`SIGNED`, and the canonical bytes of all fields but the signature."""
        return self.SIGNED + canonical(self.model_dump(mode="json", exclude={"signature"}))


class Versioned(Record):
    """A record to which fields were added later.

    Written under an earlier `schema_version` it has none of them, byte for byte, so that hashes
    and signatures over old records still hold. A class names the version of each later field in
    `since`; such a field has a default, and keeps it in earlier versions.
    """

    since: ClassVar[dict[str, int]] = {}
    schema_version: int

    @model_serializer(mode="wrap")
    def _as_of_its_version(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        return {n: v for n, v in values.items() if self.since.get(n, 0) <= self.schema_version}

    @model_validator(mode="after")
    def _holds_no_later_field(self) -> Self:
        for name, version in self.since.items():
            default = type(self).model_fields[name].default
            if version > self.schema_version and getattr(self, name) != default:
                raise ValueError(f"{name} needs schema_version {version}")
        return self
