"""Does what people press in Slack, and keeps the connections by which Slack tells of it.

Slack waits 3 seconds for an answer. What was asked for is one transaction, so an answer is normally given when it is
kept; one that takes longer than 2 seconds is answered first and finished after.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError

from services.alerting.channels.base import Redactor, http_session
from services.alerting.channels.slack_answers import Answer, AnswerError, Form, interaction
from services.alerting.channels.slack_blocks import escape
from services.alerting.channels.slack_buttons import NOTE_BLOCK, note_form
from services.alerting.channels.slack_socket import SlackSocket
from services.alerting.channels.slack_web import NETWORK_ERRORS, error_code, web_client
from services.alerting.incidents.actions import ActionRefusedError, Desk
from services.alerting.policy.model import PolicyHolder, SlackReceiver
from services.alerting.words.text import clean, shorten

log = logging.getLogger("driftline.alerting")

_KEPT_WITHIN_SECONDS = 2.0
_LOOK_AT_POLICY_SECONDS = 1.0
_REQUEST_SECONDS = 10.0
_REFUSAL_CHARACTERS = 500


class SlackDesk:
    """Answers of people in Slack, of all Slack receivers of the policy in force.

    Args:
        policy: In force.
        desk: Where actions are done.
    """

    def __init__(self, policy: PolicyHolder, desk: Desk) -> None:
        self._policy = policy
        self._desk = desk
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sockets: list[SlackSocket] = []

    @property
    def trouble(self) -> str:
        """Why buttons do not work just now; empty where they do."""
        return next((socket.trouble for socket in self._sockets if socket.trouble), "")

    async def run(self) -> None:
        """Keep a Socket Mode connection for each app token of the policy, until cancelled. Follows reloads."""
        sockets: dict[tuple[str, str], asyncio.Task[None]] = {}
        try:
            while True:
                wanted = {key: receiver for receiver in self._receivers() if (key := _app(receiver)) is not None}
                for key in [key for key in sockets if key not in wanted]:
                    sockets.pop(key).cancel()
                for key, receiver in wanted.items():
                    if key in sockets and sockets[key].done() and (error := sockets[key].exception()) is not None:
                        log.error("%s: the connection to Slack ended: %s", receiver.name, type(error).__name__)
                    if key not in sockets or sockets[key].done():
                        sockets[key] = asyncio.create_task(self._listen(receiver), name=f"slack {receiver.name}")
                await asyncio.sleep(_LOOK_AT_POLICY_SECONDS)
        finally:
            for task in sockets.values():
                task.cancel()
            await asyncio.gather(*sockets.values(), return_exceptions=True)

    async def close(self) -> None:
        """Finish what was asked for, and release the session."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_REQUEST_SECONDS)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def interaction(self, receiver: str, payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Do what a document of Slack's asks for; the JSON to answer with, or None for an empty answer.

        Args:
            receiver: The receiver by which it came.
            payload: Of :func:`services.alerting.channels.slack_answers.payload_of`, its signature checked.

        Raises:
            AnswerError: It is nothing that Slack sends of our messages.
        """
        asked = interaction(payload)
        known = self._policy.current.receivers.get(receiver)
        if not isinstance(known, SlackReceiver):
            raise AnswerError("there is no Slack receiver of this name")
        form = payload.get("type") == "view_submission"
        work = asyncio.create_task(self._do(known, payload, asked))
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)
        done, _ = await asyncio.wait({work}, timeout=_KEPT_WITHIN_SECONDS)
        refusal = work.result() if done else ""
        if form and refusal:
            return {"response_action": "errors", "errors": {NOTE_BLOCK: shorten(refusal, 150)}}
        return None

    async def _listen(self, receiver: SlackReceiver) -> None:
        async def take(payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
            try:
                return await self.interaction(receiver.name, payload)
            except AnswerError as error:
                log.warning("%s: an answer from Slack is not understood: %s", receiver.name, error)
                return None

        socket = SlackSocket(receiver, self._http(), take)
        self._sockets.append(socket)
        try:
            await socket.run()
        finally:
            self._sockets.remove(socket)

    async def _do(self, receiver: SlackReceiver, payload: Mapping[str, Any], asked: tuple[Answer | Form, ...]) -> str:
        """Do it, and tell who asked what was refused; the refusals as one text."""
        refusals: list[str] = []
        for one in asked:
            if isinstance(one, Form):
                refusal = await self._open(receiver, one)
            else:
                refusal = await asyncio.to_thread(self._act, receiver, one)
            if refusal and refusal not in refusals:
                refusals.append(refusal)
        if refusals and payload.get("type") == "block_actions":
            await self._tell(receiver, payload, refusals)
        return " ".join(refusals)

    def _act(self, receiver: SlackReceiver, answer: Answer) -> str:
        try:
            self._desk.act(answer.incident_id, answer.do, answer.actor, answer.reason, **answer.detail)
        except ActionRefusedError as error:
            return shorten(clean(str(error)), _REFUSAL_CHARACTERS)
        except Exception as error:
            # Whatever is wrong inside must not end the connection, and its text is not for a chat.
            log.error("%s: %s from Slack was not done: %s", receiver.name, answer.do.value, type(error).__name__)
            return "It could not be done just now; please try again."
        return ""

    async def _open(self, receiver: SlackReceiver, form: Form) -> str:
        client = web_client(receiver, self._http())
        if client is None:
            return "A note needs the bot's token; use the command driftline incidents note."
        try:
            await client.views_open(trigger_id=form.trigger_id, view=note_form(form.incident_id))
        except (SlackApiError, *NETWORK_ERRORS) as error:
            said = self._said(receiver, error)
            log.warning("%s: the form for a note could not be opened: %s", receiver.name, said)
            return "The form could not be opened; please press once more."
        return ""

    async def _tell(self, receiver: SlackReceiver, payload: Mapping[str, Any], refusals: list[str]) -> None:
        """Only to who pressed, where it was pressed."""
        client = web_client(receiver, self._http())
        channel = (payload.get("channel") or {}).get("id") or (payload.get("container") or {}).get("channel_id")
        if client is None or not channel:
            return
        try:
            await client.chat_postEphemeral(
                channel=str(channel), user=str(payload["user"]["id"]), text=escape(" ".join(refusals), 2000)
            )
        except (SlackApiError, *NETWORK_ERRORS) as error:
            log.info("%s: who pressed was not told of the refusal: %s", receiver.name, self._said(receiver, error))

    @staticmethod
    def _said(receiver: SlackReceiver, error: BaseException) -> str:
        code = error_code(error) if isinstance(error, SlackApiError) else None
        return shorten(clean(Redactor(receiver.secrets())(code or type(error).__name__)), 200)

    def _receivers(self) -> list[SlackReceiver]:
        return [r for r in self._policy.current.receivers.values() if isinstance(r, SlackReceiver)]

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = http_session(_REQUEST_SECONDS)
        return self._session


def _app(receiver: SlackReceiver) -> tuple[str, str] | None:
    """What a connection belongs to: receivers of one app share it, for Slack sends each answer to one of them only."""
    return None if receiver.app_token is None else (receiver.app_token.get_secret_value(), receiver.api_url)
