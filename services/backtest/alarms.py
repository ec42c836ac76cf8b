"""Alarms that other settings would have raised, side by side with those that were raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from driftline.codec import Record
from services.alerting.words.readings import stream_label

Verdict = Literal["same", "earlier", "later", "new", "gone"]
VERDICTS: tuple[Verdict, ...] = ("same", "earlier", "later", "new", "gone")


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm, and its end if it had one: the two ``Alert`` records of an incident."""

    firing: Record
    resolved: Record | None = None

    @property
    def noticed_us(self) -> int:
        """Event time at which the monitor fired."""
        return int(self.firing["detection_time_us"])

    @property
    def resolved_us(self) -> int | None:
        """Event time of its end."""
        return None if self.resolved is None else int(self.resolved["detection_time_us"])

    @property
    def causes(self) -> list[str]:
        """The streams behind it, the strongest first, as ``driftline alerts list`` calls them."""
        return [stream_label(cause) for cause in self.firing["causes"]]

    @property
    def diagnosis(self) -> str:
        """What moved, of concept drift: relation, outcome_rate, inputs; empty where nothing tells."""
        return str(self.firing.get("diagnosis") or "")

    @property
    def place(self) -> tuple[str, str, int]:
        """Version, monitor and partition: what a detector of its own watches."""
        alert = self.firing
        return alert["model_version"], alert["monitor"], alert["evidence_offsets"][0]["partition"]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        names = ("id", "incident_key", "model_version", "monitor", "severity", "episode", "change_time_us")
        more = ("detection_time_us", "log_evidence_nats", "threshold_nats", "rows_since_change")
        chosen = {name: self.firing[name] for name in (*names, *more)}
        return chosen | {"resolved_time_us": self.resolved_us, "causes": self.causes, "diagnosis": self.diagnosis}


@dataclass(frozen=True, slots=True)
class Pair:
    """An alarm that would have been raised and the one that was; one of them may be missing."""

    would: Alarm | None
    did: Alarm | None

    @property
    def by_us(self) -> int:
        """How much later it would have been noticed, negative for earlier, microseconds of event time."""
        return 0 if self.would is None or self.did is None else self.would.noticed_us - self.did.noticed_us

    @property
    def verdict(self) -> Verdict:
        """What the settings change about it."""
        if self.did is None:
            return "new"
        if self.would is None:
            return "gone"
        return "same" if self.by_us == 0 else "earlier" if self.by_us < 0 else "later"

    @property
    def shown(self) -> Alarm:
        """The one that would have been raised, or else the one that was."""
        alarm = self.would or self.did
        assert alarm is not None
        return alarm


def alarms_of(alerts: Iterable[Record]) -> list[Alarm]:
    """The alarms that ``Alert`` records tell of, in order of detection; an end without its beginning is left out."""
    firing: dict[str, Record] = {}
    resolved: dict[str, Record] = {}
    for alert in alerts:
        (firing if alert["status"] == "firing" else resolved).setdefault(alert["incident_key"], alert)
    found = [Alarm(alert, resolved.get(incident)) for incident, alert in firing.items()]
    return sorted(found, key=lambda alarm: (alarm.noticed_us, alarm.firing["id"]))


def side_by_side(would: Sequence[Alarm], did: Sequence[Alarm]) -> list[Pair]:
    """Pair alarms about the same thing, in order of detection.

    Two alarms of one version, monitor and partition can be about the same thing if they have a cause in common and
    were open at the same time, or if the times from change to detection overlap. Of all such pairs those with the same
    id go first, then those with most causes in common, then those noticed closest together; each alarm is in one pair.
    """
    candidates = [
        (*nearness, w, d) for w, a in enumerate(would) for d, b in enumerate(did) if (nearness := _near(a, b))
    ]
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for *_, w, d in sorted(candidates):
        if w not in partner and d not in taken:
            partner[w] = d
            taken.add(d)
    pairs = [Pair(alarm, did[partner[w]] if w in partner else None) for w, alarm in enumerate(would)]
    pairs += [Pair(None, alarm) for d, alarm in enumerate(did) if d not in taken]
    return sorted(pairs, key=lambda pair: (pair.shown.noticed_us, pair.shown.firing["id"]))


@dataclass(frozen=True, slots=True)
class MonitorCount:
    """Alarms of one monitor: how many would have been raised and were, and how many have each verdict."""

    monitor: str
    would: int
    did: int
    verdicts: Mapping[Verdict, int]


def by_monitor(pairs: Sequence[Pair], monitors: Iterable[str]) -> list[MonitorCount]:
    """Alarms by monitor, also of monitors without any, in alphabetical order."""
    found = []
    for name in sorted({*monitors, *(pair.shown.firing["monitor"] for pair in pairs)}):
        mine = [pair for pair in pairs if pair.shown.firing["monitor"] == name]
        would, did = sum(pair.would is not None for pair in mine), sum(pair.did is not None for pair in mine)
        found.append(MonitorCount(name, would, did, Counter(pair.verdict for pair in mine)))
    return found


def _near(a: Alarm, b: Alarm) -> tuple[int, float, int] | None:
    """How far two alarms are from being the same, to be sorted by; None if they are about different things."""
    if a.place != b.place:
        return None
    first, second = set(a.causes), set(b.causes)
    common = len(first & second) / max(1, len(first | second))
    if not (_overlap(a, b, open_until=False) or (common and _overlap(a, b, open_until=True))):
        return None
    return int(a.firing["id"] != b.firing["id"]), -common, abs(a.noticed_us - b.noticed_us)


def _overlap(a: Alarm, b: Alarm, *, open_until: bool) -> bool:
    """Whether the times from change to detection, or to the end, have a moment in common."""

    def end_us(alarm: Alarm) -> float:
        if not open_until:
            return alarm.noticed_us
        return float("inf") if alarm.resolved_us is None else alarm.resolved_us

    return bool(a.firing["change_time_us"] <= end_us(b) and b.firing["change_time_us"] <= end_us(a))
