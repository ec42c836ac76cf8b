"""What a reference's outcomes show: how late they come, how good the model was, and the streams that watch both.

Predictions that are younger than the horizon when the reference ends are left out: their outcomes have not had their
time, and those that are there already are no fair sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import UNKNOWN_ACTED_ON, OutcomeColumns, PredictionColumns
from driftline.limits import no_probability
from streams.baseline import LABELS_ROLE, Baseline, BaselineSegment, BaselineStream, OutcomeReference
from streams.derived import Derived
from streams.errors import BaselineError
from streams.outcomes.ages import (
    LABEL_CATEGORIES,
    LabelAges,
    age_bucket,
    age_edges,
    age_text,
    final_age,
    label_codes,
    learn_label_ages,
)
from streams.outcomes.classes import learn_classes
from streams.outcomes.evidence import learn_streams
from streams.outcomes.expected import expected_of, learn_expected_loss
from streams.outcomes.keys import Keys, id_keys
from streams.outcomes.matching import NEVER, Matched, Outcomes, first_of_each, match, members
from streams.outcomes.reading import jitter, performance_layout, read_actual, read_predicted
from streams.outcomes.scores import SCORE_EDGES, learn_calibration, learn_score_buckets, learn_score_edges
from streams.outcomes.sizes import check_parts
from streams.parts import MINIMUM_PART_ROWS, part_codes
from streams.specification import OTHER_TASK, REGRESSION, DeploymentSpec, OutcomeSpec
from streams.statistics.dependence import tempering
from streams.statistics.evidence import rounded_down
from streams.statistics.layouts import CATEGORICAL, CategoricalBins, count_codes
from streams.statistics.margins import reference_radius
from streams.statistics.performance.grid import from_grid
from streams.statistics.performance.pairs import Pairs, PerformanceLayout, Predicted
from streams.statistics.performance.sums import Sums, add, count_pairs, count_predictions
from streams.statistics.tilts import tilts_of

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

LEAST_PAIRS = 200
"""Fewer predictions with an outcome leave margins so wide that nothing would be found."""

LOW_COVERAGE = 0.6
"""Of a reference of which a smaller share has outcomes these may be no fair sample, and it says so."""

REFERENCE_ERROR_PROBABILITY = 1e-3
"""Probability that a stream's true distribution lies outside the margin that its reference's size gives."""


@dataclass(frozen=True, eq=False, slots=True)
class LearntOutcomes:
    """What a reference's outcomes gave.

    Attributes:
        reference: For the baseline.
        streams: The streams of losses, calibration, outcomes, fairness and labels.
        derived: What the streams ``labels:j`` need besides.
        pairs: The reference's predictions beside their outcomes, in order of arrival.
        known_us: int64[n], per prediction whose horizon had passed, by event time: the age at which its outcome was
            first known; ``NEVER`` for never.
        notices: What is worth telling, in sentences.
    """

    reference: OutcomeReference
    streams: tuple[BaselineStream, ...]
    derived: tuple[Derived, ...]
    pairs: Pairs
    known_us: Integers
    notices: tuple[str, ...]


def learn_outcomes(
    spec: DeploymentSpec,
    baseline: Baseline,
    predictions: Sequence[PredictionColumns],
    outcomes: Sequence[OutcomeColumns],
    *,
    until_us: int | None = None,
) -> LearntOutcomes:
    """Learn from the outcomes of a reference.

    The result is the same whatever the order and the batches of either. A prediction id counts once, by its earliest
    prediction; of its outcomes the last within the horizon counts.

    Args:
        spec: Says which outcomes are expected.
        baseline: What the predictions gave: the parts of the traffic, and the features that are watched.
        predictions: The reference.
        outcomes: Their outcomes, and maybe others.
        until_us: Up to when outcomes are known, where they do not show it themselves.

    Raises:
        BaselineError: Too few predictions have an outcome, or have had their time; or the outcomes are not those of the
            task.
    """
    expected = _expected(spec)
    table = _read(spec, baseline, predictions, outcomes)
    horizon_us = expected.horizon_ms * 1000
    matched = match(table.keys, table.times_us, table.outcomes, horizon_us)
    end_us = _end_us(table, horizon_us, until_us)
    ripe = np.flatnonzero(table.times_us <= end_us - horizon_us)
    _check(spec, table, matched, ripe, end_us)
    resolved = _in_order_of_arrival(table, matched, ripe)
    pairs = _pairs(table, matched, resolved)
    known_us = matched.known_us[ripe]
    reference = OutcomeReference(
        horizon_ms=expected.horizon_ms,
        rows=len(ripe),
        resolved=pairs.rows,
        age_edges_us=age_edges(pairs.ages_us),
        final_age_us=final_age(known_us[known_us != NEVER], horizon_us),
        classes=table.layout.classes,
        score_edges=learn_score_edges(table.layout, table.predicted),
        score_buckets=np.zeros(0),
        calibration=np.zeros(0),
        expected_loss={},
        counts={},
        sums={},
    )
    layout = _layout(spec, reference)
    bucket = age_bucket(reference.age_edges_us, pairs.ages_us)
    reference = dataclasses.replace(
        reference,
        score_buckets=learn_score_buckets(layout, pairs.predicted, bucket),
        calibration=learn_calibration(layout, pairs),
        expected_loss=learn_expected_loss(baseline, predictions, layout, table.rows[resolved], pairs),
    )
    of_ripe = Predicted(table.predicted.scores[ripe], table.predicted.labels[ripe])
    sums = add(
        count_pairs(layout, pairs, bucket, layout.ages),
        count_predictions(
            layout,
            of_ripe,
            np.zeros(len(ripe), np.int64),
            layout.ages,
            calibration=reference.calibration if reference.calibration.size else None,
            expected=expected_of(reference.expected_loss, predictions, table.rows[ripe]),
        ),
    )
    counts, numbers = sums_by_age(sums)
    reference = dataclasses.replace(reference, counts=counts, sums=numbers)
    ages = learn_label_ages(known_us, reference.age_edges_us, reference.final_age_us, horizon_us)
    return LearntOutcomes(
        reference=reference,
        streams=(
            *learn_streams(spec, layout, reference, pairs, baseline.segments),
            *_label_streams(expected, ages, known_us),
        ),
        derived=(ages.to_derived(),),
        pairs=pairs,
        known_us=known_us,
        notices=(*_notices(table, matched, reference, pairs), *_lone_groups(expected, baseline.segments)),
    )


def _expected(spec: DeploymentSpec) -> OutcomeSpec:
    if spec.outcomes is None:
        raise BaselineError(
            f"the specification of {spec.deployment_id!r} expects no outcomes: add outcomes: with their horizon"
        )
    return spec.outcomes


@dataclass(frozen=True, eq=False, slots=True)
class _Table:
    """The reference: n predictions by event time, each id once, and the outcomes that can be used.

    ``rows``: int64[n], the row of each prediction in the batches, one after the other. ``refused``: outcomes that
    cannot be used, the ``refusal`` says why of the first. ``repeated``: predictions of an id that had come before.
    ``unknown``: outcomes of other predictions, left out. ``outcome_times_us``: of all
    outcomes, int64[m].
    """

    layout: PerformanceLayout
    rows: Integers
    keys: Keys
    times_us: Integers
    predicted: Predicted
    parts: Mapping[str, Integers]
    outcomes: Outcomes
    outcome_times_us: Integers
    refused: int
    refusal: str
    repeated: int
    unknown: int


def _read(
    spec: DeploymentSpec,
    baseline: Baseline,
    predictions: Sequence[PredictionColumns],
    outcomes: Sequence[OutcomeColumns],
) -> _Table:
    keys = np.concatenate([id_keys(batch.prediction_ids) for batch in predictions])
    times = np.concatenate([batch.timestamps_us for batch in predictions])
    outcome_keys = [id_keys(batch.prediction_ids) for batch in outcomes]
    ours = members(keys, np.concatenate(outcome_keys))
    per_batch = np.split(ours, np.cumsum([len(part) for part in outcome_keys])[:-1])
    classes = learn_classes(spec, predictions, outcomes, per_batch)
    layout = _layout(spec, _blank(spec, classes))
    check_parts(dataclasses.replace(layout, score_edges=np.arange(1.0, SCORE_EDGES + 1)), baseline.segments)
    read = [read_predicted(layout, batch) for batch in predictions]
    scores = np.concatenate([part.scores for part in read])
    labels = np.concatenate([part.labels for part in read])
    rows = first_of_each(keys, times, labels, *scores.T)
    rows = rows[np.lexsort((keys[rows, 1], keys[rows, 0], times[rows]))]
    actual = [read_actual(layout, batch) for batch in outcomes]
    refusals = [
        text for part, own in zip(actual, per_batch, strict=True) for row, text in part.refusals.items() if own[row]
    ]
    values = np.concatenate([part.values for part in actual])
    outcome_times = np.concatenate([batch.actual_timestamps_us for batch in outcomes])
    usable = ours & np.isfinite(values)
    return _Table(
        layout=layout,
        rows=rows,
        keys=keys[rows],
        times_us=times[rows],
        predicted=Predicted(scores[rows], labels[rows]),
        parts={
            segment.name: np.concatenate([part_codes(segment, batch) for batch in predictions])[rows]
            for segment in baseline.segments
        },
        outcomes=Outcomes(
            keys=np.concatenate(outcome_keys)[usable],
            times_us=outcome_times[usable],
            values=values[usable],
            acted=np.concatenate([_acted(batch) for batch in outcomes])[usable],
            weights=np.concatenate([_weights(batch) for batch in outcomes])[usable],
        ),
        outcome_times_us=outcome_times,
        refused=len(refusals),
        refusal=min(refusals, default=""),
        repeated=len(keys) - len(rows),
        unknown=int((~ours).sum()),
    )


def _blank(spec: DeploymentSpec, classes: tuple[str, ...]) -> OutcomeReference:
    """A reference of which only the classes are known."""
    nothing = np.zeros(0)
    horizon_ms = _expected(spec).horizon_ms
    return OutcomeReference(
        horizon_ms, 0, 0, np.zeros(0, np.int64), 0, classes, nothing, nothing, nothing, {}, {}, {}
    )  # fmt: skip


def _layout(spec: DeploymentSpec, reference: OutcomeReference) -> PerformanceLayout:
    layout = performance_layout(spec, reference)
    assert layout is not None, "outcomes are expected"
    return layout


def _acted(batch: OutcomeColumns) -> NDArray[np.uint8]:
    return np.full(batch.rows, UNKNOWN_ACTED_ON, np.uint8) if batch.was_acted_on is None else batch.was_acted_on


def _weights(batch: OutcomeColumns) -> Floats:
    chances = batch.labelling_probability
    if chances is None:
        return np.ones(batch.rows)
    return np.asarray(1 / np.where(no_probability(chances), 1.0, chances))  # those are not used


def _end_us(table: _Table, horizon_us: int, until_us: int | None) -> int:
    """When the reference ends: its last prediction, or a later outcome.

    Outcomes that are known more than a horizon after the last prediction tell no more than one at that time; so a time
    that is wildly wrong says nothing, but for an end that is too late by a horizon at most.
    """
    last_us = int(table.times_us[-1])
    latest_us = last_us + horizon_us
    later = table.outcome_times_us[table.outcome_times_us <= latest_us]
    return max(int(later.max(initial=last_us)), last_us if until_us is None else min(until_us, latest_us))


def _check(spec: DeploymentSpec, table: _Table, matched: Matched, ripe: Integers, end_us: int) -> None:
    task, horizon = spec.task, age_text(_expected(spec).horizon_ms * 1000)
    said = np.isfinite(table.predicted.scores).any() or (table.predicted.labels >= 0).any()
    if task != OTHER_TASK and not said:
        wanted = "prediction" if task == REGRESSION else "a score, prediction_label or class_probabilities"
        raise BaselineError(
            f"the reference's predictions have no {wanted.removeprefix('a ')} that its outcomes could be compared with "
            f"(task: {task}): name the columns in the specification, or build the baseline without outcomes"
        )
    if not (matched.row >= 0).any():
        raise BaselineError(f"no prediction of the reference has an outcome: {_why_none(table, matched, horizon)}")
    if not len(ripe):
        span = age_text(end_us - int(table.times_us[0]))
        raise BaselineError(
            f"no prediction of the reference has had its time: its outcomes end {span} after its first prediction, the "
            f"horizon is {horizon}. Give outcomes up to a later time, or a shorter horizon (outcomes: horizon:)"
        )
    pairs = int((matched.row[ripe] >= 0).sum())
    if pairs < LEAST_PAIRS:
        raise BaselineError(
            f"a reference with outcomes needs at least {LEAST_PAIRS} predictions with an outcome, better 5,000; of "
            f"{len(ripe):,} that have had their horizon of {horizon}, {pairs:,} have one. Give a longer range, more "
            "outcomes, or build the baseline without outcomes"
        )
    actual = np.unique(table.outcomes.values[matched.row[ripe][matched.row[ripe] >= 0]])
    if table.layout.classes and len(actual) < 2:
        raise BaselineError(
            f"expected outcomes of at least two classes, all {pairs:,} of the reference are "
            f"{table.layout.classes[int(actual[0])]!r}: give a reference in which others happened, too"
        )


def _why_none(table: _Table, matched: Matched, horizon: str) -> str:
    if table.refused:
        return f"{table.refused:,} cannot be used: {table.refusal}"
    if matched.late:
        return f"{matched.late:,} came later than the horizon of {horizon} allows (outcomes: horizon:)"
    return f"all {table.unknown:,} outcomes have other prediction ids"


def _in_order_of_arrival(table: _Table, matched: Matched, ripe: Integers) -> Integers:
    """The predictions with an outcome, int64[m], in the order in which the outcomes became known."""
    resolved = ripe[matched.row[ripe] >= 0]
    known = table.outcomes.times_us[matched.row[resolved]]
    return resolved[np.lexsort((resolved, known))]


def _pairs(table: _Table, matched: Matched, resolved: Integers) -> Pairs:
    rows, outcomes = matched.row[resolved], table.outcomes
    times = table.times_us[resolved]
    return Pairs(
        predicted=Predicted(table.predicted.scores[resolved], table.predicted.labels[resolved]),
        actual=outcomes.values[rows],
        times_us=times,
        ages_us=np.maximum(outcomes.times_us[rows] - times, 0),
        weights=outcomes.weights[rows],
        acted=outcomes.acted[rows],
        jitter=jitter(table.keys[resolved, 1]),
        parts={name: codes[resolved] for name, codes in table.parts.items()},
    )


def sums_by_age(sums: Sums) -> tuple[dict[str, Integers], dict[str, Floats]]:
    """Performance sums of A age buckets as a baseline keeps them: counts int64[A, k], and numbers float64[A, k]."""
    counts, numbers = {}, {}
    for name, array in sums.items():
        flat = array.reshape(len(array), -1)
        if array.dtype == object:
            numbers[name] = np.array([[from_grid(units) for units in row] for row in flat.tolist()], np.float64)
        else:
            counts[name] = flat
    return counts, numbers


def _label_streams(expected: OutcomeSpec, ages: LabelAges, known_us: Integers) -> list[BaselineStream]:
    """The streams ``labels:1`` … ``labels:J``, from the reference's predictions by event time.

    Outcomes are published in runs: a day without any is one observation. The tempering pays for that.
    """
    found = []
    for j in range(len(ages.ages_us)):
        _, codes = label_codes(known_us, ages.ages_us, j)
        counts = count_codes(codes, CATEGORICAL)
        radius = float(reference_radius(counts[None], REFERENCE_ERROR_PROBABILITY, CATEGORICAL)[0])
        found.append(
            BaselineStream(
                name=f"{LABELS_ROLE}:{j + 1}",
                role=LABELS_ROLE,
                layout=CATEGORICAL,
                bins=CategoricalBins(LABEL_CATEGORIES),
                counts=counts,
                margin_tv=max(expected.margin_tv, radius),
                tempering=rounded_down(tempering(codes, tilts_of(CATEGORICAL))),
            )
        )
    return found


def _notices(table: _Table, matched: Matched, reference: OutcomeReference, pairs: Pairs) -> list[str]:
    young = len(table.rows) - reference.rows
    horizon = age_text(reference.horizon_ms * 1000)
    covered = min(float(pairs.weights.sum()) / reference.rows, 1.0)
    found = []
    if young:
        found.append(
            f"{young:,} of {len(table.rows):,} reference predictions are younger than the horizon of {horizon} where "
            "the reference ends, and are left out of what is learnt from outcomes: theirs have not had their time"
        )
    if covered < LOW_COVERAGE:
        found.append(
            f"only {reference.resolved:,} of {reference.rows:,} reference predictions ({covered:.0%}) have an outcome "
            f"within {horizon}: if those are no fair sample of all, neither is what was learnt from them. If only a "
            "sample is ever labelled, publish its labelling_probability"
        )
    told = (
        (table.refused, f"outcomes cannot be used: {table.refusal}"),
        (matched.late, f"outcomes came later than the horizon of {horizon} and do not count"),
        (matched.replaced, "outcomes were replaced by a later one, or repeated"),
        (table.unknown, "outcomes belong to no prediction of the reference"),
        (table.repeated, "predictions repeat an id, and count once for outcomes"),
    )
    return found + [f"{count:,} {what}" for count, what in told if count]


def _lone_groups(expected: OutcomeSpec, segments: Sequence[BaselineSegment]) -> list[str]:
    """Groups of people that are to be compared, and of which the reference has not two."""
    parts = {segment.name: segment.parts for segment in segments}
    return [
        f"fairness of {name!r} compares nothing: "
        + (f"only {parts[name][0]!r} has" if name in parts else "none of its parts has")
        + f" the {MINIMUM_PART_ROWS:,} reference rows that a part needs"
        for name in expected.fairness
        if len(parts.get(name, ())) < 2
    ]
