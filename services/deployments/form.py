"""Short ways of writing a specification, brought to the long one without losing a place."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.deployments.document import Document, Mark, Path, field_text
from services.deployments.errors import Flaw
from services.deployments.specification import Kind
from services.deployments.wording import either, kind_text


@dataclass(frozen=True, slots=True)
class Form:
    """A document whose features and detectors are lists and whose segments are mappings, and what its author wrote.

    ``names``: of each list that was given as a mapping, the keys.
    """

    document: Document
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()

    def text(self, path: Path) -> str:
        """The path as the author would write it."""
        if len(path) > 1 and path[0] in self.names:
            path = (path[0], self.names[str(path[0])][int(path[1])], *path[2:])
        return field_text(path)

    def as_written(self, path: Path) -> Path:
        """The path of a field of ``humility`` without the steps that a short way of writing leaves out:
        ``when.novel_input`` of ``when: novel_input`` is ``when``.
        """
        if path[:1] != ("humility",):
            return path
        kept: list[str | int] = []
        stands = self.document.value
        for position, part in enumerate(path):
            if isinstance(stands, dict):
                kept.append(part)
                if part not in stands:  # what is missing
                    return (*kept, *path[position + 1 :])
                stands = stands[part]
            elif isinstance(stands, list) and isinstance(part, int) and part < len(stands):
                kept.append(part)
                stands = stands[part]
        return tuple(kept)

    def flaw(self, path: Path, message: str, *, of_key: bool = False) -> Flaw:
        """A flaw at a place of the document."""
        mark = self.document.mark(path)
        mark = self.document.key_marks.get(path, mark) if of_key else mark
        return Flaw(mark.line, mark.column, self.text(path), message)


def normal_form(document: Document) -> Form:
    """Bring the short ways of writing to the long one, every value with its place."""
    form = _listed(Form(document), "features", "name", "kind", {"kind": "numeric"}, either(typing.get_args(Kind)))
    form = _listed(form, "detectors", "stream", "detector", {"detector": "adwin"}, "the name of a detector")
    return _with_horizon(_with_segments(form))


def _with_horizon(form: Form) -> Form:
    """Bring ``outcomes: 30d`` to ``outcomes: {horizon: 30d}``."""
    given, path = form.document.value.get("outcomes"), ("outcomes",)
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return form
    document = form.document
    marks = {**document.marks, (*path, "horizon"): document.mark(path)}
    value = {**document.value, "outcomes": {"horizon": given}}
    return Form(Document(value, marks, document.key_marks), form.names, form.flaws)


def _listed(form: Form, section: str, key: str, main: str, harmless: Mapping[str, str], expected: str) -> Form:
    """Bring ``section: {A: B}`` to ``section: [{key: A, main: B}]``.

    ``harmless`` stands for a value that is none, only so that the rest can be checked as well.
    """
    given = form.document.value.get(section)
    if not isinstance(given, dict):
        return form
    items: list[Any] = []
    number = {name: index for index, name in enumerate(given)}
    marks = dict(_renumbered(form.document.marks, section, number))
    keys = dict(_renumbered(form.document.key_marks, section, number))
    flaws: list[Flaw] = list(form.flaws)
    for index, (name, value) in enumerate(given.items()):
        marks[(section, index, key)] = form.document.key_marks[(section, name)]
        if isinstance(value, str):
            items.append({key: name, main: value})
            marks[(section, index, main)] = form.document.marks[(section, name)]
        elif isinstance(value, dict) and key not in value:
            items.append({key: name, **value})
        else:
            message = (
                f"the {key} is given twice"
                if isinstance(value, dict)
                else f"expected {expected}, came {kind_text(value)}"
            )
            flaws.append(form.flaw((section, name), message))
            items.append({key: name, **harmless})
    value = {**form.document.value, section: items}
    return Form(Document(value, marks, keys), {**form.names, section: list(given)}, tuple(flaws))


def _renumbered(marks: Mapping[Path, Mark], section: str, number: Mapping[str, int]) -> Iterator[tuple[Path, Mark]]:
    for path, mark in marks.items():
        inside = len(path) > 1 and path[0] == section
        yield (section, number[str(path[1])], *path[2:]) if inside else path, mark


def _with_segments(form: Form) -> Form:
    """Bring ``segments: [A]`` and ``segments: {NAME: A}`` to ``segments: {NAME: {column: A}}``."""
    given = form.document.value.get("segments")
    if isinstance(given, list):
        places: list[tuple[str | int, Any, Any]] = [(index, name, name) for index, name in enumerate(given)]
    elif isinstance(given, dict):
        places = [(name, name, value) for name, value in given.items()]
    else:
        return form
    marks, keys = dict(form.document.marks), dict(form.document.key_marks)
    flaws: list[Flaw] = list(form.flaws)
    segments: dict[str, Any] = {}
    for place, name, value in places:
        path: Path = ("segments", place)
        if isinstance(given, list) and not isinstance(name, str):
            flaws.append(
                form.flaw(path, f"expected the name of a feature or a segment attribute, came {kind_text(name)}")
            )
        elif name in segments:
            flaws.append(form.flaw(path, f"the segmentation {name!r} is given twice"))
        else:
            segments[name] = {"column": value} if isinstance(value, str) else value
            marks[("segments", name)] = marks[path]
            keys.setdefault(("segments", name), marks[path])
            if isinstance(value, str):
                marks[("segments", name, "column")] = marks[path]
    value = {**form.document.value, "segments": segments}
    return Form(Document(value, marks, keys), form.names, tuple(flaws))
