"""Ten minutes in which the receivers refuse nearly everything: HTTP 429 with ``Retry-After``, 5xx, closed connections.

Driftline's service and Prometheus Alertmanager go through it side by side: the same incidents, the same answers of the
receivers, the same grouping times. Alertmanager is told as Prometheus tells it: every alert again every 15 seconds, and
its end for the rest of the run.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from bench.alerting.alertmanager import VERSION, Alertmanager, NotBuiltError, built
from bench.alerting.everywhere import headline
from bench.alerting.machine import Installation, alert, broker, name_of
from bench.report import Figure, figure, print_table
from services.broker.ports import free_port
from services.demo.receivers import PAGERDUTY, SLACK_WEBHOOK, Answer, RecordingReceiver

CHANNELS = (PAGERDUTY, SLACK_WEBHOOK)
FOLDER = Path("build/alertmanager")
GROUP_INTERVAL_SECONDS = 60

POLICY = f"""\
version: 1
defaults: {{group_wait: 1s, group_interval: {GROUP_INTERVAL_SECONDS}s}}
correlation: {{across: none}}
receivers:
  - {{name: pagerduty, type: pagerduty, routing_key_env: KEY, rate_per_second: 100, burst: 100}}
  - {{name: slack, type: slack, webhook_url_env: HOOK, rate_per_second: 100, burst: 100}}
route: {{notify: [pagerduty, slack]}}
"""

_PEER = """\
route:
  receiver: both
  group_by: [deployment]
  group_wait: 1s
  group_interval: {interval}s
receivers:
  - name: both
    pagerduty_configs:
      - {{routing_key: {key}, url: "{pagerduty}", description: "{{{{ .CommonLabels.deployment }}}}"}}
    slack_configs:
      - api_url: "{slack}"
        title: "{{{{ .Status }}}}"
        text: "{{{{ .CommonLabels.deployment }}}}"
        send_resolved: true
"""


class PeerReceiver(RecordingReceiver):
    """Takes what Alertmanager sends to Slack, attachments and all."""

    async def _slack_webhook(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        return await self._answer(request, SLACK_WEBHOOK, body, [], Answer(400), "ok", 200)


@dataclass(frozen=True)
class Happening:
    """An incident of the storm; seconds since its beginning. ``ends`` may be after the storm."""

    number: int
    begins: float
    ends: float


def happenings(count: int, seconds: float, chance: random.Random) -> list[Happening]:
    """Incidents that begin during the storm; half of them also end in it."""
    found = []
    for number in range(count):
        begins = chance.uniform(0, 0.9 * seconds)
        short = number % 2 == 0
        ends = begins + chance.uniform(0.1, 0.3) * seconds if short else seconds * chance.uniform(1.05, 1.2)
        found.append(Happening(number, begins, min(ends, 0.98 * seconds) if short else ends))
    return found


def refusals(seconds: float, chance: random.Random) -> list[Answer | None]:
    """How a receiver answers in each second of the storm: None accepts, one second in twenty."""
    answers: list[Answer | None] = []
    for _ in range(int(seconds)):
        wait = Answer(429, {"Retry-After": str(chance.randint(1, 20))}, "rate_limited")
        kinds = [wait, Answer(503, body="unavailable"), Answer(500), Answer(0), None]
        answers.append(chance.choices(kinds, [60, 20, 10, 5, 5])[0])
    return answers


def told(receiver: RecordingReceiver) -> dict[str, dict[str, list[str]]]:
    """Channel and deployment to what arrived, in order: ``trigger`` or ``resolve``."""
    found: dict[str, dict[str, list[str]]] = {channel: {} for channel in CHANNELS}
    names: dict[str, str] = {}  # a resolve at PagerDuty names only the key of its trigger
    for request in receiver.accepted(*CHANNELS):
        text = json.dumps(request.body)
        named = list(dict.fromkeys(re.findall(r"bench-\d{5}-x", text)))  # a digest names many
        if request.service == PAGERDUTY:
            key = str(request.body.get("dedup_key"))
            named = named[:1] or ([names[key]] if key in names else [])
            if named:
                names[key] = named[0]
            kind = "resolve" if request.body.get("event_action") == "resolve" else "trigger"
        else:
            ends = "Resolved:" in headline(request.body) if "blocks" in request.body else "resolved" in text.lower()
            kind = "resolve" if ends else "trigger"
        for name in named:  # none where the service tells of itself: that a receiver does not take its messages
            found[request.service].setdefault(name, []).append(kind)
    return found


@dataclass(frozen=True)
class Verdict:
    """What a channel was told in the end. ``untold``: incidents never heard of; ``unended``: told and never ended."""

    untold: int
    unended: int
    disordered: int
    repeated: int


def verdict(messages: dict[str, list[str]], numbers: Sequence[int]) -> Verdict:
    """Judge a channel."""
    untold = unended = disordered = repeated = 0
    for number in numbers:
        kinds = messages.get(name_of(number), [])
        untold += "trigger" not in kinds
        unended += "trigger" in kinds and "resolve" not in kinds
        disordered += "resolve" in kinds and "trigger" in kinds[kinds.index("resolve") :]
        repeated += max(kinds.count("trigger") - 1, 0) + max(kinds.count("resolve") - 1, 0)
    return Verdict(untold, unended, disordered, repeated)


def measure(seed: int, quick: bool) -> list[Figure]:
    """The storm."""
    seconds, count = (60.0, 20) if quick else (600.0, 100)
    chance = random.Random(seed)
    incidents = happenings(count, seconds, chance)
    answers = refusals(seconds, chance)
    peer_note = f"Alertmanager {VERSION}"
    with contextlib.ExitStack() as stack:
        servers, folder = stack.enter_context(broker())
        ours = stack.enter_context(RecordingReceiver())
        theirs = stack.enter_context(PeerReceiver())
        environment = {
            "KEY": "R" * 32,
            "HOOK": ours.slack_webhook_url,
            "DRIFTLINE_PAGERDUTY_URL": ours.pagerduty_url,
        }
        service = Installation(servers, folder / "storm", POLICY, environment)
        service.start()
        stack.callback(service.end)
        peer: Alertmanager | None = None
        try:
            peer = stack.enter_context(running_peer(folder / "peer", theirs))
        except NotBuiltError as error:
            peer_note = f"Alertmanager left out: {error}"
        begin = time.monotonic()
        teller = threading.Thread(target=tell_peer, args=(peer, incidents, begin, 1.7 * seconds), daemon=True)
        teller.start()
        events = sorted(
            [(h.begins, "firing", h) for h in incidents] + [(h.ends, "resolved", h) for h in incidents],
            key=lambda event: event[0],
        )
        second = 0
        while events or second <= len(answers):
            now = time.monotonic() - begin
            while events and events[0][0] <= now:
                _, status, happening = events.pop(0)
                service.publish([alert(happening.number, status)])
            if int(now) >= second:
                answer = answers[int(now)] if int(now) < len(answers) else None
                for receiver in (ours, theirs):
                    for channel in CHANNELS:
                        receiver.answer_always(channel, answer)
                second = int(now) + 1
            time.sleep(0.05)
        storm_over = time.monotonic()
        deadline = storm_over + max(3 * GROUP_INTERVAL_SECONDS, 0.5 * seconds)
        while time.monotonic() < deadline:
            wanting = [verdict(m, range(count)) for m in told(ours).values()]
            if not any(v.untold or v.unended for v in wanting) and (
                peer is None or time.monotonic() > begin + 1.7 * seconds
            ):
                break
            time.sleep(0.5)
        mine, others = told(ours), told(theirs)
    note = f"{count} incidents in {seconds:.0f} s; 95 % of answers 429, 5xx or none"
    rows, figures = [], []
    for channel in CHANNELS:
        found = verdict(mine[channel], range(count))
        other = verdict(others[channel], range(count)) if peer is not None else None
        for what in ("untold", "unended", "disordered", "repeated"):
            value, beside = getattr(found, what), "–" if other is None else getattr(other, what)
            rows.append((channel, what, value, beside))
            bound = None if what == "repeated" else 0
            figures.append(figure(f"storm, {channel}: {_WORDS[what]}", value, "", at_most=bound, note=note))
            if other is not None:
                figures.append(figure(f"storm, {channel}: {_WORDS[what]}: Alertmanager", beside, "", note=peer_note))
    print_table(f"The storm: {note}", ("channel", "of the incidents", "Driftline", peer_note), rows, left=2)
    return figures


_WORDS = {
    "untold": "incidents that nobody was told of",
    "unended": "incidents told and never ended",
    "disordered": "incidents with a trigger after their end",
    "repeated": "messages that said nothing new",
}


@contextlib.contextmanager
def running_peer(
    folder: Path, receiver: RecordingReceiver, *, interval_seconds: int = GROUP_INTERVAL_SECONDS
) -> Iterator[Alertmanager]:
    """Alertmanager, sending to a receiver."""
    configuration = _PEER.format(
        interval=interval_seconds,
        key="R" * 32,
        pagerduty=receiver.pagerduty_url,
        slack=receiver.slack_webhook_url,
    )
    peer = Alertmanager(built(FOLDER), folder, configuration, free_port("127.0.0.1"))
    peer.start()
    try:
        yield peer
    finally:
        peer.end()


def tell_peer(peer: Alertmanager | None, incidents: Sequence[Happening], begin: float, seconds: float) -> None:
    """Post what fires, and what has ended, every 15 seconds and at each change, as Prometheus does."""
    changes = sorted({0.0, *(h.begins for h in incidents), *(h.ends for h in incidents), *_every(15.0, seconds)})
    for moment in changes:
        time.sleep(max(begin + moment - time.monotonic(), 0))
        now = time.monotonic() - begin
        alerts = [
            peer_alert(h.number, ended=h.ends <= now, seconds=now - h.begins) for h in incidents if h.begins <= now
        ]
        if peer is not None and alerts:
            peer.tell(alerts)


def _every(step: float, seconds: float) -> list[float]:
    return [step * n for n in range(int(seconds / step) + 1)]


def peer_alert(number: int, *, ended: bool, seconds: float) -> dict[str, Any]:
    """An alert as Prometheus posts it."""
    now = dt.datetime.now(dt.UTC)
    body: dict[str, Any] = {
        "labels": {"alertname": "drift", "deployment": name_of(number)},
        "startsAt": (now - dt.timedelta(seconds=seconds)).isoformat(),
    }
    return (
        {**body, "endsAt": now.isoformat()}
        if ended
        else {**body, "endsAt": (now + dt.timedelta(minutes=4)).isoformat()}
    )
