"""Real flights: outcomes tell when the relation of scores to them changes, and not when their order does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftline.codec import decode, encode
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.topics import Topics
from services.demo.flights import LATE_MINUTES, landed_at, load_flights, score
from streams.baseline import Baseline
from streams.decoding import Decoded
from streams.messages import Message
from streams.partition import Partition
from streams.reference import build_baseline
from streams.specification import BINARY, CONCEPT_DRIFT, DeploymentSpec, FalseAlarmBudget, FeatureSpec, OutcomeSpec

DAY_US = 86_400_000_000
HOUR_MS = 3_600_000
SPEC = DeploymentSpec(
    "flights",
    "late-arrival",
    BINARY,
    (FeatureSpec("carrier", "categorical"),),
    positive_class="late",
    window_ms=24 * HOUR_MS,
    false_alarms=FalseAlarmBudget(1, 60 * 24 * HOUR_MS),
    outcomes=OutcomeSpec(horizon_ms=36 * HOUR_MS, lateness_ms=HOUR_MS),
)


@pytest.fixture(scope="module")
def spring() -> pd.DataFrame:
    """March and April with the scores of the demonstration's model, which was trained on January and February."""
    flights = load_flights()
    flights = flights[flights["month"] <= 4]
    flights = flights.assign(late=flights["arr_delay"] > LATE_MINUTES, score=score(flights))
    found = flights[flights["month"] >= 3]
    return found.assign(
        time_us=found["scheduled_departure"].astype("int64") // _per_us(found["scheduled_departure"]),
        known_us=landed_at(found).dropna().pipe(lambda known: known.astype("int64") // _per_us(known)),
    )


def _per_us(times: pd.Series) -> int:
    """Units of a series of times in a microsecond."""
    return int(pd.Timedelta("1us") / pd.Timedelta(1, unit=times.dt.unit))


def batches(rows: pd.DataFrame) -> tuple[PredictionColumns, OutcomeColumns]:
    ids = rows["flight_id"].tolist()
    predictions = PredictionColumns(
        "flights",
        "1",
        ids,
        rows["time_us"].to_numpy(np.int64),
        {},
        {"carrier": CategoricalColumn.from_values(rows["carrier"].tolist())},
        rows["score"].to_numpy(np.float64),
    )
    known = rows[rows["known_us"].notna()].sort_values("known_us", kind="stable")
    labels = CategoricalColumn.from_values(["late" if late else "on time" for late in known["late"]])
    times = known["known_us"].to_numpy().astype(np.int64)
    return predictions, OutcomeColumns("flights", known["flight_id"].tolist(), times, actual_label=labels)


@pytest.fixture(scope="module")
def baseline(spring: pd.DataFrame) -> Baseline:
    predictions, outcomes = batches(spring[spring["month"] == 3])
    return build_baseline(SPEC, "1", [predictions], source="March", outcomes=[outcomes])


def concept_alarms(baseline: Baseline, served: pd.DataFrame) -> list[Mapping[str, Any]]:
    """Alarms for concept drift, outcomes given on the day on which they became known, after its predictions."""
    topics = Topics("test")
    partition = Partition(0, topics)
    partition.put_spec_in_force(SPEC)
    partition.put_baseline_in_force(baseline)
    departed, known = served["time_us"] // DAY_US, served["known_us"] // DAY_US
    offsets = {topics.predictions: 0, topics.outcomes: 0}
    found = []
    for day in sorted({*departed, *known.dropna()}):
        for topic, columns in (
            (topics.predictions, batches(served[departed == day])[0]),
            (topics.outcomes, batches(served[known == day])[1]),
        ):
            if columns.rows:
                message = Message(topic, 0, offsets[topic], int((day + 1) * DAY_US // 1000), b"flights", b"-")
                partition.apply(Decoded(message, columns))
                offsets[topic] += 1
        for emission in partition.take()[1]:
            if emission.record_name == "Alert":
                alert = decode(encode("Alert", dict(emission.record)))[1]
                if alert["monitor"] == CONCEPT_DRIFT and alert["status"] == "firing":
                    found.append(alert)
    return found


def test_outcomes_tell_the_day_on_which_flights_became_late_for_another_reason(
    spring: pd.DataFrame, baseline: Baseline
) -> None:
    """Air-traffic controllers were on furlough from 21 to 27 April 2013, which no feature tells."""
    alarms = concept_alarms(baseline, spring[spring["month"] == 4])
    assert alarms
    changed = pd.Timestamp(alarms[0]["change_time_us"], unit="us", tz="UTC")
    noticed = pd.Timestamp(alarms[0]["detection_time_us"], unit="us", tz="UTC")
    assert pd.Timestamp("2013-04-16", tz="UTC") < changed <= noticed < pd.Timestamp("2013-04-28", tz="UTC")
    assert alarms[0]["diagnosis"] == "relation"


def test_march_in_another_order_raises_no_alarm(spring: pd.DataFrame, baseline: Baseline) -> None:
    march, april = (spring[spring["month"] == month] for month in (3, 4))
    rng = np.random.default_rng(5)
    rows = march.iloc[rng.permutation(len(march))[: len(april)]].reset_index(drop=True)
    on_time = april["time_us"].to_numpy()[: len(rows)]
    delay = rows["known_us"] - rows["time_us"]
    ids = [f"shuffled {at}" for at in range(len(rows))]
    shuffled = rows.assign(flight_id=ids, time_us=on_time, known_us=on_time + delay)
    assert concept_alarms(baseline, shuffled) == []
