"""What a changed distribution says, in a sentence.

Of all the simple statements about where the rows are ("above the 9th decile", "missing", "category X") the one is
told that sets observed and expected apart most: the largest binary Kullback-Leibler divergence
``o log(o/e) + (1-o) log((1-o)/(1-e))`` between the observed share ``o`` and the expected share ``e``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from driftline.codec import Record
from services.alerting.words.humility import humility_name, humility_statements, humility_unit
from services.alerting.words.outcomes import (
    OUTCOME_ROLES,
    moved_text,
    outcome_name,
    outcome_statements,
    outcome_unit,
    rate_reading,
    waiting,
)
from services.alerting.words.statements import Statement, expected_share, percent, statement
from services.alerting.words.text import Line, Value, line, value
from streams.baseline import (
    ASSOCIATION_ROLE,
    ERROR,
    HUMILITY_ROLE,
    JOINT_ROLE,
    LATENCY,
    QUALITY_PREFIX,
    QUALITY_ROLE,
    RATE_ROLE,
    SCHEMA,
)
from streams.statistics.layouts import (
    ABOVE_MAX,
    ASSOCIATION,
    ASSOCIATION_MISSING,
    BELOW_MIN,
    CORE_BINS,
    FIRST_CORE,
    NUMERIC,
    NUMERIC_MISSING,
    QUALITY,
    QUALITY_VALID,
    THIRDS,
)

_ORDINALS = ("", "1st", "2nd", "3rd", *(f"{n}th" for n in range(4, CORE_BINS)))
_RESERVED = {
    "missing": "have no value",
    "unseen": "have a value the reference never had",
    "other": "have one of the rarer categories",
}
_RESERVED_ERRORS = {
    "missing": "did not fail",
    "unseen": "failed with an error the reference never had",
    "other": "failed with one of the rarer errors",
}
_QUALITY = (
    "can be used",
    "lie outside everything in the reference",
    "have a value the reference never had",
    "have no value",
    "have a value that cannot be read",
)
_COMPUTED = {
    "length": ("the length of ", ""),
    "letters": ("the share of letters in ", ""),
    "digits": ("the share of digits in ", ""),
    "unknown_words": ("the share of words in ", " that the reference had not"),
    "distance": ("the distance of ", " from its usual place"),
}
"""What is computed from a text or an embedding, by the end of its name."""

_INTERVALS = {60: "minute", 300: "5 minutes", 900: "15 minutes", 3_600: "hour", 21_600: "6 hours", 86_400: "day"}
_INPUTS_NAMED = 4


def stream_label(cause: Record) -> str:
    """A ``Cause`` as commands call its stream: 'age [region=north]'."""
    segment = cause.get("segment", "")
    return f"{cause['stream']} [{segment}]" if segment else str(cause["stream"])


def stream_name(cause: Record) -> Line:
    """How the stream of a ``Cause`` is called in a sentence: 'age in region=north', 'how a and b go together'."""
    name, segment = _whole_name(cause), cause.get("segment", "")
    return line(*name.parts, " in ", value(segment)) if segment else name


def _whole_name(cause: Record) -> Line:
    stream, role, inputs = cause["stream"], cause["role"], cause.get("inputs", ())
    if role in OUTCOME_ROLES:
        return line(*outcome_name(cause))
    if role == HUMILITY_ROLE:
        return line(*humility_name(cause))
    if role == RATE_ROLE:
        return line("the rate of rows")
    if role == QUALITY_ROLE:
        if stream == SCHEMA:
            return line("rows that cannot be read")
        return line("unusable values of ", *_in_a_phrase(stream.removeprefix(QUALITY_PREFIX)))
    if role == JOINT_ROLE and inputs:
        return line("how ", *_listed(inputs), " go together")
    if role == ASSOCIATION_ROLE and len(inputs) == 2:
        return line("how ", *_in_a_phrase(inputs[1]), " follows ", *_in_a_phrase(inputs[0]))
    return _column_name(stream, inputs)


def _column_name(stream: str, inputs: Sequence[str]) -> Line:
    named = {
        "prediction": "predicted value",
        "prediction_label": "predicted class",
        LATENCY: "latency",
        ERROR: "errors",
    }
    if stream in named:
        return line(named[stream])
    if stream.startswith("probability:"):
        return line("predicted probability of ", value(stream.removeprefix("probability:")))
    if len(inputs) == 1 and stream.startswith(f"{inputs[0]}."):
        what = stream[len(inputs[0]) + 1 :]
        if what in _COMPUTED:
            before, after = _COMPUTED[what]
            return line(before, value(inputs[0]), after)
        return line(value(what.replace("_", " ")), " of ", value(inputs[0]))
    return line(value(stream))


def _in_a_phrase(column: str) -> tuple[str, ...]:
    """The same after a preposition: 'the predicted value', but 'income'."""
    parts = _column_name(column, ()).parts
    return parts if isinstance(parts[0], Value) else ("the ", *parts)


def _listed(names: Sequence[str]) -> tuple[str, ...]:
    """'a, b and c', or 'a, b, c and 9 more'."""
    shown: list[str] = []
    for name in names[:_INPUTS_NAMED]:
        shown += [", ", *_column_name(name, ()).parts]
    more = len(names) - _INPUTS_NAMED
    if more > 0:
        shown.append(f" and {more} more")
    elif len(names) > 1:
        shown[-2] = " and "
    return tuple(shown[1:])


def unit(cause: Record) -> str:
    """What the counts of a ``Cause`` count: 'rows', 'outcomes', or 'intervals of 5 minutes'."""
    if cause["role"] in OUTCOME_ROLES:
        return outcome_unit(cause)
    if cause["role"] == HUMILITY_ROLE:
        return humility_unit(cause)
    if cause["role"] != RATE_ROLE:
        return "rows"
    seconds = cause.get("interval_ms", 0) // 1000
    length = _INTERVALS.get(seconds, f"{seconds:,} seconds" if seconds > 0 else "")
    if not length:
        return "intervals of time"
    article = "" if length[0].isdigit() else "an " if length == "hour" else "a "
    return f"intervals of {article}{length}"


def counted(cause: Record) -> str:
    """The same where it is said what holds for them: 'predictions that still waited'."""
    return waiting(cause) if cause["role"] in OUTCOME_ROLES else unit(cause)


def telling(cause: Record) -> tuple[Statement, int] | None:
    """The most telling statement about a ``Cause``, and of how many rows (or intervals); None when it has no counts."""
    found = shares(cause)
    if found is None:
        return None
    observed, expected, total = found
    return max(_statements(cause, observed, expected), key=lambda s: s.divergence_nats), total


def reading(cause: Record) -> Line | None:
    """The most telling statement as shares: '62 % of rows lie above …, expected 10 %'; None without counts."""
    whole = shares(cause)
    group = None if whole is None else rate_reading(cause, *whole[:2])
    if group is not None:
        return group
    found = telling(cause)
    if found is None:
        return None
    best, _ = found
    of = f"{percent(best.observed)} of {counted(cause)} "
    return line(of, *best.words, f", expected {expected_share(best.expected)}")


def moved(cause: Record) -> str:
    """To which side a stream of outcomes moved, in a sentence; empty where to none, and for other streams."""
    found = shares(cause)
    return "" if found is None else moved_text(cause, *found[:2])


def shares(cause: Record) -> tuple[list[float], list[float], int] | None:
    """Observed and expected share per bin, and how many were observed; None without counts."""
    observed_rows = [max(int(n), 0) for n in cause["observed"]]
    expected = [e if math.isfinite(e) and e > 0 else 0.0 for e in cause["expected"]]
    total, expected_total = sum(observed_rows), sum(expected)
    if not total or expected_total <= 0 or not len(cause["bins"]) == len(observed_rows) == len(expected):
        return None
    return [n / total for n in observed_rows], [e / expected_total for e in expected], total


def _statements(cause: Record, observed: Sequence[float], expected: Sequence[float]) -> Iterator[Statement]:
    labels, role = list(cause["bins"]), cause["role"]
    if role in OUTCOME_ROLES and (about := outcome_statements(cause, observed, expected)) is not None:
        return about
    if role == HUMILITY_ROLE and (about := humility_statements(cause, observed, expected)) is not None:
        return about
    if role == QUALITY_ROLE and len(labels) == QUALITY.size:
        kinds = range(QUALITY_VALID + 1, QUALITY.size)
        return (Statement((_QUALITY[i],), observed[i], expected[i]) for i in kinds)
    if role == ASSOCIATION_ROLE and len(labels) == ASSOCIATION.size:
        return _pairs(cause, observed, expected)
    if not is_numeric(labels):
        return _categorical(labels, observed, expected, errors=cause["stream"] == ERROR)
    if role == RATE_ROLE:
        return _rate(labels, observed, expected)
    if role == JOINT_ROLE:  # a distance has no unit that anybody knows
        return _numeric([""] * len(labels), observed, expected, "lie, by their distance from the usual row,")
    return _numeric(labels, observed, expected, unit=" ms" if cause["stream"] == LATENCY else "")


def is_numeric(labels: Sequence[str]) -> bool:
    """Whether bins are those of the numeric layout (the record does not say): their number, and no bin for unseen
    categories.
    """
    return len(labels) == NUMERIC.size and not any(label.strip("()").lower() == "unseen" for label in labels[-3:])


def _numeric(
    labels: Sequence[str], observed: Sequence[float], expected: Sequence[float], lie: str = "lie", unit: str = ""
) -> Iterator[Statement]:
    yield statement(observed, expected, ("have no value",), [NUMERIC_MISSING])
    yield statement(observed, expected, (f"{lie} below everything in the reference",), [BELOW_MIN])
    yield statement(observed, expected, (f"{lie} above everything in the reference",), [ABOVE_MAX])
    for decile in range(1, CORE_BINS):
        cut = FIRST_CORE + decile
        name = _ORDINALS[decile]
        edge = _edge(labels, cut)
        at = () if edge is None else (" (", Value(f"{_rounded(edge)}{unit}"), ")")
        above, below = range(cut, NUMERIC_MISSING), range(cut)
        yield statement(observed, expected, (f"{lie} above the reference's {name} decile", *at), above)
        yield statement(observed, expected, (f"{lie} below the reference's {name} decile", *at), below)
    for decile in range(1, CORE_BINS // 2):
        low, high = FIRST_CORE + decile, FIRST_CORE + CORE_BINS - decile
        between = f"the reference's {_ORDINALS[decile]} and {_ORDINALS[CORE_BINS - decile]} decile"
        outside = [*range(low), *range(high, NUMERIC_MISSING)]
        yield statement(observed, expected, (f"{lie} outside {between}",), outside)
        yield statement(observed, expected, (f"{lie} between {between}",), range(low, high))


def _rate(labels: Sequence[str], observed: Sequence[float], expected: Sequence[float]) -> Iterator[Statement]:
    """Of intervals of time: their rows over what is usual at that hour."""
    yield statement(observed, expected, ("had fewer rows than any in the reference, or none",), [BELOW_MIN])
    yield statement(observed, expected, ("had more rows than any in the reference",), [ABOVE_MAX])
    for cut in range(FIRST_CORE + 1, FIRST_CORE + CORE_BINS):
        edge = _edge(labels, cut)
        if edge is not None and edge > 0:
            usual = f"{percent(edge)} of the usual number of rows"
            yield statement(observed, expected, (f"had less than {usual}",), range(cut))
            yield statement(observed, expected, (f"had more than {usual}",), range(cut, NUMERIC_MISSING))


def _rounded(edge: float) -> str:
    return f"{edge:,.0f}" if 1_000 <= abs(edge) < 1e15 else f"{edge:.4g}"


def _edge(labels: Sequence[str], cut: int) -> float | None:
    """The value at a decile, where the label of the bin above it begins with one."""
    words = labels[cut].strip("[( ").replace(",", " ").split()
    try:
        edge = float(words[0]) if words else math.nan
    except ValueError:
        return None
    return edge if math.isfinite(edge) else None


def _pairs(cause: Record, observed: Sequence[float], expected: Sequence[float]) -> Iterator[Statement]:
    """Of rows: in which third of the reference the feature and the prediction are."""
    inputs = cause.get("inputs", ())
    feature, target = inputs if len(inputs) == 2 else (cause["stream"], "prediction")
    for i, low in enumerate(THIRDS):
        for j, high in enumerate(THIRDS):
            words = (f"have a {low} ", *_column_name(feature, ()).parts, f" and a {high} ")
            cell = len(THIRDS) * i + j
            yield Statement((*words, *_column_name(target, ()).parts), observed[cell], expected[cell])
    yield statement(observed, expected, ("lack one of the two",), [ASSOCIATION_MISSING])


def _categorical(
    labels: Sequence[str], observed: Sequence[float], expected: Sequence[float], *, errors: bool
) -> Iterator[Statement]:
    reserved_words = _RESERVED_ERRORS if errors else _RESERVED
    for position, label in enumerate(labels):
        reserved = reserved_words.get(label.strip("()").lower()) if position >= len(labels) - 3 else None
        words = (reserved,) if reserved else ("failed with " if errors else "are ", value(label))
        if not (errors and reserved == _RESERVED_ERRORS["missing"]):
            yield Statement(words, observed[position], expected[position])
    if errors:
        yield Statement(("failed",), sum(observed[:-1]), sum(expected[:-1]))
