"""What a run of the demonstration left on the topics."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from driftline.codec import decode
from driftline.settings import KafkaSettings
from driftline.topics import baseline_key
from services.demo.accuracy import FEWEST_ROWS
from services.demo.commands import Commands
from services.demo.days import Verdict, read_days
from services.demo.flights import DemonstrationFiles
from services.demo.wording import when
from services.deployments.store import get_deployment
from services.kafka import latest_by_key, read_to_end
from services.performance.maturity import delay_curve
from services.performance.windows import ALL, performance_windows
from services.positions import stream_positions
from services.windows import baselines_by_digest, latest_windows, summarise
from streams.baseline import Baseline
from streams.deployment import COUNTERS

_HOUR_US = 3_600_000_000

Daily = dict[str, list[tuple[str, float]]]


def backlog(settings: KafkaSettings) -> int:
    """Messages that the streams have not applied yet."""
    return sum(position.lag for position in stream_positions(settings))


def drift_figures(settings: KafkaSettings, deployment_id: str) -> tuple[list[str], dict[str, list[float]], Daily]:
    """Months, PSI of every stream by month, and by day; each against the baseline that was in force."""
    records = latest_windows(settings, deployment_id)
    whole = [{**r, "streams": [s for s in r["streams"] if not s["segment"]]} for r in records]
    periods = summarise(whole, baselines_by_digest(settings, deployment_id), "month")
    periods = [period for period in periods if period.rows > FEWEST_ROWS]
    psi: dict[str, list[float]] = {}
    for period in periods:
        for stream in period.streams:
            psi.setdefault(stream.name, []).append(0.0 if stream.effects is None else stream.effects["psi"])
    daily: Daily = {}
    for record in whole:
        for each in record["streams"]:
            if each["effects"] is not None:
                point = when(record["window_start_us"])[:10], each["effects"]["psi"]
                daily.setdefault(each["name"], []).append(point)
    return [when(period.start_us)[:7] for period in periods], psi, daily


def delay_figures(settings: KafkaSettings, deployment_id: str) -> dict[str, Any]:
    """How many outcomes are known at which age, hours: in the references, and month by month."""
    spec = get_deployment(settings, deployment_id).spec
    references = []
    for baseline in baselines_by_digest(settings, deployment_id).values():
        curve = delay_curve(baseline)
        if curve is not None:
            references.append(
                {
                    "digest": baseline.digest,
                    "hours": [age / _HOUR_US for age in curve.ages_us.tolist()],
                    "known": curve.known.tolist(),
                }
            )
    months = {}
    for window in performance_windows(settings, spec, by="month"):
        sums = window.parts[ALL]
        predictions = int(sums["predictions"])
        if predictions > FEWEST_ROWS:
            edges = [*window.layout.age_edges_us.tolist(), max(span.horizon_us for span in window.spans)]
            known = (sums["ages"].cumsum() / predictions).tolist()
            months[when(window.start_us)[:7]] = {"hours": [edge / _HOUR_US for edge in edges], "known": known}
    return {"references": references, "months": months}


def latest_baseline(settings: KafkaSettings, deployment_id: str, version: str) -> Baseline:
    """The baseline in force."""
    message = latest_by_key(settings, settings.topics.baselines)[baseline_key(deployment_id, version)]
    return Baseline.from_record(decode(message.value())[1])


def watched_streams(settings: KafkaSettings, deployment_id: str, version: str) -> list[str]:
    """The streams of the baseline in force, by their labels."""
    return [stream.label for stream in latest_baseline(settings, deployment_id, version).streams]


def alert_records(settings: KafkaSettings) -> list[Mapping[str, Any]]:
    """Every ``Alert`` of all deployments once, in order."""
    by_id = {}
    for message in read_to_end(settings, settings.topics.alerts):
        record = decode(message.value())[1]
        by_id[record["id"]] = record
    return sorted(by_id.values(), key=lambda alert: (alert["detection_time_us"], alert["status"] != "firing"))


def firing_and_resolved(settings: KafkaSettings, deployment_id: str) -> tuple[set[str], set[str]]:
    """The incidents of a deployment that were raised, and those that were resolved."""
    keys: dict[str, set[str]] = {"firing": set(), "resolved": set()}
    for alert in alert_records(settings):
        if alert["deployment_id"] != deployment_id:
            continue
        keys[alert["status"]].add(alert["incident_key"])
    return keys["firing"], keys["resolved"]


def daily_verdicts(
    alerts: Sequence[Mapping[str, Any]],
    files: DemonstrationFiles,
    references: Mapping[str, str],
    second: tuple[str, str],
) -> dict[str, Verdict | None]:
    """What daily figures say of each alarm, by its id.

    Args:
        alerts: ``Alert`` records of the deployment.
        files: What was published.
        references: The months from which baselines were learnt, by digest.
        second: From when to when the second of them was.
    """
    figures = read_days(files, tuple(references.values()), second)
    names = dict(zip(references, figures, strict=True))
    firing = [alert for alert in alerts if alert["status"] == "firing"]
    return {alert["id"]: names[alert["baseline_digest"]].verdict_on(alert) for alert in firing}


def verify(commands: Commands) -> Any:
    """Verify until every record is under a checkpoint: the ledger seals about once a second."""
    result = commands.run("audit", "verify", may_fail=True)
    for _ in range(10):
        if not result["ok"] or result["sealed"] == result["records"]:
            break
        commands.steps.pop()
        time.sleep(1)
        result = commands.run("audit", "verify", may_fail=True)
    return result


def deployment_counters(settings: KafkaSettings) -> tuple[dict[str, dict[str, int]], int]:
    """What the streams counted, by deployment and name, over all partitions; and the messages or rows they refused."""
    totals: dict[str, dict[str, int]] = {}
    for key, message in latest_by_key(settings, settings.topics.streams_state).items():
        if key.startswith(b"deployment/"):
            fields = decode(message.value())[1]["fields"]
            counted = totals.setdefault(key.decode().removeprefix("deployment/"), dict.fromkeys(COUNTERS, 0))
            for name in COUNTERS:
                counted[name] += fields[name]
    return totals, sum(position.facts.get("dead_letters", 0) for position in stream_positions(settings))
