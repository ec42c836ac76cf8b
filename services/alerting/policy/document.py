"""YAML with the line of everything in it.

Every scalar stays the text that was written. YAML would make a Boolean of ``no``, 1.1 of ``1.10`` and 630 of ``10:30``,
all of which are names or times here; what a field is, its reader decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from services.alerting.policy.problems import Problems

MOST_BYTES = 1 << 20
_MOST_NODES = 100_000
_MOST_DEPTH = 64
_STANDARD = "tag:yaml.org,2002:"
_MERGE = f"{_STANDARD}merge"
_NOTHING = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the document: a text, None, a sequence or a mapping.

    Attributes:
        value: As said.
        line: From 1; 0 where it stands in no file.
        where: The way to it from the root: ``route.routes[2].match``.
    """

    value: str | tuple[Node, ...] | Mapping[str, Node] | None
    line: int
    where: str

    @property
    def kind(self) -> str:
        """In words."""
        if self.value is None:
            return "nothing"
        if isinstance(self.value, str):
            return "a text"
        return "a list" if isinstance(self.value, tuple) else "a mapping"


def of_document(document: Any, where: str) -> Node:
    """A node of plain values, as JSON gives them."""
    if isinstance(document, Mapping):
        inner = {str(k): of_document(v, f"{where}.{k}" if where else str(k)) for k, v in document.items()}
        return Node(inner, 0, where)
    if isinstance(document, list | tuple):
        return Node(tuple(of_document(v, f"{where}[{n}]") for n, v in enumerate(document, 1)), 0, where)
    if isinstance(document, bool):
        return Node("true" if document else "false", 0, where)
    return Node(None if document is None else str(document), 0, where)


def read_yaml(text: str, problems: Problems) -> Node:
    """The document in a text; what is wrong with it goes to ``problems``, without what it says: it may hold secrets."""
    empty = Node(None, 1, "")
    if len(text) > MOST_BYTES:
        problems.add(0, "", f"expected at most {MOST_BYTES:,} characters, came {len(text):,}")
        return empty
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.add(0 if mark is None else mark.line + 1, "", f"not YAML: {error.problem or error.context}")
        return empty
    except yaml.YAMLError:
        problems.add(0, "", "not YAML: it has a character that YAML does not allow")
        return empty
    except RecursionError:
        problems.add(0, "", f"nested deeper than {_MOST_DEPTH} levels")
        return empty
    return empty if root is None else _Reader(problems).node(root, "", ())


class _Reader:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._count = 0

    def node(self, node: yaml.Node, where: str, above: tuple[int, ...]) -> Node:
        line = node.start_mark.line + 1
        self._count += 1
        trouble = ""
        if id(node) in above:
            trouble = "it holds itself by an alias"
        elif len(above) >= _MOST_DEPTH:
            trouble = f"nested deeper than {_MOST_DEPTH} levels"
        elif self._count > _MOST_NODES:
            trouble = f"aliases make more than {_MOST_NODES:,} values of it"
        elif not node.tag.startswith(_STANDARD):
            trouble = "tags (words that begin with an exclamation mark) mean nothing here"
        if trouble:
            self._problems.add(line, where, trouble)
            return Node(None, line, where)
        inside = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node, where, inside), line, where)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value, 1)
            return Node(tuple(self.node(item, f"{where}[{n}]", inside) for n, item in items), line, where)
        assert isinstance(node, yaml.ScalarNode)
        return Node(None if node.style is None and node.value in _NOTHING else str(node.value), line, where)

    def _mapping(self, node: yaml.MappingNode, where: str, above: tuple[int, ...]) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._problems.add(line, where, "a field's name must be a text")
            elif key.tag == _MERGE and key.style is None:
                for more in self._merged(value, where, above):
                    merged = {**more, **merged}
            elif key.value in own:
                self._problems.add(
                    line, f"{where}.{key.value}".lstrip("."), f"twice; first on line {own[key.value].line}"
                )
            else:
                found = self.node(value, f"{where}.{key.value}".lstrip("."), above)
                # The field's own line, for a value that begins on the next.
                own[key.value] = Node(found.value, line, found.where)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, where: str, above: tuple[int, ...]) -> Iterator[Mapping[str, Node]]:
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if isinstance(part, yaml.MappingNode):
                found = self.node(part, where, above).value
                if isinstance(found, dict):
                    yield found
            else:
                self._problems.add(part.start_mark.line + 1, where, "<< takes a mapping, or a list of mappings")
