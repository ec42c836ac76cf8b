"""What is fitted, against slow computations by hand; what it may not look at; and what it says where it cannot."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from driftline.codec import decode, encode
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.humility.fit import (
    ABSOLUTE_RESIDUAL,
    INTERVAL_EXCESS,
    ONE_MINUS_PROBABILITY,
    HumilityFit,
    ObservedRegion,
)
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Override, Rule
from services.publish.reading import take
from streams.baseline import HUMILITY_ROLE, Baseline
from streams.errors import BaselineError
from streams.humility.fit import asks_for_humility, fit_humility, fit_texts, learn_fit, run_texts
from streams.humility.history import History
from streams.humility.judge import policy_of
from streams.humility.refit import is_refit
from streams.reference import build_baseline
from streams.specification import (
    BINARY,
    HUMILITY,
    MULTICLASS,
    OTHER_TASK,
    REGRESSION,
    DeploymentSpec,
    FeatureSpec,
    OutcomeSpec,
    SegmentSpec,
)
from streams.statistics.humility import calibrating, conditional_rank

HOUR, DAY = 3_600_000_000, 86_400_000_000
T0 = 1_709_251_200_000_000
ROWS = 6_000
RATE, MOST, COVERAGE = 0.02, 0.1, 0.9

RULES = (
    Rule("novel", Condition("novel_input"), "refuse"),
    Rule("unsure", Condition("uncertain_prediction", measure="certified"), "route", route_to="desk", priority=200),
    Rule("outlying", Condition("outlying_input", columns=("x",)), "override", Override("prior"), priority=150),
    Rule("either", Condition("outlying_input", columns=("x", "y")), "record"),
    Rule("range", Condition("prediction_out_of_range"), "override", Override("clip"), dry_run=True),
    Rule("rare", Condition("low_observation_region", columns=("c",), least=100), "record"),
    Rule("cell", Condition("low_observation_region", columns=("c", "d"), least=5), "record"),
    Rule("two", Condition("uncertain_prediction", measure="set_size"), "record"),
)


def spec_of(
    guarantees: Guarantees | None = None, rules: tuple[Rule, ...] = RULES, task: str = BINARY, **changes: Any
) -> DeploymentSpec:
    wanted = guarantees or Guarantees(novelty_rate=RATE, max_error=MOST, coverage=COVERAGE)
    return DeploymentSpec(
        "d",
        "m",
        task,
        (
            FeatureSpec("x", "numeric"),
            FeatureSpec("y", "numeric"),
            FeatureSpec("c", "categorical"),
            FeatureSpec("d", "categorical"),
        ),
        **{
            "positive_class": "late" if task == BINARY else None,
            "segments": (SegmentSpec("c", "c"),),
            "outcomes": OutcomeSpec(horizon_ms=DAY // 1000),
            "humility": HumilitySpec(rules, wanted),
        }
        | changes,
    )


def predictions_of(rows: int = ROWS, seed: int = 1) -> PredictionColumns:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    x[rng.random(rows) < 0.01] = np.nan
    return PredictionColumns(
        "d",
        "1",
        [f"p{i}" for i in range(rows)],
        T0 + np.sort(rng.integers(0, 20 * DAY, rows)),
        {"x": x, "y": rng.standard_t(3, rows)},
        {
            "c": CategoricalColumn(["a", "b", "rare"], rng.choice(3, rows, p=[0.6, 0.39, 0.01]).astype(np.int32)),
            "d": CategoricalColumn(["u", "v", ""], rng.choice(3, rows, p=[0.7, 0.28, 0.02]).astype(np.int32)),
        },
        prediction=rng.beta(0.5, 0.5, rows),
    )


def outcomes_of(columns: PredictionColumns, actual: np.ndarray, **changes: Any) -> OutcomeColumns:
    found = OutcomeColumns("d", columns.prediction_ids, columns.timestamps_us + 3 * HOUR, actual.astype(np.float64))
    return dataclasses.replace(found, **changes)


def late(columns: PredictionColumns, seed: int = 2) -> np.ndarray:
    assert columns.prediction is not None
    return np.random.default_rng(seed).random(columns.rows) < columns.prediction


PREDICTIONS = predictions_of()
ACTUAL = late(PREDICTIONS)
OUTCOMES = outcomes_of(PREDICTIONS, ACTUAL)
CALIBRATES = calibrating(ROWS)


def fit_of(baseline: Baseline) -> HumilityFit:
    assert baseline.humility is not None
    return baseline.humility


@pytest.fixture(scope="module")
def plain() -> Baseline:
    """A baseline of the reference that knows nothing of humility."""
    return build_baseline(spec_of(humility=None), "1", [PREDICTIONS], source="file", outcomes=[OUTCOMES])


@pytest.fixture(scope="module")
def fitted(plain: Baseline) -> Baseline:
    return fit_humility(spec_of(), plain, [PREDICTIONS], [OUTCOMES], source="file")


def learn(plain: Baseline, spec: DeploymentSpec | None = None, **given: Any) -> HumilityFit:
    return learn_fit(
        spec or spec_of(),
        plain,
        given.get("batches", [PREDICTIONS]),
        given.get("outcomes", [OUTCOMES]),
        source="file",
    )


def naive_scores(fit: HumilityFit, columns: PredictionColumns, distance: np.ndarray) -> list[float]:
    found = []
    texts = {name: column.values() for name, column in columns.categorical.items()}
    for row in range(columns.rows):
        surprise = []
        for column in fit.novelty:
            if column.kind == "categorical":
                given = texts[column.name][row]
                known = dict(zip(column.categories, column.surprise, strict=False))
                surprise.append(known.get(given, column.surprise[-2]) if given else column.surprise[-1])
                continue
            value = distance[row] if column.kind == "joint" else columns.numeric[column.name][row]
            surprise.append(column.surprise[-1 if math.isnan(value) else bisect_right(column.edges, value)])
        found.append(max(surprise))
    return found


def naive_distance(fit: HumilityFit, columns: PredictionColumns) -> np.ndarray:
    """Mahalanobis distance of clipped standardised values, without the grid that makes it exact."""
    arrays = {name: np.array(values) for name, values in fit.joint.items()}
    values = np.stack([columns.numeric[name] for name in fit.joint_columns])
    z = np.clip((values - arrays["centre"][:, None]) / arrays["scale"][:, None], -4, 4)
    z = np.where(np.isnan(z), 0, z) - arrays["mean"][:, None]
    whitened = arrays["whiten"].reshape(len(z), len(z)) @ z
    return np.sqrt((whitened**2).mean(axis=0))


# ------------------------------------------------------------------ against computations by hand


def test_the_novelty_threshold_is_an_order_statistic_of_the_calibration_rows(fitted: Baseline) -> None:
    fit = fit_of(fitted)
    scores = np.array(naive_scores(fit, PREDICTIONS, naive_distance(fit, PREDICTIONS)))[CALIBRATES]
    rank = conditional_rank(len(scores), RATE, 0.95)
    (threshold,) = fit.novelty_thresholds
    assert (threshold.segment, threshold.rows) == ("", len(scores))
    assert threshold.score == pytest.approx(np.sort(scores)[-rank], abs=1e-9)
    assert threshold.rate_bound <= RATE
    assert binom.cdf(rank - 1, len(scores), RATE) <= 0.05


def test_the_certificate_is_that_of_a_naive_sequence(fitted: Baseline) -> None:
    (certificate,) = fit_of(fitted).certificates
    assert PREDICTIONS.prediction is not None
    confidence = np.maximum(PREDICTIONS.prediction, 1 - PREDICTIONS.prediction)
    wrong = (PREDICTIONS.prediction >= 0.5) != ACTUAL
    ripe = PREDICTIONS.timestamps_us <= PREDICTIONS.timestamps_us[-1] + 3 * HOUR - DAY
    answered = CALIBRATES & ripe & (confidence >= certificate.threshold)
    assert certificate.rows == (CALIBRATES & ripe).sum()
    assert certificate.answered == answered.sum()
    assert certificate.errors == (answered & wrong).sum()
    assert binom.cdf(certificate.errors, certificate.answered, MOST) <= 0.05
    assert certificate.threshold in confidence[~CALIBRATES]
    assert 0.4 < certificate.answered_bound < certificate.answered / certificate.rows
    # the next laxer threshold of the same hundred would have failed
    rows = math.ceil(0.01 * (~CALIBRATES).sum())
    laxer = np.sort(confidence[~CALIBRATES & (confidence < certificate.threshold)])[-rows]
    more = CALIBRATES & ripe & (confidence >= laxer)
    assert binom.cdf((more & wrong).sum(), more.sum(), MOST) > 0.02


def test_the_tracker_starts_at_the_split_conformal_quantile(fitted: Baseline) -> None:
    fit = fit_of(fitted)
    assert PREDICTIONS.prediction is not None
    scores = np.where(ACTUAL, 1 - PREDICTIONS.prediction, PREDICTIONS.prediction)
    ripe = PREDICTIONS.timestamps_us <= PREDICTIONS.timestamps_us[-1] + 3 * HOUR - DAY
    calibration = np.sort(scores[CALIBRATES & ripe])
    (start,) = fit.coverage_starts
    assert start.rows == len(calibration)
    assert start.quantile == pytest.approx(calibration[math.ceil((len(calibration) + 1) * COVERAGE) - 1])
    assert fit.coverage_score == ONE_MINUS_PROBABILITY
    assert fit.score_range == 1.0
    # 6,000 rows in 20 days, of which those of four hours are pending: the step is smaller than a hundredth
    half = (1 - COVERAGE) / 2
    density = 2 * half / np.diff(np.quantile(calibration, [COVERAGE - half, COVERAGE + half])).item()
    assert fit.step == pytest.approx(min(0.01, 0.25 / (density * 6_000 / 20 / 24 * 4)), rel=0.06)


def test_bounds_of_a_column_are_order_statistics_and_of_several_hold_together(fitted: Baseline) -> None:
    fit = fit_of(fitted)
    values = np.sort(PREDICTIONS.prediction)
    each = conditional_rank(len(values), RATE, 0.95) // 2
    assert fit.bounds["prediction"] == (values[each - 1], values[-each])
    outside = {
        name: (PREDICTIONS.numeric[name] < fit.bounds[name][0]) | (PREDICTIONS.numeric[name] > fit.bounds[name][1])
        for name in ("x", "y")
    }
    assert 0 < (outside["x"] | outside["y"])[CALIBRATES].mean() <= RATE


def test_regions_count_all_rows_of_a_value_and_of_a_cell(fitted: Baseline) -> None:
    one, two = fit_of(fitted).regions
    c, d = (PREDICTIONS.categorical[name].values() for name in ("c", "d"))
    assert one == ObservedRegion(("c",), (("a",), ("b",), ("rare",)), tuple(c.count(n) for n in ("a", "b", "rare")))
    assert dict(zip(two.cells, two.rows, strict=True)) == {
        (left, right): sum(pair == (left, right) for pair in zip(c, d, strict=True))
        for left in ("a", "b", "rare")
        for right in ("u", "v")
        if (left, right) in set(zip(c, d, strict=True))
    }
    assert list(two.rows) == sorted(two.rows, reverse=True)


def test_the_prior_is_what_mostly_turned_out(fitted: Baseline) -> None:
    fit = fit_of(fitted)
    ripe = PREDICTIONS.timestamps_us <= PREDICTIONS.timestamps_us[-1] + 3 * HOUR - DAY
    assert fit.prior == pytest.approx(ACTUAL[ripe].mean())
    assert fit.prior_label == ("late" if ACTUAL[ripe].mean() > 0.5 else "not late")


def test_streams_show_what_the_rules_in_force_say_of_the_calibration_rows(fitted: Baseline) -> None:
    spec = spec_of()
    policy = policy_of(spec, fitted)
    assert policy is not None
    assert policy.unarmed == ()
    decided = policy.decide_columns(PREDICTIONS, quantiles=policy.start_quantiles)
    streams = {stream.name: stream for stream in fitted.streams if stream.role == HUMILITY_ROLE}
    for number, rule in enumerate(RULES):
        fired = (decided.fired >> np.uint64(number)) & np.uint64(1) == 1
        yes, no = streams.pop(f"humility:rule:{rule.name}").counts[:2]
        assert (yes, no) == (fired[CALIBRATES].sum(), (~fired)[CALIBRATES].sum())
    actions = decided.actions[CALIBRATES]
    assert streams.pop("humility:abstained").counts[0] == np.isin(actions, [2, 3]).sum() > 0
    assert streams.pop("humility:overridden").counts[0] == (actions == 1).sum() > 0
    assert streams.pop("humility:disagreement").counts[0] == 0
    missed = streams.pop("humility:miscoverage")
    assert missed.counts[0] / missed.counts.sum() == pytest.approx(1 - COVERAGE, abs=0.001)
    assert not streams
    (arming,) = [arming for arming in fitted.arming if arming.monitor == HUMILITY]
    assert arming.alarms <= arming.bound


# ------------------------------------------------------------------ what it may not look at, and what stays


def test_calibration_rows_teach_no_surprise_and_no_thresholds(plain: Baseline, fitted: Baseline) -> None:
    numeric = {name: np.where(CALIBRATES, values * 3 + 1, values) for name, values in PREDICTIONS.numeric.items()}
    other = learn(plain, batches=[dataclasses.replace(PREDICTIONS, numeric=numeric)])
    fit = fit_of(fitted)
    assert other.novelty == fit.novelty
    assert (other.joint, other.joint_columns) == (fit.joint, fit.joint_columns)
    assert other.novelty_thresholds != fit.novelty_thresholds


def test_outcomes_of_learning_rows_change_no_guarantee(plain: Baseline, fitted: Baseline) -> None:
    flipped = outcomes_of(PREDICTIONS, np.where(CALIBRATES, ACTUAL, ~ACTUAL))
    other, fit = learn(plain, outcomes=[flipped]), fit_of(fitted)
    assert other.certificates == fit.certificates
    assert other.coverage_starts == fit.coverage_starts
    assert other.prior != fit.prior


def test_all_else_in_the_baseline_stays_and_a_second_fit_replaces_the_first(plain: Baseline, fitted: Baseline) -> None:
    assert is_refit(plain, fitted)
    assert fitted.content_digest() == fitted.digest != plain.digest
    again = fit_humility(spec_of(), fitted, [PREDICTIONS], [OUTCOMES], source="file")
    assert again.digest == fitted.digest
    fitted.check()


def test_a_new_baseline_has_the_fit_of_its_own_rows(fitted: Baseline) -> None:
    told: list[str] = []
    built = build_baseline(
        spec_of(), "1", [PREDICTIONS], source="file", outcomes=[OUTCOMES], notice=told.append
    )  # fmt: skip
    assert built.digest == fitted.digest
    assert not any("guarantee" in text for text in told)


def test_a_fit_survives_its_encoding(fitted: Baseline) -> None:
    _, record = decode(encode("Baseline", fitted.to_record()))
    assert Baseline.from_record(record).humility == fitted.humility


def test_the_order_and_the_batches_of_the_rows_do_not_matter(plain: Baseline, fitted: Baseline) -> None:
    order = np.random.default_rng(0).permutation(ROWS)
    parts = [take(PREDICTIONS, order[:1_000]), take(PREDICTIONS, order[1_000:])]
    backwards = dataclasses.replace(
        OUTCOMES,
        prediction_ids=list(OUTCOMES.prediction_ids)[::-1],
        actual_timestamps_us=OUTCOMES.actual_timestamps_us[::-1],
        actual_value=OUTCOMES.actual_value[::-1],
    )
    assert learn(plain, batches=parts, outcomes=[backwards]) == fitted.humility


def test_a_prediction_that_was_sent_twice_counts_once(plain: Baseline, fitted: Baseline) -> None:
    again = take(PREDICTIONS, np.arange(500))
    assert learn(plain, batches=[PREDICTIONS, again]) == fitted.humility


# ------------------------------------------------------------------ groups


def test_each_group_with_rows_enough_has_guarantees_of_its_own(plain: Baseline) -> None:
    spec = spec_of(Guarantees(novelty_rate=RATE, max_error=MOST, coverage=COVERAGE, segment="c"))
    fit = learn(plain, spec)
    part = np.array(PREDICTIONS.categorical["c"].values())
    scores = np.array(naive_scores(fit, PREDICTIONS, naive_distance(fit, PREDICTIONS)))
    thresholds = {each.segment: each for each in fit.novelty_thresholds}
    assert set(thresholds) == {"", "c=a", "c=b"}
    for name in ("a", "b"):
        own = np.sort(scores[CALIBRATES & (part == name)])
        rank = conditional_rank(len(own), RATE, 0.95)
        assert thresholds[f"c={name}"].score == pytest.approx(own[-rank], abs=1e-9)
        assert thresholds[f"c={name}"].rows == len(own)
    # sixty rows of the third value are too few for themselves: what holds for all rows stands in for them
    assert thresholds[""].rows == CALIBRATES.sum()
    (lacking,) = [each for each in fit.shortfalls if each.guarantee == "novelty"]
    assert (lacking.segment, lacking.rows, lacking.needed) == ("", (CALIBRATES & (part == "rare")).sum(), 149)
    assert "149" in lacking.reason
    assert {each.segment for each in fit.coverage_starts} == {"", "c=a", "c=b"}
    assert policy_of(spec, dataclasses.replace(plain, humility=fit)).groups == ("", "c=a", "c=b")


def test_a_group_that_is_too_small_joins_the_rest_and_is_told_how_many_rows_it_takes(plain: Baseline) -> None:
    spec = spec_of(Guarantees(novelty_rate=0.002, coverage=COVERAGE, segment="c"), rules=())
    fit = learn(plain, spec)
    assert [each.segment for each in fit.novelty_thresholds] == ["", "c=a"]
    part = np.array(PREDICTIONS.categorical["c"].values())
    (lacking,) = [each for each in fit.shortfalls if each.guarantee == "novelty" and each.segment == "c=b"]
    assert lacking.rows == (CALIBRATES & (part == "b")).sum() < lacking.needed == 1_497
    assert "join" in lacking.reason


def test_a_group_of_which_nothing_can_be_certified_is_not_judged_by_the_others(plain: Baseline) -> None:
    """Of part b half of the predictions are wrong, however sure."""
    part = np.array(PREDICTIONS.categorical["c"].values())
    coin = np.random.default_rng(5).random(ROWS) < 0.5
    outcomes = outcomes_of(PREDICTIONS, np.where(part == "b", coin, ACTUAL))
    spec = spec_of(Guarantees(max_error=MOST, segment="c"))
    fit = learn(plain, spec, outcomes=[outcomes])
    of_group = {each.segment: each for each in fit.certificates}
    assert of_group["c=b"].threshold == math.inf
    assert (of_group["c=b"].error_bound, of_group["c=b"].answered_bound) == (1.0, 0.0)
    assert of_group["c=a"].threshold < 1
    (lacking,) = [each for each in fit.shortfalls if each.segment == "c=b"]
    assert lacking.needed == 0
    assert "however many rows" in lacking.reason
    policy = policy_of(spec, dataclasses.replace(plain, humility=fit))
    assert policy is not None
    unsure = (policy.decide_columns(PREDICTIONS).fired >> np.uint64(1)) & np.uint64(1) == 1
    assert unsure[part == "b"].all()
    assert not unsure[part == "a"].all()


def test_a_group_that_is_less_sure_than_the_others_is_tried_at_thresholds_of_its_own(plain: Baseline) -> None:
    """Part b is never surer than 0.7, and always right: the strictest thresholds of all rows answer none of it."""
    part = np.array(PREDICTIONS.categorical["c"].values())
    assert PREDICTIONS.prediction is not None
    score = np.where(part == "b", 0.3 + 0.4 * PREDICTIONS.prediction, PREDICTIONS.prediction)
    columns = dataclasses.replace(PREDICTIONS, prediction=score)
    outcomes = outcomes_of(columns, np.where(part == "b", score >= 0.5, ACTUAL))
    fit = learn(plain, spec_of(Guarantees(max_error=MOST, segment="c")), batches=[columns], outcomes=[outcomes])
    of_group = {each.segment: each for each in fit.certificates}
    assert of_group["c=b"].answered == of_group["c=b"].rows
    assert of_group["c=b"].threshold in np.maximum(score, 1 - score)[~CALIBRATES & (part == "b")]
    assert of_group["c=a"].threshold in np.maximum(score, 1 - score)[~CALIBRATES & (part == "a")]


def test_where_no_group_is_certified_the_rule_is_told_what_was_tried_of_all_rows(plain: Baseline) -> None:
    """And not that the rows of no group are too few: all rows stand in for those."""
    coin = np.random.default_rng(5).random(ROWS) < 0.5
    spec = spec_of(Guarantees(max_error=MOST, segment="c"))
    fit = learn(plain, spec, outcomes=[outcomes_of(PREDICTIONS, coin)])
    assert fit.certificates == ()
    policy = policy_of(spec, dataclasses.replace(plain, humility=fit))
    assert policy is not None
    (told,) = [text for text in policy.unarmed if "'unsure'" in text]
    assert "surest calibration rows are errors" in told


def test_a_segmentation_without_parts_is_told(plain: Baseline) -> None:
    spec = spec_of(Guarantees(novelty_rate=RATE, segment="nowhere"), rules=())
    fit = learn(plain, spec)
    assert [each.segment for each in fit.novelty_thresholds] == [""]
    assert [(each.guarantee, each.segment, each.needed) for each in fit.shortfalls] == [("novelty", "nowhere", 500)]


# ------------------------------------------------------------------ what cannot be guaranteed


def test_a_model_that_is_wrong_too_often_leaves_its_rule_unarmed_and_says_so(plain: Baseline) -> None:
    coin = np.random.default_rng(5).random(ROWS) < 0.5
    fit = learn(plain, outcomes=[outcomes_of(PREDICTIONS, coin)])
    assert fit.certificates == ()
    (lacking,) = fit.shortfalls
    assert (lacking.guarantee, lacking.segment, lacking.needed) == ("risk", "", 0)
    policy = policy_of(spec_of(), dataclasses.replace(plain, humility=fit))
    assert policy is not None
    (unarmed,) = policy.unarmed
    assert "unsure" in unarmed
    assert lacking.reason in unarmed


def test_without_outcomes_only_what_needs_them_is_refused_with_the_rows_it_takes(plain: Baseline) -> None:
    fit = learn(plain, outcomes=[])
    assert len(fit.novelty_thresholds) == 1
    assert [(s.guarantee, s.rows, s.needed) for s in fit.shortfalls] == [("risk", 0, 29), ("coverage", 0, 9)]
    assert fit.prior == pytest.approx(PREDICTIONS.prediction.mean())
    assert (fit.certificates, fit.coverage_starts, fit.step) == ((), (), 0.0)
    expected_none = learn(plain, spec_of(outcomes=None))
    assert all("expects no outcomes" in shortfall.reason for shortfall in expected_none.shortfalls)


def test_few_rows_are_told_how_many_it_takes(plain: Baseline) -> None:
    few = take(PREDICTIONS, np.arange(0, ROWS, 20))
    spec = spec_of(Guarantees(novelty_rate=0.002))
    fit = learn(plain, spec, batches=[few], outcomes=[])
    novelty = [each for each in fit.shortfalls if each.guarantee == "novelty"]
    assert (novelty[0].rows, novelty[0].needed) == (calibrating(few.rows).sum(), 1_497)
    assert [each.needed for each in novelty[1:]] == [2_371]  # two order statistics take more
    assert "bounds of 'prediction'" in novelty[1].reason
    texts = fit_texts(dataclasses.replace(plain, humility=fit))
    assert all(text.startswith("humility cannot guarantee novelty of all rows: ") for text in texts)


def test_fitted_bounds_need_a_rate(plain: Baseline) -> None:
    fit = learn(plain, spec_of(Guarantees(coverage=COVERAGE)))
    (lacking,) = fit.shortfalls
    assert "novelty_rate" in lacking.reason
    assert fit.bounds == {}


def test_hostile_names_do_nothing_in_what_is_told(plain: Baseline) -> None:
    name = "\x1b[2J<!channel>\n=cmd()"
    rules = (Rule("r", Condition("outlying_input", columns=(name,)), "record"),)
    spec = dataclasses.replace(spec_of(rules=rules), features=(FeatureSpec(name, "numeric"),))
    columns = dataclasses.replace(PREDICTIONS, numeric={name: np.full(ROWS, np.nan)}, categorical={})
    fit = learn(plain, spec, batches=[columns])
    texts = fit_texts(dataclasses.replace(plain, humility=fit))
    assert texts
    assert all(text.isprintable() for text in texts)


def test_rows_of_another_deployment_or_version_are_refused(plain: Baseline) -> None:
    with pytest.raises(BaselineError, match=r"expected predictions of 'd' version '1'.*came.*version '2'"):
        learn(plain, batches=[dataclasses.replace(PREDICTIONS, model_version="2")])
    with pytest.raises(BaselineError, match=r"expected predictions of 'd'.*came predictions of 'e'"):
        learn(plain, batches=[PREDICTIONS, dataclasses.replace(PREDICTIONS, deployment_id="e")])
    with pytest.raises(BaselineError, match=r"expected a baseline of 'd', came one of 'e'"):
        learn(dataclasses.replace(plain, deployment_id="e"))
    with pytest.raises(BaselineError, match="expected outcomes of 'd', came outcomes of 'e'"):
        learn(plain, outcomes=[dataclasses.replace(OUTCOMES, deployment_id="e")])
    for rows in (0, 199):
        with pytest.raises(BaselineError, match=rf"at least 200 predictions.*came {rows}: give a longer range"):
            learn(plain, batches=[take(PREDICTIONS, np.arange(rows))])
    for nothing in (None, HumilitySpec()):
        spec = spec_of(humility=nothing)
        assert not asks_for_humility(spec)
        with pytest.raises(BaselineError, match="add humility: to it"):
            learn(plain, spec)


# ------------------------------------------------------------------ tasks


def regression(**columns: Any) -> tuple[PredictionColumns, np.ndarray]:
    rng = np.random.default_rng(4)
    value = np.rint(rng.normal(size=ROWS) * 80) / 8  # so that the widths of intervals are exact
    actual = value + rng.normal(size=ROWS) * np.where(np.arange(ROWS) % 2, 1.0, 4.0)
    return dataclasses.replace(PREDICTIONS, prediction=value, **columns), actual


def test_a_regression_with_intervals_is_scored_by_how_far_outside_of_them_it_was(plain: Baseline) -> None:
    half = np.where(np.arange(ROWS) % 2, 1.5, 6.0)
    columns, actual = regression()
    columns = dataclasses.replace(
        columns, prediction_low=columns.prediction - half, prediction_high=columns.prediction + half
    )
    spec = spec_of(Guarantees(max_error=MOST, tolerance=3.0, coverage=COVERAGE), task=REGRESSION)
    fit = learn(
        dataclasses.replace(plain, outcomes=None), spec, batches=[columns], outcomes=[outcomes_of(columns, actual)]
    )
    assert fit.coverage_score == INTERVAL_EXCESS
    # 1.5 standard deviations to either side hold 87 %: for 90 % they must be a little wider
    assert 0 < fit.coverage_starts[0].quantile < 0.7
    # narrow intervals are sure, wide ones are not: beyond 3 there are 0.3 % of the first and 45 % of the others
    (certificate,) = fit.certificates
    assert certificate.threshold == -3.0
    assert certificate.errors / certificate.answered < 0.02
    assert fit.prior == pytest.approx(actual.mean(), abs=0.1)
    assert fit.prior_label is None


def test_a_regression_without_intervals_is_scored_by_its_residual_and_says_what_it_lacks(plain: Baseline) -> None:
    columns, actual = regression()
    outcomes = [outcomes_of(columns, actual)]
    bare = dataclasses.replace(plain, outcomes=None)
    wanted = Guarantees(max_error=MOST, tolerance=3.0, coverage=COVERAGE, step=0.02)
    fit = learn(bare, spec_of(wanted, task=REGRESSION, rules=()), batches=[columns], outcomes=outcomes)
    assert fit.coverage_score == ABSOLUTE_RESIDUAL
    residual = np.abs(actual - columns.prediction)
    assert fit.score_range == pytest.approx(np.quantile(residual, 0.99), rel=0.1)
    assert 0 < fit.step <= 0.02 * fit.score_range
    (lacking,) = fit.shortfalls
    assert "no intervals" in lacking.reason
    without = dataclasses.replace(wanted, tolerance=None)
    fit = learn(bare, spec_of(without, task=REGRESSION, rules=()), batches=[columns], outcomes=outcomes)
    assert "tolerance" in fit.shortfalls[0].reason


def test_classes_are_scored_by_the_probability_of_what_turned_out(plain: Baseline) -> None:
    rng = np.random.default_rng(6)
    names = ["low", "mid", "high"]
    shares = rng.dirichlet([0.3, 0.3, 0.3], ROWS)
    actual = (rng.random(ROWS)[:, None] > shares.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    columns = dataclasses.replace(
        PREDICTIONS, prediction=None, class_probabilities=dict(zip(names, shares.T.copy(), strict=True))
    )
    outcomes = outcomes_of(
        columns, actual, actual_value=None, actual_label=CategoricalColumn(names, actual.astype(np.int32))
    )
    spec = spec_of(task=MULTICLASS, outcomes=OutcomeSpec(horizon_ms=DAY // 1000, classes=tuple(names)))
    fit = learn(dataclasses.replace(plain, outcomes=None), spec, batches=[columns], outcomes=[outcomes])
    score = 1 - shares[np.arange(ROWS), actual]
    assert fit.coverage_starts[0].quantile == pytest.approx(np.quantile(score, COVERAGE), abs=0.02)
    assert fit.certificates[0].errors / fit.certificates[0].answered < MOST
    assert fit.prior is None
    assert fit.prior_label == names[int(np.bincount(actual).argmax())]
    unknown = dataclasses.replace(spec, outcomes=OutcomeSpec(horizon_ms=DAY // 1000))
    other = learn(dataclasses.replace(plain, outcomes=None), unknown, batches=[columns], outcomes=[outcomes])
    assert any("classes are not known" in each.reason for each in other.shortfalls)


def test_a_task_of_no_kind_can_only_be_novel(plain: Baseline) -> None:
    fit = learn(dataclasses.replace(plain, outcomes=None), spec_of(task=OTHER_TASK, rules=()))
    assert fit.novelty_thresholds
    assert {each.guarantee for each in fit.shortfalls} == {"risk", "coverage"}


# ------------------------------------------------------------------ a labelled sample


def test_of_rows_labelled_with_other_probabilities_a_fair_sample_is_drawn(plain: Baseline) -> None:
    """Scores above a half are labelled four times as often; what is kept of them is a quarter."""
    score = np.asarray(PREDICTIONS.prediction)
    chance = np.where(score >= 0.5, 1.0, 0.25)
    chosen = np.flatnonzero(np.random.default_rng(8).random(ROWS) < chance)
    outcomes = OutcomeColumns(
        "d",
        [PREDICTIONS.prediction_ids[row] for row in chosen.tolist()],
        (PREDICTIONS.timestamps_us + HOUR)[chosen],
        ACTUAL[chosen].astype(np.float64),
        labelling_probability=chance[chosen],
    )
    fit = learn(plain, outcomes=[outcomes])
    ripe = (PREDICTIONS.timestamps_us <= PREDICTIONS.timestamps_us[-1] + HOUR - DAY)[chosen]
    half = (CALIBRATES[chosen] & ripe).sum() * (0.5 * 0.25 + 0.5 * 0.25) / (0.5 * 1.0 + 0.5 * 0.25)
    assert fit.coverage_starts[0].rows == pytest.approx(half, rel=0.1)
    assert fit.prior == pytest.approx(0.5, abs=0.06)


def test_a_sample_of_which_little_is_fair_is_told_as_such(plain: Baseline) -> None:
    chance = np.where(np.arange(ROWS) == 1_000, 0.001, 1.0)
    fit = learn(plain, outcomes=[dataclasses.replace(OUTCOMES, labelling_probability=chance)])
    risk = next(each for each in fit.shortfalls if each.guarantee == "risk")
    assert risk.rows < 29
    assert "labelled rows" in risk.reason
    assert "labelling_probability" in risk.reason


def test_rows_whose_horizon_has_not_passed_are_left_out(plain: Baseline) -> None:
    fit = learn(plain)
    ripe = PREDICTIONS.timestamps_us <= PREDICTIONS.timestamps_us[-1] + 3 * HOUR - DAY
    assert fit.coverage_starts[0].rows == (CALIBRATES & ripe).sum() < CALIBRATES.sum()


def test_a_history_is_in_order_of_time_and_shares_out_neighbours() -> None:
    order: Sequence[int] = np.random.default_rng(1).permutation(ROWS)
    history = History.of([take(PREDICTIONS, np.asarray(order))])
    assert (np.diff(history.times_us) >= 0).all()
    assert history.calibrates.tolist() == CALIBRATES.tolist()
    assert history.numbers("y").tolist() == PREDICTIONS.numeric["y"].tolist()
    assert history.texts("c").values() == PREDICTIONS.categorical["c"].values()


def test_rows_that_come_in_runs_are_told_to_be_worth_fewer() -> None:
    """A value beyond the bounds stays there for thirty rows: neighbours tell the same."""
    rng = np.random.default_rng(7)
    numeric = dict(PREDICTIONS.numeric) | {"x": np.repeat(rng.normal(size=ROWS // 30), 30)}
    rules = (Rule("far", Condition("outlying_input", columns=("x",), low=-1.5, high=1.5), "record"),)
    spec = spec_of(Guarantees(), rules=rules, outcomes=None)
    bare = Baseline("d", "1", 0, ())
    found = fit_humility(spec, bare, [dataclasses.replace(PREDICTIONS, numeric=numeric)], [], source="file")
    (text,) = fit_texts(found)
    assert text.startswith("rule far comes in runs") and run_texts(found) == [text]
    independent = fit_humility(spec, bare, [PREDICTIONS], [], source="file")
    assert fit_texts(independent) == []


def test_columns_of_all_kinds_of_oddities_are_fitted_to_and_decide(plain: Baseline) -> None:
    rows = 1_000
    rng = np.random.default_rng(9)
    few = take(PREDICTIONS, np.arange(rows))
    names = ["constant", "gone", "huge", "endless", "texts", "mixed"]
    numeric = {
        "constant": np.full(rows, 7.0),
        "gone": np.full(rows, np.nan),
        "huge": rng.choice([-8e307, 8e307, 1.0, 0.0], rows),
        "endless": np.where(rng.random(rows) < 0.5, np.inf, rng.normal(size=rows)),
        "mixed": np.where(np.arange(rows) % 2, np.nan, 1.0),
    }
    text = CategoricalColumn(["1.5", "nonsense", "\x1b[2J", ""], rng.integers(-1, 4, rows).astype(np.int32))
    columns = dataclasses.replace(few, numeric=numeric, categorical={"texts": text, "mixed": text, "c": text})
    rules = (
        Rule("novel", Condition("novel_input"), "refuse"),
        Rule("outlying", Condition("outlying_input"), "refuse"),
        Rule("rare", Condition("low_observation_region", columns=("c", "never")), "record"),
    )
    features = (*(FeatureSpec(name, "numeric") for name in names), FeatureSpec("c", "categorical"))
    spec = dataclasses.replace(
        spec_of(Guarantees(novelty_rate=0.05, coverage=COVERAGE, segment="c"), rules=rules), features=features
    )
    known = take(OUTCOMES, np.arange(rows))
    found = fit_humility(spec, plain, [columns], [known], source="odd")
    _, record = decode(encode("Baseline", found.to_record()))
    assert Baseline.from_record(record).humility == found.humility
    policy = policy_of(spec, found)
    assert policy is not None
    fired = policy.decide_columns(columns).fired & np.uint64(3)
    assert 0 <= (fired > 0)[calibrating(rows)].mean() <= 0.1
    found.check()
