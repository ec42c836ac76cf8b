"""Deployments in force: applied whole, counted, audited, shared."""

import dataclasses
import threading
import time

import pytest
from confluent_kafka import admin as kafka_admin

from driftline.codec import decode
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.deployments.changes import Change, changing
from services.deployments.errors import DeploymentError
from services.deployments.store import apply, get_deployment, load_deployments, retire
from services.kafka import ClusterError, MissingTopicError, publish, read_to_end
from services.retention import event_retentions, set_event_retention
from services.topics import ensure_topics
from streams.specification import (
    DecisionValue,
    DeploymentSpec,
    DetectorSpec,
    FalseAlarmBudget,
    FeatureSpec,
    OutcomeSpec,
    SegmentSpec,
)


@pytest.fixture
def settings(bootstrap_servers: str, topic_prefix: str) -> KafkaSettings:
    settings = KafkaSettings(bootstrap_servers, Topics(topic_prefix))
    ensure_topics(settings, partitions=1)
    return settings


def spec(name: str = "a", **changes: object) -> DeploymentSpec:
    made = DeploymentSpec(name, "m", "other", (FeatureSpec("x", "numeric"),))
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def audited(settings: KafkaSettings) -> list[dict[str, object]]:
    return [decode(m.value())[1] for m in read_to_end(settings, settings.topics.audit)]


def published(settings: KafkaSettings) -> int:
    return sum(1 for _ in read_to_end(settings, settings.topics.deployments))


def test_what_is_applied_is_in_force_and_audited_with_its_digest(settings: KafkaSettings) -> None:
    (applied,) = apply(settings, [spec()], actor="ada", reason="first")
    assert applied.result == "created" and applied.spec.revision == 1
    assert get_deployment(settings, "a").spec == applied.spec
    (event,) = audited(settings)
    assert event["action"] == "deployment.applied" and event["subject"] == "deployment:a"
    assert (event["actor"], event["actor_kind"], event["reason"]) == ("ada", "human", "first")
    assert (event["before_digest"], event["after_digest"]) == (None, applied.spec.digest())


def test_the_same_again_changes_nothing_and_is_not_published(settings: KafkaSettings) -> None:
    apply(settings, [spec()], actor="ada")
    (again,) = apply(settings, [spec()], actor="ada")
    assert again.result == "unchanged" and again.spec.revision == 1
    assert published(settings) == 1 and len(audited(settings)) == 1


def test_a_change_counts_the_revision_up_and_says_what_differs(settings: KafkaSettings) -> None:
    (first,) = apply(settings, [spec()], actor="ada")
    features = (FeatureSpec("x", "numeric", 2.0), FeatureSpec("y", "categorical"))
    (second,) = apply(settings, [spec(window_ms=60_000, features=features)], actor="bob")
    assert second.result == "changed" and second.spec.revision == 2
    assert [(c.field, c.before, c.after) for c in second.changes] == [
        ("features.x.importance", 1.0, 2.0),
        ("window", "1h", "1m"),
        ("features.y.kind", None, "categorical"),
        ("features.y.importance", None, 1.0),
    ]
    assert audited(settings)[-1]["before_digest"] == first.spec.digest()


def test_a_growing_fleet_shares_its_budget_anew_and_the_audit_says_so(settings: KafkaSettings) -> None:
    apply(settings, [spec("a")], actor="ada")
    results = apply(settings, [spec("b")], actor="bob")
    assert [(r.spec.deployment_id, r.result, r.spec.false_alarms.share) for r in results] == [
        ("a", "shared", 0.5),
        ("b", "created", 0.5),
    ]
    assert [d.spec.false_alarms.share for d in load_deployments(settings).values()] == [0.5, 0.5]
    assert [(e["action"], e["subject"]) for e in audited(settings)[1:]] == [
        ("deployment.budget_shared", "deployment:a"),
        ("deployment.applied", "deployment:b"),
    ]
    assert load_deployments(settings)["a"].spec.revision == 2


def test_a_tier_that_rises_is_a_change_and_takes_its_share_from_the_others_first(settings: KafkaSettings) -> None:
    apply(settings, [spec("a"), spec("b")], actor="ada")
    results = apply(settings, [spec("b", risk="high")], actor="bob", reason="credit decisions")
    assert [(r.spec.deployment_id, r.result, r.spec.false_alarms.share) for r in results] == [
        ("a", "shared", 0.25),
        ("b", "changed", 0.5),
    ]
    assert [(c.field, c.before, c.after) for c in results[1].changes] == [("risk", "medium", "high")]


def test_new_fields_are_named_as_they_are_written(settings: KafkaSettings) -> None:
    apply(settings, [spec()], actor="ada")
    (again,) = apply(
        settings,
        [
            spec(
                features=(FeatureSpec("x", "numeric", margin_tv=0.1),),
                segments=(SegmentSpec("young", "x", high=25.0),),
                detectors=(DetectorSpec("adwin", "x", {"delta": 0.1}),),
                disabled_monitors=("service",),
                false_alarms=FalseAlarmBudget(kinds={"outcomes": 0.2}),
            )
        ],
        actor="ada",
        dry_run=True,
    )
    assert {(c.field, c.before, c.after) for c in again.changes} == {
        ("features.x.margin", None, 0.1),
        ("segments.young.column", None, "x"),
        ("segments.young.below", None, 25.0),
        ("detectors.adwin on x.delta", None, 0.1),
        ("monitors.service", None, "off"),
        ("false_alarms.kinds.outcomes", None, 0.2),
    }


DAY_MS = 86_400_000


def test_outcomes_that_are_waited_for_longer_than_the_topics_keep_are_refused(settings: KafkaSettings) -> None:
    waiting = spec(outcomes=OutcomeSpec(90 * DAY_MS))
    for dry_run in (True, False):
        with pytest.raises(DeploymentError, match=r"horizon 90d \+ .* = 100d10m; .*predictions' keeps 90d"):
            apply(settings, [spec("b"), waiting], actor="ada", dry_run=dry_run)
    assert load_deployments(settings) == {} and not audited(settings)
    set_event_retention(settings, 101 * DAY_MS)
    (applied,) = apply(settings, [waiting], actor="ada")
    assert applied.result == "created" and applied.warnings == ()
    assert get_deployment(settings, "a").spec.outcomes == OutcomeSpec(90 * DAY_MS)


def test_a_topic_that_is_limited_by_its_size_is_warned_of(settings: KafkaSettings) -> None:
    admin = kafka_admin.AdminClient(settings.client())
    limit = kafka_admin.ConfigEntry("retention.bytes", "1000", incremental_operation=kafka_admin.AlterConfigOpType.SET)
    resource = kafka_admin.ConfigResource(
        kafka_admin.ResourceType.TOPIC, settings.topics.outcomes, incremental_configs=[limit]
    )
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
    deadline = time.monotonic() + 30  # what the controller has taken, the broker may say a second later
    while all(each.partition_bytes != 1000 for each in event_retentions(settings)) and time.monotonic() < deadline:
        time.sleep(0.1)
    results = apply(settings, [spec("b"), spec("a", outcomes=OutcomeSpec(DAY_MS))], actor="ada")
    by_name = {result.spec.deployment_id: result.warnings for result in results}
    assert by_name["b"] == ()
    (warning,) = by_name["a"]
    assert "outcomes' keeps at most 1,000 bytes of each partition" in warning


def test_what_is_said_of_outcomes_is_named_as_it_is_written(settings: KafkaSettings) -> None:
    before = OutcomeSpec(DAY_MS, classes=("no", "yes"), values=(DecisionValue("yes", "no", -1.0),))
    binary = {"task": "binary_classification", "positive_class": "yes"}
    apply(settings, [spec(**binary, outcomes=before)], actor="ada")
    after = OutcomeSpec(
        2 * DAY_MS, classes=("no", "yes"), values=(DecisionValue("yes", "no", -2.0), DecisionValue("no", "yes", -5.0))
    )
    (again,) = apply(settings, [spec(**binary, outcomes=after, challengers=("2",))], actor="ada", dry_run=True)
    assert {(c.field, str(c.before), str(c.after)) for c in again.changes} == {
        ("outcomes.horizon", "1d", "2d"),
        ("outcomes.values.yes for no", "-1.0", "-2.0"),
        ("outcomes.values.no for yes", "None", "-5.0"),
        ("challengers", "None", "['2']"),
    }


def test_a_retired_deployment_is_out_of_force_audited_and_frees_its_place(settings: KafkaSettings) -> None:
    first, _ = apply(settings, [spec("a"), spec("b")], actor="ada")
    retired = retire(settings, "a", actor="bob", reason="replaced")
    assert retired == first.spec
    assert list(load_deployments(settings)) == ["b"]
    assert load_deployments(settings)["b"].spec.false_alarms.share == 0.5, "the others' thresholds do not fall by it"
    event = audited(settings)[-1]
    assert (event["action"], event["subject"], event["reason"]) == ("deployment.retired", "deployment:a", "replaced")
    assert (event["before_digest"], event["after_digest"]) == (first.spec.digest(), None)
    assert [
        (r.spec.deployment_id, r.result, r.spec.false_alarms.share) for r in apply(settings, [spec("c")], actor="ada")
    ] == [("c", "created", 0.5)]
    with pytest.raises(DeploymentError, match="no deployment 'a'"):
        retire(settings, "a", actor="bob", reason="twice")


def test_applying_again_keeps_the_share_that_was_given(settings: KafkaSettings) -> None:
    apply(settings, [spec("a"), spec("b"), spec("c")], actor="ada")
    assert [r.result for r in apply(settings, [spec("b")], actor="ada")] == ["unchanged"]


def test_a_dry_run_says_the_same_and_publishes_nothing(settings: KafkaSettings) -> None:
    apply(settings, [spec("a")], actor="ada")
    results = apply(settings, [spec("b")], actor="ada", dry_run=True)
    assert [r.result for r in results] == ["shared", "created"]
    assert list(load_deployments(settings)) == ["a"] and published(settings) == 1


def test_nothing_is_applied_when_one_of_many_cannot_be(settings: KafkaSettings) -> None:
    other_promise = spec("b", false_alarms=FalseAlarmBudget(count=9))
    with pytest.raises(DeploymentError, match="promise different ones"):
        apply(settings, [spec("a"), other_promise], actor="ada")
    assert load_deployments(settings) == {}


def test_the_same_deployment_twice_is_refused(settings: KafkaSettings) -> None:
    with pytest.raises(DeploymentError, match="'a' is given by two of the files"):
        apply(settings, [spec("a"), spec("a", owner="x")], actor="ada")


def test_two_people_cannot_both_build_on_the_same_state(settings: KafkaSettings) -> None:
    record, topic = spec("b").to_record(), settings.topics.deployments
    change = Change(topic, b"b", "DeploymentSpec", record, "deployment.applied", "deployment:b", None, "")

    def slow() -> None:
        with changing(settings, "deployments", actor="slow") as changes:
            assert load_deployments(settings) == {}
            thread = threading.Thread(target=apply, args=(settings, [spec("a")]), kwargs={"actor": "quick"})
            thread.start()
            thread.join()
            changes.add(change)

    with pytest.raises(ClusterError, match="run the command again"):
        slow()
    assert list(load_deployments(settings)) == ["a"]


def test_a_name_that_is_not_there_is_answered_with_the_closest(settings: KafkaSettings) -> None:
    apply(settings, [spec("delays-eu"), spec("churn")], actor="ada")
    with pytest.raises(DeploymentError, match="no deployment 'delays-ue': did you mean 'delays-eu'"):
        get_deployment(settings, "delays-ue")
    with pytest.raises(DeploymentError, match="see `driftline deployment list`"):
        get_deployment(settings, "zzz")


def test_a_record_that_is_no_deployment_is_named(settings: KafkaSettings) -> None:
    publish(settings, settings.topics.deployments, b"a", b"garbage")
    with pytest.raises(DeploymentError, match=r"no deployment \(key b'a', offset 0\)"):
        load_deployments(settings)


def test_without_topics_the_command_to_create_them_is_named(bootstrap_servers: str, topic_prefix: str) -> None:
    with pytest.raises(MissingTopicError, match="driftline topics create"):
        apply(KafkaSettings(bootstrap_servers, Topics(topic_prefix)), [spec()], actor="ada")
