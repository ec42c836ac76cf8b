"""``driftline baseline`` as a user types it, against a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from driftline.settings import KafkaSettings
from services.topics import ensure_topics

SPEC = """
deployment: delays
model: m
task: other
features: {temp: numeric, carrier: categorical}
columns: {prediction_id: id, timestamp: when}
"""

Run = Callable[..., tuple[int, str, str]]


def csv(path: Path, rows: int, *, shift: float = 0.0, carriers: str = "AU", seed: int = 7) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["id,when,temp,carrier,prediction"]
    for i in range(rows):
        when = f"2024-03-{1 + i * 20 // rows:02d}T{i % 24:02d}:00:00Z"
        lines.append(f"{path.stem}{i},{when},{rng.normal(shift):.4f},{carriers[i % len(carriers)]},{rng.random():.3f}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def deployed(settings: KafkaSettings, run: Run, tmp_path: Path) -> Path:
    ensure_topics(settings, partitions=2)
    (tmp_path / "delays.yaml").write_text(SPEC)
    assert run("deployment", "apply", tmp_path / "delays.yaml")[0] == 0
    return tmp_path


def test_a_baseline_from_the_topic_is_that_of_the_file(run: Run, deployed: Path) -> None:
    file = csv(deployed / "march.csv", 1500)
    for _ in range(2):
        assert run("publish", "predictions", "delays", file, "--version", "3")[0] == 0
    status, out, _ = run(
        "baseline", "build", "delays", "--from-topic", "--version", "3", "--to", "2024-03-11", "--json"
    )
    built = json.loads(out)
    assert (status, built["result"], built["rows"]) == (0, "built", 750)
    assert (built["read"], built["duplicates"], built["outside"]) == (3000, 750, 1500)
    assert built["source"].startswith("topic ") and "to 2024-03-11T00:00:00Z (750 rows)" in built["source"]
    options = ("--version", "3", "--to", "2024-03-11", "--dry-run", "--json")
    from_file = json.loads(run("baseline", "build", "delays", file, *options)[1])
    assert from_file["result"] == "dry run"
    assert from_file["streams"] == built["streams"]
    status, out, err = run("baseline", "build", "delays", "--from-topic", "--version", "3", "--limit", 400, "--dry-run")
    assert status == 0 and "400 rows" in out
    assert "more than 400 rows: the reference is the first of them, by event time" in err and "repeated rows" in err


def test_a_range_without_rows_says_what_there_is(run: Run, deployed: Path) -> None:
    status, _, err = run("baseline", "build", "delays", "--from-topic", "--version", "3")
    assert status == 2 and "publish predictions first" in err
    run("publish", "predictions", "delays", csv(deployed / "march.csv", 300), "--version", "3")
    status, _, err = run("baseline", "build", "delays", "--from-topic", "--version", "4")
    assert status == 2
    assert "version '3': 300 rows from 2024-03-01T00:00:00Z to 2024-03-20T" in err


@pytest.mark.parametrize("arguments", [["--from-topic", "f.csv"], []], ids=["both", "neither"])
def test_either_a_file_or_the_topic(run: Run, deployed: Path, arguments: list[str]) -> None:
    status, _, err = run("baseline", "build", "delays", *arguments, "--version", "3")
    assert status == 2 and "--from-topic" in err


def test_what_was_built_is_shown_with_margins_and_arming_and_as_a_page(run: Run, deployed: Path) -> None:
    file, page = csv(deployed / "march.csv", 2000), deployed / "page.html"
    status, out, _ = run("baseline", "build", "delays", file, "--version", "3", "--report", page)
    assert status == 0
    for expected in ("delays@3 built: 2,000 rows", "reference size", "variance x", "quality: ", "--all"):
        assert expected in out
    assert "data drift: replayed 8,192 starts: " in out and "bound 80: holds" in out
    assert "Baseline of delays@3" in page.read_text()
    status, shown, _ = run("baseline", "show", "delays")
    assert status == 0 and "in force since" in shown and "data drift: replayed 8,192 starts" in shown
    assert "quality:temp" not in shown and "quality:temp" in run("baseline", "show", "delays", "--all")[1]
    status, _, err = run("baseline", "show", "delays", "--report", deployed / "missing" / "page.html")
    assert status == 1 and "cannot be written" in err


def test_every_baseline_is_listed_with_who_built_it(run: Run, deployed: Path) -> None:
    assert "no baseline yet" in run("baseline", "list", "delays")[1]
    first, second = csv(deployed / "first.csv", 500), csv(deployed / "second.csv", 600, seed=8)
    run("baseline", "build", "delays", first, "--version", "3", "--reason", "to begin with")
    run("baseline", "build", "delays", second, "--version", "3")
    run("baseline", "build", "delays", second, "--version", "4")
    run("baseline", "build", "delays", first, "--version", "3", "--reason", "back")
    found = json.loads(run("baseline", "list", "delays", "--json")[1])
    assert [(item["model_version"], item["rows"], item["state"]) for item in found] == [
        ("3", 500, "replaced"),
        ("3", 600, "replaced"),
        ("4", 600, "in force"),
        ("3", 500, "in force"),
    ]
    assert {item["actor"] for item in found} == {"ada"} and found[0]["reason"] == "to begin with"
    assert found[0]["digest"] == found[3]["digest"] != found[1]["digest"]
    table = run("baseline", "list", "delays")[1]
    assert found[1]["digest"][:12] in table and "to begin with" in table
    replaced = json.loads(run("baseline", "show", f"delays@{found[1]['digest'][:10]}", "--json")[1])
    assert replaced["digest"] == found[1]["digest"]
    status, _, err = run("baseline", "show", "delays@0123456789")
    assert status == 1 and "there is no baseline for 'delays@0123456789'" in err


def test_two_baselines_are_compared(run: Run, deployed: Path) -> None:
    old, new = csv(deployed / "old.csv", 3000), csv(deployed / "new.csv", 3000, shift=1.0, carriers="AX", seed=8)
    run("baseline", "build", "delays", old, "--version", "3")
    run("baseline", "build", "delays", new, "--version", "4")
    status, out, _ = run("baseline", "diff", "delays@3", "delays@4", "--json")
    found = {item["stream"]: item for item in json.loads(out)["streams"]}
    assert status == 0
    assert (found["carrier"]["new_categories"], found["carrier"]["lost_categories"]) == (["X"], ["U"])
    assert found["carrier"]["comparison"] == "exact"
    assert found["carrier"]["total_variation"] == pytest.approx(0.5)
    assert found["temp"]["comparison"] == "coarse"
    assert 0.3 < found["temp"]["total_variation"] < 0.45 and found["temp"]["tv_low"] > 0.1
    assert found["prediction"]["tv_low"] == 0
    status, text, _ = run("baseline", "diff", "delays@3", "delays@4")
    assert status == 0 and "carrier: new X" in text and "carrier: lost U" in text and "coarse" in text
    with_file = json.loads(run("baseline", "diff", "delays@3", new, "--json")[1])
    assert with_file["second"]["version"] == "3" and "new.csv" in with_file["second"]["source"]
    assert {s["stream"]: s["psi"] for s in with_file["streams"]} == {name: item["psi"] for name, item in found.items()}
    same = json.loads(run("baseline", "diff", "delays@3", "delays@3", "--json")[1])
    assert {item["total_variation"] for item in same["streams"]} == {0.0}
    status, _, err = run("baseline", "diff", "delays@3", "delays@9")
    assert status == 1 and "there is no baseline for 'delays@9'" in err


def with_outcomes(path: Path, rows: int, wrong: float, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["id,when,temp,carrier,prediction,actual_label,actual_timestamp"]
    for i in range(rows):
        at = f"2024-03-{1 + i * 20 // rows:02d}T"
        score = rng.random()
        actual = (score >= 0.5) != (rng.random() < wrong)
        known = f"{at}{12 + rng.integers(0, 11):02d}:00:00Z"
        label = "yes" if actual else "no"
        lines.append(f"{path.stem}{i},{at}{i % 12:02d}:00:00Z,{rng.normal():.4f},A,{score:.3f},{label},{known}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_outcomes_of_two_baselines_show_is_compared(run: Run, settings: KafkaSettings, tmp_path: Path) -> None:
    ensure_topics(settings, partitions=2)
    spec = SPEC.replace("task: other", "task: binary_classification\npositive_class: yes")
    (tmp_path / "delays.yaml").write_text(
        spec.replace("positive_class: yes", "positive_class: 'yes'") + "outcomes: {horizon: 1d}\n"
    )
    assert run("deployment", "apply", tmp_path / "delays.yaml")[0] == 0
    for version, wrong in (("3", 0.1), ("4", 0.3)):
        file = with_outcomes(tmp_path / f"v{version}.csv", 1200, wrong, int(version))
        status, _, err = run("baseline", "build", "delays", file, "--version", version)
        assert status == 0, err
    status, out, _ = run("baseline", "diff", "delays@3", "delays@4", "--json")
    found = {item["name"]: item for item in json.loads(out)["outcomes"]}
    assert status == 0 and found["accuracy"]["verdict"] == "changed"
    assert found["accuracy"]["low"] < -0.2 < found["accuracy"]["high"]
    assert found["coverage"]["change"] == 0 and found["horizon"]["first"] == "1 d"
    status, text, _ = run("baseline", "diff", "delays@3", "delays@4")
    assert status == 0 and "accuracy" in text and "changed" in text and "median age" in text
    status, text, _ = run("baseline", "diff", "delays@3", tmp_path / "v4.csv")
    assert status == 0 and "changed" in text
