"""Adding reports up."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from fakes.drifting_sites import Site, make_reference
from hypothesis import given
from hypothesis import strategies as st

from fedge.errors import RecordError
from fedge.profiles.merge import merge_reports
from fedge.profiles.wire import decode_report, encode_report, read_counts
from fedge.records import WindowReport

REPORTS = [*Site(seed=1).stream(5), *Site(seed=2, slots=150).stream(3)]


def other_reference() -> WindowReport:
    report = Site(seed=3, reference=make_reference(numeric=8)).report(0)
    return report.model_copy(update={"reference_sha256": "e" * 64})


def test_a_sum_holds_every_count_and_every_noise_variance_once() -> None:
    merged = merge_reports(encode_report(report) for report in REPORTS)["c" * 64]

    for index, name in enumerate(merged.names):
        expected = np.sum([report.features[index].counts for report in REPORTS], axis=0)
        assert merged.stream(name).tolist() == expected.tolist()
        assert merged.noise[index] == sum(r.features[index].sigma2 for r in REPORTS)
    assert merged.reports == len(REPORTS)
    assert merged.slots == 5 * 200 + 3 * 150
    assert (merged.first_at, merged.last_at) == (1000.0, 1005.0)


def test_reports_on_another_reference_have_a_sum_of_their_own() -> None:
    merged = merge_reports(map(encode_report, [*REPORTS, other_reference()]))

    assert {sha[0]: sums.reports for sha, sums in merged.items()} == {"c": 8, "e": 1}


def test_no_report_is_no_sum() -> None:
    """Nothing was reported: no row of zeros that looks like a quiet fleet."""
    assert merge_reports([]) == {}


def test_a_damaged_report_is_named_by_its_place() -> None:
    payloads = [encode_report(report) for report in REPORTS]
    payloads[4] = payloads[4][:-100]

    with pytest.raises(RecordError, match="report 4"):
        merge_reports(payloads)


def test_a_report_with_other_streams_under_the_same_reference_is_refused() -> None:
    odd = Site(seed=4, reference=make_reference(numeric=3), shift=(1.0,) * 3).report(0)

    with pytest.raises(RecordError, match=r"report 1: .*other streams"):
        merge_reports([encode_report(REPORTS[0]), encode_report(odd)])


@given(st.binary(max_size=400), st.integers(0, 2000), st.booleans())
def test_foreign_bytes_are_refused_and_nothing_else_happens(
    junk: bytes, place: int, replace: bool
) -> None:
    """Whatever the bytes: a table that the full reader takes, too, or a typed refusal."""
    good = encode_report(REPORTS[0])
    data = junk if replace else good[:place] + junk + good[place + len(junk) :]
    try:
        table = read_counts(data)
    except RecordError:
        return
    assert table.counts.dtype == np.int32 and len(table.counts) == table.widths.sum()


def test_a_report_that_the_full_reader_gives_back_reads_the_same_as_counts() -> None:
    data = encode_report(REPORTS[2])

    table, report = read_counts(data), decode_report(data)
    assert table.names == tuple(feature.name for feature in report.features)
    assert table.counts.tolist() == [c for feature in report.features for c in feature.counts]
    assert pa.array(table.sigma2).to_pylist() == [f.sigma2 for f in report.features]
