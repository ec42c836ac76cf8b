"""What is on disk comes back in order, once, whole or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline import Client, KafkaSettings, OutcomeColumns, PredictionColumns, decode
from driftline import spool as spools
from driftline.batches import Message
from driftline.errors import SpoolFullError
from driftline.spool import Spool, adoptable, default_directory, folder_for

LIMIT = 1 << 30


def message(number: int, size: int = 50, rows: int = 3) -> Message:
    value = number.to_bytes(4, "big") + os.urandom(size)
    return Message("predictions", "Łódź#1".encode(), value, [("ce_id", str(number)), ("x", "ü")], rows)


def drain(spool: Spool) -> list[Message]:
    taken = []
    while (got := spool.next()) is not None:
        taken.append(got)
        spool.acknowledge(got)
    return taken


def content(messages: list[Message]) -> list[tuple[object, ...]]:
    return [(m.topic, m.key, m.value, m.headers, m.rows) for m in messages]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "SEGMENT_BYTES", 1000)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.spool"))


def test_messages_come_back_in_order_and_nothing_is_left_behind(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "f", LIMIT)
    assert not (tmp_path / "f").exists(), "a client that never needs the disk must not touch it"
    written = [message(i) for i in range(40)]
    for one in written:
        spool.append(one)
    spool.sync()
    assert spool.rows == 120
    assert len(segments(tmp_path)) > 3
    assert content(drain(spool)) == content(written)
    assert spool.empty and spool.rows == 0 and spool.lost_rows == 0
    assert segments(tmp_path) == []
    spool.close()
    assert list((tmp_path / "f").iterdir()) == []


@given(st.data())
def test_any_interleaving_delivers_everything_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    spool = Spool.create(tmp_path_factory.mktemp("spool"), LIMIT)
    written: list[Message] = []
    out: list[Message] = []
    done: list[Message] = []
    for step in data.draw(st.lists(st.sampled_from("wwwnnab"), max_size=60)):
        if step == "w":
            written.append(message(len(written), data.draw(st.sampled_from([0, 50, 400]))))
            spool.append(written[-1])
        elif step == "n" and (got := spool.next()) is not None:
            out.append(got)
        elif step == "a" and out:
            done.append(out.pop(0))
            spool.acknowledge(done[-1])
        elif step == "b":
            spool.put_back(out)
            out = []
        assert spool.rows == 3 * (len(written) - len(done))
    spool.put_back(out)
    assert content(done + drain(spool)) == content(written)
    assert spool.empty and spool.lost_rows == 0
    spool.close()


def test_a_segment_stays_until_all_of_it_is_acknowledged(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, LIMIT)
    for i in range(3):
        spool.append(message(i))
    first, second, third = (spool.next() for _ in range(3))
    assert first and second and third and spool.next() is None
    spool.acknowledge(first)
    spool.acknowledge(third)
    assert len(segments(tmp_path)) == 1
    spool.acknowledge(second)
    assert segments(tmp_path) == []


def test_the_limit_is_kept_and_room_comes_back(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, 2000)
    count = 0
    while spool.bytes + 300 < 2000:
        spool.append(message(count))
        count += 1
    with pytest.raises(SpoolFullError, match="spool_limit_bytes"):
        spool.append(message(count, size=2000))
    assert 0 < spool.bytes <= 2000
    assert spool.bytes == sum(path.stat().st_size for path in segments(tmp_path))
    assert len(drain(spool)) == count
    spool.append(message(0))


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, LIMIT)
    spool.append(message(1))
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in spool.directory.iterdir()} == {0o600}


def left_behind(folder: Path, count: int = 20) -> list[Message]:
    spool = Spool.create(folder, LIMIT)
    written = [message(i) for i in range(count)]
    for one in written:
        spool.append(one)
    spool.sync()
    spool.close()
    return written


def test_the_spool_of_an_ended_process_is_adopted_in_order_and_removed(tmp_path: Path) -> None:
    written = left_behind(tmp_path)
    (spool,) = adoptable(tmp_path, ())
    assert content(drain(spool)) == content(written)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_client_s_intervals_and_labelling_probabilities_come_back_from_the_disk(tmp_path: Path) -> None:
    away = KafkaSettings("127.0.0.1:1")
    with Client("d", "v", settings=away, spool_dir=tmp_path, delivery_timeout_seconds=0.2, strict=True) as client:
        client.log_prediction({}, 2.0, prediction_id="a", prediction_low=1.0, prediction_high=4.0)
        client.log_prediction({}, 2.0, prediction_id="b")
        client.log_outcome("a", 3.0, labelling_probability=0.25)
        client.log_outcome("b", 5.0)
        client.close(0.5)
        assert client.counters().spooled == 4
    (spool,) = adoptable(folder_for(tmp_path, away.bootstrap_servers, "", "d"), ())
    records = dict(decode(one.value) for one in drain(spool))
    spool.close()
    predictions = PredictionColumns.from_record(records["PredictionBatch"])
    np.testing.assert_array_equal(predictions.prediction_low, [1.0, np.nan])
    np.testing.assert_array_equal(predictions.prediction_high, [4.0, np.nan])
    outcomes = OutcomeColumns.from_record(records["OutcomeBatch"])
    np.testing.assert_array_equal(outcomes.labelling_probability, [0.25, 1.0])


def test_the_spool_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    alive = Spool.create(tmp_path, LIMIT)
    alive.append(message(1))
    assert list(adoptable(tmp_path, ())) == []
    code = (
        "import sys; from pathlib import Path; from driftline.spool import adoptable;"
        "print(len(list(adoptable(Path(sys.argv[1]), ()))))"
    )
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0"
    alive.close()
    assert len(list(adoptable(tmp_path, ()))) == 1


def test_two_adopters_never_get_the_same_spool(tmp_path: Path) -> None:
    left_behind(tmp_path)
    first = list(adoptable(tmp_path, ()))
    assert len(first) == 1
    assert list(adoptable(tmp_path, ())) == []


def test_what_an_adopter_did_not_finish_is_left_for_the_next(tmp_path: Path) -> None:
    written = left_behind(tmp_path)
    (spool,) = adoptable(tmp_path, ())
    for _ in range(10):
        got = spool.next()
        assert got is not None
        spool.acknowledge(got)
    spool.close()
    (again,) = adoptable(tmp_path, ())
    rest = content(drain(again))
    assert rest == content(written)[-len(rest) :], "at least once, in order"
    assert len(rest) >= 10


@given(cut=st.integers(0, 3000))
def test_a_torn_tail_costs_only_itself(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("torn")
    written = content(left_behind(folder, 8))
    last = segments(folder)[-1]
    size = last.stat().st_size
    os.truncate(last, max(0, size - cut))
    (spool,) = adoptable(folder, ())
    came = content(drain(spool))
    assert came == written[: len(came)]
    assert spool.empty
    spool.close()
    assert list(folder.iterdir()) == []


@given(st.data())
def test_altered_bytes_never_become_a_record(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("altered")
    written = content(left_behind(folder, 8))
    path = data.draw(st.sampled_from(segments(folder)))
    altered = bytearray(path.read_bytes())
    altered[data.draw(st.integers(0, len(altered) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(altered)
    (spool,) = adoptable(folder, ())
    came = content(drain(spool))
    assert [one for one in written if one in came] == came, "in order, nothing that was not written"
    assert spool.empty


def test_an_altered_batch_in_the_own_spool_is_counted_as_lost_and_its_neighbours_are_not(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, LIMIT)
    for i in range(3):
        spool.append(message(i, rows=i + 1))
    spool.sync()
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    frame = (len(data) - 8) // 3
    data[8 + frame + frame - 10] ^= 1
    path.write_bytes(data)
    assert [m.rows for m in drain(spool)] == [1, 3]
    assert spool.lost_rows == 2
    assert spool.rows == 0 and spool.empty


def test_a_full_disk_leaves_whole_frames_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool.create(tmp_path, LIMIT)
    spool.append(message(0))
    write = os.write

    def short_then_full(file: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", full)
        return write(file, data[:10])

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", short_then_full)
    with pytest.raises(OSError, match="No space"):
        spool.append(message(1))
    monkeypatch.setattr(os, "write", write)
    spool.append(message(2))
    assert [m.value[:4] for m in drain(spool)] == [(0).to_bytes(4, "big"), (2).to_bytes(4, "big")]
    assert spool.empty


def test_a_disk_that_was_full_from_the_start_leaves_an_empty_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool.create(tmp_path, LIMIT)
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) <= 8:
            return write(file, data)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        spool.append(message(1))
    assert spool.empty and spool.rows == 0


def test_only_the_same_deployment_on_the_same_cluster_shares_a_folder(tmp_path: Path) -> None:
    one = folder_for(tmp_path, "a:1", "", "credit")
    others = [("b:1", "", "credit"), ("a:1", "x.", "credit"), ("a:1", "", "Credit"), ("a:1", "", "credit/../x")]
    folders = {folder_for(tmp_path, *other) for other in others}
    assert one == folder_for(tmp_path, "a:1", "", "credit")
    assert len(folders | {one}) == 5
    assert all(folder.parent == tmp_path for folder in folders)


def test_the_default_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "driftline" / "spool"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert default_directory() == tmp_path / "me" / ".local" / "state" / "driftline" / "spool"
