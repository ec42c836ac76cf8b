"""The one table of roles and permissions. What it does not name is forbidden."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Role(enum.StrEnum):
    """Roles."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    OWNER = "owner"
    AUDITOR = "auditor"
    ADMIN = "admin"
    SERVICE = "service"


class Permission(enum.StrEnum):
    """What can be allowed."""

    INCIDENTS_READ = "incidents:read"
    INCIDENTS_ACT = "incidents:act"  # acknowledge, note, assign, resolve, reopen
    SILENCES_WRITE = "silences:write"
    ROUTES_READ = "routes:read"
    NOTIFICATIONS_READ = "notifications:read"
    NOTIFICATIONS_WRITE = "notifications:write"  # re-drive, test a receiver
    CONFIGURATION_WRITE = "configuration:write"  # reload


_R = Permission
PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({_R.INCIDENTS_READ, _R.ROUTES_READ}),
    Role.OPERATOR: frozenset(set(_R) - {_R.CONFIGURATION_WRITE}),
    Role.OWNER: frozenset(
        {_R.INCIDENTS_READ, _R.INCIDENTS_ACT, _R.SILENCES_WRITE, _R.ROUTES_READ, _R.NOTIFICATIONS_READ}
    ),
    Role.AUDITOR: frozenset({_R.INCIDENTS_READ, _R.ROUTES_READ, _R.NOTIFICATIONS_READ}),
    # An administrator keeps the service running; answering for a model is not among that.
    Role.ADMIN: frozenset({_R.ROUTES_READ, _R.NOTIFICATIONS_READ, _R.NOTIFICATIONS_WRITE, _R.CONFIGURATION_WRITE}),
    Role.SERVICE: frozenset({_R.INCIDENTS_READ}),
}


def allowed(role: Role, permission: Permission) -> bool:
    """Whether a role has a permission."""
    return permission in PERMISSIONS.get(role, frozenset())
