"""The gates: each holds a candidate back, and only by what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.digits_base import base_weights, plan

from fedge.errors import CandidateError, FedgeError
from fedge.models.gates import BuildReport, Gate, GateReport, judge
from fedge.models.measure import ServedModel
from fedge.models.quantize import RECIPES, quantize
from fedge.models.weights import arrays_to_bytes, read_arrays
from fedge.records import PairedDifference, Participant, RunResult, RunSpec, sha256_hex
from fedge.tasks.digits import CODE

MIN_SIGMAS = 3.0


def as_int8(candidate: Path, **measures: float) -> None:
    """Let INT8 serve with these noted figures, whatever this machine's speed."""
    report = BuildReport.from_bytes((candidate / "build.json").read_bytes())
    noted = {**report.measures, "int8_time_ratio": 0.8, **measures}
    changed = report.model_copy(update={"variants": {"x86-avx2": "int8"}, "measures": noted})
    (candidate / "build.json").write_bytes(changed.to_bytes())
    reference = json.loads((candidate / "reference.json").read_bytes())
    reference["model_sha256"] = sha256_hex((candidate / "model.int8.onnx").read_bytes())
    (candidate / "reference.json").write_text(json.dumps(reference))


def rewrite(path: Path, **changes: Any) -> None:
    path.write_bytes(arrays_to_bytes({**read_arrays(path), **changes}))


def result(*differences: int) -> RunResult:
    """A run whose gateways answered these differences."""
    run_plan = plan()
    gateway = "0" * 32
    member = Participant(gateway=gateway, public_key="0" * 64, first_window=3, last_window=8)
    spec = RunSpec(
        run_id="run-1",
        task="digits",
        base_release=1,
        base_sha256="0" * 64,
        plan=run_plan,
        participants=(member,),
        episodes=("e",),
    )
    return RunResult(
        spec=spec,
        adapter_sha256="0" * 64,
        update_bytes=(),
        contributors=((gateway,),),
        counts=tuple(
            PairedDifference(run_id="run-1", difference=one, sigma2=200) for one in differences
        ),
    )


class TestWhole:
    def test_a_good_candidate_passes(self, candidate: Path) -> None:
        """A first release passes every gate, with INT8 serving."""
        as_int8(candidate)

        report = judge(candidate, None, MIN_SIGMAS)

        assert report.failed == ()
        assert report.passed
        assert {"golden-int8", "int8-accuracy-drop", "int8-agreement"} <= {
            gate.name for gate in report.gates
        }

    def test_clean_public_accuracy_is_reported_and_no_gate(self, candidate: Path) -> None:
        """A release for drifted cameras may be bad on clean pictures: it is said, not judged."""
        as_int8(candidate)
        rows = read_arrays(candidate / "evaluation.npz")
        rewrite(candidate / "evaluation.npz", labels=(rows["labels"].astype(np.int64) + 1) % 10)

        report = judge(candidate, None, MIN_SIGMAS)

        assert report.reported["int8_accuracy_clean_public"] < 0.05
        assert report.passed

    def test_report_round_trips(self, candidate: Path) -> None:
        """A stored report replays to the same verdict."""
        report = judge(candidate, result(-8), MIN_SIGMAS)

        assert GateReport.from_bytes(report.to_bytes()) == report
        assert GateReport.from_bytes(report.to_bytes()).failed == ("gain-in-sigmas",)

    def test_no_gates_is_no_pass(self) -> None:
        """A report without any gate passes nothing."""
        assert not GateReport(gates=(), reported={}).passed


class TestGain:
    @pytest.mark.parametrize(
        ("differences", "passes"),
        [
            ((290, 275), True),
            ((61, 0), True),  # sigma of the sum is 20: the limit is 60
            ((60, 0), False),
            ((-290,), False),
            ((), False),
        ],
    )
    def test_must_exceed_its_known_noise(
        self, candidate: Path, differences: tuple[int, ...], passes: bool
    ) -> None:
        """The cohort's noised gain must be more than three sigma; no count is no gain."""
        failed = judge(candidate, result(*differences), MIN_SIGMAS).failed

        assert ("gain-in-sigmas" not in failed) is passes

    def test_the_smallest_gain_that_would_pass_is_said(self, candidate: Path) -> None:
        """In records and as a share of those planned, from the known noise alone."""
        reported = judge(candidate, result(100, 90), MIN_SIGMAS).reported

        assert reported["smallest_detectable_records"] == pytest.approx((3 + 0.8416) * 20, rel=1e-3)
        share = reported["smallest_detectable_records"] / 600
        assert reported["smallest_detectable_share"] == pytest.approx(share)
        assert "smallest_detectable_records" not in judge(candidate, result(), MIN_SIGMAS).reported
        assert "smallest_detectable_records" not in judge(candidate, None, MIN_SIGMAS).reported


class TestServedModel:
    def test_float_serves_where_int8_is_not_faster(self, candidate: Path) -> None:
        """A slower INT8 model does not pass as the one that serves."""
        as_int8(candidate, int8_time_ratio=1.01)

        assert judge(candidate, None, MIN_SIGMAS).failed == ("int8-time-ratio",)

    def test_no_note_of_its_speed_is_no_pass(self, candidate: Path) -> None:
        """INT8 without a measured speed is held back: unknown is not fine."""
        as_int8(candidate)
        report = BuildReport.from_bytes((candidate / "build.json").read_bytes())
        bare = report.model_copy(update={"measures": {}})
        (candidate / "build.json").write_bytes(bare.to_bytes())

        assert "int8-time-ratio" in judge(candidate, None, MIN_SIGMAS).failed

    def test_a_badly_quantized_model_is_held_back(self, candidate: Path) -> None:
        """An INT8 model calibrated on darkness loses accuracy, which the gates measure anew."""
        dark = np.zeros((8, 1, 8, 8), dtype=np.float32)
        path = candidate / "model.int8.onnx"
        quantize(candidate / "model.float.onnx", dark, RECIPES[0], path)
        golden = read_arrays(candidate / "golden.npz")
        logits = ServedModel(path).run(golden["inputs"].astype(np.float32)).logits
        rewrite(candidate / "golden.npz", logits_int8=logits)
        as_int8(candidate)

        assert {"int8-accuracy-drop", "int8-agreement"} <= set(
            judge(candidate, None, MIN_SIGMAS).failed
        )

    def test_wrong_golden_vectors_hold_back(self, candidate: Path) -> None:
        """A model that does not answer its golden inputs as written would fail on gateways."""
        as_int8(candidate)
        golden = read_arrays(candidate / "golden.npz")
        logits = golden["logits_int8"].astype(np.float32)
        rewrite(candidate / "golden.npz", logits_int8=logits + 0.2 * np.abs(logits).max())

        assert judge(candidate, None, MIN_SIGMAS).failed == ("golden-int8",)

    def test_a_reference_of_another_model_holds_back(self, candidate: Path) -> None:
        """Bins and scores must be those of the model that serves."""
        as_int8(candidate)
        shutil.copy(candidate / "model.float.onnx", candidate / "model.int8.onnx")

        assert "reference-fits" in judge(candidate, None, MIN_SIGMAS).failed


class TestBrokenFolders:
    @pytest.mark.parametrize(
        "name",
        [
            "build.json",
            "task.json",
            "reference.json",
            "evaluation.npz",
            "golden.npz",
            "model.float.onnx",
            "model.int8.onnx",
        ],
    )
    @pytest.mark.parametrize("data", [None, b"", b"{}"])
    def test_are_refused_with_a_typed_error(
        self, candidate: Path, name: str, data: bytes | None
    ) -> None:
        """A missing, empty or foreign file is an error of ours, never a crash or a pass."""
        path = candidate / name
        path.unlink()
        if data is not None:
            path.write_bytes(data)

        with pytest.raises(FedgeError):
            judge(candidate, None, MIN_SIGMAS)

    def test_rows_that_are_not_finite_are_refused(self, candidate: Path) -> None:
        """NaN among the evaluation rows is refused."""
        inputs = read_arrays(candidate / "evaluation.npz")["inputs"].astype(np.float32)
        inputs[3] = np.nan
        rewrite(candidate / "evaluation.npz", inputs=inputs)

        with pytest.raises(CandidateError):
            judge(candidate, None, MIN_SIGMAS)


def test_a_verdict_follows_from_its_numbers() -> None:
    """A stored gate cannot say passed while its numbers say otherwise."""
    stored = Gate(name="x", value=2.0, bound="at-most", limit=1.0).to_bytes()

    assert not Gate.from_bytes(stored).passed
    with pytest.raises(FedgeError):
        Gate.from_bytes(stored.replace(b"{", b'{"passed":true,', 1))


def test_the_builder_falls_back_to_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no INT8 recipe is faster, float serves this hardware class and passes the gates."""
    import fedge.models.build as build

    monkeypatch.setattr(build, "interleaved_us", lambda models, row: (10.0, 11.0))

    report = build.build_candidate(CODE, base_weights(), tmp_path, hardware="arm64", seed=1)

    assert report.variants == {"arm64": "float"}
    assert judge(tmp_path, None, MIN_SIGMAS).failed == ()
