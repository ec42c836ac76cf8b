"""Decisions of a whole table, as :meth:`driftline.Client.decide_many` gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline import columns as read
from driftline.batches import RowDecision
from driftline.errors import EventError
from driftline.events import CategoricalColumn, Floats, HumilityColumns, PredictionColumns, Times
from driftline.humility.decision import Decided, Decision, Reason
from driftline.humility.policy import Policy
from driftline.humility.rules import ACTIONS, ANSWERED, OVERRIDDEN, REFUSED, ROUTED
from driftline.humility.wording import message_of

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided of n predictions. Arrays have shape ``(n,)``.

    Attributes:
        actions: uint8 codes: 0 answered, 1 overridden, 2 refused, 3 routed.
        predictions: float64 values or scores to serve, NaN where none is to be; None where there are none, or they
            could not be read.
        prediction_labels: The same of classes.
        timestamps_us: int64 event times they were decided for, microseconds since 1970-01-01 UTC.
        policy: The rules they were decided by; None where there were none: every prediction is answered as it is.
        columns: As it travels with the predictions; None where there were no rules.
        acting: int16, the rule that acted, -1 for none.
        table: What was decided on; None where it is not at hand.
    """

    actions: NDArray[np.uint8]
    predictions: Floats | None
    prediction_labels: CategoricalColumn | None
    timestamps_us: Times
    policy: Policy | None = None
    columns: HumilityColumns | None = None
    acting: NDArray[np.int16] | None = None
    table: PredictionColumns | None = None

    @classmethod
    def of_columns(cls, columns: HumilityColumns, timestamps_us: Times) -> Decisions:
        """Decisions that were made elsewhere, to be logged with their predictions."""
        return cls(columns.actions, None, None, timestamps_us, columns=columns)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def answered(self) -> Flags:
        """Where the model's own answer is to be served."""
        return np.asarray(self.actions == ANSWERED)

    @property
    def overridden(self) -> Flags:
        """Where something else is to be served; nothing is known of it where neither value nor class is there."""
        return np.asarray(self.actions == OVERRIDDEN)

    @property
    def refused(self) -> Flags:
        """Where nothing is to be served."""
        return np.asarray(self.actions == REFUSED)

    @property
    def routed(self) -> Flags:
        """Where somebody is to look at it."""
        return np.asarray(self.actions == ROUTED)

    def intervals(self) -> tuple[Floats, Floats]:
        """Both ends of the intervals for the actual values, float64 of shape ``(n,)``; NaN where there is none.

        The adaptive ones where their quantile is known, else the model's own, as :attr:`Decision.interval`.
        """
        nothing = np.full(len(self), np.nan)
        if self.policy is None or self.columns is None or self.table is None:
            return nothing, nothing
        quantiles = nothing if self.columns.quantiles is None else self.columns.quantiles
        return self.policy.intervals(self.table, quantiles)

    def rule(self, row: int) -> str | None:
        """Name of the rule that acted on a row; None where none did."""
        acting = -1 if self.acting is None else int(self.acting[row])
        return None if self.policy is None or acting < 0 else self.policy.rules[acting].name

    def reasons(self, row: int) -> tuple[Reason, ...]:
        """The rules that fired on a row, in the order of the specification."""
        if self.policy is None or self.columns is None:
            return ()
        fired = int(self.columns.fired[row])
        return tuple(
            Reason(rule.name, message_of(rule), rule.dry_run)
            for bit, rule in enumerate(self.policy.rules)
            if fired >> bit & 1
        )


def undecided(prediction: Any, prediction_label: Any, timestamp_us: int) -> Decision:
    """The answer as it is, where there are no rules or they could not be asked."""
    return Decision(
        action=ACTIONS[ANSWERED],
        prediction=prediction,
        prediction_label=prediction_label,
        rule=None,
        reasons=(),
        interval=None,
        prediction_set=None,
        quantile=None,
        group="",
        fallback_version=None,
        route_to="",
        policy="",
        revision=0,
        fired=0,
        alarms=0,
        timestamp_us=timestamp_us,
    )


def undecided_table(table: PredictionColumns) -> Decisions:
    """The answers as they are, where there are no rules."""
    actions = np.full(table.rows, ANSWERED, dtype=np.uint8)
    return Decisions(actions, table.prediction, table.prediction_label, table.timestamps_us)


def unread_table(rows: int, prediction: Any, prediction_label: Any) -> Decisions:
    """The answers as they are, as far as they can be read, of a table that could not be decided."""
    return Decisions(
        np.full(rows, ANSWERED, dtype=np.uint8),
        _readable(read.number_column, prediction, "prediction"),
        _readable(read.label_column, prediction_label, "prediction_label"),
        np.zeros(rows, dtype=np.int64),
    )


def _readable(reader: Callable[[Any, str], Any], column: Any, what: str) -> Any:
    try:
        return None if column is None else reader(column, what)
    except Exception:  # it was counted and logged: what cannot be read is answered by who gave it
        return None


def decisions_of(policy: Policy, decided: Decided, table: PredictionColumns) -> Decisions:
    """What was decided of a table, and what is to be served of it."""
    replaced, silent = decided.actions == OVERRIDDEN, decided.actions > OVERRIDDEN
    return Decisions(
        actions=decided.actions,
        predictions=_served(table.prediction, decided.answers, replaced, silent),
        prediction_labels=_served_labels(table.prediction_label, decided.answer_labels, replaced, silent),
        timestamps_us=table.timestamps_us,
        policy=policy,
        columns=decided.to_columns(policy),
        acting=decided.acting,
        table=table,
    )


def _served(own: Floats | None, answers: Floats, replaced: Flags, silent: Flags) -> Floats | None:
    if own is None and np.isnan(answers).all():
        return None
    served = np.where(replaced, answers, np.nan if own is None else own)
    served[silent] = np.nan
    return served


def _served_labels(
    own: CategoricalColumn | None, answers: CategoricalColumn | None, replaced: Flags, silent: Flags
) -> CategoricalColumn | None:
    if own is None and answers is None:
        return None
    codes = np.full(len(replaced), -1, dtype=np.int32)
    categories = [] if own is None else list(own.categories)
    if own is not None:
        kept = ~(replaced | silent)
        codes[kept] = own.codes[kept]
    if answers is not None:
        index = {text: code for code, text in enumerate(categories)}
        lookup = np.array([*(index.setdefault(text, len(index)) for text in answers.categories), -1], dtype=np.int32)
        categories = list(index)
        codes[replaced] = lookup[answers.codes[replaced]]
    return CategoricalColumn(categories, codes)


def row_decision(decision: Decision) -> RowDecision | None:
    """A decision as it travels with its prediction; None where nothing was decided."""
    if not decision.policy:
        return None
    action = ACTIONS.index(decision.action)
    overridden = action == OVERRIDDEN
    return RowDecision(
        decision.policy,
        decision.revision,
        action,
        decision.fired,
        decision.quantile,
        decision.alarms,
        decision.prediction if overridden else None,
        decision.prediction_label if overridden else None,
    )


def check_rows_of(decisions: Decisions, rows: int) -> None:
    """Refuse decisions of another table than the one that is logged, of so many rows; 0 where nobody can tell.

    Raises:
        EventError: There are more or fewer decisions than rows.
    """
    if rows and len(decisions) != rows:
        raise EventError(
            f"decisions: expected {rows}, one per row of the table they were made for, came {len(decisions)}: "
            "decide and log the same table",
            reason="unequal_columns",
        )
