"""Processes end in every way there is: nothing that was on disk is lost, nothing is sent twice by a child."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import driftline
from driftline import Client
from driftline.spool import folder_for

PRELUDE = """
import os, sys, time
import driftline
settings = driftline.KafkaSettings(sys.argv[1], driftline.Topics(sys.argv[2]))
def make(**arguments):
    return driftline.Client("credit", "v1", settings=settings, spool_dir=sys.argv[3], **arguments)
"""


def start(code: str, settings: driftline.KafkaSettings, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            PRELUDE + textwrap.dedent(code),
            settings.bootstrap_servers,
            settings.topics.prefix,
            str(folder),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, settings: driftline.KafkaSettings, folder: Path) -> str:
    process = start(code, settings, folder)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return out


def test_what_was_logged_is_flushed_when_the_process_ends(arrivals: Any, tmp_path: Path) -> None:
    run(
        "client = make(batch_ms=60_000)\nfor i in range(700): client.log_prediction({'x': i})",
        arrivals.settings,
        tmp_path,
    )
    assert len(arrivals.prediction_ids(700)) == 700


def test_what_was_logged_is_flushed_when_the_process_ends_with_an_exception(arrivals: Any, tmp_path: Path) -> None:
    code = "client = make(batch_ms=60_000)\nfor i in range(70): client.log_prediction({'x': i})\nraise SystemExit(3)"
    assert start(code, arrivals.settings, tmp_path).wait(60) == 3
    assert len(arrivals.prediction_ids(70)) == 70


def test_a_client_that_was_forgotten_flushes(arrivals: Any, tmp_path: Path) -> None:
    Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path, batch_ms=60_000).log_prediction({"x": 1})
    assert len(arrivals.prediction_ids(1)) == 1


def test_a_process_that_ends_while_kafka_is_away_leaves_a_spool_for_the_next(
    arrivals: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    away = driftline.KafkaSettings("127.0.0.1:1", arrivals.settings.topics)
    started = time.monotonic()
    run("client = make()\nfor i in range(700): client.log_prediction({'x': i}, prediction_id=f'p{i}')", away, tmp_path)
    assert time.monotonic() - started < 30
    (folder,) = tmp_path.iterdir()
    assert list(folder.rglob("*.spool"))
    with Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path) as other_cluster:
        time.sleep(0.5)
        assert other_cluster.counters().replayed == 0, "the spool belongs to another cluster"
    settings = arrivals.settings  # as if the cluster had been there under this name all the time
    folder.rename(folder_for(tmp_path, settings.bootstrap_servers, settings.topics.prefix, "credit"))
    with Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path) as client:
        eventually(lambda: client.counters().replayed == 700)
        assert client.counters() == driftline.Counters(replayed=700)
    assert arrivals.prediction_ids(700) == [f"p{i}" for i in range(700)]
    assert not list(tmp_path.rglob("*.spool"))


def test_the_spool_of_a_killed_process_is_adopted_and_that_of_a_living_one_is_not(
    arrivals: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    """The processes cannot reach Kafka (a wrong CA file would do): their settings differ, their cluster does not."""
    code = """
        settings = driftline.KafkaSettings(
            sys.argv[1], driftline.Topics(sys.argv[2]), librdkafka={"security.protocol": "ssl"}
        )
        client = make(delivery_timeout_seconds=1, batch_rows=50)
        for i in range(1000): client.log_prediction({'x': i}, prediction_id=f'{sys.argv[0]}{os.getpid()}-{i}')
        while client.counters().spooled < 1000: time.sleep(0.01)
        print("spooled", flush=True)
        time.sleep(60)
    """
    dead, alive = (start(code, arrivals.settings, tmp_path) for _ in range(2))
    try:
        for process in (dead, alive):
            assert process.stdout is not None
            assert process.stdout.readline() == "spooled\n"
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait(10)
        with Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path) as client:
            eventually(lambda: client.counters().replayed == 1000)
            time.sleep(0.5)
            assert client.counters().replayed == 1000
        assert arrivals.prediction_ids(1000) == [f"-c{dead.pid}-{i}" for i in range(1000)]
    finally:
        alive.kill()
        alive.communicate()
        dead.communicate()


def test_a_process_killed_at_random_leaves_only_whole_batches(
    arrivals: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    code = """
        settings = driftline.KafkaSettings(
            sys.argv[1], driftline.Topics(sys.argv[2]), librdkafka={"security.protocol": "ssl"}
        )
        client = make(delivery_timeout_seconds=0.5, batch_rows=20, batch_ms=5)
        i = 0
        while True:
            client.log_prediction({'x': i}, prediction_id=str(i))
            i += 1
            if i % 100 == 0:
                print(client.counters().spooled, flush=True)
                time.sleep(0.001)
    """
    process = start(code, arrivals.settings, tmp_path)
    assert process.stdout is not None
    spooled = 0
    while spooled < 3000:
        spooled = int(process.stdout.readline())
    process.kill()
    rest = process.communicate()[0].split("\n")
    spooled = max([spooled, *(int(line) for line in rest[:-1])])
    with Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path) as client:
        eventually(lambda: client.counters().replayed >= spooled and not list(tmp_path.rglob("*.spool")))
        replayed = client.counters().replayed
    assert arrivals.prediction_ids(replayed) == [str(i) for i in range(replayed)]


def test_a_forked_child_sends_its_own_and_nothing_of_the_parents(arrivals: Any, tmp_path: Path) -> None:
    code = """
        client = make(batch_ms=60_000, max_buffered_rows=1_000_000)
        for i in range(300): client.log_prediction({'x': i}, prediction_id=f'parent-{i}')
        children = []
        for child in range(3):
            pid = os.fork()
            if pid == 0:
                assert client.counters() == driftline.Counters()
                for i in range(200): client.log_prediction({'x': i}, prediction_id=f'child{child}-{i}')
                sys.exit(0)  # through atexit
            children.append(pid)
        for i in range(300, 600): client.log_prediction({'x': i}, prediction_id=f'parent-{i}')
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        client.close()
        print(client.counters().delivered)
    """
    assert run(code, arrivals.settings, tmp_path) == "600\n"
    expected = [f"parent-{i}" for i in range(600)] + [f"child{c}-{i}" for c in range(3) for i in range(200)]
    assert Counter(arrivals.prediction_ids(1200)) == Counter(expected)


def test_forking_while_other_threads_log_neither_hangs_nor_repeats(arrivals: Any, tmp_path: Path) -> None:
    code = """
        import threading
        client = make(batch_ms=5, batch_rows=10)
        stop = threading.Event()
        logged = [0]
        def log():
            while not stop.is_set():
                client.log_prediction({'x': 1}, prediction_id=f'parent-{logged[0]}'); logged[0] += 1
                time.sleep(0.0002)
        thread = threading.Thread(target=log); thread.start()
        for child in range(10):
            time.sleep(0.02)
            pid = os.fork()
            if pid == 0:
                client.log_prediction({'x': 1}, prediction_id=f'child-{child}')
                client.close()
                os._exit(0 if client.counters().delivered == 1 else 1)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set(); thread.join(); client.close()
        assert client.counters().delivered == logged[0]
        print(logged[0])
    """
    logged = int(run(code, arrivals.settings, tmp_path))
    expected = [f"parent-{i}" for i in range(logged)] + [f"child-{c}" for c in range(10)]
    assert Counter(arrivals.prediction_ids(len(expected))) == Counter(expected)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing_flush_when_they_end(arrivals: Any, tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        PRELUDE
        + textwrap.dedent(
            f"""
            import multiprocessing
            client = None
            def work(number):
                worker = client or make(batch_ms=60_000)
                for i in range(50): worker.log_prediction({{'x': i}}, prediction_id=f'{{number}}-{{i}}')
            if __name__ == "__main__":
                context = multiprocessing.get_context({method!r})
                client = make(batch_ms=60_000)
                processes = [context.Process(target=work, args=(n,)) for n in range(2)]
                for process in processes: process.start()
                for process in processes: process.join()
            """
        )
    )
    subprocess.run(
        [
            sys.executable,
            str(script),
            arrivals.settings.bootstrap_servers,
            arrivals.settings.topics.prefix,
            str(tmp_path / "spool"),
        ],
        check=True,
        timeout=60,
    )
    assert Counter(arrivals.prediction_ids(100)) == Counter(f"{n}-{i}" for n in range(2) for i in range(50))


def test_the_package_needs_its_three_dependencies_and_the_standard_library_only(tmp_path: Path) -> None:
    code = """
        import sys
        allowed = {"driftline", "confluent_kafka", "fastavro", "numpy", "cython_runtime", *sys.stdlib_module_names}
        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] not in allowed and not name.startswith("_"):
                    raise ImportError(f"blocked: {name}")
        sys.meta_path.insert(0, Blocker())
        import driftline
        settings = driftline.KafkaSettings("127.0.0.1:1")
        client = driftline.Client("credit", "v1", settings=settings, spool_dir=sys.argv[1])
        client.log_predictions({"x": [1, 2], "y": ["a", None]})
        client.log_prediction({"x": 1})
        client.close(0.1)
        assert client.counters().spooled == 3, client
        strangers = {name.partition(".")[0] for name in sys.modules} - allowed
        print(sorted(name for name in strangers if not name.startswith("_")))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"


def test_importing_is_quick() -> None:
    """Measured 0.18 s on two cores; the limit leaves room for a busy machine."""
    code = (
        "import time, numpy, confluent_kafka, fastavro\n"
        "t = time.perf_counter(); import driftline; print(time.perf_counter() - t)"
    )
    best = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    )
    assert best < 0.5, "beyond its dependencies the package may take half a second, on a busy machine"
