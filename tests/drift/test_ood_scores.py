"""OOD scores: one direction, right arithmetic, thresholds that keep the rate they state."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedge.drift.local.calibration import Ranks, Threshold, rank_needed, rows_needed
from fedge.drift.local.ood import LogitScore, Mahalanobis, Neighbours, coreset, logit_scores
from fedge.errors import NonFiniteValueError, SettingError
from fedge.profiles.build import build_reference
from fedge.records import ModelInput, NumericFeature, Reference, TaskSchema
from fedge.serving.scores import Scores

TASK = TaskSchema(
    name="pump",
    version=1,
    input=ModelInput(name="x", shape=(2,), low=-10.0, high=10.0),
    classes=("ok", "worn"),
    features=(NumericFeature(name="pressure", type="float32", low=-10.0, high=10.0),),
    code="pump.task:code",
)
SCORES: tuple[LogitScore, ...] = ("energy", "msp", "maxlogit")


def logits_of(rows: int, seed: int, *, sure: float = 4.0) -> np.ndarray:
    """float32[rows, 5]: noise, and a class that stands out by about `sure`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 5))
    logits[np.arange(rows), rng.integers(0, 5, rows)] += sure
    return logits.astype(np.float32)


# --- logits ------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
def test_higher_is_stranger(score: LogitScore) -> None:
    """A model that is less sure gives a higher score, whichever is asked for."""
    familiar, strange = logits_of(500, 1), logits_of(500, 1, sure=1.0)
    assert np.median(logit_scores(score, strange)) > np.median(logit_scores(score, familiar))


def test_scores_of_a_row_by_hand() -> None:
    """Two logits, log 3 and 0: softmax 3/4 and 1/4, logsumexp log 4."""
    row = np.array([[math.log(3.0), 0.0]])
    assert logit_scores("msp", row)[0] == pytest.approx(-0.75)
    assert logit_scores("energy", row)[0] == pytest.approx(-math.log(4.0))
    assert logit_scores("maxlogit", row)[0] == pytest.approx(-math.log(3.0))


def test_scores_are_those_that_the_worker_derives() -> None:
    """So that a reference built from the worker's outputs calibrates what is watched here."""
    logits = logits_of(200, 2)
    served = Scores.from_outputs(logits, np.zeros((200, 1), dtype=np.float32))
    np.testing.assert_allclose(logit_scores("energy", logits), served.ood, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logit_scores("msp", logits), -served.confidence, rtol=1e-5)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_has_no_score(score: LogitScore, bad: float) -> None:
    """Unknown, and no other row is touched."""
    logits = logits_of(3, 3)
    clean = logit_scores(score, logits)
    logits[1, 2] = bad
    found = logit_scores(score, logits)
    assert np.isnan(found[1]) and (found[[0, 2]] == clean[[0, 2]]).all()


@pytest.mark.parametrize("score", SCORES)
def test_large_logits_do_not_overflow(score: LogitScore) -> None:
    found = logit_scores(score, np.array([[3e38, -3e38, 0.0]], dtype=np.float32))
    assert np.isfinite(found).all()


def test_no_rows_have_no_scores() -> None:
    assert logit_scores("energy", np.empty((0, 5), dtype=np.float32)).shape == (0,)


@pytest.mark.parametrize("logits", [np.zeros(3), np.zeros((3, 0)), np.zeros((2, 2, 2))])
def test_logits_of_another_shape_are_refused(logits: np.ndarray) -> None:
    with pytest.raises(SettingError, match="shape"):
        logit_scores("msp", logits)


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(SettingError, match="energy, msp, maxlogit"):
        logit_scores("odin", np.zeros((1, 2)))  # type: ignore[arg-type]


# --- embeddings --------------------------------------------------------------------------


def classes_in_space(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """float64[rows, 6] of three classes that are long in one direction, and their classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, rows)
    means = 8.0 * np.eye(6)[:3]
    spread = np.array([3.0, 1.0, 1.0, 1.0, 0.3, 0.3])
    return means[classes] + spread * rng.normal(size=(rows, 6)), classes


def test_mahalanobis_is_the_textbook_distance() -> None:
    """With many rows it is (x - m)' S^-1 (x - m) to the nearest class."""
    rows, classes = classes_in_space(4000, 1)
    found = Mahalanobis(rows, classes)
    probe = classes_in_space(50, 2)[0]

    means = np.array([rows[classes == c].mean(axis=0) for c in range(3)])
    within = rows - means[classes]
    inverse = np.linalg.inv(within.T @ within / (len(rows) - 3))
    away = probe[:, None, :] - means
    exact = np.einsum("nci,ij,ncj->nc", away, inverse, away).min(axis=1)

    assert found.shrinkage < 0.01
    np.testing.assert_allclose(found.scores(probe), exact, rtol=0.05)


def test_mahalanobis_of_familiar_rows_is_chi_square() -> None:
    """Its mean over rows of the same kind is the number of dimensions."""
    rows, classes = classes_in_space(4000, 1)
    scores = Mahalanobis(rows, classes).scores(classes_in_space(4000, 3)[0])
    assert scores.mean() == pytest.approx(6.0, rel=0.1)


def test_mahalanobis_with_fewer_rows_than_dimensions() -> None:
    """Shrinkage makes the covariance one that can be inverted; strange rows still stand out."""
    rng = np.random.default_rng(4)
    rows, classes = rng.normal(size=(40, 64)), np.arange(40) % 4
    found = Mahalanobis(rows, classes)
    familiar, strange = rng.normal(size=(200, 64)), rng.normal(size=(200, 64)) + 1.0
    assert 0.0 < found.shrinkage <= 1.0
    assert np.median(found.scores(strange)) > np.quantile(found.scores(familiar), 0.9)


def test_mahalanobis_sees_a_move_along_the_short_axis() -> None:
    """What is far for this class, not what is far in space."""
    rows, classes = classes_in_space(4000, 1)
    mahalanobis = Mahalanobis(rows, classes)
    long = mahalanobis.scores(8.0 * np.eye(6)[:1] + 3.0 * np.eye(6)[0])
    short = mahalanobis.scores(8.0 * np.eye(6)[:1] + 3.0 * np.eye(6)[4])
    assert short > 20 * long


@pytest.mark.parametrize(
    ("rows", "classes"),
    [
        (np.zeros((4, 2)), np.zeros(3, dtype=int)),
        (np.zeros((3, 2)), np.arange(3)),
        (np.zeros((10, 2)), np.zeros(10, dtype=int)),
        (np.zeros((0, 2)), np.zeros(0, dtype=int)),
    ],
    ids=["lengths differ", "a row a class", "all the same", "none"],
)
def test_rows_that_say_nothing_are_refused(rows: np.ndarray, classes: np.ndarray) -> None:
    with pytest.raises(SettingError):
        Mahalanobis(rows, classes)


def test_neighbours_are_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(5)
    public, probe = rng.normal(size=(300, 8)), rng.normal(size=(40, 8))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (public, probe)]
    distances = np.linalg.norm(unit[1][:, None] - unit[0], axis=2)
    np.testing.assert_allclose(
        Neighbours(public, k=7).scores(probe), np.sort(distances, axis=1)[:, 6], atol=1e-7
    )


def test_neighbours_find_another_direction_strange() -> None:
    rng = np.random.default_rng(6)
    public = np.array([5.0, 0.0, 0.0]) + rng.normal(size=(200, 3))
    scores = Neighbours(public, k=5).scores(np.array([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]))
    assert scores[1] > 1.0 > 0.2 > scores[0]


def test_a_piece_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by pieces, which show in no score."""
    rng = np.random.default_rng(7)
    public, probe = rng.normal(size=(100, 4)), rng.normal(size=(57, 4))
    whole = Neighbours(public).scores(probe)
    monkeypatch.setattr("fedge.drift.local.ood._PIECE", 1000)
    np.testing.assert_allclose(Neighbours(public).scores(probe), whole, rtol=1e-12)


@pytest.mark.parametrize("k", [0, 11])
def test_a_neighbour_that_is_not_there_is_refused(k: int) -> None:
    with pytest.raises(SettingError):
        Neighbours(np.eye(10), k=k)


def test_embeddings_that_cannot_be_judged() -> None:
    """NaN stays unknown, another width is refused, a public row that is not finite, too."""
    rows, classes = classes_in_space(100, 1)
    for scorer in (Mahalanobis(rows, classes), Neighbours(rows)):
        probe = rows[:3].copy()
        probe[1, 0] = np.inf
        assert list(np.isnan(scorer.scores(probe))) == [False, True, False]
        with pytest.raises(SettingError, match="shape"):
            scorer.scores(np.zeros((2, 5)))
    rows[3, 3] = np.nan
    with pytest.raises(NonFiniteValueError):
        Mahalanobis(rows, classes)
    with pytest.raises(NonFiniteValueError):
        Neighbours(rows)


def test_a_coreset_is_some_of_the_rows() -> None:
    """Of the size asked for, the same for the same seed, all of them where they are few."""
    rows = np.arange(60.0).reshape(20, 3)
    small = coreset(rows, 5, seed=1)
    assert small.shape == (5, 3) and (small == coreset(rows, 5, seed=1)).all()
    assert {tuple(row) for row in small} <= {tuple(row) for row in rows}
    assert (coreset(rows, 50) == rows).all()
    with pytest.raises(SettingError):
        coreset(rows, 0)


# --- thresholds --------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "rate"), [(99, 0.01), (300, 0.01), (199, 0.05), (19, 0.05)])
def test_the_stated_rate_is_kept_on_average(rows: int, rate: float) -> None:
    """Over many references: at most the rate, and not much less than it."""
    rng = np.random.default_rng(8)
    shares = [
        np.mean(Threshold.of(rng.normal(size=rows), rate).strange(rng.normal(size=500)))
        for _ in range(3000)
    ]
    error = 4 * np.std(shares) / math.sqrt(len(shares))
    assert np.mean(shares) <= rate + error
    assert np.mean(shares) >= rate - 1.0 / (rows + 1) - error
    # One reference by itself may lie off: its share is Beta distributed.
    own = math.sqrt(rate * (1 - rate) / (rows + 2))
    sampling = math.sqrt(rate * (1 - rate) / 500)
    assert np.std(shares) == pytest.approx(math.hypot(own, sampling), rel=0.3)


@pytest.mark.parametrize(("rate", "least"), [(0.5, 1), (0.05, 19), (0.01, 99), (0.001, 999)])
def test_too_small_a_reference_is_refused(rate: float, least: int) -> None:
    """And the message says how many rows it takes."""
    assert rows_needed(rate) == least
    assert rank_needed(least, rate) == least
    assert Threshold.of(np.arange(float(least)), rate).limit == least - 1
    with pytest.raises(SettingError, match=f"{least} reference rows"):
        Threshold.of(np.arange(float(least - 1)), rate)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(SettingError):
        Threshold.of(np.arange(100.0), rate)


def test_a_reference_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NonFiniteValueError):
        Threshold.of(np.append(np.arange(200.0), np.nan), 0.05)
    with pytest.raises(NonFiniteValueError):
        Ranks.of(np.array([0.0, np.inf]))


def test_a_row_without_a_score_counts_as_strange() -> None:
    """Unknown is never familiar; a score at the limit is not above it."""
    threshold = Threshold.of(np.arange(100.0), 0.05)
    found = threshold.strange(np.array([threshold.limit, threshold.limit + 1, np.nan]))
    assert list(found) == [False, True, True]


def test_equal_scores_do_not_raise_the_rate() -> None:
    """A score that many rows share is exceeded by none of them."""
    scores = np.repeat([0.0, 1.0], [50, 950])
    assert not Threshold.of(scores, 0.01).strange(scores).any()


# --- what travels with a release ---------------------------------------------------------


def reference_of(logits: np.ndarray, *, calibrated: bool = True) -> Reference:
    """As a release's build makes it, from the outputs of the model that serves."""
    outputs = Scores.from_outputs(logits, np.zeros((len(logits), 1), dtype=np.float32))
    values = [np.zeros(len(logits)), outputs.predictions % 2, outputs.confidence, outputs.ood]
    return build_reference(
        TASK,
        np.column_stack(values).astype(np.float64),
        ood=outputs.ood.astype(np.float64),
        model_sha256="a" * 64,
        source="public test rows",
        scores={score: logit_scores(score, logits) for score in SCORES} if calibrated else None,
    )


@pytest.mark.parametrize("score", SCORES)
def test_a_release_calibrates_its_own_scores(score: LogitScore) -> None:
    """At most the stated rate of fresh rows is strange, and not next to none of them."""
    reference = reference_of(logits_of(4000, 1))
    threshold = Threshold.of_reference(reference, score, 0.05)
    share = threshold.strange(logit_scores(score, logits_of(20_000, 2))).mean()
    assert 0.005 < share < 0.055


@pytest.mark.parametrize("score", SCORES)
def test_ranks_of_fresh_rows_are_even(score: LogitScore) -> None:
    """A familiar row is as likely to lie in one part of the scale as in another."""
    ranks = Ranks.of_reference(reference_of(logits_of(4000, 1)), score)
    found = ranks.of_scores(logit_scores(score, logits_of(20_000, 2)))
    for share in (0.5, 0.8, 0.9, 0.95):
        assert np.mean(found <= share) == pytest.approx(share, abs=0.03)


def test_ranks_keep_the_order() -> None:
    """Nothing is lost between quantiles, and a score beyond them all has the highest rank."""
    ranks = Ranks.of(np.random.default_rng(9).normal(size=500))
    scores = np.linspace(-4.0, 4.0, 100)
    found = ranks.of_scores(scores)
    assert (np.diff(found) >= 0).all() and found[0] < 0.01 and found[-1] > 0.99
    assert np.isnan(ranks.of_scores(np.array([np.nan]))).all()


def test_what_a_release_does_not_say_is_refused() -> None:
    """Without quantiles a release has ranks of what is in its bins, and no threshold."""
    older = reference_of(logits_of(2000, 1), calibrated=False)
    for score in ("energy", "msp"):
        assert Ranks.of_reference(older, score).of_scores(np.array([0.0])).shape == (1,)
    with pytest.raises(SettingError, match="maxlogit"):
        Ranks.of_reference(older, "maxlogit")
    with pytest.raises(SettingError, match="energy"):
        Threshold.of_reference(older, "energy", 0.05)
    with pytest.raises(SettingError, match="99"):
        Threshold.of_reference(reference_of(logits_of(50, 1)), "energy", 0.01)


@pytest.mark.parametrize(
    ("scores", "shares"),
    [([1.0], [0.5]), ([1.0, 0.0], [0.1, 0.9]), ([0.0, 1.0], [0.9, 0.1]), ([0.0, 1.0], [0.0, 2.0])],
)
def test_quantiles_out_of_order_are_refused(scores: list[float], shares: list[float]) -> None:
    with pytest.raises(SettingError):
        Ranks(np.array(scores), np.array(shares))
