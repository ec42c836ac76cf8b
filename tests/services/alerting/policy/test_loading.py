"""A routing file is read whole, or refused whole with the line of everything that is wrong in it."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.alerting.policy.durations import format_duration, parse_duration
from services.alerting.policy.loading import load_policy
from services.alerting.policy.matching import parse_match
from services.alerting.policy.model import (
    Correlation,
    EmailReceiver,
    OpsgenieReceiver,
    Pace,
    PagerDutyReceiver,
    Policy,
    SlackReceiver,
    Step,
    WebhookReceiver,
)
from services.alerting.policy.problems import PolicyError
from services.alerting.policy.routing import assignments, route_at, walk

Read = Callable[[str], Policy]
Refused = Callable[[str], tuple[str, ...]]

HOOK = "https://hooks.slack.com/services/T1/B1/webhook-canary"
ROUTE = "route: {notify: [a]}\n"


def test_a_file_that_uses_everything_means_what_it_says(read: Read, whole: str) -> None:
    policy = read(whole)
    receivers = policy.receivers
    assert list(receivers) == ["pager", "chat", "hook-chat", "mail", "siem", "teams", "genie", "any"]
    pager, chat, mail, siem, genie = (receivers[n] for n in ("pager", "chat", "mail", "siem", "genie"))
    assert isinstance(pager, PagerDutyReceiver) and isinstance(chat, SlackReceiver)
    assert isinstance(mail, EmailReceiver) and isinstance(siem, WebhookReceiver) and isinstance(genie, OpsgenieReceiver)
    assert (pager.fallback, pager.minimum_severity, pager.line) == ("mail", "error", 8)
    assert "eu.pagerduty" in pager.url and len(pager.webhook_secrets) == 2
    assert "eu.opsgenie" in genie.api_url
    assert chat.token is not None and chat.token.get_secret_value() == "xoxb-token-canary"
    assert chat.app_token is not None and chat.signing_secret is not None and chat.channel == "C0123"
    assert receivers["hook-chat"].send_resolved is False
    assert (mail.port, mail.security, mail.to) == (465, "tls", ("ops@example.org", "a@example.org"))
    assert (siem.pace, siem.timeout_seconds, siem.allow) == (Pace(0.5, 3), 10.0, ("10.20.0.0/16",))
    assert policy.public_url == "https://driftline.example.org/alerting"
    assert (policy.give_up_ms, policy.backlog_digest) == (12 * 3_600_000, 40)
    assert policy.correlation == Correlation(7_200_000, "source", 90_000, 600_000, 5)
    assert policy.watch.heartbeat_receivers == ("pager", "chat", "mail")
    assert (policy.watch.lag_ms, policy.watch.silent_topics) == (600_000, {"predictions": 3_600_000})
    assert re.fullmatch("[0-9a-f]{64}", policy.digest) and policy.origin.endswith("routing.yaml")
    assert "canary" not in repr(policy)


def test_routes_inherit_what_they_do_not_say(read: Read, whole: str) -> None:
    policy = read(whole)
    assert [route.path for route in walk(policy.route)] == [
        "route",
        "route/criticals",
        "route/2",
        "route/2/1",
        "route/3",
    ]
    root, criticals, second, inner = (route_at(policy, p) for p in ("route", "route/criticals", "route/2", "route/2/1"))
    assert (root.group_wait_ms, root.group_interval_ms, root.repeat_interval_ms) == (20_000, 360_000, 10_800_000)
    assert (criticals.group_wait_ms, criticals.group_interval_ms, criticals.escalate) == (0, 360_000, "standard")
    assert (second.group_by, second.active, second.group_wait_ms) == (("owner",), ("office-hours",), 20_000)
    assert (inner.group_by, inner.active, inner.notify) == (("incident",), (), ("role:everybody",))
    assert route_at(policy, "route/gone").path == "route", "a reload may have removed it"


def test_an_escalation_goes_on_with_another(read: Read, whole: str) -> None:
    chain = read(whole).escalations["standard"]
    hour = 3_600_000
    assert chain.repeat == 2
    assert chain.steps == (
        Step(hour // 4, ("role:on-call",)),
        Step(hour + hour // 2, ("mail",)),
        Step(3 * hour, ("role:everybody",)),
    )


def test_without_a_section_a_broken_pipeline_mutes_the_drift_it_causes(read: Read, minimal: str) -> None:
    (built_in,) = read(minimal + ROUTE).inhibitions
    assert built_in.source({"monitor": "data_quality", "severity": "warning"})
    assert not built_in.source({"monitor": "data_quality", "severity": "info"})
    assert built_in.target({"monitor": "prediction_drift"}) and not built_in.target({"monitor": "concept_drift"})
    assert read(minimal + ROUTE + "inhibit: []\n").inhibitions == ()


def test_an_empty_file_keeps_incidents_and_says_that_nobody_is_told(read: Read) -> None:
    policy = read("")
    assert policy.receivers == {} and policy.route.notify == ()
    assert any("nobody is told" in warning for warning in policy.warnings)


def test_text_stays_as_written(read: Read, minimal: str) -> None:
    """YAML's own ideas: no is false, 1.10 is 1.1, 10:30 is 630, 2027-06-01 is a date."""
    policy = read(
        minimal + "route:\n  notify: [a]\n  routes:\n"
        "    - {match: {tag.country: no, version: 1.10, tag.n: 007}, digest: {at: 10:30}}\n"
    )
    route = policy.route.routes[0]
    assert route.match({"tag.country": "no", "version": "1.10", "tag.n": "007"})
    assert route.digest is not None and route.digest.minute == 630


def test_anchors_and_merges_are_followed(read: Read, minimal: str) -> None:
    policy = read(
        minimal + "route:\n  notify: [a]\n  routes:\n"
        "    - &base {match: {severity: info}, notify: [b], group_wait: 1m}\n"
        "    - {<<: *base, match: {severity: error}}\n"
    )
    first, second = policy.route.routes
    assert (second.notify, second.group_wait_ms) == (first.notify, 60_000) and second.match({"severity": "error"})


WRONG: list[tuple[str, str]] = [
    # unknown names
    ("route: {notify: [mial, a]}", r"line 5: route\.notify\[1\]: there is no receiver 'mial': there are a, b, c"),
    ("roles: {on-call: [a]}\nroute: {notify: [role:oncall]}", "line 6: .*no role 'oncall': did you mean 'on-call'"),
    ("roles: {on-call: [a]}\nroute: {notify: [on-call]}", "line 6: .*for the role write role:on-call"),
    ("route: {notify: [a], active: [night]}", "line 5: .*there is no interval 'night'"),
    ("route: {notify: [a], escalate: high}", "line 5: .*there is no escalation 'high'"),
    ("route: {notify: [a]}\nroles: {x: [nobody]}", "line 6: roles.x.*there is no receiver 'nobody'"),
    ("route: {notify: [a]}\nescalations: {x: {steps: [{after: 1m, notify: [n]}]}}", "line 6: .*no receiver 'n'"),
    ("route: {notify: [a]}\nwatch: {notify: [n]}", "line 6: watch.notify.*no receiver 'n'"),
    ("route: {notify: [a]}\nwatch: {heartbeat: {notify: [role:n]}}", "line 6: .*no role 'n'"),
    ("route: {notify: ['https://x.org/canary']}", "line 5: .*expected the name of a receiver"),
    # loops
    (
        "roles:\n  x: [role:y]\n  y: {by_owner: {z: [role:x]}}\nroute: {notify: [role:x]}",
        "line 6: .*refers to itself: x → y → x",
    ),
    ("roles:\n  x: [role:x]\nroute: {notify: [role:x]}", "line 6: .*refers to itself: x → x"),
    (
        "route: {notify: [a]}\nescalations:\n  x: {steps: [{after: 1m, escalate: y}]}\n"
        "  y: {steps: [{after: 1m, escalate: x}]}",
        "line 7: .*goes on with itself: x → y → x",
    ),
    # times
    ("time_zone: Europe/Zurch\nroute: {notify: [a]}", "line 5: time_zone: .*did you mean 'Europe/Zurich'"),
    ("time_zone: ../../etc/passwd\nroute: {notify: [a]}", "line 5: .*there is no such time zone"),
    ("intervals: {x: [{days: mon, time_zone: Mars}]}\nroute: {notify: [a]}", "line 5: .*time_zone: there is no such"),
    ("intervals: {x: [{days: moon}]}\nroute: {notify: [a]}", "line 5: .*days: expected days such as mon"),
    ("intervals: {x: [{times: '8-18'}]}\nroute: {notify: [a]}", "line 5: .*times: expected a time of day"),
    ("intervals: {x: [{times: '08:00-08:00'}]}\nroute: {notify: [a]}", "line 5: .*times of some length"),
    ("intervals: {x: []}\nroute: {notify: [a]}", "line 5: intervals.x: expected a list"),
    ("intervals: {x: [{time_zone: UTC}]}\nroute: {notify: [a]}", "line 5: .*expected days, times or both"),
    ("route: {notify: [a], group_wait: 30}", r"line 5: route\.group_wait: expected a duration .*came '30'"),
    ("route: {notify: [a], group_wait: 5m30}", "line 5: .*group_wait: expected a duration"),
    ("route: {notify: [a], group_wait: -5m}", "line 5: .*group_wait: expected a duration"),
    ("route: {notify: [a], group_wait: 1000w}", "at most ten years"),
    ("route: {notify: [a], digest: {at: '25:00'}}", "line 5: .*digest.at: expected a time of day"),
    ("route: {notify: [a], digest: {at: '24:00'}}", "line 5: .*midnight is 00:00"),
    ("route: {notify: [a], digest: {days: mon}}", "line 5: .*digest: expected either"),
    ("route: {notify: [a], digest: {every: 1d, at: '09:00'}}", "line 5: .*digest: expected either"),
    ("route: {notify: [a], digest: {every: 1s}}", "line 5: .*every: expected a duration of at least 60 s"),
    # matches
    (
        "route: {notify: [a], routes: [{match: {deployment: {regex: '('}}}]}",
        "line 5: .*regex: not a regular expression",
    ),
    ("route: {notify: [a], routes: [{match: {deployment: {regex: '(a+)+b'}}}]}", "line 5: .*can be made slow"),
    (
        "route: {notify: [a], routes: [{match: {severity: [crit]}}]}",
        "line 5: .*no severity 'crit': did you mean 'critical'",
    ),
    ("route: {notify: [a], routes: [{match: {tags.eu: x}}]}", "line 5: .*no such label: did you mean 'tag.eu'"),
    ("route: {notify: [a], routes: [{match: {deploymnt: x}}]}", "line 5: .*no such label: did you mean 'deployment'"),
    ("route: {notify: [a], routes: [{match: {deployment: {glob: x}}}]}", "line 5: .*expected a text, a list"),
    ("route: {notify: [a], routes: [{match: {deployment: []}}]}", "line 5: .*expected 1 to 1000 values"),
    ("route: {notify: [a], routes: [{match: {deployment: }}]}", "line 5: .*for a label that is not there"),
    ("route: {notify: [a], routes: [{match: [x]}]}", "line 5: .*expected a mapping from labels to values, came a list"),
    # routes
    ("route: {notify: [a], match: {severity: info}}", "line 5: .*takes everything: 'match'"),
    ("route: {notify: [a], continue: true}", "line 5: .*takes everything: 'continue'"),
    ("route: {notify: [a], continu: true}", "line 5: .*no such field: did you mean 'continue'"),
    ("route: {notfy: [a]}", "line 5: route.notfy: there is no such field: did you mean 'notify'"),
    ("route: {receiver: a}", "line 5: .*write notify"),
    ("route: {notify: [a], group_by: [ownr]}", "line 5: .*no such label: did you mean 'owner'"),
    ("route: {notify: [a], group_by: [incident, owner]}", "line 5: .*'incident' stands alone"),
    ("route: {notify: [a], group_by: []}", r"line 5: .*\[incident\] for each incident"),
    ("route: {notify: [a], routes: [{name: x}, {name: x}]}", "line 5: .*two routes side by side are called 'x'"),
    ("route: {notify: [a], routes: [{name: '1'}]}", "line 5: .*that is no number"),
    ("route: {notify: [a], routes: [{name: a/b}]}", r"line 5: route\.routes\[1\]\.name"),
    ("route: {notify: [a], routes: {}}", "line 5: route.routes: expected a list of routes, came a mapping"),
    ("route: [a]", "line 5: route: expected a mapping"),
    ("route: {notify: [[a]]}", "line 5: .*came a list"),
    ("", "'route' is missing"),
    # what was begun and not ended
    ("route:\n  notify:\n", "line 6: route.notify: expected a receiver's name or role:NAME, or a list of that"),
    ("route: {notify: [a], routes: [{match: , notify: [b]}]}", "line 5: .*match: expected conditions"),
    ("route: {notify: [a], group_wait: }", "line 5: route.group_wait: expected a value, came nothing"),
    ("route: {notify: [a], group_by: }", "line 5: route.group_by: expected a label"),
    # the rest
    ("version: 2\nroute: {notify: [a]}", "line 5: version: expected one of 1, came '2'"),
    ("recievers: []\nroute: {notify: [a]}", "line 5: recievers: .*did you mean 'receivers'"),
    ("destinations: []\nroute: {notify: [a]}", "line 5: destinations: an earlier release"),
    ("route: {notify: [a]}\nroute: {notify: [b]}", "line 6: route: twice; first on line 5"),
    ("public_url: ftp://x\nroute: {notify: [a]}", "line 5: public_url: expected an http"),
    ("give_up: soon\nroute: {notify: [a]}", "line 5: give_up: expected a duration"),
    (
        "correlation: {across: team}\nroute: {notify: [a]}",
        "line 5: correlation.across: expected one of feature, source, none",
    ),
    ("sources: {s: {deployments: [x]}}\nroute: {notify: [a]}", "line 5: sources.s: 'features' is missing"),
    ("watch: {silent_topics: {alerts: 1h}}\nroute: {notify: [a]}", "line 5: .*alerts: there is no such field"),
    (
        "watch: {dead_man: {url: https://x.org/canary}}\nroute: {notify: [a]}",
        "line 5: watch.dead_man.url: a secret must not",
    ),
    ("inhibit: [{source: {monitor: service}}]\nroute: {notify: [a]}", "line 5: .*'target' is missing"),
    (
        "inhibit: [{source: {monitor: x}, target: {monitor: y}, equal: [z]}]\nroute: {notify: [a]}",
        r"line 5: .*equal\[1\]: .*no such",
    ),
    (
        "inhibit:\n- {name: x, source: {monitor: x}, target: {monitor: y}}\n"
        "- {name: x, source: {monitor: x}, target: {monitor: y}}\nroute: {notify: [a]}",
        "line 7: .*two inhibitions are called 'x'; the first is on line 6",
    ),
    ("escalations: {x: {steps: []}}\nroute: {notify: [a]}", "line 5: .*'steps' is missing"),
    (
        "escalations: {x: {steps: [{after: 5m, notify: [a]}, {after: 5m, notify: [b]}]}}\nroute: {notify: [a]}",
        "line 5: .*a step later than the one before",
    ),
    ("maintenance: [{name: m, match: {deployment: x}}]\nroute: {notify: [a]}", "line 5: .*'author' is missing"),
    (
        "maintenance: [{name: m, author: a, reason: r, from: 2026-01-01, to: 2026-01-02}]\nroute: {notify: [a]}",
        "'match' is",
    ),
    (
        "maintenance: [{name: m, match: {deployment: x}, author: a, reason: r, from: 2026-01-02, to: 2026-01-01}]\n"
        "route: {notify: [a]}",
        "line 5: .*expected an end after its beginning",
    ),
    (
        "maintenance: [{name: m, match: {deployment: x}, author: a, reason: r, weekly: [{days: mon}]}]\n"
        "route: {notify: [a]}",
        "line 5: .*'until' is missing",
    ),
    (
        "maintenance: [{name: m, match: {deployment: x}, author: a, reason: r, from: soon, to: 2026-01-01}]\n"
        "route: {notify: [a]}",
        "line 5: .*from: expected a moment such as",
    ),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_what_is_wrong_is_told_with_its_line(refused: Refused, minimal: str, text: str, said: str) -> None:
    problems = refused(f"{minimal}{text}\n")
    assert any(re.search(said, problem) for problem in problems), problems
    assert len(problems) == 1 or said.startswith(("line 5: .*'author'", "line 5: .*takes")), problems


RECEIVERS: list[tuple[str, str]] = [
    ("type: teams, webhook_url_file: url", "line 2: .*'name' is missing"),
    ("name: x", "line 2: .*'type' is missing"),
    ("name: , type: teams, webhook_url_file: url", "line 2: .*'name' is missing"),
    ("name: x, type: teams, webhook_url_file: url, fallback: ", "line 2: .*fallback: expected a value, came nothing"),
    ("name: x, type: pager", "line 2: .*type: there is no such type of receiver: did you mean 'pagerduty'"),
    ("name: a b, type: teams, webhook_url_file: url", "line 2: .*name: expected a name"),
    ("name: x, type: teams", "line 2: .*'webhook_url_file' is missing"),
    ("name: x, type: pagerduty", "it has no routing key: give routing_key_file"),
    ("name: x, type: pagerduty, routing_key: key-canary", "routing_key: a secret must not stand in this file"),
    ("name: x, type: slack, token: xoxb-canary, channel: C", "token: a secret must not stand in this file"),
    ("name: x, type: slack, webhook_url: https://x.org/canary", "webhook_url: a secret must not stand"),
    ("name: x, type: opsgenie, api_key: canary", "api_key: a secret must not stand"),
    ("name: x, type: apprise, url: matrix://canary", "url: a secret must not stand"),
    (
        "name: x, type: email, host: h, sender: a@b, to: [c@d], username: u, password: canary",
        "password: a secret must not stand",
    ),
    ("name: x, type: webhook, url: https://h.org, signing_secret: canary", "signing_secret: a secret must not stand"),
    ("name: x, type: webhook, url: 'https://u:canary@h.org'", "an address with a password is a secret"),
    ("name: x, type: webhook, url: http://h.org/canary", "begins with https"),
    ("name: x, type: webhook, url: https://h.org, url_file: url", "two addresses"),
    ("name: x, type: webhook", "'url' is missing"),
    ("name: x, type: webhook, url: https://h.org, signing_secret_file: key", "expected as a signing secret whsec_"),
    ("name: x, type: webhook, url: https://h.org, allow: [10.0.0.1/8]", r"allow\[1\]: expected a network"),
    (
        "name: x, type: slack, token_file: canary/file, channel: C",
        "token_file: the secret's file cannot be read: No such file",
    ),
    (
        "name: x, type: slack, token_env: CANARY_canary, channel: C",
        "token_env: the environment variable of this name is not set",
    ),
    ("name: x, type: slack", "it has no secret: give webhook_url_file"),
    ("name: x, type: slack, token_file: key", "it has a token but no channel"),
    ("name: x, type: slack, token_file: key, webhook_url_file: url, channel: C", "a token and a webhook's address"),
    ("name: x, type: slack, webhook_url_file: key", "webhook_url_file: expected an http"),
    ("name: x, type: email, host: h, sender: a@b", "'to' is missing"),
    ("name: x, type: email, host: h, sender: a, to: b@c", "sender: expected an address such as"),
    ('name: x, type: email, host: h, sender: a@b, to: ["c@d\\r\\nBcc: e@f"]', "to.*: expected an address such as"),
    ("name: x, type: email, host: h, sender: a@b, to: c@d, security: none", "only for a mail server on this machine"),
    ("name: x, type: email, host: h, sender: a@b, to: c@d, username: u", "a username needs password_file"),
    ("name: x, type: email, host: h, sender: a@b, to: c@d, ca_file: none.pem", "ca_file: there is no such file"),
    ("name: x, type: email, host: h, sender: a@b, to: c@d, port: 0", "port: expected a whole number"),
    ("name: x, type: teams, webhook_url_file: url, burst: 0", "burst: expected a whole number"),
    ("name: x, type: teams, webhook_url_file: url, rate_per_second: nan", "rate_per_second: expected a number"),
    ("name: x, type: teams, webhook_url_file: url, minimum_severity: bad", "expected one of critical, error"),
    ("name: x, type: teams, webhook_url_file: url, fallback: y", "fallback: there is no receiver 'y'"),
    ("name: x, type: teams, webhook_url_file: url, fallback: x", "fallback: .*leads back to itself: x → x"),
    ("name: x, type: teams, webhook_url_file: url, chanel: canary", "chanel: there is no such field"),
    ("name: x, type: teams, webhook_url_file: url, send_resolved: maybe", "send_resolved: expected true or false"),
    ("name: x, type: teams, webhook_url_file: url, timeout: 10m", "timeout: expected a duration"),
]


@pytest.mark.parametrize(("text", "said"), RECEIVERS, ids=[said[:40] for _, said in RECEIVERS])
def test_a_wrong_receiver_is_told_without_any_value(refused: Refused, text: str, said: str) -> None:
    problems = refused(f"receivers:\n  - {{{text}}}\nroute: {{}}\n")
    assert len(problems) == 1, problems
    assert re.search(said, problems[0]) and problems[0].startswith("line 2: "), problems


def test_every_problem_is_told_at_once_in_the_order_of_the_file(refused: Refused, minimal: str) -> None:
    problems = refused(f"{minimal}time_zone: X\ngive_up: y\nroute:\n  notify: [n]\n  group_wait: z\n")
    assert [problem.partition(":")[0] for problem in problems] == ["line 5", "line 6", "line 8", "line 9"]


def test_hostile_names_of_fields_are_harmless_in_messages(refused: Refused) -> None:
    hostile = "\x1b[31m\n<!channel>\u202e" + "x" * 5000
    with pytest.raises(PolicyError) as caught:
        parse_match({hostile: "a", "deployment": {hostile: "b"}}, "silence")
    written = json.dumps(hostile[:500])
    for problem in (*caught.value.problems, *refused(f"{{{written}: 1, route: {{match: {{{written}: a}}}}}}\n")):
        assert problem.isprintable() and len(problem) < 500


def test_what_is_inherited_can_be_undone(read: Read, minimal: str) -> None:
    policy = read(
        minimal
        + "intervals: {i: [{days: mon}]}\nescalations: {e: {steps: [{after: 1h, notify: [a]}]}}\n"
        + "route:\n  notify: [a]\n  active: [i]\n  escalate: e\n  digest: {every: 1d}\n  group_by: [owner]\n"
        + "  routes:\n    - {match: {severity: critical}, active: [], escalate: none, digest: none,\n"
        + "       group_by: [incident]}\n"
        + "    - {match: {severity: error}, notify: []}\n"
    )
    undone, kept = policy.route.routes
    assert (undone.active, undone.escalate, undone.digest, undone.group_by) == ((), "", None, ("incident",))
    assert (kept.active, kept.escalate, kept.group_by, kept.notify) == (("i",), "e", ("owner",), ())
    assert kept.digest == policy.route.digest is not None


def test_two_receivers_of_one_name_are_refused(refused: Refused, minimal: str) -> None:
    again = "  - {name: a, type: teams, webhook_url_file: url}\n"
    assert refused(minimal + again + ROUTE) == (
        "line 5: receivers[4].name: two receivers are called 'a'; the first is on line 2",
    )


def test_long_ways_are_gone_and_too_many_are_refused(read: Read, refused: Refused) -> None:
    def text(receivers: int, roles: int) -> str:
        named = "".join(
            f"  - {{name: r{n}, type: teams, webhook_url_file: url, fallback: r{n + 1}}}\n" for n in range(receivers)
        )
        last = f"  - {{name: r{receivers}, type: teams, webhook_url_file: url}}\n"
        chain = "".join(f"  q{n}: [role:q{n + 1}]\n" for n in range(roles)) + f"  q{roles}: [r0]\n"
        return f"receivers:\n{named}{last}roles:\n{chain}route: {{notify: [role:q0]}}\n"

    policy = read(text(490, 490))
    assert policy.warnings == ()
    assert [a.receiver for a in assignments(policy, {})] == ["r0"]
    assert any("at most 500" in problem for problem in refused(text(501, 1)))
    assert any("at most 500" in problem for problem in refused(text(1, 501)))


def test_a_loop_of_fallbacks_is_refused(refused: Refused) -> None:
    text = "receivers:\n" + "".join(
        f"  - {{name: {name}, type: teams, webhook_url_file: url, fallback: {to}}}\n"
        for name, to in (("a", "b"), ("b", "c"), ("c", "b"))
    )
    assert refused(text + ROUTE) == ("line 3: receivers[2].fallback: the fallback leads back to itself: b → c → b",)


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "- 1\n",
        "a: b: c",
        "&a [*a]",
        "x: !!python/object/apply:os.system [canary]",
        "\x00",
        "'",
        "{" * 2000,
        "a: &a [x]\nb: *c\n",
        "--- a\n--- b\n",
        "? {a: b}\n: c\n",
        "<<: 5\n",
        "receivers: [5, null, [x]]\nroute: {}\n",
        "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
    ],
)
def test_what_is_no_routing_file_is_refused(refused: Refused, text: str) -> None:
    assert refused(text)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"#" * (2 << 20))
    for name, said in (("none", "No such file"), ("binary", "UTF-8"), ("large", "at most"), (".", "directory")):
        with pytest.raises(PolicyError, match=said):
            load_policy(tmp_path / name, {})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(cut=st.integers(0, 4000), junk=st.text(max_size=6), drop=st.integers(0, 40))
def test_a_damaged_file_is_read_or_refused_and_never_anything_else(
    tmp_path: Path, whole: str, cut: int, junk: str, drop: int
) -> None:
    signing = "whsec_" + base64.b64encode(b"canary" * 5).decode()
    for name, text in (("key", "key-canary"), ("url", "https://x.org/canary"), ("sign", signing)):
        (tmp_path / name).write_text(text)
    at = cut % len(whole)
    path = tmp_path / "damaged.yaml"
    path.write_bytes((whole[:at] + junk + whole[at + drop :]).encode("utf-8", "surrogatepass"))
    try:
        policy = load_policy(path, {"TOKEN": "canary"})
    except PolicyError as error:
        said = str(error)
    else:
        said = repr(policy)
    assert "canary" not in said


@given(st.integers(0, 10 * 366 * 86_400_000))
def test_durations_are_read_back_as_they_were_written(duration_ms: int) -> None:
    assert parse_duration(format_duration(duration_ms)) == duration_ms


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("0", 0), ("0s", 0), ("90s", 90_000), ("1h30m", 5_400_000), ("1w", 604_800_000), ("500ms", 500)],
)
def test_durations_mean_what_they_say(text: str, duration_ms: int) -> None:
    assert parse_duration(text) == duration_ms


def test_nothing_is_configured_by_default() -> None:
    policy = load_policy(None, {})
    assert policy.receivers == {} and policy.origin == "environment"


def test_the_environment_makes_a_receiver_per_vendor_that_is_told_everything(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key-canary\n")
    environment = {
        "DRIFTLINE_PAGERDUTY_ROUTING_KEY_FILE": str(tmp_path / "key"),
        "DRIFTLINE_PAGERDUTY_MINIMUM_SEVERITY": "error",
        "DRIFTLINE_PAGERDUTY_URL": "http://127.0.0.1:8080/v2/enqueue",
        "DRIFTLINE_SLACK_WEBHOOK_URL": HOOK,
        "DRIFTLINE_ALERTING_GROUP_WAIT": "0s",
        "DRIFTLINE_ALERTING_GIVE_UP_HOURS": "2",
    }
    policy = load_policy(None, environment)
    pagerduty, slack = policy.receivers.values()
    assert isinstance(pagerduty, PagerDutyReceiver) and isinstance(slack, SlackReceiver)
    assert (pagerduty.name, pagerduty.minimum_severity) == ("pagerduty", "error")
    assert pagerduty.url == "http://127.0.0.1:8080/v2/enqueue"
    assert pagerduty.routing_key.get_secret_value() == "key-canary"
    assert slack.webhook_url is not None and slack.webhook_url.get_secret_value() == HOOK
    assert policy.route.notify == ("pagerduty", "slack") and policy.route.group_wait_ms == 0
    assert policy.give_up_ms == 7_200_000
    assert policy.secrets() == ["key-canary", HOOK] and "canary" not in repr(policy)
    (tmp_path / "key").write_text("another-canary\n")
    assert load_policy(None, environment).digest == policy.digest, "the digest must tell nothing of a secret"
    assert load_policy(None, environment | {"DRIFTLINE_ALERTING_GROUP_WAIT": "1s"}).digest != policy.digest


def test_a_token_needs_a_channel() -> None:
    token = {"DRIFTLINE_SLACK_TOKEN": "xoxb-canary"}
    slack = load_policy(None, {**token, "DRIFTLINE_SLACK_CHANNEL": "C1"}).receivers["slack"]
    assert isinstance(slack, SlackReceiver)
    assert (slack.channel, slack.api_url, slack.webhook_url) == ("C1", "https://slack.com/api/", None)
    with pytest.raises(PolicyError, match="DRIFTLINE_SLACK_CHANNEL"):
        load_policy(None, token)


@pytest.mark.parametrize(
    "environment",
    [
        {"DRIFTLINE_PAGERDUTY_ROUTING_KEY": "canary", "DRIFTLINE_PAGERDUTY_MINIMUM_SEVERITY": "bad"},
        {"DRIFTLINE_PAGERDUTY_ROUTING_KEY": "canary with spaces"},
        {"DRIFTLINE_PAGERDUTY_ROUTING_KEY_FILE": "/does/not/exist/canary"},
        {"DRIFTLINE_SLACK_WEBHOOK_URL": "http://example.org/canary"},
        {"DRIFTLINE_ALERTING_GROUP_WAIT": "5"},
        {"DRIFTLINE_ALERTING_GIVE_UP_HOURS": "long"},
        {"DRIFTLINE_ALERTING_PUBLIC_URL": "nowhere"},
    ],
)
def test_a_wrong_variable_is_refused_by_name_without_a_secret(environment: dict[str, str]) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(None, environment)
    assert "canary" not in str(caught.value)
    assert "DRIFTLINE_" in str(caught.value) or "routing key" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://hooks.example.org/x", "ftp://x.org/", "https://", "https://a b/", "//x/y", "https://x:99999/"]
)
def test_secrets_travel_by_https_only(url: str) -> None:
    for name in ("DRIFTLINE_PAGERDUTY_URL", "DRIFTLINE_SLACK_API_URL"):
        environment = {
            "DRIFTLINE_PAGERDUTY_ROUTING_KEY": "key",
            "DRIFTLINE_SLACK_TOKEN": "xoxb-1",
            "DRIFTLINE_SLACK_CHANNEL": "C1",
            name: url,
        }
        with pytest.raises(PolicyError, match="http"):
            load_policy(None, environment)


def test_secrets_of_the_environment_serve_receivers_that_name_none_of_their_own(write: Any) -> None:
    path = write(
        "receivers: [{name: p, type: pagerduty}, {name: q, type: pagerduty, routing_key_file: key}]\nroute: {}\n"
    )
    own = {"DRIFTLINE_PAGERDUTY_ROUTING_KEY": "of-environment", "DRIFTLINE_PAGERDUTY_WEBHOOK_SECRET": "back"}
    first, second = load_policy(path, own).receivers.values()
    assert isinstance(first, PagerDutyReceiver) and isinstance(second, PagerDutyReceiver)
    assert [first.routing_key.get_secret_value(), len(first.webhook_secrets)] == ["of-environment", 1]
    assert [second.routing_key.get_secret_value(), len(second.webhook_secrets)] == ["key-canary", 0]


def test_a_file_can_be_looked_at_where_its_secrets_are_not(tmp_path: Path, whole: str, read: Read) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "routing.yaml").write_text(whole)
    policy = load_policy(elsewhere / "routing.yaml", {}, read_secrets=False)
    assert set(policy.secrets()) <= {"not-read", "https://not-read.invalid/", "http://10.20.0.7:8080/in"}
    with_secrets = read(whole)
    same = [f.name for f in dataclasses.fields(Policy) if f.name not in ("receivers", "watch", "origin")]
    assert [n for n in same if repr(getattr(policy, n)) != repr(getattr(with_secrets, n))] == []
