"""The jars: fetched once, never used unless they are the pinned ones."""

import hashlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from services.broker.errors import JarError
from services.broker.jars import Jar, JarLock, default_cache_dir, ensure_jars, read_lock


@dataclass
class Repository:
    """A Maven repository on the loopback interface."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    pause: threading.Event | None = None

    def publish(self, group: str, artifact: str, version: str, content: bytes) -> Jar:
        """Offer a jar and return what a lock file would say of it."""
        self.files[f"/{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}.jar"] = content
        return Jar(f"{group}:{artifact}:{version}", hashlib.sha256(content).hexdigest(), len(content))


class Handler(BaseHTTPRequestHandler):
    def __init__(self, repository: Repository, *arguments: object) -> None:
        self.repository = repository
        super().__init__(*arguments)  # type: ignore[arg-type]  # socketserver passes them

    def do_GET(self) -> None:
        self.repository.requests.append(self.path)
        if self.repository.pause is not None:
            self.repository.pause.wait(20)
        content = self.repository.files.get(self.path)
        status = self.repository.failures.pop(0) if self.repository.failures else 200 if content is not None else 404
        body = content if status == 200 and content is not None else b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def repository() -> Iterator[Repository]:
    served = Repository()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, served)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}/maven"
        served.files = PrefixedFiles()
        yield served
        server.shutdown()


class PrefixedFiles(dict[str, bytes]):
    """Files below /maven."""

    def get(self, path: str, default: bytes | None = None) -> bytes | None:  # type: ignore[override]
        return super().get(path.removeprefix("/maven"), default)


@pytest.fixture
def lock(repository: Repository) -> JarLock:
    jars = tuple(
        repository.publish("org.example.deep", f"part{n}", f"1.{n}", os.urandom(100_000 + n)) for n in range(5)
    )
    return JarLock("Example", "1", jars)


@pytest.fixture
def ensure(repository: Repository, lock: JarLock, tmp_path: Path) -> Callable[[], list[Path]]:
    return partial(ensure_jars, tmp_path, lock=lock, repository=repository.url, progress=False)


def test_all_jars_arrive_in_the_order_of_the_lock(ensure: Callable[[], list[Path]], lock: JarLock) -> None:
    paths = ensure()
    assert [path.name for path in paths] == [f"part{n}-1.{n}.jar" for n in range(5)]
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] == [jar.sha256 for jar in lock.jars]


def test_second_run_asks_nobody(ensure: Callable[[], list[Path]], repository: Repository) -> None:
    ensure()
    asked = len(repository.requests)
    ensure()
    assert len(repository.requests) == asked == 5


def test_jar_that_does_not_match_is_refused_and_not_kept(
    ensure: Callable[[], list[Path]], repository: Repository, lock: JarLock, tmp_path: Path
) -> None:
    other = os.urandom(lock.jars[2].size)
    repository.publish("org.example.deep", "part2", "1.2", other)
    with pytest.raises(JarError) as caught:
        ensure()
    message = str(caught.value)
    assert "org.example.deep:part2:1.2" in message
    assert lock.jars[2].sha256 in message
    assert hashlib.sha256(other).hexdigest() in message
    assert "DRIFTLINE_MAVEN_REPOSITORY" in message
    assert not (tmp_path / "jars" / "part2-1.2.jar").exists()
    assert not list((tmp_path / "jars").glob("*.part")) + list((tmp_path / "jars").glob(".*.part"))


def test_endless_answer_is_cut_off(
    ensure: Callable[[], list[Path]], repository: Repository, lock: JarLock, tmp_path: Path
) -> None:
    repository.publish("org.example.deep", "part0", "1.0", bytes(50_000_000))
    with pytest.raises(JarError, match=f"more than {lock.jars[0].size} bytes"):
        ensure()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:], lambda _: b""]
)
def test_damaged_cache_is_repaired_and_only_where_it_is_damaged(
    ensure: Callable[[], list[Path]], repository: Repository, lock: JarLock, damage: Callable[[bytes], bytes]
) -> None:
    path = ensure()[3]
    path.write_bytes(damage(path.read_bytes()))
    repository.requests.clear()
    ensure()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == lock.jars[3].sha256
    assert [request.rpartition("/")[2] for request in repository.requests] == ["part3-1.3.jar"]


def test_damaged_cache_is_refused_where_no_repository_can_be_reached(
    ensure: Callable[[], list[Path]], lock: JarLock, tmp_path: Path
) -> None:
    path = ensure()[3]
    path.write_bytes(b"damaged")
    with pytest.raises(JarError, match=r"cannot fetch org.example.deep:part3:1.3 .* Check the network"):
        ensure_jars(tmp_path, lock=lock, repository="http://127.0.0.1:9/maven", progress=False)
    assert path.read_bytes() == b"damaged"


def test_server_error_is_tried_again(ensure: Callable[[], list[Path]], repository: Repository) -> None:
    repository.failures += [503, 502]
    assert len(ensure()) == 5
    assert len(repository.requests) == 7


def test_missing_jar_is_not_asked_for_again(
    ensure: Callable[[], list[Path]], repository: Repository, lock: JarLock
) -> None:
    repository.files.clear()
    with pytest.raises(JarError, match="HTTP status 404"):
        ensure()
    assert len(repository.requests) == len(set(repository.requests))


def test_mirror_password_is_not_shown(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    repository.files.clear()
    with pytest.raises(JarError) as caught:
        ensure_jars(
            tmp_path, lock=lock, repository=repository.url.replace("//", "//someone:hush-hush@"), progress=False
        )
    error: BaseException | None = caught.value
    assert "hush-hush" not in str(error)
    assert "someone" not in str(error)
    assert repository.url in str(error)


def test_mirror_is_taken_from_the_environment(
    repository: Repository, lock: JarLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLINE_MAVEN_REPOSITORY", repository.url + "/")
    assert all(path.exists() for path in ensure_jars(tmp_path, lock=lock, progress=False))


def test_two_at_once_fetch_every_jar_once(
    ensure: Callable[[], list[Path]], repository: Repository, lock: JarLock
) -> None:
    repository.pause = threading.Event()
    outcomes: list[list[Path]] = []
    threads = [threading.Thread(target=lambda: outcomes.append(ensure())) for _ in range(3)]
    for thread in threads:
        thread.start()
    repository.pause.set()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 3
    assert len(repository.requests) == len(lock.jars)


def test_cache_that_cannot_be_written_is_named(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(JarError, match="DRIFTLINE_CACHE_DIR"):
        ensure_jars(tmp_path / "file", lock=lock, repository=repository.url, progress=False)


def test_full_disk_is_said_to_be_full(repository: Repository, lock: JarLock, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        with pytest.raises(JarError, match="the disk is full"):
            ensure_jars(disk, lock=lock, repository=repository.url, progress=False)
        assert not list((disk / "jars").glob(".*.part"))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_progress_is_one_line_where_there_is_no_terminal(
    repository: Repository, lock: JarLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    ensure_jars(tmp_path, lock=lock, repository=repository.url)
    assert stderr.getvalue() == f"Fetching Example 1: 5 jars, 0.5 MB, into {tmp_path / 'jars'}\n"
    ensure_jars(tmp_path, lock=lock, repository=repository.url)
    assert stderr.getvalue().count("\n") == 1


def test_lock_is_complete_and_names_every_file_once() -> None:
    lock = read_lock()
    names = [jar.file_name for jar in lock.jars]
    assert len(names) == len(set(names)) == 46
    assert lock.version.startswith("4.1.")
    assert f"org.apache.kafka:kafka_2.13:{lock.version}" in {jar.coordinates for jar in lock.jars}
    assert all(len(bytes.fromhex(jar.sha256)) == 32 and jar.size > 0 for jar in lock.jars)


def test_lock_holds_no_address() -> None:
    text = Path(sys.modules[read_lock.__module__].__file__ or "").with_name("jars.lock.json").read_text()
    assert "//" not in text


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"DRIFTLINE_CACHE_DIR": "/own", "XDG_CACHE_HOME": "/shared"}, Path("/own")),
        ({"XDG_CACHE_HOME": "/shared"}, Path("/shared/driftline")),
        ({"DRIFTLINE_CACHE_DIR": "", "XDG_CACHE_HOME": ""}, Path.home() / ".cache/driftline"),
    ],
)
def test_cache_is_where_the_environment_says(environment: dict[str, str], expected: Path) -> None:
    assert default_cache_dir(environment) == expected
