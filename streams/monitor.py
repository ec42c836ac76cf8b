"""What a deployment version's monitors know: evidence, change points, open alarms.

Pure state machines: no I/O, no clock. Blocks of streams that share a layout are kept as arrays; a *monitor*
(``data_drift``, ``prediction_drift``) is a subset of the streams with a budget of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streams.baseline import FEATURE, Baseline, BaselineStream
from streams.history import History
from streams.specification import DATA_DRIFT, PREDICTION_DRIFT, DeploymentSpec
from streams.statistics import distances
from streams.statistics.arrays import log_sum_exp
from streams.statistics.budget import alarm_threshold_nats
from streams.statistics.counting import NumericBlock, stack_numeric
from streams.statistics.evidence import (
    Bets,
    empty_base,
    empty_counts,
    make_bets,
    monitor_log_weights,
    since_log_evidence,
    start_slot,
    tilt_log_evidence,
)
from streams.statistics.layouts import (
    CATEGORICAL,
    NUMERIC,
    CategoricalBins,
    Layout,
    NumericBins,
    reference_probabilities,
)
from streams.statistics.tilts import tilts_of

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

CAUSE_ODDS = 100.0
"""A stream counts as a cause of an alarm if its own evidence since its change point reaches 100 to 1 for each change
point it could have; by Ville's inequality and the union bound an unchanged one does so with probability below 1/100."""

CONFIDENCE_ERROR = 0.05
"""Confidence limits are given at 95 %."""

ROUNDING_NATS = 1e-6
"""More than floating point can lose in a sum of evidence."""


@dataclass(frozen=True, eq=False)
class Block:
    """Streams of one layout, side by side.

    Attributes:
        layout: Their layout, K bins.
        streams: S baseline streams.
        p0: float64[S, K], baseline distribution.
        bets: What the detectors bet on.
        numeric: The cuts, for the numeric layout.
        independence: float64[S], independent events per event: the median tempering of the tilts that can be bet on.
        rows_to_resolve: int64[S], events after which an unchanged stream can be told to be back within its margin.
    """

    layout: Layout
    streams: tuple[BaselineStream, ...]
    p0: Floats
    bets: Bets
    numeric: NumericBlock | None
    independence: Floats
    rows_to_resolve: Counts

    @property
    def categorical_bins(self) -> list[CategoricalBins]:
        """The categories of each stream, for the categorical layout."""
        return [stream.bins for stream in self.streams if isinstance(stream.bins, CategoricalBins)]


def compile_block(layout: Layout, streams: Sequence[BaselineStream]) -> Block:
    """Lay out the streams of one layout for counting and betting."""
    counts = np.array([stream.counts for stream in streams])
    margin = np.array([stream.margin_tv for stream in streams])
    tempering = np.array([stream.tempering for stream in streams])
    p0 = reference_probabilities(counts)
    bets = make_bets(tilts_of(layout), counts, margin, tempering)
    independence = np.nanmedian(np.where(np.isfinite(bets.log_weights), tempering, np.nan), axis=1)
    resolve = distances.rows_to_resolve(p0, margin, CONFIDENCE_ERROR) / independence
    cuts = [stream.bins for stream in streams if isinstance(stream.bins, NumericBins)]
    return Block(
        layout=layout,
        streams=tuple(streams),
        p0=p0,
        bets=bets,
        numeric=stack_numeric(cuts) if layout is NUMERIC else None,
        independence=independence,
        rows_to_resolve=np.ceil(resolve).astype(np.int64),
    )


@dataclass(eq=False)
class BlockState:
    """What is known of a block's streams; see :mod:`streams.statistics.evidence` for the arrays.

    ``muted``: bool[S], streams of an open alarm. ``resolve_counts``: int64[S, K], counts of a muted stream since the
    last look at whether it is back within its margin.
    """

    base: Floats
    slot_counts: Counts
    muted: NDArray[np.bool_]
    resolve_counts: Counts

    @classmethod
    def new(cls, block: Block) -> BlockState:
        """The state before the first event."""
        return cls(
            base=empty_base(block.bets),
            slot_counts=empty_counts(block.bets),
            muted=np.zeros(block.bets.streams, dtype=bool),
            resolve_counts=empty_counts(block.bets),
        )


@dataclass(eq=False)
class Episode:
    """An open alarm: which streams (block, index) caused it and are not yet back within their margin."""

    number: int
    fired_us: int
    change_us: int
    first_offset: int
    causes: list[tuple[int, int]]


@dataclass(eq=False)
class Monitor:
    """One detector of a version: a budgeted average over some of its streams.

    Attributes:
        name: ``data_drift`` or ``prediction_drift``.
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
    """A monitor reached its threshold."""

    monitor: Monitor
    episode: Episode
    log_evidence_nats: float
    causes: list[Cause]


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
    """

    def __init__(self, spec: DeploymentSpec, baseline: Baseline, now_us: int, offset: int) -> None:
        self.baseline = baseline
        self.blocks = [
            compile_block(layout, streams)
            for layout in (NUMERIC, CATEGORICAL)
            if (streams := [stream for stream in baseline.streams if stream.layout is layout])
        ]
        self.states = [BlockState.new(block) for block in self.blocks]
        self.history = History()
        self.slot_start_us, self.slot_offset = now_us, offset
        self.monitors: dict[str, Monitor] = {}
        self._compile_monitors(spec)

    def put_in_force(self, spec: DeploymentSpec) -> bool:
        """Change budget and importances; alarms stay open.

        Returns:
            Whether evidence so far, bet with other weights, had to be given up.
        """
        before = {name: monitor.log_weights for name, monitor in self.monitors.items()}
        self._compile_monitors(spec)
        after = {name: monitor.log_weights for name, monitor in self.monitors.items()}
        if all(np.array_equal(b, a) for name in after for b, a in zip(before[name], after[name], strict=True)):
            return False
        for state, block in zip(self.states, self.blocks, strict=True):
            state.base = empty_base(block.bets)
        return True

    def continue_episodes(self, earlier: Monitors) -> None:
        """Count episodes on from those under an earlier baseline: where one returns, so must no alert's id."""
        for name, monitor in self.monitors.items():
            if name in earlier.monitors:
                monitor.episodes = earlier.monitors[name].episodes

    def muted_streams(self) -> int:
        """How many streams belong to an open alarm."""
        return sum(int(state.muted.sum()) for state in self.states)

    def _compile_monitors(self, spec: DeploymentSpec) -> None:
        importance = {feature.name: feature.importance for feature in spec.features}
        for name, role in ((DATA_DRIFT, FEATURE), (PREDICTION_DRIFT, "prediction")):
            weights = [
                np.array([_importance(stream, role, importance) for stream in block.streams]) for block in self.blocks
            ]
            if not any(np.isfinite(w).any() for w in weights):
                continue
            flat = np.concatenate(weights)
            mine = np.isfinite(flat)
            flat[mine] = monitor_log_weights(flat[mine])
            splits = np.cumsum([len(w) for w in weights])[:-1]
            budget = spec.false_alarms
            threshold = alarm_threshold_nats(
                budget.count, budget.per_ms, spec.start_slot_ms, budget.monitor_share(name), spec.shards
            )
            known = self.monitors.get(name)
            self.monitors[name] = Monitor(
                name,
                np.split(flat, splits),
                threshold,
                known.episodes if known else 0,
                known.open if known else [],
            )

    def start(self, now_us: int, offset: int, log_start_mass: float) -> None:
        """Begin a start slot, before its first event is counted."""
        if any(state.slot_counts.any() for state in self.states):
            self.history.append(self.slot_start_us, self.slot_offset, [state.slot_counts for state in self.states])
        self.slot_start_us, self.slot_offset = now_us, offset
        for block, state in zip(self.blocks, self.states, strict=True):
            state.base, state.slot_counts = start_slot(block.bets, state.base, state.slot_counts, log_start_mass)

    def count(self, counts: Sequence[Counts]) -> None:
        """Take in the events of one slot: per block int64[S, K]."""
        for state, block_counts in zip(self.states, counts, strict=True):
            state.slot_counts += block_counts
            if state.muted.any():
                state.resolve_counts[state.muted] += block_counts[state.muted]

    def alarms(self, now_us: int) -> list[Alarm]:
        """Look for alarms. A monitor that fires starts anew; its causes are muted until they are back to normal."""
        tilts = [
            tilt_log_evidence(block.bets, state.base, state.slot_counts)
            for block, state in zip(self.blocks, self.states, strict=True)
        ]
        near = self._near_threshold(tilts)
        if not near:
            return []
        evidence = [log_sum_exp(values) for values in tilts]
        fired = []
        for monitor in near:
            weighted = [
                np.where(state.muted, -np.inf, e + w)
                for e, w, state in zip(evidence, monitor.log_weights, self.states, strict=True)
            ]
            total = float(log_sum_exp(np.concatenate(weighted)))
            if total >= monitor.threshold_nats:
                fired.append(self._fire(monitor, weighted, total, now_us))
        return fired

    def _near_threshold(self, tilts: Sequence[Floats]) -> list[Monitor]:
        """The monitors that may alarm: a sum is at most its largest term times the number of terms."""
        best = [np.maximum.reduce(values, axis=1) for values in tilts]
        for values, state in zip(best, self.states, strict=True):
            values[state.muted] = -np.inf
        room = math.log(sum(values.size for values in tilts)) + ROUNDING_NATS
        return [
            monitor
            for monitor in self.monitors.values()
            if max(float(np.maximum.reduce(b + w)) for b, w in zip(best, monitor.log_weights, strict=True)) + room
            >= monitor.threshold_nats
        ]

    def _fire(self, monitor: Monitor, weighted: list[Floats], total: float, now_us: int) -> Alarm:
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
        causes.sort(key=lambda cause: (-cause.share, cause.block, cause.index))
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
        return Alarm(monitor, episode, total, causes)

    def give_up(self) -> list[tuple[Monitor, Episode]]:
        """Close every open alarm: what is normal is being redefined."""
        closed = [(monitor, episode) for monitor in self.monitors.values() for episode in monitor.open]
        for monitor in self.monitors.values():
            monitor.open = []
        return closed

    def _mute(self, b: int, index: int, *, muted: bool) -> None:
        """Mute or unmute a stream; either way its evidence and its past begin anew."""
        state = self.states[b]
        state.muted[index] = muted
        state.base[index] = -np.inf
        state.slot_counts[index] = 0
        state.resolve_counts[index] = 0
        self.history.forget(b, index)

    def resolutions(self) -> list[tuple[Monitor, Episode]]:
        """Look for alarms whose causes are all back within their margins, with 95 % confidence each."""
        if not any(state.muted.any() for state in self.states):
            return []
        for b, (block, state) in enumerate(zip(self.blocks, self.states, strict=True)):
            ready = state.muted & (state.resolve_counts.sum(axis=1) >= block.rows_to_resolve)
            for index in np.flatnonzero(ready).tolist():
                self._look_back(b, index)
        resolved = []
        for monitor in self.monitors.values():
            for episode in [e for e in monitor.open if not e.causes]:
                monitor.open.remove(episode)
                resolved.append((monitor, episode))
        return resolved

    def _look_back(self, b: int, index: int) -> None:
        block, state = self.blocks[b], self.states[b]
        counts = state.resolve_counts[index]
        events = counts.sum() * block.independence[index]
        observed = distances.total_variation(counts, block.p0[index])
        upper = distances.tv_upper_limit(observed, events, CONFIDENCE_ERROR)
        if upper > block.streams[index].margin_tv:
            state.resolve_counts[index] = 0
            return
        self._mute(b, index, muted=False)
        for monitor in self.monitors.values():
            for episode in monitor.open:
                if (b, index) in episode.causes:
                    episode.causes.remove((b, index))


def _importance(stream: BaselineStream, role: str, importance: dict[str, float]) -> float:
    """Weight of a stream in a monitor; -inf marks a stream of another one."""
    if stream.role != role:
        return -np.inf
    return importance.get(stream.name, stream.importance)
