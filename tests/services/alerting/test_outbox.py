"""What the database holds: one transaction per alert, one order per incident."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from driftline.topics import Topics
from services.alerting import database as db
from services.alerting.errors import DatabaseError
from services.alerting.incidents import Change, decide
from services.alerting.notify.outbox import Outbox
from services.alerting.settings import AlertingSettings
from services.alerting.store import Incoming, Store


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


class Kept:
    """A store and its outbox on a real database."""

    def __init__(self, path: Path, *destinations: Any, history: Any = "all") -> None:
        self.clock = Clock()
        self.database = db.open_database(f"sqlite:///{path}")
        settings = AlertingSettings(destinations=destinations, history=history)
        self.store = Store(self.database, settings, Topics(), self.clock)
        self.outbox = Outbox(self.database, Topics(), self.clock)
        self.offset = 0
        if 0 not in self.store.positions("alerts"):
            self.store.place("alerts", 0, 0, 0)

    def take(self, *alerts: dict[str, Any]) -> dict[str, int]:
        batch = [Incoming("alerts", 0, self.offset + n, alert) for n, alert in enumerate(alerts)]
        self.offset += len(alerts)
        return dict(self.store.take(batch))

    def count(self, table: sa.Table) -> int:
        with self.database.transaction() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


Keep = Callable[..., Kept]


@pytest.fixture
def keep(tmp_path: Path, destinations: Any) -> Keep:
    def make(**options: Any) -> Kept:
        return Kept(tmp_path / "alerting.db", destinations.pagerduty(), destinations.slack_webhook(), **options)

    return make


def test_the_position_moves_with_the_alerts_or_not_at_all(keep: Keep, make_alert: Any) -> None:
    kept = keep()
    broken = make_alert(2) | {"severity": "no such severity"}
    with pytest.raises(Exception, match="severity"):
        kept.take(make_alert(1), broken)
    assert kept.store.positions("alerts")[0].next_offset == 0
    assert [kept.count(table) for table in (db.alerts, db.incidents, db.notifications, db.publications)] == [0] * 4
    kept.offset = 0
    assert kept.take(make_alert(1)) == {"opened": 1}
    assert kept.store.positions("alerts")[0].next_offset == 1


def test_a_lane_goes_on_only_when_its_oldest_message_is_settled(keep: Keep, make_alert: Any) -> None:
    kept = keep()
    kept.take(make_alert(1), make_alert(1, "resolved"), make_alert(2))
    first = kept.outbox.claim("pagerduty")
    assert first is not None
    kept.outbox.retry(first, "HTTP 500", kept.clock.now_ms + 5000)
    second = kept.outbox.claim("pagerduty")
    assert second is not None
    assert second.alert["id"] == make_alert(2)["id"], "the resolve of 1 waits for its trigger; 2 does not"
    kept.outbox.sent(second, {})
    assert kept.outbox.claim("pagerduty") is None
    assert kept.outbox.next_due_ms("pagerduty") == kept.clock.now_ms + 5000
    kept.clock.now_ms += 5000
    for kind in ("trigger", "resolve"):
        claim = kept.outbox.claim("pagerduty")
        assert claim is not None and claim.kind == kind
        kept.outbox.sent(claim, {"ts": "1"})
    assert claim is not None and claim.trigger_receipt == {"ts": "1"}
    assert kept.outbox.next_due_ms("pagerduty") is None
    assert kept.outbox.next_due_ms("slack") is not None, "the other destination has a life of its own"


def test_a_trigger_that_was_given_up_lets_its_resolve_pass(keep: Keep, make_alert: Any) -> None:
    kept = keep()
    kept.take(make_alert(1), make_alert(1, "resolved"))
    trigger = kept.outbox.claim("pagerduty")
    assert trigger is not None
    kept.outbox.give_up(trigger, "HTTP 400")
    resolve = kept.outbox.claim("pagerduty")
    assert resolve is not None and resolve.kind == "resolve"


def test_the_most_urgent_goes_first(keep: Keep, make_alert: Any) -> None:
    kept = keep()
    for number, severity in enumerate(("info", "warning", "critical", "error", "critical"), start=1):
        kept.take(make_alert(number, severity=severity))
    order = []
    while (claim := kept.outbox.claim("slack")) is not None:
        order.append((claim.alert["severity"], claim.alert["episode"]))
        kept.outbox.sent(claim, {})
    assert order == [("critical", 3), ("critical", 5), ("error", 4), ("warning", 2), ("info", 1)]


def test_what_was_being_sent_at_a_kill_is_sent_again_and_put_on_record(keep: Keep, make_alert: Any) -> None:
    kept = keep()
    kept.take(make_alert(1))
    claimed = kept.outbox.claim("pagerduty")
    kept.outbox.claim("slack")
    kept.database.close()
    again = keep()
    before = again.outbox.unpublished()
    assert again.outbox.recover() == 2
    assert again.outbox.unpublished() == before + 2
    repeat = again.outbox.claim("pagerduty")
    assert claimed is not None and repeat is not None
    assert (repeat.key, repeat.attempts) == (claimed.key, 2)
    assert again.outbox.recover() == 1


def test_an_episode_is_an_incident_of_its_own(keep: Keep, make_alert: Any) -> None:
    kept = keep()
    for episode in (1, 2):
        for status in ("firing", "resolved"):
            kept.take(make_alert(episode, status, incident_key="same", id=f"{episode}{status}"))
    kinds = []
    while (claim := kept.outbox.claim("pagerduty")) is not None:
        kinds.append((claim.kind, claim.alert["episode"]))
        kept.outbox.sent(claim, {})
    assert kinds == [("trigger", 1), ("resolve", 1), ("trigger", 2), ("resolve", 2)]


def test_history_ends_inside_a_batch(keep: Keep, make_alert: Any) -> None:
    kept = keep(history="open")
    with kept.database.transaction() as connection:
        connection.execute(sa.update(db.positions).values(history_end=3, history_told=False))
    kept.take(make_alert(1), make_alert(1, "resolved"), make_alert(2), make_alert(2, "resolved"), make_alert(3))
    told = []
    while (claim := kept.outbox.claim("pagerduty")) is not None:
        told.append((claim.kind, claim.alert["episode"]))
        kept.outbox.sent(claim, {})
    assert sorted(told) == [("resolve", 2), ("trigger", 2), ("trigger", 3)]


@pytest.mark.parametrize("name", ["a\0b", "'; drop table alerts; --", "\U0001f6a8", "x" * 1024, "\u202e", " "])
def test_odd_names_are_kept_apart_and_found_again(keep: Keep, make_alert: Any, name: str) -> None:
    kept = keep()
    odd = {"incident_key": name, "deployment_id": name, "monitor": name, "owner": name}
    kept.take(make_alert(1, id=name, **odd), make_alert(1, id=name, **odd), make_alert(2, id=name + "2", **odd))
    kept.take(make_alert(1, "resolved", id=name + "3", **odd))
    assert (kept.count(db.alerts), kept.count(db.incidents), kept.count(db.notifications)) == (3, 2, 6)


def test_a_database_of_a_later_release_is_refused(keep: Keep, tmp_path: Path) -> None:
    with keep().database.transaction() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 99")
    with pytest.raises(DatabaseError, match="written by a later release"):
        keep()


_steps = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["firing", "resolved"])), max_size=12)


@hypothesis.settings(max_examples=40)
@given(steps=_steps, chance=st.randoms(use_true_random=False))
def test_whatever_comes_in_whatever_order_no_resolve_goes_before_its_trigger(
    make_alert: Any, memory: Any, steps: list[tuple[int, str]], chance: Any
) -> None:
    """Any sequence of alerts, with sends that succeed, fail and are interrupted in between."""
    kept = memory()
    sent: list[tuple[str, int]] = []
    for number, status in [*steps, (0, "")]:
        if number:
            kept.take(make_alert(number, status))
        for _ in range(chance.randint(0, 3) if number else 100):
            claim = kept.outbox.claim("pagerduty")
            if claim is None:
                break
            fate = chance.choice(["sent", "retry", "killed"]) if number else "sent"
            if fate == "sent":
                kept.outbox.sent(claim, {})
                sent.append((claim.kind, claim.alert["episode"]))
            elif fate == "retry":
                kept.outbox.retry(claim, "x", kept.clock.now_ms)
            else:
                kept.outbox.recover()
    first = dict(reversed(steps))
    expected = {(("trigger" if status == "firing" else "resolve"), number) for number, status in first.items()}
    expected |= {("resolve", n) for n, s in first.items() if s == "firing" and (n, "resolved") in steps}
    assert sorted(sent) == sorted(expected), "each once"
    for number in first:
        kinds = [kind for kind, episode in sent if episode == number]
        assert kinds in (["trigger"], ["trigger", "resolve"], ["resolve"])


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from pydantic import SecretStr

    from services.alerting.settings import PagerDutySettings

    folder = tmp_path_factory.mktemp("outbox")
    made: list[Kept] = []

    def make() -> Kept:
        made.append(Kept(folder / f"{len(made)}.db", PagerDutySettings("pagerduty", SecretStr("k"))))
        return made[-1]

    return make


@pytest.mark.parametrize(
    ("status", "known", "triggered", "change", "kind", "told"),
    [
        ("firing", None, [], Change.OPENED, "trigger", ("pagerduty", "slack")),
        ("firing", "firing", ["pagerduty"], Change.UPDATED, "trigger", ("slack",)),
        ("firing", "resolved", ["pagerduty"], Change.STALE, None, ()),
        ("resolved", "firing", ["pagerduty"], Change.RESOLVED, "resolve", ("pagerduty",)),
        ("resolved", "firing", [], Change.RESOLVED, "resolve", ()),
        ("resolved", None, [], Change.RESOLVED_UNSEEN, "resolve", ("pagerduty", "slack")),
        ("resolved", "resolved", ["pagerduty"], Change.STALE, None, ()),
    ],
)
def test_what_an_alert_means_for_its_incident(
    make_alert: Any,
    destinations: Any,
    status: str,
    known: str | None,
    triggered: list[str],
    change: Change,
    kind: str | None,
    told: tuple[str, ...],
) -> None:
    quiet = destinations.slack_token(name="quiet", minimum_severity="critical")
    all_of_them = (destinations.pagerduty(), destinations.slack_webhook(), quiet)
    decision = decide(make_alert(1, status), known, triggered, all_of_them)
    assert (decision.change, decision.kind, decision.destinations) == (change, kind, told)
