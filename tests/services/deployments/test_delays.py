"""The delays that a budget is said to cost are those that its detectors have."""

import numpy as np
import pytest
from scipy.stats import norm

from driftline.events import CategoricalColumn, PredictionColumns
from services.deployments.delays import monitor_delays, shifted
from streams.baseline import Baseline
from streams.monitor import Monitors
from streams.reference import build_baseline
from streams.specification import DATA_DRIFT, DATA_QUALITY, PREDICTION_DRIFT, DeploymentSpec, FeatureSpec
from streams.statistics.budget import start_mass_log
from streams.statistics.layouts import NUMERIC, NUMERIC_MISSING, bin_numeric, count_codes, fit_numeric

ROWS = 20_000
NAMES = ("a", "b", "c")


def spec(margin: float = 0.02) -> DeploymentSpec:
    features = (*(FeatureSpec(name, "numeric") for name in NAMES), FeatureSpec("kind", "categorical"))
    return DeploymentSpec("d", "m", "regression", features, margin_tv=margin)


@pytest.fixture(scope="module")
def reference() -> PredictionColumns:
    rng = np.random.default_rng(3)
    return PredictionColumns(
        "d",
        "1",
        [str(i) for i in range(ROWS)],
        np.arange(ROWS, dtype=np.int64) * 60_000_000,
        {name: rng.normal(size=ROWS) for name in NAMES},
        {"kind": CategoricalColumn(("x", "y"), rng.integers(0, 2, ROWS, np.int32))},
        prediction=rng.gamma(2.0, size=ROWS),
    )


@pytest.fixture(scope="module")
def baseline(reference: PredictionColumns) -> Baseline:
    return build_baseline(spec(), "1", [reference], source="test")


def test_a_shift_moves_a_normal_feature_by_standard_deviations() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(5, 2, 200_000)
    bins = fit_numeric(values)
    p = count_codes(bin_numeric(bins, values), NUMERIC) / len(values)
    expected = np.diff(norm.cdf(np.r_[-np.inf, bins.edges[1:-1], np.inf], 5 + 2 * 0.4, 2))
    assert shifted(p, 0.4)[0][1:13] == pytest.approx(expected, abs=0.004)


def test_a_shift_keeps_what_is_missing_and_adds_up_to_one() -> None:
    p = np.random.default_rng(2).dirichlet(np.ones(15), 5)
    p[0] = np.arange(15) == NUMERIC_MISSING
    for shift in (-1.0, 0.0, 0.5):
        after = shifted(p, shift)
        assert after.sum(axis=1) == pytest.approx(np.ones(5)) and (after >= 0).all()
        assert after[:, NUMERIC_MISSING] == pytest.approx(p[:, NUMERIC_MISSING])
    assert shifted(p, 0.0) == pytest.approx(p)


def simulated_delay(
    baseline: Baseline, monitor: str, shift_sd: float, rng: np.random.Generator, step: int, runs: int = 40
) -> float:
    """Mean number of events from a change of one stream of a monitor to its alarm, everybody's events counted.

    The change begins with a start slot; starts follow every 2,000 events.
    """
    delays = []
    for _ in range(runs):
        monitors = Monitors(spec(), baseline, 0, 0)
        weights = monitors.monitors[monitor].log_weights
        b = next(i for i, w in enumerate(weights) if np.isfinite(w).any() and monitors.blocks[i].layout is NUMERIC)
        index = int(np.flatnonzero(np.isfinite(weights[b]))[0])
        distributions = [np.array([s.counts / s.counts.sum() for s in block.streams]) for block in monitors.blocks]
        distributions[b][index] = shifted(distributions[b][index], shift_sd)[0]
        events = 0
        while not any(alarm.monitor.name == monitor for alarm in monitors.alarms(0)):
            if events % 2_000 < step:
                monitors.start(0, 0, start_mass_log(0))
            drawn = [rng.multinomial(step, p) for p in distributions]
            monitors.count([n * np.isfinite(w)[:, None] for n, w in zip(drawn, weights, strict=True)])
            events += step
            assert events < 100_000
        delays.append(events)
    return float(np.mean(delays))


@pytest.mark.parametrize(("shift_sd", "step"), [(0.2, 50), (0.3, 20), (0.5, 10), (1.0, 4)])
@pytest.mark.parametrize("monitor", [DATA_DRIFT, PREDICTION_DRIFT])
def test_the_expected_delay_is_that_of_the_detector_within_a_quarter(
    baseline: Baseline, monitor: str, shift_sd: float, step: int
) -> None:
    (expected,) = monitor_delays(Monitors(spec(), baseline, 0, 0), monitor, [shift_sd])
    measured = simulated_delay(baseline, monitor, shift_sd, np.random.default_rng(round(shift_sd * 10)), step)
    assert 0.75 < expected.median.events / measured < 1.25, (expected.median.events, measured)


def test_a_shift_inside_the_margin_is_never_noticed_and_said_to_be_inside(reference: PredictionColumns) -> None:
    wide = spec(margin=0.1)
    monitors = Monitors(wide, build_baseline(wide, "1", [reference], source="test"), 0, 0)
    small, large = monitor_delays(monitors, DATA_DRIFT, [0.2, 1.0])
    assert small.worst.events == np.inf and small.worst.inside_margin
    assert large.worst.events < np.inf and not large.worst.inside_margin


def test_only_values_of_whole_traffic_have_delays(baseline: Baseline) -> None:
    monitors = Monitors(spec(), baseline, 0, 0)
    (features,) = monitor_delays(monitors, DATA_DRIFT, [0.5])
    assert features.streams == len(NAMES) and {features.median.stream, features.worst.stream} <= set(NAMES)
    assert monitor_delays(monitors, DATA_QUALITY) == [] and monitor_delays(monitors, "no such monitor") == []
    (scores,) = monitor_delays(monitors, PREDICTION_DRIFT, [0.5])
    assert scores.worst.stream == "prediction" and scores.worst.events < features.median.events
