"""How long outcomes take: the age buckets they are compared in, and which predictions still wait for theirs.

The age of an outcome is the time at which it was known less that of its prediction. Early outcomes are no fair sample:
a flight that is late is known to be late later than one that is on time, so that of all flights the share of the late
ones grows with age. Whatever is compared with the reference is therefore compared at equal age.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.baseline import LABELS_ROLE
from streams.derived import Derived
from streams.outcomes.cohorts import KNOWN, OPEN

Times = NDArray[np.int64]
Codes = NDArray[np.uint8]

MOST_BUCKETS = 6
LEAST_BUCKET_PAIRS = 300
"""An age bucket of fewer pairs says too little of what is usual at that age."""

FINAL_SHARE = 0.99
"""The final age is the one by which so many of the outcomes were known."""

MOST_LABEL_EDGES = 3
"""Of the age edges so many are ages at which it is asked whether outcomes have come; the final age is one more."""

LEAST_OPEN = 200
"""With fewer reference predictions that still wait, the share that gets its outcome next is not watched."""

CURVE_POINTS = 48

LABEL_CATEGORIES = ("known", "open")
"""In the order of ``KNOWN`` and ``OPEN``."""

_SECOND = 1_000_000
_MINUTE, _HOUR, _DAY = 60 * _SECOND, 3_600 * _SECOND, 86_400 * _SECOND
READABLE_STEPS_US = (
    *(30 * _DAY, 10 * _DAY, 5 * _DAY, _DAY, 12 * _HOUR, 6 * _HOUR, 3 * _HOUR, _HOUR, 30 * _MINUTE, 15 * _MINUTE),
    *(5 * _MINUTE, _MINUTE, 15 * _SECOND, 5 * _SECOND, _SECOND, 100_000, 10_000, 1_000, 100, 10, 1),
)
"""Ages that people read are multiples of one of these, microseconds."""

_READABLE_SHIFT = 0.2
_FINAL_EXCESS = 0.05


def age_edges(ages_us: Times) -> Times:
    """Inner edges int64[A - 1] of at most six age buckets, from the ages int64[n] of the reference's outcomes.

    The buckets have about equally many outcomes: an edge is the roundest age that changes them by at most a fifth.
    None has fewer than ``LEAST_BUCKET_PAIRS``, but for a single one. A bucket holds the ages up to its edge.
    """
    ordered = np.sort(ages_us)
    buckets = min(MOST_BUCKETS, len(ordered) // LEAST_BUCKET_PAIRS)
    edges: list[int] = []
    before = 0
    for k in range(1, buckets):
        quantile = int(ordered[-(-len(ordered) * k // buckets) - 1])
        edge = _readable(ordered, quantile, _READABLE_SHIFT * len(ordered) / buckets)
        upto = int(np.searchsorted(ordered, edge, "right"))
        if upto - before >= LEAST_BUCKET_PAIRS and len(ordered) - upto >= LEAST_BUCKET_PAIRS:
            edges.append(edge)
            before = upto
    return np.array(edges, np.int64)


def _readable(ordered: Times, age_us: int, most: float) -> int:
    """The roundest age that parts the outcomes as ``age_us`` does, but for so many of them at most."""
    upto = np.searchsorted(ordered, age_us, "right")
    for step in READABLE_STEPS_US:
        for edge in ((age_us + step // 2) // step * step, -(-age_us // step) * step):
            if abs(np.searchsorted(ordered, edge, "right") - upto) <= most:
                return int(edge)
    return age_us


def final_age(ages_us: Times, horizon_us: int) -> int:
    """The age by which 99 % of the outcomes were known, rounded up to a readable one, at most the horizon."""
    if not len(ages_us):
        return horizon_us
    age_us = int(np.quantile(ages_us, FINAL_SHARE, method="inverted_cdf"))
    step = next(step for step in READABLE_STEPS_US if step <= max(_FINAL_EXCESS * age_us, 1))
    return min(-(-age_us // step) * step, horizon_us)


def age_bucket(edges_us: Times, ages_us: Times) -> NDArray[np.int64]:
    """The age bucket of each age, int64[n]: ages up to an edge are below it."""
    return np.asarray(np.searchsorted(edges_us, ages_us, "left"), np.int64)


def age_text(age_us: int) -> str:
    """An age for people: ``2 h 30 min``, ``1 d``, ``250 ms``; at most two units, rounded to the smaller one."""
    units = (("d", _DAY), ("h", _HOUR), ("min", _MINUTE), ("s", _SECOND), ("ms", 1_000))
    at = next((i for i, (_, size) in enumerate(units) if age_us >= size), len(units) - 1)
    smallest = units[min(at + 1, len(units) - 1)][1]
    left, parts = round(age_us / smallest) * smallest, []
    for name, size in units:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts) or "0 ms"


@dataclass(frozen=True, eq=False, slots=True)
class LabelAges:
    """When it is asked whether outcomes have come, and the reference's delay curve.

    Attributes:
        ages_us: int64[J], ascending; at each, of the predictions that were open at the one before: is the outcome
            known?
        curve_ages_us: int64[P], ascending ages; the last is the horizon.
        curve_known: float64[P], the share of all predictions whose outcome was known by then.
    """

    ages_us: Times
    curve_ages_us: Times
    curve_known: NDArray[np.float64]

    def to_derived(self) -> Derived:
        """As it is stored in a baseline."""
        arrays = {
            "ages_us": self.ages_us.astype(np.float64),
            "curve_ages_us": self.curve_ages_us.astype(np.float64),
            "curve_known": self.curve_known,
        }
        return Derived(LABELS_ROLE, LABELS_ROLE, (), arrays)

    @classmethod
    def from_derived(cls, derived: Derived) -> LabelAges:
        """Read what a baseline stored."""
        arrays = derived.arrays
        return cls(arrays["ages_us"].astype(np.int64), arrays["curve_ages_us"].astype(np.int64), arrays["curve_known"])


def learn_label_ages(known_us: Times, edges_us: Times, final_us: int, horizon_us: int) -> LabelAges:
    """Choose the ages at which outcomes are waited for.

    Up to three age edges, the final age, and the horizon where outcomes enough come between the two; each only if
    there are predictions enough that were still open at the one before.

    Args:
        known_us: int64[n], per prediction of the reference the age at which its outcome was first known; beyond the
            horizon, or negative, where it never was.
        edges_us: The age edges.
        final_us: The final age.
        horizon_us: The horizon.
    """
    late = np.where((known_us < 0) | (known_us > horizon_us), np.iinfo(np.int64).max, known_us)
    inner = edges_us[edges_us < final_us]
    chosen = inner[np.unique(np.linspace(0, len(inner) - 1, min(MOST_LABEL_EDGES, len(inner))).round().astype(int))]
    candidates = [*chosen.tolist(), final_us]
    if int(((late > final_us) & (late <= horizon_us)).sum()) >= LEAST_BUCKET_PAIRS:
        candidates.append(horizon_us)
    ages: list[int] = []
    for age_us in candidates:
        if int((late > (ages[-1] if ages else -1)).sum()) < LEAST_OPEN:
            break
        ages.append(age_us)
    return LabelAges(np.array(ages, np.int64), *_curve(late, horizon_us))


def _curve(late: Times, horizon_us: int) -> tuple[Times, NDArray[np.float64]]:
    known = np.sort(late[late <= horizon_us])
    if not len(known):
        return np.array([horizon_us], np.int64), np.zeros(1)
    places = np.unique(np.linspace(0, len(known) - 1, CURVE_POINTS).round().astype(int))
    ages = np.unique([*known[places].tolist(), horizon_us])
    return ages, np.searchsorted(known, ages, "right") / len(late)


def label_codes(known_us: Times, ages_us: Times, j: int) -> tuple[NDArray[np.int64], Codes]:
    """The stream ``labels:(j + 1)`` of some predictions, in their order.

    Args:
        known_us: int64[n], the age at which each outcome was first known; negative where it is not known (yet).
        ages_us: int64[J], the ages at which it is asked.
        j: Which of them, from 0.

    Returns:
        The predictions that were open at the age before, int64[m], and per such prediction ``KNOWN`` or ``OPEN``,
        which are also the bins of the stream.
    """
    late = np.where(known_us < 0, np.iinfo(np.int64).max, known_us)
    waiting = np.arange(len(late)) if j == 0 else np.flatnonzero(late > ages_us[j - 1])
    return waiting, np.where(late[waiting] <= ages_us[j], KNOWN, OPEN).astype(np.uint8)
