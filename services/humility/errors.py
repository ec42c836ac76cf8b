"""What can go wrong with humility."""

from __future__ import annotations

from services.errors import ServicesError
from streams.humility.fit import asks_for_humility
from streams.specification import DeploymentSpec


class HumilityError(ServicesError):
    """What was asked of humility rules cannot be had."""


def require_humility(spec: DeploymentSpec) -> None:
    """Refuse a deployment without humility.

    Raises:
        HumilityError: It has neither rules nor guarantees.
    """
    if not asks_for_humility(spec):
        raise HumilityError(
            f"the specification of {spec.deployment_id!r} has no humility section: add humility: with rules: or "
            "guarantees: to it (driftline deployment schema names the fields) and apply it (driftline deployment apply "
            "FILE)"
        )
