"""docs/routing.md is held to the program: its files load, its output is what comes, and no field is missing."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.alerting.policy import environment, labels
from services.alerting.policy.cases import load_cases
from services.alerting.policy.fields import Fields
from services.alerting.policy.loading import load_policy
from services.alerting.policy.model import Policy
from services.cli import output
from services.cli.route import route_app

GUIDE = (Path(__file__).parents[4] / "docs" / "routing.md").read_text("utf-8")
FILES = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", GUIDE, re.DOTALL))
CONSOLES = re.findall(r"```console\n\$ driftline route (.+?)\n(.*?)```", GUIDE, re.DOTALL)

SECTIONS = {
    "field of a route": r"route(\.routes\[\d+\])*",
    "field of `defaults`": "defaults",
    "field of an interval": r"(intervals\.\S+|maintenance\[\d+\]\.weekly)\[\d+\]",
    "field of `digest`": r"route.*\.digest",
    "field of a role": r"roles\.[\w-]+",
    "field of an escalation": r"escalations\.[\w-]+",
    "field of a step": r"escalations\.[\w-]+\.steps\[\d+\]",
    "field of every receiver": r"receivers\[\d+\]",
    "field of a maintenance": r"maintenance\[\d+\]",
    "field of an inhibition": r"inhibit\[\d+\]",
    "field of `correlation`": "correlation",
    "field of one of `sources`": r"sources\.[\w-]+",
    "field of `watch`": "watch",
    "field of `heartbeat`": r"watch\.heartbeat",
    "field of `dead_man`": r"watch\.dead_man",
    "field of the file": "",
}


def column(heading: str, number: int = 0) -> list[str]:
    """What stands in code in a column of the table whose head begins so."""
    table = re.search(rf"^\| {re.escape(heading)} \|.*?\n\|[-|]+\|\n((?:\|.*\n)+)", GUIDE, re.MULTILINE)
    assert table is not None, heading
    cells = [row.split("|")[number + 1] for row in table[1].splitlines()]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def public(names: set[str]) -> set[str]:
    """Fields as the guide names them: a secret by its file, and not as the field that is always refused."""
    hidden = {
        n.removesuffix("_file") for n in names if n.endswith("_file") and f"{n.removesuffix('_file')}_env" in names
    }
    return {
        n for n in names if n not in hidden and not (n.endswith("_env") and f"{n.removesuffix('_env')}_file" in names)
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Which fields were asked for, by their place; of receivers, by their type."""
    found: dict[str, set[str]] = defaultdict(set)
    end = Fields.end

    def noted(self: Fields, *arguments: Any) -> None:
        kind = self._inner.get("type") if self.node.where.startswith("receivers") else None
        found[self.node.where if kind is None else f"{self.node.where}:{kind.value}"] |= self._asked
        end(self, *arguments)

    monkeypatch.setattr(Fields, "end", noted)
    return found


def test_every_field_of_every_section_is_in_the_guide_and_no_other(
    asked: dict[str, set[str]], read: Callable[[str], Policy], whole: str
) -> None:
    read(whole)
    common = set(column("field of every receiver"))
    for heading, place in SECTIONS.items():
        if heading == "field of every receiver":
            continue
        names = [fields for where, fields in asked.items() if re.fullmatch(place, where)]
        assert names, heading
        assert set(column(heading)) == public(set().union(*names)), heading
    own: dict[str, set[str]] = defaultdict(set)
    kind = ""
    table = re.search(r"^\| type \| field \|.*?\n\|[-|]+\|\n((?:\|.*\n)+)", GUIDE, re.MULTILINE)
    assert table is not None
    for row in table[1].splitlines():
        cells = [cell.strip(" `") for cell in row.split("|")]
        kind = cells[1] or kind
        own[kind].add(cells[2])
    for where, fields in asked.items():
        if ":" in where:
            known = public(fields) | ({"url"} if where.endswith(":webhook") else set())
            assert known == own[where.partition(":")[2]] | common, where
    assert {where.partition(":")[2] for where in asked if ":" in where} == set(own)


def test_every_label_and_every_variable_is_in_the_guide() -> None:
    assert {*column("label")} >= {*labels.NAMES, "tag.NAME"}
    said = set(re.findall(r"DRIFTLINE_[A-Z_]+[A-Z]", environment.__doc__ or ""))
    assert said - set(re.findall(r"DRIFTLINE_[A-Z_]+[A-Z]", GUIDE)) == set()


def test_the_files_are_what_they_say(tmp_path: Path) -> None:
    assert set(FILES) == {"routing.yaml", "refused.yaml", "cases.yaml"}
    path = tmp_path / "routing.yaml"
    path.write_text(FILES["routing.yaml"])
    policy = load_policy(path, {}, read_secrets=False)
    assert policy.warnings == ()
    (tmp_path / "cases.yaml").write_text(FILES["cases.yaml"])
    cases = load_cases(tmp_path / "cases.yaml", policy)
    assert {*column("field of a case")} == {"name", "labels", "expect", "routes", "at", "within", "muted"}
    assert len(cases) == 3


@pytest.mark.parametrize(("command", "expected"), CONSOLES, ids=[command[:40] for command, _ in CONSOLES])
def test_the_output_is_what_comes(command: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        # The first line of a block names the file, and counts.
        (tmp_path / name).write_text(f"# {name}\n{text}")
    monkeypatch.setattr(output.stdout, "width", 140)  # a pipe's; what tests run in may have another
    result = CliRunner().invoke(route_app, shlex.split(command), env={"DRIFTLINE_ALERTING_CONFIG": "routing.yaml"})
    came = [line.rstrip() for line in (result.stdout + result.stderr).splitlines()]
    assert [line for line in came if line] == [line.rstrip() for line in expected.splitlines() if line]
    assert result.exit_code == (2 if "refused" in command else 0)


def test_there_are_examples_of_every_command() -> None:
    assert {command.split()[0] for command, _ in CONSOLES} == {"check", "explain", "test"}


@pytest.mark.parametrize("name", ["README.md", "docs/alerting.md"])
def test_routing_files_elsewhere_load_too(name: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[4] / name).read_text("utf-8")
    blocks = [
        block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if re.search("^receivers:", block, re.M)
    ]
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        assert load_policy(path, {}, read_secrets=False).warnings == ()
