"""The demonstration's conclusions and its page, on made-up runs."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from services.demo.command import flip_one_byte
from services.demo.report import write_report
from services.demo.story import Step, Story, when
from services.demo.terminal import tell

HOSTILE = "<script>alert(1)</script>"


def alert(stream: str, status: str = "firing", key: str = "incident-1") -> dict[str, Any]:
    cause = {
        "stream": stream,
        "role": "feature",
        "evidence_share": 0.9,
        "log_evidence_nats": 12.0,
        "change_time_us": 1_365_375_600_000_000,
        "rows": 100,
        "effects": {
            "psi": 1.5,
            "jensen_shannon": 0.4,
            "total_variation": 0.5,
            "hellinger": 0.4,
            "kl": 0.8,
            "intervals": {},
            "independent_rows": None,
        },
        "tv_low": 0.4,
        "tv_high": 0.6,
        "bins": ["a", HOSTILE, "(missing)"],
        "expected": [0.5, 0.4, 0.1],
        "observed": [10, 80, 10],
    }
    return {
        "id": f"{key}-{status}",
        "incident_key": key,
        "deployment_id": "flights",
        "model_id": "m",
        "model_version": "1",
        "monitor": "data_drift",
        "severity": "warning",
        "status": status,
        "episode": 1,
        "change_time_us": 1_365_375_600_000_000,
        "detection_time_us": 1_365_614_100_000_000,
        "trigger_time_ms": 1_365_614_100_000,
        "log_evidence_nats": 12.0,
        "threshold_nats": 8.0,
        "rows_since_change": 100,
        "causes": [cause] if status == "firing" else [],
        "evidence_offsets": [],
        "baseline_digest": "0" * 64,
        "spec_revision": 1,
        "false_alarms": "at most 1 false alarm expected per 60 days for the whole fleet",
        "owner": HOSTILE,
        "tags": {},
        "runbook_url": None,
    }


@pytest.fixture
def story() -> Story:
    return Story(
        steps=[Step("driftline deployment apply flights.yaml", 1.0)],
        published=10,
        applied=10,
        outcomes_published=5,
        outcomes_applied=5,
        dead_letters=0,
        months=["2013-04", "2013-05"],
        psi={"carrier": [0.01, 0.02], "temp": [1.0, 2.0]},
        daily_psi={"carrier": [("2013-04-01", 0.01)], "temp": [("2013-04-01", 1.0)]},
        alerts=[alert("temp"), alert("temp", "resolved")],
        slack=[{"text": HOSTILE}],
        pagerduty=[{"event_action": "trigger", "dedup_key": "k", "payload": {"summary": HOSTILE, "severity": "error"}}],
        verification={"ok": True, "records": 3, "message": "3 records stand"},
        tampered={"ok": False, "message": "record 1 was altered"},
        seconds=1.0,
    )


def test_a_run_that_shows_everything_has_no_problems(story: Story) -> None:
    assert story.problems() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"applied": 9}, "9 were applied"),
        ({"outcomes_applied": 4}, "4 arrived"),
        ({"dead_letters": 1}, "dead letters"),
        ({"alerts": [alert("carrier"), alert("temp", key="incident-2")]}, "schedule feature"),
        ({"alerts": []}, "no weather feature"),
        ({"slack": []}, "Slack"),
        ({"pagerduty": []}, "PagerDuty"),
        ({"verification": {"ok": False, "records": 3, "message": ""}}, "does not verify"),
        ({"tampered": {"ok": True, "message": ""}}, "was not refused"),
    ],
)
def test_what_went_wrong_is_said(story: Story, change: dict[str, Any], said: str) -> None:
    problems = dataclasses.replace(story, **change).problems()
    assert any(said in problem for problem in problems)


def test_the_page_is_self_contained_and_hostile_names_are_text(story: Story, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(story, page)
    text = page.read_text("utf-8")
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)\s*=\s*[\"']?(https?:)?//", text)


def test_the_terminal_shows_names_as_they_are(story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    hostile = dataclasses.replace(story, alerts=[alert("temp[red]\x1b[31m")])
    tell(hostile, tmp_path / "report.html", Console(width=200))
    shown = capsys.readouterr().out
    assert "temp[red]" in shown
    assert "\x1b[31m" not in shown


def test_times_are_shown_in_utc() -> None:
    assert when(1_365_375_600_000_000) == "2013-04-07 23:00"


def test_one_bit_of_one_record_is_flipped(tmp_path: Path) -> None:
    original, altered = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    lines = ['{"format": "x"}', '{"record": 0, "value": "AAAA"}', '{"record": 1, "value": "AAEC"}', '{"end": "x"}']
    original.write_text("\n".join(lines) + "\n", "utf-8")
    flip_one_byte(original, altered)
    before, after = original.read_text().splitlines(), altered.read_text().splitlines()
    assert [i for i in range(4) if before[i] != after[i]] == [2]
    assert '"value": "AAAC"' in after[2]
