"""What a specification says of outcomes: how long they may take, and what is computed from them.

Example::

    outcomes:
      horizon: 30d            # required: later outcomes do not count
      window: 1d
      lateness: 3d
      classes: [on_time, late]
      threshold: 0.5
      values: [{predicted: late, actual: on_time, value: -20}]
      margin: 0.02
      fairness: [by_carrier]
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from services.deployments.durations import duration_text
from services.deployments.fields import DAY_MS, MINUTE_MS, Label, Margin, Section, Segmentation, Share, duration_from
from streams.specification import BINARY, MULTICLASS, REGRESSION, DecisionValue, DeploymentSpec, OutcomeSpec

LONGEST_HORIZON_DAYS = 400
"""A year and a month: what becomes known later is no longer told of the model that predicted it."""

MOST_CLASSES = 256
"""Of more classes a confusion matrix is nothing that anybody reads, and it is kept for every window and part."""

_DEFAULTS = OutcomeSpec(1)

TASKS_OF_FIELDS = {
    "classes": (BINARY, MULTICLASS),
    "threshold": (BINARY,),
    "values": (BINARY, MULTICLASS),
    "quantile": (REGRESSION,),
    "interval_coverage": (REGRESSION,),
    "fairness": (BINARY, MULTICLASS, REGRESSION),
}
"""The tasks that a field says something about, where these are not all."""


class Value(Section):
    """What a row of a predicted and an actual class is worth; negative for a cost."""

    predicted: Label
    actual: Label
    value: Annotated[float, Field(ge=-1e12, le=1e12)]


class Outcomes(Section):
    """How long outcomes may take, and what is computed from them.

    ``lateness``: how long after it became known an outcome may take to be published; a tenth of the horizon by default.
    """

    horizon: Annotated[int, duration_from(MINUTE_MS, LONGEST_HORIZON_DAYS * DAY_MS)]
    window: Annotated[int, duration_from(MINUTE_MS, 31 * DAY_MS)] = _DEFAULTS.window_ms
    lateness: Annotated[int, duration_from(0, LONGEST_HORIZON_DAYS * DAY_MS)] | None = None
    classes: Annotated[list[Label], Field(max_length=MOST_CLASSES)] = Field(default_factory=list)
    threshold: Share = _DEFAULTS.threshold
    values: Annotated[list[Value], Field(max_length=MOST_CLASSES**2)] = Field(default_factory=list)
    quantile: Share | None = None
    interval_coverage: Share = _DEFAULTS.interval_coverage
    margin: Margin = _DEFAULTS.margin_tv
    fairness: list[Segmentation] = Field(default_factory=list)

    def to_spec(self) -> OutcomeSpec:
        """What the streams see."""
        return OutcomeSpec(
            horizon_ms=self.horizon,
            window_ms=self.window,
            lateness_ms=self.lateness,
            classes=tuple(self.classes),
            threshold=float(self.threshold),
            values=tuple(DecisionValue(each.predicted, each.actual, float(each.value)) for each in self.values),
            quantile=None if self.quantile is None else float(self.quantile),
            interval_coverage=float(self.interval_coverage),
            margin_tv=float(self.margin),
            fairness=tuple(self.fairness),
        )


def outcomes_document(spec: DeploymentSpec) -> dict[str, Any]:
    """The section as a person would write it; empty where no outcomes are expected."""
    given = spec.outcomes
    if given is None:
        return {}
    document: dict[str, Any] = {
        "horizon": duration_text(given.horizon_ms),
        "window": duration_text(given.window_ms),
        "lateness": None if given.lateness_ms is None else duration_text(given.lateness_ms),
        "classes": list(given.classes),
        "threshold": given.threshold,
        "values": [{"predicted": v.predicted, "actual": v.actual, "value": v.value} for v in given.values],
        "quantile": given.quantile,
        "interval_coverage": given.interval_coverage,
        "margin": given.margin_tv,
        "fairness": list(given.fairness),
    }
    return {
        name: value
        for name, value in document.items()
        if value not in (None, []) and spec.task in TASKS_OF_FIELDS.get(name, (spec.task,))
    }
