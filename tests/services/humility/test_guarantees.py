"""What is guaranteed is said in words, on the safe side, and what is not is said with the rows it takes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.humility.fit import (
    ABSOLUTE_RESIDUAL,
    CoverageStart,
    HumilityFit,
    NoveltyThreshold,
    RiskCertificate,
    Shortfall,
)
from driftline.humility.policy import Policy
from driftline.humility.rules import Condition, Rule
from services.humility.guarantees import (
    caveats,
    expected_rates,
    fit_document,
    group_rows,
    guarantee_sentences,
    in_order_of_priority,
    percent,
    rule_rate,
    shortfall_texts,
    why_unarmed,
)
from streams.baseline import HUMILITY_ROLE
from streams.humility.judge import policy_of
from streams.specification import BINARY, REGRESSION

FIT = HumilityFit(
    spec_digest="d",
    source="march.csv",
    rows=2000,
    learning_rows=1000,
    first_event_us=0,
    last_event_us=86_400_000_000,
    confidence=0.95,
    novelty_rate=0.01,
    max_error=0.15,
    coverage=0.9,
    novelty_thresholds=(NoveltyThreshold("", 1000, 3.25, 0.00999),),
    certificates=(RiskCertificate("", 1000, 0.7, 80, 760, 0.1449, 0.71456),),
    coverage_score=ABSOLUTE_RESIDUAL,
    score_range=1.0,
    step=0.05,
    coverage_starts=(CoverageStart("", 1000, 12.5),),
)


def test_each_guarantee_is_one_sentence_with_its_rate_and_confidence() -> None:
    novelty, risk, coverage = guarantee_sentences(FIT, BINARY)
    assert novelty.startswith("novel_input fires on at most 1 % of unchanged traffic, with 95 % confidence: above")
    assert risk.startswith(
        "error among answered predictions at most 15 %, answered share at least 71.4 %, confidence 95 %: "
    )
    assert "80 errors in 760 of 1,000 calibration rows" in risk
    assert coverage.startswith(
        "prediction sets hold the actual value in 90 % of cases in the long run whatever drifts: after 1,000 outcomes "
        "off by at most 2.1 %; after 10,000 outcomes off by at most 0.21 %"
    )
    text = " ".join(caveats(FIT))
    assert "only while nothing changes since calibration (1970-01-01 to 1970-01-02)" in text
    assert "rows that depend on their neighbours are worth fewer" in text and "holds whatever changes" in text
    assert guarantee_sentences(FIT, REGRESSION)[2].startswith("intervals hold")
    wide = dataclasses.replace(FIT, tolerance=5.0)
    assert "share of errors above 5 among answered predictions at most 15 %" in guarantee_sentences(wide, REGRESSION)[1]


def test_what_was_not_fitted_is_not_said() -> None:
    nothing = HumilityFit("d", "s", 2, 1, 0, 1, 0.95)
    assert guarantee_sentences(nothing, BINARY) == caveats(nothing) == group_rows(nothing) == []
    refused = dataclasses.replace(FIT, certificates=(RiskCertificate("", 1000, math.inf, 0, 0, 1.0, 0.0),))
    assert len(guarantee_sentences(refused, BINARY)) == len(guarantee_sentences(FIT, BINARY)) - 1
    assert not any("answered predictions" in sentence for sentence in guarantee_sentences(refused, BINARY))
    slow = dataclasses.replace(FIT, step=1e-9)
    assert "more than 100,000 outcomes" in guarantee_sentences(slow, BINARY)[2]


def test_groups_are_listed_behind_what_holds_of_all_others_and_shortfalls_say_what_they_take() -> None:
    groups = dataclasses.replace(
        FIT,
        novelty_thresholds=(NoveltyThreshold("c=b", 400, 3.0, 0.009), *FIT.novelty_thresholds),
        certificates=(*FIT.certificates, RiskCertificate("c=a", 300, math.inf, 0, 0, 1.0, 0.0)),
    )
    assert [row[0] for row in group_rows(groups)] == ["", "", "", "c=a", "c=b"]
    assert group_rows(groups)[3][3] == "nothing is certified"
    assert "in parts without a guarantee of their own" in guarantee_sentences(groups, BINARY)[0]
    assert "each statement on a group" in caveats(groups)[-1]
    lacking = (Shortfall("novelty", "c=\x1b[31m", 12, 299, "too few"), Shortfall("risk", "", 0, 0, "never"))
    assert shortfall_texts(dataclasses.replace(groups, shortfalls=lacking)) == [
        "no guarantee of novelty of c=\\x1b[31m, it takes 299 calibration rows, there are 12: too few",
        "no guarantee of selective risk in parts without a guarantee of their own: never",
    ]
    assert shortfall_texts(dataclasses.replace(FIT, shortfalls=lacking[1:])) == [
        "no guarantee of selective risk: never"
    ]


@given(st.floats(1e-9, 1))
def test_a_share_is_rounded_to_its_safe_side(share: float) -> None:
    up, down = (float(percent(share, down=each).removesuffix(" %")) / 100 for each in (False, True))
    assert down * (1 - 1e-9) <= share <= up * (1 + 1e-9)
    assert up - down <= 0.0101 * share
    assert percent(0.0) == "0 %" and percent(0.15) == "15 %" and percent(0.9, down=True) == "90 %"


def test_rules_are_in_the_order_they_are_asked_and_say_why_they_never_fire(made: Any) -> None:
    late = Rule("late", Condition("novel_input"), "refuse", priority=200)
    first = Rule("first", Condition("missing_input", columns=("x",)), "refuse", priority=1)
    second = Rule("second", Condition("missing_input", columns=("y",)), "refuse", priority=1)
    assert [rule.name for rule in in_order_of_priority((late, first, second))] == ["first", "second", "late"]
    policy = policy_of(made.spec((late, first)), made.baseline(made.spec()))
    assert why_unarmed(policy, late) == "never fires: novel_input: nothing has been fitted yet"
    assert why_unarmed(policy, first) == why_unarmed(None, late) == ""
    assert isinstance(policy, Policy)


def test_expected_rates_are_those_of_the_calibration_rows(made: Any) -> None:
    spec = made.spec()
    baseline = made.baseline(spec)
    (stream,) = baseline.streams
    counts = np.zeros_like(stream.counts)
    counts[:2] = 20, 980
    fired = dataclasses.replace(stream, name="humility:rule:storm", role=HUMILITY_ROLE, counts=counts)
    abstained = dataclasses.replace(fired, name="humility:abstained")
    stray = dataclasses.replace(fired, name="humility:disagreement")
    fitted = dataclasses.replace(baseline, streams=(stream, fired, abstained, stray), humility=FIT)
    rates = expected_rates(fitted)
    rate = rule_rate(rates, spec.humility.rules[0])
    assert rate is not None and (rate.share, rate.rows) == (0.02, 1000) and 0.01 < rate.low < 0.02 < rate.high
    assert {each.name for each in rates.values()} == {"storm", "refused or routed"}
    document = fit_document(spec, fitted, policy_of(spec, fitted))
    assert document["rules"][0]["expected"]["fired"] == 20 and not document["fit"]["of_these_rules"]
    assert document["fit"]["coverage_off_by_at_most"]["1000"] == pytest.approx(0.021)
    assert document["fit"]["dependent_rows"] == {}
    assert fit_document(spec, baseline, None) == {"fit": None}
