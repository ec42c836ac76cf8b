"""``driftline windows show --metric``: as a user types it, against a real broker."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftline.codec import encode
from driftline.settings import KafkaSettings
from driftline.topics import baseline_key
from services.cli import output
from services.cli.performance import complete_metric, complete_role
from services.kafka import publish
from services.topics import ensure_topics
from streams.baseline import Baseline, BaselineStream
from streams.statistics.layouts import CATEGORICAL, CategoricalBins
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout
from streams.statistics.tilts import tilts_of

Run = Callable[..., tuple[int, str, str]]
Make = Callable[..., Any]

HOUR_US = 3_600_000_000
MARCH_US = 1_709_251_200_000_000
APRIL_US = 1_711_929_600_000_000
LAYOUT = PerformanceLayout(BINARY, ("on_time", "late"), age_edges_us=np.array([HOUR_US, 5 * HOUR_US]))
SPEC = """
deployment: delays
model: delay-classifier
task: binary_classification
positive_class: late
features: {temp: numeric, carrier: categorical}
segments: {by_carrier: carrier}
"""
OUTCOMES = "outcomes: {horizon: 2d, lateness: 0s, fairness: [by_carrier]}\n"


def flat(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


@pytest.fixture
def apply(settings: KafkaSettings, run: Run, tmp_path: Path) -> Callable[[str], None]:
    ensure_topics(settings, partitions=2)

    def apply(text: str) -> None:
        (tmp_path / "delays.yaml").write_text(text)
        status, _, err = run("deployment", "apply", tmp_path / "delays.yaml")
        assert status == 0, err

    return apply


@pytest.fixture
def send(settings: KafkaSettings) -> Callable[[dict[str, Any]], None]:
    def send(record: dict[str, Any]) -> None:
        publish(settings, settings.topics.windows, b"delays", encode("PerformanceWindow", record))

    return send


def world(seed: int, rows: int = 900, *, turned: bool = False) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.6, 0.6, rows)
    actual = rng.random(rows) < (1 - scores if turned else scores)
    return scores, actual, np.where(actual, rng.integers(0, 10, rows), rng.integers(0, 4, rows)) * HOUR_US


def put_baseline(settings: KafkaSettings, make_reference: Make) -> str:
    scores, actual, ages = world(1, 4000)
    reference = make_reference(
        LAYOUT, scores, actual, ages_us=ages, calibration=(np.arange(LAYOUT.bins) + 0.5) / LAYOUT.bins
    )
    stream = BaselineStream(
        name="carrier", role="feature", layout=CATEGORICAL, bins=CategoricalBins(("UA",), ()), margin_tv=0.05,
        counts=np.eye(1, CATEGORICAL.size, dtype=np.int64)[0] * 4000,
        tempering=np.ones(tilts_of(CATEGORICAL).size, np.float32),
    )  # fmt: skip
    found = Baseline("delays", "1", 4000, (stream,), last_event_us=MARCH_US, outcomes=reference)
    found = dataclasses.replace(found, digest=found.content_digest())
    publish(settings, settings.topics.baselines, baseline_key("delays", "1"), encode("Baseline", found.to_record()))
    return found.digest


@pytest.fixture
def filled(settings: KafkaSettings, apply: Any, send: Any, make_record: Make, make_reference: Make) -> None:
    """March as the reference, April turned round and found by the outcomes, May young."""
    apply(SPEC + OUTCOMES)
    digest = put_baseline(settings, make_reference)
    carriers = {"by_carrier=UA": np.arange(900) % 2 == 0, "by_carrier=AA": np.arange(900) % 2 == 1}
    for n, (start_us, turned) in enumerate(((MARCH_US, False), (APRIL_US, True))):
        for partition in (0, 1):
            scores, actual, ages = world(20 + 2 * n + partition, turned=turned)
            scores = np.where(carriers["by_carrier=AA"], scores**4, scores)
            send(
                make_record(
                    LAYOUT, scores, actual, ages_us=ages, start_us=start_us, partition=partition, parts=carriers,
                    baseline_digest=digest, acted=n,
                )
            )  # fmt: skip
    scores, actual, ages = world(30)
    start_us = APRIL_US + 31 * 24 * HOUR_US
    send(
        make_record(
            LAYOUT, scores, actual, ages_us=ages, resolved=ages <= HOUR_US, start_us=start_us, role="challenger",
            clock_us=start_us + 2 * HOUR_US, status="provisional", baseline_digest=digest, model_version="2",
        )
    )  # fmt: skip
    alert: dict[str, Any] = {
        "id": "a", "incident_key": "i", "deployment_id": "delays", "model_id": "m", "model_version": "1",
        "monitor": "concept_drift", "severity": "critical", "status": "firing", "episode": 1,
        "change_time_us": APRIL_US, "detection_time_us": APRIL_US + HOUR_US, "trigger_time_ms": 0,
        "log_evidence_nats": 9.0, "threshold_nats": 8.0, "rows_since_change": 5, "causes": [], "evidence_offsets": [],
        "baseline_digest": digest, "spec_revision": 1, "diagnosis": "relation",
    }  # fmt: skip
    publish(settings, settings.topics.alerts, b"delays", encode("Alert", alert))


def test_accuracy_stands_beside_its_coverage_and_the_reference_at_the_same_age(run: Run, filled: None) -> None:
    status, out, err = run("windows", "show", "delays", "--metric", "accuracy", "--by", "month")
    assert status == 0, err
    march, april, may = (next(line for line in out.splitlines() if f"2024-0{n} " in line) for n in (3, 4, 5))
    assert "1,800" in march and "100.0%" in march and "open" not in march and "†" not in march
    assert "worse" in april and "†2024-04" in april and "●" in april and "│" in april
    assert "challenger" in may and "open 900" in may and " 2 " in may
    text = flat(out)
    assert "open: 99 % of the outcomes are expected by 2024-05-02, final on 2024-05-04" in text
    assert "no fair sample" in text and "never raises an alarm" in text
    assert re.search(r"1,800 were acted on, and of \d+ nobody said so", text)
    assert "decisions influence their own labels" in text and "selective labels" in text and "§" not in text


def test_an_estimate_is_not_believed_where_outcomes_say_that_the_relation_changed(run: Run, filled: None) -> None:
    status, out, _ = run("windows", "show", "delays", "--metric", "accuracy", "--estimate", "--version", "1")
    lines = [line for line in out.splitlines() if "2024-0" in line and "0%" in line]
    assert status == 0 and "?" not in lines[0] and "?" in lines[1]
    text = flat(out)
    assert (
        "not to be believed: alarm for concept drift of version 1: the relation between inputs and outcome moved"
        in text
    )
    assert "about 2024-04-01, found on 2024-04-01, still open" in text and "cannot see that this has changed" in text
    assert "estimates of the one final window" in text and "estimates marked ? of the one final window" in text
    (march, april) = json.loads(run(
        "windows", "show", "delays", "--metric", "accuracy", "--model-version", "1", "--json"
    )[1])  # fmt: skip
    metric = april["parts"][0]["metrics"]["accuracy"]
    assert metric["estimate"]["value"] - metric["value"] > 0.3 and metric["outside"] == "below"
    assert metric["estimate_error"] == {
        "difference": metric["estimate"]["value"] - metric["value"], "inside": False
    }  # fmt: skip
    assert march["estimates_doubted"] is None and april["estimates_doubted"]["diagnosis"] == "relation"
    assert metric["reference_at_same_age"]["value"] == pytest.approx(0.8, abs=0.05)
    assert (april["windows"], april["status"], april["parts"][0]["acted"]["yes"]) == (1, "final", 1800)


def test_several_metrics_and_parts_have_a_line_each(run: Run, filled: None) -> None:
    status, out, _ = run(
        "windows", "show", "delays", "--metric", "accuracy", "--metric", "coverage", "--segment", "by_carrier",
        "--last", 2, "--role", "champion",
    )  # fmt: skip
    assert status == 0 and out.count("by_carrier=UA") == out.count("by_carrier=AA") == 2
    assert out.count(" accuracy ") == out.count(" coverage ") == 4
    assert "not kept by part" in out and "challenger" not in out
    status, out, _ = run("windows", "show", "delays", "--metric", "f1", "--segment", "by_carrier=UA", "--last", 1)
    assert status == 0 and "by_carrier=AA" not in out and "the last 1 of 2" in out
    found = json.loads(run("windows", "show", "delays", "--metric", "f1", "--segment", "by_carrier=UA", "--json")[1])
    assert [[part["part"] for part in window["parts"]] for window in found] == [["by_carrier=UA"]] * 2


def test_calibration_confusion_and_fairness_are_tables(run: Run, filled: None) -> None:
    words = ("windows", "show", "delays", "--to", "2024-03-15", "--metric")
    status, out, _ = run(*words, "calibration")
    assert status == 0 and "share late" in out and out.count("●") >= 5 and "Brier" in out and "reference" in out
    status, out, _ = run(*words, "confusion")
    assert status == 0 and "actual late" in out and "%)" in out
    status, out, _ = run(*words, "fairness")
    assert status == 0 and "positive predictive value" in out and "disparate impact, ratio" in out
    text = flat(out)
    assert (
        "disparate impact: smallest ratio" in text
        and "AA to UA" in text
        and "below four fifths" in text
        and "nor a finding of law" in text
    )
    status, out, _ = run(*words, "fairness", "--segment", "by_carrier", "--reference", "by_carrier=AA")
    assert status == 0 and "disparate impact, ratio UA 1." in flat(out)
    status, out, _ = run(*words, "fairness", "--metric", "calibration", "--metric", "confusion", "--json")
    (found,) = json.loads(out)
    assert found["fairness"][0]["segment"] == "by_carrier" and found["fairness"][0]["disparities"]
    assert any(one.get("four_fifths") == "below" for one in found["fairness"][0]["comparisons"])
    assert sum(map(sum, found["parts"][0]["confusion"]["predicted_by_actual"])) == 1800
    assert found["parts"][0]["calibration"]["brier"]["brier"] > 0


def test_measures_of_groups_have_lines_of_their_own(run: Run, filled: None) -> None:
    words = ("windows", "show", "delays", "--by", "month", "--version", "1")
    status, out, _ = run(*words, "--metric", "disparate_impact", "--metric", "selection_rate")
    text = flat(out)
    assert status == 0 and out.count("disparate impact, ratio") == 2 and "differs, below four fifths" in text
    assert "selection rate AA 900 0." in text and "29 CFR 1607.4 D" in text and "same age" not in text
    march, april = (line for line in out.splitlines() if "disparate" in line)
    assert march.startswith(" 2024-03") and " AA " in march and april.startswith(" †2024-04")
    status, out, _ = run(*words, "--metric", "equal_opportunity", "--reference", "by_carrier=AA")
    assert status == 0 and "equal opportunity, difference UA 0." in flat(out) and "1607" not in out
    assert "lowest" not in out
    found = json.loads(run(*words, "--metric", "equalised_odds", "--segment", "by_carrier=UA", "--json")[1])
    assert [one["measure"] for one in found[0]["fairness"][0]["disparities"]] == ["equalized_odds_difference"]
    assert found[0]["fairness"][0]["rates"] == {"by_carrier=AA": {}, "by_carrier=UA": {}}
    assert [part["part"] for part in found[0]["parts"]] == ["by_carrier=UA"]


def test_metrics_are_drawn_over_time(run: Run, filled: None) -> None:
    words = ("windows", "show", "delays", "--metric", "accuracy", "--by", "month", "--plot")
    status, out, _ = run(*words)
    plots = out.split("accuracy champion\n")[1]
    champion, rest = plots.split("accuracy challenger\n")
    assert status == 0 and champion.count("●") == 2 and rest.count("●") == 2  # one, and the legend's
    assert "?" in champion and "2024-03" in champion and "2024-04" in champion and "┃" in champion
    status, out, _ = run(*words, "--no-estimate", "--version", "1")
    assert status == 0 and "estimate " not in out.split("accuracy champion")[0] and "not to be believed:" not in out


def test_no_line_of_a_table_is_wider_than_the_terminal(run: Run, filled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (60, 80, 140, 200):
        monkeypatch.setattr(output.stdout, "width", width)
        status, out, _ = run(
            "windows", "show", "delays", "--metric", "accuracy", "--metric", "roc_auc", "--by", "month", "--plot"
        )
        table = out[: out.index("known: share")].splitlines()[2:-1]  # without the title and the legend
        assert status == 0 and max(map(len, table)) <= width
        text = " ".join(table)
        assert "accuracy" in text and "roc_auc" in text and "challenger" in text and "…" not in text
        assert ("▼" in text) != ("worse" in text)
        for name in ("rows", "value", "same age"):
            assert name in table[0]
        assert ("95 %" in table[0]) == (width >= 80)


def test_weights_and_unknown_decisions_are_said(run: Run, apply: Any, send: Any, make_record: Make) -> None:
    apply(SPEC + OUTCOMES)
    scores, actual, _ = world(3, 500)
    words = ("windows", "show", "delays", "--metric", "accuracy")
    send(make_record(LAYOUT, scores, actual, start_us=MARCH_US))
    status, out, _ = run(*words)
    assert status == 0 and "of 500 of 500 predictions with an outcome it is not known" in flat(out)
    assert "§" not in out and "†" not in out
    weights = np.where(np.arange(500) < 250, 1.0, 9.0)
    send(make_record(LAYOUT, scores, actual, start_us=MARCH_US, weights=weights, acted=0, revision=2))
    status, out, _ = run(*words)
    text = flat(out)
    assert "§2024-03" in out and "500 outcomes are worth 305 that weigh the same (effective sample size)" in text
    assert "not known whether" not in text
    (found,) = json.loads(run(*words, "--json")[1])
    assert found["parts"][0]["weighted_by_labelling_probability"]
    assert found["parts"][0]["effective_outcomes"] == pytest.approx(2500**2 / (250 + 250 * 81))


def test_an_estimator_whose_intervals_miss_is_said_to(
    run: Run, settings: KafkaSettings, apply: Any, send: Any, make_record: Make, make_reference: Make
) -> None:
    apply(SPEC + OUTCOMES)
    digest = put_baseline(settings, make_reference)
    for n in range(3):
        scores, actual, ages = world(60 + n, turned=n > 0)
        send(make_record(LAYOUT, scores, actual, ages_us=ages, start_us=MARCH_US + n * HOUR_US, baseline_digest=digest))
    status, out, _ = run("windows", "show", "delays", "--metric", "accuracy")
    assert status == 0 and "more than the intervals allow for: go by this error" in flat(out)
    assert "the truth lay inside the estimate's interval in 1" in flat(out) and "?" not in out
    marked = ["!" in line for line in out.splitlines() if line.lstrip().startswith("2024-03")]
    assert marked == [False, True, True] and "! disproved: what turned out" in flat(out)


def test_what_is_not_there_is_said_with_what_there_is(run: Run, filled: None) -> None:
    for words, expected in (
        (("--metric", "acuracy"), "did you mean accuracy"),
        (("--metric", "mae"), "there are accuracy, balanced_accuracy"),
        (("--metric", "accuracy", "--segment", "carrier"), "did you mean by_carrier"),
        (("--metric", "accuracy", "--segment", "by_carrier=DL"), "by_carrier=AA"),
        (("--metric", "fairness", "--reference", "by_carrier=DL"), "by_carrier=AA"),
        (("--metric", "accuracy", "--role", "winner"), "there are champion, challenger"),
        (("--metric", "accuracy", "--stream", "temp"), "has no meaning with --metric"),
        (("--estimate",), "has no meaning without --metric"),
        (("--metric", "accuracy", "--by", "year"), "expected window, day, week, month"),
    ):
        status, _, err = run("windows", "show", "delays", *words)
        assert status == 2 and expected in flat(err), (words, err)
    status, out, _ = run("windows", "show", "delays", "--metric", "accuracy", "--version", "9")
    assert status == 0 and "no accuracy windows with these --version" in out


def test_each_thing_that_is_missing_says_what_to_do(run: Run, apply: Any, send: Any, make_record: Make) -> None:
    words = ("windows", "show", "delays", "--metric", "accuracy")
    apply(SPEC)
    status, _, err = run(*words)
    assert status == 1 and "expects no outcomes" in err and "outcomes: {horizon: 30d}" in flat(err)
    apply(SPEC + OUTCOMES)
    status, out, _ = run(*words)
    assert status == 0 and "driftline publish outcomes DEPLOYMENT FILE" in flat(out)
    assert run(*words, "--json")[1].strip() == "[]"
    send(make_record(LAYOUT, [0.9, 0.2], [1, 0], start_us=MARCH_US))
    status, out, _ = run(*words, "--estimate")
    assert status == 0 and "build one from rows with their outcomes" in flat(out) and "estimate" not in out
    status, _, err = run("windows", "show", "delays", "--metric", "fairness")
    assert status == 2 and "declared in the specification" in flat(err)
    status, _, err = run(*words, "--segment", "by_carrier")
    assert status == 2 and "declare segments in the specification" in flat(err)


def test_hostile_names_are_harmless(run: Run, apply: Any, send: Any, make_record: Make) -> None:
    apply(SPEC + OUTCOMES)
    evil = "by_carrier=[bold red]\x1b[2J\u202e"
    layout = dataclasses.replace(LAYOUT, classes=("[blink]x\x1b[31m", "late"))
    rows = np.arange(100)
    parts = {evil: rows < 50, "by_carrier=AA": rows >= 50}
    send(make_record(layout, rows / 100, rows % 2, parts=parts, start_us=MARCH_US, model_version="[red]\x07"))
    for metric in ("accuracy", "calibration", "confusion", "fairness"):
        status, out, err = run("windows", "show", "delays", "--metric", metric, "--segment", "by_carrier")
        assert status == 0, err
        assert not {"\x1b", "\x07", "\u202e"} & set(out)
        assert metric in ("calibration", "confusion") or "[bold red]" in out
    status, _, err = run("windows", "show", "delays", "--metric", "accuracy", "--segment", "by_carrier=\x1b[2J")
    assert status == 2 and "\x1b[2J" not in err


@pytest.mark.parametrize("task", [MULTICLASS, REGRESSION])
def test_other_tasks_are_shown_too(run: Run, apply: Any, send: Any, make_record: Make, task: str) -> None:
    words = ["windows", "show", "delays", "--json"]
    text = SPEC.replace("task: binary_classification\npositive_class: late", f"task: {task}")
    rng = np.random.default_rng(1)
    side = {"by_carrier=AA": np.arange(400) < 200, "by_carrier=UA": np.arange(400) >= 200}
    names: tuple[str, ...]
    if task == MULTICLASS:
        apply(text + OUTCOMES.replace("{", "{classes: [a, b, c], "))
        layout = PerformanceLayout(task, ("a", "b", "c"))
        send(make_record(layout, rng.dirichlet(np.ones(3), 400), rng.integers(0, 3, 400), parts=side))
        names = ("accuracy", "f1_macro", "roc_auc_macro", "calibration", "confusion", "fairness")
    else:
        apply(text + OUTCOMES)
        values = rng.normal(1500, 10, 400)
        send(make_record(PerformanceLayout(task), values, values + rng.normal(size=400), parts=side))
        names = ("mae", "bias", "interval_coverage", "fairness")
    asked = [word for name in names for word in ("--metric", name)]
    status, out, err = run(*words, *asked)
    assert status == 0, err
    (found,) = json.loads(out)
    numbers = set(names) - {"calibration", "confusion", "fairness"}
    assert {name for name, metric in found["parts"][0]["metrics"].items() if metric["value"] is not None} == numbers
    status, out, err = run(*words[:-1], *asked)
    assert status == 0 and "difference" in out and "95 %" in out, err


def test_names_complete() -> None:
    assert complete_metric("accuracy") == ["accuracy", "accuracy_difference"] and "roc_auc_macro" in complete_metric(
        "roc"
    )
    assert {"mae", "fairness", "coverage", "equalised_odds", "selection_rate"} <= set(
        complete_metric("")
    ) and complete_role("ch") == [
        "champion",
        "challenger",
    ]
