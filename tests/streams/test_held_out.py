"""New rows of an unchanged source look like the reference, whatever was learnt from its very rows."""

from __future__ import annotations

import numpy as np
import pytest

from driftline.events import CategoricalColumn, PredictionColumns
from streams.counting import RowCounter, blocks_of
from streams.derived import embedding_columns, fit_embedding, fit_joint, joint_distance
from streams.held_out import (
    codes_held_out,
    embedding_columns_held_out,
    joint_distance_held_out,
    new_value_radius,
    rows_of_pairs,
)
from streams.reference import build_baseline
from streams.specification import DeploymentSpec, FeatureSpec, SegmentSpec
from streams.statistics.distances import total_variation
from streams.statistics.layouts import OTHER, QUALITY_UNSEEN, UNSEEN, fit_categorical_counts

CATEGORIES = [f"k{i}" for i in range(20_000)]
ZIPF = np.cumsum(1 / np.arange(1, 20_001))
ZIPF /= ZIPF[-1]

SPEC = DeploymentSpec(
    "d",
    "m",
    "other",
    (
        FeatureSpec("c", "categorical"),
        FeatureSpec("note", "text"),
        *(FeatureSpec(f"x{i}", "numeric") for i in range(16)),
    ),
    segments=(SegmentSpec("half", "half"),),
)


def zipf(rng: np.random.Generator, rows: int) -> np.ndarray:
    return np.searchsorted(ZIPF, rng.random(rows)).clip(0, 19_999)


def unchanged(seed: int, rows: int) -> PredictionColumns:
    """Categories and words of Zipf's law, and 16 features that go together."""
    rng = np.random.default_rng(seed)
    notes = [" ".join(CATEGORIES[i] for i in zipf(rng, 6)) for _ in range(rows)]
    x = rng.normal(size=(16, rows)) + rng.normal(size=rows)
    return PredictionColumns(
        "d",
        "1",
        [str(i) for i in range(rows)],
        1_704_067_200_000_000 + np.arange(rows) * 1_000_000,
        {f"x{i}": column for i, column in enumerate(x)},
        {
            "c": CategoricalColumn(CATEGORIES, zipf(rng, rows).astype(np.int32)),
            "note": CategoricalColumn.from_values(notes),
        },
        segments={"half": CategoricalColumn(["a", "b"], rng.integers(0, 2, rows).astype(np.int32))},
    )


@pytest.mark.parametrize("rows", [300, 2_000])
def test_new_rows_lie_within_the_margins_of_what_a_reference_taught(rows: int) -> None:
    baseline = build_baseline(SPEC, "1", [unchanged(rows, rows)], source="test")
    new = unchanged(1, 5_000)
    counter = RowCounter(baseline)
    blocks = blocks_of(baseline.streams).values()
    found = counter.count(counter.read(new), None, 1)
    outside = [
        stream.label
        for block, counts in zip(blocks, found, strict=True)
        for stream, count in zip(block, counts[0], strict=True)
        if total_variation(count, stream.counts / stream.counts.sum()) > stream.margin_tv
    ]
    assert outside == []
    watched = {stream.name for stream in baseline.streams}
    assert {"c", "quality:c", "note.unknown_words", "joint.distance"} <= watched


def test_the_share_of_new_categories_is_the_estimate_of_good_and_turing() -> None:
    baseline = build_baseline(SPEC, "1", [unchanged(3, 1_000)], source="test")
    reference = unchanged(3, 1_000).categorical["c"]
    once = int((np.bincount(reference.codes) == 1).sum())
    quality = next(s for s in baseline.streams if s.name == "quality:c")
    assert quality.counts[QUALITY_UNSEEN] == once > 200
    known = set(reference.codes.tolist())
    new = unchanged(4, 20_000).categorical["c"].codes.tolist()
    assert np.mean([code not in known for code in new]) == pytest.approx(once / 1_000, abs=0.05)


def test_a_part_of_the_traffic_expects_new_categories_as_well() -> None:
    baseline = build_baseline(SPEC, "1", [unchanged(3, 2_000)], source="test")
    parts = [s for s in baseline.streams if s.name == "c" and s.segment]
    assert len(parts) == 2
    assert all(part.counts[UNSEEN] / part.counts.sum() > 0.2 for part in parts)


def test_few_categories_are_counted_as_they_are() -> None:
    """A category of one row is unseen without it, unless it has a bin of its own, in which its rise is looked for."""
    few = CategoricalColumn.from_values(["a"] * 5 + ["b"] * 3 + ["c", None])
    occurrences = {"a": 5, "b": 3, "c": 1}
    bins = fit_categorical_counts(occurrences)
    assert codes_held_out(bins, few, occurrences).tolist() == [0] * 5 + [1] * 3 + [2, 22]
    names = [f"{i:02}" for i in range(20)]
    many = CategoricalColumn.from_values([*names, *names, *names, "y", "y", "z"])
    occurrences = dict.fromkeys(names, 3) | {"y": 2, "z": 1}
    bins = fit_categorical_counts(occurrences)
    assert codes_held_out(bins, many, occurrences).tolist()[-3:] == [OTHER, OTHER, UNSEEN]
    assert np.flatnonzero(rows_of_pairs(many, occurrences)).tolist() == [60, 61]


@pytest.mark.parametrize("categories", [250, 1_000])
def test_the_radius_covers_the_error_of_the_estimate(categories: int) -> None:
    """Equally frequent categories, where pairs matter most: Esty's variance is that of the error itself."""
    rng = np.random.default_rng(categories)
    rows, trials = 1_000, 2_000
    counts = rng.multinomial(rows, np.full(categories, 1 / categories), size=trials)
    once, twice = (counts == 1).sum(axis=1), (counts == 2).sum(axis=1)
    error = once / rows - (counts == 0).mean(axis=1)
    share = once / rows
    deviation = np.sqrt(once * (1 - share) + 2 * twice) / rows
    assert error.std() == pytest.approx(np.sqrt((deviation**2).mean()), rel=0.1)
    beta = 0.01
    z = 2.5758
    radius = [z * np.sqrt(n * (1 - s)) / rows for n, s in zip(once, share, strict=True)]
    covered = np.abs(error) <= np.array(radius) + [new_value_radius(2 * n, rows, beta) for n in twice.tolist()]
    assert covered.mean() > 1 - beta
    assert new_value_radius(0, rows, beta) == 0


def test_a_distance_is_as_large_for_the_reference_as_for_new_rows() -> None:
    rng = np.random.default_rng(1)
    names = [f"x{i}" for i in range(32)]
    reference, new = rng.normal(size=(32, 300)), rng.normal(size=(32, 20_000))
    fitted = fit_joint(names, reference, [1.0] * 32)
    assert fitted is not None
    in_sample, held_out = joint_distance(fitted, reference), joint_distance_held_out(fitted, reference)
    expected = joint_distance(fitted, new).mean()
    assert in_sample.mean() < 0.95 * expected
    assert held_out.mean() == pytest.approx(expected, rel=0.02)


def test_a_wild_vector_does_not_hide_itself() -> None:
    in_sample, held_out, new = [], [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        reference = rng.standard_t(3, size=(200, 100)).astype(np.float32)
        fitted = fit_embedding("e", reference)
        others = rng.standard_t(3, size=(2_000, 100)).astype(np.float32)
        in_sample.append((embedding_columns(fitted, reference, 200)[0] ** 2).mean())
        held_out.append((embedding_columns_held_out(fitted, reference)[0] ** 2).mean())
        new.append((embedding_columns(fitted, others, 2_000)[0] ** 2).mean())
    assert np.mean(in_sample) < 0.95 * np.mean(new)
    assert np.mean(held_out) == pytest.approx(np.mean(new), rel=0.05)


def test_missing_vectors_stay_missing() -> None:
    vectors = np.random.default_rng(3).normal(size=(100, 4)).astype(np.float32)
    vectors[10:40] = np.nan
    fitted = fit_embedding("e", vectors)
    assert np.isnan(embedding_columns_held_out(fitted, vectors)[0]).nonzero()[0].tolist() == list(range(10, 40))
