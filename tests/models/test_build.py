"""Building a candidate: what is served equals what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.digits_base import base_weights

from fedge.errors import CandidateError, NonFiniteValueError, TaskError
from fedge.learning.adapters import load_model
from fedge.models.build import build_candidate, merge_adapter, read_build
from fedge.models.measure import Outputs, ServedModel, accuracy, interleaved_us
from fedge.models.weights import read_arrays, read_weights
from fedge.records import Reference, TaskSchema, sha256_hex
from fedge.tasks.camera import LENS, capture
from fedge.tasks.digits import CODE, SCHEMA, glyphs

FILES = {
    "task.json",
    "weights.npz",
    "model.float.onnx",
    "model.int8.onnx",
    "golden.npz",
    "reference.json",
    "evaluation.npz",
    "build.json",
}


class TestFiles:
    def test_the_folder_is_whole(self, built: Path) -> None:
        """A candidate holds every file of a release and what the gates need."""
        assert {path.name for path in built.iterdir()} == FILES
        assert TaskSchema.from_bytes((built / "task.json").read_bytes()) == SCHEMA

    def test_a_build_can_be_repeated(self, built: Path, tmp_path: Path) -> None:
        """The same weights and seed give the same models, reference and golden vectors."""
        build_candidate(CODE, base_weights(), tmp_path, hardware="x86-avx2", seed=1)

        for name in FILES - {"build.json"}:  # holds times
            assert (tmp_path / name).read_bytes() == (built / name).read_bytes(), name

    def test_no_model_tells_where_it_was_built(self, built: Path) -> None:
        """Source paths, which exporters write into graphs, do not travel with a release."""
        for name in ("model.float.onnx", "model.int8.onnx"):
            data = (built / name).read_bytes()
            assert b"site-packages" not in data
            assert b"digits_model" not in data

    def test_the_reference_describes_the_served_model(self, built: Path) -> None:
        """Bins, classes and scores are those of the file that serves, over all streams."""
        reference = Reference.from_bytes((built / "reference.json").read_bytes())
        (variant,) = read_build(built).variants.values()

        assert reference.model_sha256 == sha256_hex((built / f"model.{variant}.onnx").read_bytes())
        assert tuple(stream.name for stream in reference.streams) == SCHEMA.streams

    def test_golden_vectors_are_the_models_own(self, built: Path) -> None:
        """Both variants' golden logits are what their files answer."""
        golden = read_arrays(built / "golden.npz")
        for variant in ("float", "int8"):
            model = ServedModel(built / f"model.{variant}.onnx")
            logits = model.run(golden["inputs"].astype(np.float32)).logits
            np.testing.assert_allclose(logits, golden[f"logits_{variant}"], atol=1e-4)

    def test_the_weights_are_the_trainers(self, built: Path) -> None:
        """A trainer starts from exactly the weights that were exported."""
        read, weights = read_weights(built / "weights.npz"), base_weights()

        assert all(np.array_equal(read[name], weights[name]) for name in weights)

    def test_an_unfinished_build_is_refused(self, candidate: Path) -> None:
        """Without its last file a folder is no build."""
        (candidate / "build.json").unlink()

        with pytest.raises(CandidateError):
            read_build(candidate)


class TestModels:
    @pytest.mark.parametrize("rows", [1, 7])
    def test_float_onnx_equals_torch(self, built: Path, rows: int) -> None:
        """Logits and features of the exported model are the trained one's, for any batch."""
        inputs = CODE.public().faulted[:rows]
        model = load_model(CODE, base_weights())
        with torch.no_grad():
            logits = model(torch.from_numpy(inputs)).numpy()
            features = model.features(torch.from_numpy(inputs)).numpy()

        outputs = ServedModel(built / "model.float.onnx").run(inputs)

        np.testing.assert_allclose(outputs.logits, logits, atol=1e-4)
        np.testing.assert_allclose(outputs.features, features, atol=1e-5)

    def test_quantizing_leaves_the_watched_features_alone(self, built: Path) -> None:
        """INT8 and float watch the same numbers: drift is no artefact of quantizing."""
        inputs = CODE.public().inputs[::20]
        exact, small = (ServedModel(built / f"model.{v}.onnx") for v in ("float", "int8"))

        np.testing.assert_allclose(
            exact.run(inputs).features, small.run(inputs).features, atol=1e-6
        )

    @pytest.mark.parametrize("fault", [None, LENS])
    def test_int8_loses_at_most_half_a_point(self, built: Path, fault: object) -> None:
        """On every test glyph, captured ten times, clean and under a fault it never saw."""
        test = glyphs("test")
        faults = () if fault is None else (fault,)
        images = np.repeat(test.images, 10, axis=0)
        inputs = capture(images, np.random.default_rng(4), *faults)[:, None]  # type: ignore[arg-type]
        labels = np.repeat(test.labels, 10)
        exact, small = (ServedModel(built / f"model.{v}.onnx") for v in ("float", "int8"))

        drop = accuracy(exact.run(inputs), labels) - accuracy(small.run(inputs), labels)

        assert drop <= 0.005

    def test_a_merged_adapter_is_served(self, tmp_path: Path) -> None:
        """What a run trained is what the next release answers."""
        change = np.random.default_rng(3).normal(0, 0.1, 26).astype(np.float32)
        merged = merge_adapter(CODE, base_weights(), change, "input")
        inputs = CODE.public().clean[:20]
        with torch.no_grad():
            expected = load_model(CODE, merged)(torch.from_numpy(inputs)).numpy()

        build_candidate(CODE, merged, tmp_path, hardware="x86-avx2", seed=1)

        served = ServedModel(tmp_path / "model.float.onnx").run(inputs).logits
        np.testing.assert_allclose(served, expected, atol=1e-4)

    def test_merging_refuses_foreign_weights(self) -> None:
        """Weights of another task's model never become a candidate."""
        weights = {"head.bias": np.zeros(3, dtype=np.float32)}

        with pytest.raises(TaskError, match="digits"):
            merge_adapter(CODE, weights, np.zeros(3, dtype=np.float32), "head")

    def test_answers_that_are_not_finite_are_refused(self, built: Path) -> None:
        """A NaN among the logits is an error, not an argmax."""
        inputs = np.full((2, 1, 8, 8), np.nan, dtype=np.float32)

        with pytest.raises(NonFiniteValueError):
            ServedModel(built / "model.float.onnx").run(inputs)

    def test_a_file_that_is_no_model_is_refused(self, tmp_path: Path) -> None:
        """Foreign bytes are refused with a typed error."""
        path = tmp_path / "model.float.onnx"
        path.write_bytes(b"not a model")

        with pytest.raises(CandidateError, match=r"model\.float\.onnx"):
            ServedModel(path)


class TestMeasures:
    def test_scores_follow_the_logits(self) -> None:
        """Confidence is the largest softmax, OOD the negative log of the sum of exponentials."""
        logits = np.array([[1.0, 2.0, 4.0], [1000.0, 0.0, 0.0]], dtype=np.float32)
        outputs = Outputs(logits, np.zeros((2, 1), dtype=np.float32))
        raised = np.exp(logits[0].astype(np.float64))

        assert outputs.predictions.tolist() == [2, 0]
        np.testing.assert_allclose(outputs.confidence, [raised[2] / raised.sum(), 1.0], rtol=1e-6)
        np.testing.assert_allclose(outputs.ood, [-np.log(raised.sum()), -1000.0], rtol=1e-6)

    def test_speed_is_measured_in_turns(self, built: Path) -> None:
        """A model compared with itself is about as fast as itself."""
        models = [ServedModel(built / "model.float.onnx") for _ in range(2)]

        one, other = interleaved_us(models, CODE.public().clean[:1])

        assert 0.5 < one / other < 2.0
