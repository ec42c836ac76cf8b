"""What humility did in the demonstration: decisions, what they were worth, and how often intervals held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from driftline.humility.rules import ACTIONS
from services.demo.accuracy import FEWEST_ROWS
from services.demo.wording import when
from services.performance.windows import ALL

Document = Mapping[str, Any]
Numbers = Mapping[str, Any]
"""A figure: ``value``, ``low``, ``high`` and ``rows``."""

PROMISED = 0.9
"""The share of arrivals that the specification wants inside of the intervals."""

NOTHING: Numbers = {"value": None, "low": None, "high": None, "rows": 0}

_LINES = {
    "without": "without humility",
    "with": "with humility",
    "answered": "answered",
    "overridden": "overridden",
    "served": "overridden (served)",
    "refused": "refused",
    "routed": "routed",
}
"""Lines of the report by what the demonstration calls them."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided of the predictions of one month, or of all, and what is known of it.

    Attributes:
        label: The month.
        rows: Predictions.
        actions: How many of them were answered, overridden, refused and routed.
        accuracy: ``without`` humility (all that the model said), ``with`` (what was served), what the model said where
            it was ``answered``, ``overridden``, ``refused`` and ``routed``, and what was ``served`` where overridden.
        final: Whether no outcome is waited for.
    """

    label: str
    rows: int
    actions: Mapping[str, int]
    accuracy: Mapping[str, Numbers]
    final: bool


@dataclass(frozen=True, slots=True)
class RuleFacts:
    """What a rule did, caught and cost.

    Attributes:
        name: Its name.
        action: What it does; with ``dry run`` where it never acts.
        fired: Predictions on which it fired.
        acted: Of these, those on which it was the rule that acted.
        caught: Of those on which it fired and that have an outcome, predictions of the model that were wrong.
        cost: The same, right.
        error: Share of wrong ones among both.
        elsewhere: The same of all others.
        verdict: What is to be done with it.
    """

    name: str
    action: str
    fired: int
    acted: int
    caught: int
    cost: int
    error: Numbers
    elsewhere: Numbers
    verdict: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often the intervals of one month held the actual value.

    Attributes:
        label: The month.
        static: Of the interval that the reference asks for.
        adaptive: Of the one that learns from outcomes.
        width: Mean width of the adaptive one, minutes.
        final: Whether no outcome is waited for.
    """

    label: str
    static: Numbers
    adaptive: Numbers
    width: float | None
    final: bool


@dataclass(frozen=True)
class HumilityFacts:
    """What humility did in a run.

    Attributes:
        asked: Predictions by what the serving application was told to do.
        counted: The same as the streams counted them.
        disagreeing: Predictions that were decided otherwise than the rules say, or by rules not in force.
        months: Decisions of the classifier by month.
        whole: All of them.
        rules: The rules.
        coverage: Of the regression's intervals by month.
        guarantees: Deployment to sentences of what is guaranteed.
        most_errors: Share of the classifier's answers that may be wrong, by its certificate; None without one.
    """

    asked: Mapping[str, int]
    counted: Mapping[str, int]
    disagreeing: int
    months: tuple[Decisions, ...]
    whole: Decisions
    rules: tuple[RuleFacts, ...]
    coverage: tuple[Coverage, ...]
    guarantees: Mapping[str, tuple[str, ...]]
    most_errors: float | None = None

    @property
    def adaptive_helps(self) -> bool:
        """Whether no month's adaptive intervals were as far from what is promised as the worst of the static ones."""
        off = [
            [abs(numbers["value"] - PROMISED) for numbers in of if numbers["value"] is not None]
            for of in ([month.adaptive for month in self.coverage], [month.static for month in self.coverage])
        ]
        return all(off) and max(off[0]) < max(off[1])

    @property
    def certificate(self) -> str:
        """In which months the answers were as seldom wrong as was certified of unchanged traffic, in a sentence."""
        if self.most_errors is None:
            return ""
        wrong = {
            month.label: 1 - month.accuracy["answered"]["value"]
            for month in self.months
            if month.accuracy["answered"]["value"] is not None
        }
        kept = [label for label, share in wrong.items() if share <= self.most_errors]
        broken = [f"{label} ({share:.1%})" for label, share in wrong.items() if share > self.most_errors]
        return (
            f"Certified of traffic that does not change: at most {self.most_errors:.0%} of answers wrong. So it was in "
            f"{', '.join(kept) or 'no month'}; more were wrong in {', '.join(broken) or 'no month'}."
        )

    @property
    def overrides(self) -> str:
        """Whether what was served instead of the model's answer was better, in a sentence; empty where nothing was."""
        served, model = (self.whole.accuracy[name]["value"] for name in ("served", "overridden"))
        if served is None or model is None:
            return ""
        return (
            f"Where another answer was served instead of the model's it was right in {served:.3f}; the model would "
            f"have been in {model:.3f}."
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return asdict(self)


def humility_facts(
    report: Document, delays: Document, widths: Sequence[Document], asked: Mapping[str, int], shown: Sequence[Document]
) -> HumilityFacts:
    """What humility did.

    Args:
        report: What ``driftline humility report`` prints of the classifier.
        delays: The same of the regression.
        widths: What ``driftline windows show --metric adaptive_width`` prints of the regression, by month.
        asked: What the serving application was told to do, by action.
        shown: What ``driftline humility show`` printed of each deployment.
    """
    whole = report["all"]
    width_of = {document["start_us"]: _width(document) for document in widths}
    return HumilityFacts(
        asked=asked,
        counted={name: whole[name] for name in ACTIONS},
        disagreeing=whole["stale"] + whole["disagreeing"],
        months=tuple(decisions_of(month, _month(month)) for month in _large(report["months"])),
        whole=decisions_of(whole, "all"),
        rules=tuple(map(rule_facts, report["rules"])),
        coverage=tuple(coverage_of(month, width_of.get(month["start_us"])) for month in _large(delays["months"])),
        guarantees={document["deployment"]: _guarantees(document) for document in shown},
        most_errors=next((fit["max_error"] for document in shown for fit in _fits(document) if fit["max_error"]), None),
    )


def decisions_of(stretch: Document, label: str) -> Decisions:
    """What was decided in a time."""
    worth = {line["decision"]: line["loss"] for line in stretch["decisions"]}
    return Decisions(
        label=label,
        rows=stretch["rows"],
        actions={name: stretch[name] for name in ACTIONS},
        accuracy={name: _right(worth[line]) for name, line in _LINES.items()},
        final=not stretch["provisional"],
    )


def rule_facts(rule: Document) -> RuleFacts:
    """What a rule did."""
    return RuleFacts(
        name=rule["rule"],
        action=rule["action"] + (", dry run" if rule["dry_run"] else ""),
        fired=rule["fired"],
        acted=rule["acted"],
        caught=rule["caught"] or 0,
        cost=rule["cost"] or 0,
        error=rule["where_fired"]["loss"] or NOTHING,
        elsewhere=rule["elsewhere"]["loss"] or NOTHING,
        verdict=rule["verdict"],
    )


def coverage_of(month: Document, width: float | None) -> Coverage:
    """How often intervals held in a month."""
    found = month["coverage"] or {}
    static, adaptive = (found.get(name) or NOTHING for name in ("static", "adaptive"))
    return Coverage(_month(month), static, adaptive, width, not month["provisional"])


def _large(months: Sequence[Document]) -> list[Document]:
    return [month for month in months if month["rows"] > FEWEST_ROWS]


def _month(stretch: Document) -> str:
    return when(stretch["start_us"])[:7]


def _width(document: Document) -> float | None:
    part = next((part for part in document["parts"] if part["part"] == ALL), None)
    value: float | None = None if part is None else part["metrics"].get("adaptive_width", {}).get("value")
    return value


def _fits(document: Document) -> list[Document]:
    return [version["fit"] for version in document["versions"] if version.get("fit")]


def _guarantees(document: Document) -> tuple[str, ...]:
    """What was guaranteed of the one version that there is."""
    (version,) = document["versions"]
    return tuple(version["guarantees"])


def _right(error: Numbers | None) -> Numbers:
    """Share of right predictions from that of wrong ones."""
    if error is None:
        return NOTHING
    value, low, high = (None if error[end] is None else 1 - error[end] for end in ("value", "high", "low"))
    return {"value": value, "low": low, "high": high, "rows": error["rows"]}
