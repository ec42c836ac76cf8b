"""What a policy is compiled from, as text: kept where decisions have to be made again as they were made."""

from __future__ import annotations

import dataclasses
import json

from driftline.humility.policy import Policy
from streams.baseline import Baseline
from streams.specification import DeploymentSpec

_OF_SPEC = ("deployment_id", "revision", "task", "positive_class", "features", "segments", "humility")
_OF_BASELINE = ("deployment_id", "model_version", "segments", "humility")


def policy_source(spec: DeploymentSpec, baseline: Baseline) -> str:
    """JSON of what the policy of a version is compiled from: :func:`policy_from` makes one of the same digest of it."""
    asked, learnt = spec.to_record(), dataclasses.replace(baseline, streams=(), outcomes=None).to_record()
    parts = {
        "spec": {name: asked[name] for name in _OF_SPEC},
        "baseline": {name: learnt[name] for name in _OF_BASELINE},
    }
    return json.dumps(parts, separators=(",", ":"))


def policy_from(source: str) -> Policy | None:
    """The policy of :func:`policy_source`."""
    parts = json.loads(source)
    return Policy.of(parts["spec"], parts["baseline"])
