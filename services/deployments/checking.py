"""From a file to a checked specification, or to every flaw in it with its line."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

from services.deployments.document import MAX_BYTES, Document, Mark, Path, field_text, read_document
from services.deployments.errors import DeploymentError, Flaw, SpecificationError
from services.deployments.specification import Columns, FalseAlarms, Feature, Specification

_SECTIONS: Mapping[Path, type[pydantic.BaseModel]] = {
    (): Specification,
    ("features", 0): Feature,
    ("columns",): Columns,
    ("false_alarms",): FalseAlarms,
}
_SHOWN = 60


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
        came = _kind(document.value)
        raise SpecificationError(
            source, [Flaw(1, 1, "", f"expected 'field: value' lines beginning with 'deployment:', came {came}")]
        )
    form = _as_list_of_features(document)
    flaws = list(form.flaws)
    try:
        specification = Specification.model_validate(form.document.value)
    except pydantic.ValidationError as error:
        details = error.errors(include_url=False)
        raise SpecificationError(source, [*flaws, *(_flaw(form, detail) for detail in details)]) from error
    flaws += _contradictions(form, specification)
    if flaws:
        raise SpecificationError(source, flaws)
    return specification


@dataclass(frozen=True, slots=True)
class _Form:
    """A document whose features are a list, and how its author named them."""

    document: Document
    feature_names: Mapping[int, str] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()

    def text(self, path: Path) -> str:
        """The path as the author would write it."""
        if len(path) > 1 and path[0] == "features" and path[1] in self.feature_names:
            path = ("features", self.feature_names[int(path[1])], *path[2:])
        return field_text(path)


def _as_list_of_features(document: Document) -> _Form:
    """Bring ``features: {temp: numeric}`` to the form ``features: [{name: temp, kind: numeric}]``, with its places."""
    given = document.value.get("features")
    if not isinstance(given, dict):
        return _Form(document)
    features: list[Any] = []
    names = dict(enumerate(given))
    number = {name: index for index, name in names.items()}
    marks = dict(_renumbered(document.marks, number))
    keys = dict(_renumbered(document.key_marks, number))
    flaws: list[Flaw] = []
    for index, (name, value) in enumerate(given.items()):
        place: Path = ("features", index)
        marks[(*place, "name")] = document.key_marks[("features", name)]
        if isinstance(value, str):
            features.append({"name": name, "kind": value})
            marks[(*place, "kind")] = document.marks[("features", name)]
        elif isinstance(value, dict) and "name" not in value:
            features.append({"name": name, **value})
        else:
            twice = isinstance(value, dict)
            message = "the name is given twice" if twice else f"expected numeric or categorical, came {_kind(value)}"
            mark = document.mark(("features", name))
            flaws.append(Flaw(mark.line, mark.column, field_text(("features", name)), message))
            features.append({"name": name, "kind": "numeric"})  # only so that the rest can be checked as well
    value = {**document.value, "features": features}
    return _Form(Document(value, marks, keys), names, tuple(flaws))


def _renumbered(marks: Mapping[Path, Mark], number: Mapping[str, int]) -> Iterator[tuple[Path, Mark]]:
    for path, mark in marks.items():
        inside = len(path) > 1 and path[0] == "features"
        yield ("features", number[str(path[1])], *path[2:]) if inside else path, mark


def _flaw(form: _Form, detail: ErrorDetails) -> Flaw:
    path: Path = detail["loc"]
    kind, value = detail["type"], detail["input"]
    if path and path[-1] == "[key]":  # a key of a mapping is not one of those allowed
        path = path[:-1]
        kind, value = ("unknown_key", path[-1])
    document = form.document
    of_key = kind in ("extra_forbidden", "unknown_key")
    mark = document.key_marks.get(path, document.mark(path)) if of_key else document.mark(path)
    return Flaw(mark.line, mark.column, form.text(path), _message(kind, path, value, detail))


def _message(kind: str, path: Path, value: Any, detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    match kind:
        case "missing":
            return "required, and missing"
        case "extra_forbidden":
            known = list(_section(path[:-1]).model_fields)
            return f"unknown field{_did_you_mean(str(path[-1]), known) or '; known are ' + ', '.join(known)}"
        case "literal_error" | "unknown_key":
            known = [word.strip(" '") for word in str(context.get("expected", "")).replace(" or ", ",").split(",")]
            return f"expected {_either(known)}, came {_shown(value)}{_did_you_mean(str(value), known)}"
        case "string_type":
            hint = ": put it in quotes" if isinstance(value, (int, float)) else ""
            return f"expected text, came {_kind(value)}{hint}"
        case "float_type" | "int_type" | "int_from_float":
            return f"expected a {'whole ' if kind != 'float_type' else ''}number, came {_kind(value)}"
        case "list_type":
            return f"expected a list, or 'name: kind' lines, came {_kind(value)}"
        case "dict_type" | "model_type":
            return f"expected 'key: value' lines, came {_kind(value)}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return f"expected a number {_bound(kind, context)}, came {_shown(value)}"
        case "value_error":
            return str(context.get("error", detail["msg"]))
        case _:
            return f"{detail['msg']}, came {_shown(value)}"


def _bound(kind: str, context: Mapping[str, Any]) -> str:
    words = {"greater_than": "above", "greater_than_equal": "of at least", "less_than": "below"}
    return f"{words.get(kind, 'of at most')} {next(iter(context.values()), '')}"


def _section(path: Path) -> type[pydantic.BaseModel]:
    """The model that stands at a path."""
    return _SECTIONS.get(tuple(0 if isinstance(part, int) else part for part in path), Specification)


def _did_you_mean(word: str, known: typing.Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, 1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _either(words: typing.Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _kind(value: Any) -> str:
    """What came, in words a person uses."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {_shown(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _contradictions(form: _Form, specification: Specification) -> Iterator[Flaw]:
    """What each field allows and the whole does not."""
    first: dict[str, int] = {}
    for index, feature in enumerate(specification.features):
        if feature.name in first:
            mark = form.document.mark(("features", index, "name"))
            line = form.document.mark(("features", first[feature.name], "name")).line
            message = f"the feature {feature.name!r} is given twice, first on line {line}"
            yield Flaw(mark.line, mark.column, form.text(("features", index)), message)
        first.setdefault(feature.name, index)
    if specification.positive_class is not None and specification.task != "binary_classification":
        mark = form.document.mark(("positive_class",))
        message = f"only binary_classification has a positive class, the task is {specification.task}"
        yield Flaw(mark.line, mark.column, "positive_class", message)
