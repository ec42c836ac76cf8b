"""Detectors at work: they follow streams, keep their state, and open and end incidents of their own."""

from __future__ import annotations

import base64
import collections
import functools
import importlib.metadata
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.errors import EventError
from driftline.events import Floats, PredictionColumns
from streams.alerts import audit, stable_id
from streams.baseline import FEATURE, PREDICTION_ROLE, Baseline
from streams.columns import PREDICTION
from streams.counting import numeric_values
from streams.detectors import (
    BITS,
    MOST_MAGNITUDE,
    UNIT,
    build_detector,
    check_detectors,
    describe_detector,
    monitor_name,
    signals,
    takes,
)
from streams.errors import JournalError
from streams.messages import Emission, Message
from streams.specification import DeploymentSpec, DetectorSpec

SEVERITY = "info"
"""Nobody is to be woken by what keeps no promise."""

FIRING = "firing"
RESOLVED = "resolved"

QUIET_VALUES = 1_000
"""Signals with fewer values between them are one incident; so many values without another signal end it.

A detector starts anew at its signal. Where values depend on those before them it signals every two or three hundred
values for good (see :data:`streams.detectors.MEASURED`): that is one thing to tell, and not five thousand."""


@dataclass(frozen=True, slots=True)
class Incident:
    """A run of signals.

    Attributes:
        number: Counts the detector's incidents, from 1.
        offset: The message of its first signal.
        row: That signal's row.
        fired_us: That row's time: of a prediction its event time, of an outcome when it became known.
        signals: How many signals so far.
        topic: The message's topic, for outcomes; empty for the predictions topic.
    """

    number: int
    offset: int
    row: int
    fired_us: int
    signals: int
    topic: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A detector's incident began (``firing``) or ended (``resolved``), at an event time."""

    spec: DetectorSpec
    status: str
    incident: Incident
    time_us: int


class Follower:
    """A detector that follows a stream.

    Attributes:
        spec: Which, on what.
        followed: Values it was given.
        skipped: Values it was not given because it does not take them.
        signals: How often it signalled.
        incidents: How many runs of signals there were.
        incident: The run that goes on; None for none.
    """

    def __init__(self, spec: DetectorSpec) -> None:
        self.spec = spec
        self.followed = self.skipped = self.signals = self.incidents = 0
        self.incident: Incident | None = None
        self._last_signal = 0
        self._detector = build_detector(spec)

    def update(self, values: Floats, times_us: NDArray[np.int64], offset: int, topic: str = "") -> list[Turn]:
        """Follow the next values.

        A missing value (NaN) is passed over. So is one that the detector does not take (see :func:`takes`; numbers
        beyond ``MOST_MAGNITUDE``, infinite ones among them, are taken by none), and counted in ``skipped``.

        Args:
            values: float64[n], in the order of the log.
            times_us: int64[n], their times.
            offset: The message they came with.
            topic: Its topic, for outcomes.

        Returns:
            Incidents that began or ended, in order. Any split of a stream into batches gives the same ones.
        """
        usable = _usable(takes(self.spec.detector), values)
        rows = np.flatnonzero(usable)
        self.skipped += int(np.count_nonzero(~(usable | np.isnan(values))))
        start = self.followed
        self.followed += len(rows)
        turns: list[Turn] = []
        for index in signals(self._detector, values[rows]):
            row = int(rows[index])
            turns += self._quiet(start + index, rows, start, times_us)
            self.signals += 1
            self._last_signal = start + index
            if self.incident is None:
                self.incidents += 1
                self.incident = Incident(self.incidents, offset, row, int(times_us[row]), 1, topic)
                turns.append(Turn(self.spec, FIRING, self.incident, self.incident.fired_us))
            else:
                self.incident = replace(self.incident, signals=self.incident.signals + 1)
        return turns + self._quiet(self.followed, rows, start, times_us)

    def _quiet(self, before: int, rows: NDArray[np.intp], start: int, times_us: NDArray[np.int64]) -> list[Turn]:
        """End the incident if ``QUIET_VALUES`` without a signal went by before value number ``before``."""
        end = self._last_signal + QUIET_VALUES
        if self.incident is None or end >= before:
            return []
        return self.give_up(int(times_us[rows[end - start]]))

    def give_up(self, time_us: int) -> list[Turn]:
        """End the incident that goes on, if there is one."""
        if self.incident is None:
            return []
        turn = Turn(self.spec, RESOLVED, self.incident, max(time_us, self.incident.fired_us))
        self.incident = None
        return [turn]

    def _facts(self) -> dict[str, Any]:
        return {
            "detector": self.spec.detector,
            "stream": self.spec.stream,
            "parameters": dict(self.spec.parameters),
            "followed": self.followed,
            "skipped": self.skipped,
            "signals": self.signals,
            "incidents": self.incidents,
            "incident": None if self.incident is None else astuple(self.incident),
            "last_signal": self._last_signal,
            "state": _state_of(self._detector),
        }

    @classmethod
    def _from_facts(cls, facts: Mapping[str, Any], *, with_state: bool) -> Follower:
        follower = cls(DetectorSpec(facts["detector"], facts["stream"], facts["parameters"]))
        follower.followed, follower.skipped = facts["followed"], facts["skipped"]
        follower.signals, follower.incidents = facts["signals"], facts["incidents"]
        follower.incident = None if facts["incident"] is None else Incident(*facts["incident"])
        follower._last_signal = facts["last_signal"]
        if with_state:
            _put_state(follower._detector, facts["state"])
        return follower


class Followers:
    """The detectors of a deployment version on one partition.

    Raises:
        StreamsError: As :func:`check_detectors`.
    """

    def __init__(self, specs: Sequence[DetectorSpec] = ()) -> None:
        check_detectors(specs)
        self._followers = [Follower(spec) for spec in specs]

    def __iter__(self) -> Iterator[Follower]:
        return iter(self._followers)

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams they follow, each once."""
        return tuple(dict.fromkeys(follower.spec.stream for follower in self._followers))

    def put_in_force(self, specs: Sequence[DetectorSpec], time_us: int) -> list[Turn]:
        """Follow what a new specification asks for. Who is in it unchanged goes on; incidents of others end.

        Raises:
            StreamsError: As :func:`check_detectors`. Nothing has changed.
        """
        check_detectors(specs)
        known = {monitor_name(follower.spec): follower for follower in self._followers}
        kept = [known.get(monitor_name(spec)) for spec in specs]
        following = [
            follower if follower is not None and follower.spec == spec else Follower(spec)
            for spec, follower in zip(specs, kept, strict=True)
        ]
        gone = [follower for follower in self._followers if follower not in following]
        self._followers = following
        return [turn for follower in gone for turn in follower.give_up(time_us)]

    def update(
        self, columns: Mapping[str, Floats], times_us: NDArray[np.int64], offset: int, topic: str = ""
    ) -> list[Turn]:
        """Follow the next rows; a stream that is not in ``columns`` is missing in all of them.

        Args:
            columns: float64[n] per stream; NaN for a row that is missing or does not count.
            times_us: int64[n], event times of predictions; of outcomes when they became known.
            offset: The message they came with.
            topic: Its topic where that is not the predictions topic: streams of outcomes follow both.
        """
        return [
            turn
            for follower in self._followers
            if follower.spec.stream in columns
            for turn in follower.update(columns[follower.spec.stream], times_us, offset, topic)
        ]

    def to_bytes(self) -> bytes:
        """Their whole state: numbers and texts as JSON, the same bytes for the same state."""
        record = {"river": _river_version(), "followers": [follower._facts() for follower in self._followers]}
        return json.dumps(record, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[Followers, list[str]]:
        """The detectors as they were written, and what there is to be said about it.

        They go on as if they had never stopped. Where another version of river wrote them, its insides mean nothing
        to this one: the detectors start anew, with their counters, and a sentence for the log says so.

        The state is data and is only ever written into detectors that were built here: whatever it holds, no code of
        its choice runs.

        Raises:
            JournalError: It is no state of detectors.
        """
        followers = cls()
        try:
            record = json.loads(data)
            same = record["river"] == _river_version()
            followers._followers = [Follower._from_facts(facts, with_state=same) for facts in record["followers"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise JournalError(f"expected the state of detectors, came something else: {error!r}") from error
        if same or not record["followers"]:
            return followers, []
        names = ", ".join(monitor_name(follower.spec) for follower in followers._followers)
        return followers, [
            f"{names}: start anew, for their state is of river {record['river']} and this is {_river_version()}"
        ]


def detector_alert(
    spec: DeploymentSpec, baseline: Baseline, turn: Turn, message: Message, model_id: str | None
) -> list[Emission]:
    """The ``Alert`` of an incident that began or ended, and its audit event.

    A signal is an event and no state: the detector starts anew with what it sees then as normal. An incident is
    opened at once and ends by itself (see ``QUIET_VALUES``), so that nothing stays open that nobody could close. The
    severity is ``info``, which a destination can decline. Detectors give no time of change and no evidence: change
    time is the first signal's, evidence and threshold are 0, there are no causes. Of outcomes, the evidence is where
    the first signal stands if the incident ends with a message of another topic.
    """
    incident, monitor = turn.incident, monitor_name(turn.spec)
    place = (message.partition, incident.offset, incident.row, *([incident.topic] if incident.topic else []))
    key = stable_id("detector", spec.deployment_id, baseline.model_version, monitor, *place)
    elsewhere = incident.topic not in ("", message.topic)
    alert = {
        "id": stable_id(key, turn.status),
        "incident_key": key,
        "deployment_id": spec.deployment_id,
        "model_id": model_id or spec.model_id,
        "model_version": baseline.model_version,
        "monitor": monitor,
        "severity": SEVERITY,
        "status": turn.status,
        "episode": incident.number,
        "change_time_us": incident.fired_us,
        "detection_time_us": turn.time_us,
        "trigger_time_ms": message.timestamp_ms,
        "log_evidence_nats": 0.0,
        "threshold_nats": 0.0,
        "rows_since_change": 0,
        "causes": [],
        "evidence_offsets": [
            {
                "topic": incident.topic or message.topic,
                "partition": message.partition,
                "first_offset": incident.offset,
                "last_offset": incident.offset if elsewhere else message.offset,
            }
        ],
        "baseline_digest": baseline.digest,
        "spec_revision": spec.revision,
        "false_alarms": describe_detector(turn.spec),
        "owner": spec.owner,
        "tags": dict(spec.tags),
        "runbook_url": spec.runbook_url,
    }
    action, reason = "alert.fired", f"{monitor}: a signal"
    if turn.status == RESOLVED:
        action, reason = "alert.resolved", f"{monitor}: {incident.signals} signal(s), then none, or no longer asked for"
    return [
        Emission("alerts", spec.deployment_id.encode(), "Alert", alert),
        audit(message, action, f"incident:{key}", alert, reason),
    ]


def followed_values(name: str, columns: PredictionColumns) -> NDArray[np.float64]:
    """A stream for the detectors; missing in rows that cannot be read as numbers, which others complain of."""
    try:
        return numeric_values(name, PREDICTION_ROLE if name == PREDICTION else FEATURE, columns)
    except EventError:
        return np.full(columns.rows, np.nan)


def _usable(domain: str, values: Floats) -> NDArray[np.bool_]:
    if domain == BITS:
        return np.asarray((values == 0) | (values == 1))
    if domain == UNIT:
        return np.asarray((values >= 0) & (values <= 1))
    return np.asarray(np.abs(values) <= MOST_MAGNITUDE)


@functools.cache
def _river_version() -> str:
    return importlib.metadata.version("river")


def _state_of(part: Any) -> Any:
    """A detector, or a part of one, as numbers, texts, lists and objects of JSON."""
    if part is None or isinstance(part, bool | int | float | str):
        return float(part) if isinstance(part, np.floating) else part
    if isinstance(part, collections.deque):
        return list(part)
    if isinstance(part, random.Random):
        version, words, gauss = part.getstate()
        return [version, base64.b64encode(np.array(words, dtype="<u4").tobytes()).decode(), gauss]
    if hasattr(part, "__dict__"):
        return {name: _state_of(value) for name, value in vars(part).items() if not callable(value)}
    return base64.b64encode(part.__getstate__()).decode()  # one of river's own in Rust


def _put_state(part: Any, state: Mapping[str, Any]) -> None:
    """Write a state into a new detector, or a part of one, which says what type everything is."""
    fields = {name: value for name, value in vars(part).items() if not callable(value)}
    if fields.keys() != state.keys():
        raise ValueError(f"{type(part).__name__} has {sorted(fields)}, the state {sorted(state)}")
    for name, old in fields.items():
        new = state[name]
        if old is None or isinstance(old, bool | int | float | str):
            if not (new is None or isinstance(new, bool | int | float | str)):
                raise ValueError(f"{type(part).__name__}.{name} is a number, came {type(new).__name__}")
            setattr(part, name, new)
        elif isinstance(old, collections.deque):
            setattr(part, name, collections.deque(map(float, new), maxlen=old.maxlen))
        elif isinstance(old, random.Random):
            words = np.frombuffer(base64.b64decode(new[1]), dtype="<u4")
            old.setstate((new[0], tuple(words.tolist()), new[2]))
        elif hasattr(old, "__dict__"):
            _put_state(old, new)
        else:
            old.__setstate__(base64.b64decode(new))
