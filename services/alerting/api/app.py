"""The HTTP interface as an aiohttp application.

A request passes, in this order: the rate of its address; its path; its token and the token's rate; the permission; the
size, time and form of its body; its models. Only then does the endpoint see it. Whatever is refused on the way is
answered as problem details, and refusals of people are told to the audit, sparingly.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from aiohttp import web
from pydantic import BaseModel

from services.access.roles import Permission
from services.access.tokens import Identity
from services.alerting.api.bodies import check_text, parse_json, read_body, validated
from services.alerting.api.connections import Activity
from services.alerting.api.endpoints import PARAMETERS, Access, Call, Endpoint
from services.alerting.api.limits import Buckets, Sparingly
from services.alerting.api.openapi import REQUEST_ID
from services.alerting.api.problems import TITLES, ProblemError, harmless
from services.alerting.api.repeats import Repeats, Reply
from services.alerting.api.services import ApiServices
from services.alerting.api.table import ENDPOINTS
from services.alerting.errors import DatabaseError
from services.alerting.incidents.actions import ActionRefusedError
from services.alerting.notify.publishing import publish
from services.alerting.records import audit_event

log = logging.getLogger("driftline.alerting.api")

_THREADS = 4
_DENIALS_EVERY_SECONDS = 60.0
_NO_ENDPOINT = "(none)"

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "driftline",
}
"""Of every answer; no CORS header is among them, so no page of another origin reads anything."""

ACTIVITY = web.AppKey("activity", Activity)
"""What the server asks which connections are quiet."""

_Served = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(services: ApiServices, endpoints: tuple[Endpoint, ...] = ENDPOINTS) -> web.Application:
    """The application.

    Args:
        services: What requests reach.
        endpoints: The table.
    """
    gate = _Gate(services)
    app = web.Application(middlewares=[gate.middleware], client_max_size=services.limits.hook_bytes)
    app[ACTIVITY] = gate.activity
    for endpoint in endpoints:
        app.router.add_route(endpoint.method, endpoint.path, gate.serve(endpoint))
    app.on_cleanup.append(gate.close)
    return app


class _Gate:
    """What stands between a request and an endpoint."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services
        limits = services.limits
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="api")
        self._by_address = Buckets(limits.address_per_second, limits.address_burst)
        self._by_token = Buckets(limits.per_second, limits.burst)
        self._by_denial = Buckets(limits.denials_per_minute / 60, limits.denials_burst)
        self._repeats = Repeats()
        self.activity = Activity()
        self._told = Sparingly(_DENIALS_EVERY_SECONDS)

    async def close(self, _: web.Application) -> None:
        """Let what is under way end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Served) -> web.StreamResponse:
        """Around everything: limits, errors, headers, metrics."""
        with self.activity.request(request.transport):
            return await self._answered(request, handler)

    async def _answered(self, request: web.Request, handler: _Served) -> web.StreamResponse:
        began = time.monotonic()
        given = request.headers.get("X-Request-Id", "")
        shown = given if re.fullmatch(REQUEST_ID, given) else str(uuid.uuid4())
        try:
            self._slow_down(self._by_address, _address(request), "address")
            response = await handler(request)
        except ProblemError as problem:
            response = problem.response(request.path)
        except web.HTTPException as error:
            response = _of_http(error, request).response(request.path)
        except ActionRefusedError as error:
            response = _refused(error).response(request.path)
        except (sa.exc.SQLAlchemyError, DatabaseError) as error:
            # Its text may quote what was to be written; the log of the service says what the database said.
            log.error("%s %s: the database failed: %s", request.method, request.path, type(error).__name__)
            response = ProblemError(
                "unavailable",
                "the service's database does not answer",
                do="Try again in a moment; /healthz says more.",
                headers={"Retry-After": "5"},
            ).response(request.path)
        except Exception:
            log.exception("%s %s failed (request %s)", request.method, request.path, shown)
            response = ProblemError(
                "internal", "the service failed at this", do=f"Its log says more: look for request {shown}."
            ).response(request.path)
        for name, content in HEADERS.items():
            response.headers.setdefault(name, content)
        if request.secure:
            response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
        response.headers["X-Request-Id"] = shown
        info = request.match_info.route.resource
        endpoint = info.canonical if info is not None else _NO_ENDPOINT
        method = request.method if request.method in ("GET", "HEAD", "POST") else "(other)"
        self._services.metrics.request(method, endpoint, response.status, time.monotonic() - began)
        return response

    def serve(self, endpoint: Endpoint) -> _Served:
        """An endpoint behind its rule."""

        async def served(request: web.Request) -> web.StreamResponse:
            call = await self._admitted(endpoint, request)
            try:
                if not (endpoint.acts and call.request_id):
                    return await self._done(endpoint, call)
                what = hashlib.sha256(f"{request.path}\0{request.query_string}\0".encode() + call.raw).digest()
                reply = await self._repeats.once(
                    call.who.name, call.request_id, what, lambda: self._reply(endpoint, call)
                )
                return web.Response(text=reply.text, status=reply.status, content_type="application/json")
            except ProblemError as problem:
                if problem.kind == "signature":
                    await self._deny_unsigned(endpoint, request)
                elif problem.denied:
                    self._services.metrics.denied("deployments")
                    await self._tell(endpoint, request, call.who.name, problem.denied)
                raise

        return served

    async def _reply(self, endpoint: Endpoint, call: Call) -> Reply:
        answer = await endpoint.handler(call)
        assert isinstance(answer, BaseModel)
        return Reply(endpoint.status, answer.model_dump_json())

    async def _done(self, endpoint: Endpoint, call: Call) -> web.StreamResponse:
        answer = await endpoint.handler(call)
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.Response(text=answer.model_dump_json(), status=endpoint.status, content_type="application/json")

    async def _admitted(self, endpoint: Endpoint, request: web.Request) -> Call:
        """The request, once it may be done.

        Raises:
            ProblemError: It may not.
        """
        limits = self._services.limits
        identity = None if endpoint.rule in (Access.OPEN, Access.SIGNATURE) else await self._known(endpoint, request)
        path = _path(endpoint, request)
        query = validated(endpoint.query, _query(request), "query")
        raw, body = b"", None
        if endpoint.raw:
            _check_media(request, endpoint.raw)
            raw = await read_body(request, limits.hook_bytes, limits.body_seconds)
        elif endpoint.body is not None:
            raw = await read_body(request, limits.body_bytes, limits.body_seconds)
            if raw.strip():
                _check_media(request, ("application/json",))
                body = validated(endpoint.body, parse_json(raw, limits.depth), "body")
            else:
                body = validated(endpoint.body, {}, "body")
        return Call(
            services=self._services,
            request=request,
            identity=identity,
            address=_address(request),
            path=path,
            query=query,
            body=body,
            raw=raw,
            request_id=_request_id(request) if endpoint.acts else "",
            executor=self._executor,
        )

    async def _known(self, endpoint: Endpoint, request: web.Request) -> Identity:
        """Who asks, if their role lets them.

        Raises:
            ProblemError: Nobody known, too often, or another role.
        """
        header = request.headers.getall("Authorization", [])
        scheme, _, token = header[0].partition(" ") if len(header) == 1 else ("", "", "")
        presented = token.strip() if scheme.lower() == "bearer" else ""
        identity = self._services.tokens.find(presented, self._services.wall()) if presented else None
        if identity is None:
            await self._deny_stranger(endpoint, request, presented=bool(presented))
        assert identity is not None
        self._slow_down(self._by_token, identity.name, "token")
        if isinstance(endpoint.rule, Permission) and not identity.may(endpoint.rule):
            self._services.metrics.denied("permission")
            await self._tell(endpoint, request, identity.name, f"role {identity.role} has not {endpoint.rule}")
            raise ProblemError(
                "permission",
                f"the role {identity.role} may not do this",
                expected=f"a token whose role has {endpoint.rule}",
                came=f"the token {identity.name} of the role {identity.role}",
                do="Ask an administrator for another role (driftline token create).",
            )
        return identity

    async def _deny_stranger(self, endpoint: Endpoint, request: web.Request, *, presented: bool) -> None:
        self._services.metrics.denied("token" if presented else "no_token")
        if presented:
            self._slow_down(self._by_denial, _address(request), "denials")
            await self._tell(endpoint, request, "", "a token that is not known")
        challenge = 'Bearer realm="driftline"' + (', error="invalid_token"' if presented else "")
        raise ProblemError(
            "token",
            "the token is not known, was revoked or has expired" if presented else "the request has no token",
            expected="Authorization: Bearer TOKEN",
            came="a token that is not known" if presented else "no token",
            do="Make one with driftline token create, or use the one in the connection file.",
            headers={"WWW-Authenticate": challenge},
        )

    async def _deny_unsigned(self, endpoint: Endpoint, request: web.Request) -> None:
        self._services.metrics.denied("signature")
        self._slow_down(self._by_denial, _address(request), "denials")
        await self._tell(endpoint, request, "", "a signature that is missing, wrong or too old")

    def _slow_down(self, buckets: Buckets, caller: str, what: str) -> None:
        wait = buckets.take(caller)
        if wait:
            self._services.metrics.denied(f"rate_{what}")
            raise ProblemError(
                "rate",
                "requests come faster than they are taken",
                do=f"Ask again in {wait:.1f} s.",
                headers={"Retry-After": str(int(wait) + 1)},
            )

    async def _tell(self, endpoint: Endpoint, request: web.Request, name: str, why: str) -> None:
        """Tell the audit of a refusal, once a minute for each who, where and why."""
        address = _address(request)
        who = name or address
        quiet = self._told.ask((who, endpoint.method, endpoint.path, why))
        if quiet is None:
            return
        services = self._services
        now_ms = services.now_ms()
        event = audit_event(
            services.topics.audit,
            action="access.denied",
            subject=f"endpoint:{endpoint.method} {endpoint.path}",
            identity=(who, endpoint.method, endpoint.path, why, now_ms, uuid.uuid4().hex),
            time_ms=now_ms,
            reason=why,
            actor=name or "unknown",
            actor_kind="human",
            detail={
                "address": address,
                "target": harmless(request.path, 200),
                "rule": str(endpoint.rule),
                "more_since_the_last": quiet,
            },
        )

        def write() -> None:
            with services.database.transaction() as connection:
                publish(connection, [event])

        await asyncio.get_running_loop().run_in_executor(self._executor, write)
        services.acted()


def _address(request: web.Request) -> str:
    """Of the connection; a header that says otherwise could be anybody's."""
    return request.remote or "unknown"


def _path(endpoint: Endpoint, request: web.Request) -> dict[str, str]:
    found = {}
    for name in endpoint.parameters:
        value = request.match_info[name]
        pattern, words, do = PARAMETERS[name]
        if not re.fullmatch(pattern, value):
            raise ProblemError("not-found", f"the {name} in the path is none", expected=words, came=value, do=do)
        check_text(value)
        found[name] = value
    return found


def _query(request: web.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name in found:
            raise ProblemError("invalid", "the query names a field twice", expected="each field once", came=name)
        check_text(name)
        check_text(value)
        found[name] = value
    return found


def _check_media(request: web.Request, expected: tuple[str, ...]) -> None:
    if request.content_type not in expected:
        raise ProblemError(
            "media-type",
            "the body is of another kind",
            expected="Content-Type: " + " or ".join(expected),
            came=request.headers.get("Content-Type", "none"),
        )


def _request_id(request: web.Request) -> str:
    given = request.headers.get("X-Request-Id", "")
    if given and not re.fullmatch(REQUEST_ID, given):
        raise ProblemError(
            "invalid",
            "X-Request-Id cannot be used",
            expected="1 to 128 letters, digits and . _ : -",
            came=given,
            do="Take a new UUID for each action, and the same one for its repeats.",
        )
    return given


def _refused(error: ActionRefusedError) -> ProblemError:
    kinds = {400: "invalid", 404: "not-found", 403: "permission", 422: "invalid"}
    return ProblemError(kinds.get(error.status, "refused"), str(error), status=error.status)


def _of_http(error: web.HTTPException, request: web.Request) -> ProblemError:
    """An error of aiohttp's own as ours."""
    if error.status == 404:
        return ProblemError("not-found", "there is no such path", came=request.path, do="See /api/v1/openapi.json.")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return ProblemError(
            "method",
            "the path is there, the method is not",
            expected=allowed,
            came=request.method,
            headers={"Allow": allowed},
        )
    kind = next((name for name, (status, _) in TITLES.items() if status == error.status), "other")
    return ProblemError(kind, error.reason or "the request is wrong", status=error.status)
