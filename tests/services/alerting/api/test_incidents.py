"""Incidents over HTTP: finding, showing, acting; hostile values in every field."""

import base64
import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from services.alerting.database import tables as t

HOSTILE = (
    "<!channel> <@U123>",
    "@here @everyone",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "two\r\nlines\tand a tab",
    "\u202egnp.exe\u2066\u200f",
    "'; DROP TABLE incidents; --",
    "%' OR '1'='1",
    "\x1b[31mred\x07",
    "🙈" * 400,
)


def acts(api: Any, incident: str) -> list[tuple[str, str, str, str]]:
    story = api.get(f"incidents/{incident}").json["story"]
    return [(e["action"], e["actor"], e["via"], e["reason"]) for e in story if e["actor_kind"] == "human"]


def test_an_incident_is_listed_and_shown(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    (listed,) = api.get("incidents").json["incidents"]
    assert listed["id"] == incident and listed["status"] == listed["state"] == "open"
    assert listed["severity"] == "error" and listed["deployments"] == ["credit"] and listed["owner"] == "risk-team"
    assert listed["firing"] == listed["signals"] == 1 and listed["withheld"] == 0
    shown = api.get(f"incidents/{incident[:4]}").json
    assert shown["incident"] == listed
    assert shown["words"]["headline"] and "credit" in shown["words"]["headline"]
    (signal,) = shown["signals"]
    assert signal["monitor"] == "data_drift" and signal["sentences"] and signal["causes"]
    assert signal["labels"]["tag.tier"] == "1"
    assert signal["change_time"].startswith("2013-06-12")
    assert [entry["action"] for entry in shown["story"]] == ["incident.opened"]
    assert shown["words"]["links"][0]["url"].startswith("https://")


def test_incidents_are_found_by_everything_they_are_filtered_by(api: Any, make_apart: Any) -> None:
    api.take(make_apart(1), make_apart(2, severity="critical"), make_apart(3, owner="other"), make_apart(1, "resolved"))

    def found(**query: Any) -> list[str]:
        return sorted(each["deployments"][0] for each in api.get("incidents", **query).json["incidents"])

    assert found() == ["model-1", "model-2", "model-3"]
    assert found(status="resolved") == ["model-1"]
    assert found(status="unresolved") == ["model-2", "model-3"]
    assert found(severity="critical") == ["model-2"]
    assert found(owner="other") == ["model-3"]
    assert found(deployment="model-2") == ["model-2"]
    assert found(text="MODEL-3") == ["model-3"]
    assert found(text="%") == []


def test_pages_hold_every_incident_once(api: Any, make_apart: Any) -> None:
    ids = api.take(*(make_apart(number) for number in range(7)))
    pages, before = [], None
    while True:
        more = {} if before is None else {"before": before}
        page = api.get("incidents", limit=3, **more).json
        pages.append([each["id"] for each in page["incidents"]])
        before = page["next"]
        if before is None:
            break
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [each for page in pages for each in page] == ids[::-1]


CURSORS = (
    *("x", "!!", "MTIz", "9" * 199, "-1-x", "é", "9" * 18 + "-x", "1-\u202e", "1" * 17),
    *(
        base64.urlsafe_b64encode(c).decode().rstrip("=")
        for c in (b"9" * 30 + b".0123456789ab", b"1.\x00", b"-1.ab", b"1.")
    ),
)


@pytest.mark.parametrize("before", CURSORS)
@pytest.mark.parametrize("path", ["incidents", "silences", "notifications"])
def test_a_cursor_of_ones_own_making_is_refused_or_harmless(api: Any, path: str, before: str) -> None:
    assert api.get(path, before=before).status in (200, 422)


@pytest.mark.parametrize("named", ["ffff", "0" * 12, "abc", "zzzz", "0123456789abc", "%25%25%25%25", "..%2f..", "ABCD"])
def test_an_incident_that_is_none_is_not_found(api: Any, make_alert: Any, named: str) -> None:
    api.take(make_alert())
    for answer in (api.get(f"incidents/{named}"), api.post(f"incidents/{named}/acknowledge")):
        assert answer.status == 404 and answer.json["do"] + answer.json["detail"]


def test_a_beginning_that_several_have_is_asked_for_more(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    with api.database.transaction() as connection:
        row = dict(connection.execute(sa.select(t.incidents)).mappings().one())
        twin = incident[:6] + ("0" if incident[6] != "0" else "1") + incident[7:]
        connection.execute(sa.insert(t.incidents).values(**{**row, "id": twin}))
        connection.execute(sa.insert(t.incident_deployments).values(incident_id=twin, deployment_id="credit"))
    answer = api.post(f"incidents/{incident[:6]}/note", {"reason": "x"})
    assert answer.status == 409 and twin in answer.json["do"]
    assert api.post(f"incidents/{incident[:7]}/note", {"reason": "x"}).status == 200


def test_what_people_do_is_done_and_kept_under_the_tokens_name(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    acted = api.acted
    assert api.post(f"incidents/{incident}/acknowledge", {"reason": "on it"}).json["status"] == "acknowledged"
    assert api.acted > acted
    assert api.get(f"incidents/{incident}").json["incident"]["acknowledged"]["by"] == "operator-person"
    assert api.post(f"incidents/{incident}/unacknowledge", token="owner").json["acknowledged"] is None
    assert api.post(f"incidents/{incident}/assign", {"to": "ada"}).json["assigned_to"] == "ada"
    assert api.post(f"incidents/{incident}/note", {"reason": "feed empty"}).status == 200
    silenced = api.post(f"incidents/{incident}/silence", {"duration": "4h", "reason": "fix"}).json
    assert silenced["state"] == "silenced" and silenced["status"] == "open"
    assert api.post(f"incidents/{incident}/resolve", {"reason": "repaired"}).json["status"] == "resolved"
    again = api.post(f"incidents/{incident}/reopen", {"reason": "not so"}).json
    assert again["status"] == "open" and again["episode"] == 2
    assert acts(api, incident) == [
        ("incident.acknowledged", "operator-person", "api", "on it"),
        ("incident.unacknowledged", "owner-person", "api", ""),
        ("incident.assigned", "operator-person", "api", ""),
        ("incident.noted", "operator-person", "api", "feed empty"),
        ("incident.silenced", "operator-person", "api", "fix"),
        ("incident.resolved", "operator-person", "api", "repaired"),
        ("incident.reopened", "operator-person", "api", "not so"),
    ]
    actors = {(e["actor"], e["actor_kind"]) for e in api.audit() if e["action"].startswith("incident.")}
    assert {("operator-person", "human"), ("owner-person", "human")} <= actors


def test_the_command_line_is_told_apart(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    api.post(f"incidents/{incident}/note", {"reason": "x"}, headers={"User-Agent": "driftline-cli/1"})
    assert acts(api, incident) == [("incident.noted", "operator-person", "cli", "x")]


@pytest.mark.parametrize("field", ["actor", "name", "via", "who", "acknowledged_by"])
def test_nobody_acts_in_anothers_name(api: Any, make_alert: Any, field: str) -> None:
    (incident,) = api.take(make_alert())
    assert api.post(f"incidents/{incident}/acknowledge", {field: "ada"}).status == 422
    assert acts(api, incident) == []


def test_a_repeat_of_a_request_changes_nothing(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    headers = {"X-Request-Id": "7e0e4b1c"}
    for _ in range(3):
        assert api.post(f"incidents/{incident}/note", {"reason": "once"}, headers=headers).status == 200
    assert [reason for *_, reason in acts(api, incident)] == ["once"]
    # Another person's request of the same name is another request.
    api.post(f"incidents/{incident}/note", {"reason": "mine"}, headers=headers, token="owner")
    api.post(f"incidents/{incident}/note", {"reason": "again"}, headers={"X-Request-Id": "7e0e4b1d"})
    assert [reason for *_, reason in acts(api, incident)] == ["once", "mine", "again"]


def test_a_repeat_of_a_silence_is_the_same_silence(api: Any) -> None:
    body = {"match": {"deployment": "credit"}, "duration": "1h", "reason": "x"}
    first = api.post("silences", body, headers={"X-Request-Id": "s1"}).json["id"]
    api.now_ms += 5000
    assert api.post("silences", body, headers={"X-Request-Id": "s1"}).json["id"] == first
    assert len(api.get("silences").json["silences"]) == 1
    for _ in range(2):
        assert api.post(f"silences/{first}/end", {}, headers={"X-Request-Id": "e1"}).status == 200


def test_what_cannot_be_done_is_refused_with_what_to_do(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    assert api.post(f"incidents/{incident}/resolve").status == 422  # why?
    assert api.post(f"incidents/{incident}/silence", {"duration": "4h"}).status == 422
    api.post(f"incidents/{incident}/resolve", {"reason": "done"})
    answer = api.post(f"incidents/{incident}/acknowledge")
    assert answer.status == 409 and "reopen" in answer.json["detail"]
    name = 'driftline_alerting_actions_total{action="acknowledge",result="refused",via="api"}'
    assert api.counts()[name] == 1


@pytest.mark.parametrize(
    "duration", ["", "4", "4 hours", "-1h", "0s", "1e3s", "367d", "9" * 50 + "h", "h", "4h4h4h", 4]
)
def test_a_duration_that_is_none_is_refused(api: Any, make_alert: Any, duration: Any) -> None:
    (incident,) = api.take(make_alert())
    answer = api.post(f"incidents/{incident}/silence", {"duration": duration, "reason": "x"})
    assert answer.status == 422 and answer.json["errors"][0]["where"] == "duration"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_come_back_as_json_and_nothing_else(api: Any, make_alert: Any, hostile: str) -> None:
    """They are kept and shown as data; a browser is told not to guess, and no header is made of them."""
    (incident,) = api.take(make_alert(deployment_id="credit", owner=hostile[:80], tags={"tier": hostile[:80]}))
    for action, body in (
        ("note", {"reason": hostile}),
        ("assign", {"to": hostile[:256], "reason": hostile}),
        ("acknowledge", {"reason": hostile}),
        ("silence", {"duration": "1h", "reason": hostile}),
    ):
        answer = api.post(f"incidents/{incident}/{action}", body)
        assert answer.status == 200, answer.body
    shown = api.get(f"incidents/{incident}")
    assert shown.status == 200 and shown.headers["Content-Type"].startswith("application/json")
    assert shown.headers["X-Content-Type-Options"] == "nosniff"
    assert api.get("incidents", owner=hostile[:80]).status in (200, 400, 422)
    assert api.get("incidents", text=hostile[:200]).status in (200, 400, 422)
    assert api.get("silences").status == 200


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_deployments_are_shown_and_found(api: Any, make_alert: Any, hostile: str) -> None:
    (incident,) = api.take(make_alert(deployment_id=hostile, incident_key=f"{hostile}/1/data_drift/0/1"))
    (listed,) = api.get("incidents").json["incidents"]
    assert listed["deployments"] == [hostile] and api.get(f"incidents/{incident}").status == 200
    found = api.get("incidents", deployment=hostile[:256])
    assert found.status in (200, 422)
    if len(hostile) <= 256 and found.status == 200:
        assert len(found.json["incidents"]) == 1


def test_times_that_no_calendar_has_are_left_out(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert(change_time_us=-(10**18), detection_time_us=9 * 10**18))
    shown = api.get(f"incidents/{incident}")
    assert shown.status == 200 and shown.json["incident"]["started"] is None


def test_a_silence_is_made_listed_and_ended(api: Any) -> None:
    body = {"match": {"deployment": "credit-*", "severity": ["info", "warning"]}, "duration": "2h", "reason": "load"}
    made = api.post("silences", body)
    assert made.status == 201
    silence = made.json
    assert silence["author"] == "operator-person" and silence["state"] == "active" and silence["match"] == body["match"]
    ends = dt.datetime.fromisoformat(silence["ends"]).timestamp() * 1000
    assert ends == pytest.approx(api.now_ms + 2 * 3_600_000, abs=1000)
    assert api.get(f"silences/{silence['id']}").json == silence
    assert [s["id"] for s in api.get("silences").json["silences"]] == [silence["id"]]
    api.now_ms += 1000
    assert api.post(f"silences/{silence['id']}/end", {"reason": "early"}).json["state"] == "expired"
    assert api.get("silences").json["silences"] == []
    assert len(api.get("silences", all="true").json["silences"]) == 1
    assert api.post(f"silences/{silence['id']}/end").status == 409
    assert [event["action"] for event in api.audit()][-2:] == ["silence.created", "silence.ended"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"match": {}}, 422),
        ({"match": {"deploymnt": "x"}}, 400),
        ({"match": {"deployment": {"regex": "("}}}, 400),
        ({"match": {"deployment": {"nope": "x"}}}, 400),
        ({"match": {"deployment": []}}, 400),
        ({"match": "deployment"}, 422),
        ({"reason": ""}, 422),
        ({"duration": None}, 422),
        ({"ends": "2099-01-01T00:00:00Z"}, 422),
        ({"duration": None, "ends": "yesterday"}, 422),
        ({"duration": None, "ends": "2020-01-01T00:00:00Z"}, 400),
        ({"duration": None, "ends": "9999-12-31T23:59:59Z"}, 400),
        ({"duration": None, "ends": "2027-06-01T00:00:00"}, 422),
        ({"starts": "2027-06-01T00:00:00Z", "duration": None, "ends": "2027-05-01T00:00:00Z"}, 400),
    ],
)
def test_a_silence_that_makes_no_sense_is_refused(api: Any, changes: dict[str, Any], status: int) -> None:
    body = {"match": {"deployment": "x"}, "duration": "1h", "reason": "x", **changes}
    answer = api.post("silences", {name: value for name, value in body.items() if value is not None})
    assert answer.status == status, answer.body
    assert answer.json["detail"]
    assert api.get("silences", all="true").json["silences"] == []


def test_silences_come_in_pages(api: Any) -> None:
    for number in range(5):
        api.now_ms += number % 2
        api.post("silences", {"match": {"deployment": f"d{number}"}, "duration": "1h", "reason": "x"})
    first = api.get("silences", limit=2).json
    second = api.get("silences", limit=2, before=first["next"]).json
    third = api.get("silences", limit=2, before=second["next"]).json
    found = [s["id"] for page in (first, second, third) for s in page["silences"]]
    assert len(found) == len(set(found)) == 5 and third["next"] is None


def test_a_silence_is_named_by_its_beginning(api: Any) -> None:
    made = [
        api.post("silences", {"match": {"deployment": str(n)}, "duration": "1h", "reason": "x"}).json["id"]
        for n in range(2)
    ]
    with api.database.transaction() as connection:
        for number, old in enumerate(made):
            where = t.silences.c.id == old
            connection.execute(sa.update(t.silences).where(where).values(id=f"abcd{number}0123456"))
    assert api.get("silences/abcd0").json["id"] == "abcd00123456"
    answer = api.post("silences/abcd/end")
    assert answer.status == 409 and "abcd00123456, abcd10123456" in answer.json["do"]
    assert api.get("silences/abc%25").status == 404 and api.get("silences/zzzz").status == 404
    assert api.post("silences/abcd1/end").status == 200


def test_of_many_signals_the_strongest_are_shown_and_all_are_counted(api: Any, make_alert: Any) -> None:
    api.take(*(make_alert(number) for number in range(12)))
    (listed,) = api.get("incidents").json["incidents"]
    shown = api.get(f"incidents/{listed['id']}", signals=5, entries=3).json
    assert shown["incident"]["signals"] == shown["incident"]["firing"] == 12
    assert len(shown["signals"]) == 5 and len(shown["story"]) == 3
    assert api.get(f"incidents/{listed['id']}", signals=1001).status == 422
