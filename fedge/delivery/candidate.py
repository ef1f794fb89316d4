"""From a candidate folder to a visible release, in three steps by three key holders.

`stage` (builder) writes the family's next metadata version with one signature;
`countersign` (evaluator) adds the second after the gates; `publish` (online key)
verifies both before it stores anything. Each step recomputes what the metadata
must say from the manifest and from what is published: none believes the one before.

A candidate folder holds the release's files, `release.json`, `delegation.json`, and
three notes: `ready.json` asks the evaluator to judge, who leaves `accepted.json` (after
its signature is in place) or `refused.json` (with the reason).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Targets

from fedge.delivery.extension import (
    DELEGATION,
    already_published,
    check_extension,
    check_files,
    next_version,
    read_delegation,
    read_file,
    valid_signatures,
)
from fedge.delivery.keys import load_signer
from fedge.delivery.names import MANIFEST, ROLLOUT, check_family, release_target, rollout_target
from fedge.delivery.repository import Published, ReleaseRepository
from fedge.delivery.signing import FAMILY_DAYS, Clock, after, signed
from fedge.durable import write_file
from fedge.errors import CandidateError, RecordError
from fedge.records import ReleaseFile, ReleaseManifest, RolloutTable, sha256_hex

READY, ACCEPTED, REFUSED = "ready.json", "accepted.json", "refused.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """What `publish` found or made.

    Attributes:
        counter, sha256: the release and the hash of its manifest.
        published: False if it was visible before and nothing was changed.
    """

    counter: int
    sha256: str
    published: bool


def describe_files(folder: Path, names: Sequence[str]) -> dict[str, ReleaseFile]:
    """Length and hash of files in a candidate folder, as a manifest lists them.

    Raises:
        CandidateError: a file cannot be read.
    """
    files = {}
    for name in names:
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise CandidateError(f"cannot read {folder / name}: {error}") from error
        files[name] = ReleaseFile(sha256=sha256_hex(data), length=len(data))
    return files


def stage(
    repository_dir: Path,
    candidate_dir: Path,
    manifest: ReleaseManifest,
    builder_key: Path,
    *,
    clock: Clock = time.time,
) -> None:
    """Write `release.json` and the family's next metadata, signed by the builder only.

    Staging the same manifest again keeps what is there, a second signature included.

    Raises:
        CandidateError: the files are not those of the manifest, its counter is not the next
            one, or the key may not sign for this family.
    """
    published = ReleaseRepository(repository_dir, clock=clock).published()
    check_files(candidate_dir, manifest)
    if already_published(published, manifest):
        return
    version, targets = next_version(published, manifest)
    if _staged_already(candidate_dir, published, manifest):
        return
    content = Targets(version=version, expires=after(clock, FAMILY_DAYS), targets=targets)
    metadata = signed(content, load_signer(builder_key))
    if not valid_signatures(published, manifest.family, metadata).signed:
        raise CandidateError(f"{builder_key} may not sign for family {manifest.family}")
    for note in (READY, ACCEPTED, REFUSED):  # they spoke of what is replaced now
        (candidate_dir / note).unlink(missing_ok=True)
    write_file(candidate_dir / MANIFEST, manifest.to_bytes())
    write_file(candidate_dir / DELEGATION, metadata.to_bytes())


def check_candidate(repository_dir: Path, candidate_dir: Path) -> ReleaseManifest:
    """What the evaluator needs to know before it judges: that this is one honest next release.

    Returns:
        The manifest, whose files were compared with the folder.

    Raises:
        CandidateError: no valid first signature, other files than the manifest's, or metadata
            that changes anything but adding this one release.
    """
    published = ReleaseRepository(repository_dir).published()
    manifest = read_manifest(candidate_dir)
    metadata = read_delegation(candidate_dir)
    check_extension(published, metadata, manifest)
    if not valid_signatures(published, manifest.family, metadata).signed:
        raise CandidateError("the candidate is not signed by its builder")
    check_files(candidate_dir, manifest)
    return manifest


def countersign(repository_dir: Path, candidate_dir: Path, evaluator_key: Path) -> None:
    """Add the evaluator's signature. Call it only after the gates; twice is the same as once.

    Raises:
        CandidateError: see `check_candidate`; or the key may not sign for this family.
    """
    manifest = check_candidate(repository_dir, candidate_dir)
    published = ReleaseRepository(repository_dir).published()
    metadata = read_delegation(candidate_dir)
    before = set(valid_signatures(published, manifest.family, metadata).signed)
    signer = load_signer(evaluator_key)
    metadata.sign(signer, append=True)
    if signer.public_key.keyid not in valid_signatures(published, manifest.family, metadata).signed:
        raise CandidateError(f"{evaluator_key} may not sign for family {manifest.family}")
    if signer.public_key.keyid not in before:
        write_file(candidate_dir / DELEGATION, metadata.to_bytes())


def is_countersigned(repository_dir: Path, candidate_dir: Path) -> bool:
    """Whether the candidate carries as many valid signatures as its family asks for."""
    try:
        published = ReleaseRepository(repository_dir).published()
        manifest = read_manifest(candidate_dir)
        return bool(valid_signatures(published, manifest.family, read_delegation(candidate_dir)))
    except CandidateError:
        return False


def publish(
    repository_dir: Path,
    candidate_dir: Path,
    online_key: Path,
    *,
    gateways: Sequence[str] | None,
    clock: Clock = time.time,
) -> Publication:
    """Store a twice-signed candidate and send it to gateways, in one visible step.

    Safe to run again after a kill at any point: it either finds nothing visible and does
    everything, or finds the release visible and changes nothing.

    Args:
        gateways: fingerprints that should run it; None for every gateway.

    Raises:
        CandidateError: a signature is missing or wrong, the files are not the manifest's, the
            counter is not the next one, or a first release is not for every gateway.
        SettingError: the key is not the online key.
    """
    repository = ReleaseRepository(repository_dir, clock=clock)
    online = load_signer(online_key)
    manifest = read_manifest(candidate_dir)
    family, sha256 = manifest.family, manifest.content_sha256
    with repository.exclusive():
        published = repository.published()
        if already_published(published, manifest):
            return Publication(counter=manifest.counter, sha256=sha256, published=False)
        metadata = read_delegation(candidate_dir)
        check_extension(published, metadata, manifest)
        if not (found := valid_signatures(published, family, metadata)):
            raise CandidateError(f"{len(found.signed)} of {found.threshold} signatures are valid")
        repository.check_online(online, published)
        table = _rollout(repository.rollout_table(family), manifest, gateways)
        rollout = repository.next_rollout(online, published, [table])
        for name, file in manifest.files.items():
            data = read_file(candidate_dir, name, file)
            repository.add_target(release_target(family, manifest.counter, name), data)
        repository.add_target(release_target(family, manifest.counter), manifest.to_bytes())
        repository.add_target(rollout_target(family), table.to_bytes())
        repository.commit(online, published, {family: metadata, ROLLOUT: rollout})
    return Publication(counter=manifest.counter, sha256=sha256, published=True)


def read_manifest(candidate_dir: Path) -> ReleaseManifest:
    """The candidate's `release.json`.

    Raises:
        CandidateError: it is missing or malformed.
    """
    try:
        manifest = ReleaseManifest.from_bytes((candidate_dir / MANIFEST).read_bytes())
    except (OSError, RecordError) as error:
        raise CandidateError(f"{candidate_dir} holds no candidate: {error}") from error
    check_family(manifest.family)
    return manifest


def _rollout(
    table: RolloutTable | None, manifest: ReleaseManifest, gateways: Sequence[str] | None
) -> RolloutTable:
    if gateways is None:
        return RolloutTable(family=manifest.family, default=manifest.counter, assigned={})
    if table is None:
        raise CandidateError("the first release of a family must be for every gateway")
    if not gateways:
        raise CandidateError("a release for no gateway: name some, or None for all")
    assigned = dict(table.assigned) | dict.fromkeys(gateways, manifest.counter)
    return RolloutTable(family=manifest.family, default=table.default, assigned=assigned)


def _staged_already(candidate_dir: Path, published: Published, manifest: ReleaseManifest) -> bool:
    try:
        metadata = read_delegation(candidate_dir)
        check_extension(published, metadata, manifest)
        staged = read_manifest(candidate_dir) == manifest
        return staged and bool(valid_signatures(published, manifest.family, metadata).signed)
    except CandidateError:
        return False
