"""The join: predictions wait for their outcomes, which come late, twice, corrected, too early, or never.

One :class:`Join` per deployment and partition. Its state is the performance windows, the cohorts and a few clocks, kept
in the journal; which predictions wait, and what is known of them, lies in the store, an index of the two topics that is
built again from them where it is lost (:meth:`Join.recover_predictions`, :meth:`Join.recover_outcomes`).

The rules, none of which depends on the order in which messages come:

1. An outcome counts if it became known from its prediction's event time on and within the horizon.
2. Of several outcomes of one prediction the one that became known last is in force; of equally late ones the larger.
3. An outcome whose prediction has not come waits for it until what became known at its time is final.
4. A window is final when ``end + horizon + lateness`` is over: by the deployment's event time, and by the outcomes that
   were read. The latter is told by the largest time at which one became known, or by the worker, which knows when it
   has read everything that was published. A deployment that is being fed history is told by outcomes alone, and a
   horizon later, because files are sorted in many ways.

Sums are exact (:mod:`streams.statistics.performance.sums`), so rows are gathered and counted many at a time.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.events import UNKNOWN_ACTED_ON, CategoricalColumn, Floats, OutcomeColumns, PredictionColumns
from streams.baseline import Baseline
from streams.outcomes.cohorts import Cohorts, cohort_ages
from streams.outcomes.frames import EARLY_ROW, OUTCOME_ROW, Frame, Rows, frame_of, take_outcomes
from streams.outcomes.reading import Keys, id_keys, read_actual
from streams.outcomes.store import PendingStore, PendingTable
from streams.outcomes.windows import ALL, PerformanceWindow
from streams.specification import DeploymentSpec
from streams.statistics.performance.pairs import MULTICLASS, Pairs
from streams.statistics.performance.sums import Sums, count_pairs, count_predictions, take_group

GATHERED_ROWS = 8_192
"""So many rows are counted at once; fewer where somebody looks."""

FIRST_LOOK_PAIRS = 64
"""Whether a summary is due is looked at every so many outcomes, and every quarter of those there were: at most every
``GATHERED_ROWS``."""

MOST_LABELS = 10_000
"""Distinct classes of outcomes that wait for their prediction."""

LABELS_KIND = "labels"
"""Kind of the baseline's record that names the ages of :mod:`streams.outcomes.cohorts`."""

COUNTERS = (
    "joined_outcomes",
    "corrected_outcomes",
    "superseded_outcomes",
    "unknown_outcomes",
    "late_outcomes",
    "refused_outcomes",
    "late_predictions",
)

_FOREVER = 1 << 62

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows of a message of the outcomes topic that could not be used, and why."""

    reason: str
    error: str
    rows: Sequence[int]


@dataclass(frozen=True, eq=False)
class Matched:
    """Outcomes that found their prediction, n rows.

    Attributes:
        frame: Where the predictions waited.
        rows: The predictions.
        outcomes: What is known of them now.
        before: bool[n], whether something was known before; then it was ``earlier``.
        earlier: What was known before.
        arrival: int64[n], row of the message.
    """

    frame: Frame
    rows: Rows
    outcomes: Rows
    before: Mask
    earlier: Rows
    arrival: Integers


@dataclass(eq=False)
class Due:
    """What has come due as time went on.

    Attributes:
        windows: Windows to be written, and whether they are final.
        labels: Per version what cohorts showed, int64[J, 23].
        unknown: Outcomes whose prediction never came: offset in the outcomes topic to rows.
    """

    windows: list[tuple[PerformanceWindow, bool]] = field(default_factory=list)
    labels: dict[str, Integers] = field(default_factory=dict)
    unknown: dict[int, list[int]] = field(default_factory=dict)


class Join:
    """The predictions of one deployment that wait on one partition.

    Args:
        deployment_id: The deployment.
        store: Where they wait.
        created: The position in the predictions topic when it was made: tells it from an earlier one of that name.

    ``changed`` names the windows to be written to the journal: None for those that are gone.
    """

    def __init__(self, deployment_id: str, store: PendingStore, created: int) -> None:
        self.deployment_id, self._created = deployment_id, created
        self._store = store
        self.frames: dict[int, Frame] = {}
        self.current: dict[str, int] = {}
        self._frames_so_far = 0
        self.windows: dict[tuple[int, int], PerformanceWindow] = {}
        self.cohorts: dict[str, Cohorts] = {}
        self._labels: dict[str, int] = {}
        self.outcome_clock_us = self.read_clock_us = self.known_us = 0
        self.early = 0
        self._early_offset = 0
        self._early_next_us = _FOREVER
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.changed: dict[tuple[int, int], PerformanceWindow | None] = {}
        self._gathered = 0
        self._next_look = FIRST_LOOK_PAIRS
        self._due_us: int | None = None
        self._calibration: dict[str, Floats] = {}
        self._fresh: dict[int, list[tuple[Rows, Floats | None]]] = {}
        self._pairs: dict[tuple[int, int], list[Pairs]] = {}  # by frame and sign

    def begin(self, spec: DeploymentSpec, baseline: Baseline, offset: int) -> None:
        """A specification or baseline of a version comes into force before a message of the predictions topic."""
        version = baseline.model_version
        frame = frame_of(spec, baseline, self._frames_so_far + 1, offset)
        if frame is None:
            return
        self.count()
        self.attach(baseline)
        known = self.frames.get(self.current.get(version, 0))
        if known is None or not known.same_as(frame):
            self._frames_so_far += 1
            self.frames[frame.number] = frame
            self.current[version] = frame.number
            if known is not None:
                self._drop_if_empty(known.number)
        arrays = next((d.arrays for d in baseline.derived if d.kind == LABELS_KIND), None)
        ages = cohort_ages(arrays)
        cohorts = self.cohorts.get(version)
        if cohorts is None or cohorts.ages_us != ages:
            self.cohorts[version] = Cohorts(ages)

    def attach(self, baseline: Baseline) -> None:
        """Take what the journal does not hold from the baseline in force."""
        calibration = None if baseline.outcomes is None else baseline.outcomes.calibration
        if calibration is not None and calibration.size:
            self._calibration[baseline.model_version] = calibration

    def forget_cohorts(self) -> None:
        """Start slots have another length now."""
        for cohorts in self.cohorts.values():
            cohorts.clear()

    def new_to_it(self, keys: Keys) -> Mask | None:
        """Which predictions do not wait already, bool[n]; None if none does."""
        new = None
        for number in self.frames:
            found, _ = self._rows(number).get(keys[:, 0], keys[:, 1])
            if found.any():
                new = ~found if new is None else new & ~found
        return new

    def add_predictions(
        self,
        spec: DeploymentSpec,
        columns: PredictionColumns,
        keys: Keys,
        counted: Mask | None,
        expected: Floats | None,
        offset: int,
        outcome_offset: int,
    ) -> list[tuple[Frame, Pairs]]:
        """Predictions begin to wait.

        Args:
            spec: The specification in force.
            columns: Their batch.
            keys: uint64[n, 2], keys of the rows that count.
            counted: bool[batch], which rows those are; None for all.
            expected: float64[batch, 2], the loss that is expected of each row; None where there is no such model.
            offset: Their message.
            outcome_offset: The position in the outcomes topic.

        Returns:
            Predictions whose outcome had come before them.
        """
        frame = self.frames[self.current[columns.model_version]]
        rows = frame.read_rows(columns, keys, counted)
        if expected is not None and counted is not None:
            expected = expected[counted]
        starts = frame.window_start_us(rows["time_us"])
        open_ = starts + (frame.window_ms + self._final_after_ms(spec)) * 1000 > self.known_us
        if not open_.all():
            self.counters["late_predictions"] += int((~open_).sum())
            rows, keys, starts = rows[open_], keys[open_], starts[open_]
            expected = None if expected is None else expected[open_]
        if not len(rows):
            return []
        self._rows(frame.number).put(rows)
        for start in np.unique(starts).tolist():
            if (frame.number, start) not in self.windows:
                window = PerformanceWindow(frame, start, offset, outcome_offset)
                self.windows[frame.number, start] = self.changed[frame.number, start] = window
                self._due_us = None
        self._fresh.setdefault(frame.number, []).append((rows, expected))
        self._gather(len(rows))
        if self.cohorts[frame.model_version].add_predictions(rows["time_us"], spec.start_slot_ms * 1000):
            self._due_us = None
        return self._meet_early(spec, frame, rows) if self.early else []

    def add_outcomes(
        self, spec: DeploymentSpec, columns: OutcomeColumns, usable: Mask | None, offset: int
    ) -> tuple[list[tuple[Frame, Pairs]], list[Refusal]]:
        """Outcomes came.

        Args:
            spec: The specification in force.
            columns: Their batch, n rows.
            usable: bool[n], rows whose time can be believed; None for all.
            offset: Their message.

        Returns:
            The predictions whose first outcome is among them, in order of arrival; and what could not be used.
        """
        known_us = columns.actual_timestamps_us if usable is None else columns.actual_timestamps_us[usable]
        if not known_us.size:
            return [], []
        self.outcome_clock_us = max(self.outcome_clock_us, int(known_us.max()))
        matched, refusals, unmatched = self._match(spec, columns, usable)
        joined = [(each.frame, pairs) for each in matched if (pairs := self._account(spec, each)) is not None]
        if unmatched.size:
            refusals += self._wait_early(spec, columns, unmatched, offset)
        self.counters["refused_outcomes"] += sum(len(r.rows) for r in refusals if r.reason != "late_outcome")
        return joined, refusals

    def _match(
        self, spec: DeploymentSpec, columns: OutcomeColumns, usable: Mask | None
    ) -> tuple[list[Matched], list[Refusal], Integers]:
        """Find the predictions of a batch; the store knows what is in force then."""
        keys = id_keys(columns.prediction_ids)
        left = np.arange(columns.rows) if usable is None else np.flatnonzero(usable)
        matched: list[Matched] = []
        refusals: list[Refusal] = []
        for number in sorted(self.frames, reverse=True):
            if not left.size:
                break
            found, rows = self._rows(number).get(keys[left, 0], keys[left, 1])
            if found.any():
                here, why = self._match_in(spec, self.frames[number], columns, left[found], rows[found])
                refusals += why
                if here is not None:
                    matched.append(here)
                left = left[~found]
        return matched, refusals, left

    def _match_in(
        self, spec: DeploymentSpec, frame: Frame, columns: OutcomeColumns, at: Integers, rows: Rows
    ) -> tuple[Matched | None, list[Refusal]]:
        """Outcomes of rows of one frame: those that can be used, and are the latest known of their prediction."""
        columns = take_outcomes(columns, at)
        refusals = []
        actual = read_actual(frame.layout, columns)
        good = np.ones(len(at), np.bool_)
        if actual.refusals:
            first, why = next(iter(actual.refusals.items()))
            bad = list(actual.refusals)
            good[bad] = False
            text = f"{len(bad)} outcomes cannot be used: row {int(at[first])} of the message: {why}"
            refusals.append(Refusal("outcome_value", text, at[bad].tolist()))
        times, known = rows["time_us"], columns.actual_timestamps_us
        assert spec.outcomes is not None
        in_time = (known >= times - spec.clock_skew_ms * 1000) & (known <= times + spec.outcomes.horizon_ms * 1000)
        if not in_time.all():
            refusals += [_outside(spec, at, times, known, good & ~in_time)] if (good & ~in_time).any() else []
            good &= in_time
        late = good & ~self._is_open(frame, times)
        if late.any():
            self.counters["late_outcomes"] += int(late.sum())
            text = (
                f"{int(late.sum())} outcomes came after their window was final: they became known in time and were "
                "published later than the specification's outcomes.lateness allows"
            )
            refusals.append(Refusal("late_outcome", text, at[late].tolist()))
            good &= ~late
        if not good.any():
            return None, refusals
        outcomes = np.zeros(len(at), OUTCOME_ROW)
        for name in ("key", "check", "time_us"):
            outcomes[name] = rows[name]
        outcomes["known_us"], outcomes["value"] = np.maximum(known, times), actual.values
        outcomes["weight"], outcomes["acted"] = _weights(columns), _acted(columns)
        return self._put_in_force(frame, rows[good], outcomes[good], at[good]), refusals

    def _put_in_force(self, frame: Frame, rows: Rows, outcomes: Rows, arrival: Integers) -> Matched | None:
        """Of several outcomes of one prediction, here or before, the latest known is in force."""
        rank = frame.class_order[outcomes["value"].astype(np.int64)] if frame.layout.classes else outcomes["value"]
        chosen = _latest(outcomes, outcomes["known_us"], rank)
        self._supersede(frame, rows, np.setdiff1d(np.arange(len(rows)), chosen))
        rows, outcomes, arrival, rank = rows[chosen], outcomes[chosen], arrival[chosen], rank[chosen]
        table = self._outcomes(frame.number)
        before, earlier = table.get(outcomes["key"], outcomes["check"])
        if before.any():
            past = frame.class_order[earlier["value"].astype(np.int64)] if frame.layout.classes else earlier["value"]
            newer = (outcomes["known_us"] > earlier["known_us"]) | (
                (outcomes["known_us"] == earlier["known_us"]) & (rank > past)
            )
            keep = ~before | newer
            self._supersede(frame, rows, np.flatnonzero(~keep))
            rows, outcomes, arrival = rows[keep], outcomes[keep], arrival[keep]
            before, earlier = before[keep], earlier[keep]
        if not len(rows):
            return None
        table.put(outcomes)
        return Matched(frame, rows, outcomes, before, earlier, arrival)

    def _supersede(self, frame: Frame, rows: Rows, which: NDArray[np.intp]) -> None:
        self.counters["superseded_outcomes"] += len(which)
        starts, sizes = np.unique(frame.window_start_us(rows["time_us"][which]), return_counts=True)
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            window = self.windows.get((frame.number, start))
            if window is not None:
                window.superseded += size
                self.changed[frame.number, start] = window

    def _account(self, spec: DeploymentSpec, matched: Matched) -> Pairs | None:
        """Count what was matched; the pairs that are new, in order of arrival."""
        frame, first = matched.frame, ~matched.before
        pairs = frame.pairs(matched.rows, matched.outcomes)
        self._pairs.setdefault((frame.number, 1), []).append(pairs)
        self._gather(pairs.rows)
        again = int(matched.before.sum())
        if again:
            old = frame.pairs(matched.rows[matched.before], matched.earlier[matched.before])
            self._pairs.setdefault((frame.number, -1), []).append(old)
            self.counters["corrected_outcomes"] += again
            for start in frame.window_start_us(old.times_us).tolist():
                self.windows[frame.number, start].corrections += 1
        new = pairs.rows - again
        self.counters["joined_outcomes"] += new
        if not new:
            return None
        self.cohorts[frame.model_version].add_outcomes(
            pairs.times_us[first], pairs.ages_us[first], spec.start_slot_ms * 1000
        )
        order = np.argsort(matched.arrival[first], kind="stable")
        return pairs.take(np.flatnonzero(first)[order])

    def _wait_early(self, spec: DeploymentSpec, columns: OutcomeColumns, at: Integers, offset: int) -> list[Refusal]:
        """Outcomes whose prediction has not come, or not within what is remembered."""
        final_after_us = self._final_after_ms(spec) * 1000
        expired = columns.actual_timestamps_us[at] + final_after_us <= self.known_us
        refusals = []
        if expired.any():
            self.counters["unknown_outcomes"] += int(expired.sum())
            text = (
                f"{int(expired.sum())} outcomes of predictions that are not known, or are known no more: no prediction "
                f"waits longer than outcomes.horizon and outcomes.lateness; the first is row {int(at[expired][0])}"
            )
            refusals.append(Refusal("unknown_prediction", text, at[expired].tolist()))
            at = at[~expired]
        if not at.size:
            return refusals
        rows = self._early_rows(columns, at, offset)
        table = self._early()
        there, known = table.get(rows["key"], rows["check"])
        there &= known["gone"] == 0
        newer = ~there | (rows["time_us"] > known["time_us"])
        for row in np.flatnonzero(there & (rows["time_us"] == known["time_us"])).tolist():
            newer[row] = self._said(rows[row]) > self._said(known[row])
        rank = np.unique([self._said(row) for row in rows[newer]], axis=0, return_inverse=True)[1].ravel()
        chosen = _latest(rows[newer], rows["time_us"][newer], rank)
        rows, there = rows[newer][chosen], there[newer][chosen]
        self.counters["superseded_outcomes"] += len(at) - len(rows)
        if not len(rows):
            return refusals
        if not self.early:
            self._early_offset = offset
        self.early += int((~there).sum())
        self._early_next_us = min(self._early_next_us, int(rows["time_us"].min()) + final_after_us)
        self._due_us = None
        table.put(rows)
        return refusals

    def _said(self, row: Any) -> tuple[str, float]:
        """What an outcome says, in the order in which two known at once are told apart."""
        names = list(self._labels)
        label, value = int(row["label"]), float(row["value"])
        return (names[label] if label >= 0 else "", value if value == value else -np.inf)

    def _early_rows(self, columns: OutcomeColumns, at: Integers, offset: int) -> Rows:
        part = take_outcomes(columns, at)
        keys = id_keys(part.prediction_ids)
        rows = np.zeros(len(at), EARLY_ROW)
        rows["key"], rows["check"], rows["time_us"] = keys[:, 0], keys[:, 1], part.actual_timestamps_us
        rows["value"] = np.nan if part.actual_value is None else part.actual_value
        rows["weight"], rows["acted"] = _weights(part), _acted(part)
        rows["offset"], rows["row"], rows["label"] = offset, at, -1
        if part.actual_label is not None:
            used = np.unique(part.actual_label.codes)
            for code in used[used >= 0].tolist():
                text = part.actual_label.categories[code]
                known = self._labels.get(text)
                if known is None and len(self._labels) < MOST_LABELS:
                    known = self._labels[text] = len(self._labels)
                rows["label"][part.actual_label.codes == code] = -2 if known is None else known
        return rows

    def _meet_early(self, spec: DeploymentSpec, frame: Frame, rows: Rows) -> list[tuple[Frame, Pairs]]:
        """Give predictions that have just come the outcomes that waited for them."""
        table = self._early()
        found, early = table.get(rows["key"], rows["check"])
        found &= early["gone"] == 0
        if not found.any():
            return []
        rows, early = rows[found], early[found]
        gone = early.copy()
        gone["gone"] = 1
        table.put(gone)
        self.early -= len(early)
        if not self.early:
            self._early_next_us = _FOREVER
        first_us = frame.window_start_us(rows["time_us"])
        for start, offset in zip(first_us.tolist(), early["offset"].tolist(), strict=True):
            window = self.windows[frame.number, start]
            window.first_outcome = min(window.first_outcome, offset)
        names = list(self._labels)
        label = CategoricalColumn(names, np.maximum(early["label"], -1).astype(np.int32))
        columns = OutcomeColumns(
            self.deployment_id,
            [""] * len(early),
            early["time_us"].copy(),
            early["value"].copy(),
            label if names else None,
            early["acted"].copy(),
            1.0 / early["weight"],
        )
        matched, refusals = self._match_in(spec, frame, columns, np.arange(len(early)), rows)
        self.counters["refused_outcomes"] += sum(len(r.rows) for r in refusals if r.reason != "late_outcome")
        if matched is None:
            return []
        pairs = self._account(spec, matched)
        return [] if pairs is None else [(frame, pairs)]

    def next_us(self, spec: DeploymentSpec) -> int:
        """When something comes due next."""
        if self._due_us is None:
            self._due_us = self._find_due_us(spec)
        return self._due_us

    def _find_due_us(self, spec: DeploymentSpec) -> int:
        final_after_us = self._final_after_ms(spec) * 1000
        times = [window.end_us + final_after_us for window in self.windows.values()]
        times += [window.next_us for window in self.windows.values() if window.next_us is not None]
        times += [time for cohorts in self.cohorts.values() if (time := cohorts.next_us()) is not None]
        return min([*times, self._early_next_us])

    def awaits_reading(self, spec: DeploymentSpec, clock_us: int) -> bool:
        """Whether something is due by event time, and it must be known that all published outcomes were read."""
        return self.known_us < clock_us and self.next_us(spec) <= clock_us

    def pass_time(self, spec: DeploymentSpec, clock_us: int, *, live: bool, read: bool = False) -> Due | None:
        """Go on to what is known by now; None if nothing is due.

        Args:
            spec: The specification in force.
            clock_us: The deployment's clock.
            live: Whether it is no deployment that is being fed history.
            read: Whether all outcomes that were published have been read.
        """
        if read:
            self.read_clock_us = max(self.read_clock_us, clock_us)
        assert spec.outcomes is not None
        told_us = self.outcome_clock_us - (0 if live else spec.outcomes.horizon_ms * 1000)
        known_us = min(clock_us, max(told_us, self.read_clock_us))
        by_pairs = self.counters["joined_outcomes"] >= self._next_look
        if known_us <= self.known_us and not by_pairs:
            return None
        self.known_us = max(known_us, self.known_us)
        if not by_pairs and self.next_us(spec) > self.known_us:
            return None
        return self._collect(spec)

    def _collect(self, spec: DeploymentSpec) -> Due:
        self.count()
        joined = self.counters["joined_outcomes"]
        self._next_look = joined + min(max(FIRST_LOOK_PAIRS, joined // 4), GATHERED_ROWS)
        self._due_us = None
        final_after_us = self._final_after_ms(spec) * 1000
        due = Due()
        for key in sorted(self.windows, key=lambda at: (at[1], at[0])):
            window = self.windows[key]
            final = window.end_us + final_after_us <= self.known_us
            if final or window.due(self.known_us):
                window.revision += 1
                due.windows.append((window, final))
                self.changed[key] = None if final else window
            if final:
                self._close(key)
        for version, cohorts in self.cohorts.items():
            counts = cohorts.look(self.known_us)
            if counts is not None:
                due.labels[version] = counts
        if self._early_next_us <= self.known_us:
            due.unknown = self._expire_early(final_after_us)
        return due

    def close_all(self) -> list[PerformanceWindow]:
        """Close every window: nothing is expected any more."""
        self.count()
        windows = [self.windows[key] for key in sorted(self.windows, key=lambda at: (at[1], at[0]))]
        for window in windows:
            window.revision += 1
            self.changed[window.frame.number, window.start_us] = None
        self.windows.clear()
        for number in list(self.frames):
            self._drop(number)
        self._store.drop(self._name("early"))
        self.early, self._early_next_us = 0, _FOREVER
        self.current.clear()
        self.cohorts.clear()
        return windows

    def _close(self, key: tuple[int, int]) -> None:
        number = key[0]
        del self.windows[key]
        mine = [start for frame, start in self.windows if frame == number]
        if mine:
            for table in (self._rows(number), self._outcomes(number)):
                table.forget_before(min(mine))
        else:
            self._drop_if_empty(number)

    def _drop_if_empty(self, number: int) -> None:
        if number not in self.current.values() and not any(frame == number for frame, _ in self.windows):
            self._drop(number)

    def _drop(self, number: int) -> None:
        self._store.drop(self._name("rows", number))
        self._store.drop(self._name("outcomes", number))
        del self.frames[number]

    def _expire_early(self, final_after_us: int) -> dict[int, list[int]]:
        table = self._early()
        bound = self.known_us - final_after_us + 1
        waiting = table.rows_between(-_FOREVER, bound)
        waiting = waiting[waiting["gone"] == 0]
        found: dict[int, list[int]] = {}
        for offset, row in sorted(zip(waiting["offset"].tolist(), waiting["row"].tolist(), strict=True)):
            found.setdefault(offset, []).append(row)
        self.counters["unknown_outcomes"] += len(waiting)
        self.early -= len(waiting)
        table.forget_before(bound)
        left = table.rows_between(bound, _FOREVER)
        left = left[left["gone"] == 0]
        self._early_next_us = int(left["time_us"].min()) + final_after_us if len(left) else _FOREVER
        self._early_offset = int(left["offset"].min()) if len(left) else 0
        return found

    def count(self) -> None:
        """Count the rows that were gathered."""
        for number, fresh in self._fresh.items():
            frame = self.frames[number]
            rows = np.concatenate([each for each, _ in fresh])
            expected = _expected([(len(each), loss) for each, loss in fresh])
            predicted = frame.predicted(rows)

            calibration = self._calibration.get(frame.model_version)
            sums_of = functools.partial(
                count_predictions, frame.layout, predicted, calibration=_by_class(frame, calibration), expected=expected
            )
            self._count(frame, rows["time_us"], frame.parts(rows), sums_of, 1)
        for (number, sign), pieces in self._pairs.items():
            frame = self.frames[number]
            pairs = _joined(pieces)
            sums_of = functools.partial(count_pairs, frame.layout, pairs)
            self._count(frame, pairs.times_us, pairs.parts, sums_of, sign, pairs=True)
        self._fresh, self._pairs, self._gathered = {}, {}, 0

    def _count(
        self,
        frame: Frame,
        times_us: Integers,
        parts: Mapping[str, Integers],
        sums_of: Callable[[Integers, int], Sums],
        sign: int,
        *,
        pairs: bool = False,
    ) -> None:
        starts, index = np.unique(frame.window_start_us(times_us), return_inverse=True)
        windows = [self.windows[frame.number, start] for start in starts.tolist()]
        whole = sums_of(index, len(windows))
        sizes = np.bincount(index, minlength=len(windows)).tolist()
        for at, window in enumerate(windows):
            window.add(ALL, take_group(whole, at), sign=sign)
            window.pairs += sign * sizes[at] if pairs else 0
            self.changed[frame.number, window.start_us] = window
        for segment in frame.segments:
            codes, names = parts[segment.name], segment.parts
            inside = codes >= 0
            if not inside.any():
                continue
            used, group = np.unique(index[inside] * len(names) + codes[inside], return_inverse=True)
            of_row = np.full(len(codes), -1, np.int64)
            of_row[inside] = group
            found = sums_of(of_row, len(used))
            for at, cell in enumerate(used.tolist()):
                window_at, part = divmod(cell, len(names))
                windows[window_at].add(names[part], take_group(found, at), sign=sign)

    def _gather(self, rows: int) -> None:
        self._gathered += rows
        if self._gathered >= GATHERED_ROWS:
            self.count()

    def _is_open(self, frame: Frame, times_us: Integers) -> Mask:
        starts, inverse = np.unique(frame.window_start_us(times_us), return_inverse=True)
        there = np.array([(frame.number, start) in self.windows for start in starts.tolist()], np.bool_)
        return np.asarray(there[inverse])

    def needs_from(self) -> tuple[int, int] | None:
        """First offsets of the predictions and the outcomes topic that the store is an index of; None for nothing."""
        predictions = [window.first_offset for window in self.windows.values()]
        outcomes = [window.first_outcome for window in self.windows.values()]
        outcomes += [self._early_offset] if self.early else []
        if not outcomes:
            return None
        return min(predictions, default=_FOREVER), min(outcomes)

    def frame_at(self, model_version: str, offset: int) -> Frame | None:
        """The frame in which a version's message was read."""
        mine = [f for f in self.frames.values() if f.model_version == model_version and f.first_offset <= offset]
        return max(mine, key=lambda frame: frame.number, default=None)

    def recover_predictions(self, columns: PredictionColumns, counted: Mask | None, offset: int) -> None:
        """Let the rows of a message that was applied before wait again; their sums are in the journal."""
        frame = self.frame_at(columns.model_version, offset)
        if frame is None:
            return
        ids = columns.prediction_ids
        keys = id_keys(ids if counted is None else [ids[row] for row in np.flatnonzero(counted).tolist()])
        rows = frame.read_rows(columns, keys, counted)
        new = self.new_to_it(keys)
        keep = self._is_open(frame, rows["time_us"])
        keep &= _first_of_each(rows)
        if new is not None:
            keep &= new
        if keep.any():
            self._rows(frame.number).put(rows[keep])

    def recover_outcomes(self, spec: DeploymentSpec, columns: OutcomeColumns, usable: Mask | None, offset: int) -> None:
        """Put outcomes of a message that was applied before in force again, after the predictions."""
        facts = dict(self.counters), self.early, self._early_offset, self._early_next_us
        superseded = {key: window.superseded for key, window in self.windows.items()}
        changed = dict(self.changed)
        _, _, unmatched = self._match(spec, columns, usable)
        if unmatched.size:
            self._wait_early(spec, columns, unmatched, offset)
        self.counters, self.early, self._early_offset, self._early_next_us = facts
        for key, number in superseded.items():
            self.windows[key].superseded = number
        self.changed = changed

    def restore_window(self, number: int, start_us: int, fields: Mapping[str, Any]) -> None:
        """Take a window as it was written."""
        self.windows[number, start_us] = PerformanceWindow.from_fields(self.frames[number], start_us, fields)

    def table_names(self) -> set[str]:
        """The tables of the store that are in use."""
        of_frames = {self._name(kind, number) for number in self.frames for kind in ("rows", "outcomes")}
        return of_frames | {self._name("early")}

    def end_recovery(self, spec: DeploymentSpec) -> None:
        """Settle which outcomes still wait, after everything that was applied has been recovered."""
        table = self._early()
        bound = self.known_us - self._final_after_ms(spec) * 1000 + 1
        table.forget_before(bound)
        waiting = table.rows_between(bound, _FOREVER)
        waiting = waiting[waiting["gone"] == 0]
        if len(waiting):
            new = self.new_to_it(np.stack([waiting["key"], waiting["check"]], axis=1))
            if new is not None and not new.all():
                gone = waiting[~new]
                gone["gone"] = 1
                table.put(gone)

    def to_fields(self) -> dict[str, Any]:
        """The journal's record, but for the windows."""
        facts = {
            "frames": [frame.to_json() for _, frame in sorted(self.frames.items())],
            "current": self.current,
            "created": self._created,
            "frames_so_far": self._frames_so_far,
            "labels": list(self._labels),
            "outcome_clock_us": self.outcome_clock_us,
            "read_clock_us": self.read_clock_us,
            "known_us": self.known_us,
            "next_look": self._next_look,
            "early": [self.early, self._early_offset, self._early_next_us],
            "counters": self.counters,
            "cohorts": {
                name: [cohorts.ages_us, cohorts.to_array().tolist()] for name, cohorts in sorted(self.cohorts.items())
            },
        }
        return {"join": json.dumps(facts, separators=(",", ":"))}

    def restore(self, fields: Mapping[str, Any]) -> None:
        """Read :meth:`to_fields`."""
        facts = json.loads(fields["join"])
        self.frames = {frame.number: frame for frame in map(Frame.from_json, facts["frames"])}
        self.current = facts["current"]
        self._created, self._frames_so_far = facts["created"], facts["frames_so_far"]
        self._labels = {text: at for at, text in enumerate(facts["labels"])}
        self.outcome_clock_us, self.read_clock_us = facts["outcome_clock_us"], facts["read_clock_us"]
        self.known_us, self._next_look = facts["known_us"], facts["next_look"]
        self.early, self._early_offset, self._early_next_us = facts["early"]
        self.counters = dict.fromkeys(COUNTERS, 0) | facts["counters"]
        for name, (ages, rows) in facts["cohorts"].items():
            self.cohorts[name] = Cohorts(ages)
            self.cohorts[name].restore(np.array(rows, np.int64))

    @staticmethod
    def _final_after_ms(spec: DeploymentSpec) -> int:
        assert spec.outcomes is not None
        return spec.outcomes.final_after_ms

    def _rows(self, number: int) -> PendingTable:
        return self._store.table(self._name("rows", number), self.frames[number].row_dtype)

    def _outcomes(self, number: int) -> PendingTable:
        return self._store.table(self._name("outcomes", number), OUTCOME_ROW)

    def _early(self) -> PendingTable:
        return self._store.table(self._name("early"), EARLY_ROW)

    def _name(self, kind: str, number: int = 0) -> str:
        return f"{kind} {number} {self._created} {self.deployment_id}"


def _outside(spec: DeploymentSpec, at: Integers, times: Integers, known: Integers, bad: Mask) -> Refusal:
    first = int(np.flatnonzero(bad)[0])
    assert spec.outcomes is not None
    text = (
        f"{int(bad.sum())} outcomes became known before their prediction or later than outcomes.horizon "
        f"({spec.outcomes.horizon_ms} ms): row {int(at[first])} became known at "
        f"{np.datetime64(int(known[first]), 'us')}, its prediction is of {np.datetime64(int(times[first]), 'us')}"
    )
    return Refusal("outcome_time", text, at[bad].tolist())


def _weights(columns: OutcomeColumns) -> Floats:
    if columns.labelling_probability is None:
        return np.ones(columns.rows)
    return 1.0 / columns.labelling_probability


def _acted(columns: OutcomeColumns) -> NDArray[np.uint8]:
    if columns.was_acted_on is None:
        return np.full(columns.rows, UNKNOWN_ACTED_ON, np.uint8)
    return columns.was_acted_on


def _latest(rows: Rows, known_us: Integers, rank: NDArray[Any]) -> NDArray[np.intp]:
    """Of each id the row that was known last, of those the one of the highest rank; by index in the order of rows."""
    if len(np.unique(rows["key"])) == len(rows):
        return np.arange(len(rows))
    order = np.lexsort((rank, known_us, rows["check"], rows["key"]))
    key, check = rows["key"][order], rows["check"][order]
    last = np.append((key[1:] != key[:-1]) | (check[1:] != check[:-1]), True)
    return np.sort(order[last])


def _first_of_each(rows: Rows) -> Mask:
    """The first row of each id, bool[n]."""
    pairs = np.stack([rows["key"], rows["check"]], axis=1)
    first = np.zeros(len(rows), np.bool_)
    first[np.unique(pairs, axis=0, return_index=True)[1]] = True
    return first


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
    )
