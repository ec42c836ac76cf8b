"""Names in the routing file that stand for something else in it: checked to exist, and not to go round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.alerting.policy.document import Node
from services.alerting.policy.fields import NAME, Fields, as_text
from services.alerting.policy.model import ROLE_PREFIX
from services.alerting.policy.problems import Problems, offer

_EXPECTED = "a receiver's name or role:NAME"


@dataclass(frozen=True, slots=True)
class Known:
    """The names that a file declares, those of broken declarations too: a problem is told once, where it is."""

    receivers: frozenset[str]
    roles: frozenset[str] = frozenset()
    intervals: frozenset[str] = frozenset()
    escalations: frozenset[str] = frozenset()


def read_targets(fields: Fields, name: str, known: Known) -> tuple[str, ...]:
    """A list of receivers and roles."""
    return check_targets(fields.texts(name, _EXPECTED), known, fields.problems)


def check_targets(nodes: Iterable[Node], known: Known, problems: Problems) -> tuple[str, ...]:
    """The texts of nodes, each a receiver or a role that there is."""
    found: dict[str, None] = {}
    for node in nodes:
        text = as_text(node)
        role = text.startswith(ROLE_PREFIX)
        if refer(node, text.removeprefix(ROLE_PREFIX), "role" if role else "receiver", known, problems):
            found[text] = None
    return tuple(found)


def refer(node: Node, name: str, what: str, known: Known, problems: Problems) -> bool:
    """Whether a name is declared; if not, that is told."""
    names: frozenset[str] = getattr(known, f"{what}s")
    if name in names:
        return True
    if not NAME.fullmatch(name):
        # Not shown: it may be an address or a key that slipped in.
        problems.add(node.line, node.where, f"expected the name of a {what}; what stands here cannot be one")
    elif what == "receiver" and name in known.roles:
        problems.add(node.line, node.where, f"there is no receiver {name!r}: for the role write {ROLE_PREFIX}{name}")
    else:
        problems.add(node.line, node.where, f"there is no {what} {name!r}: {offer(name, names)}")
    return False


def refuse_loops(
    what: str, edges: Mapping[str, Iterable[str]], lines: Mapping[str, tuple[int, str]], problems: Problems
) -> None:
    """Tell of every way round, once each, at the first of its names.

    Args:
        what: Of the problem: "the role refers to itself".
        edges: Name to the names it leads to.
        lines: Name to line and place.
        problems: Where it is told.
    """
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            line, where = lines[name]
            problems.add(line, where, f"{what}: {' → '.join((*path[path.index(name) :], name))}")
        elif name not in done:
            for following in edges.get(name, ()):
                visit(following, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())
