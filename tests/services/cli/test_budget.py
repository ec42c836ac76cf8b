"""``driftline budget``, against a real broker."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftline.codec import encode
from driftline.events import CategoricalColumn, PredictionColumns
from driftline.settings import KafkaSettings
from services.deployments.baselines import publish_baseline
from services.deployments.store import get_deployment
from services.kafka import publish
from services.topics import ensure_topics
from streams.baseline import Baseline, BaselineStream, OutcomeReference
from streams.derived import Derived
from streams.reference import build_baseline
from streams.statistics.layouts import (
    CATEGORICAL,
    NUMERIC,
    CategoricalBins,
    bin_numeric,
    count_codes,
    fit_numeric,
)
from streams.statistics.tilts import tilts_of

SPEC = """
deployment: delays
model: m
task: regression
risk: high
features: {temp: numeric, wind: numeric, rain: numeric, carrier: categorical}
columns: {prediction_id: id, timestamp: when, prediction: score}
false_alarms: {count: 2, per: 30d}
margin: 0.03
monitors: {service: off}
"""
SECOND = """
deployment: churn
model: m
task: other
features: {x: numeric}
false_alarms: {count: 2, per: 30d}
"""
DAY_US = 86_400_000_000
MARCH_US = 1_709_251_200_000_000

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def settings(settings: KafkaSettings) -> KafkaSettings:
    """The same with topics."""
    ensure_topics(settings, partitions=2)
    return settings


@pytest.fixture
def fleet(run: Run, settings: KafkaSettings, tmp_path: Path) -> Path:
    """Two deployments; one has a baseline of 4,000 rows in ten days."""
    for name, text in (("delays", SPEC), ("churn", SECOND)):
        (tmp_path / f"{name}.yaml").write_text(text)
    assert run("deployment", "apply", tmp_path / "delays.yaml", tmp_path / "churn.yaml")[0] == 0
    rng, rows = np.random.default_rng(4), 4000
    columns = PredictionColumns(
        "delays",
        "3",
        [str(i) for i in range(rows)],
        MARCH_US + np.arange(rows, dtype=np.int64) * (DAY_US // 400),
        {"temp": rng.normal(20, 5, rows), "wind": rng.gamma(2.0, size=rows), "rain": rng.gamma(2.0, size=rows)},
        {"carrier": CategoricalColumn(("AA", "UA"), rng.integers(0, 2, rows, np.int32))},
        prediction=rng.normal(size=rows),
    )
    baseline = build_baseline(get_deployment(settings, "delays").spec, "3", [columns], source="test")
    assert publish_baseline(settings, baseline, actor="ada")
    return tmp_path


def fire(
    settings: KafkaSettings, monitor: str, day: float, name: str, status: str = "firing", deployment: str = "delays"
) -> None:
    at = MARCH_US + round(day * DAY_US)
    alert: dict[str, Any] = {
        "id": f"{name}-{status}", "incident_key": name, "deployment_id": deployment, "model_id": "m",
        "model_version": "3", "monitor": monitor, "severity": "warning", "status": status, "episode": 1,
        "change_time_us": at, "detection_time_us": at, "trigger_time_ms": at // 1000, "log_evidence_nats": 9.0,
        "threshold_nats": 8.0, "rows_since_change": 10, "causes": [], "evidence_offsets": [],
        "baseline_digest": "x", "spec_revision": 1, "false_alarms": "at most 2",
    }  # fmt: skip
    publish(settings, settings.topics.alerts, deployment.encode(), encode("Alert", alert))


def monitor_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(m for m in document["monitors"] if m["monitor"] == name)


def test_one_deployment_is_shown_with_what_it_may_spend_and_has_spent(
    run: Run, fleet: Path, settings: KafkaSettings
) -> None:
    fire(settings, "data_drift", -5, "long ago")
    fire(settings, "data_drift", 30, "new")
    fire(settings, "data_drift", 30, "new")  # a record may come twice
    fire(settings, "data_drift", 31, "new", "resolved")
    fire(settings, "detector:adwin:temp", 32, "outside the budget")
    status, out, _ = run("budget", "delays", "--json")
    found = json.loads(out)
    (delays,) = found["deployments"]
    assert status == 0 and found["fleet"]["kept"] and found["fleet"]["handed_out"] == 0.75
    assert (delays["risk"], delays["share"], delays["count"]) == ("high", 0.5, 2.0)
    drift = monitor_of(delays, "data_drift")
    assert drift["part"] == pytest.approx(0.5 * 0.4 * 0.75) and drift["allowed"] == pytest.approx(0.3)
    assert drift["threshold_nats"] == pytest.approx(np.log(720 / 0.3))
    assert drift["alarms"] == 1 and delays["alarms"] == 1
    assert monitor_of(delays, "service") == {
        "monitor": "service", "part": 0.0, "allowed": 0.0, "threshold_nats": None, "alarms": 0, "delays": [],
        "changes": [],
    }  # fmt: skip
    assert delays["allowed"] + delays["kept_back"] == pytest.approx(1.0)
    assert delays["rows_per_day"] == pytest.approx(400, rel=0.05) and "baseline" in delays["rows_per_day_from"]
    shift = {d["shift_sd"]: d["median"] for d in drift["delays"]}
    assert list(shift) == [0.1, 0.2, 0.3, 0.5, 1.0]
    assert shift[0.1] == {"stream": shift[0.1]["stream"], "events": None, "days": None, "inside_margin": True}
    assert shift[1.0]["days"] == pytest.approx(shift[1.0]["events"] / delays["rows_per_day"])
    status, out, _ = run("budget", "delays")
    text = " ".join(out.split())
    assert status == 0 and "delays: at most 2 false alarms expected per 30d, all 2 deployments" in text
    assert "Of high risk, it holds 0.5 of that promise: 1 false alarm per 30d, at most one in 30d on average." in text
    assert "data_drift, the middle one of 3" in text and "the slowest (" in text
    assert "in the margin" in text and "7.78 nats" in text and "version 3, at 4" in text


def test_the_rate_is_that_of_the_last_windows_where_there_are_any(
    run: Run, fleet: Path, settings: KafkaSettings
) -> None:
    fire(settings, "data_drift", 40, "now")
    for day, rows, status in ((2, 9, "final"), (20, 100, "final"), (21, 300, "final"), (22, 5, "provisional")):
        record = {
            "id": str(day), "deployment_id": "delays", "model_version": "3", "partition": 0,
            "window_start_us": MARCH_US + day * DAY_US, "window_end_us": MARCH_US + (day + 1) * DAY_US,
            "status": status, "revision": 1, "rows": rows, "baseline_digest": "x", "streams": [],
        }  # fmt: skip
        publish(settings, settings.topics.windows, b"delays", encode("WindowSummary", record))
    (delays,) = json.loads(run("budget", "delays", "--json")[1])["deployments"]
    assert delays["rows_per_day"] == 200 and delays["rows_per_day_from"] == "400 rows in windows of 2.0 days"


def test_the_fleet_is_shown_with_totals_and_those_that_spent_most_first(
    run: Run, fleet: Path, settings: KafkaSettings
) -> None:
    fire(settings, "prediction_drift", 3, "x")
    status, out, _ = run("budget")
    assert status == 0
    text = " ".join(out.split())
    assert "promises at most 2 false alarms expected per 30d of event time, all 2 deployments" in text
    assert "0.75 of it is handed out" in text
    rows = [line.split() for line in out.splitlines()]
    first = next(i for i, row in enumerate(rows) if row[:1] == ["delays"])
    assert rows[first][:6] == ["delays", "high", "0.5", "0.9", "30d", "1"]
    assert rows[first + 1][:6] == ["churn", "medium", "0.25", "0.475", "30d", "0"]
    assert ["together", "2", "0.75", "1.375", "1"] in rows


def test_a_fleet_that_handed_out_more_than_it_promises_is_called_out(
    run: Run, fleet: Path, settings: KafkaSettings
) -> None:
    spec = get_deployment(settings, "churn").spec
    greedy = dataclasses.replace(spec, false_alarms=dataclasses.replace(spec.false_alarms, share=0.9))
    publish(settings, settings.topics.deployments, b"churn", encode("DeploymentSpec", greedy.to_record()))
    status, out, err = run("budget", "--json")
    assert status == 1 and not json.loads(out)["fleet"]["kept"]
    assert "the fleet has handed out 1.4 of its promise, more than all of it" in err
    assert run("budget", "delays")[0] == 1
    assert run("deployment", "apply", fleet / "delays.yaml")[0] == 0
    assert run("budget")[0] == 0


def test_a_deployment_is_retired_with_a_reason_and_leaves_the_budget(run: Run, fleet: Path) -> None:
    assert run("deployment", "retire", "churn")[0] == 2, "a reason is asked for"
    status, out, _ = run("deployment", "retire", "churn", "--reason", "gone")
    assert status == 0 and "churn: retired" in out
    assert [d["deployment"] for d in json.loads(run("budget", "--json")[1])["deployments"]] == ["delays"]
    status, _, err = run("budget", "churn")
    assert status == 1 and "there is no deployment 'churn'" in err


def test_without_deployments_the_command_that_makes_one_is_named(run: Run) -> None:
    status, out, _ = run("budget")
    assert status == 0 and "driftline deployment apply" in out


def test_a_deployment_without_a_baseline_has_thresholds_and_no_delays(run: Run, fleet: Path) -> None:
    status, out, _ = run("budget", "churn")
    assert status == 0 and "there is none: driftline baseline build" in out and "nats" in out


OUTCOMES = """
deployment: late
model: m
task: binary_classification
positive_class: late
features: {x: numeric}
false_alarms: {count: 2, per: 30d, scope: deployment}
outcomes: {horizon: 2d}
"""


def with_outcomes(settings: KafkaSettings) -> Baseline:
    """A baseline of 4,000 rows in ten days, of which 3,000 had an outcome; a fifth were predicted wrongly."""
    rng, rows = np.random.default_rng(5), 4000
    columns = PredictionColumns(
        "late",
        "1",
        [str(i) for i in range(rows)],
        MARCH_US + np.arange(rows, dtype=np.int64) * (DAY_US // 400),
        {"x": rng.normal(size=rows)},
        prediction=rng.random(rows),
    )
    spec = dataclasses.replace(get_deployment(settings, "late").spec, outcomes=None)
    plain = build_baseline(spec, "1", [columns], source="test")
    losses = fit_numeric(np.linspace(0.0, 1.0, 3000))
    ranks = count_codes(bin_numeric(losses, np.linspace(0.0, 1.0, 3000)), NUMERIC)
    labels = np.bincount([0, 1], [2400, 1600], CATEGORICAL.size).astype(np.int64)
    even = [np.ones(tilts_of(layout).size, np.float32) for layout in (NUMERIC, CATEGORICAL)]
    streams = (
        *plain.streams,
        BaselineStream("loss", "outcome", NUMERIC, losses, ranks, 0.02, even[0]),
        BaselineStream("labels:1", "labels", CATEGORICAL, CategoricalBins(("known", "open")), labels, 0.02, even[1]),
    )
    none, confusion = np.zeros(0), np.array([[2000, 100, 500, 400]])
    outcomes = OutcomeReference(
        172_800_000, 4000, 3000, np.zeros(0, np.int64), DAY_US, ("on_time", "late"), none, none, none, {},
        {"confusion": confusion}, {}
    )  # fmt: skip
    derived = (*plain.derived, Derived("labels", "labels", (), {"ages_us": np.array([7.2e9])}))
    found = dataclasses.replace(plain, streams=streams, derived=derived, outcomes=outcomes, digest="")
    return dataclasses.replace(found, digest=found.content_digest())


def test_what_changes_among_outcomes_cost_is_shown_at_the_deployments_own_rate_of_outcomes(
    run: Run, settings: KafkaSettings, tmp_path: Path
) -> None:
    (tmp_path / "late.yaml").write_text(OUTCOMES)
    assert run("deployment", "apply", tmp_path / "late.yaml")[0] == 0
    assert "depends on the baseline, and there is none" in run("budget", "late")[1]
    assert publish_baseline(settings, with_outcomes(settings), actor="ada")
    (late,) = json.loads(run("budget", "late", "--json")[1])["deployments"]
    drift, labels = monitor_of(late, "concept_drift"), monitor_of(late, "labels")
    assert drift["part"] == pytest.approx(0.5 * 0.6) and labels["part"] == pytest.approx(0.5 * 0.1)
    assert [change["change"] for change in drift["changes"]] == [f"accuracy falls by {n} points" for n in (2, 5, 10)]
    assert late["outcomes_per_day"] == pytest.approx(300, rel=0.01)
    assert late["outcomes_per_day_from"] == "75 % of the predictions get one, as in the reference"
    assert drift["changes"][0]["events"] is None, "2 points are within the margin of 0.02"
    ten, stopped = drift["changes"][-1], labels["changes"][-1]
    assert ten["days"] == pytest.approx(ten["events"] / late["outcomes_per_day"])
    assert stopped["days"] == pytest.approx(2 / 24 + stopped["events"] / late["rows_per_day"])
    text = " ".join(run("budget", "late")[1].split())
    assert "fairness no groups" in text and "Expected delay until the alarm when outcomes change, version 1" in text
    assert "accuracy falls by 10 points loss" in text and "no outcomes come labels:1" in text
    assert "in the margin" in text and " outcomes · " in text and " predictions · " in text
    window = {
        "id": "w", "deployment_id": "late", "model_version": "1", "role": "champion", "partition": 0,
        "window_start_us": MARCH_US, "window_end_us": MARCH_US + DAY_US, "status": "final", "revision": 1,
        "clock_us": MARCH_US + 4 * DAY_US, "horizon_ms": 172_800_000, "task": "binary_classification",
        "classes": ["on_time", "late"], "score_edges": [], "age_edges_us": [], "baseline_digest": "x",
        "corrections": 0, "superseded": 0,
        "parts": [{"segment": "", "counts": {"predictions": [900], "resolved": [600]}, "sums": {}},
                  {"segment": "a=b", "counts": {"predictions": [300], "resolved": [200]}, "sums": {}}],
    }  # fmt: skip
    publish(settings, settings.topics.windows, b"late", encode("PerformanceWindow", window))
    fire(settings, "concept_drift", 4, "now", deployment="late")
    (late,) = json.loads(run("budget", "late", "--json")[1])["deployments"]
    assert (late["outcomes_per_day"], late["outcomes_per_day_from"]) == (600, "600 in final windows of 1.0 days")
    assert monitor_of(late, "concept_drift")["alarms"] == 1


def test_a_deployment_without_outcomes_says_so_beside_its_monitors(run: Run, fleet: Path) -> None:
    text = " ".join(run("budget", "delays")[1].split())
    assert all(f"{monitor} no outcomes" in text for monitor in ("concept_drift", "labels", "fairness"))
    assert "service off" in text and "when outcomes change" not in text
