"""Fitting humility rules: what can be guaranteed of a version's decisions, from its reference, and what cannot.

Half of the rows learn and half calibrate (:mod:`streams.humility.history`). All that is promised is computed from the
calibration rows, which taught nothing: neither how surprising values are nor which thresholds are tried. It is exact
for rows that are exchangeable. Rows that depend on their neighbours are worth fewer than they are, and the confidence
is then less than is said; the arming of the ``humility`` monitor, which replays these rows in blocks, shows it.

1. *Novelty*: surprise by column and of the joint distance, learnt (:mod:`streams.humility.surprise`); then per group
   the conformal threshold of the calibration rows' scores.
2. *Risk*: thresholds of confidence from the learning rows; then per group the fixed sequence of tests on the
   calibration rows whose outcome is known.
3. *Coverage*: per group the static quantile of the scores, from which the adaptive tracker starts, and its step.
4. Fitted bounds, regions and priors, for the rules that use them.
5. The streams of role ``humility`` (:mod:`streams.humility.reference`).

What a guarantee lacks is said with the rows that it takes: a *shortfall*. A group with too few rows joins the pooled
one. A group with rows enough of which nothing can be certified keeps a certificate that answers nothing: were it judged
by the pooled one, that one's promise would be broken by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from driftline.events import OutcomeColumns, PredictionColumns
from driftline.humility.fit import HumilityFit
from driftline.humility.wording import printable
from streams.baseline import Baseline
from streams.errors import BaselineError
from streams.humility.fitting import Fitting
from streams.humility.groups import POOLED
from streams.humility.history import History, check_rows, resolve
from streams.humility.reference import learn_reference, runs, without_humility
from streams.specification import DeploymentSpec


def fit_humility(
    spec: DeploymentSpec,
    baseline: Baseline,
    batches: Sequence[PredictionColumns],
    outcomes: Sequence[OutcomeColumns],
    *,
    source: str,
    outcomes_until_us: int | None = None,
) -> Baseline:
    """Fit the humility rules of a deployment's version.

    Args:
        spec: With humility rules or guarantees.
        baseline: Of the version; what it knows of humility is replaced, all else stays as it is.
        batches: Predictions of the version, in any order.
        outcomes: What turned out of them, and maybe of others; none where the guarantees need none.
        source: Where the rows came from, for people.
        outcomes_until_us: Up to when outcomes are known, where they do not show it themselves; microseconds.

    Returns:
        The baseline with its ``humility``, its streams of role ``humility`` with their arming, and its digest.

    Raises:
        BaselineError: Nothing is asked for; there are no rows; or rows are of another deployment or version.
    """
    history, fitting = _begin(spec, baseline, batches, outcomes, outcomes_until_us)
    fit = fitting.run(source)
    return learn_reference(spec, replace(without_humility(baseline), humility=fit), history, fitting.missed(fit))


def learn_fit(
    spec: DeploymentSpec,
    baseline: Baseline,
    batches: Sequence[PredictionColumns],
    outcomes: Sequence[OutcomeColumns],
    *,
    source: str,
    outcomes_until_us: int | None = None,
) -> HumilityFit:
    """What :func:`fit_humility` puts into a baseline, without the streams that watch it and their arming."""
    return _begin(spec, baseline, batches, outcomes, outcomes_until_us)[1].run(source)


def _begin(
    spec: DeploymentSpec,
    baseline: Baseline,
    batches: Sequence[PredictionColumns],
    outcomes: Sequence[OutcomeColumns],
    outcomes_until_us: int | None,
) -> tuple[History, Fitting]:
    if spec.humility is None or not asks_for_humility(spec):
        raise BaselineError(
            f"expected humility rules or guarantees in the specification of {spec.deployment_id!r}, came none: add "
            "humility: to it and apply it"
        )
    check_rows(spec, baseline, batches, outcomes)
    history = History.of(batches)
    resolved = resolve(spec, baseline.outcomes, history, outcomes, outcomes_until_us)
    return history, Fitting(spec, spec.humility, baseline, history, resolved)


def asks_for_humility(spec: DeploymentSpec) -> bool:
    """Whether a specification has humility rules, or wants something guaranteed."""
    if spec.humility is None:
        return False
    wanted = spec.humility.guarantees
    asked = (wanted.novelty_rate, wanted.max_error, wanted.coverage)
    return bool(spec.humility.rules) or any(each is not None for each in asked)


def fit_texts(baseline: Baseline) -> list[str]:
    """A sentence for each guarantee that could not be given, and for each rule whose guarantee is worth less."""
    fit = baseline.humility
    if fit is None:
        return []
    groups = {each.segment for each in fit.novelty_thresholds} | {each.segment for each in fit.certificates}
    groups |= {each.segment for each in fit.coverage_starts}
    pooled = "rows without a group of their own" if groups - {POOLED} else "all rows"
    texts = [
        f"humility cannot guarantee {each.guarantee} of {each.segment or pooled}: {each.reason}"
        for each in fit.shortfalls
    ]
    return [*map(printable, texts), *run_texts(baseline)]


def run_texts(baseline: Baseline) -> list[str]:
    """A sentence for each rule that fires in runs: its guarantee is worth less."""
    return [
        printable(
            f"{name} comes in runs: {rows:.0f} neighbouring rows tell as much of it as one that is independent; "
            "calibration rows are worth fewer than they are, and the confidence in its rate is less than is said"
        )
        for name, rows in runs(baseline).items()
    ]
