"""From a twice-signed candidate to a release that its cohort is offered.

Holds the online key only: with it, nobody can make a release, only say who is
offered one that builder and evaluator both signed.
"""

from __future__ import annotations

from pathlib import Path

from fedge.config import KeySettings
from fedge.delivery.candidate import Publication, read_manifest
from fedge.delivery.candidate import publish as publish_candidate
from fedge.errors import SettingError


def online_key(keys: KeySettings) -> Path:
    """The only key that a publisher may know.

    Raises:
        SettingError: it is not named, or a signing key is named beside it.
    """
    if keys.builder is not None or keys.evaluator is not None:
        raise SettingError(
            "publishing runs without [keys] builder and evaluator: give it settings of its own "
            "(FEDGE_PUBLISHER_CONFIG) that name the online key alone"
        )
    if keys.online is None:
        raise SettingError("publishing needs [keys] online")
    return keys.online


def publish(releases_dir: Path, candidate: Path, online: Path) -> Publication:
    """Offer the candidate to the gateways its manifest names; twice is the same as once.

    Raises:
        CandidateError: a signature is missing, or it is not the next release.
    """
    cohort = read_manifest(candidate).cohort
    return publish_candidate(releases_dir, candidate, online, gateways=cohort or None)
