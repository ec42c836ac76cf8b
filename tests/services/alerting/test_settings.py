"""Where messages go, and that secrets stay secret."""

from pathlib import Path
from typing import Any

import pytest

from services.alerting.channels.base import Redactor
from services.alerting.errors import AlertingSettingsError
from services.alerting.settings import (
    PAGERDUTY_URL,
    SLACK_API_URL,
    AlertingSettings,
    PagerDutySettings,
    SlackSettings,
    load_destinations,
)

HOOK = "https://hooks.slack.com/services/T1/B1/webhook-canary"
KEY = "pagerduty-canary"
TOKEN = "xoxb-token-canary"


def load(tmp_path: Path, text: str, **environment: str) -> tuple[Any, ...]:
    path = tmp_path / "destinations.yaml"
    path.write_text(text)
    return load_destinations(path, environment)


def test_nothing_is_configured_by_default() -> None:
    assert load_destinations(None, {}) == ()


def test_the_environment_makes_a_destination_per_vendor(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    pagerduty, slack = load_destinations(
        None,
        {
            "DRIFTLINE_PAGERDUTY_ROUTING_KEY_FILE": str(tmp_path / "key"),
            "DRIFTLINE_PAGERDUTY_MINIMUM_SEVERITY": "error",
            "DRIFTLINE_SLACK_WEBHOOK_URL": HOOK,
        },
    )
    assert isinstance(pagerduty, PagerDutySettings) and isinstance(slack, SlackSettings)
    assert (pagerduty.name, pagerduty.url, pagerduty.minimum_severity) == ("pagerduty", PAGERDUTY_URL, "error")
    assert pagerduty.routing_key.get_secret_value() == KEY
    assert slack.webhook_url is not None and slack.webhook_url.get_secret_value() == HOOK
    assert slack.token is None


def test_a_token_needs_a_channel() -> None:
    (slack,) = load_destinations(None, {"DRIFTLINE_SLACK_TOKEN": TOKEN, "DRIFTLINE_SLACK_CHANNEL": "C1"})
    assert (slack.channel, slack.api_url) == ("C1", SLACK_API_URL)  # type: ignore[union-attr]
    with pytest.raises(AlertingSettingsError, match="DRIFTLINE_SLACK_CHANNEL"):
        load_destinations(None, {"DRIFTLINE_SLACK_TOKEN": TOKEN})


def test_a_file_names_destinations_with_severities_paces_and_secrets_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    text = f"""
destinations:
  - name: on-call
    type: pagerduty
    minimum_severity: critical
    routing_key_file: {tmp_path / "key"}
  - name: team
    type: slack
    webhook_url_env: TEAM
    rate_per_second: 0.5
    burst: 3
  - {{name: bot, type: slack, token_env: BOT, channel: C9}}
"""
    on_call, team, bot = load(tmp_path, text, TEAM=HOOK, BOT=TOKEN)
    assert (on_call.name, on_call.minimum_severity) == ("on-call", "critical")
    assert (team.pace.per_second, team.pace.burst) == (0.5, 3)
    assert (bot.channel, bot.webhook_url) == ("C9", None)
    settings = AlertingSettings((on_call, team, bot))
    assert settings.secrets() == [KEY, HOOK, TOKEN]
    assert "canary" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("destinations:\n  - name: a\n    type: pager\n", r"line 2: destinations\.0"),
        ("destinations:\n  - name: a\n    type: slack\n    chanel: C1\n", r"line 4: .*chanel: Extra inputs"),
        ("destinations:\n  - name: a\n    type: slack\n    minimum_severity: bad\n", "line 4: .*minimum_severity"),
        ("destinations:\n  - type: slack\n", "line 2: .*name: Field required"),
        ("destinations:\n  - name: a\n    type: pagerduty\n    routing_key: canary\n", "line 4: .*routing_key: Extra"),
        ("destinations:\n  - name: a b\n    type: slack\n", "line 2: .*name"),
        ("destinations: 5\n", "line 1: destinations: Input should be a valid list"),
        ("- 1\n", "line 1: document"),
        ("a: [", "not YAML"),
        ("destinations:\n  - name: a\n    type: slack\n    webhook_url_env: NOT_SET\n", "'NOT_SET' is not set"),
        ("destinations:\n  - name: a\n    type: pagerduty\n    routing_key_file: /does/not/exist\n", "cannot be read"),
        ("destinations:\n  - name: a\n    type: pagerduty\n", "has no routing key"),
        ("destinations:\n  - name: a\n    type: slack\n", "has no secret"),
        (
            "destinations:\n"
            "  - {name: a, type: pagerduty, routing_key_env: K}\n"
            "  - {name: a, type: pagerduty, routing_key_env: K}\n",
            "two destinations are called 'a'",
        ),
    ],
)
def test_a_wrong_file_is_refused_whole_with_the_line_and_without_values(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(AlertingSettingsError, match=said) as caught:
        load(tmp_path, text, K="key")
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None or "canary" not in str(caught.value.__cause__)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AlertingSettingsError, match="expected a readable YAML file"):
        load_destinations(tmp_path / "none.yaml", {})
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AlertingSettingsError):
        load_destinations(tmp_path / "binary.yaml", {})


@pytest.mark.parametrize(
    "url", ["http://hooks.example.org/x", "ftp://x.org/", "https://", "https://a b/", "//x/y", "https://x:99999/"]
)
def test_secrets_travel_by_https_only(url: str) -> None:
    for name in ("DRIFTLINE_PAGERDUTY_URL", "DRIFTLINE_SLACK_API_URL"):
        environment = {
            "DRIFTLINE_PAGERDUTY_ROUTING_KEY": KEY,
            "DRIFTLINE_SLACK_TOKEN": TOKEN,
            "DRIFTLINE_SLACK_CHANNEL": "C1",
            name: url,
        }
        with pytest.raises(AlertingSettingsError, match=r"https|is no http"):
            load_destinations(None, environment)


@pytest.mark.parametrize("host", ["127.0.0.1:80", "localhost", "[::1]:8080"])
def test_this_machine_may_be_reached_without_tls(host: str) -> None:
    environment = {"DRIFTLINE_PAGERDUTY_ROUTING_KEY": KEY, "DRIFTLINE_PAGERDUTY_URL": f"http://{host}/v2/enqueue"}
    assert len(load_destinations(None, environment)) == 1


def test_an_unknown_severity_is_refused() -> None:
    with pytest.raises(AlertingSettingsError, match="expected one of critical, error, warning, info, came 'bad'"):
        load_destinations(None, {"DRIFTLINE_PAGERDUTY_ROUTING_KEY": KEY, "DRIFTLINE_PAGERDUTY_MINIMUM_SEVERITY": "bad"})


@pytest.mark.parametrize(
    "text",
    [
        f"POST {HOOK} failed",
        "path /services/T1/B1/webhook-canary",
        "T1/B1/webhook-canary",
        "webhook-canary",
        "https%3A%2F%2Fhooks.slack.com%2Fservices%2FT1%2FB1%2Fwebhook-canary",
        f'{{"routing_key": "{KEY}"}}',
        "pagerduty%2Dcanary?".replace("%2D", "-"),
    ],
)
def test_the_redactor_takes_a_secret_out_in_every_form(text: str) -> None:
    redacted = Redactor([HOOK, KEY, 'quote"canary'])(text)
    assert "canary" not in redacted
    assert "***" in redacted


def test_the_redactor_leaves_other_text_alone() -> None:
    text = "services at hooks.slack.com answer"
    assert Redactor([HOOK, KEY])(text) == text
    assert Redactor([])(text) == text
    assert Redactor(["", "abc"])("abc") == "abc", "nothing so short can be a secret, and everything would be stars"
