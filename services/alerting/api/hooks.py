"""What Slack and PagerDuty send by HTTP. Nothing of it is looked at before its signature is checked.

Both send again what they get no answer to, so every answer carries the identity of its request and a repeat changes
nothing. Who guesses names of receivers learns nothing: one that is unknown answers like a wrong signature.
"""

from __future__ import annotations

from aiohttp import web

from services.alerting.api.endpoints import Call
from services.alerting.api.problems import ProblemError
from services.alerting.channels import pagerduty_answers, slack_answers
from services.alerting.policy.model import PagerDutyReceiver, SlackReceiver


async def slack(call: Call) -> web.Response:
    """What somebody pressed in Slack. Answered within three seconds, as Slack asks."""
    services, name = call.services, call.path["receiver"]
    receiver = services.policy.current.receivers.get(name)
    secret = receiver.signing_secret if isinstance(receiver, SlackReceiver) else None
    headers = call.request.headers
    if secret is None or not slack_answers.verify(secret.get_secret_value(), headers, call.raw, services.wall()):
        raise _unsigned("signing_secret_file")
    if services.slack_interaction is None:
        raise ProblemError("unavailable", "answers from Slack are not taken here")
    try:
        payload = slack_answers.payload_of(call.raw)
        answer = await services.slack_interaction(name, payload)
    except slack_answers.AnswerError as error:
        raise ProblemError("other", str(error)) from error
    return web.Response() if answer is None else web.json_response(dict(answer))


async def pagerduty(call: Call) -> web.Response:
    """What somebody did in PagerDuty. What fails inside is answered 5xx: PagerDuty sends it again for two days."""
    services, name = call.services, call.path["receiver"]
    receiver = services.policy.current.receivers.get(name)
    secrets = receiver.webhook_secrets if isinstance(receiver, PagerDutyReceiver) else ()
    if not pagerduty_answers.verify([secret.get_secret_value() for secret in secrets], call.request.headers, call.raw):
        raise _unsigned("webhook_secret_file")
    try:
        count = await call.thread(lambda: pagerduty_answers.take(services.database, services.desk, name, call.raw))
    except pagerduty_answers.WebhookError as error:
        raise ProblemError("other", str(error)) from error
    return web.json_response({"incidents": count})


def _unsigned(setting: str) -> ProblemError:
    return ProblemError(
        "signature",
        "the request is not signed by who should send it",
        expected=f"a signature made with the receiver's {setting}, at most five minutes old",
        do=f"Compare the secret with the one behind {setting} in the routing file, and this machine's clock.",
    )
