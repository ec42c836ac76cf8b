"""A baseline's monitors are tried on its own reference."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy import signal

from driftline.codec import decode, encode
from driftline.events import CategoricalColumn, PredictionColumns
from streams import arming
from streams.arming import REFUSED_MARGIN, arm_baseline, is_refused, refused
from streams.baseline import Baseline
from streams.counting import blocks_of
from streams.reference import build_baseline
from streams.specification import (
    DATA_DRIFT,
    DATA_QUALITY,
    PREDICTION_DRIFT,
    SERVICE,
    DeploymentSpec,
    FeatureSpec,
    SegmentSpec,
)
from streams.statistics.evidence import log_e_values, make_bets
from streams.statistics.seasons import SeasonalBins
from streams.statistics.tilts import tilts_of

HOUR_US = 3_600_000_000
T0 = 1_704_067_200_000_000  # Monday, 2024-01-01, UTC

SPEC = DeploymentSpec(
    "d",
    "m",
    "other",
    (FeatureSpec("x", "numeric"), FeatureSpec("y", "numeric"), FeatureSpec("c", "categorical")),
    segments=(SegmentSpec("by c", "c"),),
)


def reference(weeks: int = 4, per_hour: int = 24, *, slow: bool = False) -> PredictionColumns:
    """``x`` has a daily cycle; ``y`` is independent, or AR(1) with phi = 0.9 if ``slow``."""
    rows = weeks * 168 * per_hour
    rng = np.random.default_rng(weeks)
    times = T0 + np.arange(rows) * HOUR_US // per_hour
    y = rng.normal(size=rows)
    if slow:
        y = signal.lfilter([np.sqrt(1 - 0.9**2)], [1, -0.9], y)
    return PredictionColumns(
        "d",
        "1",
        [str(i) for i in range(rows)],
        times,
        {"x": 2 * np.sin(2 * np.pi * times / (24 * HOUR_US)) + rng.normal(size=rows), "y": y},
        {"c": CategoricalColumn(["a", "b"], rng.integers(0, 2, rows).astype(np.int32))},
        prediction=rng.random(rows),
        latency_ms=rng.gamma(2, size=rows),
    )


@pytest.fixture(scope="module")
def columns() -> PredictionColumns:
    return reference(per_hour=30)


@pytest.fixture(scope="module")
def baseline(columns: PredictionColumns) -> Baseline:
    return build_baseline(SPEC, "1", [columns], source="test")


def stored(baseline: Baseline) -> Baseline:
    return Baseline.from_record(decode(encode("Baseline", baseline.to_record()))[1])


def untempered(baseline: Baseline, name: str) -> Baseline:
    streams = tuple(
        dataclasses.replace(s, tempering=np.ones_like(s.tempering)) if s.name == name else s for s in baseline.streams
    )
    return dataclasses.replace(baseline, streams=streams, arming=())


def test_each_monitor_is_armed_when_a_baseline_is_built(baseline: Baseline) -> None:
    assert [item.monitor for item in baseline.arming] == [DATA_DRIFT, PREDICTION_DRIFT, DATA_QUALITY, SERVICE]
    for item in baseline.arming:
        assert item.alarms <= item.bound
        assert item.bound == pytest.approx(item.starts / np.exp(item.threshold_nats))
    assert refused(baseline) == {}
    assert baseline.digest == baseline.content_digest()
    baseline.check()
    assert stored(baseline).arming == baseline.arming


def test_the_steps_of_the_replay_hold_the_reference_of_every_stream(
    baseline: Baseline, columns: PredictionColumns
) -> None:
    blocks = list(blocks_of(baseline.streams).values())
    parts = [_part(columns, chosen) for chosen in (slice(1, None, 2), slice(0, None, 2))]  # out of order
    counted = arming._counts_in_steps(SPEC, baseline, blocks, parts)
    assert len(baseline.streams) > 15
    assert any(isinstance(stream.bins, SeasonalBins) for stream in baseline.streams)
    for block, counts in zip(blocks, counted, strict=True):
        for at, stream in enumerate(block):
            assert np.array_equal(counts[:, at].sum(axis=0), stream.counts), stream.label
    whole = counted[0].sum(axis=2)[:, 0]
    assert whole.max() - whole.min() <= 1, "steps have equally many rows"


def _part(columns: PredictionColumns, chosen: slice) -> PredictionColumns:
    index = np.arange(columns.rows)[chosen]
    changes: dict[str, Any] = {
        "prediction_ids": [columns.prediction_ids[i] for i in index.tolist()],
        "timestamps_us": columns.timestamps_us[index],
        "numeric": {name: values[index] for name, values in columns.numeric.items()},
        "categorical": {
            name: CategoricalColumn(c.categories, c.codes[index]) for name, c in columns.categorical.items()
        },
        "prediction": None if columns.prediction is None else columns.prediction[index],
        "latency_ms": None if columns.latency_ms is None else columns.latency_ms[index],
    }
    return dataclasses.replace(columns, **changes)


def test_the_result_does_not_depend_on_how_the_reference_is_split(columns: PredictionColumns) -> None:
    spec = dataclasses.replace(SPEC, segments=())
    whole = build_baseline(spec, "1", [columns], source="test")
    parts = [_part(columns, slice(i, i + 3000)) for i in range(0, columns.rows, 3000)]
    assert build_baseline(spec, "1", parts, source="test").digest == whole.digest


def test_a_stream_that_breaks_the_bound_is_tempered_more_and_no_other() -> None:
    slow = reference(slow=True)
    spec = dataclasses.replace(SPEC, segments=())
    built = build_baseline(spec, "1", [slow], source="test")
    armed = arm_baseline(spec, untempered(built, "y"), [slow])
    (record,) = [item for item in armed.arming if item.monitor == DATA_DRIFT]
    assert record.widened < 1
    assert record.alarms <= record.bound
    for before, after in zip(untempered(built, "y").streams, armed.streams, strict=True):
        if after.name == "y":
            assert np.allclose(after.tempering, record.widened) or is_refused(after)
        elif after.name != "association:y":
            assert np.array_equal(before.tempering, after.tempering), after.name
    assert armed.digest != built.digest
    armed.check()


def test_a_refused_stream_is_kept_and_has_a_margin_that_nothing_exceeds() -> None:
    columns = reference()
    jump = np.where(np.arange(columns.rows) < columns.rows // 2, 0.0, 50.0)
    columns = dataclasses.replace(columns, numeric={**columns.numeric, "y": columns.numeric["y"] + jump})
    spec = dataclasses.replace(SPEC, segments=())
    built = build_baseline(spec, "1", [columns], source="test")
    armed = arm_baseline(spec, untempered(built, "y"), [columns])
    (out,) = [stream for stream in armed.streams if stream.name == "y"]
    assert is_refused(out)
    assert out in refused(armed)[DATA_DRIFT]
    assert len(armed.streams) == len(built.streams)
    armed.check()
    assert stored(armed).digest == armed.digest


def test_no_counts_whatever_are_evidence_within_a_margin_of_one(baseline: Baseline) -> None:
    for stream in baseline.streams:
        tilts = tilts_of(stream.layout)
        bets = make_bets(tilts, stream.counts[None], REFUSED_MARGIN, stream.tempering[None])
        for at in range(stream.layout.size):
            counts = np.zeros((1, stream.layout.size), np.int64)
            counts[0, at] = 1000
            assert (log_e_values(bets, counts) <= 0).all(), f"{stream.label}, bin {at}"


def test_arming_is_the_same_again(baseline: Baseline, columns: PredictionColumns) -> None:
    first = arm_baseline(SPEC, untempered(baseline, "y"), [columns])
    again = arm_baseline(SPEC, untempered(baseline, "y"), [columns])
    assert first.digest == again.digest
