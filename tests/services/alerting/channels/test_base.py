"""How answers of receivers are read, when a failure is doubtful, and that every receiver has its channel."""

import asyncio
import dataclasses
import datetime as dt
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from services.alerting.channels.apprise_channel import AppriseChannel
from services.alerting.channels.base import (
    MAX_RETRY_AFTER_SECONDS,
    Again,
    Failed,
    Redactor,
    ask,
    http_session,
    network_error,
    outcome_of_status,
    proxy_for,
    retry_after,
)
from services.alerting.channels.email_channel import EmailChannel
from services.alerting.channels.making import make_channel
from services.alerting.channels.opsgenie import OpsgenieChannel
from services.alerting.channels.pagerduty import PagerDutyChannel
from services.alerting.channels.slack import SlackChannel
from services.alerting.channels.teams import TeamsChannel
from services.alerting.channels.webhook import WebhookChannel
from services.alerting.clock import Clock
from services.alerting.errors import AlertingSettingsError
from services.alerting.policy import model
from services.alerting.policy.model import Pace
from services.alerting.policy.receivers import PACES

NOW = dt.datetime(2024, 5, 1, 12, 0, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        (" 1.5 ", 1.5),
        ("0", 0.0),
        ("Wed, 01 May 2024 12:02:00 GMT", 120.0),
        ("Wed, 01 May 2024 11:00:00 GMT", 0.0),
        ("999999999", MAX_RETRY_AFTER_SECONDS),
        ("Wed, 01 May 2924 12:02:00 GMT", MAX_RETRY_AFTER_SECONDS),
        ("-5", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text(max_size=60))
def test_retry_after_never_fails_and_is_bounded(value: str) -> None:
    seconds = retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_SECONDS


def test_a_status_says_whether_to_try_again() -> None:
    def outcome(status: int) -> object:
        return outcome_of_status(status, {"Retry-After": "7"}, "body", NOW)

    assert outcome(200) is outcome(202) is None
    for status in (400, 401, 403, 404, 410, 413, 422):
        assert outcome(status) == Failed(f"HTTP {status}: body")
    for status in (500, 502, 503, 504, 408, 425):
        assert outcome(status) == Again(f"HTTP {status}: body", 7.0)
    assert outcome(429) == Again("HTTP 429: body", 7.0, too_fast=True)
    assert isinstance(outcome(302), Again)


def test_a_proxy_is_used_unless_the_address_is_exempt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    monkeypatch.setenv("no_proxy", "inside.example.org")
    assert proxy_for("https://slack.com/api/") == "http://proxy.example.org:3128"
    assert proxy_for("https://inside.example.org/x") is None
    assert proxy_for("http://127.0.0.1:9/x") is None


def test_secrets_are_taken_out_of_texts_in_every_form_they_take() -> None:
    address = "https://hooks.example.org/services/T000/B000/xxyyzzxx?sig=abc%2Fdefgh"
    redact = Redactor([address, 'pass"word', "matrix://user:hunter2hunter2@example.org/room", ""])
    ends = ("services/T000/B000/xxyyzzxx", "T000/B000/xxyyzzxx", "xxyyzzxx", "xxyyzzxx?sig=abc%2Fdefgh", "abc/defgh")
    for text in (address, *ends, "hunter2hunter2", 'pass"word', 'pass\\"word', "pass%22word"):
        assert redact(f"before {text} after") == "before *** after"
    assert redact("nothing in it") == "nothing in it"


def test_pagerduty_gets_at_most_120_in_any_minute() -> None:
    pace = PACES["pagerduty"]
    assert pace.burst + 60 * pace.per_second <= 120


# When is it doubtful?


class Server:
    """Takes what is asked of it and goes away, or stays silent."""

    def __init__(self, answer: bytes | None, after_bytes: int) -> None:
        self._answer = answer
        self._after_bytes = after_bytes
        self.got = b""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(self.got) < self._after_bytes:
            self.got += await reader.read(65536)
        if self._answer is None:
            await asyncio.sleep(5)
        elif self._answer:
            writer.write(self._answer)
            await writer.drain()
        writer.close()


async def outcome_at(answer: bytes | None, after_bytes: int = 1, timeout_seconds: float = 1.0) -> Any:
    server = Server(answer, after_bytes)
    running = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}/a-secret-path"
    async with http_session(timeout_seconds) as session:
        answered = await ask(
            session, "POST", url, b"{}", headers={}, timeout_seconds=timeout_seconds, redact=Redactor([url])
        )
    running.close()
    return answered


@pytest.mark.parametrize("answer", [None, b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_a_request_that_had_gone_out_without_an_answer_is_doubtful(answer: bytes | None) -> None:
    _, failure = await outcome_at(answer)
    assert isinstance(failure, Again)
    assert failure.doubtful
    assert "a-secret-path" not in failure.error


async def test_an_answer_whose_text_breaks_off_is_an_answer() -> None:
    text, failure = await outcome_at(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nsome")
    assert failure is None
    assert len(text) < 100
    _, failure = await outcome_at(b"HTTP/1.1 400 No\r\nContent-Length: 100\r\n\r\nsome")
    assert isinstance(failure, Failed)


async def test_an_answer_of_any_size_is_read_at_its_beginning_only() -> None:
    text, failure = await outcome_at(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 100_000)
    assert failure is None
    assert len(text) <= 4096


async def test_no_connection_is_not_doubtful_and_its_place_is_not_quoted() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        async with http_session(1.0) as session:
            _, failure = await ask(session, "POST", url, b"{}", headers={}, timeout_seconds=1.0, redact=Redactor([]))
    assert failure == Again("no connection: Connection refused")


async def test_a_doubt_does_not_outlive_its_request() -> None:
    _, failure = await outcome_at(b"")
    assert isinstance(failure, Again) and failure.doubtful
    async with http_session(1.0) as session:
        with pytest.raises(aiohttp.ClientError) as raised:
            await session.post("http://127.0.0.1:1/")
        assert not network_error(raised.value).doubtful


async def test_a_redirect_is_not_followed() -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/here"
    async with http_session(2.0) as session:
        _, failure = await ask(session, "POST", url, b"{}", headers={}, timeout_seconds=2.0, redact=Redactor([]))
        with pytest.raises(aiohttp.ClientError):
            await session.post(url, data=b"{}")  # as a library that does not know better
    await runner.cleanup()
    assert isinstance(failure, Again) and not failure.doubtful
    assert asked == ["/here", "/here"]


# Making


def _receivers() -> dict[type, Any]:
    common: dict[str, Any] = {"name": "r", "pace": Pace(1.0, 1)}
    secret = SecretStr("https://example.org/a-secret")
    return {
        SlackChannel: model.SlackReceiver(**common, token=SecretStr("xoxb-secret"), channel="C1"),
        PagerDutyChannel: model.PagerDutyReceiver(**common, routing_key=SecretStr("R" * 32)),
        EmailChannel: model.EmailReceiver(
            **common, host="mail.example.org", port=587, sender="a@example.org", to=("b@example.org",)
        ),
        WebhookChannel: model.WebhookReceiver(**common, url=secret),
        TeamsChannel: model.TeamsReceiver(**common, webhook_url=secret),
        OpsgenieChannel: model.OpsgenieReceiver(**common, api_key=SecretStr("a-secret-key")),
        AppriseChannel: model.AppriseReceiver(**common, url=SecretStr("json://127.0.0.1/a-secret")),
    }


async def test_every_kind_of_receiver_has_its_channel_and_shows_no_secret() -> None:
    kinds = {
        kind.__name__ for kind in vars(model).values() if isinstance(kind, type) and issubclass(kind, model.Receiver)
    }
    assert {type(receiver).__name__ for receiver in _receivers().values()} == kinds - {"Receiver"}
    async with http_session(1.0) as session:
        for kind, receiver in _receivers().items():
            channel = make_channel(receiver, session, Redactor(receiver.secrets()), Clock())
            assert type(channel) is kind
            assert "secret" not in repr(channel) and "RRRR" not in repr(channel)
            await channel.close()


async def test_a_receiver_of_no_kind_is_a_clear_error() -> None:
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Pigeon(model.Receiver):
        """Nobody made a channel for it."""

    async with http_session(1.0) as session:
        with pytest.raises(AlertingSettingsError, match="Pigeon"):
            make_channel(Pigeon(name="p", pace=Pace(1.0, 1)), session, Redactor([]), Clock())
