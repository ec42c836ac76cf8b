"""How a monitor's evidence is shared between its streams.

Weights are fixed before the streams begin, as the bound asks; a stream with weight v needs -log v nats more than alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streams.baseline import (
    ASSOCIATION_PREFIX,
    ASSOCIATION_ROLE,
    FAIRNESS_ROLE,
    FEATURE,
    HUMILITY_ROLE,
    JOINT_ROLE,
    LABELS_ROLE,
    OUTCOME_ROLE,
    PREDICTION_ROLE,
    QUALITY_PREFIX,
    QUALITY_ROLE,
    RATE_ROLE,
    SERVICE_ROLE,
    Baseline,
    BaselineStream,
)
from streams.specification import (
    CONCEPT_DRIFT,
    DATA_DRIFT,
    DATA_QUALITY,
    FAIRNESS,
    HUMILITY,
    LABELS,
    PREDICTION_DRIFT,
    SERVICE,
    DeploymentSpec,
)

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

_MONITOR_OF_ROLE = {
    FEATURE: DATA_DRIFT,
    JOINT_ROLE: DATA_DRIFT,
    ASSOCIATION_ROLE: DATA_DRIFT,
    PREDICTION_ROLE: PREDICTION_DRIFT,
    QUALITY_ROLE: DATA_QUALITY,
    SERVICE_ROLE: SERVICE,
    RATE_ROLE: SERVICE,
    OUTCOME_ROLE: CONCEPT_DRIFT,
    LABELS_ROLE: LABELS,
    FAIRNESS_ROLE: FAIRNESS,
    HUMILITY_ROLE: HUMILITY,
}

ROLE_WEIGHTS = {FEATURE: 0.75, JOINT_ROLE: 0.15, ASSOCIATION_ROLE: 0.10}
"""How a monitor's evidence is shared between roles; other roles share evenly with whatever their monitor has. A weight
v costs -log v nats: a change that only the whole row shows needs 1.9 nats more than its monitor alone."""

PARTS_WEIGHT = 0.5
"""What the parts of the traffic get together of their parent's weight, where there are any."""


def importances(spec: DeploymentSpec, baseline: Baseline) -> dict[str, float]:
    """Importance of every stream by name, whatever part of the traffic it is about.

    What is derived from a feature has the feature's importance; the columns of a text or embedding share it. With
    ``importance: estimated`` the baseline's estimates count.
    """
    if spec.importance_source == "estimated":
        return {stream.name: stream.importance for stream in baseline.streams}
    given = {feature.name: feature.importance for feature in spec.features}
    found = dict(given)
    for derived in baseline.derived:
        found |= {c: given[derived.name] / len(derived.columns) for c in derived.columns if derived.name in given}
    for stream in baseline.streams:
        name = stream.name.removeprefix(QUALITY_PREFIX).removeprefix(ASSOCIATION_PREFIX)
        found.setdefault(stream.name, given.get(name, 1.0))
    return found


def stream_weights(monitor: str, streams: Sequence[BaselineStream], importance: Mapping[str, float]) -> Floats:
    """Weight float64[S] of each stream in a monitor's evidence, adding up to one; zero for those of other monitors.

    Roles share as ``ROLE_WEIGHTS`` says, parts of the traffic get ``PARTS_WEIGHT`` together, and within these groups
    weights go by importance. Weights are fixed before the streams begin, as the bound asks.
    """
    values = np.array([importance[stream.name] for stream in streams], np.float64)
    group = np.array([_weight_group(monitor, stream) for stream in streams])
    mass = {name: _group_mass(name) for name in set(group.tolist()) if name}
    parts = [name for name in mass if name == _PARTS]
    whole = sum(m for name, m in mass.items() if name != _PARTS)
    weights = np.zeros(len(streams))
    for name, of_group in mass.items():
        members = group == name
        share = PARTS_WEIGHT if name == _PARTS and whole else of_group / (whole or 1.0)
        if name != _PARTS and parts:
            share *= 1 - PARTS_WEIGHT
        total = values[members].sum()
        weights[members] = share * (values[members] / total if total > 0 else 1 / members.sum())
    return weights


_PARTS = "parts"


def _weight_group(monitor: str, stream: BaselineStream) -> str:
    if _MONITOR_OF_ROLE[stream.role] != monitor:
        return ""
    if stream.segment:
        return _PARTS
    return stream.role if stream.role in ROLE_WEIGHTS else monitor


def _group_mass(name: str) -> float:
    return ROLE_WEIGHTS.get(name, 1.0)
