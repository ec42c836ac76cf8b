"""What the tests of the policy share: a routing file that uses everything, and ways to read one."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from services.alerting.policy.loading import load_policy
from services.alerting.policy.model import Policy
from services.alerting.policy.problems import PolicyError

WHOLE = """\
version: 1
time_zone: Europe/Zurich
public_url: https://driftline.example.org/alerting/
defaults: {group_wait: 20s, group_interval: 6m, repeat_interval: 3h}
give_up: 12h
backlog_digest: 40
receivers:
  - name: pager
    type: pagerduty
    routing_key_file: key
    webhook_secret_file: [key, key]
    fallback: mail
    minimum_severity: error
    region: eu
  - {name: chat, type: slack, token_env: TOKEN, channel: C0123, app_token_env: TOKEN, signing_secret_file: key}
  - {name: hook-chat, type: slack, webhook_url_file: url, send_resolved: false}
  - {name: mail, type: email, host: smtp.example.org, sender: d@example.org, to: [ops@example.org, a@example.org],
     username: u, password_file: key, security: tls}
  - {name: siem, type: webhook, url: "http://10.20.0.7:8080/in", signing_secret_file: sign, allow: [10.20.0.0/16],
     rate_per_second: 0.5, burst: 3, timeout: 10s}
  - {name: teams, type: teams, webhook_url_file: url}
  - {name: genie, type: opsgenie, api_key_file: key, region: eu}
  - {name: any, type: apprise, url_file: url}
roles:
  on-call: [pager, chat]
  model-owner: {by_owner: {risk-team: [chat], "*": [mail]}, always: [siem]}
  everybody: [role:on-call, role:model-owner, teams, genie, any, hook-chat]
intervals:
  office-hours: [{days: mon-fri, times: "08:00-18:00"}]
  nights: [{days: [fri, sat-sun], times: ["22:00-06:00", "12:00-13:00"], time_zone: UTC}]
escalations:
  standard: {steps: [{after: 15m, notify: [role:on-call]}, {after: 1h, escalate: high}], repeat: 2}
  high: {steps: [{after: 30m, notify: [mail]}, {after: 2h, notify: [role:everybody]}]}
route:
  notify: [chat]
  routes:
    - name: criticals
      match: {severity: critical, tag.region: [eu, ch]}
      notify: [role:on-call]
      escalate: standard
      group_wait: 0s
      continue: true
    - match: {deployment: "fraud-*", monitor: {regex: "concept_.*"}, owner: {not: platform}}
      notify: [role:model-owner]
      group_by: [owner]
      active: [office-hours]
      routes:
        - {match: {tag.audit: "yes"}, notify: [role:everybody], active: [], group_by: incident}
    - match: {severity: info}
      digest: {at: "09:00", days: mon-fri}
      notify: [mail]
inhibit:
  - {name: feed, source: {monitor: [data_quality, service]}, target: {monitor: "*_drift"}, equal: [deployment]}
maintenance:
  - {name: release, match: {deployment: credit}, from: 2026-12-01T22:00, to: 2026-12-02T02:00,
     author: ada, reason: store}
  - {name: nightly, match: {tag.team: batch}, weekly: [{days: daily, times: "02:00-03:00"}], until: 2027-06-01,
     author: ada, reason: nightly load}
sources:
  weather-feed: {features: [temperature, "wind_*"], deployments: ["flights*"]}
correlation: {join_within: 2h, across: source, across_within: 90s, reopen_within: 10m, flapping_reopenings: 5}
watch:
  heartbeat: {every: 12h, notify: [role:on-call, mail]}
  dead_man: {url_file: url, every: 2m}
  streams_lag: 10m
  silent_topics: {predictions: 1h}
  dead_letters_per_hour: 10
  channel_failing: 3m
  notify: [role:on-call]
"""

MINIMAL = """\
receivers:
  - {name: a, type: teams, webhook_url_file: url}
  - {name: b, type: teams, webhook_url_file: url, minimum_severity: error}
  - {name: c, type: teams, webhook_url_file: url}
"""

Read = Callable[[str], Policy]
Refused = Callable[[str], tuple[str, ...]]


@pytest.fixture
def whole() -> str:
    """A routing file that uses everything."""
    return WHOLE


@pytest.fixture
def minimal() -> str:
    """The section ``receivers`` with a, b (errors and worse) and c, four lines."""
    return MINIMAL


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a routing file beside secrets ``key`` and ``url``, which hold canaries."""

    def written(text: str) -> Path:
        (tmp_path / "key").write_text("key-canary\n")
        (tmp_path / "sign").write_text("whsec_" + base64.b64encode(b"canary" * 5).decode())
        (tmp_path / "url").write_text("https://hooks.example.org/url-canary\n")
        path = tmp_path / "routing.yaml"
        path.write_text(text, "utf-8")
        return path

    return written


@pytest.fixture
def read(write: Callable[[str], Path]) -> Read:
    """Reads a routing file's text; the environment has TOKEN."""
    return lambda text: load_policy(write(text), {"TOKEN": "xoxb-token-canary"})


@pytest.fixture
def refused(read: Read) -> Refused:
    """The problems of a routing file that must be refused."""

    def problems(text: str) -> tuple[str, ...]:
        with pytest.raises(PolicyError) as caught:
            read(text)
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
        return caught.value.problems

    return problems
