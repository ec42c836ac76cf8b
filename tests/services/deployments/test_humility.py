"""Humility rules are read as their author meant them, or refused whole with line and field."""

import textwrap
import time
from typing import Any

import pytest
import yaml
from hypothesis import given
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
    """One rule whose condition stands on line 13 of a binary specification, and on line 12 of another."""
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
        ("{missing_input: note}", Condition("missing_input", columns=("note",))),
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
    refusal = spec = None
    try:
        spec = parse(yaml.safe_dump(document))
    except SpecificationError as error:
        refusal = error
    if refusal is not None:
        assert refusal.flaws and all(flaw.message for flaw in refusal.flaws)
    if spec is not None:
        assert spec.humility is not None and spec.humility.rules == tuple(some)


def test_rules_survive_the_whole_specification() -> None:
    spec = parse(rule_text("{all: [novel_input, {not: {outlying_input: {feature: x, low: -1, high: 1}}}]}", "refuse"))
    assert parse(yaml.safe_dump(to_document(spec), sort_keys=False)) == spec


@pytest.mark.parametrize(
    ("when", "field", "says"),
    [
        ("nvel_input", "when", "unknown trigger 'nvel_input' (did you mean 'novel_input'?)"),
        ("[novel_input]", "when", "say how they combine, as in all: [...] or any: [...]"),
        ("{novel_input: , in_alarm: }", "when", "expected one trigger, came novel_input and in_alarm: combine them"),
        ("{}", "when", "expected one trigger, came none: give one of all, any, not, uncertain_prediction"),
        ("3", "when", "expected a trigger, all, any or not, came the number 3"),
        ("{novel_input: {low: 1}}", "when.novel_input.low", "unknown field"),
        ("stale_input", "when", "unit: required, and missing"),
        ("{stale_input: {feature: at, unit: h, older_than: 2h}}", "when.stale_input.unit", "expected s, ms or us"),
        ("{stale_input: {feature: at, unit: s, older_than: 2}}", "when.stale_input.older_than", "with its unit"),
        ("{stale_input: {feature: at, unit: s, older_than: 0s}}", "when.stale_input.older_than", "expected 1ms to"),
        ("{uncertain_prediction: }", "when.uncertain_prediction", "expected one measure, came none"),
        ("{uncertain_prediction: certifed}", "when.uncertain_prediction", "did you mean 'certified'"),
        ("{uncertain_prediction: {confidence: x}}", "when.uncertain_prediction.confidence", "expected a number"),
        ("{outlying_input: {feature: x, lo: 2}}", "when.outlying_input.lo", "unknown field (did you mean 'low'?)"),
        ("{outlying_input: {feature: x, low: 1e999}}", "when.outlying_input.low", "expected a finite number, came inf"),
        ("{outlying_input: {feature: x, low: .nan}}", "when.outlying_input.low", "expected a number, came the text"),
        ("{in_alarm: [concpt_drift]}", "when.in_alarm[0]", "did you mean 'concept_drift'"),
        # features
        ("{outlying_input: z}", "when.outlying_input", "there is no feature 'z': name one under features:; declared"),
        ("{missing_input: [x, orign]}", "when.missing_input[1]", "no feature 'orign' (did you mean 'origin'?)"),
        (
            "{outlying_input: dest}",
            "when.outlying_input",
            "looks at numeric features, and 'dest' is categorical: take low",
        ),
        ("{outlying_input: {features: [x, dest], low: 2}}", "when.outlying_input.features[1]", "'dest' is categorical"),
        (
            "{low_observation_region: x}",
            "when.low_observation_region",
            "categorical or boolean features, and 'x' is numeric",
        ),
        ("{stale_input: {feature: open, unit: s, older_than: 2h}}", "when.stale_input.feature", "'open' is boolean"),
        ("{missing_input: [x, x]}", "when.missing_input[1]", "the feature 'x' is given twice"),
        ("{missing_input: []}", "when.missing_input", "names no feature"),
        ("{missing_input: {feature: x, features: [y]}}", "when.missing_input.feature", "not both"),
        ("{missing_input: {features: [x, y], least: 3}}", "when.missing_input.least", "never 3 are missing"),
        ("{missing_input: {least: 8}}", "when.missing_input.least", "of 7 feature(s) never 8 are missing"),
        ("{outlying_input: {low: 2}}", "when.outlying_input.low", "a bound of which feature?"),
        (
            "{low_observation_region: {least: 2}}",
            "when.low_observation_region",
            "of one feature or of two together, came 0",
        ),
        ("{low_observation_region: [origin, dest, open]}", "when.low_observation_region", "came 3: name one or two"),
        (
            "{low_observation_region: {features: [origin, dest], values: [a]}}",
            "when.low_observation_region.values",
            "values are of one feature, came two",
        ),
        (
            "{low_observation_region: {feature: dest, values: []}}",
            "when.low_observation_region.values",
            "lists nothing",
        ),
        (
            "{low_observation_region: {feature: dest, values: [a], least: 2}}",
            "when.low_observation_region.least",
            "listed or counted, not both",
        ),
        (
            "{low_observation_region: {feature: dest, values: [a, b, a]}}",
            "when.low_observation_region.values[2]",
            "the value 'a' is given twice",
        ),
        ("{low_observation_region: {feature: dest, least: 0}}", "when.low_observation_region.least", "of at least 1"),
        # versions and monitors
        (
            "{challenger_disagreement: v3}",
            "when.challenger_disagreement",
            "there is no challenger 'v3' (did you mean '3'?)",
        ),
        ("{challenger_disagreement: [v2, v2]}", "when.challenger_disagreement[1]", "the version 'v2' is given twice"),
        ("{challenger_disagreement: []}", "when.challenger_disagreement", "names no version"),
        ("{challenger_disagreement: {version: v2, by: -1}}", "when.challenger_disagreement.by", "of at least 0"),
        (
            "{challenger_disagreement: {version: v2, versions: [3]}}",
            "when.challenger_disagreement.version",
            "not both",
        ),
        ("{in_alarm: [data_drift, data_drift]}", "when.in_alarm[1]", "the monitor data_drift is given twice"),
        ("{in_alarm: [fairness]}", "when.in_alarm[0]", "no groups are compared: name their segmentation"),
        # bounds
        ("{outlying_input: {feature: x, low: 3, high: 2}}", "when.outlying_input.high", "from low, 3, on, came 2"),
        ("{prediction_out_of_range: {low: 0.9, high: 0.1}}", "when.prediction_out_of_range.high", "from low, 0.9, on"),
        (
            "{uncertain_prediction: {score: {low: 0.6, high: 0.4}}}",
            "when.uncertain_prediction.score.high",
            "from low, 0.6, on, came 0.4",
        ),
        ("{uncertain_prediction: score}", "when.uncertain_prediction", "which scores are uncertain? Give low, high"),
        ("{uncertain_prediction: {confidence: 0.5}}", "when.uncertain_prediction.confidence", "it lies from 0.5 to 1"),
        ("{uncertain_prediction: {margin: {low: 0}}}", "when.uncertain_prediction.margin.low", "no margin is below 0"),
        (
            "{uncertain_prediction: {interval_width: 3}}",
            "when.uncertain_prediction.interval_width",
            "have no interval_width",
        ),
        ("{uncertain_prediction: {score: {low: 1.2, high: 2}}}", "when.uncertain_prediction.score.low", "came 1.2"),
        (
            "{uncertain_prediction: {score: {high: -0.5}}}",
            "when.uncertain_prediction.score.high",
            "no score lies there",
        ),
        ("{prediction_out_of_range: {low: 50}}", "when.prediction_out_of_range.low", "every score lies outside"),
        ("{prediction_out_of_range: {high: -1}}", "when.prediction_out_of_range.high", "from 0 to 1, came -1"),
        (
            "{prediction_out_of_range: {low: -1, high: 2}}",
            "when.prediction_out_of_range",
            "can never hold, a score lies",
        ),
        # what holds never, or always
        ("{all: []}", "when.all", "combines nothing"),
        ("{any: [novel_input, {all: []}]}", "when.any[1].all", "combines nothing"),
        (
            "{uncertain_prediction: {score: {low: 0, high: 1}}}",
            "when.uncertain_prediction",
            "holds for every prediction, a score lies from 0 to 1",
        ),
        ("{uncertain_prediction: {confidence: 1.1}}", "when.uncertain_prediction", "a confidence lies from 0.5 to 1"),
        ("{uncertain_prediction: {margin: 2}}", "when.uncertain_prediction", "a margin lies from 0 to 1"),
        (
            "{prediction_out_of_range: {low: 0, high: 1}}",
            "when.prediction_out_of_range",
            "can never hold, a score lies",
        ),
        (
            "{all: [novel_input, {outlying_input: {feature: x, low: 2}}, "
            "{not: {outlying_input: {feature: x, low: 3}}}]}",
            "when.all",
            "can never hold, its conditions 2 and 3 exclude each other",
        ),
        ("{any: [novel_input, {not: novel_input}]}", "when.any", "its conditions 1 and 2 leave nothing out"),
        (
            "{all: [{missing_input: x}, {outlying_input: {feature: x, low: 2}}]}",
            "when.all",
            "1 and 2 exclude each other",
        ),
        ("{all: [{missing_input: x}, {outlying_input: x}]}", "when.all", "exclude each other"),
        ("{all: [in_alarm, {not: in_alarm}]}", "when.all", "exclude each other"),
        ("{not: {any: [novel_input, {not: novel_input}]}}", "when.not.any", "leave nothing out"),
        (
            "{all: [{low_observation_region: {feature: dest, values: [a]}}, "
            "{low_observation_region: {feature: dest, values: [b]}}]}",
            "when.all",
            "exclude each other",
        ),
        (
            "{all: [{low_observation_region: {feature: dest, least: 5}}, "
            "{not: {low_observation_region: {feature: dest, least: 9}}}]}",
            "when.all",
            "exclude each other",
        ),
        (
            "{all: [{challenger_disagreement: v2}, {not: {challenger_disagreement: {version: v2, by: 0.2}}}]}",
            "when.all",
            "exclude each other",
        ),
        (
            "{all: [novel_input, {any: [{missing_input: x}, {missing_input: y}]}, {not: {missing_input: [x, y]}}]}",
            "when.all",
            "2 and 3 exclude each other",
        ),
        # depth
        ("{not: " * 7 + "{any: [novel_input]}" + "}" * 7, "when" + ".not" * 7 + ".any[0]", "at most 8 deep"),
    ],
)
def test_a_condition_that_cannot_mean_what_it_says_is_named(when: str, field: str, says: str) -> None:
    found = flaws(rule_text(when))
    expected = (13, f"humility.rules[0].{field}")
    assert any((f.line, f.field) == expected and says in f.message for f in found), [str(f) for f in found]
    assert all(f.column >= 9 for f in found), [(f.column, str(f)) for f in found]


@pytest.mark.parametrize(
    ("task", "when", "says"),
    [
        (MULTICLASS, "{uncertain_prediction: {score: {low: 0.4}}}", "have no score: take confidence, margin, set_size"),
        (MULTICLASS, "{prediction_out_of_range: {low: 0.4}}", "a class has no range"),
        (REGRESSION, "{uncertain_prediction: {confidence: 0.6}}", "have no confidence: take score, interval_width or"),
        (REGRESSION, "{uncertain_prediction: set_size}", "have no set_size"),
        (REGRESSION, "challenger_disagreement", "say by how much its numbers may differ, as in {by: 10}"),
        (
            REGRESSION,
            "{uncertain_prediction: {interval_width: -1}}",
            "holds for every prediction, no interval is narrower",
        ),
        (OTHER_TASK, "{uncertain_prediction: certified}", "have no certified: take score"),
        (OTHER_TASK, "{uncertain_prediction: {margin: 0.1}}", "have no margin"),
    ],
)
def test_a_condition_that_the_task_has_no_use_for_is_named(task: str, when: str, says: str) -> None:
    found = flaws(rule_text(when, task=task))
    assert any(f.line == 12 and f.field.startswith("humility.rules[0].when") and says in f.message for f in found), (
        found
    )


@pytest.mark.parametrize(
    ("when", "guarantee", "where"),
    [
        ("novel_input", "novelty", "when"),
        ("{any: [in_alarm, novel_input]}", "novelty", "when.any[1]"),
        ("{outlying_input: x}", "novelty", "when.outlying_input"),
        ("outlying_input", "novelty", "when"),
        ("prediction_out_of_range", "novelty", "when"),
        ("{uncertain_prediction: certified}", "max_error", "when.uncertain_prediction"),
        ("{uncertain_prediction: set_size}", "coverage", "when.uncertain_prediction"),
    ],
)
def test_a_trigger_without_the_guarantee_that_it_rests_on_is_named(when: str, guarantee: str, where: str) -> None:
    others = {"novelty": "max_error: 0.1", "max_error": "novelty: 0.1", "coverage": "novelty: 0.1"}[guarantee]
    (flaw,) = flaws(rule_text(when, guarantees=f"{{{others}}}"))
    assert (flaw.line, flaw.field) == (13, f"humility.rules[0].{where}")
    assert f"guarantees.{guarantee} decides" in flaw.message and f"as in guarantees: {{{guarantee}: 0." in flaw.message


@pytest.mark.parametrize(
    ("task", "action", "field", "says"),
    [
        (BINARY, "forget", "action", "unknown action 'forget'; known are record, refuse, route, override"),
        (BINARY, "route", "action", "route to whom?"),
        (BINARY, "{route: ' '}", "action.route", "expected 1 to 500 printable characters"),
        (BINARY, "override", "action", "override with what?"),
        (BINARY, "{override: prio}", "action.override", "unknown override 'prio' (did you mean 'prior'?)"),
        (BINARY, "{override: {clip: , prior: }}", "action.override", "expected one override, came clip and prior"),
        (
            BINARY,
            "{refuse: , record: }",
            "action",
            "expected one action, came record and refuse: write a rule for each",
        ),
        (BINARY, "{override: 0.5}", "action.override", "answers with a class, came the number 0.5"),
        (MULTICLASS, "{override: {value: 7}}", "action.override.value", "answers with a class, came the number 7"),
        (
            REGRESSION,
            "{override: {label: late}}",
            "action.override.label",
            "answers with a number, came the class 'late'",
        ),
        (REGRESSION, "{override: {value: .inf}}", "action.override.value", "expected a number, came the text '.inf'"),
        (BINARY, "{override: {label: lat}}", "action.override.label", "came 'lat' (did you mean 'late'?)"),
        (BINARY, "{override: clip}", "action.override", "a class cannot be pulled into a range"),
        (REGRESSION, "{override: {clip: {low: 3, high: 2}}}", "action.override.clip.high", "from low, 3, on, came 2"),
        (
            BINARY,
            "{override: {version: v9}}",
            "action.override.version",
            "there is no challenger 'v9': name one under challengers:; declared are 'v2', '3'",
        ),
    ],
)
def test_an_action_that_the_model_cannot_follow_is_named(task: str, action: str, field: str, says: str) -> None:
    found = flaws(rule_text("missing_input", action, task))
    expected = (14 if task == BINARY else 13, f"humility.rules[0].{field}")
    assert any((f.line, f.field) == expected and says in f.message for f in found), [str(f) for f in found]


def test_the_fitted_range_of_predictions_needs_its_guarantee() -> None:
    text = spec_text("rules: [{name: a, when: missing_input, action: {override: clip}}]", REGRESSION)
    (flaw,) = flaws(text)
    assert (flaw.line, flaw.field) == (9, "humility.rules[0].action.override")
    assert "fitted under guarantees.novelty" in flaw.message
    parse(text.replace("rules:", "guarantees: {novelty: 0.01}\n  rules:"))
    parse(text.replace("clip}", "{clip: {low: 0, high: 100}}}"))


@pytest.mark.parametrize(
    ("lines", "task", "line", "field", "says"),
    [
        ("{}", BINARY, 9, "", "gives neither rules nor a guarantee"),
        ("guarantees: {confidence: 0.9}", BINARY, 9, "", "gives neither rules nor a guarantee"),
        ("guarantees: {novelty: 1}", BINARY, 10, ".guarantees.novelty", "expected a number below 1"),
        ("guarantees: {novelty: 5 %}", BINARY, 10, ".guarantees.novelty", "expected a number, came the text '5 %'"),
        ("guarantees: {max_err: 0.1}", BINARY, 10, ".guarantees.max_err", "did you mean 'max_error'"),
        ("guarantees: {coverage: 0.9, step: 0}", BINARY, 10, ".guarantees.step", "expected a number above 0"),
        ("guarantees: {max_error: 0.1}", REGRESSION, 9, ".guarantees.max_error", "give guarantees.tolerance"),
        ("guarantees: {max_error: 0.1, tolerance: -1}", REGRESSION, 9, ".guarantees.tolerance", "above 0"),
        ("guarantees: {novelty: 0.1, tolerance: 5}", REGRESSION, 9, ".guarantees.tolerance", "give max_error"),
        ("guarantees: {max_error: 0.1, tolerance: 5}", BINARY, 10, ".guarantees.tolerance", "the task is binary"),
        ("guarantees: {max_error: 0.1}", OTHER_TASK, 9, ".guarantees.max_error", "of the task other nothing tells"),
        ("guarantees: {coverage: 0.9}", OTHER_TASK, 9, ".guarantees.coverage", "of the task other nothing tells"),
        (
            "guarantees: {novelty: 0.1, segment: by_orign}",
            BINARY,
            10,
            ".guarantees.segment",
            "did you mean 'by_origin'",
        ),
        (
            "guarantees: {segment: by_origin}\nrules: [{name: a, when: in_alarm, action: refuse}]",
            BINARY,
            10,
            ".guarantees.segment",
            "for which parts guarantees hold, and there is none",
        ),
        ("rules: [{when: in_alarm, action: refuse}]", BINARY, 10, ".rules[0].name", "required, and missing"),
        ("rules: {a: {when: in_alarm, action: refuse}}", BINARY, 10, ".rules", "a list of rules, each beginning with"),
        ("rules: [{name: a=b, when: in_alarm, action: refuse}]", BINARY, 10, ".rules[0].name", "without '='"),
        ('rules: [{name: "a\\x1b[31m", when: in_alarm, action: refuse}]', BINARY, 10, ".rules[0].name", "printable"),
        (
            "rules:\n- {name: a, when: in_alarm, action: refuse}\n- {name: a, when: missing_input, action: record}",
            BINARY,
            12,
            ".rules[1].name",
            "the rule 'a' is given twice, first on line 11",
        ),
        (
            "rules: [{name: a, when: in_alarm, action: refuse, message: ' '}]",
            BINARY,
            10,
            ".rules[0].message",
            "nothing to tell",
        ),
        (
            "rules: [{name: a, when: in_alarm, action: refuse, dry_run: yes}]",
            BINARY,
            10,
            ".rules[0].dry_run",
            "true or false",
        ),
        (
            "rules: [{name: a, when: in_alarm, action: refuse, priority: -1}]",
            BINARY,
            10,
            ".rules[0].priority",
            "of at least 0",
        ),
        (
            "rules: [{name: a, when: in_alarm, action: refuse, priority: 1.5}]",
            BINARY,
            10,
            ".rules[0].priority",
            "whole number",
        ),
        (
            "rules:\n" + "\n".join(f"- {{name: a{n}, when: in_alarm, action: record}}" for n in range(65)),
            BINARY,
            11,
            ".rules",
            "expected at most 64, came 65",
        ),
    ],
)
def test_a_flaw_in_the_section_is_named_with_line_and_field(
    lines: str, task: str, line: int, field: str, says: str
) -> None:
    found = flaws(spec_text(lines, task))
    assert any((f.line, f.field) == (line, f"humility{field}") and says in f.message for f in found), list(
        map(str, found)
    )


@pytest.mark.parametrize(
    ("before", "after", "line", "field"),
    [
        ("{x: numeric", "{'humility:x': numeric, x: numeric", 4, "features.humility:x.name"),
        ("by_origin: origin", "by_origin: origin, decision: dest", 5, "segments.decision"),
        ("by_origin: origin", "by_origin: origin, 'rule:a': dest", 5, "segments.rule:a"),
    ],
)
def test_names_of_what_is_counted_of_decisions_are_taken(before: str, after: str, line: int, field: str) -> None:
    text = spec_text("rules: [{name: a, when: in_alarm, action: refuse}]").replace(before, after)
    (flaw,) = flaws(text)
    assert (flaw.line, flaw.field) == (line, field) and flaw.message.startswith("with humility, ")
    parse(text.partition("humility:\n")[0])


def test_sums_by_decision_and_rule_count_where_windows_wait_in_memory() -> None:
    classes = ", ".join(f"c{n}" for n in range(120))
    outcomes = f"{{horizon: 30d, window: 3h, classes: [{classes}]}}"
    text = spec_text("rules: [{name: a, when: in_alarm, action: refuse}]", MULTICLASS, outcomes)
    (flaw,) = flaws(text)
    assert flaw.field == "outcomes.window" and "would be open at a time" in flaw.message
    parse(text.partition("humility:\n")[0])


@pytest.mark.parametrize("name", ["max_error", "coverage"])
def test_what_is_learnt_from_outcomes_needs_them(name: str) -> None:
    (flaw,) = flaws(spec_text(f"guarantees: {{{name}: 0.5}}", outcomes=None))
    assert (flaw.line, flaw.field) == (10, f"humility.guarantees.{name}") and "as in outcomes: 30d" in flaw.message


def test_an_alarm_of_a_monitor_that_does_not_watch_is_no_condition() -> None:
    text = spec_text("rules: [{name: a, when: {in_alarm: [data_drift, labels]}, action: refuse}]", outcomes=None)
    text = text.replace("challengers: [v2, 3]", "monitors: {data_drift: off}")
    assert [f"{flaw.field}: {flaw.message}" for flaw in flaws(text)] == [
        "humility.rules[0].when.in_alarm[0]: data_drift never is in alarm, it is switched off: switch it on under "
        "monitors:, or leave it out here",
        "humility.rules[0].when.in_alarm[1]: labels never is in alarm, it is about outcomes, and none are expected: "
        "say how long they may take, as in outcomes: 30d",
    ]


def test_disagreement_with_nobody_is_no_condition() -> None:
    text = spec_text("rules: [{name: a, when: challenger_disagreement, action: refuse}]")
    (flaw,) = flaws(text.replace("challengers: [v2, 3]", ""))
    assert "there is no challenger: name them, as in challengers: [v2]" in flaw.message


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (
            "name: a, when: novel_input, action: refuse",
            "name: b, when: novel_input, action: {route: desk}",
            "contradicts the rule 'a' on line 12: both fire on the same predictions at priority 100, this one is to "
            "route it to desk, that one to refuse the prediction",
        ),
        (
            "name: a, when: novel_input, action: refuse",
            "name: b, when: {any: [novel_input]}, action: refuse",
            "says again what the rule 'a' on line 12 says",
        ),
        (
            "name: a, when: {not: {all: [{not: novel_input}, {not: in_alarm}]}}, action: refuse",
            "name: b, when: {any: [in_alarm, novel_input]}, action: {override: prior}",
            "contradicts the rule 'a'",
        ),
        (
            "name: a, when: {outlying_input: {feature: x, low: 2}}, action: refuse",
            "name: b, when: {outlying_input: {feature: x, low: 1}}, action: {override: prior}",
            "can never act: the rule 'a' on line 12 fires whenever this one does, and acts first (priority 100, "
            "this one 100) to refuse the prediction. Give this one a lower number than 100",
        ),
        (
            "name: a, when: {uncertain_prediction: {confidence: 0.9}}, action: refuse, priority: 1",
            "name: b, when: {uncertain_prediction: {confidence: 0.7}}, action: {override: prior}, priority: 2",
            "Give this one a lower number than 1",
        ),
        (
            "name: a, when: in_alarm, action: refuse",
            "name: b, when: {in_alarm: [data_drift]}, action: {override: prior}",
            "can never act",
        ),
        (
            "name: a, when: {low_observation_region: {feature: dest, values: [a, b]}}, action: refuse",
            "name: b, when: {low_observation_region: {feature: dest, values: [b]}}, action: {override: prior}",
            "can never act",
        ),
        (
            "name: a, when: {challenger_disagreement: {by: 0.1}}, action: refuse",
            "name: b, when: {challenger_disagreement: {version: 3, by: 0.3}}, action: {override: prior}",
            "can never act",
        ),
    ],
)
def test_rules_of_which_one_never_acts_are_refused(first: str, second: str, says: str) -> None:
    (flaw,) = flaws(rules_text(first, second))
    assert (flaw.line, flaw.field) == (13, "humility.rules[1].when") and says in flaw.message, flaw


def test_a_rule_that_acts_later_by_its_number_is_refused_where_it_stands() -> None:
    first = "name: a, when: {in_alarm: [data_drift]}, action: {override: prior}, priority: 200"
    (flaw,) = flaws(rules_text(first, "name: b, when: in_alarm, action: refuse"))
    assert (flaw.line, flaw.field) == (12, "humility.rules[0].when") and "the rule 'b' on line 13" in flaw.message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # one of them never acts anyway
        ("name: a, when: novel_input, action: refuse", "name: b, when: novel_input, action: record"),
        ("name: a, when: novel_input, action: refuse, dry_run: true", "name: b, when: novel_input, action: refuse"),
        # what is left over is the other's
        (
            "name: a, when: {outlying_input: {feature: x, low: 1}}, action: refuse",
            "name: b, when: {outlying_input: {feature: x, low: 2}}, action: {override: prior}",
        ),
        (
            "name: a, when: in_alarm, action: refuse, priority: 200",
            "name: b, when: {in_alarm: [data_drift]}, action: {override: prior}",
        ),
        # without a fit the first does not fire
        (
            "name: a, when: {any: [novel_input, in_alarm]}, action: refuse",
            "name: b, when: in_alarm, action: {route: desk}",
        ),
        ("name: a, when: in_alarm, action: {override: prior}", "name: b, when: in_alarm, action: {route: desk}"),
    ],
)
def test_rules_that_can_both_act_are_read(first: str, second: str) -> None:
    humility = parse(rules_text(first, second)).humility
    assert humility is not None and len(humility.rules) == 2


@pytest.mark.parametrize(
    "when",
    [
        "{not: {missing_input: {features: [x, y], least: 2}}}",
        "{all: [{missing_input: x}, {missing_input: y}]}",
        "{all: [{outlying_input: {feature: x, low: 2}}, {outlying_input: {feature: x, low: 1}}]}",
        "{all: [{outlying_input: {feature: x, low: 2}}, {outlying_input: {feature: y, high: 1}}]}",
        "{uncertain_prediction: {score: {low: 0.5, high: 0.5}}}",
        "{uncertain_prediction: {confidence: 1}}",
        "{all: [novel_input, {not: {low_observation_region: {feature: dest, least: 30}}}]}",
        "{all: [{challenger_disagreement: {version: v2, by: 0.2}}, {not: {challenger_disagreement: v2}}]}",
        "{all: [{in_alarm: [data_drift]}, {not: {in_alarm: [service]}}]}",
        "{not: " * 6 + "{any: [novel_input]}" + "}" * 6,
    ],
)
def test_conditions_that_some_rows_meet_and_others_do_not_are_read(when: str) -> None:
    parse(rule_text(when))


def test_hostile_rules_are_judged_in_seconds() -> None:
    many = "[" + ", ".join(f"v{n}" for n in range(300)) + "]"
    wide = "{low_observation_region: {feature: dest, values: " + many + "}}"
    tangled = ", ".join(
        f"{{any: [{{outlying_input: {{feature: x, low: {n}}}}}, "
        f"{{not: {{outlying_input: {{feature: y, high: {n}}}}}}}]}}"
        for n in range(40)
    )
    listed = [
        f"name: w{n}, when: {{any: [{wide}, {{missing_input: {{least: {n % 6 + 1}}}}}]}}, action: refuse"
        for n in range(20)
    ]
    listed += [f"name: t{n}, when: {{all: [{tangled}]}}, action: {{route: a{n}}}" for n in range(20)]
    began = time.process_time()
    flaws(rules_text(*listed))
    assert time.process_time() - began < 20


HOSTILE = ["<!channel>", "=cmd()", "<script>alert(1)</script>", "'; DROP TABLE", "a`b*c_d~e", "[red]x[/]", "${PATH}"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_names(text: str) -> None:
    name = text.replace("=", "")
    rule = {"name": name, "when": "in_alarm", "action": {"route": text}, "message": text}
    document = yaml.safe_load(spec_text("{}")) | {"humility": {"rules": [rule]}}
    spec = parse(yaml.safe_dump(document))
    assert spec.humility is not None
    assert (spec.humility.rules[0].name, spec.humility.rules[0].route_to) == (name, text)
    assert parse(yaml.safe_dump(to_document(spec))) == spec
    document["humility"]["rules"].append({**rule, "action": "record"})
    (flaw,) = flaws(yaml.safe_dump(document))
    assert "given twice" in flaw.message and flaw.message.isprintable()


def test_durations_of_stale_input_are_written_as_people_do() -> None:
    found = condition_of("{stale_input: {feature: at, unit: ms, older_than: 1h30m}}")
    assert found.older_than_ms == duration_ms("1h30m") and found.measure == "ms"
