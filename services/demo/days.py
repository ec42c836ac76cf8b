"""Was it real? What the days around an alarm look like, by counting alone, without the evidence that raised it.

Flights of a day share their weather, so a day is one observation. Of each cause the daily mean and the daily shares of
rows below the 10 % and above the 90 % quantile of the reference are compared: the days of the reference with the 30
days from the change on (Mann and Whitney, "On a test of whether one of two random variables is stochastically larger
than the other", Annals of Mathematical Statistics 18, 1947; Bonferroni over the three).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.stats import mannwhitneyu

from services.demo.flights import TIME_ZONE, DemonstrationFiles
from streams.baseline import QUALITY_PREFIX
from streams.columns import PREDICTION, PREDICTION_LABEL

DAYS_AFTER = 30
FEWEST_DAYS = 10
"""With fewer days from the change to the end of the data nothing can be said."""

SIGNIFICANCE = 0.001

LASTING, UNDECIDED, EPISODE, NONE = "lasting", "undecided", "episode", "not seen"
"""What the days say: the figures of the days since differ (``lasting``); or not, but a day between the change and the
alarm lay beyond all days of the reference (``episode``: a storm, a gap in the data); the data end too soon; or neither
can be seen."""

_ORDER = (LASTING, UNDECIDED, EPISODE, NONE)
_COLUMNS = {PREDICTION: "late_probability", PREDICTION_LABEL: "predicted"}

_LATE = "late"
_DAY = "day of departure"
_SURPLUS, _RIGHT = "share of late flights above that expected", "share of right predictions"
_OF_OUTCOMES = {
    "loss": _RIGHT,
    "loss_tail": _RIGHT,
    "calibration": _SURPLUS,
    "calibration_slope": _RIGHT,
    "outcome": "share of late flights",
    "selected": "share predicted late",
    "true_positive": "share of late flights that were predicted",
    "false_positive": "share of other flights predicted late",
}
"""What each stream of outcomes is about, as a figure of a day."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the days say of one alarm: ``kind``, and the figure that tells most, in words."""

    kind: str
    text: str


class DailyFigures:
    """The rows of the reference and those that were served since, day by day.

    Args:
        reference: The reference rows.
        served: The rows that were served, both with a column ``scheduled_departure``, and with ``arrived`` where
            outcomes are judged.
        name: What the reference is called.
    """

    def __init__(self, reference: pd.DataFrame, served: pd.DataFrame, name: str = "March") -> None:
        self._reference, self._served = (rows.assign(**{_DAY: _day(rows)}) for rows in (reference, served))
        self._name = name

    def verdict_on(self, alert: Mapping[str, Any]) -> Verdict | None:
        """What the days say of a record ``Alert``, as :meth:`verdict` does."""
        causes = [(cause["stream"], cause["segment"]) for cause in alert["causes"]]
        return self.verdict(causes, alert["change_time_us"], alert["detection_time_us"])

    def verdict(self, causes: Sequence[tuple[str, str]], change_us: int, noticed_us: int) -> Verdict | None:
        """What the days say of an alarm: the best of its causes.

        Args:
            causes: Streams, each with the part of the traffic it is about (``COLUMN=VALUE``) or an empty text.
            change_us: When the change began, event time, microseconds since 1970 UTC.
            noticed_us: When the alarm was raised.

        Returns:
            None where no cause is a single column's: the distance of whole rows, say.
        """
        found = [v for cause in causes if (v := self._judge(*cause, change_us, noticed_us)) is not None]
        return min(found, key=lambda verdict: _ORDER.index(verdict.kind), default=None)

    def _judge(self, stream: str, segment: str, change_us: int, noticed_us: int) -> Verdict | None:
        change, noticed = (
            pd.Timestamp(us, unit="us", tz="UTC").tz_convert(TIME_ZONE) for us in (change_us, noticed_us)
        )
        before_rows, after_rows = (_part(rows, segment) for rows in (self._reference, self._served))
        if before_rows.empty or after_rows.empty:
            return None
        figures = list(_figures(stream, before_rows, after_rows))
        if not figures:
            return None
        if (self._served[_DAY].max() - change.date()).days + 1 < FEWEST_DAYS:
            return Verdict(UNDECIDED, "the data end too soon")
        compared = []
        for name, before, after in figures:
            since = after[after.index >= change.date()]
            p = mannwhitneyu(before, since.head(DAYS_AFTER)).pvalue
            compared.append((min(1.0, len(figures) * float(p)), name, before, since))
        p_value, name, before, since = min(compared, key=lambda each: each[0])
        if p_value < SIGNIFICANCE:
            return Verdict(
                LASTING, f"{name} {_told(name, before.mean())} → {_told(name, since.head(DAYS_AFTER).mean())}"
            )
        _, name, before, since = compared[0]
        until = since[since.index <= noticed.date()]
        extreme = max(until, key=lambda value: abs(value - before.mean()))
        kind = NONE if before.min() <= extreme <= before.max() else EPISODE
        return Verdict(
            kind,
            f"{name} {_told(name, extreme)}, {self._name} {_told(name, before.min())} to {_told(name, before.max())}",
        )


def _figures(stream: str, before: pd.DataFrame, after: pd.DataFrame) -> Iterator[tuple[str, Any, Any]]:
    """Name and daily values of each figure of a stream, in the reference and since."""

    def daily(one: pd.Series, other: pd.Series) -> tuple[Any, Any]:
        """Daily means, without days that have none."""
        return (
            one.astype(float).groupby(before[_DAY]).mean().dropna(),
            other.astype(float).groupby(after[_DAY]).mean().dropna(),
        )

    if stream in _OF_OUTCOMES and "arrived" in before:
        yield _OF_OUTCOMES[stream], *daily(_outcome_figure(stream, before), _outcome_figure(stream, after))
        return
    name = stream.removeprefix(QUALITY_PREFIX)
    column = _COLUMNS.get(name, name)
    if column not in before:
        return
    one, other = before[column], after[column]
    numeric = pd.api.types.is_numeric_dtype(one)
    if stream != name:
        known = other.between(one.min(), one.max()) if numeric else other.isin(one.dropna().unique())
        yield f"share of {name} unusable", *daily(one.isna().astype(float), (~known).astype(float))
    elif numeric:
        yield f"mean of {name}", *daily(one, other)
        low, high = one.quantile([0.1, 0.9])
        present = one.notna(), other.notna()
        below = one.lt(low).where(present[0]), other.lt(low).where(present[1])
        above = one.gt(high).where(present[0]), other.gt(high).where(present[1])
        yield f"share of {name} below {_number(low)}", *daily(*below)
        yield f"share of {name} above {_number(high)}", *daily(*above)
    else:
        commonest = one.mode()[0]
        yield f"share of {commonest}", *daily(one.eq(commonest), other.eq(commonest))


def _outcome_figure(stream: str, rows: pd.DataFrame) -> pd.Series:
    """The figure of each row that has one; NaN for the others."""
    known, late, predicted = rows["arrived"].notna(), rows["arrived"].eq(_LATE), rows["predicted"].eq(_LATE)
    match stream:
        case "selected":
            return predicted.astype(float)
        case "true_positive":
            return predicted.where(known & late).astype(float)
        case "false_positive":
            return predicted.where(known & ~late).astype(float)
        case "outcome":
            return late.where(known).astype(float)
        case "calibration":
            return (late - rows["late_probability"]).where(known).astype(float)
    return predicted.eq(late).where(known).astype(float)


def _part(rows: pd.DataFrame, segment: str) -> pd.DataFrame:
    """The rows of one part of the traffic; none where it is no single value of a column."""
    column, _, value = segment.partition("=")
    if not segment:
        return rows
    return rows[rows[column].eq(value)] if column in rows else rows.iloc[:0]


def _told(name: str, value: float) -> str:
    """A figure as people write it: shares in per cent."""
    if not name.startswith("share"):
        return _number(value)
    return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.2g} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _day(rows: pd.DataFrame) -> Any:
    """The day in New York, where the flights leave."""
    return pd.to_datetime(rows["scheduled_departure"], utc=True).dt.tz_convert(TIME_ZONE).dt.date


def read_days(files: DemonstrationFiles, names: Sequence[str], second: tuple[str, str]) -> list[DailyFigures]:
    """Read what was published, for each of two references.

    Args:
        files: As :func:`services.demo.flights.write_files` wrote them.
        names: What the references are called: that of the file, and one learnt from what was served.
        second: From when to when the latter was, days UTC.
    """
    reference = pd.read_csv(files.reference)
    served = pd.read_csv(files.predictions).merge(pd.read_csv(files.outcomes), on="flight_id", how="left")
    first, end = second
    later = served[(served["scheduled_departure"] >= first) & (served["scheduled_departure"] < end)]
    return [DailyFigures(rows, served, name) for rows, name in zip((reference, later), names, strict=False)]
