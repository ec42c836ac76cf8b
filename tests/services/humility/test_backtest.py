"""Changed rules over history: every number is the one that counting rows by hand gives."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from driftline.events import CategoricalColumn
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Rule
from services.humility.backtest import Backtested, FitOn, Side, backtest
from services.humility.errors import HumilityError
from services.humility.report import decision_lines
from services.humility.worth import DECIDED
from streams.humility.judge import policy_of

WIDER = Rule("storm", Condition("outlying_input", columns=("y",), low=-1.0, high=1.0), "refuse", priority=5)


@pytest.fixture(scope="module")
def world(made: Any) -> tuple[Any, Any, Any]:
    spec, rows = made.spec(), made.rows()
    return spec, made.baseline(spec), rows


def tried(spec: Any, *rules: Rule, **guarantees: Any) -> HumilitySpec:
    others = spec.humility.rules[1:] if len(rules) == 1 else ()
    return HumilitySpec((*rules, *others), Guarantees(**guarantees))


@pytest.fixture(scope="module")
def found(made: Any, world: tuple[Any, Any, Any]) -> Backtested:
    spec, baseline, rows = world
    return backtest(spec, tried(spec, WIDER), baseline, made.held(rows))


@pytest.mark.parametrize("limit", [1.5, 1.0])
def test_counts_errors_values_and_benefit_are_those_of_counting_by_hand(
    found: Backtested, world: tuple[Any, Any, Any], limit: float
) -> None:
    _, _, rows = world
    side: Side = found.now if limit == 1.5 else found.would
    said = rows.score >= 0.5
    storm, odd = np.abs(rows.y) > limit, rows.b
    mid, desk = (rows.score >= 0.3) & (rows.score <= 0.5), np.isnan(rows.y)
    refused = storm
    overridden, routed = mid & ~storm, desk & ~storm & ~mid
    answered = ~(refused | overridden | routed)
    counts = side.stretch.counts
    assert counts.actions == tuple(int(mask.sum()) for mask in (answered, overridden, refused, routed))
    lines = {line.name: line for line in decision_lines(side.stretch)}
    for name, mask in {
        "answered": answered, "overridden": overridden, "refused": refused, "routed": routed,
        "without humility": np.ones(len(said), bool),
    }.items():  # fmt: skip
        worth = lines[name].worth
        resolved = mask & rows.known
        assert (worth.predictions, worth.resolved) == (mask.sum(), resolved.sum())
        assert worth.loss.value == pytest.approx((said != rows.late)[resolved].mean())
        assert worth.wrong == (said != rows.late)[resolved].sum() and worth.wrong + worth.right == resolved.sum()
        value = np.where(said, np.where(rows.late, 2.0, -1.0), 0.0)
        assert worth.value.value == pytest.approx(value[resolved].mean(), abs=1e-8)
    served = np.where(overridden, True, said)
    with_humility = (answered | overridden) & rows.known
    assert lines["with humility"].worth.loss.value == pytest.approx((served != rows.late)[with_humility].mean())
    instead = overridden & rows.known
    assert lines["overridden (served)"].worth.loss.value == pytest.approx((~rows.late)[instead].mean())
    rules = {rule.name: rule for rule in side.rules}
    for name, mask in {"storm": storm, "odd": odd, "mid": mid, "desk": desk}.items():
        rule = rules[name]
        fired, rest = mask & rows.known, ~mask & rows.known
        assert (rule.judged, rule.fired) == (len(said), mask.sum())
        assert rule.where_fired.loss.value == pytest.approx((said != rows.late)[fired].mean())
        assert rule.elsewhere.loss.value == pytest.approx((said != rows.late)[rest].mean())
        assert (rule.where_fired.wrong, rule.where_fired.right) == (
            ((said != rows.late) & fired).sum(), ((said == rows.late) & fired).sum()
        )  # fmt: skip
    assert rules["odd"].acted == 0 and not rules["odd"].stops and rules["desk"].acted == routed.sum()


def test_it_says_how_many_rows_would_be_decided_otherwise(found: Backtested, world: tuple[Any, Any, Any]) -> None:
    _, _, rows = world
    between = (np.abs(rows.y) > 1.0) & (np.abs(rows.y) <= 1.5)
    mid = (rows.score >= 0.3) & (rows.score <= 0.5)
    assert found.moved[0, 2] == (between & ~mid).sum() and found.moved[1, 2] == (between & mid).sum()
    assert found.moved.sum() == found.rows == 1200 and found.moved[2, :2].sum() == 0
    assert found.with_values and not found.repeated and not found.fit


def test_the_order_and_cutting_of_rows_and_repeated_ones_change_nothing(
    made: Any, world: tuple[Any, Any, Any], found: Backtested
) -> None:
    spec, baseline, rows = world
    shuffled = dataclasses.replace(
        rows, predictions=[*rows.predictions[::-1], rows.predictions[0]], outcomes=rows.outcomes[::-1]
    )
    again = backtest(spec, tried(spec, WIDER), baseline, made.held(shuffled))
    assert again.repeated == rows.predictions[0].rows and (again.moved == found.moved).all()
    assert again.would.rules == found.would.rules
    assert decision_lines(again.now.stretch) == decision_lines(found.now.stretch)


def test_rules_that_ask_for_more_than_was_fitted_are_unarmed_until_they_are_fitted_to_the_first_part(
    made: Any, world: tuple[Any, Any, Any]
) -> None:
    spec, baseline, rows = world
    other = tried(spec, Rule("new", Condition("novel_input"), "refuse"), novelty_rate=0.05)
    found = backtest(spec, other, baseline, made.held(rows))
    assert any("'new' never fires" in text for text in found.would.unarmed)
    assert {rule.name: rule.fired for rule in found.would.rules}["new"] == 0
    for part in (FitOn(share=0.5), FitOn(until_us=600 * 10_000_000)):
        refit = backtest(spec, other, baseline, made.held(rows), part)
        assert not refit.would.unarmed and "600 rows before" in refit.fit
        assert refit.rows == 600 and 0 < {rule.name: rule.fired for rule in refit.would.rules}["new"] < 60
    assert any("guarantees differ" in text for text in refit.notes)


def test_a_deployment_without_rules_answers_everything_now(made: Any, world: tuple[Any, Any, Any]) -> None:
    spec, baseline, rows = world
    found = backtest(made.replace(spec, humility=None), spec.humility, baseline, made.held(rows))
    assert found.now.stretch.counts.actions == (1200, 0, 0, 0) and not found.now.rules
    assert found.would.stretch.counts.actions[2] > 0


def test_without_outcomes_it_only_counts(made: Any, world: tuple[Any, Any, Any]) -> None:
    spec, baseline, rows = world
    blind = made.replace(spec, outcomes=None)
    found = backtest(blind, tried(spec, WIDER), baseline, made.held(rows))
    assert found.now.stretch.worth is None and found.would.rules[0].verdict.kind == "too few outcomes"
    assert found.would.rules[0].fired and any("expects no outcomes" in text for text in found.notes)
    none = backtest(spec, spec.humility, baseline, made.held(dataclasses.replace(rows, outcomes=[])))
    assert any("there are no outcomes" in text for text in none.notes)
    assert none.now.stretch.part(DECIDED).loss.value is None


def test_rows_know_what_their_publisher_knew(made: Any, world: tuple[Any, Any, Any]) -> None:
    spec, baseline, rows = world
    rule = Rule("alarm", Condition("in_alarm", values=("data_drift",)), "refuse")
    mine = made.replace(spec, humility=HumilitySpec((rule,), Guarantees()))
    policy = policy_of(mine, baseline)
    first, *others = rows.predictions
    claim = policy.decide_columns(first, alarms=1).to_columns(policy)
    alarmed = dataclasses.replace(rows, predictions=[dataclasses.replace(first, humility=claim), *others])
    found = backtest(mine, HumilitySpec((rule,), Guarantees()), baseline, made.held(alarmed))
    assert found.now.stretch.counts.actions[2] == first.rows == found.now.stretch.counts.decided
    assert any("without a decision of their publisher" in text for text in found.notes)


def test_nothing_to_decide_or_to_fit_to_is_said(made: Any, world: tuple[Any, Any, Any]) -> None:
    spec, baseline, rows = world
    empty = made.held(dataclasses.replace(rows, predictions=[]))
    with pytest.raises(HumilityError, match="there are no predictions of delays@1: give another range"):
        backtest(spec, spec.humility, baseline, empty)
    with pytest.raises(HumilityError, match="no rows to fit to"):
        backtest(spec, spec.humility, baseline, empty, FitOn(share=0.5))
    with pytest.raises(HumilityError, match="no rows before 1969"):
        backtest(spec, spec.humility, baseline, made.held(rows), FitOn(until_us=-1_000_000))
    with pytest.raises(HumilityError, match=r"from 2001.* on, where the part that rules are fitted to ends"):
        backtest(spec, spec.humility, baseline, made.held(rows), FitOn(until_us=10**15))


def test_errors_of_numbers_are_absolute_and_nothing_is_caught(made: Any) -> None:
    spec = made.spec(
        (
            Rule("storm", Condition("outlying_input", columns=("y",), low=-1.5, high=1.5), "refuse"),
            Rule("odd", Condition("low_observation_region", columns=("c",), values=("b",)), "record"),
        ),
        task=made.regression,
    )
    rows = made.rows(task=made.regression)
    baseline = made.baseline(spec)
    found = backtest(spec, spec.humility, baseline, made.held(rows))
    error, storm = np.abs(rows.score - rows.late), np.abs(rows.y) > 1.5
    rule, odd = found.now.rules
    assert rule.where_fired.loss.value == pytest.approx(error[storm & rows.known].mean(), rel=1e-6)
    assert rule.elsewhere.loss.value == pytest.approx(error[~storm & rows.known].mean(), rel=1e-6)
    assert rule.where_fired.wrong is None and rule.verdict.kind == "keep" and odd.verdict.kind != "keep"


def test_labels_stand_for_themselves_where_there_is_no_score(made: Any, world: tuple[Any, Any, Any]) -> None:
    spec, baseline, rows = world
    named = [
        dataclasses.replace(
            batch,
            prediction=None,
            prediction_label=CategoricalColumn(["on time", "late"], (batch.prediction >= 0.5).astype(np.int32)),
        )
        for batch in rows.predictions
    ]
    found = backtest(spec, spec.humility, baseline, made.held(dataclasses.replace(rows, predictions=named)))
    said = rows.score >= 0.5
    assert found.now.stretch.part(DECIDED).wrong == ((said != rows.late) & rows.known).sum()
