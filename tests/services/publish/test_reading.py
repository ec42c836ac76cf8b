"""A file's rows become the events they say, or the place of what cannot be read is named."""

import csv
import gzip
import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.events import OutcomeColumns, PredictionColumns
from services.publish import files
from services.publish.errors import BadValueError, FileError
from services.publish.files import open_file
from services.publish.reading import (
    Selection,
    Tally,
    derived_id,
    read_outcomes,
    read_predictions,
    read_reference,
    take,
)
from services.publish.vectors import to_vectors
from streams.specification import DeploymentSpec, FeatureSpec

SPEC = DeploymentSpec(
    "d",
    "m",
    "binary_classification",
    (FeatureSpec("temp", "numeric"), FeatureSpec("carrier", "categorical")),
    columns={
        "prediction_id": "id",
        "timestamp": "when",
        "feature:temp": "TEMP C",
        "probability:late": "p_late",
        "segment:airport": "origin",
        "actual_label": "was_late",
        "actual_timestamp": "arrived",
    },
)
HEADER = "id,when,TEMP C,carrier,p_late,origin"
ROWS = [
    ("a", "2024-01-01T00:00:00Z", "1.5", "AA", "0.25", "JFK"),
    ("b", "2024-01-01T01:00:00+01:00", "", "NA", "1e-3", "LGA"),
    ("c", "2024-01-01T00:00:02Z", " 7 ", "UA", "NaN", ""),
]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def csv_text(rows: list[tuple[str, ...]], header: str = HEADER) -> str:
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


def predictions(path: Path, spec: DeploymentSpec = SPEC, **options: Any) -> PredictionColumns:
    options = {"version": "1"} | options
    (columns,) = read_predictions(open_file(path), spec, **options)
    return columns


def refusal(path: Path, spec: DeploymentSpec = SPEC, **options: Any) -> str:
    with pytest.raises(FileError) as caught:
        list(read_predictions(open_file(path), spec, **({"version": "1"} | options)))
    assert caught.value.exit_code == 2
    return str(caught.value)


def assert_the_rows(columns: PredictionColumns) -> None:
    assert list(columns.prediction_ids) == ["a", "b", "c"]
    assert columns.timestamps_us.tolist() == [1704067200_000000, 1704067200_000000, 1704067202_000000]
    np.testing.assert_array_equal(columns.numeric["temp"], [1.5, math.nan, 7.0])
    assert columns.categorical["carrier"].values() == ["AA", None, "UA"]
    np.testing.assert_array_equal(columns.class_probabilities["late"], [0.25, 1e-3, math.nan])
    assert columns.segments["airport"].values() == ["JFK", "LGA", None]
    assert columns.model_version == "1" and columns.deployment_id == "d"


def test_csv_with_column_names_of_its_own_missing_values_and_numbers_as_text(tmp_path: Path) -> None:
    assert_the_rows(predictions(write(tmp_path / "f.csv", csv_text(ROWS))))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_told_from_the_header(tmp_path: Path, delimiter: str) -> None:
    assert_the_rows(predictions(write(tmp_path / "f.csv", csv_text(ROWS).replace(",", delimiter))))


def test_a_byte_order_mark_windows_line_ends_and_compression_change_nothing(tmp_path: Path) -> None:
    text = "\ufeff" + csv_text(ROWS).replace("\n", "\r\n")
    assert_the_rows(predictions(write(tmp_path / "f.csv.gz", gzip.compress(text.encode()))))


def test_parquet_with_its_own_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "when": pa.array([1704067200_000, 1704067200_000, 1704067202_000], pa.timestamp("ms", "Europe/Berlin")),
            "TEMP C": pa.array(["1.5", None, "7"]).dictionary_encode(),
            "carrier": ["AA", None, "UA"],
            "p_late": pa.array([0.25, 1e-3, None], pa.float64()),
            "origin": ["JFK", "LGA", None],
            "unwanted": [[1], [2], [3]],
        }
    )
    pq.write_table(table, tmp_path / "f.parquet")
    assert_the_rows(predictions(tmp_path / "f.parquet"))


EVERY_KIND = DeploymentSpec(
    "d",
    "m",
    "other",
    (
        FeatureSpec("embedding", "embedding"),
        FeatureSpec("question", "text"),
        FeatureSpec("member", "boolean"),
        FeatureSpec("age", "numeric"),
    ),
    columns={"prediction_id": "id", "error": "failure", "segment:region": "region"},
)
EVERY_ROW: list[dict[str, Any]] = [
    {"embedding": [0.5, -1.0], "question": "Where is it?", "member": True, "failure": None, "latency_ms": 1.5},
    {"embedding": None, "question": None, "member": None, "failure": "timeout", "latency_ms": None},
    {"embedding": [2.0, None], "question": "NA", "member": False, "failure": "false", "latency_ms": 2.5},
    {"embedding": [3.0, 4.0], "question": "…\n", "member": True, "failure": "503", "latency_ms": 0.0},
]
for _number, _row in enumerate(EVERY_ROW):
    _row |= {"id": f"p{_number}", "timestamp": "2024-01-01T00:00:00Z", "age": _number, "region": "eu"}


def write_every_kind(path: Path, form: str) -> Path:
    """``EVERY_ROW`` as a file."""
    if form == "jsonl":
        return write(path / "f.jsonl", "\n".join(map(json.dumps, EVERY_ROW)))
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(EVERY_ROW[0]))
        writer.writeheader()
        written = [{**row, "member": {True: "yes", False: "No", None: ""}[row["member"]]} for row in EVERY_ROW]
        writer.writerows([{**row, "embedding": row["embedding"] and json.dumps(row["embedding"])} for row in written])
        return write(path / "f.csv", out.getvalue())
    kinds = {
        "list": pa.list_(pa.float64()),
        "large_list": pa.large_list(pa.float32()),
        "fixed": pa.list_(pa.float32(), 2),
    }
    table = pa.Table.from_pylist(EVERY_ROW)
    vectors = pa.array([row["embedding"] for row in EVERY_ROW], kinds[form])
    table = table.set_column(table.schema.get_field_index("embedding"), "embedding", vectors)
    pq.write_table(table, path / "f.parquet")
    return path / "f.parquet"


@pytest.mark.parametrize("form", ["jsonl", "csv", "list", "large_list", "fixed"])
@pytest.mark.parametrize("as_reference", [False, True])
def test_every_kind_of_feature_error_latency_and_segment_is_read(tmp_path: Path, form: str, as_reference: bool) -> None:
    path = write_every_kind(tmp_path, form)
    if as_reference:
        (columns,) = read_reference(open_file(path), EVERY_KIND, "1")
    else:
        columns = predictions(path, EVERY_KIND)
    assert columns.vectors["embedding"].dtype == np.float32
    expected = [[0.5, -1.0], [math.nan] * 2, [2.0, math.nan], [3.0, 4.0]]
    np.testing.assert_array_equal(columns.vectors["embedding"], expected)
    assert columns.categorical["question"].values() == ["Where is it?", None, None, "…\n"]
    assert columns.categorical["member"].values() == ["true", None, "false", "true"]
    assert list(columns.numeric) == ["age"]
    assert columns.error is not None and columns.error.values() == [None, "timeout", None, "503"]
    assert columns.latency_ms is not None
    np.testing.assert_array_equal(columns.latency_ms, [1.5, math.nan, 2.5, 0.0])
    assert columns.segments["region"].values() == ["eu"] * 4


def test_some_rows_keep_their_vectors_and_errors(tmp_path: Path) -> None:
    columns = take(predictions(write_every_kind(tmp_path, "fixed"), EVERY_KIND), np.array([3, 0]))
    assert columns.vectors["embedding"].tolist() == [[3.0, 4.0], [0.5, -1.0]]
    assert columns.error is not None and columns.error.values() == ["503", None]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("embedding", [1.0, 2.0, 3.0], "expected a vector of 2 numbers like most rows here, came 3"),
        ("embedding", [], "a vector has 1 to 65536 numbers"),
        ("embedding", [1.0, "x"], "the list, value 1: a vector has numbers only, came str 'x'"),
        ("embedding", "0.1 0.2", "expected a list of numbers such as [0.1, 0.2], came '0.1 0.2'"),
        ("embedding", 7, "expected a list of numbers, came 7"),
        ("embedding", {"a": 1}, "the feature 'embedding'"),
        ("age", [1.0], "expected a number, came [1.0]"),
        ("question", ["a"], "expected text, came ['a']"),
        ("member", "maybe", "expected true or false, came 'maybe'"),
        ("failure", 0.35, "expected the class of an error such as 'timeout', came '0.35': is this another column?"),
    ],
    ids=repr,
)
def test_a_bad_value_of_any_kind_is_named_with_its_line(tmp_path: Path, field: str, value: Any, message: str) -> None:
    rows = [dict(row) for row in EVERY_ROW]
    rows[2][field] = value
    if isinstance(value, dict):  # its fields are columns of their own
        rows = [{name: item for name, item in row.items() if name != field} | {field: value} for row in rows]
        assert message in refusal(write(tmp_path / "f.jsonl", "\n".join(map(json.dumps, rows))), EVERY_KIND)
        return
    text = refusal(write(tmp_path / "f.jsonl", "\n".join(map(json.dumps, rows))), EVERY_KIND)
    assert f"line 3, column {field!r}: {message}" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            pa.array([[1.0, 2.0], [1.0], [3.0, 4.0]]),
            "row 2, column 'embedding': expected a vector of 2 numbers like most",
        ),
        (pa.array([[1.0, 2.0], [], [3.0, 4.0]]), "row 2, column 'embedding': a vector has 1 to 65536 numbers, came 0"),
        (pa.array([["a"], None, None]), "row 1, column 'embedding': expected a list of numbers, came list"),
        (pa.array([1, 2, 3]), "row 1, column 'embedding': expected a list of numbers, came int64"),
    ],
    ids=["another dimension", "empty", "texts", "numbers"],
)
def test_vectors_of_parquet_that_are_none_are_named(tmp_path: Path, values: Any, message: str) -> None:
    table = pa.table({"timestamp": ["2024-01-01T00:00:00Z"] * 3, "embedding": values})
    pq.write_table(table, tmp_path / "f.parquet")
    spec = DeploymentSpec("d", "m", "other", (FeatureSpec("embedding", "embedding"),))
    assert message in refusal(tmp_path / "f.parquet", spec)


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)  # JSON has no other
VECTOR_LISTS = st.lists(st.none() | st.lists(FINITE, max_size=3), min_size=1, max_size=20)


@given(VECTOR_LISTS, st.integers(0, 5))
def test_arrow_lists_python_lists_and_text_give_the_same_vectors(rows: list[Any], offset: int) -> None:
    column = pa.array([[9.0]] * offset + rows, pa.list_(pa.float32())).slice(offset)
    texts = pa.array([None if row is None else json.dumps(row) for row in rows], pa.string())
    first, *others = [to_vectors(column), to_vectors(rows), to_vectors(texts)]
    for other in others:
        assert other.bad == first.bad
        np.testing.assert_array_equal(other.values, first.values)  # type: ignore[arg-type]
    lengths = Counter(len(row) for row in rows if row)
    if not lengths:
        assert first.values is None
        return
    assert first.values is not None and lengths[first.values.shape[1]] == max(lengths.values())
    for index, row in enumerate(rows):
        if row is not None and index not in first.bad:
            assert first.values[index].tolist() == row
        else:
            assert np.isnan(first.values[index]).all()


def test_rows_with_long_vectors_come_in_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PART_BYTES", 20_000)
    vectors = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
    rows = [{"timestamp": "2024-01-01T00:00:00Z", "v": vector.tolist()} for vector in vectors]
    write(tmp_path / "f.jsonl", "\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
    spec = DeploymentSpec("d", "m", "other", (FeatureSpec("v", "embedding"),))
    for name in ("f.jsonl", "f.parquet"):
        batches = list(read_predictions(open_file(tmp_path / name), spec, version="1"))
        assert max(batch.rows for batch in batches) < 100
        assert np.array_equal(np.concatenate([batch.vectors["v"] for batch in batches]), vectors)


def test_a_column_of_vectors_that_are_all_missing_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", "timestamp,v\n2024-01-01T00:00:00Z,\n2024-01-01T00:00:00Z,NA\n")
    assert predictions(path, DeploymentSpec("d", "m", "other", (FeatureSpec("v", "embedding"),))).vectors == {}


def test_json_lines_flat_or_nested(tmp_path: Path) -> None:
    keys = HEADER.split(",")
    flat = [dict(zip(keys, row, strict=True)) for row in ROWS]
    assert_the_rows(predictions(write(tmp_path / "flat.jsonl", "\n\n".join(map(json.dumps, flat)))))
    nested = [
        {"prediction_id": "a", "timestamp": "2024-01-01T00:00:00Z", "features": {"temp": 1.5, "carrier": "AA"}},
        {"prediction_id": "b", "timestamp": "2024-01-01T00:00:00Z", "features": {"temp": None, "carrier": True}},
    ]
    spec = DeploymentSpec("d", "m", "other", SPEC.features)
    columns = predictions(write(tmp_path / "nested.ndjson", "\n".join(map(json.dumps, nested))), spec)
    np.testing.assert_array_equal(columns.numeric["temp"], [1.5, math.nan])
    assert columns.categorical["carrier"].values() == ["AA", "true"]


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (1, 2, "12,5", "expected a number, came '12,5'"),
        (2, 2, "warm", "expected a number, came 'warm'"),
        (2, 2, "true", "expected a number, came 'true'"),
        (0, 1, "yesterday", "expected an RFC 3339 time"),
        (1, 1, "2024-01-01T00:00:00", "has no zone: say timezone:"),
        (1, 1, "", "the time is missing"),
        (2, 0, "", "the prediction id is missing"),
        (2, 0, "x" * 300, "at most 256 characters"),
        (0, 4, "high", "expected a number, came 'high'"),
    ],
)
def test_a_bad_value_is_named_with_line_column_and_value(
    tmp_path: Path, row: int, column: int, value: str, message: str
) -> None:
    rows = [list(r) for r in ROWS]
    rows[row][column] = value
    out = io.StringIO()
    csv.writer(out).writerows([HEADER.split(","), *rows])
    text = refusal(write(tmp_path / "f.csv", out.getvalue()))
    assert f"f.csv, line {row + 2}, column {HEADER.split(',')[column]!r}: " in text and message in text


def test_bad_rows_are_skipped_and_counted_when_asked(tmp_path: Path) -> None:
    rows = [*ROWS, ("d", "never", "x", "AA", "1", "JFK"), ("e", "2024-01-01T00:00:03Z", "1", "AA", "1", "JFK")]
    tally = Tally()
    columns = predictions(write(tmp_path / "f.csv", csv_text(rows)), on_error="skip", tally=tally)
    assert list(columns.prediction_ids) == ["a", "b", "c", "e"]
    assert (tally.read, tally.taken, tally.rejected) == (5, 4, 1)
    assert [(v.line, v.column) for v in tally.examples] == [(5, "when"), (5, "TEMP C")]


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    text = (
        "id,when,TEMP C,carrier,p_late,origin\n"  # 1
        '"a\nb",2024-01-01T00:00:00Z,1,AA,1,JFK\n'  # 2, 3
        "\n"  # 4
        "too,few\n"  # 5
        'c,2024-01-01T00:00:00Z,1,"A\n\nA",1,JFK\n'  # 6, 7, 8
        "d,2024-01-01T00:00:00Z,BAD,AA,1,JFK\n"  # 9
        '"e\n",2024-01-01T00:00:00Z,1,AA,1,JFK,"too\nmany"\n'  # 10, 11, 12
        "f,2024-01-01T00:00:00Z,WORSE,AA,1,JFK\n"  # 13
        "last,line\n"  # 14
    )
    tally = Tally()
    columns = predictions(write(tmp_path / "f.csv", text), on_error="skip", tally=tally)
    assert list(columns.prediction_ids) == ["a\nb", "c"]
    assert [(v.line, v.column) for v in tally.examples] == [(5, ""), (9, "TEMP C"), (10, ""), (13, "TEMP C"), (14, "")]
    assert (tally.read, tally.rejected) == (7, 5)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("good"), st.text('ab\n," é', max_size=6)),
            st.tuples(st.just("bad"), st.text("ab\n", max_size=4)),
            st.tuples(st.just("blank"), st.just("")),
            st.tuples(st.just("short"), st.just("")),
        ),
        max_size=30,
    )
)
def test_any_mixture_of_rows_keeps_its_lines(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["prediction_id", "timestamp", "note", "x"])
    bad, good = [], []
    for number, (kind, text) in enumerate(rows):
        line = out.getvalue().count("\n") + 1
        if kind == "blank":
            out.write("\n")
        elif kind == "short":
            out.write("one,two\n")
            bad.append(line)
        else:
            writer.writerow([f"id{number}", "2024-01-01T00:00:00Z", text, "1" if kind == "good" else "one"])
            (good if kind == "good" else bad).append(line)
    path = write(tmp_path_factory.mktemp("lines") / "f.csv", out.getvalue())
    spec = DeploymentSpec("d", "m", "other", (FeatureSpec("x", "numeric"), FeatureSpec("note", "categorical")))
    tally = Tally()
    read = list(read_predictions(open_file(path), spec, version="1", on_error="skip", tally=tally))
    assert sum(batch.rows for batch in read) == len(good)
    assert [value.line for value in tally.examples] == bad[:20] and tally.rejected == len(bad)


def test_lines_hold_over_the_parts_of_a_large_file(tmp_path: Path) -> None:
    rows = [f"id{i},2024-01-01T00:00:00Z,{i},AA,0.5,JFK" for i in range(120_000)]
    rows[99_999] = rows[99_999].replace(",AA,", ',"A\nA",').replace(",99999,", ",oops,")
    rows[110_000] = rows[110_000].replace(",110000,", ",again,")
    tally = Tally()
    path = write(tmp_path / "f.csv", "\n".join([HEADER, *rows]))
    read = list(read_predictions(open_file(path), SPEC, version="1", on_error="skip", tally=tally))
    assert len(read) > 1 and sum(batch.rows for batch in read) == 119_998
    assert [value.line for value in tally.examples] == [100_001, 110_003]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("id,when,temp c,carrier,p_late,origin", "no column 'TEMP C' for the feature 'temp': did you mean 'temp c'"),
        ("id,wen,TEMP C,carrier,p_late,origin", "no column 'when' for timestamp: did you mean 'wen'"),
        ("id,when,TEMP C,carier,p_late,origin", "no column 'carrier' for the feature 'carrier': did you mean 'carier'"),
        ("id,when,TEMP C,carrier,p_late,xyz", "no column 'origin' for segment:airport: the file has 'id', 'when'"),
        ("id,when,TEMP C,carrier,p_late,id", "the column 'id' is there twice"),
    ],
)
def test_a_column_that_is_not_there_is_answered_with_the_closest(tmp_path: Path, header: str, says: str) -> None:
    assert says in refusal(write(tmp_path / "f.csv", csv_text(ROWS, header)))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("f.csv", b"", "the file is empty"),
        ("f.csv", b"\n\n", "the file is empty"),
        ("f.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00", "not text"),
        ("f.csv", HEADER.encode() + b"\na,2024-01-01T00:00:00Z,1,\xff,1,JFK\n", "line 2: expected UTF-8 text"),
        ("f.csv", b"PAR1....", "a Parquet file named otherwise"),
        ("f.parquet", b"id,when\n", "not a parquet file"),
        ("f.jsonl", b"id,when\n", "expected one JSON object per line"),
        ("f.jsonl", b"[1]\n[2]\n", "expected one JSON object per line"),
        ("f.xlsx", b"PK", "the name does not tell the format"),
        ("f.csv.gz", b"not gzip", "f.csv.gz"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    path = write(tmp_path / name, data)
    with pytest.raises(FileError) as caught:
        list(read_predictions(open_file(path), SPEC, version="1"))
    assert says in str(caught.value)


def test_json_lines_that_are_no_objects_are_named(tmp_path: Path) -> None:
    good = json.dumps(
        {"id": "a", "when": "2024-01-01T00:00:00Z", "TEMP C": "1", "carrier": "A", "p_late": 1, "origin": ""}
    )
    text = refusal(write(tmp_path / "f.jsonl", f"{good}\n{{broken\n"))
    assert "line 2: expected one JSON object per line" in text
    nested = good.replace('"A"', '["A"]')
    assert "line 2, column 'carrier': expected text, came ['A']" in refusal(
        write(tmp_path / "g.jsonl", f"{good}\n{nested}")
    )


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nope\.csv cannot be read: No such file"):
        open_file(tmp_path / "nope.csv")


@pytest.mark.parametrize(
    ("columns", "value", "expected_us"),
    [
        ({"timezone": "America/New_York"}, "2013-07-01 05:00:00", 1372669200_000000),
        ({"timezone": "America/New_York"}, "2013-07-01T05:00:00+00:00", 1372654800_000000),
        ({"timezone": "America/New_York"}, "2013-11-03 01:30:00", 1383456600_000000),  # twice that day: the first
        ({"timezone": "UTC"}, "2013-07-01", 1372636800_000000),
        ({"timestamp_format": "epoch_s"}, "1372669200", 1372669200_000000),
        ({"timestamp_format": "epoch_s"}, "1372669200.25", 1372669200_250000),
        ({"timestamp_format": "epoch_ms"}, "1372669200123", 1372669200_123000),
        ({"timestamp_format": "epoch_us"}, "1372669200123456", 1372669200_123456),
        ({}, "1900-01-01T00:00:00Z", -2208988800_000000),
        ({}, "3000-01-01T00:00:00Z", 32503680000_000000),
        ({}, "2024-02-29T23:59:59.123456-03:30", 1709263799_123456),
    ],
)
def test_times_are_read_as_the_specification_says(
    tmp_path: Path, columns: dict[str, str], value: str, expected_us: int
) -> None:
    spec = DeploymentSpec("d", "m", "other", (), columns=columns)
    as_csv = write(tmp_path / "f.csv", f"timestamp,x\n{value},1\n")
    as_json = write(tmp_path / "f.jsonl", json.dumps({"timestamp": value}))
    assert predictions(as_csv, spec).timestamps_us.tolist() == [expected_us]
    assert predictions(as_json, spec).timestamps_us.tolist() == [expected_us]


def test_typed_times_without_a_zone_need_one(tmp_path: Path) -> None:
    times = pa.array([1372654800_000], pa.timestamp("ms"))
    pq.write_table(pa.table({"timestamp": times}), tmp_path / "f.parquet")
    assert "the time has no zone: say timezone:" in refusal(
        tmp_path / "f.parquet", DeploymentSpec("d", "m", "other", ())
    )
    spec = DeploymentSpec("d", "m", "other", (), columns={"timezone": "America/New_York"})
    assert predictions(tmp_path / "f.parquet", spec).timestamps_us.tolist() == [1372669200_000000]


@pytest.mark.parametrize("value", ["1e300", "99999999999999999999", "inf", "-1e18"])
def test_numbers_beyond_all_calendars_are_refused(tmp_path: Path, value: str) -> None:
    spec = DeploymentSpec("d", "m", "other", (), columns={"timestamp_format": "epoch_s"})
    assert "beyond the year 9999" in refusal(write(tmp_path / "f.csv", f"timestamp\n{value}\n"), spec)


def test_numbers_without_a_unit_are_not_guessed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"timestamp": [1372654800]}), tmp_path / "f.parquet")
    spec = DeploymentSpec("d", "m", "other", ())
    assert "say timestamp_format: epoch_s" in refusal(tmp_path / "f.parquet", spec)


def test_rows_are_selected_by_event_time_and_number(tmp_path: Path) -> None:
    rows = [(f"r{i}", f"2024-01-01T00:00:0{i}Z", "bad" if i == 9 else "1", "AA", "1", "JFK") for i in range(10)]
    path = write(tmp_path / "f.csv", csv_text(rows))
    start = 1704067200_000000
    tally = Tally()
    columns = predictions(path, selection=Selection(start + 2_000_000, start + 6_000_000, 3), tally=tally)
    assert list(columns.prediction_ids) == ["r2", "r3", "r4"] and tally.taken == 3
    with pytest.raises(BadValueError):
        predictions(path)


def test_rows_without_an_id_get_the_same_one_every_time(tmp_path: Path) -> None:
    spec = DeploymentSpec("d", "m", "other", (), columns={"timezone": "UTC"})
    path = write(
        tmp_path / "f.csv",
        "timestamp,actual_label,actual_timestamp\n2024-01-01,yes,2024-01-02\n2024-01-01,no,2024-01-02\n",
    )
    ids = list(predictions(path, spec).prediction_ids)
    (outcomes,) = read_outcomes(open_file(path), spec)
    assert ids == list(outcomes.prediction_ids) == [derived_id("d", "f.csv", 2), derived_id("d", "f.csv", 3)]
    assert len(set(ids)) == 2


def test_versions_come_from_a_column_and_stay_near_their_place(tmp_path: Path) -> None:
    spec = DeploymentSpec("d", "m", "other", (), columns={"model_version": "v", "timezone": "UTC"})
    text = "timestamp,v,prediction_id\n" + "".join(f"2024-01-01,{1 + i % 2},{i}\n" for i in range(6))
    path = write(tmp_path / "f.csv", text)
    read = list(read_predictions(open_file(path), spec, run_rows=4))
    assert [(b.model_version, list(b.prediction_ids)) for b in read] == [
        ("1", ["0", "2"]),
        ("2", ["1", "3"]),
        ("1", ["4"]),
        ("2", ["5"]),
    ]
    assert "does not say which model version" in refusal(
        write(tmp_path / "g.csv", "timestamp\n2024-01-01\n"), DeploymentSpec("d", "m", "other", ()), version=None
    )


def test_a_reference_takes_the_rows_of_its_version_only(tmp_path: Path) -> None:
    spec = DeploymentSpec("d", "m", "other", (), columns={"model_version": "v", "timezone": "UTC"})
    path = write(tmp_path / "f.csv", "timestamp,v\n2024-01-01,1\n2024-01-01,2\n2024-01-01,1\n")
    assert sum(batch.rows for batch in read_reference(open_file(path), spec, "1")) == 2
    with pytest.raises(FileError, match=r"no row has version '3' in the column 'v'; there are '1', '2'"):
        read_reference(open_file(path), spec, "3")


def test_outcomes_that_are_not_known_yet_are_left_out(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.csv",
        "id,was_late,arrived,was_acted_on\na,yes,2024-01-01T00:00:00Z,true\nb,,,\nc,no,2024-01-01T00:00:00Z,NA\n",
    )
    tally = Tally()
    (columns,) = read_outcomes(open_file(path), SPEC, tally=tally)
    assert isinstance(columns, OutcomeColumns) and list(columns.prediction_ids) == ["a", "c"]
    assert columns.actual_label is not None and columns.actual_label.values() == ["yes", "no"]
    assert columns.was_acted_on is not None and columns.was_acted_on.tolist() == [1, 255]
    assert (tally.read, tally.taken, tally.unresolved) == (3, 2, 1)


def test_an_outcome_file_without_an_outcome_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", "id,was_lat,arrived\na,yes,2024-01-01T00:00:00Z\n")
    with pytest.raises(FileError, match=r"no column 'was_late'.*did you mean 'was_lat'"):
        list(read_outcomes(open_file(path), SPEC))


INTERVALS = DeploymentSpec("d", "m", "regression", (), columns={"prediction_low": "p05", "timezone": "UTC"})


def test_intervals_are_read_where_both_ends_are_there(tmp_path: Path) -> None:
    text = "timestamp,prediction,p05,prediction_high\n2024-01-01,2,1,3\n2024-01-01,5,,NA\n2024-01-01,2,2,1e300\n"
    columns = predictions(write(tmp_path / "f.csv", text), INTERVALS)
    np.testing.assert_array_equal(columns.prediction_low, [1.0, math.nan, 2.0])
    np.testing.assert_array_equal(columns.prediction_high, [3.0, math.nan, 1e300])
    part = take(columns, np.array([2, 0]))
    np.testing.assert_array_equal(part.prediction_low, [2.0, 1.0])
    assert predictions(write(tmp_path / "g.csv", "timestamp,x\n2024-01-01,2\n"), _plain()).prediction_low is None


def _plain() -> DeploymentSpec:
    return DeploymentSpec("d", "m", "regression", (), columns={"timezone": "UTC"})


@pytest.mark.parametrize(
    ("row", "came"),
    [
        ("3,1", "came 3.0 and 1.0"),
        ("3,", "came 3.0 and nothing"),
        (",3", "came nothing and 3.0"),
        ("3,inf", "came 3.0 and inf"),
    ],
)
def test_an_interval_that_is_none_is_named_with_its_line(tmp_path: Path, row: str, came: str) -> None:
    path = write(tmp_path / "f.csv", f"timestamp,p05,prediction_high\n2024-01-01,1,1\n2024-01-01,{row}\n")
    text = refusal(path, INTERVALS)
    assert (
        "line 3, column 'p05': expected both ends of an interval as finite numbers, the lower first, or neither; "
        + came
        in text
    )
    tally = Tally()
    assert predictions(path, INTERVALS, on_error="skip", tally=tally).rows == 1 and tally.rejected == 1


def test_an_end_that_is_no_number_is_named_once(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", "timestamp,p05,prediction_high\n2024-01-01,low,1\n2024-01-01,1,high\n")
    tally = Tally()
    assert not list(read_predictions(open_file(path), INTERVALS, version="1", on_error="skip", tally=tally))
    assert [(value.line, value.column) for value in tally.examples] == [(2, "p05"), (3, "prediction_high")]


@pytest.mark.parametrize(
    ("there", "missing"), [("prediction_low", "prediction_high"), ("prediction_high", "prediction_low")]
)
def test_one_end_of_an_interval_alone_is_refused(tmp_path: Path, there: str, missing: str) -> None:
    path = write(tmp_path / "f.csv", f"timestamp,{there}\n2024-01-01,1\n")
    assert f"no column {missing!r} for {missing} beside {there}" in refusal(path, _plain())


def test_labelling_probabilities_are_read_and_unresolved_rows_need_none(tmp_path: Path) -> None:
    spec = DeploymentSpec("d", "m", "regression", (), columns={"timezone": "UTC", "labelling_probability": "chance"})
    text = "prediction_id,actual_timestamp,actual_value,chance\na,2024-01-01,1,0.25\nb,,,\nc,2024-01-01,2,1\n"
    (columns,) = read_outcomes(open_file(write(tmp_path / "f.csv", text)), spec)
    assert columns.labelling_probability is not None and columns.labelling_probability.tolist() == [0.25, 1.0]


@pytest.mark.parametrize(
    ("value", "chance", "message"),
    [
        ("1", "0", "column 'labelling_probability': expected a probability above 0 and at most 1, came 0.0"),
        ("1", "1.5", "expected a probability above 0 and at most 1, came 1.5"),
        ("1", "", "expected a probability above 0 and at most 1, came nothing"),
        ("1", "often", "column 'labelling_probability': expected a number, came 'often'"),
        ("inf", "1", "column 'actual_value': expected a finite number, came inf"),
    ],
)
def test_what_cannot_be_an_outcome_is_named_with_its_line(
    tmp_path: Path, value: str, chance: str, message: str
) -> None:
    header = "prediction_id,actual_timestamp,actual_value,labelling_probability"
    path = write(tmp_path / "f.csv", f"{header}\na,2024-01-01,1,1\nb,2024-01-01,{value},{chance}\n")
    with pytest.raises(BadValueError) as caught:
        list(read_outcomes(open_file(path), _plain()))
    assert "line 3" in str(caught.value) and message in str(caught.value)


def test_hostile_names_and_values_stay_data(tmp_path: Path) -> None:
    evil = "=cmd|' /C calc'!A0\x1b[31m<script>"
    spec = DeploymentSpec("d", "m", "other", (FeatureSpec(evil, "categorical"),), columns={"timezone": "UTC"})
    out = io.StringIO()
    csv.writer(out).writerows([["timestamp", evil], ["2024-01-01", evil]])
    columns = predictions(write(tmp_path / "f.csv", out.getvalue()), spec)
    assert columns.categorical[evil].values() == [evil]
