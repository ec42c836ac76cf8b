"""Two baselines side by side: which streams differ, by how much, and what that is worth.

Streams whose bins are the same are compared bin by bin. Where the bins differ, both references are brought to the
finest bins that both know, and the comparison says that it is coarse:

- categories: those whose counts both know stand by themselves, the rest is one bin. The distance between the true
  distributions can only be larger.
- numbers: each reference knows how many of its values lie between its own edges. How many of the second's lie between
  those of the first, in which windows would count them, is interpolated along its distribution function (monotone
  cubics: Fritsch and Carlson, SIAM Journal on Numerical Analysis 17, 1980). ``at_least`` is what no spread inside the
  bins could explain: 1 - sum_u f_u, with f the largest flow of probability between bins of the two that overlap (bins
  in order make a staircase, in which going from left to right is optimal: Glover, "Maximum matching in a convex
  bipartite graph", Naval Research Logistics Quarterly 14, 1967).
- numbers with seasons: the same for each season, by their quantiles, and the mean of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.baseline import HUMILITY_ROLE, JOINT_ROLE, LABELS_ROLE, Baseline, BaselineStream
from streams.derived import EMBEDDING
from streams.statistics.conditional import ConditionalBins
from streams.statistics.distances import (
    baseline_of_used_bins,
    population_stability_index,
    total_variation,
    tv_lower_limit,
    tv_upper_limit,
)
from streams.statistics.layouts import (
    NUMERIC_MISSING,
    CategoricalBins,
    NumericBins,
    nominal_probabilities,
)
from streams.statistics.seasons import SeasonalBins

Floats = NDArray[np.float64]

CONFIDENCE_ERROR = 0.05
"""Limits are given at 95 %, each side at 97.5 %."""

EXACT, COARSE, INCOMPARABLE = "exact", "coarse", "not comparable"

_BY_AGE = "each reference is its own measure here, age by age: see what its outcomes show"
_MOST_NAMED = 1_000
_NARROWEST = 1e-9

_EDGE_PROBABILITIES = np.concatenate([[0.0], np.cumsum(nominal_probabilities()[1:-2])])


@dataclass(frozen=True, slots=True)
class Distance:
    """How far apart two references are in one stream.

    Attributes:
        total_variation: From 0 to 1, in the common bins: over all values it can only be larger.
        low: Lower 95 % confidence limit of the true one in these bins.
        high: Upper 95 % confidence limit.
        psi: Population stability index of the second against the first.
        at_least: The total variation that is certain for coarse bins of numbers; else that observed.
    """

    total_variation: float
    low: float
    high: float
    psi: float
    at_least: float


@dataclass(frozen=True, slots=True)
class StreamComparison:
    """One stream in two baselines; ``first`` or ``second`` is None where one does not have it.

    Attributes:
        label: Name and segment.
        role: What the stream is.
        first: The stream in the first baseline.
        second: In the second one.
        kind: ``exact``, ``coarse`` or ``not comparable``; empty where one of them does not have it.
        distance: None where they cannot be compared.
        new_categories: Known to the second only, at most a thousand.
        lost_categories: Known to the first only, at most a thousand.
        note: Why the comparison is not exact.
    """

    label: str
    role: str
    first: BaselineStream | None
    second: BaselineStream | None
    kind: str = ""
    distance: Distance | None = None
    new_categories: Sequence[str] = ()
    lost_categories: Sequence[str] = ()
    note: str = ""


def compare(first: Baseline, second: Baseline) -> list[StreamComparison]:
    """Every stream of two baselines, in the order of the second, then what only the first has."""
    before = {(stream.name, stream.segment): stream for stream in first.streams}
    after = {(stream.name, stream.segment): stream for stream in second.streams}
    found = [
        _compare(first, second, before[key], stream)
        if key in before
        else StreamComparison(stream.label, stream.role, None, stream)
        for key, stream in after.items()
    ]
    gone = [stream for key, stream in before.items() if key not in after]
    return found + [StreamComparison(stream.label, stream.role, stream, None) for stream in gone]


def typical_inflation(stream: BaselineStream) -> float:
    """How many events of the stream are worth an independent one: the inverse of its median tempering."""
    return float(1 / np.median(stream.tempering))


def _compare(first: Baseline, second: Baseline, a: BaselineStream, b: BaselineStream) -> StreamComparison:
    both = (b.label, b.role, a, b)
    if a.layout is not b.layout:
        return StreamComparison(*both, INCOMPARABLE, note=f"was {a.layout.name}, is {b.layout.name}")
    if _judged_by_age(a) or _judged_by_age(b):
        return StreamComparison(*both, INCOMPARABLE, note=_BY_AGE)
    if note := _computed_differently(first, second, a):
        return StreamComparison(*both, INCOMPARABLE, note=note)
    if isinstance(a.bins, CategoricalBins) and isinstance(b.bins, CategoricalBins):
        return _compare_categories(both, a, b, a.bins, b.bins)
    if a.bins == b.bins:
        distance = _distance(a, b, a.counts.astype(float), b.counts.astype(float))
        return StreamComparison(*both, EXACT, distance)
    if _season(a) != _season(b):
        note = f"seasons were {_season(a) or 'none'}, are {_season(b) or 'none'}"
        return StreamComparison(*both, INCOMPARABLE, note=note)
    if isinstance(a.bins, SeasonalBins) and isinstance(b.bins, SeasonalBins):
        distance = _seasonal_distance(a, b, a.bins, b.bins)
        return StreamComparison(*both, COARSE, distance, note="other edges: by the quantiles of each season")
    distance = _numeric_distance(a, b)
    return StreamComparison(*both, COARSE, distance, note="other edges: interpolated between them")


def _judged_by_age(stream: BaselineStream) -> bool:
    return isinstance(stream.bins, ConditionalBins) and not isinstance(stream.bins, SeasonalBins)


def _computed_differently(first: Baseline, second: Baseline, stream: BaselineStream) -> str:
    """Why a derived column is another quantity in the two; empty if it is the same."""

    def learnt(baseline: Baseline) -> dict[str, list[float]] | None:
        for derived in baseline.derived:
            if stream.name in derived.columns and derived.kind in (EMBEDDING, JOINT_ROLE):
                return {name: values.tolist() for name, values in derived.arrays.items()}
        return None

    if stream.role == HUMILITY_ROLE and _rules(first) != _rules(second):
        return "of other humility rules or guarantees"
    if stream.role == LABELS_ROLE and _label_ages(first) != _label_ages(second):
        return "asked for at other ages of the predictions"
    if learnt(first) != learnt(second):
        return "computed from what each reference taught: its values are not the same quantity"
    return ""


def _rules(baseline: Baseline) -> str:
    """Digest of the rules that were fitted; empty for none."""
    return "" if baseline.humility is None else baseline.humility.spec_digest


def _label_ages(baseline: Baseline) -> list[float] | None:
    found = next((d for d in baseline.derived if d.kind == LABELS_ROLE), None)
    return None if found is None else found.arrays["ages_us"].tolist()


def _season(stream: BaselineStream) -> str:
    return stream.bins.season if isinstance(stream.bins, SeasonalBins) else ""


def _distance(a: BaselineStream, b: BaselineStream, p: Floats, q: Floats, at_least: float | None = None) -> Distance:
    """From the masses float64[K] of both in common bins, which add up to their rows."""
    observed = max(float(total_variation(q, p / p.sum())), at_least or 0.0)
    psi = float(population_stability_index(q, baseline_of_used_bins(q, p)))
    n = 1 / (typical_inflation(a) / a.counts.sum() + typical_inflation(b) / b.counts.sum())
    bins = int(((p > 0) | (q > 0)).sum())
    low = float(tv_lower_limit(observed if at_least is None else at_least, n, bins, CONFIDENCE_ERROR / 2))
    high = float(tv_upper_limit(observed, n, CONFIDENCE_ERROR / 2))
    return Distance(observed, low, high, psi, observed if at_least is None else at_least)


def _compare_categories(
    both: tuple[str, str, BaselineStream, BaselineStream],
    a: BaselineStream,
    b: BaselineStream,
    cuts: CategoricalBins,
    others: CategoricalBins,
) -> StreamComparison:
    known, now_known = {*cuts.top, *cuts.known}, {*others.top, *others.known}
    counted, now_counted = dict(zip(cuts.top, a.counts, strict=False)), dict(zip(others.top, b.counts, strict=False))
    alone = [
        name
        for name in dict.fromkeys((*cuts.top, *others.top))
        if (name in counted or name not in known) and (name in now_counted or name not in now_known)
    ]
    p = np.array([counted.get(name, 0) for name in alone], float)
    q = np.array([now_counted.get(name, 0) for name in alone], float)
    missing = np.array([a.counts[-1], b.counts[-1]], float)
    p = np.append(p, [a.counts.sum() - p.sum() - missing[0], missing[0]])
    q = np.append(q, [b.counts.sum() - q.sum() - missing[1], missing[1]])
    together = (known | now_known) - set(alone)
    return StreamComparison(
        *both,
        COARSE if together else EXACT,
        _distance(a, b, p, q),
        new_categories=sorted(now_known - known)[:_MOST_NAMED],
        lost_categories=sorted(known - now_known)[:_MOST_NAMED],
        note=f"{len(together):,} rarer categories are one bin" if together else "",
    )


def _pieces(stream: BaselineStream) -> tuple[Floats, Floats]:
    """Edges float64[E] of a numeric stream and the reference's rows between them, float64[E - 1]."""
    assert isinstance(stream.bins, NumericBins)
    edges, remap = stream.bins.edges, stream.bins.remap
    inside = edges[1:] > edges[:-1]
    rows = np.where(inside, stream.counts[remap[1:-1]], 0).astype(float)
    return edges, rows


def _numeric_distance(a: BaselineStream, b: BaselineStream) -> Distance:
    (edges_a, rows_a), (edges_b, rows_b) = _pieces(a), _pieces(b)
    missing = np.array([[s.counts.sum() - rows.sum()] for s, rows in ((a, rows_a), (b, rows_b))])
    if not rows_a.sum() or not rows_b.sum():
        return _distance(a, b, np.append(rows_a.sum(), missing[0]), np.append(rows_b.sum(), missing[1]))
    p = np.concatenate([_between(edges_a, rows_a, edges_a), missing[0]])
    q = np.concatenate([_between(edges_b, rows_b, edges_a), missing[1]])
    certain = least_distance((edges_a, rows_a / a.counts.sum()), (edges_b, rows_b / b.counts.sum()))
    # values that are missing, or infinite, lie in a bin of their own in both
    certain = max(certain - float(min(missing[:, 0] / [a.counts.sum(), b.counts.sum()])), 0.0)
    return _distance(a, b, p, q, certain)


def _between(edges: Floats, rows: Floats, at: Floats) -> Floats:
    """Rows float64[E + 1] below, between and above the points float64[E], from those between a stream's own edges."""
    from scipy.interpolate import PchipInterpolator  # a tenth of a second that most commands can do without

    distinct, first, repeats = np.unique(edges, return_index=True, return_counts=True)
    last = first + repeats - 1
    below = np.concatenate([[0.0], np.cumsum(rows)])[last]
    # edges coincide where a value is frequent: of that value are at least the rows up to the last of these quantiles
    frequent = repeats > 1
    values = np.concatenate([distinct, np.nextafter(distinct[frequent], np.inf)])
    up_to = rows.sum() * _EDGE_PROBABILITIES[last[frequent]]
    below = np.concatenate([below, np.maximum(up_to, below[frequent])])
    values, kept = np.unique(values, return_index=True)
    below = np.maximum.accumulate(below[kept])
    if values[-1] - values[0] < np.finfo(float).tiny:
        return np.diff(np.where(at > values[0], rows.sum(), 0.0), prepend=0.0, append=rows.sum())
    inner = np.clip(at, values[0], values[-1])
    points, place = np.unique(np.concatenate([values, inner]), return_inverse=True)
    # numbers that are next to each other, as at the end of a range, would make infinite slopes: they are kept apart
    apart = _NARROWEST * np.arange(len(points))
    points = np.maximum.accumulate((points - points[0]) / (points[-1] - points[0]) - apart) + apart
    inside = PchipInterpolator(points[place[: len(values)]], below)(points[place[len(values) :]])
    return np.asarray(np.maximum(np.diff(inside, prepend=0.0, append=rows.sum()), 0.0))


def least_distance(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> float:
    """The least total variation that two distributions can have of which only the masses between edges are known.

    Each is given as edges float64[E], not decreasing, and masses float64[E - 1]; masses that add up to less than one
    leave the rest where the other has none.
    """
    (edges_a, mass_a), (edges_b, mass_b) = ((e, m.copy()) for e, m in (first, second))
    flow, i, j = 0.0, 0, 0
    while i < len(mass_a) and j < len(mass_b):
        overlap = max(edges_a[i], edges_b[j]) < min(edges_a[i + 1], edges_b[j + 1])
        if overlap:
            moved = min(mass_a[i], mass_b[j])
            mass_a[i] -= moved
            mass_b[j] -= moved
            flow += moved
        if edges_a[i + 1] <= edges_b[j + 1]:
            i += 1
        else:
            j += 1
    return float(max(0.0, 1.0 - flow))


def _seasonal_distance(a: BaselineStream, b: BaselineStream, cuts: SeasonalBins, others: SeasonalBins) -> Distance:
    """The mean over seasons of the distance between their quantiles."""
    mass = nominal_probabilities()[1:-2]
    rows = float(b.counts.sum()) / len(cuts.edges)
    found = []
    for edges_a, edges_b in zip(cuts.edges, others.edges, strict=True):
        held_a, held_b = _occupied(edges_a, mass), _occupied(edges_b, mass)
        p = rows * _between(edges_a, held_a, edges_a)
        q = rows * _between(edges_b, held_b, edges_a)
        least = least_distance((edges_a, held_a), (edges_b, held_b))
        psi = float(population_stability_index(q, baseline_of_used_bins(q, p)))
        found.append((0.5 * np.abs(p - q).sum() / rows, least, psi))
    observed, at_least, psi = np.mean(found, axis=0).tolist()
    n = 1 / (typical_inflation(a) / a.counts.sum() + typical_inflation(b) / b.counts.sum())
    missing = [float(stream.counts[NUMERIC_MISSING] / stream.counts.sum()) for stream in (a, b)]
    present, lost = 1 - max(missing), abs(missing[0] - missing[1])
    bins = len(mass) * len(found)
    return Distance(
        total_variation=present * observed + lost,
        low=float(tv_lower_limit(present * at_least, n, bins, CONFIDENCE_ERROR / 2)),
        high=float(tv_upper_limit(present * observed + lost, n, CONFIDENCE_ERROR / 2)),
        psi=psi,
        at_least=present * at_least,
    )


def _occupied(edges: Floats, mass: Floats) -> Floats:
    """Masses of bins of some width; one without width leaves its nominal mass to the next."""
    held = np.zeros(len(mass))
    waiting = 0.0
    for k, width in enumerate(np.diff(edges)):
        waiting += mass[k]
        if width > 0:
            held[k], waiting = waiting, 0.0
    return held
