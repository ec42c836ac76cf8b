"""The tree tells whom a slow, literal reading of the rules tells."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from services.alerting.policy.document import read_yaml
from services.alerting.policy.model import INCIDENT, Policy, Role, TeamsReceiver
from services.alerting.policy.problems import Problems
from services.alerting.policy.receivers import PACES
from services.alerting.policy.references import Known
from services.alerting.policy.roles import resolve
from services.alerting.policy.routing import Assignment, assignments, route_at, walk
from services.alerting.policy.schedules import parse_zone
from services.alerting.policy.tree import Inherited, read_route

SEVERITIES = ["critical", "error", "warning", "info"]
OWNERS = ["risk", "fraud", ""]
RECEIVERS = {"a": "info", "b": "error", "c": "critical", "d": "info"}
ROLES: dict[str, dict[str, Any]] = {
    "on-call": {"always": ["b", "a"], "by_owner": {}},
    "owner": {"always": [], "by_owner": {"risk": ["c", "role:on-call"], "*": ["d"]}},
    "nobody": {"always": [], "by_owner": {"fraud": ["a"]}},
}

targets = st.lists(st.sampled_from([*RECEIVERS, *(f"role:{r}" for r in ROLES)]), max_size=3)
match = st.dictionaries(
    st.sampled_from(["severity", "owner", "tag.x"]),
    st.one_of(
        st.sampled_from(["critical", "error", "info"]).map(lambda v: ("is", [v])),
        st.lists(st.sampled_from(["error", "warning"]), min_size=1, max_size=2).map(lambda v: ("is", v)),
        st.just(("not", ["critical"])),
    ),
    max_size=2,
)


def tree(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    inner = st.lists(tree(depth - 1), max_size=3) if depth else st.just([])
    return st.fixed_dictionaries(
        {"match": match, "continue": st.booleans(), "routes": inner},
        optional={"notify": targets, "group_by": st.sampled_from([[INCIDENT], ["owner"], ["severity", "tag.x"]])},
    )


def document(node: dict[str, Any]) -> dict[str, Any]:
    conditions = {
        label: ({"not": values} if kind == "not" else values) for label, (kind, values) in node["match"].items()
    }
    return {**node, "match": conditions, "routes": [document(inner) for inner in node["routes"]]}


def slow_tree(
    node: dict[str, Any], labels: dict[str, str], notify: list[str], path: str
) -> list[tuple[str, list[str]]]:
    """(path, notify) of every route that tells, read off the rules: children in order, stop unless continue."""
    notify = node.get("notify", notify)
    told: list[tuple[str, list[str]]] = []
    taken = False
    for number, inner in enumerate(node["routes"], 1):
        holds = True
        for label, (kind, values) in inner["match"].items():
            there = labels.get(label, "") in values
            holds = holds and (there if kind == "is" else not there)
        if holds:
            taken = True
            told.extend(slow_tree(inner, labels, notify, f"{path}/{number}"))
            if inner["continue"] is False:
                break
    return told if taken else [(path, notify)]


def slow_members(target: str, owner: str) -> list[str]:
    if not target.startswith("role:"):
        return [target]
    role = ROLES[target[5:]]
    by_owner = role["by_owner"][owner] if owner in role["by_owner"] else role["by_owner"].get("*", [])
    return [m for member in [*role["always"], *by_owner] for m in slow_members(member, owner)]


def slow_told(node: dict[str, Any], labels: dict[str, str]) -> dict[str, str]:
    """Receiver to path, in order."""
    found: dict[str, str] = {}
    for path, notify in slow_tree(node, labels, [], "route"):
        for target in notify:
            for receiver in slow_members(target, labels["owner"]):
                urgent = SEVERITIES.index(labels["severity"]) <= SEVERITIES.index(RECEIVERS[receiver])
                if urgent and receiver not in found:
                    found[receiver] = path
    return found


def policy_of(root: dict[str, Any]) -> Policy:
    problems = Problems()
    known = Known(frozenset(RECEIVERS), frozenset(ROLES))
    written = yaml.safe_dump({k: v for k, v in document(root).items() if k not in ("match", "continue")})
    route = read_route(read_yaml(written, problems), problems, known, parse_zone("UTC"), Inherited())
    assert problems.texts() == ()
    receivers = {
        name: TeamsReceiver(name=name, pace=PACES["teams"], minimum_severity=least, webhook_url=None)  # type: ignore[arg-type]
        for name, least in RECEIVERS.items()
    }
    roles = {
        name: Role(name, tuple(role["always"]), {o: tuple(m) for o, m in role["by_owner"].items()})
        for name, role in ROLES.items()
    }
    return Policy(receivers=receivers, route=route, roles=roles)


@settings(max_examples=120, deadline=None)
@given(tree(3))
def test_the_tree_tells_whom_a_literal_reading_of_the_rules_tells(root: dict[str, Any]) -> None:
    policy = policy_of(root)
    for severity, owner, tag in itertools.product(SEVERITIES, OWNERS, ["error", ""]):
        labels = {"severity": severity, "owner": owner, "tag.x": tag}
        found = assignments(policy, labels)
        assert [(a.receiver, a.route) for a in found] == list(slow_told(root, labels).items())
        for assignment in found:
            route = route_at(policy, assignment.route)
            expected = () if INCIDENT in route.group_by else tuple((n, labels.get(n, "")) for n in route.group_by)
            assert assignment.group_labels == expected


@settings(max_examples=50, deadline=None)
@given(tree(2))
def test_every_path_leads_to_its_route_and_to_no_other(root: dict[str, Any]) -> None:
    policy = policy_of(root)
    routes = list(walk(policy.route))
    assert len({route.path for route in routes}) == len(routes)
    assert all(route_at(policy, route.path) is route for route in routes)


def test_a_group_is_its_labels_or_the_incident() -> None:
    by_incident = Assignment("a", "route", (), "")
    assert by_incident.group_key("123") != by_incident.group_key("456")
    by_owner = Assignment("a", "route/x", (("owner", "risk,tag.x='y'"), ("tag.x", "")), "")
    other = Assignment("a", "route/x", (("owner", "risk"), ("tag.x", "y',tag.x=''")), "")
    assert by_owner.group_key("123") == by_owner.group_key("456") != other.group_key("123")


def test_a_reason_names_the_route_and_the_role(read: Callable[[str], Policy], whole: str) -> None:
    policy = read(whole)
    labels = {"severity": "critical", "tag.region": "eu", "deployment": "fraud-1", "monitor": "concept_drift"}
    told = {a.receiver: a.because for a in assignments(policy, {**labels, "owner": "risk-team"})}
    assert told == {
        "pager": "route/criticals, role on-call",
        "chat": "route/criticals, role on-call",
        "siem": "route/2, role model-owner",
    }
    told = {a.receiver: a.because for a in assignments(policy, {**labels, "owner": "else", "tag.region": ""})}
    assert told == {"siem": "route/2, role model-owner", "mail": "route/2, role model-owner of owners not named"}


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ("risk-team", [("mail", ""), ("siem", "role model-owner"), ("chat", "role model-owner of risk-team")]),
        ("", [("mail", ""), ("siem", "role model-owner")]),
    ],
)
def test_targets_are_resolved_once_each_with_the_first_reason(
    read: Callable[[str], Policy], whole: str, owner: str, expected: list[tuple[str, str]]
) -> None:
    assert list(resolve(read(whole), ["mail", "role:model-owner", "mail", "gone", "role:gone"], owner)) == expected
