"""A specification is read as its author meant it, or refused whole with line and field."""

import textwrap
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from services.deployments.checking import load_specification, parse_specification
from services.deployments.durations import duration_ms, duration_text
from services.deployments.errors import DeploymentError, Flaw, SpecificationError
from services.deployments.specification import Specification, to_document
from streams.specification import MONITORS, DeploymentSpec

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
earliest_event_time: 2010-01-01T00:00:00+01:00
clock_skew: 0s
false_alarms: {count: 2, per: 7d, scope: deployment}
severities: {data_drift: info}
runbook: https://example.org/late
"""
MINIMAL = "deployment: d\nmodel: m\ntask: other\nfeatures: {x: numeric}\n"


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
        severities={"data_drift": "info"},
        runbook_url="https://example.org/late",
    )
    assert [(f.name, f.kind, f.importance) for f in spec.features] == [
        ("distance_km", "numeric", 1.0),
        ("carrier", "categorical", 2.0),
    ]
    budget = spec.false_alarms
    assert (budget.count, budget.per_ms, budget.scope) == (2.0, 604_800_000, "deployment")


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


def test_a_specification_written_back_reads_the_same() -> None:
    spec = parse(FULL).to_spec()
    again = parse_specification(yaml.safe_dump(to_document(spec)).encode(), "again").to_spec()
    assert again == spec


def test_monitors_that_can_have_a_severity_are_those_of_the_streams() -> None:
    for monitor in MONITORS:
        assert parse(MINIMAL + f"severities: {{{monitor}: critical}}").to_spec().severities == {monitor: "critical"}


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
            "numeric or categorical, came 'numerc' (did you mean",
        ),
        (with_features("{x: [1]}"), 4, "features.x", "expected numeric or categorical, came a list"),
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
    began = time.monotonic()
    flaws(text)
    assert time.monotonic() - began < 5


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
