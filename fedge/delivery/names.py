"""How things are called inside a release repository: agreed by publisher and gateway.

    metadata/timestamp.json, <version>.<role>.json
    targets/rollout/<sha256>.<family>.json
    targets/<family>/<counter>/<sha256>.<file>

Roles: root, targets, snapshot, timestamp, `rollout`, and one per model family.
"""

from __future__ import annotations

import re

from fedge.errors import SettingError

ROLLOUT = "rollout"
MANIFEST = "release.json"
RESERVED = frozenset({"root", "targets", "snapshot", "timestamp", ROLLOUT})


def check_family(family: str) -> str:
    """The family itself, which becomes a role, a folder and part of an address.

    Raises:
        SettingError: it cannot be a role name.
    """
    if family in RESERVED or not re.fullmatch(r"[a-z0-9][a-z0-9_\-]{0,47}", family):
        raise SettingError(
            f"family {family!r} must be lower-case letters, digits, - and _, "
            f"and none of {sorted(RESERVED)}"
        )
    return family


def rollout_target(family: str) -> str:
    """Target path of a family's rollout table."""
    return f"{ROLLOUT}/{family}.json"


def release_target(family: str, counter: int, name: str = MANIFEST) -> str:
    """Target path of one file of a release. TUF matches patterns part by part: always three."""
    return f"{family}/{counter}/{name}"


def stored_path(target: str, sha256: str) -> str:
    """Where a target lies under `targets/`: consistent snapshots put the hash before the name."""
    folder, _, name = target.rpartition("/")
    return f"{folder}/{sha256}.{name}"
