"""Records to bytes and back.

Avro single-object encoding (Avro 1.11 specification, "Single object encoding": ``C3 01``, the CRC-64-AVRO
fingerprint of the schema, the body) is the default. With a schema registry the Confluent wire format is used
(``00``, the registered id, the body). Row events may also come as JSON objects.

A reader resolves what older releases wrote to the schema of today: every released schema stays known by its
fingerprint, and ``schemas/released`` only grows.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Protocol

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from driftline.errors import CodecError
from driftline.rows import record_from_json
from driftline.texts import texts_of_one_length

Record = dict[str, Any]

_SINGLE_OBJECT_MARKER = b"\xc3\x01"
_CONFLUENT_MARKER = b"\x00"
_IDS = "prediction_ids"
_JSON_RECORDS = frozenset({"PredictionEvent", "OutcomeEvent"})
_MAX_JSON_BYTES = 1 << 20  # a row event is small; a larger document is a mistake or an attack


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of one record: name, parsed schema (logical types removed) and fingerprint (8 bytes)."""

    name: str
    parsed: Any
    text: str
    fingerprint: bytes


class SchemaRegistry(Protocol):
    """What the codec asks of a schema registry."""

    def id_of(self, schema: Schema) -> int:
        """The id under which the schema is registered; registers it if need be. Raises :class:`RegistryError`."""

    def schema_of(self, schema_id: int) -> Schema:
        """The schema behind an id.

        Raises :class:`CodecError` when there is none, :class:`RegistryError` when the registry cannot be asked.
        """


def parse_schema(text: str) -> Schema:
    """Parse the JSON text of one schema.

    Logical types are dropped: times stay integers, which is quicker and loses nothing; the fingerprint does not
    see them (Avro specification, "Parsing Canonical Form").
    """
    definition = _without_logical_types(json.loads(text))
    canonical = to_parsing_canonical_form(definition)
    rabin = bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))
    return Schema(definition["name"], fastavro.parse_schema(definition), text, rabin)


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_logical_types(value) for key, value in node.items() if key != "logicalType"}
    if isinstance(node, list):
        return [_without_logical_types(item) for item in node]
    return node


def _load() -> tuple[dict[str, Schema], dict[bytes, Schema]]:
    root = resources.files("driftline") / "schemas"
    texts = _texts(root)
    current = {schema.name: schema for schema in map(parse_schema, texts)}
    former = dict.fromkeys(_released_texts(root / "released")).keys() - texts  # most schemas outlive many releases
    known = {schema.fingerprint: schema for schema in map(parse_schema, sorted(former))}
    known.update({schema.fingerprint: schema for schema in current.values()})
    return current, known


def _texts(folder: Traversable) -> list[str]:
    return [f.read_text("utf-8") for f in sorted(folder.iterdir(), key=lambda f: f.name) if f.name.endswith(".avsc")]


def _released_texts(folder: Traversable) -> list[str]:
    return [text for release in folder.iterdir() if release.is_dir() for text in _texts(release)]


SCHEMAS, _BY_FINGERPRINT = _load()


def _around_ids(schema: Schema) -> tuple[Any, Any] | None:
    """The fields before and after the prediction ids as records of their own; None for a record without."""
    definition = _without_logical_types(json.loads(schema.text))
    names = [field["name"] for field in definition["fields"]]
    if _IDS not in names:
        return None
    at = names.index(_IDS)
    before, after = definition["fields"][:at], definition["fields"][at + 1 :]
    head, tail = ({**definition, "fields": fields} for fields in (before, after))
    return fastavro.parse_schema(head), fastavro.parse_schema(tail)


_AROUND_IDS = {name: parts for name, schema in SCHEMAS.items() if (parts := _around_ids(schema)) is not None}


def encode(name: str, record: Mapping[str, Any], registry: SchemaRegistry | None = None) -> bytes:
    """Encode a record.

    Args:
        name: Record name, for example ``PredictionBatch``.
        record: Field values; fields with a default may be left out.
        registry: Use the Confluent wire format with ids from this registry.

    Raises:
        CodecError: The record does not fit its schema; the message names the field where Avro does.
    """
    schema = SCHEMAS[name]
    out = io.BytesIO()
    if registry is None:
        out.write(_SINGLE_OBJECT_MARKER + schema.fingerprint)
    else:
        out.write(_CONFLUENT_MARKER + struct.pack(">I", registry.id_of(schema)))
    try:
        fastavro.schemaless_writer(out, schema.parsed, record)
    except (ValueError, TypeError, KeyError, OverflowError, UnicodeError) as error:
        raise CodecError(f"{name} cannot be encoded: {error}", reason="wrong_schema") from error
    return out.getvalue()


def with_registry(data: bytes, registry: SchemaRegistry) -> bytes:
    """A record in single-object encoding, changed to the Confluent wire format; the body is the same in both.

    Raises:
        CodecError: The bytes are not a record of a schema known here.
        RegistryError: The registry cannot be reached.
    """
    schema = _BY_FINGERPRINT.get(data[2:10])
    if data[:2] != _SINGLE_OBJECT_MARKER or schema is None:
        raise CodecError("expected Avro single-object encoding with a released schema", reason="wrong_schema")
    return _CONFLUENT_MARKER + struct.pack(">I", registry.id_of(schema)) + data[10:]


def decode(
    data: bytes | None, *, json_record: str | None = None, registry: SchemaRegistry | None = None
) -> tuple[str, Record]:
    """Decode bytes to the record's name and its fields in today's schema.

    Args:
        data: A Kafka message's value.
        json_record: The record a JSON object stands for (``PredictionEvent`` or ``OutcomeEvent``); JSON is refused
            without it.
        registry: Where to look up ids of the Confluent wire format.

    Raises:
        CodecError: ``reason`` is ``undecodable`` or ``wrong_schema``.
    """
    if not data:
        raise CodecError("expected a record, came an empty message")
    if data[:2] == _SINGLE_OBJECT_MARKER:
        writer = _BY_FINGERPRINT.get(data[2:10])
        if writer is None:
            raise CodecError(
                f"the schema with fingerprint {data[2:10].hex()} is not known here: upgrade the reader, "
                "or publish with a released schema",
                reason="wrong_schema",
            )
        return writer.name, _read(data, 10, writer)
    if data[:1] == _CONFLUENT_MARKER and len(data) >= 5:
        if registry is None:
            raise CodecError(
                "Confluent wire format came, but no schema registry is configured: set DRIFTLINE_SCHEMA_REGISTRY_URL",
                reason="wrong_schema",
            )
        writer = registry.schema_of(struct.unpack(">I", data[1:5])[0])
        if writer.name not in SCHEMAS:
            raise CodecError(f"expected a Driftline record, came {writer.name!r}", reason="wrong_schema")
        return writer.name, _read(data, 5, writer)
    if data[:1] == b"{" and json_record is not None:
        return json_record, _read_json(data, json_record)
    raise CodecError(
        f"expected Avro single-object encoding (C3 01), Confluent wire format (00) or a JSON object; "
        f"came {len(data)} bytes starting with {data[:8].hex(' ')}"
    )


def _read(data: bytes, start: int, writer: Schema) -> Record:
    body = io.BytesIO(data)
    body.seek(start)
    reader = SCHEMAS[writer.name]
    try:
        if writer.fingerprint == reader.fingerprint:
            record = _read_current(body, data, reader)
        else:
            record = fastavro.schemaless_reader(body, writer.parsed, reader.parsed)
    except Exception as error:  # fastavro raises whatever the bytes lead it to: struct, index, memory, unicode errors
        raise CodecError(f"not a {writer.name}: {type(error).__name__} {error}") from error
    if body.tell() != len(data):
        raise CodecError(f"not a {writer.name}: {len(data) - body.tell()} bytes left over")
    if not isinstance(record, dict):
        raise CodecError(f"not a {writer.name}: came {type(record).__name__}")
    return record


def _read_current(body: io.BytesIO, data: bytes, schema: Schema) -> Any:
    parts = _AROUND_IDS.get(schema.name)
    if parts is None:
        return fastavro.schemaless_reader(body, schema.parsed, None)
    start = body.tell()
    head: Any = fastavro.schemaless_reader(body, parts[0], None)
    found = texts_of_one_length(data, body.tell())
    if found is None:
        body.seek(start)
        return fastavro.schemaless_reader(body, schema.parsed, None)
    ids, end = found
    body.seek(end)
    tail: Any = fastavro.schemaless_reader(body, parts[1], None)
    return {**head, _IDS: ids, **tail}


def _read_json(data: bytes, name: str) -> Record:
    if name not in _JSON_RECORDS:
        raise CodecError(f"{name} cannot be given as JSON: publish it as Avro", reason="wrong_schema")
    if len(data) > _MAX_JSON_BYTES:
        raise CodecError(f"a JSON event may have {_MAX_JSON_BYTES} bytes, came {len(data)}", reason="too_large")
    try:
        document = json.loads(data.decode("utf-8"))  # json.loads lets surrogates in bytes pass
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not JSON: {error}") from error
    if b"\\u" in data and not _is_unicode(document):
        raise CodecError("not Unicode: a lone surrogate (\\ud800 to \\udfff) stands in a text")
    return record_from_json(name, document)


def _is_unicode(document: Any) -> bool:
    """Whether every text can be encoded: JSON lets half a character pass, nothing after it does."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
