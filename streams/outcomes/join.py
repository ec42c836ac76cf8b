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
   were read (:mod:`streams.outcomes.clock`).
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
from streams.outcomes.arrivals import Arrivals, Integers, Mask, Matched, Refusal, first_of_each
from streams.outcomes.clock import OutcomeClock
from streams.outcomes.cohorts import Cohorts, cohort_ages
from streams.outcomes.early import FOREVER_US, MOST_OUTCOMES, EarlyOutcomes
from streams.outcomes.frames import Frame, Rows, take_outcomes
from streams.outcomes.humility import WaitingHumility
from streams.outcomes.in_force import LATE_OUTCOME, judge
from streams.outcomes.keys import Keys, id_keys
from streams.outcomes.rulebook import Issued
from streams.outcomes.store import PendingStore
from streams.outcomes.tally import GATHERED_ROWS, Tally
from streams.outcomes.waiting import Waiting
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

UNKNOWN_PREDICTION = "unknown_prediction"

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
        self.deployment_id = deployment_id
        self.waiting = Waiting(deployment_id, store, created)
        self.tally = Tally()
        self.early = EarlyOutcomes(self.waiting.early_table)
        self.cohorts: dict[str, Cohorts] = {}
        self.clock = OutcomeClock()
        self.humility = WaitingHumility()
        self.known_us = 0
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._next_look = FIRST_LOOK_PAIRS
        self._due_us: int | None = None

    @property
    def windows(self) -> dict[tuple[int, int], PerformanceWindow]:
        """The open windows, by number of the frame and start."""
        return self.tally.windows

    def begin(self, spec: DeploymentSpec, baseline: Baseline, offset: int) -> None:
        """A specification or baseline of a version comes into force before a message of the predictions topic."""
        self.tally.count()
        rules = None if spec.outcomes is None else self.humility.begin(spec, baseline)
        if not self.waiting.begin(spec, baseline, offset, rules):
            return
        self.tally.attach(baseline)
        self.waiting.drop_unused(self._frames_with_windows())
        version = baseline.model_version
        self.humility.note(version, offset)
        self._drop_rules(offset)
        self.early.expect(self.waiting.frame_of(version).layout.classes)
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
        self.humility.forget_slots()
        for cohorts in self.cohorts.values():
            cohorts.clear()
        self._due_us = None

    def new_to_it(self, keys: Keys) -> Mask | None:
        """Which predictions do not wait already, bool[n]; None if none does."""
        return self.waiting.new_to_it(keys)

    def add_predictions(
        self,
        spec: DeploymentSpec,
        columns: PredictionColumns,
        keys: Keys,
        counted: Mask | None,
        expected: Floats | None,
        offset: int,
        outcome_offset: int,
        log_ms: int,
        decided: Issued | None = None,
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
            log_ms: When their message was published.
            decided: What was decided of the rows of the batch; None where humility is off.

        Returns:
            Those whose outcome had come before them, and such outcomes that could not be used.
        """
        frame = self.waiting.frame_of(columns.model_version)
        self.clock.see_predictions(log_ms, columns.timestamps_us if counted is None else columns.timestamps_us[counted])
        rows = frame.read_rows(columns, keys, counted, decided)
        if expected is not None and counted is not None:
            expected = expected[counted]
        window_us = frame.window_ms * 1000
        ends_us = rows["time_us"] // window_us * window_us + window_us
        in_time = ends_us + frame.final_after_ms * 1000 > self.known_us
        found = self.waiting.is_remembered(frame, rows)
        if not in_time.all():
            self.counters["late_predictions"] += int((~in_time).sum())
            for end_us in np.unique(ends_us[found & ~in_time]).tolist():
                self.waiting.remember(frame, end_us, offset)
        all_rows = rows[found]
        if not len(all_rows):
            return [], []
        self.waiting.put(frame, all_rows)
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
        matched, refusals = self._put_in_force(frame, arrivals, rows[at])
        self._count_refusals(refusals)
        return self._account(spec, [matched]), refusals

    def add_outcomes(
        self, spec: DeploymentSpec, columns: OutcomeColumns, usable: Mask | None, offset: int, log_ms: int
    ) -> tuple[Joined, list[Refusal]]:
        """Outcomes came.

        Args:
            spec: The specification in force.
            columns: Their batch, n rows.
            usable: bool[n], rows whose time can be believed; None for all.
            offset: Their message.
            log_ms: When it was published.

        Returns:
            The predictions whose first outcome is among them, and what could not be used.
        """
        arrivals = _arrivals(columns, usable, offset)
        if not len(arrivals.rows):
            return [], []
        self.clock.see_outcomes(log_ms, arrivals.columns.actual_timestamps_us, _lateness_ms(spec))
        matched, refusals, left, keys = self._match(arrivals)
        joined = self._account(spec, matched)
        if left.size:
            refusals += self._wait(spec, arrivals.take(left), keys[left])
        self._count_refusals(refusals)
        return joined, refusals

    def _match(self, arrivals: Arrivals) -> tuple[list[Matched], list[Refusal], NDArray[np.intp], Keys]:
        """Find the predictions of outcomes, and put these in force; also those without one, by index, and all keys."""
        keys = id_keys(arrivals.columns.prediction_ids)
        matched: list[Matched] = []
        refusals: list[Refusal] = []
        waiting, left = self.waiting.find(keys)
        for frame, at, rows in waiting:
            here, why = self._put_in_force(frame, arrivals.take(at), rows)
            matched.append(here)
            refusals += why
        return matched, refusals, left, keys

    def _put_in_force(self, frame: Frame, arrivals: Arrivals, rows: Rows) -> tuple[Matched, list[Refusal]]:
        matched, refusals = judge(frame, rows, arrivals, self.tally.is_open(frame, rows["time_us"]))
        self.waiting.put(frame, matched.rows)
        return matched, refusals

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
        waits_ms = [frame.window_ms + frame.final_after_ms + frame.skew_ms for frame in self.waiting.frames.values()]
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

    def awaits_reading(self, clock_us: int, time_ms: int) -> bool:
        """Whether something is due once it is known that all outcomes were read that were published until a time."""
        readable_us = self.clock.readable_us(clock_us, time_ms)
        return self.known_us < readable_us and self.next_us() <= readable_us

    def pass_time(self, spec: DeploymentSpec, clock_us: int, time_ms: int, *, read: bool = False) -> Due | None:
        """Go on to what is known by now; None if nothing is due.

        Args:
            spec: The specification in force.
            clock_us: The deployment's clock.
            time_ms: When the latest message was published, or to when time has passed.
            read: Whether all outcomes that were published until then have been read.
        """
        assert spec.outcomes is not None
        if read:
            self.clock.read(clock_us, time_ms)
        known_us = self.clock.known_us(clock_us, time_ms, spec.outcomes.horizon_ms)
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
                self.tally.remove(key)
                self.waiting.remember(window.frame, window.end_us, window.first_offset)
        self.waiting.forget(self.known_us, self._frames_with_windows())
        self._drop_rules()
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
        self.waiting.drop_all()
        self.humility.clear()
        self.early.give_up()
        self.cohorts.clear()
        return windows

    def _drop_rules(self, offset: int = FOREVER_US) -> None:
        """Forget what was known for predictions that do not wait any more; ``offset``: the next message, if known."""
        needs = self.needs_from()
        first = offset if needs is None else min(needs[0], offset)
        if first < FOREVER_US:
            self.humility.drop_unused(list(self.waiting.frames.values()), first)

    def quantiles_of(self, model_version: str) -> Mapping[str, float] | None:
        """The adaptive quantiles that a version's predictions are issued with, by group; None where humility is off."""
        tracker = self.humility.trackers.get(model_version)
        return None if tracker is None else tracker.quantiles

    def standing_of(self, model_version: str) -> list[dict[str, Any]]:
        """The same with the outcomes that they follow from: ``AdaptiveQuantile`` records; empty for none."""
        tracker = self.humility.trackers.get(model_version)
        return [] if tracker is None else tracker.standing()

    def _frames_with_windows(self) -> set[int]:
        return {number for number, _ in self.windows}

    def needs_from(self) -> tuple[int, int] | None:
        """First offsets of the predictions and the outcomes topic that the store is an index of; None for nothing."""
        predictions = [window.first_offset for window in self.windows.values()]
        predictions += self.waiting.first_offsets()
        outcomes = [window.first_outcome for window in self.windows.values()]
        early = self.early.first_offset
        outcomes += [] if early is None else [early]
        if not predictions and not outcomes:
            return None
        return min(predictions, default=FOREVER_US), min(outcomes, default=FOREVER_US)

    def recover_predictions(self, columns: PredictionColumns, counted: Mask | None, offset: int) -> None:
        """Let the rows of a message that was applied before wait again; their sums are in the journal."""
        frame = self.waiting.frame_at(columns.model_version, offset)
        ids = columns.prediction_ids
        keys = id_keys(ids if counted is None else [ids[row] for row in np.flatnonzero(counted).tolist()])
        if frame is None or not len(keys):
            return
        rows = frame.read_rows(columns, keys, counted, self.humility.decided(frame, columns, offset))
        keep = self.waiting.is_remembered(frame, rows) & first_of_each(rows)
        new = self.waiting.new_to_it(keys)
        if new is not None:
            keep &= new
        if not keep.any():
            return
        rows = rows[keep]
        self.waiting.put(frame, rows)
        # what waited for them when the index was written lies in it, and is not among the outcomes read again
        met = self.early.meet(self.deployment_id, rows, again=True)
        if met is not None:
            self._put_in_force(frame, met[1], rows[met[0]])

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
        changed |= self.humility.take_changes()
        self.tally.changed = {}
        return changed

    def restore_window(self, number: int, start_us: int, fields: Mapping[str, Any]) -> None:
        """Take a window as it was written."""
        frame = self.waiting.frames[number]
        self.windows[number, start_us] = PerformanceWindow.from_fields(frame, start_us, fields)

    def to_fields(self) -> dict[str, Any]:
        """The journal's record, but for the windows."""
        facts = {
            "known_us": self.known_us,
            "next_look": self._next_look,
            "counters": self.counters,
            "open": self._open_now(),
            "cohorts": {
                name: [cohorts.ages_us, cohorts.to_array().tolist()] for name, cohorts in sorted(self.cohorts.items())
            },
            **self.clock.to_fields(),
            **self.waiting.to_fields(),
            **self.early.to_fields(),
            **self.humility.to_fields(),
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
        self.waiting.restore(facts)
        self.clock.restore(facts)
        self.known_us, self._next_look = facts["known_us"], facts["next_look"]
        self.counters = dict.fromkeys(COUNTERS, 0) | facts["counters"]
        self.early.restore(facts)
        self.humility.restore(facts)
        for name, (ages, rows) in facts["cohorts"].items():
            self.cohorts[name] = Cohorts(ages)
            self.cohorts[name].restore(np.array(rows, np.int64))


def _lateness_ms(spec: DeploymentSpec) -> int:
    assert spec.outcomes is not None
    return spec.outcomes.final_after_ms - spec.outcomes.horizon_ms


def _arrivals(columns: OutcomeColumns, usable: Mask | None, offset: int) -> Arrivals:
    rows = np.arange(columns.rows) if usable is None else np.flatnonzero(usable)
    return Arrivals(take_outcomes(columns, rows), np.full(len(rows), offset, np.int64), rows.astype(np.int64))


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
