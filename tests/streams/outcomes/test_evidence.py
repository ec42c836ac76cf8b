"""Streams of outcomes, against counting pair by pair; and what may not raise an alarm."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from driftline.codec import decode, encode
from streams.baseline import FAIRNESS_ROLE, OUTCOME_ROLE, Baseline, BaselineSegment
from streams.counting import LOSS_BLOCK, OUTCOME_BLOCK, blocks_of
from streams.errors import BaselineError
from streams.outcomes.ages import age_bucket
from streams.outcomes.evidence import (
    CALIBRATION,
    CALIBRATION_SLOPE,
    FALSE_POSITIVE,
    LOSS,
    LOSS_TAIL,
    MINIMUM_ROWS,
    OUTCOME,
    RESIDUAL,
    RESIDUAL_SLOPE,
    SELECTED,
    TRUE_POSITIVE,
    OutcomeCounter,
    condition_of,
)
from streams.specification import BINARY, MULTICLASS, OTHER_TASK, REGRESSION, DeploymentSpec
from streams.statistics.conditional import AGE, AGE_AND_SCORE
from streams.statistics.layouts import LOSS as LOSS_LAYOUT
from streams.statistics.layouts import NUMERIC, NUMERIC_MISSING, bin_numeric, nominal_probabilities
from streams.statistics.performance.pairs import Pairs, Predicted

GROUP = BaselineSegment("group", "group", ("a", "b"))


def changed(pairs: Pairs, **fields: Any) -> Pairs:
    return dataclasses.replace(pairs, **fields)


def in_parts(pairs: Pairs, seed: int = 0) -> Pairs:
    return changed(pairs, parts={"group": np.random.default_rng(seed).integers(-1, 2, pairs.rows)})


def naive_value(name: str, task: str, scored: bool, row: dict[str, Any], bucket: int, buckets: int) -> float | None:
    """The value of one pair for one stream, as the module's table says; None where it has no part in it."""
    score, label, actual, jitter, classes = row["score"], row["label"], row["actual"], row["jitter"], row["scores"]

    def spread(value: float) -> float:
        return float(value + jitter * (2.0**-20 * abs(value) + 1e-290))

    if name == OUTCOME:
        return spread(actual) if task == REGRESSION else actual + jitter
    if name in (LOSS, LOSS_TAIL):
        if task == REGRESSION:
            return None if np.isnan(score) else spread(abs(actual - score))
        if scored:
            given = classes[int(actual)] if task == MULTICLASS else (score if actual == 1 else 1 - score)
            return None if np.isnan(score) else spread(-np.log(min(max(given, 1e-6), 1.0)))
        return None if label < 0 else (label != actual) + jitter
    turned = name in (CALIBRATION_SLOPE, RESIDUAL_SLOPE) and bucket >= buckets // 2
    if name in (CALIBRATION, CALIBRATION_SLOPE):
        true = actual == 1 if task == BINARY else int(np.argmax(classes)) == actual
        return None if np.isnan(score) else (true != turned) + jitter
    if name in (RESIDUAL, RESIDUAL_SLOPE):
        return None if np.isnan(score) else spread((score - actual) if turned else (actual - score))
    if label < 0 or (name == TRUE_POSITIVE and actual != 1) or (name == FALSE_POSITIVE and actual != 0):
        return None
    return (label == 1) + jitter


def naive_counts(baseline: Baseline, task: str, pairs: Pairs) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
    """Counts of every stream, one pair and one edge at a time."""
    outcomes = baseline.outcomes
    assert outcomes is not None
    streams = [s for s in baseline.streams if s.role in (OUTCOME_ROLE, FAIRNESS_ROLE)]
    scored = any(s.name == CALIBRATION for s in streams)
    buckets = len(outcomes.score_buckets) + 1
    found = {(s.segment, s.name): np.zeros(s.layout.size, np.int64) for s in streams}
    for at in range(pairs.rows):
        scores = pairs.predicted.scores[at]
        score = float(scores[0]) if task != MULTICLASS else float(np.max(scores))
        row = {
            "score": score, "scores": scores, "label": int(pairs.predicted.labels[at]),
            "actual": float(pairs.actual[at]), "jitter": float(pairs.jitter[at]),
        }  # fmt: skip
        age = sum(int(pairs.ages_us[at]) > edge for edge in outcomes.age_edges_us.tolist())
        bucket = 0 if np.isnan(score) else sum(score >= edge for edge in outcomes.score_buckets.tolist())
        for stream in streams:
            own = not stream.segment or (
                pairs.parts["group"][at] >= 0 and GROUP.parts[pairs.parts["group"][at]] == stream.segment
            )
            fair = stream.role == FAIRNESS_ROLE
            value = naive_value(stream.name, task, scored and not fair, row, bucket, buckets)
            if not own or value is None:
                continue
            condition = age * buckets + bucket if stream.bins.condition == AGE_AND_SCORE else age
            (code,) = bin_numeric(stream.bins.at(condition), np.array([value]))
            found[stream.segment, stream.name][code] += 1
    return found


def counted(spec: DeploymentSpec, baseline: Baseline, pairs: Pairs) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
    counts = OutcomeCounter(spec, baseline).count(pairs)
    blocks = blocks_of(baseline.streams)
    return {
        (stream.segment, stream.name): own
        for block in (OUTCOME_BLOCK, LOSS_BLOCK)
        for stream, own in zip(blocks.get(block, ()), counts.get(block, ()), strict=True)
    }


def numbers(rng: np.random.Generator, rows: int) -> Pairs:
    predicted = 3 * rng.normal(size=rows)
    missing = np.full(rows, np.nan)
    return Pairs(
        Predicted(np.stack([predicted, missing, missing], axis=1), np.full(rows, -1)),
        predicted + rng.normal(size=rows),
        np.arange(rows) * 1_000,
        rng.integers(0, 10**9, rows),
        np.ones(rows),
        np.full(rows, 255, np.uint8),
        rng.random(rows),
    )


def classes(rng: np.random.Generator, rows: int) -> Pairs:
    scores = rng.dirichlet([1.0, 1.0, 0.6], rows)
    actual = (rng.random(rows)[:, None] > np.cumsum(scores, axis=1)).sum(axis=1).clip(0, 2)
    plain = numbers(rng, rows)
    return changed(plain, predicted=Predicted(scores, scores.argmax(axis=1)), actual=actual.astype(np.float64))


def labels_only(pairs: Pairs) -> Pairs:
    return changed(pairs, predicted=Predicted(np.full_like(pairs.predicted.scores, np.nan), pairs.predicted.labels))


@pytest.mark.parametrize("kind", ["scores", "labels", "classes", "numbers"])
def test_counts_are_those_of_counting_pair_by_pair(law: Any, kind: str) -> None:
    """Scores and labels that are missing, and every condition, included."""
    rng = np.random.default_rng(4)
    task = {"classes": MULTICLASS, "numbers": REGRESSION}.get(kind, BINARY)
    names = {"classes": ("a", "b", "c"), "numbers": ()}.get(kind, ("0", "1"))
    draw = {
        "scores": law.draw,
        "labels": lambda r, n: labels_only(law.draw(r, n)),
        "classes": classes,
        "numbers": numbers,
    }[kind]
    spec = law.spec(task=task, fairness=("group",))
    baseline = law.learn(spec, in_parts(draw(rng, 6_000)), names, (GROUP,))
    pairs = in_parts(draw(rng, 400), 1)
    pairs.predicted.scores[::9] = np.nan
    pairs.predicted.labels[::7] = -1
    found, naive = counted(spec, baseline, pairs), naive_counts(baseline, task, pairs)
    expected = {
        "scores": {LOSS, LOSS_TAIL, CALIBRATION, CALIBRATION_SLOPE, OUTCOME},
        "labels": {LOSS, OUTCOME},
        "classes": {LOSS, LOSS_TAIL, CALIBRATION, CALIBRATION_SLOPE, OUTCOME},
        "numbers": {LOSS, LOSS_TAIL, RESIDUAL, RESIDUAL_SLOPE, OUTCOME},
    }[kind]
    fair = {SELECTED, TRUE_POSITIVE, FALSE_POSITIVE} if task == BINARY else {LOSS}
    assert {name for segment, name in found if not segment} == expected
    assert {(s, n) for s, n in found if s} == {(part, name) for part in GROUP.parts for name in fair}
    assert found.keys() == naive.keys()
    for key, counts in naive.items():
        assert found[key].tolist() == counts.tolist(), key


def test_pairs_count_once_whatever_their_weight_and_order(law: Any) -> None:
    spec, baseline = law.spec(), law.baseline()
    pairs = law.draw(np.random.default_rng(3), 700)
    whole = counted(spec, baseline, pairs)
    shuffled = pairs.take(np.random.default_rng(5).permutation(700))
    weighted = changed(pairs, weights=np.random.default_rng(6).uniform(1, 50, 700))
    halves = [counted(spec, baseline, pairs.take(np.arange(a, b))) for a, b in ((0, 311), (311, 700))]
    for key, counts in whole.items():
        assert counts.sum() == 700
        assert np.array_equal(counts, counted(spec, baseline, shuffled)[key])
        assert np.array_equal(counts, counted(spec, baseline, weighted)[key])
        assert np.array_equal(counts, halves[0][key] + halves[1][key])


def test_what_has_no_score_is_no_missing_value(law: Any) -> None:
    spec, baseline = law.spec(), law.baseline()
    pairs = law.draw(np.random.default_rng(3), 300)
    pairs.predicted.scores[:] = np.nan
    for (_, name), counts in counted(spec, baseline, pairs).items():
        assert counts.sum() == (300 if name == OUTCOME else 0), name
        assert counts[NUMERIC_MISSING] == 0 or name == LOSS_TAIL


def test_each_stream_has_the_conditions_of_its_kind_and_even_bins(law: Any) -> None:
    baseline = law.baseline()
    ages = len(baseline.outcomes.age_edges_us) + 1
    buckets = len(baseline.outcomes.score_buckets) + 1
    assert ages > 3
    assert buckets > 3
    for stream in baseline.streams:
        assert stream.bins.condition == condition_of(stream.name)
        assert stream.bins.conditions == (ages if stream.bins.condition == AGE else ages * buckets)
        assert stream.name == LOSS_TAIL or np.abs(stream.counts / 20_000 - nominal_probabilities()).max() < 0.01
        assert stream.layout is (LOSS_LAYOUT if stream.name == LOSS_TAIL else NUMERIC)
    complete = dataclasses.replace(baseline, digest=baseline.content_digest())
    stored = Baseline.from_record(decode(encode("Baseline", complete.to_record()))[1])
    pairs = law.draw(np.random.default_rng(3), 300)
    for key, counts in counted(law.spec(), baseline, pairs).items():
        assert np.array_equal(counts, counted(law.spec(), stored, pairs)[key])


def test_too_small_a_reference_makes_no_stream_and_a_small_one_wide_margins(law: Any) -> None:
    spec = law.spec()
    few = law.learn(spec, law.draw(np.random.default_rng(1), MINIMUM_ROWS - 1))
    assert few.streams == ()
    assert OutcomeCounter(spec, few).count(law.draw(np.random.default_rng(2), 50)) == {}
    small = law.learn(spec, law.draw(np.random.default_rng(1), 400))
    wide, narrow = ({s.name: s.margin_tv for s in b.streams if s.name != LOSS_TAIL} for b in (small, law.baseline()))
    assert {LOSS, OUTCOME} <= wide.keys()
    assert all(margin > 2 * narrow[name] for name, margin in wide.items())


def test_a_part_with_too_few_pairs_has_no_stream(law: Any) -> None:
    pairs = law.draw(np.random.default_rng(1), 5_000)
    pairs = changed(pairs, parts={"group": np.where(np.arange(5_000) % 100, 0, 1)})
    baseline = law.learn(law.spec(fairness=("group",)), pairs, segments=(GROUP,))
    assert {s.segment for s in baseline.streams if s.role == FAIRNESS_ROLE} == {"group=a"}
    found = counted(law.spec(fairness=("group",)), baseline, pairs)
    assert found["group=a", SELECTED].sum() == 4_950


def test_groups_that_are_not_declared_are_not_compared(law: Any) -> None:
    pairs = in_parts(law.draw(np.random.default_rng(1), 3_000))
    assert not [s for s in law.learn(law.spec(), pairs, segments=(GROUP,)).streams if s.segment]


def test_a_task_without_a_loss_has_no_streams(law: Any) -> None:
    pairs = labels_only(law.draw(np.random.default_rng(1), 2_000))
    assert law.learn(law.spec(task=OTHER_TASK), pairs, ()).streams == ()


def test_a_specification_that_expects_no_outcomes_is_refused_by_name(law: Any) -> None:
    spec = dataclasses.replace(law.spec(), outcomes=None)
    with pytest.raises(BaselineError, match=r"d@1 has streams of outcomes, but.*build it again"):
        OutcomeCounter(spec, law.baseline())


def kept(pairs: Pairs, keep: np.ndarray[Any, Any]) -> Pairs:
    return pairs.take(np.flatnonzero(keep))


def beginning(pairs: Pairs, hours: float) -> Pairs:
    """What is known of deployments that begin anew every so many hours: mostly outcomes that come early."""
    period = int(hours * 3_600_000_000)
    return kept(pairs, pairs.times_us % period + pairs.ages_us <= period)


@pytest.mark.parametrize(
    "select",
    [
        pytest.param(lambda rng, pairs: pairs, id="steady state"),
        pytest.param(lambda rng, pairs: beginning(pairs, 3.0), id="the beginning of deployments"),
        pytest.param(
            lambda rng, pairs: kept(pairs, rng.random(pairs.rows) < np.exp(-pairs.ages_us / 6e9)), id="faster"
        ),
        pytest.param(
            lambda rng, pairs: kept(pairs, rng.random(pairs.rows) < 1 - np.exp(-pairs.ages_us / 2e10)), id="slower"
        ),
        pytest.param(lambda rng, pairs: kept(pairs, rng.random(pairs.rows) < 0.1), id="a tenth is labelled"),
    ],
)
def test_outcomes_whose_delay_depends_on_the_class_keep_the_bound_of_false_alarms(law: Any, select: Any) -> None:
    """Bad outcomes take 1.6 times as long: of those known early fewer are bad, but not among outcomes of equal age."""
    c, trials = 20.0, 2
    spec, alarms, starts = law.spec(c), 0, 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, 1])
        pairs = select(rng, law.draw(rng, 30_000))
        starts += pairs.rows // 100
        alarms += len(law.alarms(spec, law.baseline(1 + trial), pairs, anew=True))
    assert starts > 40
    assert alarms <= starts / c


def test_the_same_without_ages_would_raise_false_alarms(law: Any) -> None:
    """What equal maturity is for."""
    spec, rng = law.spec(20.0), np.random.default_rng(1)
    reference = law.draw(rng, 20_000)
    ageless = law.learn(spec, changed(reference, ages_us=np.zeros(20_000, np.int64)))
    early = beginning(law.draw(rng, 30_000), 3.0)
    assert age_bucket(law.baseline().outcomes.age_edges_us, early.ages_us).mean() < 2
    starts = early.rows // 100
    assert (
        len(law.alarms(spec, ageless, changed(early, ages_us=np.zeros(early.rows, np.int64)), anew=True)) > starts / 20
    )


def test_a_shuffled_reference_raises_no_alarm_for_the_relation_and_a_changed_one_does(law: Any) -> None:
    rng = np.random.default_rng(2)
    reference = law.draw(rng, 20_000)
    baseline = law.learn(law.spec(), reference)
    shuffled = reference.take(rng.permutation(20_000))
    assert not law.alarms(law.spec(), baseline, shuffled)
    actual = np.where(np.arange(20_000) < 10_000, shuffled.actual, (rng.random(20_000) < expit(-1.0)) * 1.0)
    found = law.alarms(law.spec(), baseline, changed(shuffled, actual=actual))
    assert found
    assert found[0][0] > 100, "not before the change"


def test_an_outcome_of_a_class_that_the_reference_never_had_is_counted_beyond_its_range(law: Any) -> None:
    rng = np.random.default_rng(2)
    spec = law.spec(task=MULTICLASS)
    baseline = law.learn(spec, classes(rng, 5_000), ("a", "b", "c"))
    pairs = changed(classes(rng, 100), actual=np.full(100, 2.0))
    assert counted(spec, baseline, pairs)["", OUTCOME].sum() == 100
    two = classes(rng, 5_000)
    two = changed(two, actual=np.minimum(two.actual, 1.0))
    narrow = law.learn(spec, two, ("a", "b", "c"))
    counts = counted(spec, narrow, pairs)["", OUTCOME]
    assert counts[NUMERIC.bin_names.index("above_max")] == 100
