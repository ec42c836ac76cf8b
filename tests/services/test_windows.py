"""Windows merge exactly: by partition, by calendar period, never across baselines."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.codec import encode
from driftline.events import PredictionColumns
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.kafka import publish
from services.topics import ensure_topics
from services.windows import PERIODS, Period, document, latest_windows, summarise
from streams.baseline import Baseline
from streams.blocks import compile_block
from streams.effects import effect_sizes
from streams.reference import build_baseline
from streams.specification import DeploymentSpec, FeatureSpec
from streams.statistics.association import cramers_v

HOUR_US = 3_600_000_000
SPEC = DeploymentSpec("d", "m", "other", (FeatureSpec("x", "numeric"),))


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    rows = 1000
    columns = PredictionColumns(
        "d", "1", [str(i) for i in range(rows)], np.arange(rows), {"x": np.random.default_rng(1).normal(size=rows)}
    )
    return build_baseline(SPEC, "1", [columns], source="test")


def window(start_us: int, counts: list[int], **changes: Any) -> dict[str, Any]:
    return {
        "id": f"{start_us}",
        "deployment_id": "d",
        "model_version": "1",
        "partition": 0,
        "window_start_us": start_us,
        "window_end_us": start_us + HOUR_US,
        "status": "final",
        "revision": 1,
        "rows": sum(counts),
        "baseline_digest": "none",
        "streams": [stream("x", counts)],
    } | changes


def stream(name: str, counts: list[int], **changes: Any) -> dict[str, Any]:
    effects = {"psi": 1.0, "jensen_shannon": 1.0, "total_variation": 1.0, "hellinger": 1.0, "kl": 1.0, "intervals": {}}
    facts = {"role": "feature", "layout": "numeric", "segment": "", "importance": None}
    return {"name": name, "counts": counts, "effects": effects, **facts, **changes}


@given(
    st.lists(st.tuples(st.integers(-1000, 1000), st.lists(st.integers(0, 9), min_size=3, max_size=3)), max_size=40),
    st.sampled_from(PERIODS),
)
def test_no_row_is_lost_or_counted_twice_whatever_the_period(windows: list[tuple[int, list[int]]], by: Period) -> None:
    records = [window(hour * HOUR_US, counts) for hour, counts in windows]
    periods = summarise(records, {}, by)
    total = sum((s.counts for p in periods for s in p.streams), np.zeros(3, np.int64))
    assert total.tolist() == np.sum([counts for _, counts in windows] or [[0] * 3], axis=0).tolist()
    assert all(p.start_us < p.end_us for p in periods)
    assert all(a.end_us <= b.start_us for a, b in pairwise(periods))
    assert sum(p.rows for p in periods) == sum(record["rows"] for record in records)


@pytest.mark.parametrize("by", ["window", "day"])
def test_effects_of_a_period_are_those_of_its_sums_with_intervals(baseline: Baseline, by: Period) -> None:
    known = baseline.streams[0]
    bins = len(known.counts)
    first, second = [5] * bins, [0, 40] + [1] * (bins - 2)
    records = [
        window(0, first, baseline_digest=baseline.digest),
        window(HOUR_US, second, baseline_digest=baseline.digest, status="provisional"),
    ]
    periods = summarise(records, {baseline.digest: baseline}, by)
    expected = np.array([first, second]) if by == "window" else np.array([first]) + np.array([second])
    assert [p.streams[0].counts.tolist() for p in periods] == expected.tolist()
    independence = compile_block([known]).independence
    for period, counts in zip(periods, expected, strict=True):
        found = period.streams[0].effects
        assert found == effect_sizes(counts[None, :], [known], independence, intervals=True)[0]
        assert found is not None and found["intervals"]["psi"][1] > 0.1
    assert [(p.status, p.windows, p.rows) for p in periods] == (
        [("final", 1, sum(first)), ("provisional", 1, sum(second))]
        if by == "window"
        else [("provisional", 2, int(expected.sum()))]
    )


def test_a_window_keeps_the_effects_it_came_with_where_its_baseline_is_gone_and_several_do_not() -> None:
    records = [window(0, [1, 2]), window(HOUR_US, [3, 4])]
    assert [p.streams[0].effects for p in summarise(records, {})] == [r["streams"][0]["effects"] for r in records]
    assert [p.streams[0].effects for p in summarise(records, {}, "day")] == [None]


def test_a_segment_is_no_part_of_its_parent_and_is_said_in_json(baseline: Baseline) -> None:
    bins = len(baseline.streams[0].counts)
    both = [stream("x", [4] * bins), stream("x", [1] * bins, segment="region=north")]
    records = [window(start, [], streams=both, baseline_digest=baseline.digest) for start in (0, HOUR_US)]
    (day,) = summarise(records, {baseline.digest: baseline}, "day")
    assert [(s.label, s.counts.sum()) for s in day.streams] == [("x", 8 * bins), ("x [region=north]", 2 * bins)]
    assert day.streams[0].effects is not None and day.streams[1].effects is None  # the baseline has no such segment
    assert [s["segment"] for s in document(day)["streams"]] == ["", "region=north"]
    assert len(summarise(records, {}, "day", streams={"x"})[0].streams) == 2


def test_importance_of_a_period_is_that_of_the_summed_tables() -> None:
    tables = [[30, 0, 0, 0, 30, 0, 0, 0, 30, 5], [10] * 9 + [0]]
    records = [
        window(
            hour * HOUR_US,
            [],
            streams=[
                stream("x", [9], importance=float(cramers_v(table))),
                stream("association:x", table, role="association", layout="association"),
            ],
        )
        for hour, table in enumerate(tables)
    ]
    assert [p.streams[0].importance for p in summarise(records, {})] == [pytest.approx(1), pytest.approx(0, abs=0.1)]
    (day,) = summarise(records, {}, "day")
    assert day.streams[0].importance == pytest.approx(float(cramers_v(np.sum(tables, axis=0))))
    assert 0.2 < (day.streams[0].importance or 0) < 0.8
    assert day.streams[1].importance is None


def test_windows_against_different_baselines_are_kept_apart() -> None:
    records = [window(0, [1, 2]), window(HOUR_US, [1, 2, 3], baseline_digest="other")]
    assert [p.rows for p in summarise(records, {}, "day")] == [3, 6]


def test_shards_of_one_window_add_up() -> None:
    records = [window(0, [1, 2]), window(0, [3, 4], partition=1, id="other")]
    (merged,) = summarise(records, {})
    assert merged.streams[0].counts.tolist() == [4, 6] and merged.windows == 1
    assert merged.streams[0].effects is None  # unknown without the baseline, and never one shard's


def test_months_and_weeks_begin_where_calendars_say() -> None:
    at = 1709164800_000000  # 2024-02-29, a Thursday
    (month,), (week,) = (summarise([window(at, [1])], {}, by) for by in ("month", "week"))
    assert (month.start_us, month.end_us) == (1706745600_000000, 1709251200_000000)
    assert (week.start_us, week.end_us) == (1708905600_000000, 1709510400_000000)


def test_the_latest_revision_of_a_window_counts(bootstrap_servers: str, topic_prefix: str) -> None:
    settings = KafkaSettings(bootstrap_servers, Topics(topic_prefix))
    ensure_topics(settings, partitions=2)
    topic = settings.topics.windows
    for record in (
        window(0, [1], revision=1, status="provisional"),
        window(HOUR_US, [7]),
        window(0, [3], revision=3),
        window(0, [2], revision=2, status="provisional"),
    ):
        publish(settings, topic, b"d", encode("WindowSummary", record))
    publish(settings, topic, b"d", b"garbage")
    publish(settings, topic, b"other", encode("WindowSummary", window(0, [99], deployment_id="other")))
    assert [r["rows"] for r in latest_windows(settings, "d")] == [3, 7]
    assert [r["rows"] for r in latest_windows(settings, "d", from_us=HOUR_US)] == [7]
    assert [r["rows"] for r in latest_windows(settings, "d", to_us=HOUR_US)] == [3]
    assert latest_windows(settings, "d", version="2") == []
