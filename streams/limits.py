"""What a specification asks of a message before its rows are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from driftline.topics import record_key
from streams.messages import Message
from streams.specification import DeploymentSpec


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits from an offset of the predictions topic on, and from one of the outcomes topic on.

    Kept with the state as far back as prediction ids are remembered: after a restart the ids are read from the log
    again, and a message that was refused then must be passed over now. So it is with outcomes.
    """

    offset: int
    earliest_us: int
    skew_ms: int
    shards: int
    outcome_offset: int = field(default=0, compare=False)

    def key_fits(self, deployment_id: str, key: bytes | None) -> bool:
        """Whether the key is the deployment's: an outcome must find its prediction, each shard pays for its starts."""
        if self.shards == 1:
            return key == record_key(deployment_id)
        return any(key == record_key(deployment_id, shard) for shard in range(self.shards))

    def on_time(self, times_us: NDArray[np.int64], log_time_ms: int) -> NDArray[np.bool_] | None:
        """Rows bool[n] whose event time, int64[n], can be believed; None if all can."""
        latest_us = (log_time_ms + self.skew_ms) * 1000
        if times_us.min() >= self.earliest_us and times_us.max() <= latest_us:
            return None
        return np.asarray((times_us >= self.earliest_us) & (times_us <= latest_us))


def limits_of(spec: DeploymentSpec, offset: int, outcome_offset: int = 0) -> Limits:
    """The limits of a specification that comes into force before these offsets."""
    return Limits(offset, spec.earliest_event_time_us, spec.clock_skew_ms, spec.shards, outcome_offset)


def limits_of_outcomes(history: Sequence[Limits], outcome_offset: int) -> Limits:
    """Those that were in force at an offset of the outcomes topic; the oldest ones if that is earlier than all."""
    return next((entry for entry in reversed(history) if entry.outcome_offset <= outcome_offset), history[0])


def time_error(times_us: NDArray[np.int64], message: Message, bad: list[int]) -> str:
    """Why rows were refused for their event time."""
    first = int(times_us[bad[0]])
    when = np.datetime64(first, "us")
    return (
        f"{len(bad)} of {len(times_us)} rows: event times must lie between the specification's earliest_event_time and "
        f"the log's time {np.datetime64(message.timestamp_ms, 'ms')} plus clock_skew; row {bad[0]} says {when} "
        f"({first} microseconds since 1970: is the unit right?)"
    )
