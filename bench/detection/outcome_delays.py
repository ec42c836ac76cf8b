"""How long it takes until outcomes show a change, against what information theory allows.

A baseline is learnt from 20,000 pairs, production changes with its first pair, and the monitor of the streams works
under the threshold of the fleet of :mod:`bench.detection.fleet`. Two limits stand beside the delay: log(c) / KL of the
change itself, for a detector that knows both laws and takes every change seriously; and the same for the streams as
they are binned, beyond the margin that is in force, as in :mod:`bench.detection.delays`. The delay is held to the
second, that of each trial's own baseline. Labels that stop or slow down are found among cohorts of predictions, hour by
hour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bench.detection.delays import SCALE_BOUND, normal_divergence
from bench.detection.outcomes import HOUR_US, REFERENCE_PAIRS, learn
from bench.detection.simulation import FLEET_THRESHOLD
from bench.report import Figure, figure, print_table, within
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from streams.baseline import FAIRNESS_ROLE, LABELS_ROLE, OUTCOME_ROLE, Baseline, BaselineSegment
from streams.counting import LABELS_BLOCK, blocks_of
from streams.monitor import Monitors
from streams.outcomes.cohorts import Cohorts
from streams.outcomes.evidence import OutcomeCounter
from streams.reference import build_baseline
from streams.specification import (
    BINARY,
    CONCEPT_DRIFT,
    FAIRNESS,
    LABELS,
    REGRESSION,
    DeploymentSpec,
    FalseAlarmBudget,
    OutcomeSpec,
)
from streams.statistics.arrays import Floats
from streams.statistics.budget import best_growth_nats
from streams.statistics.layouts import reference_probabilities
from streams.statistics.performance.pairs import Pairs, Predicted

STEPS_TO_LIMIT = 60
LARGEST = 3.0
"""Production goes on for so many times the limit."""

LONGEST = 50_000
"""A change that takes longer even at the limit is within the margin, or nearly."""

MARGIN_COST = 3.0
"""Where the margin makes the limit longer than so many times that without one, the change lies at its edge, and it is a
matter of luck on which side a reference puts it: measured, but not held to a bound."""

GROWTH_PAIRS = 150_000
TRIALS_PER_REFERENCE = 4
ROLES = {CONCEPT_DRIFT: OUTCOME_ROLE, FAIRNESS: FAIRNESS_ROLE}
HORIZON_HOURS = 48
PREDICTIONS_PER_HOUR = 100
REFERENCE_HOURS = 400

Integers = NDArray[np.int64]
Draw = Callable[[np.random.Generator, int, bool], Pairs]


@dataclass(frozen=True)
class Change:
    """``draw(rng, pairs, changed)``; ``divergence`` in nats per pair of the change itself."""

    name: str
    draw: Draw
    divergence: float
    task: str = BINARY
    monitor: str = CONCEPT_DRIFT
    segments: tuple[BaselineSegment, ...] = field(default=())


def measure(seed: int, quick: bool) -> list[Figure]:
    """All figures on delay of outcomes."""
    trials = 4 if quick else 12
    changes = [*_accuracy(), *_calibration(), *_residuals(), *_fairness()]
    if quick:
        changes = [change for change in changes if change.divergence > 0.01]
    figures, table = [], []
    for number, change in enumerate(changes):
        row, cells = _delay(np.random.default_rng([seed, 8, number]), change, trials)
        figures += row
        table.append(cells)
    columns = ("change", "mean delay, pairs", "log(c) / KL", "ratio", "beyond the margin, binned", "ratio", "found")
    title = f"Outcomes after a change, all learnt from {REFERENCE_PAIRS:,} pairs, c = {np.exp(FLEET_THRESHOLD):.2g}"
    print_table(title, columns, table)
    return [*figures, *_labels(np.random.default_rng([seed, 9]), trials)]


def _spec(change: Change) -> DeploymentSpec:
    return _at_threshold(
        DeploymentSpec(
            "d",
            "m",
            change.task,
            (),
            positive_class="1" if change.task == BINARY else None,
            outcomes=OutcomeSpec(horizon_ms=86_400_000, fairness=tuple(segment.name for segment in change.segments)),
        ),
        change.monitor,
    )


def _at_threshold(spec: DeploymentSpec, monitor: str) -> DeploymentSpec:
    """The same with a monitor that alarms at the fleet's threshold."""
    starts = spec.false_alarms.per_ms / spec.start_slot_ms
    count = starts * float(np.exp(-FLEET_THRESHOLD)) / spec.monitor_share(monitor)
    return dataclasses.replace(spec, false_alarms=FalseAlarmBudget(count=count))


def _delay(rng: np.random.Generator, change: Change, trials: int) -> tuple[list[Figure], tuple[str, ...]]:
    spec = _spec(change)
    large = change.draw(rng, GROWTH_PAIRS, True)
    plain = FLEET_THRESHOLD / change.divergence
    delays, limits, found = [], [], 0
    for trial in range(trials):
        if trial % TRIALS_PER_REFERENCE == 0:
            baseline = learn(change.draw(rng, REFERENCE_PAIRS, False), spec, segments=change.segments)
            growth = _growth(spec, baseline, large, change.monitor)
        if growth < FLEET_THRESHOLD / LONGEST:
            continue
        limit = FLEET_THRESHOLD / growth
        pairs = change.draw(rng, int(LARGEST * limit), True)
        alarm = _first_alarm(spec, baseline, pairs, max(10, round(limit / STEPS_TO_LIMIT)), change.monitor)
        found += alarm is not None
        delays.append(pairs.rows if alarm is None else alarm)
        limits.append(limit)
    if not limits:
        return [], (change.name, "within the margin", f"{plain:,.0f}", "", "", "", "")
    mean, limit, share = float(np.mean(delays)), float(np.mean(limits)), found / trials
    row = figure(
        f"outcomes: delay over the limit beyond the margin, {change.name}",
        mean / limit,
        "ratio",
        at_most=_bound(baseline, change.monitor) if limit <= MARGIN_COST * plain else None,
        note=f"{mean:,.0f} pairs, log(c) over the best growth beyond the margin: {limit:,.0f}; log(c) / KL of the "
        f"change itself: {plain:,.0f}; found in {share:.0%} of {trials} trials",
    )
    ratio = within(row, f"{row['value']:.2f}")
    cells = (
        change.name, f"{mean:,.0f}", f"{plain:,.0f}", f"{mean / plain:.2f}", f"{limit:,.0f}", ratio, f"{share:.0%}"
    )  # fmt: skip
    return [row], cells


def _bound(baseline: Baseline, monitor: str) -> float:
    """That of changes which are no plain shift, where a stream has the evidence to itself; here it has its share."""
    streams = sum(stream.role == ROLES[monitor] for stream in baseline.streams)
    return round(SCALE_BOUND * (1 + float(np.log(streams)) / FLEET_THRESHOLD), 2)


def _growth(spec: DeploymentSpec, baseline: Baseline, pairs: Pairs, monitor: str) -> float:
    """The growth per pair of the stream that a change moves most, beyond its margin.

    Of the tail of losses, whose nominal law is heavier than the true one, it is more than any bet on larger losses has.
    """
    counts, best = OutcomeCounter(spec, baseline).count(pairs), 0.0
    for name, streams in blocks_of(baseline.streams).items():
        if name not in counts:
            continue
        p0 = reference_probabilities(np.array([stream.counts for stream in streams]))
        for stream, own, p in zip(streams, counts[name], p0, strict=True):
            if stream.role == ROLES[monitor] and own.sum():
                # a stream of some of the pairs grows with its own
                growth = best_growth_nats(own / own.sum(), p, stream.margin_tv) * own.sum() / pairs.rows
                best = max(best, growth)
    return float(best)


def _first_alarm(spec: DeploymentSpec, baseline: Baseline, pairs: Pairs, step: int, monitor: str) -> int | None:
    counter, monitors = OutcomeCounter(spec, baseline), Monitors(spec, baseline, 0, 0)
    for first in range(0, pairs.rows, step):
        monitors.start(first, first, 0.0)
        monitors.count_blocks(counter.count(pairs.take(np.arange(first, min(first + step, pairs.rows)))))
        if any(alarm.monitor.name == monitor for alarm in monitors.alarms(first)):
            return min(first + step, pairs.rows)
    return None


def _pairs(rng: np.random.Generator, scores: Floats, labels: Floats, actual: Floats, **parts: Floats) -> Pairs:
    rows = len(actual)
    ages = (rng.gamma(4.0, 0.5, rows) * HOUR_US).astype(np.int64)
    return Pairs(
        Predicted(scores, labels.astype(np.int64)),
        actual.astype(np.float64),
        np.arange(rows, dtype=np.int64) * HOUR_US,
        ages,
        np.ones(rows),
        np.full(rows, 255, np.uint8),
        rng.random(rows),
        {name: part.astype(np.int64) for name, part in parts.items()},
    )


def _bernoulli(q: Floats | float, p: Floats | float) -> float:
    """Mean of KL(Bernoulli(q) || Bernoulli(p)), nats."""
    return float(np.mean(q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))))


def _accuracy() -> list[Change]:
    def change(accuracy: float) -> Change:
        def draw(rng: np.random.Generator, rows: int, changed: bool) -> Pairs:
            predicted = rng.random(rows) < 0.5
            right = rng.random(rows) < (accuracy if changed else 0.9)
            return _pairs(rng, np.full((rows, 1), np.nan), predicted, predicted == right)

        return Change(f"accuracy .90 to {accuracy:.2f}".replace(" 0.", " ."), draw, _bernoulli(accuracy, 0.9))

    return [change(accuracy) for accuracy in (0.87, 0.85, 0.80)]


def _calibration() -> list[Change]:
    def change(name: str, relation: Callable[[Floats], Floats]) -> Change:
        def draw(rng: np.random.Generator, rows: int, changed: bool) -> Pairs:
            z = 1.3 * rng.normal(size=rows) - 1
            bad = rng.random(rows) < expit(relation(z) if changed else z)
            return _pairs(rng, expit(z)[:, None], z >= 0, bad)

        z = 1.3 * np.random.default_rng(0).normal(size=200_000) - 1
        return Change(name, draw, _bernoulli(expit(relation(z)), expit(z)))

    return [
        change("calibration, logits + 0.5", lambda z: z + 0.5),
        change("calibration, logits + 1", lambda z: z + 1),
        change("calibration, logits × 0.5", lambda z: 0.5 * z - 0.5),
    ]


def _residuals() -> list[Change]:
    def change(bias: float, scale: float) -> Change:
        def draw(rng: np.random.Generator, rows: int, changed: bool) -> Pairs:
            predicted = 3 * rng.normal(size=rows)
            noise = rng.normal(size=rows)
            actual = predicted + (bias + scale * noise if changed else noise)
            scores = np.stack([predicted, np.full(rows, np.nan), np.full(rows, np.nan)], axis=1)
            return _pairs(rng, scores, np.full(rows, -1.0), actual)

        name = f"residuals × {scale}" if scale != 1 else f"residuals + {bias} sd"
        return Change(name, draw, normal_divergence(bias, scale), REGRESSION)

    return [change(0.2, 1.0), change(0.5, 1.0), change(0.0, 1.3)]


def _fairness() -> list[Change]:
    segment = BaselineSegment("group", "group", ("a", "b"))

    def change(true_positive: float) -> Change:
        def draw(rng: np.random.Generator, rows: int, changed: bool) -> Pairs:
            part = rng.random(rows) < 0.3
            actual = rng.random(rows) < 0.4
            rate = np.where(actual, np.where(part & changed, true_positive, 0.8), 0.1)
            scores = np.full((rows, 1), np.nan)
            return _pairs(rng, scores, rng.random(rows) < rate, actual, group=part.astype(np.float64))

        name = f"true positives of a group of 30 %: .80 to {true_positive:.2f}".replace(" 0.", " .")
        return Change(name, draw, 0.12 * _bernoulli(true_positive, 0.8), BINARY, FAIRNESS, (segment,))

    return [change(0.7), change(0.6)]


@dataclass(frozen=True)
class Delivery:
    """What becomes of the labels of predictions after the change: ages times ``slower``, a share ``lost``; ``stops``:
    none come any more, of earlier predictions neither.
    """

    name: str
    slower: float = 1.0
    lost: float = 0.0
    stops: bool = False


def _labels(rng: np.random.Generator, trials: int) -> list[Figure]:
    """Labels that stop coming, slow down, or get lost: hours until the alarm."""
    outcomes = OutcomeSpec(horizon_ms=HORIZON_HOURS * 3_600_000)
    spec = DeploymentSpec("d", "m", BINARY, (), positive_class="1", outcomes=outcomes)
    figures, table = [], []
    for delivery in (
        Delivery("none come any more", stops=True),
        Delivery("take 50 % longer", slower=1.5),
        Delivery("a fifth never comes", lost=0.2),
    ):
        delays = []
        for _ in range(trials):
            baseline = _label_baseline(rng, spec)
            delays.append(_hours_to_label_alarm(rng, spec, baseline, delivery))
        limit = _label_limit(spec, baseline, delivery)
        raised = [hours for hours in delays if hours is not None]
        mean = float(np.mean(raised)) if raised else float("inf")
        row = figure(
            f"outcomes: hours over the limit until the alarm, labels {delivery.name}",
            mean / limit,
            "ratio",
            at_most=2.0,
            note=f"{mean:.1f} h, limit {limit} h; found in {len(raised)} of {trials} trials",
        )
        figures.append(row)
        ratio = within(row, f"{row['value']:.2f}")
        table.append((delivery.name, f"{mean:.1f}", f"{limit}", ratio, f"{len(raised) / trials:.0%}"))
    title = (
        f"Labels, {PREDICTIONS_PER_HOUR} predictions an hour, on average known after 2.3 h, one false alarm in 30 days "
        "allowed: hours since the change"
    )
    print_table(title, ("labels", "mean hours", "limit", "ratio", "found"), table)
    return figures


def _delivered(
    rng: np.random.Generator, hours: int, delivery: Delivery | None
) -> tuple[np.ndarray, np.ndarray, Floats]:
    """Event times int64[n], ages int64[n] and outcomes; -1 for labels that never come."""
    rows = hours * PREDICTIONS_PER_HOUR
    times = np.sort((rng.random(rows) * hours * HOUR_US).astype(np.int64))
    bad = rng.random(rows) < 0.3
    age = rng.gamma(4.0, 0.5, rows) * (1 + 0.6 * bad) * (1 if delivery is None else delivery.slower)
    ages = (age * HOUR_US).astype(np.int64) + 1
    lost = 0.02 if delivery is None else max(delivery.lost, 0.02)
    return times, np.where(rng.random(rows) < lost, -1, ages), bad.astype(np.float64)


def _label_baseline(rng: np.random.Generator, spec: DeploymentSpec) -> Baseline:
    times, ages, bad = _delivered(rng, REFERENCE_HOURS, None)
    ids = [str(at) for at in range(len(times))]
    start = 1_700_000_000_000_000 // HOUR_US * HOUR_US
    predictions = PredictionColumns("d", "1", ids, start + times, {}, prediction=rng.random(len(ids)))
    known = np.flatnonzero(ages >= 0)
    codes = CategoricalColumn(["0", "1"], bad[known].astype(np.int32))
    outcomes = OutcomeColumns(
        "d", [ids[at] for at in known.tolist()], (start + times + ages)[known], actual_label=codes
    )
    return build_baseline(spec, "1", [predictions], source="simulated", outcomes=[outcomes])


def _label_ages(baseline: Baseline) -> Sequence[int]:
    derived = next(d for d in baseline.derived if d.kind == LABELS_ROLE)
    return [int(age) for age in derived.arrays["ages_us"]]


def _hours_to_label_alarm(
    rng: np.random.Generator, spec: DeploymentSpec, baseline: Baseline, delivery: Delivery
) -> int | None:
    """Hours from the change to the alarm, looked for every hour; a day passes before the change."""
    before, after = 24, 96
    times, ages, _ = _delivered(rng, before, None)
    later, later_ages, _ = _delivered(rng, after, delivery)
    times, ages = np.concatenate([times, before * HOUR_US + later]), np.concatenate([ages, later_ages])
    known = np.where(ages < 0, np.iinfo(np.int64).max, times + ages)
    if delivery.stops:
        known[known > before * HOUR_US] = np.iinfo(np.int64).max
    cohorts, monitors = Cohorts(_label_ages(baseline)), Monitors(spec, baseline, 0, 0)
    for hour in range(before + after):
        begin, end = hour * HOUR_US, (hour + 1) * HOUR_US
        monitors.start(begin, hour, 0.0)
        cohorts.add_predictions(times[(times >= begin) & (times < end)], HOUR_US)
        now = (known >= begin) & (known < end)
        cohorts.add_outcomes(times[now], ages[now], HOUR_US)
        counts = cohorts.look(end)
        if counts is not None:
            monitors.count_blocks({LABELS_BLOCK: counts})
        if any(alarm.monitor.name == LABELS for alarm in monitors.alarms(end)):
            return hour + 1 - before if hour >= before else None
    return None


def _label_limit(spec: DeploymentSpec, baseline: Baseline, delivery: Delivery) -> int:
    """Hours until a cohort that was made after the change is looked at, and as many cohorts as log(c) over the best
    growth of any stream asks for. Where labels stop, cohorts that were made before lack theirs, too, and tell sooner.
    """
    _, ages, _ = _delivered(np.random.default_rng(1), 4_000, delivery)
    label_ages = _label_ages(baseline)
    late = np.where((ages < 0) | delivery.stops, np.iinfo(np.int64).max, ages)
    threshold = Monitors(spec, baseline, 0, 0).monitors[LABELS].threshold_nats
    best, before = float("inf"), -1
    streams = [stream for stream in baseline.streams if stream.role == LABELS_ROLE]
    for age_us, stream in zip(label_ages, streams, strict=True):
        waiting = late > before
        known = float((late[waiting] <= age_us).mean())
        p1 = np.zeros(len(stream.counts))
        p1[:2] = known, 1 - known
        growth = best_growth_nats(p1, reference_probabilities(stream.counts[None])[0], stream.margin_tv)
        if growth > 0:
            cohort = growth * float(waiting.mean()) * PREDICTIONS_PER_HOUR
            best = min(best, age_us / HOUR_US + float(np.ceil(threshold / cohort)))
        before = age_us
    return int(np.ceil(best))
