"""What of a gateway's facts may be exported: Prometheus text, version 0.0.4.

Each metric is listed here by name, so that what leaves can be read in one place. Public
facts only: numbers and times of requests, latencies, load drops, crashes, versions, and the
states of processes and queues. Not here, because they depend on what a record holds: answers
refused with a 4xx, labels, escalations, out-of-distribution scores, alarms of local detectors.
Those are in `/status`, for the eyes of the machine's own operator, and so are latencies once
escalation is on. Format:
https://prometheus.io/docs/instrumenting/exposition_formats/. Standard library alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[str, Mapping[str, str], float]
"""What follows the metric's name (`_sum`, say), labels, value."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric's name, kind, and what it tells."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str


PROCESS_UP = Metric("fedge_process_up", "gauge", "Whether a process beside the workers runs.")
PROCESS_RESTARTS = Metric(
    "fedge_process_restarts_total", "counter", "Ends of a process that nobody asked for."
)
MEMORY = Metric("fedge_memory_bytes", "gauge", "Resident memory, shared pages included.")
STARTED = Metric("fedge_start_time_seconds", "gauge", "Start of the supervisor, Unix time.")

WORKER_UP = Metric("fedge_worker_up", "gauge", "Whether a worker serves the model.")
WORKER_RESTARTS = Metric(
    "fedge_worker_restarts_total", "counter", "Ends of the serving worker that nobody asked for."
)
TRIAL = Metric("fedge_trial_waiting", "gauge", "Whether a new release passed its probes and waits.")
DURATION = Metric(
    "fedge_request_duration_seconds", "histogram", "From a request's head to its answer's end."
)
OF_WORKER = {
    "release": Metric("fedge_release", "gauge", "Counter of the release that serves."),
    "ready": Metric("fedge_ready", "gauge", "Whether the worker takes requests; not in a drain."),
    "latency_us": Metric(
        "fedge_probe_latency_microseconds", "gauge", "One row's inference, measured at the start."
    ),
    "requests": Metric("fedge_requests_total", "counter", "Requests answered, whatever with."),
    "rows": Metric("fedge_rows_total", "counter", "Rows scored."),
    "errors": Metric("fedge_request_errors_total", "counter", "Requests answered with a 5xx."),
    "limited": Metric(
        "fedge_requests_limited_total", "counter", "Requests refused because a limit was reached."
    ),
    "inflight": Metric("fedge_requests_inflight", "gauge", "Requests under way."),
}
"""By the name of a worker's fact; counters start anew with each worker."""

LOAD_DROPS = ("rate", "concurrency", "connections")
"""Refusals that say something about the load, and nothing about what was sent."""

AGENT_UP = Metric("fedge_agent_up", "gauge", "Whether the agent answers for this model.")
OF_AGENT = {
    "next_slot": Metric("fedge_arrival_slots_total", "counter", "Arrival slots given out."),
    "windows": Metric("fedge_windows_total", "counter", "Windows closed."),
    "withheld_windows": Metric(
        "fedge_windows_withheld_total", "counter", "Windows of which no report could be released."
    ),
    "dropped_observations": Metric(
        "fedge_observations_dropped_total", "counter", "Observations that found no room."
    ),
    "lost_records": Metric(
        "fedge_observations_damaged_total", "counter", "Observations that were damaged on disk."
    ),
    "spool_depth": Metric("fedge_spool_entries", "gauge", "Envelopes that wait to be sent."),
    "spool_bytes": Metric("fedge_spool_bytes", "gauge", "Bytes that wait to be sent."),
    "spool_dropped": Metric(
        "fedge_spool_dropped_total", "counter", "Envelopes given up for lack of room."
    ),
    "spool_gaps": Metric("fedge_spool_gaps", "gauge", "Gap records that wait to be sent."),
    "spool_corrupt": Metric(
        "fedge_spool_damaged_total", "counter", "Envelopes that were damaged on disk."
    ),
    "refused_envelopes": Metric(
        "fedge_envelopes_refused_total", "counter", "Envelopes that the coordinator refused."
    ),
    "refused_release": Metric(
        "fedge_release_refused", "gauge", "Counter of the last release that was refused; 0: none."
    ),
}
"""By the name of a fact in the agent's status: those of `fedge.records.GatewayStatus`, most."""


def exposition(facts: Mapping[str, object]) -> str:
    """The page for a scrape, from the document of `GatewayFacts.gather`.

    What is unknown is left out: a model without a worker has no `fedge_requests_total`.
    """
    found: dict[Metric, list[Sample]] = {}
    for metric, sample in _samples(facts):
        found.setdefault(metric, []).append(sample)
    lines: list[str] = []
    for metric, samples in found.items():
        lines += [f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}"]
        lines += [
            f"{metric.name}{end}{_braced(labels)} {value!r}" for end, labels, value in samples
        ]
    return "\n".join(lines) + "\n"


def _samples(facts: Mapping[str, object]) -> Iterator[tuple[Metric, Sample]]:
    supervisor = _table(facts, "supervisor")
    yield from _one(STARTED, supervisor.get("started_at"), {})
    yield from _one(MEMORY, supervisor.get("memory_bytes"), {"process": "supervisor"})
    for name, process in _tables(facts, "processes"):
        labels = {"process": name}
        yield from _one(PROCESS_UP, process.get("pid") is not None, labels)
        yield from _one(PROCESS_RESTARTS, process.get("restarts"), labels)
        yield from _one(MEMORY, process.get("memory_bytes"), labels)
    for family, model in _tables(facts, "models"):
        yield from _of_model(model, {"model": family})


def _of_model(
    model: Mapping[str, object], labels: Mapping[str, str]
) -> Iterator[tuple[Metric, Sample]]:
    worker, agent = _table(model, "worker"), _table(model, "agent")
    yield from _one(WORKER_UP, bool(worker), labels)
    yield from _one(WORKER_RESTARTS, model.get("worker_restarts"), labels)
    yield from _one(TRIAL, model.get("trial") is not None, labels)
    yield from _one(MEMORY, worker.get("memory_bytes"), {"process": "worker", **labels})
    exported = {**worker, **_public_counts(worker)}
    for fact, metric in OF_WORKER.items():
        yield from _one(metric, exported.get(fact), labels)
    # An escalated request waits for a server elsewhere: with escalation on, the slow buckets
    # would tell how many there were.
    if "escalations" not in worker:
        yield from _histogram(_table(worker, "latency_s"), labels)
    yield from _one(AGENT_UP, model.get("agent") is not None, labels)
    for fact, metric in OF_AGENT.items():
        yield from _one(metric, agent.get(fact), labels)


def _public_counts(worker: Mapping[str, object]) -> dict[str, float]:
    """Sums over which nothing can be told about the requests that were refused as wrong."""
    answered, refused = _numbers(worker, "requests"), _numbers(worker, "refused")
    if not answered:
        return {}
    return {
        "requests": sum(answered.values()),
        "errors": answered.get("5xx", 0.0),
        "limited": sum(refused.get(why, 0.0) for why in LOAD_DROPS),
    }


def _numbers(facts: Mapping[str, object], name: str) -> dict[str, float]:
    found = _table(facts, name).items()
    return {key: float(value) for key, value in found if isinstance(value, int | float)}


def _one(
    metric: Metric, value: object, labels: Mapping[str, str]
) -> Iterator[tuple[Metric, Sample]]:
    if isinstance(value, int | float):
        yield metric, ("", labels, float(value))


def _histogram(
    latency: Mapping[str, object], labels: Mapping[str, str]
) -> Iterator[tuple[Metric, Sample]]:
    """From the worker's own buckets (one more than bounds) to Prometheus's, which add up."""
    bounds, counts, total_s = latency.get("bounds"), latency.get("counts"), latency.get("sum")
    if not (isinstance(bounds, list) and isinstance(counts, list) and len(bounds) < len(counts)):
        return
    below = 0
    for bound, count in zip(bounds, counts, strict=False):
        below += count
        yield DURATION, ("_bucket", {**labels, "le": repr(float(bound))}, float(below))
    all_of_them = float(sum(counts))
    yield DURATION, ("_bucket", {**labels, "le": "+Inf"}, all_of_them)
    yield DURATION, ("_sum", labels, float(total_s) if isinstance(total_s, int | float) else 0.0)
    yield DURATION, ("_count", labels, all_of_them)


def _table(facts: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = facts.get(name)
    return found if isinstance(found, dict) else {}


def _tables(facts: Mapping[str, object], name: str) -> Iterable[tuple[str, Mapping[str, object]]]:
    tables = _table(facts, name)
    return [(key, _table(tables, key)) for key in tables]


def _braced(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
