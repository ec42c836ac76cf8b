"""A token that is limited to deployments sees and touches those alone, whatever it asks for."""

import dataclasses
import json
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from services.access.roles import Role
from services.access.tokens import Identity
from services.alerting.api.silences import _within
from services.alerting.database import tables as t
from services.alerting.notify.kinds import Kind
from services.alerting.notify.listing import enqueue_direct

ACTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("acknowledge", {}),
    ("unacknowledge", {}),
    ("resolve", {"reason": "x"}),
    ("reopen", {}),
    ("note", {"reason": "x"}),
    ("assign", {"to": "x"}),
    ("silence", {"duration": "1h", "reason": "x"}),
)


@pytest.fixture
def two(api: Any, make_apart: Any) -> tuple[str, str]:
    """An incident of credit-eu and one of fraud."""
    first, second = api.take(
        make_apart(1, deployment_id="credit-eu", owner="credit-team"),
        make_apart(2, deployment_id="fraud", owner="fraud-team"),
    )
    return first, second


@pytest.fixture
def shared(api: Any, make_alert: Any) -> str:
    """One incident of credit-eu and fraud: both read the same feature, which changed in the same minute."""
    (incident,) = api.take(
        make_alert(1, deployment_id="credit-eu", owner="credit-team", tags={"secret": "credit-secret"}),
        make_alert(2, deployment_id="fraud", owner="fraud-team", severity="critical", tags={"secret": "fraud-secret"}),
    )
    shown = api.get("incidents").json["incidents"]
    assert len(shown) == 1 and sorted(shown[0]["deployments"]) == ["credit-eu", "fraud"]
    return str(incident)


def message(api: Any, *incidents: str, status: str = "dead") -> int:
    """A row of the outbox about some incidents."""
    with api.database.transaction() as connection:
        key = enqueue_direct(connection, "pager", Kind.TEST, "x", api.now_ms)
        about = [{"incident": each, "status": "open", "revision": 1, "episode": 1} for each in incidents]
        n = t.notifications.c
        connection.execute(sa.update(t.notifications).where(n.key == key).values(incidents=about, status=status))
        return int(connection.execute(sa.select(n.id).where(n.key == key)).scalar_one())


def test_lists_have_ones_own_alone(api: Any, two: tuple[str, str]) -> None:
    credit = api.token("owner", "credit-*")
    assert [each["id"] for each in api.get("incidents", token=credit).json["incidents"]] == [two[0]]
    assert api.get("incidents", token=credit, deployment="fraud").json == {"incidents": [], "next": None}
    assert api.get("incidents", token=credit, text="fraud").json["incidents"] == []
    assert api.get("incidents", token=api.token("owner", "nothing")).json["incidents"] == []
    assert len(api.get("incidents", token=api.token("owner", "fraud", "credit-*")).json["incidents"]) == 2


def test_pages_of_a_limited_token_are_whole(api: Any, make_apart: Any) -> None:
    names = [f"{'credit' if number % 3 else 'fraud'}-{number}" for number in range(20)]
    api.take(*(make_apart(number, deployment_id=name) for number, name in enumerate(names)))
    fraud = api.token("owner", "fraud-*")
    found, before = [], None
    for _ in range(10):
        page = api.get("incidents", token=fraud, limit=2, **({} if before is None else {"before": before})).json
        assert len(page["incidents"]) <= 2
        found += [each["deployments"][0] for each in page["incidents"]]
        before = page["next"]
        if before is None:
            break
    assert found == [name for name in reversed(names) if name.startswith("fraud")]


@pytest.mark.parametrize(("action", "body"), ACTIONS)
def test_what_is_anothers_is_not_there(api: Any, two: tuple[str, str], action: str, body: dict[str, Any]) -> None:
    credit = api.token("owner", "credit-*")
    before = len(api.get(f"incidents/{two[1]}").json["story"])
    answer = api.post(f"incidents/{two[1]}/{action}", body, token=credit)
    nowhere = api.post(f"incidents/{'0' * 12}/{action}", body, token=credit)
    assert answer.status == 404
    # The same answer, word for word, as for one that there is not.
    same = {**answer.json, "instance": "", "came": ""}
    assert same == {**nowhere.json, "instance": "", "came": ""}
    assert len(api.get(f"incidents/{two[1]}").json["story"]) == before
    assert api.get(f"incidents/{two[1]}", token=credit).status == 404


@pytest.mark.parametrize(("action", "body"), ACTIONS)
def test_what_is_ones_own_can_be_answered(api: Any, two: tuple[str, str], action: str, body: dict[str, Any]) -> None:
    assert api.post(f"incidents/{two[0]}/{action}", body, token=api.token("owner", "credit-*")).status == 200


def test_the_beginning_of_an_id_tells_nothing_of_others(api: Any, two: tuple[str, str]) -> None:
    with api.database.transaction() as connection:
        row = dict(connection.execute(sa.select(t.incidents).where(t.incidents.c.id == two[1])).mappings().one())
        twin = two[0][:4] + two[1][4:]
        connection.execute(sa.insert(t.incidents).values(**{**row, "id": twin}))
        connection.execute(sa.insert(t.incident_deployments).values(incident_id=twin, deployment_id="fraud"))
    credit = api.token("owner", "credit-*")
    assert api.get(f"incidents/{two[0][:4]}", token=credit).json["incident"]["id"] == two[0]
    assert api.post(f"incidents/{two[0][:4]}/note", {"reason": "x"}, token=credit).status == 200
    assert api.get(f"incidents/{two[0][:4]}").status == 409


def test_of_a_shared_incident_the_own_part_is_seen_and_nothing_of_the_rest(api: Any, shared: str) -> None:
    credit = api.token("owner", "credit-*")
    api.post(f"incidents/{shared}/note", {"reason": "a note by a person"})
    for answer in (api.get(f"incidents/{shared}", token=credit), api.get("incidents", token=credit)):
        text = answer.body.decode()
        assert "fraud" not in text and "credit-eu" in text
    shown = api.get(f"incidents/{shared}", token=credit).json
    assert shown["incident"]["withheld"] == 1 and shown["incident"]["severity"] == "error"
    assert [signal["deployment"] for signal in shown["signals"]] == ["credit-eu"]
    assert "a note by a person" in json.dumps(shown["story"])
    whole = api.get(f"incidents/{shared}").json
    assert whole["incident"]["withheld"] == 0 and whole["incident"]["severity"] == "critical"


def test_a_search_does_not_tell_what_is_hidden(api: Any, shared: str) -> None:
    credit = api.token("owner", "credit-*")
    for query in ({"severity": "critical"}, {"owner": "fraud-team"}, {"text": "fraud"}):
        assert api.get("incidents", token=credit, **query).json["incidents"] == [], query
    assert len(api.get("incidents", token=credit, text=shared).json["incidents"]) == 1


@pytest.mark.parametrize(("action", "body"), ACTIONS)
def test_a_shared_incident_is_not_changed_by_one_of_its_parts(
    api: Any, shared: str, action: str, body: dict[str, Any]
) -> None:
    answer = api.post(f"incidents/{shared}/{action}", body, token=api.token("owner", "credit-*"))
    assert answer.status == 403 and answer.json["type"].endswith(":deployments") and "fraud" not in answer.body.decode()
    both = api.token("owner", "credit-*", "fraud")
    assert api.post(f"incidents/{shared}/{action}", body, token=both).status == 200


def test_what_driftline_says_of_itself_is_of_no_deployment(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert(deployment_id="", monitor="system:streams-lag", incident_key="system/1"))
    assert api.get(f"incidents/{incident}", token=api.token("owner", "credit-*")).status == 404
    assert api.get(f"incidents/{incident}", token=api.token("owner", "*")).status == 200


@pytest.mark.parametrize(
    ("match", "allowed"),
    [
        ({"deployment": "credit-eu"}, True),
        ({"deployment": "credit-*"}, True),
        ({"deployment": "credit-eu-*", "monitor": "data_drift"}, True),
        ({"deployment": ["credit-eu", "credit-ch"]}, True),
        ({"deployment": "fraud"}, False),
        ({"deployment": ["credit-eu", "fraud"]}, False),
        ({"deployment": "*"}, False),
        ({"deployment": "cred*"}, False),
        ({"deployment": "?redit-eu"}, False),
        ({"deployment": []}, False),
        ({"deployment": {"not": "fraud"}}, False),
        ({"deployment": {"regex": "credit-.*"}}, False),
        ({"monitor": "data_drift"}, False),
        ({"owner": "credit-team"}, False),
    ],
)
def test_a_limited_token_silences_its_own_alone(api: Any, match: dict[str, Any], allowed: bool) -> None:
    body = {"match": match, "duration": "1h", "reason": "x"}
    answer = api.post("silences", body, token=api.token("owner", "credit-*"))
    assert answer.status == (201 if allowed else 403), answer.body


@given(
    st.lists(st.sampled_from(["a*", "ab", "b?", "*", "ab*", "c[d]"]), min_size=1, max_size=3),
    st.text("abcd*?[]", min_size=1, max_size=4),
    st.text("abcd", min_size=1, max_size=4),
)
def test_whatever_a_silence_within_ones_deployments_takes_is_ones_own(
    patterns: list[str], asked: str, name: str
) -> None:
    """Against the routing file's own matching: no name that the silence takes lies outside."""
    from services.alerting.policy.matching import parse_match

    who = Identity("x", Role.OWNER, tuple(patterns))
    if _within({"deployment": asked}, who) and parse_match({"deployment": asked}, "match")({"deployment": name}):
        assert who.sees(name)


def test_silences_of_others_are_not_there(api: Any, two: tuple[str, str]) -> None:
    made = [
        api.post("silences", {"match": {"deployment": name}, "duration": "1h", "reason": name}).json["id"]
        for name in ("credit-eu", "fraud", "*")
    ]
    for incident in two:
        api.post(f"incidents/{incident}/silence", {"duration": "1h", "reason": "x"})
    credit = api.token("owner", "credit-*")
    seen = api.get("silences", token=credit).json["silences"]
    assert {s["incident"] or s["match"]["deployment"] for s in seen} == {two[0], "credit-eu"}
    assert [api.get(f"silences/{each}", token=credit).status for each in made] == [200, 404, 404]
    assert [api.post(f"silences/{each}/end", token=credit).status for each in made] == [200, 404, 404]
    assert len(api.get("silences").json["silences"]) == 4


def test_messages_of_others_are_not_there(api: Any, two: tuple[str, str]) -> None:
    own, others, both, none = message(api, two[0]), message(api, two[1]), message(api, *two), message(api)
    credit = api.token("owner", "credit-*")
    seen = api.get("notifications", token=credit).json["notifications"]
    assert [each["id"] for each in seen] == [own]
    assert {each["id"] for each in api.get("notifications").json["notifications"]} >= {own, others, both, none}
    limited = api.token("operator", "credit-*")
    for number in (others, both, none):
        assert api.post("notifications/redrive", {"ids": [own, number]}, token=limited).status == 404
    assert api.post("notifications/redrive", {"ids": [own]}, token=limited).json["redriven"] == 1


def test_what_is_everybodys_needs_a_token_without_limits(api: Any) -> None:
    limited = api.token("operator", "credit-*")
    assert api.post("notifications/redrive", {"receiver": "pager"}, token=limited).status == 403
    assert api.post("receivers/pager/test", {}, token=limited).status == 403
    assert api.post("reload", {}, token=api.token("admin", "credit-*")).status == 403
    assert api.reloaded == []


def test_explaining_an_incident_of_others_is_refused(api: Any, two: tuple[str, str]) -> None:
    credit = api.token("owner", "credit-*")
    assert api.post("route/explain", {"incident": two[1]}, token=credit).status == 404
    assert api.post("route/explain", {"incident": two[0]}, token=credit).status == 200


def test_what_inhibits_ones_own_is_not_named(api: Any, make_apart: Any) -> None:
    from services.alerting.policy.matching import parse_match
    from services.alerting.policy.model import Inhibition

    source, target = parse_match({"monitor": "service"}, "x"), parse_match({"monitor": "data_drift"}, "x")
    inhibition = Inhibition("pipeline", source, target, (), 1)
    api.holder.current = dataclasses.replace(api.holder.current, inhibitions=(inhibition,))
    api.take(
        make_apart(1, deployment_id="fraud", monitor="service", incident_key="fraud/1/service"),
        make_apart(2, deployment_id="credit-eu"),
    )
    incident = api.get("incidents", deployment="credit-eu").json["incidents"][0]["id"]
    whole = api.get(f"incidents/{incident}").json
    assert whole["incident"]["state"] == "silenced" and "fraud" in whole["signals"][0]["mute"]["reason"]
    own = api.get(f"incidents/{incident}", token=api.token("owner", "credit-*"))
    assert own.json["incident"]["state"] == "silenced" and "pipeline" in own.json["signals"][0]["mute"]["reason"]
    assert "fraud" not in json.dumps(own.json["signals"])
    assert "fraud" not in own.body.decode()
