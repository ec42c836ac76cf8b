"""Keeps outgoing webhooks from being sent where they must not go: into this installation's own network.

Whoever may name an address for a webhook could otherwise make this service ask machines that only it can reach
(server-side request forgery). In this order:

1. The address is looked at: https, a port that web servers use, no machine that is named by a forbidden number.
2. Its name is resolved once. Every address that comes is checked, also the IPv4 address hidden in an IPv6 one (mapped,
   compatible, 6to4, NAT64, Teredo, ISATAP); if one of them is forbidden, none is used.
3. The connection goes to those very addresses; the name is for TLS and for the Host header only. A name that answers
   otherwise the second time changes nothing, for there is no second time.
4. Before anything is sent, the other end of the connection is checked again.

Redirects are not followed and no proxy is asked: either could undo all that. Networks that the routing file allows are
reachable whatever they are, also by plain HTTP and on any port: receivers on one's own premises.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from services.alerting.errors import AlertingSettingsError

PORTS = frozenset({443, 8443})
"""Of public receivers."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Public by their numbers and yet no place on the internet.
_FORBIDDEN = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # the "wire server" of Azure's virtual machines
            "192.88.99.0/24",  # relays of 6to4
            "64:ff9b:1::/48",  # NAT64 of one's own (RFC 8215): where in it the IPv4 address is, only its owner knows
            "fec0::/10",  # site-local
            "3fff::/20",  # documentation
        ),
    )
)
_COMPATIBLE = ipaddress.ip_network("::/96")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


class ForbiddenAddressError(Exception):
    """A webhook would go where it must not; the message says why without quoting the webhook's address."""


class Guard:
    """Says where webhooks of one receiver may go.

    Args:
        allow: Networks that it may reach beyond the public ones, such as ``10.20.0.0/16``.

    Raises:
        AlertingSettingsError: One of them is no network.
    """

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._allow: tuple[Network, ...] = tuple(map(_network, allow))

    def check_url(self, url: str) -> None:
        """Look at an address before anything is resolved.

        Raises:
            ForbiddenAddressError: It is none for a webhook.
        """
        try:
            parsed = yarl.URL(url)
            host, port = parsed.raw_host, parsed.port
        except ValueError:
            raise ForbiddenAddressError("its URL cannot be read") from None
        if parsed.scheme not in ("http", "https") or not host or port is None:
            raise ForbiddenAddressError("its URL must begin with https:// and a host's name")
        if (number := _number(host)) is not None:
            self.check(number, parsed.scheme, port)

    def check(self, address: Address, scheme: str, port: int) -> None:
        """Whether a request may go to an address.

        Raises:
            ForbiddenAddressError: It may not.
        """
        plain = _unmapped(address)
        if any(plain in network for network in self._allow):
            return
        if not all(_is_public(part) for part in (plain, *embedded(plain))):
            raise ForbiddenAddressError(
                "its address is not a public one; a receiver on your own premises is listed under `allow`"
            )
        if scheme != "https" or port not in PORTS:
            ports = " or ".join(map(str, sorted(PORTS)))
            raise ForbiddenAddressError(
                f"it goes by {scheme} to port {port}; beyond `allow`, webhooks go by https to port {ports} only"
            )


def embedded(address: Address) -> tuple[Address, ...]:
    """The IPv4 addresses hidden in an IPv6 address, where what is sent to it would come out."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    last = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    found: list[Address] = []
    if address in _NAT64 or address in _COMPATIBLE:
        found.append(last)
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found += address.teredo
    if int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        found.append(last)
    return tuple(found)


def _unmapped(address: Address) -> Address:
    """``::ffff:10.0.0.1`` is 10.0.0.1 by another name, to every system."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_public(address: Address) -> bool:
    # is_global alone is not enough: Python calls multicast, 6to4, NAT64, site-local and some reserved addresses global.
    # NAT64 and compatible addresses are "reserved" by Python's table and judged by what is in them.
    translated = address in _NAT64
    return (
        address.is_global
        and not address.is_multicast
        and (translated or not address.is_reserved)
        and not any(address in network for network in _FORBIDDEN)
    )


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise AlertingSettingsError(f"`allow` takes networks such as 10.20.0.0/16, and {text!r} is none") from None


def _number(host: str) -> Address | None:
    """The host if it is an address and no name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class _GuardedResolver(AbstractResolver):
    """The system's resolver, asked once; refuses a name if one of its addresses is forbidden."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See the base class.

        Raises:
            OSError: The name has no address.
            ForbiddenAddressError: One of them is forbidden.
        """
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
        )
        results: list[ResolveResult] = []
        for kind, _, proto, _, place in found:
            number = ipaddress.ip_address(str(place[0]).partition("%")[0])
            # Of the request's scheme the resolver knows nothing: it is checked with the peer, before sending.
            self._guard.check(number, "https", port)
            results.append(
                {
                    "hostname": host,
                    "host": str(number),
                    "port": port,
                    "family": kind,
                    "proto": proto,
                    "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                }
            )
        return results

    async def close(self) -> None:
        """It holds nothing."""


class GuardedConnector(aiohttp.TCPConnector):
    """Connects only where a guard lets it. A connection is used once: one that rests may be closed by the other side
    just when the next message goes out, and nobody would know whether it arrived.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__(resolver=_GuardedResolver(guard), use_dns_cache=False, force_close=True)
        self._guard = guard

    async def connect(self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout) -> Any:
        """See the base class.

        Raises:
            ForbiddenAddressError: The request must not go there.
        """
        self._guard.check_url(str(req.url))
        if req.proxy is not None:
            raise ForbiddenAddressError("a proxy is not used for webhooks")
        connection = await super().connect(req, traces, timeout)
        try:
            peer = connection.transport.get_extra_info("peername") if connection.transport is not None else None
            if peer is None:
                raise aiohttp.ServerDisconnectedError
            number = ipaddress.ip_address(str(peer[0]).partition("%")[0])
            self._guard.check(number, req.url.scheme, int(peer[1]))
        except BaseException:
            connection.close()
            raise
        return connection
