"""The archive for quick starts: used only where it is whole and made for this JVM and these jars."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from services.broker.embedded import EmbeddedBroker
from services.broker.errors import BrokerError
from services.broker.jars import ensure_jars
from services.broker.jvm import archive_path, java_command, keep_archive, usable_archive
from services.broker.prepare import prepare


@pytest.fixture
def jars(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.jar" for name in "ab"]
    for path in paths:
        path.write_bytes(b"jar")
    return paths


def make_archive(cache: Path, jars: list[Path]) -> Path:
    made = cache / "made"
    made.write_bytes(os.urandom(1000))
    keep_archive(made, archive_path(cache, jars))
    return archive_path(cache, jars)


def test_whole_archive_is_used(tmp_path: Path, jars: list[Path]) -> None:
    assert usable_archive(tmp_path, jars) is None
    path = make_archive(tmp_path, jars)
    assert usable_archive(tmp_path, jars) == path
    command = java_command(jars, heap_mb=200, temporary=tmp_path, log4j="l", archive=path)
    assert f"-XX:AOTCache={path}" in command
    assert "-Xmx200m" in command


@pytest.mark.parametrize("size", [0, 999, 1001])
def test_damaged_archive_is_not_used(tmp_path: Path, jars: list[Path], size: int) -> None:
    path = make_archive(tmp_path, jars)
    os.truncate(path, size)
    assert usable_archive(tmp_path, jars) is None


def test_flipped_bit_is_noticed(tmp_path: Path, jars: list[Path]) -> None:
    path = make_archive(tmp_path, jars)
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    assert usable_archive(tmp_path, jars) is None


def test_archive_of_other_jars_is_not_used(tmp_path: Path, jars: list[Path]) -> None:
    make_archive(tmp_path, jars)
    assert usable_archive(tmp_path, jars[::-1]) is None
    jars[0].write_bytes(b"longer")
    assert usable_archive(tmp_path, jars) is None


def test_old_archives_are_removed(tmp_path: Path, jars: list[Path]) -> None:
    for number in range(6):
        jars[0].write_bytes(b"x" * number)
        path = make_archive(tmp_path, jars)
        os.utime(path, (number, number))
    assert usable_archive(tmp_path, jars) == path
    assert len(list(tmp_path.glob("*.aot"))) == 3
    assert len(list(tmp_path.glob("*.aot.sha256"))) == 3


def test_cache_directory_that_java_cannot_take_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="another cache directory"):
        java_command([tmp_path / "a:b" / "c.jar"], heap_mb=200, temporary=tmp_path, log4j="l", archive=None)


def test_prepared_archive_is_what_a_broker_runs_on(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "jars").mkdir(parents=True)
    for jar in ensure_jars():
        shutil.copy2(jar, cache / "jars" / jar.name)
    archive = prepare(cache, progress=False).archive
    assert archive is not None
    assert {path.name for path in cache.iterdir()} == {"jars", archive.name, archive.name + ".sha256"}
    before = archive.stat()
    assert prepare(cache, progress=False).archive == archive
    assert archive.stat() == before
    with EmbeddedBroker(tmp_path / "broker", cache_dir=cache) as broker:
        if sys.platform.startswith("linux"):
            assert str(archive) in Path(f"/proc/{broker.pid}/maps").read_text()
    shutil.rmtree(cache)  # 115 MB that nobody looks at after a success
