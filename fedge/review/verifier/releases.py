"""Releases against the runs that they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedge.review.verifier.form import Shape, count, hex64, require, whole, word
from fedge.review.verifier.verdict import Deviation, Finding, Rejected

Values = Mapping[str, Any]
FILE = "releases.jsonl"


def _privacy(value: Any) -> bool:
    """What a manifest claims: nothing but what is compared below."""
    if not isinstance(value, dict) or value.keys() != {"epsilon"}:
        return False
    return type(value["epsilon"]) is float and value["epsilon"] >= 0


_RELEASE: Shape = {
    "counter": whole(1, 2**53),
    "family": word,
    "manifest_sha256": hex64,
    "run_id": word,
    "parent": count,
    "privacy": _privacy,
}


@dataclass
class Releases:
    """Checks each release, then what runs say of them.

    Args:
        runs: by id.
        costs: epsilon of each block that a run was charged to, had it been fresh.
        findings: takes what a reviewer must know.
    """

    runs: Mapping[str, Values]
    costs: Callable[[str], Iterator[float]]
    findings: list[Finding]
    _found: dict[tuple[str, int], Values] = field(default_factory=dict)
    _of_runs: dict[str, Values] = field(default_factory=dict)

    def add(self, value: Any) -> None:
        """Take in one release.

        Raises:
            Rejected, FormError: no coordinator publishes it.
        """
        release = require(value, _RELEASE, "a release")
        name, run_id = _name(release), release["run_id"]
        key = (release["family"], release["counter"])
        if key in self._found:
            raise _rejected(f"{name} is there twice")
        self._found[key] = release
        if release["parent"] >= release["counter"]:
            raise _rejected(f"{name} was trained from release {release['parent']}, a later one")
        run = self.runs.get(run_id)
        if release["parent"] == 0:
            if release["privacy"]["epsilon"] != 0.0:
                raise _rejected(f"{name} was trained from none, yet says that it cost budget")
            if run is not None:
                raise _rejected(f"{name} was trained from none, yet comes from run {run_id}")
            return
        if run is None:
            raise _rejected(f"{name} comes from a run that is not in the bundle")
        if run_id in self._of_runs:
            raise _rejected(f"{name} comes from a run that led to another release, too")
        self._of_runs[run_id] = release
        if run["release"] not in (None, release["counter"]):
            raise _rejected(f"{name} comes from a run that led to another release")
        if run["spec"]["base_release"] != release["parent"]:
            raise _rejected(f"{name} was trained from another release than its run")
        self._compare_price(name, release, run_id)

    def of_run(self, run_id: str) -> Values | None:
        """The release that comes from a run, if one does."""
        return self._of_runs.get(run_id)

    def check_runs(self) -> None:
        """Look up what runs name, once all releases are known.

        Raises:
            Rejected: a run started from, or led to, something else than what was published.
        """
        manifests: dict[int, set[str]] = {}
        for (_, counter), release in self._found.items():
            manifests.setdefault(counter, set()).add(release["manifest_sha256"])
        for run_id, run in self.runs.items():
            base, led = run["spec"]["base_release"], self.of_run(run_id)
            known = manifests.get(base, set())
            if led is not None:  # then the base is of its family, too
                own = self._found.get((led["family"], base))
                known = set() if own is None else {own["manifest_sha256"]}
            if known and run["spec"]["base_sha256"] not in known:
                raise _rejected(f"run {run_id} started from other bytes than its base release has")
            if run["release"] is not None and run_id not in self._of_runs:
                raise _rejected(
                    f"run {run_id} led to release {run['release']}, which is not in the bundle as "
                    "one that comes from it"
                )

    def _compare_price(self, name: str, release: Values, run_id: str) -> None:
        said, cost = release["privacy"]["epsilon"], max(self.costs(run_id), default=0.0)
        if said < cost - 1e-9:
            self.findings.append(
                Finding(
                    kind="release-epsilon",
                    what=f"{name} claims epsilon {said:.4g}; its run and monitoring cost a fresh "
                    f"block {cost:.4g}",
                    unproven=True,
                )
            )


def _name(release: Values) -> str:
    return f"release {release['counter']} of {release['family']}"


def _rejected(what: str) -> Rejected:
    return Rejected(Deviation(kind="run", what=what, file=FILE))
