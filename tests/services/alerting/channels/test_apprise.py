"""The optional way through apprise, against a real server of its plainest kind."""

import dataclasses
import importlib
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from services.alerting.channels.apprise_channel import AppriseChannel
from services.alerting.channels.base import Again, Sent
from services.alerting.errors import AlertingSettingsError
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import AppriseReceiver, Pace
from services.alerting.words.incident import describe

SECRET = "a-token-in-the-address"


class Server:
    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.delay_seconds = 0.0
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        import asyncio

        self.bodies.append(await request.json())
        await asyncio.sleep(self.delay_seconds)
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})


@pytest.fixture
async def server() -> Any:
    server = Server()
    app = web.Application()
    app.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"json://127.0.0.1:{runner.addresses[0][1]}/{SECRET}"
    yield server
    await runner.cleanup()


def channel(url: str, timeout_seconds: float = 5.0) -> AppriseChannel:
    return AppriseChannel(
        AppriseReceiver(name="any", pace=Pace(1000.0, 1000), timeout_seconds=timeout_seconds, url=SecretStr(url))
    )


@pytest.fixture
def incident(make_incident: Any, make_signal: Any, make_alert: Any) -> Any:
    return make_incident(make_signal(1, make_alert(1)))


@pytest.mark.parametrize("kind", list(Kind))
async def test_every_kind_arrives(server: Server, incident: Any, make_delivery: Any, at_once: Any, kind: Kind) -> None:
    incidents = () if kind in (Kind.HEARTBEAT, Kind.TEST) else (incident,)
    assert await channel(server.url).send(make_delivery(kind, *incidents), at_once) == Sent()
    (body,) = server.bodies
    assert body["title"] and body["message"]
    if incidents:
        assert "temperature" in body["message"]
        assert body["type"] == "failure"


async def test_an_end_is_a_success(server: Server, incident: Any, make_delivery: Any, at_once: Any) -> None:
    over = dataclasses.replace(incident, status="resolved")
    await channel(server.url).send(make_delivery(Kind.RESOLVE, over), at_once)
    assert server.bodies[0]["type"] == "success"


async def test_a_failure_is_tried_again_and_shows_no_address(
    server: Server, incident: Any, make_delivery: Any, at_once: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    server.statuses = [500, 302]
    way = channel(server.url)
    for _ in range(2):
        outcome = await way.send(make_delivery(Kind.TRIGGER, incident), at_once)
        assert isinstance(outcome, Again)
        assert SECRET not in outcome.error + repr(way) + caplog.text
    assert len(server.bodies) == 2


async def test_no_answer_is_doubtful_and_nothing_is_sent_beside_it(
    server: Server, incident: Any, make_delivery: Any, at_once: Any
) -> None:
    server.delay_seconds = 4.0
    way = channel(server.url, timeout_seconds=1.0)
    first = await way.send(make_delivery(Kind.TRIGGER, incident), at_once)
    assert isinstance(first, Again) and first.doubtful
    second = await way.send(make_delivery(Kind.TRIGGER, incident), at_once)
    assert isinstance(second, Again) and not second.doubtful
    assert len(server.bodies) == 1


@pytest.mark.parametrize(("most", "title"), [(160, 0), (1000, 0), (2000, 50), (32768, 250)])
def test_a_message_is_as_long_as_the_service_takes(incident: Any, make_delivery: Any, most: int, title: int) -> None:
    way = channel("json://127.0.0.1:9/x")
    way._service.body_maxlen, way._service.title_maxlen = most, title
    heading, body = way.message(describe(make_delivery(Kind.TRIGGER, incident)))
    assert len(heading) <= title
    assert len(heading) + len(body) <= most
    assert "Data drift" in heading + body


def test_a_missing_package_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(AlertingSettingsError, match=r"driftline-platform\[apprise\]"):
        channel("json://127.0.0.1:9/x")


def test_an_address_that_apprise_does_not_know_is_refused_without_showing_it() -> None:
    with pytest.raises(AlertingSettingsError, match="does not know") as raised:
        channel(f"nonsense://{SECRET}")
    assert SECRET not in str(raised.value)
