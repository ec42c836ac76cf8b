"""What a deployment version's monitors know: evidence, change points, open alarms.

Pure state machines: no I/O, no clock. Blocks of streams (see :mod:`streams.counting`) are kept as arrays; a *monitor*
(``data_drift``, ``prediction_drift``, ``data_quality``, ``service``) is a subset of the streams with a budget of its
own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streams.baseline import (
    ASSOCIATION_PREFIX,
    ASSOCIATION_ROLE,
    JOINT_ROLE,
    RATE_ROLE,
    SCHEMA,
    Baseline,
)
from streams.blocks import Block, BlockState, compile_block, is_back
from streams.counting import HUMILITY_BLOCKS, QUALITY_BLOCK, RATE_BLOCK, blocks_of
from streams.derived import ASSOCIATION, JOINT
from streams.derived import RATE as RATE_KIND
from streams.history import History
from streams.outcomes.joint import JOINT as JOINT_TABLE
from streams.outcomes.joint import JointTable
from streams.rate import RateMeter
from streams.specification import (
    CONCEPT_DRIFT,
    HUMILITY,
    MONITORS,
    DeploymentSpec,
)
from streams.statistics.arrays import log_sum_exp
from streams.statistics.budget import alarm_threshold_nats
from streams.statistics.evidence import (
    BASE_UNITS_PER_NAT,
    empty_base,
    empty_counts,
    since_log_evidence,
    start_slot,
    tilt_log_evidence,
)
from streams.statistics.layouts import (
    QUALITY,
    QUALITY_REFUSED,
    NumericBins,
)
from streams.weights import importances, stream_weights

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

CAUSE_ODDS = 100.0
"""A stream counts as a cause of an alarm if its own evidence since its change point reaches 100 to 1 for each change
point it could have; by Ville's inequality and the union bound an unchanged one does so with probability below 1/100."""

_NOT_DESCRIBED = (QUALITY_BLOCK, RATE_BLOCK, *HUMILITY_BLOCKS)

ROUNDING_NATS = 1e-6
"""More than floating point can lose in a sum of evidence."""


@dataclass(eq=False)
class Episode:
    """An open alarm: which streams (block, index) caused it and are not yet back within their margin.

    ``baseline_digest``: under which baseline it was raised, where that is not the one in force: the alert that ends it
    must name the incident that the first one named.
    """

    number: int
    fired_us: int
    change_us: int
    first_offset: int
    causes: list[tuple[int, int]]
    baseline_digest: str = ""


@dataclass(eq=False)
class Monitor:
    """One detector of a version: a budgeted average over some of its streams.

    Attributes:
        name: ``data_drift``, ``prediction_drift``, ``data_quality`` or ``service``.
        log_weights: Per block float64[S]: log weight of each stream, -inf for streams of other monitors.
        threshold_nats: Evidence at which it alarms.
        episodes: Alarms so far.
        open: Alarms not resolved.
    """

    name: str
    log_weights: list[Floats]
    threshold_nats: float
    episodes: int = 0
    open: list[Episode] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Alarm:
    """A monitor reached its threshold.

    ``joint_counts``: int64[A * U * V], predictions beside outcomes since the change point of the first cause; None
    where the baseline has no such table.
    """

    monitor: Monitor
    episode: Episode
    log_evidence_nats: float
    causes: list[Cause]
    joint_counts: Counts | None = None


@dataclass(frozen=True, eq=False)
class Cause:
    """A stream behind an alarm, with its counts since its change point."""

    block: int
    index: int
    share: float
    log_evidence_nats: float
    change_us: int
    first_offset: int
    counts: Counts


class Monitors:
    """All monitors of one deployment version on one partition.

    Args:
        spec: The specification in force.
        baseline: The baseline in force.
        now_us: Event time of the first event.
        offset: Offset of the first message.

    ``described``: indices of the blocks that windows describe. The counts of quality follow from those of the values;
    time is not counted in rows; humility has windows of its own. ``block_of``: index of each block by name.
    ``episodes_before``: alarms so far of monitors that are switched off: where one is switched on again, it must not
    give an alarm an id that another had. ``joint``: the table of predictions beside outcomes; ``joint_counts``
    int64[1, A * U * V], its counts in the slot; the history has it after the blocks.
    """

    def __init__(self, spec: DeploymentSpec, baseline: Baseline, now_us: int, offset: int) -> None:
        self.baseline = baseline
        blocks = blocks_of(baseline.streams)
        self.blocks = [compile_block(streams) for streams in blocks.values()]
        self.described = tuple(b for b, name in enumerate(blocks) if name not in _NOT_DESCRIBED)
        self._implied = implied_streams(baseline, self.blocks)
        self.rate = _rate_meter(baseline)
        self._rate_block = list(blocks).index(RATE_BLOCK) if RATE_BLOCK in blocks else -1
        self._refused = next(
            (
                (b, index)
                for b, name in enumerate(blocks)
                for index, stream in enumerate(blocks[name])
                if name == QUALITY_BLOCK and stream.name == SCHEMA
            ),
            None,
        )
        self.block_of = {name: b for b, name in enumerate(blocks)}
        self.states = [BlockState.new(block) for block in self.blocks]
        self.joint = JointTable.of(spec.task, baseline.outcomes)
        self.joint_counts = np.zeros((1, 0 if self.joint is None else self.joint.cells), np.int64)
        self.history = History()
        self.slot_start_us, self.slot_offset = now_us, offset
        self.log_start_mass = -math.inf
        self.monitors: dict[str, Monitor] = {}
        self.episodes_before: dict[str, int] = {}
        self._compile_monitors(spec)
        self._muted_blocks: list[int] = []
        self._silent: NDArray[np.bool_] | None = None

    def put_in_force(self, spec: DeploymentSpec) -> tuple[bool, list[tuple[Monitor, Episode]]]:
        """Change budget and importances; alarms stay open, but for those of monitors that are switched off.

        Where the humility rules are switched on or off that is no matter of other evidence, which goes on.

        M/c + N - sum b/c is the supermartingale behind the bound; where the threshold c falls M falls with it, or a
        larger budget would spend evidence that was gathered under the smaller one.

        Returns:
            Whether evidence so far, bet with other weights, had to be given up; and the alarms that were closed.
        """
        before = self.monitors
        self._compile_monitors(spec)
        closed = []
        for name, monitor in before.items():
            if name not in self.monitors:
                self.episodes_before[name] = monitor.episodes
                closed += [(monitor, episode) for episode in monitor.open]
                for b, index in {cause for episode in monitor.open for cause in episode.causes}:
                    self._mute(b, index, muted=False)
        others = self._bet_otherwise(before)
        if others <= {HUMILITY}:
            for name in self.monitors.keys() - others:
                self._lower(self.monitors[name], before[name].threshold_nats - self.monitors[name].threshold_nats)
            mine = {self.block_of[name] for name in HUMILITY_BLOCKS if others and name in self.block_of}
            for at in mine:  # no other monitor has a part in them
                self.states[at].base = empty_base(self.blocks[at].bets)
            return False, closed
        for state, block in zip(self.states, self.blocks, strict=True):
            state.base = empty_base(block.bets)
        return True, closed

    def _bet_otherwise(self, before: Mapping[str, Monitor]) -> set[str]:
        """The monitors that are new or gone, or have other weights."""
        both = before.keys() & self.monitors.keys()
        changed = before.keys() ^ self.monitors.keys()
        for name in both:
            weights = zip(before[name].log_weights, self.monitors[name].log_weights, strict=True)
            if not all(np.array_equal(b, a) for b, a in weights):
                changed.add(name)
        return changed

    def _lower(self, monitor: Monitor, nats: float) -> None:
        """Lower a monitor's evidence."""
        if nats <= 0:
            return
        for state, weights in zip(self.states, monitor.log_weights, strict=True):
            mine = np.isfinite(weights)
            lowered = np.floor((state.base[mine].astype(np.float64) - nats) * BASE_UNITS_PER_NAT) / BASE_UNITS_PER_NAT
            state.base[mine] = lowered.astype(np.float32)

    def continue_episodes(self, earlier: Monitors) -> None:
        """Count episodes on from those under an earlier baseline: where one returns, so must no alert's id."""
        known = earlier.episodes_before | {name: monitor.episodes for name, monitor in earlier.monitors.items()}
        self.episodes_before = {name: count for name, count in known.items() if name not in self.monitors}
        for name, monitor in self.monitors.items():
            monitor.episodes = known.get(name, 0)

    def muted_streams(self) -> int:
        """How many streams belong to an open alarm."""
        return sum(int(self.states[b].muted.sum()) for b in self._muted_blocks)

    def _compile_monitors(self, spec: DeploymentSpec) -> None:
        self.slot_us = spec.start_slot_ms * 1000
        streams = [stream for block in self.blocks for stream in block.streams]
        splits = np.cumsum([len(block.streams) for block in self.blocks])[:-1]
        importance = importances(spec, self.baseline)
        budget, known, compiled = spec.false_alarms, self.monitors, {}
        rows: list[Floats] = []
        for name in MONITORS:
            weights = stream_weights(name, streams, importance)
            share = spec.monitor_share(name)
            if name in spec.disabled_monitors or share <= 0 or not weights.any():
                continue
            with np.errstate(divide="ignore"):
                rows.append(np.log(weights))
            threshold = alarm_threshold_nats(budget.count, budget.per_ms, spec.start_slot_ms, share, spec.shards)
            before = known.get(name)
            episodes, alarms = (before.episodes, before.open) if before else (self.episodes_before.pop(name, 0), [])
            compiled[name] = Monitor(name, [], threshold, episodes, alarms)
        self.monitors = compiled
        self._log_weights = np.array(rows).reshape(len(compiled), len(streams))
        for monitor, row in zip(compiled.values(), self._log_weights, strict=True):
            monitor.log_weights = np.split(row, splits)
        self._thresholds = np.array([monitor.threshold_nats for monitor in compiled.values()])

    def start(self, now_us: int, offset: int, log_start_mass: float) -> None:
        """Begin a start slot, before its first event is counted."""
        if any(state.slot_counts.any() for state in self.states):
            closed = [*(state.slot_counts for state in self.states), self.joint_counts]
            self.history.append(self.slot_start_us, self.slot_offset, closed)
        self.slot_start_us, self.slot_offset = now_us, offset
        self.log_start_mass = log_start_mass
        self.joint_counts = np.zeros_like(self.joint_counts)
        for b, (block, state) in enumerate(zip(self.blocks, self.states, strict=True)):
            if b == self._rate_block:
                state.slot_counts = empty_counts(block.bets)
            else:
                # where nothing came since the last start, that one does for this slot too: evidence of a stream that
                # is silent must not grow
                silent = (state.slot_counts.sum(axis=1) == 0) & np.isfinite(state.base).any(axis=1)
                before = state.base
                state.base, state.slot_counts = start_slot(block.bets, before, state.slot_counts, log_start_mass)
                state.base[silent] = before[silent]

    def count(self, counts: Sequence[Counts]) -> None:
        """Take in the events of one slot: per block int64[S, K]."""
        for state, block_counts in zip(self.states, counts, strict=True):
            state.slot_counts += block_counts
        for b in self._muted_blocks:
            state = self.states[b]
            state.resolve_counts[state.muted] += counts[b][state.muted]

    def count_blocks(self, counts: Mapping[str, Counts]) -> None:
        """Take in what was not counted row by row as predictions came: by the block's name int64[S, K]."""
        for name, block_counts in counts.items():
            if name == JOINT_TABLE:
                self.joint_counts += block_counts
                continue
            b = self.block_of.get(name)
            if b is None:
                continue
            state = self.states[b]
            state.slot_counts += block_counts
            state.resolve_counts[state.muted] += block_counts[state.muted]

    def count_refused(self, rows: int) -> None:
        """Take in rows that could not be read."""
        if self._refused is not None:
            b, index = self._refused
            self._count_one(b, index, np.bincount([QUALITY_REFUSED], [rows], QUALITY.size).astype(np.int64))

    def take_time(self, clock_us: NDArray[np.int64], *, unbroken: bool) -> bool:
        """Take in the rows of one slot by the clock at each; see :meth:`streams.rate.RateMeter.take`.

        Returns:
            Whether an interval ended.
        """
        return self.rate is not None and self._count_intervals(self.rate.take(clock_us, unbroken=unbroken))

    def pass_over(self, interval: int) -> bool:
        """Nothing came until an interval of time began; returns as :meth:`take_time`."""
        return self.rate is not None and self._count_intervals(self.rate.pass_over(interval))

    def _count_intervals(self, codes: NDArray[np.uint8]) -> bool:
        """Count intervals that ended, uint8[m] by their bins.

        There are few of them in a start slot, and a silence has no slots at all: so the start mass of a slot is spread
        evenly over its intervals, and each is a start of its own. The mass of a slot's time stays what it was.
        """
        b = self._rate_block
        block, state = self.blocks[b], self.states[b]
        for code in codes.tolist():
            one = np.bincount([code], minlength=block.layout.size)[None].astype(np.int64)
            state.base, _ = start_slot(block.bets, state.base, one, self._log_interval_mass())
            self._count_one(b, 0, one[0])
        return bool(codes.size)

    def _log_interval_mass(self) -> float:
        assert self.rate is not None
        return self.log_start_mass + math.log(min(1.0, self.rate.interval_us / self.slot_us))

    def _count_one(self, b: int, index: int, counts: Counts) -> None:
        state = self.states[b]
        state.slot_counts[index] += counts
        if state.muted[index]:
            state.resolve_counts[index] += counts

    def alarms(self, now_us: int) -> list[Alarm]:
        """Look for alarms. A monitor that fires starts anew; its causes are muted until they are back to normal."""
        tilts = [
            tilt_log_evidence(
                block.bets, state.base, state.slot_counts if b != self._rate_block else state.slot_counts * 0
            )
            for b, (block, state) in enumerate(zip(self.blocks, self.states, strict=True))
        ]
        near = self._near_threshold(tilts)
        if not near:
            return []
        evidence = [log_sum_exp(values) for values in tilts]
        fired = []
        for monitor in near:
            weighted = [
                np.where(state.silent, -np.inf, e + w)
                for e, w, state in zip(evidence, monitor.log_weights, self.states, strict=True)
            ]
            total = float(log_sum_exp(np.concatenate(weighted)))
            if total >= monitor.threshold_nats and (alarm := self._fire(monitor, weighted, total, now_us)):
                fired.append(alarm)
        return fired

    def _near_threshold(self, tilts: Sequence[Floats]) -> list[Monitor]:
        """The monitors that may alarm: a sum is at most its largest term times the number of terms."""
        best = np.concatenate([np.maximum.reduce(values, axis=1) for values in tilts])
        if self._silent is not None:
            best[self._silent] = -np.inf
        room = math.log(sum(values.size for values in tilts)) + ROUNDING_NATS
        largest = np.maximum.reduce(self._log_weights + best, axis=1)
        near = (largest + room >= self._thresholds).tolist()
        return [monitor for monitor, is_near in zip(self.monitors.values(), near, strict=True) if is_near]

    def _fire(self, monitor: Monitor, weighted: list[Floats], total: float, now_us: int) -> Alarm | None:
        causes = []
        top = max(float(w.max()) for w in weighted)
        boundaries = [(self.slot_start_us, self.slot_offset)]
        boundaries += [(past.start_us, past.offset) for past in reversed(self.history.blocks)]
        for b, (block, state) in enumerate(zip(self.blocks, self.states, strict=True)):
            since = self.history.since(b, state.slot_counts)
            own = np.stack([since_log_evidence(block.bets, counts) for counts in since])
            # the latest of equally likely boundaries: a stream whose past was forgotten has zeros there
            change = own.argmax(axis=0)
            for index in np.flatnonzero(np.isfinite(weighted[b])).tolist():
                at = int(change[index])
                log_evidence = float(own[at, index])
                if log_evidence < np.log(CAUSE_ODDS * len(own)) and weighted[b][index] < top:
                    continue
                if not since[at, index].any():
                    continue  # starts without events are evidence of nothing
                change_us, first_offset = boundaries[at]
                causes.append(
                    Cause(
                        block=b,
                        index=index,
                        share=float(np.exp(weighted[b][index] - total)),
                        log_evidence_nats=log_evidence,
                        change_us=change_us,
                        first_offset=first_offset,
                        counts=since[at, index].copy(),
                    )
                )
        if not causes:
            return None
        implied = {i for c in causes for i in self._implied.get((c.block, c.index), ())}
        causes = [cause for cause in causes if (cause.block, cause.index) not in implied] or causes
        causes.sort(key=lambda cause: (-cause.share, cause.block, cause.index))
        joint_counts = self._joint_since(causes[0].change_us) if monitor.name == CONCEPT_DRIFT else None
        monitor.episodes += 1
        episode = Episode(
            number=monitor.episodes,
            fired_us=now_us,
            change_us=causes[0].change_us,
            first_offset=causes[0].first_offset,
            causes=[(cause.block, cause.index) for cause in causes],
        )
        monitor.open.append(episode)
        for b, state in enumerate(self.states):
            state.base[np.isfinite(monitor.log_weights[b])] = -np.inf
        for b, index in episode.causes:
            self._mute(b, index, muted=True)
        return Alarm(monitor, episode, total, causes, joint_counts)

    def _joint_since(self, start_us: int) -> Counts | None:
        """Counts int64[A * U * V] of predictions beside outcomes since a slot began."""
        if self.joint is None:
            return None
        since = [block.counts[-1] for block in self.history.blocks if block.start_us >= start_us]
        return np.asarray(sum((part[0].astype(np.int64) for part in since), self.joint_counts[0].copy()))

    def is_alarmed(self, *names: str) -> bool:
        """Whether one of these monitors has an open alarm."""
        return any(monitor.open for name, monitor in self.monitors.items() if name in names)

    @property
    def alarmed(self) -> tuple[str, ...]:
        """The monitors that have an open alarm."""
        return tuple(name for name, monitor in self.monitors.items() if monitor.open)

    def give_up(self) -> list[tuple[Monitor, Episode]]:
        """Close every open alarm: what is normal is being redefined."""
        closed = [(monitor, episode) for monitor in self.monitors.values() for episode in monitor.open]
        for monitor in self.monitors.values():
            monitor.open = []
        return closed

    def hush(self) -> None:
        """Silence the causes of open alarms and what changes with them; what may speak again begins anew."""
        silent = [state.muted.copy() for state in self.states]
        for cause, implied in self._implied.items():
            if self.states[cause[0]].muted[cause[1]]:
                for b, index in implied:
                    silent[b][index] = True
        for state, now in zip(self.states, silent, strict=True):
            state.base[state.silent & ~now] = -np.inf
            state.silent = now
        self._muted_blocks = [b for b, state in enumerate(self.states) if state.muted.any()]
        self._silent = np.concatenate(silent) if self._muted_blocks else None

    def _mute(self, b: int, index: int, *, muted: bool) -> None:
        """Mute or unmute a stream; either way its evidence and its past begin anew."""
        state = self.states[b]
        state.muted[index] = muted
        self.hush()
        state.base[index] = -np.inf
        state.slot_counts[index] = 0
        state.resolve_counts[index] = 0
        self.history.forget(b, index)

    def resolutions(self) -> list[tuple[Monitor, Episode]]:
        """Look for alarms whose causes are all back within their margins, with 95 % confidence each."""
        if not self._muted_blocks:
            return []
        for b in self._muted_blocks:
            block, state = self.blocks[b], self.states[b]
            muted = np.flatnonzero(state.muted)
            ready = muted[state.resolve_counts[muted].sum(axis=1) >= block.rows_to_resolve[muted]]
            for index in ready.tolist():
                self._look_back(b, index)
        resolved = []
        for monitor in self.monitors.values():
            for episode in [e for e in monitor.open if not e.causes]:
                monitor.open.remove(episode)
                resolved.append((monitor, episode))
        return resolved

    def _look_back(self, b: int, index: int) -> None:
        state = self.states[b]
        if not is_back(self.blocks[b], index, state.resolve_counts[index]):
            state.resolve_counts[index] = 0
            return
        self._mute(b, index, muted=False)
        for monitor in self.monitors.values():
            for episode in monitor.open:
                if (b, index) in episode.causes:
                    episode.causes.remove((b, index))


def implied_streams(baseline: Baseline, blocks: Sequence[Block]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """What changes along with a stream (block, index): it is not another cause, and is silent while that one is muted.

    With a feature its association with the prediction and the distance of whole rows; with the prediction all
    associations; with any stream the same in parts of the traffic.
    """
    inputs = {d.name: d.inputs for d in baseline.derived if d.kind in (JOINT, ASSOCIATION)}
    implied: dict[str, list[tuple[int, int]]] = {}
    places: dict[tuple[int, int], str] = {}
    for b, block in enumerate(blocks):
        for index, stream in enumerate(block.streams):
            if stream.role == JOINT_ROLE:
                sources: Sequence[str] = inputs[JOINT]
            elif stream.role == ASSOCIATION_ROLE:
                sources = inputs[stream.name.removeprefix(ASSOCIATION_PREFIX)]
            elif stream.segment:
                sources = (stream.name,)
            else:
                places[b, index] = stream.name
                continue
            for name in sources:
                implied.setdefault(name, []).append((b, index))
    return {place: implied[name] for place, name in places.items() if name in implied}


def _rate_meter(baseline: Baseline) -> RateMeter | None:
    derived = next((d for d in baseline.derived if d.kind == RATE_KIND), None)
    stream = next((s for s in baseline.streams if s.role == RATE_ROLE), None)
    if derived is None or stream is None or not isinstance(stream.bins, NumericBins):
        return None
    return RateMeter(derived, stream.bins)
