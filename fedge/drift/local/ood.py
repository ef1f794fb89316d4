"""How strange a row is to a model: scores from logits, or from an embedding. numpy only.

All scores have one direction: **higher is stranger**. They have no common unit; `calibration`
gives them one. A row with a value that is not finite has the score NaN: unknown, not familiar.

| score | needs | source |
|---|---|---|
| `msp` | logits | Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks", ICLR 2017 |
| `maxlogit` | logits | Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022 |
| `energy` | logits | Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020 |
| `Mahalanobis` | an embedding, public rows and their classes | Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018 |
| `Neighbours` | an embedding, public rows | Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022 |
"""  # noqa: E501

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from fedge.errors import NonFiniteValueError, SettingError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Values = npt.NDArray[np.floating[Any]]
LogitScore = Literal["energy", "msp", "maxlogit"]
"""As a reference names them (`OodCalibration.score`)."""

_PIECE = 2**20
"""Distances that are held at once."""


def logit_scores(score: LogitScore, logits: Values) -> Floats:
    """One of the three scores that need nothing but logits.

    Args:
        logits: float[n, K].

    Returns:
        float64[n], higher is stranger, NaN where a logit is not finite. `msp` is the largest
        softmax probability, negated.

    Raises:
        SettingError: there is no such score, or `logits` is no table with columns.
    """
    if score not in get_args(LogitScore):
        raise SettingError(f"an OOD score is one of {', '.join(get_args(LogitScore))}")
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise SettingError(f"logits have shape {logits.shape}, not rows x classes")
    finite = _finite(logits)
    known = np.where(finite[:, None], logits, 0.0).astype(np.float64)
    top = known.max(axis=1)
    if score == "maxlogit":
        return np.where(finite, -top, np.nan)
    log_sum = np.log(np.exp(known - top[:, None]).sum(axis=1))
    found = -(top + log_sum) if score == "energy" else -np.exp(-log_sum)
    return np.where(finite, found, np.nan)


class Mahalanobis:
    """Squared distance to the nearest class mean, under one covariance that all classes share.

    The covariance within classes is shrunk towards a multiple of the identity: by how much is
    estimated from it (oracle approximating shrinkage: Chen et al., "Shrinkage Algorithms for
    MMSE Covariance Estimation", IEEE Transactions on Signal Processing 58, 2010), so that it can
    be inverted also where an embedding has more dimensions than the public set has rows.

    Args:
        embeddings: float[n, d], public rows.
        classes: int[n], their classes; every class that occurs gets a mean.

    Attributes:
        shrinkage: 0 to 1, how much of the covariance is the multiple of the identity.

    Raises:
        SettingError: the shapes do not fit each other, or there are not two rows more than classes.
        NonFiniteValueError: a value is not finite.
    """

    def __init__(self, embeddings: Values, classes: npt.NDArray[np.integer[Any]]) -> None:
        rows = _public(embeddings)
        if classes.shape != (len(rows),):
            raise SettingError(f"{len(rows)} embeddings, but classes of shape {classes.shape}")
        labels, which = np.unique(classes, return_inverse=True)
        freedom = len(rows) - len(labels)
        if freedom < 2:
            raise SettingError(f"{len(rows)} rows of {len(labels)} classes say nothing of a spread")
        sums = np.zeros((len(labels), rows.shape[1]))
        np.add.at(sums, which, rows)
        self._means = sums / np.bincount(which)[:, None]
        within = rows - self._means[which]
        covariance = within.T @ within / freedom
        self.shrinkage = _shrinkage(covariance, freedom)
        share = np.trace(covariance) / len(covariance)
        if share <= 0.0:
            raise SettingError("all public rows of a class have the same embedding")
        covariance *= 1.0 - self.shrinkage
        covariance[np.diag_indices_from(covariance)] += self.shrinkage * share
        # Of the inverse, so that |x| after it is the distance. Directions in which the public
        # rows do not move at all count as moving by the rounding of float64.
        values, vectors = np.linalg.eigh(covariance)
        least = values[-1] * len(values) * np.finfo(np.float64).eps
        self._whiten = vectors / np.sqrt(np.maximum(values, least))
        self._means = self._means @ self._whiten

    def scores(self, embeddings: Values) -> Floats:
        """float64[n], higher is stranger, NaN where an embedding is not finite.

        Raises:
            SettingError: the embeddings have another width than the public ones.
        """
        finite, rows = _served(embeddings, self._whiten.shape[0])
        found = _nearest(rows @ self._whiten, self._means, 1)
        return np.where(finite, found, np.nan)


class Neighbours:
    """Distance to the k-th nearest of some public rows, all embeddings scaled to length one.

    Args:
        embeddings: float[m, d], public rows; see `coreset`.
        k: which neighbour; one that is part of a small cluster of strange public rows must not
            make its like familiar.

    Raises:
        SettingError: there are not k rows.
        NonFiniteValueError: a value is not finite.
    """

    def __init__(self, embeddings: Values, k: int = 10) -> None:
        rows = _public(embeddings)
        if not 1 <= k <= len(rows):
            raise SettingError(f"the neighbour number {k} of {len(rows)} rows")
        self._rows, self._k = _of_length_one(rows), k

    def scores(self, embeddings: Values) -> Floats:
        """float64[n] in [0, 2], higher is stranger, NaN where an embedding is not finite.

        Raises:
            SettingError: the embeddings have another width than the public ones.
        """
        finite, rows = _served(embeddings, self._rows.shape[1])
        found = np.sqrt(_nearest(_of_length_one(rows), self._rows, self._k))
        return np.where(finite, found, np.nan)


def coreset(embeddings: Values, size: int, seed: int = 0) -> Floats:
    """Up to `size` of the rows, drawn evenly, the same for the same seed.

    Drawn, not chosen to cover: rows chosen for being far from each other are the outliers, and
    distances to their k-th neighbour no longer tell how dense the public set is.

    Raises:
        SettingError: `size` is below 1.
        NonFiniteValueError: a value is not finite.
    """
    if size < 1:
        raise SettingError(f"a coreset of {size} rows")
    rows = _public(embeddings)
    if size >= len(rows):
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), size, replace=False))]


def _public(embeddings: Values) -> Floats:
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise SettingError(f"embeddings have shape {embeddings.shape}, not rows x dimensions")
    if not np.isfinite(embeddings).all():
        raise NonFiniteValueError("a public embedding is not finite")
    return embeddings.astype(np.float64)


def _served(embeddings: Values, width: int) -> tuple[Flags, Floats]:
    """Which rows are finite, and all of them as float64, zeros for those that are not."""
    if embeddings.ndim != 2 or embeddings.shape[1] != width:
        raise SettingError(f"embeddings have shape {embeddings.shape}, not rows x {width}")
    finite = _finite(embeddings)
    return finite, np.where(finite[:, None], embeddings, 0.0).astype(np.float64)


def _finite(rows: Values) -> Flags:
    found: Flags = np.logical_and.reduce(np.isfinite(rows), axis=1)
    return found


def _of_length_one(rows: Floats) -> Floats:
    """Rows scaled to length one; one that is all zeros stays, at distance one from everything."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Floats = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return scaled


def _nearest(rows: Floats, others: Floats, k: int) -> Floats:
    """Squared distance of each row to its k-th nearest of `others`, a few rows at a time."""
    squares = np.einsum("ij,ij->i", others, others)
    found = np.empty(len(rows))
    step = max(1, _PIECE // len(others))
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        distances = squares - 2.0 * piece @ others.T
        distances += np.einsum("ij,ij->i", piece, piece)[:, None]
        found[start : start + step] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    # Rounding may leave a distance of zero slightly below it.
    return np.maximum(found, 0.0)


def _shrinkage(covariance: Floats, freedom: int) -> float:
    """Formula 23 of Chen et al., of a covariance with so many degrees of freedom."""
    size = len(covariance)
    power = float(np.einsum("ij,ij->", covariance, covariance))  # tr(S^2)
    trace2 = float(np.trace(covariance)) ** 2
    below = (freedom + 1.0 - 2.0 / size) * (power - trace2 / size)
    above = (1.0 - 2.0 / size) * power + trace2
    return 1.0 if below <= 0.0 else min(1.0, above / below)
