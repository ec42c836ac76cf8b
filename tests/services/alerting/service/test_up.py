"""``driftline up``: commands in the same folder find the alerting service without being told anything."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)

COMMAND = [sys.executable, "-m", "services.cli.main"]


def test_commands_work_from_the_folder_of_driftline_up(
    cluster: Any, receiver: Any, make_alert: Any, tmp_path: Path, eventually: Any
) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLINE_")}
    environment = plain | {
        "DRIFTLINE_BOOTSTRAP_SERVERS": cluster.settings.bootstrap_servers,
        "DRIFTLINE_TOPIC_PREFIX": cluster.prefix,
        "DRIFTLINE_APPLICATION_ID": cluster.prefix,
        "DRIFTLINE_ALERTING_GROUP_WAIT": "0s",
        "DRIFTLINE_PAGERDUTY_URL": receiver.pagerduty_url,
        "DRIFTLINE_PAGERDUTY_ROUTING_KEY": "R" * 32,
    }

    def driftline(*words: str) -> Any:
        done = subprocess.run(
            [*COMMAND, *words, "--json"],
            cwd=tmp_path,
            env=plain,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            [*COMMAND, "up", "--json"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=err, text=True
        )
    try:
        assert process.stdout is not None
        found = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        file = Path(found["alerting"])
        assert file == tmp_path / ".driftline" / "alerting.json"
        assert file.stat().st_mode & 0o777 == 0o600
        assert driftline("incidents", "list") == []
        cluster.publish(make_alert())
        assert len(receiver.wait_for(1, timeout_seconds=60)) == 1
        (incident,) = driftline("incidents", "list")
        driftline("incidents", "ack", incident["id"], "--reason", "mine")
        assert receiver.wait_for(2, timeout_seconds=60)[-1].body["event_action"] == "acknowledge"
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, (tmp_path / "err").read_text()
        assert not file.exists()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(60)
