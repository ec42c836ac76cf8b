"""What is fitted replaces the baseline it was fitted to, and no other that came meanwhile."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from driftline.codec import decode
from driftline.humility.fit import HumilityFit
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.deployments.baselines import get_baseline, publish_baseline
from services.deployments.errors import DeploymentError
from services.kafka import read_to_end
from services.topics import ensure_topics


def sealed(baseline: Any, **changes: Any) -> Any:
    found = dataclasses.replace(baseline, digest="", **changes)
    return dataclasses.replace(found, digest=found.content_digest())


def test_a_fit_does_not_replace_a_baseline_that_was_put_in_force_meanwhile(
    made: Any, bootstrap_servers: str, topic_prefix: str
) -> None:
    settings = KafkaSettings(bootstrap_servers, Topics(topic_prefix))
    ensure_topics(settings, partitions=1)
    first = made.baseline(made.spec())
    second = sealed(first, source="newer")
    fitted = sealed(first, humility=HumilityFit("d", "march.csv", 2, 1, 0, 1, 0.95))
    for baseline in (first, second):
        assert publish_baseline(settings, baseline, actor="ada")
    with pytest.raises(DeploymentError, match=r"was put in force meanwhile: expected .*run the command again"):
        publish_baseline(settings, fitted, actor="bob", replacing=first)
    assert get_baseline(settings, "delays", "1").baseline.digest == second.digest
    assert publish_baseline(settings, fitted, actor="bob", replacing=second)
    events = [decode(message.value())[1] for message in read_to_end(settings, settings.topics.audit)]
    assert [event["detail"].get("humility") for event in events] == [None, None, "march.csv"]
    assert events[-1]["before_digest"] == second.digest and events[-1]["after_digest"] == fitted.digest
    assert events[-1]["detail"]["humility_rules"] == "d"
