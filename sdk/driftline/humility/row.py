"""One prediction, read as a caller has it, for what it would be read as after it was published.

Publishing packs numbers as float64, booleans as text and so on (:mod:`driftline.columns`): a row has to decide alone as
it does in the batch it ends up in (:mod:`driftline.humility.batch`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import numpy as np

from driftline import columns as read
from driftline.events import Floats, category_text
from driftline.humility.decision import Answer
from driftline.humility.layout import Layout
from driftline.reading import RULE_PART, number_in, part_index

_NAN, _isfinite = math.nan, math.isfinite
_DIRECT = read.NUMBERS | {bool, np.bool_, type(None)}
"""Types that an array of float64 takes as publishing would: None becomes NaN, booleans 1 and 0."""

_TEXT_KEYS: frozenset[type] = frozenset({str})
_FLOATS: frozenset[type] = frozenset({float, np.float64})
_NOTHING: Mapping[str, Any] = {}


def number_of(value: Any) -> float:
    """A value as a number; NaN where it is missing or none."""
    kind = type(value)
    if kind is float:
        return float(value)
    if value is None:
        return _NAN
    if kind is str:
        number = number_in(value)
        return _NAN if number is None else number
    if kind in _DIRECT:
        return _float(value)
    found = _plain(value)
    return _NAN if found is None else number_of(found)


def text_of(value: Any) -> str | None:
    """A value as the text it is counted under; None where it is missing."""
    kind = type(value)
    if kind is str:
        return str(value)
    if value is None:
        return None
    if kind is bool or kind is np.bool_:
        return "true" if value else "false"
    if kind in read.NUMBERS:
        return category_text(_float(value))
    found = _plain(value)
    return None if found is None else text_of(found)


def category_of(value: Any) -> str | None:
    """As :func:`text_of`, but empty text and infinite numbers are missing."""
    if isinstance(value, str):
        return str.__str__(value) or None
    text = text_of(value)
    return None if text in _INFINITE and not math.isfinite(number_of(value)) else text


_INFINITE = frozenset({"inf", "-inf"})


def lacks_vector(value: Any) -> bool:
    """Whether a value is no vector of finite numbers."""
    try:
        return not read.is_vector(value) or not np.isfinite(read.vector(value, "")).all()
    except Exception:
        return True


def measured(value: Any) -> float:
    """A prediction, or another number that comes by itself; NaN where it is missing, infinite or none."""
    if type(value) is not float:
        try:
            value = read.number(value, "")
        except Exception:
            return _NAN
        if value is None:
            return _NAN
    return float(value) if _isfinite(value) else _NAN


def label_of(value: Any) -> str | None:
    """A class or segment as text; None where it is missing. Empty text is none."""
    if value is None or type(value) is str:
        return value or None
    try:
        return read.label(value, "") or None
    except Exception:
        return None


def probabilities_of(given: Any) -> dict[str, float]:
    """The finite ones of class probabilities, by class."""
    if given is None:
        return {}
    if (
        type(given) is dict
        and _FLOATS.issuperset(map(type, given.values()))
        and _TEXT_KEYS.issuperset(map(type, given))
    ):
        return {name: float(value) for name, value in given.items() if _isfinite(value)}
    found = {}
    for key, value in given.items() if isinstance(given, Mapping) else ():
        name, number = _class_of(key), measured(value)
        if name is not None:
            found[name] = number
    return {name: value for name, value in found.items() if _isfinite(value)}


def answer_of(given: Any) -> Answer:
    """What another version answered, as a caller gives it: a number, text for a class, or a tuple of both."""
    if isinstance(given, tuple) and len(given) == 2:
        return Answer(*_finite(given[0]), label_of(given[1]))
    plain = _plain(given)
    if isinstance(plain, (str, bool, np.bool_)):
        return Answer(None, label_of(plain))
    return Answer(*_finite(plain), None)


def _finite(value: Any) -> tuple[float | None]:
    number = measured(value)
    return (None if number != number else number,)


def _class_of(key: Any) -> str | None:
    try:
        return read.label(key, "")
    except Exception:
        return None


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond float64
        return math.inf if value > 0 else -math.inf


def _plain(value: Any) -> Any:
    """A value of an unusual type as number, text, boolean or None; None for one that could not be published as such."""
    try:
        return None if read.is_vector(value) else read.plain(value, "")
    except Exception:  # whatever a caller's object does when it is looked at
        return None


class Row:
    """What is known of one prediction.

    Attributes:
        x: float64[N], the numeric columns of the layout; NaN where missing.
        whole: Whether none of them is.
        texts: The text columns; None where missing.
        features: The features as given.
        given: The prediction as given.
        prediction: The same as a number; NaN where missing.
        label: Predicted class.
        low, high: Ends of the model's own interval; NaN where missing.
        part: Number of the row's part of the segmentation, -1 for none.
        time_us: Event time, microseconds since 1970-01-01 UTC.
        alarms: Monitors in alarm, as bits.
        quantile: The adaptive quantile; NaN where unknown.
    """

    __slots__ = (
        "_challengers",
        "_classes",
        "_given_classes",
        "alarms",
        "features",
        "given",
        "high",
        "label",
        "low",
        "part",
        "prediction",
        "quantile",
        "texts",
        "time_us",
        "whole",
        "x",
    )

    x: Floats
    whole: bool
    texts: list[str | None]
    features: Mapping[str, Any]
    given: Any
    prediction: float
    label: str | None
    low: float
    high: float
    part: int
    time_us: int
    alarms: int
    quantile: float
    _given_classes: Any
    _classes: dict[str, float] | None
    _challengers: Mapping[str, Any]

    @property
    def classes(self) -> dict[str, float]:
        """Class to probability, finite ones only."""
        found = self._classes
        if found is None:
            found = self._classes = probabilities_of(self._given_classes)
        return found

    def challenger(self, version: str) -> Answer:
        """What a version answered; an empty answer if it was not given."""
        given = self._challengers.get(version)
        return _NO_ANSWER if given is None else answer_of(given)

    @property
    def challengers(self) -> Mapping[str, Any]:
        """Versions whose answer was given."""
        return self._challengers


_NO_ANSWER = Answer()


class RowReader:
    """Reads rows in a layout. Holds nothing of them: any number of threads may use it."""

    def __init__(self, layout: Layout) -> None:
        self._numeric, self._text = tuple(layout.numeric), tuple(layout.text)
        self._numbers, self._texts = _getter(self._numeric), _getter(self._text)
        self._all_finite = b"\x01" * len(self._numeric)
        self._part = _no_part if layout.segment is None else _part_reader(layout)

    def read(
        self,
        features: Mapping[str, Any],
        prediction: Any,
        class_probabilities: Any,
        prediction_label: Any,
        prediction_low: Any,
        prediction_high: Any,
        segments: Any,
        timestamp_us: int,
        challengers: Any,
        alarms: int,
    ) -> Row:
        """One row; its quantile is left to who knows it."""
        row = Row()
        if type(features) is not dict:
            features = dict(features)  # one that makes what it is asked for would grow
        row.features = features
        if self._numeric:
            try:
                values = self._numbers(features)
            except KeyError:
                values = tuple(map(features.get, self._numeric))
            self._fill(row, values)
        if self._text:
            try:
                values = self._texts(features)
            except KeyError:
                values = tuple(map(features.get, self._text))
            row.texts = [(value or None) if type(value) is str else category_of(value) for value in values]
        row.given = prediction
        row.prediction = measured(prediction)
        row.label = label_of(prediction_label)
        row.low, row.high = measured(prediction_low), measured(prediction_high)
        row.part = self._part(features, segments)
        row.time_us = timestamp_us
        row.alarms = alarms
        row._given_classes, row._classes = class_probabilities, None
        row._challengers = challengers or _NOTHING
        return row

    def _fill(self, row: Row, values: tuple[Any, ...]) -> None:
        x = self._array(values)
        finite = np.isfinite(x)
        row.whole = finite.tobytes() == self._all_finite
        row.x = x if row.whole else np.where(finite, x, _NAN)

    def _array(self, values: tuple[Any, ...]) -> Floats:
        if _DIRECT.issuperset(map(type, values)):
            try:
                return np.array(values, np.float64)
            except OverflowError:
                pass
        return np.array([number_of(value) for value in values], np.float64)


def _getter(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) == 1:
        (name,) = names
        return lambda features: (features[name],)
    return itemgetter(*names) if names else lambda features: ()


def _no_part(features: Mapping[str, Any], segments: Any) -> int:
    return -1


def _part_reader(layout: Layout) -> Callable[[Mapping[str, Any], Any], int]:
    """The part of a row, as :func:`driftline.reading.part_codes` has it of a batch."""
    assert layout.segment is not None
    column, values = layout.segment.column, layout.segment.values
    if values == (RULE_PART,):
        low = -math.inf if layout.segment.low is None else layout.segment.low
        high = math.inf if layout.segment.high is None else layout.segment.high
        return lambda features, segments: 0 if low <= number_of(features.get(column)) < high else -1
    index, rest = part_index(values)

    def part(features: Mapping[str, Any], segments: Any) -> int:
        text = None if segments is None else _attribute(segments, column)
        if text is None:
            text = text_of(features.get(column))
        return rest if text is None else index.get(text, rest)

    return part


def _attribute(segments: Any, column: str) -> str | None:
    value = segments.get(column) if isinstance(segments, Mapping) else None
    if value is None or type(value) is str:
        return value
    try:
        return read.label(value, "")
    except Exception:
        return None
