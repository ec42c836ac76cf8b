"""The policy of the environment alone: PagerDuty and Slack, each told of everything.

``DRIFTLINE_PAGERDUTY_ROUTING_KEY`` makes a receiver ``pagerduty``; ``DRIFTLINE_SLACK_WEBHOOK_URL``, or
``DRIFTLINE_SLACK_TOKEN`` with ``DRIFTLINE_SLACK_CHANNEL``, a receiver ``slack``. Each secret may be in a file instead,
whose path is in the variable of that name with ``_FILE`` behind it. Further:

======================================== ===================================================================
DRIFTLINE_PAGERDUTY_MINIMUM_SEVERITY     it takes nothing less urgent; and DRIFTLINE_SLACK_MINIMUM_SEVERITY
DRIFTLINE_PAGERDUTY_URL                  in place of PagerDuty's own; and DRIFTLINE_SLACK_API_URL
DRIFTLINE_PAGERDUTY_WEBHOOK_SECRET       answers from PagerDuty are taken
DRIFTLINE_SLACK_APP_TOKEN                answers from Slack are taken, by Socket Mode;
DRIFTLINE_SLACK_SIGNING_SECRET           or by HTTP
DRIFTLINE_ALERTING_GROUP_WAIT            from an incident's first alert to the first message; 30s
DRIFTLINE_ALERTING_GIVE_UP_HOURS         age at which an undelivered message is given up; 24
DRIFTLINE_ALERTING_PUBLIC_URL            where people reach the HTTP interface
======================================== ===================================================================
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.alerting.policy.document import of_document
from services.alerting.policy.durations import parse_duration
from services.alerting.policy.model import GIVE_UP_MS, INCIDENT, SEVERITIES, Match, Policy, Receiver, Route
from services.alerting.policy.problems import Problems, shown
from services.alerting.policy.receivers import read_receivers, type_of
from services.alerting.policy.secrets import Secrets, check_url
from services.alerting.policy.sections import built_in_inhibitions
from services.alerting.policy.tree import ROOT, Inherited

GROUP_WAIT = "DRIFTLINE_ALERTING_GROUP_WAIT"
GIVE_UP_HOURS = "DRIFTLINE_ALERTING_GIVE_UP_HOURS"
PUBLIC_URL = "DRIFTLINE_ALERTING_PUBLIC_URL"


def policy_of_environment(environment: Mapping[str, str], *, read_secrets: bool = True) -> Policy:
    """Every receiver the environment describes gets everything of its minimum severity.

    Raises:
        PolicyError: A variable is wrong; its name is told, never a secret.
    """
    problems = Problems()
    described = [
        {"name": kind, "type": kind, **_minimum(environment, f"DRIFTLINE_{kind.upper()}_MINIMUM_SEVERITY", problems)}
        for kind, variables in _KINDS.items()
        if any(environment.get(name) or environment.get(f"{name}_FILE") for name in variables)
    ]
    nodes = of_document(described, "environment").value
    assert isinstance(nodes, tuple)
    receivers = read_receivers(nodes, problems, Secrets(environment, Path(), read=read_secrets))
    wait_ms = _parsed(environment, GROUP_WAIT, Inherited().group_wait_ms, parse_duration, problems)
    public_url = _parsed(environment, PUBLIC_URL, "", lambda text: check_url(text, plain=True), problems).rstrip("/")
    give_up = _parsed(environment, GIVE_UP_HOURS, GIVE_UP_MS, _hours_ms, problems)
    problems.refuse("the environment's settings")
    return Policy(
        receivers=receivers,
        route=_root(tuple(receivers), wait_ms),
        inhibitions=built_in_inhibitions(),
        give_up_ms=give_up,
        public_url=public_url,
        digest=_digest(receivers, wait_ms, give_up, public_url),
        origin="environment",
    )


_KINDS = {
    "pagerduty": ("DRIFTLINE_PAGERDUTY_ROUTING_KEY",),
    "slack": ("DRIFTLINE_SLACK_WEBHOOK_URL", "DRIFTLINE_SLACK_TOKEN"),
}


def give_up_ms(environment: Mapping[str, str]) -> int:
    """Age at which an undelivered message is given up, unless the routing file says so.

    Raises:
        ValueError: The variable is no number of hours.
    """
    text = environment.get(GIVE_UP_HOURS)
    return GIVE_UP_MS if not text else _hours_ms(text)


def _hours_ms(text: str) -> int:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 <= hours <= 87_600:
        raise ValueError("expected hours, from 0 to 87600")
    return round(hours * 3_600_000)


def _minimum(environment: Mapping[str, str], name: str, problems: Problems) -> dict[str, str]:
    text = environment.get(name)
    if text and text not in SEVERITIES:
        problems.add(0, name, f"expected one of {', '.join(SEVERITIES)}, came {shown(text)}")
        return {}
    return {"minimum_severity": text} if text else {}


def _parsed(environment: Mapping[str, str], name: str, default: Any, parse: Any, problems: Problems) -> Any:
    text = environment.get(name)
    if not text:
        return default
    try:
        return parse(text)
    except ValueError as error:
        problems.add(0, name, f"{error}, came {shown(text)}")
        return default


def _root(notify: tuple[str, ...], wait_ms: int) -> Route:
    start = Inherited()
    return Route(
        path=ROOT,
        match=Match(),
        notify=notify,
        group_by=(INCIDENT,),
        group_wait_ms=wait_ms,
        group_interval_ms=start.group_interval_ms,
        repeat_interval_ms=start.repeat_interval_ms,
        active=(),
        escalate="",
        digest=None,
        go_on=False,
        routes=(),
        line=0,
    )


def _digest(receivers: Mapping[str, Receiver], wait_ms: int, give_up: int, public_url: str) -> str:
    """Of everything but secrets."""
    described = [
        (
            type_of(receiver),
            receiver.name,
            receiver.minimum_severity,
            getattr(receiver, "url", "") or getattr(receiver, "api_url", ""),
            getattr(receiver, "channel", ""),
        )
        for receiver in receivers.values()
    ]
    text = json.dumps([described, wait_ms, give_up, public_url])
    return hashlib.sha256(text.encode()).hexdigest()
