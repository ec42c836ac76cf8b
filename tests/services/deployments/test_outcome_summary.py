"""What a baseline knows of outcomes: summed up, as JSON, on a terminal and on its page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from sklearn.metrics import accuracy_score, mean_absolute_error

from services.cli import output
from services.cli.baseline_tables import show_outcomes
from services.deployments.outcome_summary import outcome_lines, outcomes_document, summarise_outcomes
from services.deployments.report import render_report
from streams.baseline import Baseline, OutcomeReference
from streams.statistics.performance.pairs import BINARY, MULTICLASS, REGRESSION, PerformanceLayout

Make = Callable[..., Any]

HOUR_US = 3_600_000_000
EDGES = np.array([HOUR_US, 5 * HOUR_US])
LAYOUT = PerformanceLayout(BINARY, ("on_time", "late"), age_edges_us=EDGES)
HOSTILE = "</script><img src=x onerror=alert(1)>[red]\x1b[31m"


def world(seed: int = 1, rows: int = 600) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    scores = rng.random(rows)
    actual = rng.random(rows) < scores
    return scores, actual, np.where(actual, rng.integers(0, 20, rows), rng.integers(0, 4, rows)) * HOUR_US


def baseline_of(reference: OutcomeReference | None, rows: int = 600) -> Baseline:
    return Baseline("delays", "1", rows, (), outcomes=reference)


def test_metrics_at_each_age_are_those_of_what_was_known_by_then(make_reference: Make) -> None:
    scores, actual, ages = world()
    found = summarise_outcomes(baseline_of(make_reference(LAYOUT, scores, actual, ages_us=ages)))
    assert found is not None
    assert [each.age_us for each in found.by_age] == [*EDGES.tolist(), 48 * HOUR_US]
    for each in found.by_age:
        known = ages <= each.age_us
        assert each.pairs == known.sum() and each.known == pytest.approx(known.mean())
        assert each.metrics["accuracy"].value == pytest.approx(accuracy_score(actual[known], scores[known] >= 0.5))
        assert each.metrics["prevalence"].value == pytest.approx(actual[known].mean())
    assert found.metrics["accuracy"].value == pytest.approx(accuracy_score(actual, scores >= 0.5))
    assert found.coverage == 1 and found.young == 0 and found.acted == (0, 0, 600)


def test_a_baseline_without_outcomes_has_nothing_to_say() -> None:
    assert summarise_outcomes(baseline_of(None)) is None and outcomes_document(None) is None


def test_what_is_odd_about_a_reference_is_said(make_reference: Make) -> None:
    scores, actual, ages = world()
    reference = make_reference(LAYOUT, scores, actual, ages_us=ages, rows=2000)
    (plain, *odd) = outcome_lines(some(summarise_outcomes(baseline_of(reference, 2100))))
    assert plain.startswith("outcomes: 600 of 2,000 predictions have one within the horizon of 2 d (30.0%)")
    assert "final at the age of 10 h" in plain
    assert odd[0] == "100 reference predictions are left out: their horizon had not passed"
    assert "no fair sample" in odd[1]
    counts = {**reference.counts, "acted": reference.counts["acted"][:, [0, 2, 1]]}
    acted = dataclasses.replace(reference, counts=counts, rows=600)
    (_, said) = outcome_lines(some(summarise_outcomes(baseline_of(acted))))
    assert said.startswith("600 of the predictions (100.0%) were acted on")


def some(found: Any) -> Any:
    assert found is not None
    return found


def test_the_document_is_json_of_the_same(make_reference: Make) -> None:
    scores, actual, ages = world()
    found = some(summarise_outcomes(baseline_of(make_reference(LAYOUT, scores, actual, ages_us=ages))))
    document = json.loads(orjson.dumps(outcomes_document(found)))
    assert document["metrics"]["accuracy"]["value"] == found.metrics["accuracy"].value
    assert [each["outcomes"] for each in document["by_age"]] == [each.pairs for each in found.by_age]
    assert document["delay"][0] == {"age_us": 0, "known": 0.0} and document["delay"][-1]["known"] == 1.0
    assert sum(group["rows"] for group in document["calibration"]) == 600


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, REGRESSION])
def test_each_task_is_shown_with_its_leading_metric(
    make_reference: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setattr(output.stdout, "width", 120)
    scores, actual, ages = world()
    if task == MULTICLASS:
        rng = np.random.default_rng(2)
        scores, actual = rng.dirichlet(np.ones(3), 600), rng.integers(0, 3, 600)
    classes = {BINARY: ("no", HOSTILE), MULTICLASS: ("a", HOSTILE, "c"), REGRESSION: ()}[task]
    reference = make_reference(
        PerformanceLayout(task, classes, age_edges_us=EDGES), scores, actual, ages_us=ages, classes=classes
    )
    show_outcomes(some(summarise_outcomes(baseline_of(reference))))
    out = capsys.readouterr().out
    leading = {BINARY: "accuracy", MULTICLASS: "accuracy", REGRESSION: "mae"}[task]
    assert leading in out and ("prevalence" in out) == (task == BINARY) and "no fair sample" in out
    assert "\x1b" not in out and max(map(len, out.splitlines()[1:-2])) <= 120
    page = render_report(baseline_of(reference))
    assert "<img" not in page and "How late outcomes are known" in page and "99 % of them were known" in page
    assert ("Do scores mean what they say?" in page) == (task != REGRESSION)
    if task == REGRESSION:
        assert f"{mean_absolute_error(actual, scores):.3f}" in out


def test_weights_count_in_coverage(make_reference: Make) -> None:
    """A tenth of the rows are labelled on purpose, each standing for ten."""
    scores, actual, _ = world()
    reference = make_reference(LAYOUT, scores[:60], actual[:60], rows=600)
    weighted = {name: array * 10 for name, array in reference.sums.items() if name == "weights"}
    found = some(summarise_outcomes(baseline_of(dataclasses.replace(reference, sums={**reference.sums, **weighted}))))
    assert found.coverage == pytest.approx(1.0)
