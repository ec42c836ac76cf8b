"""The jars that Apache Kafka's server is made of: fetched once, checked always.

`jars.lock.json` lists the runtime closure of `org.apache.kafka:kafka_2.13` (as `mvn dependency:list` resolves it) and a
log4j binding for slf4j, each with its size and SHA-256. Nothing outside the list is ever put on the class path, and
every jar is hashed again before each start: that takes 0.04 s for all of them, and a damaged cache would otherwise show
as a broken JVM.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from services.broker.errors import JarError

LOCK_FILE = Path(__file__).with_name("jars.lock.json")
REPOSITORY_VARIABLE = "DRIFTLINE_MAVEN_REPOSITORY"
CACHE_VARIABLE = "DRIFTLINE_CACHE_DIR"

_ATTEMPTS = 3
_RETRY_PAUSE_SECONDS = 0.5
_TIMEOUT_SECONDS = (10.0, 30.0)  # to connect, between two reads
_CHUNK_BYTES = 1 << 16
_THREADS = 8


@dataclass(frozen=True)
class Jar:
    """One pinned jar: Maven coordinates `group:artifact:version`, SHA-256 in hexadecimal, size in bytes."""

    coordinates: str
    sha256: str
    size: int

    @property
    def file_name(self) -> str:
        """Name in the cache and in a Maven repository: `artifact-version.jar`."""
        _, artifact, version = self.coordinates.split(":")
        return f"{artifact}-{version}.jar"


@dataclass(frozen=True)
class JarLock:
    """The content of a lock file."""

    name: str
    version: str
    jars: tuple[Jar, ...]

    @property
    def size(self) -> int:
        """Bytes of all jars together."""
        return sum(jar.size for jar in self.jars)

    @property
    def digest(self) -> str:
        """Short name for exactly this set of jars."""
        return hashlib.sha256("".join(jar.sha256 for jar in self.jars).encode()).hexdigest()[:16]


def read_lock(path: Path = LOCK_FILE) -> JarLock:
    """Read a lock file; order is the order of the class path."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return JarLock(content["name"], content["version"], tuple(Jar(**jar) for jar in content["jars"]))


def default_cache_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """`$DRIFTLINE_CACHE_DIR`, else `driftline` under the user's cache directory (`$XDG_CACHE_HOME`, `~/.cache`)."""
    if own := environment.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    shared = environment.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "driftline"


def ensure_jars(
    cache_dir: Path | None = None,
    *,
    progress: bool = True,
    lock: JarLock | None = None,
    repository: str | None = None,
) -> list[Path]:
    """Return the paths of all locked jars, fetching those that the cache does not hold.

    1. Every cached jar is compared with the lock, size and SHA-256; a damaged one is fetched again, and that is said.
    2. One process at a time fetches into a cache; another one waits for it and then finds the jars.
    3. A fetched jar is checked against the lock before it takes its name, by an atomic rename: no reader ever sees
       half a jar, or one that does not match.

    Args:
        cache_dir: where jars are kept, `default_cache_dir()` when None. No network is used when it holds them all.
        progress: show progress on stderr: a bar on a terminal, one line elsewhere.
        lock: what to fetch, `jars.lock.json` when None.
        repository: URL of a Maven repository; `$DRIFTLINE_MAVEN_REPOSITORY` when None, else Maven's public one.

    Raises:
        JarError: a jar does not match, cannot be fetched, or cannot be stored.

    """
    lock = lock or read_lock()
    folder = (cache_dir or default_cache_dir()) / "jars"
    paths = [folder / jar.file_name for jar in lock.jars]
    if not _unusable(lock, folder):
        return paths
    console = Console(stderr=True, quiet=not progress, highlight=False, markup=False, soft_wrap=True)
    with _storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder, console):
            missing = _unusable(lock, folder)
            for jar in missing:
                if (folder / jar.file_name).exists():
                    console.print(f"{folder / jar.file_name} is damaged: fetching it again")
            if missing:
                _fetch_all(lock, missing, folder, repository or os.environ.get(REPOSITORY_VARIABLE), console)
    return paths


def _unusable(lock: JarLock, folder: Path) -> list[Jar]:
    return [jar for jar in lock.jars if not _matches(folder / jar.file_name, jar)]


def _matches(path: Path, jar: Jar) -> bool:
    try:
        if path.stat().st_size != jar.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise JarError(
            f"cannot read {path}: {error.strerror}. Make the cache readable, or set {CACHE_VARIABLE}."
        ) from error


@contextlib.contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Turn what the file system says into a message; network errors never get here."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise JarError(
                f"the disk is full: no room for the broker's jars in {folder}. "
                f"Free some space, or set {CACHE_VARIABLE} to a directory on another disk."
            ) from error
        raise JarError(
            f"cannot keep the broker's jars in {folder}: {error.strerror}. "
            f"Make it writable, or set {CACHE_VARIABLE} to a directory that is."
        ) from error


@contextlib.contextmanager
def _one_at_a_time(folder: Path, console: Console) -> Iterator[None]:
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"Waiting for another process that fetches jars into {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_all(lock: JarLock, missing: list[Jar], folder: Path, repository: str | None, console: Console) -> None:
    total = sum(jar.size for jar in missing)
    title = f"Fetching {lock.name} {lock.version}"
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        advance: Callable[[int], None]
        if console.is_terminal and not console.quiet:
            bar = stack.enter_context(
                Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    DownloadColumn(),
                    TransferSpeedColumn(),
                    TimeRemainingColumn(),
                    console=console,
                )
            )
            task = bar.add_task(title, total=total)

            def advance(count: int) -> None:
                bar.advance(task, count)
        else:
            console.print(f"{title}: {len(missing)} jars, {total / 1e6:.1f} MB, into {folder}")

            def advance(count: int) -> None:
                pass

        pool = stack.enter_context(ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="jars"))
        source = _Source(repository)
        fetches = [pool.submit(source.fetch, jar, folder, advance, stop) for jar in missing]
        try:
            for fetch in fetches:
                fetch.result()
        except BaseException:
            stop.set()
            for fetch in fetches:
                fetch.cancel()
            raise


class _StoppedError(Exception):
    """Another jar failed: this one is not wanted any more."""


class _Source:
    """A Maven repository."""

    def __init__(self, repository: str | None) -> None:
        # Imported here: with lxml and requests behind it, it costs more than hashing every jar.
        from maven_artifact import Downloader

        self._downloader: Any = Downloader(base=repository) if repository else Downloader()

    def fetch(self, jar: Jar, folder: Path, advance: Callable[[int], None], stop: threading.Event) -> None:
        """Fetch, check and store one jar; a network failure is tried again, a wrong jar is not."""
        from maven_artifact import Artifact

        url: str = self._downloader.resolver.uri_for_artifact(Artifact.parse(jar.coordinates))
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._store(jar, url, folder, advance, stop)
                return
            except _StoppedError:
                return
            except _NetworkError as error:
                if attempt == _ATTEMPTS or not error.worth_repeating:
                    raise JarError(
                        f"cannot fetch {jar.coordinates} from {_without_credentials(url)}: {error}. "
                        f"Check the network and proxy settings, or name a mirror in {REPOSITORY_VARIABLE}."
                    ) from error
            stop.wait(_RETRY_PAUSE_SECONDS * attempt)

    def _store(self, jar: Jar, url: str, folder: Path, advance: Callable[[int], None], stop: threading.Event) -> None:
        digest = hashlib.sha256()
        received = 0
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{jar.file_name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in self._chunks(url):
                    if stop.is_set():
                        raise _StoppedError
                    file.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    advance(len(chunk))
                    if received > jar.size:
                        break  # whatever this is, it is not the jar: do not fill the disk with it
                file.flush()
                os.fsync(file.fileno())
            if digest.hexdigest() != jar.sha256:
                raise JarError(
                    f"{jar.coordinates} is not the jar that was pinned: expected SHA-256 {jar.sha256} "
                    f"({jar.size} bytes), got {_described(digest.hexdigest(), received, jar.size)} "
                    f"from {_without_credentials(url)}. It was not kept. Check the mirror or proxy in between "
                    f"({REPOSITORY_VARIABLE}); do not edit the lock file unless you know why the jar changed."
                )
            Path(name).chmod(0o644)
            Path(name).replace(folder / jar.file_name)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            advance(-received)
            raise

    def _chunks(self, url: str) -> Iterator[bytes]:
        # Every exception of requests is an OSError; only this block sees those of the network.
        try:
            with self._downloader.requestor.request(url, None, stream=True, timeout=_TIMEOUT_SECONDS) as response:
                chunks = response.iter_content(chunk_size=_CHUNK_BYTES)
                while (chunk := next(chunks, None)) is not None:
                    yield chunk
        except OSError as error:
            raise _NetworkError(error) from error


class _NetworkError(Exception):
    def __init__(self, error: OSError) -> None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        self.worth_repeating = status is None or status >= 500 or status == 429
        # The text of an HTTP error holds the URL, with the password in it if there is one.
        super().__init__(f"HTTP status {status}" if status else f"{type(error).__name__} ({_root_cause(error)})")


def _described(sha256: str, received: int, expected: int) -> str:
    return f"more than {expected} bytes" if received > expected else f"SHA-256 {sha256} ({received} bytes)"


def _root_cause(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error) or type(error).__name__


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def main() -> int:
    """Fetch the jars into the default cache; `make setup` calls this so that nothing later needs the network."""
    started = time.monotonic()
    try:
        paths = ensure_jars()
    except JarError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{len(paths)} jars in {paths[0].parent} ({time.monotonic() - started:.1f} s)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
