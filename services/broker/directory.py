"""The broker's data directory: one owner at a time, and what it remembers between runs."""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO

from services.broker.configuration import DATA, LOG_FILE
from services.broker.errors import BrokerError

_LOCK_FILE = "broker.lock"
_STATE_FILE = "broker.json"
_TEMPORARY = "tmp"


class DataDirectory:
    """A data directory, locked by this object until `close()`.

    The lock belongs to the open file, which the broker's process inherits: the directory stays locked as long as either
    the owner or its broker lives.
    """

    def __init__(self, path: Path, *, temporary: bool) -> None:
        """Create the directory if needed and lock it.

        Args:
            path: the directory.
            temporary: whether `close()` removes it.

        Raises:
            BrokerError: it cannot be written to, or another broker has it.

        """
        self.temporary = temporary
        self.path = path = path.expanduser().absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / _LOCK_FILE).open("a")
        except OSError as error:
            raise BrokerError(
                f"cannot use {path} as data directory: {error.strerror}. Choose a directory that you can write to."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            if not isinstance(error, BlockingIOError):
                raise BrokerError(
                    f"cannot lock {path}: {error.strerror}. Choose a directory on a file system that has locks."
                ) from error
            pid = self._state().get("pid")
            who = f" (process {pid})" if isinstance(pid, int) else ""
            raise BrokerError(
                f"{path} is in use by another broker{who}. Stop that one, or choose another data directory."
            ) from error
        self._lock: IO[str] = lock

    @property
    def lock_fd(self) -> int:
        """File descriptor of the lock, for the broker's process to inherit."""
        return self._lock.fileno()

    @property
    def log(self) -> Path:
        """The broker's log."""
        return self.path / LOG_FILE

    @property
    def is_formatted(self) -> bool:
        """Whether Kafka has prepared it; `meta.properties` is the last file that it writes."""
        return self._meta.exists()

    @property
    def last_port(self) -> int | None:
        """The port of the last run, None when there was none."""
        port = self._state().get("port")
        return port if isinstance(port, int) else None

    @property
    def cluster_id(self) -> str:
        """Kafka's id of this cluster, made when the directory was formatted."""
        try:
            lines = self._meta.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            lines = []
        for line in lines:
            name, _, value = line.partition("=")
            if name.strip() == "cluster.id" and value.strip():
                return value.strip()
        raise BrokerError(
            f"{self._meta} names no cluster.id: it is damaged. Restore it, or choose another data directory."
        )

    def require_space(self, minimum_bytes: int) -> None:
        """Raise unless the disk has `minimum_bytes` left."""
        free = shutil.disk_usage(self.path).free
        if free < minimum_bytes:
            raise BrokerError(
                f"the disk of {self.path} is almost full: {free / 1e6:.0f} MB free, expected at least "
                f"{minimum_bytes / 1e6:.0f} MB. Free some space, or choose a data directory on another disk."
            )

    def fresh_temporary(self) -> Path:
        """Return an empty directory for what the JVM unpacks, without what a killed one left there."""
        temporary = self.path / _TEMPORARY
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(exist_ok=True)
        return temporary

    def write(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        partial = self.path / f"{name}.part"
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(self.path / name)
        except OSError as error:
            raise BrokerError(f"cannot write {self.path / name}: {error.strerror}.") from error

    def remember(self, *, pid: int, port: int) -> None:
        """Note for the next run, and for whoever finds the directory locked, who runs where."""
        self.write(_STATE_FILE, json.dumps({"pid": pid, "port": port, "cluster_id": self.cluster_id}) + "\n")

    def close(self, *, keep: bool) -> None:
        """Unlock it; remove it when it is a temporary one and not to be kept."""
        if not self._lock.closed:
            # Not left to close(): a process forked meanwhile has the same open file.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()
        if self.temporary and not keep:
            shutil.rmtree(self.path, ignore_errors=True)

    def log_since(self, start: int) -> str:
        """Return the log from byte `start` on, all of it when the file has been rolled over since."""
        try:
            with self.log.open("rb") as file:
                file.seek(start if file.seek(0, os.SEEK_END) >= start else 0)
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    @property
    def log_size(self) -> int:
        """Bytes in the log now."""
        return self.log.stat().st_size if self.log.exists() else 0

    @property
    def _meta(self) -> Path:
        return self.path / DATA / "meta.properties"

    def _state(self) -> dict[str, object]:
        try:
            state = json.loads((self.path / _STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}
