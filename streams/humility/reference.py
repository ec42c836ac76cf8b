"""The streams of humility as the reference shows them: how often rules fire and intervals miss while nothing changes.

They are learnt from the calibration rows alone, decided by the very policy that is put in force, with the static
quantiles and without any alarm. What was learnt from a row would not fire on it as on a new one. Rows stand in order of
event time, misses in the order in which outcomes came, so that dependence shows and is paid for like that of any other
stream (:mod:`streams.statistics.dependence`, :mod:`streams.arming`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.humility.rules import OVERRIDDEN, OVERRIDE, REFUSE, REFUSED, ROUTE, ROUTED, HumilitySpec
from streams.arming import arm_streams
from streams.baseline import HUMILITY_ROLE, Baseline, BaselineStream
from streams.counting import MISCOVERAGE
from streams.errors import BaselineError
from streams.humility.evidence import ABSTAINED, DISAGREEMENT, NO, OVERRIDDEN_STREAM, RULE_PREFIX, YES
from streams.humility.history import History
from streams.humility.judge import policy_of
from streams.specification import HUMILITY, DeploymentSpec
from streams.statistics.arming import steps_of
from streams.statistics.dependence import tempering
from streams.statistics.evidence import rounded_down
from streams.statistics.layouts import CATEGORICAL, CategoricalBins, count_codes
from streams.statistics.margins import reference_radius
from streams.statistics.tilts import tilts_of

Mask = NDArray[np.bool_]
Codes = NDArray[np.uint8]

REFERENCE_ERROR_PROBABILITY = 1e-3
"""Probability that a stream's true distribution lies outside the margin that its reference's size gives."""

RUN_ROWS = 2.0
"""From so many rows to an independent one on it is told that the guarantees are worth less."""

_YES, _NO = 0, 1
"""Bins of the two categories."""


def without_humility(baseline: Baseline) -> Baseline:
    """The same without anything that was fitted for humility; the digest is not that of the content."""
    return dataclasses.replace(
        baseline,
        streams=tuple(stream for stream in baseline.streams if stream.role != HUMILITY_ROLE),
        arming=tuple(arming for arming in baseline.arming if arming.monitor != HUMILITY),
        humility=None,
        digest="",
    )


def learn_reference(spec: DeploymentSpec, baseline: Baseline, history: History, missed: Mask) -> Baseline:
    """Learn the streams of humility and arm their monitor.

    Args:
        spec: With humility rules or guarantees.
        baseline: With the fit, and without streams of humility.
        history: The rows it was fitted to.
        missed: bool[m], of the calibration rows whose outcome can be compared with a static quantile, in the order in
            which the outcomes became known: whether it was not covered.

    Returns:
        The same with its streams of role ``humility``, their arming, and its digest.
    """
    columns = _decided(spec, baseline, history)
    streams, codes = [], []
    for name, yes in columns.items():
        codes.append(np.where(yes, _YES, _NO).astype(np.uint8))
        streams.append(_stream(name, codes[-1], spec.quality_margin_tv))
    blocks, counts = [streams], [_in_steps(codes, len(codes[0]), len(baseline.streams))]
    if len(missed) and spec.outcomes is not None:
        of_outcomes = np.where(missed, _YES, _NO).astype(np.uint8)
        blocks.append([_stream(MISCOVERAGE, of_outcomes, spec.outcomes.margin_tv)])
        counts.append(_in_steps([of_outcomes], len(codes[0]), len(baseline.streams)))
    learnt = tuple(stream for block in blocks for stream in block)
    whole = dataclasses.replace(baseline, streams=(*baseline.streams, *learnt), digest="")
    return arm_streams(spec, whole, blocks, counts)


def runs(baseline: Baseline) -> dict[str, float]:
    """Streams of humility that come in runs, and how many neighbouring rows are worth an independent one.

    By the exponent of the tilt towards *yes*, which is one over the variance inflation of a sum of rows.
    """
    towards_yes = tilts_of(CATEGORICAL).bins == _YES
    found = {}
    for stream in baseline.streams:
        if stream.role == HUMILITY_ROLE:
            worth = 1 / float(stream.tempering[towards_yes].min())
            if worth >= RUN_ROWS:
                found[stream.name.removeprefix("humility:").replace(":", " ")] = worth
    return found


def _decided(spec: DeploymentSpec, baseline: Baseline, history: History) -> dict[str, Mask]:
    """What the rules say of the calibration rows, bool[n] by stream."""
    policy = policy_of(spec, baseline)
    if policy is None or spec.humility is None:
        raise BaselineError(f"the specification of {spec.deployment_id!r} asks for no humility: add humility: to it")
    decided = [
        policy.decide_columns(batch, quantiles=policy.start_quantiles, alarms=0)
        for batch in history.batches
    ]  # fmt: skip
    fired = np.concatenate([each.fired for each in decided])[history.rows][history.calibrates]
    actions = np.concatenate([each.actions for each in decided])[history.rows][history.calibrates]
    found = {
        f"{RULE_PREFIX}{rule.name}": (fired >> np.uint64(number)) & np.uint64(1) == 1
        for number, rule in enumerate(policy.rules)
    }
    acts = _actions(spec.humility)
    if acts & {REFUSE, ROUTE}:
        found[ABSTAINED] = (actions == REFUSED) | (actions == ROUTED)
    if OVERRIDE in acts:
        found[OVERRIDDEN_STREAM] = actions == OVERRIDDEN
    found[DISAGREEMENT] = np.zeros(len(fired), bool)
    return found


def _actions(asked: HumilitySpec) -> set[str]:
    """What some rule does that is no dry run."""
    return {rule.action for rule in asked.rules if not rule.dry_run}


def _stream(name: str, codes: Codes, margin: float) -> BaselineStream:
    counts = count_codes(codes, CATEGORICAL)
    radius = float(reference_radius(counts[None], REFERENCE_ERROR_PROBABILITY, CATEGORICAL)[0])
    return BaselineStream(
        name=name,
        role=HUMILITY_ROLE,
        layout=CATEGORICAL,
        bins=CategoricalBins((YES, NO)),
        counts=counts,
        margin_tv=min(max(margin, radius), 1.0),
        tempering=rounded_down(tempering(codes, tilts_of(CATEGORICAL))),
    )


def _in_steps(codes: Sequence[Codes], rows: int, streams: int) -> NDArray[np.int64]:
    """Counts int64[T, S, 23] of some streams in as many steps as a reference of so many rows has."""
    steps = steps_of(rows, streams)
    counts = np.zeros((steps, len(codes), CATEGORICAL.size), np.int64)
    for at, own in enumerate(codes):
        cells = np.arange(len(own)) * steps // max(len(own), 1) * CATEGORICAL.size + own
        counts[:, at] = np.bincount(cells, minlength=steps * CATEGORICAL.size).reshape(steps, -1)
    return counts
