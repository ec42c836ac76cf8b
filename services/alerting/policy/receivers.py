"""Receivers as the routing file and the environment describe them."""

from __future__ import annotations

import base64
import importlib.util
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from services.alerting.policy.document import Node
from services.alerting.policy.fields import Fields
from services.alerting.policy.model import (
    OPSGENIE_API_URL,
    PAGERDUTY_URL,
    SEVERITIES,
    SLACK_API_URL,
    AppriseReceiver,
    EmailReceiver,
    OpsgenieReceiver,
    Pace,
    PagerDutyReceiver,
    Receiver,
    SlackReceiver,
    TeamsReceiver,
    WebhookReceiver,
)
from services.alerting.policy.problems import Problems, offer
from services.alerting.policy.secrets import PLACEHOLDER, Secrets, check_url, is_loopback, visible

PAGERDUTY_EU_URL = "https://events.eu.pagerduty.com/v2/enqueue"
OPSGENIE_EU_URL = "https://api.eu.opsgenie.com/"

PACES: Mapping[str, Pace] = {
    # At most 120 in any 60 s: a full bucket of 20 and 100 more.
    "pagerduty": Pace(100 / 60, 20),
    "slack": Pace(1.0, 1),  # one message a second and channel
    "email": Pace(5.0, 20),
    "webhook": Pace(10.0, 20),
    "teams": Pace(1.0, 4),  # a webhook is throttled above four requests a second
    "opsgenie": Pace(5.0, 20),
    "apprise": Pace(1.0, 5),
}
_ADDRESS = re.compile(r"[^@\s<>,;:\"\\()\[\]]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.:-]{0,251}[A-Za-z0-9_])?")
_PORTS = {"starttls": 587, "tls": 465, "none": 25}

Common = dict[str, Any]
Make = Callable[[Fields, Secrets, Common], Receiver | None]


def read_receivers(nodes: tuple[Node, ...], problems: Problems, secrets: Secrets) -> dict[str, Receiver]:
    """Receivers by name, those that could be made sense of."""
    found: dict[str, Receiver] = {}
    lines: dict[str, int] = {}
    for node in nodes:
        fields = Fields(node, problems, shy=True)
        if not isinstance(node.value, Mapping):
            if node.value is None:
                fields.wrong(node, "expected a receiver (a mapping with name and type), came nothing")
            continue
        receiver = _receiver(fields, secrets)
        name = fields.name()
        if name in lines:
            problems.add(
                node.line,
                f"{node.where}.name",
                f"two receivers are called {name!r}; the first is on line {lines[name]}",
            )
        elif name:
            lines[name] = node.line
            if receiver is not None:
                found[name] = receiver
    return found


def _receiver(fields: Fields, secrets: Secrets) -> Receiver | None:
    kind = fields.take("type")
    if kind is None:
        fields.missing("type", f"one of {', '.join(MAKERS)}")
        return None
    if kind.value not in MAKERS:
        fields.wrong(kind, f"there is no such type of receiver: {offer(str(kind.value), MAKERS)}")
        return None
    type_name = str(kind.value)
    common = _common(fields, PACES[type_name])
    made = MAKERS[type_name](fields, secrets, common)
    fields.end()
    return made


def _common(fields: Fields, pace: Pace) -> Common:
    per_second = fields.number("rate_per_second", pace.per_second, least=0, most=1000, exclusive=True)
    return {
        "name": fields.name(),
        "pace": Pace(per_second, fields.whole("burst", pace.burst, least=1, most=1000)),
        "timeout_seconds": fields.duration_ms("timeout", 15_000, least_ms=100, most_ms=120_000) / 1000,
        "fallback": fields.text("fallback"),
        "minimum_severity": fields.choice("minimum_severity", SEVERITIES, "info"),
        "send_resolved": fields.flag("send_resolved", True),
        "line": fields.node.line,
    }


def _pagerduty(fields: Fields, secrets: Secrets, common: Common) -> Receiver | None:
    environment = secrets.environment
    key = secrets.one(fields, "routing_key", default="DRIFTLINE_PAGERDUTY_ROUTING_KEY")
    backs = secrets.many(
        fields, "webhook_secret", default=_unless_own(fields, "routing_key", "DRIFTLINE_PAGERDUTY_WEBHOOK_SECRET")
    )
    region = fields.choice("region", ("us", "eu"), "us")
    url = _url(
        fields,
        "url",
        environment.get("DRIFTLINE_PAGERDUTY_URL") or (PAGERDUTY_EU_URL if region == "eu" else PAGERDUTY_URL),
    )
    if key is None:
        fields.wrong(
            fields.node,
            "it has no routing key: give routing_key_file or routing_key_env, or set DRIFTLINE_PAGERDUTY_ROUTING_KEY "
            "or DRIFTLINE_PAGERDUTY_ROUTING_KEY_FILE",
        )
        return None
    visible(key, fields, "a routing key", longest=128)
    return PagerDutyReceiver(**common, routing_key=key, webhook_secrets=backs, url=url)


def _slack(fields: Fields, secrets: Secrets, common: Common) -> Receiver | None:
    environment = secrets.environment
    own = [name for name in ("token", "webhook_url") if f"{name}_file" in fields or f"{name}_env" in fields]
    if len(own) > 1:
        fields.wrong(fields.node, "it has a token and a webhook's address: give one of them")
    webhook = secrets.one(fields, "webhook_url", default="" if own else "DRIFTLINE_SLACK_WEBHOOK_URL", url=True)
    token = secrets.one(fields, "token", default="" if own or webhook is not None else "DRIFTLINE_SLACK_TOKEN")
    channel = fields.text("channel", longest=200) or environment.get("DRIFTLINE_SLACK_CHANNEL", "")
    app_token = secrets.one(fields, "app_token", default="" if own else "DRIFTLINE_SLACK_APP_TOKEN")
    signing = secrets.one(fields, "signing_secret", default="" if own else "DRIFTLINE_SLACK_SIGNING_SECRET")
    api_url = _url(fields, "api_url", environment.get("DRIFTLINE_SLACK_API_URL") or SLACK_API_URL)
    if webhook is None and token is None:
        fields.wrong(
            fields.node,
            "it has no secret: give webhook_url_file, webhook_url_env, token_file or token_env, or set "
            "DRIFTLINE_SLACK_WEBHOOK_URL or DRIFTLINE_SLACK_TOKEN (or either with _FILE)",
        )
        return None
    if token is not None:
        visible(token, fields, "a Slack token")
        if not channel:
            fields.wrong(fields.node, "it has a token but no channel: give channel or set DRIFTLINE_SLACK_CHANNEL")
    if app_token is not None:
        visible(app_token, fields, "a Slack app token")
    return SlackReceiver(
        **common,
        webhook_url=webhook,
        token=token,
        channel=channel,
        app_token=app_token,
        signing_secret=signing,
        api_url=api_url,
    )


def _email(fields: Fields, secrets: Secrets, common: Common) -> Receiver | None:
    host = fields.parsed("host", "", _host)
    security = fields.choice("security", ("starttls", "tls", "none"), "starttls")
    port = fields.whole("port", _PORTS[security], least=1, most=65535)
    sender = fields.parsed("sender", "", _address)
    to = tuple(a for node in fields.texts("to", "an address") if (a := fields.parse(node, "", _address)))
    username = fields.text("username", longest=320)
    password = secrets.one(fields, "password")
    ca_file = fields.text("ca_file")
    for name, expected in (("host", "a mail server"), ("sender", "an address"), ("to", "addresses")):
        if fields.take(name) is None:
            fields.missing(name, expected)
    if security == "none" and host and not is_loopback(host):
        fields.wrong(fields.node, "security: none is taken only for a mail server on this machine: use starttls or tls")
    if bool(username) != (password is not None):
        fields.wrong(fields.node, "a username needs password_file or password_env, and they need a username")
    if ca_file and secrets.read and not (secrets.folder / ca_file).is_file():
        fields.wrong(fields.node, "ca_file: there is no such file")
    if not (host and sender and to):
        return None
    return EmailReceiver(
        **common,
        host=host,
        port=port,
        sender=sender,
        to=tuple(dict.fromkeys(to)),
        security=security,  # type: ignore[arg-type]  # one of the three choices
        username=username,
        password=password,
        ca_file=str(secrets.folder / ca_file) if ca_file else "",
    )


def _webhook(fields: Fields, secrets: Secrets, common: Common) -> Receiver | None:
    allow = tuple(a for node in fields.texts("allow", "a network") if (a := fields.parse(node, "", _network)))
    plain = fields.take("url")
    url: SecretStr | None = None
    if plain is not None:
        found = fields.parse(plain, "", lambda text: _plain_url(text, allowed=bool(allow)))
        url = SecretStr(found or f"https://{PLACEHOLDER}.invalid/")
        if {"url_file", "url_env"} & {n for n in ("url_file", "url_env") if fields.take(n) is not None}:
            fields.wrong(fields.node, "it has two addresses: give one of url, url_file and url_env")
    else:
        url = secrets.one(fields, "url", url=True)
    signing = secrets.many(fields, "signing_secret")
    if not all(_is_signing_key(secret.get_secret_value()) for secret in signing):
        fields.wrong(
            fields.node,
            "expected as a signing secret whsec_ and base64 of 24 to 64 bytes; make one by: "
            "echo whsec_$(openssl rand -base64 32)",
        )
    if url is None:
        fields.missing("url", "an address, or url_file or url_env")
        return None
    return WebhookReceiver(**common, url=url, signing_secrets=signing, allow=allow)


def _is_signing_key(text: str) -> bool:
    """Whether Standard Webhooks can sign with it."""
    try:
        return text == PLACEHOLDER or 24 <= len(base64.b64decode(text.removeprefix("whsec_"), validate=True)) <= 64
    except ValueError:
        return False


def _teams(fields: Fields, secrets: Secrets, common: Common) -> Receiver | None:
    url = secrets.one(fields, "webhook_url", url=True)
    if url is None:
        fields.missing("webhook_url_file", "a file with the workflow's address (or webhook_url_env)")
        return None
    return TeamsReceiver(**common, webhook_url=url)


def _opsgenie(fields: Fields, secrets: Secrets, common: Common) -> Receiver | None:
    key = secrets.one(fields, "api_key")
    region = fields.choice("region", ("us", "eu"), "us")
    api_url = _url(fields, "api_url", OPSGENIE_EU_URL if region == "eu" else OPSGENIE_API_URL)
    if key is None:
        fields.missing("api_key_file", "a file with the key of an API integration (or api_key_env)")
        return None
    visible(key, fields, "an API key")
    return OpsgenieReceiver(**common, api_key=key, api_url=api_url)


def _apprise(fields: Fields, secrets: Secrets, common: Common) -> Receiver | None:
    url = secrets.one(fields, "url")
    if importlib.util.find_spec("apprise") is None:
        fields.wrong(fields.node, "type apprise needs an optional package: install driftline-platform[apprise]")
    if url is None:
        fields.missing("url_file", "a file with an address as apprise writes them (or url_env)")
        return None
    if url.get_secret_value() != PLACEHOLDER and "://" not in url.get_secret_value():
        fields.wrong(fields.node, "expected an address as apprise writes them, such as matrix://…")
    return AppriseReceiver(**common, url=url)


MAKERS: Mapping[str, Make] = {
    "pagerduty": _pagerduty,
    "slack": _slack,
    "email": _email,
    "webhook": _webhook,
    "teams": _teams,
    "opsgenie": _opsgenie,
    "apprise": _apprise,
}


def type_of(receiver: Receiver) -> str:
    """The word for its kind, as in the file."""
    return type(receiver).__name__.removesuffix("Receiver").lower()


def _unless_own(fields: Fields, name: str, default: str) -> str:
    """A default of the environment only for a receiver whose main secret comes from there too."""
    return "" if f"{name}_file" in fields or f"{name}_env" in fields else default


def _url(fields: Fields, name: str, default: str) -> str:
    if fields.take(name) is not None:
        return fields.parsed(name, "", check_url)
    try:
        return check_url(default)
    except ValueError as error:
        fields.wrong(fields.node, f"the address that the environment gives: {error}")
        return ""


def _plain_url(text: str, *, allowed: bool) -> str:
    # What may be reached inside the house, its owner has listed; there http is what many devices speak.
    found = check_url(text, plain=allowed)
    if urlsplit(found).password is not None or urlsplit(found).username is not None:
        raise ValueError("an address with a password is a secret: give url_file or url_env")
    return found


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text) or not text.isprintable():
        raise ValueError("expected an address such as ops@example.org")
    return text


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("expected the name or address of a mail server")
    return text


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError("expected a network such as 10.20.0.0/16") from None
