"""``/healthz`` and ``/metrics`` on the loopback interface."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from services.alerting.errors import AlertingError
from services.alerting.metrics import Metrics
from services.alerting.notify.outbox import Outbox
from services.alerting.store import Store

HOST = "127.0.0.1"


class HealthServer:
    """The service's small web endpoint.

    Args:
        port: To listen on.
        trouble: What is wrong, in words; empty when all is well.
        metrics: What ``/metrics`` shows.
        store: Of incidents, for the gauges.
        outbox: Of messages, for the gauges.
    """

    def __init__(self, port: int, trouble: Callable[[], str], metrics: Metrics, store: Store, outbox: Outbox) -> None:
        self._port = port
        self._trouble = trouble
        self._metrics = metrics
        self._store = store
        self._outbox = outbox
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            AlertingError: The port cannot be had.
        """
        app = web.Application()
        app.add_routes([web.get("/healthz", self._healthz), web.get("/metrics", self._show_metrics)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, self._port).start()
        except OSError as error:
            await self.stop()
            raise AlertingError(
                f"port {self._port} on {HOST} cannot be used: {error.strerror}. Choose another with --port, or 0 for "
                "none."
            ) from error

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        trouble = self._trouble()
        return web.json_response({"ok": not trouble, "trouble": trouble}, status=503 if trouble else 200)

    async def _show_metrics(self, _: web.Request) -> web.Response:
        await asyncio.to_thread(self._read_state)
        return web.Response(
            body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    def _read_state(self) -> None:
        self._metrics.state(self._outbox.backlog(), self._store.firing(), self._outbox.unpublished())
