"""What the release repository offers this gateway, verified by python-tuf.

The gateway trusts one root of metadata, given when it was set up. Everything
else is checked from there: who may say which release goes where, two signatures
on the release, freshness, and the hash of each file. Whether an offered release
is installed is the installer's decision.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin

from tuf.api.exceptions import (
    DownloadError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

import fedge.errors as errors
from fedge.delivery.fetcher import HttpFetcher
from fedge.delivery.names import check_family, release_target, rollout_target, stored_path
from fedge.delivery.store import ContentStore
from fedge.durable import make_folder, sync_folder
from fedge.records import ReleaseFile, ReleaseManifest, RolloutTable

RecordT = TypeVar("RecordT", RolloutTable, ReleaseManifest)

MAX_DOCUMENT_BYTES = 8 * 2**20


class ReleaseClient:
    """Asks one repository about one model family. Used by one thread of one process.

    Args:
        metadata_dir: python-tuf's cache; may be deleted at any time.
        trusted_root: the root metadata that this gateway was set up with.
        base_url: where `metadata/` and `targets/` are served.
        family: the only family whose releases are asked for.
        fetcher: how files are fetched; over HTTP if None.
    """

    def __init__(
        self,
        metadata_dir: Path,
        trusted_root: bytes,
        base_url: str,
        family: str,
        fetcher: FetcherInterface | None = None,
    ) -> None:
        self._metadata_dir, self._trusted_root = metadata_dir, trusted_root
        self._base_url = base_url.rstrip("/") + "/"
        self._family = check_family(family)
        self._fetcher = fetcher or HttpFetcher()
        self._updater: Updater | None = None

    def offered(self, gateway: str) -> ReleaseManifest | None:
        """Refresh the metadata and read which release `gateway` should run.

        Returns:
            The manifest, or None while the family has no release.

        Raises:
            OutboundError: the repository did not answer; ask again later.
            ExpiredMetadataError: nothing fresh enough is served; ask again later.
            UntrustedReleaseError: metadata is not signed as it must be or went backwards, or
                names a release that was never signed.
            TamperedFileError: the table or the manifest are not the bytes that were signed.
            StateError: the metadata cache cannot be written.
        """
        with _translated():
            make_folder(self._metadata_dir)
            self._updater = None
            updater = self._fresh_updater()
            info = updater.get_targetinfo(rollout_target(self._family))
            if info is None:
                return None
            table = _parsed(RolloutTable, self._document(info))
            counter = table.counter_for(gateway)
            info = updater.get_targetinfo(release_target(self._family, counter))
            if info is None:
                raise errors.UntrustedReleaseError(
                    f"release {counter} of {self._family} is assigned but was never signed"
                )
            manifest = _parsed(ReleaseManifest, self._document(info))
        if (manifest.family, manifest.counter, table.family) != (
            self._family,
            counter,
            self._family,
        ):
            raise errors.UntrustedReleaseError("a signed document lies under another one's name")
        return manifest

    def fetch(self, manifest: ReleaseManifest, store: ContentStore, names: Sequence[str]) -> None:
        """Bring files of an offered release into `store`; those already there are not fetched.

        Raises:
            OutboundError, ExpiredMetadataError, UntrustedReleaseError, StateError: see `offered`.
            TamperedFileError: a file's bytes are not those that were signed. Files fetched
                before it stay in the store.
        """
        with _translated():
            updater = self._updater or self._fresh_updater()
            for name in names:
                file = manifest.files[name]
                path = release_target(manifest.family, manifest.counter, name)
                info = updater.get_targetinfo(path)
                if info is None or info.hashes.get("sha256") != file.sha256:
                    raise errors.UntrustedReleaseError(
                        f"{path} is not signed as the manifest has it"
                    )
                if not store.has(file.sha256):
                    store.add(self._fetcher.fetch(self._address(path, file)), file)

    def _fresh_updater(self) -> Updater:
        # One Updater verifies one consistent state of the repository. The trusted root is given
        # each time: the cached root.json is absent after an ill-timed power loss.
        updater = Updater(
            str(self._metadata_dir),
            urljoin(self._base_url, "metadata/"),
            fetcher=self._fetcher,
            bootstrap=self._trusted_root,
        )
        timestamp = self._metadata_dir / "timestamp.json"
        before = timestamp.read_bytes() if timestamp.exists() else b""
        updater.refresh()
        if timestamp.read_bytes() != before:
            self._make_durable()
        self._updater = updater
        return updater

    def _make_durable(self) -> None:
        """What python-tuf leaves out: without it a power cut may undo its rollback protection."""
        for folder in (self._metadata_dir / "root_history", self._metadata_dir):
            for path in folder.glob("*.json"):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            sync_folder(folder)

    def _document(self, info: TargetFile) -> bytes:
        """A small signed file, held in memory."""
        if info.length > MAX_DOCUMENT_BYTES:
            raise errors.UntrustedReleaseError(f"{info.path} is {info.length} bytes long")
        file = ReleaseFile(sha256=info.hashes["sha256"], length=info.length)
        data = self._fetcher.download_bytes(self._address(info.path, file), info.length)
        info.verify_length_and_hashes(data)
        return data

    def _address(self, path: str, file: ReleaseFile) -> str:
        return urljoin(self._base_url, f"targets/{stored_path(path, file.sha256)}")


def _parsed(kind: type[RecordT], data: bytes) -> RecordT:
    try:
        return kind.from_bytes(data)
    except errors.RecordError as error:
        raise errors.UntrustedReleaseError(f"signed, but unreadable here: {error}") from error


@contextmanager
def _translated() -> Iterator[None]:
    """Turn python-tuf's errors into ours, sorted by who must act."""
    try:
        yield
    except ExpiredMetadataError as error:
        raise errors.ExpiredMetadataError(f"release metadata has expired: {error}") from error
    except (LengthOrHashMismatchError, DownloadLengthMismatchError) as error:
        raise errors.TamperedFileError(f"not the bytes that were signed: {error}") from error
    except RepositoryError as error:
        raise errors.UntrustedReleaseError(f"release metadata is refused: {error}") from error
    except DownloadError as error:
        raise errors.OutboundError(f"release repository: {error}") from error
    except OSError as error:
        raise errors.StateError(f"cannot use the metadata cache: {error}") from error
