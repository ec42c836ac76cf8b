"""Who fills a role, for an owner: ``role:NAME`` in a ``notify`` becomes receivers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.alerting.policy.model import ROLE_PREFIX, SEVERITIES, Policy, Receiver
from services.alerting.words.text import clean, shorten

_OWNER_CHARACTERS = 80

ANYBODY = "*"
"""In ``by_owner``: owners that are not named."""


def resolve(policy: Policy, targets: Sequence[str], owner: str) -> tuple[tuple[str, str], ...]:
    """The receivers behind receivers and roles, each once, in order, with why: empty where it is named itself.

    Who has left the policy since ``targets`` were written is left out.
    """
    found: dict[str, str] = {}
    for receiver, because in _resolved(policy, targets, owner, (), ""):
        found.setdefault(receiver, because)
    return tuple(found.items())


def _resolved(
    policy: Policy, targets: Sequence[str], owner: str, above: tuple[str, ...], because: str
) -> Iterator[tuple[str, str]]:
    for target in targets:
        if not target.startswith(ROLE_PREFIX):
            if target in policy.receivers:
                yield target, because
            continue
        name = target.removeprefix(ROLE_PREFIX)
        role = policy.roles.get(name)
        if role is None or name in above:
            continue
        told = f"role {name}" if not because else f"{because}, role {name}"
        yield from _resolved(policy, role.always, owner, (*above, name), told)
        named = owner in role.by_owner
        # The owner is data, and goes into reasons that people and the audit read.
        whose = (
            f"{told} of {shorten(clean(owner), _OWNER_CHARACTERS)}"
            if named
            else f"{told} of {'owners not named' if owner else 'no owner'}"
        )
        members = role.by_owner.get(owner if named else ANYBODY, ())
        yield from _resolved(policy, members, owner, (*above, name), whose)


def takes(receiver: Receiver, severity: str) -> bool:
    """Whether a severity is urgent enough for a receiver; one that is not known is."""
    if severity not in SEVERITIES:
        return True
    return SEVERITIES.index(severity) <= SEVERITIES.index(receiver.minimum_severity)
