"""Sums of classifications, binary and multi-class; see :mod:`streams.statistics.performance.sums`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.statistics.performance.fields import Sums, class_count, has_class_scores
from streams.statistics.performance.grid import grouped_sums
from streams.statistics.performance.pairs import Floats, Integers, Pairs, PerformanceLayout, Predicted

LOG_LOSS_CLIP = float(np.finfo(np.float64).eps)
"""Probabilities are kept so far from 0 and 1 before their logarithm is taken, as by scikit-learn's log_loss."""

Mask = NDArray[np.bool_]


def binary_pairs(layout: PerformanceLayout, pairs: Pairs, cells: Integers | None, groups: int, weighs: bool) -> Sums:
    """What is counted of binary pairs; ``cells``: group of each row, None: all in the only one."""
    score = np.ascontiguousarray(pairs.predicted.scores[:, 0])
    actual = (pairs.actual != 0).view(np.int8)
    scored = _is_probability(score)
    bins = layout.score_edges.searchsorted(score, "right")
    everywhere = bool(scored.all())
    if not everywhere:
        bins[~scored] = layout.bins
    height = layout.bins + 1
    by_score = bins * 2
    by_score += actual
    at = _within(by_score, cells, height * 2)
    size = groups * height * 2
    sums: Sums = {"scores": np.bincount(at, minlength=size).reshape(groups, height, 2)}
    known = score if everywhere else np.where(scored, score, 0.0)
    sums["score_sums"] = _per_bin(known[None], at, groups, layout.bins)[0]
    if weighs:
        sums["weighted_scores"] = grouped_sums(pairs.weights[None], at, size)[0].reshape(groups, height, 2)
        sums["weighted_score_sums"] = _per_bin((known * pairs.weights)[None], at, groups, layout.bins)[0]
    sums |= _confusion(layout, pairs, binary_labels(layout, pairs.predicted, scored), actual, cells, groups, weighs)
    miss = np.abs(known - actual)
    return sums | _losses(
        1 - miss, np.square(miss), None if everywhere else scored, pairs.weights, cells, groups, weighs
    )


def _per_bin(numbers: Floats, at: Integers, groups: int, bins: int) -> NDArray[np.object_]:
    """Sums object[K, G, bins] of numbers in cells (group, bin, class); those of the last bin, no score, left out."""
    height = bins + 1
    cells = grouped_sums(numbers, at, groups * height * 2).reshape(len(numbers), groups, height, 2)
    return np.asarray(cells[:, :, :bins, 0] + cells[:, :, :bins, 1], object)


def binary_labels(layout: PerformanceLayout, predicted: Predicted, scored: Mask) -> Integers:
    """The predicted class int64[n]: the one given, else that of the score and the threshold, else -1."""
    labels = predicted.labels
    if not len(labels) or labels.min() >= 0:
        return labels
    by_score = np.where(scored, predicted.scores[:, 0] >= layout.threshold, -1)
    return np.where(labels < 0, by_score, labels)


def binary_predictions(layout: PerformanceLayout, predicted: Predicted, cells: Integers | None, groups: int) -> Sums:
    """What is counted of all binary predictions."""
    score = predicted.scores[:, 0]
    scored = _is_probability(score)
    bins = layout.score_edges.searchsorted(score, "right")
    labels = binary_labels(layout, predicted, scored)
    if not scored.all():
        bins[~scored] = layout.bins
    bins *= 2
    bins += labels
    height = layout.bins + 1
    at = _within(bins, cells, height * 2)
    if len(labels) and labels.min() < 0:
        at = at[labels >= 0]
    return {"predicted_scores": np.bincount(at, minlength=groups * height * 2).reshape(groups, height, 2)}


def multiclass_pairs(
    layout: PerformanceLayout, pairs: Pairs, cells: Integers | None, groups: int, weighs: bool
) -> Sums:
    """What is counted of multi-class pairs."""
    c = class_count(layout)
    actual = _checked_classes(pairs.actual.astype(np.int64), c, 0)
    scores, scored = _class_scores(layout, pairs.predicted)
    labels = _class_labels(layout, pairs.predicted, scores, scored)
    sums = _confusion(layout, pairs, labels, actual, cells, groups, weighs)
    top = scores.max(axis=1, initial=0.0)
    bins = np.where(scored, layout.score_edges.searchsorted(top, "right"), layout.bins)
    labelled = labels >= 0
    at = _within(bins * 2 + (labels == actual), cells, (layout.bins + 1) * 2)[labelled]
    shape = (groups, layout.bins + 1, 2)
    size = groups * (layout.bins + 1) * 2
    sums["confidence"] = np.bincount(at, minlength=size).reshape(shape)
    sums["confidence_sums"] = _per_bin(top[None, labelled], at, groups, layout.bins)[0]
    if weighs:
        weights = pairs.weights[labelled]
        sums["weighted_confidence"] = grouped_sums(weights[None], at, size)[0].reshape(shape)
        sums["weighted_confidence_sums"] = _per_bin((top[labelled] * weights)[None], at, groups, layout.bins)[0]
    if has_class_scores(layout):
        sums |= _against_the_rest(
            layout,
            _of_all_classes(layout, scores, scored),
            actual[scored],
            _rows(cells, scored),
            groups,
            pairs.weights[scored] if weighs else None,
        )
    of_actual = np.ascontiguousarray(scores[np.arange(len(actual)), actual]) if scores.size else np.zeros(len(actual))
    brier = np.square(scores).sum(axis=1) - 2 * of_actual + 1
    return sums | _losses(of_actual, np.maximum(brier, 0.0), scored, pairs.weights, cells, groups, weighs)


def _against_the_rest(
    layout: PerformanceLayout,
    scores: Floats,
    actual: Integers,
    cells: Integers | None,
    groups: int,
    weights: Floats | None,
) -> Sums:
    """Per class: bin of its probability by whether it was the actual one, counts [G, C, B, 2]."""
    c = scores.shape[1]
    bins = layout.score_edges.searchsorted(scores.ravel(), "right").reshape(scores.shape)
    classes = np.arange(c)
    at = (classes * layout.bins + bins) * 2 + (classes == actual[:, None])
    if cells is not None:
        at += cells[:, None] * (c * layout.bins * 2)
    shape = (groups, c, layout.bins, 2)
    size = groups * c * layout.bins * 2
    sums: Sums = {"class_scores": np.bincount(at.ravel(), minlength=size).reshape(shape)}
    if weights is not None:
        each = np.repeat(weights, c)
        sums["weighted_class_scores"] = grouped_sums(each[None], at.ravel(), size)[0].reshape(shape)
    return sums


def multiclass_predictions(
    layout: PerformanceLayout, predicted: Predicted, cells: Integers | None, groups: int, calibration: Floats | None
) -> Sums:
    """The expected confusion matrix of all multi-class predictions; empty without a calibration."""
    c = class_count(layout)
    if calibration is None:
        return {}
    calibration = np.reshape(calibration, (c, layout.bins))
    scores, scored = _class_scores(layout, predicted)
    labels = _class_labels(layout, predicted, scores, scored)[scored]
    expected = _calibrated(layout, _of_all_classes(layout, scores, scored), calibration)
    at = _within(labels, _rows(cells, scored), c)[:, None] * c + np.arange(c)
    sums = grouped_sums(expected.reshape(1, -1), at.ravel(), groups * c * c)
    return {"expected_confusion": sums[0].reshape(groups, c, c)}


def _calibrated(layout: PerformanceLayout, scores: Floats, calibration: Floats) -> Floats:
    """Probabilities of each class float64[n, C]: each score calibrated against the rest, and all made to add up to 1.

    Where no class is left any probability, the scores as they are; where they are all zero too, equal ones.
    """
    bins = layout.score_edges.searchsorted(scores.ravel(), "right").reshape(scores.shape)
    found = calibration[np.arange(len(calibration)), bins]
    for fallback in (scores, np.ones_like(scores)):
        total = found.sum(axis=1, keepdims=True)
        found = np.where(total > 0, found, fallback)
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def _class_scores(layout: PerformanceLayout, predicted: Predicted) -> tuple[Floats, Mask]:
    """Probabilities float64[n, C], zero in rows that lack one, or [n, 0] without any; and which rows have them all."""
    scores = predicted.scores
    if scores.shape[1] != class_count(layout):
        if scores.shape[1]:
            raise ValueError(f"expected {class_count(layout)} scores a row, one for each class, got {scores.shape[1]}")
        return np.zeros((len(scores), 0)), np.zeros(len(scores), np.bool_)
    scored: Mask = np.asarray(_is_probability(scores).all(axis=1))
    return np.where(scored[:, None], np.ascontiguousarray(scores), 0.0), scored


def _of_all_classes(layout: PerformanceLayout, scores: Floats, scored: Mask) -> Floats:
    """The rows that have scores, float64[m, C] even where none were kept."""
    return scores[scored] if scores.shape[1] else np.zeros((0, class_count(layout)))


def _class_labels(layout: PerformanceLayout, predicted: Predicted, scores: Floats, scored: Mask) -> Integers:
    """The predicted class int64[n]: the one given, else the most probable (the first of equals), else -1."""
    labels = _checked_classes(predicted.labels, class_count(layout), -1)
    if not scores.size:
        return labels
    return np.where(labels < 0, np.where(scored, scores.argmax(axis=1), -1), labels)


def _confusion(
    layout: PerformanceLayout,
    pairs: Pairs,
    labels: Integers,
    actual: NDArray[np.integer],
    cells: Integers | None,
    groups: int,
    weighs: bool,
) -> Sums:
    """Pairs by predicted and actual class, and what they were worth."""
    c, weights = class_count(layout), pairs.weights
    if len(labels) and labels.min() < 0:
        kept = labels >= 0
        labels, actual, cells, weights = labels[kept], actual[kept], _rows(cells, kept), weights[kept]
    cell = labels * c + actual
    at = _within(cell, cells, c * c)
    shape = (groups, c, c)
    sums: Sums = {"confusion": np.bincount(at, minlength=groups * c * c).reshape(shape)}
    if weighs:
        sums["weighted_confusion"] = grouped_sums(weights[None], at, groups * c * c)[0].reshape(shape)
    if layout.values is not None:
        worth = layout.values.ravel()[cell]
        numbers = np.stack((worth, worth * worth))
        sums["value"], sums["value_squared"] = grouped_sums(numbers * weights if weighs else numbers, cells, groups)
    return sums


def _losses(
    of_actual: Floats,
    brier: Floats,
    scored: Mask | None,
    weights: Floats,
    cells: Integers | None,
    groups: int,
    weighs: bool,
) -> Sums:
    """Sums of losses: ``of_actual`` the probability that was given to what turned out, ``brier`` each row's score."""
    numbers = np.empty((4, len(brier)))
    np.clip(of_actual, LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP, out=numbers[0])
    np.log(numbers[0], out=numbers[0])
    np.negative(numbers[0], out=numbers[0])
    numbers[2] = brier
    np.square(numbers[::2], out=numbers[1::2])
    if scored is not None:
        numbers, cells, weights = numbers[:, scored], _rows(cells, scored), weights[scored]
    with_scores = np.array([numbers.shape[1]]) if cells is None else np.bincount(cells, minlength=groups)
    found = grouped_sums(numbers * weights if weighs else numbers, cells, groups)
    sums: Sums = dict(zip(("log_loss", "log_loss_squared", "brier", "brier_squared"), found, strict=True))
    sums["with_scores"] = with_scores
    if weighs:
        sums["weighted_with_scores"] = grouped_sums(weights[None], cells, groups)[0]
    return sums


def _is_probability(scores: Floats) -> Mask:
    with np.errstate(invalid="ignore"):
        return np.asarray((scores >= 0) & (scores <= 1))


def _within(cell: Integers, cells: Integers | None, size: int) -> Integers:
    """The cell of each row among those of all groups."""
    return cell if cells is None else cells * size + cell


def _rows(values: Integers | None, kept: Mask) -> Integers | None:
    return None if values is None else values[kept]


def _checked_classes(codes: Integers, c: int, lowest: int) -> Integers:
    if len(codes) and not lowest <= codes.min() <= codes.max() < c:
        raise ValueError(f"expected classes from {lowest} to {c - 1}, got {codes.min()} to {codes.max()}")
    return codes
