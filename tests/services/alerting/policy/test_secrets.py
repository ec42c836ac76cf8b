"""Secrets of a policy are shown by nothing that shows a policy, and taken out of whatever else is said."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.alerting.api.routes import plain
from services.alerting.channels.base import Redactor
from services.alerting.policy.explaining import explain
from services.alerting.policy.loading import load_policy
from services.alerting.policy.model import Policy
from services.alerting.policy.problems import PolicyError

HOOK = "https://hooks.slack.com/services/T1/B1/webhook-canary"
KEY = "pagerduty-canary"


def test_a_policy_knows_all_its_secrets_and_shows_none(read: Callable[[str], Policy], whole: str) -> None:
    policy = read(whole)
    held = [
        secret
        for receiver in policy.receivers.values()
        for field in dataclasses.fields(receiver)
        for value in [getattr(receiver, field.name)]
        for secret in (value if isinstance(value, tuple) else (value,))
        if isinstance(secret, SecretStr)
    ]
    assert policy.watch.dead_man_url is not None
    assert {s.get_secret_value() for s in (*held, policy.watch.dead_man_url)} == set(policy.secrets())
    shown = repr(policy) + str(policy) + json.dumps(plain(policy)) + json.dumps(plain(explain(policy, {}, 0)))
    assert not any(secret in shown for secret in policy.secrets())


def test_no_log_line_of_a_refusal_holds_a_secret(
    write: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A secret in every place where one might be put by mistake."""
    canary = "xoxb-0123456789-canary"
    places = [
        f"receivers: [{{name: {canary} x, type: slack}}]",
        f"receivers: [{{name: x, type: {canary}}}]",
        f"receivers: [{{name: x, type: slack, token: {canary}, channel: C}}]",
        f"receivers: [{{name: x, type: slack, token_file: {canary}, channel: C}}]",
        f"receivers: [{{name: x, type: slack, token_env: {canary}, channel: C}}]",
        f"receivers: [{{name: x, type: slack, token: [{canary}]}}]",
        f"receivers: [{{name: x, type: slack, token_file: {{value: {canary}}}}}]",
        f"receivers: [{{name: x, type: pagerduty, routing_key_file: key, url: 'http://{canary}.example.org'}}]",
        f"receivers: [{{name: x, type: pagerduty, routing_key_file: key, timeout: {canary}}}]",
        f"receivers: [{{name: x, type: email, host: h, sender: {canary}, to: {canary}}}]",
        f"receivers: [{{name: x, type: webhook, url: 'https://{canary}@example.org/'}}]",
        f"receivers: [{{name: x, type: webhook, url: '{canary}'}}]",
        f"receivers: [{{name: x, type: webhook, url: 'https://a.org', allow: {canary}}}]",
        f"receivers: ['{canary}']",
        f"watch: {{dead_man: {{url: 'https://a.org/{canary}'}}}}",
        f"watch: {{dead_man: {{url_file: 'https://a.org/{canary}'}}}}",
        f"receivers: [{{name: x, type: slack, channel: '{canary}: [",
        f"route: {{notify: ['https://hooks.slack.com/services/{canary}']}}",
    ]
    for text in places:
        with caplog.at_level(logging.DEBUG), pytest.raises(PolicyError) as caught:
            load_policy(write(text + "\n"), {})
        assert "canary" not in str(caught.value), text
        assert "canary" not in "".join(caught.value.problems)
        assert caught.value.__cause__ is None and "canary" not in repr(caught.value.__context__), text
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        f"POST {HOOK} failed",
        "path /services/T1/B1/webhook-canary",
        "T1/B1/webhook-canary",
        "webhook-canary",
        "https%3A%2F%2Fhooks.slack.com%2Fservices%2FT1%2FB1%2Fwebhook-canary",
        f'{{"routing_key": "{KEY}"}}',
        "pagerduty-canary?",
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
