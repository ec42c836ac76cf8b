"""What ends is started again, what cannot run is given up, and nothing outlives the supervisor."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.child import ChildPlan, Patience
from services.errors import ServicesError
from services.supervisor import Supervisor, SupervisorError, needs_broker

PATIENCE = Patience(first_delay_seconds=0.05, longest_delay_seconds=0.2, quick_seconds=1.0, quick_failures=4)
STAYS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("here", flush=True)
time.sleep(600)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("here", flush=True)
time.sleep(600)
"""
WORDY = """
import time
for _ in range(4000):
    print("x" * 9999 + "%s")
time.sleep(600)
"""


def python(name: str, code: str, stop_seconds: float = 5.0) -> ChildPlan:
    return ChildPlan(name, [sys.executable, "-c", textwrap.dedent(code)], stop_seconds)


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def printed(supervisor: Supervisor, name: str) -> str:
    log = supervisor.logs / f"{name}.log"
    return log.read_text() if log.exists() else ""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path, said: list[str]
) -> Iterator[Callable[..., Supervisor]]:
    made: list[Supervisor] = []

    def build(*plans: ChildPlan) -> Supervisor:
        environment = {"DRIFTLINE_BOOTSTRAP_SERVERS": bootstrap_servers, "DRIFTLINE_TOPIC_PREFIX": topic_prefix}
        made.append(
            Supervisor(
                tmp_path / "run",
                environment=environment,
                children=plans,
                say=lambda name, text: said.append(f"{name} {text}"),
                patience=PATIENCE,
            )
        )
        return made[-1]

    yield build
    for supervisor in made:
        supervisor.stop()


def pids(supervisor: Supervisor) -> list[int]:
    return [status.pid for status in supervisor.statuses() if status.pid is not None]


def test_a_killed_child_is_started_again_and_counted(make: Callable[..., Supervisor], said: list[str]) -> None:
    supervisor = make(python("worker-1", STAYS))
    supervisor.start()
    supervisor.wait_ready(20)
    (first,) = pids(supervisor)
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor.restarts == 1 and pids(supervisor) not in ([], [first]))
    assert any("ended by SIGKILL; starting it again" in line for line in said)


def test_a_child_that_ends_well_without_being_asked_is_started_again(make: Callable[..., Supervisor]) -> None:
    supervisor = make(python("alerting", "import time; time.sleep(1.2)"))
    supervisor.start()
    until(lambda: supervisor.restarts >= 1)
    supervisor.require_alive()


def test_a_child_that_fails_quickly_too_often_is_given_up_with_its_last_words(
    make: Callable[..., Supervisor], said: list[str]
) -> None:
    supervisor = make(python("governance", "print('no such database'); raise SystemExit(7)"), python("worker-1", STAYS))
    supervisor.start()
    until(lambda: any("given up" in line for line in said))
    assert supervisor.restarts == PATIENCE.quick_failures - 1
    with pytest.raises(
        SupervisorError, match=r"governance was given up: ended with status 7, 4 times.*\n  no such database"
    ):
        supervisor.require_alive()
    with pytest.raises(SupervisorError, match="governance was given up"):
        supervisor.wait_ready(5)


def test_wrong_settings_are_not_tried_again(make: Callable[..., Supervisor], said: list[str]) -> None:
    supervisor = make(python("alerting", "raise SystemExit(2)"))
    supervisor.start()
    until(lambda: any("given up: its settings cannot be used" in line for line in said))
    assert supervisor.restarts == 0


def test_a_program_that_is_not_there_is_given_up(make: Callable[..., Supervisor]) -> None:
    supervisor = make(ChildPlan("alerting", ["/no/such/program"]))
    supervisor.start()
    with pytest.raises(SupervisorError, match=r"/no/such/program cannot be started"):
        supervisor.wait_ready(10)


def test_writers_stop_before_readers(make: Callable[..., Supervisor], tmp_path: Path) -> None:
    order = tmp_path / "order"

    def noting(name: str, seconds: float) -> ChildPlan:
        return python(
            name,
            f"""
            import signal, sys, time
            def stop(*_):
                time.sleep({seconds})
                with open({str(order)!r}, "a") as file:
                    file.write("{name} ")
                sys.exit(0)
            signal.signal(signal.SIGTERM, stop)
            print("here", flush=True)
            while True:
                time.sleep(0.01)
            """,
        )

    supervisor = make(
        noting("worker-1", 0.6), noting("worker-2", 0.5), noting("alerting", 0.2), noting("governance", 0)
    )
    supervisor.start()
    until(lambda: all(printed(supervisor, status.name) == "here\n" for status in supervisor.statuses()))
    began = time.monotonic()
    supervisor.stop()
    assert order.read_text().split() == ["worker-2", "worker-1", "alerting", "governance"]
    assert time.monotonic() - began < 3  # workers stop together
    assert pids(supervisor) == [] and supervisor.restarts == 0


def test_a_child_that_does_not_stop_is_killed(make: Callable[..., Supervisor], said: list[str]) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"
    )
    supervisor = make(python("worker-1", code, stop_seconds=0.5))
    supervisor.start()
    until(lambda: printed(supervisor, "worker-1") == "here\n")
    (pid,) = pids(supervisor)
    supervisor.stop()
    assert not is_alive(pid) and any("did not stop within" in line for line in said)


def test_output_is_kept_in_a_log_that_does_not_grow_without_end(make: Callable[..., Supervisor]) -> None:
    supervisor = make(python("worker-1", WORDY))
    supervisor.start()
    until(lambda: (supervisor.logs / "worker-1.log.2").exists(), 60)
    time.sleep(0.5)
    assert sum(file.stat().st_size for file in supervisor.logs.iterdir()) <= 31 * 1024 * 1024
    supervisor.require_alive()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's help is Linux's")
def test_children_die_with_a_supervisor_that_is_killed(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    code = f"""
    import sys, time
    from pathlib import Path
    from services.child import ChildPlan
    from services.supervisor import Supervisor
    plans = [ChildPlan("worker-1", [sys.executable, "-c", "import time; time.sleep(600)"])]
    supervisor = Supervisor(Path({str(tmp_path)!r}), children=plans)
    supervisor.start()
    supervisor.wait_ready()
    print(supervisor.statuses()[0].pid, flush=True)
    time.sleep(600)
    """
    environment = os.environ | {
        "DRIFTLINE_BOOTSTRAP_SERVERS": bootstrap_servers,
        "DRIFTLINE_TOPIC_PREFIX": topic_prefix,
    }
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert is_alive(child)
        process.kill()
        process.wait()
    until(lambda: not is_alive(child), 5)


def test_a_cluster_that_is_not_there_is_an_error_and_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLINE_CONNECT_SECONDS", "1")
    supervisor = Supervisor(
        tmp_path, environment={"DRIFTLINE_BOOTSTRAP_SERVERS": "127.0.0.1:9"}, children=[python("worker-1", STAYS)]
    )
    with pytest.raises(ServicesError, match="no Kafka cluster answers"):
        supervisor.start()
    assert pids(supervisor) == []


def test_a_broker_is_needed_unless_a_cluster_is_named(tmp_path: Path) -> None:
    config = tmp_path / "driftline.toml"
    config.write_text('bootstrap_servers = "kafka1:9092"\n')
    assert needs_broker({})
    assert not needs_broker({"DRIFTLINE_BOOTSTRAP_SERVERS": "127.0.0.1:9092"})
    assert not needs_broker({"DRIFTLINE_CONFIG": str(config)})


def test_its_own_broker_is_started_again_at_the_same_address(tmp_path: Path, said: list[str]) -> None:
    environment = {"DRIFTLINE_BOOTSTRAP_SERVERS": ""}
    supervisor = Supervisor(
        tmp_path / "run",
        environment=environment,
        children=[python("worker-1", STAYS)],
        say=lambda name, text: said.append(f"{name} {text}"),
        patience=PATIENCE,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(supervisor.stop)
        supervisor.start()
        before = supervisor.statuses()[0]
        assert before.name == "broker" and before.pid is not None
        address = supervisor.bootstrap_servers
        os.kill(before.pid, signal.SIGKILL)
        until(lambda: (supervisor.statuses()[0].pid or before.pid) != before.pid, 40)
        until(lambda: any(line.startswith("broker started") for line in said[2:]), 40)
        assert supervisor.bootstrap_servers == address and supervisor.restarts == 1
    assert not is_alive(before.pid) and pids(supervisor) == []
