"""A specification is read as its author meant it, or refused whole with line and field."""

import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Rule
from services.deployments import outcomes as outcomes_module
from services.deployments import specification as module
from services.deployments.checking import load_specification, parse_specification
from services.deployments.contradictions import RESERVED_NAMES, RESERVED_PREFIXES
from services.deployments.durations import duration_ms, duration_text
from services.deployments.errors import DeploymentError, Flaw, SpecificationError
from services.deployments.specification import Specification, to_document
from streams.detectors import DETECTORS, MOST_DETECTORS, STREAMS_OF_OUTCOMES
from streams.specification import (
    BINARY,
    KINDS,
    MONITORS,
    MULTICLASS,
    OTHER_TASK,
    REGRESSION,
    RISK_WEIGHTS,
    DecisionValue,
    DeploymentSpec,
    DetectorSpec,
    FalseAlarmBudget,
    FeatureSpec,
    OutcomeSpec,
    SegmentSpec,
)

FULL = """
deployment: delays
model: delay-classifier
task: binary_classification
description: Late or not
owner: operations
tags: {team: ops, tier: 1}
positive_class: 1
features:
  distance_km: numeric
  carrier: {kind: categorical, importance: 2, column: CARRIER}
  cancelled: boolean
  remarks: {kind: text, margin: 0.2}
  route: embedding
columns:
  prediction_id: id
  timestamp: scheduled
  timezone: Europe/Berlin
  class_probabilities: {no: p_no, yes: p_yes}
  segments: {airport: ORIGIN}
  actual_label: was_late
shards: 2
window: 30m
lateness: 90s
start_slot: 1h30m
margin: 0.1
quality_margin: 0.01
earliest_event_time: 2010-01-01T00:00:00+01:00
clock_skew: 0s
risk: high
false_alarms: {count: 2, per: 7d, scope: deployment, kinds: {outcomes: 0.6, features: 0.3}}
importance: estimated
monitors: {data_quality: off, service: on}
severities: {data_drift: info, data_quality: error}
segments:
  by_carrier: {column: carrier, most: 5}
  by_airport: {column: airport, values: [JFK, 12, true]}
  short_haul: {column: distance_km, below: 800}
  medium_haul: {column: distance_km, from: 800, below: 3000.5}
detectors:
- {detector: adwin, stream: prediction, parameters: {delta: 0.01}}
- {detector: kswin, stream: distance_km}
outcomes:
  horizon: 45d
  window: 12h
  lateness: 36h
  classes: [0, 1]
  threshold: 0.25
  values:
  - {predicted: 1, actual: 0, value: -20}
  - {predicted: 1, actual: 1, value: 2.5}
  margin: 0.03
  fairness: [by_carrier, by_airport]
challengers: [2, 2026-04]
runbook: https://example.org/late
"""
MINIMAL = "deployment: d\nmodel: m\ntask: other\nfeatures: {x: numeric}\n"
BINARY_CLASSES = MINIMAL.replace("other", "binary_classification") + "positive_class: late\n"
NUMBERS = MINIMAL.replace("other", "regression")
MANY = MINIMAL.replace("other", "multiclass_classification")


def with_features(features: str) -> str:
    return MINIMAL.replace("{x: numeric}", features)


def parse(text: str) -> Specification:
    return parse_specification(textwrap.dedent(text).encode(), "spec.yaml")


def flaws(text: str | bytes) -> list[Flaw]:
    data = text if isinstance(text, bytes) else textwrap.dedent(text).encode()
    with pytest.raises(SpecificationError) as caught:
        parse_specification(data, "spec.yaml")
    return list(caught.value.flaws)


def test_every_field_reaches_the_streams() -> None:
    spec = parse(FULL).to_spec()
    assert spec == DeploymentSpec(
        deployment_id="delays",
        model_id="delay-classifier",
        task="binary_classification",
        features=spec.features,
        description="Late or not",
        owner="operations",
        tags={"team": "ops", "tier": "1"},
        positive_class="1",
        columns={
            "prediction_id": "id",
            "timestamp": "scheduled",
            "timezone": "Europe/Berlin",
            "probability:no": "p_no",
            "probability:yes": "p_yes",
            "segment:airport": "ORIGIN",
            "actual_label": "was_late",
            "feature:carrier": "CARRIER",
        },
        shards=2,
        window_ms=1_800_000,
        lateness_ms=90_000,
        start_slot_ms=5_400_000,
        margin_tv=0.1,
        earliest_event_time_us=1_262_300_400_000_000,
        clock_skew_ms=0,
        false_alarms=spec.false_alarms,
        severities={"data_drift": "info", "data_quality": "error"},
        runbook_url="https://example.org/late",
        risk="high",
        importance_source="estimated",
        quality_margin_tv=0.01,
        disabled_monitors=("data_quality",),
        segments=(
            SegmentSpec("by_carrier", "carrier", most=5),
            SegmentSpec("by_airport", "airport", ("JFK", "12", "true"), most=3),
            SegmentSpec("short_haul", "distance_km", high=800.0),
            SegmentSpec("medium_haul", "distance_km", low=800.0, high=3000.5),
        ),
        detectors=(DetectorSpec("adwin", "prediction", {"delta": 0.01}), DetectorSpec("kswin", "distance_km")),
        outcomes=OutcomeSpec(
            horizon_ms=45 * 86_400_000,
            window_ms=43_200_000,
            lateness_ms=36 * 3_600_000,
            classes=("0", "1"),
            threshold=0.25,
            values=(DecisionValue("1", "0", -20.0), DecisionValue("1", "1", 2.5)),
            margin_tv=0.03,
            fairness=("by_carrier", "by_airport"),
        ),
        challengers=("2", "2026-04"),
    )
    assert [(f.name, f.kind, f.importance, f.margin_tv) for f in spec.features] == [
        ("distance_km", "numeric", 1.0, None),
        ("carrier", "categorical", 2.0, None),
        ("cancelled", "boolean", 1.0, None),
        ("remarks", "text", 1.0, 0.2),
        ("route", "embedding", 1.0, None),
    ]
    assert spec.false_alarms == FalseAlarmBudget(
        2.0, 604_800_000, "deployment", kinds={"outcomes": 0.6, "features": 0.3}
    )
    spec.check()


def test_what_is_left_out_is_as_the_streams_have_it() -> None:
    spec = parse(MINIMAL).to_spec()
    assert spec == DeploymentSpec("d", "m", "other", spec.features)


def test_features_can_be_a_list_as_well() -> None:
    listed = parse(
        """
        deployment: d
        model: m
        task: other
        features:
        - {name: a, kind: numeric, column: A}
        - name: b
          kind: categorical
        """
    )
    assert [(f.name, f.kind, f.column) for f in listed.features] == [("a", "numeric", "A"), ("b", "categorical", None)]


words = st.text("abno01.-_:'\"{}[]&*!|>%é世", min_size=1, max_size=8)
feature_names = words.filter(lambda name: not name.startswith(RESERVED_PREFIXES) and "." not in name)
margins = st.floats(0, 0.49)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def outcome_specs(draw: st.DrawFn, task: str, segments: list[str]) -> OutcomeSpec:
    """What can be said of the outcomes of a task."""
    shares = st.floats(0, 1, exclude_min=True, exclude_max=True)
    changes: dict[str, Any] = {}
    if task in (BINARY, MULTICLASS):
        fixed = 2 if task == BINARY else 0
        classes = draw(st.just([]) | st.lists(words, min_size=2, max_size=fixed or 5, unique=True))
        pairs = draw(st.lists(st.tuples(*[st.sampled_from(classes)] * 2), max_size=4, unique=True)) if classes else []
        values = tuple(DecisionValue(predicted, actual, draw(st.floats(-1e12, 1e12))) for predicted, actual in pairs)
        changes |= {"classes": tuple(classes), "values": values}
    if task == BINARY:
        changes["threshold"] = draw(shares)
    if task == REGRESSION:
        changes |= {"quantile": draw(st.none() | shares), "interval_coverage": draw(shares)}
    if task != OTHER_TASK and segments:
        changes["fairness"] = tuple(draw(st.lists(st.sampled_from(segments), unique=True)))
    horizon_ms = draw(st.integers(60_000, 400 * 86_400_000))
    return OutcomeSpec(
        horizon_ms,
        draw(st.integers(max(60_000, horizon_ms // 1000), 31 * 86_400_000)),
        draw(st.none() | st.integers(0, horizon_ms)),
        margin_tv=draw(margins),
        **changes,
    )


@st.composite
def humility_specs(draw: st.DrawFn, number: str, answer: str, segments: list[str]) -> HumilitySpec:
    """Rules that models of every task can have."""
    low, width = draw(st.floats(-1e6, 1e6)), draw(st.floats(0, 1e6))
    conditions = [
        Condition("outlying_input", columns=(number,), low=low, high=low + width),
        Condition("not", (Condition("missing_input", columns=(answer,)),)),
        Condition("all", (Condition("novel_input"), Condition("in_alarm"))),
        Condition("stale_input", columns=(number,), measure="ms", older_than_ms=draw(st.integers(1, 10**10))),
    ]
    rules = [
        Rule(
            draw(words), condition, action, message=draw(words | st.just("")), priority=draw(st.integers(0, 9)), **more
        )
        for condition, (action, more) in zip(
            conditions,
            [("refuse", {}), ("record", {}), ("route", {"route_to": "a desk"}), ("refuse", {"dry_run": True})],
            strict=True,
        )
    ]
    chosen = draw(st.lists(st.sampled_from(rules), unique_by=lambda rule: rule.name))
    return HumilitySpec(tuple(chosen), Guarantees(0.01, segment=draw(st.none() | st.sampled_from([None, *segments]))))


@st.composite
def specifications(draw: st.DrawFn) -> DeploymentSpec:
    """Everything that the streams can be told and no contradiction."""
    names = draw(st.lists(feature_names, min_size=3, max_size=6, unique=True))
    kinds = ["numeric", "boolean", *(draw(st.sampled_from(KINDS)) for _ in names[2:])]
    features = tuple(
        FeatureSpec(name, kind, draw(st.floats(1e-3, 1e6)), draw(st.none() | margins))
        for name, kind in zip(names, kinds, strict=True)
    )
    number, answer, attribute = names[0], names[1], "site." + draw(words)
    low, high = sorted(draw(st.tuples(numbers, numbers).filter(lambda ends: ends[0] != ends[1])))
    values = tuple(draw(st.lists(words, max_size=4, unique=True)))
    segments = [
        SegmentSpec("rule", number, low=draw(st.sampled_from([low, None])), high=high),
        SegmentSpec("listed", answer, values, most=len(values) or draw(st.integers(1, 100))),
        SegmentSpec("attribute", attribute),
    ]
    detectors = [
        DetectorSpec("adwin", "prediction"),
        DetectorSpec("page_hinkley", number),
        DetectorSpec("ddm", answer),
    ]
    kinds_of_budget = {"outcomes": 0.5, "features": 0.4, "operations": 0.05}
    budget = FalseAlarmBudget(
        draw(st.floats(1e-3, 1e6)),
        draw(st.integers(3_600_000, 10**11)),
        draw(st.sampled_from(["fleet", "deployment"])),
        kinds={kind: kinds_of_budget[kind] for kind in draw(st.sets(st.sampled_from(sorted(kinds_of_budget))))},
    )
    task = draw(st.sampled_from([BINARY, MULTICLASS, REGRESSION, OTHER_TASK]))
    chosen = tuple(draw(st.lists(st.sampled_from(segments), unique_by=lambda s: s.name)))
    outcomes = draw(st.none() | outcome_specs(task, [segment.name for segment in chosen if not segment.is_rule]))
    positive = draw(words) if task == BINARY else None
    if outcomes is not None and outcomes.classes and positive is not None:
        positive = draw(st.sampled_from(outcomes.classes))
    if outcomes is not None:
        detectors += [DetectorSpec("adwin", name) for name in STREAMS_OF_OUTCOMES.get(task, ())]
    return DeploymentSpec(
        draw(words),
        draw(words),
        task,
        features,
        positive_class=positive,
        outcomes=outcomes,
        challengers=tuple(draw(st.lists(words, max_size=3, unique=True))),
        humility=draw(st.none() | humility_specs(number, answer, [segment.name for segment in chosen])),
        description=draw(words | st.just("")),
        columns={"segment:" + attribute: "S", "probability:no": "p", "feature:" + number: draw(words)},
        shards=draw(st.integers(1, 1024)),
        margin_tv=draw(margins),
        quality_margin_tv=draw(margins),
        false_alarms=budget,
        severities=draw(st.dictionaries(st.sampled_from(MONITORS), st.sampled_from(["critical", "info"]))),
        risk=draw(st.sampled_from(sorted(RISK_WEIGHTS))),
        importance_source=draw(st.sampled_from(["given", "estimated"])),
        disabled_monitors=tuple(m for m in MONITORS if draw(st.booleans())),
        segments=chosen,
        detectors=tuple(draw(st.lists(st.sampled_from(detectors), unique_by=lambda d: d.stream))),
    )


@given(specifications())
def test_whatever_is_in_force_can_be_written_and_read_again(spec: DeploymentSpec) -> None:
    text = yaml.safe_dump(to_document(spec), sort_keys=False, allow_unicode=False)
    assert parse_specification(text.encode(), "again").to_spec() == spec


def test_a_specification_written_back_reads_the_same() -> None:
    spec = parse(FULL).to_spec()
    again = parse_specification(yaml.safe_dump(to_document(spec), sort_keys=False).encode(), "again").to_spec()
    assert again == spec


def test_the_example_of_the_module_is_a_specification() -> None:
    text = (module.__doc__ or "").partition("Example::\n")[2]
    spec = parse(text).to_spec()
    assert [s.name for s in spec.segments] == ["by_carrier", "long_haul"] and spec.disabled_monitors == (
        "data_quality",
    )
    assert spec.outcomes == OutcomeSpec(2_592_000_000, classes=("on_time", "late"), fairness=("by_carrier",))
    assert spec.challengers == ("2026-04",)


def test_the_example_of_outcomes_is_one() -> None:
    text = textwrap.dedent((outcomes_module.__doc__ or "").partition("Example::\n")[2])
    kept = BINARY_CLASSES + "segments: {by_carrier: x}\n" + text
    spec = parse(kept.replace("{x: numeric}", "{x: categorical}")).to_spec()
    assert spec.outcomes is not None and spec.outcomes.values == (DecisionValue("late", "on_time", -20.0),)


def test_the_schema_for_editors_says_what_people_write() -> None:
    defined = Specification.model_json_schema()["$defs"]
    outcomes = defined["Outcomes"]["properties"]
    assert [outcomes[name]["type"] for name in ("horizon", "window")] == ["string", "string"]
    assert {"type": "string"} in outcomes["lateness"]["anyOf"]
    assert {kind["type"] for kind in outcomes["classes"]["items"]["anyOf"]} == {"string", "integer", "boolean"}
    assert defined["Outcomes"]["required"] == ["horizon"]


def test_short_ways_of_writing_mean_the_long_ones() -> None:
    spec = parse(
        """
        deployment: d
        model: m
        task: other
        features: {size: numeric, open: boolean, carrier: categorical}
        columns: {segments: {site: SITE}}
        segments: [carrier, site]
        detectors: {prediction: adwin, open: ddm}
        monitors: {service: false}
        """
    ).to_spec()
    assert spec.segments == (SegmentSpec("carrier", "carrier"), SegmentSpec("site", "site"))
    assert spec.detectors == (DetectorSpec("adwin", "prediction"), DetectorSpec("ddm", "open"))
    assert spec.disabled_monitors == ("service",)
    named = with_features("{carrier: categorical}") + "segments: {by: carrier}\n"
    assert parse(named).to_spec().segments == (SegmentSpec("by", "carrier"),)
    assert parse(MINIMAL + "outcomes: 1h30m\n").to_spec().outcomes == OutcomeSpec(5_400_000)


def test_a_suffix_is_reserved_under_its_parent_only() -> None:
    parse(with_features("{a: numeric, a.length: numeric, b.distance: numeric, c: text, c.distance: numeric}"))


@pytest.mark.parametrize("detector", sorted(DETECTORS))
def test_every_detector_of_the_streams_can_be_asked_for(detector: str) -> None:
    assert parse(MINIMAL + f"detectors: {{x: {detector}}}").to_spec().detectors == (DetectorSpec(detector, "x"),)


@pytest.mark.parametrize("text", [BINARY_CLASSES, MANY, NUMBERS], ids=["binary", "multiclass", "regression"])
def test_detectors_can_be_asked_to_follow_outcomes(text: str) -> None:
    spec = parse(text + "outcomes: 30d\ndetectors: {loss: adwin, x: ddm}\n").to_spec()
    assert spec.detectors == (DetectorSpec("adwin", "loss"), DetectorSpec("ddm", "x"))
    own = "residual" if spec.task == "regression" else "error"
    assert parse(text + f"outcomes: 30d\ndetectors: {{{own}: kswin}}\n").to_spec().detectors[0].stream == own


def test_without_outcomes_a_detector_on_loss_follows_the_feature_of_that_name() -> None:
    named = with_features("{loss: numeric}") + "detectors: {loss: adwin}\n"
    assert parse(named).to_spec().detectors == (DetectorSpec("adwin", "loss"),)


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_the_name_of_a_stream_of_its_own_cannot_be_a_feature(name: str) -> None:
    (flaw,) = flaws(with_features(f"\n- {{name: {name}, kind: numeric}}"))
    assert (flaw.line, flaw.field) == (5, "features[0].name") and "of its own" in flaw.message


@pytest.mark.parametrize("tier", sorted(RISK_WEIGHTS))
def test_every_risk_tier_of_the_streams_can_be_given(tier: str) -> None:
    assert parse(MINIMAL + f"risk: {tier}").to_spec().risk == tier


def test_monitors_that_can_have_a_severity_are_those_of_the_streams() -> None:
    for monitor in MONITORS:
        assert parse(MINIMAL + f"severities: {{{monitor}: critical}}").to_spec().severities == {monitor: "critical"}
        assert parse(MINIMAL + f"monitors: {{{monitor}: off}}").to_spec().disabled_monitors == (monitor,)


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        (MINIMAL + "ownr: me\n", 5, "ownr", r"unknown field (did you mean 'owner'?)"),
        (MINIMAL + "zzz: me\n", 5, "zzz", "unknown field; known are deployment, model"),
        ("deployment: d\ntask: other\nfeatures: {}\n", 1, "model", "required, and missing"),
        (
            MINIMAL.replace("numeric", "numerc"),
            4,
            "features.x.kind",
            "text or embedding, came 'numerc' (did you mean 'numeric'?)",
        ),
        (
            with_features("{x: [1]}"),
            4,
            "features.x",
            "boolean, text or embedding, came a list",
        ),
        (with_features("\n- {name: x, knd: numeric}"), 5, "features[0].knd", "did you mean 'kind'"),
        (
            with_features("\n- {name: x, knd: numeric}"),
            5,
            "features[0].kind",
            "required, and missing",
        ),
        (
            with_features("x"),
            4,
            "features",
            "expected a list, or 'name: kind' lines, came the text 'x'",
        ),
        (with_features("\n  x: {kind: numeric, name: y}"), 5, "features.x", "name is given twice"),
        (
            with_features("\n- {name: x, kind: numeric}\n- {name: x, kind: numeric}"),
            6,
            "features[1]",
            "'x' is given twice, first on line 5",
        ),
        (MINIMAL.replace("task: other", "task: clasification"), 3, "task", "came 'clasification'"),
        (MINIMAL.replace("model: m", "model: 12"), 2, "model", "expected text, came the number 12: put it in quotes"),
        (MINIMAL.replace("deployment: d", "deployment: a#b"), 1, "deployment", "without '#' and '@'"),
        (MINIMAL.replace("deployment: d", "deployment: 'a\\x07'").replace("'", '"'), 1, "deployment", "printable"),
        (MINIMAL + "window: 1hour\n", 5, "window", "expected a duration such as 10m, 1h or 30d, came '1hour'"),
        (MINIMAL + "window: 60\n", 5, "window", "with its unit"),
        (MINIMAL + "window: 10s\n", 5, "window", "expected 1m to 31d, came 10s"),
        (MINIMAL + "margin: 0.5\n", 5, "margin", "expected a number below 0.5, came 0.5"),
        (MINIMAL + "margin: lots\n", 5, "margin", "expected a number, came the text 'lots'"),
        (with_features("{x: {kind: text, margin: 0.5}}"), 4, "features.x.margin", "expected a number below 0.5"),
        (with_features("{'quality:x': numeric}"), 4, "features.quality:x.name", "names that begin with 'quality:'"),
        (
            with_features("\n  a.length: numeric\n  a: text"),
            5,
            "features.a.length.name",
            "a stream that is derived from the text 'a'",
        ),
        (
            with_features("{a: embedding, a.projection_2: numeric}"),
            4,
            "features.a.projection_2.name",
            "embedding 'a'",
        ),
        (MINIMAL + "risk: hgh\n", 5, "risk", "expected high, medium or low, came 'hgh' (did you mean 'high'?)"),
        (MINIMAL + "importance: guessed\n", 5, "importance", "expected given or estimated"),
        (MINIMAL + "quality_margin: -1\n", 5, "quality_margin", "a number of at least 0"),
        (MINIMAL + "monitors: {data_drift: never}\n", 5, "monitors.data_drift", "expected on or off, came 'never'"),
        (MINIMAL + "monitors: {drift: off}\n", 5, "monitors.drift", "expected data_drift, prediction_drift"),
        (
            MINIMAL + "false_alarms:\n  kinds: {outcomes: 0.8}\n",
            6,
            "false_alarms.kinds",
            "at most 1, and come to 1.3: outcomes 0.8, features 0.4 (by default), operations 0.1 (by default)",
        ),
        (
            MINIMAL + "false_alarms: {kinds: {outcomes: -1}}\n",
            5,
            "false_alarms.kinds.outcomes",
            "a number of at least 0",
        ),
        (MINIMAL + "false_alarms: {kinds: {feature: 0.1}}\n", 5, "false_alarms.kinds.feature", "mean 'features'"),
        (MINIMAL + "segments: [y]\n", 5, "segments.y.column", "neither a feature nor a segment attribute"),
        (
            with_features("{carrier: categorical}") + "segments: {by: carier}\n",
            5,
            "segments.by.column",
            "(did you mean 'carrier'?)",
        ),
        (MINIMAL + "segments: [1]\n", 5, "segments[0]", "expected the name of a feature or a segment attribute"),
        (
            with_features("{y: boolean}") + "segments:\n- y\n- y\n",
            7,
            "segments[1]",
            "the segmentation 'y' is given twice",
        ),
        (MINIMAL + "segments: {'a=b': {column: x, from: 1}}\n", 5, "segments.a=b", "without '='"),
        (MINIMAL + "segments: {a: {colum: x}}\n", 5, "segments.a.colum", "did you mean 'column'"),
        (
            MINIMAL + "segments: {a: {column: x, until: 3}}\n",
            5,
            "segments.a.until",
            "column, values, most, from, below",
        ),
        (MINIMAL + "segments: {a: {column: x, low: 3}}\n", 5, "segments.a.low", "unknown field (did you mean"),
        (MINIMAL + "segments: [x]\n", 5, "segments.x", "'x' is numeric: give a rule, as in {column: x, from: 0"),
        (
            with_features("{y: categorical}") + "segments:\n  a: {column: y, from: 1}\n",
            6,
            "segments.a",
            "'y' is a categorical feature: list its values",
        ),
        (
            MINIMAL + "columns: {segments: {site: s}}\nsegments: {a: {column: site, below: 1}}\n",
            6,
            "segments.a",
            "'site' is an attribute of text",
        ),
        (with_features("{y: text}") + "segments: [y]\n", 5, "segments.y.column", "kind text does not divide"),
        (
            MINIMAL + "segments:\n  a:\n    column: x\n    from: 1\n    values: [a]\n",
            9,
            "segments.a.values",
            "leave values out, or the rule",
        ),
        (MINIMAL + "segments: {a: {column: x, from: 1, most: 2}}\n", 5, "segments.a.most", "leave most out"),
        (
            with_features("{y: boolean}") + "segments: {a: {column: y, values: [a, b, a], most: 2}}\n",
            5,
            "segments.a.most",
            "the listed values are all watched",
        ),
        (
            with_features("{y: boolean}") + "segments:\n  a:\n    column: y\n    values:\n    - 1\n    - '1'\n",
            10,
            "segments.a.values[1]",
            "'1' is given twice",
        ),
        (MINIMAL + "segments: {a: {column: x, from: 1, below: 1}}\n", 5, "segments.a.below", "above from, 1, came 1"),
        (MINIMAL + "segments: {a: {column: x, most: 101}}\n", 5, "segments.a.most", "a number of at most 100"),
        (
            MINIMAL + "segments: {" + ", ".join(f"s{i}: {{column: x, from: {i}}}" for i in range(6)) + "}\n",
            5,
            "segments",
            "at most 5 segmentations, came 6",
        ),
        (MINIMAL + "detectors: {x: adwinn}\n", 5, "detectors.x.detector", "did you mean 'adwin'"),
        (MINIMAL + "detectors: {z: adwin}\n", 5, "detectors.z.stream", "there is no feature 'z'"),
        (
            BINARY_CLASSES + "detectors:\n  x: adwin\n  error: ddm\n",
            8,
            "detectors.error.stream",
            "'error' is a stream of outcomes, and none are expected: say how long they may take, as in 'outcomes:",
        ),
        (
            BINARY_CLASSES + "outcomes: 30d\ndetectors: {eror: ddm}\n",
            7,
            "detectors.eror.stream",
            "feature, or error or loss of the outcomes, and there is no feature 'eror' (did you mean 'error'?)",
        ),
        (
            BINARY_CLASSES + "outcomes: 30d\ndetectors: {residual: adwin}\n",
            7,
            "detectors.residual.stream",
            "no stream of outcomes of the task binary_classification: expected error or loss",
        ),
        (
            NUMBERS + "outcomes: 30d\ndetectors:\n- {detector: ddm, stream: error}\n",
            7,
            "detectors[0].stream",
            "no stream of outcomes of the task regression: expected loss or residual",
        ),
        (
            BINARY_CLASSES + "outcomes: 30d\ndetectors: {loss: hddm_w}\n",
            7,
            "detectors.loss.detector",
            "hddm_w takes numbers from 0 to 1, and 'loss' is any number: take adwin, page_hinkley or kswin, or let it "
            "follow 'error'",
        ),
        (
            NUMBERS + "outcomes: 30d\ndetectors: {residual: ddm}\n",
            6,
            "detectors.residual.detector",
            "ddm takes 0 or 1, and 'residual' is any number: take adwin, page_hinkley or kswin",
        ),
        (
            MINIMAL + "outcomes: 30d\ndetectors: {loss: adwin}\n",
            6,
            "detectors.loss.stream",
            "of the task other: there are none that a detector could follow",
        ),
        (
            with_features("{y: categorical}") + "detectors: [{detector: adwin, stream: y}]\n",
            5,
            "detectors[0].stream",
            "'y' is a categorical feature",
        ),
        (
            MINIMAL + "detectors:\n- {detector: ddm, stream: x}\n- {detector: ddm, stream: x}\n",
            7,
            "detectors[1]",
            "ddm follows 'x' already",
        ),
        (
            MINIMAL + "detectors: [{detector: ddm, stream: x, parameters: {a: b}}]\n",
            5,
            "detectors[0].parameters.a",
            "number",
        ),
        (
            MINIMAL + "detectors: [{detector: adwin, stream: x, parameters: {delta: 2}}]\n",
            5,
            "detectors[0].parameters",
            "delta must be",
        ),
        (
            with_features("{" + ", ".join(f"f{i}: numeric" for i in range(MOST_DETECTORS + 1)) + "}")
            + "detectors: {"
            + ", ".join(f"f{i}: adwin" for i in range(MOST_DETECTORS + 1))
            + "}\n",
            5,
            "detectors",
            f"at most {MOST_DETECTORS} detectors",
        ),
        (MINIMAL + "shards: 1.5\n", 5, "shards", "expected a whole number"),
        (MINIMAL + "shards: 0\n", 5, "shards", "of at least 1, came 0"),
        (MINIMAL + "false_alarms:\n  count: 1\n  scop: fleet\n", 7, "false_alarms.scop", "did you mean 'scope'"),
        (MINIMAL + "false_alarms: {count: 0}\n", 5, "false_alarms.count", "expected a number above 0"),
        (MINIMAL + "false_alarms: many\n", 5, "false_alarms", "expected 'key: value' lines, came the text 'many'"),
        (MINIMAL + "severities: {data_drft: error}\n", 5, "severities.data_drft", "did you mean 'data_drift'"),
        (MINIMAL + "severities: {data_drift: eror}\n", 5, "severities.data_drift", "did you mean 'error'"),
        (MINIMAL + "columns:\n  timstamp: t\n", 6, "columns.timstamp", "did you mean 'timestamp'"),
        (MINIMAL + "columns: {timezone: Europe/Berln}\n", 5, "columns.timezone", "did you mean 'Europe/Berlin'"),
        (MINIMAL + "columns: {timestamp_format: unix}\n", 5, "columns.timestamp_format", "rfc3339, epoch_s"),
        (MINIMAL + "runbook: javascript:alert(1)\n", 5, "runbook", "expected an http(s) address"),
        (MINIMAL + "earliest_event_time: 2000-01-01T00:00:00\n", 5, "earliest_event_time", "has no zone"),
        (MINIMAL + "positive_class: a\n", 5, "positive_class", "only binary_classification"),
        (MINIMAL + "model: twice\n", 5, "model", "the key is given twice, first on line 2"),
        (MINIMAL + "tags: {a: 1, a: 2}\n", 5, "tags.a", "the key is given twice"),
        ("", 0, "", "the file is empty"),
        ("# only a comment\n", 0, "", "the file is empty"),
        ("- deployment: d\n", 1, "", "came a list"),
        ("just words\n", 1, "", "came the text 'just words'"),
        ("deployment: d\n  model: m\n", 2, "", "not YAML: mapping values are not allowed here"),
        ("deployment: [d\n", 2, "", "not YAML"),
        ("a: 1\n---\nb: 2\n", 2, "", "not YAML"),
        ("deployment: !!python/object/apply:os.system [ls]\n", 1, "", "tags are not allowed"),
        ("? [a, b]\n: c\n", 1, "", "a key has to be one word"),
    ],
)
def test_a_flaw_is_named_with_line_and_field(text: str, line: int, field: str, says: str) -> None:
    found = flaws(text)
    assert any((f.line, f.field) == (line, field) and says in f.message for f in found), [str(f) for f in found]


def with_outcomes(lines: str, before: str = BINARY_CLASSES) -> str:
    """Outcomes begin on line 6 of a binary classification, on line 5 of the others."""
    return before + "outcomes:\n" + textwrap.indent(textwrap.dedent(lines).strip() + "\n", "  ")


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        (with_outcomes("window: 1d"), 7, "outcomes.horizon", "required, and missing"),
        (BINARY_CLASSES + "outcomes: soon\n", 6, "outcomes.horizon", "expected a duration such as 10m, 1h or 30d"),
        (BINARY_CLASSES + "outcomes: 30\n", 6, "outcomes.horizon", "with its unit"),
        (BINARY_CLASSES + "outcomes: [30d]\n", 6, "outcomes", "expected 'key: value' lines, came a list"),
        (with_outcomes("horizon: 401d"), 7, "outcomes.horizon", "expected 1m to 400d, came 401d"),
        (with_outcomes("horizon: 30s"), 7, "outcomes.horizon", "expected 1m to 400d, came 30s"),
        (with_outcomes("horizon: 30d\nwindow: 1s"), 8, "outcomes.window", "expected 1m to 31d, came 1s"),
        (
            with_outcomes("horizon: 30d\nwindow: 10m"),
            8,
            "outcomes.window",
            "a window of 10m waits 33d for its outcomes (horizon and lateness): 4,753 would be open at a time",
        ),
        (with_outcomes("horizon: 1d\nlateness: -1d"), 8, "outcomes.lateness", "expected a duration"),
        (with_outcomes("horizon: 1d\nhorizn: 1d"), 8, "outcomes.horizn", "did you mean 'horizon'?"),
        (with_outcomes("horizon: 1d\nthreshold: 1"), 8, "outcomes.threshold", "expected a number below 1.0, came 1"),
        (with_outcomes("horizon: 1d\nthreshold: 0"), 8, "outcomes.threshold", "expected a number above 0.0, came 0"),
        (with_outcomes("horizon: 1d\nthreshold: high"), 8, "outcomes.threshold", "expected a number, came the text"),
        (with_outcomes("horizon: 1d\nmargin: 0.5"), 8, "outcomes.margin", "expected a number below 0.5"),
        (with_outcomes("horizon: 1d\nquantile: 0.9"), 8, "outcomes.quantile", "it is for regression, the task is bin"),
        (with_outcomes("horizon: 1d\ninterval_coverage: 0.9"), 8, "outcomes.interval_coverage", "it is for regression"),
        (with_outcomes("horizon: 1d\nclasses: [on_time]"), 8, "outcomes.classes", "has 2 classes, came 1"),
        (with_outcomes("horizon: 1d\nclasses: [a, late, b]"), 8, "outcomes.classes", "has 2 classes, came 3"),
        (with_outcomes("horizon: 1d\nclasses: [late, late]"), 8, "outcomes.classes[1]", "'late' is given twice"),
        (
            with_outcomes("horizon: 1d\nclasses: [later, on_time]"),
            5,
            "positive_class",
            "'late' is not among the classes 'later', 'on_time' (did you mean 'later'?)",
        ),
        (
            with_outcomes("horizon: 1d", BINARY_CLASSES.replace("positive_class: late\n", "owner: me\n")),
            6,
            "outcomes",
            "need a positive class: give positive_class, as in positive_class: late",
        ),
        (
            with_outcomes("horizon: 1d\nvalues: [{predicted: late, actual: late, value: 1}]"),
            8,
            "outcomes.values",
            "need outcomes.classes",
        ),
        (
            with_outcomes(
                """
                horizon: 1d
                classes: [on_time, late]
                values:
                - {predicted: late, actual: ontime, value: 1}
                """
            ),
            10,
            "outcomes.values[0].actual",
            "expected one of the classes 'on_time', 'late', came 'ontime' (did you mean 'on_time'?)",
        ),
        (
            with_outcomes(
                """
                horizon: 1d
                classes: [on_time, late]
                values:
                - {predicted: late, actual: late, value: 1}
                - {predicted: on_time, actual: late, value: 1}
                - {predicted: late, actual: late, value: 2}
                """
            ),
            12,
            "outcomes.values[2]",
            "predicted 'late' and actual 'late' is given twice, first on line 10",
        ),
        (
            with_outcomes("horizon: 1d\nclasses: [a, late]\nvalues:\n- {predicted: a, actul: a, value: 1}"),
            10,
            "outcomes.values[0].actul",
            "did you mean 'actual'?",
        ),
        (
            with_outcomes("horizon: 1d\nclasses: [a, late]\nvalues:\n- {predicted: a, actual: a, value: .inf}"),
            10,
            "outcomes.values[0].value",
            "expected a number",
        ),
        (
            with_outcomes("horizon: 1d\nfairness: [carrier]"),
            8,
            "outcomes.fairness[0]",
            "the parts of a segmentation under segments:, and 'carrier' is none; none is declared",
        ),
        (
            with_outcomes("horizon: 1d\nfairness: [byx]") + "segments: {by_x: {column: x, from: 1}}\n",
            8,
            "outcomes.fairness[0]",
            "'byx' is none (did you mean 'by_x'?)",
        ),
        (
            with_outcomes("horizon: 1d\nfairness: [by, by]") + "segments: {by: {column: x, from: 1}}\n",
            8,
            "outcomes.fairness[1]",
            "the segmentation 'by' is given twice",
        ),
        (
            with_outcomes("horizon: 1d\nfairness: [by]") + "segments: {by: {column: x, from: 1}}\n",
            8,
            "outcomes.fairness[0]",
            "compares the parts of a segmentation with each other, and 'by' has one part only, a range of 'x': take",
        ),
        *(
            (
                with_outcomes(
                    f"horizon: 1d\nclasses: [a, b]\nvalues:\n- {{predicted: a, actual: b, value: {given}}}", MANY
                ),
                9,
                "outcomes.values[0].value",
                says,
            )
            for given, says in [
                (".nan", "expected a number, came the text '.nan'"),
                (".inf", "expected a number, came the text '.inf'"),
                ("nan", "expected a number, came the text 'nan'"),
                ("1e999", "expected a finite number, came inf"),
                ("-1e999", "expected a finite number, came -inf"),
                ("1e13", "of at most 1000000000000.0, came 10000000000000.0"),
                ("true", "expected a number, came the boolean true"),
                ("", "expected a number, came nothing"),
            ]
        ),
        (
            with_outcomes(f"horizon: 1d\nclasses: [{', '.join(map(str, range(10_000)))}]", MANY),
            7,
            "outcomes.classes",
            "expected at most 256, came 10000",
        ),
        (
            with_outcomes(
                f"horizon: 1d\nclasses: [{', '.join(map(str, range(100)))}]",
                MANY.replace("x: numeric", "x: categorical"),
            )
            + "segments: {by: {column: x, most: 60}}\n",
            7,
            "outcomes.classes",
            "of 100 classes takes 19",
        ),
        (
            with_outcomes("horizon: 9d\nwindow: 5m", BINARY_CLASSES.replace("x: numeric", "x: categorical"))
            + "segments: {by: {column: x, most: 100}}\n",
            8,
            "outcomes.window",
            "windows of all traffic and 101 parts of it would be open at a time",
        ),
        (with_outcomes("horizon: 1d\nfairness: carrier"), 8, "outcomes.fairness", "expected a list"),
        (with_outcomes("horizon: 1d\nvalues: []", NUMBERS), 7, "outcomes.values", "it is for binary_classification or"),
        (with_outcomes("horizon: 1d\nthreshold: 0.3", NUMBERS), 7, "outcomes.threshold", "the task is regression"),
        (with_outcomes("horizon: 1d\nclasses: [a, b]", NUMBERS), 7, "outcomes.classes", "the task is regression"),
        (with_outcomes("horizon: 1d\nquantile: 1.5", NUMBERS), 7, "outcomes.quantile", "below 1.0, came 1.5"),
        (with_outcomes("horizon: 1d\ninterval_coverage: 0", NUMBERS), 7, "outcomes.interval_coverage", "above 0"),
        (with_outcomes("horizon: 1d\nclasses: [a]", MANY), 7, "outcomes.classes", "at least 2 classes, came 1"),
        (with_outcomes("horizon: 1d\nthreshold: 0.3", MANY), 7, "outcomes.threshold", "it is for binary_class"),
        (
            with_outcomes("horizon: 1d\nfairness: [x]", MINIMAL),
            7,
            "outcomes.fairness",
            "only the coverage and the delays",
        ),
        (with_outcomes("horizon: 1d\nclasses: [a, b]", MINIMAL), 7, "outcomes.classes", "leave it out"),
        (MINIMAL + "challengers: [2, '2']\n", 5, "challengers[1]", "the challenger '2' is given twice"),
        (MINIMAL + "challengers: 2\n", 5, "challengers", "expected a list, came the number 2"),
        (MINIMAL + "challengers: ['v#2']\n", 5, "challengers[0]", "without '#' and '@'"),
        (
            MINIMAL.replace("x:", "loss:") + "outcomes: 1d\n",
            4,
            "features.loss.name",
            "with outcomes, Driftline has a stream 'loss' of its own; rename it",
        ),
        (MINIMAL.replace("x:", "'labels:1':") + "outcomes: 1d\n", 4, "features.labels:1.name", "of its own"),
    ],
)
def test_a_flaw_in_outcomes_is_named_with_line_and_field(text: str, line: int, field: str, says: str) -> None:
    found = flaws(text)
    assert any((f.line, f.field) == (line, field) and says in f.message for f in found), [str(f) for f in found]


def test_of_an_other_task_the_coverage_and_the_delays_of_outcomes_can_be_watched() -> None:
    spec = parse(MINIMAL + "outcomes: {horizon: 30d, window: 1d, lateness: 1d, margin: 0.1}\n").to_spec()
    assert spec.outcomes == OutcomeSpec(2_592_000_000, 86_400_000, 86_400_000, margin_tv=0.1)


@pytest.mark.parametrize("name", ["loss", "outcome", "selected", "labels:1"])
def test_without_outcomes_a_feature_may_be_called_like_one_of_their_streams(name: str) -> None:
    parse(with_features(f"{{'{name}': numeric}}"))


def test_all_flaws_are_named_at_once_in_the_order_of_the_file() -> None:
    found = flaws("deployment: d\nmodl: m\ntask: nothing\nfeatures:\n  x: {kind: number}\n  y: [1]\n")
    assert [(f.line, f.field) for f in found] == [
        (1, "model"),
        (2, "modl"),
        (3, "task"),
        (5, "features.x.kind"),
        (6, "features.y"),
    ]


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n\x00\x00", b"PAR1\x15\x04\x15", b"deployment: \xff\xfe", b"deployment: \x00"]
)
def test_a_binary_file_is_refused(data: bytes) -> None:
    (flaw,) = flaws(data)
    assert "expected" in flaw.message and "text, came the" in flaw.message and flaw.line == 1


@pytest.mark.parametrize(
    "text",
    [
        "deployment: " + "[" * 5000 + "]" * 5000,
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "deployment: &a [*a]",
        "deployment: " + "x" * 600_000,
    ],
    ids=["deep", "bomb", "recursive", "large"],
)
def test_a_document_that_would_eat_the_machine_is_refused_quickly(text: str) -> None:
    began = time.process_time()
    flaws(text)
    assert time.process_time() - began < 5


def test_anchors_of_an_honest_file_work() -> None:
    spec = parse(
        """
        deployment: d
        model: m
        task: other
        features: {a: &kind {kind: numeric, importance: 3}, b: *kind}
        """
    )
    assert [(f.name, f.importance) for f in spec.features] == [("a", 3.0), ("b", 3.0)]


def test_the_message_names_the_file_and_says_that_nothing_was_applied(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(MINIMAL + "ownr: me\n")
    with pytest.raises(SpecificationError) as caught:
        load_specification(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: the specification is refused, nothing of it was applied:\n  line 5, ownr: ")
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"nope\.yaml cannot be read: No such file"):
        load_specification(tmp_path / "nope.yaml")


@given(st.integers(0, 10**13))
def test_a_duration_written_is_the_duration_read(milliseconds: int) -> None:
    assert duration_ms(duration_text(milliseconds)) == milliseconds


def refused_with_flaws_or_read(data: bytes) -> None:
    refusal = None
    try:
        parse_specification(data, "x")
    except SpecificationError as error:
        refusal = error
    assert refusal is None or (refusal.flaws and all(flaw.message for flaw in refusal.flaws))


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    refused_with_flaws_or_read(text.encode("utf-8", "surrogatepass"))


@given(
    st.dictionaries(
        st.sampled_from(sorted(Specification.model_fields)),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.text(max_size=5),
            st.lists(st.integers(), max_size=2),
            st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=3)), max_size=2),
        ),
        max_size=6,
    )
)
def test_any_value_of_any_field_is_read_or_refused_and_nothing_else(document: dict[str, object]) -> None:
    text = yaml.safe_dump({"deployment": "d", "model": "m", "task": "other", "features": [], **document})
    refused_with_flaws_or_read(text.encode())
