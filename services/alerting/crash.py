"""Named points at which a test may kill the process: what a kill -9 at just that moment would do.

``DRIFTLINE_ALERTING_CRASH_AT=outbox.claimed:3`` kills the process with SIGKILL the third time it gets there. Without
the variable, nothing here does anything.
"""

from __future__ import annotations

import os
import signal

ENVIRONMENT = "DRIFTLINE_ALERTING_CRASH_AT"

POINTS = (
    "intake.before_commit",  # alerts are read, their transaction has not ended
    "intake.after_commit",  # it has ended, nobody was woken
    "flush.before_commit",  # messages are decided on, their transaction has not ended
    "flush.after_commit",
    "outbox.claimed",  # a message is marked as being sent, nothing has left
    "outbox.sent_unwritten",  # the receiver has it, the database does not know
    "outbox.written",  # the database knows
    "publications.before_delete",  # audit events are on Kafka, and still in the database
    "action.after_commit",  # somebody's answer is kept, and not acted upon
)

_passed: dict[str, int] = {}


def crash_point(name: str) -> None:
    """Die here, if the environment says so."""
    asked = os.environ.get(ENVIRONMENT)
    if not asked:
        return
    point, _, count = asked.partition(":")
    if point == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] >= int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
