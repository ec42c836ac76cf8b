"""Pending rows: what a lookup finds, what a crash and damage leave, who may have the directory."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streams.outcomes import merging, runs, sections, tables
from streams.outcomes.merging import MOST_RUNS, next_merge
from streams.outcomes.sections import newest_order, plain
from streams.outcomes.store import PendingError, PendingStore, PendingTable

ROW = np.dtype([("key", "<u8"), ("check", "<u8"), ("time_us", "<i8"), ("value", "<i4")])
WIDE = np.dtype([("key", "<u8"), ("check", "<u8"), ("time_us", "<i8"), ("scores", "<f8", (2,)), ("label", "<i2")])
LAST = 2**64 - 1
KEYS = [0, 1, 2, 255 << 56, 256, 1 << 63, (1 << 63) + 1, LAST - 1, LAST]
CHECKS = [0, 7, LAST]
IDS = [(key, check) for key in KEYS for check in CHECKS]

Model = dict[tuple[int, int], tuple[int, int]]
Operation = tuple[Any, ...]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices, directories and runs of a few rows, so that few rows take every path."""
    monkeypatch.setattr(merging, "SLICE_ROWS", 5)
    monkeypatch.setattr(tables, "SLICE_ROWS", 5)
    monkeypatch.setattr(merging, "SMALL_BYTES", 300)
    monkeypatch.setattr(sections, "SLICE_ROWS", 4)
    monkeypatch.setattr(sections, "_LEAST_ROWS", 3)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path) / "partition"


def rows_of(entries: list[tuple[int, int, int, int]], dtype: np.dtype[np.void] = ROW) -> NDArray[np.void]:
    rows = np.zeros(len(entries), dtype)
    for row, (key, check, time_us, value) in zip(rows, entries, strict=True):
        row["key"], row["check"], row["time_us"] = key, check, time_us
        row["value" if "value" in (dtype.names or ()) else "label"] = value
    return rows


def random_rows(count: int, seed: int = 0) -> NDArray[np.void]:
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, ROW)
    rows["key"] = rng.integers(0, 2**64, count, np.uint64)
    rows["check"] = rng.integers(0, 2**64, count, np.uint64)
    rows["time_us"] = np.arange(count)
    rows["value"] = np.arange(count) + 1
    return rows


def content(table: PendingTable) -> Model:
    """What can be found of ``IDS``."""
    keys, checks = (np.array(each, np.uint64) for each in zip(*IDS, strict=True))
    found, rows = table.get(keys, checks)
    assert not plain(rows[~found]).view(np.uint8).any()
    assert (rows["key"][found] == keys[found]).all() and (rows["check"][found] == checks[found]).all()
    name = "value" if "value" in (table.dtype.names or ()) else "label"
    return {IDS[at]: (int(rows["time_us"][at]), int(rows[name][at])) for at in np.flatnonzero(found)}


def visible(model: Model, before_us: int) -> Model:
    return {identity: row for identity, row in model.items() if row[0] >= before_us}


class Reference:
    """The same as dictionaries; ``prepared`` and ``saved``: as it was when a checkpoint was begun, and put in force."""

    def __init__(self) -> None:
        self.prepared: Reference | None = None
        self.saved: Reference | None = None
        self.rows: dict[str, Model] = {}
        self.before_us: dict[str, int] = {}
        self.position: dict[str, int] = {}

    def copy(self) -> Reference:
        other = Reference()
        other.rows = {name: dict(rows) for name, rows in self.rows.items()}
        other.before_us, other.position = dict(self.before_us), dict(self.position)
        return other

    def begin(self, position: dict[str, int]) -> None:
        self.prepared = self.copy()
        self.prepared.position = position

    def confirm(self) -> None:
        if self.prepared is not None:
            self.saved, self.prepared = self.prepared, None
            self.position = dict(self.saved.position)

    def opened_again(self) -> Reference:
        other = Reference() if self.saved is None else self.saved.copy()
        other.saved = self.saved
        return other

    def open(self, name: str) -> None:
        self.rows.setdefault(name, {})
        self.before_us.setdefault(name, -(2**63))


DTYPES = {"a": ROW, "b": WIDE}
names = st.sampled_from(sorted(DTYPES))
entries = st.tuples(
    st.integers(0, len(IDS) - 1).map(lambda at: IDS[at][0]),
    st.sampled_from(CHECKS),
    st.integers(-20, 60),
    st.integers(1, 1000),
)
operations: st.SearchStrategy[list[Operation]] = st.lists(
    st.one_of(
        st.tuples(st.just("put"), names, st.lists(entries, max_size=9)),
        st.tuples(st.just("put"), names, st.lists(entries, max_size=9)),
        st.tuples(st.just("put"), names, st.lists(entries, max_size=9)),
        st.tuples(st.just("forget"), names, st.integers(-20, 60)),
        st.tuples(st.just("checkpoint")),
        st.tuples(st.just("prepare")),
        st.tuples(st.just("confirm")),
        st.tuples(st.just("drop"), names),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("reset")),
    ),
    max_size=40,
)


def apply(store: PendingStore, model: Reference, operation: Operation, number: int) -> None:
    """One operation but reopening, in both."""
    match operation:
        case ("put", name, put):
            model.open(name)
            store.table(name, DTYPES[name]).put(rows_of(put, DTYPES[name]))
            model.rows[name].update({(key, check): (time_us, value) for key, check, time_us, value in put})
        case ("forget", name, time_us):
            model.open(name)
            store.table(name, DTYPES[name]).forget_before(time_us)
            model.before_us[name] = max(model.before_us[name], time_us)
        case ("checkpoint",):
            model.begin({"predictions": number})
            model.confirm()
            store.checkpoint({"predictions": number})
        case ("prepare",):
            model.begin({"predictions": number})
            store.prepare({"predictions": number})
        case ("confirm",):
            model.confirm()
            store.confirm()
        case ("drop", name):
            store.drop(name)
            model.rows.pop(name, None), model.before_us.pop(name, None)
        case ("reset",):
            store.reset()
            model.rows, model.before_us, model.position = {}, {}, {}
            model.prepared = model.saved = None


def assert_same(store: PendingStore, model: Reference) -> None:
    assert store.names() == sorted(model.rows)
    assert store.position == model.position
    for name, rows in model.rows.items():
        table = store.table(name, DTYPES[name])
        expected = visible(rows, model.before_us[name])
        assert content(table) == expected
        between = table.rows_between(5, 30)
        listed = [tuple(int(row[field]) for field in ("time_us", "key", "check")) for row in between]
        assert listed == sorted((time, *identity) for identity, (time, _) in expected.items() if 5 <= time < 30)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("background", [False, True])
def test_a_lookup_finds_the_last_row_put_since_the_last_checkpoint_that_can_be_opened(background: bool) -> None:
    @settings(max_examples=60 if background else 200, deadline=None)
    @given(done=operations, spill_rows=st.integers(1, 12))
    def check(done: list[Operation], spill_rows: int) -> None:
        with tempfile.TemporaryDirectory() as path:
            options: dict[str, Any] = {"merge_in_background": background, "spill_rows": spill_rows}
            store, model = PendingStore(Path(path), **options), Reference()
            for number, operation in enumerate(done):
                if operation[0] == "reopen":
                    store.close()
                    store, model = PendingStore(Path(path), **options), model.opened_again()
                apply(store, model, operation, number)
                assert_same(store, model)
            store.close()

    check()


@pytest.mark.usefixtures("small")
@settings(max_examples=60, deadline=None)
@given(done=operations)
def test_a_store_in_memory_holds_the_same(done: list[Operation]) -> None:
    store, model = PendingStore(None, merge_in_background=False, spill_rows=4), Reference()
    for number, operation in enumerate(done):
        apply(store, model, operation, number)
        assert_same(store, model)
    assert store.disk_bytes == 0


@pytest.mark.usefixtures("small")
@settings(max_examples=40, deadline=None)
@given(done=operations)
def test_a_crash_after_any_operation_leaves_the_last_checkpoint(done: list[Operation]) -> None:
    with tempfile.TemporaryDirectory() as path:
        store, model = PendingStore(Path(path) / "store", spill_rows=5), Reference()
        for number, operation in enumerate(done):
            apply(store, model, operation, number)
            left = Path(path) / f"left {number}"
            shutil.copytree(Path(path) / "store", left, ignore_dangling_symlinks=True)
            with_left = PendingStore(left)
            assert_same(with_left, model.opened_again())
            with_left.close()
            shutil.rmtree(left)
        store.close()


@pytest.mark.usefixtures("small")
@settings(max_examples=150, deadline=None)
@given(
    done=operations,
    file=st.integers(0, 20),
    place=st.floats(0, 1, exclude_max=True),
    damage=st.sampled_from(["flip", "truncate", "remove", "extend", "empty"]),
    bit=st.integers(0, 7),
)
def test_damage_to_any_file_leaves_all_or_nothing(
    done: list[Operation], file: int, place: float, damage: str, bit: int
) -> None:
    with tempfile.TemporaryDirectory() as path:
        store, model = PendingStore(Path(path), merge_in_background=False, spill_rows=5), Reference()
        for number, operation in enumerate([*done, ("put", "a", [(1, 7, 1, 1)]), ("checkpoint",)]):
            apply(store, model, operation, number)
        store.close()
        files = sorted(Path(path).iterdir())
        hit = files[file % len(files)]
        data = bytearray(hit.read_bytes())
        at = int(place * len(data))
        match damage:
            case "flip" if data:
                data[at] ^= 1 << bit
            case "truncate":
                del data[at:]
            case "extend":
                data += b"\0"
            case "empty":
                data.clear()
        hit.unlink() if damage == "remove" else hit.write_bytes(data)
        store = PendingStore(Path(path))
        assert_same(store, model if store.position else Reference())
        if hit.suffix == ".run" and damage != "flip":
            assert store.position == {}
        store.close()


def test_every_flipped_byte_of_rows_keys_and_manifest_is_noticed(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = PendingStore(directory)
    store.table("a", ROW).put(random_rows(40))
    store.checkpoint({"predictions": 3})
    store.close()
    for path in [*directory.glob("*.run"), directory / "manifest"]:
        good = path.read_bytes()
        for at in range(0, len(good), 19):
            shutil.copytree(directory, copy := directory.with_name("copy"))
            (copy / path.name).write_bytes(good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :])
            caplog.clear()
            store = PendingStore(copy)
            assert (store.position, store.names(), store.disk_bytes <= 4096) == ({}, [], True), (path.name, at)
            assert "will be read from the topics again" in caplog.text
            store.table("a", ROW).put(random_rows(3))
            store.checkpoint({"predictions": 1})
            store.close()
            store = PendingStore(copy)
            assert store.position == {"predictions": 1} and store.table("a", ROW).rows == 3
            store.close()
            shutil.rmtree(copy)


@pytest.mark.parametrize("spread", ["even", "counted", "all alike"])
def test_many_rows_are_found_however_their_keys_are_spread(spread: str) -> None:
    rows = random_rows(60_000)
    if spread == "counted":
        rows["key"] = np.arange(len(rows))
    elif spread == "all alike":
        rows["key"] = rows["key"] % np.uint64(50)
    store = PendingStore(None, spill_rows=7_000)
    table = store.table("a", ROW)
    for begin in range(0, len(rows), 1_000):
        table.put(rows[begin : begin + 1_000])
    asked = np.random.default_rng(1).permutation(len(rows))[:500]
    found, got = table.get(rows["key"][asked], rows["check"][asked])
    assert found.all() and (got == rows[asked]).all()
    found, _ = table.get(rows["key"][asked], rows["check"][asked] ^ np.uint64(1))
    assert not found.any()
    found, _ = table.get(rows["key"][asked] ^ np.uint64(1 << 40), rows["check"][asked])
    assert not found.any()
    store.close()


def test_results_do_not_depend_on_when_is_merged(directory: Path) -> None:
    rows = random_rows(120_000)
    rng = np.random.default_rng(3)
    again = rng.integers(0, len(rows), 40_000)
    rows = np.concatenate([rows, rows[again]])
    rows["value"] = np.arange(len(rows))
    asked = rng.integers(0, len(rows), (20, 500))
    seen = []
    for number, (background, spill_rows) in enumerate([(True, 3_000), (True, 9_000), (False, 5_000), (False, 10**9)]):
        store = PendingStore(directory / str(number), merge_in_background=background, spill_rows=spill_rows)
        table, answers = store.table("a", ROW), []
        for step, begin in enumerate(range(0, len(rows), 2_000)):
            table.put(rows[begin : begin + 2_000])
            found, got = table.get(rows["key"][asked[step % 20]], rows["check"][asked[step % 20]])
            answers += [found.tobytes(), got.tobytes()]
            if step % 10 == 9:
                table.forget_before(1_000 * step)
                answers.append(table.rows_between(0, 1_010 * step).tobytes())
                store.checkpoint({"predictions": step})
        store.close()
        seen.append(b"".join(answers))
    assert seen[0] == seen[1] == seen[2] == seen[3]


def test_a_directory_has_one_owner(directory: Path) -> None:
    store = PendingStore(directory)
    with pytest.raises(PendingError, match=rf"in use by another worker \(process {os.getpid()}\)"):
        PendingStore(directory)
    program = f"from pathlib import Path; from streams.outcomes.store import *; PendingStore(Path({str(directory)!r}))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path.cwd())
    assert other.returncode and "in use by another worker" in other.stderr
    store.table("a", ROW).put(random_rows(1))  # undisturbed
    store.checkpoint({"predictions": 1})
    store.close()
    store = PendingStore(directory)
    assert store.table("a", ROW).rows == 1
    store.close()


def test_a_directory_that_cannot_be_used_is_an_error(directory: Path) -> None:
    directory.parent.mkdir(exist_ok=True)
    directory.write_text("a file")
    with pytest.raises(PendingError, match="cannot be used"):
        PendingStore(directory)


@pytest.mark.parametrize(
    "name", ["../../escape", "/etc/passwd", "a\0b", "", ".", "..", "x" * 5_000, "lock", "manifest", "é\udc80\n", "a/b"]
)
def test_names_are_only_names(directory: Path, name: str) -> None:
    store = PendingStore(directory)
    store.table(name, ROW).put(random_rows(3))
    store.checkpoint({"predictions": 1})
    store.close()
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]
    assert {path.name for path in directory.iterdir()} == {"lock", "manifest", "000000000001.run"}
    store = PendingStore(directory)
    assert store.names() == [name] and store.table(name, ROW).rows == 3
    store.close()


def test_thousands_of_tables_share_a_few_files(directory: Path) -> None:
    store = PendingStore(directory)
    rows = random_rows(2_000)
    for position in range(5):
        for number in range(2_000):
            store.table(f"deployment {number}", ROW).put(rows[number : number + 1])
        store.checkpoint({"predictions": position})
    assert len(list(directory.glob("*.run"))) <= 8
    assert store.memory_bytes < 5 << 20
    store.close()
    store = PendingStore(directory)
    assert len(store.names()) == 2_000
    for number in range(0, 2_000, 100):
        found, got = store.table(f"deployment {number}", ROW).get(
            rows["key"][number : number + 2], rows["check"][number : number + 2]
        )
        assert found.tolist() == [True, False] and got[0] == rows[number]
    store.close()


@pytest.mark.usefixtures("small")
def test_what_a_forgotten_row_hides_stays_hidden() -> None:
    store = PendingStore(None, merge_in_background=False, spill_rows=1)
    table = store.table("a", ROW)
    table.put(np.concatenate([random_rows(400), rows_of([(1, 1, 500, 1)])]))  # not to be merged with few others
    table.forget_before(30)
    for number in range(40):
        table.put(rows_of([(1, 1, 20, 2), (100 + number, 1, 60 + number, 3)]))
        found, _ = table.get(np.array([1], np.uint64), np.array([1], np.uint64))
        assert not found.any()
        assert not (table.rows_between(0, 1_000)["key"] == 1).any()
    assert table.rows < 450


def test_storage_of_forgotten_rows_and_dropped_tables_is_given_back(directory: Path) -> None:
    store = PendingStore(directory, merge_in_background=False, spill_rows=5_000)
    table = store.table("a", ROW)
    rows = random_rows(50_000)
    table.put(rows)
    far = rows_of([(5, 5, 10**15, 1)])
    table.put(far)
    store.checkpoint({"predictions": 1})
    full = store.disk_bytes
    table.forget_before(40_000)
    store.checkpoint({"predictions": 2})
    assert table.rows == 10_001 and store.disk_bytes < 0.5 * full
    table.forget_before(60_000)
    store.checkpoint({"predictions": 3})
    assert table.rows == 1
    store.table("b", ROW).put(rows)
    store.drop("b")
    store.drop("never there")
    store.checkpoint({"predictions": 4})
    assert store.disk_bytes < 0.1 * full
    assert content(store.table("b", ROW)) == {}
    store.close()


def test_a_forgotten_row_is_not_found_though_it_is_put_later() -> None:
    store = PendingStore(None)
    table = store.table("a", ROW)
    table.forget_before(10)
    table.forget_before(5)
    table.put(rows_of([(1, 7, 9, 1), (2, 7, 10, 2)]))
    assert content(table) == {(2, 7): (10, 2)}
    assert table.rows == 2


def test_tables_that_are_gone_or_do_not_fit_are_errors() -> None:
    store = PendingStore(None)
    table = store.table("a", ROW)
    with pytest.raises(PendingError, match="drop it first"):
        store.table("a", WIDE)
    with pytest.raises(PendingError, match="these have"):
        table.put(np.zeros(1, WIDE))
    for dtype in (np.dtype([("key", "<u8")]), np.dtype([*ROW.descr, ("more", "O")]), np.dtype("<u8")):
        with pytest.raises(PendingError, match="rows begin with key"):
            store.table("b", dtype)
    store.drop("a")
    store.table("c", ROW)
    other = store.table("a", WIDE)
    store.reset()
    for gone in (table, other):
        with pytest.raises(PendingError, match="was dropped"):
            gone.put(np.zeros(1, gone.dtype))
        with pytest.raises(PendingError, match="was dropped"):
            gone.get(np.zeros(1, np.uint64), np.zeros(1, np.uint64))
    assert store.names() == [] and store.position == {}


def test_the_batch_that_was_put_may_change_afterwards() -> None:
    store = PendingStore(None)
    table, rows = store.table("a", ROW), rows_of([(1, 7, 9, 1)])
    table.put(rows)
    table.put(rows[:0])
    rows["value"] = 5
    found, got = table.get(np.array([1], np.uint64), np.array([7], np.uint64))
    got["value"] = 6
    assert content(table) == {(1, 7): (9, 1)} and found.all()


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_an_error_and_loses_no_checkpoint(
    directory: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    rows = random_rows(3_000)
    store = PendingStore(directory, merge_in_background=background, spill_rows=500)
    store.table("a", ROW).put(rows[:400])
    store.checkpoint({"predictions": 1})

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs.Path, "write_bytes", full)

    def put_and_write() -> None:
        store.table("a", ROW).put(rows)  # is told here, or at the next checkpoint
        store.checkpoint({"predictions": 2})

    for _ in range(2):
        with pytest.raises(PendingError, match="No space left on device"):
            put_and_write()
    found, _ = store.table("a", ROW).get(rows["key"], rows["check"])
    assert found.all()
    monkeypatch.undo()
    store.close()
    store = PendingStore(directory)
    assert store.position == {"predictions": 1} and store.table("a", ROW).rows == 400
    assert len(list(directory.glob("*.run"))) == 1
    store.close()


def test_a_merge_that_fails_is_an_error(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PendingStore(directory)

    def broken(*_: object, **__: object) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
        yield

    monkeypatch.setattr("streams.outcomes.store.merge", broken)

    def put_more() -> None:
        for position in range(1_000):
            store.table("a", ROW).put(random_rows(1))
            store.checkpoint({"predictions": position})

    with pytest.raises(PendingError, match="cannot be written"):
        put_more()
    store.close()


@pytest.mark.parametrize("most_bytes", [0, 1 << 30])
def test_large_and_small_runs_are_written_alike(
    directory: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    monkeypatch.setattr(runs, "_BUFFERED_BYTES", most_bytes)
    monkeypatch.setattr(merging, "SLICE_ROWS", 300)
    rows = random_rows(5_000)
    store = PendingStore(directory, merge_in_background=False, spill_rows=1_000)
    for begin in range(0, len(rows), 500):
        store.table(f"table {begin % 2}", ROW).put(rows[begin : begin + 500])
        store.table("all", ROW).put(rows[begin : begin + 500])
    store.table("all", ROW).put(rows[:700])
    store.checkpoint({"predictions": 1})
    store.close()
    store = PendingStore(directory)
    found, got = store.table("all", ROW).get(rows["key"], rows["check"])
    assert found.all() and (got == rows).all()
    store.close()


@given(
    ids=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40),
    sorted_parts=st.booleans(),
)
def test_of_rows_with_one_id_the_last_is_kept(ids: list[tuple[int, int]], sorted_parts: bool) -> None:
    rows = rows_of([(key, check, 0, at) for at, (key, check) in enumerate(ids)])
    order = newest_order(rows["key"], plain(rows), sorted_parts=sorted_parts)
    last = {identity: at for at, identity in enumerate(ids)}
    assert order.tolist() == [last[identity] for identity in sorted(last)]


@given(sizes=st.lists(st.integers(1, 1 << 24), min_size=1, max_size=200))
def test_there_are_never_many_runs(sizes: list[int]) -> None:
    held: list[int] = []
    for size in sizes:
        held.append(size)
        while (due := next_merge(held, [0.0] * len(held), [False] * len(held))) is not None:
            held[due[0] : due[1]] = [sum(held[due[0] : due[1]])]
        assert len(held) <= MOST_RUNS


@given(
    sizes=st.lists(st.integers(1, 1 << 30), min_size=1, max_size=30),
    forgotten=st.lists(st.floats(0, 1), min_size=30, max_size=30),
    busy=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_a_merge_takes_neighbours_that_are_free(sizes: list[int], forgotten: list[float], busy: list[bool]) -> None:
    count = len(sizes)
    bytes_forgotten = [share * size for share, size in zip(forgotten, sizes, strict=False)]
    due = next_merge(sizes, bytes_forgotten, busy[:count])
    if due is not None:
        begin, end = due
        assert 0 <= begin < end <= count and not any(busy[begin:end])
        assert end - begin > 1 or sum(bytes_forgotten[:end]) * 2 >= sum(sizes[:end])


def test_a_merge_lets_go_of_the_memory_of_the_files_it_reads(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "SLICE_ROWS", 4_000)
    monkeypatch.setattr(merging, "SMALL_BYTES", 1)
    rows = random_rows(60_000)
    store = PendingStore(directory, merge_in_background=False, spill_rows=20_000)
    table = store.table("a", ROW)
    released: list[int] = []
    release = sections.Section.release

    def noticed(section: sections.Section, begin: int, end: int) -> None:
        release(section, begin, end)
        released.append(end - begin)

    monkeypatch.setattr(sections.Section, "release", noticed)
    for begin in range(0, len(rows), 20_000):
        table.put(rows[begin : begin + 20_000])
    assert sum(released) == len(rows)
    for run in store._held.runs:
        for section in run.sections.values():
            release(section, 0, len(section))
    found, got = table.get(rows["key"], rows["check"])
    assert found.all() and (got == rows).all()
    store.close()


def test_a_checkpoint_that_is_confirmed_after_closing_is_not_put_in_force(directory: Path) -> None:
    store = PendingStore(directory, spill_rows=100)
    store.table("a", ROW).put(random_rows(250))
    store.checkpoint({"predictions": 1})
    store.table("a", ROW).put(random_rows(1_000, seed=1))
    store.prepare({"predictions": 2})
    store.close()
    other = PendingStore(directory)
    store.confirm()
    other.close()
    store = PendingStore(directory)
    assert store.position == {"predictions": 1} and store.table("a", ROW).rows == 250
    store.close()
