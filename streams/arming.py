"""Arming a baseline: its monitors are tried on its own reference before they are put in force.

The reference is counted by the very code that counts production, in steps; :mod:`streams.statistics.arming` replays
it. Streams that break their monitor's bound are tempered more; a stream that nothing helps gets a margin of one, within
which everything lies: it is still counted and described, and raises no alarm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.events import PredictionColumns
from streams.baseline import RATE_ROLE, Arming, Baseline, BaselineStream
from streams.counting import RowCounter, blocks_of
from streams.rate import fit_rate
from streams.specification import MONITORS, DeploymentSpec
from streams.statistics.arming import Armed, ReplayBlock, arm, steps_of
from streams.statistics.dependence import SMALLEST_TEMPERING
from streams.statistics.evidence import rounded_down
from streams.statistics.layouts import NumericBins, bin_numeric
from streams.statistics.tilts import tilts_of
from streams.weights import importances, stream_weights

REFUSED_MARGIN = 1.0
"""The margin of a stream that arming refused: no distribution is further away than that."""

Counts = NDArray[np.int64]


def arm_baseline(spec: DeploymentSpec, baseline: Baseline, columns: Sequence[PredictionColumns]) -> Baseline:
    """Replay the reference of a baseline through its monitors, and widen or refuse what breaks their bounds.

    Args:
        spec: Gives the weights of the streams.
        baseline: As it was learnt; its digest is not looked at.
        columns: The reference it was learnt from.

    Returns:
        The same with its arming, the tempering and margins that are to be in force, and its digest.
    """
    blocks = list(blocks_of(baseline.streams).values())
    return arm_streams(spec, baseline, blocks, _counts_in_steps(spec, baseline, blocks, columns))


def arm_streams(
    spec: DeploymentSpec, baseline: Baseline, blocks: Sequence[Sequence[BaselineStream]], counts: Sequence[Counts]
) -> Baseline:
    """Replay some streams of a baseline through their monitors; what these showed is added to its arming.

    Args:
        spec: Gives the weights of the streams.
        baseline: As it was learnt; its digest is not looked at.
        blocks: All streams of the monitors that are tried, each block of one layout.
        counts: Per block int64[T, S, K], the reference in T steps in order, the same T for all blocks.

    Returns:
        As :func:`arm_baseline`.
    """
    streams = [stream for block in blocks for stream in block]
    importance = importances(spec, baseline)
    seed = int(dataclasses.replace(baseline, arming=()).content_digest()[:16], 16)
    changed: dict[int, BaselineStream] = {}
    arming = []
    for monitor in MONITORS:
        weights = stream_weights(monitor, streams, importance)
        if not weights.any():
            continue
        chosen, replayed = _replay_blocks(blocks, counts, weights)
        armed = arm(replayed, seed)
        factors = np.concatenate(armed.factors)
        for stream, factor in zip(chosen, factors.tolist(), strict=True):
            if factor < 1:
                changed[id(stream)] = _widened(stream, factor)
        arming.append(_record(monitor, armed))
    armed_baseline = dataclasses.replace(
        baseline,
        streams=tuple(changed.get(id(stream), stream) for stream in baseline.streams),
        arming=(*baseline.arming, *arming),
        digest="",
    )
    return dataclasses.replace(armed_baseline, digest=armed_baseline.content_digest())


def is_refused(stream: BaselineStream) -> bool:
    """Whether arming refused the stream: it is described, and raises no alarm."""
    return stream.margin_tv >= REFUSED_MARGIN


def refused(baseline: Baseline) -> dict[str, list[BaselineStream]]:
    """The streams that arming refused, by monitor."""
    streams = [stream for stream in baseline.streams if is_refused(stream)]
    if not streams:
        return {}
    equal = {stream.name: 1.0 for stream in streams}
    of_monitor = {
        monitor: [s for s, weight in zip(streams, stream_weights(monitor, streams, equal), strict=True) if weight > 0]
        for monitor in MONITORS
    }
    return {monitor: found for monitor, found in of_monitor.items() if found}


def _widened(stream: BaselineStream, factor: float) -> BaselineStream:
    if factor == 0:
        return dataclasses.replace(stream, margin_tv=REFUSED_MARGIN)
    return dataclasses.replace(
        stream, tempering=rounded_down(np.maximum(stream.tempering * factor, SMALLEST_TEMPERING))
    )


def _record(monitor: str, armed: Armed) -> Arming:
    return Arming(monitor, armed.starts, armed.alarms, armed.bound, armed.widened, armed.threshold_nats)


def _replay_blocks(
    blocks: Sequence[Sequence[BaselineStream]], counts: Sequence[Counts], weights: NDArray[np.float64]
) -> tuple[list[BaselineStream], list[ReplayBlock]]:
    """The streams of one monitor, and the same as they are replayed."""
    chosen: list[BaselineStream] = []
    replayed = []
    first = 0
    for block, block_counts in zip(blocks, counts, strict=True):
        own = weights[first : first + len(block)]
        first += len(block)
        at = np.flatnonzero(own)
        if not at.size:
            continue
        members = [block[i] for i in at.tolist()]
        chosen += members
        replayed.append(
            ReplayBlock(
                tilts=tilts_of(members[0].layout),
                counts=block_counts[:, at],
                margin=np.array([stream.margin_tv for stream in members]),
                tempering=np.array([stream.tempering for stream in members]),
                log_weights=np.log(own[at]),
            )
        )
    return chosen, replayed


def _counts_in_steps(
    spec: DeploymentSpec,
    baseline: Baseline,
    blocks: Sequence[Sequence[BaselineStream]],
    columns: Sequence[PredictionColumns],
) -> list[Counts]:
    """Per block int64[T, S, K]: the reference in steps of equally many rows, in event order."""
    times = np.concatenate([batch.timestamps_us for batch in columns])
    steps = steps_of(len(times), len(baseline.streams))
    step = np.empty(len(times), np.int64)
    order = np.argsort(times, kind="stable")
    step[order] = np.arange(len(times)) * steps // len(times)
    counts = [np.zeros((steps, len(block), block[0].layout.size), np.int64) for block in blocks]
    counter = RowCounter(baseline)
    after = 0
    for batch in columns:
        own = step[after : after + batch.rows]
        after += batch.rows
        if not batch.rows:
            continue
        first, groups = int(own.min()), int(own.max() - own.min()) + 1
        for total, part in zip(counts, counter.count(counter.read(batch), own - first, groups), strict=True):
            total[first : first + groups] += part
    _add_rate(spec, blocks, counts, times[order])
    return counts


def _add_rate(
    spec: DeploymentSpec,
    blocks: Sequence[Sequence[BaselineStream]],
    counts: Sequence[Counts],
    times: NDArray[np.int64],
) -> None:
    """Put the reference's intervals of time into the steps: the stream ``rate`` does not count rows."""
    for block, total in zip(blocks, counts, strict=True):
        if block[0].role != RATE_ROLE or not isinstance(block[0].bins, NumericBins):
            continue
        fitted = fit_rate(times, spec.shards)
        if fitted is None:
            continue
        codes = bin_numeric(block[0].bins, fitted[1])
        steps, layout = len(total), block[0].layout
        place = np.arange(len(codes)) * steps // len(codes)
        cells = np.bincount(place * layout.size + codes, minlength=steps * layout.size)
        total[:, 0] += cells.reshape(steps, layout.size)
