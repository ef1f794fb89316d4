"""Beijing's stations as gateways: weekly windows of summer weather, reported with true noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fedge.profiles.counts import count_window, feature_counts, join, window_event
from fedge.records import NumericStream, Reference, WindowReport

SHA = "c" * 64
RHO = 0.028
"""One report at (epsilon 1, delta 1e-6)."""


def reference_of(rows: pd.DataFrame) -> Reference:
    """Frozen bins at the sixteenths of each column of `rows`; ties moved apart."""
    return Reference(
        task="air",
        source="two summers of all stations",
        rows=len(rows),
        model_sha256="d" * 64,
        ood_quantile_95=0.0,
        streams=tuple(_stream(name, rows[name].dropna().to_numpy()) for name in rows),
    )


def _stream(name: str, values: np.ndarray) -> NumericStream:
    edges = np.unique(np.quantile(values, np.arange(1, 16) / 16))
    beyond = edges[-1] + 1e-3 * np.arange(1, 16 - len(edges))
    edges = np.concatenate([edges, beyond])
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=16)
    shares = tuple((counts / len(values)).tolist())
    return NumericStream(name=name, edges=tuple(edges.tolist()), histogram=shares)


def reports_of(
    reference: Reference, rows: pd.DataFrame, *, window: int, seed: int
) -> list[WindowReport]:
    """The full windows of one station, in order, as its gateway would have sent them."""
    event = window_event(reference, RHO)
    rng = np.random.default_rng(seed)
    values = rows[[stream.name for stream in reference.streams]].to_numpy()
    sent = []
    for number in range(len(values) // window):
        exact = join(count_window(reference, values[number * window : (number + 1) * window]))
        noise = np.rint(rng.normal(0, np.sqrt(event.sigma2), len(exact))).astype(np.int64)
        sent.append(
            WindowReport(
                task="air",
                window=number,
                block=0,
                release=1,
                reference_sha256=SHA,
                first_slot=number * window,
                slots=window,
                planned_slots=window,
                dropped=0,
                opened_at=3600.0 * number * window,
                closed_at=3600.0 * ((number + 1) * window - 1),
                features=feature_counts(reference, exact + noise, event),
            )
        )
    return sent


def fleet_of(
    stations: Mapping[str, pd.DataFrame], reference: Reference, *, window: int
) -> dict[str, list[WindowReport]]:
    """Every station's reports by its gateway's fingerprint, numbered in the mapping's order."""
    return {
        f"{number:032x}": reports_of(reference, rows, window=window, seed=number)
        for number, rows in enumerate(stations.values())
    }
