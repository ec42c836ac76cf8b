"""What outcomes told, from what ``driftline windows show --metric … --json`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.demo.wording import when
from services.performance.windows import ALL

Document = Mapping[str, Any]
Numbers = Mapping[str, Any]
"""A metric: ``value``, ``low``, ``high``; empty where there is none."""

FEWEST_ROWS = 1000
"""The year's last hours belong to January in UTC; a month of a few rows would only confuse."""

FAIRNESS_RATES = ("accuracy", "selection_rate", "true_positive_rate", "false_positive_rate")


@dataclass(frozen=True, slots=True)
class Period:
    """The accuracy of the predictions of one period.

    Attributes:
        label: Its month or day.
        predictions: Their number.
        coverage: Share of them with an outcome.
        usual: The same of the reference's when they were as old; None where that is not known.
        accuracy: Share of right predictions among those with an outcome.
        same_age: What the reference showed at the same ages of outcomes.
        estimate: What the scores alone promised.
        estimate_error: ``difference`` of estimate and truth, and whether that lay ``inside`` the estimate's interval;
            None where there is nothing to compare.
        doubted: Whether the estimate was marked as not to be believed.
        outside: ``above`` or ``below`` where the difference from the reference is more than chance.
        final: Whether nothing more is waited for.
        document: All that was printed of it.
    """

    label: str
    predictions: int
    coverage: float
    usual: float | None
    accuracy: Numbers
    same_age: Numbers
    estimate: Numbers
    estimate_error: Mapping[str, Any] | None
    doubted: bool
    outside: str
    final: bool
    document: Document


def periods(documents: Sequence[Document], *, by: str) -> list[Period]:
    """The periods that have enough rows, in order; ``by`` month or day."""
    found = []
    for document in documents:
        part = next((part for part in document["parts"] if part["part"] == ALL), None)
        if part is None or (by == "month" and part["predictions"] < FEWEST_ROWS) or not part["resolved"]:
            continue
        reading = part["metrics"]["accuracy"]
        found.append(
            Period(
                label=when(document["start_us"])[: 7 if by == "month" else 10],
                predictions=part["predictions"],
                coverage=part["coverage"],
                usual=document["expected_coverage"],
                accuracy=reading,
                same_age=reading["reference_at_same_age"],
                estimate=reading.get("estimate", {}),
                estimate_error=reading.get("estimate_error"),
                doubted=document.get("estimates_doubted") is not None,
                outside=reading["outside"],
                final=document["status"] == "final",
                document=document,
            )
        )
    return found


def joined(documents: Sequence[Document]) -> tuple[int, int]:
    """Predictions and outcomes in all windows together."""
    whole = [part for document in documents for part in document["parts"] if part["part"] == ALL]
    return sum(part["predictions"] for part in whole), sum(part["resolved"] for part in whole)


def worst(found: Sequence[Period]) -> Period | None:
    """The period with the lowest accuracy, of those that are final if any is."""
    final = [period for period in found if period.final] or list(found)
    return min(final, key=lambda period: period.accuracy["value"], default=None)


def estimate_missed(period: Period) -> bool:
    """Whether the truth lay outside the interval of the estimate."""
    return period.estimate_error is not None and not period.estimate_error["inside"]


def mean_absolute_error(found: Sequence[Period], *, doubted: bool) -> tuple[int, float] | None:
    """Number and mean absolute error of the estimates that were, or were not, marked; None without any."""
    errors = [
        abs(period.estimate_error["difference"])
        for period in found
        if period.final and period.doubted == doubted and period.estimate_error is not None
    ]
    return (len(errors), sum(errors) / len(errors)) if errors else None


def alarm_behind(found: Sequence[Period], alarms: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The alarm for which the estimate of the worst period is marked as not to be believed; None where there is none.

    Args:
        found: The periods.
        alarms: ``Alert`` records for concept drift that fired.
    """
    period = worst(found)
    doubt = None if period is None else period.document.get("estimates_doubted")
    if doubt is None:
        return None
    return next((alarm for alarm in alarms if alarm["detection_time_us"] == doubt["detection_time_us"]), None)


def lesson(found: Sequence[Period], alarms: Sequence[Mapping[str, Any]]) -> str:
    """What the worst period teaches, in a sentence or two; empty where its estimate was right.

    Args:
        found: The periods.
        alarms: ``Alert`` records for concept drift that fired.
    """
    period = worst(found)
    if period is None or not estimate_missed(period):
        return ""
    told = (
        f"In {period.label} the scores promised an accuracy of {limits(period.estimate)}; the outcomes showed "
        f"{limits(period.accuracy)}. No estimate from scores can see that the relation between inputs and outcome has "
        "changed; outcomes can"
    )
    alarm = alarm_behind(found, alarms)
    if alarm is None:
        return told + "."
    since, noticed = when(alarm["change_time_us"]), when(alarm["detection_time_us"])
    return f"{told}: since about {since} UTC, by an alarm at {noticed}. From then on the estimate is marked."


def limits(metric: Numbers) -> str:
    """A metric with its 95 % interval, for people."""
    if metric.get("value") is None:
        return "–"
    if metric.get("low") is None or metric.get("high") is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} ({metric['low']:.3f}–{metric['high']:.3f})"


@dataclass(frozen=True, slots=True)
class Group:
    """One part of the traffic as a group: its rates by name, and the measures by which it differs from the best one."""

    name: str
    rows: int
    rates: Mapping[str, Numbers]
    differs: Sequence[str]


def groups(period: Period) -> tuple[str, list[Group]]:
    """The segmentation that is compared, and its groups by their number of rows; none where nothing was asked for."""
    compared = period.document.get("fairness") or []
    if not compared:
        return "", []
    first = compared[0]
    differs: dict[str, list[str]] = {}
    for one in first["comparisons"]:
        measure = one["measure"].removesuffix("_difference").removesuffix("_ratio").replace("_", " ")
        if one["differs"] and measure not in differs.setdefault(one["group"], []):
            differs[one["group"]].append(measure)
    found = [
        Group(name.partition("=")[2], rates["selection_rate"]["rows"], rates, differs.get(name, []))
        for name, rates in first["rates"].items()
        if "selection_rate" in rates
    ]
    return first["segment"], sorted(found, key=lambda group: (-group.rows, group.name))


def calibration(period: Period) -> list[Mapping[str, Any]]:
    """The reliability curve of a period: ``predicted``, ``observed``, ``low``, ``high``, ``reference`` and ``rows``."""
    part = next(part for part in period.document["parts"] if part["part"] == ALL)
    return list(part.get("calibration", {}).get("groups", []))
