"""What is done about a prediction on which rules fire, and what the caller is told."""

import math
import pickle
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from driftline import codec
from driftline.errors import DriftlineError, PredictionRefusedError
from driftline.events import CategoricalColumn, PredictionColumns
from driftline.humility.decision import Answer
from driftline.humility.fit import (
    ABSOLUTE_RESIDUAL,
    INTERVAL_EXCESS,
    ONE_MINUS_PROBABILITY,
    CoverageStart,
    HumilityFit,
    NoveltyThreshold,
    RiskCertificate,
)
from driftline.humility.policy import Policy
from driftline.humility.rules import ACTIONS, Condition, Guarantees, HumilitySpec, Override, Rule
from streams.specification import DeploymentSpec, FeatureSpec

ALWAYS = Condition("in_alarm")
ALARM = {"alarms": 1}
SITES = {"name": "site", "column": "site", "values": ["A", "B", "(other)"], "low": None, "high": None}
COVERAGE = Guarantees(coverage=0.9, segment="site")


def policy(*rules: Rule, fit: HumilityFit | None = None, guarantees: Guarantees | None = None, **spec: Any) -> Policy:
    asked = HumilitySpec(rules, guarantees or Guarantees())
    record = {
        "humility": asked.to_record(),
        "features": [{"name": "x", "kind": "numeric"}, {"name": "c", "kind": "categorical"}],
        "task": "binary_classification",
        "positive_class": "yes",
        "revision": 7,
    } | spec
    found = Policy.of(record, {"humility": None if fit is None else fit.to_record(), "segments": [SITES]})
    assert found is not None
    return found


def fitted(guarantees: Guarantees | None = None, **what: Any) -> HumilityFit:
    asked = guarantees or Guarantees()
    promised = {"confidence": asked.confidence, "novelty_rate": asked.novelty_rate, "max_error": asked.max_error}
    return HumilityFit("of another", "test", 100, 50, 0, 1, **promised, coverage=asked.coverage, **what)


def batch(rows: int, **columns: Any) -> PredictionColumns:
    return PredictionColumns("d", "1", [f"r{i}" for i in range(rows)], np.arange(rows), **columns)


def override(**what: Any) -> Rule:
    return Rule("other", ALWAYS, "override", Override(**what))


def test_without_a_rule_that_fires_the_answer_is_served_as_it_is() -> None:
    decision = policy(Rule("r", ALWAYS, "refuse")).decide_row({"x": 1.0}, 0.8, prediction_label="yes", timestamp_us=5)
    assert decision.answered
    assert (decision.action, decision.prediction, decision.prediction_label) == ("answered", 0.8, "yes")
    assert (decision.rule, decision.reasons, decision.fired, decision.message) == (None, (), 0, "")
    assert (decision.revision, decision.timestamp_us, decision.group) == (7, 5, "")
    assert decision.result() == "yes"


def test_a_refusal_is_a_typed_error_with_the_reasons() -> None:
    by = policy(Rule("no", ALWAYS, "refuse", message="not now"), Rule("also", ALWAYS, "record"))
    decision = by.decide_row({}, 0.8, prediction_label="yes", **ALARM)
    assert decision.refused
    assert decision.prediction is decision.prediction_label is None
    with pytest.raises(PredictionRefusedError, match="humility rule 'no': not now") as refusal:
        decision.result()
    assert isinstance(refusal.value, DriftlineError)
    assert (refusal.value.rule, refusal.value.message) == ("no", "not now")
    assert [reason.rule for reason in refusal.value.reasons] == ["no", "also"]
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)


def test_a_routed_prediction_is_not_served_and_says_who_is_to_look() -> None:
    decision = policy(Rule("ask", ALWAYS, "route", route_to="the desk")).decide_row({}, 0.8, **ALARM)
    assert decision.routed
    assert (decision.prediction, decision.route_to, decision.rule) == (None, "the desk", "ask")
    with pytest.raises(PredictionRefusedError, match="routed to the desk"):
        decision.result()


def test_a_rule_without_a_message_says_when_it_fires() -> None:
    decision = policy(Rule("r", ALWAYS, "refuse")).decide_row({}, **ALARM)
    assert decision.message == "the deployment is in alarm"


def test_recording_and_dry_runs_fire_and_do_nothing() -> None:
    by = policy(Rule("seen", ALWAYS, "record"), Rule("trial", ALWAYS, "refuse", dry_run=True))
    decision = by.decide_row({}, 0.8, **ALARM)
    assert decision.answered
    assert decision.fired == 0b11
    assert decision.rule is None
    assert [(reason.rule, reason.dry_run) for reason in decision.reasons] == [("seen", False), ("trial", True)]
    assert policy(*by.rules).decide_columns(batch(2), alarms=1).acting.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([("a", "refuse", 100), ("b", "route", 100)], "a"),
        ([("a", "refuse", 100), ("b", "route", 99)], "b"),
        ([("a", "record", 1), ("b", "route", 2), ("c", "refuse", 3)], "b"),
        ([("a", "refuse", -1), ("b", "route", 0)], "a"),
    ],
)
def test_the_lowest_priority_number_acts_and_of_equal_ones_the_first(rules: list[Any], expected: str) -> None:
    by = policy(*(Rule(name, ALWAYS, action, priority=priority) for name, action, priority in rules))
    assert by.decide_row({}, **ALARM).rule == expected
    decided = by.decide_columns(batch(1), alarms=1)
    assert by.rules[decided.acting[0]].name == expected
    assert decided.fired[0] == (1 << len(rules)) - 1


@pytest.mark.parametrize(
    ("rule", "row", "expected"),
    [
        (override(kind="value", value=0.0), {"prediction": 0.8}, (0.0, None)),
        (override(kind="label", label="no"), {"prediction": 0.8, "prediction_label": "yes"}, (None, "no")),
        (override(kind="clip", low=0.1, high=0.5), {"prediction": 0.8}, (0.5, None)),
        (override(kind="clip", low=0.1, high=0.5), {"prediction": 0.3}, (0.3, None)),
        (override(kind="clip", low=0.1), {"prediction": 0.0}, (0.1, None)),
        (override(kind="clip", high=0.1), {"prediction": -9}, (-9.0, None)),
        (override(kind="clip", low=0.1), {"prediction": None}, (None, None)),
        (override(kind="clip", low=0.1), {"prediction": math.inf}, (None, None)),
        (override(kind="clip"), {"prediction": 0.8}, (0.6, None)),
        (override(kind="prior"), {"prediction": 0.8}, (0.25, "no")),
        (override(kind="version", version="2"), {"challengers": {"2": 0.3}}, (0.3, None)),
        (override(kind="version", version="2"), {"challengers": {"2": "no"}}, (None, "no")),
        (override(kind="version", version="2"), {"challengers": {"2": Answer(0.3, "no")}}, (0.3, "no")),
    ],
)
def test_what_is_served_instead(rule: Rule, row: dict[str, Any], expected: tuple[Any, Any]) -> None:
    by = policy(rule, fit=fitted(bounds={"prediction": (0.4, 0.6)}, prior=0.25, prior_label="no"))
    decision = by.decide_row({}, **row, **ALARM)
    assert decision.overridden
    assert (decision.prediction, decision.prediction_label) == expected
    assert decision.fallback_version is None
    assert decision.result() == (expected[0] if expected[1] is None else expected[1])


def test_a_version_whose_answer_was_not_given_is_to_be_asked() -> None:
    by = policy(override(kind="version", version="2"))
    for challengers in (None, {}, {"3": 0.5}, {"2": None}, {"2": math.nan}, {"2": ""}):
        decision = by.decide_row({}, 0.8, challengers=challengers, **ALARM)
        assert decision.overridden
        assert (decision.prediction, decision.prediction_label, decision.fallback_version) == (None, None, "2")
        with pytest.raises(PredictionRefusedError, match="the answer of version '2'"):
            decision.result()


def test_answers_of_several_rules_share_a_batch() -> None:
    by = policy(
        Rule("low", Condition("prediction_out_of_range", low=0.2), "override", Override("label", label="no")),
        Rule("high", Condition("prediction_out_of_range", high=0.8), "override", Override("version", version="2")),
        Rule("middle", Condition("prediction_out_of_range", high=0.5), "override", Override("value", value=-0.0)),
    )
    columns = batch(
        5,
        prediction=np.array([0.1, 0.9, 0.9, 0.6, 0.3]),
        challenger_predictions={"2": np.array([9.0, 1.0, np.inf, 9.0, 9.0])},
        challenger_labels={"2": CategoricalColumn(["", "yes", "no"], np.array([2, 1, 0, 2, 2], np.int32))},
    )
    decided = by.decide_columns(columns)
    assert [ACTIONS[code] for code in decided.actions] == ["overridden"] * 4 + ["answered"]
    assert decided.acting.tolist() == [0, 1, 1, 2, -1]
    assert decided.answers.tobytes() == np.array([np.nan, 1.0, np.nan, -0.0, np.nan]).tobytes()
    assert decided.answer_labels is not None
    assert decided.answer_labels.values() == ["no", "yes", None, None, None]


def test_an_override_without_what_was_to_be_fitted_never_acts() -> None:
    by = policy(override(kind="prior"), Rule("clipped", ALWAYS, "override", Override("clip")))
    decision = by.decide_row({}, 0.8, **ALARM)
    assert decision.answered
    assert decision.fired == 0
    assert by.unarmed == (
        "rule 'other' never fires: the prior has not been fitted",
        "rule 'clipped' never fires: clip needs the fitted range of predictions",
    )


# Facts and intervals


def coverage_fit(score: str) -> HumilityFit:
    starts = (CoverageStart("", 50, 0.5), CoverageStart("site=B", 50, 0.25))
    return fitted(COVERAGE, coverage_score=score, coverage_starts=starts)


def test_the_quantile_is_that_of_the_group_and_starts_where_the_tracker_does() -> None:
    by = policy(fit=coverage_fit(ABSOLUTE_RESIDUAL), guarantees=COVERAGE, task="regression")
    assert by.groups == ("", "site=B")
    assert by.start_quantiles == {"": 0.5, "site=B": 0.25}
    assert by.decide_row({}, 1.0).interval == (0.5, 1.5)
    decision = by.decide_row({}, 1.0, segments={"site": "B"}, quantiles={"": 9.0})
    assert (decision.group, decision.quantile, decision.interval) == ("site=B", 0.25, (0.75, 1.25))
    decision = by.decide_row({}, 1.0, segments={"site": "A"}, quantiles={"": 9.0})
    assert (decision.group, decision.quantile, decision.interval) == ("", 9.0, (-8.0, 10.0))
    assert by.decide_row({}, None).interval is None


def test_facts_of_a_batch_come_by_group_or_by_row() -> None:
    by = policy(Rule("r", Condition("in_alarm"), "record"), fit=coverage_fit(ABSOLUTE_RESIDUAL), guarantees=COVERAGE)
    columns = batch(3, segments={"site": CategoricalColumn(["B", "A"], np.array([0, 1, -1], np.int32))})
    assert by.decide_columns(columns).quantiles.tolist() == [0.25, 0.5, 0.5]
    decided = by.decide_columns(columns, quantiles={"site=B": 3.0}, alarms=np.array([0, 4, 0], np.uint8))
    assert decided.quantiles.tolist() == [3.0, 0.5, 0.5]
    assert decided.groups.tolist() == [1, 0, 0]
    assert decided.fired.tolist() == [0, 1, 0]
    known = np.array([1.0, np.nan, 2.0])
    assert np.array_equal(by.decide_columns(columns, quantiles=known).quantiles, known, equal_nan=True)


def test_the_models_own_interval_is_told_where_there_is_no_other() -> None:
    plain, excess = policy(override(kind="prior")), policy(fit=coverage_fit(INTERVAL_EXCESS), guarantees=COVERAGE)
    assert plain.decide_row({}, 1.0, prediction_low=0.0, prediction_high=2.0).interval == (0.0, 2.0)
    assert plain.decide_row({}, 1.0, prediction_low=0.0).interval is None
    assert excess.decide_row({}, 1.0, prediction_low=0.0, prediction_high=2.0).interval == (-0.5, 2.5)
    low, high = excess.intervals(batch(1, prediction_low=np.zeros(1), prediction_high=np.ones(1)), np.array([np.nan]))
    assert (low.tolist(), high.tolist()) == ([0.0], [1.0])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"class_probabilities": {"b": 0.5, "a": 0.5, "c": 0.0}}, ("a", "b")),
        ({"class_probabilities": {"yes": 0.4, "no": 0.3, "maybe": 0.3}}, ()),
        ({"prediction": 0.75}, ("yes",)),
        ({"prediction": 0.25}, ("not yes",)),
        ({"class_probabilities": {True: 0.75, False: 0.25}}, ("true",)),
        ({}, None),
    ],
)
def test_the_prediction_set_has_the_classes_that_are_probable_enough(row: dict[str, Any], expected: Any) -> None:
    by = policy(fit=coverage_fit(ONE_MINUS_PROBABILITY), guarantees=COVERAGE)
    assert by.decide_row({}, **row).prediction_set == expected


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(["no", "yes"], ("no",)), ([], ("not yes",)), (["no", "never"], ("not yes",)), (["a", "b", "yes"], ("not yes",))],
)
def test_the_other_class_has_its_name_where_the_specification_lists_both(
    classes: list[str], expected: tuple[str, ...]
) -> None:
    by = policy(fit=coverage_fit(ONE_MINUS_PROBABILITY), guarantees=COVERAGE, outcomes={"classes": classes})
    assert by.decide_row({}, 0.25).prediction_set == expected


# The policy


def test_nothing_asked_for_is_no_policy() -> None:
    asked = {"features": [], "task": "other", "positive_class": None, "revision": 1}
    assert Policy.of({**asked, "humility": None}, None) is None
    assert Policy.of({**asked, "humility": HumilitySpec().to_record()}, None) is None
    assert Policy.of({**asked, "humility": HumilitySpec((), Guarantees(coverage=0.9)).to_record()}, None) is not None


def test_equal_digests_survive_the_way_through_kafka_and_change_with_what_decides() -> None:
    fit = fitted(bounds={"prediction": (0.0, 1.0)}, joint={"centre": (1.0,)})
    rule = override(kind="clip")
    digest = policy(rule, fit=fit).digest
    assert policy(rule, fit=fit, revision=99).digest == digest
    others = [
        policy(rule),
        policy(rule, fit=fitted(bounds={"prediction": (0.0, 2.0)})),
        policy(override(kind="prior"), fit=fit),
        policy(rule, fit=fit, task="regression"),
        policy(rule, fit=fit, positive_class="no"),
        policy(rule, fit=fit, features=[{"name": "x", "kind": "categorical"}]),
        policy(rule, fit=fit, guarantees=COVERAGE),
    ]
    assert len({digest, *(other.digest for other in others)}) == 8
    features = (FeatureSpec("x", "numeric"), FeatureSpec("c", "categorical"))
    asked = HumilitySpec((rule,))
    spec = DeploymentSpec("d", "m", "binary_classification", features, positive_class="yes", revision=7, humility=asked)
    baseline = {"deployment_id": "d", "model_version": "1", "streams": [], "segments": [SITES]}
    baseline |= {"rows": 0, "first_event_us": 0, "last_event_us": 0, "tilts_version": 0, "digest": ""}
    baseline["humility"] = fit.to_record()
    names = ("DeploymentSpec", spec.to_record()), ("Baseline", baseline)
    travelled = [codec.decode(codec.encode(name, record))[1] for name, record in names]
    found = Policy.of(*travelled)
    assert found is not None
    assert found.digest == digest


@pytest.mark.parametrize(
    ("changed", "armed"),
    [
        ({}, True),
        ({"step": 0.5}, True),
        ({"coverage": 0.5}, True),
        ({"novelty_rate": 0.05}, False),
        ({"confidence": 0.5}, False),
        ({"segment": None}, False),
        ({"segment": "other"}, False),
    ],
)
def test_a_fit_serves_changed_rules_as_long_as_its_guarantees_are_those_asked_for(
    changed: dict[str, Any], armed: bool
) -> None:
    asked = {"novelty_rate": 0.01, "segment": "site"}
    fit = fitted(
        Guarantees(**asked),
        novelty_thresholds=(NoveltyThreshold("", 9, 1.0, 0.01), NoveltyThreshold("site=A", 9, 1.0, 0.01)),
    )
    by = policy(Rule("r", Condition("novel_input"), "refuse"), fit=fit, guarantees=Guarantees(**(asked | changed)))
    assert (by.unarmed == ()) is armed


def test_certificates_for_another_tolerance_do_not_count() -> None:
    fit = fitted(Guarantees(max_error=0.1), certificates=(RiskCertificate("", 9, 0.5, 1, 9, 0.1, 0.5),))
    rule = Rule("r", Condition("uncertain_prediction", measure="certified"), "refuse")
    assert policy(rule, fit=fit, guarantees=Guarantees(max_error=0.1)).unarmed == ()
    assert policy(rule, fit=fit, guarantees=Guarantees(max_error=0.1, tolerance=2.0)).unarmed == (
        "rule 'r' never fires: uncertain_prediction: it was fitted for other guarantees",
    )


def test_what_is_given_is_neither_changed_nor_kept() -> None:
    by = policy(Rule("r", Condition("missing_input"), "refuse"), fit=coverage_fit(ABSOLUTE_RESIDUAL))
    features: defaultdict[str, float] = defaultdict(float)
    assert by.decide_row(features, 0.5).refused
    assert not features
    holder = [0.1, 0.2]
    before = {"x": holder}
    by.decide_row(before, 0.5, {"yes": 0.5}, challengers={"2": 0.5}, segments={"site": "A"})
    assert before == {"x": [0.1, 0.2]}


def test_all_sixty_four_rules_have_a_bit() -> None:
    by = policy(*(Rule(f"r{i}", ALWAYS, "record") for i in range(64)))
    assert by.decide_row({}, **ALARM).fired == 2**64 - 1
    assert by.decide_columns(batch(1), alarms=1).fired[0] == np.uint64(2**64 - 1)


def test_decisions_travel_as_columns_without_what_no_row_has() -> None:
    by = policy(override(kind="label", label="no"), fit=coverage_fit(ABSOLUTE_RESIDUAL), guarantees=COVERAGE)
    travelling = by.decide_columns(batch(2), alarms=np.array([0, 1], np.uint8)).to_columns(by)
    assert (travelling.policy, travelling.revision) == (by.digest, 7)
    assert travelling.actions.tolist() == [0, 1]
    assert travelling.quantiles is not None
    assert travelling.alarms is not None
    assert travelling.answers is None
    assert travelling.answer_labels is not None
    assert travelling.answer_labels.values() == [None, "no"]
    quiet = policy(override(kind="value", value=1.0)).decide_columns(batch(2)).to_columns(by)
    assert quiet.quantiles is quiet.alarms is quiet.answers is quiet.answer_labels is None
