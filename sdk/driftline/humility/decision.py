"""What was decided of a prediction, or of a batch of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.errors import PredictionRefusedError
from driftline.events import CategoricalColumn, Floats, HumilityColumns
from driftline.humility.rules import ACTIONS, ANSWERED, OVERRIDDEN, REFUSED, ROUTED

if TYPE_CHECKING:
    from driftline.humility.policy import Policy


class Answer(NamedTuple):
    """What another version answered: a value or score, a class, or both."""

    prediction: float | None = None
    prediction_label: str | None = None


class Reason(NamedTuple):
    """A rule that fired, and what it says. One of a dry run is told of and never acted on."""

    rule: str
    message: str
    dry_run: bool


class Decision(NamedTuple):
    """What was decided of one prediction.

    Attributes:
        action: ``answered``, ``overridden``, ``refused`` or ``routed``.
        prediction: The value or score to serve; None where nothing is to be, or only a class.
        prediction_label: The class to serve; None where nothing is to be, or only a value.
        rule: The rule that acted; None where none did.
        reasons: The rules that fired, in the order of the specification.
        interval: Both ends of the interval for the actual value: the adaptive one where its quantile is known, else the
            model's own; None where there is neither. It is about what the model said, whatever is served.
        prediction_set: The classes of the adaptive prediction set, sorted; None where there is none.
        quantile: The adaptive quantile that was known; None for none.
        group: The row's group of the adaptive quantile, ``SEGMENTATION=VALUE``; empty for all that have none.
        fallback_version: The version that is to be asked, where its answer is to be served and was not given.
        route_to: Who is to look at it, where it is routed.
        policy: Digest of the rules and of the fit it was decided by.
        revision: Revision of the specification that has the rules.
        fired: Bit r is set where rule r fired.
        alarms: Bit m is set where monitor m of ``ALARM_MONITORS`` was known to be in alarm.
        timestamp_us: Event time it was decided for, microseconds since 1970-01-01 UTC.
    """

    action: str
    prediction: float | None
    prediction_label: str | None
    rule: str | None
    reasons: tuple[Reason, ...]
    interval: tuple[float, float] | None
    prediction_set: tuple[str, ...] | None
    quantile: float | None
    group: str
    fallback_version: str | None
    route_to: str
    policy: str
    revision: int
    fired: int
    alarms: int
    timestamp_us: int = 0

    @property
    def answered(self) -> bool:
        """Whether the model's own answer is to be served."""
        return self.action == ACTIONS[ANSWERED]

    @property
    def overridden(self) -> bool:
        """Whether something else is to be served."""
        return self.action == ACTIONS[OVERRIDDEN]

    @property
    def refused(self) -> bool:
        """Whether nothing is to be served."""
        return self.action == ACTIONS[REFUSED]

    @property
    def routed(self) -> bool:
        """Whether somebody is to look at it."""
        return self.action == ACTIONS[ROUTED]

    @property
    def message(self) -> str:
        """What the rule that acted says; empty where none did."""
        return next((reason.message for reason in self.reasons if reason.rule == self.rule), "")

    def result(self) -> float | str | None:
        """What to serve: the class where there is one, else the value.

        Raises:
            PredictionRefusedError: Nothing is to be served: it was refused, or routed to somebody, or another version
                is to be asked first (``fallback_version``).
        """
        if self.action == ACTIONS[ANSWERED] or (self.action == ACTIONS[OVERRIDDEN] and self.fallback_version is None):
            return self.prediction if self.prediction_label is None else self.prediction_label
        raise PredictionRefusedError(self.rule or "", self._told(), self.reasons)

    def _told(self) -> str:
        if self.refused:
            return self.message
        if self.routed:
            return f"{self.message}; it is routed to {self.route_to or 'somebody'}"
        return (
            f"{self.message}; the answer of version {self.fallback_version!r} is to be served and was not given: "
            "ask that version, or give its answer in challengers"
        )


@dataclass(frozen=True, slots=True)
class Decided:
    """What was decided of n predictions. Arrays have shape ``(n,)``.

    Attributes:
        actions: uint8, one of the codes in :mod:`driftline.humility.rules`.
        fired: uint64, bit r is set where rule r fired.
        acting: int16, the rule that acted, -1 for none.
        answers: float64, what is served instead of the prediction; NaN where nothing is.
        answer_labels: The same of the predicted class; None where there is none.
        quantiles: float64, the adaptive quantile that was known, NaN for none.
        groups: int16, index of each row's group in :attr:`Policy.groups`.
        alarms: uint8, bit m is set where monitor m of ``ALARM_MONITORS`` was known to be in alarm.
    """

    actions: NDArray[np.uint8]
    fired: NDArray[np.uint64]
    acting: NDArray[np.int16]
    answers: Floats
    answer_labels: CategoricalColumn | None
    quantiles: Floats
    groups: NDArray[np.int16]
    alarms: NDArray[np.uint8]

    @property
    def rows(self) -> int:
        """Number of predictions, n."""
        return len(self.actions)

    def to_columns(self, policy: Policy) -> HumilityColumns:
        """As it travels with the predictions; what no row has is left out."""
        labels = self.answer_labels
        return HumilityColumns(
            policy=policy.digest,
            revision=policy.revision,
            actions=self.actions,
            fired=self.fired,
            quantiles=None if np.isnan(self.quantiles).all() else self.quantiles,
            alarms=self.alarms if self.alarms.any() else None,
            answers=None if np.isnan(self.answers).all() else self.answers,
            answer_labels=None if labels is None or (labels.codes < 0).all() else labels,
        )
