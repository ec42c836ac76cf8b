"""Settings of the alerting service: where messages go, from the environment or a small YAML file.

Without a file, ``DRIFTLINE_PAGERDUTY_ROUTING_KEY`` makes a destination ``pagerduty`` and
``DRIFTLINE_SLACK_WEBHOOK_URL``, or ``DRIFTLINE_SLACK_TOKEN`` with ``DRIFTLINE_SLACK_CHANNEL``, a destination
``slack``. With a file, these are what a destination uses that names no secret of its own::

    destinations:
      - name: on-call
        type: pagerduty
        minimum_severity: error
        routing_key_file: /run/secrets/pagerduty
      - name: team
        type: slack
        webhook_url_env: TEAM_WEBHOOK

Secrets come from the environment or from files, never out of the YAML file itself.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from services.alerting.errors import AlertingSettingsError

PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
SLACK_API_URL = "https://slack.com/api/"
DATABASE_URL = "sqlite:///.driftline/alerting.db"

SEVERITIES = ("critical", "error", "warning", "info")
"""Most urgent first."""

Severity = Literal["critical", "error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Pace:
    """What a destination is sent at most: ``per_second`` in the long run, ``burst`` at once."""

    per_second: float
    burst: int


# At most 120 in any 60 s: a full bucket of 20 and 100 more.
PAGERDUTY_PACE = Pace(100 / 60, 20)
SLACK_PACE = Pace(1.0, 1)


@dataclass(frozen=True, slots=True)
class PagerDutySettings:
    """A PagerDuty service (Events API v2)."""

    name: str
    routing_key: SecretStr
    url: str = PAGERDUTY_URL
    minimum_severity: Severity = "info"
    pace: Pace = PAGERDUTY_PACE
    timeout_seconds: float = 15.0


@dataclass(frozen=True, slots=True)
class SlackSettings:
    """A Slack channel, reached by an incoming webhook or by a bot token."""

    name: str
    webhook_url: SecretStr | None = None
    token: SecretStr | None = None
    channel: str | None = None
    api_url: str = SLACK_API_URL
    minimum_severity: Severity = "info"
    pace: Pace = SLACK_PACE
    timeout_seconds: float = 15.0


Destination = PagerDutySettings | SlackSettings


@dataclass(frozen=True, slots=True)
class AlertingSettings:
    """Everything the service is told besides how to reach Kafka.

    Attributes:
        destinations: Where messages go; with none, incidents are kept and nobody is told.
        database_url: SQLAlchemy URL; SQLite.
        history: What happens to alerts that were on the topic before the very first start: ``open`` tells of
            incidents still open at their end, ``all`` of every one, ``none`` of none.
        give_up_seconds: Age at which an undelivered message is given up.
        kafka_timeout_seconds: The service ends after so long without Kafka.
    """

    destinations: tuple[Destination, ...] = ()
    database_url: str = DATABASE_URL
    history: Literal["open", "all", "none"] = "open"
    give_up_seconds: float = 24 * 3600.0
    kafka_timeout_seconds: float = 300.0

    def secrets(self) -> list[str]:
        """Every secret, for what must keep them out of its output."""
        held: list[SecretStr | None] = []
        for destination in self.destinations:
            if isinstance(destination, PagerDutySettings):
                held.append(destination.routing_key)
            else:
                held += [destination.webhook_url, destination.token]
        return [secret.get_secret_value() for secret in held if secret is not None]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    minimum_severity: Severity = "info"
    rate_per_second: Annotated[float, Field(gt=0, le=1000)] | None = None
    burst: Annotated[int, Field(ge=1, le=1000)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=120)] = 15.0

    def pace(self, default: Pace) -> Pace:
        return Pace(self.rate_per_second or default.per_second, self.burst or default.burst)


class _PagerDutyEntry(_Entry):
    type: Literal["pagerduty"]
    routing_key_file: Path | None = None
    routing_key_env: str | None = None
    url: str | None = None


class _SlackEntry(_Entry):
    type: Literal["slack"]
    webhook_url_file: Path | None = None
    webhook_url_env: str | None = None
    token_file: Path | None = None
    token_env: str | None = None
    channel: str | None = None
    api_url: str | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    destinations: list[Annotated[_PagerDutyEntry | _SlackEntry, Field(discriminator="type")]] = []


def load_destinations(
    config: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Destination, ...]:
    """Where messages go.

    Raises:
        AlertingSettingsError: A file cannot be read, a field is wrong (its line is named) or a secret is missing.
    """
    env = os.environ if environment is None else environment
    entries = _from_file(config) if config is not None else _from_environment(env)
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise AlertingSettingsError(f"two destinations are called {name!r}: a name may be used once")
    return tuple(_pagerduty(e, env) if isinstance(e, _PagerDutyEntry) else _slack(e, env) for e in entries)


def _from_environment(env: Mapping[str, str]) -> list[_PagerDutyEntry | _SlackEntry]:
    entries: list[_PagerDutyEntry | _SlackEntry] = []
    try:
        if _given(env, "DRIFTLINE_PAGERDUTY_ROUTING_KEY"):
            least: Any = env.get("DRIFTLINE_PAGERDUTY_MINIMUM_SEVERITY") or "info"
            entries.append(_PagerDutyEntry(name="pagerduty", type="pagerduty", minimum_severity=least))
        if _given(env, "DRIFTLINE_SLACK_WEBHOOK_URL") or _given(env, "DRIFTLINE_SLACK_TOKEN"):
            least = env.get("DRIFTLINE_SLACK_MINIMUM_SEVERITY") or "info"
            entries.append(_SlackEntry(name="slack", type="slack", minimum_severity=least))
    except ValidationError as error:
        raise AlertingSettingsError(
            "DRIFTLINE_PAGERDUTY_MINIMUM_SEVERITY and DRIFTLINE_SLACK_MINIMUM_SEVERITY: expected one of "
            f"{', '.join(SEVERITIES)}, came {str(error.errors()[0]['input'])[:40]!r}"
        ) from None
    return entries


def _from_file(path: Path) -> list[_PagerDutyEntry | _SlackEntry]:
    try:
        text = path.read_text("utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except (OSError, UnicodeError) as error:
        raise AlertingSettingsError(f"{path}: expected a readable YAML file: {error}") from error
    except yaml.YAMLError as error:
        raise AlertingSettingsError(f"{path}: not YAML: {error}") from error
    try:
        return list(_Document.model_validate(document if document is not None else {}).destinations)
    except ValidationError as error:
        # Without the values: somebody may have put a secret where it does not belong.
        problems = [
            f"line {_line(root, e['loc'])}: {'.'.join(str(p) for p in e['loc']) or 'document'}: {e['msg']}"
            for e in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise AlertingSettingsError(f"{path}: {'; '.join(problems)}") from None


def _line(node: yaml.Node | None, location: Iterable[int | str]) -> int:
    """The line, from 1, of the innermost node on the way to ``location``."""
    found = 1
    for step in location:
        if node is None:
            break
        found = node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
        elif isinstance(node, yaml.MappingNode):
            inner = next(((k, v) for k, v in node.value if k.value == step), None)
            if inner is None:
                continue  # a step of pydantic's own (the union's tag), or a field that is missing
            found, node = inner[0].start_mark.line + 1, inner[1]
    return found


def _pagerduty(entry: _PagerDutyEntry, env: Mapping[str, str]) -> PagerDutySettings:
    key = _secret(env, entry.name, "DRIFTLINE_PAGERDUTY_ROUTING_KEY", entry.routing_key_file, entry.routing_key_env)
    if key is None:
        raise AlertingSettingsError(
            f"destination {entry.name!r} has no routing key: give routing_key_file or routing_key_env, or set "
            "DRIFTLINE_PAGERDUTY_ROUTING_KEY or DRIFTLINE_PAGERDUTY_ROUTING_KEY_FILE"
        )
    if not re.fullmatch(r"[\x21-\x7e]{1,128}", key):
        raise AlertingSettingsError(f"destination {entry.name!r}: a routing key has up to 128 visible ASCII characters")
    url = entry.url or env.get("DRIFTLINE_PAGERDUTY_URL") or PAGERDUTY_URL
    return PagerDutySettings(
        name=entry.name,
        routing_key=SecretStr(key),
        url=_checked_url(url, f"destination {entry.name!r}: the PagerDuty address"),
        minimum_severity=entry.minimum_severity,
        pace=entry.pace(PAGERDUTY_PACE),
        timeout_seconds=entry.timeout_seconds,
    )


def _slack(entry: _SlackEntry, env: Mapping[str, str]) -> SlackSettings:
    own_token = bool(entry.token_file or entry.token_env)
    webhook = None
    if not own_token:
        webhook = _secret(env, entry.name, "DRIFTLINE_SLACK_WEBHOOK_URL", entry.webhook_url_file, entry.webhook_url_env)
    token = None
    if webhook is None:
        token = _secret(env, entry.name, "DRIFTLINE_SLACK_TOKEN", entry.token_file, entry.token_env)
    channel = entry.channel or env.get("DRIFTLINE_SLACK_CHANNEL") or None
    what = f"destination {entry.name!r}"
    if webhook is None and token is None:
        raise AlertingSettingsError(
            f"{what} has no secret: give webhook_url_file, webhook_url_env, token_file or token_env, or set "
            "DRIFTLINE_SLACK_WEBHOOK_URL or DRIFTLINE_SLACK_TOKEN (or either with _FILE)"
        )
    if token is not None and not channel:
        raise AlertingSettingsError(f"{what} has a token but no channel: give channel or set DRIFTLINE_SLACK_CHANNEL")
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise AlertingSettingsError(f"{what}: a Slack token has visible ASCII characters only")
    api_url = entry.api_url or env.get("DRIFTLINE_SLACK_API_URL") or SLACK_API_URL
    return SlackSettings(
        name=entry.name,
        webhook_url=None if webhook is None else SecretStr(_checked_url(webhook, f"{what}: the webhook's address")),
        token=None if token is None else SecretStr(token),
        channel=channel,
        api_url=_checked_url(api_url, f"{what}: the API address"),
        minimum_severity=entry.minimum_severity,
        pace=entry.pace(SLACK_PACE),
        timeout_seconds=entry.timeout_seconds,
    )


def _given(env: Mapping[str, str], name: str) -> bool:
    return bool(env.get(name) or env.get(f"{name}_FILE"))


def _secret(env: Mapping[str, str], who: str, default: str, file: Path | None, variable: str | None) -> str | None:
    if file is None and variable is None:
        if env.get(default):
            return env[default].strip()
        file = Path(env[f"{default}_FILE"]) if env.get(f"{default}_FILE") else None
    if variable is not None:
        if not env.get(variable):
            raise AlertingSettingsError(f"destination {who!r}: the environment variable {variable!r} is not set")
        return env[variable].strip()
    if file is None:
        return None
    try:
        text = file.read_text("utf-8").strip()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise AlertingSettingsError(f"destination {who!r}: the secret's file {file} cannot be read: {why}") from None
    if not text:
        raise AlertingSettingsError(f"destination {who!r}: the secret's file {file} is empty")
    return text


def _checked_url(url: str, what: str) -> str:
    """The address, if a secret may travel there: https, or this machine. The message never shows it: it may be the
    secret.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
        parts = urlsplit("")
    if not host or parts.scheme not in ("http", "https") or any(c <= " " for c in url):
        raise AlertingSettingsError(f"{what} is no http(s) address")
    if parts.scheme == "http" and not _is_loopback(host):
        raise AlertingSettingsError(f"{what} must begin with https: a secret would travel in clear text")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
