"""Effect sizes as records."""

import numpy as np
import pytest
from fastavro import validate
from scipy import stats

from driftline.codec import SCHEMAS
from streams.baseline import BaselineStream
from streams.effects import ORDERED_EFFECTS, effect_sizes
from streams.statistics.layouts import (
    CATEGORICAL,
    NUMERIC,
    CategoricalBins,
    bin_numeric,
    count_codes,
    fit_numeric,
)
from streams.statistics.seasons import HOUR_AND_WEEKEND, SeasonalBins
from streams.statistics.tilts import tilts_of

RNG = np.random.default_rng(21)
COLUMN = RNG.normal(50, 10, 8_000)
BINS = fit_numeric(COLUMN)


def numeric(bins: object = BINS) -> BaselineStream:
    counts = count_codes(bin_numeric(BINS, COLUMN), NUMERIC)
    return BaselineStream("x", "feature", NUMERIC, bins, counts, 0.05, np.ones(tilts_of(NUMERIC).size))  # type: ignore[arg-type]


def boolean(rows: int) -> BaselineStream:
    counts = np.zeros(CATEGORICAL.size, np.int64)
    counts[:2] = round(0.7 * rows), round(0.3 * rows)
    bins = CategoricalBins(("no", "yes"))
    return BaselineStream("b", "feature", CATEGORICAL, bins, counts, 0.05, np.ones(tilts_of(CATEGORICAL).size))


def counted(values: np.ndarray) -> np.ndarray:
    return count_codes(bin_numeric(BINS, values), NUMERIC)[None]


def test_the_distances_of_a_numeric_stream_are_those_of_its_values() -> None:
    values = RNG.normal(55, 10, 4_000)
    (found,) = effect_sizes(counted(values), [numeric()], [0.5], intervals=True)
    assert found is not None
    ks = stats.ks_2samp(values, COLUMN).statistic
    assert 0 <= ks - found["kolmogorov_smirnov"] <= found["kolmogorov_smirnov_error"] < 0.15
    clipped = np.clip(values, COLUMN.min(), COLUMN.max())
    off = found["wasserstein"] - stats.wasserstein_distance(clipped, COLUMN)
    assert abs(off) <= found["wasserstein_error"] < 6
    assert found["wasserstein"] == pytest.approx(5, rel=0.1)  # it was moved by five units
    assert found["independent_rows"] == 2_000
    assert found["intervals"].keys() == {
        name for name in found if not name.endswith("_error") and name not in ("independent_rows", "intervals")
    }
    for name, (low, high) in found["intervals"].items():
        assert 0 < low < found[name] < high, name
    truth = {"psi": 0.238, "kl": 0.119, "kolmogorov_smirnov": 0.197, "total_variation": 0.19, "wasserstein": 5}
    for name, value in truth.items():  # of half a standard deviation, in ten bins of equal mass
        low, high = found["intervals"][name]
        assert low < value < high, name


@pytest.mark.parametrize("rows", [2_000, 20_000])
def test_without_change_psi_is_bins_over_rows_and_its_interval_takes_that_off(rows: int) -> None:
    """E[PSI] = (K - 1) / n over the K = 12 bins in use."""
    counts = RNG.multinomial(rows, numeric().counts / numeric().counts.sum(), size=300)
    found = effect_sizes(counts, [numeric()] * 300, np.ones(300), intervals=True)
    psi = np.array([f["psi"] for f in found if f is not None])
    low, high = np.array([f["intervals"]["psi"] for f in found if f is not None]).T
    assert psi.mean() == pytest.approx(11 / rows, rel=0.1)
    assert (low < 1e-4).mean() > 0.95
    assert (high < 5 * 11 / rows).mean() > 0.95


@pytest.mark.parametrize("reference_rows", [300, 5_000])
def test_bins_a_boolean_cannot_fill_are_no_distance_however_small_the_reference(reference_rows: int) -> None:
    counts = np.zeros((1, CATEGORICAL.size), np.int64)
    counts[0, :2] = 2_100, 900
    (found,) = effect_sizes(counts, [boolean(reference_rows)], [1.0], intervals=False)
    assert found is not None and found["intervals"] == {}
    for name in ("psi", "kl", "chi_square", "jensen_shannon", "hellinger", "total_variation"):
        assert found[name] < 2e-3, name
    assert all(found[name] is None for name in ORDERED_EFFECTS)


def test_seasonal_bins_have_an_order_and_no_unit() -> None:
    seasonal = SeasonalBins(HOUR_AND_WEEKEND, np.tile(BINS.edges, (48, 1)), np.tile(BINS.remap, (48, 1)))
    (found,) = effect_sizes(counted(COLUMN[:500] + 5), [numeric(seasonal)], [1.0], intervals=True)
    assert found is not None
    assert found["kolmogorov_smirnov"] > 0.1 and "kolmogorov_smirnov" in found["intervals"]
    assert found["wasserstein"] is None and found["wasserstein_error"] is None
    assert "wasserstein" not in found["intervals"]


def test_a_stream_without_events_has_no_effects_and_does_not_disturb_its_neighbours() -> None:
    only_missing = np.zeros(NUMERIC.size, np.int64)
    only_missing[14] = 60
    counts = np.stack([np.zeros(NUMERIC.size, np.int64), counted(COLUMN[:700])[0], only_missing])
    nothing, something, missing = effect_sizes(counts, [numeric()] * 3, np.ones(3), intervals=True)
    assert nothing is None
    assert (something,) == tuple(effect_sizes(counts[1:2], [numeric()], [1.0], intervals=True))
    assert missing is not None and missing["total_variation"] > 0.99
    assert all(missing[name] is None for name in ORDERED_EFFECTS)
    assert missing["intervals"].keys() & {"kolmogorov_smirnov", "wasserstein"} == set()


def test_rows_that_depend_on_each_other_are_worth_at_least_one_and_say_nothing() -> None:
    (found,) = effect_sizes(counted(COLUMN[:2_000] + 30), [numeric()], [1e-6], intervals=True)
    assert found is not None and found["independent_rows"] == 1
    assert found["intervals"]["total_variation"] == [0, 1]
    assert "psi" not in found["intervals"]


def test_the_records_are_those_of_the_contract() -> None:
    found = effect_sizes(counted(COLUMN[:700]), [numeric()], [1.0], intervals=True)
    alert = next(f for f in SCHEMAS["Alert"].parsed["fields"] if f["name"] == "causes")
    cause = next(f for f in alert["type"]["items"]["fields"] if f["name"] == "effects")
    window = next(f for f in SCHEMAS["WindowSummary"].parsed["fields"] if f["name"] == "streams")
    stream = next(f for f in window["type"]["items"]["fields"] if f["name"] == "effects")
    assert cause["type"]["fields"] == stream["type"][1]["fields"]
    assert found[0] is not None and found[0].keys() == {field["name"] for field in cause["type"]["fields"]}
    assert validate(found[0], cause["type"])
