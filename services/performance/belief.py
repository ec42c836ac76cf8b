"""Whether an estimate may be believed, and how far estimates were from the truth.

An estimate without labels takes the relation between a model's scores and the outcomes to be that of the reference. It
follows changed inputs; it cannot see a changed relation, and is wrong in just the weeks in which it matters most. Only
outcomes can tell: so an estimate is shown as not to be believed from the change time of an alarm for concept drift on,
and as long before as outcomes take: the change time is that of the arrival of outcomes, and theirs are predictions made
earlier. Where a window is final, it shows itself whether its estimate was right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from services.kafka import read_to_end
from streams.baseline import Baseline
from streams.specification import CONCEPT_DRIFT
from streams.statistics.performance.estimation import EstimateError


@dataclass(frozen=True, slots=True)
class ConceptAlarm:
    """An alarm for concept drift.

    Attributes:
        model_version: Whose monitor it was.
        baseline_digest: The baseline it was found against.
        change_time_us: Estimated start of the change, event time.
        detection_time_us: When it was found.
        resolved_us: When it was resolved; None while it is open.
        diagnosis: What moved: ``relation``, ``outcome_rate``, ``inputs`` or nothing.
    """

    model_version: str
    baseline_digest: str
    change_time_us: int
    detection_time_us: int
    resolved_us: int | None = None
    diagnosis: str = ""

    def touches(self, start_us: int, end_us: int, lag_us: int = 0) -> bool:
        """Whether the change or its alarm concerns predictions of a time, whose outcomes take ``lag_us``."""
        first = min(self.change_time_us, self.detection_time_us) - lag_us
        return first < end_us and (self.resolved_us is None or self.resolved_us > start_us)


@dataclass(frozen=True, slots=True)
class EstimatorError:
    """How far estimates of one metric were from what turned out, over windows that are final.

    Attributes:
        windows: Their number.
        mean_absolute: Mean absolute difference.
        largest: Largest absolute difference.
        mean: Mean of estimate less truth.
        inside: In how many of them the truth lay within the estimate's interval.
    """

    windows: int
    mean_absolute: float
    largest: float
    mean: float
    inside: int

    @property
    def large(self) -> bool:
        """Whether the truth lay outside the estimate's interval more often than inside: intervals that ought to hold in
        19 of 20 windows. One window alone is no proof.
        """
        return self.windows > 1 and 2 * self.inside < self.windows


def concept_alarms(settings: KafkaSettings, deployment_id: str) -> list[ConceptAlarm]:
    """The alarms for concept drift of a deployment, in order of their change times.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
    """
    records = []
    for message in read_to_end(settings, settings.topics.alerts):
        try:
            name, alert = decode(message.value())
        except CodecError:
            continue
        if name == "Alert" and alert["deployment_id"] == deployment_id and alert["monitor"] == CONCEPT_DRIFT:
            records.append(alert)
    return alarms_of(records)


def alarms_of(alerts: Iterable[Record]) -> list[ConceptAlarm]:
    """Alarms from ``Alert`` records in any order: each incident once, with its end where it has one."""
    fired: dict[str, Record] = {}
    resolved: dict[str, int] = {}
    for alert in alerts:
        key, at = alert["incident_key"], alert["detection_time_us"]
        known = fired.setdefault(key, alert)
        if alert["status"] == "resolved":
            resolved[key] = max(at, resolved.get(key, at))
        elif known["status"] == "resolved" or at < known["detection_time_us"]:
            fired[key] = alert
    found = [
        ConceptAlarm(
            model_version=alert["model_version"],
            baseline_digest=alert["baseline_digest"],
            change_time_us=alert["change_time_us"],
            detection_time_us=alert["detection_time_us"],
            resolved_us=resolved.get(key),
            diagnosis=alert.get("diagnosis", ""),
        )
        for key, alert in fired.items()
    ]
    return sorted(found, key=lambda alarm: (alarm.change_time_us, alarm.model_version))


def doubt(alarms: Sequence[ConceptAlarm], start_us: int, end_us: int, baseline: Baseline | None) -> ConceptAlarm | None:
    """The alarm for which an estimate in a time is not to be believed, the first of them; None where there is none.

    Args:
        alarms: Those of the deployment: what one version's outcomes showed holds for the others, they predict the same.
        start_us: Start of the time.
        end_us: Its end, exclusive.
        baseline: The reference of the estimate. Where it is another one than the alarm's and reaches past the change,
            it has learnt the new relation, and the alarm says nothing of it.
    """
    outcomes = None if baseline is None else baseline.outcomes
    lag_us = 0 if outcomes is None else outcomes.final_age_us
    for alarm in alarms:
        learnt = (
            baseline is not None
            and baseline.digest != alarm.baseline_digest
            and baseline.last_event_us > alarm.change_time_us
        )
        if alarm.touches(start_us, end_us, lag_us) and not learnt:
            return alarm
    return None


def estimator_error(errors: Sequence[EstimateError]) -> EstimatorError | None:
    """The errors of single estimates together; None without any."""
    differences = np.array([error.difference for error in errors])
    if not differences.size:
        return None
    absolute = np.abs(differences)
    return EstimatorError(
        windows=len(differences),
        mean_absolute=float(absolute.mean()),
        largest=float(absolute.max()),
        mean=float(differences.mean()),
        inside=sum(error.inside for error in errors),
    )
