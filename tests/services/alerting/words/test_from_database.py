"""Messages about incidents as the database has them: taken from alerts, acted upon by people, read again."""

from typing import Any

import pytest

from driftline.codec import decode, encode
from driftline.topics import Topics
from services.alerting.incidents.actions import Actor, Desk, Do
from services.alerting.incidents.loading import find_incidents, load_incidents
from services.alerting.incidents.store import Incoming, Place, Store
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import PolicyHolder
from services.alerting.words.incident import Text, describe

TOPICS = Topics("words.")
NOW_MS = 1_371_058_000_000


class Installation:
    """A database with what takes alerts in and what people use."""

    def __init__(self, database: Any, policy: Any) -> None:
        self.database, self.holder = database, PolicyHolder(policy)
        self.now_ms = NOW_MS
        self.store = Store(database, self.holder, TOPICS, lambda: self.now_ms, history="all")
        self.store.place(TOPICS.alerts, [Place(0, 0, 0)])
        self.desk = Desk(database, self.holder, TOPICS, lambda: self.now_ms, lambda: None)
        self._offset = 0

    def take(self, *alerts: dict[str, Any]) -> None:
        records = [decode(encode("Alert", {"diagnosis_probability": None, **alert}))[1] for alert in alerts]
        batch = [Incoming(TOPICS.alerts, 0, self._offset + n, record) for n, record in enumerate(records)]
        self._offset += len(batch)
        self.store.take(batch)

    def incident(self) -> Any:
        with self.database.transaction() as connection:
            (found,), _ = find_incidents(connection, self.holder.current, self.now_ms)
            loaded = load_incidents(connection, self.holder.current, [found.id], self.now_ms, entries=50)
        return loaded[found.id]


@pytest.fixture
def installation(database: Any, make_policy: Any) -> Installation:
    return Installation(database, make_policy())


def test_the_story_of_an_incident_is_told_as_it_happened(
    installation: Installation, make_alert: Any, make_delivery: Any
) -> None:
    def told(kind: Kind) -> Text:
        return describe(make_delivery(kind, installation.incident(), sent_ms=installation.now_ms))

    installation.take(make_alert(1))
    assert str(told(Kind.TRIGGER).headline) == "Data drift in credit, version 1"
    assert told(Kind.TRIGGER).news == ()

    installation.now_ms += 60_000
    quality = {
        "monitor": "data_quality",
        "severity": "critical",
        "incident_key": "credit/1/data_quality/0/2",
        "causes": [make_alert()["causes"][0] | {"stream": "quality:temperature", "role": "quality"}],
    }
    installation.take(make_alert(2, **quality))
    assert told(Kind.TRIGGER).news == (), "to whoever hears of it first, nothing of it is news"
    text = told(Kind.UPDATE)
    assert str(text.headline) == "Data quality change and data drift in credit, version 1" and text.mark == "🔴"
    assert [str(part.headline).partition(" in ")[0] for part in text.parts] == ["Data quality change", "Data drift"]
    assert str(text.parts[1].sentences[0]) == "Probably because: data quality (unusable values of temperature)."
    assert str(text.news[-1]).startswith(
        "New at 12 Jun 2013 17:27 UTC, data quality change in credit, version 1 (critical)"
    )

    ada = Actor("ada", "cli")
    installation.now_ms += 60_000
    installation.desk.act(installation.incident().id, Do.ACKNOWLEDGE, ada, "looking at the feed")
    text = told(Kind.ACKNOWLEDGE)
    assert str(text.headline).startswith("Acknowledged: Data quality change")
    assert str(text.story[-1]) == "ada took it at 12 Jun 2013 17:28 UTC by the command line: looking at the feed"

    installation.desk.act(installation.incident().id, Do.ASSIGN, ada, "", to="eve")
    assert str(told(Kind.UPDATE).story[-1]).startswith("ada assigned it to eve at 12 Jun 2013 17:28 UTC")
    installation.desk.act(installation.incident().id, Do.SILENCE, ada, "a release", for_ms=3_600_000)
    text = told(Kind.UPDATE)
    assert text.mark == "🔕"
    assert [str(line) for line in text.story if "silenced" in str(line)] == [
        "ada silenced it until 12 Jun 2013 18:28 UTC at 12 Jun 2013 17:28 UTC by the command line: a release"
    ]
    assert str(text.parts[0].status).startswith("silenced until 12 Jun 2013 18:28 UTC") and "ada" in str(
        text.parts[0].status
    )

    installation.now_ms += 60_000
    installation.desk.act(installation.incident().id, Do.RESOLVE, ada, "the feed is back")
    text = told(Kind.RESOLVE)
    assert text.over and text.mark == "✅"
    assert str(text.news[0]).startswith("Resolved by ada, 3 min after it opened; 2 of its alarms still fire.")


def test_an_incident_that_ends_by_itself_and_comes_back_says_so(
    installation: Installation, make_alert: Any, make_delivery: Any
) -> None:
    installation.take(make_alert(1))
    end = make_alert(1)["detection_time_us"] + 60_000_000
    installation.take(make_alert(1, "resolved", detection_time_us=end))
    text = describe(make_delivery(Kind.RESOLVE, installation.incident()))
    assert str(text.news[0]).startswith("Over: none of its alarms fires any more")
    installation.take(make_alert(2, change_time_us=end, detection_time_us=end + 60_000_000))
    text = describe(make_delivery(Kind.TRIGGER, installation.incident()))
    assert str(text.headline) == "Again: Data drift in credit, version 1"
    (again,) = map(str, text.news)
    assert again.startswith("Opened again at 12 Jun 2013 17:26 UTC, data drift in credit, version 1 (error): ")
    assert {str(part.status) for part in text.parts} == {"firing, error", "resolved at 12 Jun 2013 17:21 UTC"}
