"""How large a change is, in words: as people count, and as effect sizes."""

from __future__ import annotations

import math

from driftline.codec import Record
from services.alerting.words.outcomes import OUTCOME_ROLES
from services.alerting.words.readings import counted, moved, stream_name, telling, unit
from services.alerting.words.statements import percent
from services.alerting.words.text import Line, line, value
from streams.baseline import (
    ASSOCIATION_ROLE,
    ERROR,
    FAIRNESS_ROLE,
    HUMILITY_ROLE,
    JOINT_ROLE,
    LABELS_ROLE,
    OUTCOME_ROLE,
    QUALITY_ROLE,
    RATE_ROLE,
)


def how_bad(cause: Record) -> Line:
    """How large the change is: as a count where few rows matter, else as a total variation, which is the share of rows
    that would have to be others for the difference to be gone.
    """
    if _is_counted(cause):
        return _how_many(cause)
    distance = cause["effects"]["total_variation"]
    interval = _interval(cause)
    rows = unit(cause) if cause["role"] in OUTCOME_ROLES else "rows"
    parts = [f"{percent(distance)} of {rows}{interval} would have to "]
    if cause["role"] != FAIRNESS_ROLE:
        parts.insert(0, f"The change is {_psi_in_words(cause['effects']['psi'])} by the usual reading of PSI: ")
    if cause["role"] in (JOINT_ROLE, ASSOCIATION_ROLE):
        parts.append("be combined otherwise")
    elif cause["role"] == OUTCOME_ROLE:
        parts.append("be others")
    elif cause["role"] == FAIRNESS_ROLE:
        parts.append("be predicted otherwise")
    else:
        parts += ["have other values of ", *stream_name(cause).parts]
    parts.append(" to look like the reference again.")
    side = moved(cause)
    return line(*parts, f" {side}" if side else "", "" if interval else _why_no_interval(cause))


def _is_counted(cause: Record) -> bool:
    """Whether a change is told by how many rows (or intervals) are affected: PSI calls a hundredth of them small."""
    return cause["role"] in (QUALITY_ROLE, RATE_ROLE, LABELS_ROLE, HUMILITY_ROLE) or cause["stream"] == ERROR


def _how_many(cause: Record) -> Line:
    found = telling(cause)
    if found is None:
        return line("How large the change is cannot be told: the alert has no counts.")
    statement, total = found
    expected = statement.expected * total
    usual = "fewer than 1" if expected < 1 else f"about {expected:,.0f}"
    affected = f"Since then {round(statement.observed * total):,} of {total:,} {counted(cause)}"
    where = (" of ", value(cause["segment"])) if cause.get("segment") else ()
    name = () if cause["role"] != QUALITY_ROLE else (" (", *stream_name(cause | {"segment": ""}).parts, ")")
    return line(affected, *where, " ", *statement.words, *name, f"; the reference leads to expect {usual}.")


def sizes(cause: Record) -> str:
    """Effect sizes and rows: 'PSI 0.83 (large), total variation 52 % (95 % interval 47 % to 57 %), 1,000 rows'."""
    effects = cause["effects"]
    psi, distance = effects["psi"], effects["total_variation"]
    size = (
        "Total variation"
        if _is_counted(cause) or cause["role"] == FAIRNESS_ROLE
        else f"PSI {number_text(psi)} ({_psi_in_words(psi)}), total variation"
    )
    return f"{size} {percent(distance)}{_interval(cause)}, {cause['rows']:,} {unit(cause)}"


def _interval(cause: Record) -> str:
    """The 95 % interval of the total variation; empty where it spans all there is and so says nothing.

    Alerts of earlier releases have one-sided limits only, which hold at 90 % together.
    """
    both = cause["effects"]["intervals"].get("total_variation", ())
    level = "95 %" if len(both) == 2 else "90 %"
    low, high = both if len(both) == 2 else (cause["tv_low"], cause["tv_high"])
    if not math.isfinite(low + high) or (low <= 0 and high >= 1):
        return ""
    if high >= 1:
        return f" (at {level} confidence at least {percent(low)})"
    return f" ({level} interval {percent(low)} to {percent(high)})"


def _why_no_interval(cause: Record) -> str:
    """Rows in a row are alike: a week of one sort of weather is one observation of the weather, not a thousand."""
    independent = cause["effects"]["independent_rows"]
    if independent is None or not 0 < independent < cause["rows"]:
        return ""
    worth = "one" if independent < 1.5 else f"{independent:,.0f}" if independent < 1e15 else "many"
    return (
        " How exact that share is cannot be told: successive rows are so much alike that these "
        f"{cause['rows']:,} are worth no more than {worth} independent of each other."
    )


def _psi_in_words(psi: float) -> str:
    """The rule of thumb of credit scoring: below 0.1 small, to 0.25 moderate, above large."""
    if not math.isfinite(psi):
        return "of unknown size"
    return "small" if psi < 0.1 else "moderate" if psi < 0.25 else "large"


def number_text(number: float) -> str:
    """A number with the digits that matter; 'unknown' where it is none."""
    if not math.isfinite(number):
        return "unknown"
    return f"{number:.2f}" if abs(number) < 10 else f"{number:,.1f}" if abs(number) < 1e6 else f"{number:.3g}"
