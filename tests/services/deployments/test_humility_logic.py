"""What is said to hold never, always or with another condition does so for every row that is decided."""

import dataclasses
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.humility.policy import Policy
from driftline.humility.rules import ALARM_MONITORS, Condition, HumilitySpec, Rule
from services.deployments.humility_logic import Meaning, needs_of
from services.deployments.regions import Search
from streams.specification import DeploymentSpec, FeatureSpec

SPEC = DeploymentSpec(
    "d",
    "m",
    "binary_classification",
    (FeatureSpec("x", "numeric"), FeatureSpec("at", "numeric"), FeatureSpec("dest", "categorical")),
    positive_class="late",
    challengers=("v2", "v3"),
)
NOW_US = 1_000_000_000

numbers = st.sampled_from([-1.0, 0.0, 1.0, 2.0, 3.0])
scores = st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0])
bounds = st.tuples(numbers, numbers).map(sorted).map(lambda ends: {"low": ends[0], "high": ends[1]})
texts = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2, unique=True).map(tuple)
leaves = st.one_of(
    st.builds(lambda e: Condition("outlying_input", columns=("x",), **e), bounds),
    st.builds(Condition, st.just("outlying_input"), columns=st.just(("x", "at")), low=numbers),
    st.builds(Condition, st.just("low_observation_region"), columns=st.just(("dest",)), values=texts),
    st.builds(Condition, st.just("missing_input"), columns=st.sampled_from([("x",), ("x", "dest"), ()])),
    st.builds(Condition, st.just("missing_input"), columns=st.just(("x", "dest")), least=st.just(2)),
    st.builds(
        Condition,
        st.just("stale_input"),
        columns=st.just(("at",)),
        measure=st.just("s"),
        older_than_ms=st.sampled_from([997_500, 999_500]),
    ),
    st.builds(Condition, st.just("uncertain_prediction"), measure=st.just("score"), low=scores, high=scores),
    st.builds(Condition, st.just("uncertain_prediction"), measure=st.just("confidence"), low=scores),
    st.builds(Condition, st.just("uncertain_prediction"), measure=st.just("margin"), low=scores),
    st.builds(Condition, st.just("prediction_out_of_range"), low=scores),
    st.builds(Condition, st.just("prediction_out_of_range"), low=scores, high=scores),
    st.builds(
        Condition,
        st.just("challenger_disagreement"),
        values=st.sampled_from([(), ("v2",), ("v3",), ("v2", "v3")]),
        high=st.none() | scores,
    ),
    st.builds(Condition, st.just("in_alarm"), values=st.sampled_from([(), ("labels",), ("labels", "service")])),
)
conditions = st.recursive(
    leaves,
    lambda inner: (
        st.builds(Condition, st.sampled_from(["all", "any"]), st.lists(inner, min_size=1, max_size=3).map(tuple))
        | inner.map(lambda each: Condition("not", (each,)))
    ),
    max_leaves=5,
)
values = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 1.0, 1.5, 2.0, 3.0, 4.0, math.nan, math.inf, None])
answers = st.none() | scores | st.sampled_from(["late", "on_time"])
rows = st.fixed_dictionaries(
    {
        "features": st.fixed_dictionaries(
            {"x": values, "at": values, "dest": st.sampled_from(["a", "b", "c", "d", "", None])}
        ),
        "prediction": scores | st.sampled_from([None, math.nan]),
        "prediction_label": st.sampled_from(["late", "on_time", None]),
        "challengers": st.fixed_dictionaries({"v2": answers, "v3": answers}),
        "alarms": st.integers(0, (1 << len(ALARM_MONITORS)) - 1),
    }
)


def fires(row: dict[str, Any], *some: Condition) -> list[bool]:
    """Whether conditions hold for a row, as it is decided."""
    rules = tuple(Rule(f"r{number}", condition, "record") for number, condition in enumerate(some))
    spec = dataclasses.replace(SPEC, humility=HumilitySpec(rules))
    policy = Policy.of(spec.to_record(), None)
    assert policy is not None and not policy.unarmed
    given_row = {**row, "challengers": {v: answer for v, answer in row["challengers"].items() if answer is not None}}
    found = policy.decide_row(**given_row, timestamp_us=NOW_US)
    return [bool(found.fired >> number & 1) for number in range(len(some))]


@settings(max_examples=150)
@given(conditions, st.lists(rows, min_size=1, max_size=8))
def test_what_never_or_always_holds_does_so_for_every_row(condition: Condition, some: list[dict[str, Any]]) -> None:
    meaning = Meaning(SPEC)
    search, formula = Search(meaning.domain), meaning.formula(condition)
    opposite = meaning.formula(condition, holds=False)
    assert opposite == meaning.formula(Condition("not", (condition,)))
    held = [fires(row, condition)[0] for row in some]
    if not search.can_hold(formula):
        assert not any(held)
    if not search.can_hold(opposite):
        assert all(held)


@settings(max_examples=150)
@given(conditions, conditions, st.lists(rows, min_size=1, max_size=8))
def test_what_follows_from_another_holds_wherever_it_does(
    one: Condition, other: Condition, some: list[dict[str, Any]]
) -> None:
    meaning = Meaning(SPEC)
    wider = Condition("any", (one, other))
    for first, second in ((one, other), (one, wider), (Condition("all", (one, other)), one)):
        implied = not Search(meaning.domain).can_hold(meaning.formula(first), meaning.formula(second, holds=False))
        assert implied or second is other
        if implied:
            assert all(holds <= follows for holds, follows in (fires(row, first, second) for row in some))


def test_needs_are_those_of_all_conditions_and_of_what_is_served_instead() -> None:
    condition = Condition(
        "all", (Condition("novel_input"), Condition("not", (Condition("uncertain_prediction", measure="certified"),)))
    )
    assert needs_of(Rule("a", condition, "refuse")) == {"novelty", "certificate"}
    assert needs_of(Rule("a", Condition("low_observation_region", columns=("dest",)), "refuse")) == {"counts"}
    typed = Condition("outlying_input", columns=("x",), low=1.0)
    assert needs_of(Rule("a", typed, "refuse")) == set()
