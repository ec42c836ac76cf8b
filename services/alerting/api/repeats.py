"""Requests that are repeated because their answer was lost: done once, answered the same.

``X-Request-Id`` names a request of a token. The answers of the last ones are remembered here, so that a repeat waits
for the first one's answer; past a restart, incidents and silences know their requests themselves
(:class:`services.alerting.incidents.actions.Actor`).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.alerting.api.problems import ProblemError

_REMEMBERED = 2000
_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that can be given again."""

    status: int
    text: str


class Repeats:
    """The answers of the last requests. Not thread-safe: for the event loop.

    Args:
        monotonic: Seconds of a clock that only goes forward.
        remembered: Answers.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, remembered: int = _REMEMBERED) -> None:
        self._monotonic = monotonic
        self._remembered = remembered
        self._known: OrderedDict[tuple[str, str], tuple[float, bytes, asyncio.Future[Reply]]] = OrderedDict()

    async def once(self, name: str, request_id: str, what: bytes, do: Callable[[], Awaitable[Reply]]) -> Reply:
        """Do it, unless this request was done already: then its answer. What failed may be tried again.

        Args:
            name: Of the token.
            request_id: What the caller calls its request.
            what: What was asked for: the same name must not stand for two things.
            do: Does it.

        Raises:
            ProblemError: The request of this name was another one.
        """
        now = self._monotonic()
        while self._known and (
            len(self._known) > self._remembered or now - next(iter(self._known.values()))[0] > _SECONDS
        ):
            self._known.popitem(last=False)
        key = (name, request_id)
        if key in self._known:
            _, before, future = self._known[key]
            if before != what:
                raise ProblemError(
                    "invalid",
                    "this X-Request-Id was that of another request",
                    expected="a new id for each action",
                    came=request_id,
                    do="Take a new UUID for each action, and the same one for its repeats.",
                )
            return await asyncio.shield(future)
        mine: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._known[key] = (now, what, mine)
        try:
            reply = await do()
        except BaseException as error:
            self._known.pop(key, None)
            mine.set_exception(
                error if isinstance(error, ProblemError) else ProblemError("unavailable", "the first request failed")
            )
            mine.exception()  # seen, though nobody may wait for it
            raise
        mine.set_result(reply)
        return reply
