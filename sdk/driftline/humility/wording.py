"""Humility rules in words: what the command line, alerts and messages to callers say of them.

Names and values out of a specification are quoted as Python does it, so no control character gets through.
"""

from __future__ import annotations

from collections.abc import Sequence

from driftline.humility.rules import (
    ALL_OF,
    ANY_OF,
    BY_CLIP,
    BY_LABEL,
    BY_PRIOR,
    BY_VALUE,
    CERTIFIED,
    CHALLENGER_DISAGREEMENT,
    IN_ALARM,
    INTERVAL_WIDTH,
    LOW_OBSERVATION_REGION,
    MISSING_INPUT,
    NOT,
    NOVEL_INPUT,
    OUTLYING_INPUT,
    OVERRIDE,
    PREDICTION_OUT_OF_RANGE,
    RECORD,
    REFUSE,
    SCORE,
    SET_SIZE,
    STALE_INPUT,
    UNCERTAIN_PREDICTION,
    Condition,
    Override,
    Rule,
)

MOST_NAMED = 5
"""Of longer lists the beginning is told."""

_MOST_CHARACTERS = 80


def describe(rule: Rule) -> str:
    """A rule in one sentence: when it fires, and what it does."""
    words = f"{rule.name}: when {describe_condition(rule.when)}, {describe_action(rule)}"
    return printable(words + (" (dry run)" if rule.dry_run else ""))


def describe_action(rule: Rule) -> str:
    """What a rule does when it fires."""
    if rule.action == RECORD:
        return "record it"
    if rule.action == REFUSE:
        return "refuse the prediction"
    if rule.action == OVERRIDE and rule.override is not None:
        return _served(rule.override)
    return f"route it to {rule.route_to}" if rule.route_to else "route it to a human"


def _served(override: Override) -> str:
    if override.kind == BY_VALUE:
        return f"serve {override.value!r}"
    if override.kind == BY_LABEL:
        return f"serve {_quoted(override.label)}"
    if override.kind == BY_CLIP:
        ends = _between(override.low, override.high)
        return f"serve the prediction clipped to {ends or 'the fitted range of predictions'}"
    return "serve what is usual" if override.kind == BY_PRIOR else f"serve the answer of version {override.version!r}"


def message_of(rule: Rule) -> str:
    """What a caller is told: the rule's own message, or when it fires."""
    return rule.message or printable(describe_condition(rule.when))


def describe_condition(condition: Condition) -> str:
    """When a condition holds, as a clause."""
    if condition.trigger == NOT:
        return " and ".join(f"not ({describe_condition(each)})" for each in condition.conditions)
    if condition.trigger in (ALL_OF, ANY_OF):
        word = " and " if condition.trigger == ALL_OF else " or "
        clauses = [
            f"({describe_condition(each)})" if each.trigger in (ALL_OF, ANY_OF) else describe_condition(each)
            for each in condition.conditions
        ]
        return word.join(clauses)
    return _LEAVES[condition.trigger](condition) if condition.trigger in _LEAVES else printable(condition.trigger)


def printable(text: str) -> str:
    """The same text with every control character and line break as an escape: nothing a terminal would act on."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _uncertain(condition: Condition) -> str:
    measure, low, high = condition.measure, condition.low, condition.high
    if measure == SCORE:
        return f"the score is in {_between(low, high) or 'any range'}, or unknown"
    if measure == CERTIFIED:
        return "the confidence is below the certified one, or unknown"
    if measure == SET_SIZE:
        return "the prediction set has other than one class, or is unknown"
    if measure == INTERVAL_WIDTH:
        return f"the interval is wider than {_number(high)}, or unknown"
    return f"the {measure} is below {_number(low)}, or unknown"


def _outlying(condition: Condition) -> str:
    outside = _outside(condition.low, condition.high) or "outside of the fitted bounds"
    return f"{_any_of(condition.columns, 'a numeric feature')} is {outside}"


def _rare(condition: Condition) -> str:
    columns = _joined(condition.columns, " and ")
    if condition.values:
        return f"{columns} is {_joined(condition.values, ' or ')}"
    seen = "was never seen" if condition.least <= 1 else f"was seen on fewer than {condition.least:,} rows"
    return f"the value of {columns} {seen} in the reference"


def _missing(condition: Condition) -> str:
    if len(condition.columns) == 1:
        return f"{_joined(condition.columns, '')} is missing"
    of = f"of {_joined(condition.columns, ', ')}" if condition.columns else "of the watched features"
    return f"at least {condition.least:,} {of} {'is' if condition.least == 1 else 'are'} missing"


def _stale(condition: Condition) -> str:
    age = "no" if condition.older_than_ms is None else _duration(condition.older_than_ms)
    return f"the time in {_any_of(condition.columns, 'a feature')} is more than {age} old"


def _out_of_range(condition: Condition) -> str:
    return f"the prediction is {_outside(condition.low, condition.high) or 'outside of the fitted range'}"


def _disagreement(condition: Condition) -> str:
    who = f"version {_joined(condition.values, ' or ')}" if condition.values else "a challenger"
    by = "" if condition.high is None else f", or differs by more than {_number(condition.high)}"
    return f"{who} predicts another class{by}"


def _alarmed(condition: Condition) -> str:
    if not condition.values:
        return "the deployment is in alarm"
    return f"the deployment is in alarm about {' or '.join(name.replace('_', ' ') for name in condition.values)}"


_LEAVES = {
    UNCERTAIN_PREDICTION: _uncertain,
    OUTLYING_INPUT: _outlying,
    NOVEL_INPUT: lambda condition: "the input is novel",
    LOW_OBSERVATION_REGION: _rare,
    MISSING_INPUT: _missing,
    STALE_INPUT: _stale,
    PREDICTION_OUT_OF_RANGE: _out_of_range,
    CHALLENGER_DISAGREEMENT: _disagreement,
    IN_ALARM: _alarmed,
}


def _between(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    if low is None or high is None:
        return f"at most {_number(high)}" if low is None else f"at least {_number(low)}"
    return f"{_number(low)} to {_number(high)}"


def _outside(low: float | None, high: float | None) -> str:
    ends = [f"below {_number(low)}"] if low is not None else []
    return " or ".join([*ends, f"above {_number(high)}"] if high is not None else ends)


def _number(value: float | None) -> str:
    return "an unknown bound" if value is None else f"{value:.6g}"


def _quoted(text: str | None) -> str:
    if text is None:
        return "nothing"
    return repr(text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…")


def _joined(names: Sequence[str], word: str) -> str:
    told = [_quoted(name) for name in names[:MOST_NAMED]]
    if len(names) > MOST_NAMED:
        told.append(f"{len(names) - MOST_NAMED} more")
    return word.join(told)


def _any_of(names: Sequence[str], otherwise: str) -> str:
    return _joined(names, " or ") if names else otherwise


def _duration(milliseconds: int) -> str:
    for size, unit in ((86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1000, "second")):
        if milliseconds >= size:
            return f"{milliseconds / size:.4g} {unit}{'' if milliseconds == size else 's'}"
    return f"{milliseconds} ms"
