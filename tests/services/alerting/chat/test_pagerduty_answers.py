"""What comes from PagerDuty: who signed it, which thread it is about, and what is done."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from services.alerting.channels.pagerduty_answers import (
    WebhookError,
    event_of_body,
    find_thread,
    signature,
    take,
    verify,
)
from services.alerting.database import tables as t
from services.alerting.incidents.actions import ActionRefusedError, Actor, Do
from services.alerting.notify.kinds import Kind
from services.alerting.notify.outbox import thread_key

SECRET, NEXT = "current-secret", "next-secret"
PAGER = "pagerduty"


# Signatures


@given(body=st.binary(max_size=100), others=st.lists(st.text(max_size=40), max_size=3))
def test_one_good_signature_of_several_is_enough_and_every_secret_is_good(body: bytes, others: list[str]) -> None:
    for secret in (SECRET, NEXT):
        signed = ",".join([*others, signature(secret, body)]) if len(others) < 3 else signature(secret, body)
        assert verify([SECRET, NEXT], {"x-pagerduty-signature": signed}, body)
    assert not verify([SECRET], {"X-PagerDuty-Signature": signature(NEXT, body)}, body)
    assert not verify([SECRET], {"X-PagerDuty-Signature": signature(SECRET, body)}, body + b" ")
    assert not verify([], {"X-PagerDuty-Signature": signature("", body)}, body)
    assert not verify([SECRET], {}, body)


@pytest.mark.parametrize("given_", ["", "v1=", "v1=" + "0" * 64, signature(SECRET, b"b")[3:], "\udcff", "," * 1000])
def test_what_pagerduty_did_not_sign_is_refused(given_: str) -> None:
    assert not verify([SECRET], {"X-PagerDuty-Signature": given_}, b"b")


# Reading


_NAMES = st.sampled_from(["event", "data", "id", "agent", "event_type", "incident", "occurred_at"])


@given(
    st.recursive(
        st.none() | st.text(max_size=10) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["event", "data", "id", "agent", "event_type", "incident"]), inner, max_size=4
            )
        ),
        max_leaves=20,
    )
)
def test_any_document_is_read_or_refused(document: Any) -> None:
    with contextlib.suppress(WebhookError):
        event_of_body(json.dumps(document).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"event": {}}'])
def test_what_is_no_webhook_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookError, match="expected"):
        event_of_body(body)


# Doing


class Desk:
    """Notes what it is asked to do, each request once."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Do, Actor, str]] = []
        self.refuse: set[str] = set()

    def act(self, incident: str, do: Do, actor: Actor, reason: str, **_: Any) -> None:
        if incident in self.refuse:
            raise ActionRefusedError("it is over")
        if actor.request not in {done[2].request for done in self.done}:
            self.done.append((incident, do, actor, reason))

    @property
    def did(self) -> list[tuple[str, str]]:
        return [(incident, do.value) for incident, do, _, _ in self.done]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def make_thread(connection: sa.Connection, number: int, told: dict[str, str], **changes: Any) -> int:
    row = {"receiver": PAGER, "group_key": f"group-{number}", "episode": 1, "status": "open", "route": "route"}
    row |= {"group_labels": [], "created_ms": 0, "receipt": {}, **changes}
    thread = connection.execute(sa.insert(t.threads).values(**row)).inserted_primary_key
    assert thread is not None
    for incident, status in told.items():
        if not connection.execute(sa.select(t.incidents.c.id).where(t.incidents.c.id == incident)).first():
            values: dict[str, Any] = {c.name: "" for c in t.incidents.c if isinstance(c.type, sa.Text)}
            values |= {c.name: 1 for c in t.incidents.c if isinstance(c.type, sa.Integer)}
            values |= {"id": incident, "status": "open", "flapping": False}
            connection.execute(sa.insert(t.incidents).values(**values))
        told_state = {"told_status": status, "told_revision": 1, "told_severity": "error", "told_episode": 1}
        connection.execute(
            sa.insert(t.thread_incidents).values(thread_id=thread[0], incident_id=incident, **told_state)
        )
    return int(thread[0])


class Subscriber:
    """Takes webhooks as the HTTP interface does: checks, does, answers."""

    def __init__(self, database: Any, desk: Desk) -> None:
        outer = self
        self.broken = False

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = 202
                if outer.broken:
                    status = 500
                elif not verify([SECRET, NEXT], dict(self.headers.items()), body):
                    status = 401
                else:
                    take(database, desk, PAGER, body)  # type: ignore[arg-type]  # a desk that only notes
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hooks/pagerduty/{PAGER}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def subscriber(any_database: Any, desk: Desk, receiver: Any) -> Iterator[Subscriber]:
    """Subscribed to what happens in PagerDuty."""
    with contextlib.closing(Subscriber(any_database, desk)) as made:
        receiver.pagerduty.subscribe(made.url, SECRET)
        yield made


@pytest.fixture
def open_incident(
    any_database: Any, receiver: Any, receivers: Any, send: Any, make_delivery: Any, make_incident: Any
) -> Any:
    """Tells PagerDuty of a thread of two incidents; its dedup key. What came back of our own event is waited for."""

    async def tell(*, receipt: bool = True) -> str:
        key = thread_key(PAGER, "group-1", 1, "")
        with any_database.transaction() as connection:
            told = {"a" * 12: "firing", "b" * 12: "acknowledged", "c" * 12: "resolved", "d" * 12: ""}
            make_thread(connection, 1, told, receipt={"dedup_key": key} if receipt else {})
            make_thread(connection, 2, {"e" * 12: "firing"}, receipt={"dedup_key": thread_key(PAGER, "group-2", 1, "")})
            make_thread(connection, 1, {"f" * 12: "firing"}, receiver="another", receipt={"dedup_key": key})
        await send(receivers.pagerduty(), make_delivery(Kind.TRIGGER, make_incident(), thread_key=key))
        return key

    return tell


def wait_for_webhooks(receiver: Any, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(receiver.webhook_answers) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(receiver.webhook_answers) == count


@pytest.mark.parametrize("receipt", [True, False], ids=["by receipt", "by working out the key"])
async def test_what_a_person_does_there_is_done_to_the_threads_incidents(
    receiver: Any, subscriber: Subscriber, desk: Desk, open_incident: Any, receipt: bool
) -> None:
    key = await open_incident(receipt=receipt)
    for kind, do in (
        ("incident.acknowledged", "acknowledge"),
        ("incident.unacknowledged", "unacknowledge"),
        ("incident.resolved", "resolve"),
    ):
        desk.done.clear()
        receiver.in_pagerduty(kind, key)
        assert desk.did == [("a" * 12, do), ("b" * 12, do)], "those that were told and are not over"
        actor = desk.done[0][2]
        assert (actor.name, actor.via, actor.kind, actor.receiver) == ("pagerduty:Ada Lovelace", PAGER, "human", PAGER)
    assert set(receiver.webhook_answers) == {202}


async def test_that_somebody_holds_the_alert_there_is_known_when_paging_again(
    receiver: Any, subscriber: Subscriber, open_incident: Any, any_database: Any
) -> None:
    key = await open_incident()
    for kind, held in (("acknowledged", True), ("unacknowledged", False), ("acknowledged", True), ("resolved", False)):
        receiver.in_pagerduty(f"incident.{kind}", key, person=None if kind == "unacknowledged" else "Ada")
        with any_database.transaction() as connection:
            kept = connection.execute(sa.select(t.threads.c.receipt).where(t.threads.c.group_key == "group-1"))
            assert [row.receipt["acknowledged"] for row in kept if "acknowledged" in row.receipt] == [held]


async def test_our_own_events_do_not_come_back_as_answers(
    receiver: Any,
    receivers: Any,
    send: Any,
    make_delivery: Any,
    make_incident: Any,
    make_over: Any,
    subscriber: Subscriber,
    desk: Desk,
    open_incident: Any,
) -> None:
    key = await open_incident()
    taken = make_incident(status="acknowledged")
    await send(receivers.pagerduty(), make_delivery(Kind.ACKNOWLEDGE, taken, thread_key=key))
    await send(receivers.pagerduty(), make_delivery(Kind.RESOLVE, make_over(), thread_key=key))
    wait_for_webhooks(receiver, 3)
    assert receiver.pagerduty.known_as(key).status == "resolved" and desk.done == []


async def test_a_repeated_delivery_changes_nothing_whatever_its_headers_say(
    receiver: Any, subscriber: Subscriber, desk: Desk, open_incident: Any
) -> None:
    key = await open_incident()
    [webhook] = receiver.pagerduty.does("incident.acknowledged", key, person="Ada")
    for number in range(3):
        again = type(webhook)(webhook.url, {**webhook.headers, "X-Webhook-Id": str(number)}, webhook.body)
        assert receiver.deliver(again) == 202
    assert len(desk.done) == 2


async def test_a_note_finds_its_thread_by_what_earlier_events_told(
    receiver: Any, subscriber: Subscriber, desk: Desk, open_incident: Any, any_database: Any
) -> None:
    key = await open_incident()
    wait_for_webhooks(receiver, 1)
    receiver.in_pagerduty("incident.annotated", key, text="the feed\nis \u202ebroken")
    assert [(do, reason) for _, do, _, reason in desk.done] == [
        (Do.NOTE, "the feed / is \N{REPLACEMENT CHARACTER}broken"),
        (Do.NOTE, "the feed / is \N{REPLACEMENT CHARACTER}broken"),
    ]
    with any_database.transaction() as connection:
        kept = connection.execute(sa.select(t.threads.c.receipt).where(t.threads.c.group_key == "group-1")).scalars()
        known = {"dedup_key": key, "pagerduty_incident": receiver.pagerduty.known_as(key).id, "acknowledged": False}
        assert known in list(kept)


async def test_an_acknowledgement_that_ran_out_there_is_given_back(
    receiver: Any, subscriber: Subscriber, desk: Desk, open_incident: Any
) -> None:
    key = await open_incident()
    receiver.in_pagerduty("incident.unacknowledged", key, person=None)
    assert {do for _, do, _, _ in desk.done} == {Do.UNACKNOWLEDGE}
    assert desk.done[0][2].kind == "service"
    desk.done.clear()
    receiver.in_pagerduty("incident.resolved", key, person=None)
    assert desk.done == [], "an end that nobody decided is told by the monitors, not by PagerDuty"


async def test_what_is_said_late_of_a_thread_that_is_over_does_nothing_but_open_it_again(
    receiver: Any, subscriber: Subscriber, desk: Desk, open_incident: Any, any_database: Any
) -> None:
    key = await open_incident()
    with any_database.transaction() as connection:
        connection.execute(sa.update(t.threads).values(status="closed"))
        connection.execute(sa.update(t.thread_incidents).values(told_status="resolved"))
    for kind in ("incident.acknowledged", "incident.resolved", "incident.unacknowledged"):
        receiver.in_pagerduty(kind, key)
    assert desk.done == []
    receiver.in_pagerduty("incident.reopened", key)
    assert {do for _, do, _, _ in desk.done} == {Do.REOPEN}
    assert desk.done[0][2].receiver == "", "it is told anew there, under a key whose end it will be told of"


async def test_an_event_of_long_ago_is_a_replay(
    receiver: Any, subscriber: Subscriber, desk: Desk, open_incident: Any
) -> None:
    key = await open_incident()
    [webhook] = receiver.pagerduty.does("incident.acknowledged", key, person="Ada")
    event = json.loads(webhook.body)
    event["event"]["occurred_at"] = "2026-01-01T00:00:00.000Z"
    assert receiver.send_webhook(subscriber.url, event, SECRET) == 202
    assert desk.done == []


async def test_what_is_said_of_an_earlier_thread_is_not_done_to_the_one_that_follows_it(
    receiver: Any, subscriber: Subscriber, desk: Desk, open_incident: Any, any_database: Any
) -> None:
    key = await open_incident()
    with any_database.transaction() as connection:
        connection.execute(sa.update(t.threads).where(t.threads.c.group_key == "group-1").values(status="closed"))
        receipt = {"dedup_key": key, "acknowledged": True}
        make_thread(connection, 1, {"a" * 12: "firing"}, episode=2, receipt=receipt)  # not told yet
    receiver.in_pagerduty("incident.resolved", key)
    assert desk.done == []


async def test_an_answer_that_is_refused_for_one_incident_is_taken_for_the_others(
    receiver: Any, subscriber: Subscriber, desk: Desk, open_incident: Any
) -> None:
    desk.refuse.add("a" * 12)
    receiver.in_pagerduty("incident.acknowledged", await open_incident())
    assert desk.did == [("b" * 12, "acknowledge")] and set(receiver.webhook_answers) == {202}


async def test_what_is_about_others_is_left_alone(
    receiver: Any, subscriber: Subscriber, desk: Desk, any_database: Any
) -> None:
    with any_database.transaction() as connection:
        assert find_thread(connection, PAGER, "of another tool") is None
        assert find_thread(connection, PAGER, "", "PUNKNOWN") is None
        assert find_thread(connection, PAGER, "", "") is None
    event = {"id": "1", "event_type": "incident.acknowledged", "data": {"id": "P1", "incident_key": "of another tool"}}
    agent = {"type": "user_reference", "summary": "Ada"}
    assert receiver.send_webhook(subscriber.url, {"event": {**event, "agent": agent}}, SECRET) == 202
    ping = {"id": "2", "event_type": "pagey.ping", "data": {"message": "hello", "type": "ping"}}
    assert receiver.send_webhook(subscriber.url, {"event": ping}, "old", NEXT) == 202, "one of two signatures is good"
    assert receiver.send_webhook(subscriber.url, {"event": ping}, "forged") == 401
    assert desk.done == []
