"""One evening on call, played by the real program: who hears of what, and when."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)

POLICY = """\
version: 1
defaults: {group_wait: 3m, group_interval: 6m, repeat_interval: 12m}
correlation: {across: none}
receivers:
  - {name: pager, type: pagerduty, routing_key_env: KEY_PAGER, rate_per_second: 1000, burst: 1000}
  - {name: lead, type: pagerduty, routing_key_env: KEY_LEAD, rate_per_second: 1000, burst: 1000}
  - {name: chat, type: slack, token_env: SLACK_TOKEN, channel: CHAT, rate_per_second: 1000, burst: 1000}
  - {name: owners, type: slack, token_env: SLACK_TOKEN, channel: OWNERS, rate_per_second: 1000, burst: 1000}
roles:
  model-owner: {by_owner: {team-a: [owners], "*": [chat]}}
escalations:
  standard: {steps: [{after: 8m, notify: [lead]}]}
route:
  notify: [chat]
  routes:
    - {match: {deployment: "play-repeat*"}, notify: [pager]}
    - {match: {deployment: "play-escalate*"}, notify: [pager], escalate: standard, group_wait: 0s, repeat_interval: 0s}
    - {match: {deployment: "play-group*"}, notify: [pager], group_by: [owner]}
    - {match: {deployment: "play-silent*"}, notify: [pager], group_wait: 0s, repeat_interval: 0s}
    - {match: {deployment: "play-pipe*"}, notify: [pager], repeat_interval: 0s}
    - {match: {deployment: "play-role*"}, notify: ["role:model-owner"], group_wait: 0s}
    - {match: {deployment: "play-ack*"}, notify: [pager, chat], group_wait: 0s, repeat_interval: 10m}
    - {match: {deployment: "play-flap*"}, notify: [pager], group_wait: 0s, group_interval: 1m, repeat_interval: 0s}
inhibit:
  - name: pipeline
    source: {deployment: play-pipe-1, monitor: data_quality}
    target: {deployment: play-pipe-2, monitor: data_drift}
    equal: [owner]
"""

HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def evening(make_play: Any, make_alert: Any) -> Iterator[Any]:
    """The whole play, thirty minutes of it in half a minute; every test looks at its part."""
    play = make_play("evening")
    play.write(POLICY)
    play.start()

    def alert(deployment: str, number: int = 1, status: str = "firing", **changes: Any) -> Any:
        return make_alert(number, status, deployment_id=f"play-{deployment}", **changes)

    play.publish(
        alert("repeat"),
        alert("escalate-1"),
        alert("escalate-2"),
        alert("group-1", owner="team-a"),
        alert("group-2", owner="team-a"),
        alert("group-3", owner="team-b"),
        alert("role-1", owner="team-a"),
        alert("role-2", owner="team-b"),
        alert("ack"),
        alert("flap"),
        alert("pipe-1", monitor="data_quality", owner="team-a"),
        alert("pipe-2", owner="team-a"),
        alert(
            "pipe-2",
            2,
            owner="team-b",
            change_time_us=1_371_045_600_000_000 + 900 * HOUR_US,
            detection_time_us=1_371_045_600_000_000 + 901 * HOUR_US,
        ),
    )
    play.command("silences", "add", "deployment=play-silent*", "--for", "9m", "--reason", "a release")
    play.publish(alert("silent-1"), alert("silent-2"))
    play.until(2)
    incidents = {row["deployments"][0]: row["id"] for row in json.loads(play.command("incidents", "list", "--json"))}
    play.command("incidents", "ack", incidents["play-escalate-2"], "--reason", "I am on it")
    play.command("incidents", "ack", incidents["play-ack"], "--reason", "I look at it")
    play.publish(alert("flap", 1, "resolved"))
    play.until(4)
    flap = {
        "change_time_us": 1_371_057_600_000_000 + 86_400_000_000,
        "detection_time_us": 1_371_057_660_000_000 + 86_400_000_000,
    }
    play.publish(alert("flap", 2, **flap))
    play.publish(alert("silent-2", 1, "resolved"))
    play.until(5)
    play.publish(alert("group-1", 1, "resolved", owner="team-a"))
    play.publish(alert("repeat", 2, monitor="prediction_drift"))
    play.until(14)
    play.publish(alert("group-2", 1, "resolved", owner="team-a"))
    play.until(27)
    play.publish(alert("repeat", 1, "resolved"), alert("repeat", 2, "resolved", monitor="prediction_drift"))
    play.until(36)
    yield play
    assert play.end() == 0


def test_the_first_message_waits_for_the_group_and_names_all_of_it(evening: Any) -> None:
    messages = [m for m in evening.heard("pager") if m.about & {"play-group-1", "play-group-2"}]
    first = messages[0]
    assert 2.5 <= first.minute <= 5.5
    assert first.kind == "trigger"
    assert {"play-group-1", "play-group-2"} <= first.about
    assert "play-group-3" not in first.about


def test_another_value_of_the_label_is_another_group(evening: Any) -> None:
    [first, *_] = evening.heard("pager", "play-group-3")
    assert 2.5 <= first.minute <= 5.5
    assert not first.about & {"play-group-1", "play-group-2"}


def test_a_group_ends_only_when_all_of_it_is_over(evening: Any) -> None:
    [end] = [m for m in evening.heard("pager", "play-group-1") if m.kind == "resolve"]
    assert 13.9 <= end.minute <= 22


def test_a_change_waits_for_the_group_interval_and_changes_the_same_incident(evening: Any) -> None:
    messages = evening.heard("pager", "play-repeat")
    assert [m.kind for m in messages[:2]] == ["trigger", "trigger"]
    assert len({m.body["dedup_key"] for m in messages}) == 1
    first, second = messages[:2]
    assert 2.5 <= first.minute <= 5.5
    assert first.minute + 5.5 <= second.minute <= first.minute + 9


def test_what_nobody_took_is_repeated_and_then_resolved(evening: Any) -> None:
    messages = evening.heard("pager", "play-repeat")
    repeats = [m for m in messages if m.kind == "trigger"][2:]
    assert repeats, "nobody was reminded"
    assert messages[1].minute + 11.5 <= repeats[0].minute <= messages[1].minute + 16
    assert messages[-1].kind == "resolve"
    assert 26.9 <= messages[-1].minute <= 35


def test_a_role_is_filled_by_the_owner_of_the_deployment(evening: Any) -> None:
    assert next(m.kind for m in evening.heard("OWNERS", "play-role-1")) == "post"
    assert not evening.heard("CHAT", "play-role-1")
    assert evening.heard("CHAT", "play-role-2")


def test_nobody_acknowledged_so_the_next_one_is_called(evening: Any) -> None:
    [first, *_] = evening.heard("lead", "play-escalate-1")
    assert first.kind == "trigger"
    assert 7.5 <= first.minute <= 11
    assert not evening.heard("lead", "play-escalate-2"), "it was acknowledged in time"


def test_an_acknowledgement_by_command_reaches_pager_and_chat_and_ends_the_reminders(evening: Any) -> None:
    pager = evening.heard("pager", "play-ack")
    assert [m.kind for m in pager] == ["trigger", "acknowledge"]
    chat = evening.heard("CHAT", "play-ack")
    assert chat[0].kind == "post"
    assert any(m.kind == "update" and "cknowledged" in str(m.body) for m in chat)
    assert "I look at it" in str([m.body for m in chat])


def test_a_silence_holds_the_message_back_until_it_ends(evening: Any) -> None:
    [first, *_] = evening.heard("pager", "play-silent-1")
    assert first.kind == "trigger"
    assert 8.5 <= first.minute <= 13


def test_what_ended_within_the_silence_is_never_told(evening: Any) -> None:
    assert not evening.heard("pager", "play-silent-2")


def test_a_broken_pipeline_mutes_the_drift_it_causes_and_only_that(evening: Any) -> None:
    assert evening.heard("pager", "play-pipe-1")
    told = evening.heard("pager", "play-pipe-2")
    assert told, "team-b's alarm has another owner, so the pipeline does not explain it"
    assert all("team-a" not in str(m.body.get("payload", {}).get("custom_details", {}).get("owner", "")) for m in told)


def test_what_comes_back_soon_is_the_same_incident_opened_again(evening: Any) -> None:
    kinds = [m.kind for m in evening.heard("pager", "play-flap")]
    assert kinds == ["trigger", "resolve", "trigger"]
    assert [row["episode"] for row in evening.listed("play-flap")] == [2]


def test_every_decision_is_in_the_audit_with_its_reason(evening: Any) -> None:
    from driftline.codec import decode
    from services.kafka import read_to_end

    events = [decode(m.value())[1] for m in read_to_end(evening.settings, evening.settings.topics.audit)]
    actions = {event["action"] for event in events}
    assert {"incident.opened", "incident.joined", "incident.resolved", "incident.reopened"} <= actions
    assert {"incident.acknowledged", "incident.escalated", "silence.created", "silence.expired"} <= actions
    assert {"notification.decided", "notification.sent", "policy.loaded"} <= actions
    acknowledged = [event for event in events if event["action"] == "incident.acknowledged"]
    assert {event["reason"] for event in acknowledged} == {"I am on it", "I look at it"}
    assert {event["actor_kind"] for event in acknowledged} == {"human"}
    assert all(event["reason"] for event in events if event["action"] == "notification.decided")
