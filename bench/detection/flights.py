"""The flights of the demonstration: which alarms are real change, and which features stayed quiet.

The files are those of ``make demo``, read as ``driftline publish`` reads them, and go through the worker's state
machine in messages of 500 rows: March is the reference, April to December is served.

Whether a change is real is decided without the evidence engine, from daily figures: a day is one observation, because
flights of a day share their weather. Of each cause the daily mean and the daily shares of rows below the 10 % and above
the 90 % quantile of March are compared. A change is *lasting* if one of the three differs between March's days and the
30 days from the change on (Mann and Whitney, "On a test of whether one of two random variables is stochastically larger
than the other", Annals of Mathematical Statistics 18, 1947; p < 0.001 for the three together). Else it is an *episode*
if the daily mean of a day between change and alarm lies beyond all days of March: a storm, say, that passed. Only
lasting changes are real ones; all else counts against the promise, except where the year ends too soon to tell.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from bench.detection.machine import Alert, Machine, batches
from bench.report import Figure, figure, print_table
from driftline.events import Floats, PredictionColumns
from services.demo.flights import SCHEDULE, WEATHER, write_files
from services.demo.story import when
from services.deployments.checking import load_specification
from services.publish.files import open_file
from services.publish.reading import read_predictions, read_reference
from streams.reference import build_baseline
from streams.specification import DATA_DRIFT, DATA_QUALITY, DeploymentSpec

VERSION = "2013-03"
BATCH_ROWS = 500
DAYS_AFTER = 30
SIGNIFICANCE = 0.001
DAY_US = 86_400_000_000

UNITS = {
    "temp": "°F",
    "dewp": "°F",
    "humid": "%",
    "wind_speed": "mph",
    "precip": "in",
    "pressure": "hPa",
    "visib": "mi",
    "prediction": "probability of late",
    "prediction_label": "share of the commonest",
}


FEWEST_DAYS = 10
"""With fewer days from the change to the end of the year nothing can be said."""

LASTING, UNDECIDED, EPISODE, NONE, UNKNOWN = "lasting", "undecided", "episode", "no", "unknown"
"""Verdicts, the best first. An alarm gets the best of its causes."""


@dataclass(frozen=True)
class Verdict:
    """What the data say of one cause of an alarm: ``kind`` is one of the verdicts, ``text`` the daily means."""

    kind: str
    stream: str
    text: str
    p_value: float


def measure(seed: int, quick: bool) -> list[Figure]:
    """Replay the year and judge every alarm. The data are real: nothing depends on the seed."""
    del seed, quick  # it takes a quarter of a minute
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder))
        spec = load_specification(files.specification).to_spec()
        reference = list(read_reference(open_file(files.reference), spec, VERSION))
        served = list(read_predictions(open_file(files.predictions), spec, version=VERSION))
    days = _DailyMeans([*reference, *served], len(reference))
    machine = run(spec, reference, served)
    verdicts = [(alert, days.verdict(alert)) for alert in machine.firing]
    _print(verdicts)
    blamed = {cause["stream"].removeprefix("quality:") for alert in machine.firing for cause in alert["causes"]}
    return _figures(spec, verdicts, blamed, served)


def run(spec: DeploymentSpec, reference: list[PredictionColumns], served: Iterable[PredictionColumns]) -> Machine:
    """The alarms of the state machine on these rows."""
    machine = Machine(spec, build_baseline(spec, VERSION, reference, source="March"))
    for part in served:
        for batch in batches(part, [BATCH_ROWS] * (part.rows // BATCH_ROWS)):
            machine.apply(batch)
    return machine


class _DailyMeans:
    """Mean of each stream by day; ``reference`` is how many of the batches, from the first, are the reference."""

    def __init__(self, columns: list[PredictionColumns], reference: int) -> None:
        self._columns, self._reference = columns, reference
        self._day = np.concatenate([batch.timestamps_us for batch in columns]) // DAY_US
        self._reference_rows = sum(batch.rows for batch in columns[:reference])
        self._first_day = int(self._day[0])
        self._reference_days = int(self._day[self._reference_rows - 1]) - self._first_day + 1

    def verdict(self, alert: Alert) -> Verdict:
        """The best verdict on a cause of an alarm."""
        found = [self._judge(cause["stream"], alert) for cause in alert["causes"]]
        return min(found, key=lambda verdict: (LASTING, UNDECIDED, EPISODE, NONE, UNKNOWN).index(verdict.kind))

    def _judge(self, stream: str, alert: Alert) -> Verdict:
        values = self._values(stream)
        if values is None:
            return Verdict(UNKNOWN, stream, "not a single column", float("nan"))
        change, noticed = alert["change_time_us"] // DAY_US, alert["detection_time_us"] // DAY_US
        unit = UNITS.get(stream, "")
        if int(self._day[-1]) - change + 1 < FEWEST_DAYS:
            return Verdict(UNDECIDED, stream, "the year ends too soon", float("nan"))
        p_value, text = 1.0, ""
        summaries = self._summaries(stream, values)
        for name, daily in summaries.items():
            before = daily[: self._reference_days]
            after = daily[change - self._first_day :][:DAYS_AFTER]
            p = min(1.0, len(summaries) * float(mannwhitneyu(before, after, nan_policy="omit").pvalue))
            if p < p_value or not text:
                p_value = p
                of = f"{name}: " if name else ""
                text = f"{of}{_number(np.nanmean(before))} → {_number(np.nanmean(after))} {'' if name else unit}"
        if p_value < SIGNIFICANCE:
            return Verdict(LASTING, stream, text, p_value)
        mean = summaries[""]
        march, until = mean[: self._reference_days], mean[change - self._first_day : noticed - self._first_day + 1]
        farthest = until[np.nanargmax(np.abs(until - np.nanmedian(march)))]
        low, high = np.nanmin(march), np.nanmax(march)
        text = f"{_number(farthest)}, March {_number(low)} to {_number(high)} {unit}"
        return Verdict(NONE if low <= farthest <= high else EPISODE, stream, text, p_value)

    def _summaries(self, stream: str, values: Floats) -> dict[str, Floats]:
        """Figures by day, NaN for a day without values; the mean has no name."""
        if stream == "rate":
            return {"": np.bincount(self._day - self._first_day).astype(np.float64)}
        if np.isin(values[~np.isnan(values)], (0.0, 1.0)).all():
            return {"": self._daily_means(values)}
        low, high = np.nanquantile(values[: self._reference_rows], (0.1, 0.9))
        missing = np.isnan(values)
        return {
            "": self._daily_means(values),
            f"share below {_number(low)}": self._daily_means(np.where(missing, np.nan, values < low)),
            f"share above {_number(high)}": self._daily_means(np.where(missing, np.nan, values > high)),
        }

    def _values(self, stream: str) -> Floats | None:
        """What is averaged: the number itself, whether a category is the commonest, or whether a value is unusable."""
        if stream == "rate":
            return np.ones(len(self._day))
        if stream.startswith("quality:"):
            values = self._values(stream.removeprefix("quality:"))
            if values is None:
                return None
            reference = values[: self._reference_rows]
            within = (values >= np.nanmin(reference)) & (values <= np.nanmax(reference))
            return np.asarray(~within, np.float64)
        if stream == "prediction":
            return np.concatenate([_or_missing(batch.prediction, batch.rows) for batch in self._columns])
        texts = [
            batch.prediction_label if stream == "prediction_label" else batch.categorical.get(stream)
            for batch in self._columns
        ]
        if all(column is not None for column in texts):
            categories = np.array([value for column in texts if column is not None for value in column.values()])
            common, rows = np.unique(categories[: self._reference_rows], return_counts=True)
            return np.asarray(categories == common[rows.argmax()], np.float64)
        if all(stream in batch.numeric for batch in self._columns):
            return np.concatenate([batch.numeric[stream] for batch in self._columns])
        return None

    def _daily_means(self, values: Floats) -> Floats:
        present = ~np.isnan(values)
        day = self._day[present] - self._first_day
        days = int(self._day[-1]) - self._first_day + 1
        sums, rows = np.bincount(day, weights=values[present], minlength=days), np.bincount(day, minlength=days)
        return np.asarray(np.divide(sums, rows, out=np.full(days, np.nan), where=rows > 0))


def _or_missing(values: Floats | None, rows: int) -> Floats:
    return np.full(rows, np.nan) if values is None else values


def _number(number: Any) -> str:
    value = float(number)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _print(verdicts: list[tuple[Alert, Verdict]]) -> None:
    print_table(
        f"Flights, April to December against March: every alarm, judged by daily figures ({DAYS_AFTER} days from the "
        "change on, or those until the alarm, against March's)",
        ("monitor", "causes", "change began", "noticed", "change", "daily figures", "PSI since", "p"),
        (
            (
                alert["monitor"],
                ", ".join(cause["stream"] for cause in alert["causes"][:3])
                + (f" and {len(alert['causes']) - 3} more" if len(alert["causes"]) > 3 else ""),
                when(alert["change_time_us"]),
                when(alert["detection_time_us"]),
                verdict.kind,
                f"{verdict.stream}: {verdict.text}",
                f"{alert['causes'][0]['effects']['psi']:.2f}",
                "–" if np.isnan(verdict.p_value) else f"{verdict.p_value:.1g}",
            )
            for alert, verdict in verdicts
        ),
        left=6,
    )
    alarms = [(alert["monitor"], {cause["stream"] for cause in alert["causes"]}) for alert, _ in verdicts]
    print_table(
        "Which features alarmed: alarms that name them",
        ("feature", "", "distribution", "values beyond March's range, or missing"),
        (
            (
                name,
                "of the schedule" if name in SCHEDULE else "of the weather",
                sum(monitor == DATA_DRIFT and name in causes for monitor, causes in alarms) or "quiet",
                sum(monitor == DATA_QUALITY and f"quality:{name}" in causes for monitor, causes in alarms) or "quiet",
            )
            for name in (*SCHEDULE, *WEATHER)
        ),
        left=2,
    )


def _figures(
    spec: DeploymentSpec, verdicts: list[tuple[Alert, Verdict]], blamed: set[str], served: list[PredictionColumns]
) -> list[Figure]:
    first = int(min(batch.timestamps_us.min() for batch in served))
    last = int(max(batch.timestamps_us.max() for batch in served))
    budget = spec.false_alarms
    allowed = round(budget.count * (last - first) / 1000 / budget.per_ms, 2)
    kinds = [verdict.kind for _, verdict in verdicts]
    quiet = [name for name in (*SCHEDULE, *WEATHER) if name not in blamed]
    return [
        figure(
            "flights: alarms",
            len(verdicts),
            "alarms",
            note=f"from {_day(first)} to {_day(last)}: {kinds.count(LASTING)} lasting changes, "
            f"{kinds.count(EPISODE)} episodes, {kinds.count(UNDECIDED)} undecided",
        ),
        figure(
            "flights: alarms that are no lasting change",
            len(kinds) - kinds.count(LASTING) - kinds.count(UNDECIDED),
            "alarms",
            at_most=allowed,
            note=f"the promise is {budget.count:g} in {budget.per_ms / 86_400_000:g} days",
        ),
        figure(
            "flights: schedule features that alarmed",
            len(set(SCHEDULE) & blamed),
            "features",
            at_most=0,
            note=f"quiet: {', '.join(quiet) or 'none'}",
        ),
        figure(
            "flights: weather features found changed",
            len(set(WEATHER) & blamed),
            "features",
            at_least=1,
            note=", ".join(name for name in WEATHER if name in blamed),
        ),
    ]


def _day(time_us: int) -> str:
    return dt.datetime.fromtimestamp(time_us / 1e6, dt.UTC).date().isoformat()
