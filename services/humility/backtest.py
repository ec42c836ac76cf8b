"""Changed humility rules over history: what they would have done, and what it would have been worth.

Every row is decided twice, by the rules in force and by those that are tried, through the very policy that decides in
serving applications (:class:`driftline.humility.policy.Policy`). Both know of each row what its publisher knew: the
alarms, and the adaptive quantile where the guarantees are those it was fitted for; of a row that nobody decided, no
alarm and the static quantile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import NOT_DECIDED, OutcomeColumns, PredictionColumns
from driftline.humility.policy import Decided, Policy
from driftline.humility.rules import ACTIONS, ANSWERED, HumilitySpec
from services.deployments.reference import merged
from services.event_time import rfc3339
from services.humility.counts import Counts
from services.humility.errors import HumilityError
from services.humility.history import History, Joined, Once, OutcomeIndex
from services.humility.report import RuleLine, Stretch, rule_lines, standard_of
from services.humility.verdict import Standard
from services.humility.worth import Worth, common_layout, with_totals
from services.publish.reading import take
from streams.baseline import Baseline
from streams.humility.fit import learn_fit
from streams.humility.judge import alarms_looked_at, policy_of
from streams.outcomes.decided import DECISION_PARTS, SERVED_PART, rule_part
from streams.outcomes.keys import id_keys
from streams.outcomes.reading import performance_layout, read_predicted
from streams.outcomes.rulebook import is_served, served, served_answers
from streams.specification import DeploymentSpec
from streams.statistics.performance.pairs import Decisions, Pairs, PerformanceLayout, Predicted
from streams.statistics.performance.sums import Sums, add, count_pairs, count_predictions, take_group

MOST_FIT_ROWS = 1_000_000
"""Rules are fitted anew to so many rows at most, the first that are read."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, slots=True)
class Side:
    """What one set of rules would have done.

    Attributes:
        unarmed: A sentence for each rule that cannot fire, or only in part.
        stretch: Counts and worth of all rows.
        rules: By rule.
    """

    unarmed: tuple[str, ...]
    stretch: Stretch
    rules: tuple[RuleLine, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Backtested:
    """Rules in force against rules that are tried.

    Attributes:
        model_version: The version.
        task: Of the model.
        rows: Predictions that were decided, each once.
        repeated: Rows of an id that had come before, left out.
        fit: Where the fit of both came from; empty for the one in force.
        now: By the rules in force.
        would: By those that are tried.
        moved: int64[4, 4], rows by what the rules in force and the tried ones do.
        standard: What rules are held to.
        notes: What is to be known of it.
    """

    model_version: str
    task: str
    rows: int
    repeated: int
    fit: str
    now: Side
    would: Side
    moved: NDArray[np.int64]
    standard: Standard
    notes: tuple[str, ...]

    @property
    def with_values(self) -> bool:
        """Whether it is declared what decisions are worth."""
        worth = self.would.stretch.worth
        return worth is not None and worth.layout.values is not None


@dataclass(frozen=True, slots=True)
class FitOn:
    """The first part of history, on which both sets of rules are fitted anew; the rest is decided.

    Attributes:
        until_us: Rows before this event time; or
        share: this share of the time from the first row to the last.
    """

    until_us: int | None = None
    share: float | None = None


def backtest(
    spec: DeploymentSpec, tried: HumilitySpec, baseline: Baseline, history: History, fit_on: FitOn | None = None
) -> Backtested:
    """Decide history by the rules in force and by others.

    Args:
        spec: The deployment in force.
        tried: The other rules and guarantees.
        baseline: Of the version whose rows these are, with the fit in force.
        history: The rows.
        fit_on: Fit both sets of rules anew; None: both use the fit in force.

    Raises:
        HumilityError: There are no rows to decide, or none to fit to.
    """
    other = dataclasses.replace(spec, humility=tried)
    layout = performance_layout(spec, baseline.outcomes)
    batches: list[OutcomeColumns] | Iterator[OutcomeColumns] = iter(())
    if layout is not None:
        batches = history.outcomes()
    begin_us, source, baselines = None, "", (baseline, baseline)
    if fit_on is not None:
        batches = list(batches)
        begin_us = _end_of_fit(fit_on, history)
        rows = _fit_rows(history, begin_us)
        source = f"{sum(batch.rows for batch in rows):,} rows before {rfc3339(begin_us)}"
        baselines = (
            _refitted(spec, baseline, rows, batches, source),
            _refitted(other, baseline, rows, batches, source),
        )
        del rows
    plain = None if layout is None else _plain(layout)
    index = None if plain is None else OutcomeIndex(plain, batches)
    horizon_us = 0 if spec.outcomes is None else spec.outcomes.horizon_ms * 1000
    accounts = [
        _Account(policy_of(each, fitted), plain, own_quantiles=_guarantees(each) != _guarantees(spec) or bool(source))
        for each, fitted in zip((spec, other), baselines, strict=True)
    ]
    once, moved = Once(), np.zeros((len(ACTIONS), len(ACTIONS)), np.int64)
    first_us, last_us, undecided = None, 0, 0
    for batch in history.predictions():
        columns = batch if begin_us is None else _from(batch, begin_us)
        if columns is None:
            continue
        columns, keys = once.new(columns, id_keys(columns.prediction_ids))
        if not columns.rows:
            continue
        joined = None if index is None else index.join(keys, columns.timestamps_us, horizon_us)
        found = [account.add(columns, joined) for account in accounts]
        np.add.at(moved, (found[0], found[1]), 1)
        undecided += _undecided(columns)
        earliest, last_us = int(columns.timestamps_us.min()), max(last_us, int(columns.timestamps_us.max()))
        first_us = earliest if first_us is None else min(first_us, earliest)
    if first_us is None:
        raise HumilityError(_nothing(spec, baseline, begin_us))
    standards = standard_of(spec), standard_of(other)
    sides = [
        account.side(each, first_us, last_us, standard)
        for account, each, standard in zip(accounts, (spec, other), standards, strict=True)
    ]
    return Backtested(
        model_version=baseline.model_version,
        task=spec.task,
        rows=int(moved.sum()),
        repeated=once.repeated,
        fit=source,
        now=sides[0],
        would=sides[1],
        moved=moved,
        standard=standards[1],
        notes=tuple(_notes(spec, other, undecided, index)),
    )


class _Account:
    """What one set of rules does, while rows come.

    Args:
        policy: Decides; None answers everything.
        layout: Of what is known of outcomes; None where none are expected.
        own_quantiles: Whether quantiles that travelled with rows are of no use.
    """

    def __init__(self, policy: Policy | None, layout: PerformanceLayout | None, *, own_quantiles: bool) -> None:
        self._policy, self._layout, self._own_quantiles = policy, layout, own_quantiles
        self._rules = () if policy is None else tuple(rule.name for rule in policy.rules)
        self._counts = Counts()
        self._sums: dict[str, Sums] = {}

    def add(self, columns: PredictionColumns, joined: Joined | None) -> NDArray[np.uint8]:
        """Decide a batch; the actions."""
        decided = _answered(columns.rows) if self._policy is None else self._decide(self._policy, columns)
        self._counts += self._counted(columns, decided)
        if self._layout is not None and joined is not None:
            self._judge(self._layout, columns, decided, joined)
        return decided.actions

    def _decide(self, policy: Policy, columns: PredictionColumns) -> Decided:
        claim = columns.humility
        starts = policy.decide_columns(columns, quantiles=policy.start_quantiles, alarms=_alarms(columns))
        if claim is None or claim.quantiles is None or self._own_quantiles:
            return starts
        travelled = claimed(columns) & np.isfinite(claim.quantiles)
        quantiles = np.where(travelled, claim.quantiles, starts.quantiles)
        return policy.decide_columns(columns, quantiles=quantiles, alarms=_alarms(columns))

    def _counted(self, columns: PredictionColumns, decided: Decided) -> Counts:
        acted = np.bincount(decided.acting[decided.acting >= 0], minlength=len(self._rules)).tolist()
        return Counts(
            rows=columns.rows,
            decided=int(claimed(columns).sum()),
            actions=tuple(np.bincount(decided.actions, minlength=len(ACTIONS)).tolist()),
            judged=dict.fromkeys(self._rules, columns.rows),
            fired={name: int(_fired(decided, rule).sum()) for rule, name in enumerate(self._rules)},
            acted=dict(zip(self._rules, acted, strict=True)),
        )

    def _judge(self, layout: PerformanceLayout, columns: PredictionColumns, decided: Decided, joined: Joined) -> None:
        predicted = read_predicted(layout, columns)
        decisions = Decisions(
            actions=decided.actions,
            fired=decided.fired,
            quantiles=decided.quantiles,
            static=decided.quantiles,
            groups=decided.groups.astype(np.int64),
            answers=served_answers(layout, decided),
        )
        instead = served(layout, predicted, decisions)
        actions = decided.actions.astype(np.int64)
        self._take(layout, DECISION_PARTS, predicted, columns, joined, actions)
        self._take(layout, (SERVED_PART,), instead, columns, joined, np.where(is_served(decisions), 0, -1))
        for rule, name in enumerate(self._rules):
            fired = _fired(decided, rule)
            if fired.any():
                self._take(layout, (rule_part(name),), predicted, columns, joined, np.where(fired, 0, -1))

    def _take(
        self,
        layout: PerformanceLayout,
        parts: Sequence[str],
        predicted: Predicted,
        columns: PredictionColumns,
        joined: Joined,
        index: NDArray[np.int64],
    ) -> None:
        """Count rows in some parts; ``index``: the part of each, -1 for none."""
        known = joined.known
        pairs = Pairs(
            predicted=Predicted(predicted.scores[known], predicted.labels[known]),
            actual=joined.values,
            times_us=columns.timestamps_us[known],
            ages_us=joined.ages_us,
            weights=joined.weights,
            acted=np.full(len(joined.values), 255, np.uint8),
            jitter=np.zeros(len(joined.values)),
        )
        counted = add(
            count_pairs(layout, pairs, index[known], len(parts)),
            count_predictions(layout, predicted, index, len(parts)),
        )
        for at in np.unique(index[index >= 0]).tolist():
            own, name = take_group(counted, at), parts[at]
            self._sums[name] = add(self._sums[name], own) if name in self._sums else own

    def side(self, spec: DeploymentSpec, first_us: int, last_us: int, standard: Standard) -> Side:
        """What it came to."""
        worth = None
        if self._layout is not None:
            worth = Worth(self._layout, with_totals(self._sums, self._rules))
        rules = () if spec.humility is None else spec.humility.rules
        return Side(
            unarmed=() if self._policy is None else self._policy.unarmed,
            stretch=Stretch(first_us, last_us + 1, self._counts, worth),
            rules=tuple(rule_lines(rules, self._counts, worth, standard)),
        )


def claimed(columns: PredictionColumns) -> Mask:
    """Which rows their publisher decided, bool[n]."""
    claim = columns.humility
    return np.zeros(columns.rows, bool) if claim is None else np.asarray(claim.actions != NOT_DECIDED)


def _alarms(columns: PredictionColumns) -> NDArray[np.uint8]:
    claim = columns.humility
    if claim is None or claim.alarms is None:
        return np.zeros(columns.rows, np.uint8)
    return np.where(claimed(columns), claim.alarms, 0).astype(np.uint8)


def _undecided(columns: PredictionColumns) -> int:
    return int((~claimed(columns)).sum())


def _fired(decided: Decided, rule: int) -> Mask:
    return np.asarray(decided.fired >> np.uint64(rule) & np.uint64(1) == 1)


def _answered(rows: int) -> Decided:
    return Decided(
        actions=np.full(rows, ANSWERED, np.uint8),
        fired=np.zeros(rows, np.uint64),
        acting=np.full(rows, -1, np.int16),
        answers=np.full(rows, np.nan),
        answer_labels=None,
        quantiles=np.full(rows, np.nan),
        groups=np.zeros(rows, np.int16),
        alarms=np.zeros(rows, np.uint8),
    )


def _plain(layout: PerformanceLayout) -> PerformanceLayout:
    """Without bins, and without coverage: quantiles are not tracked again."""
    return dataclasses.replace(common_layout([layout]), coverage_score="")


def _guarantees(spec: DeploymentSpec) -> object:
    return None if spec.humility is None else spec.humility.guarantees


def _from(columns: PredictionColumns, begin_us: int) -> PredictionColumns | None:
    rows = np.flatnonzero(columns.timestamps_us >= begin_us)
    if not len(rows):
        return None
    return columns if len(rows) == columns.rows else take(columns, rows)


def _end_of_fit(fit_on: FitOn, history: History) -> int:
    if fit_on.until_us is not None:
        return fit_on.until_us
    ends = [(int(batch.timestamps_us.min()), int(batch.timestamps_us.max())) for batch in history.predictions()]
    if not ends:
        raise HumilityError("there are no rows to fit to: give a longer range or another file")
    first, last = min(first for first, _ in ends), max(last for _, last in ends)
    return first + round((fit_on.share or 0.0) * (last - first))


def _fit_rows(history: History, end_us: int) -> list[PredictionColumns]:
    """The rows that rules are fitted to, without what publishers decided."""
    found: list[PredictionColumns] = []
    rows = 0
    for batch in history.predictions():
        chosen = np.flatnonzero(batch.timestamps_us < end_us)[: MOST_FIT_ROWS - rows]
        if len(chosen):
            found.append(take(batch, chosen))
            rows += len(chosen)
        if rows >= MOST_FIT_ROWS:
            break
    if not rows:
        raise HumilityError(
            f"there are no rows before {rfc3339(end_us)} to fit to: give a later time, or a larger part"
        )
    return merged(found)


def _refitted(
    spec: DeploymentSpec,
    baseline: Baseline,
    rows: Sequence[PredictionColumns],
    outcomes: Sequence[OutcomeColumns],
    source: str,
) -> Baseline:
    if spec.humility is None:
        return baseline
    return dataclasses.replace(baseline, humility=learn_fit(spec, baseline, rows, outcomes, source=source))


def _nothing(spec: DeploymentSpec, baseline: Baseline, begin_us: int | None) -> str:
    since = "" if begin_us is None else f" from {rfc3339(begin_us)} on, where the part that rules are fitted to ends"
    return (
        f"there are no predictions of {spec.deployment_id}@{baseline.model_version}{since}: give another range, "
        "--version, or files"
    )


def _notes(spec: DeploymentSpec, other: DeploymentSpec, undecided: int, index: OutcomeIndex | None) -> Iterator[str]:
    looks = [each for each in (spec, other) if each.humility and alarms_looked_at(each.humility.rules)]
    if looks and undecided:
        yield (
            f"{undecided:,} rows came without a decision of their publisher: of these no alarm is known, and rules "
            "that look at alarms do not fire on them"
        )
    if _guarantees(spec) != _guarantees(other):
        yield "the guarantees differ: the tried rules use the static quantiles of their fit, which no outcome adapts"
    if index is None:
        yield "the specification expects no outcomes: what the rules catch and cost is not known"
    elif not index.rows:
        yield "there are no outcomes: what the rules catch and cost is not known"
