"""What can go wrong with the embedded broker."""

from services.errors import ServicesError


class BrokerError(ServicesError):
    """Base of every error of this package; the message says what was expected, what came and what to do."""


class JarError(BrokerError):
    """A jar could not be fetched, kept, or is not the one that the lock file names."""


class PortLostError(BrokerError):
    """Somebody else listens on a port that was free a moment before the broker started."""
