"""Texts of one length are read as fastavro reads them, or left to it."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftline.codec import SCHEMAS, decode, encode
from driftline.errors import CodecError
from driftline.events import CategoricalColumn, PredictionColumns
from driftline.texts import texts_of_one_length

ARRAY: Any = fastavro.parse_schema({"type": "array", "items": "string"})
ascii_texts = st.integers(1, 63).flatmap(
    lambda length: st.lists(st.text(st.characters(max_codepoint=127), min_size=length, max_size=length), min_size=1)
)


def written(texts: list[str]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, ARRAY, texts)
    return out.getvalue()


@given(texts=ascii_texts, before=st.binary(max_size=5), after=st.binary(max_size=5))
@example(texts=["a" * 63] * 200, before=b"", after=b"")
def test_texts_of_one_length_are_read_to_their_end(texts: list[str], before: bytes, after: bytes) -> None:
    array = written(texts)
    found = None if any("\n" in text for text in texts) else (texts, len(before) + len(array))
    assert texts_of_one_length(before + array + after, len(before)) == found


@given(texts=st.lists(st.text(max_size=70)))
@example(texts=["ab", "c"])
@example(texts=["é"])
@example(texts=[""])
@example(texts=["a" * 64])
def test_other_texts_are_left_or_read_alike(texts: list[str]) -> None:
    array = written(texts)
    assert texts_of_one_length(array, 0) in (None, (texts, len(array)))


@given(data=st.binary(max_size=80), start=st.integers(0, 80))
def test_whatever_is_read_is_what_fastavro_reads(data: bytes, start: int) -> None:
    found = texts_of_one_length(data, start)
    if found is not None:
        body = io.BytesIO(data)
        body.seek(start)
        assert found == (fastavro.schemaless_reader(body, ARRAY, None), body.tell())


@given(
    ids=ascii_texts | st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=70), min_size=1)
)
def test_a_batch_is_decoded_whatever_its_ids(ids: list[str]) -> None:
    times = np.arange(len(ids), dtype=np.int64)
    columns = PredictionColumns("d", "1", ids, times, {"x": times / 2}, {"c": CategoricalColumn.from_values(ids)})
    record = columns.to_record()
    data = encode("PredictionBatch", record)
    name, decoded = decode(data)
    assert (name, decoded) == ("PredictionBatch", record | {name: decoded[name] for name in decoded.keys() - record})
    assert list(decoded) == [field["name"] for field in SCHEMAS["PredictionBatch"].parsed["fields"]]
    for bad in (data[:-1], data + b"\0"):
        with pytest.raises(CodecError):
            decode(bad)
