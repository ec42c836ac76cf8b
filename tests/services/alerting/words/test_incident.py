"""What a message about incidents says: of every kind, true to the state, the same each time, harmless, in bounds."""

import dataclasses
import random
import shlex
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftline.codec import decode, encode
from services.alerting.incidents.views import Mute, Signal
from services.alerting.notify.kinds import Kind
from services.alerting.policy.labels import labels_of
from services.alerting.words.incident import describe, incident_title
from services.alerting.words.system import SystemWords

QUALITY = {
    "stream": "quality:temperature",
    "role": "quality",
    "bins": ["valid", "out of range", "unseen", "missing", "refused"],
    "expected": [0.99, 0.004, 0.001, 0.004, 0.001],
    "observed": [600, 10, 0, 390, 0],
}
HOUR_US = 3_600_000_000
STATUSES = ["open", "acknowledged", "resolved"]


@pytest.fixture
def quality(make_alert: Any, make_signal: Any) -> Any:
    """A signal that explains drift: 39 % of the values of temperature are missing."""

    def build(number: int = 1, **changes: Any) -> Signal:
        causes = [{**make_alert()["causes"][0], **QUALITY}]
        made: Signal = make_signal(number, monitor="data_quality", causes=causes, **changes)
        return made

    return build


def system_signal(**changes: Any) -> Signal:
    words = SystemWords(
        "The streams do not keep up",
        ("40,000 messages wait.", "The oldest has waited for 12 min; 5 min are allowed."),
        "Look at the workers: driftline status.",
        "streams-lag",
    )
    made = Signal(
        9, "system:streams-lag", 1, "watch", "firing", "error", {"monitor": "system:streams-lag", "deployment": ""},
        1_371_045_600_000_000, 1_371_045_700_000_000, None, None, None, words.document(),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def texts(lines: Any) -> list[str]:
    return list(map(str, lines))


def test_a_trigger_says_all_there_is_to_know(make_delivery: Any, make_incident: Any, make_signal: Any) -> None:
    text = describe(make_delivery(Kind.TRIGGER, make_incident([make_signal()])))
    assert text.mark == "🟠" and str(text.headline) == "Data drift in credit, version 1"
    assert str(text.summary) == (
        "Data drift in credit, version 1. temperature: 62 % of rows lie above the reference's 9th decile (90.5), "
        "expected 10 %"
    )
    (part,) = text.parts
    what, since, sure, bad = texts(part.sentences)
    assert what.startswith("The inputs of credit no longer look like the reference")
    assert since.startswith("Since about 12 Jun 2013 14:00 UTC") and "49 times what it asks" in sure
    assert "52 % of rows" in bad and len(part.causes) == 2
    assert str(part.status) == "firing, error"
    assert text.news == () and text.more is None and text.story == () and not text.over
    assert "driftline windows show credit --stream temperature" in str(text.steps)
    assert dict(text.facts) == {
        "Deployment": "credit",
        "Version": "1",
        "Severity": "error",
        "Status": "open for 60 min",
        "Owner": "risk-team",
        "Rows since the change": "12,345",
        "Model": "credit-scorer",
        "Tags": "tier=1",
        "Since": "about 12 Jun 2013 14:00 UTC",
        "Incident": "0123456789ab",
    }
    assert str(text.command) == "driftline incidents show 0123456789ab"
    assert dict(text.links) == {
        "Incident": "https://driftline.example.org/alerting/incidents/0123456789ab",
        "Runbook": "https://wiki.example.org/runbooks/drift",
        "What this alarm means": "https://driftline.example.org/alerting/runbook#data_drift",
    }
    assert [plot["stream"] for plot in text.plots] == ["temperature", "carrier"]


def test_what_explains_the_others_comes_first_and_they_say_so(
    make_delivery: Any, make_incident: Any, make_signal: Any, quality: Any
) -> None:
    incident = make_incident([quality(1), make_signal(2), make_signal(3, monitor="prediction_drift")])
    text = describe(make_delivery(Kind.TRIGGER, incident))
    assert str(text.headline) == "Data quality change and 2 more alarms in credit, version 1"
    because = "probably because: data quality (unusable values of temperature)"
    assert str(text.summary).endswith(f"2 more alarms, {because}")
    first, *others = text.parts
    assert not [sentence for sentence in texts(first.sentences) if "because" in sentence]
    assert [str(part.sentences[0]) for part in others] == [f"P{because[1:]}."] * 2
    promised = [sum("false alarm" in sentence for sentence in texts(part.sentences)) for part in text.parts]
    assert promised == [1, 0, 0], "a promise that all keep is told once"
    assert all("Evidence 21.3 nats" in " ".join(texts(part.sentences)) for part in text.parts)
    assert "look where these values come from" in str(text.steps), "the first step is about what explains the rest"
    assert len(text.plots) == 2


@pytest.mark.parametrize(
    ("cause", "effect", "explained"),
    [
        ({"monitor": "data_quality"}, {"monitor": "data_drift"}, True),
        ({"monitor": "service"}, {"monitor": "prediction_drift"}, True),
        ({"monitor": "labels"}, {"monitor": "concept_drift"}, True),
        ({"monitor": "labels"}, {"monitor": "data_drift"}, False),
        ({"monitor": "data_drift"}, {"monitor": "data_drift"}, False),
        ({"monitor": "detector:adwin:x"}, {"monitor": "data_drift"}, False),
        ({"monitor": "data_quality"}, {"monitor": "data_drift", "deployment_id": "fraud"}, False),
        ({"monitor": "data_quality", "change_time_us": 1_371_045_600_000_000 + 2 * HOUR_US}, {}, False),
        ({"monitor": "data_quality", "change_time_us": 1_371_045_600_000_000 + HOUR_US}, {}, True),
    ],
)
def test_only_what_can_explain_another_alarm_does(
    make_delivery: Any,
    make_incident: Any,
    make_signal: Any,
    cause: dict[str, Any],
    effect: dict[str, Any],
    explained: bool,
) -> None:
    incident = make_incident([make_signal(1, **cause), make_signal(2, **effect)])
    _, second = describe(make_delivery(Kind.TRIGGER, incident)).parts
    assert ("Probably because" in str(second.sentences[0])) == explained


def test_an_upstream_cause_explains_other_deployments_and_is_named(
    make_delivery: Any, make_incident: Any, make_signal: Any, quality: Any
) -> None:
    signals = [quality(1)]
    signals += [make_signal(n, deployment_id=f"flights-{n}") for n in range(2, 14)]
    incident = make_incident(signals, upstream="source:weather-feed")
    text = describe(make_delivery(Kind.TRIGGER, incident))
    assert str(text.headline) == (
        "Data quality change and data drift in credit, flights-2 and 11 more (shared: source weather-feed)"
    )
    assert dict(text.facts)["Touches"] == "credit, flights-2, flights-3, flights-4, flights-5, flights-6 and 7 more"
    assert dict(text.facts)["Shared"] == "source weather-feed"
    assert len(text.parts) == 8 and str(text.more) == "and 5 more signals"
    assert all(str(part.sentences[0]).startswith("Probably because") for part in text.parts[1:])
    assert len(text.parts[-1].sentences) == 2, "the first ones say it in full, the others in a sentence"


def test_an_answer_says_who_and_why(make_delivery: Any, make_incident: Any, make_signal: Any, make_entry: Any) -> None:
    entries = (
        make_entry("incident.opened"),
        make_entry("notification.sent", 1, receiver="chat"),
        make_entry("incident.acknowledged", 2, by="ada", via="slack", reason="looking\nat the feed"),
    )
    incident = make_incident([make_signal()], status="acknowledged", acknowledged_by="ada", entries=entries)
    text = describe(make_delivery(Kind.ACKNOWLEDGE, incident))
    assert str(text.headline) == "Acknowledged: Data drift in credit, version 1"
    assert texts(text.news) == ["ada took it at 12 Jun 2013 17:22 UTC by Slack: looking at the feed"]
    assert text.story == text.news
    assert dict(text.facts)["Status"] == "acknowledged by ada, open for 60 min"


def test_given_back_and_still_open_are_said(make_delivery: Any, make_incident: Any, make_signal: Any) -> None:
    back = describe(make_delivery(Kind.ACKNOWLEDGE, make_incident([make_signal()])))
    assert str(back.headline).startswith("Given back: ") and texts(back.news) == ["Nobody has it any more."]
    still = describe(make_delivery(Kind.REPEAT, make_incident([make_signal()])))
    assert str(still.headline).startswith("Still open: ")
    assert texts(still.news) == ["Still open after 60 min; nobody has taken it."]


def test_only_what_is_new_to_this_receiver_is_news(
    make_delivery: Any, make_incident: Any, make_signal: Any, make_entry: Any
) -> None:
    joined = {"monitor": "data_drift", "deployment": "fraud", "version": "7", "severity": "error"}
    entries = (
        make_entry("incident.noted", 1, by="ada", via="cli", reason="the old news"),
        make_entry("notification.sent", 2, receiver="chat"),
        make_entry("incident.joined", 3, reason="it shares the feature wind", **joined),
        make_entry("notification.sent", 4, receiver="mail"),
        make_entry("incident.noted", 5, by="eve", via="api", reason="restarted the feed"),
    )
    incident = make_incident([make_signal()], entries=entries)
    told = texts(describe(make_delivery(Kind.UPDATE, incident)).news)
    assert told == [
        "New at 12 Jun 2013 17:23 UTC, data drift in fraud, version 7 (error): it shares the feature wind",
        "eve noted at 12 Jun 2013 17:25 UTC by the HTTP interface: restarted the feed",
    ]
    mail = describe(make_delivery(Kind.UPDATE, incident, receiver="mail"))
    assert [line.partition(" ")[0] for line in texts(mail.news)] == ["eve"]
    assert [line.partition(" ")[0] for line in texts(mail.story)] == ["ada", "eve"]


def test_many_changes_are_counted(make_delivery: Any, make_incident: Any, make_signal: Any, make_entry: Any) -> None:
    entries = tuple(make_entry("incident.noted", n, by="ada", reason=f"note {n}") for n in range(20))
    text = describe(make_delivery(Kind.UPDATE, make_incident([make_signal()], entries=entries)))
    assert str(text.news[0]) == "14 earlier changes." and len(text.news) == 7
    assert len(text.story) == 5 and str(text.story[-1]).endswith("note 19")


def test_an_end_says_how_it_ended(make_delivery: Any, make_incident: Any, make_signal: Any, make_entry: Any) -> None:
    over = make_incident([make_signal(ended=True)], status="resolved", resolved_ms=1_371_057_630_000 + 5_400_000)
    text = describe(make_delivery(Kind.RESOLVE, over))
    assert text.over and text.mark == "✅" and text.steps is None and text.plots == ()
    assert str(text.headline) == "Resolved: Data drift in credit, version 1"
    assert texts(text.news) == ["Over: none of its alarms fires any more, 90 min after it opened."]
    assert [str(part.status) for part in text.parts] == ["resolved at 13 Jun 2013 17:20 UTC"]
    assert "The monitor reports this incident over" in texts(text.parts[0].sentences)[1]

    by_hand = dataclasses.replace(
        over,
        signals=(make_signal(),),
        entries=(make_entry("incident.resolved", 90, by="ada", via="pagerduty", reason="a known release"),),
    )
    text = describe(make_delivery(Kind.RESOLVE, by_hand))
    assert texts(text.news) == [
        "Resolved by ada, 90 min after it opened; 1 of its alarms still fire.",
        "ada resolved it at 12 Jun 2013 18:50 UTC by PagerDuty: a known release",
    ]


def test_whoever_looks_at_an_incident_that_is_over_still_sees_what_it_was(
    make_delivery: Any, make_incident: Any, make_signal: Any
) -> None:
    text = describe(make_delivery(Kind.UPDATE, make_incident([make_signal(ended=True)], status="resolved")))
    assert text.over and str(text.headline).startswith("Resolved: ") and text.steps is None
    assert [plot["stream"] for plot in text.plots] == ["temperature", "carrier"]


def test_a_first_message_that_comes_after_the_end_tells_of_the_beginning_and_says_so(
    make_delivery: Any, make_incident: Any, make_signal: Any
) -> None:
    """A pager must see the beginning before the end that follows it."""
    over = make_incident([make_signal(ended=True)], status="resolved", resolved_ms=1_371_060_000_000)
    for incidents in ((over,), (over, over)):
        text = describe(make_delivery(Kind.TRIGGER, *incidents))
        assert not text.over and text.mark == "🟠" and "Resolved" not in str(text.headline)
        assert "could not be sent earlier" in str(text.news[0])
    assert str(describe(make_delivery(Kind.TRIGGER, over)).headline) == "Data drift in credit, version 1"


def test_what_is_opened_again_or_comes_and_goes_says_so(
    make_delivery: Any, make_incident: Any, make_signal: Any
) -> None:
    again = describe(make_delivery(Kind.TRIGGER, make_incident([make_signal()], episode=3)))
    assert str(again.headline) == "Again: Data drift in credit, version 1"
    assert texts(again.news) == ["Opened again, for the 2nd time."]
    flapping = describe(make_delivery(Kind.REPEAT, make_incident([make_signal()], episode=5, flapping=True)))
    assert "It comes and goes; while it does, only reminders are sent." in texts(flapping.news)
    assert dict(flapping.facts)["Status"] == "open for 60 min; opened 5 times, comes and goes"


@pytest.mark.parametrize(
    ("mute", "status"),
    [
        (
            Mute("silence", "abc", "ada: new feature store", 1_371_060_000_000),
            "silenced until 12 Jun 2013 18:00 UTC: ada: new feature store",
        ),
        (
            Mute("maintenance", "release", "ada: release", 1_371_060_000_000),
            "under maintenance until 12 Jun 2013 18:00 UTC: ada: release",
        ),
        (Mute("inhibition", "pipeline", "data quality fires", None), "muted by pipeline: data quality fires"),
    ],
)
def test_what_is_silenced_says_by_whom_and_until_when(
    make_delivery: Any, make_incident: Any, make_signal: Any, mute: Mute, status: str
) -> None:
    text = describe(make_delivery(Kind.UPDATE, make_incident([make_signal(mute=mute)])))
    assert text.mark == "🔕" and str(text.headline).startswith("Silenced: ")
    assert str(text.parts[0].status) == status
    assert dict(text.facts)["Status"].startswith("silenced, open for")


def test_a_silence_says_until_when_and_an_assignment_to_whom(
    make_delivery: Any, make_incident: Any, make_signal: Any, make_entry: Any
) -> None:
    entries = (
        make_entry("incident.silenced", 1, by="ada", via="cli", reason="release", until_ms="1371060000000"),
        make_entry("incident.assigned", 2, by="ada", via="cli", to="eve"),
    )
    text = describe(make_delivery(Kind.UPDATE, make_incident([make_signal()], entries=entries, assigned_to="eve")))
    assert texts(text.news) == [
        "ada silenced it until 12 Jun 2013 18:00 UTC at 12 Jun 2013 17:21 UTC by the command line: release",
        "ada assigned it to eve at 12 Jun 2013 17:22 UTC by the command line",
    ]
    assert dict(text.facts)["Assigned to"] == "eve"


def test_who_is_told_besides_the_routes_learns_why(make_delivery: Any, make_incident: Any, make_signal: Any) -> None:
    because = "nobody acknowledged it within 15 min"
    text = describe(make_delivery(Kind.TRIGGER, make_incident([make_signal()]), because=because))
    assert texts(text.news) == [f"You are told of this because: {because}."]


def test_a_group_has_a_part_for_each_incident(make_delivery: Any, make_incident: Any, make_signal: Any) -> None:
    incidents = [
        make_incident([make_signal(n, deployment_id=f"d{n}", severity=severity)], id=f"{n:012x}", status=status)
        for n, severity, status in ((1, "warning", "open"), (2, "critical", "open"), (3, "error", "resolved"))
    ]
    text = describe(make_delivery(Kind.TRIGGER, *incidents, group_labels=(("owner", "risk-team"),)))
    assert str(text.headline) == "2 incidents, 1 more resolved, in 3 deployments (owner=risk-team)"
    assert text.mark == "🔴"
    assert [str(part.headline) for part in text.parts] == [f"Data drift in d{n}, version 1" for n in (1, 2, 3)]
    assert str(text.parts[1].status) == "open, critical, 000000000002"
    assert dict(text.facts)["Severities"] == "1 critical, 1 warning" and dict(text.facts)["Touches"] == "d1, d2, d3"
    assert str(text.command) == "driftline incidents list" and len(text.plots) == 1
    assert dict(text.links)["Incidents"].endswith("/alerting/incidents")


def test_a_digest_is_short_and_counts_what_it_leaves_out(
    make_delivery: Any, make_incident: Any, make_signal: Any
) -> None:
    incidents = [make_incident([make_signal(n, deployment_id=f"d{n}")], id=f"{n:012x}") for n in range(40)]
    text = describe(make_delivery(Kind.DIGEST, *incidents))
    assert str(text.headline) == "Digest: 40 incidents in 40 deployments"
    assert {len(part.sentences) for part in text.parts} == {1} and not any(part.causes for part in text.parts)
    named = ", ".join(f"d{n}" for n in range(12, 40))
    assert str(text.more) == f"and 28 more incidents: {named}" and text.plots == ()


def test_all_of_a_group_is_over(make_delivery: Any, make_incident: Any, make_signal: Any) -> None:
    over = [
        make_incident([make_signal(n, ended=True)], id=f"{n:012x}", status="resolved", resolved_ms=1_371_060_000_000)
        for n in (1, 2)
    ]
    text = describe(make_delivery(Kind.RESOLVE, *over))
    assert str(text.headline) == "Resolved: 2 incidents in credit" and text.over and text.steps is None
    assert len(text.news) == 2 and str(text.parts[0].sentences[0]) == "Over at 12 Jun 2013 18:00 UTC."


def test_a_sign_of_life_and_a_test_say_what_they_are(make_delivery: Any) -> None:
    life = describe(make_delivery(Kind.HEARTBEAT))
    assert str(life.headline) == "Driftline: sign of life of alerting" and not life.over
    assert "Sent at 12 Jun 2013 18:20 UTC." in str(life.summary)
    test = describe(make_delivery(Kind.TEST, reason="asked by ada"))
    assert str(test.headline) == "Driftline: test of the receiver chat"
    assert "Why: asked by ada." in texts(test.parts[0].sentences)
    assert "Nothing is wrong" in str(test.summary) and "🔴" not in life.mark + test.mark


def test_what_driftline_says_of_itself_has_words_and_no_record(make_delivery: Any, make_incident: Any) -> None:
    incident = make_incident([system_signal()], deployment_id="", owner="")
    text = describe(make_delivery(Kind.TRIGGER, incident))
    assert str(text.headline) == "The streams do not keep up" == incident_title(incident)
    assert texts(text.parts[0].sentences)[0] == "40,000 messages wait."
    assert str(text.steps) == "Look at the workers: driftline status."
    assert dict(text.links)["What this alarm means"].endswith("/runbook#streams-lag")
    assert "Deployment" not in dict(text.facts) and text.plots == ()
    over = dataclasses.replace(
        incident, status="resolved", signals=(system_signal(status="resolved", resolved_us=1_371_049_200_000_000),)
    )
    text = describe(make_delivery(Kind.RESOLVE, over))
    assert texts(text.parts[0].sentences)[-1] == "Over at 12 Jun 2013 15:00 UTC, 60 min after it began."


def test_a_signal_of_which_only_the_end_is_known_is_told(
    make_delivery: Any, make_incident: Any, make_signal: Any
) -> None:
    ended = dataclasses.replace(make_signal(ended=True), firing=None)
    text = describe(make_delivery(Kind.RESOLVE, make_incident([ended], status="resolved")))
    assert "The monitor reports this incident over" in str(text.parts[0].sentences[0])
    nothing = dataclasses.replace(ended, resolved=None)
    text = describe(make_delivery(Kind.RESOLVE, make_incident([nothing], status="resolved")))
    assert str(text.headline) == "Resolved: Data drift in credit, version 1"
    assert describe(make_delivery(Kind.TRIGGER, make_incident([]))).parts == ()


@pytest.mark.parametrize("address", ["", "ftp://x", "javascript:alert(1)", "https://"])
def test_without_an_address_there_is_no_link(
    make_delivery: Any, make_incident: Any, make_signal: Any, address: str
) -> None:
    text = describe(make_delivery(Kind.TRIGGER, make_incident([make_signal(runbook_url=None)]), public_url=address))
    assert text.links == ()


def test_a_title_has_room_for_what_matters_whatever_the_names(make_incident: Any, make_signal: Any) -> None:
    rng = random.Random(7)
    monitors = ["data_drift", "labels", "detector:" + "x" * 90, "y" * 90]
    for _ in range(300):
        signals = [
            make_signal(
                n,
                deployment_id="d" * rng.choice([1, 50, 9000]) + str(n % rng.choice([1, 2, 3])),
                model_version="v" * rng.choice([1, 40]),
                monitor=rng.choice(monitors),
            )
            for n in range(rng.randint(1, 5))
        ]
        title = incident_title(make_incident(signals, upstream=rng.choice(["", "feature:" + "f" * 200])))
        assert 0 < len(title) <= 147 and title.count("\n") == 0


@pytest.mark.parametrize("kind", list(Kind))
def test_hostile_names_are_harmless_in_every_kind(
    make_delivery: Any,
    make_incident: Any,
    make_entry: Any,
    hostile_alert: Any,
    hostile_names: Any,
    lines_of: Any,
    kind: Kind,
) -> None:
    for name in hostile_names:
        firing = hostile_alert(name)
        signals = []
        for n, monitor in enumerate((name, "data_quality", "data_drift"), start=1):
            record = firing | {"monitor": monitor}
            signals.append(
                Signal(n, name, n, "alerts", "firing", "error", labels_of(record), 0, 0, None, record, None, None)
            )
        entries = (
            make_entry("incident.noted", by=name or "x", via=name, reason=name, to=name),
            make_entry("incident.joined", reason=name, monitor=name, deployment=name, version=name, severity=name),
            make_entry(name, reason=name),
        )
        muted = dataclasses.replace(signals[0], mute=Mute(name, name, name, None))
        incident = make_incident(
            signals, acknowledged_by=name, assigned_to=name, owner=name, upstream=name, entries=entries
        )
        others = make_incident([muted], status="acknowledged")
        for delivery in (
            make_delivery(kind, incident, because=name, reason=name, receiver=name),
            make_delivery(kind, incident, others, group_labels=((name, name),)),
            make_delivery(kind, reason=name, receiver=name),
        ):
            text = describe(delivery)
            assert sum(map(len, lines_of(text))) < 40_000
            assert 0 < len(str(text.headline)) <= 147
            assert all(address.startswith("https://driftline.example.org/") for _, address in text.links)
            assert len(dict(text.facts)) == len(text.facts), "no fact hides another"


def test_what_driftline_says_of_itself_may_quote_any_setting(
    make_delivery: Any, make_incident: Any, hostile_names: Any, lines_of: Any
) -> None:
    for name in hostile_names:
        words = SystemWords(f"Messages do not reach {name}", (f"{name} failed.",), f"Try {name}.", "system-kafka")
        signal = system_signal(words=words.document(), labels={"monitor": f"system:channel-failing:{name}"})
        lines_of(describe(make_delivery(Kind.TRIGGER, make_incident([signal], deployment_id="", owner=""))))


def test_commands_to_copy_stay_one_command(make_delivery: Any, make_incident: Any, make_signal: Any) -> None:
    text = describe(make_delivery(Kind.TRIGGER, make_incident([make_signal(deployment_id="x; rm -rf $HOME")])))
    commands = [part for part in text.steps.parts if part.startswith("driftline ")]
    assert commands and all("x; rm -rf $HOME" in shlex.split(command) for command in commands)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_message_can_be_told_and_twice_the_same(
    make_delivery: Any, make_incident: Any, make_entry: Any, any_alert: Any, lines_of: Any, data: st.DataObject
) -> None:
    moment = st.none() | st.integers(-(2**62), 2**62)
    text = st.text(max_size=40)
    signals = []
    for n in range(data.draw(st.integers(0, 4))):
        alert = decode(encode("Alert", data.draw(any_alert)))[1]
        record, other = data.draw(st.sampled_from([(alert, None), (None, alert), (alert, alert), (None, None)]))
        words = data.draw(st.none() | st.dictionaries(st.sampled_from(["headline", "steps", "runbook"]), text))
        mute = data.draw(st.none() | st.builds(Mute, text, text, text, moment))
        status = data.draw(st.sampled_from(["firing", "resolved"]))
        signals.append(
            Signal(
                n,
                alert["incident_key"],
                n,
                "alerts",
                status,
                alert["severity"],
                labels_of(alert),
                alert["change_time_us"],
                data.draw(moment),
                data.draw(moment),
                record,
                other,
                words,
                mute,
            )
        )
    entry = st.builds(
        lambda action, by, via, reason, detail: make_entry(action, 1, by=by, via=via, reason=reason, **detail),
        st.sampled_from(["incident.noted", "incident.joined", "incident.resolved", "notification.sent"]) | text,
        text,
        text,
        text,
        st.dictionaries(st.sampled_from(["to", "until_ms", "receiver", "monitor", "deployment"]), text),
    )
    incidents = [
        make_incident(
            signals[k:],
            status=data.draw(st.sampled_from(STATUSES)),
            severity=data.draw(st.sampled_from(["critical", "error", "warning", "info"])),
            upstream=data.draw(text),
            opened_ms=data.draw(st.integers(-(2**62), 2**62)),
            resolved_ms=data.draw(moment),
            episode=data.draw(st.integers(1, 200)),
            entries=tuple(data.draw(st.lists(entry, max_size=4))),
        )
        for k in range(data.draw(st.integers(0, 3)))
    ]
    delivery = make_delivery(data.draw(st.sampled_from(list(Kind))), *incidents, reason=data.draw(text))
    told = describe(delivery)
    lines_of(told)
    assert 0 < len(str(told.headline)) <= 147
    assert describe(delivery) == told
    assert all(0 < len(incident_title(incident)) <= 147 for incident in incidents)
