"""Was it real? What the days around an alarm look like, by counting alone, without the evidence that raised it.

Flights of a day share their weather, so a day is one observation. Of each cause the daily mean and the daily shares of
rows below the 10 % and above the 90 % quantile of the reference are compared: the days of the reference with the 30
days from the change on (Mann and Whitney, "On a test of whether one of two random variables is stochastically larger
than the other", Annals of Mathematical Statistics 18, 1947; Bonferroni over the three).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import mannwhitneyu

from services.demo.flights import TIME_ZONE
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the days say of one alarm: ``kind``, and the figure that tells most, in words."""

    kind: str
    text: str


class DailyFigures:
    """The rows of the reference and those that were served since, day by day.

    Args:
        reference: The reference rows.
        served: The rows that were served, both with a column ``scheduled_departure``.
    """

    def __init__(self, reference: pd.DataFrame, served: pd.DataFrame) -> None:
        self._reference, self._served = reference, served
        self._reference_day, self._served_day = _day(reference), _day(served)

    def verdict_on(self, alert: Mapping[str, Any]) -> Verdict | None:
        """What the days say of a record ``Alert``, as :meth:`verdict` does."""
        causes = [cause["stream"] for cause in alert["causes"]]
        return self.verdict(causes, alert["change_time_us"], alert["detection_time_us"])

    def verdict(self, causes: list[str], change_us: int, noticed_us: int) -> Verdict | None:
        """What the days say of an alarm: the best of its causes.

        Args:
            causes: Streams.
            change_us: When the change began, event time, microseconds since 1970 UTC.
            noticed_us: When the alarm was raised.

        Returns:
            None where no cause is a single column's: the distance of whole rows, say.
        """
        found = [verdict for stream in causes if (verdict := self._judge(stream, change_us, noticed_us)) is not None]
        return min(found, key=lambda verdict: _ORDER.index(verdict.kind), default=None)

    def _judge(self, stream: str, change_us: int, noticed_us: int) -> Verdict | None:
        change, noticed = (
            pd.Timestamp(us, unit="us", tz="UTC").tz_convert(TIME_ZONE) for us in (change_us, noticed_us)
        )
        figures = list(self._figures(stream))
        if not figures:
            return None
        if (self._served_day.max() - change.date()).days + 1 < FEWEST_DAYS:
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
            kind, f"{name} {_told(name, extreme)}, March {_told(name, before.min())} to {_told(name, before.max())}"
        )

    def _figures(self, stream: str) -> Iterator[tuple[str, Any, Any]]:
        """Name and daily values of each figure, in the reference and since."""
        name = stream.removeprefix(QUALITY_PREFIX)
        column = _COLUMNS.get(name, name)
        if column not in self._reference:
            return
        before, after = self._reference[column], self._served[column]
        numeric = pd.api.types.is_numeric_dtype(before)
        if stream != name:
            known = after.between(before.min(), before.max()) if numeric else after.isin(before.dropna().unique())
            yield f"share of {name} unusable", *self._daily(before.isna().astype(float), (~known).astype(float))
        elif numeric:
            yield f"mean of {name}", *self._daily(before, after)
            low, high = before.quantile([0.1, 0.9])
            present = before.notna(), after.notna()
            below = before.lt(low).where(present[0]), after.lt(low).where(present[1])
            above = before.gt(high).where(present[0]), after.gt(high).where(present[1])
            yield f"share of {name} below {_number(low)}", *self._daily(*below)
            yield f"share of {name} above {_number(high)}", *self._daily(*above)
        else:
            commonest = before.mode()[0]
            yield f"share of {commonest}", *self._daily(before.eq(commonest), after.eq(commonest))

    def _daily(self, before: pd.Series, after: pd.Series) -> tuple[Any, Any]:
        """Daily means, without days that have none."""
        return (
            before.astype(float).groupby(self._reference_day).mean().dropna(),
            after.astype(float).groupby(self._served_day).mean().dropna(),
        )


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


def read_days(reference: Path, served: Path) -> DailyFigures:
    """Read both from the files of :func:`services.demo.flights.write_files`."""
    return DailyFigures(pd.read_csv(reference), pd.read_csv(served))
