"""What a receiver is told next: held against a slow reference that looks at every second, written on its own."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.alerting.incidents.views import Entry, Incident, Mute, Signal
from services.alerting.notify.kinds import Kind
from services.alerting.notify.planning import CLOSED, OPEN, WAITING, Plan, Rules, Thread, Told, plan

SECOND = 1000
MINUTE = 60 * SECOND
SEVERITIES = ["critical", "error", "warning", "info"]


def signal(severity: str, firing: bool, muted: bool) -> Signal:
    mute = Mute("silence", "s1", "ada: known", None) if muted else None
    status = "firing" if firing else "resolved"
    return Signal(1, "key", 1, "alerts", status, severity, {}, 0, 0, None if firing else 1, None, None, None, mute)


class World:
    """One incident, changed by hand."""

    def __init__(self, incident_id: str = "a", severity: str = "warning", now_ms: int = 0) -> None:
        self.muted = False
        self.incident = Incident(
            id=incident_id,
            status="open",
            episode=1,
            severity=severity,
            deployment_id="credit",
            owner="",
            upstream="",
            started_us=0,
            last_us=0,
            opened_ms=now_ms,
            updated_ms=now_ms,
            resolved_ms=None,
            acknowledged_ms=None,
            acknowledged_by="",
            assigned_to="",
            flapping=False,
            title="",
            revision=1,
            signals=(signal(severity, True, False),),
        )

    def do(self, action: str, now_ms: int) -> None:
        """Something happens, if it can."""
        i = self.incident
        is_open, is_over = i.status == "open", i.status == "resolved"
        change: dict[str, Any] = {}
        who = "human"
        if action == "ack" and is_open:
            change, name = {"status": "acknowledged", "acknowledged_by": "ada"}, "incident.acknowledged"
        elif action == "unack" and i.status == "acknowledged":
            change, name = {"status": "open"}, "incident.unacknowledged"
        elif action in ("resolve", "end") and not is_over:
            change, name = {"status": "resolved", "resolved_ms": now_ms}, "incident.resolved"
            who = "human" if action == "resolve" else "service"
        elif action == "worse" and not is_over and i.severity != "critical":
            worse = SEVERITIES[SEVERITIES.index(i.severity) - 1]
            change, name, who = {"severity": worse, "status": "open"}, "incident.changed", "service"
        elif action == "better" and not is_over and i.severity != "info":
            change, name, who = (
                {"severity": SEVERITIES[SEVERITIES.index(i.severity) + 1]},
                "incident.changed",
                "service",
            )
        elif action == "note" and not is_over:
            name = "incident.noted"
        elif action == "join" and not is_over:
            name, who = "incident.joined", "service"
        elif action in ("mute", "unmute"):
            self.muted = action == "mute"
            self._show(i)
            return
        else:
            return
        entry = Entry(now_ms, name, who, "ada" if who == "human" else "alerting", "api", "", {})
        self._show(dataclasses.replace(i, **change, revision=i.revision + 1, entries=(*i.entries, entry)))

    def _show(self, incident: Incident) -> None:
        signals = (signal(incident.severity, incident.status != "resolved", self.muted),)
        self.incident = dataclasses.replace(incident, signals=signals)


@dataclasses.dataclass
class Said:
    at_s: int
    kind: str


def run(world: World, events: list[tuple[int, str]], rules: Callable[[int], Rules], until_s: int) -> list[Said]:
    """The planner, asked only when something happens and when it asked to be."""
    first_rules = rules(0)
    thread = Thread(WAITING, first_rules.group_wait_ms, None, (Told(world.incident.id),))
    next_ms: int | None = first_rules.group_wait_ms
    said: list[Said] = []
    moments = sorted(events)
    now = 0
    while now <= until_s * SECOND:
        happened = [action for at, action in moments if at * SECOND == now]
        for action in happened:
            world.do(action, now)
        if happened and (thread.status == OPEN or next_ms is None):
            next_ms = now
        for _ in range(5):
            if next_ms is None or next_ms > now or thread.status == CLOSED:
                break
            decided = plan(
                dataclasses.replace(thread, due_ms=next_ms), {world.incident.id: world.incident}, rules(now), now
            )
            thread, next_ms = decided.thread, decided.next_ms
            if decided.kind is not None:
                said.append(Said(now // SECOND, decided.kind.value))
            else:
                assert next_ms is None or next_ms > now, "it asks to be asked again at once: it would spin"
        else:
            raise AssertionError("it does not come to rest")
        later = [at * SECOND for at, _ in moments if at * SECOND > now]
        if next_ms is not None and thread.status != CLOSED:
            later.append(next_ms)
        if not later:
            break
        now = min(later)
    return said


def reference(
    events: list[tuple[int, str]], wait: int, interval: int, repeat: int, active: Any, until_s: int
) -> list[Said]:
    """The same, second by second, from what a person on call would say of each second."""
    world = World()
    heard: dict[str, Any] | None = None
    over = False
    said: list[Said] = []
    last = 0
    urgent = False  # a person did something since the last message
    for now in range(until_s + 1):
        for at, action in sorted(events):
            if at == now:
                before = world.incident.revision
                world.do(action, now * SECOND)
                if world.incident.revision != before and action in ("note", "resolve", "ack", "unack"):
                    urgent = True
        if over:
            continue
        for _ in range(2):
            i = world.incident
            state = "resolved" if i.status == "resolved" else "silenced" if world.muted else i.status
            kind = ""
            if heard is None:
                if now < wait:
                    break
                if state == "resolved" and wait > 0:
                    over = True
                elif state != "silenced" and active(now):
                    kind = "trigger"
            else:
                worse = SEVERITIES.index(i.severity) < SEVERITIES.index(heard["severity"])
                calm = now - last >= interval
                if state == "resolved":
                    by_hand = urgent and i.entries[-1].actor_kind == "human"
                    kind = "resolve" if calm or by_hand or heard["was_over"] else ""
                elif state == "silenced":
                    kind = "" if heard["state"] == "silenced" else "update"
                elif heard["state"] == "silenced":
                    kind = "repeat" if state == "open" and active(now) else "update"
                elif heard["state"] == "open" and state == "acknowledged":
                    kind = "acknowledge"
                elif heard["state"] == "acknowledged" and state == "open":
                    kind = ("repeat" if active(now) else "update") if worse else "acknowledge"
                elif worse or (i.revision > heard["revision"] and (urgent or calm)):
                    kind = "update"
                elif repeat and state == "open" and now - last >= repeat and active(now):
                    kind = "repeat"
            if not kind:
                break
            said.append(Said(now, kind))
            known = "open" if kind == "trigger" and state == "resolved" else state
            heard = {"state": known, "severity": i.severity, "revision": i.revision, "was_over": state == "resolved"}
            last = now
            # What was done in this very second may still be the news of a message in this second.
            urgent = any(e.time_ms == now * SECOND and e.actor_kind == "human" for e in i.entries)
            over = kind == "resolve"
            if over:
                break
    return said


_ACTIONS = ["ack", "unack", "resolve", "end", "worse", "better", "note", "join", "mute", "unmute"]
_histories = st.lists(st.tuples(st.integers(1, 120), st.sampled_from(_ACTIONS)), max_size=8, unique_by=lambda e: e[0])


@hypothesis.settings(max_examples=400, deadline=None)
@given(
    events=_histories,
    wait=st.sampled_from([0, 5, 30]),
    interval=st.sampled_from([0, 10, 40]),
    repeat=st.sampled_from([0, 25, 50]),
    quiet=st.sampled_from([(0, 0), (0, 20), (30, 70)]),
)
def test_whatever_happens_the_planner_says_what_the_slow_reference_says(
    events: list[tuple[int, str]], wait: int, interval: int, repeat: int, quiet: tuple[int, int]
) -> None:
    def active(now_s: int) -> bool:
        return not quiet[0] <= now_s < quiet[1]

    def rules(now_ms: int) -> Rules:
        active_ms = now_ms if active(now_ms // SECOND) else quiet[1] * SECOND
        return Rules(wait * SECOND, interval * SECOND, repeat * SECOND, active_ms)

    expected = reference(events, wait, interval, repeat, active, 200)
    assert run(World(), events, rules, 200) == expected


@hypothesis.settings(max_examples=200, deadline=None)
@given(events=_histories, interval=st.sampled_from([0, 10, 40]), repeat=st.sampled_from([0, 25, 50]))
def test_whatever_happens_nothing_is_told_twice_without_a_reason_and_everything_is_told(
    events: list[tuple[int, str]], interval: int, repeat: int
) -> None:
    world = World()
    said = run(world, events, lambda now: Rules(5 * SECOND, interval * SECOND, repeat * SECOND, now), 400)
    kinds = [one.kind for one in said]
    assert kinds.count("trigger") <= 1 and kinds.count("resolve") <= 1
    if kinds:
        assert kinds[0] == "trigger"
        assert "resolve" not in kinds[:-1], "nothing comes after the end"
    if world.incident.status == "resolved":
        assert not kinds or kinds[-1] == "resolve", "who saw it open sees it end"
    elif not world.muted:
        assert kinds, "an incident that is open and not muted is told of"
    happened = sorted(at for at, _ in events)
    for before, after in itertools.pairwise(said):
        news = any(before.at_s - interval <= at <= after.at_s for at in happened)
        assert news or (repeat and after.at_s - before.at_s >= repeat), f"{after} for no reason after {before}"


RULES = Rules(30 * SECOND, 5 * MINUTE, 4 * 60 * MINUTE)


def known(world: World, **changes: Any) -> Told:
    i = world.incident
    told = Told(i.id, "firing", i.revision, i.severity, i.episode)
    return dataclasses.replace(told, **changes)


def ask(thread: Thread, rules: Rules, now_ms: int, *worlds: World) -> Plan:
    return plan(thread, {world.incident.id: world.incident for world in worlds}, rules, now_ms)


@pytest.mark.parametrize(
    ("actions", "after_ms", "kind", "reason", "next_ms"),
    [
        ([], MINUTE, None, "nothing new to tell now", 240 * MINUTE),
        ([], 240 * MINUTE, Kind.REPEAT, "a reminder", 480 * MINUTE),
        (["join"], MINUTE, None, "nothing new to tell now", 5 * MINUTE),
        (["join"], 5 * MINUTE, Kind.UPDATE, "a new signal joined it", 245 * MINUTE),
        (["better"], 5 * MINUTE, Kind.UPDATE, "it changed", 245 * MINUTE),
        (["worse"], MINUTE, Kind.UPDATE, "severity rose from warning to error", 241 * MINUTE),
        (["note"], MINUTE, Kind.UPDATE, "noted by ada", 241 * MINUTE),
        (["mute"], MINUTE, Kind.UPDATE, "silenced", None),
        (["ack"], MINUTE, Kind.ACKNOWLEDGE, "taken by ada", None),
        (["end"], MINUTE, None, "the group's interval is not", 5 * MINUTE),
        (["end"], 5 * MINUTE, Kind.RESOLVE, "over", None),
        (["resolve"], MINUTE, Kind.RESOLVE, "resolved by ada", None),
        (["mute", "end"], 5 * MINUTE, Kind.RESOLVE, "over", None),
    ],
)
def test_each_change_has_its_kind_its_reason_and_its_time(
    actions: list[str], after_ms: int, kind: Kind | None, reason: str, next_ms: int | None
) -> None:
    world = World()
    thread = Thread(OPEN, 0, 0, (known(world),))
    for action in actions:
        world.do(action, after_ms)
    decided = ask(thread, RULES, after_ms, world)
    assert decided.kind == kind
    assert reason in decided.reason
    assert decided.next_ms == next_ms


def test_what_was_taken_and_gets_worse_asks_for_attention_again() -> None:
    world = World()
    world.do("ack", 0)
    thread = Thread(OPEN, 0, 0, (known(world, status="acknowledged"),))
    world.do("worse", MINUTE)
    decided = ask(thread, RULES, MINUTE, world)
    assert decided.kind == Kind.REPEAT
    assert "severity rose from warning to error after it was taken" in decided.reason


def test_what_is_given_back_is_told_at_once_and_reminded_of_again() -> None:
    world = World()
    world.do("ack", 0)
    thread = Thread(OPEN, 0, 0, (known(world, status="acknowledged"),))
    assert ask(thread, RULES, 300 * MINUTE, world).kind is None, "whoever has it is not reminded"
    world.do("unack", MINUTE)
    decided = ask(thread, RULES, MINUTE, world)
    assert (decided.kind, decided.next_ms) == (Kind.ACKNOWLEDGE, 241 * MINUTE)


def test_a_group_tells_of_what_joins_and_what_leaves_and_ends_when_all_are_over() -> None:
    a, b = World("a"), World("b", "critical")
    thread = Thread(OPEN, 0, 0, (known(a), Told("b")))
    decided = ask(thread, RULES, 5 * MINUTE, a, b)
    assert (decided.kind, decided.reason, decided.about) == (Kind.UPDATE, "a new incident", ("b", "a"))
    a.do("end", 6 * MINUTE)
    decided = ask(decided.thread, RULES, 10 * MINUTE, a, b)
    assert (decided.kind, decided.reason, decided.about) == (Kind.UPDATE, "over", ("b", "a"))
    b.do("end", 11 * MINUTE)
    decided = ask(decided.thread, RULES, 15 * MINUTE, a, b)
    assert (decided.kind, decided.thread.status) == (Kind.RESOLVE, CLOSED)


def test_an_incident_of_a_group_that_comes_and_goes_between_two_messages_is_not_told_of() -> None:
    a, b = World("a"), World("b")
    thread = Thread(OPEN, 0, 0, (known(a), Told("b")))
    b.do("end", MINUTE)
    assert ask(thread, RULES, 5 * MINUTE, a, b).kind is None


def test_what_comes_and_goes_is_told_of_at_repeat_intervals_only() -> None:
    world = World()
    thread = Thread(OPEN, 0, 0, (known(world),))
    world.do("join", MINUTE)
    world.incident = dataclasses.replace(world.incident, flapping=True)
    decided = ask(thread, RULES, 10 * MINUTE, world)
    assert (decided.kind, decided.next_ms) == (None, 240 * MINUTE)
    world.do("worse", 11 * MINUTE)
    assert ask(thread, RULES, 11 * MINUTE, world).kind == Kind.UPDATE, "that it is worse must not wait"


def test_a_pager_hears_of_an_incident_before_it_hears_that_somebody_has_it() -> None:
    world = World()
    world.do("ack", 10 * SECOND)
    waiting = Thread(WAITING, 30 * SECOND, None, (Told("a"),))
    pager = ask(waiting, dataclasses.replace(RULES, dedups=True), 30 * SECOND, world)
    assert (pager.kind, pager.next_ms) == (Kind.TRIGGER, 30 * SECOND)
    assert ask(pager.thread, RULES, 30 * SECOND, world).kind == Kind.ACKNOWLEDGE
    chat = ask(waiting, RULES, 30 * SECOND, world)
    assert (chat.kind, chat.next_ms) == (Kind.TRIGGER, None), "a chat message shows it already"


def test_who_waits_for_nothing_hears_of_what_ended_at_once_and_who_waits_does_not() -> None:
    world = World()
    world.do("end", 0)
    eager = ask(Thread(WAITING, 0, None, (Told("a"),)), dataclasses.replace(RULES, group_wait_ms=0), 0, world)
    assert (eager.kind, eager.next_ms) == (Kind.TRIGGER, 0), "its end follows at once"
    assert ask(eager.thread, RULES, 0, world).kind == Kind.RESOLVE
    patient = ask(Thread(WAITING, 0, None, (Told("a"),)), RULES, 30 * SECOND, world)
    assert (patient.kind, patient.thread.status) == (None, CLOSED)


def test_outside_active_times_beginnings_and_reminders_wait_and_changes_and_ends_do_not() -> None:
    night = dataclasses.replace(RULES, active_ms=600 * MINUTE)
    world = World()
    begins = ask(Thread(WAITING, 0, None, (Told("a"),)), night, MINUTE, world)
    assert (begins.kind, begins.next_ms) == (None, 600 * MINUTE)
    open_thread = Thread(OPEN, 0, 0, (known(world),))
    repeat = ask(open_thread, night, 300 * MINUTE, world)
    assert (repeat.kind, repeat.next_ms) == (None, 600 * MINUTE)
    world.do("worse", 300 * MINUTE)
    assert ask(open_thread, night, 300 * MINUTE, world).kind == Kind.UPDATE
    world.do("resolve", 301 * MINUTE)
    assert ask(open_thread, night, 301 * MINUTE, world).kind == Kind.RESOLVE


def test_an_escalation_is_told_at_night_too() -> None:
    night = dataclasses.replace(RULES, active_ms=600 * MINUTE)
    escalated = Thread(WAITING, 0, None, (Told("a", because="escalation standard, step 1 of 2"),))
    decided = ask(escalated, night, MINUTE, World())
    assert decided.kind == Kind.TRIGGER
    assert "escalation standard, step 1 of 2" in decided.reason


def test_a_receiver_that_does_not_ask_for_ends_has_its_thread_closed_quietly() -> None:
    world = World()
    thread = Thread(OPEN, 0, 0, (known(world),))
    world.do("end", MINUTE)
    decided = ask(thread, dataclasses.replace(RULES, send_resolved=False), MINUTE, world)
    assert (decided.kind, decided.thread.status) == (None, CLOSED)


def test_a_digest_gathers_what_opened_and_what_ended_and_says_nothing_twice() -> None:
    digest = dataclasses.replace(RULES, gathers=True)
    a, b = World("a", "info"), World("b", "info")
    b.do("end", MINUTE)
    thread = Thread(WAITING, 60 * MINUTE, None, (Told("a"), Told("b")))
    assert ask(thread, digest, 30 * MINUTE, a, b).next_ms == 60 * MINUTE
    first = ask(thread, digest, 60 * MINUTE, a, b)
    assert (first.kind, first.about, first.next_ms) == (Kind.DIGEST, ("a", "b"), None)
    again = dataclasses.replace(first.thread, due_ms=120 * MINUTE)
    assert ask(again, digest, 120 * MINUTE, a, b).kind is None
    a.do("end", 121 * MINUTE)
    last = ask(dataclasses.replace(again, due_ms=180 * MINUTE), digest, 180 * MINUTE, a, b)
    assert (last.kind, last.about, last.thread.status) == (Kind.DIGEST, ("a",), CLOSED)
