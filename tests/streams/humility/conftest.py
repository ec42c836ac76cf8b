"""A deployment with humility rules that were fitted."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from streams.baseline import Baseline
from streams.reference import build_baseline
from streams.specification import DeploymentSpec


@pytest.fixture(scope="session")
def fitted(humble: Any) -> tuple[DeploymentSpec, Baseline]:
    """The specification and a baseline with a fit of its rules."""
    spec = humble.spec()
    plain = build_baseline(dataclasses.replace(spec, humility=None), "1", [humble.rows(5000, seed=1)], source="sample")
    return spec, humble.fitted(spec, plain)
