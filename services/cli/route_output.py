"""How ``driftline route`` shows a policy, and what it decides of an alert, to people."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from rich.tree import Tree

from services.alerting.policy.durations import format_duration
from services.alerting.policy.model import INCIDENT, Digest, Period, Policy, Route
from services.alerting.policy.receivers import type_of
from services.alerting.policy.routing import walk
from services.alerting.policy.schedules import DAYS
from services.alerting.policy.times import is_on, next_edge_ms
from services.cli.output import print_table, safe, stdout

_ASKED = ("deployment", "monitor", "severity", "owner")


def summary(policy: Policy) -> str:
    """In a line."""
    counts = [
        (len(policy.receivers), "receiver"),
        (sum(1 for _ in walk(policy.route)), "route"),
        (len(policy.roles), "role"),
        (len(policy.escalations), "escalation"),
        (len(policy.maintenance), "maintenance"),
    ]
    return ", ".join(f"{n} {what}{'' if n == 1 or what == 'maintenance' else 's'}" for n, what in counts if n)


def print_policy(policy: Policy, now_ms: int) -> None:
    """Everything, as it was understood."""
    stdout.print(f"[bold]{safe(policy.origin)}[/]  {safe(summary(policy))}", highlight=False, soft_wrap=True)
    print_table(
        ("receiver", "type", "takes", "at most", "fallback", "line"),
        [
            (
                r.name,
                type_of(r),
                "everything" if r.minimum_severity == "info" else f"{r.minimum_severity} and worse",
                f"{r.pace.per_second:.3g}/s, {r.pace.burst} at once",
                r.fallback,
                r.line or "",
            )
            for r in policy.receivers.values()
        ],
    )
    if policy.roles:
        print_table(
            ("role", "owner", "who"),
            [
                (role.name, owner, ", ".join(who))
                for role in policy.roles.values()
                for owner, who in [*([("", role.always)] if role.always else []), *role.by_owner.items()]
            ],
        )
    stdout.print(_tree(_node(policy.route)))
    _print_chains(policy)
    _print_times(policy, now_ms)
    for warning in policy.warnings:
        stdout.print(f"[yellow]warning[/] {safe(warning)}", soft_wrap=True, highlight=False)


def _print_chains(policy: Policy) -> None:
    if policy.escalations:
        print_table(
            ("escalation", "after", "who", "again"),
            [
                (
                    chain.name if n == 0 else "",
                    format_duration(step.after_ms),
                    ", ".join(step.notify),
                    f"{chain.repeat} times" if chain.repeat and n == len(chain.steps) - 1 else "",
                )
                for chain in policy.escalations.values()
                for n, step in enumerate(chain.steps)
            ],
        )
    if policy.inhibitions:
        print_table(
            ("inhibition", "while this fires", "this is muted", "with the same"),
            [
                (i.name, _conditions(i.source.tests), _conditions(i.target.tests), ", ".join(i.equal))
                for i in policy.inhibitions
            ],
        )


def _print_times(policy: Policy, now_ms: int) -> None:
    if policy.intervals:
        print_table(
            ("interval", "times"),
            [(name, "; ".join(map(_period, periods))) for name, periods in policy.intervals.items()],
        )
    if policy.maintenance:
        rows = []
        for each in policy.maintenance:
            edge = next_edge_ms(each, now_ms)
            state = "over" if now_ms >= each.ends_ms else "on until" if is_on(each, now_ms) else "next"
            rows.append(
                (each.name, _conditions(each.match.tests), state, _time(edge) if edge else "", each.author, each.reason)
            )
        print_table(("maintenance", "of", "", "(UTC)", "author", "reason"), rows)


def print_tree(found: Mapping[str, Any]) -> None:
    """What the running service has in force."""
    stdout.print(f"[bold]{safe(found['origin'])}[/]  {safe(found['digest'][:12])}", highlight=False, soft_wrap=True)
    stdout.print(_tree(found["route"]))
    for trouble in found["trouble"]:
        stdout.print(f"[red]trouble[/] {safe(trouble)}", soft_wrap=True, highlight=False)
    for warning in found["warnings"]:
        stdout.print(f"[yellow]warning[/] {safe(warning)}", soft_wrap=True, highlight=False)


def _node(route: Route) -> dict[str, Any]:
    """As the HTTP interface tells of a route."""
    return {
        "path": route.path,
        "match": [f"{test.label}: {test.source}" for test in route.match.tests],
        "notify": list(route.notify),
        "group_by": list(route.group_by),
        "group_wait_seconds": route.group_wait_ms / 1000,
        "group_interval_seconds": route.group_interval_ms / 1000,
        "repeat_interval_seconds": route.repeat_interval_ms / 1000,
        "active": list(route.active),
        "escalate": route.escalate,
        "digest": route.digest and _digest(route.digest),
        "go_on": route.go_on,
        "routes": [_node(inner) for inner in route.routes],
    }


def _tree(node: Mapping[str, Any], tree: Tree | None = None) -> Tree:
    who = ", ".join(node["notify"]) or "nobody"
    conditions = ", ".join(node["match"]) or "everything"
    waits = [
        format_duration(round(node[f"{name}_seconds"] * 1000))
        for name in ("group_wait", "group_interval", "repeat_interval")
    ]
    digest = node["digest"]
    facts = [
        "" if node["group_by"] == [INCIDENT] else f"by {', '.join(node['group_by'])}",
        f"waits {' / '.join(waits)}",
        f"in {' or '.join(node['active'])}" if node["active"] else "",
        f"digest{'' if digest is True else f' {digest}'}" if digest else "",
        f"escalates by {node['escalate']}" if node["escalate"] else "",
        "and goes on" if node["go_on"] else "",
    ]
    text = (
        f"[bold]{safe(node['path'])}[/]  {safe(conditions)} → [cyan]{safe(who)}[/]  "
        f"[dim]{safe(', '.join(filter(None, facts)))}[/]"
    )
    grown = Tree(text) if tree is None else tree.add(text)
    for inner in node["routes"]:
        _tree(inner, grown)
    return grown


def print_explanation(found: Mapping[str, Any]) -> None:
    """Who is told of an alert, when and why."""
    labels = found["labels"]
    named = [*(n for n in _ASKED if n in labels), *(n for n in labels if n not in _ASKED)]
    text = "  ".join(f"[dim]{safe(name)}[/] {safe(_short(labels[name]))}" for name in named)
    stdout.print(text or "[dim]an alert without labels[/]", soft_wrap=True, highlight=False)
    now_ms = found["now_ms"]
    stdout.print(f"[dim]as if it fired at {_time(now_ms)} UTC[/]", highlight=False)
    for mute in found["muted"]:
        word = "[yellow]muted[/]" if mute["certain"] else "[dim]may be muted[/]"
        until = f" until {_time(mute['until_ms'])} UTC" if mute["until_ms"] else ""
        said = f"by {mute['kind']} {mute['name']}{until}: {mute['reason']}"
        stdout.print(f"{word} {safe(said)}", soft_wrap=True, highlight=False)
    _print_visited(found["visited"])
    _print_told(found["told"], now_ms)
    for left in found["left_out"]:
        said = f"{left['receiver']} is not told by {left['route']}: {left['why']}"
        stdout.print(f"[dim]{safe(said)}[/]", soft_wrap=True, highlight=False)
    if found["stages"]:
        print_table(
            ("while nobody takes it", "after", "(UTC)", "told", "why"),
            [
                (
                    f"{s['escalation']}, step {s['number']}",
                    format_duration(s["after_ms"]),
                    _time(s["at_ms"]),
                    ", ".join(s["receivers"]) or "nobody",
                    s["why"],
                )
                for s in found["stages"]
            ],
        )


def _print_visited(visited: Sequence[Mapping[str, Any]]) -> None:
    if not visited:
        return
    trees: list[Tree] = []
    for each in visited:
        mark = "[green]✓[/]" if each["matched"] else "[red]✗[/]"
        path = f"[bold]{safe(each['path'])}[/]" if each["matched"] else f"[dim]{safe(each['path'])}[/]"
        tells = "  [cyan]→ tells[/]" if each["tells"] else ""
        text = f"{mark} {path}  {safe(_short(each['why']))}{tells}"
        depth = each["depth"]
        del trees[depth:]
        trees.append(trees[-1].add(text) if trees else Tree(text))
    stdout.print(trees[0])


def _print_told(told: Sequence[Mapping[str, Any]], now_ms: int) -> None:
    if not told:
        stdout.print("[bold yellow]Nobody is told.[/]")
        return
    stdout.print("[bold]Told[/]")
    for each in told:
        after = (each["first_ms"] - now_ms) // 1000 * 1000
        when = "at once" if after <= 0 else f"after {format_duration(after)}, at {_time(each['first_ms'])} UTC"
        waits = f" ({', '.join(each['waits'])})" if each["waits"] else ""
        said = f"({each['type']}): {when}{waits}, by {each['because']}"
        stdout.print(f"  [cyan]{safe(each['receiver'])}[/] {safe(said)}", soft_wrap=True, highlight=False)
        stdout.print(f"    [dim]{safe(_then(each))}[/]", soft_wrap=True, highlight=False)


def _then(told: Mapping[str, Any]) -> str:
    if told["gathered"]:
        said = ["in one digest with what else is gathered"]
    else:
        groups = ", ".join(_short(each) if not each.endswith("=") else f"no {each[:-1]}" for each in told["group"])
        reminder = told["repeat_interval_ms"]
        said = [
            f"one message for {groups or 'each incident'}",
            f"changes at least {format_duration(told['group_interval_ms'])} apart",
            f"a reminder after {format_duration(reminder)}" if reminder else "no reminder",
        ]
    return ", ".join(said if told["send_resolved"] else [*said, "not told of the end"])


def _conditions(tests: Sequence[Any]) -> str:
    return ", ".join(f"{test.label}: {test.source}" for test in tests)


def _period(period: Period) -> str:
    end = f"{period.end_minute // 60:02}:{period.end_minute % 60:02}"
    return (
        f"{_days(period.days)} {period.start_minute // 60:02}:{period.start_minute % 60:02}-{end} {_zone(period.zone)}"
    )


def _digest(digest: Digest) -> str:
    if digest.every_ms is not None:
        return f"every {format_duration(digest.every_ms)}"
    return f"at {digest.minute // 60:02}:{digest.minute % 60:02} {_days(digest.days)} {_zone(digest.zone)}"


def _days(days: frozenset[int]) -> str:
    if len(days) == len(DAYS):
        return "daily"
    return "mon-fri" if days == frozenset(range(5)) else ",".join(DAYS[day] for day in sorted(days))


def _zone(zone: ZoneInfo) -> str:
    return zone.key


def _time(time_ms: int) -> str:
    try:
        return f"{dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC):%a %Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return "never"


def _short(text: object) -> str:
    said = str(text)
    return said if len(said) <= 200 else f"{said[:200]}…"
