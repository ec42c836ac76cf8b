"""Listens: the interface on its address, with TLS where there is a certificate."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from services.alerting.api.app import ACTIVITY, make_app
from services.alerting.api.connections import Activity
from services.alerting.api.services import ApiServices
from services.alerting.errors import AlertingError

_SHUTDOWN_SECONDS = 5.0
_KEEP_ALIVE_SECONDS = 30.0


class ApiServer:
    """The listening interface.

    Args:
        services: What requests reach.
        host: To listen on.
        port: And where; 0 for any that is free.
        certificate: With ``key``: TLS.
        key: Of the certificate.
    """

    def __init__(
        self,
        services: ApiServices,
        host: str,
        port: int,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._services = services
        self._host = host
        self._port = port
        self._tls = (certificate, key)
        self._runner: web.AppRunner | None = None
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port, once started."""
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    @property
    def url(self) -> str:
        """The address for this machine, once started."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self._host, self._host)
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"{'https' if self._tls[0] else 'http'}://{host}:{self.port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            AlertingError: The address, or the certificate, cannot be used.
        """
        context = self._context()
        app = make_app(self._services)
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            logger=_quiet_logger(),
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, ssl_context=context).start()
        except OSError as error:
            await runner.cleanup()
            raise AlertingError(
                f"port {self._port} on {self._host} cannot be used: {error.strerror}. Choose another with --port, or 0 "
                "for a free one."
            ) from error
        self._runner = runner
        self._sweeping = asyncio.create_task(self._sweep(runner, app[ACTIVITY]), name="idle connections")

    async def stop(self) -> None:
        """Stop listening; requests under way have a moment to end."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _sweep(self, runner: web.AppRunner, activity: Activity) -> None:
        """Close connections on which no request comes."""
        seconds = self._services.limits.quiet_seconds
        while runner.server is not None:
            await asyncio.sleep(seconds / 4)
            transports = [each.transport for each in runner.server.connections if each.transport is not None]
            for transport in activity.quiet(transports, seconds):
                transport.abort()

    def _context(self) -> ssl.SSLContext | None:
        certificate, key = self._tls
        if certificate is None and key is None:
            return None
        if certificate is None or key is None:
            raise AlertingError("TLS needs both a certificate and a key: give both files, or neither")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise AlertingError(
                f"{certificate} and {key} cannot be used for TLS: expected a PEM certificate and its key"
            ) from error
        return context


def _quiet_logger() -> logging.Logger:
    """The logger of aiohttp's protocol: what strangers send that is no HTTP is not repeated there, for a line that is
    too long may be one with a token.
    """
    found = logging.getLogger("driftline.alerting.api.protocol")
    if not found.filters:
        found.addFilter(_unless_malformed)
    return found


def _unless_malformed(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info = None
        record.msg = "from %s came what is no HTTP: " + type(error).__name__
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger("driftline.alerting.api").isEnabledFor(logging.DEBUG)
    return True
