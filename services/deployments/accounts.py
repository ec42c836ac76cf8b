"""What became of the promise on false alarms: who holds which part of it, and what was spent.

Nothing is decided here; everything is read from the topics.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from services.deployments.baselines import latest_baselines
from services.deployments.budget import FLEET, fleet_capacity, handed_out, promises, promises_text
from services.deployments.delays import MonitorDelay, monitor_delays
from services.deployments.humility_delays import humility_delays
from services.deployments.outcome_delays import OutcomeDelay, outcome_delays
from services.kafka import read_to_end
from services.status import deployment_states
from services.windows import latest_records, latest_windows
from streams.baseline import Baseline
from streams.monitor import Monitors
from streams.specification import MONITORS, DeploymentSpec
from streams.statistics.budget import alarm_threshold_nats

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class MonitorAccount:
    """One monitor's part of the promise.

    Attributes:
        monitor: Its name.
        part: Its part of the whole promise, 0 to 1; 0 where it is switched off.
        allowed: False alarms it may raise per period, in expectation.
        threshold_nats: Evidence at which it alarms; None where it is switched off.
        alarms: Alarms it raised in the last period, real changes included.
        delays: Expected delays, one entry per shift; empty where there is no baseline or no numeric stream.
        changes: Of a monitor of outcomes or of humility the expected delays, one entry per change.
    """

    monitor: str
    part: float
    allowed: float
    threshold_nats: float | None
    alarms: int
    delays: Sequence[MonitorDelay] = ()
    changes: Sequence[OutcomeDelay] = ()


@dataclass(frozen=True, slots=True)
class Rate:
    """Rows, or outcomes, per day of event time, and what says so."""

    rows_per_day: float
    source: str


@dataclass(frozen=True, slots=True)
class DeploymentAccount:
    """One deployment's part of the promise, and what was spent of it.

    Attributes:
        spec: The specification in force.
        monitors: Of all monitors, in the order of ``MONITORS``.
        period_end_us: The event time its last period ends with; None where nothing has come yet.
        model_version: The version whose baseline the delays are about; None where there is no baseline.
        rate: Its rows per day, None where unknown.
        outcome_rate: Its outcomes per day, None where none are expected, or the number is unknown.
    """

    spec: DeploymentSpec
    monitors: Sequence[MonitorAccount]
    period_end_us: int | None = None
    model_version: str | None = None
    rate: Rate | None = None
    outcome_rate: Rate | None = None

    @property
    def allowed(self) -> float:
        """False alarms it may raise per period, in expectation."""
        return math.fsum(account.allowed for account in self.monitors)

    @property
    def alarms(self) -> int:
        """Alarms it raised in the last period."""
        return sum(account.alarms for account in self.monitors)

    @property
    def kept(self) -> float:
        """False alarms per period that no monitor may raise: kept back, or of monitors that are switched off."""
        return self.spec.false_alarms.count * self.spec.false_alarms.share - self.allowed

    def days(self, events: float) -> float | None:
        """How many days so many rows of one shard take; None where the rate is unknown."""
        if self.rate is None or self.rate.rows_per_day <= 0:
            return None
        return events * self.spec.shards / self.rate.rows_per_day

    def days_of(self, delay: OutcomeDelay) -> float | None:
        """How many days pass until a change among outcomes is noticed; None where the rate is unknown."""
        rate, events = self.outcome_rate, delay.per_outcome
        if events is None:
            rate, events = self.rate, delay.per_prediction
        events_per_day = rate.rows_per_day * events if rate is not None else 0.0
        if events_per_day <= 0:
            return None
        return delay.wait_us / _DAY_US + delay.events * self.spec.shards / events_per_day


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet's promise as a whole.

    Attributes:
        deployments: How many share it.
        handed_out: The sum of their shares; more than 1 breaks the promise.
        capacity: The weight that there is room for.
        flaws: What breaks the promise, in words; empty where it is kept.
    """

    deployments: int
    handed_out: float
    capacity: int
    flaws: Sequence[str]


def fleet_of(specs: Collection[DeploymentSpec]) -> Fleet:
    """Add up what has been handed out."""
    members = [spec for spec in specs if spec.false_alarms.scope == FLEET]
    total, found = handed_out(members), promises(members)
    flaws = []
    if total > 1 + 1e-9:
        flaws.append(
            f"the fleet has handed out {total:.4g} of its promise, more than all of it: it may raise {total:.2g} times "
            "the false alarms that it promises. Apply any of its deployments again: that shares the promise anew"
        )
    if len(found) > 1:
        flaws.append(
            f"the deployments of the fleet promise different things ({promises_text(found)}): apply all of them "
            "together with the same false_alarms"
        )
    return Fleet(len(members), total, fleet_capacity(members), tuple(flaws))


def accounts(settings: KafkaSettings, specs: Collection[DeploymentSpec]) -> list[DeploymentAccount]:
    """What each deployment may spend and has spent in its last period, without delays.

    A period ends with the deployment's latest event time, so alarms are counted over the time that the promise is
    about, even where events are old.

    Raises:
        ClusterError: Kafka does not answer, or a topic is missing.
    """
    fired = _fired(settings)
    clocks = _clocks(settings, fired)
    return [_account(spec, clocks.get(spec.deployment_id), fired.get(spec.deployment_id, ())) for spec in specs]


def _account(spec: DeploymentSpec, end_us: int | None, fired: Sequence[Record]) -> DeploymentAccount:
    budget = spec.false_alarms
    since_us = (end_us or 0) - budget.per_ms * 1000
    spent = Counter(alert["monitor"] for alert in fired if since_us < alert["detection_time_us"] <= (end_us or 0))
    monitors = []
    for monitor in MONITORS:
        part = 0.0 if monitor in spec.disabled_monitors else spec.monitor_share(monitor)
        threshold = None
        if part > 0:
            threshold = alarm_threshold_nats(budget.count, budget.per_ms, spec.start_slot_ms, part, spec.shards)
        monitors.append(MonitorAccount(monitor, part, part * budget.count, threshold, spent[monitor]))
    return DeploymentAccount(spec, tuple(monitors), end_us)


def _fired(settings: KafkaSettings) -> dict[str, list[Record]]:
    """The firing alerts of every deployment, each once."""
    found: dict[str, dict[str, Record]] = {}
    for message in read_to_end(settings, settings.topics.alerts):
        try:
            alert = decode(message.value())[1]
        except CodecError:
            continue  # not ours to judge here
        if alert["status"] == "firing":
            found.setdefault(alert["deployment_id"], {})[alert["id"]] = alert
    return {name: list(alerts.values()) for name, alerts in found.items()}


def _clocks(settings: KafkaSettings, fired: Mapping[str, Sequence[Record]]) -> dict[str, int]:
    """The latest event time of each deployment that the journal's last records or an alert tell of."""
    clocks = {name: max(alert["detection_time_us"] for alert in alerts) for name, alerts in fired.items()}
    for name, states in deployment_states(settings).items():
        seen = [state["clock_us"] for state in states if state.get("clock_us") is not None]
        clocks[name] = max([*seen, clocks.get(name, 0)])
    return clocks


def detailed(settings: KafkaSettings, found: Sequence[DeploymentAccount], *, observed: bool) -> list[DeploymentAccount]:
    """The same with the delays of the latest baseline that each has.

    Args:
        settings: How to reach Kafka.
        found: The accounts.
        observed: Take the rate of rows from the windows of the last period, where there are any; otherwise and
            elsewhere it is that of the reference. Reads all windows for each deployment.

    Raises:
        ClusterError: Kafka does not answer, or a topic is missing.
    """
    by_name = {account.spec.deployment_id: account for account in found}
    for baseline in latest_baselines(settings, by_name):
        account, version = by_name[baseline.deployment_id], baseline.model_version
        rate = (_observed_rate(settings, account, version) if observed else None) or _reference_rate(baseline)
        seen = _observed_outcome_rate(settings, account, version) if observed and baseline.outcomes else None
        outcomes = seen or _reference_outcome_rate(baseline, rate)
        by_name[baseline.deployment_id] = _with_delays(account, baseline, rate, outcomes)
    return list(by_name.values())


def _with_delays(
    account: DeploymentAccount, baseline: Baseline, rate: Rate | None, outcome_rate: Rate | None
) -> DeploymentAccount:
    """The same with the expected delays of a version."""
    compiled = Monitors(account.spec, baseline, 0, 0)
    monitors = [
        dataclasses.replace(
            m,
            delays=monitor_delays(compiled, m.monitor),
            changes=[
                *outcome_delays(compiled, baseline, m.monitor),
                *humility_delays(compiled, baseline, m.monitor),
            ],
        )
        for m in account.monitors
    ]
    return dataclasses.replace(
        account,
        monitors=tuple(monitors),
        model_version=baseline.model_version,
        rate=rate,
        outcome_rate=outcome_rate,
    )


def _reference_rate(baseline: Baseline) -> Rate | None:
    """The rate of the rows that a baseline was learnt from."""
    span_us = baseline.last_event_us - baseline.first_event_us
    if span_us <= 0:
        return None
    source = f"the {baseline.rows:,} rows of the baseline, {span_us / _DAY_US:,.1f} days"
    return Rate(baseline.rows * _DAY_US / span_us, source)


def _observed_rate(settings: KafkaSettings, account: DeploymentAccount, version: str) -> Rate | None:
    """The rate of a version in the last period, from its windows that are complete; None without any."""
    if account.period_end_us is None:
        return None
    since_us = account.period_end_us - account.spec.false_alarms.per_ms * 1000
    windows = latest_windows(settings, account.spec.deployment_id, version=version, from_us=since_us)
    final = [window for window in windows if window["status"] == "final"]
    if not final:
        return None
    rows = sum(window["rows"] for window in final)
    span_us = max(w["window_end_us"] for w in final) - min(w["window_start_us"] for w in final)
    return Rate(rows * _DAY_US / span_us, f"{rows:,} rows in windows of {_length(span_us)}")


def _reference_outcome_rate(baseline: Baseline, rate: Rate | None) -> Rate | None:
    """Outcomes per day if as many predictions get theirs as in the reference."""
    outcomes = baseline.outcomes
    if outcomes is None or rate is None or not outcomes.rows:
        return None
    coverage = outcomes.resolved / outcomes.rows
    return Rate(rate.rows_per_day * coverage, f"{100 * coverage:.3g} % of the predictions get one, as in the reference")


def _observed_outcome_rate(settings: KafkaSettings, account: DeploymentAccount, version: str) -> Rate | None:
    """Outcomes per day of a version, from the last period of its accuracy windows that are final; None without any."""
    if account.period_end_us is None or account.spec.outcomes is None:
        return None
    reach_ms = account.spec.false_alarms.per_ms + account.spec.outcomes.final_after_ms
    since_us = account.period_end_us - reach_ms * 1000
    name = account.spec.deployment_id
    windows = latest_records(settings, name, "PerformanceWindow", version=version, from_us=since_us)
    final = [window for window in windows if window["status"] == "final" and window["parts"]]
    if not final:
        return None
    resolved = sum(sum(window["parts"][0]["counts"].get("resolved", ())) for window in final)
    span_us = max(w["window_end_us"] for w in final) - min(w["window_start_us"] for w in final)
    return Rate(resolved * _DAY_US / span_us, f"{resolved:,} in final windows of {_length(span_us)}")


def _length(span_us: int) -> str:
    return f"{span_us / _DAY_US:,.1f} days" if span_us >= _DAY_US else f"{span_us * 24 / _DAY_US:.1f} hours"
