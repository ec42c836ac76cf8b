"""An estimate is not believed where the relation between scores and outcomes is known to have changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from services.performance.belief import ConceptAlarm, EstimatorError, alarms_of, doubt, estimator_error
from streams.baseline import Baseline
from streams.statistics.performance.estimation import EstimateError
from streams.statistics.performance.pairs import BINARY, PerformanceLayout


def baseline(last_event_us: int, digest: str = "new") -> Baseline:
    return Baseline("d", "2", 1, (), last_event_us=last_event_us, digest=digest)


@pytest.mark.parametrize(
    ("alarm", "doubted"),
    [
        (ConceptAlarm("1", "old", 100, 150), [False, True, True, True]),
        (ConceptAlarm("1", "old", 100, 150, resolved_us=200), [False, True, False, False]),
        (ConceptAlarm("1", "old", 120, 130, resolved_us=140), [False, True, False, False]),
        (ConceptAlarm("1", "old", 350, 390), [False, False, False, True]),
    ],
)
def test_doubt_lasts_from_the_change_until_the_alarm_is_resolved(alarm: ConceptAlarm, doubted: list[bool]) -> None:
    windows = [(0, 100), (100, 200), (200, 300), (300, 400)]
    assert [doubt([alarm], *window, baseline(50)) is alarm for window in windows] == doubted


def test_doubt_reaches_back_as_long_as_outcomes_take(make_reference: Callable[..., Any]) -> None:
    """The change time is that of arrival: outcomes that came then are of earlier predictions."""
    hour_us = 3_600_000_000
    reference = make_reference(PerformanceLayout(BINARY, ("a", "b")), [0.2, 0.8], [0, 1])  # known after 10 hours
    known = dataclasses.replace(baseline(0), outcomes=reference)
    alarm = ConceptAlarm("1", "old", 100 * hour_us, 101 * hour_us)
    windows = [(89 * hour_us, 90 * hour_us), (90 * hour_us, 91 * hour_us)]
    assert [doubt([alarm], *window, known) for window in windows] == [None, alarm]
    assert [doubt([alarm], *window, baseline(0)) for window in windows] == [None, None]


def test_a_reference_that_has_seen_the_change_is_believed() -> None:
    alarm = ConceptAlarm("1", "old", 100, 150)
    assert doubt([alarm], 300, 400, baseline(200)) is None
    assert doubt([alarm], 300, 400, baseline(90)) is alarm  # another version that predicts the same world
    assert doubt([alarm], 300, 400, baseline(200, "old")) is alarm
    assert doubt([alarm], 300, 400, None) is alarm
    assert doubt([], 300, 400, None) is None


def test_an_incident_counts_once_whatever_the_order_of_its_records() -> None:
    def alert(key: str, status: str, change_us: int, at_us: int, diagnosis: str = "") -> dict[str, Any]:
        return {"incident_key": key, "status": status, "change_time_us": change_us, "detection_time_us": at_us,
                "model_version": "1", "baseline_digest": "b", "diagnosis": diagnosis}  # fmt: skip

    records = [
        alert("b", "firing", 10, 20, "relation"),
        alert("a", "firing", 1, 2),
        alert("a", "resolved", 1, 9),
        alert("a", "firing", 1, 2),
    ]
    expected = [ConceptAlarm("1", "b", 1, 2, 9), ConceptAlarm("1", "b", 10, 20, None, "relation")]
    assert alarms_of(records) == alarms_of(records[::-1]) == expected


def test_the_error_of_estimates_says_how_far_and_in_which_direction() -> None:
    errors = [EstimateError(0.25, False, 10), EstimateError(-0.125, True, 20)]
    assert estimator_error(errors) == EstimatorError(2, 0.1875, 0.25, 0.0625, inside=1)
    assert estimator_error([]) is None


@pytest.mark.parametrize(("inside", "large"), [([False], False), ([True, False], False), ([True, False, False], True)])
def test_an_estimator_is_off_where_its_intervals_miss_more_often_than_not(inside: list[bool], large: bool) -> None:
    found = estimator_error([EstimateError(0.01, each, 100) for each in inside])
    assert found is not None and found.large is large
