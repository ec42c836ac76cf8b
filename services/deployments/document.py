"""YAML to plain values, with the line each came from.

Only mappings, lists and scalars are read: no tags, no objects. Words are words (``yes``, ``no``, ``on`` and dates stay
text, as in YAML 1.2): a class named ``no`` must not become ``false``. Keys are always text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from services.deployments.errors import Flaw, SpecificationError

MAX_BYTES = 512 * 1024
_MAX_VALUES = 50_000  # aliases can multiply a few lines into millions of values
_MAX_DEPTH = 40  # conditions inside of conditions take two levels each

Path = tuple[str | int, ...]

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_TAGS = {
    "str",
    "int",
    "float",
    "bool",
    "null",
    "timestamp",
    "map",
    "seq",
    "merge",
    "value",
}  # what plain YAML resolves to
_CONSTANTS = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says.

    Attributes:
        value: Mappings, lists, text, numbers, booleans and None.
        marks: Path of keys and indexes to the place of the value.
        key_marks: The same to the place of the key.
    """

    value: Any
    marks: dict[Path, Mark] = field(default_factory=dict)
    key_marks: dict[Path, Mark] = field(default_factory=dict)

    def mark(self, path: Path) -> Mark:
        """The place of a value, or of the nearest thing around it."""
        while path not in self.marks and path:
            path = path[:-1]
        return self.marks.get(path, Mark(1, 1))


def read_document(data: bytes, source: str) -> Document:
    """Read one YAML document.

    Args:
        data: The file's bytes, UTF-8.
        source: Its name, for errors.

    Raises:
        SpecificationError: Not text, not YAML, more than one document, a key twice, too large.
    """
    if len(data) > MAX_BYTES:
        raise _refused(source, None, f"a specification has at most {MAX_BYTES} bytes, came {len(data)}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refused(
            source, Mark(line, 1), f"expected UTF-8 text, came the byte 0x{data[error.start]:02x}"
        ) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _refused(source, Mark(line, 1), f"expected text, came the character {error.character!r}") from error
    except yaml.MarkedYAMLError as error:
        raise _refused(source, _mark(error.problem_mark or error.context_mark), f"not YAML: {error.problem}") from error
    except (RecursionError, ValueError) as error:
        raise _refused(source, None, "not YAML that can be read: nested too deeply") from error
    if node is None:
        raise _refused(source, None, "the file is empty: see `driftline deployment apply --help` for an example")
    document = Document(None)
    return Document(_Builder(source, document).build(node, ()), document.marks, document.key_marks)


class _Builder:
    """Walks the nodes once, keeping the places."""

    def __init__(self, source: str, document: Document) -> None:
        self._source = source
        self._document = document
        self._values = 0

    def build(self, node: yaml.Node, path: Path) -> Any:
        mark = _mark(node.start_mark)
        self._document.marks[path] = mark or Mark(1, 1)
        self._values += 1
        if self._values > _MAX_VALUES or len(path) > _MAX_DEPTH:
            limit = f"{_MAX_VALUES} values, {_MAX_DEPTH} levels"
            raise _refused(self._source, mark, f"the document is larger than any specification ({limit})")
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _TAGS:
            raise _refused(self._source, mark, f"tags are not allowed, came {node.tag[:40]!r}")
        if isinstance(node, yaml.MappingNode):
            return dict(self._items(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return _scalar(node)

    def _items(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        seen: dict[str, Mark] = {}
        for key_node, value_node in node.value:
            mark = _mark(key_node.start_mark) or Mark(1, 1)
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refused(self._source, mark, "a key has to be one word or quoted text")
            key = str(key_node.value)
            if key in seen:
                twice = f"the key is given twice, first on line {seen[key].line}"
                raise _refused(self._source, mark, twice, field_text((*path, key)))
            seen[key] = mark
            self._document.key_marks[(*path, key)] = mark
            yield key, self.build(value_node, (*path, key))


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    if getattr(node, "style", None) is not None:  # quoted or a block: text, whatever it looks like
        return text
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _mark(mark: Any) -> Mark | None:
    return None if mark is None else Mark(mark.line + 1, mark.column + 1)


def _refused(source: str, mark: Mark | None, message: str, name: str = "") -> SpecificationError:
    return SpecificationError(source, [Flaw(mark.line if mark else 0, mark.column if mark else 0, name, message)])


def field_text(path: Path) -> str:
    """A path as people write it: ``features[2].kind``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
