"""Commands as a user types them, against a real broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.cli import output
from services.cli.main import main


@pytest.fixture
def settings(bootstrap_servers: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> KafkaSettings:
    """An installation of the test's own, without topics, named in the environment as a user names it."""
    monkeypatch.setenv("DRIFTLINE_BOOTSTRAP_SERVERS", bootstrap_servers)
    monkeypatch.setenv("DRIFTLINE_TOPIC_PREFIX", topic_prefix)
    monkeypatch.setenv("DRIFTLINE_ACTOR", "ada")
    monkeypatch.delenv("DRIFTLINE_PARTITIONS", raising=False)
    return KafkaSettings(bootstrap_servers, Topics(topic_prefix))


@pytest.fixture
def run(
    settings: KafkaSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in the installation: its exit status, output and errors."""
    for console in (output.stdout, output.stderr):
        monkeypatch.setattr(console, "width", 160)  # the console took its width from the test runner

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(ended.value.code or 0), out, err

    return call
