"""Reads the fields of one mapping of the routing file; what is wrong is gathered, and reading goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from services.alerting.policy.document import Node
from services.alerting.policy.durations import parse_duration
from services.alerting.policy.problems import Problems, offer, shown

T = TypeVar("T")
D = TypeVar("D")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_EXPECTED = "a name of up to 64 letters, digits, '.', '_' and '-'"
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Fields:
    """One mapping. Ask for each field there may be, then :meth:`end` tells of those that nobody asked for.

    Args:
        node: The mapping.
        problems: Where what is wrong goes.
        shy: Never show a value: somebody may have put a secret where it does not belong.
    """

    def __init__(self, node: Node, problems: Problems, *, shy: bool = False) -> None:
        self.node = node
        self.problems = problems
        self._shy = shy
        self._asked: set[str] = set()
        self._inner: Mapping[str, Node] = {}
        if isinstance(node.value, Mapping):
            self._inner = node.value
        elif node.value is not None:
            self.wrong(node, f"expected a mapping (name: value), came {node.kind}")

    def __contains__(self, name: str) -> bool:
        return name in self._inner

    def wrong(self, node: Node, text: str) -> None:
        """Tell of a problem."""
        self.problems.add(node.line, node.where, text)

    def missing(self, name: str, expected: str) -> None:
        """Tell of a field that must be there."""
        self.problems.add(self.node.line, self.node.where, f"{name!r} is missing: expected {expected}")

    def take(self, name: str) -> Node | None:
        """A field as it is; None where it is not there or empty."""
        self._asked.add(name)
        found = self._inner.get(name)
        return None if found is None or found.value is None else found

    def parsed(self, name: str, default: D, parse: Callable[[str], T]) -> T | D:
        """What ``parse`` makes of a text; the message of its ValueError says what was expected."""
        found = self.take(name)
        if found is None:
            self._refuse_nothing(name, "a value")
            return default
        return self.parse(found, default, parse)

    def _refuse_nothing(self, name: str, expected: str) -> None:
        """A field without a value is half a line that was forgotten, not a wish for the default."""
        if name in self._inner:
            self.wrong(self._inner[name], f"expected {expected}, came nothing")

    def parse(self, node: Node, default: D, parse: Callable[[str], T]) -> T | D:
        """The same for a node at hand."""
        if not isinstance(node.value, str):
            self.wrong(node, f"expected a single text, came {node.kind}")
            return default
        try:
            return parse(node.value)
        except ValueError as error:
            self.wrong(node, f"{error}" if self._shy else f"{error}, came {shown(node.value)}")
            return default

    def text(self, name: str, default: str = "", *, longest: int = 2000) -> str:
        """A text without control characters."""

        def parse(text: str) -> str:
            if len(text) > longest or any(not c.isprintable() for c in text):
                raise ValueError(f"expected a text on one line of at most {longest:,} characters")
            return text

        return self.parsed(name, default, parse)

    def name(self, name: str = "name") -> str:
        """A name that must be there; empty if it is wrong."""
        if self.take(name) is None:
            self.missing(name, NAME_EXPECTED)
            return ""
        return self.parsed(name, "", parse_name)

    def choice(self, name: str, choices: Iterable[str], default: str) -> str:
        """One of some words."""
        known = tuple(choices)

        def parse(text: str) -> str:
            if text not in known:
                raise ValueError(f"expected one of {', '.join(known)}")
            return text

        return self.parsed(name, default, parse)

    def duration_ms(self, name: str, default: D, *, least_ms: int = 0, most_ms: int | None = None) -> int | D:
        """A duration in milliseconds."""

        def parse(text: str) -> int:
            found = parse_duration(text)
            if found < least_ms or (most_ms is not None and found > most_ms):
                upper = "" if most_ms is None else f" and at most {most_ms / 1000:g} s"
                raise ValueError(f"expected a duration of at least {least_ms / 1000:g} s{upper}")
            return found

        return self.parsed(name, default, parse)

    def number(self, name: str, default: D, *, least: float, most: float, exclusive: bool = False) -> float | D:
        """A finite number between two, the first excluded if ``exclusive``."""

        def parse(text: str) -> float:
            try:
                found = float(text)
            except ValueError:
                found = float("nan")
            if not least <= found <= most or (exclusive and found == least):
                raise ValueError(f"expected a number {'above' if exclusive else 'from'} {least:g} to {most:g}")
            return found

        return self.parsed(name, default, parse)

    def whole(self, name: str, default: int, *, least: int, most: int) -> int:
        """A whole number between two, both included."""

        def parse(text: str) -> int:
            if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
                raise ValueError(f"expected a whole number from {least} to {most}")
            return int(text)

        return self.parsed(name, default, parse)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""

        def parse(text: str) -> bool:
            if text.lower() not in _BOOLEANS:
                raise ValueError("expected true or false")
            return _BOOLEANS[text.lower()]

        return self.parsed(name, default, parse)

    def items(self, name: str, expected: str) -> tuple[Node, ...]:
        """The nodes of a list; empty where it is not there."""
        found = self.take(name)
        if found is None:
            return ()
        if isinstance(found.value, tuple):
            return found.value
        self.wrong(found, f"expected a list of {expected}, came {found.kind}")
        return ()

    def texts(self, name: str, expected: str) -> tuple[Node, ...]:
        """The nodes of a list of texts; a single text is a list of one."""
        found = self.take(name)
        if found is None:
            self._refuse_nothing(name, f"{expected}, or a list of that ([] for none)")
            return ()
        nodes = found.value if isinstance(found.value, tuple) else (found,)
        for node in nodes:
            if not isinstance(node.value, str) or not node.value:
                self.wrong(
                    node, f"expected {expected}, or a list of that, came {node.kind if node.value else 'nothing'}"
                )
        return tuple(node for node in nodes if isinstance(node.value, str) and node.value)

    def named(self, name: str, expected: str) -> Mapping[str, Node]:
        """The fields of a mapping from names to anything."""
        found = self.take(name)
        if found is None:
            return {}
        if not isinstance(found.value, Mapping):
            self.wrong(found, f"expected a mapping from names to {expected}, came {found.kind}")
            return {}
        for key, node in found.value.items():
            if not NAME.fullmatch(key):
                self.wrong(node, f"expected {NAME_EXPECTED} before the colon")
        return {key: node for key, node in found.value.items() if NAME.fullmatch(key)}

    def end(self, retired: Mapping[str, str] | None = None) -> None:
        """Tell of fields that nobody asked for; ``retired``: what to say of some names."""
        for name, node in self._inner.items():
            if name in self._asked:
                continue
            told = (retired or {}).get(name)
            self.wrong(node, told or f"there is no such field: {offer(name, self._asked)}")


def parse_name(text: str) -> str:
    """The text, if it is a name."""
    if not NAME.fullmatch(text):
        raise ValueError(f"expected {NAME_EXPECTED}")
    return text


def as_text(node: Node) -> str:
    """The text of a node that :meth:`Fields.texts` gave."""
    return node.value if isinstance(node.value, str) else ""
