"""What routes, silences and inhibitions can ask of an alert: one flat set of names and values.

=============== ============================================================================
label           value
=============== ============================================================================
deployment      the deployment's id; empty for what Driftline says of itself
model, version  the model's id and version
monitor         data_drift, concept_drift …; ``system:NAME`` for what Driftline says of itself
severity        critical, error, warning or info
owner           who answers for the deployment
feature         the stream of the first cause
segment         the part of the traffic of the first cause, as SEGMENTATION=VALUE
diagnosis       of concept drift: relation, outcome_rate or inputs
tier            the same as tag.tier
tag.NAME        every tag of the deployment
=============== ============================================================================

A label that an alert does not have is the empty text.
"""

from __future__ import annotations

from collections.abc import Mapping

from driftline.codec import Record

NAMES = ("deployment", "model", "version", "monitor", "severity", "owner", "feature", "segment", "diagnosis", "tier")
TAG_PREFIX = "tag."

Labels = Mapping[str, str]


def labels_of(alert: Record) -> dict[str, str]:
    """The labels of a decoded ``Alert``."""
    first = alert["causes"][0] if alert["causes"] else {}
    labels = {
        "deployment": alert["deployment_id"],
        "model": alert["model_id"],
        "version": alert["model_version"],
        "monitor": alert["monitor"],
        "severity": alert["severity"],
        "owner": alert["owner"],
        "feature": first.get("stream", ""),
        "segment": first.get("segment", ""),
        "diagnosis": alert.get("diagnosis", ""),
        "tier": alert["tags"].get("tier", ""),
    }
    return {**labels, **{f"{TAG_PREFIX}{name}": value for name, value in alert["tags"].items()}}
