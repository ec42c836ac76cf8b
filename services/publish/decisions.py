"""What serving applications decided, out of the columns of a file: ``humility.policy``, ``humility.action`` and so on.

They are the fields of a ``PredictionEvent``'s ``humility``, as a JSON object inside a row has them. Lists (``fired``,
``alarms``) are lists, or text with spaces or commas between their entries. A row without an action was not decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.events import (
    ACTIONS,
    ALARM_MONITORS,
    MOST_RULES,
    NOT_DECIDED,
    CategoricalColumn,
    Floats,
    HumilityColumns,
)
from services.publish.convert import Converted, decoded, to_categories, to_numbers
from services.publish.errors import shown
from services.publish.files import Column

POLICY, REVISION, ACTION, FIRED, QUANTILE, ALARMS, ANSWER, ANSWER_LABEL = (
    "policy",
    "revision",
    "action",
    "fired",
    "quantile",
    "alarms",
    "answer",
    "answer_label",
)
NEEDED = (POLICY, REVISION, ACTION)
FIELDS = (*NEEDED, FIRED, QUANTILE, ALARMS, ANSWER, ANSWER_LABEL)

Codes = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class FileDecisions:
    """Decisions of n rows, by whatever policies.

    Attributes:
        policies: Digest and revision of each policy.
        codes: intp[n], index into ``policies``; -1 where nothing was decided.
        columns: All decisions, as if they were by one policy.
    """

    policies: list[tuple[str, int]]
    codes: Codes
    columns: HumilityColumns

    def by(self, code: int) -> HumilityColumns | None:
        """The decisions of the rows of one policy; None for those that were not decided."""
        if code < 0:
            return None
        policy, revision = self.policies[code]
        own = self.columns
        return HumilityColumns(
            policy, revision, own.actions, own.fired, own.quantiles, own.alarms, own.answers, own.answer_labels
        )


def read_decisions(
    mapping: Mapping[str, str],
    column: Callable[[str], Column],
    remember: Callable[[str, Converted[Any]], Any],
    rows: int,
) -> FileDecisions:
    """The decisions in a part of a file.

    Args:
        mapping: Field to column name; those in ``NEEDED`` are there.
        column: The values of a column.
        remember: Told what could not be read; returns the values.
        rows: Rows of the part.
    """

    def read(field: str, reader: Callable[[Column], Converted[Any]]) -> Any:
        return None if field not in mapping else remember(mapping[field], reader(column(mapping[field])))

    actions: NDArray[np.uint8] = read(ACTION, to_actions)
    policy: CategoricalColumn = read(POLICY, to_categories)
    revision: Floats = read(REVISION, to_numbers)
    decided = actions != NOT_DECIDED
    whole = (revision >= 0) & (revision < 1 << 53) & (revision == np.floor(revision))
    remember(
        mapping[POLICY], Converted(None, _where(decided & (policy.codes < 0), "the policy of a decision is missing"))
    )
    remember(mapping[REVISION], Converted(None, _where(decided & ~whole, "expected the number of a revision")))
    fired, alarms, nothing = read(FIRED, to_rules), read(ALARMS, to_alarms), np.full(rows, np.nan)
    quantiles, answers = read(QUANTILE, to_numbers), read(ANSWER, to_numbers)
    policies: dict[tuple[str, int], int] = {}
    codes = np.full(rows, -1, np.intp)
    for row in np.flatnonzero(decided & whole & (policy.codes >= 0)).tolist():
        key = policy.categories[policy.codes[row]], int(revision[row])
        codes[row] = policies.setdefault(key, len(policies))
    return FileDecisions(
        list(policies),
        codes,
        HumilityColumns(
            policy="",
            revision=0,
            actions=actions,
            fired=np.zeros(rows, np.uint64) if fired is None else fired,
            quantiles=nothing if quantiles is None else quantiles,
            alarms=np.zeros(rows, np.uint8) if alarms is None else alarms.astype(np.uint8),
            answers=nothing if answers is None else answers,
            answer_labels=read(ANSWER_LABEL, to_categories) or CategoricalColumn([], np.full(rows, -1, np.int32)),
        ),
    )


def _where(wrong: NDArray[np.bool_], message: str) -> dict[int, str]:
    return dict.fromkeys(np.flatnonzero(wrong).tolist(), message)


def to_actions(column: Column) -> Converted[NDArray[np.uint8]]:
    """Actions by code, 255 for missing."""
    read = to_categories(column)
    bad = dict(read.bad)
    lookup = np.full(len(read.values.categories) + 1, NOT_DECIDED, np.uint8)
    for code, text in enumerate(read.values.categories):
        if text in ACTIONS:
            lookup[code] = ACTIONS.index(text)
        else:
            bad |= _where(read.values.codes == code, f"expected one of {', '.join(ACTIONS)}, came {shown(text)}")
    return Converted(lookup[read.values.codes], bad)


def to_rules(column: Column) -> Converted[NDArray[np.uint64]]:
    """Numbers of rules as bits."""
    return _to_bits(column, _rule_bit)


def to_alarms(column: Column) -> Converted[NDArray[np.uint64]]:
    """Monitors as bits."""
    return _to_bits(column, _alarm_bit)


def _rule_bit(entry: Any) -> int:
    text = str(entry) if isinstance(entry, int) and not isinstance(entry, bool) else entry
    if not isinstance(text, str) or not text.isascii() or not text.isdecimal() or int(text) >= MOST_RULES:
        raise ValueError(f"expected numbers of rules, 0 to {MOST_RULES - 1}, came {shown(entry)}")
    return int(text)


def _alarm_bit(entry: Any) -> int:
    if entry not in ALARM_MONITORS:
        raise ValueError(f"expected monitors ({', '.join(ALARM_MONITORS)}), came {shown(entry)}")
    return ALARM_MONITORS.index(entry)


def _to_bits(column: Column, bit_of: Callable[[Any], int]) -> Converted[NDArray[np.uint64]]:
    values = column if isinstance(column, list) else decoded(column).to_pylist()
    bits, bad = np.zeros(len(values), np.uint64), {}
    for row, value in enumerate(values):
        if value is None:
            continue
        listed = value.replace(",", " ").split() if isinstance(value, str) else value
        try:
            for entry in listed if isinstance(listed, list) else [listed]:
                bits[row] |= np.uint64(1 << bit_of(entry))
        except ValueError as error:
            bad[row] = str(error)
    return Converted(bits, bad)
