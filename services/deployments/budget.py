"""How deployments share the fleet's false-alarm budget.

A fleet promise ("one false alarm a month, all deployments together") is kept when the parts that the deployments work
under never add up to more than one. Every fleet deployment gets ``1 / capacity``; the capacity is a power of two with
room to grow, so that a new deployment seldom changes the threshold of the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from services.deployments.durations import duration_text
from services.deployments.errors import DeploymentError
from streams.specification import DeploymentSpec

FLEET = "fleet"


def capacity_for(deployments: int) -> int:
    """The smallest power of two that holds so many deployments."""
    return 1 << max(0, deployments - 1).bit_length()


def fleet_capacity(specs: Iterable[DeploymentSpec]) -> int:
    """The capacity that the smallest share in force speaks of; 1 where there is no fleet yet."""
    shares = [spec.false_alarms.share for spec in specs if spec.false_alarms.scope == FLEET]
    return max((round(1 / share) for share in shares if share > 0), default=1)


def shared(current: Mapping[str, DeploymentSpec], wanted: Sequence[DeploymentSpec]) -> list[DeploymentSpec]:
    """Give every deployment its share, and say which of the others must be published again.

    The order is the one to publish in: at no moment do the shares of the fleet add up to more than one.

    1. Deployments that are there and whose share shrinks or leaves the fleet.
    2. Everything else, in the order given.

    The capacity never shrinks: a deployment that comes back would take from shares that had grown meanwhile.

    Args:
        current: What is in force, by deployment.
        wanted: New or changed specifications; their shares are ignored.

    Returns:
        The wanted specifications, and those others whose share changes, in the order to publish.

    Raises:
        DeploymentError: Fleet deployments promise different things.
    """
    after = dict(current) | {spec.deployment_id: spec for spec in wanted}
    fleet = [spec for spec in after.values() if spec.false_alarms.scope == FLEET]
    _require_one_promise(fleet, {spec.deployment_id for spec in wanted})
    capacity = max(capacity_for(len(fleet)), fleet_capacity(current.values()))
    result = [_with_share(spec, capacity) for spec in wanted]
    named = {spec.deployment_id for spec in wanted}
    others = [_with_share(spec, capacity) for name, spec in current.items() if name not in named]
    result += [spec for spec in others if spec != current[spec.deployment_id]]
    return sorted(result, key=lambda spec: not _gives_back(current.get(spec.deployment_id), spec))


def _with_share(spec: DeploymentSpec, capacity: int) -> DeploymentSpec:
    share = 1 / capacity if spec.false_alarms.scope == FLEET else 1.0
    return dataclasses.replace(spec, false_alarms=dataclasses.replace(spec.false_alarms, share=share))


def _gives_back(before: DeploymentSpec | None, after: DeploymentSpec) -> bool:
    """Whether publishing it lowers what the fleet has handed out."""
    if before is None or before.false_alarms.scope != FLEET:
        return False
    return after.false_alarms.scope != FLEET or after.false_alarms.share < before.false_alarms.share


def _require_one_promise(fleet: Sequence[DeploymentSpec], named: set[str]) -> None:
    promises: dict[tuple[float, int], list[str]] = {}
    for spec in fleet:
        promises.setdefault((spec.false_alarms.count, spec.false_alarms.per_ms), []).append(spec.deployment_id)
    if len(promises) < 2:
        return
    listed = "; ".join(
        f"{count:g} per {duration_text(per_ms)}: {', '.join(sorted(names)[:5])}{' …' if len(names) > 5 else ''}"
        for (count, per_ms), names in sorted(promises.items())
    )
    raise DeploymentError(
        f"the deployments of a fleet share one false-alarm budget, and these promise different ones: {listed}. Apply "
        f"all of them together with the same false_alarms, or give {', '.join(sorted(named))} a budget of its own "
        "(scope: deployment)"
    )
