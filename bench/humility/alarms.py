"""The end of a guarantee: how long until the ``humility`` monitor notices that its assumption no longer holds?

Novelty and selective risk are guaranteed for traffic like the calibration's. Here production changes with its first
row, under the threshold of the fleet of :mod:`bench.detection.fleet`, and rows are judged and counted by the code of
the streams. The limit is log(c) over the best growth of any stream of the monitor beyond its margin, as in
:mod:`bench.detection.outcome_delays`; so is the factor that it is held to. The limit of changes that are visible in the
inputs would be shorter for other monitors: this one looks at decisions, which is what was promised.

Where nothing changes, alarms are counted for a hundred times the rows of the longest limit.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.detection.delays import SCALE_BOUND
from bench.detection.simulation import FLEET_THRESHOLD
from bench.humility.source import Change, bare_baseline, draw, outcomes, specification
from bench.report import Figure, figure, print_table, within
from driftline.events import PredictionColumns
from driftline.humility.rules import Guarantees
from services.publish.reading import take
from streams.baseline import HUMILITY_ROLE
from streams.counting import HUMILITY_BLOCK, MISCOVERAGE_BLOCK, blocks_of
from streams.humility.evidence import RulesCounter
from streams.humility.fit import fit_humility
from streams.humility.judge import Judge
from streams.monitor import Monitors
from streams.specification import HUMILITY, DeploymentSpec, FalseAlarmBudget
from streams.statistics.arrays import Counts
from streams.statistics.budget import best_growth_nats
from streams.statistics.layouts import CATEGORICAL, reference_probabilities

REFERENCE_ROWS = 20_000
STEP_ROWS = 50
LARGEST = 3.0
LONGEST = 40_000
UNCHANGED_ROWS = 200_000
YES, NO = 0, 1

CHANGES = {
    "3 % of rows of a new kind": Change(new_kinds=0.03),
    "10 % of rows of a new kind": Change(new_kinds=0.10),
    "features go together no longer": Change(correlation=0.0),
    "features 1.5 times as wide": Change(scale=1.5),
    "a third of the scores in the middle": Change(less_sure=0.33),
    "half the skill (miscoverage)": Change(skill=0.5),
}


class Setting:
    """A deployment with a fitted baseline, and its streams."""

    def __init__(self, rng: np.random.Generator) -> None:
        asked = Guarantees(novelty_rate=0.01, max_error=0.1, coverage=0.9, segment="region")
        columns, actual = draw(rng, REFERENCE_ROWS)
        self.spec = _at_threshold(specification(asked))
        self.baseline = fit_humility(
            self.spec, bare_baseline(), [columns], [outcomes(columns, actual)], source="bench"
        )  # fmt: skip
        self.judge = Judge(self.spec, self.baseline)
        self.counter = RulesCounter(self.spec, self.baseline, self.judge.policy.rules)

    def count(self, columns: PredictionColumns, actual: np.ndarray) -> dict[str, Counts]:
        """Counts int64[S, 23] of some rows by block, whose outcomes are known at once."""
        policy = self.judge.policy
        judged = self.judge.judge(columns, policy.start_quantiles, 0)
        counts = self.counter.count(judged, None, 1)
        assert counts is not None
        assert columns.prediction is not None
        static = np.array([policy.start_quantiles[group] for group in policy.groups])[judged.groups]
        missed = np.where(actual, 1 - columns.prediction, columns.prediction) > static
        of_missed = np.zeros((1, CATEGORICAL.size), np.int64)
        of_missed[0, YES], of_missed[0, NO] = missed.sum(), (~missed).sum()
        return {HUMILITY_BLOCK: counts[0], MISCOVERAGE_BLOCK: of_missed}


def measure(seed: int, quick: bool) -> list[Figure]:
    """All figures on the monitor."""
    trials = 3 if quick else 12
    figures, table = [], []
    changes = dict(list(CHANGES.items())[1:3] + list(CHANGES.items())[4:]) if quick else CHANGES
    for number, (name, change) in enumerate(changes.items()):
        row, cells = _delay(np.random.default_rng([seed, 7, number]), name, change, trials)
        figures += row
        table.append(cells)
    print_table(
        f"Rows until the humility monitor alarms, fitted to {REFERENCE_ROWS:,} rows, c = {np.exp(FLEET_THRESHOLD):.2g}",
        ("change", "mean delay, rows", "limit beyond the margin", "ratio", "strongest stream", "found"),
        table,
    )
    return [*figures, _unchanged(np.random.default_rng([seed, 8]), UNCHANGED_ROWS // (4 if quick else 1))]


def _at_threshold(spec: DeploymentSpec) -> DeploymentSpec:
    """The same with a monitor that alarms at the fleet's threshold."""
    starts = spec.false_alarms.per_ms / spec.start_slot_ms
    count = starts * float(np.exp(-FLEET_THRESHOLD)) / spec.monitor_share(HUMILITY)
    return dataclasses.replace(spec, false_alarms=FalseAlarmBudget(count=count))


def _delay(
    rng: np.random.Generator, name: str, change: Change, trials: int
) -> tuple[list[Figure], tuple[str, ...]]:  # fmt: skip
    delays, limits, found, strongest = [], [], 0, ""
    for trial in range(trials):
        if trial % 3 == 0:
            setting = Setting(rng)
            growth, strongest = _growth(setting, *draw(rng, 30_000, change))
        if growth < FLEET_THRESHOLD / LONGEST:
            continue
        limit = FLEET_THRESHOLD / growth
        rows = max(int(LARGEST * limit), 20 * STEP_ROWS)
        alarm = first_alarm(setting, *draw(rng, rows, change), max(1, round(limit / 60)))
        found += alarm is not None
        delays.append(rows if alarm is None else alarm)
        limits.append(limit)
    if not limits:
        return [], (name, "within the margin", "", "", "", "")
    mean, limit = float(np.mean(delays)), float(np.mean(limits))
    streams = sum(stream.role == HUMILITY_ROLE for stream in setting.baseline.streams)
    row = figure(
        f"alarms: delay over the limit, {name}",
        mean / limit,
        "ratio",
        # a stream has its share of the evidence, not all of it
        at_most=round(SCALE_BOUND * (1 + float(np.log(streams)) / FLEET_THRESHOLD), 2),
        note=f"{mean:,.0f} rows, limit {limit:,.0f}; found in {found / len(limits):.0%} of {len(limits)} trials",
    )
    ratio = within(row, f"{row['value']:.2f}")
    return [row], (name, f"{mean:,.0f}", f"{limit:,.0f}", ratio, strongest, f"{found / len(limits):.0%}")


def _growth(setting: Setting, columns: PredictionColumns, actual: np.ndarray) -> tuple[float, str]:
    """The growth per row of the stream that a change moves most, beyond its margin, and its name."""
    best = (0.0, "none")
    blocks = blocks_of(setting.baseline.streams)
    for name, counts in setting.count(columns, actual).items():
        for stream, own in zip(blocks[name], counts, strict=True):
            if not own.any():
                continue  # no publisher decided, so none decided otherwise
            p0 = reference_probabilities(stream.counts[None])[0]
            best = max(best, (float(best_growth_nats(own / own.sum(), p0, stream.margin_tv)), stream.name))
    return best


def first_alarm(setting: Setting, columns: PredictionColumns, actual: np.ndarray, step: int) -> int | None:
    """Rows until the monitor alarms, looked at every so many; None if it does not."""
    monitors = Monitors(setting.spec, setting.baseline, 0, 0)
    for first in range(0, columns.rows, step):
        own = np.arange(first, min(first + step, columns.rows))
        monitors.start(first, first, 0.0)
        monitors.count_blocks(setting.count(take(columns, own), actual[own]))
        if any(alarm.monitor.name == HUMILITY for alarm in monitors.alarms(first)):
            return int(own[-1]) + 1
    return None


def _unchanged(rng: np.random.Generator, rows: int) -> Figure:
    """Alarms where nothing changes, on a budget of one in so many starts as there are rows."""
    setting, alarms, done = Setting(rng), 0, 0
    while done < rows:
        part = min(20_000, rows - done)
        alarms += first_alarm(setting, *draw(rng, part), STEP_ROWS) is not None
        done += part
    return figure("alarms: where nothing changed", alarms, "alarms", at_most=0, note=f"{rows:,} rows")
