"""Humility rules that are fitted again: another baseline that differs in nothing else loses no other evidence.

Everything that is watched besides is bet on as before, so its evidence goes on: a stream that did not change has the
same e-values under both baselines, and the supermartingale behind the bound (:mod:`streams.statistics.evidence`) never
notices. Only the monitor of humility begins anew, with the next start slot: its new streams have seen nothing yet.
Windows name the baseline that they were counted against, and are closed as with any other one.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from streams.baseline import HUMILITY_ROLE, Baseline
from streams.counting import HUMILITY_BLOCKS
from streams.history import PastBlock, smallest
from streams.monitor import Episode, Monitor, Monitors
from streams.specification import HUMILITY

REASON = "the humility rules were fitted again"
"""Why an alarm of the humility monitor ends."""


def is_refit(before: Baseline, after: Baseline) -> bool:
    """Whether two baselines of a version differ in nothing but what the humility rules were fitted to."""
    if before.humility is None and after.humility is None:
        return False
    return _without_humility(before) == _without_humility(after)


def _without_humility(baseline: Baseline) -> str:
    """The digest of everything else; ``source`` says where it came from, and not what it is."""
    return dataclasses.replace(
        baseline,
        source="",
        streams=tuple(stream for stream in baseline.streams if stream.role != HUMILITY_ROLE),
        arming=tuple(arming for arming in baseline.arming if arming.monitor != HUMILITY),
        humility=None,
    ).content_digest()


def continue_evidence(before: Monitors, after: Monitors) -> list[tuple[Monitor, Episode]]:
    """Let new monitors go on where those of the same version stand, but for the monitor of humility.

    Args:
        before: The monitors under the earlier fit; not to be used any more.
        after: New ones, under the same specification and a baseline that :func:`is_refit`.

    Returns:
        Alarms of humility, which end.
    """
    after.slot_start_us, after.slot_offset = before.slot_start_us, before.slot_offset
    after.log_start_mass = before.log_start_mass
    after.joint_counts, after.rate = before.joint_counts, before.rate
    for name, b in after.block_of.items():
        if name not in HUMILITY_BLOCKS:
            after.states[b] = before.states[before.block_of[name]]
    after.history.blocks = [_continued(block, before, after) for block in before.history.blocks]
    after.continue_episodes(before)
    closed = []
    for name, monitor in before.monitors.items():
        if name == HUMILITY or name not in after.monitors:
            closed += [(monitor, episode) for episode in monitor.open]
            continue
        after.monitors[name].open = monitor.open
        for episode in monitor.open:
            episode.baseline_digest = episode.baseline_digest or before.baseline.digest
    after.hush()
    return closed


def _continued(past: PastBlock, before: Monitors, after: Monitors) -> PastBlock:
    """What was counted in some slots; nothing in the streams that are new."""
    counts = []
    for name, b in after.block_of.items():
        if name in HUMILITY_BLOCKS:
            counts.append(smallest(np.zeros(after.states[b].slot_counts.shape, np.int64)))
        else:
            counts.append(past.counts[before.block_of[name]])
    return PastBlock(past.start_us, past.offset, past.slots, [*counts, past.counts[-1]])
