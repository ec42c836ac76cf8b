"""The demonstration's conclusions and its page, on made-up runs."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from services.demo.days import EPISODE, LASTING, NONE, UNDECIDED, DailyFigures, Verdict
from services.demo.humility import Coverage, Decisions, HumilityFacts, RuleFacts
from services.demo.notified import Notified, Taken
from services.demo.report import write_report
from services.demo.story import Flow, Step, Story
from services.demo.tampering import flip_one_byte
from services.demo.terminal import tell
from services.demo.wording import delay_text, when

HOSTILE = "<script>alert(1)</script>"


def microseconds(text: str) -> int:
    return int(pd.Timestamp(text, tz="UTC").timestamp() * 1e6)


def alert(
    stream: str,
    status: str = "firing",
    key: str = "incident-1",
    monitor: str = "data_drift",
    segment: str = "",
    change_us: int = 1_365_375_600_000_000,
) -> dict[str, Any]:
    cause = {
        "stream": stream,
        "role": "feature",
        "segment": segment,
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
        "monitor": monitor,
        "diagnosis": "relation" if monitor == "concept_drift" else "",
        "severity": "warning",
        "status": status,
        "episode": 1,
        "change_time_us": change_us,
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
    return {"rows": 10_000, "seconds": 2.0, "summary": "1 alarm", "alarms": alarms}


def metric(value: float, width: float = 0.01) -> dict[str, Any]:
    return {"value": value, "low": value - width, "high": value + width, "rows": 900, "error": 0.0}


def window(start: str, accuracy: float, estimate: float, *, doubted: bool = False, rows: int = 5_000) -> dict[str, Any]:
    """A window as ``driftline windows show --metric … --json`` prints it."""
    reading = {
        **metric(accuracy),
        "reference_at_same_age": metric(0.78),
        "outside": "below" if accuracy < 0.76 else "",
        "estimate": metric(estimate),
        "estimate_error": {"difference": estimate - accuracy, "inside": abs(estimate - accuracy) < 0.01},
    }
    curve = {"rows": 90.0, "predicted": 0.2, "observed": 0.3, "low": 0.25, "high": 0.35, "reference": 0.2}
    rates = dict.fromkeys(("accuracy", "selection_rate", "true_positive_rate", "false_positive_rate"), metric(0.5))
    odds = {"measure": "equal_opportunity_difference", "group": f"carrier={HOSTILE}", "differs": True}
    return {
        "start_us": microseconds(start),
        "status": "final",
        "expected_coverage": 0.97,
        "estimates_doubted": {"change_time_us": 1_365_375_600_000_000, "detection_time_us": 1_365_614_100_000_000}
        if doubted
        else None,
        "parts": [
            {
                "part": "",
                "predictions": rows,
                "resolved": rows - 100,
                "coverage": 1 - 100 / rows,
                "metrics": {"accuracy": reading},
                "calibration": {"groups": [curve, {**curve, "predicted": 0.4, "observed": 0.5, "reference": 0.4}]},
            }
        ],
        "fairness": [
            {
                "segment": "carrier",
                "rates": {f"carrier={HOSTILE}": rates, "carrier=UA": rates},
                "comparisons": [odds, {**odds, "measure": "equal_opportunity_ratio"}],
            }
        ],
    }


CALIBRATION = alert("calibration", key="incident-3", monitor="concept_drift")
ACCURACY = [window("2013-04-01", 0.78, 0.781), window("2013-05-01", 0.7, 0.79, doubted=True)]


ACTIONS = {"answered": 8_000, "overridden": 500, "refused": 1_000, "routed": 500}
NAMES = ("without", "with", "answered", "overridden", "served", "refused", "routed")
DECISIONS = Decisions("2013-04", 10_000, ACTIONS, dict.fromkeys(NAMES, metric(0.76)), final=True)
HUMILITY = HumilityFacts(
    asked=ACTIONS,
    counted=dict(ACTIONS),
    disagreeing=0,
    months=(DECISIONS,),
    whole=dataclasses.replace(DECISIONS, label="all"),
    rules=(RuleFacts(HOSTILE, "route", 600, 500, 250, 300, metric(0.45), metric(0.2), "keep"),),
    coverage=(
        Coverage("2013-04", metric(0.87), metric(0.9), 133.0, final=True),
        Coverage("2013-07", metric(0.83), metric(0.91), None, final=False),
    ),
    guarantees={"flights": (f"novel input fires on at most 1 % of {HOSTILE}",)},
    most_errors=0.2,
)
HUMILITY_ALARM = {
    **alert("humility:rule:storm", key="incident-9", monitor="humility"),
    "diagnosis_reason": "rule storm fires on 3 % of predictions",
}


TAKEN = Taken("0123456789ab", HOSTILE, f"because {HOSTILE}", slack=True, pagerduty=True, audit=True)


def listed(number: int, signals: int) -> dict[str, Any]:
    """An incident as ``driftline incidents list`` lists it."""
    words = {"id": f"{number:012x}", "title": HOSTILE, "severity": "error", "state": "resolved"}
    return {**words, "signals": signals, "episode": number, "told": True, "monitors": ["data_drift"]}


UNTOLD = {"told": False, "monitors": ["concept_drift", "data_drift"]}

NOTIFIED = Notified(
    incidents=[listed(1, 2), listed(2, 1)],
    taken=TAKEN,
    slack=[{"text": HOSTILE}, {"text": "2"}, {"text": HOSTILE, "ts": "1.1"}, {"text": "3", "thread_ts": "1.1"}],
    pagerduty=[
        {"event_action": action, "dedup_key": key, "payload": {"summary": HOSTILE, "severity": "error"}}
        for action, key in (("trigger", "a"), ("trigger", "b"), ("acknowledge", "b"), ("resolve", "a"))
    ],
)


@pytest.fixture
def story() -> Story:
    return Story(
        steps=[Step("driftline deployment apply flights.yaml", 1.0)],
        flow=Flow("flights", 10_000, 10_000, 10_000, 9_800, 9_800, 9_800),
        minutes=Flow("delays", 10_000, 10_000, 10_000, 9_800, 9_800, 9_800),
        dead_letters=0,
        months=["2013-04", "2013-05"],
        psi={"carrier": [0.01, 0.02], "temp": [1.0, 2.0]},
        daily_psi={"carrier": [("2013-04-01", 0.01)], "temp": [("2013-04-01", 1.0)]},
        alerts=[alert("temp"), alert("temp", "resolved"), CALIBRATION],
        minutes_alerts=[HUMILITY_ALARM],
        humility=HUMILITY,
        verdicts={"incident-1-firing": Verdict(LASTING, HOSTILE)},
        references={"0" * 64: "March", "1" * 64: HOSTILE},
        watched=[
            *("carrier", "temp", "quality:carrier", "quality:temp", "association:temp", "rate", "labels:1"),
            "temp [carrier=UA]",
        ],
        accuracy=ACCURACY,
        accuracy_by_day=[window("2013-04-01", 0.78, 0.8, rows=200), window("2013-04-02", 0.7, 0.8, rows=200)],
        delays={
            "references": [{"digest": "0" * 64, "hours": [0.0, 2.0, 36.0], "known": [0.0, 0.5, 0.97]}],
            "months": {"2013-05": {"hours": [2.0, 36.0], "known": [0.5, 0.96]}},
        },
        budget=BUDGET,
        what_if=what_if(("same", "temp"), ("same", "calibration")),
        notified=NOTIFIED,
        verification={"ok": True, "records": 3, "message": "3 records stand"},
        tampered={"ok": False, "message": "record 1 was altered"},
        seconds=1.0,
    )


def test_a_run_that_shows_everything_has_no_problems(story: Story) -> None:
    assert story.problems() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"flow": Flow("flights", 10_000, 10_000, 9, 9_800, 9_800, 9_800)}, "10,000 published, 9 applied"),
        ({"flow": Flow("flights", 10_001, 10_000, 10_000, 9_800, 9_800, 9_800)}, "flights: 10,001 predictions"),
        ({"minutes": Flow("delays", 10_000, 10_000, 10_000, 9_800, 9_800, 4)}, "delays: 10,000 predictions"),
        ({"humility": dataclasses.replace(HUMILITY, disagreeing=7)}, "7 decisions were not those of the rules"),
        ({"humility": dataclasses.replace(HUMILITY, counted={**ACTIONS, "routed": 1})}, "the streams counted"),
        ({"humility": dataclasses.replace(HUMILITY, counted={"answered": 10_000})}, "no rule ever acted"),
        ({"humility": dataclasses.replace(HUMILITY, coverage=())}, "no closer to what is promised"),
        ({"minutes_alerts": []}, "what humility was fitted to"),
        ({"accuracy": ACCURACY[:1]}, "accuracy windows have 5,000 of 10,000 predictions"),
        ({"flow": Flow("flights", *[10_000] * 3, *[10_100] * 3)}, "accuracy windows have 9,800 of 10,100 outcomes"),
        ({"alerts": [alert("temp")]}, "no alarm for concept drift"),
        ({"accuracy": [ACCURACY[0], window("2013-05-01", 0.7, 0.7, doubted=True)]}, "nothing to learn from"),
        ({"accuracy": [ACCURACY[0], window("2013-05-01", 0.7, 0.79)]}, "wrong, and not marked"),
        ({"dead_letters": 1}, "dead letters"),
        ({"alerts": [alert("carrier"), alert("temp", key="incident-2")]}, "schedule feature"),
        ({"alerts": [alert("quality:carrier"), alert("temp", key="incident-2")]}, "schedule feature"),
        ({"alerts": [alert("association:hour"), alert("temp", key="incident-2")]}, "schedule feature"),
        ({"alerts": []}, "no weather feature"),
        ({"budget": {**BUDGET, "fleet": {"kept": False}}}, "more than it promises"),
        ({"what_if": {**what_if(("same", "temp")), "rows": 9}}, "back-test read 9 rows"),
        ({"what_if": what_if(("new", "temp"))}, "does not see every alarm"),
        ({"notified": dataclasses.replace(NOTIFIED, slack=NOTIFIED.slack[1:])}, "Slack was not told"),
        ({"notified": dataclasses.replace(NOTIFIED, pagerduty=NOTIFIED.pagerduty[:1])}, "PagerDuty was not told"),
        ({"notified": dataclasses.replace(NOTIFIED, incidents=NOTIFIED.incidents[:1])}, "incidents have 2 of 3 alarms"),
        (
            {"notified": dataclasses.replace(NOTIFIED, incidents=[listed(1, 2), {**listed(2, 1), **UNTOLD}])},
            "1 incidents were told to nobody",
        ),
        ({"notified": dataclasses.replace(NOTIFIED, taken=None)}, "acknowledgement did not reach"),
        (
            {"notified": dataclasses.replace(NOTIFIED, taken=dataclasses.replace(TAKEN, audit=False))},
            "acknowledgement did not reach",
        ),
        ({"verification": {"ok": False, "records": 3, "message": ""}}, "does not verify"),
        ({"tampered": {"ok": True, "message": ""}}, "was not refused"),
    ],
)
def test_what_went_wrong_is_said(story: Story, change: dict[str, Any], said: str) -> None:
    problems = dataclasses.replace(story, **change).problems()
    assert any(said in problem for problem in problems)


def test_drift_under_bad_data_quality_need_not_be_told(story: Story, tmp_path: Path) -> None:
    from rich.console import Console

    muted = {**listed(2, 1), "told": False}
    quiet = dataclasses.replace(NOTIFIED, incidents=[listed(1, 2), muted], slack=NOTIFIED.slack[:1])
    inhibited = dataclasses.replace(story, notified=quiet)
    assert inhibited.problems() == []
    console = Console(width=200, record=True)
    tell(inhibited, tmp_path / "report.html", console)
    assert "3 alarms were 2 incidents, 1 of them drift under bad data quality" in console.export_text()


def test_schedules_may_move_where_clocks_go_back_and_in_parts_of_the_traffic(story: Story) -> None:
    november = alert("hour", key="incident-4", change_us=microseconds("2013-11-03 02:45"))
    part = alert("distance", key="incident-5", segment="carrier=UA")
    moved = dataclasses.replace(
        story,
        alerts=[*story.alerts, november, part],
        what_if=what_if(*[("same", "temp")] * 4),
        notified=dataclasses.replace(NOTIFIED, incidents=[listed(1, 2), listed(2, 3)]),
    )
    assert moved.problems() == []
    assert moved.alarmed_streams == {"temp", "calibration", "hour", "distance [carrier=UA]"}


def test_the_page_is_self_contained_and_hostile_names_are_text(story: Story, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(story, page)
    text = page.read_text("utf-8")
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert "0.790 (0.780–0.800) ✕" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)\s*=\s*[\"']?(https?:)?//", text)


def test_the_terminal_shows_names_as_they_are(story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    hostile = dataclasses.replace(story, alerts=[alert("temp[red]\x1b[31m")])
    tell(hostile, tmp_path / "report.html", Console(width=200))
    shown = capsys.readouterr().out
    assert "temp[red]" in shown
    assert "\x1b[31m" not in shown


def test_an_estimate_that_fails_is_told_beside_the_truth_and_its_alarm(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    tell(story, tmp_path / "report.html", Console(width=200), work_dir=Path("kept"))
    shown = capsys.readouterr().out
    assert re.search(
        r"2013-04 +5,000 +98\.0% +97\.0% +0\.780 \(0\.770–0\.790\) +0\.780 +0\.781 \(0\.771–0\.791\) ", shown
    )
    assert re.search(
        r"2013-05 +5,000 +98\.0% +97\.0% +0\.700 \(0\.690–0\.710\) ▼ +0\.780 +0\.790 \(0\.780–0\.800\)\?", shown
    )
    assert "In 2013-05 the scores promised an accuracy of 0.790 (0.780–0.800); the outcomes showed 0.700" in shown
    assert "since about 2013-04-07 23:00 UTC, by an alarm at 2013-04-10 17:15" in shown
    assert f"equal opportunity: {HOSTILE}" in shown
    assert "concept_drift: relation" in shown
    assert "A message on Slack: Concept drift" in shown
    assert "driftline up --data-dir kept/run" in shown
    assert "driftline windows show flights --metric accuracy --segment carrier" in shown


def test_what_was_decided_and_what_it_was_worth_is_told(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    tell(story, tmp_path / "report.html", Console(width=200))
    shown = capsys.readouterr().out
    assert "delays: 10,000 predictions and 9,800 outcomes published, 10,000 and 9,800 counted: all" in shown
    assert re.search(r"2013-04 +10,000 +80\.0% +5\.0% +10\.0% +5\.0% +0\.760", shown)
    assert f"flights: novel input fires on at most 1 % of {HOSTILE}" in shown
    assert "So it was in no month; more were wrong in 2013-04 (24.0%)." in shown
    assert "2 other alarms of flights in nine months" in shown
    assert "Of delays there are 1 more: 1 humility." in shown
    assert re.search(rf"{re.escape(HOSTILE)} +route +600 +500 +250 +300 +0\.450 .* keep", shown)
    assert re.search(r"2013-07 \(open\) +0\.830 \(0\.820–0\.840\) +0\.910 \(0\.900–0\.920\) +–", shown)
    assert re.search(r"flights +rule storm fires on 3 % of predictions +04-07 23:00 +04-10 17:15", shown)


def test_what_other_settings_change_is_told(story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    other = dataclasses.replace(story, what_if=what_if(("same", "temp"), ("new", "wind"), ("gone", "dew")))
    tell(other, tmp_path / "report.html", Console(width=200))
    shown = capsys.readouterr().out.partition("What if")[2].partition("A message on Slack")[0]
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
        "1 of 1 ages by how many outcomes are known",
        "the number of flights per hour",
        "1 of 1 streams of single parts of the traffic",
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
    causes = [(stream, "") for stream in streams]
    verdict = figures.verdict(causes, microseconds("2013-04-08"), microseconds("2013-04-14"))
    assert (verdict.kind if verdict else None) == kind


def test_what_was_before_the_change_does_not_count() -> None:
    hot_first = flights("2013-04-01", 60, [90.0, *([*MARCH] * 12)])
    figures = DailyFigures(flights("2013-03-01", 31, MARCH), hot_first)
    verdict = figures.verdict([("temp", "")], microseconds("2013-04-08"), microseconds("2013-04-14"))
    assert verdict is not None
    assert verdict.kind == NONE


def with_outcomes(rows: pd.DataFrame, right: float) -> pd.DataFrame:
    """So many of a day's twenty flights were predicted right."""
    predicted = np.where(np.arange(len(rows)) % 20 < 10, "late", "on time")
    hits = np.arange(len(rows)) % 20 < 20 * right
    other = np.where(predicted == "late", "on time", "late")
    return rows.assign(predicted=predicted, late_probability=0.5, arrived=np.where(hits, predicted, other))


@pytest.mark.parametrize(
    ("stream", "segment", "told"),
    [
        ("loss", "", "share of right predictions 90 % → 60 %"),
        ("loss", "carrier=UA", "share of right predictions 90 % → 60 %"),
        ("loss", "carrier=(other)", None),
        ("labels:1", "", None),
    ],
)
def test_days_tell_what_outcomes_showed(stream: str, segment: str, told: str | None) -> None:
    reference = with_outcomes(flights("2013-03-01", 31, MARCH), 0.9)
    served = with_outcomes(flights("2013-04-01", 60, MARCH), 0.6)
    figures = DailyFigures(reference, served)
    verdict = figures.verdict([(stream, segment)], microseconds("2013-04-08"), microseconds("2013-04-14"))
    assert (verdict and (verdict.kind, verdict.text)) == (told and (LASTING, told))


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
