"""How answers are read, how fast and how patiently is sent."""

import asyncio
import datetime as dt
import logging
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.alerting.channels.base import (
    MAX_RETRY_AFTER_SECONDS,
    Again,
    Failed,
    Redactor,
    http_session,
    outcome_of_status,
    proxy_for,
    retry_after,
)
from services.alerting.notify.dispatcher import BACK_OFF_MOST_SECONDS, TokenBucket, back_off_seconds
from services.alerting.notify.outbox import Claim
from services.alerting.settings import PAGERDUTY_PACE, Pace
from services.alerting.channels.slack import SlackChannel
from services.demo.receivers import SLACK_POST, SLACK_WEBHOOK, Answer

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


@given(attempts=st.integers(1, 10_000), seed=st.integers())
def test_back_off_grows_to_a_limit_with_jitter(attempts: int, seed: int) -> None:
    seconds = back_off_seconds(attempts, random.Random(seed))
    assert min(2.0 ** (min(attempts, 40) - 2), BACK_OFF_MOST_SECONDS / 2) <= seconds <= BACK_OFF_MOST_SECONDS


@given(pace=st.builds(Pace, st.floats(0.1, 50), st.integers(1, 50)), pauses=st.lists(st.floats(0, 3), max_size=300))
def test_a_bucket_never_lets_more_pass_than_burst_and_rate(pace: Pace, pauses: list[float]) -> None:
    now = 0.0
    bucket = TokenBucket(pace, lambda: now)
    sent: list[float] = []
    for pause in pauses:
        now += pause
        if bucket.wait_seconds() <= 0:
            asyncio.run(bucket.take())
            sent.append(now)
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            allowed = pace.burst + (sent[last] - sent[first]) * pace.per_second
            assert last - first + 1 <= allowed + 1e-6


def test_pagerduty_gets_at_most_120_in_any_minute() -> None:
    assert PAGERDUTY_PACE.burst + 60 * PAGERDUTY_PACE.per_second <= 120


def test_a_proxy_is_used_unless_the_address_is_exempt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    monkeypatch.setenv("no_proxy", "inside.example.org")
    assert proxy_for("https://slack.com/api/") == "http://proxy.example.org:3128"
    assert proxy_for("https://inside.example.org/x") is None
    assert proxy_for("http://127.0.0.1:9/x") is None


def claim_of(alert: dict[str, Any]) -> Claim:
    return Claim(1, "key", "slack", "trigger", 1, alert, alert, {}, 0)


async def send(settings: Any, alert: dict[str, Any]) -> Any:
    async def at_once() -> None:
        pass

    async with http_session(2.0) as session:
        return await SlackChannel(settings, session, Redactor([])).send(claim_of(alert), at_once)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("internal_error", Again),
        ("ratelimited", Again),
        ("service_unavailable", Again),
        ("channel_not_found", Failed),
        ("invalid_auth", Failed),
        ("invalid_blocks", Failed),
        ("<!channel> \u202e", Failed),
    ],
)
async def test_an_error_of_slacks_api_is_read_from_its_body(
    receiver: Any, destinations: Any, make_alert: Any, error: str, kind: type[Again] | type[Failed]
) -> None:
    body = f'{{"ok": false, "error": "{error}"}}'
    receiver.script(SLACK_POST, Answer(200, {"Content-Type": "application/json"}, body))
    outcome = await send(destinations.slack_token(), make_alert())
    assert isinstance(outcome, kind)
    assert "\u202e" not in outcome.error


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {"Content-Type": "text/html"}, "<html>a gateway</html>"),
        Answer(200, {"Content-Type": "application/json"}, "{"),
        Answer(200, {"Content-Type": "application/json"}, "[]"),
        Answer(502, {"Content-Type": "text/html"}, "bad gateway"),
    ],
)
async def test_an_answer_that_is_not_slacks_is_tried_again(
    receiver: Any, destinations: Any, make_alert: Any, answer: Answer
) -> None:
    receiver.script(SLACK_POST, answer)
    assert isinstance(await send(destinations.slack_token(), make_alert()), Again)


async def test_slack_sdk_logs_nothing_not_even_when_everything_is_logged(
    receiver: Any, destinations: Any, make_alert: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "slack_sdk")
    for settings in (destinations.slack_webhook(), destinations.slack_token()):
        receiver.script(SLACK_WEBHOOK, Answer(500), Answer(0))
        for _ in range(3):
            await send(settings, make_alert())
    assert "local-receiver" not in caplog.text
    assert "xoxb" not in caplog.text
    assert not [record for record in caplog.records if "slack" in record.name]


async def test_a_redirect_is_not_followed_by_slack_sdk(receiver: Any, destinations: Any, make_alert: Any) -> None:
    for service, settings in (
        (SLACK_WEBHOOK, destinations.slack_webhook()),
        (SLACK_POST, destinations.slack_token()),
    ):
        receiver.script(service, Answer(307, {"Location": receiver.pagerduty_url}))
        assert isinstance(await send(settings, make_alert()), Again)
    assert [r.service for r in receiver.received()] == [SLACK_WEBHOOK, SLACK_POST]
