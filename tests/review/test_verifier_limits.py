"""A bundle cannot keep a verifier busy: what no honest one holds is refused, and named."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.forger import STANDING, Entry, Forger
from fakes.honest_bundle import (
    BEGAN,
    CENTRE,
    PLAN,
    REVIEWER,
    policy_of,
    source_of,
    write_honest,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import MPContext

from fedge.errors import BundleError
from fedge.privacy.approval import approve
from fedge.review import bundle
from fedge.review.bundle import bundle_bytes
from fedge.review.verifier import UnreadableBundleError, Verdict, limits, prices, verify_bundle
from fedge.review.verifier.adoptions import Adoptions
from fedge.review.verifier.limits import TooMuchError, Work
from fedge.review.verifier.lines import Lines
from fedge.review.verifier.releases import Releases

KEYS: dict[str, Any] = {
    "witness_key": CENTRE.public_key.hex(),
    "reviewer_keys": [REVIEWER.public_key.hex()],
}

POLICY = policy_of(3.0).to_bytes()


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_honest(tmp_path_factory.mktemp("honest"))


def judged(folder: Path, data: bytes) -> Verdict:
    path = folder / "forged.zip"
    path.write_bytes(data)
    return verify_bundle(path, **KEYS)


def ledger_of(honest: Path, change: Callable[[list[Entry]], None]) -> Forger:
    """What remains of one ledger is what `change` makes of its first three entries."""
    forger = Forger(honest)

    def only(entries: list[Entry]) -> None:
        del entries[3:]
        change(entries)

    forger.change_entries(only)
    for name in (forger.own("artefacts"), "runs.jsonl", "releases.jsonl", STANDING):
        del forger.files[name]
    return forger


# --- work ---------------------------------------------------------------------------------


def sampled_runs(count: int, distinct: bool) -> Callable[[list[Entry]], None]:
    """Runs with sampled noise at the largest order, each of another mechanism or all of one."""

    def change(entries: list[Entry]) -> None:
        policy = policy_of(50.0, alpha=1024, telemetry_rho=1e-6, window_rho=1e-6)
        approval = approve(policy, REVIEWER, reviewer="R", reason="large", at=1.0)
        values = json.loads(policy.to_bytes())
        entries[1].update(policy=values, approval=json.loads(approval.to_bytes()))
        entries[2]["policy"] = values
        for number in range(count):
            event = {
                "kind": "poisson-gaussian",
                "sensitivity2": 1,
                "sigma2": 10**9 + number * distinct,
                "count": 1,
                "dimension": 1,
                "rate_ppm": 1,
            }
            entries.append(run_entry(number, [event], [0]))

    return change


def run_entry(number: int, events: list[dict[str, Any]], blocks: list[int]) -> Entry:
    return {
        "kind": "run",
        "schema_version": 2,
        "at": BEGAN,
        "simulated": False,
        "reservation": number,
        "run_id": f"run-{number}",
        "blocks": blocks,
        "events": events,
        "purposes": ["training"] * len(events),
        "task": "digits",
        "base_release": None,
        "base_sha256": None,
    }


def test_sampled_events_are_priced_once_and_not_without_end(honest: Path, tmp_path: Path) -> None:
    """Each takes a sum of as many terms as its order: a thousand of one kind are one sum, and
    of different ones only so many are in any honest bundle."""
    one = judged(tmp_path, ledger_of(honest, sampled_runs(400, distinct=False)).data())
    many = judged(tmp_path, ledger_of(honest, sampled_runs(300, distinct=True)).data())

    assert one.accepted
    (deviation,) = many.deviations
    assert (deviation.kind, deviation.entry) == ("limit", 3 + 2**18 // 1024)
    assert "terms" in deviation.what


def crowded(entries: list[Entry]) -> None:
    """A reservation of more events than any plan has."""
    event = {"kind": "discrete-gaussian", "sensitivity2": 1, "sigma2": 10**9, "count": 1}
    entries.append(run_entry(0, [{**event, "dimension": 1}] * 65, [0]))


def wide(entries: list[Entry]) -> None:
    """A run over more blocks than a gateway keeps."""
    event = {"kind": "discrete-gaussian", "sensitivity2": 1, "sigma2": 10**9, "count": 1}
    entries.append(run_entry(0, [{**event, "dimension": 1}], list(range(4097))))


def long_word(entries: list[Entry]) -> None:
    crowded(entries)
    entries[-1].update(run_entry(0, entries[-1]["events"][:1], [0]), task="x" * 513)


def many_policies(entries: list[Entry]) -> None:
    """Each lets fall the bound a little, as nobody would a thousand times."""
    entry = entries[1]
    for number in range(1, 1100):
        policy = {**entry["policy"], "epsilon": 3.0 - number / 10_000}
        entries.append({**entry, "policy": policy, "approval": None})


@pytest.mark.parametrize(
    ("change", "kind"),
    [(crowded, "form"), (wide, "form"), (long_word, "form"), (many_policies, "limit")],
)
def test_one_too_many_is_refused(
    honest: Path, tmp_path: Path, change: Callable[[list[Entry]], None], kind: str
) -> None:
    path = tmp_path / "forged.zip"
    path.write_bytes(ledger_of(honest, change).data())

    assert {one.kind for one in verify_bundle(path).deviations} == {kind}


def test_many_families_cost_each_run_no_look_at_all_of_them() -> None:
    """A base release is looked up, among thousands of that number."""
    looks = 0

    class Counted(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            nonlocal looks
            looks += name == "manifest_sha256"
            return super().__getitem__(name)

    spec = {"base_release": 1, "base_sha256": "ab" * 32}
    runs = {f"run-{n}": {"spec": spec, "release": None} for n in range(300)}
    releases = Releases(runs, lambda _: iter(()), [])
    for number in range(300):
        first = {"counter": 1, "family": f"f{number}", "run_id": "initial", "parent": 0}
        value = {**first, "manifest_sha256": "ab" * 32, "privacy": {"epsilon": 0.0}}
        releases.add(Counted(value))
    looks = 0
    releases.check_runs()

    assert looks == 300


def test_charges_are_counted_over_all_ledgers() -> None:
    """An event about a block is one; the last that fits is taken."""
    work = Work()
    work.take("charges", 2**20)
    with pytest.raises(TooMuchError, match="charges"):
        work.take("charges")


@settings(max_examples=60, deadline=None)
@given(epsilons=st.lists(st.sampled_from([2.0, 2.5, 3.0, 3.5]), min_size=1, max_size=12))
def test_the_smallest_bound_since_an_opening_needs_no_look_at_each(epsilons: list[float]) -> None:
    """As the minimum of all that were adopted from then on."""
    adoptions, policy = Adoptions("g", (), [], Work()), json.loads(POLICY)
    for number, epsilon in enumerate(epsilons):
        policy |= {"epsilon": epsilon, "public": [f"version {number}"]}
        adoptions.adopt({"policy": policy, "approval": None, "seq": number, "at": BEGAN})

    for number in range(len(epsilons) + 1):
        expected = min(epsilons[number:], default=float("inf"))
        assert adoptions.lowest_since(number) == expected


# --- size ---------------------------------------------------------------------------------


def test_a_file_beyond_the_limit_is_not_read(
    honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one written that would not be read: the exporter is told what to do instead."""
    from fedge.review.verifier import archive

    size = honest.stat().st_size
    monkeypatch.setattr(archive, "MAX_BYTES", size)
    assert verify_bundle(honest).accepted
    monkeypatch.setattr(archive, "MAX_BYTES", size - 1)
    with pytest.raises(UnreadableBundleError, match="larger than"):
        verify_bundle(honest)


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_LINES"])
def test_what_nobody_could_verify_is_not_written(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    source = source_of([], [])
    assert bundle_bytes(source, CENTRE, 1.0)
    monkeypatch.setattr(bundle, limit, 1)

    with pytest.raises(BundleError, match="one by one"):
        bundle_bytes(source, CENTRE, 1.0)


def test_both_sides_know_the_same_limits() -> None:
    assert (limits.MAX_BYTES, limits._MOST["lines"]) == (bundle.MAX_BYTES, bundle.MAX_LINES)


def test_lines_without_end_are_refused_before_they_are_read(honest: Path, tmp_path: Path) -> None:
    """Millions of empty lines are named as too many, in little memory."""
    forger = Forger(honest)
    forger.files[forger.own("heads")] = b"\n" * 20_000_000
    data = forger.data()
    path = tmp_path / "forged.zip"
    path.write_bytes(data)
    tracemalloc.start()
    verdict = verify_bundle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert verdict.deviations[-1].kind == "limit" or verdict.deviations[0].kind == "limit"
    assert peak < 4 * len(data)


@pytest.mark.parametrize("name", ["evidence/more.json", STANDING])
def test_a_document_without_end_is_refused(honest: Path, tmp_path: Path, name: str) -> None:
    """Small pieces of JSON become large objects."""
    forger = Forger(honest)
    forger.files[name] = b'{"a":[' + b",".join([b"[]"] * 2_000_000) + b"]}"

    verdict = judged(tmp_path, forger.data())

    assert [(one.kind, one.file) for one in verdict.deviations] == [("form", name)]
    assert "longer than" in verdict.deviations[0].what


def test_the_same_heads_again_and_again_cost_nothing(honest: Path, tmp_path: Path) -> None:
    """A line that stood before says nothing new."""
    forger = Forger(honest)
    for name in ("heads", "witnessed"):
        forger.files[forger.own(name)] *= 5_000

    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60).map(lambda data: data.replace(b"a", b"\n")))
def test_lines_are_those_of_the_whole_file(data: bytes) -> None:
    """One after the other instead of all at once, and what ends without a break is none."""
    lines = Lines(data)

    assert list(lines) == data.split(b"\n")[:-1]
    assert len(lines) == len(list(lines))


# --- prices -------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [2, 3, 8, 64, 500])
def test_the_running_sum_is_the_sum_of_its_terms(alpha: int) -> None:
    """Term by term with binomials and powers of their own, in more digits than it takes."""
    context, rng = MPContext(), random.Random(alpha)
    context.dps = 120
    for _ in range(5):
        rate, count = rng.choice([1, 1000, 250_000, 999_999]), rng.randint(1, 1000)
        sensitivity2, sigma2 = rng.randint(1, 10**6), rng.randint(10**5, 10**9)
        q, half = context.mpf(rate) / 10**6, context.mpf(sensitivity2) / (2 * sigma2)
        moment = context.fsum(
            context.binomial(alpha, k)
            * q**k
            * (1 - q) ** (alpha - k)
            * context.exp(k * (k - 1) * half)
            for k in range(alpha + 1)
        )
        exact = context.log(moment) * 10**9 * count / (alpha - 1)
        event = {
            "kind": "poisson-gaussian",
            "rate_ppm": rate,
            "sensitivity2": sensitivity2,
            "sigma2": sigma2,
            "count": count,
        }

        assert prices.price(event, alpha) == max(1, int(context.ceil(exact)))


def test_a_tariff_asks_for_each_price_once() -> None:
    """The same mechanism at another order is another one; one that is not sampled takes no sum."""
    work = Work()
    tariff = prices.Tariff(work)
    event = {
        "kind": "poisson-gaussian",
        "rate_ppm": 1000,
        "sensitivity2": 4,
        "sigma2": 400,
        "count": PLAN.rounds,
    }
    for _ in range(3):
        assert tariff.price(event, 8) == prices.price(event, 8)
        tariff.price(event, 16)
        tariff.price({**event, "kind": "discrete-gaussian"}, 8)

    assert work.terms == 8 + 16
