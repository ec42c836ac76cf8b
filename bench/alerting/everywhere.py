"""Every channel at once: local stand-ins for all of them, and what each was told of each incident."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from services.demo.hooks import OPSGENIE, OPSGENIE_KEY, TEAMS, WEBHOOK, WEBHOOK_SECRET, RecordingHooks
from services.demo.mailbox import Mailbox
from services.demo.receivers import PAGERDUTY, SLACK_POST, SLACK_UPDATE, SLACK_WEBHOOK, Answer

SLACK_BOT = "slack-bot"
EMAIL = "email"
CHANNELS = (PAGERDUTY, SLACK_BOT, SLACK_WEBHOOK, EMAIL, WEBHOOK, TEAMS, OPSGENIE)

_NAMED = re.compile(r"bench-\d{5}-x")

_POLICY = """\
version: 1
backlog_digest: 0
defaults: {{group_wait: 0s, group_interval: 0s, repeat_interval: 0s}}
correlation: {{across: none}}
receivers:
  - {{name: pagerduty, type: pagerduty, routing_key_env: KEY, {pace}}}
  - {{name: slack-bot, type: slack, token_env: TOKEN, channel: C1, {pace}}}
  - {{name: slack-webhook, type: slack, webhook_url_env: HOOK, {pace}}}
  - {{name: email, type: email, {mail}, sender: a@example.org, to: [b@example.org], {pace}}}
  - {{name: webhook, type: webhook, url: "{webhook}", signing_secret_env: SECRET, allow: [127.0.0.0/8], {pace}}}
  - {{name: teams, type: teams, webhook_url_env: TEAMS, {pace}}}
  - {{name: opsgenie, type: opsgenie, api_key_env: OPSGENIE, api_url: "{opsgenie}", {pace}}}
route: {{notify: [pagerduty, slack-bot, slack-webhook, email, webhook, teams, opsgenie]}}
"""


@dataclass
class Heard:
    """What a channel was told, in order: (``trigger`` or ``resolve``, deployment).

    Attributes:
        events: All of it, repeats too.
        first: Where each first stands.
        sent_again: Requests beyond the first.
        repeated: Of these, what people see twice: what the receiver does not merge.
    """

    events: list[tuple[str, str]] = field(default_factory=list)
    first: dict[tuple[str, str], int] = field(default_factory=dict)
    sent_again: int = 0
    repeated: int = 0

    def add(self, kind: str, name: str, *, merged: bool) -> None:
        """Note a message; ``merged``: its receiver shows a repeat as one."""
        if (kind, name) in self.first:
            self.sent_again += 1
            self.repeated += not merged
        self.first.setdefault((kind, name), len(self.events))
        self.events.append((kind, name))

    def disordered(self, name: str) -> bool:
        """Whether a trigger came after the end."""
        end = self.first.get(("resolve", name))
        return end is not None and ("trigger", name) in self.events[end:]


class Everywhere:
    """All the stand-ins, slow enough that a kill often hits a message under way."""

    def __init__(self, delay_seconds: float = 0.03) -> None:
        self.hooks = RecordingHooks()
        self.mailbox = Mailbox()
        self._delay_seconds = delay_seconds

    def __enter__(self) -> Self:
        self.hooks.start()
        self.mailbox.start()
        chance = random.Random(1)
        for service, status in ((PAGERDUTY, 202), (SLACK_WEBHOOK, 200), (TEAMS, 202), (WEBHOOK, 200)):
            good = Answer(status, delay_seconds=self._delay_seconds)
            troubles = [good, Answer(500), Answer(429, {"Retry-After": "0.1"}), Answer(0)]
            self.hooks.script(service, *chance.choices(troubles, [12, 1, 1, 1], k=3000))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.hooks.stop()
        self.mailbox.stop()

    @property
    def policy(self) -> str:
        """The routing file."""
        return _POLICY.format(
            pace="rate_per_second: 1000, burst: 1000, timeout: 3s",
            mail=f"host: 127.0.0.1, port: {self.mailbox.port}, security: none",
            webhook=self.hooks.webhook_url,
            opsgenie=self.hooks.opsgenie_url,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Secrets and addresses."""
        return {
            "KEY": "R" * 32,
            "TOKEN": "xoxb-a-token",
            "HOOK": self.hooks.slack_webhook_url,
            "SECRET": WEBHOOK_SECRET,
            "TEAMS": self.hooks.teams_url,
            "OPSGENIE": OPSGENIE_KEY,
            "DRIFTLINE_PAGERDUTY_URL": self.hooks.pagerduty_url,
            "DRIFTLINE_SLACK_API_URL": self.hooks.slack_api_url,
        }

    def wait_for_more(self, count: int, seconds: float) -> None:
        """Wait until so many more requests have arrived than now, accepted or not."""
        before = len(self.hooks.received())
        deadline = time.monotonic() + seconds
        while len(self.hooks.received()) < before + count and time.monotonic() < deadline:
            time.sleep(0.005)

    def complete(self, incidents: int) -> bool:
        """Whether every channel knows of every incident and of its end."""
        return all(
            len([key for key in heard.first if key[0] == kind]) >= incidents
            for heard in self.messages().values()
            for kind in ("trigger", "resolve")
        )

    def messages(self) -> dict[str, Heard]:
        """What arrived, by channel."""
        found = {channel: Heard() for channel in CHANNELS}
        for channel, kind, name, merged in self._arrived():
            found[channel].add(kind, name, merged=merged)
        return found

    def _arrived(self) -> Iterator[tuple[str, str, str, bool]]:
        names: dict[str, str] = {}  # a thread's key to its deployment, for messages that give only the key
        for request in self.hooks.accepted():
            body = request.body
            if request.service == PAGERDUTY:
                name = _name(body, names, str(body["dedup_key"]))
                if body["event_action"] in ("trigger", "resolve"):
                    yield PAGERDUTY, str(body["event_action"]), name, True
            elif request.service in (SLACK_POST, SLACK_UPDATE):
                yield from _slack(request.service, body, names)
            elif request.service == OPSGENIE:
                path = str(body["path"])
                if path.endswith(("/v2/alerts", "/close")):
                    key = str(body.get("alias") or path.split("/")[-2])
                    yield OPSGENIE, "resolve" if path.endswith("/close") else "trigger", _name(body, names, key), True
            elif request.service == WEBHOOK:
                yield WEBHOOK, str(body["type"]).removeprefix("incident."), _name(body, names, ""), True
            elif request.service in (SLACK_WEBHOOK, TEAMS):
                yield request.service, _kind(headline(body)), _name(body, names, ""), False
        for mail in self.mailbox.accepted():
            subject = str(mail.message["Subject"])
            yield EMAIL, _kind(subject), _name(subject, names, ""), True


def _slack(service: str, body: Any, names: dict[str, str]) -> Iterator[tuple[str, str, str, bool]]:
    """Posts of the channel, and updates that tell of the end; answers in threads repeat what these say."""
    if body.get("thread_ts"):
        return
    kind = "resolve" if service == SLACK_UPDATE and "Resolved" in headline(body) else "trigger"
    if service == SLACK_POST or kind == "resolve":
        yield SLACK_BOT, kind, _name(body, names, ""), service == SLACK_UPDATE


def headline(body: Any) -> str:
    """What a message to Slack or Teams says first: whether something began or is over."""
    if "blocks" in body:
        return str(body["blocks"][0]["text"]["text"])
    return str(body["attachments"][0]["content"]["fallbackText"])


def _kind(text: str) -> str:
    return "resolve" if "Resolved" in text else "trigger"


def _name(body: Any, names: dict[str, str], key: str) -> str:
    named = _NAMED.search(body if isinstance(body, str) else json.dumps(body))
    if named is None:
        return names.get(key, key)
    if key:
        names.setdefault(key, named[0])
    return named[0]
