"""Makes the channel of a receiver."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

from services.alerting.channels.apprise_channel import AppriseChannel
from services.alerting.channels.base import Channel, Redactor
from services.alerting.channels.email_channel import EmailChannel
from services.alerting.channels.opsgenie import OpsgenieChannel
from services.alerting.channels.pagerduty import PagerDutyChannel
from services.alerting.channels.slack import SlackChannel
from services.alerting.channels.teams import TeamsChannel
from services.alerting.channels.webhook import WebhookChannel
from services.alerting.clock import Clock
from services.alerting.errors import AlertingSettingsError
from services.alerting.policy.model import (
    AppriseReceiver,
    EmailReceiver,
    OpsgenieReceiver,
    PagerDutyReceiver,
    Receiver,
    SlackReceiver,
    TeamsReceiver,
    WebhookReceiver,
)

PictureAddress = Callable[[str, int], str]
"""Of an incident's id and the rank of its picture, from 1: where it is shown to whoever has the address."""


def make_channel(
    receiver: Receiver,
    session: aiohttp.ClientSession,
    redact: Redactor,
    clock: Clock,
    picture_address: PictureAddress | None = None,
) -> Channel:
    """The channel of a receiver. Make it on the event loop, close it when the receiver goes.

    Args:
        receiver: Its settings, with secrets read.
        session: Of :func:`services.alerting.channels.base.http_session`; webhooks and mail have connections of their
            own.
        redact: Takes secrets out of what receivers say.
        clock: Of the service.
        picture_address: Where pictures are shown to receivers that take addresses only; without, they get none.

    Raises:
        AlertingSettingsError: Settings that only the channel can judge: a signing secret that is none, a certificate
            file that cannot be read, a package that is not installed.
    """
    if isinstance(receiver, SlackReceiver):
        return SlackChannel(receiver, session, redact, clock)
    if isinstance(receiver, PagerDutyReceiver):
        return PagerDutyChannel(receiver, session, redact, clock, picture_address)
    if isinstance(receiver, EmailReceiver):
        return EmailChannel(receiver, redact)
    if isinstance(receiver, WebhookReceiver):
        return WebhookChannel(receiver)
    if isinstance(receiver, TeamsReceiver):
        return TeamsChannel(receiver, session, redact, picture_address)
    if isinstance(receiver, OpsgenieReceiver):
        return OpsgenieChannel(receiver, session, redact)
    if isinstance(receiver, AppriseReceiver):
        return AppriseChannel(receiver)
    raise AlertingSettingsError(f"receiver {receiver.name}: there is no channel for {type(receiver).__name__}")
