"""Computed columns: what they are, and that a row's value does not depend on the rows it came with."""

from __future__ import annotations

import numpy as np
import pytest

from streams.derived import embedding_columns, fit_embedding, fit_joint, joint_distance


def correlated(features: int, rows: int) -> np.ndarray:
    rng = np.random.default_rng(features)
    mixing = rng.normal(size=(features, features))
    return mixing @ rng.normal(size=(features, rows)) + rng.normal(size=(features, 1))


@pytest.mark.parametrize("features", [2, 9, 32, 40])
def test_a_rows_distance_has_the_same_bits_in_any_batch(features: int) -> None:
    columns = correlated(features, 400)
    derived = fit_joint([f"f{i}" for i in range(features)], columns, np.arange(features, dtype=float))
    assert derived is not None
    chosen = columns[[int(name[1:]) for name in derived.inputs]]
    chosen[0, ::7] = np.nan
    whole = joint_distance(derived, chosen)
    for size in (1, 2, 7, 64):
        parts = [joint_distance(derived, chosen[:, at : at + size]) for at in range(0, 400, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_distance_is_mahalanobis_of_clipped_scores() -> None:
    columns = correlated(6, 5_000)
    columns[2, 0] = 1e9
    derived = fit_joint([f"f{i}" for i in range(6)], columns, [1.0] * 6)
    assert derived is not None
    centre = np.median(columns, axis=1, keepdims=True)
    scale = 1.4826 * np.median(np.abs(columns - centre), axis=1, keepdims=True)
    scores = np.clip((columns - centre) / scale, -4, 4)
    covariance = np.cov(scores)
    covariance += 0.01 * np.diag(np.diag(covariance) + 1e-6)
    centred = scores - scores.mean(axis=1, keepdims=True)
    expected = np.sqrt((centred * np.linalg.solve(covariance, centred)).sum(axis=0) / 6)
    np.testing.assert_allclose(joint_distance(derived, columns), expected, rtol=1e-4)


def test_an_embeddings_columns_have_the_same_bits_in_any_batch() -> None:
    vectors = np.random.default_rng(3).normal(size=(100, 37)).astype(np.float32)
    derived = fit_embedding("vector", vectors)
    whole = embedding_columns(derived, vectors, 100)
    alone = [embedding_columns(derived, vectors[at : at + 1], 1) for at in range(100)]
    np.testing.assert_array_equal(np.concatenate(alone, axis=1), whole)
