"""What a message is for."""

from __future__ import annotations

import enum


class Kind(enum.StrEnum):
    """Kinds of messages.

    A thread begins with one ``TRIGGER`` (or ``DIGEST``) and ends with one ``RESOLVE``; between them, any of the others.
    """

    TRIGGER = "trigger"
    """The first message of a thread, and the first after it was opened again."""
    UPDATE = "update"
    """Something changed: a new signal or deployment, a severity, a note, a silence."""
    ACKNOWLEDGE = "acknowledge"
    """Somebody has taken it, or given it back (the incident's status says which)."""
    REPEAT = "repeat"
    """Nothing changed and nobody took it: a reminder."""
    RESOLVE = "resolve"
    """Everything in the thread is over."""
    DIGEST = "digest"
    """Several incidents in one message, gathered by time or because too much was waiting."""
    HEARTBEAT = "heartbeat"
    """A sign of life."""
    TEST = "test"
    """Somebody asked whether this receiver works."""


PAGING = (Kind.TRIGGER, Kind.REPEAT)
"""Kinds that are to catch somebody's attention; others change what is there."""
