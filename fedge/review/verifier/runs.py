"""Retrainings and releases: planned, charged and released must be the same thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedge.review.verifier import prices
from fedge.review.verifier.form import (
    FormError,
    Shape,
    count,
    hex64,
    listed,
    name32,
    nullable,
    one_of,
    parse,
    require,
    shaped,
    whole,
    word,
)
from fedge.review.verifier.replay import Replay
from fedge.review.verifier.reserved import Reserved
from fedge.review.verifier.verdict import Deviation, Finding, Rejected

Values = Mapping[str, Any]


def _amount(value: Any) -> bool:
    return type(value) is float and 0 < value <= 1e6


def _epsilon(value: Any) -> bool:
    return type(value) is float and value >= 0


_PLAN: Shape = {
    "adapter": word,
    "rounds": whole(1, 17),
    "steps": whole(1, 10_001),
    "clip": _amount,
    "learning_rate": _amount,
    "divisor": whole(1, 2**31),
    "grid_bits": whole(1, 41),
    "sigma2": whole(1),
    "evaluation_sigma2": whole(1),
    "dimension": whole(1, 2**31),
    "sampling": one_of("full", "poisson"),
    "rate_ppm": nullable(whole(1, 10**6)),
    "unit": one_of("record", "subject"),
    "max_records": whole(1, 1001),
}
_PARTICIPANT: Shape = {
    "gateway": name32,
    "public_key": hex64,
    "first_window": count,
    "last_window": count,
}
_SPEC: Shape = {
    "run_id": word,
    "task": word,
    "base_release": whole(1),
    "base_sha256": hex64,
    "plan": shaped(_PLAN),
    "participants": listed(shaped(_PARTICIPANT), least=1),
    "episodes": listed(word),
}
_RUN: Shape = {
    "run_id": word,
    "spec": shaped(_SPEC),
    "adapter_sha256": nullable(hex64),
    "update_sha256": listed(hex64),
    "counts_sha256": listed(hex64),
    "release": nullable(whole(1)),
}
_RELEASE: Shape = {
    "counter": whole(1),
    "family": word,
    "manifest_sha256": hex64,
    "run_id": word,
    "parent": count,
    "privacy": lambda value: isinstance(value, dict) and _epsilon(value.get("epsilon")),
}


@dataclass
class Runs:
    """Checks runs against the ledgers of the gateways that took part, and releases against runs.

    Args:
        ledgers: by gateway, replayed.
        complete: whether the exporter holds all runs: a coordinator does, a gateway none.
    """

    ledgers: Mapping[str, Replay]
    complete: bool
    deviations: list[Deviation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    _runs: dict[str, Values] = field(default_factory=dict)

    def check(self, runs: Sequence[bytes], releases: Sequence[bytes]) -> None:
        """Take in both files; notes the first deviation of each."""
        for file, lines, one in (
            ("runs.jsonl", runs, self._run),
            ("releases.jsonl", releases, self._release),
        ):
            try:
                self._each(file, lines, one)
            except Rejected as rejected:
                self.deviations.append(rejected.deviation)
        if self.complete:
            self._find_unknown_runs()

    def _each(self, file: str, lines: Sequence[bytes], one: Callable[[Any], None]) -> None:
        for line in lines:
            try:
                one(parse(line))
            except FormError as error:
                raise Rejected(Deviation(kind="form", what=str(error), file=file)) from error

    # --- runs -----------------------------------------------------------------------------

    def _run(self, value: Any) -> None:
        run = require(value, _RUN, "a run")
        spec, plan, run_id = run["spec"], run["spec"]["plan"], run["run_id"]
        if spec["run_id"] != run_id or run_id in self._runs:
            raise self._rejected(f"run {run_id} is there twice, or is another one's plan")
        if (plan["sampling"] == "poisson") != (plan["rate_ppm"] is not None):
            raise self._rejected(
                f"run {run_id} samples without a rate, or has one without sampling"
            )
        self._runs[run_id] = run
        members = {one["gateway"] for one in spec["participants"]}
        for gateway, reserved in self._reserved(run_id):
            self._check_reserved(gateway, reserved, spec, members)
        for name, purpose in (("update_sha256", "training"), ("counts_sha256", "evaluation")):
            self._check_replies(run, run[name], purpose, members <= self.ledgers.keys())

    def _reserved(self, run_id: str) -> Iterator[tuple[str, Reserved]]:
        for gateway, replay in self.ledgers.items():
            if run_id in replay.runs:
                yield gateway, replay.runs[run_id]

    def _check_reserved(
        self, gateway: str, reserved: Reserved, spec: Values, members: set[str]
    ) -> None:
        entry, run_id = reserved.entry, spec["run_id"]
        first = entry["schema_version"] == 1
        if gateway not in members:
            raise self._rejected(f"run {run_id} was not planned with it", gateway, entry["seq"])
        planned = [events_of(spec["plan"], first=False)]
        if first:  # its evaluation was a pair of counts
            planned.append(events_of(spec["plan"], first=True))
        if entry["events"] not in planned:
            raise self._rejected(
                f"run {run_id} was charged for other events than planned", gateway, entry["seq"]
            )
        self._check_unit(gateway, reserved, spec)
        same = ("task", "base_release", "base_sha256")
        if not first and any(entry[name] not in (None, "", spec[name]) for name in same):
            raise self._rejected(
                f"run {run_id} was charged for another task or release than planned",
                gateway,
                entry["seq"],
            )

    def _check_unit(self, gateway: str, reserved: Reserved, spec: Values) -> None:
        """What was clipped must be what each block's policy protects."""
        clipped = (spec["plan"]["unit"], spec["plan"]["max_records"])
        for block in reserved.blocks:
            policy = self.ledgers[gateway].accounts[block].policy
            if clipped != (policy.unit, policy.max_records):
                raise self._rejected(
                    f"run {spec['run_id']} bounds another unit than the policy of block {block}",
                    gateway,
                    reserved.entry["seq"],
                )

    def _check_replies(
        self, run: Values, hashes: Sequence[str], purpose: str, all_here: bool
    ) -> None:
        # Counted, because noised differences of two gateways may be the same few bytes.
        settled = Counter(
            sha256
            for _, reserved in self._reserved(run["run_id"])
            for sha256, event in reserved.released
            if reserved.may_be(event, purpose)
        )
        foreign = list((Counter(hashes) - settled).elements())
        if foreign and all_here:
            raise self._rejected(
                f"run {run['run_id']} used {foreign[0]} for {purpose}; no gateway settled it so, "
                "or not so often"
            )
        if foreign:
            self.findings.append(
                Finding(
                    kind="unchecked-replies",
                    what=f"{len(foreign)} replies in run {run['run_id']} are of gateways whose "
                    "ledgers are not in the bundle",
                    unproven=True,
                )
            )

    def _find_unknown_runs(self) -> None:
        for gateway, replay in self.ledgers.items():
            for run_id in sorted(replay.runs.keys() - self._runs.keys()):
                self.findings.append(
                    Finding(
                        kind="unknown-run",
                        what=f"it was charged for run {run_id}, which is not in the bundle",
                        gateway=gateway,
                        entry=replay.runs[run_id].entry["seq"],
                    )
                )

    # --- releases -------------------------------------------------------------------------

    def _release(self, value: Any) -> None:
        release = require(value, _RELEASE, "a release")
        name = f"release {release['counter']} of {release['family']}"
        if release["parent"] == 0:
            if release["privacy"]["epsilon"] != 0.0:
                raise self._rejected(f"{name} was trained from none, yet says that it cost budget")
            return
        run = self._runs.get(release["run_id"])
        if run is None:
            raise self._rejected(f"{name} comes from a run that is not in the bundle")
        if run["release"] not in (None, release["counter"]):
            raise self._rejected(f"{name} comes from a run that led to another release")
        if run["spec"]["base_release"] != release["parent"]:
            raise self._rejected(f"{name} was trained from another release than its run")
        cost = max(self._costs(release["run_id"]), default=0.0)
        if release["privacy"]["epsilon"] < cost - 1e-9:
            self.findings.append(
                Finding(
                    kind="release-epsilon",
                    what=f"{name} claims epsilon {release['privacy']['epsilon']:.4g}; its run and "
                    f"monitoring cost a fresh block {cost:.4g}",
                )
            )

    def _costs(self, run_id: str) -> Iterator[float]:
        """Epsilon of each charged block, had it been fresh: its monitoring share and this run."""
        for gateway, reserved in self._reserved(run_id):
            for block, nano in reserved.nano.items():
                policy = self.ledgers[gateway].accounts[block].policy
                yield prices.epsilon_of(nano + policy.telemetry_nano, policy.delta, policy.alpha)

    def _rejected(
        self, what: str, gateway: str | None = None, entry: int | None = None
    ) -> Rejected:
        return Rejected(
            Deviation(kind="run", what=what, gateway=gateway, entry=entry, file="runs.jsonl")
        )


def events_of(plan: Values, *, first: bool) -> list[Values]:
    """What a plan charges: all steps of all rounds, and the evaluation.

    Args:
        first: as the first version did it, with two counts where now is one difference.
    """
    bound = int(plan["clip"] * 2 ** plan["grid_bits"])
    training = {
        "kind": "discrete-gaussian",
        "sensitivity2": bound * bound,
        "sigma2": plan["sigma2"],
        "count": plan["rounds"] * plan["steps"],
        "dimension": plan["dimension"],
    }
    if plan["sampling"] == "poisson":
        training |= {"kind": "poisson-gaussian", "rate_ppm": plan["rate_ppm"]}
    evaluation = {
        "kind": "discrete-gaussian",
        "sensitivity2": 1 if first else plan["max_records"] ** 2,
        "sigma2": plan["evaluation_sigma2"],
        "count": 1,
        "dimension": 2 if first else 1,
    }
    return [training, evaluation]
