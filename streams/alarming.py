"""Raising and resolving alarms of a partition's versions."""

from __future__ import annotations

from collections.abc import Sequence

from streams.alerts import alert_fired, alert_resolved
from streams.deployment import Deployment, Version
from streams.followers import Turn, detector_alert
from streams.humility.evidence import reason_of
from streams.messages import Message
from streams.monitor import Alarm, Episode, Monitor
from streams.output import Output
from streams.specification import HUMILITY

LONE_ROWS_STEP = 64
"""Alarms are looked for at every message of at least this many rows, and every so many lone rows of a version …"""

LONE_STEP_US = 1_000_000
"""… or after this much event time, whichever comes first."""


def is_step_due(version: Version, rows: int, clock_us: int) -> bool:
    """Whether alarms are to be looked for after so many more rows."""
    version.lone_rows += rows
    if version.lone_rows < LONE_ROWS_STEP and clock_us < version.last_step_us + LONE_STEP_US:
        return False
    version.lone_rows, version.last_step_us = 0, clock_us
    return True


def look_for_alarms(
    output: Output, deployment: Deployment, version: Version, message: Message, now_us: int, model_id: str | None = None
) -> bool:
    """Raise and resolve alarms; whether the evidence record changed."""
    spec, monitors = deployment.spec, version.monitors
    alarms = monitors.alarms(now_us)
    for alarm in alarms:
        output.emit_alerts(alert_fired(spec, monitors, alarm, message, model_id, _reason(deployment, version, alarm)))
    muted = monitors.muted_streams()
    for monitor, episode in monitors.resolutions():
        output.emit_alerts(alert_resolved(spec, monitors, monitor, episode, message, now_us, model_id))
    # a cause that is back to normal changes the record even if its alarm stays open
    return bool(alarms) or monitors.muted_streams() != muted


def _reason(deployment: Deployment, version: Version, alarm: Alarm) -> str:
    """What an alarm says in words that its figures do not; empty for most."""
    if alarm.monitor.name != HUMILITY or version.humility is None:
        return ""
    return reason_of(version.monitors, alarm, version.humility.strays(deployment.spec.revision))


def resolve_alarms(
    output: Output,
    deployment: Deployment,
    version: Version,
    alarms: Sequence[tuple[Monitor, Episode]],
    message: Message,
    reason: str,
) -> None:
    """Resolve alarms between two messages, because what they were raised under has changed."""
    now_us = deployment.clock_us or 0
    for monitor, episode in alarms:
        output.emit(*alert_resolved(deployment.spec, version.monitors, monitor, episode, message, now_us, None, reason))


def tell_turns(
    output: Output,
    deployment: Deployment,
    version: Version,
    turns: Sequence[Turn],
    message: Message,
    model_id: str | None = None,
) -> None:
    """Tell what the detectors from the literature have found; their state has changed."""
    for turn in turns:
        output.emit_alerts(detector_alert(deployment.spec, version.baseline, turn, message, model_id))
    followers = version.followers if version.followers.streams else None
    output.touch("detectors", deployment.spec.deployment_id, version.baseline.model_version, what=followers)
