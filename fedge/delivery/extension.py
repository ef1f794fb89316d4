"""What a family's next metadata must say, and whether a candidate's says it.

Builder, evaluator and publisher each recompute it here, from the manifest and from
what is published: the published targets, one version later, plus exactly this
release. Metadata that says anything else is refused by all three.
"""

from __future__ import annotations

from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, TargetFile, Targets, VerificationResult

from fedge.delivery.names import MANIFEST, release_target
from fedge.delivery.repository import Published
from fedge.errors import CandidateError
from fedge.records import ReleaseFile, ReleaseManifest, sha256_hex

DELEGATION = "delegation.json"


def _release_targets(manifest: ReleaseManifest) -> dict[str, TargetFile]:
    """The target entries that this manifest, and nothing else, adds to its family."""
    data = manifest.to_bytes()
    files = dict(manifest.files)
    files[MANIFEST] = ReleaseFile(sha256=sha256_hex(data), length=len(data))
    paths = {release_target(manifest.family, manifest.counter, n): f for n, f in files.items()}
    return {
        path: TargetFile(file.length, {"sha256": file.sha256}, path) for path, file in paths.items()
    }


def next_version(
    published: Published, manifest: ReleaseManifest
) -> tuple[int, dict[str, TargetFile]]:
    """The family's next version number and all its targets, this release included.

    Raises:
        CandidateError: the counter is not the next one, or the parent was never published.
    """
    present = published.families.get(manifest.family)
    counters = published.releases(manifest.family)
    if manifest.counter != (needed := max(counters, default=0) + 1):
        raise CandidateError(f"release {manifest.counter} of {manifest.family} must be {needed}")
    if manifest.parent and manifest.parent not in counters:
        raise CandidateError(f"parent release {manifest.parent} was never published")
    if MANIFEST in manifest.files:
        raise CandidateError(f"{MANIFEST} is the manifest itself, not one of its files")
    old = dict(present.signed.targets) if present else {}
    return present.signed.version + 1 if present else 1, old | _release_targets(manifest)


def check_extension(
    published: Published, metadata: Metadata[Targets], manifest: ReleaseManifest
) -> None:
    """Refuse metadata that does anything but add this release to what is published.

    Raises:
        CandidateError: it is of another version, or says less or more.
    """
    content = metadata.signed
    version, targets = next_version(published, manifest)
    if content.version != version:
        raise CandidateError(f"signed as version {content.version}, {version} is next: stage again")
    if content.targets != targets or content.delegations is not None:
        raise CandidateError("the signed metadata changes more than adding this release")


def valid_signatures(
    published: Published, family: str, metadata: Metadata[Targets]
) -> VerificationResult:
    """Which of the family's keys validly signed; true as a whole at the threshold.

    Raises:
        CandidateError: the repository has no such family.
    """
    try:
        return published.targets.signed.get_verification_result(
            family, metadata.signed_bytes, metadata.signatures
        )
    except ValueError as error:
        raise CandidateError(f"the repository has no family {family}") from error


def already_published(published: Published, manifest: ReleaseManifest) -> bool:
    """Whether gateways can see exactly this release."""
    sha256 = published.releases(manifest.family).get(manifest.counter)
    return sha256 is not None and sha256 == manifest.content_sha256


def read_delegation(candidate_dir: Path) -> Metadata[Targets]:
    """The candidate's proposed metadata; its signatures are not looked at.

    Raises:
        CandidateError: it is missing or is no targets metadata.
    """
    try:
        metadata = Metadata[Targets].from_bytes((candidate_dir / DELEGATION).read_bytes())
    except (OSError, RepositoryError) as error:
        raise CandidateError(f"{candidate_dir} holds no signed candidate: {error}") from error
    if not isinstance(metadata.signed, Targets):
        raise CandidateError(f"{DELEGATION} holds another kind of metadata")
    return metadata


def check_files(candidate_dir: Path, manifest: ReleaseManifest) -> None:
    """Refuse a folder whose files are not those of the manifest.

    Raises:
        CandidateError: names the first one.
    """
    for name, file in manifest.files.items():
        read_file(candidate_dir, name, file)


def read_file(candidate_dir: Path, name: str, file: ReleaseFile) -> bytes:
    """One file, which is the one that the manifest names.

    Raises:
        CandidateError: it is missing or has other bytes.
    """
    try:
        data = (candidate_dir / name).read_bytes()
    except OSError as error:
        raise CandidateError(f"cannot read {name} of the candidate: {error}") from error
    if len(data) != file.length or sha256_hex(data) != file.sha256:
        raise CandidateError(f"{name} is not the file that the manifest names")
    return data
