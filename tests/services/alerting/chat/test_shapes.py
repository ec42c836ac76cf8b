"""What Slack and PagerDuty are sent keeps their limits, and what came from data is harmless in it."""

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from fastavro import validate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftline.codec import SCHEMAS, decode, encode
from services.alerting.channels.pagerduty import body_of, event_of
from services.alerting.channels.slack_blocks import (
    SlackMessage,
    escape,
    markup,
    reply_message,
    root_message,
    shorten_marked,
)
from services.alerting.channels.slack_buttons import parse_value, value_of
from services.alerting.incidents.actions import Do
from services.alerting.incidents.views import Incident, Mute, Signal
from services.alerting.notify.kinds import Kind
from services.alerting.words.incident import describe
from services.alerting.words.text import Line, Value
from services.demo.receivers import pagerduty_problems, slack_problems
from services.demo.slack_limits import elements_of

KINDS = tuple(Kind)
MOST_CHARACTERS = 13_000
HOSTILE = (
    "<!channel>",
    "<@U024BE7LH> <#C024BE7LR> <https://evil.example.org|click>",
    "@here @everyone",
    "<script>alert(1)</script>",
    "=cmd('calc')|'!A0'",
    "a`b*c_d~e",
    "line\r\nline\n\n> quote",
    "\x1b[31mred\x00",
    "\u202etxet\u2066\u200f",
    "&amp;&lt;&",
    "x" * 10_000,
    "`" * 10_000,
    "&" * 10_000,
    "<" * 10_000,
    "😀" * 10_000,
    "",
)
_LINK = re.compile(r"<https?://[^<>|]+\|[^<>|]+>")


def body(message: SlackMessage) -> dict[str, Any]:
    return {"text": message.text, "blocks": message.blocks, "metadata": {"event_type": "x", "event_payload": {}}}


def texts(thing: Any) -> Iterator[tuple[str, str]]:
    """Kind and text of everything that Slack shows."""
    if isinstance(thing, dict):
        if thing.get("type") in ("mrkdwn", "plain_text") and isinstance(thing.get("text"), str):
            yield thing["type"], thing["text"]
        for inside in thing.values():
            yield from texts(inside)
    elif isinstance(thing, list):
        for inside in thing:
            yield from texts(inside)


def check_slack(message: SlackMessage) -> None:
    """Whether Slack takes it, and nothing in it acts."""
    assert slack_problems(body(message)) == []
    assert len(json.dumps(body(message), ensure_ascii=False)) < MOST_CHARACTERS
    for kind, text in [("mrkdwn", message.text), *texts(message.blocks)]:
        assert "<" not in _LINK.sub("", text), "no order to Slack: only our own links"
        assert not re.search(r"&(?!amp;|lt;|gt;)", text), "no entity is cut in two"
        assert kind == "plain_text" or text.count("`") % 2 == 0, "code ends where it should"
        assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") and c != "\n"], text


def check_pagerduty(event: dict[str, Any]) -> dict[str, Any]:
    """Whether PagerDuty takes it, and everything in it is visible."""
    sent = body_of({"routing_key": "R" * 32, **event})
    assert pagerduty_problems(json.loads(sent), len(sent)) == []
    for text in strings(json.loads(sent)):
        assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")], text
    found: dict[str, Any] = json.loads(sent)
    return found


def strings(thing: Any) -> Iterator[str]:
    if isinstance(thing, str):
        yield thing
    elif isinstance(thing, dict):
        for name, inside in thing.items():
            yield name
            yield from strings(inside)
    elif isinstance(thing, list):
        for inside in thing:
            yield from strings(inside)


@pytest.fixture(scope="session")
def make_hostile(make_signal: Any, make_incident: Any, make_entry: Any) -> Any:
    """An incident in which everything that can come from data is called like this."""

    def build(name: str, **changes: Any) -> Incident:
        usual = make_signal().firing
        cause = {
            **usual["causes"][0],
            "stream": name,
            "segment": name,
            "bins": [name] * len(usual["causes"][0]["bins"]),
        }
        fields = ("deployment_id", "model_id", "model_version", "owner", "false_alarms", "runbook_url")
        named = dict.fromkeys(fields, name)
        more = {"tags": {name: name, "team": name}, "causes": [cause, cause], "diagnosis_reason": name}
        mute = Mute("silence", name, name, None)
        entries = tuple(
            make_entry(f"incident.{what}", name, reason=name, to=name) for what in ("acknowledged", "noted", "assigned")
        )
        signals = [make_signal(n, **named, **more, mute=mute if changes.get("muted") else None) for n in (1, 2)]
        rest = {n: c for n, c in changes.items() if n != "muted"}
        who = {
            "acknowledged_by": name,
            "assigned_to": name,
            "owner": name,
            "title": name,
            "upstream": f"feature:{name}",
        }
        built: Incident = make_incident(signals, entries=entries, **{**who, **rest})
        return built

    return build


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_names_are_harmless_in_slack(make_hostile: Any, make_delivery: Any, name: str, kind: Kind) -> None:
    few = (make_hostile(name), make_hostile(name, status="acknowledged", id="b" * 12))
    over = make_hostile(name, status="resolved", resolved_ms=1_371_063_600_000, muted=True)
    for incidents in ((few[0],), few, (over,), (over, *few) * (15 if kind is Kind.DIGEST else 1)):
        delivery = make_delivery(
            kind, *incidents, reason=name, because=name, receiver=name, group_labels=((name, name),), receipt={"ts": ""}
        )
        text = describe(delivery)
        check_slack(root_message(text, delivery, answers=True))
        check_slack(reply_message(text, delivery, loud=True))
        check_slack(reply_message(text, delivery, loud=False))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_harmless_in_pagerduty(make_hostile: Any, make_delivery: Any, name: str) -> None:
    few = (make_hostile(name, muted=True), make_hostile(name, status="acknowledged", id="b" * 12))
    for kind in (Kind.TRIGGER, Kind.UPDATE, Kind.DIGEST, Kind.TEST, Kind.RESOLVE, Kind.ACKNOWLEDGE):
        for incidents in ((few[0],), few, few * (20 if kind is Kind.DIGEST else 2), ()):
            delivery = make_delivery(
                kind, *incidents, reason=name, because=name, receiver=name, group_labels=((name, name),)
            )
            check_pagerduty(event_of(delivery, describe(delivery), lambda incident, rank: name))


def test_what_does_not_fit_is_said_to_be_cut(make_signal: Any, make_incident: Any, make_delivery: Any) -> None:
    causes = [cause | {"stream": f"{'&' * 60}{n}"} for n in range(20) for cause in make_signal().firing["causes"]]
    signals = [make_signal(n, causes=causes, diagnosis_reason="why " * 500) for n in range(1, 30)]
    delivery = make_delivery(Kind.TRIGGER, make_incident(signals))
    message = root_message(describe(delivery), delivery, answers=True)
    check_slack(message)
    shown = json.dumps(message.blocks, ensure_ascii=False)
    assert re.search(r"Cut: \d+ pieces do not fit.*driftline incidents show 0123456789ab", shown)
    assert message.blocks[0]["type"] == "header" and message.blocks[-1]["type"] == "actions", "what matters is there"
    assert "The inputs of" in shown and "Next: " in shown


def test_a_message_that_fits_is_not_cut(make_incident: Any, make_delivery: Any) -> None:
    delivery = make_delivery(Kind.TRIGGER, make_incident())
    assert "Cut:" not in str(root_message(describe(delivery), delivery, answers=True).blocks)


def test_a_pagerduty_event_of_thousands_of_causes_is_cut_and_says_so(
    make_signal: Any, make_incident: Any, make_delivery: Any
) -> None:
    causes = [cause | {"stream": "&" * 200 + str(n)} for n in range(500) for cause in make_signal().firing["causes"]]
    tags = {"&" * 300 + str(n): "<" * 3000 for n in range(1000)}
    signals = [make_signal(n, causes=causes, tags=tags) for n in range(1, 100)]
    delivery = make_delivery(Kind.TRIGGER, make_incident(signals))
    event = check_pagerduty(event_of(delivery, describe(delivery)))
    details = event["payload"]["custom_details"]
    assert details["signals_left_out"] + len(details["signals"]) == 99
    assert details["what_happened"]


def test_pagerduty_is_told_of_each_signal_with_links_and_pictures(
    make_signal: Any, make_incident: Any, make_delivery: Any
) -> None:
    signals = [make_signal(1), make_signal(2, monitor="prediction_drift", severity="warning")]
    delivery = make_delivery(Kind.TRIGGER, make_incident(signals), group_labels=(("owner", "risk-team"),))
    event = event_of(
        delivery, describe(delivery), lambda incident, rank: f"https://x.example.org/{incident}/{rank}.png"
    )
    check_pagerduty(event)
    assert [s["monitor"] for s in event["payload"]["custom_details"]["signals"]] == ["data_drift", "prediction_drift"]
    assert event["payload"]["severity"] == "error" and event["payload"]["group"] == "owner=risk-team"
    assert event["images"][0]["src"] == "https://x.example.org/0123456789ab/1.png" and event["images"][0]["alt"]
    assert "https://driftline.example.org/alerting/incidents/0123456789ab" in [link["href"] for link in event["links"]]
    plain = make_delivery(Kind.TRIGGER, make_incident(signals), public_url="http://10.0.0.1")
    assert "images" not in event_of(plain, describe(plain), lambda *_: "https://x"), "PagerDuty fetches by https only"


def test_a_silenced_incident_says_so_in_pagerduty(make_signal: Any, make_incident: Any, make_delivery: Any) -> None:
    mute = Mute("silence", "s1", "ada: known since Monday", 1_371_063_600_000)
    delivery = make_delivery(Kind.UPDATE, make_incident([make_signal(mute=mute)]))
    details = event_of(delivery, describe(delivery))["payload"]["custom_details"]
    assert "known since Monday" in details["silenced"]


def test_a_link_is_one_only_if_it_is_an_address(make_signal: Any, make_incident: Any, make_delivery: Any) -> None:
    for url, link in (("https://wiki.example.org/a b|c>d", True), ("javascript:alert(1)", False), (None, False)):
        delivery = make_delivery(Kind.TRIGGER, make_incident([make_signal(runbook_url=url)]))
        message = root_message(describe(delivery), delivery, answers=False)
        check_slack(message)
        assert ("|Runbook>" in json.dumps(message.blocks)) == link


# Buttons


def labels(message: SlackMessage) -> list[str]:
    found = []
    for element in elements_of(message.blocks):
        found.append((element.get("text") or element.get("placeholder") or {}).get("text", "menu"))
    return found


def shown_buttons(delivery: Any) -> list[str]:
    return labels(root_message(describe(delivery), delivery, answers=True))


def test_buttons_are_those_that_make_sense(
    make_signal: Any, make_incident: Any, make_over: Any, make_delivery: Any
) -> None:
    def buttons(*incidents: Incident) -> list[str]:
        return shown_buttons(make_delivery(Kind.UPDATE, *incidents))

    muted = make_signal(mute=Mute("silence", "s1", "ada: known", None))
    assert buttons(make_incident()) == ["Acknowledge", "Silence for …", "Note …", "Resolve"]
    assert buttons(make_incident(status="acknowledged")) == ["Give back", "Silence for …", "Note …", "Resolve"]
    assert buttons(make_incident([muted])) == ["Acknowledge", "Note …", "Resolve"], "it is silenced already"
    assert buttons(make_over()) == []
    several = buttons(make_incident(), make_over(id="a" * 12), make_incident(id="b" * 12))
    assert several == ["menu", "menu", "Acknowledge all", "Silence all for …", "Resolve all"]
    assert "Silence all for …" not in buttons(*(make_incident(id=f"{n:012x}") for n in range(60)))
    assert "Acknowledge all" not in buttons(*(make_incident(id=f"{n:012x}") for n in range(500)))


def test_there_are_no_buttons_where_nobody_hears_of_them(make_incident: Any, make_delivery: Any) -> None:
    delivery = make_delivery(Kind.TRIGGER, make_incident(), make_incident(id="b" * 12))
    assert labels(root_message(describe(delivery), delivery, answers=False)) == []


@given(
    do=st.sampled_from([do for do in Do if do is not Do.SILENCE]),
    ids=st.lists(st.text("0123456789abcdef", min_size=12, max_size=12), min_size=1, max_size=9),
    for_ms=st.integers(1, 10**10),
)
def test_what_a_button_carries_is_read_back(do: Do, ids: list[str], for_ms: int) -> None:
    assert parse_value(value_of(do, ids)) == (do, tuple(ids), None)
    assert parse_value(value_of(Do.SILENCE, ids, for_ms)) == (Do.SILENCE, tuple(ids), for_ms)
    assert len(value_of(Do.SILENCE, ids, 86_400_000)) <= 150


@given(st.text(max_size=40) | st.from_regex(r"(silence|resolve)(/\d*)?:[0-9a-f,]{0,30}", fullmatch=True))
def test_what_is_no_value_of_ours_is_refused_or_read(text: str) -> None:
    try:
        do, ids, for_ms = parse_value(text)
    except ValueError:
        return
    assert value_of(do, ids, for_ms) == text.replace(f"/{text.split(':')[0][8:]}", f"/{for_ms}") if for_ms else True


# Marking and cutting

_pieces = st.lists(st.tuples(st.booleans(), st.text(alphabet="ab<>&`é😀 ", max_size=60)), max_size=8)


@given(pieces=_pieces, limit=st.integers(20, 200))
def test_a_marked_line_fits_and_is_whole_where_it_can_be(pieces: list[tuple[bool, str]], limit: int) -> None:
    line = Line(tuple(Value(text) if data else text.replace("`", "") for data, text in pieces))
    marked = markup(line, limit)
    assert len(marked) <= limit
    assert marked.count("`") % 2 == 0 and "<" not in marked and ">" not in marked
    assert not re.search(r"&(?!amp;|lt;|gt;)", marked)
    assert marked == markup(line, 10_000) or marked.endswith("… (cut)")


@given(text=st.text(alphabet="ab<>& ", max_size=300), limit=st.integers(2, 200))
def test_escaped_text_fits_and_cuts_no_entity(text: str, limit: int) -> None:
    escaped = escape(text, limit)
    assert len(escaped) <= limit and not re.search(r"&(?!amp;|lt;|gt;)", escaped)


@given(text=st.text(alphabet="ab&`;", max_size=100), limit=st.integers(20, 90))
def test_marked_text_is_cut_to_length(text: str, limit: int) -> None:
    assert len(shorten_marked(text, limit)) <= limit


# Everything that decodes

_text = st.text(max_size=120)
_double = st.floats()
_long = st.integers(-(2**63), 2**63 - 1)
_MONITORS = ("data_drift", "prediction_drift", "data_quality", "concept_drift", "labels", "fairness", "humility")
_ROLES = ("feature", "prediction", "quality", "service", "outcome", "labels", "fairness", "humility")


@st.composite
def any_cause(draw: st.DrawFn) -> dict[str, Any]:
    effects = ("psi", "jensen_shannon", "total_variation", "hellinger", "kl")
    ordered = ("kolmogorov_smirnov", "kolmogorov_smirnov_error", "wasserstein", "wasserstein_error")
    unknown = {name: draw(st.none() | _double) for name in ("chi_square", "independent_rows", *ordered)}
    intervals = draw(st.dictionaries(_text, st.lists(_double, max_size=3), max_size=3))
    return {
        "stream": draw(_text),
        "role": draw(_text | st.sampled_from(_ROLES)),
        "segment": draw(_text),
        "inputs": draw(st.lists(_text, max_size=3)),
        "interval_ms": draw(_long),
        "evidence_share": draw(_double),
        "log_evidence_nats": draw(_double),
        "change_time_us": draw(_long),
        "rows": draw(_long),
        "effects": {name: draw(_double) for name in effects} | unknown | {"intervals": intervals},
        "tv_low": draw(_double),
        "tv_high": draw(_double),
        "bins": draw(st.lists(_text, max_size=15)),
        "expected": draw(st.lists(_double, max_size=15)),
        "observed": draw(st.lists(_long, max_size=15)),
    }


@st.composite
def any_alert(draw: st.DrawFn) -> dict[str, Any]:
    names = ("id", "incident_key", "deployment_id", "model_id", "model_version", "monitor", "baseline_digest", "owner")
    times = ("episode", "change_time_us", "detection_time_us", "trigger_time_ms", "rows_since_change", "spec_revision")
    return {
        **{name: draw(_text) for name in (*names, "false_alarms", "diagnosis")},
        **{name: draw(_long) for name in times},
        **draw(st.fixed_dictionaries({}, optional={"monitor": st.sampled_from(_MONITORS)})),
        "severity": draw(st.sampled_from(["critical", "error", "warning", "info"])),
        "status": "firing",
        "log_evidence_nats": draw(_double),
        "threshold_nats": draw(_double),
        "causes": draw(st.lists(any_cause(), max_size=4)),
        "evidence_offsets": [],
        "tags": draw(st.dictionaries(_text, _text, max_size=6)),
        "runbook_url": draw(st.none() | _text | st.just("https://wiki.example.org/a?b=c&d=e")),
    }


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(alert=any_alert(), kind=st.sampled_from(KINDS), ended=st.booleans())
def test_every_alert_that_decodes_makes_messages_that_slack_and_pagerduty_take(
    make_incident: Any, make_delivery: Any, alert: dict[str, Any], kind: Kind, ended: bool
) -> None:
    assert validate(alert, SCHEMAS["Alert"].parsed, raise_errors=False)
    record = decode(encode("Alert", alert))[1]
    signal = Signal(
        id=1,
        incident_key=record["incident_key"],
        episode=record["episode"],
        origin="alerts",
        status="resolved" if ended else "firing",
        severity=record["severity"],
        labels={"deployment": record["deployment_id"], "monitor": record["monitor"]},
        change_time_us=record["change_time_us"],
        opened_us=record["detection_time_us"],
        resolved_us=None,
        firing=record,
        resolved=None,
        words=None,
    )
    state = {"status": "resolved", "resolved_ms": 1_371_063_600_000} if ended else {}
    delivery = make_delivery(kind, make_incident([signal], **state))
    text = describe(delivery)
    check_slack(root_message(text, delivery, answers=True))
    check_slack(reply_message(text, delivery, loud=True))
    check_pagerduty(event_of(delivery, text))
