"""Whether the topics keep predictions and outcomes for as long as a deployment waits for them.

Predictions that wait for their outcome lie in an index that is rebuilt from the topics when it is lost, with the worker
or its disk: what the topics no longer have would be forgotten, and late outcomes would find nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from services.deployments.durations import duration_text
from services.deployments.errors import DeploymentError
from services.retention import FOREVER, Retention
from streams.specification import DeploymentSpec, OutcomeSpec

_DAY_MS = 86_400_000


def check_retention(specs: Collection[DeploymentSpec], retentions: Sequence[Retention]) -> dict[str, list[str]]:
    """Refuse deployments that wait longer for outcomes than a topic keeps its records.

    Args:
        specs: The deployments; of those without outcomes nothing is asked.
        retentions: Of the topics of predictions and outcomes.

    Returns:
        By deployment, what is not refused and may go wrong all the same, in words.

    Raises:
        DeploymentError: Names deployments and topics, with the arithmetic.
    """
    refused, doubtful = [], {}
    for spec in specs:
        if spec.outcomes is None:
            continue
        short = [each for each in retentions if each.time_ms is not None and not _is_enough(each.time_ms, spec)]
        if short:
            kept = " and ".join(f"{each.topic!r} keeps {_kept(each)}" for each in short)
            refused.append(f"  {spec.deployment_id}: {arithmetic(spec)}; {kept}")
        elif doubts := [doubt for each in retentions if (doubt := _doubt(each, spec))]:
            doubtful[spec.deployment_id] = doubts
    if refused:
        days = -(-max(needed_ms(spec) for spec in specs) // _DAY_MS)
        raise DeploymentError(
            "the topics keep predictions and outcomes for less time than they are waited for, and the index of waiting "
            "predictions is rebuilt from them when it is lost:\n"
            + "\n".join(refused)
            + f"\nNothing was changed. Keep them longer with `driftline topics keep --days {days}`, or shorten "
            "outcomes.horizon."
        )
    return doubtful


def needed_ms(spec: DeploymentSpec) -> int:
    """How long a record has to be there after it was published; 0 where no outcomes are expected."""
    return sum(milliseconds for _, milliseconds in _terms(spec))


def arithmetic(spec: DeploymentSpec) -> str:
    """How that comes about: ``horizon 60d + … = 67d10m``."""
    terms = " + ".join(f"{name} {duration_text(milliseconds)}" for name, milliseconds in _terms(spec))
    return f"{terms} = {duration_text(needed_ms(spec))}"


def _terms(spec: DeploymentSpec) -> list[tuple[str, int]]:
    """A window is open for its length and the lateness of events; then its outcomes are waited for."""
    outcomes: OutcomeSpec | None = spec.outcomes
    if outcomes is None:
        return []
    terms = [
        ("horizon", outcomes.horizon_ms),
        ("lateness of outcomes", outcomes.final_after_ms - outcomes.horizon_ms),
        ("window", outcomes.window_ms),
        ("lateness", spec.lateness_ms),
    ]
    return [(name, milliseconds) for name, milliseconds in terms if milliseconds]


def _is_enough(time_ms: int, spec: DeploymentSpec) -> bool:
    return time_ms == FOREVER or time_ms >= needed_ms(spec)


def _kept(retention: Retention) -> str:
    assert retention.time_ms is not None
    return f"{duration_text(retention.time_ms)} (retention.ms={retention.time_ms})"


def _doubt(retention: Retention, spec: DeploymentSpec) -> str:
    """Why a topic that is not too short may turn out to be."""
    wanted = f"{duration_text(needed_ms(spec))} that outcomes are waited for"
    if retention.time_ms is None:
        return f"nobody may ask how long {retention.topic!r} keeps its records: see that it is the {wanted}"
    if retention.partition_bytes not in (None, FOREVER):
        return (
            f"{retention.topic!r} keeps at most {retention.partition_bytes:,} bytes of each partition "
            f"(retention.bytes): with much traffic that is less than the {wanted}; -1 leaves it to retention.ms"
        )
    return ""
