"""What the rules do as streams of the evidence engine, and what an alarm about them says in words.

The streams of role ``humility`` watch the watcher: each guarantee holds for as long as nothing has changed since it was
fitted, and these are the rates that would show it. They are compared with the reference's, so what is counted is what
the rules in force say of a row, whoever decided it and whatever alarms are open: see
:class:`streams.humility.judge.Judged`. Only ``humility:disagreement`` is about the publishers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.humility.rules import OVERRIDDEN, REFUSED, ROUTED, Rule
from streams.baseline import Baseline, BaselineStream
from streams.counting import HUMILITY_BLOCK, MISCOVERAGE, blocks_of
from streams.humility.judge import Judged
from streams.monitor import Alarm, Cause, Monitors
from streams.specification import DeploymentSpec
from streams.statistics.layouts import CATEGORICAL, CategoricalBins, dictionary_lookup

Counts = NDArray[np.int64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]

RULE_PREFIX = "humility:rule:"
ABSTAINED, OVERRIDDEN_STREAM, DISAGREEMENT = "humility:abstained", "humility:overridden", "humility:disagreement"
"""Names of the streams that are counted with the rows of predictions."""

YES, NO = "yes", "no"
"""Their categories."""

MOST_NAME_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class _Counted:
    """A stream that is counted: its row in the block, the rule it is about (-1 for none), its bins for yes and no."""

    row: int
    name: str
    rule: int
    bins: tuple[int, int]


class RulesCounter:
    """Counts the decisions on rows of predictions in the streams of a baseline.

    Where the rules are not those that were fitted any more, their rates cannot be compared with the reference's: until
    they are fitted again only disagreement is counted, which the reference has none of, whatever the rules.
    """

    def __init__(self, spec: DeploymentSpec, baseline: Baseline, rules: Sequence[Rule]) -> None:
        streams = blocks_of(baseline.streams).get(HUMILITY_BLOCK, ())
        fit, asked = baseline.humility, spec.humility
        fitted = fit is not None and asked is not None and fit.spec_digest == asked.digest()
        names = {f"{RULE_PREFIX}{rule.name}": number for number, rule in enumerate(rules)}
        self._size = len(streams)
        self._counted = [
            _Counted(row, stream.name, names.get(stream.name, -1), _yes_and_no(stream))
            for row, stream in enumerate(streams)
            if stream.name == DISAGREEMENT
            or (fitted and (stream.name in names or stream.name in (ABSTAINED, OVERRIDDEN_STREAM)))
        ]

    def count(self, judged: Judged, index: Codes | None, groups: int) -> Counts | None:
        """Counts int64[G, S, 23] of n rows; None where there is no such stream.

        Args:
            judged: What was decided.
            index: int64[n], group of each row, -1 for rows that do not count; None for one group of all rows.
            groups: Number of groups, G.
        """
        if not self._counted:
            return None
        counts = np.zeros((groups, self._size, CATEGORICAL.size), np.int64)
        for counted in self._counted:
            among, yes = _observed(counted, judged)
            for g in range(groups):
                mine = among if index is None else among & (index == g)
                seen, said = int(np.count_nonzero(mine)), int(np.count_nonzero(mine & yes))
                counts[g, counted.row, counted.bins[0]] += said
                counts[g, counted.row, counted.bins[1]] += seen - said
        return counts


def _observed(counted: _Counted, judged: Judged) -> tuple[Mask, Mask]:
    """Which rows a stream counts, and where it says yes, bool[n] each."""
    actions = judged.watched_actions
    if counted.name == DISAGREEMENT:
        return judged.judged, judged.stale | judged.disagrees
    everything = np.ones(len(actions), np.bool_)
    if counted.name == ABSTAINED:
        return everything, (actions == REFUSED) | (actions == ROUTED)
    if counted.name == OVERRIDDEN_STREAM:
        return everything, actions == OVERRIDDEN
    return everything, (judged.watched_fired >> np.uint64(counted.rule)) & np.uint64(1) == 1


def _yes_and_no(stream: BaselineStream) -> tuple[int, int]:
    assert isinstance(stream.bins, CategoricalBins)
    yes, no, _ = dictionary_lookup(stream.bins, (YES, NO)).tolist()
    return yes, no


@dataclass(frozen=True, slots=True)
class Strays:
    """What publishers did of late that the rules in force do not say.

    Attributes:
        stale: Rows that were decided by rules that are not in force.
        disagreeing: Rows that were decided otherwise than the same rules say.
        revision: The latest revision that stale rows named; None for none.
        in_force: The revision in force.
    """

    stale: int
    disagreeing: int
    revision: int | None
    in_force: int


def reason_of(monitors: Monitors, alarm: Alarm, strays: Strays) -> str:
    """An alarm of the humility monitor in plain words, the strongest cause first."""
    return "; ".join(_words(monitors.blocks[c.block].streams[c.index], c, strays) for c in alarm.causes)


def _words(stream: BaselineStream, cause: Cause, strays: Strays) -> str:
    if stream.name == DISAGREEMENT:
        return _about_publishers(cause, stream, strays)
    now, before = _share(stream, cause.counts), _share(stream, stream.counts)
    if stream.name.startswith(RULE_PREFIX):
        name = stream.name.removeprefix(RULE_PREFIX)[:MOST_NAME_CHARACTERS]
        return f"rule {name} fires on {now} of predictions, {before} in the reference"
    if stream.name == ABSTAINED:
        return f"{now} of predictions are refused or routed to people, {before} in the reference"
    if stream.name == OVERRIDDEN_STREAM:
        return f"{now} of predictions are overridden, {before} in the reference"
    if stream.name == MISCOVERAGE:
        return f"{now} of actual values lie outside of the fitted intervals, {before} in the reference"
    return f"{stream.label[:MOST_NAME_CHARACTERS]}: {now} of predictions, {before} in the reference"


def _about_publishers(cause: Cause, stream: BaselineStream, strays: Strays) -> str:
    if strays.stale and strays.stale >= strays.disagreeing:
        if strays.revision == strays.in_force:
            return (
                f"publishers decide by another fit of their rules than the one in force, of revision {strays.in_force}"
            )
        named = "unknown" if strays.revision is None else f"revision {strays.revision}"
        return f"publishers decide by rules that are not in force: {named}, in force {strays.in_force}"
    return f"publishers decide otherwise than their rules say on {_share(stream, cause.counts)} of predictions"


def _share(stream: BaselineStream, counts: Counts) -> str:
    """The share of yes, as a percentage."""
    yes, _ = _yes_and_no(stream)
    return f"{100 * counts[yes] / max(int(counts.sum()), 1):.3g} %"
