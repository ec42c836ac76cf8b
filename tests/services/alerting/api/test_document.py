"""docs/api.md says what there is, no less and no more."""

import re
from pathlib import Path

import pytest

from services.access.roles import PERMISSIONS, Permission, Role
from services.alerting.api.services import Limits
from services.alerting.api.table import ENDPOINTS
from services.alerting.metrics import Metrics, State

DOCUMENT = Path(__file__).parents[4] / "docs" / "api.md"


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text("utf-8")


def test_it_has_every_endpoint_with_its_rule(text: str) -> None:
    said = re.findall(r"^\| (GET|POST) \| `([^`]+)` \| (\S+) \|$", text, re.MULTILINE)
    assert said == [(e.method, e.path, str(e.rule)) for e in sorted(ENDPOINTS, key=lambda e: said_at(text, e.path))]
    assert {(method, path) for method, path, _ in said} == {(e.method, e.path) for e in ENDPOINTS}


def said_at(text: str, path: str) -> int:
    return text.index(f"`{path}` |")


def test_it_has_every_role_with_what_it_may(text: str) -> None:
    roles = re.search(r"^\| may \| (.+) \|$", text, re.MULTILINE)
    assert roles and [Role(name) for name in roles[1].split(" | ")] == list(Role)
    for permission in Permission:
        (row,) = [line for line in text.splitlines() if line.startswith("|") and f"(`{permission}`)" in line]
        cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
        assert cells == ["yes" if permission in PERMISSIONS[role] else "" for role in Role], permission


def test_its_limits_are_those_in_force(text: str) -> None:
    limits = Limits()
    for said in (
        f"{limits.per_second:g} requests a second for each token ({limits.burst} at once)",
        f"{limits.address_per_second:g} for each address ({limits.address_burst} at once)",
        f"{limits.denials_per_minute:g} wrong tokens a minute",
        f"bodies of {limits.body_bytes >> 10} KB ({limits.hook_bytes >> 10} KB",
        f"within {limits.body_seconds:g} s, JSON of {limits.depth} levels",
    ):
        assert said in text
    assert limits.quiet_seconds == 60 and "for a minute is closed" in text


def test_its_metrics_are_there(text: str) -> None:
    metrics = Metrics()
    metrics.denied("x")
    shown = metrics.text(State()).decode()
    for name in re.findall(r"`(driftline_alerting_\w+)", text):
        assert f"# TYPE {name} " in shown or f"# TYPE {name.removesuffix('_total')}_total " in shown, name
