"""Accuracy windows that other settings would have given, beside those on the topic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from driftline.settings import KafkaSettings
from services.backtest.run import BackTest
from services.performance.belief import ConceptAlarm, alarms_of
from services.performance.report import PartReading, WindowReading, read_window
from services.performance.windows import ALL, Window, merge_records, performance_windows
from services.windows import Period
from streams.specification import CONCEPT_DRIFT, DeploymentSpec


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One period of one version.

    Attributes:
        would: What the back-test says.
        did: What the workers have written of the same version and time, all traffic; None where that is nothing.
    """

    would: WindowReading
    did: PartReading | None

    @property
    def part(self) -> PartReading | None:
        """All traffic; None where no prediction was counted."""
        return next(iter(self.would.parts), None)


def accuracy(settings: KafkaSettings, now: DeploymentSpec, found: BackTest, by: Period = "window") -> list[Accuracy]:
    """Accuracy by period, in order of their starts, versions and roles.

    Args:
        settings: How to reach Kafka.
        now: The deployment as it is in force.
        found: The back-test.
        by: What to add windows up to.

    Raises:
        ClusterError: Kafka does not answer, or the topic is missing.
        UnreadableWindowError: A record on the topic does not fit its layout.
    """
    windows = merge_records(found.windows, found.spec, by)
    if not windows:
        return []
    ends = min(w.start_us for w in windows), max(w.end_us for w in windows)
    live = {
        _place(window): reading
        for window in performance_windows(settings, now, by=by, from_us=ends[0], to_us=ends[1])
        for reading in read_window(window, [ALL], {}, []).parts
    }
    alarms = _concept_alarms(found)
    return [
        Accuracy(read_window(window, [ALL], found.baselines, alarms), live.get(_place(window))) for window in windows
    ]


def open_windows(windows: Iterable[Accuracy]) -> int:
    """How many of them are not final."""
    return sum(each.would.window.status != "final" for each in windows)


def _place(window: Window) -> tuple[str, int, int]:
    return window.model_version, window.start_us, window.end_us


def _concept_alarms(found: BackTest) -> list[ConceptAlarm]:
    raised = [pair.would for pair in found.pairs if pair.would is not None]
    return alarms_of(
        record
        for alarm in raised
        if alarm.firing["monitor"] == CONCEPT_DRIFT
        for record in (alarm.firing, alarm.resolved)
        if record is not None
    )
