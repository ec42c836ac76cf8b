"""Webhooks go to public addresses only, unless a network is allowed by name."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from services.alerting.channels import guard as guard_module
from services.alerting.channels.base import http_session
from services.alerting.channels.guard import ForbiddenAddressError, Guard, GuardedConnector, embedded
from services.alerting.errors import AlertingSettingsError
from services.demo.mailbox import certificates

PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
]
FORBIDDEN = [
    *PRIVATE,
    "240.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
    "192.0.2.1",
    "168.63.129.16",
    "192.88.99.1",
    "::1",
    "::",
    "fe80::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "3fff::1",
    "64:ff9b:1::a9fe:a9fe",
]
PUBLIC = ["93.184.215.14", "8.8.8.8", "2606:4700::6810:84e5", "2a00:1450:4001:80b::200e"]


def check(address: str, *allow: str, scheme: str = "https", port: int = 443) -> None:
    Guard(allow).check(ipaddress.ip_address(address), scheme, port)


def refused(address: str, *allow: str, **how: Any) -> bool:
    try:
        check(address, *allow, **how)
    except ForbiddenAddressError:
        return True
    return False


@pytest.mark.parametrize("address", FORBIDDEN)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert refused(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_not(address: str) -> None:
    check(address)


def _in_ipv6(inner: ipaddress.IPv4Address) -> list[str]:
    """Every way to write an IPv4 address into an IPv6 one."""
    number = int(inner)
    high, low = number >> 16, number & 0xFFFF
    teredo_client = number ^ 0xFFFFFFFF
    return [
        f"::ffff:{inner}",
        f"::{high:x}:{low:x}",
        f"64:ff9b::{inner}",
        f"2002:{high:x}:{low:x}::1",
        f"2001:0:808:808::{teredo_client >> 16:x}:{teredo_client & 0xFFFF:x}",
        f"2001:0:{high:x}:{low:x}::f7f7:f7f7",
        f"2a00:1450::5efe:{high:x}:{low:x}",
        f"2a00:1450::200:5efe:{high:x}:{low:x}",
    ]


@pytest.mark.parametrize("inner", PRIVATE)
def test_a_private_address_hidden_in_an_ipv6_address_is_found(inner: str) -> None:
    for outer in _in_ipv6(ipaddress.IPv4Address(inner)):
        assert refused(outer), outer


@given(inner=st.ip_addresses(v=4))
def test_what_is_refused_by_itself_is_refused_in_any_disguise(inner: ipaddress.IPv4Address) -> None:
    if refused(str(inner)):
        for outer in _in_ipv6(inner):
            assert refused(outer), outer


@given(address=st.ip_addresses(v=6))
def test_embedded_addresses_are_read_from_any_address(address: ipaddress.IPv6Address) -> None:
    assert all(isinstance(found, ipaddress.IPv4Address) for found in embedded(address))


def test_what_is_allowed_is_reached_by_any_scheme_and_port() -> None:
    check("10.20.3.4", "10.20.0.0/16", scheme="http", port=9000)
    check("::ffff:10.20.3.4", "10.20.0.0/16", scheme="http", port=9000)
    check("fd12::1", "fd12::/16", scheme="http", port=80)
    assert refused("10.21.3.4", "10.20.0.0/16")
    assert refused("127.0.0.1", "10.20.0.0/16")
    check("127.0.0.1", "127.0.0.0/8", scheme="http", port=8000)
    check("127.0.0.1", "127.0.0.1", scheme="http", port=8000)


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("http", 443), ("https", 22), ("https", 6379)])
def test_public_receivers_are_reached_by_https_on_its_ports_only(scheme: str, port: int) -> None:
    assert refused("8.8.8.8", scheme=scheme, port=port)
    check("8.8.8.8", "8.8.8.8/32", scheme=scheme, port=port)


def test_a_network_that_is_none_is_refused_with_what_was_expected() -> None:
    with pytest.raises(AlertingSettingsError, match=r"10\.20\.0\.0/16"):
        Guard(["example.org"])


@pytest.mark.parametrize(
    "url", ["ftp://8.8.8.8/x", "https://", "file:///etc/passwd", "https://[::1", "nonsense", "https://127.0.0.1/x"]
)
def test_urls_that_no_webhook_has_are_refused_before_anything_is_resolved(url: str) -> None:
    with pytest.raises(ForbiddenAddressError):
        Guard().check_url(url)


# With a real server


class Server:
    """Counts the connections it gets and the requests."""

    def __init__(self) -> None:
        self.requests = 0
        self.hosts: list[str] = []
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        self.hosts.append(request.headers["Host"])
        return web.Response(text="secrets of the inner network")


@pytest.fixture
async def server() -> Any:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes names resolve as told, one answer after the other; returns the names asked for."""
    asked: list[str] = []

    def tell(*replies: list[str]) -> list[str]:
        left = list(replies)

        async def getaddrinfo(host: str, port: int, **_: Any) -> Any:
            asked.append(host)
            found = left.pop(0) if len(left) > 1 else left[0]
            kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in found]
            places = [(a, port, 0, 0) if ":" in a else (a, port) for a in found]
            return [(kind, socket.SOCK_STREAM, 6, "", place) for kind, place in zip(kinds, places, strict=True)]

        class Loop:
            def __getattr__(self, name: str) -> Any:
                return getaddrinfo if name == "getaddrinfo" else getattr(asyncio.get_running_loop(), name)

        class Asyncio:
            @staticmethod
            def get_running_loop() -> Any:
                return Loop()

        monkeypatch.setattr(guard_module, "asyncio", Asyncio)
        return asked

    return tell


async def post(url: str, *allow: str) -> int:
    async with http_session(3.0, GuardedConnector(Guard(allow))) as session, session.post(url, data=b"x") as response:
        return response.status


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]"])
async def test_this_machine_is_not_reached_unless_it_is_allowed(server: Server, host: str) -> None:
    with pytest.raises(ForbiddenAddressError):
        await post(f"http://{host}:{server.port}/")
    assert server.requests == 0


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.1.", "①②⑦.⓪.⓪.①"])
async def test_this_machine_is_not_reached_by_another_spelling(server: Server, host: str) -> None:
    with pytest.raises((ForbiddenAddressError, aiohttp.ClientError, ValueError)):
        await post(f"http://{host}:{server.port}/")
    assert server.requests == 0


async def test_what_is_allowed_is_reached_under_its_name(server: Server, answers: Any) -> None:
    asked = answers(["127.0.0.1"])
    assert await post(f"http://hook.example.org:{server.port}/", "127.0.0.0/8") == 200
    assert asked == ["hook.example.org"]
    assert server.hosts == [f"hook.example.org:{server.port}"]


async def test_one_forbidden_address_among_others_refuses_the_name(server: Server, answers: Any) -> None:
    answers(["127.0.0.1", "10.0.0.1"])
    with pytest.raises(ForbiddenAddressError):
        await post(f"http://hook.example.org:{server.port}/", "127.0.0.0/8")
    assert server.requests == 0


async def test_a_name_is_resolved_once_so_that_a_second_answer_changes_nothing(server: Server, answers: Any) -> None:
    asked = answers(["127.0.0.2"], ["127.0.0.1"])
    with pytest.raises(aiohttp.ClientConnectorError):
        # Nothing listens at the first answer; the second, where something does, is never asked for.
        await post(f"http://hook.example.org:{server.port}/", "127.0.0.2/32")
    assert asked == ["hook.example.org"]
    assert server.requests == 0


async def test_the_other_end_is_checked_before_anything_is_sent(
    server: Server, answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver that lies to the guard: the connection stands, and nothing goes over it."""

    async def lies(self: Any, host: str, port: int = 0, family: Any = None) -> Any:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 6, "flags": 0}]

    monkeypatch.setattr(guard_module._GuardedResolver, "resolve", lies)
    with pytest.raises(ForbiddenAddressError):
        await post(f"http://hook.example.org:{server.port}/")
    assert server.requests == 0


async def test_no_proxy_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ForbiddenAddressError):
        await post("http://10.9.8.7/")
    assert server.requests == 0


async def test_tls_asks_for_the_name_and_does_not_trust_just_anybody(answers: Any, tmp_path: Path) -> None:
    context, _ = certificates(tmp_path, "hook.example.org")
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    served: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    answers(["127.0.0.1"])
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await post(f"https://hook.example.org:{port}/", "127.0.0.0/8")
    server.close()
    assert asked == ["hook.example.org"]
    assert served in ([], [b""])
