"""Which receivers an incident concerns, kept in the database: a thread for each receiver and group."""

from __future__ import annotations

import sqlalchemy as sa

from services.alerting.policy.model import Policy


def concern(
    connection: sa.Connection, policy: Policy, incident_id: str, now_ms: int, *, except_receiver: str = ""
) -> None:
    """Something about an incident changed: bring it into the threads of everybody it concerns and set when each is
    looked at.

    Called within the transaction that changed it. Decides nothing about messages: that is done when a thread is due
    (:mod:`services.alerting.notify.planning`). A receiver that is told of the incident already stays in its thread,
    whatever the routes say now: who saw it open must see it end.

    Args:
        connection: Of the transaction.
        policy: In force.
        incident_id: Which.
        now_ms: The clock.
        except_receiver: By which a person's answer came: it shows it already.
    """
    raise NotImplementedError
