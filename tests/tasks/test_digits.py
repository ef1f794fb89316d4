"""The built-in task: who sees which glyphs, and what the model watches."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from fedge.errors import NonFiniteValueError, SettingError, TaskError
from fedge.tasks.code import PublicData, TaskCode, load_task_code
from fedge.tasks.digits import CODE, SCHEMA, gateway_share, glyphs


class TestSplits:
    def test_no_glyph_is_in_two_splits(self) -> None:
        """600 public, 800 private and the rest for tests, none of them twice."""
        ids = [glyphs(split).ids for split in ("public", "private", "test")]

        assert [len(part) for part in ids] == [600, 800, 397]
        assert len(np.unique(np.concatenate(ids))) == 1797

    @pytest.mark.parametrize("gateways", [1, 3, 5, 50])
    def test_gateways_share_private_glyphs_without_overlap(self, gateways: int) -> None:
        """Every private glyph belongs to exactly one gateway."""
        shares = [gateway_share(gateway, gateways).ids for gateway in range(gateways)]

        assert sorted(np.concatenate(shares)) == sorted(glyphs("private").ids)

    def test_unknown_gateway_is_refused(self) -> None:
        """There is no share for a gateway that is not in the fleet."""
        with pytest.raises(SettingError):
            gateway_share(5, 5)

    def test_glyphs_are_real_pictures_with_their_labels(self) -> None:
        """Splits keep scikit-learn's pictures and labels together."""
        from sklearn.datasets import load_digits

        digits, test = load_digits(), glyphs("test")

        np.testing.assert_array_equal(digits.target[test.ids], test.labels)
        np.testing.assert_allclose(digits.images[test.ids] / 16.0, test.images)


class TestPublicData:
    def test_is_the_same_on_every_call(self) -> None:
        """Bins and golden vectors can be made again: public data never changes."""
        one, other = CODE.public(), CODE.public()

        np.testing.assert_array_equal(one.inputs, other.inputs)
        np.testing.assert_array_equal(one.all_labels, other.all_labels)

    def test_lies_in_public_bounds(self) -> None:
        """Public rows fit the schema's input."""
        inputs = CODE.public().inputs

        assert inputs.shape[1:] == SCHEMA.input.shape
        assert inputs.min() >= SCHEMA.input.low
        assert inputs.max() <= SCHEMA.input.high

    def test_refuses_what_is_not_finite(self) -> None:
        """A NaN among public rows is refused, not calibrated on."""
        rows, labels = np.full((2, 3), np.nan, dtype=np.float32), np.zeros(2, dtype=np.int64)

        with pytest.raises(NonFiniteValueError):
            PublicData(clean=rows, labels=labels, faulted=rows, faulted_labels=labels)

    def test_refuses_no_rows(self) -> None:
        """Public data without rows is refused."""
        rows, labels = np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.int64)

        with pytest.raises(TaskError):
            PublicData(clean=rows, labels=labels, faulted=rows, faulted_labels=labels)


class TestModel:
    def test_watched_features_are_what_their_names_say(self) -> None:
        """The six image statistics equal a plain computation, inside their public bounds."""
        images = CODE.public().inputs[::50]
        with torch.no_grad():
            features = CODE.new_model().features(torch.from_numpy(images)).numpy()

        picture = images[:, 0].astype(np.float64)
        light = picture.sum(axis=(1, 2))
        y, x = np.mgrid[0:8, 0:8]
        changes = np.concatenate(
            [np.diff(picture, axis=2).reshape(-1, 56), np.diff(picture, axis=1).reshape(-1, 56)], 1
        )
        expected = np.stack(
            [
                picture.mean(axis=(1, 2)),
                picture.std(axis=(1, 2)),
                (changes**2).mean(axis=1),
                (picture * x).sum(axis=(1, 2)) / light,
                (picture * y).sum(axis=(1, 2)) / light,
                picture.max(axis=(1, 2)),
            ],
            axis=1,
        )
        np.testing.assert_allclose(features, expected, atol=2e-3)
        for column, feature in enumerate(SCHEMA.features):
            assert feature.kind == "numeric"
            assert features[:, column].min() >= feature.low
            assert features[:, column].max() <= feature.high

    def test_a_black_picture_has_features(self) -> None:
        """No light is no missing value: its centroid is the middle."""
        with torch.no_grad():
            features = CODE.new_model().features(torch.zeros(1, 1, 8, 8)).numpy()

        np.testing.assert_allclose(features, [[0, 0, 0, 3.5, 3.5, 0]], atol=1e-6)

    def test_base_training_repeats(self) -> None:
        """The same seed gives the same weights, whatever torch drew before."""
        small = glyphs("public")
        from fedge.tasks import digits_model

        torch.manual_seed(11)
        one = digits_model.train_base(small, 5, epochs=2)
        torch.manual_seed(12)
        other = digits_model.train_base(small, 5, epochs=2)

        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


class TestLoading:
    def test_the_schema_names_its_code(self) -> None:
        """`task.json` leads back to this very object."""
        code = load_task_code(SCHEMA.code)

        assert code is CODE
        assert isinstance(code, TaskCode)

    @pytest.mark.parametrize(
        "name",
        ["fedge.tasks.nowhere:CODE", "fedge.tasks.digits:NOTHING", "fedge.tasks.digits:SIZE"],
    )
    def test_what_is_no_code_is_refused(self, name: str) -> None:
        """A missing module, a missing object and an object of another kind are named."""
        with pytest.raises(TaskError, match=name.partition(":")[2]):
            load_task_code(name)

    def test_streams_need_no_torch(self) -> None:
        """Whoever plays or reads streams never loads torch."""
        program = (
            "import sys; from fedge.tasks.code import load_task_code;"
            "from fedge.tasks.camera import capture; import fedge.tasks.table;"
            "code = load_task_code('fedge.tasks.digits:CODE'); code.public();"
            "sys.exit('torch' in sys.modules)"
        )

        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
