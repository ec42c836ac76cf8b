"""Whether a humility rule earns its keep: a verdict by a stated test on what its predictions turned out to be worth.

The predictions on which a rule fired are compared with all others that were made while it was in force. Both are judged
by what the model said, so that it does not matter whether the rule was a dry run, or which rule acted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from streams.statistics.performance import shares
from streams.statistics.performance.metrics import Metric

KEEP, TIGHTEN, DROP, TOO_FEW = "keep", "tighten", "drop", "too few outcomes"

FEWEST = 30
"""Of fewer outcomes, on either side, nothing is said: intervals of shares are only good with some rows."""

LEAST_LIFT = 2.0
"""A rule that stops less than so many times as many errors as stopping at random would is to be tightened."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with a rule.

    Attributes:
        kind: ``keep``, ``tighten``, ``drop`` or ``too few outcomes`` to say.
        reason: Why, in words.
        difference: The error where it fired minus that elsewhere, and its 95 % limits; None where it cannot be told.
        lift: Error where it fired divided by that elsewhere, and its 95 % limits; the upper one may be infinite.
    """

    kind: str
    reason: str
    difference: tuple[float, float, float] | None = None
    lift: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Standard:
    """What a rule is held to.

    Attributes:
        margin: Differences of the error up to this one are of no interest, a share; of a regression's errors, a share
            of the error elsewhere.
        relative: Whether it is such a share: of errors that are no shares themselves.
        acceptable: An error that is guaranteed to be good enough; None where none is.
    """

    margin: float
    relative: bool = False
    acceptable: float | None = None


def rule_words(standard: Standard, *, with_values: bool) -> str:
    """The test, in one sentence each, as people are told it."""
    margin = f"{100 * standard.margin:.3g} % of the error elsewhere" if standard.relative else f"{standard.margin:.3g}"
    if with_values:
        good = "the mean value of what it stops is above 0"
    elif standard.acceptable is not None:
        good = f"the error where it fires is at most the {standard.acceptable:.3g} that is accepted"
    else:
        good = f"the error where it fires is less than {LEAST_LIFT:g} times that elsewhere"
    return (
        f"verdicts, each with 95 %: drop if the error where a rule fires is above that elsewhere by no more than "
        f"{margin}; else, if it surely is above, tighten if {good}, keep otherwise; too few outcomes if neither can be "
        f"told, or with fewer than {FEWEST} outcomes on either side; where only one rule overrides, it is dropped, "
        "too, if what it serves is surely worse than what it replaces"
    )


def judge(
    fired: Metric | None,
    elsewhere: Metric | None,
    standard: Standard,
    value: Metric | None = None,
    replaced: tuple[Metric, Metric] | None = None,
) -> Verdict:
    """The verdict on a rule.

    0. An override that surely serves worse answers than those it replaces does harm, whatever it finds, and is dropped.
    1. Fewer than :data:`FEWEST` outcomes on either side: nothing can be said.
    2. The upper limit of the difference of the two errors (:func:`streams.statistics.performance.shares.difference`) is
       at most the margin: the rule fires where the model is no worse than elsewhere, and is dropped.
    3. The lower limit is above 0. The rule finds errors; is it worth what it costs? With values: its predictions must
       not surely be worth something. With an error that is accepted: theirs must not surely be below it. Else it must
       not surely find less than :data:`LEAST_LIFT` times as many errors as stopping at random. If it does, it stops
       too much, and is tightened; else it is kept.
    4. Neither: more outcomes are needed.

    Args:
        fired: The model's error where the rule fired, with its interval and rows.
        elsewhere: The same of all other predictions of its time.
        standard: What it is held to.
        value: Mean value of the model's predictions where it fired; None where no values are declared.
        replaced: The error of what was served instead, and of what the model had said; None where the rule serves
            nothing, or nobody knows which of several did.
    """
    found = _by_errors(fired, elsewhere, standard, value)
    harm = None if replaced is None else surely_worse(*replaced)
    if harm is None:
        return found
    reason = f"what it serves is worse than what the model said, by {harm[0]:.3g} to {harm[1]:.3g}"
    return replace(found, kind=DROP, reason=reason)


def _by_errors(fired: Metric | None, elsewhere: Metric | None, standard: Standard, value: Metric | None) -> Verdict:
    if fired is None or elsewhere is None or fired.value is None or elsewhere.value is None:
        return Verdict(TOO_FEW, "no outcome on one of the two sides")
    if min(fired.rows, elsewhere.rows) < FEWEST:
        least, side = min((fired.rows, "where it fired"), (elsewhere.rows, "elsewhere"))
        return Verdict(TOO_FEW, f"{least:,} outcomes {side}, it takes {FEWEST}")
    ends = _limits(fired), _limits(elsewhere)
    if ends[0] is None or ends[1] is None:
        return Verdict(TOO_FEW, "the outcomes give no interval")
    low, high = shares.difference(fired.value, ends[0], elsewhere.value, ends[1])
    difference = fired.value - elsewhere.value, low, high
    lift = (
        None
        if elsewhere.value <= 0
        else (fired.value / elsewhere.value, *shares.ratio(fired.value, ends[0], elsewhere.value, ends[1]))
    )
    margin = standard.margin * elsewhere.value if standard.relative else standard.margin
    if high <= margin:
        return Verdict(DROP, "where it fires the model is no worse than elsewhere", difference, lift)
    if low <= 0:
        return Verdict(TOO_FEW, "the difference may be none, and may be some", difference, lift)
    loose = _too_loose(ends[0], lift, standard, value)
    return Verdict(TIGHTEN if loose else KEEP, loose or "it finds errors", difference, lift)


def surely_worse(one: Metric, other: Metric) -> tuple[float, float] | None:
    """The 95 % limits of how much larger one error is than another, if it surely is and there are rows enough."""
    ends = _limits(one), _limits(other)
    if one.value is None or other.value is None or min(one.rows, other.rows) < FEWEST:
        return None
    if ends[0] is None or ends[1] is None:
        return None
    low, high = shares.difference(one.value, ends[0], other.value, ends[1])
    return (low, high) if low > 0 else None


def _too_loose(
    fired: tuple[float, float], lift: tuple[float, float, float] | None, standard: Standard, value: Metric | None
) -> str:
    """Why what a rule stops is good enough to be answered; empty where it is not, or where that is not sure."""
    if value is not None:
        worth = value.low is not None and value.low > 0
        return "it finds errors, and what it stops is worth something all the same" if worth else ""
    if standard.acceptable is not None:
        return "it finds errors, and fewer than are accepted" if fired[1] <= standard.acceptable else ""
    few = lift is not None and lift[2] < LEAST_LIFT
    return f"it finds errors, and less than {LEAST_LIFT:g} times those of stopping at random" if few else ""


def _limits(metric: Metric) -> tuple[float, float] | None:
    return None if metric.low is None or metric.high is None else (metric.low, metric.high)
