"""Decisions checked: what the rules in force say of each row, beside what its publisher says it decided.

A decision is recomputed from the event alone, by the policy that publishers have too
(:class:`driftline.humility.policy.Policy`). Where the publisher decided, with the two facts that only the moment knew
and that travel with the event: the adaptive quantile and the alarms that were known; else with those of the streams.

A publisher learns of other rules a moment later, or earlier, than the streams. So a row that names other rules is

1. judged by those rules, where they were in force before and the row is at most ``lateness_ms`` younger than the
   change that ended them;
2. not judged, where nobody knows them any more and it is at most as much younger than the latest change;
3. *stale* else: the publisher decides by rules that are not in force.

A row *disagrees* where its own rules say something else than it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import NOT_DECIDED, CategoricalColumn, Floats, HumilityColumns, PredictionColumns
from driftline.humility.policy import Decided, Policy
from driftline.humility.rules import (
    ALARM_MONITORS,
    IN_ALARM,
    INTERVAL_WIDTH,
    MOST_RULES,
    OVERRIDDEN,
    SET_SIZE,
    Rule,
)
from streams.baseline import Baseline
from streams.errors import StreamsError
from streams.humility.source import policy_from, policy_source
from streams.specification import DeploymentSpec

Mask = NDArray[np.bool_]

EVERY_ALARM = (1 << len(ALARM_MONITORS)) - 1


@dataclass(frozen=True, eq=False, slots=True)
class Judged:
    """What was decided of n rows. Arrays have shape ``(n,)``.

    Attributes:
        claimed: bool, the publisher decided.
        stale: bool, by rules that are not in force.
        disagrees: bool, otherwise than the same rules say.
        judged: bool, claimed, and it could be told whether it is stale or disagrees.
        revision: The revision that the publisher names; None where it decided nothing.
        actions: uint8, the decision that counts: the publisher's where there is one, else the recomputed one.
        fired: uint64, bit r is set where rule r in force fired: as the publisher says where it decided by these rules,
            else recomputed.
        acting: int16, the rule in force that acted, -1 for none, or where the publisher did something else.
        answers: float64, what was served instead of the prediction; NaN where nothing was.
        answer_labels: The same of the predicted class; None where there is none.
        quantiles: float64, the adaptive quantile that was known, NaN for none.
        groups: int16, index of each row's group in ``Policy.groups``.
        watched_actions, watched_fired: uint8, uint64: what the rules in force say of each row by the quantiles that
            were fitted, while there is no alarm. That is what the evidence is about: a rule that acts on alarms would
            else keep alarms open by itself, and one that looks at the width of intervals would alarm because the
            tracker does its work, and wanders a little while nothing changes.
    """

    claimed: Mask
    stale: Mask
    disagrees: Mask
    judged: Mask
    revision: int | None
    actions: NDArray[np.uint8]
    fired: NDArray[np.uint64]
    acting: NDArray[np.int16]
    answers: Floats
    answer_labels: CategoricalColumn | None
    quantiles: Floats
    groups: NDArray[np.int16]
    watched_actions: NDArray[np.uint8]
    watched_fired: NDArray[np.uint64]


LONG_AGO_US = -(2**62)


@dataclass(frozen=True, slots=True)
class Earlier:
    """A policy that was in force until the deployment's event time ``until_us``; None: until its first row."""

    policy: Policy
    until_us: int | None


class Judge:
    """Judges the decisions of one version.

    Args:
        spec: The specification in force.
        baseline: The baseline in force.
        earlier: Policies that were in force before.
        changed_us: Event time of the latest change of rules; None: since then no row has come.

    Raises:
        StreamsError: The specification asks for no humility.
    """

    def __init__(
        self,
        spec: DeploymentSpec,
        baseline: Baseline,
        earlier: Sequence[Earlier] = (),
        changed_us: int | None = LONG_AGO_US,
    ) -> None:
        policy = policy_of(spec, baseline)
        if policy is None:
            raise StreamsError(f"deployment {spec.deployment_id!r}: there are neither humility rules nor guarantees")
        self._begin(policy, earlier, changed_us, spec.lateness_ms)

    @classmethod
    def by(
        cls,
        policy: Policy,
        earlier: Sequence[Earlier] = (),
        changed_us: int | None = LONG_AGO_US,
        lateness_ms: int = 0,
    ) -> Judge:
        """One that has the policy at hand.

        Decisions of a batch depend on the policy, the quantiles and the alarms alone: the other arguments only tell
        which of them are stale or disagree.
        """
        judge = cls.__new__(cls)
        judge._begin(policy, earlier, changed_us, lateness_ms)
        return judge

    def _begin(self, policy: Policy, earlier: Sequence[Earlier], changed_us: int | None, lateness_ms: int) -> None:
        self.policy = policy
        self.looks_at_alarms = alarms_looked_at(policy.rules)
        self._looks_at_quantiles = bool(policy.start_quantiles) and looks_at_quantiles(policy.rules)
        self._static = np.array([policy.start_quantiles.get(group, np.nan) for group in policy.groups])
        self._earlier = {each.policy.digest: each for each in earlier}
        self._changed_us = changed_us
        self._lateness_us = lateness_ms * 1000
        self._rule_bits = np.uint64((1 << len(policy.rules)) - 1)

    def knows(self, policy: str) -> bool:
        """Whether a policy is, or was, in force, by its digest."""
        return policy == self.policy.digest or policy in self._earlier

    def judge(
        self, columns: PredictionColumns, quantiles: Mapping[str, float] | None = None, alarms: int = 0
    ) -> Judged:
        """Judge a batch.

        Args:
            columns: The batch.
            quantiles: The adaptive quantile of each group, for rows that nobody decided; None for those that the
                trackers start from.
            alarms: The alarms known to the streams, for the same rows: bit m is set for monitor m of
                ``ALARM_MONITORS``.
        """
        own = self.policy.start_quantiles if quantiles is None else quantiles
        claim = columns.humility
        if claim is None or (claim.actions == NOT_DECIDED).all():
            return self._recomputed(columns, own, alarms)
        claimed = claim.actions != NOT_DECIDED
        known_quantiles, known_alarms = self._facts(columns, claim, claimed, own, alarms)
        found = self.policy.decide_columns(columns, quantiles=known_quantiles, alarms=known_alarms)
        stale, reference = self._rules_of(columns, claim, claimed, known_quantiles, known_alarms, found)
        judged = claimed if reference is not None else stale
        disagrees = np.zeros(len(claimed), np.bool_)
        if reference is not None:
            disagrees = claimed & ~stale & _differs(claim, reference)
        actions = np.where(claimed, claim.actions, found.actions)
        ours = claimed if claim.policy == self.policy.digest else np.zeros(len(claimed), np.bool_)
        fired = np.where(ours, claim.fired & self._rule_bits, found.fired)
        acted = (found.acting >= 0) & (actions == found.actions)
        acted &= (fired >> np.maximum(found.acting, 0).astype(np.uint64)) & np.uint64(1) == 1
        watched = self._as_fitted(columns, known_alarms, found)
        return Judged(
            claimed=claimed,
            stale=stale,
            disagrees=disagrees,
            judged=judged,
            revision=claim.revision,
            actions=actions,
            fired=fired,
            acting=np.where(acted, found.acting, -1).astype(np.int16),
            answers=np.where(claimed, _numbers(claim.answers, len(claimed)), found.answers),
            answer_labels=_chosen_labels(claimed, claim.answer_labels, found.answer_labels),
            quantiles=np.where(claimed, _numbers(claim.quantiles, len(claimed)), found.quantiles),
            groups=found.groups,
            watched_actions=watched.actions,
            watched_fired=watched.fired,
        )

    def _recomputed(self, columns: PredictionColumns, quantiles: Mapping[str, float], alarms: int) -> Judged:
        """Rows that nobody decided."""
        found = self.policy.decide_columns(columns, quantiles=quantiles, alarms=alarms)
        watched = self._as_fitted(columns, alarms, found)
        nowhere = np.zeros(columns.rows, np.bool_)
        return Judged(
            claimed=nowhere,
            stale=nowhere,
            disagrees=nowhere,
            judged=nowhere,
            revision=None,
            actions=found.actions,
            fired=found.fired,
            acting=found.acting,
            answers=found.answers,
            answer_labels=found.answer_labels,
            quantiles=found.quantiles,
            groups=found.groups,
            watched_actions=watched.actions,
            watched_fired=watched.fired,
        )

    def _facts(
        self,
        columns: PredictionColumns,
        claim: HumilityColumns,
        claimed: Mask,
        own: Mapping[str, float],
        alarms: int,
    ) -> tuple[Floats, NDArray[np.uint8]]:
        """What was known of each row: quantile and alarms. A publisher that names none knew of none."""
        quantiles = _numbers(claim.quantiles, len(claimed))
        known = np.zeros(len(claimed), np.uint8) if claim.alarms is None else claim.alarms
        if claimed.all():
            return quantiles, known
        ours = self.policy.decide_columns(columns, quantiles=own, alarms=0).quantiles
        return np.where(claimed, quantiles, ours), np.where(claimed, known, np.uint8(alarms))

    def _rules_of(
        self,
        columns: PredictionColumns,
        claim: HumilityColumns,
        claimed: Mask,
        quantiles: Floats,
        alarms: NDArray[np.uint8],
        found: Decided,
    ) -> tuple[Mask, Decided | None]:
        """Which rows were decided by rules that are not in force, and what their rules say; None if nobody knows."""
        if claim.policy == self.policy.digest:
            return np.zeros(len(claimed), np.bool_), found
        earlier = self._earlier.get(claim.policy)
        until_us = self._changed_us if earlier is None else earlier.until_us
        nowhere = np.zeros(len(claimed), np.bool_)
        stale = nowhere if until_us is None else claimed & (columns.timestamps_us > until_us + self._lateness_us)
        if earlier is None:
            return stale, None
        if (stale == claimed).all():
            return stale, found  # there is no row to compare
        return stale, earlier.policy.decide_columns(columns, quantiles=quantiles, alarms=alarms)

    def _as_fitted(self, columns: PredictionColumns, alarms: int | NDArray[np.uint8], found: Decided) -> Decided:
        """What the rules say by the quantiles that were fitted, while there is no alarm."""
        moved = self._looks_at_quantiles and not np.array_equal(
            found.quantiles, self._static[found.groups], equal_nan=True
        )
        if not moved and not np.any(np.bitwise_and(alarms, self.looks_at_alarms)):
            return found
        return self.policy.decide_columns(columns, quantiles=self.policy.start_quantiles, alarms=0)


def policy_of(spec: DeploymentSpec, baseline: Baseline) -> Policy | None:
    """The policy of a specification and a baseline; None where nothing is asked for."""
    return None if spec.humility is None else policy_from(policy_source(spec, baseline))


def check_rules(spec: DeploymentSpec) -> None:
    """Refuse rules that cannot be followed; the edges check more, and say it with line and column.

    Raises:
        StreamsError: Says what is wrong.
    """
    if spec.humility is None:
        return
    if len(spec.humility.rules) > MOST_RULES:
        raise StreamsError(
            f"deployment {spec.deployment_id!r}: at most {MOST_RULES} humility rules, came {len(spec.humility.rules)}"
        )
    try:
        Policy.of(spec.to_record(), None)
    except Exception as error:  # whatever a record may hold
        raise StreamsError(f"deployment {spec.deployment_id!r}: the humility rules make no sense: {error!r}") from error


def alarms_looked_at(rules: Sequence[Rule]) -> int:
    """The alarms that some rule looks at, as bits of ``ALARM_MONITORS``."""
    found = 0
    for rule in rules:
        for leaf in rule.when.leaves():
            if leaf.trigger == IN_ALARM:
                found |= alarm_bits(leaf.values) if leaf.values else EVERY_ALARM
    return found


def looks_at_quantiles(rules: Sequence[Rule]) -> bool:
    """Whether some rule looks at what the adaptive quantile makes: the width of intervals, or prediction sets."""
    return any(leaf.measure in (INTERVAL_WIDTH, SET_SIZE) for rule in rules for leaf in rule.when.leaves())


def alarm_bits(monitors: Sequence[str]) -> int:
    """Monitors as bits of ``ALARM_MONITORS``; others have none."""
    return sum(1 << bit for bit, name in enumerate(ALARM_MONITORS) if name in monitors)


def _numbers(values: Floats | None, rows: int) -> Floats:
    return np.full(rows, np.nan) if values is None else values


def _differs(claim: HumilityColumns, found: Decided) -> Mask:
    """Where a publisher's decision is another one, bool[n].

    Another version's answer is known to nobody but the publisher, unless it travelled with the event: where the rules
    name no answer, whatever was served in its place is believed.
    """
    differs = (claim.actions != found.actions) | (claim.fired != found.fired)
    answers = _numbers(claim.answers, len(differs))
    others = (answers != found.answers) & ~(np.isnan(answers) & np.isnan(found.answers))
    open_answer = np.isnan(found.answers) & (found.actions == OVERRIDDEN)
    codes, expected = _common_codes(claim.answer_labels, found.answer_labels, len(differs))
    others |= codes != expected
    return np.asarray(differs | (others & ~(open_answer & (expected < 0))))


def _chosen_labels(
    claimed: Mask, claims: CategoricalColumn | None, found: CategoricalColumn | None
) -> CategoricalColumn | None:
    """The publisher's labels where it decided, the recomputed ones elsewhere."""
    if claims is None and found is None:
        return None
    names: dict[str, int] = {}
    codes = [_codes_in(names, column, len(claimed)) for column in (claims, found)]
    return CategoricalColumn(list(names), np.where(claimed, *codes).astype(np.int32))


def _common_codes(
    one: CategoricalColumn | None, other: CategoricalColumn | None, rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes int64[n] of two columns in one dictionary, -1 for missing."""
    names: dict[str, int] = {}
    return _codes_in(names, one, rows), _codes_in(names, other, rows)


def _codes_in(names: dict[str, int], column: CategoricalColumn | None, rows: int) -> NDArray[np.int64]:
    if column is None:
        return np.full(rows, -1, np.int64)
    lookup = np.array([*(names.setdefault(name, len(names)) for name in column.categories), -1], np.int64)
    return np.asarray(lookup[column.codes])
