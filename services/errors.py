"""What can go wrong in the services."""

from driftline.errors import DriftlineError


class ServicesError(DriftlineError):
    """Base of every error the services raise on purpose; the message is for the person at the command line."""
