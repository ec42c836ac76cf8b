"""The command line's frame: quick help, exit statuses, one clear message instead of a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from services.cli.lazy import Entry, load
from services.cli.main import ENTRIES, main
from services.errors import ServicesError

NOWHERE = {"DRIFTLINE_BOOTSTRAP_SERVERS": "127.0.0.1:9", "DRIFTLINE_CONNECT_SECONDS": "1"}


def driftline(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli.main", *arguments],
        env=os.environ | {"COLUMNS": "140", "NO_COLOR": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_help_lists_every_command_without_loading_what_they_use() -> None:
    code = """
import sys
from services.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"numpy", "confluent_kafka", "pyarrow", "faust", "scipy", "pydantic", "sqlalchemy", "driftline"}
print("LOADED", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    for entry in ENTRIES:
        assert f" {entry.name} " in done.stdout


def commands() -> list[list[str]]:
    found = []
    for entry in ENTRIES:
        try:
            command = load(entry)
        except ServicesError:
            continue  # written elsewhere, and not here yet
        found.append([entry.name])
        found += [[entry.name, name] for name in getattr(command, "commands", {})]
    return found


@pytest.mark.parametrize(
    "words",
    [w for w in commands() if w[0] in {"up", "topics", "deployment", "baseline", "publish", "status", "windows"}],
    ids=" ".join,
)
def test_every_command_explains_itself_with_an_example(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    status, out, _ = run(capsys, *words, "--help")
    assert status == 0
    is_group = len(words) == 1 and words[0] in {"deployment", "baseline", "publish", "windows"}
    assert is_group or "Example" in out
    assert is_group or "--json" in out or words[-1] == "schema"


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["nope"], 2, "No such command 'nope'"),
        (["topics", "--nope"], 2, "No such option"),
        (["deployment", "apply"], 2, "Missing argument"),
        (["publish", "predictions", "d", "f.csv", "--speed", "fast"], 2, "expected a number above 0 or max"),
        (["publish", "predictions", "d", "f.csv", "--on-error", "panic"], 2, "expected stop or skip"),
        (["publish", "predictions", "d", "f.csv", "--from", "soon"], 2, "expected a date"),
        (["windows", "show", "d", "--from", "2026-02-01", "--to", "2026-01-01"], 2, "expected a time before --to"),
        (["publish", "predictions", "d", "f.csv", "--version", "a@b"], 2, "without '#' and '@'"),
        (["windows", "show", "d", "--by", "year"], 2, "expected window, day, week, month"),
        (["windows", "show", "d", "--effects", "some"], 2, "expected usual or all"),
        (["topics", "create", "--partitions", "0"], 2, "greater than or equal to 1"),
    ],
)
def test_a_wrong_command_line_ends_with_status_2_and_says_why(
    capsys: pytest.CaptureFixture[str], words: list[str], status: int, says: str
) -> None:
    got, _, err = run(capsys, *words)
    assert got == status and says in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_a_cluster_that_is_not_there_is_one_message_and_status_1() -> None:
    done = driftline("topics", **NOWHERE)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: no Kafka cluster answers at 127.0.0.1:9") and done.stderr.count("\n") == 1


def test_a_specification_that_is_refused_ends_with_status_2_before_kafka_is_asked(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("deployment: a\nmodel: m\ntask: other\nfeatures: {x: numerc}\n")
    (tmp_path / "b.yaml").write_text("deployment: b\nmodl: m\ntask: other\nfeatures: {}\n")
    done = driftline("deployment", "apply", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), **NOWHERE)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "line 4" in done.stderr and "features.x.kind" in done.stderr and "did you mean 'numeric'" in done.stderr
    assert "line 2" in done.stderr and "modl" in done.stderr and "did you mean 'model'" in done.stderr


def test_a_setting_that_cannot_be_used_is_one_message(tmp_path: Path) -> None:
    done = driftline("topics", DRIFTLINE_CONFIG=str(tmp_path / "nope.toml"))
    assert done.returncode == 1 and done.stderr.startswith("error: DRIFTLINE_CONFIG=")
    done = driftline("topics", DRIFTLINE_PARTITIONS="many", **NOWHERE)
    assert done.returncode == 1 and "DRIFTLINE_PARTITIONS: expected a whole number" in done.stderr


def test_hostile_text_reaches_the_terminal_harmless(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text('deployment: "a\\x1b]0;pwned\\x07[red]"\nmodel: m\ntask: other\nfeatures: {}\n')
    status, _, err = run(capsys, "deployment", "apply", str(file))
    assert status == 2 and "\x1b]" not in err and "\x07" not in err and "[red]" in err


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    line = f"{sys.executable} -m services.cli.main deployment schema | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stdout == "{\n" and "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_command_that_is_not_installed_leaves_the_others_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ServicesError, match="this installation has no command 'gone'"):
        load(Entry("gone", "services.gone.commands:gone", "", ""))
    with pytest.raises(ServicesError, match="this installation has no command 'gone'"):
        load(Entry("gone", "services.cli.topics:gone", "", ""))


def test_a_failure_inside_a_command_s_module_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load(Entry("broken", "broken_module:command", "", ""))


def test_a_function_becomes_a_command_of_its_entry_s_name() -> None:
    command = load(Entry("state", "services.cli.status:status", "", ""))
    assert command.name == "state" and isinstance(command, typer.core.TyperCommand)


@pytest.mark.parametrize(("words", "expected"), [("driftline win", "windows"), ("driftline deployment a", "apply")])
def test_the_shell_completes_commands(words: str, expected: str) -> None:
    environment = {
        "_DRIFTLINE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    assert driftline(**environment).stdout.split() == [expected]


def test_the_version_is_shown() -> None:
    done = driftline("--version")
    assert done.returncode == 0 and done.stdout.startswith("driftline ")
