"""The demonstration's data: when outcomes become known, and in which order things are published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from services.demo.accuracy import estimate_missed, joined, mean_absolute_error, periods, worst
from services.demo.flights import landed_at, load_flights
from services.demo.replay import DAY_US, by_time
from services.demo.specifications import DELAYS_SPECIFICATION, LATE_SPECIFICATION
from services.deployments.checking import parse_specification

DAY = 15_800


@pytest.fixture(scope="module")
def year() -> pd.DataFrame:
    flights = load_flights()
    return flights.assign(landed=landed_at(flights))


def test_flights_that_never_arrived_have_no_outcome(year: pd.DataFrame) -> None:
    assert year["landed"].notna().equals(year["arr_delay"].notna())
    assert 0.02 < year["landed"].isna().mean() < 0.04


def test_landing_times_agree_to_the_minute_with_scheduled_arrivals(year: pd.DataFrame) -> None:
    """These play no part in the landing times: the clock at the destination less the delay must show them."""
    arrived = year[year["landed"].notna()]
    scheduled = arrived["landed"] - pd.to_timedelta(arrived["arr_delay"], unit="min")
    minutes = scheduled.dt.minute.to_numpy()
    assert np.array_equal(minutes, arrived["sched_arr_time"].to_numpy() % 100)  # time zones here are whole hours
    for dest, zone in (("BOS", "America/New_York"), ("ORD", "America/Chicago"), ("HNL", "Pacific/Honolulu")):
        at = arrived["dest"].eq(dest)
        local = scheduled[at].dt.tz_convert(zone)
        clock = local.dt.hour * 100 + local.dt.minute
        assert np.array_equal(clock.to_numpy(), arrived.loc[at, "sched_arr_time"].to_numpy() % 2400)


def test_no_outcome_takes_longer_than_the_horizon(year: pd.DataFrame) -> None:
    spec = parse_specification(LATE_SPECIFICATION.encode(), "flights.yaml").to_spec()
    assert spec.outcomes is not None
    hours = (year["landed"] - year["scheduled_departure"]).dropna().dt.total_seconds() / 3600
    assert hours.min() > 0
    assert 24 < hours.max() < spec.outcomes.horizon_ms / 3_600_000
    assert 2 < hours.median() < 3.5


def outcomes(times_us: list[int]) -> OutcomeColumns:
    ids = [f"p{at}" for at in range(len(times_us))]
    label = CategoricalColumn.from_values(["late"] * len(times_us))
    return OutcomeColumns("flights", ids, np.array(times_us, np.int64), actual_label=label)


def predictions(times_us: list[int]) -> PredictionColumns:
    ids = [f"p{at}" for at in range(len(times_us))]
    return PredictionColumns("flights", "1", ids, np.array(times_us, np.int64), {}, {}, np.full(len(times_us), 0.5))


@pytest.mark.parametrize("columns", [outcomes, predictions])
def test_days_hold_each_row_once_wherever_files_are_cut(columns: type) -> None:
    start = DAY * DAY_US
    times = [start, start + 5, start + DAY_US - 1, start + DAY_US, start + 3 * DAY_US, start + 3 * DAY_US + 1]
    for cut in range(len(times) + 1):
        parts = [part for part in (times[:cut], times[cut:]) if part]
        found = list(by_time((columns(part) for part in parts), DAY_US))
        assert [day for day, _ in found] == [DAY, DAY + 1, DAY + 3]
        assert [sum(batch.rows for batch in batches) for _, batches in found] == [3, 1, 2]
        quarters = list(by_time((columns(part) for part in parts), DAY_US // 4))
        assert [quarter - 4 * DAY for quarter, _ in quarters] == [0, 3, 4, 12]
    assert list(by_time(iter(()), DAY_US)) == []


def window(
    start_us: int, accuracy: float, *, status: str = "final", inside: bool = True, rows: int = 2_000
) -> dict[str, Any]:
    reading = {
        "value": accuracy,
        "reference_at_same_age": {},
        "outside": "",
        "estimate": {"value": 0.8},
        "estimate_error": {"difference": 0.8 - accuracy, "inside": inside},
    }
    part = {"part": "", "predictions": rows, "resolved": rows - 10, "coverage": 0.9, "metrics": {"accuracy": reading}}
    return {"start_us": start_us, "status": status, "expected_coverage": None, "parts": [part]}


def test_the_worst_month_is_one_whose_numbers_are_final() -> None:
    may, june, july = (pd.Timestamp(f"2013-0{month}-01", tz="UTC").value // 1000 for month in (5, 6, 7))
    documents = [
        window(may, 0.78),
        window(june, 0.7, inside=False),
        window(july, 0.6, status="provisional"),
        window(july + DAY_US * 31, 0.1, rows=80),
    ]
    found = periods(documents, by="month")
    assert [period.label for period in found] == ["2013-05", "2013-06", "2013-07"]
    lowest = worst(found)
    assert lowest is not None
    assert (lowest.label, estimate_missed(lowest)) == ("2013-06", True)
    assert joined(documents) == (6_080, 6_040)
    error = mean_absolute_error(found, doubted=False)
    assert error is not None
    assert error[0] == 2
    assert error[1] == pytest.approx(0.06)
    assert mean_absolute_error(found, doubted=True) is None


def test_nothing_is_worst_of_nothing() -> None:
    assert worst([]) is None


def test_the_specifications_are_accepted_as_they_are_written() -> None:
    minutes = parse_specification(DELAYS_SPECIFICATION.encode(), "delays.yaml").to_spec()
    spec = parse_specification(LATE_SPECIFICATION.encode(), "flights.yaml").to_spec()
    assert minutes.false_alarms == spec.false_alarms
    assert spec.outcomes is not None
    assert spec.outcomes.fairness == ("carrier",)
    assert [segment.name for segment in spec.segments] == ["carrier"]
