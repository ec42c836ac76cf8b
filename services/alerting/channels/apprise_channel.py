"""Any of the services that the optional package ``apprise`` knows, by its URL.

A way to reach what has no channel of its own. It knows no thread, no receipt and no reason for a failure: every message
is one of its own, and one in doubt is sent again (at least once). What reads it may take Markdown, HTML or mentions:
values from data are shown by look-alikes of what those read.

Source: https://github.com/caronc/apprise/wiki/Development_API
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import Any

from services.alerting.channels.base import Again, Outcome, Pacer, Sent
from services.alerting.channels.delivery import Delivery
from services.alerting.channels.harmless import ended, plain
from services.alerting.errors import AlertingSettingsError
from services.alerting.incidents.views import RESOLVED
from services.alerting.policy.model import AppriseReceiver
from services.alerting.words.incident import Text, describe
from services.alerting.words.text import shorten

EXTRA = "driftline-platform[apprise]"

_BODY_CHARACTERS = 16_000
_SHORT_CHARACTERS = 600
"""Of services that take less, such as text messages to telephones, the summary has to do."""
_TYPES = {"critical": "failure", "error": "failure", "warning": "warning", "info": "info"}


class AppriseChannel:
    """Sends by one URL of apprise.

    Args:
        receiver: Its settings.

    Raises:
        AlertingSettingsError: The package is missing, or it does not know the URL.
    """

    def __init__(self, receiver: AppriseReceiver) -> None:
        self._receiver = receiver
        self._service = _service(receiver)
        # A request that was given up goes on in its thread; the next one waits for it.
        self._under_way: asyncio.Task[bool] | None = None

    def __repr__(self) -> str:
        return f"AppriseChannel({self._receiver.name!r})"

    async def close(self) -> None:
        """It holds nothing that could be closed: a request that was given up ends in its thread."""

    async def send(self, delivery: Delivery, pace: Pacer) -> Outcome:
        """Send a message. See :class:`services.alerting.channels.base.Channel`."""
        if self._under_way is not None and not self._under_way.done():
            return Again("the last message was given up and is still under way")
        title, body = self.message(describe(delivery))
        await pace()
        work = asyncio.to_thread(self._service.notify, body, title, _type(delivery), body_format="text")
        self._under_way = asyncio.create_task(work)
        try:
            arrived = await asyncio.wait_for(asyncio.shield(self._under_way), self._receiver.timeout_seconds)
        except TimeoutError:
            return Again("no answer in time", doubtful=True)
        except Exception as error:
            return Again(f"apprise failed: {type(error).__name__}", doubtful=True)
        return Sent() if arrived else Again("apprise could not deliver it, and says no reason")

    def message(self, text: Text) -> tuple[str, str]:
        """Title and body, as long as the service takes them."""
        most = min(int(self._service.body_maxlen), _BODY_CHARACTERS)
        title_room = int(self._service.title_maxlen)
        title = f"{text.mark} {plain(text.headline)}"
        if title_room > 0:
            title, lines = shorten(title, title_room), []
        else:
            title, lines = "", [title]
        room = max(most - len(title) - 2, 20)
        if room < _SHORT_CHARACTERS:
            return title, shorten("\n".join([*lines, plain(text.summary)]), room)
        links = [f"{name}: {address}" for name, address in text.links]
        links.append(f"On the command line: {plain(text.command)}")
        return title, ended("\n".join([*lines, *_lines(text)]), "\n".join(links), room)


def _lines(text: Text) -> list[str]:
    lines = list(map(plain, text.news))
    for part in text.parts:
        lines += ["", f"{plain(part.headline)} ({plain(part.status)})", *map(plain, part.sentences)]
        lines += [f"{rank}. {plain(cause)}" for rank, cause in enumerate(part.causes, start=1)]
    return [*lines, "", *(plain(line) for line in (text.more, text.steps) if line is not None), *map(plain, text.story)]


def _type(delivery: Delivery) -> str:
    """How apprise colours it."""
    running = [incident.severity for incident in delivery.incidents if incident.status != RESOLVED]
    if not delivery.incidents:
        return "info"
    return _TYPES.get(running[0], "info") if running else "success"


def _service(receiver: AppriseReceiver) -> Any:
    try:
        apprise = importlib.import_module("apprise")
    except ImportError:
        raise AlertingSettingsError(
            f"receiver {receiver.name}: type apprise needs a package that is not installed; install {EXTRA}"
        ) from None
    _quieten()
    service = apprise.Apprise.instantiate(receiver.url.get_secret_value(), suppress_exceptions=True)
    if service is None:
        raise AlertingSettingsError(
            f"receiver {receiver.name}: apprise does not know this URL (it is not shown: it may hold a password)"
        )
    # What is too long is cut here, where it can be said; what apprise would cut after that is cut, not multiplied.
    service.overflow_mode = apprise.common.OverflowMode.TRUNCATE
    # A redirect would take the secret elsewhere.
    service.redirects = False
    return service


def _quieten() -> None:
    """Both log addresses, which hold passwords, and look at their own loggers' levels only."""
    for name in ("apprise", "urllib3", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
