"""Performance windows: the sums of predictions and their outcomes, by event time of the predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streams.alerts import stable_id
from streams.messages import Emission
from streams.outcomes.frames import Frame
from streams.specification import DeploymentSpec
from streams.statistics.performance.sums import Sums, add, empty, pack, subtract, take_group, to_fields, unpack

FIRST_REVISION_PAIRS = 64
"""A provisional summary is written when a window's pairs reach 64, 256, 1,024 …, when the window ends, and when its
youngest prediction reaches each age at which the reference parts its outcomes."""

ALL = ""
"""The part that is all of the traffic."""


@dataclass(eq=False)
class PerformanceWindow:
    """The sums of one window of a frame.

    Attributes:
        frame: How its rows are read.
        start_us: Inclusive.
        first_offset: The message of the predictions topic that opened it: part of the summaries' id.
        first_outcome: The first message of the outcomes topic that may hold an outcome of it.
        parts: Sums without a group axis by the part's name.
        pairs: Predictions with an outcome.
        corrections: Outcomes that replaced an earlier one.
        superseded: Outcomes that said nothing new.
        revision: Summaries written so far.
        next_pairs: Number of pairs at which the next is due.
        next_us: Time at which the next is due whatever came; None for no more.
    """

    frame: Frame
    start_us: int
    first_offset: int
    first_outcome: int
    parts: dict[str, Sums] = field(default_factory=dict)
    pairs: int = 0
    corrections: int = 0
    superseded: int = 0
    revision: int = 0
    next_pairs: int = FIRST_REVISION_PAIRS
    next_us: int | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            self.parts[ALL] = take_group(empty(self.frame.layout, 1), 0)
            self.next_us = self.end_us

    @property
    def end_us(self) -> int:
        """Exclusive."""
        return self.start_us + self.frame.window_ms * 1000

    @property
    def final_us(self) -> int:
        """When nothing more is expected: what became known by the horizon has had time to come."""
        return self.end_us + self.frame.final_after_ms * 1000

    def add(self, part: str, sums: Sums, *, sign: int = 1) -> None:
        """Add sums to those of a part, or take them away."""
        mine = self.parts.get(part)
        if mine is None:
            mine = take_group(empty(self.frame.layout, 1), 0)
        self.parts[part] = add(mine, sums) if sign > 0 else subtract(mine, sums)

    def due(self, known_us: int) -> bool:
        """Whether a provisional summary is due by what is known up to a time."""
        found = self.pairs >= self.next_pairs
        while self.next_pairs <= self.pairs:
            self.next_pairs *= 4
        while self.next_us is not None and self.next_us <= known_us:
            found = True
            ages = [self.end_us + int(age) for age in self.frame.layout.age_edges_us]
            self.next_us = next((time for time in ages if time > self.next_us), None)
        return found

    def to_fields(self) -> dict[str, Any]:
        """The journal's record."""
        facts = {
            "first_offset": self.first_offset,
            "first_outcome": self.first_outcome,
            "pairs": self.pairs,
            "corrections": self.corrections,
            "superseded": self.superseded,
            "revision": self.revision,
            "next_pairs": self.next_pairs,
            "next_us": self.next_us,
        }
        names = sorted(self.parts)
        sums = {f"part_{at}": pack(self.parts[name]) for at, name in enumerate(names)}
        return {"facts": json.dumps(facts, separators=(",", ":")), "parts": json.dumps(names), **sums}

    @classmethod
    def from_fields(cls, frame: Frame, start_us: int, fields: Mapping[str, Any]) -> PerformanceWindow:
        """Read :meth:`to_fields`."""
        names = json.loads(fields["parts"])
        parts = {name: unpack(frame.layout, fields[f"part_{at}"]) for at, name in enumerate(names)}
        return cls(frame, start_us, parts=parts, **json.loads(fields["facts"]))


def performance_summary(
    spec: DeploymentSpec, window: PerformanceWindow, partition: int, clock_us: int, *, final: bool
) -> Emission:
    """The ``PerformanceWindow`` record of a window as it stands."""
    frame = window.frame
    parts = []
    for name in sorted(window.parts):
        counts, sums = to_fields(window.parts[name])
        parts.append({"segment": name, "counts": counts, "sums": sums})
    record = {
        "id": stable_id(
            "performance",
            spec.deployment_id,
            frame.model_version,
            frame.baseline_digest,
            partition,
            frame.number,
            window.start_us,
            window.first_offset,
        ),
        "deployment_id": spec.deployment_id,
        "model_version": frame.model_version,
        "role": "challenger" if frame.model_version in spec.challengers else "champion",
        "partition": partition,
        "window_start_us": window.start_us,
        "window_end_us": window.end_us,
        "status": "final" if final else "provisional",
        "revision": window.revision,
        "clock_us": clock_us,
        "horizon_ms": frame.horizon_ms,
        "task": frame.layout.task,
        "classes": list(frame.layout.classes),
        "score_edges": frame.layout.score_edges.tolist(),
        "age_edges_us": frame.layout.age_edges_us.tolist(),
        "baseline_digest": frame.baseline_digest,
        "corrections": window.corrections,
        "superseded": window.superseded,
        "parts": parts,
    }
    return Emission("windows", spec.deployment_id.encode(), "PerformanceWindow", record)
