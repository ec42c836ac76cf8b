"""What is to be known of accuracy windows: their maturity, reference and estimates, and whom labels are of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.cli.windows import number_text
from services.event_time import rfc3339
from services.performance.names import COVERAGE
from services.performance.report import Reading, WindowReading, estimator_errors
from services.performance.windows import ALL, FINAL

if TYPE_CHECKING:
    from services.cli.performance import Request
    from services.performance.belief import ConceptAlarm, EstimatorError

ACTED, MIXED, WEIGHTED = "†", "‡", "§"
"""Marks of a window: decisions influence its labels, it has the bins of several baselines, outcomes have weights."""

DOUBTED, DISPROVED = "?", "!"
"""Marks of an estimate: an alarm speaks against it, what turned out does."""


def marks_of(item: WindowReading) -> str:
    """The marks that stand before a window."""
    found = [
        *([ACTED] if item.acted else []),
        *([MIXED] if item.window.mixed_edges else []),
        *([WEIGHTED] if item.weighted else []),
    ]
    return "".join(found)


def estimate_marks(item: WindowReading, reading: Reading) -> str:
    """The marks that stand behind an estimate."""
    if reading.estimate is None or reading.estimate.value is None:
        return ""
    return (DOUBTED if item.doubt is not None else "") + (DISPROVED if item.disproved(reading) else "")


def notes(readings: Sequence[WindowReading], metrics: Sequence[str], request: Request) -> list[str]:
    """Remarks below the tables.

    Args:
        readings: What is shown.
        metrics: The numbers among what is shown; those of groups and tables are not.
        request: What was asked for.
    """
    return [
        *_maturity(readings, metrics),
        *_comparison(readings, metrics),
        *_labels(readings),
        *(_estimates(readings, metrics) if request.estimate and set(metrics) - {COVERAGE} else []),
    ]


def has_estimates(readings: Sequence[WindowReading], metrics: Sequence[str]) -> bool:
    """Whether anything is estimated of these metrics."""
    return any(
        (found := part.readings.get(metric)) is not None
        and found.estimate is not None
        and found.estimate.value is not None
        for item in readings
        for part in item.parts
        for metric in metrics
    )


def final_text(waiting: Sequence[WindowReading]) -> str:
    """When the numbers of open windows will be final, and by when the reference lets expect nearly all outcomes."""
    last = max(waiting, key=lambda item: item.window.final_at_us)
    until = f"final on {rfc3339(last.window.final_at_us)[:10]}"
    if last.mature_at_us is not None:
        until = f"99 % of the outcomes are expected by {rfc3339(last.mature_at_us)[:10]}, {until}"
    return until if len(waiting) == 1 else f"of the last of them {until}"


def _maturity(readings: Sequence[WindowReading], metrics: Sequence[str]) -> list[str]:
    waiting = [item for item in readings if item.window.status != FINAL]
    if not waiting:
        return []
    if not metrics:
        return [f"open: of the outcomes so far, and those are no fair sample of all; {final_text(waiting)}"]
    return [
        "known: share of predictions with an outcome, usual: of the reference's when they were as old; what is "
        "open is of the outcomes so far, and those are no fair sample of all: compare with 'same age' only",
        f"open: {final_text(waiting)}",
    ]


def _comparison(readings: Sequence[WindowReading], metrics: Sequence[str]) -> list[str]:
    found = []
    compared = [metric for metric in metrics if metric != COVERAGE]
    parts = [part for item in readings for part in item.parts]
    if compared and not any(item.has_reference for item in readings):
        if any(len(item.window.baselines) > 1 for item in readings):
            found.append("nothing is compared with a reference where windows of several baselines are added up")
        else:
            found.append(
                "there is no reference: no baseline of these bins has outcomes; build one from rows with their "
                "outcomes: driftline baseline build DEPLOYMENT FILE --version V"
            )
    elif compared and any(part.part != ALL for part in parts):
        found.append("the reference is of all the traffic, and not kept by part")
    if any(part.readings[name].outside for part in parts for name in metrics if name in part.readings):
        found.append(
            "verdict (▼ worse and ▲ better where there is no room for the word): the difference from the reference is "
            "more than chance, each line on its own with 95 %; it describes, and never raises an alarm"
        )
    if any(item.window.mixed_edges for item in readings):
        found.append(
            f"{MIXED} windows with the score bins of several baselines: what is computed from score bins (areas under "
            "curves, calibration errors, lift) is not shown; the rest is exact"
        )
    return found


def _labels(readings: Sequence[WindowReading]) -> list[str]:
    """Whose labels are known at all, and what they stand for."""
    found = []
    resolved = sum(item.resolved for item in readings)
    acted, unknown = sum(item.acted for item in readings), sum(item.acted_unknown for item in readings)
    if acted:
        and_unknown = f", and of {unknown:,} nobody said so" if unknown else ""
        found.append(
            f"{ACTED} decisions influence their own labels: of {resolved:,} predictions with an outcome {acted:,} were "
            f"acted on{and_unknown}; outcomes may be effects of the decisions, or known only because of them "
            "(selective labels), and these numbers not the model's alone"
        )
    elif unknown:
        found.append(
            f"of {unknown:,} of {resolved:,} predictions with an outcome it is not known whether they were acted on "
            "(was_acted_on): if so, decisions influence their own labels"
        )
    weighted = [item for item in readings if item.weighted]
    if weighted:
        rows, effective = sum(item.resolved for item in weighted), sum(item.effective for item in weighted)
        found.append(
            f"{WEIGHTED} each outcome weighs one over its labelling probability: {rows:,} outcomes are worth "
            f"{effective:,.0f} that weigh the same (effective sample size), and so wide are the intervals"
        )
    return found


def _estimates(readings: Sequence[WindowReading], metrics: Sequence[str]) -> list[str]:
    if not has_estimates(readings, metrics):
        said = "nothing can be estimated here: it takes scores, or a model of the loss, and not every metric can be"
        return [said] if any(item.has_reference for item in readings) else []
    found = [
        "estimate: of all predictions, from their scores alone, valid only if the relation between scores and outcomes "
        "is that of the reference; an estimate without labels cannot see that this has changed, outcomes can: the "
        "monitor concept_drift watches it"
    ]
    alarms = dict.fromkeys(item.doubt for item in readings if item.doubt is not None)
    found += [f"{DOUBTED} not to be believed: {_alarm_text(alarm)}" for alarm in alarms]
    shown = [
        (i, part.readings[name]) for i in readings for part in i.parts for name in metrics if name in part.readings
    ]
    if any(item.disproved(reading) for item, reading in shown):
        found.append(f"{DISPROVED} disproved: what turned out lies outside its interval; by chance alone in one of 20")
    whole = all(part.part == ALL for item in readings for part in item.parts)
    for metric in metrics:
        for believed, error in estimator_errors(readings, metric).items():
            if error is not None:
                text = _error_text(error, "window" if whole else "part of a window", believed=believed)
                found.append(f"{metric}: {text}")
    return found


def _alarm_text(alarm: ConceptAlarm) -> str:
    moved = {
        "relation": "the relation between inputs and outcome moved",
        "outcome_rate": "the rate of outcomes moved",
        "inputs": "the inputs moved",
    }.get(alarm.diagnosis, "the outcomes are not those of the reference")
    until = "still open" if alarm.resolved_us is None else f"resolved on {rfc3339(alarm.resolved_us)[:10]}"
    return (
        f"alarm for concept drift of version {alarm.model_version}: {moved} about "
        f"{rfc3339(alarm.change_time_us)[:10]}, found on {rfc3339(alarm.detection_time_us)[:10]}, {until}"
    )


def _error_text(error: EstimatorError, what: str, *, believed: bool) -> str:
    whose = "estimates" if believed else f"estimates marked {DOUBTED}"
    direction = "too high" if error.mean > 0 else "too low"
    if error.windows == 1:
        return f"{whose} of the one final {what}: {number_text(error.largest)} {direction}"
    large = "; that is more than the intervals allow for: go by this error, not by them" if error.large else ""
    several = {"window": "windows"}.get(what, "parts of windows")
    return (
        f"{whose} of {error.windows} final {several} were off by {number_text(error.mean_absolute)} on average, by "
        f"{number_text(error.largest)} at most; {number_text(abs(error.mean))} {direction} on average; the truth lay "
        f"inside the estimate's interval in {error.inside}{large if believed else ''}"
    )
