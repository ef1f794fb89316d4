"""What an exporter puts into a bundle beside the ledgers: audits, contacts. Its word, no proof."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedge.errors import SettingError
from fedge.records import AuditEvidence
from fedge.review.source import BundleSource

AUDIT = "audit-"
"""Evidence with a name that begins like this is an audit's."""

CHOICE = "choice-"
"""Evidence with a name that begins like this is a study that chose an adapter; then its hash."""

CONTACTS = (
    *("controller", "joint_controller", "representative", "data_protection_officer"),
    *("categories_of_data_subjects", "categories_of_personal_data"),
    *("transfers_to_third_countries", "time_limits_for_erasure", "deployment", "data_domain"),
)
"""What a controller's file may say; each a text, or a table of texts."""


def with_evidence(
    source: BundleSource,
    *,
    audits: Iterable[AuditEvidence] = (),
    controller: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, Any] | None = None,
) -> BundleSource:
    """The same source with more evidence.

    Args:
        accuracy: `about` in words, and `classes`: for each its name, rows, and the share of right
            answers before retraining, with and without privacy.
    """
    evidence: dict[str, Mapping[str, Any]] = dict(source.evidence)
    for one in audits:
        evidence[_name(one)] = one.model_dump(mode="json")
    if controller:
        evidence["controller"] = controller
    if accuracy:
        evidence["accuracy"] = accuracy
    return replace(source, evidence=evidence)


def _name(audit: AuditEvidence) -> str:
    """One for the code, one for each release."""
    about = "" if audit.release is None else f"-release-{audit.release}"
    return f"{AUDIT}{audit.kind}{about}"


def read_controller(path: Path | None) -> Mapping[str, Any]:
    """A controller's contacts and declarations from its TOML file; nothing without a file.

    Raises:
        SettingError: it cannot be read, or holds what nobody asked for.
    """
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text())
    # Numbers without end and too deep a nesting are no TOMLDecodeError.
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"cannot read {path}: {error}") from error
    for name, value in values.items():
        texts = value.values() if isinstance(value, dict) else (value,)
        if name not in CONTACTS or not all(isinstance(text, str) for text in texts):
            raise SettingError(f"{path}: {name} is none of {', '.join(CONTACTS)}, as texts")
    return values
