"""From a file to a checked specification, or to every flaw in it with its line."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any

import pydantic
from pydantic_core import ErrorDetails

from services.deployments.contradictions import contradictions
from services.deployments.document import MAX_BYTES, Path, read_document
from services.deployments.errors import DeploymentError, Flaw, SpecificationError
from services.deployments.fields import Section
from services.deployments.form import Form, normal_form
from services.deployments.humility_conditions import OneOf
from services.deployments.specification import Specification
from services.deployments.wording import did_you_mean, either, kind_text, shown

_LISTS: Mapping[Path, str] = {
    ("features",): "a list, or 'name: kind' lines,",
    ("humility", "rules"): "a list of rules, each beginning with '- name:',",
}


def load_specification(path: FilePath) -> Specification:
    """Read and check a file.

    Raises:
        SpecificationError: Anything is wrong with it; every flaw is named with line and field.
        DeploymentError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DeploymentError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_specification(data, str(path))


def parse_specification(data: bytes, source: str) -> Specification:
    """Check a specification given as YAML (or JSON, which is YAML).

    Args:
        data: UTF-8 text.
        source: Its name, for errors.

    Raises:
        SpecificationError: Anything is wrong with it; every flaw is named with line and field.
    """
    document = read_document(data, source)
    if not isinstance(document.value, dict):
        came = kind_text(document.value)
        raise SpecificationError(
            source, [Flaw(1, 1, "", f"expected 'field: value' lines beginning with 'deployment:', came {came}")]
        )
    form = normal_form(document)
    flaws = list(form.flaws)
    try:
        specification = Specification.model_validate(form.document.value)
    except pydantic.ValidationError as error:
        details = error.errors(include_url=False)
        raise SpecificationError(source, [*flaws, *(_flaw(form, detail) for detail in details)]) from error
    flaws += contradictions(form, specification)
    if flaws:
        raise SpecificationError(source, flaws)
    return specification


def _flaw(form: Form, detail: ErrorDetails) -> Flaw:
    path: Path = detail["loc"]
    kind, value = detail["type"], detail["input"]
    of_key = kind == "extra_forbidden"
    if path and path[-1] == "[key]":  # a key of a mapping is not one of those allowed
        path, of_key = path[:-1], True
        kind, value = ("unknown_key" if kind == "literal_error" else kind), path[-1]
    message = _message(kind, path, value, detail)
    place = form.as_written(path)
    if kind == "missing" and place[-1:] != path[-1:]:  # a short way of writing leaves no room for the field
        message = f"{path[-1]}: {message}"
    return form.flaw(place, message, of_key=of_key and place == path)


def _message(kind: str, path: Path, value: Any, detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    match kind:
        case "missing":
            return "required, and missing"
        case "bool_type":
            return f"expected true or false, came {kind_text(value)}"
        case "extra_forbidden":
            section = _section(path[:-1])
            known = [item.alias or name for name, item in section.model_fields.items()]
            noun = f"{section.noun} {shown(str(path[-1]))}" if issubclass(section, OneOf) else "field"
            return f"unknown {noun}{did_you_mean(str(path[-1]), known) or '; known are ' + ', '.join(known)}"
        case "literal_error" | "unknown_key":
            known = [word.strip(" '") for word in str(context.get("expected", "")).replace(" or ", ",").split(",")]
            return f"expected {either(known)}, came {shown(value)}{did_you_mean(str(value), known)}"
        case "string_type":
            hint = ": put it in quotes" if isinstance(value, (int, float)) else ""
            return f"expected text, came {kind_text(value)}{hint}"
        case "float_type" | "int_type" | "int_from_float":
            return f"expected a {'whole ' if kind != 'float_type' else ''}number, came {kind_text(value)}"
        case "list_type":
            return f"expected {_LISTS.get(path, 'a list,')} came {kind_text(value)}"
        case "dict_type" | "model_type":
            return f"expected {_section(path).written}, came {kind_text(value)}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return f"expected a number {_bound(kind, context)}, came {shown(value)}"
        case "too_long" | "too_short":
            most = context.get("max_length", context.get("min_length"))
            return (
                f"expected at {'most' if kind == 'too_long' else 'least'} {most}, came {context.get('actual_length')}"
            )
        case "finite_number":
            return f"expected a finite number, came {value}"
        case "value_error":
            return str(context.get("error", detail["msg"]))
        case _:
            return f"{detail['msg']}, came {shown(value)}"


def _bound(kind: str, context: Mapping[str, Any]) -> str:
    words = {"greater_than": "above", "greater_than_equal": "of at least", "less_than": "below"}
    return f"{words.get(kind, 'of at most')} {next(iter(context.values()), '')}"


def _section(path: Path) -> type[Section]:
    """The model that stands at a path, or the last one on the way to it."""
    found: type[Section] = Specification
    stands: Any = Specification
    for part in path:
        if isinstance(stands, type) and issubclass(stands, Section):
            fields = {item.alias or name: item.annotation for name, item in stands.model_fields.items()}
            stands = _essence(fields.get(str(part)))
        else:  # an item of a list, or what stands under a key
            stands = _essence(typing.get_args(stands)[-1]) if typing.get_args(stands) else None
        if isinstance(stands, type) and issubclass(stands, Section):
            found = stands
    return found


def _essence(annotation: Any) -> Any:
    """A type without what is said about it, and without None."""
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return _essence(next(each for each in typing.get_args(annotation) if each is not type(None)))
    return annotation
