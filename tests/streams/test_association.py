"""Thirds of a feature against thirds of the prediction."""

from __future__ import annotations

import numpy as np

from streams.association import MISSING_THIRD, table_cells, thirds_of_numbers
from streams.statistics.layouts import ASSOCIATION, ASSOCIATION_MISSING


def test_thirds_agree_with_the_definition() -> None:
    values = np.random.default_rng(4).integers(0, 9, 500).astype(float)
    values[::11] = np.nan
    values[1], values[2] = np.inf, -np.inf
    # a value on a cut belongs to the lower third
    expected = np.where(np.isnan(values), MISSING_THIRD, (values > 2).astype(int) + (values > 5))
    np.testing.assert_array_equal(thirds_of_numbers(values, 2.0, 5.0), expected)


def test_cells_are_named_by_their_thirds_and_missing_where_either_is() -> None:
    names = ["low", "middle", "high"]
    thirds, target = np.divmod(np.arange(16, dtype=np.uint8), 4)
    assert [ASSOCIATION.bin_names[cell] for cell in table_cells(thirds, target)] == [
        "missing" if MISSING_THIRD in (u, v) else f"{names[u]}/{names[v]}"
        for u, v in zip(thirds.tolist(), target.tolist(), strict=True)
    ]
    assert ASSOCIATION.bin_names[ASSOCIATION_MISSING] == "missing"
