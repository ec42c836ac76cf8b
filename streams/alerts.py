"""Alarms, windows, refusals: what the processors found, as records for the topics.

Every id is a uuid5 of its cause. A record written again after a crash, or by a replay, has the id it had before.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from streams.baseline import ASSOCIATION_PREFIX, LABELS_ROLE, RATE, RATE_ROLE, Baseline
from streams.blocks import CONFIDENCE_ERROR, Block
from streams.derived import ASSOCIATION as ASSOCIATION_KIND
from streams.effects import effect_sizes
from streams.messages import Emission, Message
from streams.monitor import Alarm, Cause, Episode, Monitor, Monitors
from streams.outcomes.diagnosis import Diagnosis, diagnose
from streams.specification import CONCEPT_DRIFT, DATA_DRIFT, PREDICTION_DRIFT, DeploymentSpec
from streams.statistics import distances
from streams.statistics.association import cramers_v
from streams.statistics.layouts import ASSOCIATION
from streams.windows import Window

_NAMESPACE = uuid.UUID("5b6a1f0e-3f0c-5a53-8a0e-d21f7a3c9d10")
_DAY_MS = 86_400_000

MOST_CAUSES = 50
MOST_LABEL_CHARACTERS = 100
MOST_REASON_CHARACTERS = 2_000
"""A record that is larger than its topic allows would stop the partition for good: the parts of an alert are bounded;
the strongest causes are those a person reads."""

MOST_VALUE_BYTES = 8 << 20
MOST_KEY_BYTES = 4 << 10
MOST_HEADER_BYTES = 64 << 10
MOST_ERROR_CHARACTERS = 4_000
MOST_ROWS_NAMED = 100_000
"""Of a dead letter, for the same reason: together less than the 12 MiB that a message of the topic may have."""


def stable_id(*cause: object) -> str:
    """The id of something, from what caused it."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(map(str, cause))))


def alert_fired(
    spec: DeploymentSpec, monitors: Monitors, alarm: Alarm, message: Message, model_id: str | None, reason: str = ""
) -> list[Emission]:
    """The firing ``Alert`` of an alarm, and its audit event; ``reason`` says in words what its figures do not."""
    episode, monitor = alarm.episode, alarm.monitor
    inputs = _inputs(monitors.baseline)
    lengths = _lengths_ms(monitors)
    causes = [_cause(monitors.blocks[cause.block], cause, inputs, lengths) for cause in alarm.causes[:MOST_CAUSES]]
    diagnosis = diagnosis_of(spec, monitors, alarm)
    alert = _alert(spec, monitors, monitor, episode, message, "firing", episode.fired_us, model_id) | {
        "log_evidence_nats": alarm.log_evidence_nats,
        "rows_since_change": int(alarm.causes[0].counts.sum()),
        "causes": causes,
        "diagnosis": diagnosis.kind,
        "diagnosis_probability": diagnosis.probability,
        "diagnosis_reason": diagnosis.reason or reason[:MOST_REASON_CHARACTERS],
    }
    names = ", ".join(_shortened(cause["stream"]) for cause in causes)
    if len(alarm.causes) > MOST_CAUSES:
        names += f" and {len(alarm.causes) - MOST_CAUSES} more"
    return [_emission(spec, alert), audit(message, "alert.fired", f"incident:{alert['incident_key']}", alert, names)]


def diagnosis_of(spec: DeploymentSpec, monitors: Monitors, alarm: Alarm) -> Diagnosis:
    """What an alarm of concept drift says has moved; nothing for other monitors."""
    if alarm.monitor.name != CONCEPT_DRIFT:
        return Diagnosis("")
    first = alarm.causes[0]
    return diagnose(
        [monitors.blocks[cause.block].streams[cause.index].name for cause in alarm.causes],
        monitors.is_alarmed(DATA_DRIFT, PREDICTION_DRIFT),
        monitors.joint,
        alarm.joint_counts,
        independence=float(monitors.blocks[first.block].independence[first.index]),
        margin_tv=0.0 if spec.outcomes is None else spec.outcomes.margin_tv,
    )


def alert_resolved(
    spec: DeploymentSpec,
    monitors: Monitors,
    monitor: Monitor,
    episode: Episode,
    message: Message,
    now_us: int,
    model_id: str | None,
    reason: str = "every cause is back within its margin",
) -> list[Emission]:
    """The resolving ``Alert`` of an episode, and its audit event."""
    alert = _alert(spec, monitors, monitor, episode, message, "resolved", now_us, model_id)
    return [
        _emission(spec, alert),
        audit(message, "alert.resolved", f"incident:{alert['incident_key']}", alert, reason),
    ]


def _emission(spec: DeploymentSpec, alert: dict[str, Any]) -> Emission:
    return Emission("alerts", spec.deployment_id.encode(), "Alert", alert)


def _alert(
    spec: DeploymentSpec,
    monitors: Monitors,
    monitor: Monitor,
    episode: Episode,
    message: Message,
    status: str,
    now_us: int,
    model_id: str | None,
) -> dict[str, Any]:
    baseline = monitors.baseline
    digest = episode.baseline_digest or baseline.digest
    incident = stable_id(
        spec.deployment_id, baseline.model_version, digest, monitor.name, message.partition, episode.number
    )
    return {
        "id": stable_id(incident, status),
        "incident_key": incident,
        "deployment_id": spec.deployment_id,
        "model_id": model_id or spec.model_id,
        "model_version": baseline.model_version,
        "monitor": monitor.name,
        "severity": spec.severity(monitor.name),
        "status": status,
        "episode": episode.number,
        "change_time_us": episode.change_us,
        "detection_time_us": now_us,
        "trigger_time_ms": message.timestamp_ms,
        "log_evidence_nats": 0.0,
        "threshold_nats": monitor.threshold_nats,
        "rows_since_change": 0,
        "causes": [],
        "evidence_offsets": [
            {
                "topic": message.topic,
                "partition": message.partition,
                "first_offset": episode.first_offset,
                "last_offset": message.offset,
            }
        ],
        "baseline_digest": baseline.digest,
        "spec_revision": spec.revision,
        "false_alarms": promise(spec),
        "owner": spec.owner,
        "tags": dict(spec.tags),
        "runbook_url": spec.runbook_url,
    }


def promise(spec: DeploymentSpec) -> str:
    """The false-alarm budget in words."""
    budget = spec.false_alarms
    whom = "the whole fleet" if budget.scope == "fleet" else "this deployment"
    alarms = "1 false alarm" if budget.count == 1 else f"{budget.count:g} false alarms"
    return f"at most {alarms} expected per {budget.per_ms / _DAY_MS:g} days for {whom}"


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_LABEL_CHARACTERS else text[: MOST_LABEL_CHARACTERS - 1] + "…"


def _inputs(baseline: Baseline) -> dict[str, tuple[str, ...]]:
    """The columns that computed streams are computed from."""
    found: dict[str, tuple[str, ...]] = {}
    for derived in baseline.derived:
        names = (ASSOCIATION_PREFIX + derived.name,) if derived.kind == ASSOCIATION_KIND else derived.columns
        found |= dict.fromkeys(names, derived.inputs)
    return found


def _lengths_ms(monitors: Monitors) -> dict[tuple[str, str], int]:
    """By role and name: the intervals of time that the rate counts, the ages at which labels are looked for."""
    found = {} if monitors.rate is None else {(RATE_ROLE, RATE): monitors.rate.interval_us // 1000}
    labels = next((derived for derived in monitors.baseline.derived if derived.kind == LABELS_ROLE), None)
    ages_us = [] if labels is None else labels.arrays["ages_us"].tolist()
    return found | {(LABELS_ROLE, f"{LABELS_ROLE}:{j}"): int(age) // 1000 for j, age in enumerate(ages_us, start=1)}


def _cause(
    block: Block, cause: Cause, inputs: Mapping[str, Sequence[str]], lengths_ms: Mapping[tuple[str, str], int]
) -> dict[str, Any]:
    stream, p0 = block.streams[cause.index], block.p0[cause.index]
    rows = int(cause.counts.sum())
    independence = block.independence[cause.index]
    (effects,) = effect_sizes(cause.counts[None], [stream], [independence], intervals=True)
    independent = max(1.0, rows * independence)
    observed = distances.total_variation(cause.counts, p0)
    return {
        "stream": stream.name,
        "role": stream.role,
        "evidence_share": cause.share,
        "log_evidence_nats": cause.log_evidence_nats,
        "change_time_us": cause.change_us,
        "rows": rows,
        "effects": effects,
        "tv_low": float(distances.tv_lower_limit(observed, independent, block.layout.size, CONFIDENCE_ERROR)),
        "tv_high": float(distances.tv_upper_limit(observed, independent, CONFIDENCE_ERROR)),
        "bins": [_shortened(label) for label in stream.bin_labels()],
        "expected": p0.tolist(),
        "observed": cause.counts.tolist(),
        "segment": stream.segment,
        "inputs": [_shortened(name) for name in inputs.get(stream.name, ())],
        "interval_ms": lengths_ms.get((stream.role, stream.name), 0),
    }


def window_summary(
    spec: DeploymentSpec, monitors: Monitors, partition: int, window_start_us: int, window: Window, *, final: bool
) -> Emission:
    """The ``WindowSummary`` of a window as it stands."""
    version = monitors.baseline.model_version
    streams: list[dict[str, Any]] = []
    importance: dict[str, float] = {}
    for b, counts in zip(monitors.described, window.counts, strict=True):
        block = monitors.blocks[b]
        effects = effect_sizes(counts, block.streams, block.independence, intervals=False)
        if block.layout is ASSOCIATION:
            found = zip(block.streams, cramers_v(counts).tolist(), strict=True)
            importance = {s.name.removeprefix(ASSOCIATION_PREFIX): v for s, v in found if v == v}
        streams += [
            {
                "name": stream.name,
                "role": stream.role,
                "layout": block.layout.name,
                "counts": stream_counts,
                "effects": stream_effects,
                "segment": stream.segment,
            }
            for stream, stream_counts, stream_effects in zip(block.streams, counts.tolist(), effects, strict=True)
        ]
    for stream_record in streams:
        if not stream_record["segment"]:
            stream_record["importance"] = importance.get(stream_record["name"])
    record = {
        "id": stable_id(
            "window",
            spec.deployment_id,
            version,
            monitors.baseline.digest,
            partition,
            window_start_us,
            window.first_offset,
        ),
        "deployment_id": spec.deployment_id,
        "model_version": version,
        "partition": partition,
        "window_start_us": window_start_us,
        "window_end_us": window_start_us + spec.window_ms * 1000,
        "status": "final" if final else "provisional",
        "revision": window.revision,
        "rows": window.rows,
        "baseline_digest": monitors.baseline.digest,
        "streams": streams,
    }
    return Emission("windows", spec.deployment_id.encode(), "WindowSummary", record)


def audit(
    message: Message, action: str, subject: str, alert: Mapping[str, Any] | None = None, reason: str = ""
) -> Emission:
    """An ``AuditEvent`` caused by a message. Its time is the log's time stamp: the streams read no clock."""
    where = f"{message.topic}/{message.partition}/{message.offset}"
    record = {
        "id": stable_id("audit", action, subject, where),
        "time_us": message.timestamp_ms * 1000,
        "source": f"streams/{message.partition}",
        "actor_kind": "automation",
        "actor": "driftline-streams",
        "action": action,
        "subject": subject,
        "reason": reason,
        "evidence": [where],
        "detail": {},
    }
    if alert is not None:
        record["after_digest"] = alert["baseline_digest"]
        record["detail"] = {
            "alert_id": alert["id"],
            "deployment_id": alert["deployment_id"],
            "model_version": alert["model_version"],
            "monitor": alert["monitor"],
            "severity": alert["severity"],
            "log_evidence_nats": f"{alert['log_evidence_nats']:.3f}",
            "threshold_nats": f"{alert['threshold_nats']:.3f}",
        }
    return Emission("audit", subject.encode(), "AuditEvent", record)


def dead_letter(message: Message, reason: str, error: str, rows: Sequence[int] = ()) -> Emission:
    """The ``DeadLetter`` of a message that could not be used, or of some of its rows.

    It must fit into its topic whatever came, or the partition would never get past the message: what is too large is
    cut, and the original stays where the offset says.
    """
    value, key = message.value, message.key
    kept_key = None if key is None else key[:MOST_KEY_BYTES]
    headers = _kept_headers(message)
    record = {
        "id": stable_id("dead-letter", message.topic, message.partition, message.offset, reason, *rows[:1]),
        "reason": reason,
        "error": error[:MOST_ERROR_CHARACTERS],
        "rows": list(rows[:MOST_ROWS_NAMED]),
        "source_topic": message.topic,
        "source_partition": message.partition,
        "source_offset": message.offset,
        "source_timestamp_ms": message.timestamp_ms,
        "key": kept_key,
        "headers": headers,
        "value": None if value is None else value[:MOST_VALUE_BYTES],
        "value_bytes": len(value or b""),
        "value_sha256": hashlib.sha256(value or b"").hexdigest(),
    }
    where = f"{message.topic}/{message.partition}".encode()
    return Emission("dead_letters", where, "DeadLetter", record)


def _kept_headers(message: Message) -> list[dict[str, Any]]:
    kept, room = [], MOST_HEADER_BYTES
    for name, data in message.headers:
        room -= 4 * len(name) + len(data or b"")
        if room < 0:
            break
        kept.append({"name": name, "value": data})
    return kept
