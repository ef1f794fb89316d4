"""Requests over HTTP, under wrk: ours beside MLServer, JSON beside binary."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from benchmarks.gateway import site, wrk
from benchmarks.gateway.site import Candidate
from benchmarks.peers import python_of

REPEATS, SECONDS = 7, 4.0
CONNECTIONS = 4
IMAGE = (3, 224, 224)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to post what."""

    url: str
    body: bytes
    headers: dict[str, str]

    @classmethod
    def of_json(cls, url: str, body: bytes) -> Target:
        return cls(url, body, {"Content-Type": "application/json"})


def interleaved(targets: list[Target], *, seconds: float = SECONDS) -> list[list[wrk.Load]]:
    """Load the targets in turns; `REPEATS` runs for each."""
    runs: list[list[wrk.Load]] = [[] for _ in targets]
    for target in targets:
        wrk.load(target.url, target.body, target.headers, seconds=1.0)
    for repeat in range(REPEATS):
        order = range(len(targets)) if repeat % 2 == 0 else reversed(range(len(targets)))
        for at in order:
            target = targets[at]
            runs[at].append(
                wrk.load(
                    target.url,
                    target.body,
                    target.headers,
                    seconds=seconds,
                    connections=CONNECTIONS,
                )
            )
    return runs


def against_mlserver(work: Path) -> list[Figure]:
    """gw-json and gw-p99: the digits model, batch 1, JSON, both servers up at once."""
    ids = (
        ("gw-json", "HTTP infer, JSON, batch 1, 4 connections, digits", "requests/s", ">= 4x"),
        ("gw-p99", "the same, p99, median of interleaved runs", "us", "lower than MLServer's"),
    )
    python = python_of("mlserver")
    if python is None or not wrk.available():
        return [
            Figure(
                id=name,
                what=f"{what}: needs wrk and `make bench-peers`",
                ours=None,
                peer=None,
                peer_name="MLServer 1.7.1",
                unit=unit,
                goal=goal,
                holds=False,
            )
            for name, what, unit, goal in ids
        ]
    candidate = site.digits(work)
    with tempfile.TemporaryDirectory() as folder:
        row = np.load(candidate.folder / "golden.npz")["inputs"][:1]
        # What the peer answers with, from both.
        body = site.json_body(candidate.task.input.name, row, ("logits", "class"))
        settings = site.make_folder(Path(folder) / "gw", candidate)
        with (
            site.running(settings) as ours,
            site.mlserver(python, Path(folder) / "peer", {"digits": candidate.model}) as peer,
        ):
            mine, theirs = interleaved(
                [
                    Target.of_json(ours.infer_url, body),
                    Target.of_json(f"{peer}/v2/models/digits/infer", body),
                ]
            )
    rates = [statistics.median(load.rate for load in runs) for runs in (mine, theirs)]
    tails = [statistics.median(load.p99 for load in runs) for runs in (mine, theirs)]
    verdicts = (rates[0] >= 4 * rates[1], tails[0] < tails[1])
    return [
        Figure(
            id=name,
            what=what,
            ours=pair[0],
            peer=pair[1],
            peer_name="MLServer 1.7.1",
            unit=unit,
            goal=goal,
            holds=holds,
        )
        for (name, what, unit, goal), pair, holds in zip(ids, (rates, tails), verdicts, strict=True)
    ]


def binary(work: Path) -> list[Figure]:
    """gw-binary: a large image and 64 values, as binary tensors against our own JSON."""
    if not wrk.available():
        return [_binary_figure(None, None, "needs wrk", holds=False)]
    # A row of the image takes 600 kB in the ring: a small one, and windows to match.
    ring = {"window_slots": 80, "ring_slots": 256}
    image = _json_and_binary(site.pooled(work, IMAGE, 6), seconds=SECONDS, **ring)
    small = _json_and_binary(site.pooled(work, (64,), 64), seconds=SECONDS / 2)
    share = small[1] / small[0]
    return [
        _binary_figure(
            image[1],
            image[0],
            f"1x3x224x224 FP32 as binary (64 values: {share:.2f}x our JSON)",
            holds=image[1] >= 5 * image[0] and share >= 1.0,
        )
    ]


def _binary_figure(ours: float | None, peer: float | None, what: str, *, holds: bool) -> Figure:
    return Figure(
        id="gw-binary",
        what=f"HTTP infer, {what}",
        ours=ours,
        peer=peer,
        peer_name="our JSON",
        unit="requests/s",
        goal=">= 5x our JSON; not slower for 64 values",
        holds=holds,
    )


def _json_and_binary(
    candidate: Candidate, *, seconds: float, **settings: object
) -> tuple[float, float]:
    """Median requests/s with JSON and with binary tensors."""
    shape = candidate.task.input.shape
    row = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    name = candidate.task.input.name
    with tempfile.TemporaryDirectory() as folder:
        made = site.make_folder(
            Path(folder) / "gw", candidate, max_body_bytes=8 * 2**20, **settings
        )
        with site.running(made) as ours:
            runs = interleaved(
                [
                    Target.of_json(ours.infer_url, site.json_body(name, row)),
                    Target(ours.infer_url, *site.binary_body(name, row)),
                ],
                seconds=seconds,
            )
    text, data = (statistics.median(load.rate for load in each) for each in runs)
    return text, data
