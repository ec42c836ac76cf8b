"""The demonstration's conclusions and its page, on made-up runs."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from services.demo.command import flip_one_byte
from services.demo.days import EPISODE, LASTING, NONE, UNDECIDED, DailyFigures, Verdict
from services.demo.report import write_report
from services.demo.story import Step, Story, delay_text, when
from services.demo.terminal import tell

HOSTILE = "<script>alert(1)</script>"


def alert(stream: str, status: str = "firing", key: str = "incident-1") -> dict[str, Any]:
    cause = {
        "stream": stream,
        "role": "feature",
        "segment": "",
        "inputs": [],
        "interval_ms": 0,
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


BUDGET: dict[str, Any] = {
    "fleet": {"kept": True},
    "deployments": [
        {
            "per_ms": 5_184_000_000,
            "rows_per_day": 900.0,
            "monitors": [
                {
                    "monitor": "data_drift",
                    "allowed": 0.3,
                    "threshold_nats": 8.5,
                    "alarms": 1,
                    "delays": [{"shift_sd": 0.1, "median": {"days": None}}, {"shift_sd": 1, "median": {"days": 56.4}}],
                },
                {"monitor": "service", "allowed": 0, "threshold_nats": None, "alarms": 0, "delays": []},
            ],
        }
    ],
}


def what_if(*pairs: tuple[str, str]) -> dict[str, Any]:
    """A back-test's result: the verdict and the cause of each alarm."""
    alarms = []
    for verdict, stream in pairs:
        alarm = {"monitor": "data_drift", "causes": [stream], "detection_time_us": 1_365_614_100_000_000}
        alarms.append(
            {
                "verdict": verdict,
                "would_be": None if verdict == "gone" else alarm,
                "was": None if verdict == "new" else alarm,
            }
        )
    return {"rows": 10, "seconds": 2.0, "summary": "1 alarm", "alarms": alarms}


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
        verdicts={"incident-1-firing": Verdict(LASTING, HOSTILE)},
        watched=["carrier", "temp", "quality:carrier", "quality:temp", "association:temp", "rate"],
        budget=BUDGET,
        what_if=what_if(("same", "temp")),
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
        ({"alerts": [alert("quality:carrier"), alert("temp", key="incident-2")]}, "schedule feature"),
        ({"alerts": [alert("association:hour"), alert("temp", key="incident-2")]}, "schedule feature"),
        ({"alerts": []}, "no weather feature"),
        ({"budget": {**BUDGET, "fleet": {"kept": False}}}, "more than it promises"),
        ({"what_if": {**what_if(("same", "temp")), "rows": 9}}, "back-test read 9 rows"),
        ({"what_if": what_if(("new", "temp"))}, "does not see every alarm"),
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


def test_what_other_settings_change_is_told(story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    other = dataclasses.replace(story, what_if=what_if(("same", "temp"), ("new", "wind"), ("gone", "dew")))
    tell(other, tmp_path / "report.html", Console(width=200))
    shown = capsys.readouterr().out.partition("What if")[2].partition("The first message")[0]
    assert re.search(r"new +data_drift +wind +2013-04-10 17:15 +–", shown)
    assert re.search(r"gone +data_drift +dew +– +2013-04-10 17:15", shown)
    assert not re.search(r"same +data_drift", shown)


def test_what_raised_no_alarm_is_told_by_kind(story: Story) -> None:
    told = dataclasses.replace(story, alerts=[alert("quality:temp")]).quiet
    assert told == [
        "carrier (what the airline plans)",
        "temp",
        "1 of 2 columns by which values can be used",
        "1 of 1 features by how they go together with the prediction",
        "the number of flights per hour",
    ]


@pytest.mark.parametrize(
    ("days", "text"), [(None, "never"), (1 / 12, "2 h"), (56.4, "56 days"), (10_169.3, "28 years")]
)
def test_delays_are_told_in_the_unit_people_use(days: float | None, text: str) -> None:
    assert delay_text(days) == text


def flights(first: str, days: int, temperature: list[float]) -> pd.DataFrame:
    """Twenty flights a day at noon in New York; the temperatures of the days, repeated."""
    noon = pd.date_range(f"{first} 12:00", periods=days, freq="D", tz="America/New_York").tz_convert("UTC")
    times = np.repeat(noon, 20) + pd.to_timedelta(np.tile(np.arange(20), days), unit="min")
    values = np.repeat(np.resize(temperature, days), 20) + np.tile(np.linspace(-1, 1, 20), days)
    return pd.DataFrame({"scheduled_departure": times, "temp": values, "carrier": ["AA", "UA"] * (10 * days)})


def microseconds(text: str) -> int:
    return int(pd.Timestamp(text, tz="UTC").timestamp() * 1e6)


MARCH = [40.0, 44.0, 48.0, 42.0, 46.0]


@pytest.mark.parametrize(
    ("served", "streams", "kind"),
    [
        (flights("2013-04-01", 60, [temperature + 20 for temperature in MARCH]), ["temp"], LASTING),
        (flights("2013-04-01", 60, [temperature + 20 for temperature in MARCH]), ["carrier", "temp"], LASTING),
        (flights("2013-04-01", 60, [temperature + 20 for temperature in MARCH]), ["quality:temp"], LASTING),
        (flights("2013-04-01", 60, MARCH), ["temp"], NONE),
        (flights("2013-04-01", 60, [*([*MARCH] * 2), 90.0, *([*MARCH] * 12)]), ["temp"], EPISODE),
        (flights("2013-04-01", 15, [90.0]), ["temp"], UNDECIDED),
        (flights("2013-04-01", 60, MARCH), ["joint.distance"], None),
    ],
    ids=["warmer", "the best cause", "out of range", "as before", "one hot day", "too soon", "no column"],
)
def test_days_tell_a_season_from_one_odd_day(served: pd.DataFrame, streams: list[str], kind: str | None) -> None:
    figures = DailyFigures(flights("2013-03-01", 31, MARCH), served)
    verdict = figures.verdict(streams, microseconds("2013-04-08"), microseconds("2013-04-14"))
    assert (verdict.kind if verdict else None) == kind


def test_what_was_before_the_change_does_not_count() -> None:
    hot_first = flights("2013-04-01", 60, [90.0, *([*MARCH] * 12)])
    figures = DailyFigures(flights("2013-03-01", 31, MARCH), hot_first)
    verdict = figures.verdict(["temp"], microseconds("2013-04-08"), microseconds("2013-04-14"))
    assert verdict is not None
    assert verdict.kind == NONE


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
