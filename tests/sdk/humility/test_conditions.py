"""What each condition of a humility rule means, of a row and of a batch alike."""

import math
from typing import Any

import numpy as np
import pytest

from bench.humility.agreement import packed_row
from bench.humility.cases import Given
from driftline.batches import prediction_columns
from driftline.humility.fit import (
    ABSOLUTE_RESIDUAL,
    INTERVAL_EXCESS,
    ONE_MINUS_PROBABILITY,
    CoverageStart,
    HumilityFit,
    NoveltyColumn,
    NoveltyThreshold,
    ObservedRegion,
    RiskCertificate,
)
from driftline.humility.policy import Policy
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Rule

FEATURES = {"amount": "numeric", "age": "numeric", "seen_at": "numeric", "city": "categorical", "shop": "categorical"}
FEATURES |= {"note": "text", "picture": "embedding"}
BINARY, MULTICLASS, REGRESSION = "binary_classification", "multiclass_classification", "regression"
SITES = {"name": "site", "column": "site", "values": ["A", "B"], "low": None, "high": None}
INF, NAN = math.inf, math.nan


def policy(
    *rules: Rule,
    task: str = BINARY,
    fit: HumilityFit | None = None,
    guarantees: Guarantees | None = None,
    features: dict[str, str] | None = None,
) -> Policy:
    asked = HumilitySpec(rules, guarantees or Guarantees())
    named = [{"name": name, "kind": kind} for name, kind in (features or FEATURES).items()]
    spec = {"humility": asked.to_record(), "features": named, "task": task, "positive_class": "yes", "revision": 1}
    record = None if fit is None else fit.to_record()
    found = Policy.of(spec, {"humility": record, "segments": [SITES]})
    assert found is not None
    return found


def fitted(guarantees: Guarantees | None = None, **what: Any) -> HumilityFit:
    asked = guarantees or Guarantees()
    promised = {"confidence": asked.confidence, "novelty_rate": asked.novelty_rate, "max_error": asked.max_error}
    promised |= {"coverage": asked.coverage, "tolerance": asked.tolerance}
    return HumilityFit("of another", "test", 100, 50, 0, 1, **promised, **what)


def fires(by: Policy, features: dict[str, Any] | None = None, **row: Any) -> bool:
    """Whether the first rule fires, on a row and on the same in a batch."""
    facts = {name: row.pop(name) for name in ("quantiles", "alarms") if name in row}
    given = Given(
        features or {},
        row.pop("prediction", None),
        row.pop("probabilities", None),
        row.pop("label", None),
        row.pop("low", None),
        row.pop("high", None),
        row.pop("segments", None),
        row.pop("timestamp_us", 0),
        row.pop("challengers", None),
    )
    assert not row
    alone = by.decide_row(
        given.features,
        given.prediction,
        given.class_probabilities,
        prediction_label=given.prediction_label,
        prediction_low=given.prediction_low,
        prediction_high=given.prediction_high,
        segments=given.segments,
        timestamp_us=given.timestamp_us,
        challengers=given.challengers,
        **facts,
    )
    (columns,) = prediction_columns([packed_row(given, "1")], "d", None)
    decided = by.decide_columns(columns, **facts)
    assert alone.fired == int(decided.fired[0])
    return bool(alone.fired & 1)


def rule(trigger: str, **condition: Any) -> Rule:
    return Rule("r", Condition(trigger, **condition), "record")


# Uncertain predictions


@pytest.mark.parametrize(
    ("prediction", "expected"), [(0.4, True), (0.5, True), (0.6, True), (0.39, False), (0.61, False), (None, True)]
)
def test_a_score_between_its_bounds_is_uncertain_and_so_is_none(prediction: float | None, expected: bool) -> None:
    by = policy(rule("uncertain_prediction", measure="score", low=0.4, high=0.6))
    assert fires(by, prediction=prediction) is expected


@pytest.mark.parametrize("unknown", [NAN, INF, -INF])
def test_a_score_that_is_no_number_is_uncertain(unknown: float) -> None:
    assert fires(policy(rule("uncertain_prediction", measure="score", low=0.4)), prediction=unknown)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"probabilities": {"a": 0.5, "b": 0.3, "c": 0.2}}, True),
        ({"probabilities": {"a": 0.6, "b": 0.3, "c": 0.1}}, False),
        ({"probabilities": {"yes": 0.2, "no": 0.8}}, False),
        ({"prediction": 0.2}, False),
        ({"prediction": 0.55}, True),
        ({"prediction": 0.55, "probabilities": {"yes": 0.9, "no": 0.1}}, False),
        ({"probabilities": {"yes": 0.1}}, False),
        ({"probabilities": {"yes": NAN}, "prediction": 0.9}, False),
        ({"probabilities": {"yes": NAN, "no": None}}, True),
        ({"probabilities": {"yes": 1.9, "no": -0.9}}, True),
        ({"probabilities": {"yes": 1.0000001, "no": 0.0}}, False),
        ({"prediction": -0.2}, True),
        ({}, True),
    ],
)
def test_confidence_is_the_largest_probability(row: dict[str, Any], expected: bool) -> None:
    assert fires(policy(rule("uncertain_prediction", measure="confidence", low=0.6)), **row) is expected


def test_a_single_probability_tells_nothing_about_the_rest_of_many_classes() -> None:
    by = policy(rule("uncertain_prediction", measure="confidence", low=0.6), task=MULTICLASS)
    assert fires(by, probabilities={"a": 0.3}, prediction=0.9)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"probabilities": {"a": 0.5, "b": 0.25, "c": 0.25}}, False),
        ({"probabilities": {"a": 0.5, "b": 0.375, "c": 0.125}}, True),
        ({"prediction": 0.625}, False),
        ({"prediction": 0.5}, True),
        ({"probabilities": {"a": 0.9, "b": NAN, "c": None}}, False),
        ({}, True),
    ],
)
def test_margin_is_the_difference_of_the_two_largest(row: dict[str, Any], expected: bool) -> None:
    assert fires(policy(rule("uncertain_prediction", measure="margin", low=0.25)), **row) is expected


def test_a_margin_needs_two_classes() -> None:
    by = policy(rule("uncertain_prediction", measure="margin", low=0.25), task=MULTICLASS)
    assert fires(by, probabilities={"a": 1.0})
    assert fires(policy(rule("uncertain_prediction", measure="margin", low=0.25), task=REGRESSION), prediction=1.0)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.0, 2.0, False), (0.0, 2.5, True), (None, None, True), (NAN, NAN, True)]
)
def test_a_wide_interval_of_the_models_own_is_uncertain(low: Any, high: Any, expected: bool) -> None:
    by = policy(rule("uncertain_prediction", measure="interval_width", high=2.0), task=REGRESSION)
    assert fires(by, prediction=1.0, low=low, high=high) is expected


@pytest.mark.parametrize(
    ("score", "row", "expected"),
    [
        (ABSOLUTE_RESIDUAL, {"prediction": 5.0}, False),
        (ABSOLUTE_RESIDUAL, {"prediction": 5.0, "quantiles": {"": 1.25}}, True),
        (ABSOLUTE_RESIDUAL, {"prediction": None}, True),
        (ABSOLUTE_RESIDUAL, {"prediction": None, "low": 0.0, "high": 0.1}, True),
        (ABSOLUTE_RESIDUAL, {"prediction": 5.0, "low": 0.0, "high": 9.0}, False),
        (INTERVAL_EXCESS, {"low": 0.0, "high": 0.0}, False),
        (INTERVAL_EXCESS, {"low": 0.0, "high": 0.5}, True),
        (INTERVAL_EXCESS, {"low": 0.0, "high": 0.5, "quantiles": {"": -0.25}}, False),
        (INTERVAL_EXCESS, {"prediction": 5.0}, True),
    ],
)
def test_where_a_quantile_is_known_the_adaptive_interval_counts(
    score: str, row: dict[str, Any], expected: bool
) -> None:
    asked = Guarantees(coverage=0.9)
    fit = fitted(asked, coverage_score=score, coverage_starts=(CoverageStart("", 100, 1.0),))
    by = policy(
        rule("uncertain_prediction", measure="interval_width", high=2.0), task=REGRESSION, fit=fit, guarantees=asked
    )
    assert fires(by, **row) is expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"probabilities": {"a": 0.75, "b": 0.25}}, False),
        ({"probabilities": {"a": 0.5, "b": 0.5}}, True),
        ({"probabilities": {"a": 0.4, "b": 0.3, "c": 0.3}}, True),
        ({"prediction": 0.75}, False),
        ({"prediction": 0.5}, True),
        ({"prediction": 0.75, "quantiles": {"": 0.1}}, True),
        ({"prediction": 0.75, "quantiles": {"": 0.8}}, True),
        ({}, True),
    ],
)
def test_a_prediction_set_of_other_than_one_class_is_uncertain(row: dict[str, Any], expected: bool) -> None:
    asked = Guarantees(coverage=0.9)
    fit = fitted(asked, coverage_score=ONE_MINUS_PROBABILITY, coverage_starts=(CoverageStart("", 100, 0.5),))
    assert fires(policy(rule("uncertain_prediction", measure="set_size"), fit=fit, guarantees=asked), **row) is expected


def test_a_group_without_a_quantile_has_no_prediction_set_to_judge() -> None:
    asked = Guarantees(coverage=0.9, segment="site")
    starts = (CoverageStart("site=A", 100, 0.5),)
    fit = fitted(asked, coverage_score=ONE_MINUS_PROBABILITY, coverage_starts=starts)
    leaf = Condition("uncertain_prediction", measure="set_size")
    for when in (leaf, Condition("not", (leaf,))):
        by = policy(Rule("r", when, "record"), fit=fit, guarantees=asked)
        assert not fires(by, segments={"site": "B"}, prediction=0.5)
        assert not fires(by, segments={"site": "B"}, prediction=0.9)
        assert fires(by, segments={"site": "A"}, prediction=0.9) is (when is not leaf)
        assert by.unarmed == ("rule 'r' fires only in part: uncertain_prediction: fitted for site=A only",)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prediction": 0.8}, False),
        ({"prediction": 0.79}, True),
        ({"prediction": None}, True),
        ({"prediction": 0.8, "segments": {"site": "A"}}, True),
        ({"prediction": 0.9, "segments": {"site": "A"}}, False),
        ({"prediction": 1.0, "segments": {"site": "B"}}, True),
        ({"prediction": 0.8, "segments": {"site": "elsewhere"}}, False),
    ],
)
def test_certified_confidence_is_that_of_the_group(row: dict[str, Any], expected: bool) -> None:
    asked = Guarantees(max_error=0.1, segment="site")
    certificates = {"": 0.8, "site=A": 0.9, "site=B": INF}
    fit = fitted(asked, certificates=tuple(RiskCertificate(g, 9, t, 1, 9, 0.1, 0.5) for g, t in certificates.items()))
    by = policy(rule("uncertain_prediction", measure="certified"), fit=fit, guarantees=asked)
    assert fires(by, **row) is expected


def test_the_confidence_of_a_regression_is_minus_the_width_of_its_interval() -> None:
    asked = Guarantees(max_error=0.1, tolerance=5.0)
    fit = fitted(asked, certificates=(RiskCertificate("", 9, -2.0, 1, 9, 0.1, 0.5),))
    by = policy(rule("uncertain_prediction", measure="certified"), task=REGRESSION, fit=fit, guarantees=asked)
    assert not fires(by, prediction=1.0, low=0.0, high=2.0)
    assert fires(by, prediction=1.0, low=0.0, high=2.1)
    assert fires(by, prediction=1.0, probabilities={"a": 1.0})


# Inputs


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        *(
            (1.0, False),
            (9, False),
            (0.9, True),
            ("10", True),
            (None, False),
            (NAN, False),
            (INF, False),
            ("many", False),
        ),
        *(
            (True, False),
            (False, True),
            (np.float32(9.5), True),
            ([0.0, 1.0], False),
            ("", False),
        ),
    ],
)
def test_a_number_outside_of_its_bounds_is_outlying(amount: Any, expected: bool) -> None:
    by = policy(rule("outlying_input", columns=("amount",), low=1.0, high=9.0))
    assert fires(by, {"amount": amount}) is expected


def test_outlying_without_columns_looks_at_every_number() -> None:
    by = policy(rule("outlying_input", high=9.0), features={f"x{i}": "numeric" for i in range(20)} | {"city": "text"})
    assert not fires(by, {f"x{i}": 9.0 for i in range(20)} | {"city": "10"})
    assert fires(by, {f"x{i}": 9.0 for i in range(19)} | {"x19": 9.5})
    assert not fires(by, {})


def test_fitted_bounds_are_those_of_each_column() -> None:
    by = policy(rule("outlying_input", columns=("amount", "age")), fit=fitted(bounds={"amount": (0.0, 5.0)}))
    assert fires(by, {"amount": 6.0})
    assert not fires(by, {"amount": 5.0, "age": 1e9})


def novelty_fit(asked: Guarantees) -> HumilityFit:
    return fitted(
        asked,
        novelty=(
            NoveltyColumn("amount", "numeric", (0.0, 10.0), (), (5.0, 1.0, 4.0, 9.0)),
            NoveltyColumn("city", "categorical", (), ("Bern", "Rome"), (1.0, 4.5, 8.0, 2.0)),
        ),
        novelty_thresholds=(NoveltyThreshold("", 100, 4.0, 0.01), NoveltyThreshold("site=A", 100, 4.5, 0.01)),
    )


@pytest.mark.parametrize(
    ("features", "site", "expected"),
    [
        ({"amount": 5.0, "city": "Bern"}, None, False),
        ({"amount": 10.0, "city": "Bern"}, None, False),
        ({"amount": -1.0, "city": "Bern"}, None, True),
        ({"amount": INF, "city": "Bern"}, None, True),
        ({"city": "Bern"}, None, True),
        ({"amount": "5", "city": "Rome"}, None, True),
        ({"amount": "5", "city": "Rome"}, "A", False),
        ({"amount": -1.0, "city": "Rome"}, "A", True),
        ({"amount": 5.0, "city": "Paris"}, "A", True),
        ({"amount": 5.0, "city": ""}, None, False),
        ({"amount": 5.0, "city": INF}, None, False),
        ({"amount": 5.0}, None, False),
    ],
)
def test_an_input_is_novel_above_the_threshold_of_its_group(
    features: dict[str, Any], site: str | None, expected: bool
) -> None:
    asked = Guarantees(novelty_rate=0.01, segment="site")
    by = policy(rule("novel_input"), fit=novelty_fit(asked), guarantees=asked)
    assert fires(by, features, segments={"site": site}) is expected


@pytest.mark.parametrize("trigger", ["novel_input", "uncertain_prediction"])
def test_a_group_without_a_threshold_never_fires_not_even_below_a_not(trigger: str) -> None:
    asked = Guarantees(novelty_rate=0.01, max_error=0.1, segment="site")
    fit = fitted(
        asked,
        novelty=(NoveltyColumn("amount", "numeric", (0.0,), (), (5.0, 1.0, 1.0)),),
        novelty_thresholds=(NoveltyThreshold("site=A", 100, 2.0, 0.01),),
        certificates=(RiskCertificate("site=A", 100, 0.9, 1, 90, 0.1, 0.5),),
    )
    leaf = Condition(trigger, measure="certified")
    odd, usual = {"features": {"amount": -1.0}, "prediction": 0.5}, {"features": {"amount": 1.0}, "prediction": 0.95}
    for when, of_odd, of_usual in ((leaf, True, False), (Condition("not", (leaf,)), False, True)):
        by = policy(Rule("r", when, "record"), fit=fit, guarantees=asked)
        assert fires(by, **odd, segments={"site": "A"}) is of_odd
        assert fires(by, **usual, segments={"site": "A"}) is of_usual
        for elsewhere in ({"site": "B"}, {"site": "C"}, None):
            assert not fires(by, **odd, segments=elsewhere)
            assert not fires(by, **usual, segments=elsewhere)
        assert by.unarmed == (f"rule 'r' fires only in part: {trigger}: fitted for site=A only",)


@pytest.mark.parametrize(
    ("city", "expected"), [("Bern", False), ("Rome", True), ("Paris", True), (None, False), ("", False), (7, True)]
)
def test_a_value_that_the_reference_has_too_few_rows_of_is_rare(city: Any, expected: bool) -> None:
    fit = fitted(regions=(ObservedRegion(("city",), (("Bern",), ("Rome",)), (30, 29)),))
    by = policy(rule("low_observation_region", columns=("city",), least=30), fit=fit)
    assert fires(by, {"city": city}) is expected


@pytest.mark.parametrize(
    ("city", "shop", "expected"),
    [
        *(
            ("Bern", "1", False),
            ("Bern", 1, False),
            ("Bern", "2", True),
            ("Rome", "1", True),
            ("Rome", "2", True),
        ),
        *(
            ("Bern", None, False),
            (None, "2", False),
            ("", "2", False),
            ("Oslo", True, True),
        ),
    ],
)
def test_a_cell_that_the_reference_has_too_few_rows_of_is_rare(city: Any, shop: Any, expected: bool) -> None:
    cells = (("Bern", "1"), ("Bern", "2"), ("Rome", "2"))
    fit = fitted(regions=(ObservedRegion(("city", "shop"), cells, (30, 3, 0)),))
    by = policy(rule("low_observation_region", columns=("city", "shop"), least=30), fit=fit)
    assert fires(by, {"city": city, "shop": shop}) is expected


def test_a_reference_without_any_cell_makes_every_cell_rare() -> None:
    by = policy(
        rule("low_observation_region", columns=("city", "shop")),
        fit=fitted(regions=(ObservedRegion(("city", "shop"), (), ()),)),
    )
    assert fires(by, {"city": "Bern", "shop": "1"})
    assert not fires(by, {"city": "Bern"})


def test_values_of_a_region_can_be_given() -> None:
    by = policy(rule("low_observation_region", columns=("city",), values=("Rome", "true", "7")))
    assert [fires(by, {"city": city}) for city in ("Rome", True, 7.0, "Bern", None, "")] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("least", "features", "expected"),
    [
        (1, {"amount": 1, "age": "2", "seen_at": 0, "city": "a", "shop": 1, "note": "x", "picture": [1.0]}, False),
        (1, {"amount": 1, "age": "2", "seen_at": 0, "city": "a", "shop": 1, "note": "x", "picture": [NAN]}, True),
        (1, {"amount": 1, "age": "old", "seen_at": 0, "city": "a", "shop": 1, "note": "x", "picture": [1]}, True),
        (2, {"amount": 1, "age": "old", "seen_at": 0, "city": "a", "shop": 1, "note": "x", "picture": [1]}, False),
        (2, {"amount": INF, "seen_at": 0, "city": "a", "shop": 1, "note": "x", "picture": np.ones(2)}, True),
        (4, {"amount": [1.0], "age": 1, "seen_at": 0, "city": [1.0], "shop": "", "note": None, "picture": (1,)}, True),
        (7, {}, True),
        (7, {"extra": 1.0}, True),
        (7, {"picture": 5.0, "amount": "NA"}, True),
        (7, {"amount": 0.0}, False),
    ],
)
def test_missing_is_what_has_no_value_of_its_kind(least: int, features: dict[str, Any], expected: bool) -> None:
    assert fires(policy(rule("missing_input", least=least)), features) is expected


def test_missing_looks_at_its_columns_only() -> None:
    by = policy(rule("missing_input", columns=("amount", "city")))
    assert not fires(by, {"amount": 1.0, "city": "a"})
    assert fires(by, {"amount": 1.0, "age": 1.0})


@pytest.mark.parametrize(
    ("unit", "seen_at", "expected"),
    [
        *(
            ("s", 1000 - 60, False),
            ("s", 1000 - 61, True),
            ("ms", 1_000_000 - 60_001, True),
            ("us", 940_000_000, False),
        ),
        *(
            ("us", 939_999_999, True),
            ("s", None, False),
            ("s", "939", True),
            ("s", INF, False),
            ("s", 2000, False),
        ),
    ],
)
def test_a_time_is_stale_by_the_age_it_has_at_the_event(unit: str, seen_at: Any, expected: bool) -> None:
    by = policy(rule("stale_input", columns=("seen_at",), measure=unit, older_than_ms=60_000))
    assert fires(by, {"seen_at": seen_at}, timestamp_us=1_000_000_000) is expected


# Predictions, challengers and alarms


@pytest.mark.parametrize(("prediction", "expected"), [(0.0, False), (-0.1, True), (1.1, True), (None, False)])
def test_a_prediction_outside_of_its_range(prediction: Any, expected: bool) -> None:
    typed_in = policy(rule("prediction_out_of_range", low=0.0, high=1.0))
    computed = policy(rule("prediction_out_of_range"), fit=fitted(bounds={"prediction": (0.0, 1.0)}))
    assert fires(typed_in, prediction=prediction) is fires(computed, prediction=prediction) is expected


@pytest.mark.parametrize(
    ("values", "high", "challengers", "expected"),
    [
        ((), None, None, False),
        ((), None, {"2": "no"}, True),
        ((), None, {"2": "yes"}, False),
        (("3",), None, {"2": "no"}, False),
        (("3", "2"), None, {"2": "no"}, True),
        ((), None, {"2": 0.1}, False),
        ((), 0.5, {"2": 0.1}, True),
        ((), 0.5, {"2": 0.5}, False),
        ((), 0.5, {"2": (0.5, "yes"), "3": (NAN, "")}, False),
        ((), 0.5, {"2": (0.9, "no")}, True),
    ],
)
def test_a_challenger_disagrees_by_its_class_or_by_more_than_so_much(
    values: tuple[str, ...], high: float | None, challengers: Any, expected: bool
) -> None:
    by = policy(rule("challenger_disagreement", values=values, high=high))
    assert fires(by, prediction=0.875, label="yes", challengers=challengers) is expected


def test_no_challenger_disagrees_with_a_class_that_is_not_known() -> None:
    assert not fires(policy(rule("challenger_disagreement", high=0.1)), challengers={"2": (0.5, "no")})


@pytest.mark.parametrize(
    ("values", "alarms", "expected"),
    [
        ((), 0, False),
        ((), 128, True),
        (("labels",), 32, True),
        (("labels",), 31, False),
        (("labels", "humility"), 128, True),
    ],
)
def test_in_alarm_looks_at_the_monitors_that_are_named(values: tuple[str, ...], alarms: int, expected: bool) -> None:
    assert fires(policy(rule("in_alarm", values=values)), alarms=alarms) is expected


# Combinations


@pytest.mark.parametrize("a", [True, False])
@pytest.mark.parametrize("b", [True, False])
def test_conditions_combine_as_logic_has_it(a: bool, b: bool) -> None:
    one, other = Condition("outlying_input", columns=("amount",), high=1.0), Condition("in_alarm")
    facts = {"features": {"amount": 2.0 if a else 0.0}, "alarms": int(b)}
    for trigger, expected in (("all", a and b), ("any", a or b)):
        assert fires(policy(Rule("r", Condition(trigger, (one, other)), "record")), **facts) is expected
        negated = Condition("not", (Condition(trigger, (one, other)),))
        assert fires(policy(Rule("r", negated, "record")), **facts) is not expected


@pytest.mark.parametrize("a", [True, False])
def test_what_was_not_fitted_never_makes_a_rule_fire(a: bool) -> None:
    known, unknown = Condition("in_alarm"), Condition("novel_input")
    for when, expected in (
        (unknown, False),
        (Condition("not", (unknown,)), False),
        (Condition("any", (known, unknown)), a),
        (Condition("all", (known, unknown)), False),
        (Condition("not", (Condition("all", (known, unknown)),)), not a),
        (Condition("not", (Condition("any", (known, unknown)),)), False),
        (Condition("not", (Condition("not", (unknown,)),)), False),
        (Condition("all", (Condition("any", (unknown, Condition("not", (unknown,)))), known)), False),
    ):
        by = policy(Rule("r", when, "record"))
        assert fires(by, alarms=int(a)) is expected, when
        assert len(by.unarmed) == 1
        assert "novel_input: nothing has been fitted yet" in by.unarmed[0]


def test_a_rule_that_looks_at_nothing_never_fires() -> None:
    by = policy(Rule("r", Condition("all"), "refuse"))
    assert not fires(by)
    assert by.unarmed == ("rule 'r' never fires: it looks at nothing",)
