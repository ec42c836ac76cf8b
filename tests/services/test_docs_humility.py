"""The rules that the documents show are accepted as they are written, each by a model that it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.deployments.checking import parse_specification
from services.deployments.errors import SpecificationError
from streams.specification import BINARY, REGRESSION

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "humility.md").read_text("utf-8")
CONDITIONS = re.findall(r"^\| `([a-z_]+: [^`]*|novel_input)` \|", GUIDE, re.MULTILINE)
ACTIONS = re.findall(r"`(\{(?:override|route): [^`]*\})`", GUIDE)

OF_TASK = {
    BINARY: ("positive_class: late", "max_error: 0.15", ""),
    REGRESSION: ("description: minutes", "confidence: 0.95", ", prediction_low: low, prediction_high: high"),
}


def is_accepted(task: str, condition: str, action: str) -> bool:
    extra, guarantee, columns = OF_TASK[task]
    text = f"""\
deployment: delays
model: m
task: {task}
{extra}
features: {{visib: numeric, dest: categorical, A: numeric, B: numeric, seen_at: numeric}}
outcomes: {{horizon: 36h}}
challengers: ["8", "6"]
columns: {{prediction: score{columns}}}
humility:
  guarantees: {{novelty: 0.01, coverage: 0.9, {guarantee}}}
  rules:
  - name: shown
    when: {f"{{{condition}}}" if ":" in condition else condition}
    action: {action}
"""
    try:
        parse_specification(text.encode(), "shown.yaml").to_spec()
    except SpecificationError:
        return False
    return True


def test_the_guide_shows_conditions_and_actions() -> None:
    assert len(CONDITIONS) >= 15
    assert len(ACTIONS) >= 6


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_of_the_guide_is_one(condition: str) -> None:
    assert any(is_accepted(task, condition, "record") for task in OF_TASK)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_of_the_guide_is_one(action: str) -> None:
    assert any(is_accepted(task, "novel_input", action) for task in OF_TASK)


@pytest.mark.parametrize(
    ("path", "head"),
    [
        ("README.md", ""),
        (
            "docs/humility.md",
            "deployment: d\nmodel: m\ntask: binary_classification\npositive_class: late\n"
            "features: {visib: numeric, wind_speed: numeric, precip: numeric, dest: categorical}\n",
        ),
    ],
)
def test_the_specifications_of_the_documents_are_accepted(path: str, head: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / path).read_text("utf-8"), re.DOTALL)
    whole = [block for block in blocks if not block.startswith(("- name", "# routing.yaml"))]
    assert parse_specification((head + "".join(whole)).encode(), path).to_spec().humility is not None
