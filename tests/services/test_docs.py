"""Links of the documents lead somewhere, what they name exists, and every decision is in the index."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.cli.lazy import load
from services.cli.main import ENTRIES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("s*/README.md")]
    if not path.name.startswith(".")
)
DECISIONS = ROOT / "docs" / "decisions"
FOLDERS = ("tests", "bench", "streams", "services", "sdk", "schemas", "docs")
COMMANDS = {entry.name: entry for entry in ENTRIES}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    return re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What GitHub makes of headings."""
    headings = re.findall(r"^#+ +(.+?)\s*$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> Iterator[str]:
    return (target for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)) if "://" not in target)


def commands(path: Path) -> Iterator[str]:
    """``driftline …`` in code, in spans and blocks."""
    text = path.read_text("utf-8")
    for block in re.findall(r"```(?:console|sh|bash)\n(.*?)```", text, re.DOTALL):
        yield from re.findall(r"^\$ (driftline .+)$", block, re.MULTILINE)
    yield from re.findall(r"`(driftline [a-z][^`]*)`", prose(path))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_no_link_is_dead(path: Path) -> None:
    for target in links(path):
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{name_of(path)} links to {target}"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{name_of(path)} links to {target}; there are {sorted(anchors(found))}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_file_that_is_named_exists(path: Path) -> None:
    """Paths from the root in code spans, with a name that ends in one of the usual ways, or a folder."""
    for span in re.findall(r"`([\w./-]+)`", prose(path)):
        first = span.partition("/")[0]
        if "/" in span and first in FOLDERS and re.search(r"(\.(py|md|avsc|json|toml)|/)$", span):
            assert (ROOT / span).exists(), f"{name_of(path)} names {span}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_command_and_option_exists(path: Path) -> None:
    for text in commands(path):
        words = shlex.split(text.split("#")[0])[1:]
        if words and words[0] in COMMANDS:
            command: Any = load(COMMANDS[words[0]])
            for word in words[1:]:
                command = getattr(command, "commands", {}).get(word, command)
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            asked = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert asked <= {*known, "--help"}, f"{name_of(path)}: {text}"
        else:
            assert not words or words[0].startswith("-") or not words[0].islower(), f"{name_of(path)}: {text}"


def test_every_decision_is_in_the_index() -> None:
    index = dict(re.findall(r"^\| \[(\d{3})\]\(\1-[\w-]+\.md\) \| (.+?) \|$", prose(DECISIONS / "README.md"), re.M))
    numbers = []
    for path in sorted(DECISIONS.glob("[0-9]*.md")):
        number = path.read_text("utf-8").removeprefix("# ").partition(" ")[0]
        assert path.name.startswith(f"{number}-")
        numbers.append(number)
    assert sorted(index) == numbers
    assert numbers == [f"{n:03d}" for n in range(1, len(numbers) + 1)]
