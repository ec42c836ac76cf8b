"""The delays at which changes among outcomes are said to be found are those of the detectors."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from services.deployments.accounts import DeploymentAccount, Rate
from services.deployments.outcome_delays import (
    OutcomeDelay,
    known_after,
    larger,
    moved_rate,
    outcome_delays,
    with_known,
    worse,
)
from streams.baseline import Baseline, BaselineStream, OutcomeReference
from streams.derived import Derived
from streams.monitor import Monitors
from streams.specification import (
    CONCEPT_DRIFT,
    DATA_DRIFT,
    FAIRNESS,
    LABELS,
    DeploymentSpec,
    FeatureSpec,
    OutcomeSpec,
)
from streams.statistics.budget import start_mass_log
from streams.statistics.layouts import (
    CATEGORICAL,
    NUMERIC,
    NUMERIC_MISSING,
    CategoricalBins,
    Layout,
    bin_numeric,
    count_codes,
    fit_numeric,
    nominal_probabilities,
)
from streams.statistics.tilts import tilts_of

ROWS, RESOLVED = 25_000, 20_000
HOUR_US = 3_600_000_000
SPEC = DeploymentSpec(
    "d", "m", "binary_classification", (FeatureSpec("x", "numeric"),), outcomes=OutcomeSpec(86_400_000, fairness=("g",))
)


def stream(name: str, role: str, counts: NDArray[np.int64], layout: Layout = NUMERIC, **more: object) -> BaselineStream:
    bins = CategoricalBins(("known", "open")) if layout is CATEGORICAL else fit_numeric(np.arange(1000.0))
    tempering = np.ones(tilts_of(layout).size, np.float32)
    return BaselineStream(name, role, layout, bins, counts, 0.01, tempering, **more)  # type: ignore[arg-type]


def reference(confusion: list[int], classes: tuple[str, ...] = ("no", "yes")) -> OutcomeReference:
    none = np.zeros(0)
    halves = np.array([confusion, confusion]) // 2
    counts = {"confusion": halves} if classes else {}
    return OutcomeReference(
        86_400_000, ROWS, RESOLVED, np.array([HOUR_US]), 5 * HOUR_US, classes, none, none, none, {}, counts, {}
    )


def baseline(outcomes: OutcomeReference | None) -> Baseline:
    ranks = np.round(nominal_probabilities() * RESOLVED).astype(np.int64)
    labels = np.bincount([0, 1], [ROWS * 0.6, ROWS * 0.4], CATEGORICAL.size).astype(np.int64)
    late = np.bincount([0, 1], [ROWS * 0.3, ROWS * 0.1], CATEGORICAL.size).astype(np.int64)
    streams = (
        stream("x", "feature", ranks),
        stream("loss", "outcome", ranks),
        stream("labels:1", "labels", labels, CATEGORICAL),
        stream("labels:2", "labels", late, CATEGORICAL),
        stream("selected", "fairness", ranks * 6 // 10, segment="g=a"),
        stream("selected", "fairness", ranks * 3 // 10, segment="g=b"),
        stream("selected", "fairness", ranks // 10, segment="g=c"),
    )
    derived = (Derived("labels", "labels", (), {"ages_us": np.array([2.0, 5.0]) * HOUR_US}),)
    return Baseline("d", "1", ROWS, streams, "", 0, ROWS * HOUR_US // 100, derived=derived, outcomes=outcomes)


def delays(monitor: str, outcomes: OutcomeReference | None, spec: DeploymentSpec = SPEC) -> list[OutcomeDelay]:
    known = baseline(outcomes)
    return outcome_delays(Monitors(spec, known, 0, 0), known, monitor)


CLASSES = reference([14_000, 1_000, 3_000, 2_000])


def test_losses_of_a_model_that_is_wrong_more_often_are_those_drawn_so() -> None:
    rng = np.random.default_rng(1)
    wrong = rng.random(400_000) < 0.23
    losses = np.where(wrong, 0.7 + rng.gamma(1.0, size=wrong.size), 0.7 * rng.random(wrong.size))
    bins = fit_numeric(losses)
    before = count_codes(bin_numeric(bins, losses), NUMERIC) / losses.size
    right, missed = losses[~wrong], losses[wrong]
    after = rng.random(400_000) < 0.28
    drawn = np.where(after, rng.choice(missed, after.size), rng.choice(right, after.size))
    counts = count_codes(bin_numeric(bins, drawn), NUMERIC) / drawn.size
    expected = worse(before, float(wrong.mean()), 0.05)
    # the bin in which right and wrong ones meet is as if each were spread over it
    assert expected == pytest.approx(counts, abs=0.003)


def test_losses_of_larger_errors_are_those_drawn_so_absolute_or_squared() -> None:
    errors = np.abs(np.random.default_rng(2).normal(size=400_000))
    for losses, power in ((errors, 1), (errors**2, 2)):
        bins = fit_numeric(losses)
        before = count_codes(bin_numeric(bins, losses), NUMERIC) / losses.size
        counts = count_codes(bin_numeric(bins, losses * 1.25**power), NUMERIC) / losses.size
        counts[12] += counts[13]  # beyond the reference's largest is the upper tail here
        assert larger(before, 1.25)[:14] == pytest.approx([*counts[:13], 0], abs=0.002)


@pytest.mark.parametrize("move", [0.1, -0.1])
def test_a_rate_that_moves_takes_ranks_from_the_others(move: float) -> None:
    rng = np.random.default_rng(3)
    values = (rng.random(400_000) < 0.5) + rng.random(400_000)
    bins = fit_numeric(values)
    before = count_codes(bin_numeric(bins, values), NUMERIC) / values.size
    moved = (rng.random(400_000) < 0.5 + move) + rng.random(400_000)
    counts = count_codes(bin_numeric(bins, moved), NUMERIC) / values.size
    assert moved_rate(before, 0.5, move) == pytest.approx(counts, abs=0.004)


def test_what_is_missing_stays_and_shares_add_up() -> None:
    p = np.random.default_rng(4).dirichlet(np.ones(15))
    for after in (worse(p, 0.2, 0.1), worse(p, 0.0, 0.1), larger(p, 1.5), moved_rate(p, 0.5, -0.1)):
        assert after.sum() == pytest.approx(1) and (after >= -1e-12).all()
        assert after[NUMERIC_MISSING] == pytest.approx(p[NUMERIC_MISSING])
    assert worse(p, 0.2, 0.0) == pytest.approx(p) and larger(p, 1.0) == pytest.approx(p)
    empty = np.zeros(15)
    empty[NUMERIC_MISSING] = 1.0
    assert worse(empty, 0.2, 0.1) == pytest.approx(empty)
    labels = np.bincount([0, 1], [0.6, 0.4], CATEGORICAL.size)
    assert with_known(labels, 0.3)[:2] == pytest.approx([0.3, 0.7])


def test_shares_known_at_each_age_are_those_of_outcomes_that_were_taken_away() -> None:
    rng = np.random.default_rng(6)
    ages = np.where(rng.random(200_000) < 0.9, rng.gamma(2.0, size=200_000), np.inf)

    def shares(ages: NDArray[np.float64]) -> NDArray[np.float64]:
        limits = [0.0, 1.0, 2.0, 5.0]
        open_at = [(ages > a).mean() for a in limits]
        return np.array([1 - later / before for before, later in pairwise(open_at)])

    fewer = np.where(rng.random(ages.size) < 0.3, np.inf, ages)
    assert known_after(shares(ages), 0.3) == pytest.approx(shares(fewer), abs=0.01)
    assert known_after(shares(ages), 0.0) == pytest.approx(shares(ages))
    assert known_after(np.array([1.0, 0.5]), 1.0) == pytest.approx([0.0, 0.0])


def simulated(spec: DeploymentSpec, known: Baseline, monitor: str, name: str, after: NDArray[np.float64]) -> float:
    """Mean number of a stream's events from its change to the alarm; the other streams are unchanged."""
    rng, found, step = np.random.default_rng(5), [], 20
    for _ in range(30):
        monitors = Monitors(spec, known, 0, 0)
        events = 0
        while not any(alarm.monitor.name == monitor for alarm in monitors.alarms(0)):
            if events % 2_000 < step:
                monitors.start(0, 0, start_mass_log(0))
            counts = []
            for block in monitors.blocks:
                drawn = [
                    rng.multinomial(step, after if s.name == name else s.counts / s.counts.sum())
                    * (s.role in ("outcome", "labels"))
                    for s in block.streams
                ]
                counts.append(np.array(drawn))
            monitors.count(counts)
            events += step
            assert events < 100_000
        found.append(events)
    return float(np.mean(found))


def test_the_expected_delay_of_a_fall_of_accuracy_is_that_of_the_detector() -> None:
    two, five, ten = delays(CONCEPT_DRIFT, CLASSES)
    assert [d.change for d in (two, five, ten)] == [f"accuracy falls by {n} points" for n in (2, 5, 10)]
    assert two.events > five.events > ten.events and {d.stream for d in (two, five, ten)} == {"loss"}
    known = baseline(CLASSES)
    before = known.streams[1].counts / known.streams[1].counts.sum()
    measured = simulated(SPEC, known, CONCEPT_DRIFT, "loss", worse(before, 0.2, 0.1))
    assert 0.7 < ten.events / measured < 1.3, (ten.events, measured)


def test_the_expected_delay_until_missing_labels_are_noticed_is_that_of_the_detector() -> None:
    tenth, half, everything = delays(LABELS, CLASSES)
    assert tenth.change == "10 % of the outcomes stay out" and everything.change == "no outcomes come"
    assert tenth.events > half.events > everything.events
    assert {d.counted for d in (tenth, half, everything)} == {"predictions"} and everything.wait_us == 2 * HOUR_US
    assert {d.stream for d in (half, everything)} == {"labels:1"}
    assert tenth.stream == "labels:2" and tenth.wait_us == 5 * HOUR_US, (
        "few are open late, and nearly all of those come"
    )
    assert tenth.per_prediction == pytest.approx(0.4)
    known = baseline(CLASSES)
    before = known.streams[2].counts / known.streams[2].counts.sum()
    measured = simulated(SPEC, known, LABELS, "labels:1", with_known(before, 0.3))
    assert 0.6 < half.events / measured < 1.4, (half.events, measured)


def test_a_smaller_change_than_the_margin_is_said_to_be_inside_it() -> None:
    known = baseline(CLASSES)
    wide = dataclasses.replace(known, streams=tuple(dataclasses.replace(s, margin_tv=0.03) for s in known.streams))
    two, *_ = outcome_delays(Monitors(SPEC, wide, 0, 0), wide, CONCEPT_DRIFT)
    assert two.events == np.inf and two.inside_margin


def test_numbers_have_errors_that_grow() -> None:
    found = delays(CONCEPT_DRIFT, reference([], ()))
    assert [d.change for d in found] == ["errors grow by 10 %", "errors grow by 25 %", "errors grow by 50 %"]
    assert found[0].events > found[-1].events


def test_of_groups_the_one_in_the_middle_by_its_share_of_the_outcomes_is_stated() -> None:
    found = delays(FAIRNESS, CLASSES)
    assert [d.change for d in found] == [f"a group's rate moves by {n} points" for n in (2, 5, 10)]
    assert {d.stream for d in found} == {"selected [g=b]"} and {d.streams for d in found} == {3}
    assert found[-1].per_outcome == pytest.approx(0.3, abs=0.01)
    assert found[-1].per_prediction == pytest.approx(0.3 * RESOLVED / ROWS, abs=0.01)


@pytest.mark.parametrize(
    ("monitor", "outcomes"),
    [(DATA_DRIFT, CLASSES), (CONCEPT_DRIFT, None), (CONCEPT_DRIFT, reference([0, 0, 0, 0])), ("no such", CLASSES)],
)
def test_without_outcomes_nothing_is_claimed(monitor: str, outcomes: OutcomeReference | None) -> None:
    assert delays(monitor, outcomes) == []


def test_a_monitor_that_is_switched_off_has_no_delays() -> None:
    off = dataclasses.replace(SPEC, disabled_monitors=(CONCEPT_DRIFT,))
    assert delays(CONCEPT_DRIFT, CLASSES, off) == []


def test_days_count_the_events_that_the_stream_gets() -> None:
    account = DeploymentAccount(
        dataclasses.replace(SPEC, shards=2), (), rate=Rate(1000.0, "rows"), outcome_rate=Rate(500.0, "outcomes")
    )
    of_outcomes = OutcomeDelay("x", "loss", 1, 250.0, False, 0.4, 0.5)
    of_predictions = OutcomeDelay("x", "labels:1", 1, 250.0, False, 0.5, None, wait_us=86_400_000_000)
    assert account.days_of(of_outcomes) == pytest.approx(250 * 2 / 250)
    assert account.days_of(of_predictions) == pytest.approx(1 + 250 * 2 / 500)
    assert dataclasses.replace(account, outcome_rate=None).days_of(of_outcomes) is None
    assert dataclasses.replace(account, rate=None).days_of(of_predictions) is None
    assert json.dumps(dataclasses.asdict(of_outcomes))
