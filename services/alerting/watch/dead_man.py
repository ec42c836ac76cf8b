"""Signs of life to an address outside, where somebody pages when they stop: the one alarm that needs nothing of ours.

It is called only while all is well, so silence there says either that the service is gone, or that it is not well.
"""

from __future__ import annotations

import ipaddress
import logging
from urllib.parse import urlsplit

import aiohttp

from services.alerting.channels.base import http_session, network_error, proxy_for
from services.alerting.metrics import Metrics

log = logging.getLogger("driftline.alerting")

_TIMEOUT_SECONDS = 10.0


class DeadMan:
    """Calls the address.

    Args:
        metrics: What is counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._said = ""

    async def tell(self, url: str) -> bool:
        """Call it once; False if it did not answer as it should. The address is a secret and is never shown."""
        trouble = "" if may_be_called(url) else "its address is neither https nor on this machine"
        if not trouble:
            trouble = await self._call(url)
        self._metrics.dead_man(good=not trouble)
        if trouble and trouble != self._said:
            log.warning("the dead man's switch outside was not reached: %s", trouble)
        elif self._said and not trouble:
            log.info("the dead man's switch outside is reached again")
        self._said = trouble
        return not trouble

    @staticmethod
    async def _call(url: str) -> str:
        try:
            async with http_session(_TIMEOUT_SECONDS) as session, session.get(url, proxy=proxy_for(url)) as answer:
                return "" if 200 <= answer.status < 300 else f"HTTP {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return network_error(error).error


def may_be_called(url: str) -> bool:
    """Whether a secret address may be called: by https, or on this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.scheme not in ("http", "https"):
        return False
    if parts.scheme == "https":
        return True
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
