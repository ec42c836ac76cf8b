"""What an alarm of the monitor of humility says: rules that fire at another rate than when they were fitted, intervals
that hold less, applications that decide by other rules than those in force.

Each stream counts yes and no. Names of rules come from the specification and are set apart like all text from data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from driftline.codec import Record
from services.alerting.words.statements import Statement
from services.alerting.words.text import Value, command, value
from streams.counting import MISCOVERAGE
from streams.humility.evidence import ABSTAINED, DISAGREEMENT, OVERRIDDEN_STREAM, RULE_PREFIX, YES

_NAMES = {
    ABSTAINED: "the share of predictions that are refused or routed to people",
    OVERRIDDEN_STREAM: "the share of predictions that are overridden",
    DISAGREEMENT: "the share of decisions that are not those of the rules in force",
    MISCOVERAGE: "the share of actual values outside of the fitted intervals",
}
_HOLDS = {
    ABSTAINED: "are refused or routed to people",
    OVERRIDDEN_STREAM: "are overridden",
    DISAGREEMENT: "were decided otherwise than the rules in force say",
    MISCOVERAGE: "lie outside of the intervals or prediction sets that were fitted",
}
_NO_LONGER = ": what they guarantee rests on traffic like that of the fit, and that no longer holds"
_LOOK = (
    "; look at the alarms on inputs, data and outcomes of the same time: if something is broken, mend it, and the "
    "guarantees hold again"
)
_COVERAGE = (
    "; intervals and prediction sets of fixed size no longer hold what they promise, adaptive ones follow on their own "
    "as outcomes come"
)
_PUBLISHERS = (
    "; see that their clients reach Kafka, restart those that do not follow, bring older releases up to date. Until "
    "then what they answer is not what the rules say. The alarm ends when they decide by the rules in force"
)


def humility_name(cause: Record) -> tuple[str, ...]:
    """How a stream of humility is called in a sentence: 'how often the rule storm fires'."""
    stream = str(cause["stream"])
    rule = _rule(stream)
    if rule is not None:
        return ("how often the rule ", rule, " fires")
    return (_NAMES[stream],) if stream in _NAMES else (value(stream),)


def humility_unit(cause: Record) -> str:
    """What the counts of a stream of humility count."""
    return "outcomes" if cause["stream"] == MISCOVERAGE else "predictions"


def humility_statements(
    cause: Record, observed: Sequence[float], expected: Sequence[float]
) -> Iterator[Statement] | None:
    """What holds for how many, shares by bin; None where nothing is counted by yes and no."""
    labels = [str(label).strip("()").lower() for label in cause["bins"]]
    if YES not in labels:
        return None
    position, stream = labels.index(YES), str(cause["stream"])
    rule = _rule(stream)
    words = ("fire the rule ", rule) if rule is not None else (_HOLDS.get(stream, "are so that it says yes"),)
    return iter([Statement(words, observed[position], expected[position])])


def humility_words(cause: Record | None, found: Statement | None, deployment: Value) -> tuple[str, ...]:
    """What has changed, by the strongest cause and what it says."""
    stream = "" if cause is None else str(cause["stream"])
    if stream == DISAGREEMENT:
        return ("Applications decide otherwise than the humility rules of ", deployment, " in force say")
    if found is None or found.observed == found.expected:
        return ("The humility rules of ", deployment, " no longer act as when they were fitted", _NO_LONGER)
    often = "more often" if found.observed > found.expected else "less often"
    if stream == MISCOVERAGE:
        held = "less often" if found.observed > found.expected else "more often"
        return ("The fitted intervals of ", deployment, f" hold the actual values {held} than they did", _NO_LONGER)
    what = {ABSTAINED: "refuse predictions or route them to people", OVERRIDDEN_STREAM: "override predictions"}
    return ("The humility rules of ", deployment, f" {what.get(stream, 'fire')} {often} than they did", _NO_LONGER)


def humility_steps(record: Record, since: str) -> tuple[str, ...]:
    """What to do next, and what ends the alarm, by the strongest cause. ``since``: a day after the change, as commands
    take it.
    """
    deployment, causes = record["deployment_id"], record["causes"]
    stream = str(causes[0]["stream"]) if causes else ""
    if stream == DISAGREEMENT:
        show = command("humility show", deployment)
        return ("see which rules are in force and give them to the publishers: ", show, _PUBLISHERS)
    report = ("see what the rules catch and cost: ", command("humility report", deployment))
    fit = command("humility fit", deployment, "--version", record["model_version"], "--from", since)
    coverage = (_COVERAGE,) if stream == MISCOVERAGE else ()
    return (*report, _LOOK, *coverage, ". If this is how things are to be, fit again: ", fit)


def _rule(stream: str) -> Value | None:
    """The rule that a stream is about."""
    return value(stream.removeprefix(RULE_PREFIX)) if stream.startswith(RULE_PREFIX) else None
