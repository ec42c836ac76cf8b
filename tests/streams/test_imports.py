"""Imports point one way, and the contract is data."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastavro
import pytest

ROOT = Path(__file__).parents[2]
SCHEMAS = sorted((ROOT / "schemas").glob("**/*.avsc"))


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").partition(".")[0])
    return found


def test_imports_point_from_services_to_streams_to_the_client() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert command, "import-linter is part of the development requirements"
    result = subprocess.run(
        [command, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}"},
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("package", ["streams", "sdk/driftline"])
def test_no_package_imports_what_stands_on_it(package: str) -> None:
    forbidden = {"streams": {"services"}, "sdk/driftline": {"streams", "services", "faust"}}[package]
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & forbidden, path


def test_the_client_needs_three_packages_only() -> None:
    allowed = {"driftline", "confluent_kafka", "fastavro", "numpy"} | set(sys.stdlib_module_names)
    for path in (ROOT / "sdk" / "driftline").rglob("*.py"):
        assert imported(path) <= allowed, path


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_schema_parses_and_is_named_after_its_file(path: Path) -> None:
    schema: Any = fastavro.schema.load_schema(str(path), _write_hint=False)
    name = schema["name"].removeprefix("driftline.")
    assert path.stem.replace("_", "").lower() == name.lower()
    assert not list(path.parent.glob("*.py")), "schemas are data"
