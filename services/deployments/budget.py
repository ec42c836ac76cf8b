"""How deployments share the fleet's false-alarm budget.

A fleet promise ("one false alarm a month, all deployments together") is kept when the parts that the deployments work
under never add up to more than one. A fleet deployment gets ``weight / capacity``: the weight is that of its risk tier
(``RISK_WEIGHTS``), the capacity a power of two at or above all weights together, with room to grow, so that a new
deployment seldom changes the threshold of the others.

**Why the bound survives a change of shares.** One monitor on one shard has evidence M, pays a start mass b_t in its
t-th event (see :mod:`streams.statistics.evidence`) and alarms when M reaches its threshold c_t, which is in force
before the event and may differ from that of the event before. With N_t alarms until then,

    M_t / c_t + N_t - sum_{s<=t} b_s / c_s                                                                           (1)

is a supermartingale: between changes of c it is the one of that module divided by c, an alarm replaces M / c >= 1 by
zero and adds one, and where c rises while M is kept M / c only falls. Hence

    E[N_T] <= E[sum_{s<=T} b_s / c_s],                                                                               (2)

every start is paid for at the share of its own moment. A slot brings starts of at most one per shard and c = starts
per period / (count x share), so the right-hand side is ``count`` times the time average of the share, in periods.
Summed over the monitors, shards and deployments of a fleet it is at most ``count`` per period if the shares add up to
at most one **at every moment**: joining, leaving and changing tiers only changes the terms of the sum. Nothing is
assumed about dependence between deployments. Two things go with it:

- Where c *falls*, because a share grows, evidence gathered at the higher price must not be cashed in at the lower one:
  M has to fall with it, log M by as much as log c, or to begin anew; kept, (1) would jump by M (1/c_new - 1/c_old).
- (2) counts from the beginning. What one period leaves unspent, at most E[M/c], may be spent in the next.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from services.deployments.durations import duration_text
from services.deployments.errors import DeploymentError
from streams.specification import RISK_WEIGHTS, DeploymentSpec

FLEET = "fleet"


def weight_of(spec: DeploymentSpec) -> int:
    """The weight of a deployment in the fleet's budget: that of its risk tier, 0 where it has a budget of its own."""
    return RISK_WEIGHTS[spec.risk] if spec.false_alarms.scope == FLEET else 0


def capacity_for(weight: float) -> int:
    """The smallest power of two that holds so much weight, at least 1."""
    return 1 << max(0, math.ceil(weight) - 1).bit_length()


def fleet_capacity(specs: Iterable[DeploymentSpec]) -> int:
    """The capacity that the shares in force speak of; 1 where there is no fleet yet.

    Shares that were given before there were tiers, ``1 / capacity`` for each deployment, speak of twice that capacity
    in units of weight: every deployment was of the medium tier, of weight 2, and keeps its share.
    """
    return max(
        (capacity_for(weight_of(spec) / spec.false_alarms.share) for spec in specs if weight_of(spec)), default=1
    )


def handed_out(specs: Iterable[DeploymentSpec]) -> float:
    """The sum of the fleet's shares: the part of the promise that has been handed out. More than 1 breaks it."""
    return math.fsum(spec.false_alarms.share for spec in specs if spec.false_alarms.scope == FLEET)


def promises(specs: Iterable[DeploymentSpec]) -> dict[tuple[float, int], list[str]]:
    """What the fleet's deployments promise, (count, period in milliseconds), and which; one entry where all is well."""
    found: dict[tuple[float, int], list[str]] = {}
    for spec in specs:
        if spec.false_alarms.scope == FLEET:
            found.setdefault((spec.false_alarms.count, spec.false_alarms.per_ms), []).append(spec.deployment_id)
    return dict(sorted(found.items()))


def shared(current: Mapping[str, DeploymentSpec], wanted: Sequence[DeploymentSpec]) -> list[DeploymentSpec]:
    """Give every deployment its share, and say which of the others must be published again.

    The order is the one to publish in: at no moment do the shares of the fleet add up to more than one, if they did
    not before.

    1. Deployments that are there and whose share shrinks or leaves the fleet.
    2. Everything else, in the order given.

    After the first step everybody has at most what it gets in the end, and what everybody gets in the end are weights
    over a capacity that holds them all.

    The capacity never shrinks while there is a fleet: shares that grew would have to be taken back when a deployment
    joins again, and growth costs evidence (see the module).

    Args:
        current: What is in force, by deployment.
        wanted: New or changed specifications; their shares are ignored.

    Returns:
        The wanted specifications, and those others whose share changes, in the order to publish.

    Raises:
        DeploymentError: Fleet deployments promise different things.
    """
    after = dict(current) | {spec.deployment_id: spec for spec in wanted}
    named = {spec.deployment_id for spec in wanted}
    _require_one_promise(after.values(), named)
    capacity = max(capacity_for(sum(map(weight_of, after.values()))), fleet_capacity(current.values()))
    result = [_with_share(spec, capacity) for spec in wanted]
    others = [_with_share(spec, capacity) for name, spec in current.items() if name not in named]
    result += [spec for spec in others if spec != current[spec.deployment_id]]
    return sorted(result, key=lambda spec: not _gives_back(current.get(spec.deployment_id), spec))


def _with_share(spec: DeploymentSpec, capacity: int) -> DeploymentSpec:
    share = weight_of(spec) / capacity if spec.false_alarms.scope == FLEET else 1.0
    return dataclasses.replace(spec, false_alarms=dataclasses.replace(spec.false_alarms, share=share))


def _gives_back(before: DeploymentSpec | None, after: DeploymentSpec) -> bool:
    """Whether publishing it lowers what the fleet has handed out."""
    if before is None or before.false_alarms.scope != FLEET:
        return False
    return after.false_alarms.scope != FLEET or after.false_alarms.share < before.false_alarms.share


def _require_one_promise(specs: Iterable[DeploymentSpec], named: set[str]) -> None:
    found = promises(specs)
    if len(found) < 2:
        return
    raise DeploymentError(
        f"the deployments of a fleet share one false-alarm budget, and these promise different ones: "
        f"{promises_text(found)}. Apply all of them together with the same false_alarms, or give "
        f"{', '.join(sorted(named))} a budget of its own (scope: deployment)"
    )


def promises_text(found: Mapping[tuple[float, int], Sequence[str]]) -> str:
    """Promises and who makes them, for people."""
    return "; ".join(
        f"{count:g} per {duration_text(per_ms)}: {', '.join(sorted(names)[:5])}{' …' if len(names) > 5 else ''}"
        for (count, per_ms), names in found.items()
    )
