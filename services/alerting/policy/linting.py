"""What is legal in a routing file and probably not meant."""

from __future__ import annotations

from services.alerting.policy.model import Policy


def lint(policy: Policy) -> tuple[str, ...]:
    """Warnings, in the order of the file."""
    return () if policy.receivers else ("there are no receivers: incidents are kept, and nobody is told",)
