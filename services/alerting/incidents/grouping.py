"""Which signals are one incident. Pure, and by event time alone: reading the topic again gives the same incidents.

A new signal of deployment D joins, in this order:

a. the incident that its (incident_key, episode) is known in; that is looked up before anything here is asked;
b. D's unresolved incident with the latest event, if the signal's change began at most ``join_within`` after that;
c. an unresolved incident of other deployments that has a signal with an upstream of its own, if the two changes began,
   or were noticed, at most ``across_within`` apart;
d. as b and then c, an incident that was over at most ``reopen_within`` before the signal was noticed: it opens again;
e. none: it opens an incident.

What Driftline says of itself (``system:NAME``) joins an incident of the same incident_key, or opens one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from driftline.codec import Record
from services.alerting.policy.model import Correlation, Source

SYSTEM_PREFIX = "system:"
"""Of monitors: what Driftline says of itself."""

FEATURE, SOURCE = "feature:", "source:"

_CAUSES_ASKED = 3
_FEATURE_ROLE, _QUALITY_ROLE = "feature", "quality"
_QUALITY_PREFIX = "quality:"


def incident_id_of(alert_id: str) -> str:
    """The id of the incident that an alert opens: twelve hexadecimal digits."""
    return hashlib.sha256(alert_id.encode(errors="surrogatepass")).hexdigest()[:12]


def input_feature(cause: Mapping[str, object]) -> str:
    """The input feature that a cause is about; empty where it is about something else."""
    stream, role = str(cause["stream"]), cause["role"]
    if role == _FEATURE_ROLE:
        return stream
    if role == _QUALITY_ROLE and stream.startswith(_QUALITY_PREFIX):
        return stream.removeprefix(_QUALITY_PREFIX)
    return ""


def upstreams_of(alert: Record, sources: Sequence[Source]) -> tuple[str, ...]:
    """What the strongest causes of an alert read: declared sources, or else the feature of the first.

    Args:
        alert: Decoded ``Alert``.
        sources: As the routing file declares them.
    """
    features = [input_feature(cause) for cause in alert["causes"][:_CAUSES_ASKED]]
    deployment = alert["deployment_id"]
    named = [
        SOURCE + source.name
        for source in sources
        if any(pattern.fullmatch(deployment) for pattern in source.deployments)
        and any(pattern.fullmatch(feature) for feature in features if feature for pattern in source.features)
    ]
    if named:
        return tuple(dict.fromkeys(named))
    return (FEATURE + features[0],) if features and features[0] else ()


def asked_upstreams(upstreams: Sequence[str], correlation: Correlation) -> tuple[str, ...]:
    """Those by which incidents of several deployments may find each other."""
    if correlation.across == "none":
        return ()
    if correlation.across == "source":
        return tuple(upstream for upstream in upstreams if upstream.startswith(SOURCE))
    return tuple(upstreams)


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A signal that is in no incident yet; times are event time.

    Attributes:
        incident_key: Of the alarm.
        deployment_id: Whose.
        monitor: Which.
        change_us: Estimated start of the change.
        detected_us: When it was noticed.
        upstreams: See :func:`upstreams_of`.
    """

    incident_key: str
    deployment_id: str
    monitor: str
    change_us: int
    detected_us: int
    upstreams: tuple[str, ...]


class Candidate(Protocol):
    """What is asked of an incident that a signal may join."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def is_resolved(self) -> bool:
        """Whether it is over."""

    @property
    def is_system(self) -> bool:
        """Whether it is about Driftline itself."""

    @property
    def last_us(self) -> int:
        """Latest detection or resolution."""

    @property
    def resolved_us(self) -> int | None:
        """When it was over."""

    @property
    def deployments(self) -> set[str]:
        """Whose signals it has."""

    @property
    def incident_keys(self) -> set[str]:
        """Of its signals, where it is about Driftline itself."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a signal belongs.

    Attributes:
        incident_id: None: it opens an incident.
        reopens: That incident is over, and opens again.
        upstream: What it has in common with it, where that is why.
        why: In words.
    """

    incident_id: str | None
    reopens: bool = False
    upstream: str = ""
    why: str = ""


class Surroundings:
    """The incidents that signals may join, found without looking at each of them.

    Times on an upstream are kept in buckets of ``across_within``: what lies within that of a moment is in its own
    bucket or a neighbouring one, of which the earliest and the latest time say whether it is near enough.
    """

    def __init__(self, correlation: Correlation) -> None:
        self._correlation = correlation
        self._within_us = correlation.across_within_ms * 1000
        self._width_us = max(self._within_us, 1)
        self._incidents: dict[str, Candidate] = {}
        self._by_deployment: dict[str, set[str]] = defaultdict(set)
        self._by_key: dict[str, set[str]] = defaultdict(set)
        # (upstream, which of the two times, bucket) to incident to (earliest, latest).
        self._times: dict[tuple[str, str, int], dict[str, tuple[int, int]]] = defaultdict(dict)

    def add_incident(self, incident: Candidate) -> None:
        """An incident that is there; a second time, what it has gained since."""
        self._incidents[incident.id] = incident
        for deployment in incident.deployments:
            self._by_deployment[deployment].add(incident.id)
        for key in incident.incident_keys:
            self._by_key[key].add(incident.id)

    def add_signal(self, incident_id: str, upstreams: Iterable[str], change_us: int, detected_us: int) -> None:
        """A signal of an incident that is there or will be added."""
        for upstream in upstreams:
            for kind, moment in (("change", change_us), ("detected", detected_us)):
                bucket = self._times[upstream, kind, moment // self._width_us]
                earliest, latest = bucket.get(incident_id, (moment, moment))
                bucket[incident_id] = (min(earliest, moment), max(latest, moment))

    def place(self, signal: Newcomer) -> Placement:
        """Where a signal belongs."""
        if signal.monitor.startswith(SYSTEM_PREFIX):
            same = self._known(self._by_key.get(signal.incident_key, ()))
            return self._first(signal, lambda which: self._latest(filter(which, same)), "It is the same alarm.")
        own = [i for i in self._known(self._by_deployment.get(signal.deployment_id, ())) if not i.is_system]

        def of_deployment(which: Callable[[Candidate], bool]) -> Candidate | None:
            latest = self._latest(filter(which, own))
            within_us = self._correlation.join_within_ms * 1000
            return latest if latest is not None and signal.change_us <= latest.last_us + within_us else None

        shared = dict(self._near(signal))

        def of_others(which: Callable[[Candidate], bool]) -> Candidate | None:
            return self._latest(
                i for i in self._known(shared) if signal.deployment_id not in i.deployments and which(i)
            )

        for which, reopens in ((_is_unresolved, False), (self._was_over_before(signal), True)):
            if (found := of_deployment(which)) is not None:
                return Placement(
                    found.id, reopens, "", "Its deployment has this incident, and the change began close to it."
                )
            if (found := of_others(which)) is not None:
                upstream = shared[found.id]
                return Placement(
                    found.id, reopens, upstream, f"It shares {upstream}, and changed or was noticed at the same time."
                )
        return Placement(None, why="No incident that is open, or was until just now, has its cause.")

    def _first(
        self, signal: Newcomer, find: Callable[[Callable[[Candidate], bool]], Candidate | None], why: str
    ) -> Placement:
        for which, reopens in ((_is_unresolved, False), (self._was_over_before(signal), True)):
            if (found := find(which)) is not None:
                return Placement(found.id, reopens, "", why)
        return Placement(None, why="It has no incident that is open, or was until just now.")

    def _known(self, ids: Iterable[str]) -> list[Candidate]:
        return [self._incidents[i] for i in ids if i in self._incidents]

    @staticmethod
    def _latest(incidents: Iterable[Candidate]) -> Candidate | None:
        return min(incidents, key=lambda incident: (-incident.last_us, incident.id), default=None)

    def _was_over_before(self, signal: Newcomer) -> Callable[[Candidate], bool]:
        since_us = signal.detected_us - self._correlation.reopen_within_ms * 1000
        return lambda i: i.is_resolved and i.resolved_us is not None and i.resolved_us >= since_us

    def _near(self, signal: Newcomer) -> Iterable[tuple[str, str]]:
        """Incidents near a signal on an upstream of it, with the first such upstream; the last one named wins."""
        for upstream in reversed(asked_upstreams(signal.upstreams, self._correlation)):
            for kind, moment in (("change", signal.change_us), ("detected", signal.detected_us)):
                middle = moment // self._width_us
                for bucket in (middle - 1, middle, middle + 1):
                    for incident_id, (earliest, latest) in self._times.get((upstream, kind, bucket), {}).items():
                        if earliest - self._within_us <= moment <= latest + self._within_us:
                            yield incident_id, upstream


def _is_unresolved(incident: Candidate) -> bool:
    return not incident.is_resolved
