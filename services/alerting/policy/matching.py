"""Conditions on labels, as routes, silences and inhibitions write them.

======================== ================================================================
value                    it holds when the label
======================== ================================================================
``text``                 is that text; with ``*`` (anything) or ``?`` (one character) a
                         pattern for the whole of it
``[a, b]``               is any of them
``{not: a}``             is none of them
``{regex: "…"}``         matches the expression as a whole
``{not: {regex: "…"}}``  does not
======================== ================================================================

A label that an alert does not have is the empty text, so ``""`` asks for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from services.alerting.policy.document import Node, of_document
from services.alerting.policy.expressions import compile_expression
from services.alerting.policy.labels import NAMES, TAG_PREFIX
from services.alerting.policy.model import SEVERITIES, Match, Test
from services.alerting.policy.problems import Problems, offer, shown

_MOST_CHARACTERS = 1000
_MOST_VALUES = 1000


def parse_match(document: Mapping[str, Any], where: str) -> Match:
    """The conditions in plain values, as JSON gives them and silences keep them.

    Args:
        document: Label to value.
        where: What messages call it.

    Raises:
        PolicyError: It is wrong; every problem is named.
    """
    problems = Problems()
    found = read_match(of_document(document, where), problems)
    problems.refuse(where)
    return found


def read_match(node: Node | None, problems: Problems) -> Match:
    """The conditions in a node of the file; None is none."""
    if node is None or node.value is None:
        return Match()
    if not isinstance(node.value, Mapping):
        problems.add(node.line, node.where, f"expected a mapping from labels to values, came {node.kind}")
        return Match()
    return Match(tuple(test for name, value in node.value.items() if (test := _test(name, value, problems))))


def _test(label: str, node: Node, problems: Problems) -> Test | None:
    if label not in NAMES and not (label.startswith(TAG_PREFIX) and len(label) > len(TAG_PREFIX)):
        problems.add(node.line, node.where, f"there is no such label: {_offer_label(label)}")
        return None
    negated, inner = False, node
    if isinstance(node.value, Mapping) and "not" in node.value:
        if len(node.value) > 1:
            problems.add(node.line, node.where, "'not' stands alone: put what it denies inside it")
        negated, inner = True, node.value["not"]
    patterns: list[re.Pattern[str]] = []
    values: list[str] | None = []
    for part in _parts(inner, problems):
        text = part.value
        if isinstance(text, str):
            compiled = _of_text(label, part, text, problems)
            values = None if values is None or is_glob(text) else [*values, text]
        else:
            compiled = _of_regex(part, problems)
            values = None
        if compiled is not None:
            patterns.append(compiled)
    return Test(label, tuple(patterns), negated, source(node), None if values is None else tuple(values))


def _parts(node: Node, problems: Problems) -> Iterator[Node]:
    parts = node.value if isinstance(node.value, tuple) else (node,)
    if not parts or len(parts) > _MOST_VALUES:
        problems.add(node.line, node.where, f"expected 1 to {_MOST_VALUES} values, came {len(parts)}")
        return
    for part in parts:
        if isinstance(part.value, str) or (isinstance(part.value, Mapping) and set(part.value) == {"regex"}):
            yield part
        elif isinstance(part.value, Mapping):
            known = ("not", "regex")
            name = next((name for name in part.value if name not in known), "not")
            told = "'not' inside a list or another 'not' means nothing" if name == "not" else offer(name, known)
            problems.add(part.line, part.where, f"expected a text, a list, {{not: …}} or {{regex: …}}: {told}")
        else:
            hint = 'nothing (write "" for a label that is not there)' if part.value is None else part.kind
            problems.add(part.line, part.where, f"expected a text, a list, {{not: …}} or {{regex: …}}, came {hint}")


def _of_text(label: str, node: Node, text: str, problems: Problems) -> re.Pattern[str] | None:
    if len(text) > _MOST_CHARACTERS:
        problems.add(node.line, node.where, f"expected at most {_MOST_CHARACTERS} characters, came {len(text):,}")
        return None
    if label == "severity" and not is_glob(text) and text not in SEVERITIES:
        problems.add(node.line, node.where, f"there is no severity {shown(text)}: {offer(text, SEVERITIES)}")
        return None
    return glob(text)


def _of_regex(node: Node, problems: Problems) -> re.Pattern[str] | None:
    assert isinstance(node.value, Mapping)
    inner = node.value["regex"]
    if not isinstance(inner.value, str):
        problems.add(inner.line, inner.where, f"expected a regular expression as a text, came {inner.kind}")
        return None
    try:
        return compile_expression(inner.value)
    except ValueError as error:
        problems.add(inner.line, inner.where, str(error))
        return None


def is_glob(text: str) -> bool:
    """Whether a text is a pattern."""
    return "*" in text or "?" in text


def glob(text: str) -> re.Pattern[str]:
    """A text with ``*`` and ``?``, for ``fullmatch``.

    What stands between two stars is looked for once, from the left, and the place found is kept (an atomic group): the
    first place is as good as any later one, and without going back the time grows with the length alone, whatever a
    hostile label holds.
    """
    first, *rest = (_escaped(part) for part in re.split(r"\*+", text))
    if not rest:
        return re.compile(first, re.DOTALL)
    *middle, last = rest
    found = "".join(f"(?>.*?{part})" for part in middle if part)
    return re.compile(f"{first}{found}.*{last}", re.DOTALL)


def _escaped(text: str) -> str:
    return "".join("." if c == "?" else re.escape(c) for c in text)


def source(node: Node) -> str:
    """A value as people would write it on one line."""
    if isinstance(node.value, Mapping):
        return "{" + ", ".join(f"{name}: {source(value)}" for name, value in node.value.items()) + "}"
    if isinstance(node.value, tuple):
        return "[" + ", ".join(map(source, node.value)) + "]"
    return '""' if not node.value else str(node.value)


def _offer_label(label: str) -> str:
    head, dot, tail = label.partition(".")
    if dot and tail and head in ("tags", "Tag", "label", "labels"):
        return f"did you mean {TAG_PREFIX + tail!r}?"
    close = offer(label, NAMES)
    return close if close.startswith("did") else f"{close}, and {TAG_PREFIX}NAME for a tag of the deployment"
