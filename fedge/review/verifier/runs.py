"""Retrainings: what was planned, charged and used must be the same thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedge.review.verifier import prices
from fedge.review.verifier.faults import Fault
from fedge.review.verifier.form import FormError, fingerprint, parse, require
from fedge.review.verifier.plans import RUN, Values, events_of
from fedge.review.verifier.reading import check_reading
from fedge.review.verifier.releases import Releases
from fedge.review.verifier.replay import Replay
from fedge.review.verifier.reserved import Reserved
from fedge.review.verifier.verdict import Deviation, Finding, Rejected
from fedge.review.verifier.words import counted


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

    def __post_init__(self) -> None:
        self._reserved: dict[str, list[tuple[str, Reserved]]] = {}
        for gateway, replay in self.ledgers.items():
            for run_id, reserved in replay.runs.items():
                self._reserved.setdefault(run_id, []).append((gateway, reserved))

    def check(self, runs: Iterable[bytes], releases: Iterable[bytes]) -> None:
        """Take in both files; notes the first deviation of each."""
        known = Releases(self._runs, self._costs, self.findings)
        whole_runs = self._each("runs.jsonl", runs, self._run)
        # Runs that were not reached would only look as if they were not there.
        whole = self._each("releases.jsonl", releases, known.add) and whole_runs
        self._try(lambda: self._check_results(known))
        if self.complete:
            if whole:
                self._try(known.check_runs)
            self._find_unknown_runs()
            self._find_absent_members()
        else:
            self._note_unchecked_runs()

    def _each(self, file: str, lines: Iterable[bytes], one: Callable[[Any], None]) -> bool:
        def all_lines() -> None:
            for line in lines:
                try:
                    one(parse(line))
                except FormError as error:
                    raise Rejected(Deviation(kind="form", what=str(error), file=file)) from error

        return self._try(all_lines)

    def _try(self, check: Callable[[], None]) -> bool:
        """Whether a check passes; notes what it rejects."""
        try:
            check()
        except Rejected as rejected:
            self.deviations.append(rejected.deviation)
            return False
        return True

    # --- runs -----------------------------------------------------------------------------

    def _run(self, value: Any) -> None:
        run = require(value, RUN, "a run")
        spec, plan, run_id = run["spec"], run["spec"]["plan"], run["run_id"]
        if spec["run_id"] != run_id or run_id in self._runs:
            raise self._rejected(f"run {run_id} is there twice, or is another one's plan")
        if (plan["sampling"] == "poisson") != (plan["rate_ppm"] is not None):
            raise self._rejected(
                f"run {run_id} samples without a rate, or has one without sampling"
            )
        self._runs[run_id] = run
        members = self._members(spec)
        for gateway, reserved in self._reserved.get(run_id, ()):
            self._check_reserved(gateway, reserved, spec, members)
            self._check_reading(gateway, reserved, members[gateway], run_id)
        for name, purpose in (("update_sha256", "training"), ("counts_sha256", "evaluation")):
            self._check_replies(run, run[name], purpose, members.keys() <= self.ledgers.keys())

    def _members(self, spec: Values) -> dict[str, Values]:
        """Those who were to take part, by gateway."""
        members: dict[str, Values] = {}
        for one in spec["participants"]:
            gateway = one["gateway"]
            if gateway in members:
                raise self._rejected(f"run {spec['run_id']} names a gateway twice", gateway)
            if fingerprint(one["public_key"]) != gateway:
                raise self._rejected(f"run {spec['run_id']} names another's key for it", gateway)
            if one["first_window"] > one["last_window"]:
                raise self._rejected(
                    f"run {spec['run_id']} reads no window: the last is before the first", gateway
                )
            members[gateway] = one
        return members

    def _check_reading(self, gateway: str, reserved: Reserved, part: Values, run_id: str) -> None:
        try:
            self.findings += check_reading(self.ledgers[gateway], reserved, part, f"run {run_id}")
        except Fault as fault:
            raise self._rejected(
                fault.what, gateway, reserved.entry["seq"], kind=fault.kind
            ) from fault

    def _check_results(self, releases: Releases) -> None:
        """What was published had an adapter, summed from updates, and the run's record says so."""
        for run_id, run in self._runs.items():
            led = run["release"] is not None or releases.of_run(run_id) is not None
            if not led or not self._told(run_id):
                continue
            for name, what in (("adapter_sha256", "adapter"), ("update_sha256", "updates")):
                if not run[name]:
                    raise self._rejected(f"run {run_id} led to a release without {what}")

    def _told(self, run_id: str) -> bool:
        """Whether a result says whose replies were used; those of the first version do not."""
        reserved = self._reserved.get(run_id, ())
        return all(one.entry["schema_version"] > 1 for _, one in reserved)

    def _check_reserved(
        self, gateway: str, reserved: Reserved, spec: Values, members: Mapping[str, Values]
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
        self._check_parts(gateway, reserved, spec)
        self._check_unit(gateway, reserved, spec)
        same = ("task", "base_release", "base_sha256")
        if not first and any(entry[name] not in (None, "", spec[name]) for name in same):
            raise self._rejected(
                f"run {run_id} was charged for another task or release than planned",
                gateway,
                entry["seq"],
            )

    def _check_parts(self, gateway: str, reserved: Reserved, spec: Values) -> None:
        """What was released is whole rounds and evaluations, as the plan cuts them."""
        plan = spec["plan"]
        parts = [
            {**part, "count": plan["steps"]} if number == 0 else part
            for first in (False, True)
            for number, part in enumerate(events_of(plan, first=first))
        ]
        if any(event not in parts for _, event in reserved.released):
            raise self._rejected(
                f"run {spec['run_id']} released other parts than the planned rounds",
                gateway,
                reserved.entry["seq"],
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
            for _, reserved in self._reserved.get(run["run_id"], ())
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
                    what=f"{counted(len(foreign), 'reply', 'replies')} in run {run['run_id']} of "
                    "gateways whose ledgers are not in the bundle",
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
                        unproven=True,  # which blocks it read cannot be compared
                    )
                )

    def _note_unchecked_runs(self) -> None:
        """A gateway holds no plans: what it was to read is with the coordinator."""
        for gateway, replay in self.ledgers.items():
            if missing := len(replay.runs.keys() - self._runs.keys()):
                what = (
                    f"{counted(missing, 'run')} charged; what was planned is not in the bundle: "
                    "the coordinator's compares it"
                )
                self.findings.append(Finding(kind="unchecked-runs", what=what, gateway=gateway))

    def _find_absent_members(self) -> None:
        """Gateways that were to take part and whose ledgers are not here, each once."""
        named = {
            one["gateway"]: run_id
            for run_id, run in reversed(self._runs.items())
            for one in run["spec"]["participants"]
        }
        for gateway in sorted(named.keys() - self.ledgers.keys()):
            what = (
                f"the ledger of gateway {gateway} is not in the bundle, and run {named[gateway]} "
                "was planned with it"
            )
            self.findings.append(Finding(kind="missing-gateway", what=what, unproven=True))

    def _costs(self, run_id: str) -> Iterator[float]:
        """Epsilon of each charged block, had it been fresh: its monitoring share and this run."""
        for gateway, reserved in self._reserved.get(run_id, ()):
            for block, nano in reserved.nano.items():
                policy = self.ledgers[gateway].accounts[block].policy
                yield prices.epsilon_of(nano + policy.telemetry_nano, policy.delta, policy.alpha)

    def _rejected(
        self, what: str, gateway: str | None = None, entry: int | None = None, kind: str = "run"
    ) -> Rejected:
        return Rejected(
            Deviation(kind=kind, what=what, gateway=gateway, entry=entry, file="runs.jsonl")
        )
