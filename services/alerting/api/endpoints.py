"""What an endpoint is: one line of the table from which routing, authorisation and the OpenAPI document are made."""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa
from aiohttp import web
from pydantic import BaseModel

from services.access.roles import Permission
from services.access.tokens import Identity
from services.alerting.api.models import Asked, Nothing
from services.alerting.api.services import ApiServices
from services.alerting.incidents.actions import Actor

CLI_AGENT = "driftline-cli"
"""How the command line calls itself; it only decides whether the story says "cli" or "api"."""

_Result = TypeVar("_Result")


class Access(enum.StrEnum):
    """Rules that are no permission of a role."""

    OPEN = "open"
    """Anybody: it says nothing that is worth hiding and changes nothing."""
    SIGNATURE = "signature"
    """Whoever signed the request: Slack, PagerDuty, or ourselves in the address of a picture."""
    TOKEN = "token"
    """Every known token, whatever its role."""


Rule = Permission | Access

PARAMETERS: Mapping[str, tuple[str, str, str]] = {
    "incident": (
        r"[0-9a-f]{4,12}",
        "An incident's id, or its beginning, of at least four digits.",
        "driftline incidents list, or GET /api/v1/incidents, lists them.",
    ),
    "silence": (
        r"[A-Za-z0-9-]{4,64}",
        "A silence's id, or its beginning, of at least four characters.",
        "driftline silences list, or GET /api/v1/silences, lists them.",
    ),
    "receiver": (
        r"[^/\x00-\x1f\x7f]{1,128}",
        "A receiver's name, as in the routing file.",
        "driftline receivers list, or GET /api/v1/receivers, lists them.",
    ),
    "rank": (r"[1-9][0-9]?", "1 for the first picture.", "Take the address from a message."),
}
"""What stands in braces in paths: its pattern, its words, and where to find one."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was let through: read, checked, and its caller known.

    Attributes:
        services: What it reaches.
        request: As aiohttp has it.
        identity: Whose token; None of endpoints without.
        address: Where it came from.
        path: Parameters of the path, checked by their patterns.
        query: As its model.
        body: As its model; None of endpoints that check a signature.
        raw: Bytes of the body.
        request_id: What the caller calls its request: a repeat with the same id changes nothing; empty for none.
        executor: Where the database is read.
    """

    services: ApiServices
    request: web.Request
    identity: Identity | None
    address: str
    path: Mapping[str, str]
    query: Any
    body: Any
    raw: bytes
    request_id: str
    executor: Executor

    @property
    def who(self) -> Identity:
        """Whose token it is; only of endpoints that need one."""
        assert self.identity is not None
        return self.identity

    def actor(self) -> Actor:
        """Who acts: always by the token, whatever the body says."""
        agent = self.request.headers.get("User-Agent", "")
        via = "cli" if agent.startswith(CLI_AGENT) else "api"
        request = f"{self.who.name}/{self.request_id}" if self.request_id else ""
        return Actor(self.who.name, via, request=request)

    async def thread(self, work: Callable[[], _Result]) -> _Result:
        """Do something that waits for the disk, beside the event loop and beside the senders' threads."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, work)

    async def read(self, query: Callable[[sa.Connection], _Result]) -> _Result:
        """Read the database."""

        def work() -> _Result:
            with self.services.database.transaction() as connection:
                return query(connection)

        return await self.thread(work)


Handler = Callable[[Call], Awaitable[BaseModel | web.Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A line of the table.

    Attributes:
        method: GET or POST.
        path: With parameters of :data:`PARAMETERS` in braces.
        rule: Who may: there is no endpoint without.
        handler: Does it.
        summary: One line.
        answer: Model of the answer, or the media type of one that is no JSON.
        query: Model of the query.
        body: Model of the body; None where there is none, or where ``raw`` says that the handler reads it.
        raw: Media types of a body that is signed; its bytes go to the handler as they came.
        status: Of success.
        acts: It changes something: ``X-Request-Id`` makes a repeat harmless.
    """

    method: str
    path: str
    rule: Rule
    handler: Handler
    summary: str
    answer: type[BaseModel] | str
    query: type[Asked] = Nothing
    body: type[Asked] | None = None
    raw: tuple[str, ...] = ()
    status: int = 200
    acts: bool = False
    parameters: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Permission | Access):
            raise TypeError(f"{self.method} {self.path}: expected a permission or a rule of access, came {self.rule!r}")
        names = tuple(re.findall(r"\{(\w+)\}", self.path))
        if unknown := [name for name in names if name not in PARAMETERS]:
            raise TypeError(f"{self.path}: {unknown[0]!r} is no parameter: expected one of {', '.join(PARAMETERS)}")
        if self.method not in ("GET", "POST") or (self.method == "GET" and (self.body or self.acts)):
            raise TypeError(f"{self.method} {self.path}: expected GET without a body, or POST")
        object.__setattr__(self, "parameters", names)

    @property
    def id(self) -> str:
        """The operation's name in the OpenAPI document."""
        words = re.findall(r"\w+", self.path.removeprefix("/api/v1").replace(".png", "").replace(".json", ""))
        return "_".join([self.method.lower(), *words, *(["page"] if self.answer == "text/html" else [])])
