"""Every record goes to bytes and back; bytes that are no record give a CodecError and nothing else."""

import json
import math
import struct
from typing import Any

import pytest
from fastavro.schema import to_parsing_canonical_form
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline import codec
from driftline.errors import CodecError, EventError
from driftline.events import OutcomeColumns, PredictionColumns

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = sorted(codec.SCHEMAS)


DEEPEST = 3
"""Records of one kind within one another, at most: a recursive schema has no end of its own."""


def values_of(schema: Any, named: dict[str, Any], within: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    """Values of an Avro schema, out of the schema itself."""
    if isinstance(schema, list):
        return st.one_of([values_of(branch, named, within) for branch in schema])
    if isinstance(schema, str):
        simple = {
            "null": st.none(),
            "boolean": st.booleans(),
            "int": st.integers(-(2**31), 2**31 - 1),
            "long": st.integers(-(2**63), 2**63 - 1),
            "float": st.floats(width=32),
            "double": st.floats(),
            "bytes": st.binary(max_size=40),
            "string": TEXT,
        }
        return simple[schema] if schema in simple else values_of(named[schema], named, within)
    kind = schema["type"]
    if kind in ("record", "enum"):
        named[schema["name"]] = schema
        named[f"driftline.{schema['name']}"] = schema
    if kind == "record":
        within = (*within, schema["name"])
        if within.count(schema["name"]) > DEEPEST:
            return st.nothing()
        return st.fixed_dictionaries({f["name"]: values_of(f["type"], named, within) for f in schema["fields"]})
    if kind == "enum":
        return st.sampled_from(schema["symbols"])
    if kind == "array":
        items = values_of(schema["items"], named, within)
        return st.just([]) if items.is_empty else st.lists(items, max_size=3)
    if kind == "map":
        return st.dictionaries(TEXT, values_of(schema["values"], named, within), max_size=3)
    return values_of(kind, named, within)


RECORDS = {name: values_of(json.loads(schema.text), {}) for name, schema in codec.SCHEMAS.items()}


def same(left: Any, right: Any) -> bool:
    """Equality that takes NaN for NaN."""
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return bool(left == right)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(data=st.data())
def test_every_record_comes_back_as_it_was(name: str, data: st.DataObject) -> None:
    record = data.draw(RECORDS[name])
    came_name, came = codec.decode(codec.encode(name, record))
    assert came_name == name
    assert same(came, record)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(data=st.data())
def test_cut_or_flipped_bytes_raise_nothing_but_codec_error(name: str, data: st.DataObject) -> None:
    encoded = bytearray(codec.encode(name, data.draw(RECORDS[name])))
    for _ in range(data.draw(st.integers(0, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(encoded[: data.draw(st.integers(0, len(encoded)))])
    for broken in (bytes(encoded), cut):
        try:
            came, record = codec.decode(broken)
        except CodecError:
            continue
        read: Any = {"PredictionBatch": PredictionColumns, "OutcomeBatch": OutcomeColumns}.get(came)
        if read is not None:
            try:
                read.from_record(record)
            except EventError:
                pass


@given(st.binary(max_size=60), st.sampled_from([b"", b"\xc3\x01", b"\x00", b"{"]), st.sampled_from([None, *NAMES]))
def test_any_bytes_raise_nothing_but_codec_or_event_error(tail: bytes, start: bytes, name: str | None) -> None:
    body = start + (codec.SCHEMAS[name].fingerprint if name and start == b"\xc3\x01" else b"") + tail
    try:
        codec.decode(body, json_record="PredictionEvent")
    except (CodecError, EventError):
        pass


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=20)
def test_a_cut_record_is_never_taken_for_a_whole_one(name: str, data: st.DataObject) -> None:
    encoded = codec.encode(name, data.draw(RECORDS[name]))
    length = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(CodecError):
        codec.decode(encoded[:length])
    with pytest.raises(CodecError, match=r"left over|not a"):
        codec.decode(encoded + b"\x00")


def test_an_enormous_length_in_a_record_is_refused_without_allocating_it() -> None:
    huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # zigzag of a length near 2**63
    for name in NAMES:
        with pytest.raises(CodecError):
            codec.decode(b"\xc3\x01" + codec.SCHEMAS[name].fingerprint + huge)


def test_an_unknown_fingerprint_says_which_and_what_to_do() -> None:
    with pytest.raises(CodecError, match=r"0102030405060708.*upgrade") as caught:
        codec.decode(b"\xc3\x01" + bytes(range(1, 9)) + b"x")
    assert caught.value.reason == "wrong_schema"


@pytest.mark.parametrize("data", [b"", None])
def test_an_empty_message_is_refused(data: bytes | None) -> None:
    with pytest.raises(CodecError, match="empty"):
        codec.decode(data)


def test_a_registry_record_without_a_registry_names_the_setting() -> None:
    with pytest.raises(CodecError, match="DRIFTLINE_SCHEMA_REGISTRY_URL"):
        codec.decode(b"\x00" + struct.pack(">I", 7) + b"body")


def test_a_record_that_does_not_fit_is_refused_at_the_writer() -> None:
    with pytest.raises(CodecError, match="AuditEvent"):
        codec.encode("AuditEvent", {"id": 3})


def test_a_lone_surrogate_is_refused_at_the_writer() -> None:
    record = {"deployment_id": "a\ud800", "prediction_ids": ["x"], "actual_timestamps_us": b""}
    with pytest.raises(CodecError):
        codec.encode("OutcomeBatch", record)


def test_fingerprints_are_the_ones_of_the_avro_specification() -> None:
    """CRC-64-AVRO of the canonical form, little-endian, by the specification's own algorithm."""
    empty = 0xC15D213AA4D7A795
    table = []
    for i in range(256):
        value = i
        for _ in range(8):
            value = (value >> 1) ^ (empty & -(value & 1))
        table.append(value)
    fingerprint = empty
    for byte in b'"int"':
        fingerprint = (fingerprint >> 8) ^ table[(fingerprint ^ byte) & 0xFF]
    assert fingerprint == 0x7275D51A3F395C8F  # the value Avro's test suite gives for "int"

    for schema in codec.SCHEMAS.values():
        definition = codec._without_logical_types(json.loads(schema.text))
        canonical = to_parsing_canonical_form(definition)
        fingerprint = empty
        for byte in canonical.encode():
            fingerprint = (fingerprint >> 8) ^ table[(fingerprint ^ byte) & 0xFF]
        assert schema.fingerprint == struct.pack("<Q", fingerprint)
