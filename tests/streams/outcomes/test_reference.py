"""What is learnt from a reference's outcomes, of all three tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, mean_absolute_error, roc_auc_score

from driftline.codec import decode, encode
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from streams.baseline import LABELS_ROLE, Baseline, BaselineSegment, OutcomeReference
from streams.errors import BaselineError
from streams.outcomes.ages import LabelAges, age_bucket
from streams.outcomes.reference import LearntOutcomes, learn_outcomes
from streams.reference import build_baseline
from streams.specification import (
    BINARY,
    CONCEPT_DRIFT,
    LABELS,
    MULTICLASS,
    OTHER_TASK,
    REGRESSION,
    DeploymentSpec,
    FeatureSpec,
    OutcomeSpec,
    SegmentSpec,
)
from streams.statistics.performance.expected_loss import columns_of
from streams.statistics.performance.pairs import PerformanceLayout
from streams.statistics.performance.sums import Sums, from_fields, merge

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
T0 = 1_709_251_200_000_000  # 2024-03-01, UTC
ROWS = 6_000
SPAN = 20 * DAY
HORIZON = 2 * DAY


@dataclasses.dataclass
class History:
    """Predictions and what became of them; ``ages`` in microseconds, negative for never."""

    predictions: PredictionColumns
    ages: np.ndarray
    actual: np.ndarray

    def outcomes(self, names: Sequence[str] | None = None, **changes: Any) -> OutcomeColumns:
        rows = np.flatnonzero(self.ages >= 0)
        values = self.actual[rows]
        found = OutcomeColumns(
            "d",
            [self.predictions.prediction_ids[row] for row in rows.tolist()],
            (self.predictions.timestamps_us + self.ages)[rows],
            values.astype(np.float64) if names is None else None,
            None if names is None else CategoricalColumn(names, values.astype(np.int32)),
        )
        return dataclasses.replace(found, **changes)


def flights(rows: int = ROWS, seed: int = 1) -> History:
    """Flights: one that is late is known to be late later; three in a hundred are cancelled, whole days of them."""
    rng = np.random.default_rng(seed)
    times = T0 + np.sort(rng.integers(0, SPAN, rows))
    score = rng.beta(2, 5, rows)
    late = rng.random(rows) < score
    ages = (rng.gamma(6.0, 0.35, rows) * HOUR + late * rng.gamma(2.0, 0.8, rows) * HOUR).astype(np.int64)
    ages[rng.random(rows) < 0.03] = -1
    columns = PredictionColumns(
        "d",
        "1",
        [f"f{i}" for i in range(rows)],
        times,
        {"x": rng.normal(size=rows), "y": rng.normal(size=rows)},
        {"carrier": CategoricalColumn(["AA", "UA"], rng.integers(0, 2, rows).astype(np.int32))},
        prediction=score,
    )
    return History(columns, ages, late)


FEATURES = (FeatureSpec("x", "numeric"), FeatureSpec("y", "numeric"), FeatureSpec("carrier", "categorical"))


def spec_of(task: str = BINARY, **outcomes: Any) -> DeploymentSpec:
    return DeploymentSpec(
        "d",
        "m",
        task,
        FEATURES,
        positive_class="late" if task == BINARY else None,
        segments=(SegmentSpec("carrier", "carrier"),),
        outcomes=OutcomeSpec(**({"horizon_ms": HORIZON // 1000} | outcomes)),
    )


BARE = Baseline("d", "1", 0, ())
NAMES = ["on time", "late"]


def learn(history: History, spec: DeploymentSpec | None = None, outcomes: Any = None) -> LearntOutcomes:
    return learn_outcomes(
        spec or spec_of(), BARE, [history.predictions], outcomes or [history.outcomes(NAMES)]
    )  # fmt: skip


def layout_of(reference: OutcomeReference, task: str = BINARY) -> PerformanceLayout:
    return PerformanceLayout(task, reference.classes, reference.score_edges, reference.age_edges_us)


def sums_of(reference: OutcomeReference, task: str = BINARY) -> list[Sums]:
    return [
        from_fields(
            layout_of(reference, task),
            {name: array[age].tolist() for name, array in reference.counts.items()},
            {name: array[age].tolist() for name, array in reference.sums.items()},
        )
        for age in range(len(reference.age_edges_us) + 1)
    ]


@pytest.fixture(scope="module")
def history() -> History:
    return flights()


@pytest.fixture(scope="module")
def learnt(history: History) -> LearntOutcomes:
    return learn(history)


def ripe(history: History) -> np.ndarray:
    """Predictions whose horizon has passed when the reference ends."""
    times, ages = history.predictions.timestamps_us, history.ages
    end = max(times.max(), (times + ages)[ages >= 0].max())
    return times <= end - HORIZON


def test_rates_are_those_of_predictions_that_had_their_time(history: History, learnt: LearntOutcomes) -> None:
    old = ripe(history)
    reference = learnt.reference
    assert (reference.rows, reference.resolved) == (old.sum(), (old & (history.ages >= 0)).sum())
    assert 0 < (~old).sum() < ROWS / 5
    assert any(
        text.startswith(f"{(~old).sum()} of {ROWS:,} reference predictions are younger") for text in learnt.notices
    )
    assert reference.classes == ("on time", "late")
    assert np.quantile(history.ages[old & (history.ages >= 0)], 0.99) <= reference.final_age_us < HORIZON


def test_sums_by_age_give_the_numbers_of_scikit_learn(history: History, learnt: LearntOutcomes) -> None:
    old = ripe(history) & (history.ages >= 0)
    score = history.predictions.prediction
    assert score is not None
    by_age = sums_of(learnt.reference)
    bucket = age_bucket(learnt.reference.age_edges_us, history.ages)
    for age, sums in enumerate(by_age):
        own = old & (bucket == age)
        matrix = sums["confusion"]
        assert matrix.trace() / matrix.sum() == accuracy_score(history.actual[own], score[own] >= 0.5)
    whole = merge(by_age)
    assert (whole["predictions"], whole["resolved"]) == (learnt.reference.rows, old.sum())
    bins = np.searchsorted(learnt.reference.score_edges, score[old], "right")
    np.testing.assert_array_equal(
        whole["scores"][:-1].sum(axis=1), np.bincount(bins, minlength=len(whole["scores"]) - 1)
    )
    assert roc_auc_score(history.actual[old], bins) == pytest.approx(
        roc_auc_score(history.actual[old], score[old]), abs=0.002
    )


def test_early_outcomes_are_no_fair_sample_and_the_reference_says_by_how_much(learnt: LearntOutcomes) -> None:
    """Late flights are known to be late later, so the share of the late ones grows with age."""
    rates = [sums["scores"][:, 1].sum() / sums["scores"].sum() for sums in sums_of(learnt.reference)]
    assert rates == sorted(rates) and rates[0] < 0.15 and rates[-1] > 0.6


def test_score_bins_have_equal_mass_and_the_threshold_is_an_edge(history: History, learnt: LearntOutcomes) -> None:
    edges = learnt.reference.score_edges
    assert len(edges) == 99 and 0.5 in edges and (np.diff(edges) > 0).all()
    assert history.predictions.prediction is not None
    rows = np.bincount(np.searchsorted(edges, history.predictions.prediction, "right"))
    assert np.median(rows) == pytest.approx(ROWS / 100, rel=0.1) and rows.max() < 2.5 * ROWS / 100
    calibration = learnt.reference.calibration
    assert len(calibration) == 100 and (np.diff(calibration) >= 0).all()
    middle = (edges[1:] + edges[:-1]) / 2
    assert np.abs(calibration[1:-1] - middle).mean() < 0.03, "these scores are calibrated"


def test_every_score_bucket_has_pairs_enough_at_every_age(learnt: LearntOutcomes) -> None:
    reference, pairs = learnt.reference, learnt.pairs
    buckets = np.searchsorted(reference.score_buckets, pairs.predicted.scores[:, 0], "right")
    ages = age_bucket(reference.age_edges_us, pairs.ages_us)
    cells = np.zeros((len(reference.age_edges_us) + 1, len(reference.score_buckets) + 1), int)
    np.add.at(cells, (ages, buckets), 1)
    assert cells.shape[1] > 1 and cells.min() >= 200


def test_pairs_come_in_the_order_in_which_outcomes_became_known(learnt: LearntOutcomes) -> None:
    known = learnt.pairs.times_us + learnt.pairs.ages_us
    assert (np.diff(known) >= 0).all() and learnt.pairs.rows == learnt.reference.resolved


def test_labels_are_counted_by_cohort(history: History, learnt: LearntOutcomes) -> None:
    ages = LabelAges.from_derived(next(d for d in learnt.derived if d.kind == LABELS_ROLE)).ages_us.tolist()
    streams = [stream for stream in learnt.streams if stream.role == LABELS_ROLE]
    assert [stream.name for stream in streams] == [f"labels:{j + 1}" for j in range(len(ages))]
    assert len(ages) >= 3 and ages[-1] >= learnt.reference.final_age_us
    waits = history.ages[ripe(history)]
    before = -1
    for age, stream in zip(ages, streams, strict=True):
        waiting = waits[(waits < 0) | (waits > before)]
        known = int(((waiting >= 0) & (waiting <= age)).sum())
        assert stream.counts[:2].tolist() == [known, len(waiting) - known] and stream.counts.sum() == len(waiting)
        assert stream.bin_labels()[:2] == ["known", "open"]
        before = age


def test_days_without_labels_make_their_events_count_less() -> None:
    """Outcomes that fail in runs say less, one by one, than those that fail at random."""
    history = flights()
    rng = np.random.default_rng(3)
    day = (history.predictions.timestamps_us - T0) // (6 * HOUR)
    bad = rng.random(int(day.max()) + 1) < 0.3

    def exponent(open_: np.ndarray) -> float:
        ages = np.where(open_, -1, history.ages)
        found = learn(dataclasses.replace(history, ages=ages))
        stream = next(s for s in found.streams if s.name == "labels:1")
        return float(stream.tempering.min())

    assert exponent(bad[day]) < 0.2 * exponent(rng.random(ROWS) < 0.3)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_neither_order_nor_batches_nor_duplicates_matter(history: History, learnt: LearntOutcomes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outcomes = history.outcomes(NAMES)
    # of two at one time the larger value counts
    smaller = dataclasses.replace(outcomes, actual_label=CategoricalColumn(NAMES, np.zeros(outcomes.rows, np.int32)))
    batches = [*pieces(rng, outcomes), *pieces(rng, outcomes), *pieces(rng, smaller)]
    rng.shuffle(batches)  # type: ignore[arg-type]
    found = learn_outcomes(spec_of(), BARE, pieces(rng, history.predictions), batches)
    assert encoded(found) == encoded(learnt)
    assert any("were replaced by a later one, or repeated" in text for text in found.notices)


def pieces(rng: np.random.Generator, columns: Any) -> list[Any]:
    """A batch cut in three, its rows in any order."""
    return [take(columns, rows) for rows in np.array_split(rng.permutation(columns.rows), 3)]


def take(columns: Any, rows: np.ndarray) -> Any:
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(columns):
        value = getattr(columns, field.name)
        if isinstance(value, dict):
            changed[field.name] = {name: _rows(item, rows) for name, item in value.items()}
        elif not isinstance(value, str):
            changed[field.name] = _rows(value, rows)
    return dataclasses.replace(columns, **changed)


def _rows(value: Any, rows: np.ndarray) -> Any:
    if isinstance(value, CategoricalColumn):
        return CategoricalColumn(value.categories, value.codes[rows])
    if isinstance(value, list):
        return [value[row] for row in rows.tolist()]
    return None if value is None else value[rows]


def encoded(found: LearntOutcomes) -> bytes:
    return encode(
        "Baseline",
        dataclasses.replace(BARE, streams=found.streams, derived=found.derived, outcomes=found.reference).to_record(),
    )


def test_the_last_outcome_within_the_horizon_counts(history: History) -> None:
    outcomes = history.outcomes(NAMES)
    wrong = CategoricalColumn(NAMES, 1 - history.outcomes(NAMES).actual_label.codes)  # type: ignore[union-attr]
    too_late = dataclasses.replace(
        outcomes, actual_timestamps_us=outcomes.actual_timestamps_us + HORIZON + 1, actual_label=wrong
    )
    found = learn(history, outcomes=[too_late, outcomes])
    np.testing.assert_array_equal(
        found.pairs.actual.mean(), pytest.approx(learn(history).pairs.actual.mean(), abs=0.01)
    )
    assert any("came later than the horizon of 2 d and do not count" in text for text in found.notices)


def test_a_wild_time_does_not_make_young_predictions_old(history: History, learnt: LearntOutcomes) -> None:
    outcomes = history.outcomes(NAMES)
    times = outcomes.actual_timestamps_us.copy()
    times[5] = 4_102_444_800_000_000  # the year 2100
    found = learn(history, outcomes=[dataclasses.replace(outcomes, actual_timestamps_us=times)])
    assert abs(found.reference.rows - learnt.reference.rows) <= 1


def test_outcomes_of_later_predictions_show_that_time_went_on(history: History) -> None:
    """A file of outcomes that goes on after the reference's predictions leaves none of them out."""
    more = OutcomeColumns(
        "d",
        [f"other{i}" for i in range(100)],
        T0 + SPAN + np.linspace(0, HORIZON, 100).astype(np.int64) - HOUR,
        actual_label=CategoricalColumn(NAMES, np.zeros(100, np.int32)),
    )
    found = learn(history, outcomes=[history.outcomes(NAMES), more])
    assert found.reference.rows > 0.99 * ROWS
    assert any(text == "100 outcomes belong to no prediction of the reference" for text in found.notices)


def test_low_coverage_is_told_unless_it_is_by_design(history: History) -> None:
    kept = dataclasses.replace(history, ages=np.where(np.arange(ROWS) % 4 == 0, history.ages, -1))
    plain = learn(kept)
    assert any("reference predictions (24%) have an outcome within 2 d" in text for text in plain.notices)
    outcomes = kept.outcomes(NAMES)
    sampled = learn(
        kept, outcomes=[dataclasses.replace(outcomes, labelling_probability=np.full(outcomes.rows, 0.25))]
    )  # fmt: skip
    assert not any("labelling_probability" in text for text in sampled.notices)
    weights = merge(sums_of(sampled.reference))["weights"]
    assert float(weights) * 2.0**-30 == pytest.approx(4 * sampled.reference.resolved)


def classes_of(history: History, seed: int = 5) -> tuple[History, list[str]]:
    """The same with three classes, of which the likeliest comes true in two thirds of all rows."""
    rng = np.random.default_rng(seed)
    names = ["red", "green", "blue"]
    scores = rng.dirichlet([1.0, 1.0, 1.0], ROWS)
    actual = np.array([rng.choice(3, p=row) for row in scores])
    columns = dataclasses.replace(
        history.predictions,
        prediction=None,
        class_probabilities={name: scores[:, at] for at, name in enumerate(names)},
    )
    return dataclasses.replace(history, predictions=columns, actual=actual), names


def test_several_classes(history: History) -> None:
    several, names = classes_of(history)
    found = learn(several, spec_of(MULTICLASS), [several.outcomes(names)])
    reference = found.reference
    assert reference.classes == ("blue", "green", "red")
    old = ripe(several) & (several.ages >= 0)
    matrix = merge(sums_of(reference, MULTICLASS))["confusion"]
    scores = np.stack([several.predictions.class_probabilities[name] for name in names], axis=1)
    assert matrix.trace() / matrix.sum() == accuracy_score(several.actual[old], scores[old].argmax(axis=1))
    calibration = reference.calibration.reshape(3, -1)
    assert (np.diff(calibration, axis=1) >= 0).all() and len(reference.score_edges) + 1 == calibration.shape[1]
    expected = merge(sums_of(reference, MULTICLASS))["expected_confusion"]
    assert float(expected.sum()) * 2.0**-30 == pytest.approx(reference.rows)


def numbers_of(history: History, seed: int = 6) -> History:
    """A model of numbers whose error grows with ``x``."""
    rng = np.random.default_rng(seed)
    prediction = rng.normal(10, 3, ROWS)
    spread = 0.5 + np.abs(history.predictions.numeric["x"])
    columns = dataclasses.replace(history.predictions, prediction=prediction)
    return dataclasses.replace(history, predictions=columns, actual=prediction + spread * rng.normal(size=ROWS))


def test_numbers(history: History) -> None:
    numbers = numbers_of(history)
    found = learn(numbers, spec_of(REGRESSION), [numbers.outcomes()])
    reference = found.reference
    assert (reference.classes, reference.calibration.size) == ((), 0)
    whole = merge(sums_of(reference, REGRESSION))
    old = ripe(numbers) & (numbers.ages >= 0)
    prediction = numbers.predictions.prediction
    assert prediction is not None
    assert float(whole["absolute_error"]) * 2.0**-30 / int(whole["with_prediction"]) == pytest.approx(
        mean_absolute_error(numbers.actual[old], prediction[old])
    )
    assert whole["expected_rows"] == reference.rows
    assert list(columns_of(reference.expected_loss)) == ["prediction"], "a baseline without features has no more"


def test_the_expected_loss_looks_at_the_watched_numbers_in_their_order(history: History) -> None:
    numbers = numbers_of(history)
    built = build_baseline(
        spec_of(REGRESSION), "1", [numbers.predictions], source="", outcomes=[numbers.outcomes()]
    )  # fmt: skip
    assert built.outcomes is not None
    assert list(columns_of(built.outcomes.expected_loss)) == ["prediction", "x", "y"]


def test_a_task_without_classes_or_numbers_is_watched_for_its_labels(history: History) -> None:
    found = learn(history, spec_of(OTHER_TASK))
    assert {stream.role for stream in found.streams} == {LABELS_ROLE}
    assert merge(sums_of(found.reference, OTHER_TASK))["resolved"] == found.reference.resolved


def only(history: History, rows: np.ndarray) -> History:
    return dataclasses.replace(history, ages=np.where(rows, history.ages, -1))


def refusals(history: History) -> list[tuple[DeploymentSpec, Any, PredictionColumns, str]]:
    plain, columns = history.outcomes(NAMES), history.predictions
    few = only(history, np.arange(ROWS) < 100).outcomes(NAMES)
    strangers = dataclasses.replace(plain, prediction_ids=[f"?{name}" for name in plain.prediction_ids])
    late = dataclasses.replace(plain, actual_timestamps_us=plain.actual_timestamps_us + HORIZON)
    text = dataclasses.replace(plain, actual_label=CategoricalColumn(["?"], np.zeros(plain.rows, np.int32)))
    one = dataclasses.replace(plain, actual_label=CategoricalColumn(NAMES, np.zeros(plain.rows, np.int32)))
    no_scores = dataclasses.replace(columns, prediction=None)
    given = spec_of(classes=("on time", "late"))
    return [
        (spec_of(classes=("on time", "late")), strangers, columns, "have other prediction ids"),
        (given, late, columns, "came later than the horizon of 2 d"),
        (given, text, columns, "cannot be used: expected one of the classes 'on time', 'late'.*'?'"),
        (given, few, columns, "at least 200 predictions with an outcome.* 9[0-9] have one"),
        (given, one, columns, "at least two classes, all .* are 'on time'"),
        (given, plain, no_scores, "no score, prediction_label or class_probabilities"),
        (spec_of(horizon_ms=90 * DAY // 1000), plain, columns, "has had its time.*horizon is 90 d"),
        (spec_of(REGRESSION), plain, columns, "expected a finite number in actual_value"),
    ]


@pytest.mark.parametrize("case", range(8))
def test_outcomes_that_teach_nothing_are_refused_with_what_to_do(history: History, case: int) -> None:
    spec, outcomes, predictions, said = refusals(history)[case]
    with pytest.raises(BaselineError, match=said):
        learn_outcomes(spec, BARE, [predictions], [outcomes])


@pytest.fixture(scope="module")
def built(history: History) -> Baseline:
    return build_baseline(
        spec_of(), "1", [history.predictions], source="", outcomes=[history.outcomes(NAMES)]
    )  # fmt: skip


def test_a_baseline_with_outcomes_is_read_back_as_it_was(built: Baseline) -> None:
    built.check()
    again = Baseline.from_record(decode(encode("Baseline", built.to_record()))[1])
    assert again.digest == built.digest == again.content_digest()
    assert again.outcomes is not None and built.outcomes is not None
    for name, array in built.outcomes.counts.items():
        np.testing.assert_array_equal(again.outcomes.counts[name], array)


def test_the_monitors_of_outcomes_are_armed(built: Baseline) -> None:
    armed = {item.monitor: item for item in built.arming}
    assert {CONCEPT_DRIFT, LABELS} <= armed.keys()
    for monitor in (CONCEPT_DRIFT, LABELS):
        assert armed[monitor].alarms <= armed[monitor].bound and armed[monitor].widened > 0


def test_outcomes_change_nothing_of_what_predictions_gave(history: History, built: Baseline) -> None:
    told: list[str] = []
    plain = build_baseline(spec_of(), "1", [history.predictions], source="", notice=told.append)
    assert plain.outcomes is None
    assert len(told) == 1 and told[0].startswith(
        "d expects outcomes, and the reference has none: concept drift, labels"
    )
    own = [stream.to_record() for stream in built.streams[: len(plain.streams)]]
    assert own == [stream.to_record() for stream in plain.streams]
    assert built.arming[: len(plain.arming)] == plain.arming


def test_outcomes_that_nobody_declared_are_left_alone(history: History) -> None:
    told: list[str] = []
    undeclared = dataclasses.replace(spec_of(), outcomes=None)
    columns = [history.predictions]
    found = build_baseline(
        undeclared, "1", columns, source="", outcomes=[history.outcomes(NAMES)], notice=told.append
    )  # fmt: skip
    assert found.digest == build_baseline(undeclared, "1", columns, source="").digest
    assert told == [
        "the specification of d expects no outcomes, so those of the reference are not used: declare them with "
        "outcomes: horizon:"
    ]


def test_a_reader_may_say_up_to_when_outcomes_are_known(history: History) -> None:
    outcomes = [history.outcomes(NAMES)]
    found = learn_outcomes(spec_of(), BARE, [history.predictions], outcomes, until_us=T0 + SPAN + HORIZON)
    assert found.reference.rows == ROWS
    far = learn_outcomes(spec_of(), BARE, [history.predictions], outcomes, until_us=2**62)
    assert far.reference.rows == ROWS


def test_it_is_said_where_fairness_has_nothing_to_compare() -> None:
    history, spec = flights(), spec_of(fairness=("carrier",))

    def told(*segments: BaselineSegment) -> list[str]:
        baseline = dataclasses.replace(BARE, segments=segments)
        learnt = learn_outcomes(spec, baseline, [history.predictions], [history.outcomes(NAMES)])
        return [text for text in learnt.notices if text.startswith("fairness")]

    assert told(BaselineSegment("carrier", "carrier", ("AA", "UA"))) == []
    assert told(BaselineSegment("carrier", "carrier", ("UA",))) == [
        "fairness of 'carrier' compares nothing: only 'carrier=UA' has the 500 reference rows that a part needs"
    ]
    assert told() == [
        "fairness of 'carrier' compares nothing: none of its parts has the 500 reference rows that a part needs"
    ]


def test_a_reference_whose_windows_would_not_fit_into_a_record_is_refused() -> None:
    baseline = dataclasses.replace(BARE, segments=(BaselineSegment("c", "carrier", tuple(map(str, range(2_000)))),))
    history = flights(600)
    with pytest.raises(BaselineError, match=r"of 2,000 parts and all traffic more than the .* of a record"):
        learn_outcomes(spec_of(), baseline, [history.predictions], [history.outcomes(NAMES)])
