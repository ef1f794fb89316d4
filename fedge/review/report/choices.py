"""What a report says about how the adapter of each release was chosen.

A run names the hash of the study that decided it; the study itself is evidence in the bundle
and is believed to be that one only if it has this hash. What it measured is its maker's word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedge.errors import RecordError
from fedge.records import AdapterChoice, RunSpec, canonical
from fedge.review.evidence import CHOICE
from fedge.review.source import Bundle, ReleaseFact

NOT_RECORDED = "not recorded"
NONE_TRAINED = "none was trained"


def choices_of(bundle: Bundle) -> dict[str, AdapterChoice]:
    """Studies in the bundle that a run of it names, by hash."""
    named = {run.spec.choice_sha256 for run in bundle.source.runs}
    found = {}
    for name, value in bundle.source.evidence.items():
        if not name.startswith(CHOICE):
            continue
        try:
            choice = AdapterChoice.from_bytes(canonical(dict(value)))
        except RecordError:
            continue  # said of each release that names it: its study is not here
        if choice.content_sha256 in named:
            found[choice.content_sha256] = choice
    return found


def choice_facts(
    release: ReleaseFact, bundle: Bundle, choices: Mapping[str, AdapterChoice]
) -> dict[str, Any]:
    """`adapter`, `choice` in words, and `study` (its summary, None where it is not known)."""
    spec = next((r.spec for r in bundle.source.runs if r.spec.run_id == release.run_id), None)
    if spec is None:
        said = NONE_TRAINED if release.parent == 0 else NOT_RECORDED
        return {"adapter": None, "choice": said, "study": None}
    choice = choices.get(spec.choice_sha256 or "")
    return {
        "adapter": spec.plan.adapter,
        "choice": f"{spec.plan.adapter}, {_said(spec, choice)}",
        "study": None if choice is None else choice.summary(),
    }


def _said(spec: RunSpec, choice: AdapterChoice | None) -> str:
    if spec.choice_sha256 is None:
        return f"choice {NOT_RECORDED}"
    study = f"study {spec.choice_sha256[:16]}"
    if choice is None:
        return f"{study}, which is not in the bundle"
    if differs := choice.chosen.differs(spec.plan):
        return f"{study}, which DOES NOT FIT what was trained: {differs}"
    return study
