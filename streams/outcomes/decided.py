"""Parts of the traffic by what the humility rules decided: what each decision, and each rule, was worth."""

from __future__ import annotations

from driftline.humility.rules import ACTIONS, OVERRIDDEN

DECISION = "decision"
"""The segmentation by what became of a prediction."""

SERVED = f"{ACTIONS[OVERRIDDEN]} (served)"
"""What was overridden, with what was served instead in the place of the model's answer."""

DECISION_PARTS = tuple(f"{DECISION}={name}" for name in ACTIONS)
"""By code of the action, judged by what the model said."""

SERVED_PART = f"{DECISION}={SERVED}"

_RULE, _FIRED = "rule:", "=fired"


def rule_part(name: str) -> str:
    """The predictions on which a rule fired, whether or not it was the one that acted."""
    return f"{_RULE}{name}{_FIRED}"


def decision_of(part: str) -> str | None:
    """The decision of a part: an action, or :data:`SERVED`; None for a part of another kind."""
    return part.removeprefix(f"{DECISION}=") if part in (*DECISION_PARTS, SERVED_PART) else None


def rule_of(part: str) -> str | None:
    """The rule of a part; None for a part of another kind."""
    if not (part.startswith(_RULE) and part.endswith(_FIRED)):
        return None
    return part.removeprefix(_RULE).removesuffix(_FIRED)


def is_of_humility(part: str) -> bool:
    """Whether a part is one of these: no group of people, and no part of a segmentation that was declared."""
    return decision_of(part) is not None or rule_of(part) is not None
