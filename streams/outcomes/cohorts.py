"""Cohorts: how many predictions of a start slot have their outcome at which age.

Of the predictions of a slot whose outcome was not known at one age, how many are known at the next? That share does
not depend on how many predictions there are or on what the outcomes say, and it is looked at as soon as the slot is
old enough: where outcomes stop coming, the first age tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streams.statistics.layouts import CATEGORICAL

Integers = NDArray[np.int64]

KNOWN, OPEN = 0, 1
"""Bins of the streams ``labels:1`` … ``labels:J``."""


class Cohorts:
    """The cohorts of one version.

    Args:
        ages_us: The ages a_1 < … < a_J at which is looked.
    """

    def __init__(self, ages_us: Sequence[int] = ()) -> None:
        self.ages_us = [int(age) for age in ages_us]
        self._slots: dict[int, list[int]] = {}  # end of the slot: stage, predictions, known by a_1, by a_2 …

    def add_predictions(self, times_us: Integers, slot_us: int) -> bool:
        """Predictions began to wait, at event times int64[n]. Those of a slot that was looked at are left out.

        Returns:
            Whether a slot is new.
        """
        if not self.ages_us:
            return False
        before = len(self._slots)
        slots, sizes = np.unique(times_us // slot_us, return_counts=True)
        for slot, size in zip(slots.tolist(), sizes.tolist(), strict=True):
            cohort = self._slots.setdefault((slot + 1) * slot_us, [0, 0] + [0] * len(self.ages_us))
            if cohort[0] == 0:
                cohort[1] += size
        return len(self._slots) > before

    def add_outcomes(self, times_us: Integers, ages_us: Integers, slot_us: int) -> None:
        """The first outcomes of predictions came: event times of the predictions and ages, int64[n]."""
        if not self.ages_us or not times_us.size:
            return
        stage = np.searchsorted(np.array(self.ages_us, np.int64), ages_us, "left")
        wide = len(self.ages_us) + 1
        slots, inverse = np.unique(times_us // slot_us, return_inverse=True)
        counts = np.bincount(inverse * wide + stage, minlength=len(slots) * wide).reshape(len(slots), wide)
        for slot, known in zip(slots.tolist(), counts.tolist(), strict=True):
            cohort = self._slots.get((slot + 1) * slot_us)
            if cohort is not None:
                for at, number in enumerate(known[:-1]):
                    cohort[2 + at] += number

    def next_us(self) -> int | None:
        """When there is something to look at; None for never."""
        return min((end + self.ages_us[cohort[0]] for end, cohort in self._slots.items()), default=None)

    def look(self, known_us: int) -> Integers | None:
        """Counts int64[J, 23] of every cohort that has reached its next age; None if none has."""
        found = None
        for end in sorted(self._slots):
            cohort = self._slots[end]
            while cohort[0] < len(self.ages_us) and end + self.ages_us[cohort[0]] <= known_us:
                if found is None:
                    found = np.zeros((len(self.ages_us), CATEGORICAL.size), np.int64)
                stage = cohort[0]
                before = sum(cohort[2 : 2 + stage])
                known = cohort[2 + stage]
                found[stage, KNOWN] += known
                found[stage, OPEN] += max(cohort[1] - before - known, 0)
                cohort[0] += 1
            if cohort[0] == len(self.ages_us):
                del self._slots[end]
        return found

    def clear(self) -> None:
        """Forget everything: slots have another length now."""
        self._slots.clear()

    def to_array(self) -> Integers:
        """Everything as int64[m, 3 + J]."""
        rows = [[end, *cohort] for end, cohort in sorted(self._slots.items())]
        return np.array(rows, np.int64).reshape(len(rows), 3 + len(self.ages_us))

    def restore(self, rows: Integers) -> None:
        """Read :meth:`to_array`."""
        self._slots = {end: cohort for end, *cohort in rows.tolist() if len(cohort) == 2 + len(self.ages_us)}


def cohort_ages(derived: Mapping[str, NDArray[np.float64]] | None) -> list[int]:
    """The ages that a baseline's record of kind ``labels`` names, microseconds."""
    return [] if derived is None else [int(age) for age in derived["ages_us"]]
