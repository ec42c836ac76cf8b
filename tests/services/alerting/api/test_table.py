"""The table of endpoints: none without a rule, every role against every one, and the description made of it."""

import json
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from services.access.roles import PERMISSIONS, Permission, Role
from services.alerting.api import models
from services.alerting.api.app import make_app
from services.alerting.api.endpoints import PARAMETERS, Access, Endpoint
from services.alerting.api.openapi import describe, document
from services.alerting.api.table import ENDPOINTS

_ROLES: tuple[str | None, ...] = (None, *(role.value for role in Role))

# The whole of who may do what, written down a second time by hand: a change of the table must be meant twice.
MATRIX: dict[str, str] = {
    # endpoint: viewer, operator, owner, auditor, admin, service
    "GET /api/v1/incidents": "yes yes yes yes no yes",
    "GET /api/v1/incidents/{incident}": "yes yes yes yes no yes",
    "POST /api/v1/incidents/{incident}/acknowledge": "no yes yes no no no",
    "POST /api/v1/incidents/{incident}/unacknowledge": "no yes yes no no no",
    "POST /api/v1/incidents/{incident}/resolve": "no yes yes no no no",
    "POST /api/v1/incidents/{incident}/reopen": "no yes yes no no no",
    "POST /api/v1/incidents/{incident}/note": "no yes yes no no no",
    "POST /api/v1/incidents/{incident}/assign": "no yes yes no no no",
    "POST /api/v1/incidents/{incident}/silence": "no yes yes no no no",
    "GET /api/v1/silences": "yes yes yes yes no yes",
    "POST /api/v1/silences": "no yes yes no no no",
    "GET /api/v1/silences/{silence}": "yes yes yes yes no yes",
    "POST /api/v1/silences/{silence}/end": "no yes yes no no no",
    "GET /api/v1/route": "yes yes yes yes yes no",
    "POST /api/v1/route/explain": "yes yes yes yes yes no",
    "GET /api/v1/notifications": "no yes yes yes yes no",
    "POST /api/v1/notifications/redrive": "no yes no no yes no",
    "GET /api/v1/receivers": "no yes yes yes yes no",
    "POST /api/v1/receivers/{receiver}/test": "no yes no no yes no",
    "POST /api/v1/reload": "no no no no yes no",
    "GET /api/v1/whoami": "yes yes yes yes yes yes",
}
PAGES = {"GET /incidents", "GET /incidents/{incident}", "GET /runbook"}
OPEN = {"GET /api/v1/openapi.json", "GET /healthz", "GET /readyz", "GET /metrics"} | PAGES
SIGNED = {"POST /hooks/slack/{receiver}", "POST /hooks/pagerduty/{receiver}", "GET /plots/{incident}/{rank}.png"}


def name_of(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


def test_the_table_is_the_one_written_down_here() -> None:
    assert {name_of(endpoint) for endpoint in ENDPOINTS} == MATRIX.keys() | OPEN | SIGNED
    assert {name_of(e) for e in ENDPOINTS if e.rule is Access.OPEN} == OPEN
    assert {name_of(e) for e in ENDPOINTS if e.rule is Access.SIGNATURE} == SIGNED


def test_no_path_is_routed_but_by_the_table(api: Any) -> None:
    routed = {
        (route.method, route.resource.canonical)
        for route in make_app(api.services).router.routes()
        if route.resource is not None
    }
    assert routed == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}


def test_an_endpoint_without_a_rule_cannot_be_made() -> None:
    async def handler(_: Any) -> Any:
        return None

    for rule in (None, "", "open", "incidents:read"):
        with pytest.raises(TypeError, match="expected a permission"):
            Endpoint("GET", "/x", rule, handler, "X", models.Nothing)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is no parameter"):
        Endpoint("GET", "/{anything}", Access.OPEN, handler, "X", models.Nothing)
    with pytest.raises(TypeError, match="GET without a body"):
        Endpoint("GET", "/x", Access.OPEN, handler, "X", models.Nothing, body=models.Nothing)
    with pytest.raises(TypeError):
        Endpoint("GET", "/x", handler=handler, summary="X", answer=models.Nothing)  # type: ignore[call-arg]


EXAMPLES = {"incident": "0123456789ab", "silence": "0123-4567", "receiver": "nobody", "rank": "1"}


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
def test_every_role_at_an_endpoint(api: Any, endpoint: Endpoint) -> None:
    """Who is let through gets something else than 401 and 403; nobody else gets past them."""
    name = name_of(endpoint)
    media = endpoint.raw[0] if endpoint.raw else "application/json"
    raw = b"{}" if endpoint.method == "POST" else None
    for role in _ROLES:
        answer = api.ask(endpoint.method, endpoint.path.format(**EXAMPLES), token=role, raw=raw, media=media)
        if name in OPEN:
            assert answer.status == 200, role
        elif name in SIGNED:
            assert answer.status in (401, 422), role
        elif role is None:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        elif dict(zip([r.value for r in Role], MATRIX[name].split(), strict=True))[role] == "yes":
            assert answer.status not in (401, 403, 500), role
        else:
            assert answer.status == 403, role
            assert answer.json["type"] == "urn:driftline:problem:permission"


def test_the_matrix_of_the_roles_is_the_one_of_the_table() -> None:
    for endpoint in ENDPOINTS:
        if isinstance(endpoint.rule, Permission):
            said = ["yes" if endpoint.rule in PERMISSIONS[role] else "no" for role in Role]
            assert " ".join(said) == MATRIX[name_of(endpoint)]


def test_the_description_is_valid_openapi(api: Any) -> None:
    served = api.get("openapi.json", token=None)
    assert served.status == 200 and served.headers["Content-Type"].startswith("application/json")
    assert served.json == json.loads(json.dumps(document()))
    OpenAPIV31SpecValidator(served.json).validate()
    assert served.json["openapi"] == "3.1.0"


def test_the_description_has_every_endpoint_with_its_rule() -> None:
    described = describe(ENDPOINTS)
    operations = {
        (method.upper(), path): operation
        for path, item in described["paths"].items()
        for method, operation in item.items()
    }
    assert operations.keys() == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    for endpoint in ENDPOINTS:
        operation = operations[endpoint.method, endpoint.path]
        assert operation["x-driftline-rule"] == str(endpoint.rule)
        needs_token = endpoint.rule not in (Access.OPEN, Access.SIGNATURE)
        assert operation["security"] == ([{"token": []}] if needs_token else [])
        names = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
        assert names == set(endpoint.parameters) <= set(PARAMETERS)


def test_every_answer_is_as_the_description_says(api: Any, make_alert: Any) -> None:
    """The answers of a real incident against the description's schemas, by another program than the one that made
    them.
    """
    import jsonschema

    (incident,) = api.take(make_alert())
    silence = api.post("silences", {"match": {"deployment": "x"}, "reason": "because", "duration": "1h"}).json["id"]
    described = document()
    asked = {
        "/api/v1/incidents": "incidents",
        "/api/v1/incidents/{incident}": f"incidents/{incident}",
        "/api/v1/silences": "silences",
        "/api/v1/silences/{silence}": f"silences/{silence}",
        "/api/v1/route": "route",
        "/api/v1/notifications": "notifications",
        "/api/v1/receivers": "receivers",
        "/api/v1/whoami": "whoami",
    }
    for path, given in asked.items():
        answer = api.get(given)
        assert answer.status == 200, answer.body
        schema = described["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        whole = {**schema, "components": described["components"]}
        jsonschema.Draft202012Validator(whole).validate(answer.json)
    problem = api.get("incidents/ffff").json
    whole = {"$ref": "#/components/schemas/Problem", "components": described["components"]}
    jsonschema.Draft202012Validator(whole).validate(problem)
