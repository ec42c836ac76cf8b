"""From a routing file, or from the environment alone, to a policy; whole, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

from services.alerting.policy.document import MOST_BYTES, Node, read_yaml
from services.alerting.policy.environment import GIVE_UP_HOURS, give_up_ms, policy_of_environment
from services.alerting.policy.fields import NAME, Fields, as_text
from services.alerting.policy.linting import lint
from services.alerting.policy.model import GIVE_UP_MS, Policy, Receiver, Route
from services.alerting.policy.problems import Problems
from services.alerting.policy.receivers import read_receivers
from services.alerting.policy.references import Known, refer, refuse_loops
from services.alerting.policy.schedules import zone_of
from services.alerting.policy.secrets import Secrets, check_url
from services.alerting.policy.sections import (
    built_in_inhibitions,
    read_correlation,
    read_escalations,
    read_inhibitions,
    read_intervals,
    read_maintenance,
    read_roles,
    read_sources,
    read_watch,
)
from services.alerting.policy.tree import ROOT, Inherited, read_defaults, read_route

_RETIRED = {
    "destinations": "an earlier release had destinations: name receivers, and a route that notifies them",
}
_UTC = ZoneInfo("UTC")
_MOST_RECEIVERS = 500


def load_policy(path: Path | None, environment: Mapping[str, str], *, read_secrets: bool = True) -> Policy:
    """The policy of a routing file; of the environment alone where there is none.

    Args:
        path: YAML. Files that it names by a relative path are looked for from its own folder.
        environment: Variables that secrets are in, and the defaults.
        read_secrets: False puts placeholders in place of secrets, to look at a file where they are not.

    Raises:
        PolicyError: Anything is wrong; all of it is named, with lines, and never with a secret's text.
    """
    if path is None:
        return _with_warnings(policy_of_environment(environment, read_secrets=read_secrets))
    problems = Problems()
    data = b""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        problems.add(0, "", f"expected a readable file: {error.strerror or type(error).__name__}")
    except UnicodeError:
        problems.add(0, "", "expected text in UTF-8")
    problems.refuse(str(path))
    policy = _read(text, problems, Secrets(environment, path.parent, read=read_secrets))
    problems.refuse(str(path))
    return _with_warnings(replace(policy, digest=hashlib.sha256(data).hexdigest(), origin=str(path)))


def _with_warnings(policy: Policy) -> Policy:
    return replace(policy, warnings=lint(policy))


def _read(text: str, problems: Problems, secrets: Secrets) -> Policy:
    fields = Fields(read_yaml(text, problems), problems)
    if fields.take("version") is not None:
        fields.choice("version", ("1",), "1")
    zone = zone_of(fields, _UTC)
    public_url = fields.parsed("public_url", "", lambda text: check_url(text, plain=True)).rstrip("/")
    give_up = fields.duration_ms("give_up", _give_up_default(fields, secrets), least_ms=1000)
    backlog = fields.whole("backlog_digest", 50, least=0, most=1_000_000)

    receiver_nodes = fields.items("receivers", "receivers such as {name: mail, type: email, …}")
    if len(receiver_nodes) > _MOST_RECEIVERS:
        problems.add(0, "receivers", f"expected at most {_MOST_RECEIVERS}, came {len(receiver_nodes)}")
        receiver_nodes = ()
    sections = {name: fields.named(name, what) for name, what in _NAMED.items()}
    known = Known(
        _names(receiver_nodes),
        frozenset(sections["roles"]),
        frozenset(sections["intervals"]),
        frozenset(sections["escalations"]),
    )
    receivers = read_receivers(receiver_nodes, problems, secrets)
    _check_fallbacks(receivers, receiver_nodes, known, problems)
    roles = read_roles(sections["roles"], problems, known)
    start = read_defaults(fields.take("defaults"), problems)
    inhibit = fields.items("inhibit", "inhibitions") if "inhibit" in fields else None
    fields.take("inhibit")
    policy = Policy(
        receivers=receivers,
        route=_route(fields, known, zone, start),
        roles=roles,
        escalations=read_escalations(sections["escalations"], problems, known),
        intervals=read_intervals(sections["intervals"], problems, zone),
        inhibitions=built_in_inhibitions() if inhibit is None else read_inhibitions(inhibit, problems),
        maintenance=read_maintenance(fields.items("maintenance", "maintenances"), problems, zone),
        sources=read_sources(sections["sources"], problems),
        correlation=read_correlation(fields.take("correlation"), problems),
        watch=read_watch(fields.take("watch"), problems, known, secrets, roles),
        give_up_ms=give_up,
        backlog_digest=backlog,
        public_url=public_url,
    )
    fields.end(_RETIRED)
    return policy


_NAMED = {
    "roles": "receivers: {on-call: [pager]}",
    "intervals": "times: {office-hours: [{days: mon-fri}]}",
    "escalations": "steps: {standard: {steps: […]}}",
    "sources": "features: {feed: {features: […]}}",
}


def _give_up_default(fields: Fields, secrets: Secrets) -> int:
    try:
        return give_up_ms(secrets.environment)
    except ValueError as error:
        fields.problems.add(0, GIVE_UP_HOURS, str(error))
        return GIVE_UP_MS


def _route(fields: Fields, known: Known, zone: ZoneInfo, start: Inherited) -> Route:
    node = fields.take(ROOT)
    if node is None:
        if known.receivers:
            fields.missing(ROOT, "the tree of routes: {notify: […], routes: […]}")
        node = Node({}, fields.node.line, ROOT)
    return read_route(node, fields.problems, known, zone, start)


def _names(nodes: tuple[Node, ...]) -> frozenset[str]:
    """What the receivers are called, also those that are wrong otherwise."""
    named = (node.value.get("name") for node in nodes if isinstance(node.value, Mapping))
    return frozenset(as_text(node) for node in named if node is not None and NAME.fullmatch(as_text(node)))


def _check_fallbacks(
    receivers: Mapping[str, Receiver], nodes: tuple[Node, ...], known: Known, problems: Problems
) -> None:
    edges: dict[str, list[str]] = {}
    places: dict[str, tuple[int, str]] = {}
    for node in nodes:
        if not isinstance(node.value, Mapping) or "name" not in node.value:
            continue
        name, fallback = as_text(node.value["name"]), node.value.get("fallback")
        if fallback is None or not as_text(fallback):
            continue
        if refer(fallback, as_text(fallback), "receiver", known, problems):
            edges[name] = [as_text(fallback)]
            places[name] = (fallback.line, fallback.where)
    refuse_loops("the fallback leads back to itself", edges, places, problems)
