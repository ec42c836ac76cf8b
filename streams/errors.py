"""What can go wrong in the streams."""

from driftline.errors import DriftlineError


class StreamsError(DriftlineError):
    """Base of every error the streams raise on purpose."""


class BaselineError(StreamsError):
    """A reference that no baseline can be built from, or a baseline that does not fit."""


class JournalError(StreamsError):
    """A partition's state cannot be read, committed or owned; the worker must end."""
