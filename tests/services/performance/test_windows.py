"""Accuracy windows merge exactly, whatever the partitions, periods and parts; other bins merge in what they share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftline.codec import encode
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.kafka import publish
from services.performance.tables import groups
from services.performance.windows import (
    UnreadableWindowError,
    decision_parts,
    group_records,
    merge_group,
    merge_records,
    parts_of,
    performance_windows,
    rule_parts,
    segments_of,
)
from services.topics import ensure_topics
from services.windows import PERIODS, Period
from streams.specification import DecisionValue, DeploymentSpec, FeatureSpec, OutcomeSpec
from streams.statistics.performance.metrics import metrics
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
LAYOUT = PerformanceLayout(BINARY, ("no", "yes"), np.linspace(0.1, 0.9, 9), np.array([HOUR_US, 5 * HOUR_US]))
SPEC = DeploymentSpec(
    "delays",
    "m",
    BINARY,
    (FeatureSpec("x", "numeric"),),
    outcomes=OutcomeSpec(48 * 3_600_000, lateness_ms=3 * 3_600_000),
)
Make = Callable[..., Any]


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@given(
    data=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 2), st.floats(0, 1), st.booleans(), st.booleans()),
        min_size=1,
        max_size=60,
    ),
    by=st.sampled_from(PERIODS),
    weighted=st.booleans(),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_splitting_by_windows_and_partitions_merges_to_the_same_sums(
    make_record: Make, make_sums: Make, data: list[tuple[int, int, float, bool, bool]], by: Period, weighted: bool
) -> None:
    hours, partitions, scores, actual, known = (np.array(column) for column in zip(*data, strict=True))
    weights = np.where(actual, 3.7, 1.1) if weighted else np.ones(len(data))
    columns = {"resolved": known, "weights": weights}
    records = []
    for hour, partition in sorted(set(zip(hours.tolist(), partitions.tolist(), strict=True))):
        of = (hours == hour) & (partitions == partition)
        cut = {name: column[of] for name, column in columns.items()}
        records.append(
            make_record(
                LAYOUT, scores[of], actual[of], start_us=12 * hour * HOUR_US, partition=partition,
                parts={"side=up": scores[of] > 0.5}, **cut,
            )
        )  # fmt: skip
    windows = merge_records(records[::-1], SPEC, by)
    assert [w.start_us for w in windows] == sorted({w.start_us for w in windows})
    assert sum(w.windows for w in windows) == len({r["window_start_us"] for r in records})
    assert sum(int(w.parts[""]["resolved"]) for w in windows) == known.sum()
    for window in windows:
        inside = (12 * hours * HOUR_US >= window.start_us) & (12 * hours * HOUR_US < window.end_us)
        assert same(window.parts[""], make_sums(LAYOUT, scores, actual, rows=inside, **columns))
        assert same(window.parts["side=up"], make_sums(LAYOUT, scores, actual, rows=inside & (scores > 0.5), **columns))


def test_versions_roles_and_classes_are_kept_apart_and_a_role_is_that_of_who_knows_most(make_record: Make) -> None:
    other = dataclasses.replace(LAYOUT, classes=("never", "yes"))
    records = [
        make_record(LAYOUT, [0.9], [1], partition=0, role="challenger", clock_us=10 * HOUR_US),
        make_record(LAYOUT, [0.9], [1], partition=1, clock_us=20 * HOUR_US, status="provisional"),
        make_record(LAYOUT, [0.9], [1], model_version="2", role="challenger"),
        make_record(other, [0.9], [1], partition=2, id="other"),
    ]
    found = merge_records(records, SPEC, "month")
    assert [(w.model_version, w.role, w.status, len(w.spans)) for w in found] == [
        ("1", "champion", "final", 1),
        ("1", "champion", "provisional", 2),
        ("2", "challenger", "final", 1),
    ]
    assert found[1].clock_us == 10 * HOUR_US and found[1].final_at_us == (1 + 48 + 3) * HOUR_US
    assert [w.model_version for w in merge_records(records, SPEC, "day", role="challenger")] == ["2"]


def test_parts_and_segmentations_are_those_that_windows_have(make_record: Make) -> None:
    every = [True]
    records = [
        make_record(LAYOUT, [0.9], [1], parts={"carrier=UA": every, "hour=in": every}),
        make_record(LAYOUT, [0.9], [1], start_us=DAY_US, parts={"carrier=AA": every, "carrier2=B6": every}),
    ]
    windows = merge_records(records, SPEC)
    assert parts_of(windows, "carrier") == ["carrier=AA", "carrier=UA"]
    assert segments_of(windows) == ["carrier", "carrier2", "hour"]


def test_few_parts_of_a_window_are_read_alone(make_record: Make) -> None:
    every = [True, True]
    record = make_record(LAYOUT, [0.9, 0.2], [1, 0], parts={"carrier=UA": every, "carrier=AA": every})
    record["parts"][2]["counts"]["ages"] = [1]  # cannot be read, and is not asked for
    (group,) = group_records([record])
    assert group.parts == {"", "carrier=UA", "carrier=AA"} and segments_of([group]) == ["carrier"]
    window = merge_group(group, SPEC, ["carrier=UA", "carrier=none"])
    assert set(window.parts) == {"", "carrier=UA"} and set(merge_group(group, SPEC, []).parts) == {""}
    with pytest.raises(UnreadableWindowError):
        merge_group(group, SPEC)


def test_windows_of_other_bins_merge_in_the_edges_they_share(make_record: Make, make_sums: Make) -> None:
    rng = np.random.default_rng(1)
    scores, ages = rng.random(400), rng.integers(0, 10 * HOUR_US, 400)
    actual = rng.random(400) < scores
    fine = dataclasses.replace(
        LAYOUT, score_edges=np.array([0.2, 0.33, 0.5, 0.77]), age_edges_us=np.array([HOUR_US, 2 * HOUR_US])
    )
    shared = dataclasses.replace(LAYOUT, score_edges=np.array([0.2, 0.5]), age_edges_us=np.array([HOUR_US]))
    first = np.arange(400) < 250
    halves = [(LAYOUT, first, "a"), (fine, ~first, "b")]
    scores[:3], weights = np.nan, np.where(actual, 2.0, 1.0)
    records = [
        make_record(layout, scores[of], actual[of], ages_us=ages[of], weights=weights[of], start_us=n * HOUR_US,
                    baseline_digest=digest)
        for n, (layout, of, digest) in enumerate(halves)
    ]  # fmt: skip
    (window,) = merge_records(records, SPEC, "day")
    assert window.mixed_edges and window.baselines == ("a", "b")
    assert window.layout.score_edges.tolist() == pytest.approx([0.2, 0.5])
    assert same(window.parts[""], make_sums(shared, scores, actual, ages_us=ages, weights=weights))
    assert not any(w.mixed_edges for w in merge_records(records, SPEC))
    only_ages = dataclasses.replace(LAYOUT, age_edges_us=np.array([HOUR_US]))
    (window,) = merge_records(
        [make_record(LAYOUT, [0.5], [1]), make_record(only_ages, [0.5], [1], partition=1)], SPEC, "day"
    )
    assert not window.mixed_edges and window.parts[""]["ages"].tolist() == [2, 0]


def test_bins_of_several_classes_and_values_asked_for_later_merge_too(make_record: Make, make_sums: Make) -> None:
    rng = np.random.default_rng(2)
    scores, actual = rng.dirichlet(np.ones(3), 60), rng.integers(0, 3, 60)
    plain = PerformanceLayout(MULTICLASS, ("a", "b", "c"), np.array([0.25, 0.5, 0.75]))
    worth = dataclasses.replace(plain, values=np.eye(3), score_edges=np.array([0.1, 0.5]))
    spec = dataclasses.replace(SPEC, task=MULTICLASS, outcomes=OutcomeSpec(1, values=(DecisionValue("a", "a", 1.0),)))
    records = [make_record(plain, scores, actual), make_record(worth, scores, actual, partition=1)]
    (window,) = merge_records(records, spec)
    shared = dataclasses.replace(plain, score_edges=np.array([0.5]))
    twice = make_sums(shared, np.tile(scores, (2, 1)), np.tile(actual, 2))
    assert window.layout.values is None and same(window.parts[""], twice)
    (window,) = merge_records(records[1:], spec)
    assert window.layout.values is not None and window.layout.values[0, 0] == 1.0 and "value" in window.parts[""]


def test_numbers_and_other_tasks_merge(make_record: Make) -> None:
    for layout in (PerformanceLayout(REGRESSION, quantile=0.9), PerformanceLayout("other")):
        records = [make_record(layout, [1.0, 2.0], [0.0, 0.0], partition=p) for p in (0, 1)]
        (window,) = merge_records(records, SPEC)
        assert window.parts[""]["resolved"] == 4 and (window.layout.quantile is None) == (layout.quantile is None)


@pytest.mark.parametrize("weights", [None, [2.0, 1.0]])
def test_coverage_adds_up_over_windows_of_which_some_were_without_humility(make_record: Make, weights: Any) -> None:
    plain = PerformanceLayout(REGRESSION)
    humble = dataclasses.replace(plain, coverage_score="interval_excess")
    before = make_record(plain, [1.0, 2.0], [0.0, 0.0])
    after = make_record(humble, [1.0, 2.0], [0.0, 0.0], partition=1, weights=weights)
    for part in after["parts"]:
        part["counts"] |= {"with_quantile": [2], "covered": [1], "with_static": [2], "covered_static": [0]}
        part["sums"] |= {"quantile_sum": [3.0], "adaptive_width": [8.0], "adaptive_width_squared": [34.0]}
        if weights:
            twins = {"with_quantile": [3.0], "covered": [2.0], "with_static": [3.0], "covered_static": [0.0]}
            part["sums"] |= {f"weighted_{name}": value for name, value in twins.items()}
    for records in ([before, after], [after, before]):
        (window,) = merge_records(records, SPEC)
        found = metrics(window.layout, window.parts[""])
        assert found["adaptive_coverage"].value == pytest.approx(2 / 3 if weights else 1 / 2)
        assert found["static_coverage"].value == 0 and found["static_coverage"].rows == 2
        assert found["adaptive_width"].value == pytest.approx(8 / 3 if weights else 4)
        assert found["mae"].rows == 4
    (window,) = merge_records([before], SPEC)
    assert not window.layout.coverage_score and "adaptive_coverage" not in metrics(window.layout, window.parts[""])


def test_parts_of_decisions_and_rules_are_no_segments(make_record: Make) -> None:
    every = np.ones(4, bool)
    names = ["routed", "answered", "overridden (served)", "overridden"]
    parts = {"side=up": every, **{f"decision={name}": every for name in names}}
    parts |= {"rule:stale=fired": every, "rule:a=b=fired": every, "rule=kept": every, "decision=other": every}
    group = group_records([make_record(LAYOUT, [0.2, 0.4, 0.6, 0.8], [0, 0, 1, 1], parts=parts)])
    (window,) = (merge_group(each, SPEC) for each in group)
    for known in (group, [window]):
        assert segments_of(known) == ["decision", "rule", "side"]  # those that were declared so
        assert parts_of(known, "decision") == ["decision=other"] and parts_of(known, "rule") == ["rule=kept"]
        assert parts_of(known, "rule:stale") == []
    assert list(decision_parts(window)) == ["answered", "overridden", "overridden (served)", "routed"]
    assert list(rule_parts(window)) == ["a=b", "stale"]
    assert all(int(sums["resolved"]) == 4 for sums in (decision_parts(window) | rule_parts(window)).values())
    assert list(groups(window, "side").rates) == ["side=up"] and list(groups(window, "decision").rates) == [
        "decision=other"
    ]


def test_a_window_that_cannot_be_read_is_named(make_record: Make) -> None:
    record = make_record(LAYOUT, [0.9], [1])
    record["parts"][0]["counts"]["ages"] = [1]
    with pytest.raises(UnreadableWindowError, match=r"'1/0/0' of 'delays'.*ages.*another release"):
        merge_records([record], SPEC)


def test_the_latest_revision_counts_among_windows_of_both_kinds(
    make_record: Make, bootstrap_servers: str, topic_prefix: str
) -> None:
    kafka = KafkaSettings(bootstrap_servers, Topics(topic_prefix))
    ensure_topics(kafka, partitions=2)

    def send(record: Any, key: bytes = b"delays") -> None:
        publish(kafka, kafka.topics.windows, key, encode("PerformanceWindow", record))

    send(make_record(LAYOUT, [0.9] * 3, [1] * 3, revision=2))
    send(make_record(LAYOUT, [0.9], [1], revision=1, status="provisional"))
    send(make_record(LAYOUT, [0.9] * 2, [1] * 2, start_us=HOUR_US, model_version="2"))
    send(make_record(LAYOUT, [0.9], [1]), b"another")
    feature = {
        "id": "f", "deployment_id": "delays", "model_version": "1", "partition": 0, "window_start_us": 0,
        "window_end_us": HOUR_US, "status": "final", "revision": 1, "rows": 3, "baseline_digest": "x", "streams": [],
    }  # fmt: skip
    publish(kafka, kafka.topics.windows, b"delays", encode("WindowSummary", feature))
    publish(kafka, kafka.topics.windows, b"delays", b"garbage")

    def seen(**options: Any) -> list[tuple[str, int, str]]:
        found = performance_windows(kafka, SPEC, **options)
        return [(w.model_version, int(w.parts[""]["predictions"]), w.status) for w in found]

    assert seen() == [("1", 3, "final"), ("2", 2, "final")]
    assert seen(version="2") == [("2", 2, "final")] and seen(to_us=HOUR_US) == [("1", 3, "final")]
    assert seen(from_us=HOUR_US) == [("2", 2, "final")] and seen(role="challenger") == []
    assert seen(parts=[]) == seen()
