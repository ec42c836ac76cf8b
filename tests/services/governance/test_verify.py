"""The tamper harness: whatever is done to the record is found and named; honest records are never accused."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.codec import encode
from services.governance import verify as verify_module
from services.governance.checkpoint import Checkpoint, SigningKey, sign_checkpoint
from services.governance.checkpoints import seal_record
from services.governance.export import write_export
from services.governance.merkle import CompactRange, leaf_hash
from services.governance.topic import LogRecord
from services.governance.verify import SealRecord, Verification, verify, verify_export

ORIGIN = "example.com/audit"
KEY = SigningKey.generate(ORIGIN)
OTHER = SigningKey.generate(ORIGIN)
NOW_MS = 1_800_000_000_000
LONG_AGO_MS = NOW_MS - 3_600_000


@dataclass(frozen=True)
class Log:
    """The two topics."""

    records: list[LogRecord]
    seals: list[SealRecord]

    def with_records(self, records: Sequence[LogRecord]) -> Log:
        return Log(list(records), self.seals)

    def with_seals(self, seals: Sequence[SealRecord]) -> Log:
        return Log(self.records, list(seals))

    def check(self, key: SigningKey = KEY, **options: Any) -> Verification:
        return verify(iter(self.records), iter(self.seals), str(key.verifier), now_ms=NOW_MS, **options)


def signed(records: list[LogRecord], cuts: Sequence[int], key: SigningKey = KEY) -> Log:
    """The log with a checkpoint at every cut, as the service would have published them."""
    tree, seals, first = CompactRange(), [], 0
    for number, size in enumerate(sorted({cut for cut in cuts if 0 < cut <= len(records)})):
        hashes = [leaf_hash(record.value) for record in records[first:size]]
        tree.extend(hashes)
        note = sign_checkpoint(Checkpoint(key.verifier.name, size, tree.root()), key)
        seals.append(SealRecord(2 * number, note, size, first, b"".join(hashes), records[size - 1].offset))
        first = size
    return Log(records, seals)


def event(number: int, *, event_id: str | None = None) -> bytes:
    return encode(
        "AuditEvent",
        {
            "id": event_id or f"event-{number}",
            "time_us": 1_700_000_000_000_000 + number,
            "source": "cli",
            "actor_kind": "human",
            "actor": "ada",
            "action": "deployment.applied",
            "subject": f"deployment:{number}",
        },
    )


def records_of(values: Sequence[bytes], timestamp_ms: int = LONG_AGO_MS) -> list[LogRecord]:
    # Transaction markers leave gaps between offsets.
    return [LogRecord(7 + 3 * index // 2, timestamp_ms + index, value) for index, value in enumerate(values)]


def a_log(count: int = 12, cuts: Sequence[int] = (3, 4, 9, 12), key: SigningKey = KEY) -> Log:
    return signed(records_of([event(i) for i in range(count)]), cuts, key)


@st.composite
def logs(draw: st.DrawFn, *, unique: bool = False, least: int = 1) -> Log:
    """A log that is sealed to its end."""
    count = draw(st.integers(least, 40))
    if unique:
        values = [event(i) for i in range(count)]
    else:
        values = draw(st.lists(st.binary(max_size=6) | st.builds(event, st.integers(0, 5)), min_size=count))[:count]
    cuts = draw(st.lists(st.integers(1, count), max_size=8))
    return signed(records_of(values), [*cuts, count])


def no_difference(log: Log, result: Verification) -> bool:
    return result.ok and result.sealed == result.records == len(log.records)


# Honest logs


@given(logs())
def test_an_honest_log_stands_to_its_end(log: Log) -> None:
    result = log.check()
    assert no_difference(log, result)
    assert result.first_bad is None
    assert result.checkpoints == len(log.seals)
    assert result.head == log.seals[-1].note


def test_a_thousand_honest_logs_raise_no_alarm() -> None:
    chance = random.Random(20261121)
    for _ in range(1_000):
        count = chance.randint(1, 60)
        values = [chance.randbytes(chance.randint(0, 20)) for _ in range(count)]
        log = signed(records_of(values), [chance.randint(1, count) for _ in range(chance.randint(0, 10))] + [count])
        assert no_difference(log, log.check())


@given(logs(), st.data())
def test_repeated_checkpoints_are_tolerated(log: Log, data: Any) -> None:
    seals = list(log.seals)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(seals) - 1))
        later = data.draw(st.integers(at + 1, len(seals)))
        seals.insert(later, dataclasses.replace(seals[at], offset=99))
    assert no_difference(log, log.with_seals(seals).check())


@given(logs(unique=True, least=2), st.data())
def test_an_older_head_published_late_stands_when_it_fits(log: Log, data: Any) -> None:
    size = data.draw(st.integers(1, len(log.records)))
    late = signed(log.records, [size]).seals
    assert no_difference(log, log.with_seals([*log.seals, *late]).check())


def test_steps_inside_one_checkpoint_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "_STEP", 4)
    log = a_log(count=30, cuts=(1, 13, 30))
    assert no_difference(log, log.check())
    assert_bad(altered(log, 20), "altered", 20)
    assert_bad(log.with_records(log.records[:20] + log.records[21:]), "missing", 20)


def test_fresh_records_without_a_checkpoint_are_not_yet_sealed() -> None:
    log = a_log()
    fresh = [LogRecord(100 + i, NOW_MS - 500, event(100 + i)) for i in range(3)]
    result = log.with_records(log.records + fresh).check()
    assert result.ok
    assert (result.records, result.sealed) == (15, 12)
    assert "3 not yet sealed" in result.message


def test_an_empty_topic_is_called_empty() -> None:
    result = Log([], []).check()
    assert result.ok and result.records == 0
    assert "empty" in result.message


# Records


def assert_bad(log: Log, kind: str, index: int | None, **options: Any) -> Verification:
    result = log.check(**options)
    assert not result.ok
    assert result.first_bad is not None
    assert (result.first_bad.kind, result.first_bad.index) == (kind, index), result.message
    assert result.first_bad.message in result.message
    return result


def altered(log: Log, index: int, bit: int = 200) -> Log:
    record = log.records[index]
    value = bytearray(record.value)
    value[bit // 8 % len(value)] ^= 1 << bit % 8
    return log.with_records(
        [*log.records[:index], record._replace(value=bytes(value)), *log.records[index + 1 :]],
    )


@given(logs(unique=True), st.data())
def test_any_flipped_bit_of_a_record_is_found_and_named(log: Log, data: Any) -> None:
    index = data.draw(st.integers(0, len(log.records) - 1))
    bit = data.draw(st.integers(0, 8 * len(log.records[index].value) - 1))
    result = assert_bad(altered(log, index, bit), "altered", index)
    assert result.first_bad is not None
    assert result.first_bad.offset == log.records[index].offset
    assert result.sealed <= index


def test_the_event_id_of_the_first_bad_record_is_given() -> None:
    log = a_log()
    body = log.records[5].value.replace(b"ada", b"eve")
    result = assert_bad(
        log.with_records([*log.records[:5], log.records[5]._replace(value=body), *log.records[6:]]), "altered", 5
    )
    assert result.first_bad is not None and result.first_bad.event_id == "event-5"


@given(logs(unique=True, least=2), st.data())
def test_a_deleted_record_is_missing(log: Log, data: Any) -> None:
    index = data.draw(st.integers(0, len(log.records) - 1))
    kind = "truncated" if index == len(log.records) - 1 else "missing"
    assert_bad(log.with_records(log.records[:index] + log.records[index + 1 :]), kind, index)


@given(logs(unique=True, least=4), st.data())
def test_several_deleted_records_are_counted(log: Log, data: Any) -> None:
    start = data.draw(st.integers(0, len(log.records) - 3))
    stop = data.draw(st.integers(start + 1, len(log.records) - 1))
    result = assert_bad(log.with_records(log.records[:start] + log.records[stop:]), "missing", start)
    assert f"{stop - start} record" in result.message


def test_a_deleted_last_record_is_missing_though_unsealed_ones_follow() -> None:
    log = a_log()
    fresh = LogRecord(100, NOW_MS, event(100))
    assert_bad(log.with_records([*log.records[:-1], fresh]), "missing", 11)


@given(logs(unique=True, least=2), st.data())
def test_swapped_records_are_reordered(log: Log, data: Any) -> None:
    first = data.draw(st.integers(0, len(log.records) - 2))
    second = data.draw(st.integers(first + 1, len(log.records) - 1))
    records = list(log.records)
    a, b = records[first], records[second]
    records[first], records[second] = a._replace(value=b.value), b._replace(value=a.value)
    assert_bad(log.with_records(records), "reordered", first)


@given(logs(unique=True, least=3), st.data())
def test_a_record_moved_elsewhere_is_reordered(log: Log, data: Any) -> None:
    source = data.draw(st.integers(0, len(log.records) - 1))
    target = data.draw(st.integers(0, len(log.records) - 1).filter(lambda at: at != source))
    values = [record.value for record in log.records]
    values.insert(target, values.pop(source))
    records = [record._replace(value=value) for record, value in zip(log.records, values, strict=True)]
    assert_bad(log.with_records(records), "reordered", min(source, target))


@given(logs(unique=True), st.data())
def test_an_inserted_record_is_found(log: Log, data: Any) -> None:
    index = data.draw(st.integers(0, len(log.records) - 1))
    value = data.draw(st.sampled_from([event(1000), b"", log.records[-1].value, log.records[0].value]))
    values = [record.value for record in log.records]
    result = log.with_records(records_of([*values[:index], value, *values[index:]])).check()
    assert not result.ok and result.first_bad is not None
    if value == log.records[index].value:  # a copy in front of its original is a copy behind it
        index += 1
    expected = "unsigned" if index == len(log.records) else "inserted"
    assert (result.first_bad.kind, result.first_bad.index) == (expected, index)


@given(logs(unique=True), st.data())
def test_a_truncated_topic_is_found(log: Log, data: Any) -> None:
    keep = data.draw(st.integers(0, len(log.records) - 1))
    assert_bad(log.with_records(log.records[:keep]), "truncated", keep)


@given(logs(), st.data())
def test_anything_done_to_sealed_records_is_found(log: Log, data: Any) -> None:
    """Also with repeated and empty values, where the name of what happened is a matter of view."""
    values = [record.value for record in log.records]
    after = list(values)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(after) - 1)))
        match data.draw(st.sampled_from(["delete", "insert", "replace", "swap"])):
            case "delete":
                del after[at : at + 1]
            case "insert":
                after.insert(at, data.draw(st.binary(max_size=6)))
            case "replace":
                after[at : at + 1] = [data.draw(st.binary(max_size=6))]
            case _:
                after[at : at + 2] = reversed(after[at : at + 2])
    result = log.with_records(records_of(after)).check()
    assert result.ok == (after == values)
    if not result.ok:
        same = next(
            (i for i, (a, b) in enumerate(zip(after, values, strict=False)) if a != b), min(len(after), len(values))
        )
        assert result.first_bad is not None and result.first_bad.index == same


def test_a_record_on_another_offset_is_moved() -> None:
    log = a_log()
    records = [*log.records[:-1], log.records[-1]._replace(offset=500)]
    assert_bad(log.with_records(records), "moved", 11)


def test_offsets_that_do_not_rise_are_reordered() -> None:
    log = a_log()
    records = [*log.records[:5], log.records[5]._replace(offset=log.records[4].offset), *log.records[6:]]
    assert_bad(log.with_records(records), "reordered", 5)


def test_old_records_without_a_checkpoint_are_unsigned() -> None:
    log = a_log()
    late = [LogRecord(100 + i, NOW_MS - 60_000, event(100 + i)) for i in range(3)]
    result = assert_bad(log.with_records(log.records + late), "unsigned", 12)
    assert "last 3 records" in result.message
    assert log.with_records(log.records + late).check(seal_within_seconds=120).ok


def test_records_from_the_future_do_not_wait_for_their_seal_for_ever() -> None:
    log = a_log()
    future = LogRecord(100, NOW_MS + 86_400_000, event(100))
    assert_bad(log.with_records([*log.records, future]), "unsigned", 12)
    while_reading = future._replace(timestamp_ms=NOW_MS + 120_000)
    assert log.with_records([*log.records, while_reading]).check().ok


def test_the_first_of_several_faults_is_named() -> None:
    log = a_log(count=30, cuts=(10, 20, 30))
    twice = altered(altered(log, 25), 8)
    assert_bad(twice, "altered", 8)
    seals = [*twice.seals[:2], dataclasses.replace(twice.seals[2], note="nonsense")]
    assert_bad(twice.with_seals(seals), "altered", 8)
    assert_bad(log.with_seals(seals), "checkpoint", 20)


# Checkpoints


def with_seal(log: Log, at: int, **changes: Any) -> Log:
    return log.with_seals([*log.seals[:at], dataclasses.replace(log.seals[at], **changes), *log.seals[at + 1 :]])


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(st.data())
def test_any_flipped_bit_of_a_note_is_found(data: Any) -> None:
    log = a_log()
    at = data.draw(st.integers(0, 3))
    note = log.seals[at].note.encode()
    changed = flipped(note, data.draw(st.integers(0, 8 * len(note) - 1))).decode("utf-8", "replace")
    result = with_seal(log, at, note=changed).check()
    assert not result.ok and result.first_bad is not None
    assert result.first_bad.kind in {"signature", "wrong_key", "checkpoint"}
    assert result.first_bad.checkpoint_offset == log.seals[at].offset
    assert result.first_bad.index == result.sealed == (log.seals[at - 1].size if at else 0)


@given(st.data())
def test_any_flipped_bit_of_a_hash_list_is_blamed_on_the_checkpoint(data: Any) -> None:
    log = a_log()
    at = data.draw(st.integers(0, 3))
    hashes = log.seals[at].leaf_hashes
    bit = data.draw(st.integers(0, 8 * len(hashes) - 1))
    index = log.seals[at].first_index + bit // 256
    result = assert_bad(with_seal(log, at, leaf_hashes=flipped(hashes, bit)), "checkpoint", index)
    assert "the record itself stands" in result.message


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("field", ["size", "first_index", "last_offset"])
@pytest.mark.parametrize("change", [-1, 1, 1 << 40, -(1 << 40)])
def test_any_changed_number_of_a_checkpoint_is_found(at: int, field: str, change: int) -> None:
    log = a_log()
    result = with_seal(log, at, **{field: getattr(log.seals[at], field) + change}).check()
    assert not result.ok and result.first_bad is not None
    assert result.first_bad.checkpoint_offset == log.seals[at].offset


def test_a_record_altered_together_with_its_hash_is_found() -> None:
    log = altered(a_log(), 5)
    hashes = bytearray(log.seals[2].leaf_hashes)
    hashes[32:64] = leaf_hash(log.records[5].value)
    result = assert_bad(with_seal(log, 2, leaf_hashes=bytes(hashes)), "altered", 4)
    assert "records 4 to 8" in result.message


def test_a_record_and_its_hash_altered_differently_are_found() -> None:
    log = altered(a_log(), 5)
    assert_bad(with_seal(log, 2, leaf_hashes=flipped(log.seals[2].leaf_hashes, 300)), "altered", 5)


def test_a_missing_checkpoint_is_found() -> None:
    log = a_log()
    for at in range(3):
        seals = log.seals[:at] + log.seals[at + 1 :]
        assert_bad(log.with_seals(seals), "checkpoint", log.seals[at].first_index)
    assert_bad(log.with_seals(log.seals[:-1]), "unsigned", 9)
    assert_bad(log.with_seals([]), "unsigned", 0)


def test_swapped_checkpoints_are_found() -> None:
    log = a_log()
    assert_bad(log.with_seals([log.seals[1], log.seals[0], *log.seals[2:]]), "checkpoint", 0)


def test_a_history_signed_again_with_another_key_is_refused() -> None:
    log = signed(altered(a_log(), 5).records, (3, 4, 9, 12), OTHER)
    result = assert_bad(log, "wrong_key", 0)
    assert KEY.verifier.key_id.hex() in result.message and OTHER.verifier.key_id.hex() in result.message
    mixed = a_log().seals[:2] + signed(a_log().records, (3, 4, 9, 12), OTHER).seals[2:]
    assert_bad(a_log().with_seals(mixed), "wrong_key", 4)


def test_a_key_of_another_log_is_refused() -> None:
    stranger = SigningKey.generate("example.com/another")
    assert_bad(a_log(key=stranger), "wrong_key", 0)


def test_two_roots_for_one_size_are_a_fork() -> None:
    log = a_log()
    other = signed(altered(log, 5).records, (9,)).seals[0]
    assert_bad(log.with_seals([*log.seals, other]), "forked", 12)
    late = signed(altered(log, 5).records, (7,)).seals[0]
    assert not log.with_seals([*log.seals, late]).check().ok


def test_bytes_that_are_no_checkpoint_are_found() -> None:
    log = a_log()
    garbage = seal_record(LogRecord(50, NOW_MS, b"\xc3\x01garbage"))
    result = assert_bad(log.with_seals([*log.seals, garbage]), "checkpoint", 12)
    assert result.sealed == 12
    assert seal_record(LogRecord(50, NOW_MS, event(1))).problem is not None


# A checkpoint from before


def test_both_topics_rolled_back_together_are_found_with_a_checkpoint_from_before() -> None:
    log = a_log()
    known = log.seals[-1].note
    older = Log(log.records[:9], log.seals[:3])
    assert older.check().ok
    assert_bad(older, "rolled_back", 9, known_note=known)
    assert_bad(Log([], []), "rolled_back", 0, known_note=known)
    assert log.check(known_note=known).ok
    assert log.check(known_note=log.seals[1].note).ok


def test_a_history_rewritten_with_the_right_key_is_found_with_a_checkpoint_from_before() -> None:
    log = a_log()
    for known in log.seals[2:]:
        rewritten = signed(altered(log, 5).records, (3, 4, 9, 12))
        assert rewritten.check().ok
        result = assert_bad(rewritten, "forked", None, known_note=known.note)
        assert "seen before" in result.message


def test_a_checkpoint_from_before_of_another_key_is_refused() -> None:
    with pytest.raises(ValueError, match="kept from before"):
        a_log().check(known_note=a_log(key=OTHER).seals[0].note)


@pytest.mark.parametrize(
    "key",
    ["", "a", "a+b+c", str(KEY.verifier)[:-2], str(KEY.verifier).replace("+", "-")],
    ids=["empty", "a word", "not base64", "cut", "other separators"],  # the key is made anew in every process
)
def test_what_is_no_public_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="public key"):
        verify([], [], key)


# Exports


def exported(log: Log, path: Path) -> Path:
    seals = [
        LogRecord(
            seal.offset,
            NOW_MS,
            encode(
                "LedgerCheckpoint",
                {k: v for k, v in dataclasses.asdict(seal).items() if k not in {"offset", "problem"}},
            ),
        )
        for seal in log.seals
    ]
    write_export(
        path, {"topic": "audit", "checkpoint_topic": "audit-checkpoints", "exported_ms": NOW_MS}, seals, log.records
    )
    return path


def test_an_export_verifies_to_the_same_result(tmp_path: Path) -> None:
    log = a_log()
    assert verify_export(exported(log, tmp_path / "x"), str(KEY.verifier)) == log.check()
    bad = altered(log, 5)
    assert verify_export(exported(bad, tmp_path / "y"), str(KEY.verifier)) == bad.check()


def test_every_flipped_byte_of_an_export_is_found(tmp_path: Path) -> None:
    whole = exported(a_log(count=2, cuts=(1, 2)), tmp_path / "x").read_bytes()
    chance = random.Random(5)
    path = tmp_path / "y"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
        result = verify_export(path, str(KEY.verifier))
        assert not result.ok, f"byte {at}: {whole[max(0, at - 30) : at + 30]!r}"
        assert result.first_bad is not None and result.first_bad.message


Edit = Callable[[list[bytes], random.Random], list[bytes]]
EDITS: dict[str, Edit] = {
    "delete": lambda lines, chance: [line for i, line in enumerate(lines) if i != at(lines, chance)],
    "double": lambda lines, chance: doubled(lines, at(lines, chance)),
    "swap": lambda lines, chance: swapped(lines, at(lines, chance, 2)),
    "cut": lambda lines, chance: lines[: at(lines, chance)],
    "cut in a line": lambda lines, chance: [*lines[: (i := at(lines, chance))], lines[i][: len(lines[i]) // 2]],
    "append": lambda lines, chance: [*lines, lines[at(lines, chance)]],
    "nonsense": lambda lines, chance: [*lines[: (i := at(lines, chance))], b"[" * 10_000 + b"\n", *lines[i:]],
}


def at(lines: list[bytes], chance: random.Random, room: int = 1) -> int:
    if not hasattr(chance, "chosen"):
        chance.chosen = chance.randrange(len(lines) - room + 1)  # type: ignore[attr-defined]  # one place for one edit
    return int(chance.chosen)  # type: ignore[attr-defined]


def doubled(lines: list[bytes], i: int) -> list[bytes]:
    return [*lines[: i + 1], *lines[i:]]


def swapped(lines: list[bytes], i: int) -> list[bytes]:
    return [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]]


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_of_the_lines_of_an_export_is_found(tmp_path: Path, name: str) -> None:
    lines = exported(a_log(), tmp_path / "x").read_bytes().splitlines(keepends=True)
    for seed in range(40):
        edited = EDITS[name](lines, random.Random(seed))
        (tmp_path / "y").write_bytes(b"".join(edited))
        result = verify_export(tmp_path / "y", str(KEY.verifier))
        assert not result.ok and result.first_bad is not None, seed


def test_an_edited_record_is_named_before_the_digest_of_the_file(tmp_path: Path) -> None:
    path = exported(a_log(), tmp_path / "x")
    lines = path.read_bytes().splitlines(keepends=True)
    record = json.loads(lines[5 + 6])
    record["value"] = record["value"][:-8] + "AAAA" + record["value"][-4:]
    lines[5 + 6] = json.dumps(record).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    result = verify_export(path, str(KEY.verifier))
    assert result.first_bad is not None
    assert (result.first_bad.kind, result.first_bad.index) == ("altered", 6)


def test_a_wrong_time_in_an_export_is_found_by_its_digest(tmp_path: Path) -> None:
    path = exported(a_log(), tmp_path / "x")
    path.write_bytes(path.read_bytes().replace(b'"timestamp_ms":1', b'"timestamp_ms":2', 1))
    result = verify_export(path, str(KEY.verifier))
    assert result.first_bad is not None and result.first_bad.kind == "file"


def test_undecodable_checkpoints_are_exported_and_found(tmp_path: Path) -> None:
    header = {"topic": "audit", "checkpoint_topic": "c", "exported_ms": NOW_MS}
    write_export(tmp_path / "x", header, [LogRecord(0, NOW_MS, b"nonsense")], [])
    result = verify_export(tmp_path / "x", str(KEY.verifier))
    assert result.first_bad is not None and result.first_bad.kind == "checkpoint"


# Independence


def test_the_verifier_imports_nothing_of_the_project_and_runs_alone(tmp_path: Path) -> None:
    alone = tmp_path / "verify.py"
    alone.write_text(Path(verify_module.__file__).read_text("utf-8"), "utf-8")
    path = exported(a_log(), tmp_path / "x")
    code = (
        f"import sys, runpy; sys.argv = ['verify.py', {str(KEY.verifier)!r}, {str(path)!r}]\n"
        f"try: runpy.run_path({str(alone)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not names & {'services', 'driftline', 'streams', 'fastavro', 'numpy', 'confluent_kafka'}, names\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sealed"] == 12


def test_run_alone_it_says_no_with_its_exit_status(tmp_path: Path) -> None:
    path = exported(altered(a_log(), 5), tmp_path / "x")
    assert verify_module.main([str(KEY.verifier), str(path)]) == 1
    assert verify_module.main(["nonsense", str(path)]) == 2
    assert verify_module.main([]) == 2
    assert verify_module.main([str(KEY.verifier), str(tmp_path / "none")]) == 2
