"""What stands before every endpoint: tokens, limits, forms of bodies, headers, and how refusals read."""

import asyncio
import contextlib
import datetime as dt
import json
import socket
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.access.tokens import revoke_token
from services.alerting.api.bodies import _depth, parse_json
from services.alerting.api.connections import Activity
from services.alerting.api.limits import Buckets, Sparingly
from services.alerting.api.problems import TITLES, ProblemError
from services.alerting.api.repeats import Repeats, Reply
from services.alerting.api.services import Limits
from services.alerting.api.table import ENDPOINTS

HOSTILE = (
    "<!channel>",
    "@here",
    "<script>alert(1)</script>",
    "=cmd()",
    "a\r\nSet-Cookie: x=1",
    "\u202egnp.exe",
    "x" * 5_000,
    "'; DROP TABLE incidents; --",
    "%' OR 1=1",
    "../../etc/passwd",
    "\ufeff\u200b",
    "𝕏" * 300,
)


def test_a_token_is_needed_and_none_is_guessed(api: Any) -> None:
    for token, error in ((None, "no token"), ("driftline_wrong", "not known")):
        answer = api.get("incidents", token=token)
        assert answer.status == 401 and answer.headers["Content-Type"] == "application/problem+json"
        assert error in answer.json["detail"] and "driftline_wrong" not in answer.body.decode()
        assert answer.json["do"] and answer.json["expected"] == "Authorization: Bearer TOKEN"


@pytest.mark.parametrize("scheme", ["", "Basic", "Token", "bearerx"])
def test_only_bearer_tokens_count(api: Any, scheme: str) -> None:
    good = api.token("operator")
    assert api.get("whoami", token=None, headers={"Authorization": f"{scheme} {good}".strip()}).status == 401
    assert api.get("whoami", token=None, headers={"Authorization": f"bearer {good}"}).status == 200
    assert api.get("whoami?token=" + good, token=None).status == 401


def test_a_revoked_token_is_refused_by_the_running_service(api: Any) -> None:
    token = api.token("viewer")
    assert api.get("whoami", token=token).status == 200
    revoke_token(api.tokens_file, "viewer-person")
    assert api.get("whoami", token=token).status == 401


def test_an_expired_token_is_refused(api: Any) -> None:
    from services.access.roles import Role
    from services.access.tokens import create_token

    token = create_token(
        api.tokens_file, "short", Role.VIEWER, now=api.wall, expires=api.wall + dt.timedelta(minutes=1)
    )
    assert api.get("whoami", token=token).status == 200
    api.wall += dt.timedelta(minutes=2)
    assert api.get("whoami", token=token).status == 401


def test_who_one_is(api: Any) -> None:
    assert api.get("whoami", token="viewer").json == {
        "name": "viewer-person",
        "role": "viewer",
        "permissions": ["incidents:read", "routes:read"],
        "deployments": None,
    }
    limited = api.get("whoami", token=api.token("owner", "credit-*")).json
    assert limited["deployments"] == ["credit-*"] and limited["role"] == "owner"


def test_refusals_are_in_the_audit_once_a_minute(api: Any) -> None:
    for _ in range(5):
        assert api.post("reload", token="operator").status == 403
    (event,) = api.audit("access.denied")
    assert event["actor"] == "operator-person" and event["actor_kind"] == "human"
    assert event["subject"] == "endpoint:POST /api/v1/reload"
    assert event["detail"]["rule"] == "configuration:write" and event["detail"]["address"] == "127.0.0.1"
    assert api.get("incidents", token="driftline_guess").status == 401
    unknown = api.audit("access.denied")[1]
    assert unknown["actor"] == "unknown" and "driftline_guess" not in json.dumps(unknown, default=str)
    assert api.acted == 2
    assert api.reloaded == []


def test_somebody_without_a_token_fills_no_audit(api: Any) -> None:
    for _ in range(3):
        assert api.get("incidents", token=None).status == 401
    assert api.audit("access.denied") == []


def test_every_answer_has_the_headers_that_keep_browsers_in_check(api: Any) -> None:
    answers = [
        api.ask("GET", "/healthz", token=None),
        api.get("incidents"),
        api.get("incidents", token=None),
        api.ask("GET", "/nowhere", token=None),
        api.ask("POST", "/healthz", raw=b"", token=None),
        api.ask("OPTIONS", "/api/v1/incidents", headers={"Origin": "https://evil.example.org"}),
    ]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert answer.headers["Server"] == "driftline"
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_unknown_paths_and_methods_are_problems(api: Any) -> None:
    nowhere = api.ask("GET", "/api/v1/nothing")
    assert nowhere.status == 404 and nowhere.json["type"] == "urn:driftline:problem:not-found"
    method = api.ask("POST", "/api/v1/whoami", {})
    assert method.status == 405 and "GET" in method.headers["Allow"] and "GET" in method.json["expected"]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_came_is_shown_short_and_harmless(api: Any, hostile: str) -> None:
    answer = api.get("incidents", severity=hostile)
    assert answer.status == 422
    said = answer.json["came"]
    assert len(said) <= 160
    assert not any(c in said for c in "\r\n\u202e\u200b\ufeff")
    assert "Set-Cookie" not in answer.headers


def test_every_wrong_field_is_told_with_what_there_is(api: Any) -> None:
    answer = api.get("incidents", severity="fatal", limit="0", sevrity="x")
    assert answer.status == 422
    errors = {error["where"]: error for error in answer.json["errors"]}
    assert errors.keys() == {"severity", "limit", "sevrity"}
    assert "critical" in errors["severity"]["expected"] and errors["severity"]["came"] == "fatal"
    assert "deployment" in errors["sevrity"]["expected"]
    assert answer.json["do"]


def test_a_query_field_is_given_once(api: Any) -> None:
    assert api.ask("GET", "/api/v1/incidents?limit=1&limit=2").status == 422


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"{", "json"),
        (b"nonsense", "json"),
        (b'{"reason": NaN}', "json"),
        (b'{"reason": "a", "reason": "b"}', "json"),
        (b'{"reason": "\\u0000"}', "json"),
        (b'{"reason": "\\ud800"}', "json"),
        (b'{"reason": "\xff"}', "json"),
        (b"[" * 5000 + b"]" * 5000, "json"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "json"),
        (b'{"reason": ' + b"9" * 10_000 + b"}", "json"),
        (b"[]", "invalid"),
        (b'"text"', "invalid"),
        (b"null", "invalid"),
        (b'{"reason": 1}', "invalid"),
        (b'{"reason": ["a"]}', "invalid"),
        (b'{"reason": ""}', "invalid"),
        (b'{"reason": "   "}', "invalid"),
        (b'{"reason": "' + b"x" * 2001 + b'"}', "invalid"),
        (b'{"reason": "a", "actor": "somebody else"}', "invalid"),
        (b"", "invalid"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused(api: Any, raw: bytes, kind: str) -> None:
    answer = api.post("incidents/0123/note", raw=raw)
    assert answer.json["type"] == f"urn:driftline:problem:{kind}", answer.json
    assert answer.status == TITLES[kind][0]
    assert answer.json["detail"]


def test_bodies_are_limited(api: Any) -> None:
    answer = api.post("incidents/0123/note", raw=b'{"reason": "' + b"x" * (64 << 10) + b'"}')
    assert answer.status == 413 and answer.json["expected"] == "at most 65,536 bytes"
    hook = api.ask("POST", "/hooks/pagerduty/pager", token=None, raw=b"x" * (64 << 10))
    assert hook.status == 401
    assert api.ask("POST", "/hooks/pagerduty/pager", token=None, raw=b"x" * ((512 << 10) + 1)).status == 413


def test_a_body_is_limited_although_it_hides_its_length(api: Any) -> None:
    token = api.token("operator")
    head = (
        "POST /api/v1/incidents/0123/note HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert b" 413 " in speak(
        api.url, head.encode() + b"8000\r\n" + b"x" * 0x8000 + b"\r\n" + b"8001\r\n" + b"x" * 0x8001
    )


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> Limits:
    return getattr(request, "param", None) or Limits(
        per_second=1000, burst=10_000, address_per_second=1000, address_burst=10_000, denials_burst=1000, body_seconds=5
    )


@pytest.mark.parametrize("limits", [Limits(body_seconds=0.3)], indirect=True)
def test_a_body_that_does_not_come_is_not_waited_for(api: Any) -> None:
    token = api.token("operator")
    head = (
        "POST /api/v1/incidents/0123/note HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: 50\r\n\r\n{{"
    )
    assert b" 408 " in speak(api.url, head.encode())


def speak(url: str, sent: bytes) -> bytes:
    """Send bytes as they are; the first bytes of the answer."""
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        return connection.recv(4096)


def test_packed_and_foreign_bodies_are_refused(api: Any) -> None:
    assert api.post("incidents/0123/note", raw=b"x", headers={"Content-Encoding": "gzip"}).status == 415
    answer = api.post("incidents/0123/note", raw=b"reason=x", media="application/x-www-form-urlencoded")
    assert answer.status == 415 and "application/json" in answer.json["expected"]
    # A page of another origin can send this without asking first; it has no token either.
    assert api.post("incidents/0123/note", raw=b'{"reason": "x"}', media="text/plain").status == 415


@pytest.mark.parametrize("limits", [Limits(per_second=0.001, burst=3)], indirect=True)
def test_each_token_has_its_own_rate(api: Any) -> None:
    statuses = [api.get("whoami").status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    answer = api.get("whoami")
    assert int(answer.headers["Retry-After"]) > 0 and "Ask again" in answer.json["do"]
    assert api.get("whoami", token="viewer").status == 200


@pytest.mark.parametrize("limits", [Limits(address_per_second=0.001, address_burst=4)], indirect=True)
def test_each_address_has_its_rate_whoever_asks(api: Any) -> None:
    statuses = [api.ask("GET", "/healthz", token=None).status for _ in range(6)]
    assert statuses == [200] * 4 + [429] * 2


@pytest.mark.parametrize("limits", [Limits(denials_per_minute=0.001, denials_burst=3)], indirect=True)
def test_guessing_tokens_slows_down_and_locks_nobody_out(api: Any) -> None:
    statuses = [api.get("whoami", token=f"driftline_{n}").status for n in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    assert api.get("whoami").status == 200


def test_the_request_id_comes_back_or_is_made(api: Any) -> None:
    assert api.get("whoami", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    assert len(api.get("whoami").headers["X-Request-Id"]) == 36
    answer = api.post("incidents/0123/note", {"reason": "x"}, headers={"X-Request-Id": "a b"})
    assert answer.status == 422 and answer.headers["X-Request-Id"] != "a b"


def test_health_says_what_is_wrong(api: Any) -> None:
    from services.alerting.api.services import Health

    good = api.ask("GET", "/healthz", token=None)
    assert good.status == 200 and good.json == {"ok": True, "ready": True, "trouble": "", "troubles": []}
    api.health = Health(False, ("Kafka has not answered for 40 s",))
    bad = api.ask("GET", "/healthz", token=None)
    assert bad.status == 503 and bad.json["trouble"] == "Kafka has not answered for 40 s"
    assert api.ask("GET", "/readyz", token=None).status == 503
    api.health = Health(True, ("the last reload was refused",))
    assert api.ask("GET", "/readyz", token=None).status == 200


def test_a_tokens_file_that_broke_is_told_by_health(api: Any) -> None:
    api.token("viewer")
    api.get("whoami", token="viewer")
    api.tokens_file.write_text("tokens: 1")
    api.get("whoami", token="viewer")
    assert "tokens file" in api.ask("GET", "/healthz", token=None).json["trouble"]


def test_a_database_that_fails_is_a_503_without_its_words(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlalchemy as sa

    def broken() -> Any:
        raise sa.exc.OperationalError("INSERT INTO secrets", {}, Exception("disk I/O error"))

    monkeypatch.setattr(api.database, "transaction", broken)
    answer = api.get("incidents")
    assert answer.status == 503 and "INSERT" not in answer.body.decode() and answer.headers["Retry-After"]
    assert api.ask("GET", "/metrics", token=None).status == 200


def test_a_fault_inside_is_a_500_that_tells_nothing_but_where_to_look(
    api: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise RuntimeError("secret-canary")

    monkeypatch.setattr(api.database, "transaction", broken)
    answer = api.get("incidents")
    assert answer.status == 500 and "secret-canary" not in answer.body.decode()
    assert answer.headers["X-Request-Id"] in answer.json["do"]
    assert answer.headers["X-Request-Id"] in caplog.text


def test_requests_are_counted_by_endpoint_and_never_by_path(api: Any) -> None:
    for path in ("/api/v1/incidents/0123", "/api/v1/incidents/4567", "/nowhere/1", "/nowhere/2"):
        api.ask("GET", path)
    api.ask("BREW", "/api/v1/incidents")
    counts = api.counts()
    name = "driftline_alerting_http_request_seconds_count"
    assert counts[f'{name}{{endpoint="/api/v1/incidents/{{incident}}",method="GET",status="404"}}'] == 2
    assert counts[f'{name}{{endpoint="(none)",method="GET",status="404"}}'] == 2
    assert not [label for label in counts if "nowhere" in label or "0123" in label or "BREW" in label]


# The pure parts


@given(st.binary(max_size=300))
def test_the_depth_of_anything_is_found(body: bytes) -> None:
    assert _depth(body) >= 0


@given(st.recursive(st.text() | st.integers() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_the_depth_is_that_of_the_document(document: Any) -> None:
    def depth(value: Any) -> int:
        if isinstance(value, dict):
            return 1 + max(map(depth, value.values()), default=0)
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    assert _depth(json.dumps(document).encode()) == depth(document)
    assert _depth(json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")) == depth(document)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_body_is_a_document_or_a_problem(body: bytes) -> None:
    with contextlib.suppress(ProblemError):
        parse_json(body, 8)


def test_what_is_no_http_is_not_repeated_in_the_log(api: Any, caplog: pytest.LogCaptureFixture) -> None:
    secret = "driftline_" + "S" * 9000
    head = f"GET /api/v1/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n\r\n"
    assert b" 400 " in speak(api.url, head.encode())
    assert "SSSS" not in caplog.text


def test_a_body_made_to_be_slow_is_not() -> None:
    began = time.monotonic()
    for body in (b'"' + b'\\"' * 250_000, b'"' * 500_000, b'"\\' * 250_000, b"[" * 500_000):
        _depth(body)
    assert time.monotonic() - began < 5


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3, allow_nan=False)), max_size=60),
    st.integers(1, 5),
)
def test_a_bucket_lets_through_what_it_should(asked: list[tuple[str, float]], burst: int) -> None:
    """Over any span, at most ``burst`` and the refill of the span; and who waits as told is let through."""
    now = [0.0]
    buckets = Buckets(0.5, burst, lambda: now[0])
    passed: dict[str, list[float]] = {"a": [], "b": []}
    for caller, pause in asked:
        now[0] += pause
        wait = buckets.take(caller)
        if wait == 0:
            passed[caller].append(now[0])
            for start in passed[caller]:
                within = [at for at in passed[caller] if at >= start]
                assert len(within) <= burst + 0.5 * (now[0] - start) + 1e-6
        else:
            now[0] += wait + 1e-6
            assert buckets.take(caller) == 0
            passed[caller].append(now[0])


def test_only_so_many_callers_are_remembered() -> None:
    buckets = Buckets(0.001, 1, lambda: 0.0, remembered=10)
    for number in range(1000):
        assert buckets.take(number) == 0
    assert len(buckets._left) == 10
    assert buckets.take(999) > 0


def test_like_events_are_told_sparingly_and_counted() -> None:
    now = [0.0]
    sparingly = Sparingly(60, lambda: now[0], remembered=5)
    assert [sparingly.ask("x") for _ in range(4)] == [0, None, None, None]
    assert sparingly.ask("y") == 0
    now[0] = 60
    assert sparingly.ask("x") == 3
    for number in range(100):
        sparingly.ask(number)
    assert len(sparingly._last) == 5


# Repeats and connections


async def test_a_repeat_waits_for_the_first_answer_and_gets_it() -> None:
    repeats, done = Repeats(), []
    gate = asyncio.Event()

    async def do() -> Reply:
        done.append(1)
        await gate.wait()
        return Reply(200, "first")

    asked = [asyncio.create_task(repeats.once("ada", "1", b"x", do)) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    assert [reply.text for reply in await asyncio.gather(*asked)] == ["first"] * 3
    assert len(done) == 1
    with pytest.raises(ProblemError, match="another request"):
        await repeats.once("ada", "1", b"y", do)
    await repeats.once("eve", "1", b"y", do)
    await repeats.once("ada", "2", b"y", do)
    assert len(done) == 3


async def test_what_failed_may_be_tried_again_under_the_same_name() -> None:
    repeats, done = Repeats(), []

    async def do() -> Reply:
        done.append(1)
        if len(done) == 1:
            raise ProblemError("unavailable", "the database does not answer")
        return Reply(200, "second")

    with pytest.raises(ProblemError):
        await repeats.once("ada", "1", b"x", do)
    assert (await repeats.once("ada", "1", b"x", do)).text == "second"


async def test_answers_are_forgotten_in_time_and_number() -> None:
    now = [0.0]
    repeats, done = Repeats(lambda: now[0], remembered=3), []

    async def do() -> Reply:
        done.append(1)
        return Reply(200, "x")

    for number in range(10):
        await repeats.once("ada", str(number), b"x", do)
    assert len(repeats._known) <= 4
    now[0] = 10_000
    await repeats.once("ada", "9", b"x", do)
    assert len(done) == 11 and len(repeats._known) == 1


def test_one_name_for_two_requests_is_refused(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    headers = {"X-Request-Id": "one"}
    assert api.post(f"incidents/{incident}/note", {"reason": "a"}, headers=headers).status == 200
    assert api.post(f"incidents/{incident}/note", {"reason": "b"}, headers=headers).status == 422
    assert api.post(f"incidents/{incident}/acknowledge", {"reason": "a"}, headers=headers).status == 422
    assert api.get("incidents", status="acknowledged").json["incidents"] == []


def test_a_test_message_that_is_asked_for_twice_is_sent_once(api: Any) -> None:
    for _ in range(2):
        assert api.post("receivers/chat/test", headers={"X-Request-Id": "t"}).status == 202
    assert len(api.get("notifications").json["notifications"]) == 1


def test_what_is_out_of_reach_of_a_token_is_in_the_audit(api: Any, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    other = api.token("owner", "fraud-*")
    assert api.post(f"incidents/{incident}/note", {"reason": "x"}, token=other).status == 404
    assert api.post("incidents/ffffffffffff/note", {"reason": "x"}, token=other).status == 404
    assert (
        api.post("silences", {"match": {"severity": "info"}, "duration": "1h", "reason": "x"}, token=other).status
        == 403
    )
    reasons = [event["reason"] for event in api.audit("access.denied")]
    assert reasons == [
        "an incident of deployments that the token does not see",
        "the token is limited to other deployments",
    ]


@pytest.mark.parametrize("limits", [Limits(quiet_seconds=0.4)], indirect=True)
def test_a_connection_without_a_request_is_closed(api: Any) -> None:
    port = int(api.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def test_a_connection_on_which_something_happens_is_kept() -> None:
    now = [0.0]
    activity = Activity(lambda: now[0])
    idle, used, answering = "idle", "used", "answering"
    every: Any = (idle, used, answering)
    assert activity.quiet(every, 60) == []
    now[0] = 50
    with activity.request(used):
        pass
    with activity.request(answering):
        now[0] = 100
        assert activity.quiet(every, 60) == [idle]
        now[0] = 111
        assert activity.quiet(every, 60) == [idle, used]
    now[0] = 150
    assert activity.quiet((used, answering), 60) == [used]
    assert idle not in activity._last


# Everything at once


@pytest.fixture(scope="module")
def nonsense() -> Any:
    """JSON of any form, with the names of fields among its keys."""
    names = [
        "reason",
        "to",
        "duration",
        "match",
        "starts",
        "ends",
        "labels",
        "incident",
        "ids",
        "receiver",
        "deployment",
    ]
    keys = st.sampled_from(names) | st.text(max_size=10)
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.sampled_from(HOSTILE)
    values = st.recursive(leaf, lambda x: st.lists(x, max_size=3) | st.dictionaries(keys, x, max_size=4), max_leaves=8)
    return st.dictionaries(keys, values, max_size=5)


def test_no_request_of_any_form_breaks_the_service(api: Any, make_alert: Any, nonsense: Any) -> None:
    """Every endpoint with bodies and queries of any form: an answer below 500, as JSON, with its headers."""
    (incident,) = api.take(make_alert())
    values = {"incident": incident, "silence": "0123-4567", "receiver": "chat", "rank": "1"}
    tokens = [api.token("operator"), api.token("admin"), api.token("owner", "credit*")]
    api_endpoints = [e for e in ENDPOINTS if e.path.startswith("/api/")]

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(api_endpoints),
        st.sampled_from(tokens),
        nonsense,
        st.dictionaries(
            st.sampled_from(["status", "limit", "before", "text", "owner", "all", "entries", "x"]),
            st.text(max_size=20) | st.sampled_from(["1", "dead", "open", "true"]),
            max_size=3,
        ),
    )
    def ask(endpoint: Any, token: str, body: Any, query: dict[str, str]) -> None:
        query = {name: value.encode("utf-8", "replace").decode() for name, value in query.items()}
        raw = json.dumps(body).encode() if endpoint.method == "POST" else None
        answer = api.ask(endpoint.method, endpoint.path.format(**values), token=token, raw=raw, **query)
        assert answer.status < 500, (endpoint.path, body, query, answer.body)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert isinstance(answer.json, dict)

    ask()
