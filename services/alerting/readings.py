"""What a changed distribution says, in a sentence.

Of all the simple statements about where the rows are ("above the 9th decile", "missing", "category X") the one is
told that sets observed and expected apart most: the largest binary Kullback-Leibler divergence
``o log(o/e) + (1-o) log((1-o)/(1-e))`` between the observed share ``o`` and the expected share ``e``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from driftline.codec import Record
from services.alerting.text import Line, Value, line, value
from streams.statistics.layouts import ABOVE_MAX, BELOW_MIN, CORE_BINS, FIRST_CORE, NUMERIC, NUMERIC_MISSING

_ORDINALS = ("", "1st", "2nd", "3rd", *(f"{n}th" for n in range(4, CORE_BINS)))
_RESERVED = {
    "missing": "have no value",
    "unseen": "have a value the reference never had",
    "other": "have one of the rarer categories",
}
_LEAST_SHARE = 1e-6


@dataclass(frozen=True, slots=True)
class Statement:
    """``words``: what holds for the rows ("lie above …"); shares 0 to 1 of all rows."""

    words: tuple[str, ...]
    observed: float
    expected: float

    @property
    def divergence_nats(self) -> float:
        """How much the statement sets observed and expected apart."""
        o = min(max(self.observed, 0.0), 1.0)
        e = min(max(self.expected, _LEAST_SHARE), 1 - _LEAST_SHARE)
        return (o * math.log(o / e) if o > 0 else 0.0) + ((1 - o) * math.log((1 - o) / (1 - e)) if o < 1 else 0.0)


def percent(share: float) -> str:
    """A share 0 to 1 as people write it: '62 %', '0.4 %', 'under 0.01 %'."""
    if not math.isfinite(share):
        return "an unknown share"
    p = 100 * share
    if p == 0 or p >= 9.95:
        return f"{p:.0f} %"
    if p < 0.01:
        return "under 0.01 %"
    return f"{p:.1f} %" if p >= 0.1 else f"{p:.2g} %"


def stream_name(stream: str) -> Line:
    """How a stream is called in a sentence."""
    if stream == "prediction":
        return line("predicted value")
    if stream == "prediction_label":
        return line("predicted class")
    if stream.startswith("probability:"):
        return line("predicted probability of ", value(stream.removeprefix("probability:")))
    return line(value(stream))


def reading(cause: Record) -> Line | None:
    """The most telling statement about a ``Cause``: '62 % of rows lie above …, expected 10 %'; None when it has no
    counts.
    """
    observed_rows = [max(int(n), 0) for n in cause["observed"]]
    expected = [e if math.isfinite(e) and e > 0 else 0.0 for e in cause["expected"]]
    labels = list(cause["bins"])
    total, expected_total = sum(observed_rows), sum(expected)
    if not total or expected_total <= 0 or not len(labels) == len(observed_rows) == len(expected):
        return None
    observed = [n / total for n in observed_rows]
    expected = [e / expected_total for e in expected]
    statements = (
        _numeric(labels, observed, expected) if is_numeric(labels) else _categorical(labels, observed, expected)
    )
    best = max(statements, key=lambda s: s.divergence_nats)
    return line(f"{percent(best.observed)} of rows ", *best.words, f", expected {percent(best.expected)}")


def is_numeric(labels: Sequence[str]) -> bool:
    """Whether bins are those of the numeric layout (the record does not say): their number, and no bin for unseen
    categories.
    """
    return len(labels) == NUMERIC.size and not any(label.strip("()").lower() == "unseen" for label in labels[-3:])


def _numeric(labels: Sequence[str], observed: Sequence[float], expected: Sequence[float]) -> Iterator[Statement]:
    def statement(words: tuple[str, ...], bins: Sequence[int]) -> Statement:
        return Statement(words, sum(observed[i] for i in bins), sum(expected[i] for i in bins))

    yield statement(("have no value",), [NUMERIC_MISSING])
    yield statement(("lie below everything in the reference",), [BELOW_MIN])
    yield statement(("lie above everything in the reference",), [ABOVE_MAX])
    for decile in range(1, CORE_BINS):
        cut = FIRST_CORE + decile
        name = _ORDINALS[decile]
        yield statement((f"lie above the reference's {name} decile", *_edge(labels, cut)), range(cut, NUMERIC_MISSING))
        yield statement((f"lie below the reference's {name} decile", *_edge(labels, cut)), range(cut))
    for decile in range(1, CORE_BINS // 2):
        low, high = FIRST_CORE + decile, FIRST_CORE + CORE_BINS - decile
        between = f"the reference's {_ORDINALS[decile]} and {_ORDINALS[CORE_BINS - decile]} decile"
        outside = [*range(low), *range(high, NUMERIC_MISSING)]
        yield statement((f"lie outside {between}",), outside)
        yield statement((f"lie between {between}",), range(low, high))


def _edge(labels: Sequence[str], cut: int) -> tuple[str, ...]:
    """The value at a decile, where the label of the bin above it begins with one."""
    words = labels[cut].strip("[( ").replace(",", " ").split()
    if not words:
        return ()
    try:
        edge = float(words[0])
    except ValueError:
        return ()
    return (" (", Value(f"{edge:g}"), ")")


def _categorical(labels: Sequence[str], observed: Sequence[float], expected: Sequence[float]) -> Iterator[Statement]:
    for position, label in enumerate(labels):
        reserved = _RESERVED.get(label.strip("()").lower()) if position >= len(labels) - 3 else None
        words = (reserved,) if reserved else ("are ", value(label))
        yield Statement(words, observed[position], expected[position])
