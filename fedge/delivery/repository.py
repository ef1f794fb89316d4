"""The release repository: TUF metadata and content-named files in one static folder.

Every file but `timestamp.json` is written once under a name that nobody reads
yet; replacing `timestamp.json` is the one step that makes a change visible. A
process killed anywhere before it has changed nothing, killed after it has
changed everything. Which releases may be signed is decided in `candidate`.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from fedge.delivery.keys import KeyFiles, load_public, load_signer
from fedge.delivery.names import MANIFEST, ROLLOUT, check_family, rollout_target, stored_path
from fedge.delivery.signing import (
    ROLLOUT_DAYS,
    ROOT_DAYS,
    SNAPSHOT_DAYS,
    TARGETS_DAYS,
    TIMESTAMP_DAYS,
    Clock,
    after,
    signed,
)
from fedge.durable import make_folder, write_file
from fedge.errors import SettingError, StateError
from fedge.records import RolloutTable, sha256_hex


@dataclass(frozen=True, slots=True)
class Published:
    """What gateways can see now, read through `timestamp.json`."""

    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    rollout: Metadata[Targets]
    families: Mapping[str, Metadata[Targets]]

    def releases(self, family: str) -> dict[int, str]:
        """Counter -> SHA-256 of the manifest, for every release ever published."""
        if family not in self.families:
            return {}
        return {
            int(path.split("/")[1]): target.hashes["sha256"]
            for path, target in self.families[family].signed.targets.items()
            if path.endswith(f"/{MANIFEST}")
        }


class ReleaseRepository:
    """A repository folder. Reading needs no key; each change names the key that it needs.

    Args:
        folder: holds `metadata/` and `targets/`; served as static files as it is.
        clock: seconds since the epoch, for expiry dates.

    Raises:
        SettingError: the folder holds no repository (see `create`).
    """

    def __init__(self, folder: Path, *, clock: Clock = time.time) -> None:
        self.folder, self._clock = folder, clock
        self.metadata_dir, self.targets_dir = folder / "metadata", folder / "targets"
        if not (self.metadata_dir / "timestamp.json").is_file():
            raise SettingError(f"{folder} holds no release repository")

    @classmethod
    def create(
        cls, folder: Path, keys: KeyFiles, families: Sequence[str], *, clock: Clock = time.time
    ) -> ReleaseRepository:
        """Make an empty repository. Needs the private root, targets and online keys.

        Builder and evaluator enter with their public keys only; those two paths may name
        public or private files.

        Raises:
            SettingError: a repository is there already, a key or a family name is wrong.
        """
        metadata_dir = folder / "metadata"
        if (metadata_dir / "timestamp.json").exists():
            raise SettingError(f"{folder} already holds a release repository")
        make_folder(metadata_dir)
        make_folder(folder / "targets")
        online = load_signer(keys.online)
        files = {
            "root": _root(keys, clock),
            "targets": _targets(keys, families, clock),
            ROLLOUT: signed(
                Targets(version=1, expires=after(clock, ROLLOUT_DAYS)), online
            ).to_bytes(),
        }
        for role, data in files.items():
            write_file(metadata_dir / f"1.{role}.json", data)
        _write_online(
            metadata_dir,
            online,
            clock,
            version=1,
            meta={
                f"{role}.json": MetaFile.from_data(1, files[role], ["sha256"])
                for role in ("targets", ROLLOUT)
            },
        )
        return cls(folder, clock=clock)

    def trusted_root(self) -> bytes:
        """The first root metadata: what a gateway is given when it is set up."""
        return (self.metadata_dir / "1.root.json").read_bytes()

    def published(self) -> Published:
        """Everything that gateways can see now.

        Raises:
            StateError: the repository's own files are missing or damaged.
        """
        try:
            timestamp = Metadata[Timestamp].from_file(str(self.metadata_dir / "timestamp.json"))
            version = timestamp.signed.snapshot_meta.version
            snapshot = Metadata[Snapshot].from_file(
                str(self.metadata_dir / f"{version}.snapshot.json")
            )
            roles = {
                name.removesuffix(".json"): Metadata[Targets].from_file(
                    str(self.metadata_dir / f"{meta.version}.{name}")
                )
                for name, meta in snapshot.signed.meta.items()
            }
            targets, rollout = roles.pop("targets"), roles.pop(ROLLOUT)
        except (RepositoryError, OSError, KeyError) as error:
            raise StateError(f"release repository {self.folder} is damaged: {error}") from error
        return Published(timestamp, snapshot, targets, rollout, roles)

    def next_counter(self, family: str) -> int:
        """The number that the next release of `family` must carry."""
        return max(self.published().releases(check_family(family)), default=0) + 1

    def rollout_table(self, family: str) -> RolloutTable | None:
        """Which release each gateway should run; None before the first release.

        Raises:
            StateError: the table's file is missing or is not the one that was signed.
        """
        target = self.published().rollout.signed.targets.get(rollout_target(check_family(family)))
        if target is None:
            return None
        sha256 = target.hashes["sha256"]
        try:
            data = (self.targets_dir / stored_path(target.path, sha256)).read_bytes()
        except OSError as error:
            raise StateError(f"rollout table of {family} is missing: {error}") from error
        if sha256_hex(data) != sha256:
            raise StateError(f"rollout table of {family} is not the one that was signed")
        return RolloutTable.from_bytes(data)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other writer out; waits for it."""
        with (self.folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def add_target(self, target: str, data: bytes) -> None:
        """Store a file under its content name. Invisible until metadata names it."""
        path = self.targets_dir / stored_path(target, sha256_hex(data))
        make_folder(path.parent)
        write_file(path, data)

    def commit(
        self, online: CryptoSigner, before: Published, changed: Mapping[str, Metadata[Targets]]
    ) -> None:
        """Make new versions of `changed` roles visible, all at once. Call under `exclusive`."""
        meta = dict(before.snapshot.signed.meta)
        for role, metadata in changed.items():
            data = metadata.to_bytes()
            version = metadata.signed.version
            write_file(self.metadata_dir / f"{version}.{role}.json", data)
            meta[f"{role}.json"] = MetaFile.from_data(version, data, ["sha256"])
        # The next number after the visible one: a version left by a killed writer is replaced,
        # and nobody can have fetched it.
        version = before.snapshot.signed.version + 1
        _write_online(
            self.metadata_dir,
            online,
            self._clock,
            version=version,
            meta=meta,
            timestamp_version=before.timestamp.signed.version + 1,
        )

    def next_rollout(
        self, online: CryptoSigner, before: Published, tables: Sequence[RolloutTable]
    ) -> Metadata[Targets]:
        """The rollout role's next version with `tables` in place of their families' old ones."""
        targets = dict(before.rollout.signed.targets)
        for table in tables:
            path = rollout_target(table.family)
            targets[path] = TargetFile.from_data(path, table.to_bytes(), ["sha256"])
        role = Targets(
            version=before.rollout.signed.version + 1,
            expires=after(self._clock, ROLLOUT_DAYS),
            targets=targets,
        )
        return signed(role, online)

    def renew(self, online_key: Path) -> None:
        """Sign rollout, snapshot and timestamp again with new dates; nothing else changes.

        Raises:
            SettingError: the key is missing or is not the online key.
        """
        online = load_signer(online_key)
        with self.exclusive():
            before = self.published()
            self.check_online(online, before)
            self.commit(online, before, {ROLLOUT: self.next_rollout(online, before, ())})

    def check_online(self, online: CryptoSigner, before: Published) -> None:
        """Refuse a key that no gateway would accept, before anything is written.

        Raises:
            SettingError: it is not the online key of this repository.
        """
        delegations = before.targets.signed.delegations
        roles = delegations.roles if delegations else None
        if not roles or online.public_key.keyid not in roles[ROLLOUT].keyids:
            raise SettingError(f"the key given is not the online key of {self.folder}")


def _root(keys: KeyFiles, clock: Clock) -> bytes:
    root = Root(version=1, expires=after(clock, ROOT_DAYS), consistent_snapshot=True)
    online = load_public(keys.online)
    root.add_key(load_public(keys.root), "root")
    root.add_key(load_public(keys.targets), "targets")
    root.add_key(online, "snapshot")
    root.add_key(online, "timestamp")
    return signed(root, load_signer(keys.root)).to_bytes()


def _targets(keys: KeyFiles, families: Sequence[str], clock: Clock) -> bytes:
    online, builder, evaluator = map(load_public, (keys.online, keys.builder, keys.evaluator))
    if len({online.keyid, builder.keyid, evaluator.keyid}) != 3:
        raise SettingError("online, builder and evaluator must be three different keys")
    # Terminating: what one role does not name, no role after it may name either.
    roles = {ROLLOUT: DelegatedRole(ROLLOUT, [online.keyid], 1, True, paths=[f"{ROLLOUT}/*"])}
    for family in families:
        roles[check_family(family)] = DelegatedRole(
            family, [builder.keyid, evaluator.keyid], 2, True, paths=[f"{family}/*/*"]
        )
    content = Targets(
        version=1,
        expires=after(clock, TARGETS_DAYS),
        delegations=Delegations({k.keyid: k for k in (online, builder, evaluator)}, roles),
    )
    return signed(content, load_signer(keys.targets)).to_bytes()


def _write_online(
    metadata_dir: Path,
    online: CryptoSigner,
    clock: Clock,
    *,
    version: int,
    meta: dict[str, MetaFile],
    timestamp_version: int = 1,
) -> None:
    snapshot = signed(
        Snapshot(version=version, expires=after(clock, SNAPSHOT_DAYS), meta=meta), online
    ).to_bytes()
    write_file(metadata_dir / f"{version}.snapshot.json", snapshot)
    timestamp = Timestamp(
        version=timestamp_version,
        expires=after(clock, TIMESTAMP_DAYS),
        snapshot_meta=MetaFile.from_data(version, snapshot, ["sha256"]),
    )
    write_file(metadata_dir / "timestamp.json", signed(timestamp, online).to_bytes())
