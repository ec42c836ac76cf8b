"""``driftline backtest`` as a user types it, on a deployment with a past."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.deployments.baselines import publish_baseline
from services.deployments.checking import load_specification
from services.deployments.store import apply
from services.event_time import rfc3339
from services.positions import stream_positions
from services.publish.files import open_file
from services.publish.reading import read_outcomes, read_reference
from services.topics import ensure_topics
from streams.reference import build_baseline

T0 = (int(time.time()) // 3600 - 96) * 3600
ROWS, SHIFTED_FROM = 16_000, 10_000

HOURS_LATE = 3
"""So long all outcomes take."""

SPEC = """
deployment: delays
model: delay-model
task: regression
features: {temp: numeric, wind: numeric}
columns: {prediction_id: id, timestamp: when, timestamp_format: epoch_s}
margin: 0.1
start_slot: 10m
outcomes: {horizon: 4h, window: 6h, lateness: 30m}
false_alarms: {count: 1, per: 7d, scope: fleet}
"""


def csv(path: Path, rows: int, *, shifted_from: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    temp, wind = rng.normal(20, 5, rows), rng.normal(5, 2, rows)
    temp[shifted_from:] += 1.75
    predicted = rng.random(rows)
    actual = predicted + rng.normal(0, 0.1, rows)
    known = T0 + 10 * np.arange(rows) + 3600 * HOURS_LATE - rng.integers(0, 3600, rows)
    lines = [
        f"p{i},{T0 + 10 * i},{temp[i]:.3f},{wind[i]:.3f},{predicted[i]:.3f},{known[i]},{actual[i]:.4f}"
        for i in range(rows)
    ]
    path.write_text("\n".join(["id,when,temp,wind,prediction,actual_timestamp,actual_value", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def past(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaSettings, Path]]:
    """Applied, learnt, published and counted by a real worker."""
    folder = tmp_path_factory.mktemp("backtest")
    settings = KafkaSettings(kafka.bootstrap_servers, Topics(f"backtest-cli-{time.time_ns()}."))
    ensure_topics(settings, partitions=1)
    environment = {
        **os.environ,
        "DRIFTLINE_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "DRIFTLINE_TOPIC_PREFIX": settings.topics.prefix,
        "DRIFTLINE_APPLICATION_ID": settings.topics.prefix.strip("."),
    }
    (folder / "delays.yaml").write_text(SPEC)
    csv(folder / "reference.csv", 8000, shifted_from=8000, seed=1)
    csv(folder / "live.csv", ROWS, shifted_from=SHIFTED_FROM, seed=2)
    command = [sys.executable, "-m", "services.cli.main"]
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [*command, "worker", "--data-dir", str(folder / "worker")], env=environment, stdout=log, stderr=log
        )
    try:
        spec = load_specification(folder / "delays.yaml").to_spec()
        apply(settings, [spec], actor="ada")
        opened = open_file(folder / "reference.csv", None)
        columns, known = read_reference(opened, spec, "3"), list(read_outcomes(opened, spec))
        publish_baseline(settings, build_baseline(spec, "3", columns, source="test", outcomes=known), actor="ada")
        for what in (["predictions", "--version", "3"], ["outcomes"]):
            publish = [*command, "publish", what[0], "delays", folder / "live.csv", "--batch-rows", "50", *what[1:]]
            done = subprocess.run(publish, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + 60
        while any(position.lag > 0 for position in stream_positions(settings)):
            assert worker.poll() is None and time.monotonic() < deadline, (folder / "worker.log").read_text()[-2000:]
            time.sleep(0.1)
        yield settings, folder
    finally:
        worker.kill()
        worker.wait(10)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def settings(past: tuple[KafkaSettings, Path], monkeypatch: pytest.MonkeyPatch) -> KafkaSettings:
    """The installation with the past; commands run in the folder of its files."""
    settings, folder = past
    monkeypatch.setenv("DRIFTLINE_BOOTSTRAP_SERVERS", settings.bootstrap_servers)
    monkeypatch.setenv("DRIFTLINE_TOPIC_PREFIX", settings.topics.prefix)
    monkeypatch.chdir(folder)
    return settings


@pytest.fixture
def run(run: Run) -> Run:
    """Runs ``driftline backtest``."""
    return partial(run, "backtest")


def document(run: Run, *arguments: object) -> dict[str, Any]:
    status, out, err = run("delays", *arguments, "--json")
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_settings_in_force_find_what_was_found(run: Run) -> None:
    status, out, err = run("delays")
    assert (status, err) == (0, "")
    assert re.search(r"With the settings in force 1 alarm .*: 1 same\.", out)
    assert "data_drift" in out and "temp" in out and "nothing was written" in out
    found = document(run)
    assert (found["rows"], found["changes"], found["notes"]) == (ROWS, [], [])
    assert found["alarms"] and all(pair["verdict"] == "same" for pair in found["alarms"])
    assert all(pair["would_be"] == pair["was"] for pair in found["alarms"])
    assert found["first_event_us"] == T0 * 1_000_000
    assert {t["monitor"] for t in found["thresholds"]} >= {"data_drift", "prediction_drift"}


def test_accuracy_stands_beside_the_alarms_and_alarms_are_counted_by_monitor(run: Run) -> None:
    status, out, err = run("delays", "--metric", "mae", "--metric", "bias")
    assert (status, err) == (0, "")
    assert "alarms of" in out and "concept_drift" in out and "labels" in out
    assert "mae" in out and "bias" in out and "same age" in out and "0.080" in out
    assert "are open, outcomes of them may still come" in out
    found = document(run)
    counts = {each["monitor"]: each for each in found["monitors"]}
    assert counts["data_drift"]["would_be"] == counts["data_drift"]["was"] == counts["data_drift"]["same"] > 0
    assert counts["concept_drift"]["would_be"] == 0
    windows = found["accuracy"]
    assert sum(window["would_be"]["predictions"] for window in windows) == ROWS
    assert sum(window["would_be"]["resolved"] for window in windows) == ROWS
    assert {window["status"] for window in windows} == {"final", "provisional"}
    assert found["open_windows"] == sum(window["status"] == "provisional" for window in windows)
    for window in windows:
        error = window["would_be"]["metrics"]["mae"]
        assert error["value"] == pytest.approx(0.08, abs=0.02) and error["low"] < error["value"] < error["high"]
        if window["status"] == "final":
            assert window["was"]["metrics"]["mae"]["value"] == error["value"]
    (whole,) = document(run, "--by", "month", "--metric", "coverage", "--from", "2020-01-01")["accuracy"][-1:]
    assert list(whole["would_be"]["metrics"]) == ["coverage"]


def test_files_give_what_their_publication_gave(run: Run, past: tuple[KafkaSettings, Path]) -> None:
    topics = document(run)
    found = document(run, "--predictions", "live.csv", "--version", "3")
    assert (found["source"], topics["source"], found["rows"]) == ("files", "topics", ROWS)
    assert [pair["was"] for pair in found["alarms"] if pair["was"]] == [pair["was"] for pair in topics["alarms"]]
    assert {pair["would_be"]["id"] for pair in found["alarms"] if pair["would_be"]} >= {
        pair["was"]["id"] for pair in topics["alarms"]
    }
    errors, same = (
        {each["start_us"]: each["would_be"]["metrics"]["mae"]["value"] for each in one["accuracy"]}
        for one in (found, topics)
    )
    assert errors == same
    assert found["open_windows"] <= topics["open_windows"]
    status, _, err = run("delays", "--predictions", "live.csv")
    assert status == 2 and "does not say which model version answered" in err
    status, _, err = run("delays", "--outcomes", "live.csv")
    assert status == 2 and "--predictions FILE" in err
    status, _, err = run("delays", "--predictions", "no.csv", "--version", "3")
    assert status != 0 and "no.csv" in err


def test_what_would_change_stands_beside_what_was(run: Run) -> None:
    status, out, _ = run("delays", "--set", "margin=0.01", "--set", "false_alarms.count=5")
    assert status == 0
    assert "margin: 0.1 → 0.01" in out and "false_alarms.count: 1" in out
    assert " earlier" in out and "With these settings" in out
    assert "at most 5 false alarms expected per 7 days for the whole fleet" in out
    found = document(run, "--set", "margin=0.01", "--set", "false_alarms.count=5")
    earlier = [pair for pair in found["alarms"] if pair["verdict"] == "earlier"]
    assert earlier and all(pair["later_by_us"] < 0 for pair in earlier)
    assert all(pair["would_be"]["detection_time_us"] < pair["was"]["detection_time_us"] for pair in earlier)
    gone = document(run, "--set", "margin=0.45")
    assert {pair["verdict"] for pair in gone["alarms"]} == {"gone"}
    assert "0 alarms would have been raised" in gone["summary"]


def test_a_range_says_what_it_leaves_out(run: Run) -> None:
    middle = rfc3339((T0 + 50_000) * 1_000_000)
    status, _, err = run("delays", "--from", middle)
    assert status == 0 and "start empty" in err and "--from" in err
    status, _, err = run("delays", "--to", "2001-01-01")
    assert status == 1 and "the topic has events from" in err
    assert run("delays", "--from", "yesterday")[0] == 2


def test_another_specification_from_a_file(run: Run, past: tuple[KafkaSettings, Path]) -> None:
    (past[1] / "slower.yaml").write_text(SPEC.replace("start_slot: 10m", "start_slot: 1h"))
    assert [c["field"] for c in document(run, "--spec", "slower.yaml")["changes"]] == ["start_slot"]
    (past[1] / "other.yaml").write_text(SPEC.replace("deployment: delays", "deployment: others"))
    status, _, err = run("delays", "--spec", "other.yaml")
    assert status == 2 and "expected delays, came others" in err


def test_another_baseline_by_file_version_or_digest(run: Run, past: tuple[KafkaSettings, Path]) -> None:
    csv(past[1] / "warm.csv", 8000, shifted_from=0, seed=4)
    warm = document(run, "--baseline", "warm.csv")
    first = min(pair["would_be"]["change_time_us"] for pair in warm["alarms"] if pair["would_be"])
    assert first < (T0 + 10 * SHIFTED_FROM) * 1_000_000, "what was normal is now a drift"
    own = document(run, "--baseline", "3")
    assert {pair["verdict"] for pair in own["alarms"]} == {"same"}
    again = document(run, "--baseline", own["baseline_digest"][:10])
    assert again["alarms"] == own["alarms"]
    status, _, err = run("delays", "--baseline", "no-such-thing")
    assert status == 2 and "(3)" in err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["delays", "--set", "margni=0.1"], 2, "did you mean 'margin'"),
        (["delays", "--set", "margin"], 2, "expected PATH=VALUE"),
        (["delays", "--set", "features.tmp.importance=2"], 2, "did you mean 'temp'"),
        (["delay"], 1, "did you mean 'delays'"),
        (["delays", "--set", "outcomes.margin_tv=0.1"], 2, "did you mean 'margin'"),
        (["delays", "--set", "outcomes.threshold=0.1"], 2, "outcomes.threshold: it is for binary_classification"),
        (["delays", "--set", "outcomes.horizon=300d", "--set", "outcomes.window=1d"], 1, "horizon 300d + "),
        (["delays", "--metric", "acuracy"], 2, "there are mae, rmse"),
        (["delays", "--by", "year"], 2, "expected window, day, week, month"),
        (["delays", "--baseline-outcomes", "live.csv"], 2, "has no meaning without"),
    ],
    ids=[
        "field",
        "form",
        "feature",
        "deployment",
        "outcomes",
        "task",
        "retention",
        "metric",
        "period",
        "baseline",
    ],
)
def test_what_cannot_be_tried_is_refused_with_what_to_do(
    run: Run, arguments: list[str], status: int, message: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (status, "") and message in err
