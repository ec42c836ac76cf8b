"""Closes connections on which no request comes.

aiohttp waits for the head of a request for as long as it takes: who opens many connections and sends a letter a minute
on each would hold them all. Bodies have a time of their own (:class:`services.alerting.api.services.Limits`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator


class Activity:
    """When something last happened on each connection. Not thread-safe: for the event loop.

    Args:
        monotonic: Seconds of a clock that only goes forward.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._busy: dict[object, int] = {}
        self._last: dict[object, float] = {}

    @contextlib.contextmanager
    def request(self, transport: object) -> Iterator[None]:
        """A request is being answered on a connection."""
        self._busy[transport] = self._busy.get(transport, 0) + 1
        try:
            yield
        finally:
            self._busy[transport] -= 1
            if not self._busy[transport]:
                del self._busy[transport]
            self._last[transport] = self._monotonic()

    def quiet(self, open_now: Iterable[asyncio.Transport], seconds: float) -> list[asyncio.Transport]:
        """Of the connections that are open, those on which nothing was asked for so long. Forgets all others."""
        now = self._monotonic()
        transports = list(open_now)
        self._last = {each: self._last.get(each, now) for each in transports}
        return [each for each in transports if each not in self._busy and now - self._last[each] > seconds]
