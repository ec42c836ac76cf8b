"""Settings of the governance service from environment and file."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.governance.errors import GovernanceError
from services.governance.settings import GovernanceSettings


def test_defaults_need_no_environment() -> None:
    settings = GovernanceSettings.from_environment({})
    assert settings.database_url == "sqlite:///.driftline/governance.db"
    assert settings.key_file == Path(".driftline/audit-key")
    assert settings.origin == "driftline.local/audit"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "driftline.toml"
    file.write_text('bootstrap_servers = "a:1"\n[governance]\norigin = "example.com/a"\nseal_seconds = 5\n')
    environment = {"DRIFTLINE_CONFIG": str(file), "DRIFTLINE_AUDIT_ORIGIN": "example.com/b"}
    settings = GovernanceSettings.from_environment(environment)
    assert (settings.origin, settings.seal_seconds) == ("example.com/b", 5.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DRIFTLINE_AUDIT_ORIGIN", "two words"),
        ("DRIFTLINE_AUDIT_ORIGIN", "a+b"),
        ("DRIFTLINE_GOVERNANCE_SEAL_SECONDS", "often"),
        ("DRIFTLINE_GOVERNANCE_SEAL_RECORDS", "0"),
        ("DRIFTLINE_GOVERNANCE_SEAL_RECORDS", "1000000"),
        ("DRIFTLINE_GOVERNANCE_GIVE_UP_SECONDS", "-1"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(GovernanceError, match=name):
        GovernanceSettings.from_environment({name: value})


@pytest.mark.parametrize("text", ["[governance]\norigni = 'a'\n", "governance = 3\n", "[governance", "\0"])
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "driftline.toml"
    file.write_text(text)
    with pytest.raises(GovernanceError):
        GovernanceSettings.from_environment({"DRIFTLINE_CONFIG": str(file)})


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(GovernanceError, match="readable TOML"):
        GovernanceSettings.from_environment({"DRIFTLINE_CONFIG": str(tmp_path / "none")})
