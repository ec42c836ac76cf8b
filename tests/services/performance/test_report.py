"""What is shown of a window: values, the reference at the same age, estimates, and how they are judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from services.performance.belief import ConceptAlarm
from services.performance.report import ABOVE, BELOW, Reading, WindowReading, estimator_errors, read_window
from services.performance.windows import merge_records
from streams.baseline import Baseline
from streams.specification import DeploymentSpec, FeatureSpec, OutcomeSpec
from streams.statistics.performance.metrics import Metric, metrics
from streams.statistics.performance.pairs import BINARY, PerformanceLayout

HOUR_US = 3_600_000_000
LAYOUT = PerformanceLayout(BINARY, ("no", "yes"), age_edges_us=np.array([HOUR_US, 5 * HOUR_US]))
SPEC = DeploymentSpec("delays", "m", BINARY, (FeatureSpec("x", "numeric"),), outcomes=OutcomeSpec(48 * 3_600_000))
Make = Callable[..., Any]


def world(seed: int, rows: int = 2000, *, turned: bool = False) -> tuple[Any, Any, Any]:
    """Scores, outcomes and ages; the positives are known late. ``turned``: outcomes no longer follow the scores."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.6, 0.6, rows)
    actual = rng.random(rows) < (1 - scores if turned else scores)
    return scores, actual, np.where(actual, rng.integers(0, 10, rows), rng.integers(0, 4, rows)) * HOUR_US


@pytest.fixture
def baseline(make_reference: Make) -> Baseline:
    scores, actual, ages = world(1, 6000)
    reference = make_reference(
        LAYOUT, scores, actual, ages_us=ages, calibration=np.clip((np.arange(LAYOUT.bins) + 0.5) / LAYOUT.bins, 0, 1)
    )
    return Baseline("delays", "1", 6000, (), last_event_us=-1, outcomes=reference, digest="b")


def read(records: list[Any], baseline: Baseline | None, alarms: Any = (), parts: Any = ("",)) -> list[WindowReading]:
    baselines = {} if baseline is None else {baseline.digest: baseline}
    return [read_window(window, parts, baselines, alarms) for window in merge_records(records, SPEC)]


def test_an_early_accuracy_is_judged_by_what_is_usual_at_its_age(make_record: Make, baseline: Baseline) -> None:
    scores, actual, ages = world(2)
    early = {"resolved": ages <= HOUR_US, "ages_us": ages, "clock_us": 2 * HOUR_US, "status": "provisional"}
    (one,) = read([make_record(LAYOUT, scores, actual, baseline_digest="b", **early)], baseline)
    (part,) = one.parts
    assert part.predictions == 2000 and part.resolved == early["resolved"].sum()
    prevalence = part.readings["prevalence"]
    assert prevalence.value is not None and prevalence.reference is not None
    assert prevalence.value.value is not None and prevalence.value.value < 0.35 < actual.mean() - 0.1  # no fair sample
    assert prevalence.outside == ""
    assert one.mature_at_us == HOUR_US + 10 * HOUR_US and one.has_reference
    assert part.readings["coverage"].value == Metric(
        pytest.approx(part.coverage),
        pytest.approx(part.coverage, abs=0.03),
        pytest.approx(part.coverage, abs=0.03),
        2000,
    )
    assert part.readings["coverage"].reference.value == one.expected_coverage  # type: ignore[union-attr]


def test_a_changed_relation_is_outside_and_no_estimate_sees_it(make_record: Make, baseline: Baseline) -> None:
    records = []
    for n, turned in enumerate((False, False, True)):
        scores, actual, ages = world(10 + n, turned=turned)
        start_us = 20 * n * HOUR_US
        records.append(make_record(LAYOUT, scores, actual, ages_us=ages, start_us=start_us, baseline_digest="b"))
    alarm = ConceptAlarm("1", "b", 40 * HOUR_US, 41 * HOUR_US, None, "relation")
    found = read(records, baseline, [alarm])
    accuracy = [item.parts[0].readings["accuracy"] for item in found]
    assert [one.outside for one in accuracy] == ["", "", BELOW]
    assert [item.doubt for item in found] == [None, None, alarm]
    estimates = [one.estimate.value for one in accuracy if one.estimate is not None and one.estimate.value is not None]
    truth = [one.value.value for one in accuracy if one.value is not None and one.value.value is not None]
    assert estimates == pytest.approx([estimates[0]] * 3, abs=0.02) and truth[2] < 0.5 < truth[0]
    errors = estimator_errors(found, "accuracy")
    assert errors[True] is not None and errors[True].windows == 2 and errors[True].largest < 0.03
    assert errors[False] is not None and errors[False].mean > 0.3 and errors[False].inside == 0
    assert [item.disproved(one) for item, one in zip(found, accuracy, strict=True)] == [False, False, True]
    open_ = [dataclasses.replace(item.window, status="provisional") for item in found]
    still_open = [dataclasses.replace(item, window=window) for item, window in zip(found, open_, strict=True)]
    assert estimator_errors(still_open, "accuracy") == {True: None, False: None}
    assert not any(item.disproved(one) for item, one in zip(still_open, accuracy, strict=True))


def test_parts_have_values_and_estimates_but_no_reference(
    make_record: Make, make_sums: Make, baseline: Baseline
) -> None:
    scores, actual, ages = world(3)
    mask = np.arange(2000) % 3 == 0
    record = make_record(LAYOUT, scores, actual, ages_us=ages, parts={"carrier=UA": mask}, baseline_digest="b")
    (one,) = read([record], baseline, parts=["", "carrier=UA", "carrier=none"])
    whole, part = one.parts
    assert (whole.part, part.part, part.predictions) == ("", "carrier=UA", mask.sum())
    expected = metrics(LAYOUT, make_sums(LAYOUT, scores, actual, ages_us=ages, rows=mask))["accuracy"].value
    accuracy = part.readings["accuracy"]
    assert accuracy.value is not None and accuracy.value.value == expected
    assert accuracy.reference is None and accuracy.outside == "" and accuracy.estimate is not None
    assert whole.readings["accuracy"].reference is not None


def test_without_a_reference_there_are_values_only(make_record: Make, baseline: Baseline) -> None:
    scores, actual, ages = world(4)
    record = make_record(LAYOUT, scores, actual, ages_us=ages, acted=1, baseline_digest="b")
    for known in (None, dataclasses.replace(baseline, outcomes=None)):
        (one,) = read([record], known)
        accuracy = one.parts[0].readings["accuracy"]
        assert accuracy.value is not None and accuracy.reference is None and accuracy.estimate is None
        assert (one.has_reference, one.mature_at_us, one.expected_coverage) == (False, None, None)
        assert one.acted and one.parts[0].acted == (0, 2000, 0)


def test_what_depends_on_bins_is_not_told_of_windows_with_different_ones(make_record: Make) -> None:
    scores, actual, ages = world(5)
    other = dataclasses.replace(LAYOUT, score_edges=np.array([0.3, 0.5]))
    records = [make_record(LAYOUT, scores, actual, ages_us=ages), make_record(other, scores, actual, partition=1)]
    (one,) = read(records, None)
    readings = one.parts[0].readings
    assert one.window.mixed_edges and {"accuracy", "brier", "log_loss", "f1"} <= readings.keys()
    assert not {"roc_auc", "lift", "expected_calibration_error"} & readings.keys()


def test_what_is_outside_allows_for_the_error_of_both_sides_and_of_bins() -> None:
    reference = Metric(0.8, 0.79, 0.81, 1000)
    assert Reading(Metric(0.7, 0.65, 0.75, 50), reference).outside == BELOW
    assert Reading(Metric(0.9, 0.85, 0.95, 50), reference).outside == ABOVE
    assert Reading(Metric(0.78, 0.73, 0.83, 50), reference).outside == ""
    assert Reading(Metric(0.7, 0.65, 0.75, 50, error=0.1), reference).outside == ""
    assert Reading(Metric(0.7, None, None, 1), reference).outside == ""
    assert Reading(None, reference).outside == Reading(Metric(0.7, 0.6, 0.75, 9)).outside == ""
