"""What is not told of: silences, maintenance, inhibition; and the order of causes."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.alerting.incidents.actions import Actor, Do
from services.alerting.incidents.muting import Firing, Inhibited
from services.alerting.incidents.ranking import EXPLAINS, Strength, explanation, rank, ranked
from services.alerting.incidents.views import Signal
from services.alerting.policy.matching import parse_match
from services.alerting.policy.model import SEVERITIES, Inhibition, Maintenance
from services.alerting.policy.sections import built_in_inhibitions

MINUTE_MS, HOUR_US = 60_000, 3_600_000_000
T0 = 1_371_045_600_000_000


def apart(alert: dict[str, Any], hours: int) -> dict[str, Any]:
    """Later than any incident there is."""
    moment = T0 + hours * HOUR_US
    return {**alert, "change_time_us": moment, "detection_time_us": moment}


def test_a_broken_pipeline_mutes_the_drift_it_causes_until_it_is_mended(
    make_rig: Any, make_alert: Any, receivers: Any
) -> None:
    rig = make_rig(receivers.slack_token(), inhibitions=built_in_inhibitions())
    rig.take(apart(make_alert(1, monitor="data_quality", severity="warning"), 0))
    rig.take(apart(make_alert(2, monitor="data_drift"), 10))
    rig.take(apart(make_alert(3, monitor="concept_drift"), 20))
    muted = rig.one(status="silenced")
    cause = next(i for i in rig.incidents() if i.signals[0].labels["monitor"] == "data_quality")
    (mute,) = [signal.mute for signal in muted.signals]
    assert (mute.kind, mute.until_ms, cause.id in mute.reason) == ("inhibition", None, True)
    assert muted.id not in rig.concerned()
    rig.take(apart(make_alert(1, "resolved", monitor="data_quality"), 1))
    assert rig.incidents(status="silenced") == []
    assert muted.id in rig.concerned(), "what is no longer muted is told of"


def test_a_cause_that_fires_later_mutes_what_is_open_and_one_resolved_by_hand_mutes_nothing(
    make_rig: Any, make_alert: Any
) -> None:
    rig = make_rig(inhibitions=built_in_inhibitions())
    rig.take(apart(make_alert(2), 0))
    assert rig.incidents(status="silenced") == []
    rig.take(apart(make_alert(1, monitor="service", severity="critical"), 10))
    assert len(rig.incidents(status="silenced")) == 1
    cause = next(i for i in rig.incidents() if i.severity == "critical")
    rig.do(cause, Do.RESOLVE)
    assert rig.incidents(status="silenced") == []
    rig.do(cause, Do.REOPEN)
    assert len(rig.incidents(status="silenced")) == 1


def test_inside_one_incident_nothing_is_muted(make_rig: Any, make_alert: Any) -> None:
    rig = make_rig(inhibitions=built_in_inhibitions())
    rig.take(make_alert(1, monitor="data_quality", severity="critical"), make_alert(2))
    assert rig.one().state == "open" and len(rig.one().told) == 2


def test_another_deployments_pipeline_mutes_nothing(make_rig: Any, make_apart: Any) -> None:
    rig = make_rig(inhibitions=built_in_inhibitions())
    rig.take(make_apart(1, monitor="data_quality"), make_apart(2))
    assert rig.incidents(status="silenced") == []


def inhibition(source: dict[str, Any], target: dict[str, Any], *equal: str) -> Inhibition:
    return Inhibition("x", parse_match(source, "s"), parse_match(target, "t"), equal, 0)


def test_two_that_are_both_cause_and_effect_do_not_mute_each_other() -> None:
    both = inhibition({"severity": ["critical", "error"]}, {"monitor": "m*"}, "deployment")
    one = Firing("1", {"severity": "critical", "monitor": "m1", "deployment": "d"})
    other = Firing("2", {"severity": "error", "monitor": "m2", "deployment": "d"})
    minor = {"severity": "info", "monitor": "m3", "deployment": "d"}
    inhibited = Inhibited((both,), [one, other])
    assert inhibited.mute(one.labels, "1") is None and inhibited.mute(other.labels, "2") is None
    assert inhibited.mute(minor, "3") is not None


labels = st.fixed_dictionaries(
    {
        "severity": st.sampled_from(["critical", "info"]),
        "monitor": st.sampled_from(["m1", "m2", "x"]),
        "deployment": st.sampled_from(["a", "b"]),
    }
)


@given(
    firing=st.lists(st.tuples(st.sampled_from(["1", "2", "3"]), labels), max_size=8),
    asked=st.tuples(st.sampled_from(["1", "2", "3"]), labels),
    equal=st.sampled_from([(), ("deployment",), ("deployment", "owner")]),
)
def test_inhibition_is_what_a_look_at_every_pair_says(
    firing: list[tuple[str, dict[str, str]]], asked: tuple[str, dict[str, str]], equal: tuple[str, ...]
) -> None:
    rule = inhibition({"severity": "critical"}, {"monitor": "m*"}, *equal)
    incident, target = asked

    def inhibits(other: str, source: dict[str, str]) -> bool:
        both = source["monitor"] != "x" and target["severity"] == "critical"
        alike = not equal or source["deployment"] == target["deployment"]
        return source["severity"] == "critical" and other != incident and alike and not both

    expected = target["monitor"] != "x" and any(inhibits(other, source) for other, source in firing)
    found = Inhibited((rule,), [Firing(i, source) for i, source in firing]).mute(target, incident)
    assert (found is not None) == expected


def test_maintenance_mutes_while_it_lasts_and_resolves_pass(make_rig: Any, make_alert: Any, receivers: Any) -> None:
    rig = make_rig(receivers.slack_token())
    start, end = rig.now_ms + MINUTE_MS, rig.now_ms + 2 * MINUTE_MS
    match = parse_match({"deployment": "credit"}, "m")
    release = Maintenance("release", match, start, end, (), "ada", "new feature store", 0)
    rig.holder.current = dataclasses.replace(rig.policy, maintenance=(release,))
    rig.take(make_alert(1))
    assert rig.tick() == start
    assert rig.tick(start) == end
    incident = rig.one()
    (mute,) = [signal.mute for signal in incident.signals]
    assert incident.state == "silenced"
    assert (mute.kind, mute.reason) == ("maintenance", "maintenance release, by ada: new feature store")
    assert mute.until_ms == end
    rig.take(make_alert(1, "resolved"))
    over = rig.one()
    assert (over.state, over.signals[0].mute) == ("resolved", None)
    assert rig.tick(end) is None


def test_of_two_silences_the_one_that_ends_last_is_named(rig: Any, make_alert: Any) -> None:
    rig.take(make_alert(1))
    for minutes in (1, 5, 2):
        rig.desk.silence(
            {"monitor": "data_drift"},
            Actor("ada", "api"),
            f"{minutes} minutes",
            starts_ms=None,
            ends_ms=rig.now_ms + minutes * MINUTE_MS,
        )
    (mute,) = [signal.mute for signal in rig.one().signals]
    assert mute.reason == "silenced by ada: 5 minutes"


def signal(monitor: str, severity: str = "error", status: str = "firing", change_us: int = 0) -> Signal:
    own = {"monitor": monitor}
    return Signal(1, monitor, 1, "alerts", status, severity, own, change_us, 0, None, None, None, None)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Strength(signal("fairness"), 0.0), Strength(signal("data_quality", "critical", "resolved"), 99.0)),
        (Strength(signal("data_quality", "info"), 0.0), Strength(signal("data_drift", "critical"), 99.0)),
        (Strength(signal("system:kafka", "info"), 0.0), Strength(signal("data_quality", "critical"), 99.0)),
        (Strength(signal("fairness", "info"), 0.0), Strength(signal("detector:adwin:x", "critical"), 99.0)),
        (Strength(signal("later"), 0.0), Strength(signal("detector:adwin:x", "critical"), 99.0)),
        (Strength(signal("data_drift", "critical"), 0.0), Strength(signal("data_drift", "error"), 99.0)),
        (Strength(signal("data_drift", change_us=9), 2.0), Strength(signal("data_drift", change_us=1), 1.0)),
        (Strength(signal("data_drift", change_us=1), 1.0), Strength(signal("data_drift", change_us=9), 1.0)),
    ],
)
def test_what_explains_the_others_comes_first(first: Strength, second: Strength) -> None:
    assert ranked([second, first]) == (first.signal, second.signal)


@given(
    st.lists(
        st.builds(
            Strength,
            st.builds(signal, st.sampled_from([*EXPLAINS, "detector:x"]), st.sampled_from(SEVERITIES)),
            st.floats(0, 10),
        ),
        max_size=6,
    )
)
def test_ranking_is_the_same_in_any_order(strengths: list[Strength]) -> None:
    assert [explanation(s.labels["monitor"]) for s in ranked(strengths)] == [
        explanation(s.labels["monitor"]) for s in ranked(reversed(strengths))
    ]
    assert sorted(map(rank, strengths)) == sorted(map(rank, reversed(strengths)))
