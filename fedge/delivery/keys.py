"""The Ed25519 keys behind a release repository, as PEM files.

Five keys with five holders: `root` and `targets` stay offline and sign only when
keys or families change; `builder` signs a candidate; `evaluator` signs it after
the gates; `online` signs which release goes where and how fresh that is. No
process needs two of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.signer import CryptoSigner, SSlibKey

from fedge.durable import make_folder, write_file
from fedge.errors import SettingError
from fedge.identity import Identity

PRIVATE_MODE = 0o700


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFiles:
    """Where each key lies. The public half is beside it, `<name>.pub.pem`."""

    root: Path
    targets: Path
    builder: Path
    evaluator: Path
    online: Path

    @classmethod
    def create(cls, *, offline: Path, online: Path) -> Self:
        """Make five new keys: root and targets in `offline`, the others in `online`.

        Raises:
            SettingError: one of the files exists; a key is never overwritten.
        """
        files = cls.named(offline=offline, online=online)
        for folder in (offline, online):
            make_folder(folder)
            folder.chmod(PRIVATE_MODE)
        for field in fields(cls):
            create_key(getattr(files, field.name))
        return files

    @classmethod
    def named(cls, *, offline: Path, online: Path) -> Self:
        """The paths that `create` uses."""
        return cls(
            root=offline / "root.pem",
            targets=offline / "targets.pem",
            builder=online / "builder.pem",
            evaluator=online / "evaluator.pem",
            online=online / "online.pem",
        )


def public_file(path: Path) -> Path:
    """Where the public half of the key at `path` lies."""
    return path.with_name(f"{path.stem}.pub.pem")


def create_key(path: Path) -> None:
    """Make one key: private PEM (mode 0600) at `path`, public PEM beside it.

    Raises:
        SettingError: `path` exists.
    """
    public = Ed25519PublicKey.from_public_bytes(Identity.create(path).public_key)
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_file(public_file(path), pem)


def load_signer(path: Path) -> CryptoSigner:
    """The private key at `path`, ready to sign TUF metadata.

    Raises:
        SettingError: the file is missing or holds no Ed25519 key.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingError(f"cannot read the signing key {path}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingError(f"{path} holds no Ed25519 key")
    return CryptoSigner(key, SSlibKey.from_crypto(key.public_key()))


def load_public(path: Path) -> SSlibKey:
    """The public key of a private or public PEM file.

    Raises:
        SettingError: the file is missing or holds no Ed25519 key.
    """
    try:
        pem = path.read_bytes()
        if b"PRIVATE KEY" in pem:
            return load_signer(path).public_key
        key = serialization.load_pem_public_key(pem)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SettingError(f"cannot read the public key {path}: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SettingError(f"{path} holds no Ed25519 key")
    return SSlibKey.from_crypto(key)
