"""What a run of the demonstration found: the facts that the terminal, the report and ``--json`` all tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from services.demo.accuracy import estimate_missed, joined, periods, worst
from services.demo.days import Verdict
from services.demo.flights import CLOCKS_GO_BACK, SCHEDULE, WEATHER
from services.demo.humility import HumilityFacts
from services.demo.notified import Notified
from services.demo.wording import cause_label, when
from streams.baseline import ASSOCIATION_PREFIX, ERROR, QUALITY_PREFIX, RATE, SCHEMA
from streams.derived import JOINT_DISTANCE
from streams.specification import CONCEPT_DRIFT, HUMILITY

BASELINE_PAGE = "demo-baseline.html"
"""The page about the baseline, beside the report."""

LABELS_PREFIX = "labels:"
PREDICTION_STREAMS = ("prediction", "prediction_label")
QUIET_PSI = 0.1
"""The effect size below which a month counts as quiet in the table; a customary value, and no alarm."""


_NEARLY_ALL = 0.98
"""Windows that are not final are written now and then, and not at every outcome."""

_OTHERS = {
    JOINT_DISTANCE: "the distance of whole rows",
    ERROR: "serving errors",
    RATE: "the number of flights per hour",
    SCHEMA: "rows that cannot be read",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A command that was run: its words, and how long it took."""

    command: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Flow:
    """Rows of one deployment on their way.

    Attributes:
        name: The deployment.
        expected: Predictions that its file has.
        published: Those that Kafka acknowledged.
        applied: Those that the streams counted.
        outcomes_expected: Outcomes that its file has.
        outcomes_published: Those that Kafka acknowledged.
        outcomes_applied: Those that the streams took in.
    """

    name: str
    expected: int
    published: int
    applied: int
    outcomes_expected: int
    outcomes_published: int
    outcomes_applied: int

    @property
    def whole(self) -> bool:
        """Whether nothing was lost, and nothing counted twice."""
        return (
            self.expected == self.published == self.applied
            and self.outcomes_expected == self.outcomes_published == self.outcomes_applied
        )


@dataclass(frozen=True)
class Story:
    """The facts of one run. Where no deployment is named it is the classifier's.

    Attributes:
        steps: The commands, in order.
        flow: Rows of the classifier's deployment.
        minutes: Rows of the regression's deployment.
        dead_letters: Messages refused.
        months: Such as ``2013-04``, in order.
        psi: Stream to PSI per month.
        daily_psi: Stream to (day, PSI) pairs.
        alerts: ``Alert`` records, in order.
        minutes_alerts: Those of the regression's deployment.
        humility: What was decided, what it was worth, and how often intervals held.
        verdicts: Id of a firing alert to what daily figures say of it; None where they can say nothing.
        references: What the references of the baselines are called, by their digest.
        watched: The streams of the baseline in force, by their labels.
        accuracy: Result of ``driftline windows show flights`` with accuracy, calibration and fairness by month.
        accuracy_by_day: The same with accuracy by day.
        delays: How many outcomes are known at which age, hours: of the references and of the months.
        budget: Result of ``driftline budget flights`` after the year.
        what_if: Result of ``driftline backtest flights`` with other settings.
        notified: Incidents, what people were told of them, and what somebody answered.
        verification: Result of ``audit verify``.
        tampered: Result of ``audit verify`` on the copy with one flipped byte.
        seconds: Of the whole run.
    """

    steps: Sequence[Step]
    flow: Flow
    minutes: Flow
    dead_letters: int
    months: Sequence[str]
    psi: Mapping[str, Sequence[float]]
    daily_psi: Mapping[str, Sequence[tuple[str, float]]]
    alerts: Sequence[Mapping[str, Any]]
    minutes_alerts: Sequence[Mapping[str, Any]]
    humility: HumilityFacts
    verdicts: Mapping[str, Verdict | None]
    references: Mapping[str, str]
    watched: Sequence[str]
    accuracy: Sequence[Mapping[str, Any]]
    accuracy_by_day: Sequence[Mapping[str, Any]]
    delays: Mapping[str, Any]
    budget: Mapping[str, Any]
    what_if: Mapping[str, Any]
    notified: Notified
    verification: Mapping[str, Any]
    tampered: Mapping[str, Any]
    seconds: float
    latency: Mapping[str, float] = field(default_factory=dict)

    @property
    def firing(self) -> list[Mapping[str, Any]]:
        """Alarms that were raised."""
        return [alert for alert in self.alerts if alert["status"] == "firing"]

    @property
    def all_firing(self) -> list[Mapping[str, Any]]:
        """Alarms that were raised for either deployment."""
        return [alert for alert in (*self.alerts, *self.minutes_alerts) if alert["status"] == "firing"]

    @property
    def raised(self) -> set[tuple[str, int]]:
        """Alarms of either deployment, each once, however often its record came."""
        return {(alert["incident_key"], alert["episode"]) for alert in (*self.alerts, *self.minutes_alerts)}

    @property
    def humility_alarms(self) -> list[Mapping[str, Any]]:
        """Those that say of either deployment that what humility was fitted to does not hold any more."""
        found = [alert for alert in self.all_firing if alert["monitor"] == HUMILITY]
        return sorted(found, key=lambda alert: alert["detection_time_us"])

    @property
    def concept_alarms(self) -> list[Mapping[str, Any]]:
        """Those that outcomes raised about the relation to what was predicted."""
        return [alert for alert in self.firing if alert["monitor"] == CONCEPT_DRIFT]

    @property
    def alarmed_streams(self) -> set[str]:
        """Streams named as a cause of any alarm, by their labels."""
        return {cause_label(cause) for alert in self.firing for cause in alert["causes"]}

    @property
    def quiet(self) -> list[str]:
        """What raised no alarm, in words."""
        whole = [name for name in self.watched if not name.endswith("]")]
        silent = [name for name in whole if name not in self.alarmed_streams]
        planned = [name for name in SCHEDULE if name in silent]
        others = [name for name in (*WEATHER, *PREDICTION_STREAMS) if name in silent]
        said = [f"{', '.join(planned)} (what the airline plans)"] if planned else []
        said += [", ".join(others)] if others else []
        for prefix, what in (
            (QUALITY_PREFIX, "columns by which values can be used"),
            (ASSOCIATION_PREFIX, "features by how they go together with the prediction"),
            (LABELS_PREFIX, "ages by how many outcomes are known"),
        ):
            of_kind = [name for name in whole if name.startswith(prefix)]
            if of_kind:
                said.append(f"{sum(name in silent for name in of_kind)} of {len(of_kind)} {what}")
        said += [text for name, text in _OTHERS.items() if name in silent]
        parts = [name for name in self.watched if name.endswith("]")]
        if parts:
            still = sum(name not in self.alarmed_streams for name in parts)
            said.append(f"{still} of {len(parts)} streams of single parts of the traffic")
        return said

    @property
    def what_if_changes(self) -> list[Mapping[str, Any]]:
        """What the back-test's settings change: alarms that are not the same."""
        return [alarm for alarm in self.what_if["alarms"] if alarm["verdict"] != "same"]

    @property
    def alarmed_features(self) -> set[str]:
        """The columns of all the traffic that alarms before the clocks went back are about.

        Quality and association of a column count as the column.
        """
        return {
            cause["stream"].removeprefix(QUALITY_PREFIX).removeprefix(ASSOCIATION_PREFIX)
            for alert in self.firing
            if when(alert["change_time_us"]) < CLOCKS_GO_BACK
            for cause in alert["causes"]
            if not cause["segment"]
        }

    def problems(self) -> list[str]:
        """What should have been otherwise; empty when the demonstration shows what it is meant to show."""
        predicted, resolved = joined(self.accuracy)
        lowest = worst(periods(self.accuracy, by="month"))
        checks = {
            **{_lost(flow): flow.whole for flow in (self.flow, self.minutes)},
            f"accuracy windows have {predicted:,} of {self.flow.published:,} predictions": (
                predicted >= _NEARLY_ALL * self.flow.published
            ),
            f"accuracy windows have {resolved:,} of {self.flow.outcomes_published:,} outcomes": (
                resolved >= _NEARLY_ALL * self.flow.outcomes_published
            ),
            f"the application decided {dict(self.humility.asked)}, the streams counted {dict(self.humility.counted)}": (
                self.humility.asked == self.humility.counted
            ),
            f"{self.humility.disagreeing:,} decisions were not those of the rules": self.humility.disagreeing == 0,
            "no rule ever acted": all(
                self.humility.counted.get(action) for action in ("overridden", "refused", "routed")
            ),
            "no alarm says that what humility was fitted to does not hold any more": bool(self.humility_alarms),
            "adaptive intervals are no closer to what is promised than static ones": self.humility.adaptive_helps,
            "no alarm for concept drift": bool(self.concept_alarms),
            "the estimate of the worst month was right: there is nothing to learn from": (
                lowest is not None and estimate_missed(lowest)
            ),
            "the estimate of the worst month was wrong, and not marked": lowest is not None and lowest.doubted,
            f"{self.dead_letters} dead letters": self.dead_letters == 0,
            "a schedule feature raised an alarm": not self.alarmed_features & set(SCHEDULE),
            "no weather feature raised an alarm": bool(self.alarmed_features & set(WEATHER)),
            "the budget's shares add up to more than it promises": bool(self.budget["fleet"]["kept"]),
            f"the back-test read {self.what_if['rows']:,} rows": self.what_if["rows"] == self.flow.applied,
            "the back-test does not see every alarm that was raised": (
                sum(alarm["was"] is not None for alarm in self.what_if["alarms"]) == len(self.firing)
            ),
            f"incidents have {self.notified.signals} of {len(self.raised)} alarms": (
                self.notified.signals == len(self.raised)
            ),
            "Slack was not told of every incident": self.notified.begun >= len(self.notified.told),
            "PagerDuty was not told of every incident": self.notified.paged >= len(self.notified.told),
            f"{len(self.notified.unexplained)} incidents were told to nobody": not self.notified.unexplained,
            "there are as many messages as alarms": len(self.notified.incidents) < len(self.raised),
            "an acknowledgement did not reach Slack, PagerDuty and the audit": (
                self.notified.taken is not None and self.notified.taken.everywhere
            ),
            "the audit record does not verify": bool(self.verification.get("ok")),
            "the altered copy of the audit record was not refused": not self.tampered.get("ok", True),
        }
        return [problem for problem, holds in checks.items() if not holds]

    def to_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "published": self.flow.published,
            "applied": self.flow.applied,
            "outcomes_published": self.flow.outcomes_published,
            "outcomes_applied": self.flow.outcomes_applied,
            "minutes": asdict(self.minutes),
            "dead_letters": self.dead_letters,
            "psi_by_month": {"months": list(self.months), **{name: list(row) for name, row in self.psi.items()}},
            "alerts": [brief(alert, self.verdicts.get(alert["id"])) for alert in self.alerts],
            "minutes_alerts": [brief(alert, None) for alert in self.minutes_alerts],
            "humility": self.humility.to_json(),
            "quiet": self.quiet,
            "accuracy": list(self.accuracy),
            "accuracy_by_day": list(self.accuracy_by_day),
            "outcome_delays": dict(self.delays),
            "budget": dict(self.budget),
            "what_if": dict(self.what_if),
            **self.notified.to_json(),
            "audit": dict(self.verification),
            "altered_copy": dict(self.tampered),
            "steps": [{"command": step.command, "seconds": round(step.seconds, 2)} for step in self.steps],
            "seconds": round(self.seconds, 1),
            "problems": self.problems(),
        }


def _lost(flow: Flow) -> str:
    return (
        f"{flow.name}: {flow.expected:,} predictions, {flow.published:,} published, {flow.applied:,} applied; "
        f"{flow.outcomes_expected:,} outcomes, {flow.outcomes_published:,} published, {flow.outcomes_applied:,} arrived"
    )


def brief(alert: Mapping[str, Any], verdict: Verdict | None) -> dict[str, Any]:
    """An alert without its histograms."""
    return {
        "id": alert["id"],
        "incident_key": alert["incident_key"],
        "monitor": alert["monitor"],
        "status": alert["status"],
        "severity": alert["severity"],
        "diagnosis": alert["diagnosis"],
        "change_time": when(alert["change_time_us"]),
        "detection_time": when(alert["detection_time_us"]),
        "log_evidence_nats": round(alert["log_evidence_nats"], 2),
        "threshold_nats": round(alert["threshold_nats"], 2),
        "days_say": None if verdict is None else {"kind": verdict.kind, "figure": verdict.text},
        "causes": [
            {
                "stream": cause["stream"],
                "segment": cause["segment"],
                "share": round(cause["evidence_share"], 3),
                "psi": round(cause["effects"]["psi"], 3),
                "rows": cause["rows"],
            }
            for cause in alert["causes"]
        ],
    }
