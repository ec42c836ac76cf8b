"""Single conditions of humility rules. Each says the same of a row and of the rows of a batch.

``holds_of`` decides a row in plain Python, ``holds`` a batch by columns; the one beside the other is how they stay the
same. Where a condition lacks what was to be fitted for a row's group, it answers with its ``unknown``: what keeps the
rule from firing, which is True below a ``not``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from driftline.events import CategoricalColumn
from driftline.humility.batch import Batch, Flags, codes_in, finite_or_nan, flags_of, missing_of
from driftline.humility.certainty import Certainty
from driftline.humility.novelty import Novel
from driftline.humility.row import Row, lacks_vector

MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1.0}
"""By unit of a column of times."""

_FEW = 8
"""Up to so many bounds of columns are compared one by one."""


@dataclass(frozen=True, slots=True)
class ScoreBetween:
    """The score lies between two bounds, or is unknown."""

    low: float
    high: float

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        s = row.prediction
        return s != s or self.low <= s <= self.high

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        s = batch.prediction
        return np.asarray(np.isnan(s) | ((self.low <= s) & (s <= self.high)))


@dataclass(frozen=True, slots=True)
class ConfidenceBelow:
    """The confidence is below a bound, or unknown."""

    certainty: Certainty
    low: float

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        return not self.certainty.confidence_of(row) >= self.low

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        return ~(self.certainty.confidence(batch) >= self.low)


@dataclass(frozen=True, slots=True)
class MarginBelow:
    """The difference of the two largest probabilities is below a bound, or unknown."""

    certainty: Certainty
    low: float

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        return not self.certainty.margin_of(row) >= self.low

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        return ~(self.certainty.margin(batch) >= self.low)


@dataclass(frozen=True, slots=True)
class WiderThan:
    """The interval is wider than a bound, or unknown."""

    certainty: Certainty
    high: float

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        return not self.certainty.width_of(row) <= self.high

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        return ~(self.certainty.width(batch) <= self.high)


@dataclass(frozen=True, slots=True)
class NotOneClass:
    """The prediction set has other than one class, or no probability is known."""

    certainty: Certainty
    unknown: bool

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        return self.unknown if row.quantile != row.quantile else self.certainty.set_size_of(row) != 1

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        return np.where(np.isnan(batch.quantiles), self.unknown, self.certainty.set_size(batch) != 1)


class Uncertified:
    """The confidence is below the certified one of the row's group, or unknown.

    Args:
        certainty: How confidence is computed.
        thresholds: By part of the segmentation, the last for rows of none; NaN for a group without a certificate.
        unknown: Answer for such a group.
    """

    def __init__(self, certainty: Certainty, thresholds: Sequence[float], unknown: bool) -> None:
        self._certainty, self._thresholds, self._unknown = certainty, tuple(thresholds), unknown
        self._by_part = np.array(thresholds, np.float64)

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        threshold = self._thresholds[row.part]
        return self._unknown if threshold != threshold else not self._certainty.confidence_of(row) >= threshold

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        thresholds = self._by_part[batch.parts]
        return np.where(np.isnan(thresholds), self._unknown, ~(self._certainty.confidence(batch) >= thresholds))


class Outlying:
    """A number lies outside of its bounds.

    Args:
        bounds: Place of the column, lower and upper bound.
    """

    def __init__(self, bounds: Sequence[tuple[int, float, float]]) -> None:
        self._bounds = tuple(bounds)
        self._few = len(bounds) <= _FEW
        self._places = np.array([place for place, _, _ in bounds], np.intp)
        self._low = np.array([low for _, low, _ in bounds])
        self._high = np.array([high for _, _, high in bounds])

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        x = row.x
        if self._few:
            for place, low, high in self._bounds:
                value = x.item(place)
                if value < low or value > high:
                    return True
            return False
        values = x[self._places]
        return b"\x01" in ((values < self._low) | (values > self._high)).tobytes()

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        found = batch.no()
        for place, low, high in self._bounds:
            found |= (batch.x[place] < low) | (batch.x[place] > high)
        return found


@dataclass(frozen=True, slots=True)
class NovelInput:
    """The novelty score is above the threshold of the row's group.

    Attributes:
        novel: The test; groups without a threshold have an infinite one.
        fitted: By part of the segmentation, the last for rows of none: whether the group has a threshold.
        unknown: Answer for a group that has none.
    """

    novel: Novel
    fitted: tuple[bool, ...]
    unknown: bool

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        return self.novel.holds_of(row) if self.fitted[row.part] else self.unknown

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        fitted = np.array(self.fitted)[batch.parts]
        return np.where(fitted, self.novel.holds(batch), self.unknown)


@dataclass(frozen=True, slots=True)
class AmongValues:
    """A category is one of some."""

    places: tuple[int, ...]
    values: frozenset[str]

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        return any(row.texts[place] in self.values for place in self.places)

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        found = batch.no()
        for place in self.places:
            found |= flags_of(batch.text(place), self.values.__contains__, False)
        return found


@dataclass(frozen=True, slots=True)
class RareValue:
    """A category that is known is none of those that the reference has enough rows of."""

    place: int
    observed: frozenset[str]

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        text = row.texts[self.place]
        return text is not None and text not in self.observed

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        return flags_of(batch.text(self.place), lambda text: text not in self.observed, False)


class RareCell:
    """Two categories that are known are no cell that the reference has enough rows of."""

    def __init__(self, places: tuple[int, int], observed: frozenset[tuple[str, str]]) -> None:
        self._first, self._second = places
        self._observed = observed
        self._firsts = {text: code for code, text in enumerate(sorted({first for first, _ in observed}))}
        self._seconds = {text: code for code, text in enumerate(sorted({second for _, second in observed}))}
        keys = [self._firsts[first] * len(self._seconds) + self._seconds[second] for first, second in observed]
        self._keys = np.array(sorted(keys), np.int64)

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        first, second = row.texts[self._first], row.texts[self._second]
        return first is not None and second is not None and (first, second) not in self._observed

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        first = _known_codes(self._firsts, batch.text(self._first))
        second = _known_codes(self._seconds, batch.text(self._second))
        present = (first != _MISSING) & (second != _MISSING)
        if not len(self._keys):
            return np.asarray(present)
        keys = np.where((first >= 0) & (second >= 0), first * len(self._seconds) + second, -1)
        nearest = self._keys[np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)]
        return np.asarray(present & (nearest != keys))


_UNSEEN, _MISSING = -1, -2


def _known_codes(index: Mapping[str, int], column: CategoricalColumn) -> Any:
    by_code = [*(index.get(text, _UNSEEN) if text else _MISSING for text in column.categories), _MISSING]
    return np.array(by_code, np.int64)[column.codes]


class Missing:
    """At least so many columns are missing.

    Args:
        numeric, text: Places of columns.
        vectors: Names of columns.
        least: So many.
    """

    def __init__(self, numeric: Sequence[int], text: Sequence[int], vectors: Sequence[str], least: int) -> None:
        self._numeric, self._text, self._vectors, self._least = tuple(numeric), tuple(text), tuple(vectors), least
        self._places = np.array(self._numeric, np.intp)

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        found = 0
        if self._numeric and not row.whole:
            found = int(np.count_nonzero(np.isnan(row.x[self._places])))
        if self._text and None in row.texts:
            texts = row.texts
            found += sum([texts[place] is None for place in self._text])
        for name in self._vectors:
            found += lacks_vector(row.features.get(name))
        return found >= self._least

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        found = np.zeros(batch.rows, np.int64)
        if self._numeric and not batch.whole:
            found += (~batch.finite[self._places]).sum(axis=0)
        for place in self._text:
            found += missing_of(batch.text(place))
        for name in self._vectors:
            vectors = batch.columns.vectors.get(name)
            found += np.ones(batch.rows, np.bool_) if vectors is None else ~np.isfinite(vectors).all(axis=1)
        return np.asarray(found >= self._least)


@dataclass(frozen=True, slots=True)
class StaleInput:
    """A time is older than the event's by more than so much.

    Attributes:
        places: Columns of times.
        unit_us: Microseconds in their unit.
        older_than_us: So much.
    """

    places: tuple[int, ...]
    unit_us: float
    older_than_us: float

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        now = float(row.time_us)
        return any(now - row.x.item(place) * self.unit_us > self.older_than_us for place in self.places)

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        now = batch.columns.timestamps_us.astype(np.float64)
        found = batch.no()
        for place in self.places:
            found |= now - batch.x[place] * self.unit_us > self.older_than_us
        return found


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """The prediction lies outside of a range."""

    low: float
    high: float

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        return row.prediction < self.low or row.prediction > self.high

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        return np.asarray((batch.prediction < self.low) | (batch.prediction > self.high))


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A challenger predicts another class, or a value that differs by more than so much.

    Attributes:
        versions: Whose answers are looked at; empty for all.
        by_more_than: Infinite where values are not compared.
    """

    versions: tuple[str, ...]
    by_more_than: float

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        for version in self.versions or row.challengers:
            value, label = row.challenger(version)
            if label is not None and row.label is not None and label != row.label:
                return True
            if value is not None and abs(value - row.prediction) > self.by_more_than:
                return True
        return False

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        values, labels = batch.columns.challenger_predictions, batch.columns.challenger_labels
        found = batch.no()
        for version in self.versions or tuple(dict.fromkeys((*values, *labels))):
            if version in labels:
                found |= _differs(labels[version], batch)
            if version in values:
                found |= np.abs(finite_or_nan(values[version], batch.rows) - batch.prediction) > self.by_more_than
        return found


def _differs(labels: CategoricalColumn, batch: Batch) -> Flags:
    index: dict[str, int] = {}
    predicted = codes_in(index, batch.columns.prediction_label, batch.rows)
    other = codes_in(index, labels, batch.rows)
    return np.asarray((predicted >= 0) & (other >= 0) & (predicted != other))


@dataclass(frozen=True, slots=True)
class InAlarm:
    """One of some monitors, as bits, is in alarm."""

    monitors: int

    def holds_of(self, row: Row) -> bool:
        """See :class:`driftline.humility.logic.Node`."""
        return row.alarms & self.monitors != 0

    def holds(self, batch: Batch) -> Flags:
        """See :class:`driftline.humility.logic.Node`."""
        return np.asarray(batch.alarms & np.uint8(self.monitors) != 0)
