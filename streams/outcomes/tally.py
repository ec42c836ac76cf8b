"""Counting: predictions, and predictions with their outcomes, are gathered and added to the sums of their windows.

Sums are exact (:mod:`streams.statistics.performance.sums`), so they are the same whenever rows are counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from driftline.events import Floats
from streams.baseline import Baseline
from streams.outcomes.decided import SERVED_PART
from streams.outcomes.frames import Frame, Rows
from streams.outcomes.rulebook import has_fired, is_served, served
from streams.outcomes.windows import ALL, PerformanceWindow
from streams.statistics.performance.pairs import MULTICLASS, Decisions, Pairs
from streams.statistics.performance.sums import Sums, count_pairs, count_predictions, take_group

GATHERED_ROWS = 8_192
"""So many rows are counted at once; fewer where somebody looks."""

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
WindowKey = tuple[int, int]
"""Number of the frame and start."""

SumsOf = Callable[[Integers, int], Sums]
"""The sums of rows in each of a number of groups, by each row's group, -1 for none."""

_Cut = tuple[Sequence[str], Integers, SumsOf]
"""Names of parts, each row's part as an index of them, -1 for none, and how the rows are summed up."""


class Tally:
    """The open windows of a join, and the rows that were gathered for them.

    Attributes:
        windows: The open ones.
        changed: Those to be written to the journal: None for those that are gone.
    """

    def __init__(self) -> None:
        self.windows: dict[WindowKey, PerformanceWindow] = {}
        self.changed: dict[WindowKey, PerformanceWindow | None] = {}
        self._calibration: dict[str, Floats] = {}
        self._gathered = 0
        self._predictions: dict[int, tuple[Frame, list[tuple[Rows, Floats | None]]]] = {}
        self._pairs: dict[tuple[int, int], tuple[Frame, list[Pairs]]] = {}  # by frame and sign

    def attach(self, baseline: Baseline) -> None:
        """Take what the journal does not hold from the baseline in force."""
        calibration = None if baseline.outcomes is None else baseline.outcomes.calibration
        if calibration is not None and calibration.size:
            self._calibration[baseline.model_version] = calibration

    def open(self, frame: Frame, times_us: Integers, offset: int, outcome_offset: int) -> bool:
        """Open the windows of predictions; whether any was not open."""
        any_new = False
        for start in frame.windows_of(times_us)[0].tolist():
            if (frame.number, start) not in self.windows:
                window = PerformanceWindow(frame, start, offset, outcome_offset)
                self.windows[frame.number, start] = self.changed[frame.number, start] = window
                any_new = True
        return any_new

    def is_open(self, frame: Frame, times_us: Integers) -> Mask:
        """Whether the window of each prediction is open, bool[n]."""
        starts, index = frame.windows_of(times_us)
        there = np.array([(frame.number, start) in self.windows for start in starts.tolist()], np.bool_)
        return np.asarray(there[index])

    def of(self, frame: Frame, times_us: Integers) -> list[tuple[PerformanceWindow, Mask | None]]:
        """The open windows of predictions, each with its rows, bool[n]; None for all."""
        if not times_us.size:
            return []
        starts, index = frame.windows_of(times_us)
        windows = [self.windows.get((frame.number, start)) for start in starts.tolist()]
        rows = [None if len(starts) == 1 else np.asarray(index == at) for at in range(len(starts))]
        return [(window, mask) for window, mask in zip(windows, rows, strict=True) if window is not None]

    def touch(self, window: PerformanceWindow) -> None:
        """A window is to be written to the journal."""
        self.changed[window.frame.number, window.start_us] = window

    def remove(self, key: WindowKey) -> None:
        """Forget a window."""
        self.changed[key] = None
        del self.windows[key]

    def add_predictions(self, frame: Frame, rows: Rows, expected: Floats | None) -> None:
        """Gather predictions, with the loss that is expected of each, float64[n, 2], or None."""
        self._predictions.setdefault(frame.number, (frame, []))[1].append((rows, expected))
        self._gather(len(rows))

    def add_pairs(self, frame: Frame, pairs: Pairs, *, sign: int = 1) -> None:
        """Gather predictions with their outcomes, or take them away."""
        self._pairs.setdefault((frame.number, sign), (frame, []))[1].append(pairs)
        self._gather(pairs.rows)

    def _gather(self, rows: int) -> None:
        self._gathered += rows
        if self._gathered >= GATHERED_ROWS:
            self.count()

    def count(self) -> None:
        """Count the rows that were gathered."""
        for frame, pieces in self._predictions.values():
            rows = np.concatenate([each for each, _ in pieces])
            predicted, decisions = frame.predicted(rows), frame.decisions(rows)
            sums_of = functools.partial(
                count_predictions,
                frame.layout,
                predicted,
                calibration=_by_class(frame, self._calibration.get(frame.model_version)),
                expected=_expected([(len(each), loss) for each, loss in pieces]),
            )
            cuts = _cuts(frame, frame.parts(rows), sums_of)
            if decisions is not None:
                answers = served(frame.layout, predicted, decisions)
                cuts += _decided_cuts(
                    frame, decisions, sums_of, functools.partial(count_predictions, frame.layout, answers)
                )
            self._count(frame, rows["time_us"], cuts, sums_of, 1)
        for (_, sign), (frame, parts) in self._pairs.items():
            pairs = _joined(parts)
            sums_of = functools.partial(count_pairs, frame.layout, pairs)
            cuts = _cuts(frame, pairs.parts, sums_of)
            if pairs.decisions is not None:
                answers = served(frame.layout, pairs.predicted, pairs.decisions)
                instead = replace(pairs, predicted=answers, decisions=None)
                cuts += _decided_cuts(
                    frame, pairs.decisions, sums_of, functools.partial(count_pairs, frame.layout, instead)
                )
            sizes = self._count(frame, pairs.times_us, cuts, sums_of, sign)
            for window, size in sizes:
                window.pairs += sign * size
        self._predictions, self._pairs, self._gathered = {}, {}, 0

    def _count(
        self,
        frame: Frame,
        times_us: Integers,
        cuts: Iterable[_Cut],
        sums_of: SumsOf,
        sign: int,
    ) -> list[tuple[PerformanceWindow, int]]:
        """Add to the windows; each with its number of rows."""
        starts, index = frame.windows_of(times_us)
        windows = [self.windows[frame.number, start] for start in starts.tolist()]
        whole = sums_of(index, len(windows))
        for at, window in enumerate(windows):
            window.add(ALL, take_group(whole, at), sign=sign)
            self.touch(window)
        for names, codes, part_sums in cuts:
            inside = codes >= 0
            if not inside.any():
                continue
            used, group = np.unique(index[inside] * len(names) + codes[inside], return_inverse=True)
            of_row = np.full(len(codes), -1, np.int64)
            of_row[inside] = group
            found = part_sums(of_row, len(used))
            for at, cell in enumerate(used.tolist()):
                window_at, part = divmod(cell, len(names))
                windows[window_at].add(names[part], take_group(found, at), sign=sign)
        return list(zip(windows, np.bincount(index, minlength=len(windows)).tolist(), strict=True))


def _cuts(frame: Frame, parts: Mapping[str, Integers], sums_of: SumsOf) -> list[_Cut]:
    """Rows by the parts of the segmentations."""
    return [(segment.parts, parts[segment.name], sums_of) for segment in frame.segments]


def _decided_cuts(frame: Frame, decisions: Decisions, sums_of: SumsOf, served_sums_of: SumsOf) -> list[_Cut]:
    """Rows by what was decided of them, and by the rules that fired; what was served instead in its own sums."""
    if not frame.decision_parts:
        return []
    codes = decisions.actions.astype(np.int64)
    codes[codes >= len(frame.decision_parts)] = -1
    found: list[_Cut] = [
        (frame.decision_parts, codes, sums_of),
        ((SERVED_PART,), np.where(is_served(decisions), 0, -1), served_sums_of),
    ]
    fired = int(np.bitwise_or.reduce(decisions.fired, initial=np.uint64(0)))
    for rule, part in frame.rule_parts:
        if fired >> rule & 1:
            found.append(((part,), np.where(has_fired(decisions, rule), 0, -1), sums_of))
    return found


def _by_class(frame: Frame, calibration: Floats | None) -> Floats | None:
    """The calibration of each class, float64[C, B]; None for other tasks."""
    if calibration is None or frame.layout.task != MULTICLASS:
        return None
    return calibration.reshape(len(frame.layout.classes), -1)


def _expected(pieces: Iterable[tuple[int, Floats | None]]) -> Floats | None:
    found = list(pieces)
    if all(loss is None for _, loss in found):
        return None
    return np.concatenate([np.full((rows, 2), np.nan) if loss is None else loss for rows, loss in found])


def _joined(pieces: Sequence[Pairs]) -> Pairs:
    """Several pairs as one."""
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    return replace(
        first,
        predicted=replace(
            first.predicted,
            scores=np.concatenate([p.predicted.scores for p in pieces]),
            labels=np.concatenate([p.predicted.labels for p in pieces]),
        ),
        actual=np.concatenate([p.actual for p in pieces]),
        times_us=np.concatenate([p.times_us for p in pieces]),
        ages_us=np.concatenate([p.ages_us for p in pieces]),
        weights=np.concatenate([p.weights for p in pieces]),
        acted=np.concatenate([p.acted for p in pieces]),
        jitter=np.concatenate([p.jitter for p in pieces]),
        parts={name: np.concatenate([p.parts[name] for p in pieces]) for name in first.parts},
        decisions=Decisions.joined([p.decisions for p in pieces if p.decisions is not None])
        if first.decisions is not None
        else None,
    )
