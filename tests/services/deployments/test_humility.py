"""Humility rules are read as their author meant them, or refused whole with line and field."""

import textwrap
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.humility.rules import (
    ALL_OF,
    ANY_OF,
    CERTIFIED,
    COMBINATIONS,
    MEASURES,
    NOT,
    OVERRIDES,
    RULE_ACTIONS,
    SCORE,
    SET_SIZE,
    TRIGGERS,
    Condition,
    Guarantees,
    HumilitySpec,
    Override,
    Rule,
)
from services.deployments import humility as module
from services.deployments.checking import parse_specification
from services.deployments.durations import duration_ms
from services.deployments.errors import Flaw, SpecificationError
from services.deployments.humility import Humility, humility_document
from services.deployments.humility_conditions import UncertainPrediction, When
from services.deployments.specification import to_document
from streams.specification import BINARY, MONITORS, MULTICLASS, OTHER_TASK, REGRESSION, DeploymentSpec

# Seven lines; what is about humility begins on the eighth.
HEAD = """\
deployment: d
model: m
task: {task}
features: {{x: numeric, y: numeric, at: numeric, origin: categorical, dest: categorical, open: boolean, note: text}}
segments: {{by_origin: origin}}
challengers: [v2, 3]
outcomes: {outcomes}
"""
CLASSES = "{horizon: 30d, classes: [late, on_time]}"
GUARANTEES = "{novelty: 0.01, max_error: 0.1, coverage: 0.9, segment: by_origin}"


def spec_text(lines: str, task: str = BINARY, outcomes: str | None = CLASSES) -> str:
    """A specification whose humility section begins on line 8, or 9 of a binary one."""
    if task in (REGRESSION, OTHER_TASK) and outcomes == CLASSES:
        outcomes = "30d"
    head = HEAD.format(task=task, outcomes=outcomes)
    if outcomes is None:
        head = head.replace("outcomes: None\n", "\n")
    positive = "positive_class: late\n" if task == BINARY else ""
    return head + positive + "humility:\n" + textwrap.indent(textwrap.dedent(lines).strip("\n") + "\n", "  ")


def rule_text(when: str, action: str = "record", task: str = BINARY, guarantees: str = GUARANTEES, **extra: Any) -> str:
    """One rule whose condition stands on line 12 of a binary specification, and on line 11 of another."""
    if task == REGRESSION:
        guarantees = guarantees.replace("max_error: 0.1", "max_error: 0.1, tolerance: 5")
    if task == OTHER_TASK:
        guarantees = "{novelty: 0.01}"
    return spec_text(f"guarantees: {guarantees}\nrules:\n- name: a\n  when: {when}\n  action: {action}", task, **extra)


def rules_text(*rules: str, task: str = BINARY) -> str:
    """Rules of which the first stands on line 12 of a binary specification, one a line."""
    guarantees = GUARANTEES if task == BINARY else GUARANTEES.replace("max_error: 0.1, ", "")
    return spec_text(f"guarantees: {guarantees}\nrules:\n" + "\n".join(f"- {{{rule}}}" for rule in rules), task)


def parse(text: str) -> DeploymentSpec:
    return parse_specification(text.encode(), "spec.yaml").to_spec()


def condition_of(when: str, **changes: Any) -> Condition:
    spec = parse(rule_text(when, **changes)).humility
    assert spec is not None
    return spec.rules[0].when


def flaws(text: str) -> list[Flaw]:
    with pytest.raises(SpecificationError) as caught:
        parse_specification(text.encode(), "spec.yaml")
    return list(caught.value.flaws)


def test_the_example_of_the_section_is_one() -> None:
    text = textwrap.dedent((module.__doc__ or "").partition("Example::\n")[2].partition("\nWhat can stand")[0])
    head = (
        HEAD.format(task=BINARY, outcomes="30d")
        .replace("[v2, 3]", "[2026-04]")
        .replace("x: numeric", "visibility: numeric")
    )
    spec = parse(
        head.replace("at:", "observed_at:").replace("by_origin", "by_carrier") + "positive_class: late\n" + text
    )
    assert spec.humility is not None
    storm, unsure, between, route, stale, second, alarm = spec.humility.rules
    assert storm.when == Condition(
        ANY_OF,
        (
            Condition("outlying_input", columns=("visibility",), low=2.0),
            Condition(
                ALL_OF,
                (
                    Condition("novel_input"),
                    Condition(NOT, (Condition("low_observation_region", columns=("dest",), least=30),)),
                ),
            ),
        ),
    )
    assert (storm.action, storm.route_to, storm.priority) == ("route", "dispatch desk", 10)
    assert storm.message == "Weather outside what the model has seen."
    assert unsure.when == Condition("uncertain_prediction", measure=CERTIFIED) and unsure.action == "refuse"
    assert (between.when.low, between.when.high, between.dry_run) == (0.4, 0.6, True)
    assert route.when.columns == ("origin", "dest") and route.override == Override("prior")
    assert stale.when == Condition("stale_input", columns=("observed_at",), measure="s", older_than_ms=7_200_000)
    assert stale.override == Override("version", version="2026-04")
    assert second.when == Condition("challenger_disagreement", values=("2026-04",), high=0.2)
    assert alarm.when == Condition("in_alarm", values=("concept_drift",))
    assert spec.humility.guarantees == Guarantees(0.01, 0.15, None, 0.9, 0.95, "by_carrier", 0.01)


@pytest.mark.parametrize(
    ("when", "meant"),
    [
        ("novel_input", Condition("novel_input")),
        ("{novel_input: }", Condition("novel_input")),
        ("in_alarm", Condition("in_alarm")),
        ("{in_alarm: data_drift}", Condition("in_alarm", values=("data_drift",))),
        ("outlying_input", Condition("outlying_input")),
        ("{outlying_input: x}", Condition("outlying_input", columns=("x",))),
        ("{outlying_input: [x, y]}", Condition("outlying_input", columns=("x", "y"))),
        ("{outlying_input: {features: [x, y], high: 3}}", Condition("outlying_input", columns=("x", "y"), high=3.0)),
        ("missing_input", Condition("missing_input")),
        ("{missing_input: [x, dest]}", Condition("missing_input", columns=("x", "dest"))),
        ("{missing_input: {least: 3}}", Condition("missing_input", least=3)),
        ("{low_observation_region: dest}", Condition("low_observation_region", columns=("dest",))),
        ("{low_observation_region: [dest, open]}", Condition("low_observation_region", columns=("dest", "open"))),
        (
            "{low_observation_region: {feature: dest, values: [JFK, 1]}}",
            Condition("low_observation_region", columns=("dest",), values=("JFK", "1")),
        ),
        ("{uncertain_prediction: set_size}", Condition("uncertain_prediction", measure=SET_SIZE)),
        ("{uncertain_prediction: {certified: }}", Condition("uncertain_prediction", measure=CERTIFIED)),
        ("{uncertain_prediction: {confidence: 0.6}}", Condition("uncertain_prediction", measure="confidence", low=0.6)),
        ("{uncertain_prediction: {margin: {low: 0.1}}}", Condition("uncertain_prediction", measure="margin", low=0.1)),
        ("{uncertain_prediction: {score: {low: 0.9}}}", Condition("uncertain_prediction", measure=SCORE, low=0.9)),
        ("prediction_out_of_range", Condition("prediction_out_of_range")),
        ("{prediction_out_of_range: {high: 0.99}}", Condition("prediction_out_of_range", high=0.99)),
        ("challenger_disagreement", Condition("challenger_disagreement")),
        ("{challenger_disagreement: v2}", Condition("challenger_disagreement", values=("v2",))),
        ("{challenger_disagreement: 3}", Condition("challenger_disagreement", values=("3",))),
        ("{challenger_disagreement: [v2, 3]}", Condition("challenger_disagreement", values=("v2", "3"))),
        ("{challenger_disagreement: {by: 0.1}}", Condition("challenger_disagreement", high=0.1)),
        ("{not: novel_input}", Condition(NOT, (Condition("novel_input"),))),
        ("{any: [novel_input, in_alarm]}", Condition(ANY_OF, (Condition("novel_input"), Condition("in_alarm")))),
    ],
)
def test_short_ways_of_writing_a_condition_mean_the_long_ones(when: str, meant: Condition) -> None:
    assert condition_of(when) == meant


@pytest.mark.parametrize(
    ("action", "task", "meant"),
    [
        ("record", BINARY, ("record", None)),
        ("refuse", BINARY, ("refuse", None)),
        ("{refuse: }", BINARY, ("refuse", None)),
        ("{route: a desk}", BINARY, ("route", None)),
        ("{override: prior}", BINARY, ("override", Override("prior"))),
        ("{override: {label: on_time}}", BINARY, ("override", Override("label", label="on_time"))),
        ("{override: {version: 3}}", BINARY, ("override", Override("version", version="3"))),
        ("{override: 3}", REGRESSION, ("override", Override("value", 3.0))),
        ("{override: {value: 3}}", REGRESSION, ("override", Override("value", 3.0))),
        ("{override: clip}", REGRESSION, ("override", Override("clip"))),
        ("{override: {clip: {low: 0}}}", REGRESSION, ("override", Override("clip", low=0.0))),
        ("{override: {label: any}}", OTHER_TASK, ("override", Override("label", label="any"))),
    ],
)
def test_every_action_can_be_asked_for(action: str, task: str, meant: tuple[str, Override | None]) -> None:
    humility = parse(rule_text("missing_input", action, task)).humility
    assert humility is not None
    assert (humility.rules[0].action, humility.rules[0].override) == meant


def test_every_trigger_measure_action_and_override_of_the_contract_has_a_name_here() -> None:
    assert {field.alias or name for name, field in When.model_fields.items()} == {*TRIGGERS, *COMBINATIONS}
    assert set(UncertainPrediction.model_fields) == set(MEASURES)
    assert set(module.Action.model_fields) == set(RULE_ACTIONS)
    assert set(module.Instead.model_fields) == set(OVERRIDES)


def test_what_is_left_out_is_as_the_contract_has_it() -> None:
    humility = parse(spec_text("rules: [{name: a, when: missing_input, action: record}]")).humility
    assert humility == HumilitySpec((Rule("a", Condition("missing_input"), "record"),), Guarantees())
    assert parse(HEAD.format(task=OTHER_TASK, outcomes="30d")).humility is None


words = st.text("abno01.-_:'\"{}[]&*!|>%é世<@#", min_size=1, max_size=8).map(str.strip).filter(bool)
names = st.lists(words, min_size=1, max_size=3, unique=True).map(tuple)
numbers = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1, exclude_min=True, exclude_max=True)
ends = st.fixed_dictionaries({"low": st.none() | numbers, "high": st.none() | numbers})
leaves = st.one_of(
    st.builds(lambda e: Condition("uncertain_prediction", measure=SCORE, **e), ends),
    st.builds(
        Condition, st.just("uncertain_prediction"), measure=st.sampled_from(["confidence", "margin"]), low=numbers
    ),
    st.builds(Condition, st.just("uncertain_prediction"), measure=st.just("interval_width"), high=numbers),
    st.builds(Condition, st.just("uncertain_prediction"), measure=st.sampled_from([CERTIFIED, SET_SIZE])),
    st.builds(lambda c, e: Condition("outlying_input", columns=c, **e), names | st.just(()), ends),
    st.just(Condition("novel_input")),
    st.builds(Condition, st.just("low_observation_region"), columns=names, least=st.integers(1, 10**12)),
    st.builds(Condition, st.just("low_observation_region"), columns=names, values=names),
    st.builds(Condition, st.just("missing_input"), columns=names | st.just(()), least=st.integers(1, 10**6)),
    st.builds(
        Condition,
        st.just("stale_input"),
        columns=words.map(lambda name: (name,)),
        measure=st.sampled_from(["s", "ms", "us"]),
        older_than_ms=st.integers(1, 10**11),
    ),
    st.builds(lambda e: Condition("prediction_out_of_range", **e), ends),
    st.builds(
        Condition,
        st.just("challenger_disagreement"),
        values=st.lists(words.filter(lambda w: "@" not in w and "#" not in w), max_size=3).map(tuple),
        high=st.none() | st.floats(0, 1e9),
    ),
    st.builds(Condition, st.just("in_alarm"), values=st.lists(st.sampled_from(MONITORS), max_size=3).map(tuple)),
)
conditions = st.recursive(
    leaves,
    lambda inner: (
        st.builds(Condition, st.sampled_from([ALL_OF, ANY_OF]), st.lists(inner, max_size=3).map(tuple))
        | inner.map(lambda each: Condition(NOT, (each,)))
    ),
    max_leaves=6,
)
versions = words.filter(lambda text: "@" not in text and "#" not in text)
overrides = st.one_of(
    st.builds(Override, st.just("value"), numbers),
    st.builds(Override, st.just("label"), label=words),
    st.builds(lambda e: Override("clip", **e), ends),
    st.builds(Override, st.just("version"), version=versions),
    st.just(Override("prior")),
)
actions = st.one_of(
    st.sampled_from([{"action": "record"}, {"action": "refuse"}]),
    words.map(lambda who: {"action": "route", "route_to": who}),
    overrides.map(lambda instead: {"action": "override", "override": instead}),
)
rules = st.builds(
    lambda action, **fields: Rule(**action, **fields),
    actions,
    name=words,
    when=conditions,
    message=words | st.just(""),
    priority=st.integers(0, 1_000_000),
    dry_run=st.booleans(),
)
guarantees = st.builds(
    Guarantees,
    novelty_rate=st.none() | shares,
    max_error=st.none() | shares,
    tolerance=st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
    coverage=st.none() | shares,
    confidence=shares,
    segment=st.none() | words,
    step=st.floats(0, 1, exclude_min=True),
)


@given(st.builds(HumilitySpec, st.lists(rules, max_size=4).map(tuple), guarantees))
def test_whatever_rules_are_in_force_can_be_written_and_read_again(spec: HumilitySpec) -> None:
    text = yaml.safe_dump(humility_document(spec), sort_keys=False, allow_unicode=False)
    assert Humility.model_validate(yaml.safe_load(text)).to_spec() == spec


@given(st.lists(rules, max_size=3))
def test_any_rules_are_read_or_refused_and_nothing_else(some: list[Rule]) -> None:
    document = {**yaml.safe_load(spec_text("{}")), "humility": humility_document(HumilitySpec(tuple(some)))}
    try:
        spec = parse(yaml.safe_dump(document))
    except SpecificationError as error:
        assert error.flaws and all(flaw.message for flaw in error.flaws)
    else:
        assert spec.humility is not None and spec.humility.rules == tuple(some)


def test_rules_survive_the_whole_specification() -> None:
    spec = parse(rule_text("{all: [novel_input, {not: {outlying_input: {feature: x, low: -1, high: 1}}}]}", "refuse"))
    assert parse(yaml.safe_dump(to_document(spec), sort_keys=False)) == spec
