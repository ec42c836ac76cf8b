"""Everything that is watched of a deployment: each kind of change is found, and named for what it is."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from driftline.codec import decode, encode
from driftline.events import CategoricalColumn, PredictionColumns
from streams.baseline import Baseline
from streams.reference import build_baseline
from streams.specification import DeploymentSpec, DetectorSpec, FeatureSpec, SegmentSpec

SECOND = 1_000_000
EVERY = 3 * SECOND
WORDS = ["the", "parcel", "was", "late", "again", "please", "call", "me", "about", "my", "order", "number"]
REGIONS = ("north", "south", "west")

SPEC = DeploymentSpec(
    "d",
    "model",
    "regression",
    (
        FeatureSpec("x", "numeric", 2.0),
        FeatureSpec("y", "numeric"),
        FeatureSpec("c", "categorical"),
        FeatureSpec("b", "boolean"),
        FeatureSpec("note", "text"),
        FeatureSpec("vec", "embedding"),
    ),
    window_ms=3_600_000,
    start_slot_ms=3_600_000,
    segments=(SegmentSpec("region", "region", ("north", "west")), SegmentSpec("high", "x", low=1.0)),
)


def rows(first: int, count: int, samples: Any, seed: int = 1, **change: Any) -> PredictionColumns:
    """Rows, 20 a minute, with whatever change is asked for; the same rows for the same arguments."""
    rng = np.random.default_rng([seed, 20_000 + first])
    x = rng.normal(size=count)
    y = change.get("correlation", 0.8) * x + np.sqrt(1 - change.get("correlation", 0.8) ** 2) * rng.normal(size=count)
    noise = rng.normal(size=count)
    prediction = (x if change.get("relation", True) else rng.normal(size=count)) + 0.5 * noise
    region = rng.choice(3, size=count, p=[0.3, 0.3, 0.4])
    x = x + change.get("shift_north", 0.0) * (region == 0)
    x[rng.random(count) < change.get("missing", 0.0)] = np.nan
    categories = ("red", "green", "blue", "violet")
    colour = np.where(rng.random(count) < change.get("unseen", 0.0), 3, rng.choice(3, size=count, p=[0.6, 0.3, 0.1]))
    words = [*WORDS, *change.get("words", ())]
    notes = [" ".join(rng.choice(words, size=rng.integers(3, 12))) for _ in range(count)]
    error = np.where(rng.random(count) < change.get("errors", 0.0), 0, -1).astype(np.int32)
    every = change.get("every", EVERY)
    times = samples.t0 + change.get("at", first * EVERY) + np.sort(rng.integers(0, count * every, size=count))
    return PredictionColumns(
        "d",
        "1",
        [str(i) for i in range(first, first + count)],
        times,
        numeric={"x": x, "y": y},
        categorical={
            "c": CategoricalColumn(categories, colour.astype(np.int32)),
            "b": CategoricalColumn(("true", "false"), (rng.random(count) < 0.5).astype(np.int32)),
            "note": CategoricalColumn.from_values(notes),
        },
        prediction=prediction,
        segments={"region": CategoricalColumn(REGIONS, region.astype(np.int32))},
        latency_ms=rng.lognormal(3.0, 0.3, size=count) * change.get("slower", 1.0),
        vectors={
            "vec": (rng.normal(size=(count, 8)) + change.get("turn", 0.0) * (np.arange(8) == 3)).astype(np.float32)
        },
        error=CategoricalColumn(("timeout",), error),
    )


@pytest.fixture(scope="module")
def baseline(samples: Any) -> Baseline:
    return build_baseline(SPEC, "1", [rows(-10_000, 10_000, samples)], source="sample")


def run(samples: Any, baseline: Baseline, batches: Sequence[PredictionColumns], spec: DeploymentSpec = SPEC) -> Any:
    machine = samples.machine(spec, baseline)
    return machine.apply(*(samples.message(batch, offset) for offset, batch in enumerate(batches)))


def alarms(machine: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        (alert["monitor"], [(cause["stream"], cause["segment"]) for cause in alert["causes"]])
        for alert in machine.emitted("alerts", status="firing")
    ]


def test_everything_is_watched(baseline: Baseline) -> None:
    roles: dict[str, set[str]] = {}
    for stream in baseline.streams:
        if not stream.segment:
            roles.setdefault(stream.role, set()).add(stream.name)
    features = {"x", "y", "c", "b", "vec.distance", *(f"vec.projection_{i}" for i in range(1, 5))}
    features |= {f"note.{what}" for what in ("length", "letters", "digits", "unknown_words")}
    assert roles["feature"] == features
    assert roles["prediction"] == {"prediction"}
    assert roles["joint"] == {"joint.distance"}
    assert roles["association"] == {f"association:{name}" for name in "xycb"}
    assert roles["quality"] == {"schema", *(f"quality:{n}" for n in ("x", "y", "c", "b", "note", "vec", "prediction"))}
    assert roles["service"] == {"latency_ms", "error"}
    assert roles["rate"] == {"rate"}
    parts = {stream.segment for stream in baseline.streams if stream.segment}
    assert parts == {"region=north", "region=west", "region=(other)", "high=in"}
    record = decode(encode("Baseline", baseline.to_record()))[1]
    assert Baseline.from_record(record).digest == baseline.digest


def test_a_features_own_margin_holds_for_all_that_is_derived_from_it_and_in_every_part(samples: Any) -> None:
    own = {"x": 0.6, "c": 0.61, "note": 0.62, "vec": 0.63}
    features = tuple(dataclasses.replace(f, margin_tv=own.get(f.name)) for f in SPEC.features)
    spec = dataclasses.replace(SPEC, features=features)
    built = build_baseline(spec, "1", [rows(-4_000, 4_000, samples)], source="sample")
    for feature in features:
        streams = [s for s in built.streams if s.role == "feature" and s.name.partition(".")[0] == feature.name]
        assert {s.segment for s in streams} == {"", "region=north", "region=west", "region=(other)", "high=in"}
        margins = {s.margin_tv for s in streams}
        if feature.margin_tv is None:
            assert max(margins) < 0.5
        else:
            assert margins == {feature.margin_tv}, feature.name


def test_without_a_change_nothing_is_said(samples: Any, baseline: Baseline) -> None:
    machine = run(samples, baseline, [rows(k * 1000, 1000, samples, seed=2) for k in range(20)])
    assert alarms(machine) == []


@pytest.mark.parametrize(
    ("change", "monitor", "causes"),
    [
        ({"correlation": 0.0}, "data_drift", {("joint.distance", "")}),
        ({"relation": False}, "data_drift", {("association:x", ""), ("association:y", "")}),
        ({"missing": 0.02}, "data_quality", {("quality:x", "")}),
        ({"unseen": 0.02}, "data_quality", {("quality:c", "")}),
        ({"errors": 0.03}, "service", {("error", "")}),
        ({"slower": 1.2}, "service", {("latency_ms", "")}),
        ({"turn": 1.0}, "data_drift", {("vec.distance", "")}),
        ({"words": ("refund", "lawyer")}, "data_drift", {("note.unknown_words", "")}),
        ({"shift_north": 0.5}, "data_drift", {("x", "region=north")}),
    ],
    ids=["correlation", "relation", "missing", "unseen", "errors", "latency", "embedding", "text", "segment"],
)
def test_each_kind_of_change_is_found_and_named(
    samples: Any, baseline: Baseline, change: dict[str, Any], monitor: str, causes: set[tuple[str, str]]
) -> None:
    unchanged = [rows(k * 1000, 1000, samples, seed=3) for k in range(2)]
    changed = [rows(k * 250, 250, samples, seed=3, **change) for k in range(8, 48)]
    found = alarms(run(samples, baseline, unchanged + changed))
    assert any(name == monitor and causes & set(named) for name, named in found), found


def test_the_same_in_any_batches_and_after_any_restart(samples: Any, baseline: Baseline) -> None:
    spec = dataclasses.replace(SPEC, detectors=(DetectorSpec("page_hinkley", "x"), DetectorSpec("ddm", "b")))
    whole = rows(0, 3_000, samples, seed=4, missing=0.05, shift_north=1.0)

    def in_batches(cuts: Sequence[int], restart: bool) -> Any:
        machine = samples.machine(spec, baseline)
        machine.commit()
        edges = [0, *cuts, whole.rows]
        for offset, (low, high) in enumerate(itertools.pairwise(edges)):
            machine.apply(samples.message(_slice(whole, low, high), offset))
            machine.commit()
            if restart:
                machine = machine.restarted()
        return machine

    cuts = sorted(np.random.default_rng(0).choice(np.arange(1, whole.rows), 40, replace=False).tolist())
    undisturbed, restarted = in_batches(cuts, False), in_batches(cuts, True)
    assert undisturbed.digest() == restarted.digest()
    other = in_batches(cuts[::7], False)
    for name in ("slot/d@1", "evidence/d@1"):
        mine, theirs = undisturbed.records[name.encode()], other.records[name.encode()]
        for field in mine:
            if field.startswith(("slot_counts", "rate")):
                assert mine[field] == theirs[field], field


def _slice(columns: PredictionColumns, low: int, high: int) -> PredictionColumns:
    def part(column: CategoricalColumn) -> CategoricalColumn:
        return CategoricalColumn(column.categories, column.codes[low:high])

    assert columns.prediction is not None and columns.latency_ms is not None and columns.error is not None
    return dataclasses.replace(
        columns,
        prediction_ids=columns.prediction_ids[low:high],
        timestamps_us=columns.timestamps_us[low:high],
        numeric={name: values[low:high] for name, values in columns.numeric.items()},
        categorical={name: part(column) for name, column in columns.categorical.items()},
        prediction=columns.prediction[low:high],
        segments={name: part(column) for name, column in columns.segments.items()},
        latency_ms=columns.latency_ms[low:high],
        vectors={name: values[low:high] for name, values in columns.vectors.items()},
        error=part(columns.error),
    )


def test_too_few_rows_and_too_many_are_found(samples: Any, baseline: Baseline) -> None:
    for every in (2.0, 0.4):
        unchanged = [rows(k * 1000, 1000, samples, seed=5) for k in range(2)]
        start = 2000 * EVERY
        changed = [
            rows(
                2000 + k * 200, 200, samples, seed=5, at=start + int(k * 200 * EVERY * every), every=int(EVERY * every)
            )
            for k in range(20)
        ]
        found = alarms(run(samples, baseline, unchanged + changed))
        assert found == [("service", [("rate", "")])]


def test_silence_is_found_and_its_end(samples: Any, baseline: Baseline) -> None:
    whole = rows(0, 2000, samples, seed=6)
    machine = run(samples, baseline, [_slice(whole, k * 20, k * 20 + 20) for k in range(100)])
    last_ms = (samples.t0 + 2000 * EVERY) // 1000
    assert not machine.emitted("alerts")
    waited_ms = 0
    while not machine.emitted("alerts"):
        waited_ms += 60_000
        machine.pass_time(last_ms + waited_ms)
        assert waited_ms < 3_600_000
    lateness = SPEC.lateness_ms
    assert lateness < waited_ms <= lateness + 15 * 60_000
    ((monitor, causes),) = alarms(machine)
    assert (monitor, causes) == ("service", [("rate", "")])
    again = machine.restarted()
    resumed = [
        rows(2000 + k * 200, 200, samples, seed=6, at=2000 * EVERY + waited_ms * 1000 + k * 200 * EVERY)
        for k in range(30)
    ]
    for each in (machine, again):
        each.apply(*(samples.message(batch, 100 + k) for k, batch in enumerate(resumed)))
    assert machine.digest() == again.digest()
    assert [alert["status"] for alert in machine.emitted("alerts")] == ["firing", "resolved"]


def test_history_that_is_fed_in_is_not_called_silent(samples: Any, baseline: Baseline) -> None:
    machine = samples.machine(SPEC, baseline)
    columns = rows(0, 2000, samples, seed=7)
    now_ms = int(columns.timestamps_us.max()) // 1000 + 40 * 86_400_000
    machine.apply(samples.message(columns, 0, timestamp_ms=now_ms))
    machine.pass_time(now_ms + 86_400_000)
    assert alarms(machine) == []
    assert all(entry["source"] != "clock" for entry in machine.order)


def test_rows_that_cannot_be_read_are_an_alarm(samples: Any, baseline: Baseline) -> None:
    machine = run(samples, baseline, [rows(0, 2000, samples, seed=8)])
    broken = rows(2000, 50, samples, seed=8)
    texts = CategoricalColumn(("n/a?",), np.zeros(50, np.int32))
    broken = dataclasses.replace(
        broken, numeric={"y": broken.numeric["y"]}, categorical={**broken.categorical, "x": texts}
    )
    machine.apply(*(samples.message(broken, offset) for offset in range(1, 5)))
    assert alarms(machine) == [("data_quality", [("schema", "")])]
    assert len(machine.emitted("dead_letters")) == 4


def test_a_monitor_that_is_switched_off_closes_its_alarms_and_stays_silent(samples: Any, baseline: Baseline) -> None:
    changed = [rows(k * 500, 500, samples, seed=9, missing=0.2) for k in range(4)]
    machine = run(samples, baseline, changed)
    assert {monitor for monitor, _ in alarms(machine)} >= {"data_quality"}
    machine.put(dataclasses.replace(SPEC, disabled_monitors=("data_quality",), revision=2))
    resolved = machine.emitted("alerts", status="resolved")
    assert {alert["monitor"] for alert in resolved} == {"data_quality"}
    machine.apply(*(samples.message(rows(k * 500, 500, samples, seed=9, missing=0.9), k) for k in range(4, 8)))
    assert len([monitor for monitor, _ in alarms(machine) if monitor == "data_quality"]) == 1
    # where it is switched on again, its next alarm is another one, also after a restart and a new baseline in between
    restarted = machine.restarted()
    again_learnt = dataclasses.replace(baseline, source="again", digest="")
    restarted.put(dataclasses.replace(again_learnt, digest=again_learnt.content_digest()))
    restarted.put(dataclasses.replace(SPEC, revision=3))
    restarted.apply(*(samples.message(rows(k * 500, 500, samples, seed=9, missing=0.9), k) for k in range(8, 12)))
    again = restarted.emitted("alerts", status="firing", monitor="data_quality")
    assert [alert["episode"] for alert in again] == [2]


def test_a_known_detector_signals_outside_the_budget(samples: Any, baseline: Baseline) -> None:
    spec = dataclasses.replace(SPEC, detectors=(DetectorSpec("adwin", "x"),))
    unchanged = [rows(k * 500, 500, samples, seed=10) for k in range(3)]
    changed = [rows(1500 + k * 500, 500, samples, seed=10, shift_north=4.0) for k in range(6)]
    machine = run(samples, baseline, unchanged + changed, spec)
    (alert,) = machine.emitted("alerts", monitor="detector:adwin:x", status="firing")
    assert "outside the false-alarm budget" in alert["false_alarms"]


def test_estimated_importance_orders_the_features_and_windows_show_it(samples: Any) -> None:
    spec = dataclasses.replace(SPEC, importance_source="estimated", segments=())
    built = build_baseline(spec, "1", [rows(-10_000, 10_000, samples)], source="sample")
    importance = {stream.name: stream.importance for stream in built.streams if stream.role == "feature"}
    assert importance["x"] > importance["y"] > 5 * importance["c"] > 0
    machine = run(samples, built, [rows(k * 500, 500, samples, seed=11) for k in range(6)], spec)
    window = machine.emitted("windows")[-1]
    shown = {stream["name"]: stream["importance"] for stream in window["streams"] if stream["importance"] is not None}
    assert set(shown) == {"x", "y", "c", "b"}
    assert shown["x"] > 0.5 > shown["c"]
