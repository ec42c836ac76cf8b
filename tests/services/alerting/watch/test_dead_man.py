"""The address outside, at a real HTTP server."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from services.alerting.metrics import Metrics
from services.alerting.watch.dead_man import DeadMan, may_be_called
from services.broker.ports import free_port


class Outside(ThreadingHTTPServer):
    """Answers ``status`` and remembers the paths."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths: list[str] = []

    def url(self, path: str = "/ping/secret-id") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        outside: Any = self.server
        outside.paths.append(self.path)
        self.send_response(outside.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def outside() -> Iterator[Outside]:
    server = Outside()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


async def test_it_is_called_and_counted(outside: Outside) -> None:
    metrics = Metrics()
    assert await DeadMan(metrics).tell(outside.url())
    assert outside.paths == ["/ping/secret-id"]
    assert b'driftline_alerting_dead_man_total{result="answered"} 1.0' in metrics.text()


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_an_answer_that_is_no_success_is_said_once_without_the_address(
    outside: Outside, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "driftline.alerting")
    outside.status = status
    metrics = Metrics()
    dead_man = DeadMan(metrics)
    assert not await dead_man.tell(outside.url())
    assert not await dead_man.tell(outside.url())
    assert outside.paths == ["/ping/secret-id"] * 2, "a redirect is not followed"
    assert len(caplog.records) == 1
    assert "secret-id" not in caplog.text
    outside.status = 200
    assert await dead_man.tell(outside.url())
    assert "reached again" in caplog.text
    assert b'driftline_alerting_dead_man_total{result="failed"} 2.0' in metrics.text()


async def test_an_address_where_nobody_listens_is_no_end_of_the_service() -> None:
    assert not await DeadMan(Metrics()).tell(f"http://127.0.0.1:{free_port('127.0.0.1')}/x")


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://hc.example.org/ping/x", True),
        ("http://127.0.0.1:9/x", True),
        ("http://localhost/x", True),
        ("http://[::1]/x", True),
        ("http://hc.example.org/ping/x", False),
        ("http://127.0.0.1.example.org/x", False),
        ("http://localhost@example.org/x", False),
        ("file:///etc/passwd", False),
        ("gopher://localhost/", False),
        ("https://[broken", False),
        ("", False),
    ],
)
def test_only_https_or_this_machine_may_be_called(url: str, fine: bool) -> None:
    assert may_be_called(url) is fine


async def test_what_may_not_be_called_is_not_called() -> None:
    assert not await DeadMan(Metrics()).tell("http://192.0.2.1/secret")
