"""Outcomes are not waited for longer than the topics keep their predictions."""

import dataclasses

import pytest

from services.deployments.errors import DeploymentError
from services.deployments.retention import arithmetic, check_retention, needed_ms
from services.retention import FOREVER, Retention
from streams.specification import DeploymentSpec, FeatureSpec, OutcomeSpec

MINUTE_MS, DAY_MS = 60_000, 86_400_000
NAMES = ("predictions", "outcomes")


def spec(days: float, name: str = "d", lateness_ms: int | None = 0) -> DeploymentSpec:
    outcomes = OutcomeSpec(round(days * DAY_MS), DAY_MS, lateness_ms)
    return DeploymentSpec(name, "m", "other", (FeatureSpec("x", "numeric"),), outcomes=outcomes)


def kept(*times_ms: int | None, partition_bytes: int | None = FOREVER) -> list[Retention]:
    return [Retention(name, time_ms, partition_bytes) for name, time_ms in zip(NAMES, times_ms, strict=True)]


def test_a_longer_horizon_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(DeploymentError) as caught:
        check_retention([spec(60)], kept(7 * DAY_MS, 90 * DAY_MS))
    text = str(caught.value)
    assert "d: horizon 60d + window 1d + lateness 10m = 61d10m; " in text
    assert "'predictions' keeps 7d (retention.ms=604800000)" in text and "'outcomes'" not in text
    assert "Nothing was changed." in text and "`driftline topics keep --days 62`" in text


def test_the_lateness_of_outcomes_counts_a_tenth_of_the_horizon_where_it_is_not_given() -> None:
    assert arithmetic(spec(60, lateness_ms=None)) == (
        "horizon 60d + lateness of outcomes 6d + window 1d + lateness 10m = 67d10m"
    )
    assert needed_ms(spec(60, lateness_ms=3 * DAY_MS)) == 64 * DAY_MS + 10 * MINUTE_MS


def test_every_deployment_and_topic_that_is_too_short_is_named() -> None:
    with pytest.raises(DeploymentError) as caught:
        check_retention([spec(5, "a"), spec(30, "b"), spec(9, "c")], kept(7 * DAY_MS, 8 * DAY_MS))
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines if line.startswith("  ")] == ["b", "c"]
    assert "'predictions' keeps 7d (retention.ms=604800000) and 'outcomes' keeps 8d" in lines[1]
    assert "--days 32`" in lines[-1]


@pytest.mark.parametrize("time_ms", [FOREVER, needed_ms(spec(60))])
def test_topics_that_keep_as_long_or_for_ever_are_fine(time_ms: int) -> None:
    assert check_retention([spec(60)], kept(time_ms, time_ms)) == {}
    with pytest.raises(DeploymentError):
        check_retention([spec(60)], kept(needed_ms(spec(60)) - 1, FOREVER))


def test_without_outcomes_nothing_has_to_be_kept() -> None:
    without = dataclasses.replace(spec(60), outcomes=None)
    assert check_retention([without], kept(1, 1)) == {} and needed_ms(without) == 0


def test_a_limit_of_size_and_a_topic_that_may_not_be_asked_are_warned_of() -> None:
    found = check_retention([spec(60)], kept(FOREVER, None, partition_bytes=1_000_000))
    assert found == {
        "d": [
            "'predictions' keeps at most 1,000,000 bytes of each partition (retention.bytes): with much traffic that "
            "is less than the 61d10m that outcomes are waited for; -1 leaves it to retention.ms",
            "nobody may ask how long 'outcomes' keeps its records: see that it is the 61d10m that outcomes are waited "
            "for",
        ]
    }
