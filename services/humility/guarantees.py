"""What a fit of humility rules guarantees, in words, and what it does not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from driftline.humility.arming import COVERAGE, NOVELTY, RISK
from driftline.humility.fit import ABSOLUTE_RESIDUAL, INTERVAL_EXCESS, ONE_MINUS_PROBABILITY, HumilityFit, Shortfall
from driftline.humility.policy import Policy
from driftline.humility.rules import Rule
from driftline.humility.wording import printable
from services.event_time import rfc3339
from streams.baseline import HUMILITY_ROLE, Baseline
from streams.humility.evidence import ABSTAINED, DISAGREEMENT, OVERRIDDEN_STREAM, RULE_PREFIX
from streams.humility.reference import runs
from streams.specification import REGRESSION, DeploymentSpec
from streams.statistics.humility import tracker_bound
from streams.statistics.performance.shares import wilson

OUTCOMES = (1_000, 10_000, 100_000)
"""Numbers of outcomes after which it is told how far long-run coverage can be off."""

POOLED = "all others"
"""What a pooled group is called beside groups of its own."""

TITLES = {NOVELTY: "novelty", RISK: "selective risk", COVERAGE: "coverage"}


def guarantee_sentences(fit: HumilityFit, task: str) -> list[str]:
    """What is guaranteed of all rows, or of those without a group of their own, a sentence each."""
    return [*_novelty(fit), *_risk(fit, task), *_coverage(fit, task)]


def caveats(fit: HumilityFit) -> list[str]:
    """When it holds, a sentence each."""
    found = []
    calibration = fit.rows - fit.learning_rows
    if fit.novelty_thresholds or fit.certificates:
        found.append(
            "novelty and selective risk hold only while nothing changes since calibration "
            f"({rfc3339(fit.first_event_us)[:10]} to {rfc3339(fit.last_event_us)[:10]}): the monitor humility looks "
            "for the change, and fitting again begins anew"
        )
        found.append(
            f"they take the {calibration:,} calibration rows as independent: rows that depend on their neighbours are "
            "worth fewer, and the confidence is then less than is said; what its arming says of the monitor humility "
            "shows whether they do"
        )
    if fit.coverage_starts:
        found.append(
            "long-run coverage holds whatever changes, on average over time: no single day is promised anything; each "
            "outcome that is awaited while another comes adds one to the outcomes it can be off by"
        )
    if len({group for group, *_ in group_rows(fit)}) > 1:
        found.append("each statement on a group has its own confidence: with twenty groups expect one not to hold")
    return found


def _novelty(fit: HumilityFit) -> list[str]:
    threshold = next((each for each in fit.novelty_thresholds if not each.segment), None)
    if threshold is None or fit.novelty_rate is None:
        return []
    return [
        f"novel_input fires on at most {percent(fit.novelty_rate)} of unchanged traffic{_of_group(fit)}, with "
        f"{percent(fit.confidence)} confidence: above a novelty score of {threshold.score:.4g} "
        f"(at most {percent(threshold.rate_bound)} by {threshold.rows:,} calibration rows)"
    ]


def _risk(fit: HumilityFit, task: str) -> list[str]:
    found = next((each for each in fit.certificates if not each.segment), None)
    if found is None or fit.max_error is None or math.isinf(found.threshold):
        return []  # what could not be certified stands under what is not guaranteed
    sure = "confidence" if task != REGRESSION else "confidence (minus the width of the model's interval)"
    error = "error" if task != REGRESSION else f"share of errors above {fit.tolerance or 0:g}"
    return [
        f"{error} among answered predictions{_of_group(fit)} at most {percent(fit.max_error)}, answered share at least "
        f"{percent(found.answered_bound, down=True)}, confidence {percent(fit.confidence)}: answered from a {sure} of "
        f"{found.threshold:.4g} on (at most {percent(found.error_bound)} by {found.errors:,} errors in "
        f"{found.answered:,} of {found.rows:,} calibration rows)"
    ]


def _coverage(fit: HumilityFit, task: str) -> list[str]:
    if not fit.coverage_starts or fit.coverage is None:
        return []
    what = "intervals" if task == REGRESSION else "prediction sets"
    bounds = [(known, tracker_bound(fit.score_range, fit.step, known)) for known in OUTCOMES]
    told = "; ".join(
        f"after {known:,} outcomes off by at most {percent(bound)}" for known, bound in bounds if bound < 1
    )
    if not told:
        told = f"with a step of {fit.step:.3g} it takes more than {OUTCOMES[-1]:,} outcomes to be told how far off"
    start = next((each for each in fit.coverage_starts if not each.segment), fit.coverage_starts[0])
    return [
        f"{what} hold the actual value in {percent(fit.coverage)} of cases in the long run whatever drifts: {told} "
        f"(the tracker starts from the static quantile {start.quantile:.4g} of {start.rows:,} calibration rows, "
        f"{_score_words(fit.coverage_score)}, with steps of {fit.step:.3g})"
    ]


def _score_words(score: str) -> str:
    return {
        ABSOLUTE_RESIDUAL: "the distance of actual and predicted value",
        INTERVAL_EXCESS: "how far outside of the model's interval the actual value is",
        ONE_MINUS_PROBABILITY: "one minus the probability of the actual class",
    }.get(score, printable(score))


def _of_group(fit: HumilityFit) -> str:
    of_parts = any(group for group, *_ in group_rows(fit))
    return " in parts without a guarantee of their own" if of_parts else ""


def group_rows(fit: HumilityFit) -> list[tuple[str, str, int, str]]:
    """Per group and guarantee: group, guarantee, calibration rows, and what holds of it. The pooled group is first."""
    rows = [
        (each.segment, NOVELTY, each.rows, f"fires on at most {percent(each.rate_bound)}, above {each.score:.4g}")
        for each in fit.novelty_thresholds
    ]
    for found in fit.certificates:
        text = "nothing is certified"
        if not math.isinf(found.threshold):
            text = (
                f"error at most {percent(found.error_bound)}, answered at least "
                f"{percent(found.answered_bound, down=True)}, from {found.threshold:.4g}"
            )
        rows.append((found.segment, RISK, found.rows, text))
    rows += [
        (start.segment, COVERAGE, start.rows, f"starts from {start.quantile:.4g}") for start in fit.coverage_starts
    ]
    return sorted(rows, key=lambda row: (row[0] != "", row[0]))


def shortfall_texts(fit: HumilityFit) -> list[str]:
    """What guarantees lack, in a sentence each."""
    return [_shortfall_text(each, _of_group(fit)) for each in fit.shortfalls]


def _shortfall_text(shortfall: Shortfall, pooled: str) -> str:
    of = f" of {shortfall.segment}" if shortfall.segment else pooled
    needed = (
        f", it takes {shortfall.needed:,} calibration rows, there are {shortfall.rows:,}" if shortfall.needed else ""
    )
    return printable(
        f"no guarantee of {TITLES.get(shortfall.guarantee, shortfall.guarantee)}{of}{needed}: "
    ) + printable(shortfall.reason)


@dataclass(frozen=True, slots=True)
class ExpectedRate:
    """How often something happens while nothing changes, by the calibration rows.

    Attributes:
        name: The rule, or ``refused or routed`` and ``overridden``.
        rows: Calibration rows.
        fired: Of these.
        low: Lower 95 % limit of the share (Wilson).
        high: Upper limit.
    """

    name: str
    rows: int
    fired: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Share of rows."""
        return self.fired / self.rows if self.rows else 0.0


ABSTENTION, OVERRIDES = "refused or routed", "overridden"


def expected_rates(baseline: Baseline) -> dict[str, ExpectedRate]:
    """The rates that a baseline expects: of rules under ``humility:rule:NAME``, and of what is not answered."""
    named = {ABSTAINED: ABSTENTION, OVERRIDDEN_STREAM: OVERRIDES}
    found = {}
    for stream in baseline.streams:
        if stream.role != HUMILITY_ROLE or stream.segment or stream.name == DISAGREEMENT:
            continue
        if stream.name in named or stream.name.startswith(RULE_PREFIX):
            fired, rows = int(stream.counts[0]), int(stream.counts.sum())
            low, high = wilson(fired / rows if rows else 0.0, rows)
            name = named.get(stream.name, stream.name.removeprefix(RULE_PREFIX))
            found[stream.name] = ExpectedRate(name, rows, fired, low, high)
    return found


def rule_rate(rates: dict[str, ExpectedRate], rule: Rule) -> ExpectedRate | None:
    """The rate that is expected of a rule; None where it was not fitted."""
    return rates.get(f"{RULE_PREFIX}{rule.name}")


def why_unarmed(policy: Policy | None, rule: Rule) -> str:
    """Why a rule never fires, or fires only in part; empty where it is armed."""
    lead = printable(f"rule {rule.name!r} ")
    texts = () if policy is None else policy.unarmed
    return next((text.removeprefix(lead) for text in texts if text.startswith(lead)), "")


def in_order_of_priority(rules: Sequence[Rule]) -> list[Rule]:
    """The rules as they are asked: by priority, then in order."""
    return [rule for _, rule in sorted(enumerate(rules), key=lambda each: (each[1].priority, each[0]))]


def is_current(spec: DeploymentSpec, fit: HumilityFit) -> bool:
    """Whether a fit was made for just these rules and guarantees."""
    return spec.humility is not None and fit.spec_digest == spec.humility.digest()


def fit_document(spec: DeploymentSpec, baseline: Baseline, policy: Policy | None) -> dict[str, Any]:
    """What a baseline's fit guarantees, for machines."""
    fit = baseline.humility
    if fit is None:
        return {"fit": None}
    rates = expected_rates(baseline)
    rules = spec.humility.rules if spec.humility else ()
    return {
        "fit": {
            "source": fit.source,
            "rows": fit.rows,
            "calibration_rows": fit.rows - fit.learning_rows,
            "first_event_us": fit.first_event_us,
            "last_event_us": fit.last_event_us,
            "of_these_rules": is_current(spec, fit),
            "confidence": fit.confidence,
            "novelty_rate": fit.novelty_rate,
            "max_error": fit.max_error,
            "tolerance": fit.tolerance,
            "coverage": fit.coverage,
            "coverage_score": fit.coverage_score,
            "score_range": fit.score_range,
            "step": fit.step,
            "novelty_thresholds": [dataclasses.asdict(each) for each in fit.novelty_thresholds],
            "certificates": [_finite(dataclasses.asdict(each)) for each in fit.certificates],
            "coverage_starts": [_finite(dataclasses.asdict(each)) for each in fit.coverage_starts],
            "coverage_off_by_at_most": {
                str(known): bound
                for known in OUTCOMES
                if fit.coverage_starts and math.isfinite(bound := tracker_bound(fit.score_range, fit.step, known))
            },
            "shortfalls": [dataclasses.asdict(each) for each in fit.shortfalls],
            "dependent_rows": runs(baseline),
        },
        "guarantees": guarantee_sentences(fit, spec.task),
        "caveats": caveats(fit),
        "expected": {rate.name: _rate(rate) for name, rate in rates.items() if not name.startswith(RULE_PREFIX)},
        "rules": [
            {
                "rule": rule.name,
                "unarmed": why_unarmed(policy, rule),
                "expected": None if (rate := rule_rate(rates, rule)) is None else _rate(rate),
            }
            for rule in rules
        ],
    }


def _rate(rate: ExpectedRate) -> dict[str, Any]:
    return {"rows": rate.rows, "fired": rate.fired, "share": rate.share, "low": rate.low, "high": rate.high}


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def percent(share: float, *, down: bool = False) -> str:
    """A share for people, three significant digits of percent; a bound is rounded to its safe side, up or ``down``."""
    scaled = 100 * share
    if scaled <= 0:
        return "0 %"
    unit = 10.0 ** (math.floor(math.log10(scaled)) - 2)
    steps = math.floor(scaled / unit + 1e-9) if down else math.ceil(scaled / unit - 1e-9)
    return f"{steps * unit:.6g} %"
