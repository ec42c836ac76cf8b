"""What can go wrong in the alerting service."""

from services.errors import ServicesError


class AlertingError(ServicesError):
    """Base of every error the alerting service raises on purpose."""


class AlertingSettingsError(AlertingError):
    """Settings that cannot be used; the message names the setting, never a secret's value."""

    exit_code = 2


class DatabaseError(AlertingError):
    """The database cannot be opened, or belongs to a service that is running."""
