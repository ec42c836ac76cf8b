"""Which signals are one incident: the index against a slow reference, and the rules one by one."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.alerting.incidents.grouping import (
    Newcomer,
    Surroundings,
    incident_id_of,
    upstreams_of,
)
from services.alerting.policy.matching import glob
from services.alerting.policy.model import Correlation, Source

MINUTE_US = 60_000_000


@dataclass
class Known:
    """An incident, as grouping asks of it."""

    id: str
    is_resolved: bool = False
    is_system: bool = False
    last_us: int = 0
    resolved_us: int | None = None
    deployments: set[str] = field(default_factory=set)
    incident_keys: set[str] = field(default_factory=set)
    members: list[Newcomer] = field(default_factory=list)


def slow(signal: Newcomer, incidents: list[Known], correlation: Correlation) -> tuple[str | None, bool]:
    """The rules, word by word, looking at every signal of every incident."""
    across_us, join_us = correlation.across_within_ms * 1000, correlation.join_within_ms * 1000

    def latest(found: list[Known]) -> Known | None:
        return sorted(found, key=lambda i: (-i.last_us, i.id))[0] if found else None

    def shares(incident: Known) -> bool:
        asked = {u for u in signal.upstreams if correlation.across == "feature" or u.startswith("source:")}
        if correlation.across == "none":
            return False
        return any(
            asked & set(member.upstreams)
            and (
                abs(member.change_us - signal.change_us) <= across_us
                or abs(member.detected_us - signal.detected_us) <= across_us
            )
            for member in incident.members
        )

    def open_ones(incident: Known) -> bool:
        return not incident.is_resolved

    def just_over(incident: Known) -> bool:
        since_us = signal.detected_us - correlation.reopen_within_ms * 1000
        return incident.is_resolved and incident.resolved_us is not None and incident.resolved_us >= since_us

    if signal.monitor.startswith("system:"):
        for which, again in ((open_ones, False), (just_over, True)):
            same = latest([i for i in incidents if signal.incident_key in i.incident_keys and which(i)])
            if same is not None:
                return same.id, again
        return None, False
    for which, again in ((open_ones, False), (just_over, True)):
        own = latest([i for i in incidents if signal.deployment_id in i.deployments and not i.is_system and which(i)])
        if own is not None and signal.change_us <= own.last_us + join_us:
            return own.id, again
        others = [i for i in incidents if signal.deployment_id not in i.deployments and which(i) and shares(i)]
        if (other := latest(others)) is not None:
            return other.id, again
    return None, False


moments = st.integers(0, 12).map(lambda m: m * MINUTE_US // 2)
newcomers = st.builds(
    Newcomer,
    incident_key=st.sampled_from(["k1", "k2"]),
    deployment_id=st.sampled_from(["a", "b", "c", "d"]),
    monitor=st.sampled_from(["data_drift", "data_drift", "concept_drift", "system:x"]),
    change_us=moments,
    detected_us=moments,
    upstreams=st.lists(st.sampled_from(["feature:x", "feature:y", "source:s"]), max_size=2, unique=True).map(tuple),
)


@settings(max_examples=400, deadline=None)
@given(
    signals=st.lists(st.tuples(newcomers, st.booleans()), max_size=14),
    across=st.sampled_from(["feature", "source", "none"]),
    within_ms=st.sampled_from([0, 1, 30_000, 60_000, 90_000]),
    join_ms=st.sampled_from([0, 60_000, 3_600_000]),
)
def test_the_index_finds_what_a_look_at_everything_finds(
    signals: list[tuple[Newcomer, bool]], across: str, within_ms: int, join_ms: int
) -> None:
    correlation = Correlation(join_ms, across, within_ms, 90_000)  # type: ignore[arg-type]  # one of the three
    surroundings = Surroundings(correlation)
    incidents: list[Known] = []
    for number, (signal, ends) in enumerate(signals):
        found = surroundings.place(signal)
        assert (found.incident_id, found.reopens) == slow(signal, incidents, correlation)
        incident = next((i for i in incidents if i.id == found.incident_id), None)
        if incident is None:
            incident = Known(f"{number:02}", is_system=signal.monitor.startswith("system:"), last_us=signal.detected_us)
            incidents.append(incident)
        incident.is_resolved, incident.resolved_us = False, None
        incident.last_us = max(incident.last_us, signal.detected_us)
        incident.deployments.add(signal.deployment_id)
        if incident.is_system:
            incident.incident_keys.add(signal.incident_key)
        incident.members.append(signal)
        surroundings.add_incident(incident)
        surroundings.add_signal(incident.id, signal.upstreams, signal.change_us, signal.detected_us)
        if ends:
            incident.is_resolved, incident.resolved_us = True, incident.last_us


def test_an_incidents_id_is_that_of_the_alert_that_opened_it() -> None:
    assert incident_id_of("a") == "ca978112ca1b"
    assert incident_id_of("a\ud800") != incident_id_of("a")


def test_upstreams_are_declared_sources_of_the_first_causes_or_the_first_feature(
    make_alert: Any, make_numeric_cause: Any
) -> None:
    alert = make_alert(causes=[make_numeric_cause(f"wind_{n}") for n in range(4)])
    everywhere = (glob("*"),)
    weather = Source("weather", (glob("wind_2"),), everywhere)
    fourth = Source("fourth", (glob("wind_3"),), everywhere)
    elsewhere = Source("elsewhere", (glob("*"),), (glob("other-*"),))
    assert upstreams_of(alert, (weather, fourth, elsewhere)) == ("source:weather",)
    assert upstreams_of(alert, (fourth, elsewhere)) == ("feature:wind_0",)


@pytest.mark.parametrize(
    ("stream", "role", "upstreams"),
    [
        ("temperature", "feature", ("feature:temperature",)),
        ("quality:temperature", "quality", ("feature:temperature",)),
        ("schema", "quality", ()),
        ("prediction", "prediction", ()),
        ("rate", "rate", ()),
    ],
)
def test_only_input_features_are_upstreams(
    make_alert: Any, make_numeric_cause: Any, stream: str, role: str, upstreams: tuple[str, ...]
) -> None:
    cause = make_numeric_cause(stream, role=role)
    assert upstreams_of(make_alert(causes=[cause]), ()) == upstreams


def test_an_alert_without_causes_has_no_upstream(make_alert: Any) -> None:
    assert upstreams_of(make_alert(causes=[]), ()) == ()
