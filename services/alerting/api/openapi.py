"""The OpenAPI 3.1 description, made from the table of endpoints."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.alerting.api.endpoints import PARAMETERS, Access, Endpoint
from services.alerting.api.models import Problem
from services.alerting.api.problems import CONTENT_TYPE

_REF = "#/components/schemas/{model}"
_BEARER = "token"
REQUEST_ID = r"[A-Za-z0-9._:-]{1,128}"
_DESCRIPTION = """Incidents of Driftline, and what people do about them.

Errors are problem details (RFC 9457) with what was expected, what came and what to do. Lists are in pages: give `next`
of one page as `before` of the next. A repeated `X-Request-Id` makes an action happen once.
"""


@functools.cache
def document() -> dict[str, Any]:
    """The description."""
    from services.alerting.api.table import ENDPOINTS

    return describe(ENDPOINTS)


def describe(endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    """The description of some endpoints."""
    asked: list[type[BaseModel]] = [m for e in endpoints for m in (e.query, e.body) if m is not None]
    answered: list[type[BaseModel]] = [e.answer for e in endpoints if not isinstance(e.answer, str)] + [Problem]
    inputs = dict.fromkeys((model, "validation") for model in asked)
    outputs = dict.fromkeys((model, "serialization") for model in answered)
    references, definitions = models_json_schema([*inputs, *outputs], ref_template=_REF)  # type: ignore[list-item]
    schemas = definitions["$defs"]
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, references, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Driftline alerting",
            "version": "1",
            "description": _DESCRIPTION,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                _BEARER: {"type": "http", "scheme": "bearer", "description": "Made by driftline token create."}
            },
        },
    }


def _operation(endpoint: Endpoint, references: Mapping[Any, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.id,
        "summary": endpoint.summary,
        "tags": [_tag(endpoint.path)],
        "x-driftline-rule": str(endpoint.rule),
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint, references, schemas)],
        "responses": _responses(endpoint, references),
        "security": [] if endpoint.rule in (Access.OPEN, Access.SIGNATURE) else [{_BEARER: []}],
    }
    if endpoint.acts:
        operation["parameters"].append(
            {
                "name": "X-Request-Id",
                "in": "header",
                "description": "A repeat with the same one changes nothing.",
                "schema": {"type": "string", "pattern": f"^{REQUEST_ID}$"},
            }
        )
    if endpoint.body is not None:
        required = any(field.is_required() for field in endpoint.body.model_fields.values())
        schema = references[(endpoint.body, "validation")]
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    if endpoint.raw:
        content = {media: {"schema": {"type": "object"}} for media in endpoint.raw}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _tag(path: str) -> str:
    return path.removeprefix("/api/v1").strip("/").partition("/")[0].removesuffix(".json")


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PARAMETERS[name][1],
            "schema": {"type": "string", "pattern": f"^{PARAMETERS[name][0]}$"},
        }
        for name in endpoint.parameters
    ]


def _query_parameters(
    endpoint: Endpoint, references: Mapping[Any, Any], schemas: Mapping[str, Any]
) -> list[dict[str, Any]]:
    name = references[(endpoint.query, "validation")]["$ref"].rpartition("/")[2]
    schema = schemas[name]
    required = schema.get("required", [])
    return [
        {"name": field, "in": "query", "required": field in required, "schema": details}
        for field, details in schema.get("properties", {}).items()
    ]


def _responses(endpoint: Endpoint, references: Mapping[Any, Any]) -> dict[str, Any]:
    if isinstance(endpoint.answer, str):
        kind = {"type": "object"} if endpoint.answer == "application/json" else {"type": "string"}
        content = {endpoint.answer: {"schema": kind}}
    else:
        content = {"application/json": {"schema": references[(endpoint.answer, "serialization")]}}
    return {
        str(endpoint.status): {"description": "Done.", "content": content},
        "default": {
            "description": "Refused.",
            "content": {CONTENT_TYPE: {"schema": references[(Problem, "serialization")]}},
        },
    }
