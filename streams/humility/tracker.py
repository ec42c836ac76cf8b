"""The adaptive tracker: how wide intervals have to be for their long-run coverage, under any drift, with late outcomes.

Per group it counts how many outcomes are known and how many of them were missed by the quantile that their own
prediction was *issued* with. Where it stands follows from these counts alone
(:func:`streams.statistics.humility.tracker_quantile`), so it does not matter in which order outcomes come. A quantile
is *published* at most once per start slot: that is what predictions are issued with until the next one.

What was published from which message on is remembered as far back as predictions wait: where the index of these is
lost, the decisions that were recomputed for them are made again with what was known then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.humility.fit import HumilityFit
from driftline.humility.rules import digest_of
from streams.statistics.humility import tracker_quantile

Mask = NDArray[np.bool_]

NO_SLOT = -1


@dataclass(frozen=True, slots=True)
class Facts:
    """What decisions are made with from a message of the predictions topic on.

    Attributes:
        offset: The message.
        quantiles: Group and its adaptive quantile.
        alarms: Bit m is set where monitor m of ``ALARM_MONITORS`` is in alarm.
    """

    offset: int
    quantiles: tuple[tuple[str, float], ...] = ()
    alarms: int = 0

    def to_fields(self) -> dict[str, Any]:
        """The journal's record."""
        return {"facts": json.dumps([self.quantiles, self.alarms], separators=(",", ":"))}

    @classmethod
    def from_fields(cls, offset: int, fields: Mapping[str, Any]) -> Facts:
        """Read :meth:`to_fields`."""
        quantiles, alarms = json.loads(fields["facts"])
        return cls(offset, tuple((group, quantile) for group, quantile in quantiles), alarms)


@dataclass(eq=False)
class Group:
    """The tracker of one group.

    Attributes:
        start: First quantile.
        known: Outcomes so far.
        missed: Of these, not covered by the quantile that was issued with their prediction.
        published: The quantile that predictions are issued with.
        published_known: Outcomes when it was published.
        published_missed: Of these, missed.
    """

    start: float
    known: int = 0
    missed: int = 0
    published: float = field(default=np.nan)
    published_known: int = 0
    published_missed: int = 0

    def __post_init__(self) -> None:
        if np.isnan(self.published):
            self.published = self.start


class Tracker:
    """The trackers of one version on one partition, one for each group that was fitted.

    Args:
        fit: Digest of the fit that they start from; a new one begins anew.
        coverage: Share of outcomes to be covered.
        step: In the unit of the scores.
        starts: Group to its first quantile.
    """

    def __init__(self, fit: str, coverage: float, step: float, starts: Mapping[str, float]) -> None:
        self.fit, self.coverage, self.step = fit, coverage, step
        self.groups = {name: Group(start) for name, start in starts.items()}
        self._slot = NO_SLOT

    @property
    def quantiles(self) -> dict[str, float]:
        """What was published last, by group."""
        return {name: group.published for name, group in self.groups.items()}

    def standing(self) -> list[dict[str, Any]]:
        """What was published last and the counts it follows from: ``AdaptiveQuantile`` records."""
        return [
            {
                "segment": name,
                "quantile": group.published,
                "known": group.published_known,
                "missed": group.published_missed,
            }
            for name, group in self.groups.items()
        ]

    def count(self, groups: Sequence[str], codes: NDArray[np.integer], known: Mask, missed: Mask) -> None:
        """First outcomes of predictions came.

        Args:
            groups: Names of groups.
            codes: Integers[n], each row's group as an index of these, -1 for none.
            known: bool[n], whether the row was issued with a quantile and has a score.
            missed: bool[n], whether that score exceeds it.
        """
        inside = known & (codes >= 0)
        size = len(groups)
        totals = np.bincount(codes[inside], minlength=size).tolist()
        misses = np.bincount(codes[inside & missed], minlength=size).tolist()
        for name, total, missing in zip(groups, totals, misses, strict=True):
            group = self.groups.get(name)
            if group is not None:
                group.known += total
                group.missed += missing

    def publish(self, slot: int) -> bool:
        """Publish where the groups stand, if the start slot is a later one; whether any quantile changed."""
        if slot <= self._slot:
            return False
        self._slot = slot
        before = self.quantiles
        for group in self.groups.values():
            group.published = tracker_quantile(group.start, self.step, self.coverage, group.known, group.missed)
            group.published_known, group.published_missed = group.known, group.missed
        return self.quantiles != before

    def forget_slot(self) -> None:
        """Start slots have another length now: they are numbered anew."""
        self._slot = NO_SLOT

    def to_fields(self) -> dict[str, Any]:
        """What the journal keeps."""
        return {
            "fit": self.fit,
            "coverage": self.coverage,
            "step": self.step,
            "slot": self._slot,
            "groups": [[name, *vars(group).values()] for name, group in self.groups.items()],
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Tracker:
        """Read :meth:`to_fields`."""
        tracker = cls(fields["fit"], fields["coverage"], fields["step"], {})
        tracker.groups = {name: Group(*values) for name, *values in fields["groups"]}
        tracker._slot = fields["slot"]
        return tracker


def fit_digest(fit: HumilityFit | None) -> str:
    """Names a fit, whatever the baseline that has it; empty for none."""
    return "" if fit is None else digest_of(fit.to_record())


def tracker_of(fit: HumilityFit | None, starts: Mapping[str, float]) -> Tracker:
    """The tracker that a fit asks for; one without groups where it has no coverage.

    ``starts``: group to first quantile, as the policy in force has them.
    """
    if fit is None or fit.coverage is None:
        return Tracker(fit_digest(fit), 0.0, 0.0, {})
    return Tracker(fit_digest(fit), fit.coverage, fit.step, starts)


class FactsHistory:
    """What decisions of one version were made with, as far back as its predictions wait.

    Attributes:
        entries: Oldest first.
        changed: Offsets of entries that the journal does not have as they are; those that are gone among them.
    """

    def __init__(self) -> None:
        self.entries: list[Facts] = []
        self.changed: set[int] = set()

    def at(self, offset: int) -> Facts | None:
        """What was known at a message; None if nobody remembers."""
        return next((entry for entry in reversed(self.entries) if entry.offset <= offset), None)

    def note(self, facts: Facts) -> None:
        """Facts hold from a message on, not earlier than those noted before."""
        if self.entries and replace(self.entries[-1], offset=facts.offset) == facts:
            return
        if self.entries and self.entries[-1].offset >= facts.offset:
            self.entries.pop()
        self.entries.append(facts)
        self.changed.add(facts.offset)

    def forget(self, before: int) -> None:
        """Forget what held only before a message."""
        while len(self.entries) > 1 and self.entries[1].offset <= before:
            self.changed.add(self.entries.pop(0).offset)

    def clear(self) -> None:
        """Remember nothing."""
        self.changed |= {entry.offset for entry in self.entries}
        self.entries = []

    def take_changes(self) -> dict[int, dict[str, Any] | None]:
        """The journal's records of entries that changed, None to delete; forgets them."""
        now = {entry.offset: entry for entry in self.entries}
        found = {at: None if (entry := now.get(at)) is None else entry.to_fields() for at in sorted(self.changed)}
        self.changed = set()
        return found

    def restore(self, offset: int, fields: Mapping[str, Any]) -> None:
        """Take an entry as it was written; in any order."""
        self.entries = sorted([*self.entries, Facts.from_fields(offset, fields)], key=lambda entry: entry.offset)
