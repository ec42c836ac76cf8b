"""What ``driftline status`` says of outcomes."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from services.cli import output
from services.cli.status import _document, _show
from services.positions import StreamPosition
from services.status import DeploymentStatus, SystemStatus, outcome_status


def join_record(**facts: Any) -> dict[str, Any]:
    """A journal record of kind ``join``, of one partition."""
    counters = dict.fromkeys(
        (
            "joined_outcomes",
            "corrected_outcomes",
            "superseded_outcomes",
            "unknown_outcomes",
            "late_outcomes",
            "refused_outcomes",
            "late_predictions",
        ),
        1,
    )
    return {"join": json.dumps({"counters": counters | facts, "open": {"predictions": 40, "pairs": 10, "early": 3}})}


def status_of(name: str = "d") -> SystemStatus:
    outcomes = outcome_status([join_record(joined_outcomes=2000), join_record(late_outcomes=7)])
    deployments = [DeploymentStatus(name, "", 1, ["1"], {}, None, outcomes), DeploymentStatus("e", "", 1, [], {}, None)]
    positions = [
        StreamPosition(0, {"predictions": 5, "outcomes": 2}, {"predictions": 5, "outcomes": 9}, {}),
        StreamPosition(1, {"predictions": 1, "outcomes": 0}, {"predictions": 2, "outcomes": 1}, {}),
    ]
    return SystemStatus("k", [], 1, positions=positions, deployments=deployments)


def test_outcomes_are_added_up_over_the_partitions() -> None:
    document = _document(status_of())
    mine, other = document["deployments"]
    assert mine["outcomes"] == {
        "pending": 60,
        "coverage": 0.25,
        "early": 6,
        "joined": 2001,
        "corrected": 2,
        "superseded": 2,
        "unknown": 2,
        "late": 8,
        "refused": 2,
        "late_predictions": 2,
    }
    assert other["outcomes"] is None
    assert document["lag"] == 9 and document["lag_by_topic"] == {"predictions": 1, "outcomes": 8}


def test_outcomes_have_a_table_of_their_own_where_any_are_expected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output.stdout, "width", 150)
    _show(status_of("\x1b[31md[red]"), show_all=False)
    out = capsys.readouterr().out
    assert "9 message(s) not applied yet: 1 of predictions, 8 of outcomes" in out
    (row,) = [line for line in out.splitlines() if "2,001" in line]
    assert row.split()[1:] == ["60", "25.0%", "2,001", "2", "2", "2", "8", "2"]
    assert "\x1b[31md" not in out and "[red]" in out
    none = SystemStatus("k", [], 1, deployments=[DeploymentStatus("e", "", 1, [], {}, None)])
    _show(none, show_all=False)
    assert "coverage" not in capsys.readouterr().out


def test_without_predictions_there_is_no_coverage() -> None:
    record = json.loads(join_record()["join"]) | {"open": {"predictions": 0, "pairs": 0, "early": 0}}
    assert outcome_status([{"join": json.dumps(record)}]).coverage is None


def test_alarms_are_called_so_and_a_name_without_end_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output.stdout, "width", 150)
    alert = {
        "deployment_id": "x" * 3000,
        "model_version": "1",
        "monitor": "data_drift",
        "severity": "error",
        "change_time_us": 0,
        "detection_time_us": 0,
        "causes": [],
    }
    _show(dataclasses.replace(status_of(), firing=[alert]), show_all=False)
    out = capsys.readouterr().out
    assert re.search("^alarms +1 firing$", out, re.MULTILINE)
    assert "incidents" not in out
    assert "x… (3,000 characters)@1 data_drift since" in out and "x" * 121 not in out
