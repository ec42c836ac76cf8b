"""An estimate is not believed where the relation between scores and outcomes is known to have changed."""

from __future__ import annotations

from typing import Any

import pytest

from services.performance.belief import ConceptAlarm, EstimatorError, alarms_of, doubt, estimator_error
from streams.baseline import Baseline
from streams.statistics.performance.estimation import EstimateError


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
