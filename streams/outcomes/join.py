"""The join: predictions wait for their outcomes, which come late, twice, corrected, too early, or never.

One :class:`Join` per deployment and partition. Its state is the performance windows, the cohorts and a few clocks, kept
in the journal; which predictions wait, and what is known of them, lies in the store, an index of the two topics that is
built again from them where it is lost (:meth:`Join.recover_predictions`, :meth:`Join.recover_outcomes`).

The rules, none of which depends on the order in which messages come:

1. An outcome counts if it became known from its prediction's event time on and within the horizon, as the
   specification had it when the prediction came.
2. Of several outcomes of one prediction the one that became known last is in force; of equally late ones the larger.
3. An outcome whose prediction has not come waits for it until every window that the prediction may lie in is final.
4. A window is final when ``end + horizon + lateness`` is over: by the deployment's event time, and by the outcomes that
   were read. The latter is told by the largest time at which one became known, or by the worker, which knows when it
   has read everything that was published. A deployment that is being fed history is told by outcomes alone, and a
   horizon later, because files are sorted in many ways.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.events import Floats, OutcomeColumns, PredictionColumns
from streams.baseline import Baseline
from streams.outcomes.arrivals import (
    Arrivals,
    Matched,
    Refusal,
    acted_on,
    first_of_each,
    labelling_probability,
    latest_of_each,
)
from streams.outcomes.cohorts import Cohorts, cohort_ages
from streams.outcomes.early import FOREVER_US, MOST_OUTCOMES, EarlyOutcomes
from streams.outcomes.frames import EARLY_ROW, NOT_KNOWN, Frame, Rows, frame_of, take_outcomes
from streams.outcomes.reading import Keys, id_keys, read_actual
from streams.outcomes.store import PendingStore, PendingTable
from streams.outcomes.tally import GATHERED_ROWS, Tally
from streams.outcomes.windows import ALL, PerformanceWindow
from streams.specification import DeploymentSpec
from streams.statistics.performance.pairs import Pairs

FIRST_LOOK_PAIRS = 64
"""Whether a summary is due is looked at every so many outcomes, and every quarter of those there were: at most every
``GATHERED_ROWS``."""

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

LATE_OUTCOME, UNKNOWN_PREDICTION = "late_outcome", "unknown_prediction"

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
Joined = list[tuple[Frame, Pairs]]
"""Predictions whose first outcome came, in order of arrival."""


@dataclass(eq=False)
class Due:
    """What has come due as time went on.

    Attributes:
        windows: Windows to be written, and whether they are final.
        labels: Per version what cohorts showed, int64[J, 23].
        unknown: Outcomes whose prediction never came.
    """

    windows: list[tuple[PerformanceWindow, bool]] = field(default_factory=list)
    labels: dict[str, Integers] = field(default_factory=dict)
    unknown: list[Refusal] = field(default_factory=list)


class Join:
    """The predictions of one deployment that wait on one partition.

    Args:
        deployment_id: The deployment.
        store: Where they wait.
        created: The position in the predictions topic when it was made: tells it from an earlier one of that name.
    """

    def __init__(self, deployment_id: str, store: PendingStore, created: int) -> None:
        self.deployment_id, self._created = deployment_id, created
        self._store = store
        self._tables: dict[int, PendingTable] = {}
        self.frames: dict[int, Frame] = {}
        self.current: dict[str, int] = {}
        self._frames_so_far = 0
        self.tally = Tally()
        self.early = EarlyOutcomes(lambda: self._store.table(self._name("early"), EARLY_ROW))
        self.cohorts: dict[str, Cohorts] = {}
        self.outcome_clock_us = self.read_clock_us = self.known_us = 0
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._next_look = FIRST_LOOK_PAIRS
        self._due_us: int | None = None
        self._forgotten_us: dict[int, int] = {}  # by frame: earlier predictions are not found any more
        self._recent: dict[tuple[int, int], int] = {}  # by frame and time: a message with predictions found until then

    @property
    def windows(self) -> dict[tuple[int, int], PerformanceWindow]:
        """The open windows, by number of the frame and start."""
        return self.tally.windows

    def begin(self, spec: DeploymentSpec, baseline: Baseline, offset: int) -> None:
        """A specification or baseline of a version comes into force before a message of the predictions topic."""
        version = baseline.model_version
        frame = frame_of(spec, baseline, self._frames_so_far + 1, offset)
        if frame is None:
            return
        self.tally.count()
        self.tally.attach(baseline)
        known = self.frames.get(self.current.get(version, 0))
        if known is None or not known.same_as(frame):
            self._frames_so_far += 1
            self.frames[frame.number] = frame
            self.current[version] = frame.number
            if known is not None:
                self._drop_if_empty(known.number)
        ages = cohort_ages(next((d.arrays for d in baseline.derived if d.kind == LABELS_KIND), None))
        cohorts = self.cohorts.get(version)
        if cohorts is None or cohorts.ages_us != ages:
            self.cohorts[version] = Cohorts(ages)
        self._due_us = None

    def attach(self, baseline: Baseline) -> None:
        """Take what the journal does not hold from the baseline in force."""
        self.tally.attach(baseline)

    def forget_cohorts(self) -> None:
        """Start slots have another length now."""
        for cohorts in self.cohorts.values():
            cohorts.clear()
        self._due_us = None

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
    ) -> tuple[Joined, list[Refusal]]:
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
            Those whose outcome had come before them, and such outcomes that could not be used.
        """
        frame = self.frames[self.current[columns.model_version]]
        rows = frame.read_rows(columns, keys, counted)
        if expected is not None and counted is not None:
            expected = expected[counted]
        window_us = frame.window_ms * 1000
        ends_us = rows["time_us"] // window_us * window_us + window_us
        in_time = ends_us + frame.final_after_ms * 1000 > self.known_us
        found = rows["time_us"] >= self._forgotten_us.get(frame.number, -FOREVER_US)
        if not in_time.all():
            self.counters["late_predictions"] += int((~in_time).sum())
            for end_us in np.unique(ends_us[found & ~in_time]).tolist():
                self._remember(frame, end_us, offset)
        all_rows = rows[found]
        if not len(all_rows):
            return [], []
        self._rows(frame.number).put(all_rows)
        rows = rows[in_time]
        if len(rows):
            self._open(frame, spec, rows, None if expected is None else expected[in_time], offset, outcome_offset)
        return self._meet_early(spec, frame, all_rows) if self.early else ([], [])

    def _open(
        self,
        frame: Frame,
        spec: DeploymentSpec,
        rows: Rows,
        expected: Floats | None,
        offset: int,
        outcome_offset: int,
    ) -> None:
        new_window = self.tally.open(frame, rows["time_us"], offset, outcome_offset)
        self.tally.add_predictions(frame, rows, expected)
        new_cohort = self.cohorts[frame.model_version].add_predictions(rows["time_us"], spec.start_slot_ms * 1000)
        if new_window or new_cohort:
            self._due_us = None

    def _meet_early(self, spec: DeploymentSpec, frame: Frame, rows: Rows) -> tuple[Joined, list[Refusal]]:
        """Give predictions that have just come the outcomes that waited for them."""
        met = self.early.meet(self.deployment_id, rows)
        if met is None:
            return [], []
        at, arrivals = met
        for window, mask in self.tally.of(frame, rows["time_us"][at]):
            offsets = arrivals.offsets if mask is None else arrivals.offsets[mask]
            window.first_outcome = min(window.first_outcome, int(offsets.min()))
        matched, refusals = self._match_in(frame, arrivals, rows[at])
        self._count_refusals(refusals)
        return self._account(spec, [matched]), refusals

    def add_outcomes(
        self, spec: DeploymentSpec, columns: OutcomeColumns, usable: Mask | None, offset: int
    ) -> tuple[Joined, list[Refusal]]:
        """Outcomes came.

        Args:
            spec: The specification in force.
            columns: Their batch, n rows.
            usable: bool[n], rows whose time can be believed; None for all.
            offset: Their message.

        Returns:
            The predictions whose first outcome is among them, and what could not be used.
        """
        arrivals = _arrivals(columns, usable, offset)
        if not len(arrivals.rows):
            return [], []
        self.outcome_clock_us = max(self.outcome_clock_us, int(arrivals.columns.actual_timestamps_us.max()))
        matched, refusals, left, keys = self._match(arrivals)
        joined = self._account(spec, matched)
        if left.size:
            refusals += self._wait(spec, arrivals.take(left), keys[left])
        self._count_refusals(refusals)
        return joined, refusals

    def _match(self, arrivals: Arrivals) -> tuple[list[Matched], list[Refusal], NDArray[np.intp], Keys]:
        """Find the predictions of outcomes, and put these in force; also those without one, by index, and all keys."""
        keys = id_keys(arrivals.columns.prediction_ids)
        left = np.arange(len(keys))
        matched: list[Matched] = []
        refusals: list[Refusal] = []
        for number in sorted(self.frames, reverse=True):
            if not left.size:
                break
            found, rows = self._rows(number).get(keys[left, 0], keys[left, 1])
            if found.any():
                here, why = self._match_in(self.frames[number], arrivals.take(left[found]), rows[found])
                matched.append(here)
                refusals += why
                left = left[~found]
        return matched, refusals, left, keys

    def _match_in(self, frame: Frame, arrivals: Arrivals, rows: Rows) -> tuple[Matched, list[Refusal]]:
        """Outcomes beside their predictions, n rows of one frame: those that can be used are in force from now on."""
        columns, times, known = arrivals.columns, rows["time_us"], arrivals.columns.actual_timestamps_us
        refusals = []
        good = np.ones(len(rows), np.bool_)
        actual = read_actual(frame.layout, columns)
        if actual.refusals:
            good[list(actual.refusals)] = False
            refusals += arrivals.refusals(
                "outcome_value",
                ~good,
                lambda n, at: (
                    f"{n} outcomes cannot be used: row {int(arrivals.rows[at])} of the message: {actual.refusals[at]}"
                ),
            )
        outside = good & ~((known >= times - frame.skew_ms * 1000) & (known <= times + frame.horizon_ms * 1000))
        if outside.any():
            refusals += arrivals.refusals("outcome_time", outside, _outside(frame, arrivals, times))
            good &= ~outside
        late = good & ~self.tally.is_open(frame, times)
        if late.any():
            refusals += arrivals.refusals(LATE_OUTCOME, late, _late)
            good &= ~late
        now = rows.copy()
        now["known_us"], now["value"] = np.maximum(known, times), actual.values
        now["weight"], now["acted"] = 1.0 / labelling_probability(columns), acted_on(columns)
        if not good.all():
            rows, now = rows[good], now[good]
        return self._put_in_force(frame, rows, now), refusals

    def _put_in_force(self, frame: Frame, rows: Rows, now: Rows) -> Matched:
        """Of several outcomes of one prediction, here or before, the latest known is in force."""
        all_us = rows["time_us"]
        rank = frame.rank(now["value"])
        keep = latest_of_each(now, now["known_us"], rank)
        again = rows["known_us"][keep] != NOT_KNOWN
        if again.any():
            before, after = rows[keep], now[keep]
            newer = after["known_us"] > before["known_us"]
            same = again & (after["known_us"] == before["known_us"])
            newer[same] = rank[keep][same] > frame.rank(before["value"][same])
            keep, again = keep[~again | newer], again[~again | newer]
        if len(keep) < len(rows):
            gone = np.ones(len(rows), np.bool_)
            gone[keep] = False
            rows, now = rows[keep], now[keep]
            superseded_us = all_us[gone]
        else:
            superseded_us = np.zeros(0, np.int64)
        self._rows(frame.number).put(now)
        return Matched(frame, now, rows, again, superseded_us)

    def _account(self, spec: DeploymentSpec, matched: Sequence[Matched]) -> Joined:
        """Count what was matched; the pairs that are new."""
        joined: Joined = []
        for each in matched:
            frame, again = each.frame, each.again
            self.counters["superseded_outcomes"] += len(each.superseded_us)
            for window, mask in self.tally.of(frame, each.superseded_us):
                window.superseded += len(each.superseded_us) if mask is None else int(mask.sum())
                self.tally.touch(window)
            if not len(each.rows):
                continue
            pairs = frame.pairs(each.rows)
            self.tally.add_pairs(frame, pairs)
            if again.any():
                self._correct(frame, frame.pairs(each.earlier[again]))
                pairs = pairs.take(~again)
            self.counters["joined_outcomes"] += pairs.rows
            if pairs.rows:
                self.cohorts[frame.model_version].add_outcomes(pairs.times_us, pairs.ages_us, spec.start_slot_ms * 1000)
                joined.append((frame, pairs))
        return joined

    def _correct(self, frame: Frame, earlier: Pairs) -> None:
        """Take away what was counted of outcomes that others have replaced."""
        self.tally.add_pairs(frame, earlier, sign=-1)
        self.counters["corrected_outcomes"] += earlier.rows
        for window, mask in self.tally.of(frame, earlier.times_us):
            window.corrections += earlier.rows if mask is None else int(mask.sum())

    def _count_refusals(self, refusals: Sequence[Refusal]) -> None:
        names = {LATE_OUTCOME: "late_outcomes", UNKNOWN_PREDICTION: "unknown_outcomes"}
        for refusal in refusals:
            self.counters[names.get(refusal.reason, "refused_outcomes")] += len(refusal.rows)

    def _wait(self, spec: DeploymentSpec, arrivals: Arrivals, keys: Keys) -> list[Refusal]:
        """Outcomes whose prediction has not come, or is not known any more."""
        final_after_us = self._waits_us(spec)
        expired = arrivals.columns.actual_timestamps_us + final_after_us <= self.known_us
        refusals = []
        if expired.any():
            refusals += arrivals.refusals(UNKNOWN_PREDICTION, expired, _unknown(arrivals))
            arrivals, keys = arrivals.take(np.flatnonzero(~expired)), keys[~expired]
        if len(keys):
            repeated, crowded = self.early.add(arrivals, keys, final_after_us)
            self.counters["superseded_outcomes"] += repeated
            if crowded.size:
                which = np.zeros(len(keys), np.bool_)
                which[crowded] = True
                refusals += arrivals.refusals(UNKNOWN_PREDICTION, which, _crowded)
            self._due_us = None
        return refusals

    def _waits_us(self, spec: DeploymentSpec) -> int:
        """How long after it was known an outcome waits for its prediction: until no window it may lie in is open."""
        assert spec.outcomes is not None
        waits_ms = [frame.window_ms + frame.final_after_ms + frame.skew_ms for frame in self.frames.values()]
        return max(waits_ms, default=spec.outcomes.window_ms + spec.outcomes.final_after_ms) * 1000

    def next_us(self) -> int:
        """When something comes due next."""
        if self._due_us is None:
            self._due_us = self._find_due_us()
        return self._due_us

    def _find_due_us(self) -> int:
        times = [window.final_us for window in self.windows.values()]
        times += [window.next_us for window in self.windows.values() if window.next_us is not None]
        times += [time for cohorts in self.cohorts.values() if (time := cohorts.next_us()) is not None]
        return min([*times, self.early.next_us])

    def awaits_reading(self, clock_us: int) -> bool:
        """Whether something is due by event time, and it must be known that all published outcomes were read."""
        return self.known_us < clock_us and self.next_us() <= clock_us

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
        if not by_pairs and self.next_us() > self.known_us:
            return None
        return self._collect(spec)

    def _collect(self, spec: DeploymentSpec) -> Due:
        self.tally.count()
        joined = self.counters["joined_outcomes"]
        self._next_look = joined + min(max(FIRST_LOOK_PAIRS, joined // 4), GATHERED_ROWS)
        self._due_us = None
        due = Due()
        for key in sorted(self.windows, key=lambda at: (at[1], at[0])):
            window = self.windows[key]
            final = window.final_us <= self.known_us
            if final or window.due(self.known_us):
                window.revision += 1
                due.windows.append((window, final))
                self.tally.touch(window)
            if final:
                self._close(key)
        self._forget()
        for version, cohorts in self.cohorts.items():
            counts = cohorts.look(self.known_us)
            if counts is not None:
                due.labels[version] = counts
        if self.early.next_us <= self.known_us:
            for offset, rows in self.early.expire(self.known_us, self._waits_us(spec)).items():
                due.unknown.append(Refusal(UNKNOWN_PREDICTION, _NEVER_CAME.format(len(rows)), rows, offset))
            self._count_refusals(due.unknown)
        return due

    def close_all(self) -> list[PerformanceWindow]:
        """Close every window: nothing is expected any more."""
        self.tally.count()
        keys = sorted(self.windows, key=lambda at: (at[1], at[0]))
        windows = [self.windows[key] for key in keys]
        for key, window in zip(keys, windows, strict=True):
            window.revision += 1
            self.tally.remove(key)
        for number in list(self.frames):
            self._drop(number)
        self._store.drop(self._name("early"))
        self.early.give_up()
        self.current.clear()
        self.cohorts.clear()
        return windows

    def _close(self, key: tuple[int, int]) -> None:
        window = self.windows[key]
        self.tally.remove(key)
        self._remember(window.frame, window.end_us, window.first_offset)

    def _remember(self, frame: Frame, end_us: int, offset: int) -> None:
        """Predictions of a final window are found for as long again as outcomes may be late: theirs are told as late.

        Args:
            frame: Their frame.
            end_us: The end of the window.
            offset: The first message with any of them.
        """
        step_us = max(frame.window_ms, _lateness_ms(frame) // 16) * 1000  # so there are not many entries
        until_us = end_us + (frame.final_after_ms + _lateness_ms(frame)) * 1000
        key = frame.number, -(-until_us // step_us) * step_us
        self._recent[key] = min(offset, self._recent.get(key, offset))

    def _forget(self) -> None:
        """Find predictions no more whose outcomes are not even late."""
        self._recent = {key: offset for key, offset in self._recent.items() if key[1] > self.known_us}
        for number, frame in list(self.frames.items()):
            window_us = frame.window_ms * 1000
            before_us = (self.known_us - (frame.final_after_ms + _lateness_ms(frame)) * 1000) // window_us * window_us
            if before_us > self._forgotten_us.get(number, -FOREVER_US):
                self._forgotten_us[number] = before_us
                self._rows(number).forget_before(before_us)
            self._drop_if_empty(number)

    def _drop_if_empty(self, number: int) -> None:
        used = any(frame == number for frame, _ in [*self.windows, *self._recent])
        if not used and number not in self.current.values():
            self._drop(number)

    def _drop(self, number: int) -> None:
        self._store.drop(self._name("rows", number))
        self._tables.pop(number, None)
        self._forgotten_us.pop(number, None)
        self._recent = {key: offset for key, offset in self._recent.items() if key[0] != number}
        del self.frames[number]

    def needs_from(self) -> tuple[int, int] | None:
        """First offsets of the predictions and the outcomes topic that the store is an index of; None for nothing."""
        predictions = [window.first_offset for window in self.windows.values()]
        predictions += self._recent.values()
        outcomes = [window.first_outcome for window in self.windows.values()]
        early = self.early.first_offset
        outcomes += [] if early is None else [early]
        if not predictions and not outcomes:
            return None
        return min(predictions, default=FOREVER_US), min(outcomes, default=FOREVER_US)

    def begin_recovery(self) -> None:
        """The index may be older than the journal: what is forgotten is found no more."""
        for number, before_us in self._forgotten_us.items():
            self._rows(number).forget_before(before_us)

    def frame_at(self, model_version: str, offset: int) -> Frame | None:
        """The frame in which a version's message was read."""
        mine = [f for f in self.frames.values() if f.model_version == model_version and f.first_offset <= offset]
        return max(mine, key=lambda frame: frame.number, default=None)

    def recover_predictions(self, columns: PredictionColumns, counted: Mask | None, offset: int) -> None:
        """Let the rows of a message that was applied before wait again; their sums are in the journal."""
        frame = self.frame_at(columns.model_version, offset)
        ids = columns.prediction_ids
        keys = id_keys(ids if counted is None else [ids[row] for row in np.flatnonzero(counted).tolist()])
        if frame is None or not len(keys):
            return
        rows = frame.read_rows(columns, keys, counted)
        keep = (rows["time_us"] >= self._forgotten_us.get(frame.number, -FOREVER_US)) & first_of_each(rows)
        new = self.new_to_it(keys)
        if new is not None:
            keep &= new
        if not keep.any():
            return
        rows = rows[keep]
        self._rows(frame.number).put(rows)
        # what waited for them when the index was written lies in it, and is not among the outcomes read again
        met = self.early.meet(self.deployment_id, rows, again=True)
        if met is not None:
            self._match_in(frame, met[1], rows[met[0]])

    def recover_outcomes(self, columns: OutcomeColumns, usable: Mask | None, offset: int) -> None:
        """Put outcomes of a message that was applied before in force again, after the predictions."""
        arrivals = _arrivals(columns, usable, offset)
        if len(arrivals.rows):
            _, _, left, keys = self._match(arrivals)
            if left.size and self.early:
                self.early.recover(arrivals.take(left), keys[left])

    def take_changes(self) -> dict[tuple[object, ...], Any]:
        """What the journal must know by now, by kind and name; None to delete: windows, rows of early outcomes."""
        self.tally.count()
        changed: dict[tuple[object, ...], Any] = {}
        for (number, start_us), window in self.tally.changed.items():
            changed["performance", number, start_us] = window
        for offset, fields in self.early.take_changes().items():
            changed["early", offset] = fields
        self.tally.changed = {}
        return changed

    def restore_window(self, number: int, start_us: int, fields: Mapping[str, Any]) -> None:
        """Take a window as it was written."""
        frame = self.frames[number]
        self.windows[number, start_us] = PerformanceWindow.from_fields(frame, start_us, fields)

    def table_names(self) -> set[str]:
        """The tables of the store that are in use."""
        return {self._name("rows", number) for number in self.frames} | {self._name("early")}

    def to_fields(self) -> dict[str, Any]:
        """The journal's record, but for the windows."""
        facts = {
            "frames": [frame.to_json() for _, frame in sorted(self.frames.items())],
            "current": self.current,
            "created": self._created,
            "frames_so_far": self._frames_so_far,
            "outcome_clock_us": self.outcome_clock_us,
            "read_clock_us": self.read_clock_us,
            "known_us": self.known_us,
            "next_look": self._next_look,
            "counters": self.counters,
            "open": self._open_now(),
            "cohorts": {
                name: [cohorts.ages_us, cohorts.to_array().tolist()] for name, cohorts in sorted(self.cohorts.items())
            },
            "forgotten": sorted(self._forgotten_us.items()),
            "recent": sorted((number, until_us, offset) for (number, until_us), offset in self._recent.items()),
            **self.early.to_fields(),
        }
        return {"join": json.dumps(facts, separators=(",", ":"))}

    def _open_now(self) -> dict[str, int]:
        """For those who look at the journal: predictions of open windows, how many have an outcome; early outcomes."""
        windows = self.windows.values()
        predictions = sum(int(window.parts[ALL]["predictions"]) for window in windows)
        return {"predictions": predictions, "pairs": sum(window.pairs for window in windows), "early": len(self.early)}

    def restore(self, fields: Mapping[str, Any]) -> None:
        """Read :meth:`to_fields`."""
        facts = json.loads(fields["join"])
        self.frames = {frame.number: frame for frame in map(Frame.from_json, facts["frames"])}
        self.current = facts["current"]
        self._created, self._frames_so_far = facts["created"], facts["frames_so_far"]
        self.outcome_clock_us, self.read_clock_us = facts["outcome_clock_us"], facts["read_clock_us"]
        self.known_us, self._next_look = facts["known_us"], facts["next_look"]
        self.counters = dict.fromkeys(COUNTERS, 0) | facts["counters"]
        self._forgotten_us = dict(facts["forgotten"])
        self._recent = {(number, until_us): offset for number, until_us, offset in facts["recent"]}
        self.early.restore(facts)
        for name, (ages, rows) in facts["cohorts"].items():
            self.cohorts[name] = Cohorts(ages)
            self.cohorts[name].restore(np.array(rows, np.int64))

    def _rows(self, number: int) -> PendingTable:
        table = self._tables.get(number)
        if table is None:
            table = self._store.table(self._name("rows", number), self.frames[number].row_dtype)
            self._tables[number] = table
        return table

    def _name(self, kind: str, number: int = 0) -> str:
        return f"{kind} {number} {self._created} {self.deployment_id}"


def _lateness_ms(frame: Frame) -> int:
    return frame.final_after_ms - frame.horizon_ms


def _arrivals(columns: OutcomeColumns, usable: Mask | None, offset: int) -> Arrivals:
    rows = np.arange(columns.rows) if usable is None else np.flatnonzero(usable)
    return Arrivals(take_outcomes(columns, rows), np.full(len(rows), offset, np.int64), rows.astype(np.int64))


def _outside(frame: Frame, arrivals: Arrivals, times_us: Integers) -> Callable[[int, int], str]:
    def text(rows: int, at: int) -> str:
        known_us = int(arrivals.columns.actual_timestamps_us[at])
        return (
            f"{rows} outcomes became known before their prediction or later than outcomes.horizon "
            f"({frame.horizon_ms} ms): row {int(arrivals.rows[at])} became known at {np.datetime64(known_us, 'us')}, "
            f"its prediction is of {np.datetime64(int(times_us[at]), 'us')}"
        )

    return text


def _late(rows: int, _at: int) -> str:
    return (
        f"{rows} outcomes came after their window was final: they became known in time and were published later than "
        "the specification's outcomes.lateness allows"
    )


def _crowded(rows: int, _at: int) -> str:
    return (
        f"{rows} outcomes of predictions that have not come, for each of which {MOST_OUTCOMES} other outcomes wait: "
        "are the ids those of the predictions?"
    )


def _unknown(arrivals: Arrivals) -> Callable[[int, int], str]:
    def text(rows: int, at: int) -> str:
        return (
            f"{rows} outcomes of predictions that are not known, or are known no more: no prediction waits longer than "
            f"outcomes.horizon and outcomes.lateness; the first is row {int(arrivals.rows[at])}"
        )

    return text


_NEVER_CAME = (
    "{} outcomes waited for their predictions until outcomes.horizon and outcomes.lateness were over: were the "
    "predictions published, with the same ids and keys?"
)
