"""Messages, receivers, the routing file, and what Prometheus sees; no secret anywhere."""

from typing import Any

import pytest
import sqlalchemy as sa

from services.alerting.channels.base import Again, Failed, Sent
from services.alerting.database import tables as t
from services.alerting.metrics import _MOST, OTHER, Metrics, State
from services.alerting.notify.kinds import Kind
from services.alerting.notify.listing import enqueue_direct


def rows(api: Any, count: int, receiver: str = "pager", **values: Any) -> list[int]:
    with api.database.transaction() as connection:
        keys = [enqueue_direct(connection, receiver, Kind.TEST, f"number {n}", api.now_ms) for n in range(count)]
        n = t.notifications.c
        if values:
            connection.execute(sa.update(t.notifications).where(n.key.in_(keys)).values(**values))
        return [int(connection.execute(sa.select(n.id).where(n.key == key)).scalar_one()) for key in keys]


def test_messages_are_listed_by_status_and_receiver_in_pages(api: Any) -> None:
    pending = rows(api, 3)
    dead = rows(api, 2, "chat", status="dead", last_error="HTTP 400: no <script>")
    listed = api.get("notifications").json["notifications"]
    assert [each["id"] for each in listed] == sorted([*pending, *dead], reverse=True)
    assert [each["id"] for each in api.get("notifications", status="dead").json["notifications"]] == dead[::-1]
    assert [each["id"] for each in api.get("notifications", receiver="pager").json["notifications"]] == pending[::-1]
    assert api.get("notifications", receiver="<nobody>").json["notifications"] == []
    first = api.get("notifications", limit=3).json
    second = api.get("notifications", limit=3, before=first["next"]).json
    assert [e["id"] for p in (first, second) for e in p["notifications"]] == [e["id"] for e in listed]
    assert second["next"] is None


def test_dead_messages_are_tried_again_under_the_same_key(api: Any) -> None:
    dead = rows(api, 2, status="dead", attempts=9)
    before = {e["id"]: e["key"] for e in api.get("notifications").json["notifications"]}
    assert api.post("notifications/redrive", {"ids": [dead[0]]}).json == {"redriven": 1, "ids": [dead[0]]}
    after = {e["id"]: e for e in api.get("notifications").json["notifications"]}
    assert after[dead[0]]["status"] == "pending" and after[dead[0]]["attempts"] == 0
    assert after[dead[0]]["key"] == before[dead[0]] and after[dead[1]]["status"] == "dead"
    assert api.acted > 0
    assert api.post("notifications/redrive", {"receiver": "pager"}).json["ids"] == [dead[1]]
    (first, _) = api.audit("notification.redriven")
    assert first["actor"] == "operator-person" and first["actor_kind"] == "human"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"ids": []}, 422),
        ({"ids": [0]}, 422),
        ({"ids": [-1]}, 422),
        ({"ids": [2**63]}, 422),
        ({"ids": ["1; DROP TABLE"]}, 422),
        ({"ids": [1] * 501}, 422),
        ({"ids": [1], "receiver": "pager"}, 422),
        ({"ids": [4711]}, 404),
        ({"receiver": "nobody"}, 404),
        ({"receiver": "pager"}, 404),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(api: Any, body: dict[str, Any], status: int) -> None:
    answer = api.post("notifications/redrive", body)
    assert answer.status == status and answer.json["detail"]


def test_what_is_on_its_way_is_not_tried_again(api: Any) -> None:
    (pending,) = rows(api, 1)
    answer = api.post("notifications/redrive", {"ids": [pending]})
    assert answer.status == 409 and answer.json["came"] == f"{pending} is pending"


def test_receivers_are_shown_with_their_health_and_without_secrets(api: Any, canaries: tuple[str, ...]) -> None:
    rows(api, 2)
    rows(api, 1, "removed")
    with api.database.transaction() as connection:
        connection.execute(
            sa.insert(t.receivers).values(
                name="pager",
                hold_until_ms=api.now_ms + 60_000,
                failing_since_ms=api.now_ms - 1000,
                failures=3,
                last_error=f"HTTP 403: key {canaries[3]} is not known",
            )
        )
    answer = api.get("receivers")
    found = {each["name"]: each for each in answer.json["receivers"]}
    assert list(found) == ["pager", "chat", "removed"]
    assert not found["pager"]["healthy"] and found["pager"]["failures"] == 3 and found["pager"]["held_until"]
    assert found["pager"]["messages"] == {"pending": 2} and found["pager"]["type"] == "pagerduty"
    assert found["chat"]["healthy"] and found["chat"]["fallback"] == "pager" and found["chat"]["failing_since"] is None
    assert not found["removed"]["configured"] and not found["removed"]["healthy"]
    assert "***" in found["pager"]["last_error"]


def test_no_secret_is_in_any_answer(api: Any, make_alert: Any, canaries: tuple[str, ...]) -> None:
    (incident,) = api.take(make_alert())
    rows(api, 1, last_error=f"sent to {canaries[4]}")
    admin = api.token("admin")
    answers = [
        api.get(p) for p in ("incidents", f"incidents/{incident}", "route", "notifications", "receivers", "silences")
    ]
    answers += [
        api.get("route", token=admin),
        api.post("route/explain", {"incident": incident}),
        api.post("reload", token=admin),
    ]
    answers += [api.ask("GET", p, token=None) for p in ("/metrics", "/healthz", "/api/v1/openapi.json")]
    for answer in answers:
        assert answer.status == 200
        assert not [canary for canary in canaries if canary in answer.body.decode()]


def test_a_test_message_is_put_among_the_others(api: Any) -> None:
    assert api.post("receivers/chat/test").json == {"receiver": "chat", "queued": True}
    (queued,) = api.get("notifications").json["notifications"]
    assert queued["kind"] == "test" and queued["receiver"] == "chat" and "operator-person" in queued["reason"]
    assert api.acted == 1
    assert api.post("receivers/nobody/test").status == 404
    assert "pager, chat" in api.post("receivers/nobody/test").json["expected"]


def test_the_routing_file_is_shown_as_it_is_in_force(api: Any) -> None:
    shown = api.get("route").json
    assert shown["origin"] == "environment" and shown["route"]["path"] == "route"
    assert shown["route"]["notify"] == ["pager", "chat"] and shown["trouble"] == []


def test_who_would_be_told_is_explained(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    by_labels = api.post("route/explain", {"labels": {"deployment": "credit", "severity": "error"}}).json
    assert [told["receiver"] for told in by_labels["explanations"][0]["told"]] == ["pager", "chat"]
    by_incident = api.post("route/explain", {"incident": incident[:6]}).json
    assert by_incident["explanations"][0]["labels"]["deployment"] == "credit"
    silence = api.post("silences", {"match": {"deployment": "credit"}, "duration": "1h", "reason": "because"}).json
    muted = api.post("route/explain", {"labels": {"deployment": "credit"}}).json["explanations"][0]["muted"]
    assert [(each["kind"], each["name"]) for each in muted] == [("silence", silence["id"])]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"labels": {}, "incident": "0123"},
        {"labels": {"deployment": 1}},
        {"labels": {"": "x"}},
        {"labels": {str(n): "x" for n in range(101)}},
        {"labels": {"deployment": "x" * 1001}},
        {"incident": "xyz1"},
        {"incident": "0123\n"},
    ],
)
def test_a_question_about_routes_that_makes_no_sense_is_refused(api: Any, body: dict[str, Any]) -> None:
    assert api.post("route/explain", body).status == 422


def test_a_reload_says_what_is_in_force_or_why_not(api: Any) -> None:
    admin = api.token("admin")
    good = api.post("reload", token=admin)
    assert good.status == 200 and good.json["origin"] == "environment"
    assert api.reloaded[0].name == "admin-person" and api.reloaded[0].kind == "human"
    api.refusal = "line 7: receivers/0: 'nobody' is no receiver"
    bad = api.post("reload", token=admin)
    assert bad.status == 409 and "line 7" in bad.json["detail"] and "stays in force" in bad.json["detail"]
    counts = api.counts()
    assert counts['driftline_alerting_reloads_total{result="loaded"}'] == 1
    assert counts['driftline_alerting_reloads_total{result="refused"}'] == 1
    assert counts["driftline_alerting_policy_good"] == 0


# Metrics


def test_metrics_show_what_the_database_holds(api: Any, make_apart: Any) -> None:
    first, *_ = api.take(make_apart(1), make_apart(2, severity="critical"), make_apart(3), make_apart(3, "resolved"))
    api.post(f"incidents/{first}/acknowledge")
    api.post("silences", {"match": {"deployment": "x"}, "duration": "1h", "reason": "x"})
    rows(api, 2, status="dead")
    api.now_ms += 10_000
    rows(api, 1)
    counts = api.counts()
    assert counts['driftline_alerting_incidents{severity="error",status="acknowledged"}'] == 1
    assert counts['driftline_alerting_incidents{severity="critical",status="open"}'] == 1
    assert counts['driftline_alerting_incidents{severity="error",status="resolved"}'] == 1
    assert counts['driftline_alerting_signals_firing{origin="alerts"}'] == 2
    assert counts['driftline_alerting_messages{receiver="pager",status="dead"}'] == 2
    assert counts['driftline_alerting_messages{receiver="pager",status="pending"}'] == 1
    assert counts["driftline_alerting_silences"] == 1
    assert counts["driftline_alerting_unpublished"] == len(api.audit())
    assert counts['driftline_alerting_actions_total{action="acknowledge",result="done",via="api"}'] == 1


def test_labels_are_bounded_whatever_comes() -> None:
    metrics = Metrics()
    for number in range(_MOST + 50):
        metrics.attempt(f"receiver-{number}", "trigger", Sent())
        metrics.escalated(f"chain-{number}")
        metrics.in_doubt(f"receiver-{number}", "found")
    text = metrics.text(State(messages={(f"r{n}", "pending"): 1 for n in range(1000)})).decode()
    lines = [line for line in text.splitlines() if line.startswith("driftline_alerting_attempts_total")]
    assert len(lines) == _MOST + 1
    assert f'driftline_alerting_attempts_total{{kind="trigger",receiver="{OTHER}",result="sent"}} 50.0' in lines
    assert f'driftline_alerting_messages{{receiver="{OTHER}",status="pending"}} 1000.0' in text


def test_every_count_has_its_sample() -> None:
    metrics = Metrics()
    metrics.alerts({"opened": 2})
    metrics.decided("a", "trigger")
    metrics.merged("a", 3)
    metrics.attempt("a", "trigger", Again("x"))
    metrics.attempt("a", "trigger", Failed("x"))
    metrics.in_doubt("a", "repeated")
    metrics.delivered("a", -1.0)
    metrics.action("note", "cli", "done")
    metrics.rebuilt(used=7, malformed=0)
    metrics.dead_man(good=False)
    metrics.denied("token")
    metrics.lag(5)
    text = metrics.text().decode()
    for sample in (
        'alerts_total{result="opened"} 2.0',
        'decided_total{kind="trigger",receiver="a"} 1.0',
        'merged_total{receiver="a"} 3.0',
        'attempts_total{kind="trigger",receiver="a",result="again"} 1.0',
        'attempts_total{kind="trigger",receiver="a",result="failed"} 1.0',
        'in_doubt_total{receiver="a",result="repeated"} 1.0',
        'delivery_seconds_count{receiver="a"} 1.0',
        'actions_total{action="note",result="done",via="cli"} 1.0',
        'rebuilt_total{result="used"} 7.0',
        'dead_man_total{result="failed"} 1.0',
        'http_denied_total{reason="token"} 1.0',
        "lag 5.0",
    ):
        assert f"driftline_alerting_{sample}" in text, sample


def test_what_is_gone_from_the_database_is_gone_from_the_metrics() -> None:
    metrics = Metrics()
    metrics.text(State(messages={("a", "dead"): 1}, failing_seconds={"a": 5.0}, system={"system:kafka": 1}))
    text = metrics.text(State()).decode()
    assert 'receiver="a"' not in text and "system:kafka" not in text
