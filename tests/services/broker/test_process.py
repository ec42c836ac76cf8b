"""The broker among processes: it ends with its parent, and the command runs it in the foreground."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from services.broker.embedded import EmbeddedBroker
from services.broker.errors import BrokerError
from services.broker.ports import free_port

ROOT = Path(__file__).parents[3]

PARENT = """
import sys, threading, time
from pathlib import Path
from services.broker.embedded import EmbeddedBroker
broker = EmbeddedBroker(Path(sys.argv[1]), detached=sys.argv[2] == "detached")
thread = threading.Thread(target=broker.start)
thread.start()
thread.join()
print(broker.pid, broker.bootstrap_servers, flush=True)
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def run() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python with arguments; what still runs at the end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return line


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no other system ends a child with its parent")
def test_broker_outlives_its_starting_thread_and_dies_with_a_killed_parent(
    run: Callable[..., subprocess.Popen[str]], data_dir: Path
) -> None:
    parent = run("-c", PARENT, str(data_dir), "attached")
    pid, servers = line_of(parent).split()
    assert len(AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10).brokers) == 1
    parent.kill()
    parent.wait()
    eventually(lambda: not is_running(int(pid)), seconds=5)
    with EmbeddedBroker(data_dir) as broker:
        assert broker.bootstrap_servers == servers


def test_detached_broker_outlives_its_parent_and_holds_its_directory(
    run: Callable[..., subprocess.Popen[str]], data_dir: Path
) -> None:
    parent = run("-c", PARENT, str(data_dir), "detached")
    pid, servers = line_of(parent).split()
    try:
        parent.kill()
        parent.wait()
        time.sleep(0.5)
        assert len(AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10).brokers) == 1
        with pytest.raises(BrokerError, match=rf"in use by another broker \(process {pid}\)"):
            EmbeddedBroker(data_dir).start()
    finally:
        os.kill(int(pid), signal.SIGTERM)
        eventually(lambda: not is_running(int(pid)))


def broker_command(*arguments: str) -> tuple[str, ...]:
    return ("-m", "services.cli.main", "broker", *arguments)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_runs_until_a_signal_and_leaves_no_process(
    run: Callable[..., subprocess.Popen[str]], data_dir: Path, number: signal.Signals
) -> None:
    command = run(*broker_command("--json", "--data-dir", str(data_dir)))
    document = ""
    while not document.rstrip().endswith("}"):
        document += line_of(command)
    announced = json.loads(document)
    assert announced["data_dir"] == str(data_dir)
    metadata = AdminClient({"bootstrap.servers": announced["bootstrap_servers"]}).list_topics(timeout=10)
    assert metadata.cluster_id == announced["cluster_id"]
    command.send_signal(number)
    _, stderr = command.communicate(timeout=30)
    assert command.returncode == 0, stderr
    assert not is_running(announced["pid"])
    assert "broker stopped" in stderr
    # What Kafka says last.
    assert "App info kafka.server for 1 unregistered" in Path(announced["log"]).read_text()


def test_command_that_cannot_start_says_why_without_a_traceback(
    run: Callable[..., subprocess.Popen[str]], data_dir: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = run(*broker_command("--port", str(port), "--data-dir", str(data_dir)))
        stdout, stderr = command.communicate(timeout=30)
    assert command.returncode == 1
    assert stdout == ""
    assert stderr.startswith(f"error: port {port} on 127.0.0.1 is taken")
    assert "Traceback" not in stderr


def test_command_ends_when_the_broker_does(run: Callable[..., subprocess.Popen[str]], data_dir: Path) -> None:
    command = run(*broker_command("--data-dir", str(data_dir), "--port", str(free_port("127.0.0.1"))))
    line = line_of(command)
    assert "ready" in line
    os.kill(int(line.rpartition(" ")[2]), signal.SIGKILL)
    _, stderr = command.communicate(timeout=30)
    assert command.returncode == 1
    assert "error: the broker ended by itself (killed by signal 9)" in stderr


def test_download_only_needs_no_network_when_all_is_there(
    run: Callable[..., subprocess.Popen[str]], kafka: Any, tmp_path: Path
) -> None:
    command = run(
        *broker_command("--download-only", "--json"), cwd=tmp_path, DRIFTLINE_MAVEN_REPOSITORY="http://127.0.0.1:9"
    )
    stdout, stderr = command.communicate(timeout=60)
    assert command.returncode == 0, stderr
    document = json.loads(stdout)
    assert document["jars"] == 46
    assert document["kafka_version"].startswith("4.1.")
    assert not list(tmp_path.iterdir()), "nothing is written where it is called"


def test_help_has_examples(run: Callable[..., subprocess.Popen[str]]) -> None:
    stdout, _ = run(*broker_command("--help")).communicate(timeout=30)
    assert "driftline broker --port 19092" in stdout
    assert "--download-only" in stdout
