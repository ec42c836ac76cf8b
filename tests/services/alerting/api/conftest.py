"""The interface on a real port over a real database, with a token of each role."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from driftline.codec import Record, decode
from driftline.topics import Topics
from services.access.roles import Role
from services.access.tokens import Tokens, create_token
from services.alerting.api.server import ApiServer
from services.alerting.api.services import ApiServices, Health, Limits
from services.alerting.channels.slack_desk import SlackDesk
from services.alerting.database import tables as t
from services.alerting.database.opening import Database
from services.alerting.incidents.actions import Actor, Desk
from services.alerting.incidents.store import Incoming, Place, Store
from services.alerting.metrics import Metrics
from services.alerting.policy.model import Pace, PagerDutyReceiver, PolicyHolder, SlackReceiver

TOPICS = Topics("test.")
NOW_MS = 1_800_000_000_000
SLACK_SECRET = "slack-signing-secret-canary"
PAGERDUTY_SECRETS = ("pagerduty-secret-canary-1", "pagerduty-secret-canary-2")
CANARIES = (SLACK_SECRET, *PAGERDUTY_SECRETS, "R0UT1NGKEYCANARY", "xoxb-canary")


@dataclasses.dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """The interface, as who asks it sees it; besides, what only the service sees."""

    def __init__(self, database: Database, policy: Any, folder: Path, limits: Limits) -> None:
        self.database = database
        self.holder = PolicyHolder(policy)
        self.now_ms = NOW_MS
        self.wall = dt.datetime.fromtimestamp(NOW_MS / 1000, dt.UTC)
        self.acted = 0
        self.health = Health(ready=True)
        self.refusal = ""
        self.reloaded: list[Actor] = []
        self.tokens_file = folder / "tokens.yaml"
        self._tokens: dict[tuple[str, tuple[str, ...]], str] = {}
        self.metrics = Metrics()
        self.desk = Desk(database, self.holder, TOPICS, lambda: self.now_ms, self._acted)
        self.store = Store(database, self.holder, TOPICS, lambda: self.now_ms, history="all")
        self.store.place(TOPICS.alerts, [Place(0, 0, 0)])
        self._offset = 0
        slack = SlackDesk(self.holder, self.desk)
        self.services = ApiServices(
            database=database,
            policy=self.holder,
            desk=self.desk,
            topics=TOPICS,
            now_ms=lambda: self.now_ms,
            metrics=self.metrics,
            tokens=Tokens(self.tokens_file),
            health=lambda: self.health,
            reload=self._reload,
            acted=self._acted,
            plot_key=b"k" * 32,
            slack_interaction=slack.interaction,
            limits=limits,
            wall=lambda: self.wall,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = ApiServer(self.services, "127.0.0.1", 0)
        self._on_loop(self._server.start())
        self.url = self._server.url

    def _on_loop(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def close(self) -> None:
        self._on_loop(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _acted(self) -> None:
        self.acted += 1

    def _reload(self, actor: Actor) -> str:
        self.reloaded.append(actor)
        return self.refusal

    def take(self, *alerts: Record) -> list[str]:
        """Take alerts in, each as it came; the ids of all incidents, the oldest first."""
        for alert in alerts:
            self.store.take([Incoming(TOPICS.alerts, 0, self._offset, alert)])
            self._offset += 1
            self.now_ms += 1
        with self.database.transaction() as connection:
            rows = connection.execute(sa.select(t.incidents.c.id).order_by(t.incidents.c.created_ms))
            return list(rows.scalars())

    def token(self, role: str | Role = "operator", *deployments: str, name: str = "") -> str:
        """A token of a role, limited to deployments if any are named. Its name is ``ROLE-person``."""
        key = (name or str(role), deployments)
        if key not in self._tokens:
            called = name or f"{role}-person" + (f"-{len(self._tokens)}" if deployments else "")
            self._tokens[key] = create_token(
                self.tokens_file, called, Role(role), deployments=deployments, now=dt.datetime.now(dt.UTC)
            )
        return self._tokens[key]

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = "operator",
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
        media: str = "application/json",
        **query: Any,
    ) -> Answer:
        """Ask; ``token`` is a role, a token, or None for nobody."""
        if query:
            path += "?" + urllib.parse.urlencode(query)
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        given = dict(headers or {})
        if sent is not None:
            given.setdefault("Content-Type", media)
        if token is not None:
            known = token if token.startswith("driftline_") else self.token(token)
            given.setdefault("Authorization", f"Bearer {known}")
        request = urllib.request.Request(self.url + path, sent, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def get(self, path: str, **more: Any) -> Answer:
        return self.ask("GET", f"/api/v1/{path}", **more)

    def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return self.ask("POST", f"/api/v1/{path}", {} if body is None and "raw" not in more else body, **more)

    def audit(self, action: str | None = None) -> list[Record]:
        """Audit events that are to be published."""
        with self.database.transaction() as connection:
            rows = connection.execute(
                sa.select(t.publications.c.value)
                .where(t.publications.c.topic == TOPICS.audit)
                .order_by(t.publications.c.id)
            )
            events = [decode(value)[1] for value in rows.scalars()]
        return [event for event in events if action is None or event["action"] == action]

    def counts(self) -> Counter[str]:
        """Samples of the metrics by name and labels."""
        found: Counter[str] = Counter()
        for line in self.ask("GET", "/metrics", token=None).body.decode().splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found


@pytest.fixture
def limits() -> Limits:
    """Generous ones; a test of limits overrides them."""
    return Limits(
        per_second=1000, burst=10_000, address_per_second=1000, address_burst=10_000, denials_burst=1000, body_seconds=5
    )


@pytest.fixture
def api_policy(make_policy: Callable[..., Any], make_route: Callable[..., Any]) -> Any:
    """Slack and PagerDuty, nowhere: nothing is sent here."""
    pace = Pace(1.0, 1)
    pager = PagerDutyReceiver(
        name="pager",
        pace=pace,
        routing_key=SecretStr("R0UT1NGKEYCANARY"),
        webhook_secrets=tuple(map(SecretStr, PAGERDUTY_SECRETS)),
    )
    chat = SlackReceiver(
        name="chat",
        pace=pace,
        token=SecretStr("xoxb-canary"),
        channel="C1",
        api_url="http://127.0.0.1:9/",
        signing_secret=SecretStr(SLACK_SECRET),
        fallback="pager",
    )
    return make_policy(pager, chat, route=make_route("pager", "chat"), public_url="https://driftline.example.org/a")


@pytest.fixture
def api(database: Database, api_policy: Any, tmp_path: Path, limits: Limits) -> Iterator[Api]:
    """The running interface."""
    with contextlib.closing(Api(database, api_policy, tmp_path, limits)) as running:
        yield running


@pytest.fixture
def start_api(api_policy: Any, tmp_path: Path, limits: Limits) -> Iterator[Callable[[Database], Api]]:
    """Starts the interface over a database of the test's own."""
    with contextlib.ExitStack() as stack:
        yield lambda database: stack.enter_context(contextlib.closing(Api(database, api_policy, tmp_path, limits)))


@pytest.fixture
def canaries() -> tuple[str, ...]:
    """Secrets of the policy, which no output may have."""
    return CANARIES
