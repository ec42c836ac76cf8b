"""Rules as they stand: who decides by them lately, and what applications were told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from driftline.codec import encode
from driftline.settings import KafkaSettings
from driftline.topics import Topics, baseline_key, humility_key
from services.cli import output
from services.cli.humility_tables import show_versions
from services.humility.errors import HumilityError
from services.humility.showing import lately, show_document, versions_shown
from services.kafka import publish
from services.topics import ensure_topics

HOUR_US = 3_600_000_000


@pytest.fixture
def settings(bootstrap_servers: str, topic_prefix: str) -> KafkaSettings:
    found = KafkaSettings(bootstrap_servers, Topics(topic_prefix))
    ensure_topics(found, partitions=2)
    return found


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setattr(output.stdout, "width", 100)

    def tell(spec: Any, shown: Any) -> str:
        show_versions(spec, shown)
        return " ".join(capsys.readouterr().out.split())

    return tell


def test_the_last_windows_count_as_lately_whatever_their_partitions(made: Any) -> None:
    windows = [
        made.window({}, window_start_us=hour * HOUR_US, partition=partition, policy=f"p{hour}", clock_us=hour)
        for hour in range(5)
        for partition in (0, 1)
    ]
    found = lately(windows, 2)
    assert found is not None and (found.start_us, found.end_us) == (3 * HOUR_US, 5 * HOUR_US)
    assert (found.counts.rows, found.policy) == (400, "p4") and lately([], 2) is None


def test_rules_without_baseline_are_shown_and_say_what_is_missing(
    made: Any, settings: KafkaSettings, told: Callable[..., str]
) -> None:
    spec = made.spec()
    (shown,) = versions_shown(settings, spec)
    assert shown.baseline is None and shown.policy is not None
    text = told(spec, [shown])
    assert "no baseline yet" in text and "refuse the prediction yes – –" in text
    with pytest.raises(HumilityError, match="there is none at all"):
        versions_shown(settings, spec, version="1")
    assert show_document(spec, [shown])["versions"][0]["told"] == []


def test_stale_and_disagreeing_publishers_alarms_and_quantiles_are_told(
    made: Any, settings: KafkaSettings, told: Callable[..., str]
) -> None:
    spec = made.spec()
    baseline, topics = made.baseline(spec), settings.topics
    publish(settings, topics.baselines, baseline_key("delays", "1"), encode("Baseline", baseline.to_record()))
    text = told(spec, versions_shown(settings, spec))
    assert "nothing is guaranteed: nothing has been fitted yet" in text and "told nothing yet" in text
    assert "nothing was decided yet" in text
    for number, deployment in enumerate(("delays", "delays@1")):
        state = {
            "deployment_id": deployment, "model_version": "1", "partition": 0, "clock_us": 10**15, "policy": "older",
            "alarms": ["data_drift", "service"],
            "quantiles": [{"segment": "", "quantile": 0.5, "known": 200, "missed": 10 + number}],
        }  # fmt: skip
        publish(settings, topics.humility, humility_key(deployment, "1", 0), encode("HumilityState", state))
    publish(settings, topics.humility, humility_key("delays", "1", 1), b"no record")
    window = made.window({"storm": (2, 2)}, window_start_us=10**15)
    publish(settings, topics.windows, b"delays", encode("HumilityWindow", window))
    shown = versions_shown(settings, spec)
    text = told(spec, shown)
    assert "know of: data_drift, service (at 2001-09-09T01:46:40Z, of rules that are not in force any more)" in text
    assert "0 all rows 0.5 – 200 95.0%" in text
    assert "50.0% of the rows came decided, 1 (2.0%) by rules that are not in force any more and 2 (4.0%) other" in text
    assert "the streams have not judged rows by the rules in force yet" in text
    document = show_document(spec, shown)["versions"][0]
    assert document["told"][0]["quantiles"][0]["missed"] == 10 and document["lately"]["stale"] == 1
    publish(settings, topics.windows, b"delays", encode("HumilityWindow", made.window({}, revision=2) | {
        "parts": [dict(window["parts"][0], decided=0, fired=[], acted=[], stale=0, disagreeing=0)]
    }))  # fmt: skip
    assert "100 rows" in told(spec, versions_shown(settings, spec, last=1))
