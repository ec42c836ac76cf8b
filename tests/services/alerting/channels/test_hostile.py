"""Hostile names in every channel and every kind of message: within the limits, harmless, and still to be read.

A name from data stands wherever one can: deployments, models, features, segments, tags, owners, what people wrote, who
they are, groups. Each is led by a word that has to be there for people to read.
"""

import dataclasses
import functools
import html.parser
import json
import re
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from aiohttp import web
from pydantic import SecretStr

from services.alerting.channels import email_message, slack
from services.alerting.channels.base import Redactor, Sent, http_session
from services.alerting.channels.making import make_channel
from services.alerting.clock import Clock
from services.alerting.incidents.views import Mute
from services.alerting.notify.kinds import Kind
from services.alerting.policy import model
from services.alerting.policy.model import Pace
from services.alerting.words.text import web_link
from services.demo.hooks import OPSGENIE, OPSGENIE_KEY, TEAMS, WEBHOOK, WEBHOOK_SECRET, RecordingHooks
from services.demo.mailbox import Mailbox
from services.demo.receivers import PAGERDUTY, PAGERDUTY_CHANGE, SLACK_POST, SLACK_UPDATE, SLACK_WEBHOOK

WORD = "Zebra"
PUBLIC_URL = "https://driftline.example.org/alerting"
SCHEMA = json.loads((Path(__file__).parents[4] / "schemas/webhook-v1.schema.json").read_text("utf-8"))

HOSTILE = {
    "everybody in Slack": "<!channel> <!here> <@U123> <!subteam^S1>",
    "everybody elsewhere": "@here @everyone @channel <at>all</at>",
    "script": "<script>alert(1)</script>",
    "picture that runs": '"><img src=x onerror=alert(1)> \'"`',
    "style": "</bdi></div><style>*{display:none}</style><!-- ",
    "formula": "=cmd()|' /C calc'!A0",
    "lines": "x\r\nBcc: victim@example.org\r\n\r\n.\r\nMAIL FROM:<a@b>",
    "encoded lines": "%0d%0aBcc:%20victim@example.org\n=0D=0A",
    "encoded word": "=?utf-8?q?=0d=0aBcc:_victim@example.org?=",
    "long": "x" * 10_000,
    "long word of wide characters": "漢" * 10_000,
    "many entities": "&<>" * 3_000,
    "right to left": "\u202egnp.exe\u202c \u2066abc\u2069 \u200f\u061c",
    "hebrew": "שלום עולם",
    "invisible": "\u200b\u200d\ufeff\u00ad\u2028\u2029\x00\x07\x1b[31mred\x7f",
    "half a character": "\ud800 \udfff",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 20,
    "combining": "Z" + "\u0300" * 400,
    "link": "https://evil.example/login www.evil.example mailto:a@evil.example javascript:alert(1)",
    "markdown": "[click](https://evil.example) **b** _i_ ~s~ `c` # h | t | ![i](http://evil.example/i.png)",
    "slack link": "<https://evil.example|Runbook> <mailto:a@evil.example>",
    "card function": "{{DATE(2026-01-01T00:00:00Z,SHORT)}} {{TIME(1)}} ${x} @{triggerBody()}",
    "template": "{{ 7*7 }} {% raw %} {# #} %(x)s %s {0}",
    "shell": "'; rm -rf ~ #` $(reboot)",
    "backticks": "``` ` ```",
    "empty": "",
}


_FIRST = (Kind.TRIGGER, Kind.DIGEST, Kind.HEARTBEAT, Kind.TEST)
"""Kinds that follow upon nothing."""


@dataclass
class Shown:
    """What arrived: what anybody holds against it, texts that people read, and links that they can press."""

    problems: list[str]
    texts: list[str]
    links: set[str]


# Deliveries


@pytest.fixture(scope="module")
def deliveries(
    make_signal: Any, make_incident: Any, make_entry: Any, make_delivery: Any, make_alert: Any, make_numeric_cause: Any
) -> Callable[[Kind, str], list[Any]]:
    """Of a kind, with a hostile value in every place: of one incident and of several."""

    def incident(number: int, bad: str, kind: Kind) -> Any:
        name = f"{WORD}{bad}"
        causes = [
            make_numeric_cause(name, segment=bad and f"region={name}"),
            make_numeric_cause(f"{name}{number}", bins=[name] * 15),
        ]
        hostile = {
            "deployment_id": name,
            "model_id": name,
            "model_version": name[:4000],
            "owner": name,
            "tags": {name: name, "tier": name},
            "causes": causes,
            "diagnosis": name,
            "diagnosis_reason": name,
            "false_alarms": name,
            "runbook_url": bad or None,
        }
        monitors = ("data_drift", "concept_drift", "detector:ddm:error", name)
        alerts = [
            {**make_alert(n), **hostile, "monitor": monitor, "incident_key": f"{name}/{number}/{n}"}
            for n, monitor in enumerate(monitors)
        ]
        mute = Mute("silence", name, name, None)
        signals = [make_signal(n, alert) for n, alert in enumerate(alerts)]
        signals.append(make_signal(9, {**alerts[0], "deployment_id": f"{name}2"}, mute=mute))
        entries = tuple(
            make_entry(action, actor=name, reason=name, via=name, detail={"to": name})
            for action in ("incident.acknowledged", "incident.noted", "incident.assigned", "incident.silenced")
        )
        status = {Kind.RESOLVE: "resolved", Kind.ACKNOWLEDGE: "acknowledged"}.get(kind, "open")
        return make_incident(
            *signals,
            id=f"{number:012x}",
            status=status,
            entries=entries,
            acknowledged_by=name,
            assigned_to=name,
            owner=name,
            upstream=f"feature:{name}",
            title=name,
            severity=("critical", "error", "warning", "info")[number % 4],
        )

    @functools.cache
    def build(kind: Kind, bad: str) -> list[Any]:
        name = f"{WORD}{bad}"
        common = {
            "public_url": PUBLIC_URL,
            "because": f"escalation {name}",
            "reason": f"because of {name}",
            "group_labels": (("tag.team", name), ("owner", name)),
        }
        if kind in (Kind.HEARTBEAT, Kind.TEST):
            return [make_delivery(kind, **common)]
        return [
            make_delivery(kind, *(incident(n, bad, kind) for n in range(count)), number=count, **common)
            for count in (1, 15 if kind in _FIRST else 3)
        ]

    return build


# Ways to people


@pytest.fixture(scope="module")
def everywhere() -> Iterator[tuple[RecordingHooks, Mailbox]]:
    with RecordingHooks() as hooks, Mailbox() as mailbox:
        yield hooks, mailbox


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of hostile causes are drawn in the tests of pictures; here they would take minutes."""
    for module in (email_message, slack):
        monkeypatch.setattr(module, "plot_png", lambda cause: b"\x89PNG\r\n\x1a\nsmall")


class Apprised:
    """What comes by apprise's plainest way."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.url = ""


@pytest.fixture
async def apprised() -> AsyncIterator[Apprised]:
    apprised = Apprised()

    async def handle(request: web.Request) -> web.StreamResponse:
        apprised.bodies.append(await request.json())
        return web.Response()

    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    apprised.url = f"json://127.0.0.1:{runner.addresses[0][1]}/x"
    yield apprised
    await runner.cleanup()


WAYS = ("slack-token", "slack-webhook", "pagerduty", "email", "webhook", "teams", "opsgenie", "apprise")


def receiver_of(way: str, hooks: RecordingHooks, mailbox: Mailbox, apprised: Apprised) -> model.Receiver:
    common: dict[str, Any] = {"name": "a-receiver", "pace": Pace(1e6, 1_000_000), "timeout_seconds": 10.0}
    secret = SecretStr
    makers: dict[str, Callable[[], model.Receiver]] = {
        "slack-token": lambda: model.SlackReceiver(
            **common,
            token=secret("xoxb-a-token"),
            channel="C123",
            api_url=hooks.slack_api_url,
            signing_secret=secret("s" * 32),
        ),
        "slack-webhook": lambda: model.SlackReceiver(**common, webhook_url=secret(hooks.slack_webhook_url)),
        "pagerduty": lambda: model.PagerDutyReceiver(**common, routing_key=secret("R" * 32), url=hooks.pagerduty_url),
        "email": lambda: model.EmailReceiver(
            **common,
            host="127.0.0.1",
            port=mailbox.port,
            sender="driftline@example.org",
            to=("ops@example.org",),
            security="none",
        ),
        "webhook": lambda: model.WebhookReceiver(
            **common, url=secret(hooks.webhook_url), signing_secrets=(secret(WEBHOOK_SECRET),), allow=("127.0.0.0/8",)
        ),
        "teams": lambda: model.TeamsReceiver(**common, webhook_url=secret(hooks.teams_url)),
        "opsgenie": lambda: model.OpsgenieReceiver(**common, api_key=secret(OPSGENIE_KEY), api_url=hooks.opsgenie_url),
        "apprise": lambda: model.AppriseReceiver(**common, url=secret(apprised.url)),
    }
    return makers[way]()


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("way", WAYS)
async def test_hostile_names_are_harmless_and_readable(
    way: str,
    kind: Kind,
    everywhere: tuple[RecordingHooks, Mailbox],
    apprised: Apprised,
    deliveries: Any,
    at_once: Any,
) -> None:
    hooks, mailbox = everywhere
    receiver = receiver_of(way, hooks, mailbox, apprised)
    wrong: list[str] = []
    async with http_session(10.0) as session:
        channel = make_channel(receiver, session, Redactor(receiver.secrets()), Clock(), _picture_address)
        receipt: dict[str, Any] = {}
        if kind not in _FIRST:
            first = await channel.send(dataclasses.replace(deliveries(kind, "")[0], kind=Kind.TRIGGER), at_once)
            assert isinstance(first, Sent), first
            receipt = dict(first.receipt)
        for what, bad in HOSTILE.items():
            for delivery in deliveries(kind, bad):
                before = len(hooks.received(*_ALL)), len(mailbox.mails()), len(apprised.bodies)
                outcome = await channel.send(dataclasses.replace(delivery, receipt=receipt), at_once)
                assert isinstance(outcome, Sent), (what, outcome)
                shown = _shown(way, hooks, mailbox, apprised, before)
                wrong += [f"{what}, {len(delivery.incidents)}: {w}" for w in _wrong(way, kind, bad, shown)]
        await channel.close()
    assert not wrong, "\n".join(wrong[:30])


def _picture_address(incident_id: str, rank: int) -> str:
    return f"{PUBLIC_URL}/plots/{incident_id}/{rank}"


def _shown(
    way: str, hooks: RecordingHooks, mailbox: Mailbox, apprised: Apprised, before: tuple[int, int, int]
) -> Shown:
    """What arrived since, taken apart as each receiver would."""
    if way == "email":
        return _of_mails(mailbox.mails()[before[1] :])
    if way == "apprise":
        bodies = apprised.bodies[before[2] :]
        return _lines_with_links([text for body in bodies for text in (body["title"], body["message"])])
    received = hooks.received(*_ALL)[before[0] :]
    assert received
    problems = [problem for arrived in received for problem in arrived.problems]
    reader = {
        "slack-token": _of_slack,
        "slack-webhook": _of_slack,
        "pagerduty": _of_pagerduty,
        "webhook": _of_webhook,
        "teams": _of_teams,
        "opsgenie": _of_opsgenie,
    }[way]
    shown = reader([arrived for arrived in received if arrived.service in _SERVICES[way]])
    return Shown([*problems, *shown.problems], shown.texts, shown.links)


_SERVICES = {
    "slack-token": (SLACK_POST, SLACK_UPDATE),
    "slack-webhook": (SLACK_WEBHOOK,),
    "pagerduty": (PAGERDUTY, PAGERDUTY_CHANGE),
    "webhook": (WEBHOOK,),
    "teams": (TEAMS,),
    "opsgenie": (OPSGENIE,),
}
_ALL = tuple(service for services in _SERVICES.values() for service in services)


def _wrong(way: str, kind: Kind, bad: str, shown: Shown) -> list[str]:
    """What would be wrong for any receiver."""
    wrong = list(shown.problems)
    allowed = {PUBLIC_URL, web_link(bad)}
    for link in shown.links:
        if link not in allowed and not link.startswith(f"{PUBLIC_URL}/"):
            wrong.append(f"a link to {link[:80]!r}")
    for text in shown.texts:
        for character in set(text):
            if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character != "\n":
                wrong.append(f"character {character!r} in {text[:60]!r}")
    # PagerDuty's acknowledge and resolve carry no text; a sign of life names nobody.
    silent = way == "pagerduty" and kind in (Kind.ACKNOWLEDGE, Kind.RESOLVE)
    if not silent and kind not in (Kind.HEARTBEAT, Kind.TEST) and WORD not in "\n".join(shown.texts):
        wrong.append("the name cannot be read")
    return wrong


def _strings(document: Any) -> list[str]:
    if isinstance(document, str):
        return [document]
    if isinstance(document, dict):
        return [text for name, content in document.items() for text in (str(name), *_strings(content))]
    return [text for item in document for text in _strings(item)] if isinstance(document, list) else []


# Slack


def _of_slack(received: list[Any]) -> Shown:
    shown = Shown([], [], set())
    for arrived in received:
        shown.texts += [
            text for text in _strings([arrived.body.get("text", ""), arrived.body.get("blocks", [])]) if text
        ]
        for text in [arrived.body.get("text", ""), *_mrkdwn(arrived.body.get("blocks", []))]:
            # Inside code Slack reads no markup; what is left must be ours.
            outside = re.sub(r"```[^`]*```|`[^`\n]*`", "", text)
            for marked in re.findall(r"<([^>]*)>?", outside):
                address = marked.partition("|")[0].replace("&amp;", "&")
                if marked.startswith("!date^"):
                    continue
                if not address.startswith(("http://", "https://")):
                    shown.problems.append(f"markup {marked[:60]!r}")
                shown.links.add(address)
            if "https://evil" in re.sub(r"<[^>]*>", "", outside):
                shown.problems.append("an address that Slack would make a link of")
        shown.links |= {e["url"] for e in _elements(arrived.body.get("blocks", [])) if "url" in e}
    return shown


def _elements(blocks: Any) -> list[dict[str, Any]]:
    if isinstance(blocks, dict):
        return [blocks, *(e for content in blocks.values() for e in _elements(content))]
    return [e for item in blocks for e in _elements(item)] if isinstance(blocks, list) else []


def _mrkdwn(blocks: Any) -> list[str]:
    return [element["text"] for element in _elements(blocks) if element.get("type") == "mrkdwn"]


# PagerDuty and webhooks: data


def _of_pagerduty(received: list[Any]) -> Shown:
    bodies = [arrived.body for arrived in received]
    links = {link["href"] for body in bodies for link in body.get("links", [])}
    links |= {body["client_url"] for body in bodies if "client_url" in body}
    links |= {
        address for body in bodies for image in body.get("images", []) for address in (image["src"], image["href"])
    }
    texts = [text for body in bodies for text in _strings({**body, "routing_key": ""})]
    return Shown([], texts, links)


def _of_webhook(received: list[Any]) -> Shown:
    problems: list[str] = []
    for arrived in received:
        try:
            jsonschema.validate(arrived.body, SCHEMA)
        except jsonschema.ValidationError as error:
            problems.append(f"not as the schema says: {error.message[:100]}")
    links = {link["href"] for arrived in received for link in arrived.body["data"]["text"]["links"]}
    return Shown(problems, [text for arrived in received for text in _strings(arrived.body)], links)


# Teams


def _of_teams(received: list[Any]) -> Shown:
    shown = Shown([], [], set())
    for arrived in received:
        card = arrived.body["attachments"][0]["content"]
        shown.links |= {action["url"] for action in card.get("actions", [])}
        elements = _elements(card["body"])
        blocks = [e for e in elements if e["type"] == "RichTextBlock"]
        shown.texts += ["".join(run["text"] for run in block["inlines"]) for block in blocks]
        shown.texts.append(card["fallbackText"])
        pictures = [e for e in elements if e["type"] == "Image"]
        shown.texts += [picture["altText"] for picture in pictures]
        shown.links |= {picture["url"] for picture in pictures}
        if any(e["type"] == "TextBlock" for e in elements):
            shown.problems.append("a TextBlock, in which Teams reads Markdown")
        shown.problems += [f"{found!r} in the fallback" for found in ("<at>", "{{") if found in card["fallbackText"]]
    return shown


# Opsgenie and apprise: text of which nobody knows who reads it how


def _of_opsgenie(received: list[Any]) -> Shown:
    texts = [text for arrived in received for text in _strings({**arrived.body, "path": ""}) if text]
    return _lines_with_links(texts)


def _lines_with_links(texts: list[str]) -> Shown:
    shown = Shown([], texts, set())
    for text in texts:
        for line in text.split("\n"):
            ours = re.fullmatch(r"(Incidents?|Runbook(?: \d)?|What this alarm means): (https?://\S+)", line)
            if ours:
                shown.links.add(ours[2])
                continue
            for found in ("<", "`", "](", "@here", "@everyone", "@channel", "://", "www.", "**", "{{"):
                if found in line:
                    shown.problems.append(f"{found!r} in {line[:80]!r}")
    return shown


# Mail


class _Reader(html.parser.HTMLParser):
    """Reads HTML as a browser does: what is text, which elements and which attributes there are."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links |= {content or "" for name, content in attrs if name == "href"}

    def handle_data(self, data: str) -> None:
        self.text += data


_ELEMENTS = {"html", "head", "meta", "title", "body", "div", "p", "span", "h1", "h2", "ul", "ol", "li", "hr", "img"}
_ELEMENTS |= {"table", "tr", "td", "a", "b", "bdi"}
_ATTRIBUTES = {"lang", "charset", "name", "content", "style", "href", "rel", "src", "alt"}
_ATTRIBUTES |= {"role", "cellpadding", "cellspacing"}


def _of_mails(mails: list[Any]) -> Shown:
    shown = Shown([], [], set())
    assert mails
    for mail in mails:
        shown.problems += mail.problems
        reader = _Reader()
        reader.feed(mail.part("html"))
        shown.problems += [f"element <{name}>" for name in reader.elements - _ELEMENTS]
        shown.problems += [f"attribute {name}" for name in reader.attributes - _ATTRIBUTES]
        shown.links |= reader.links
        headers = [str(content) for content in mail.message.values()]
        shown.texts += [*headers, reader.text, mail.part("plain")]
        if len(str(mail.message["Subject"])) > 200:
            shown.problems.append("a subject of more than 200 characters")
        if mail.recipients != ("ops@example.org",):
            shown.problems.append(f"sent to {mail.recipients}")
        for line in mail.part("plain").split("\n"):
            ours = re.fullmatch(r"(Incidents?|Runbook(?: \d)?|What this alarm means): (https?://\S+)", line)
            if ours:
                shown.links.add(ours[2])
            elif "://" in line or "www." in line:
                shown.problems.append(f"an address that a mail program would make a link of: {line[:80]!r}")
        if "://" in reader.text:
            shown.problems.append("an address in the HTML that a mail program would make a link of")
    return shown
