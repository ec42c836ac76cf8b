"""What an older release wrote is read by this one, and a change that would break it is refused."""

import copy
import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest

from driftline import codec

SCHEMAS = Path(codec.__file__).parent / "schemas"
RELEASED = sorted(SCHEMAS.glob("released/*/*.avsc"))
_PROMOTIONS = {("int", "long"), ("int", "double"), ("long", "double"), ("string", "bytes"), ("bytes", "string")}


def incompatibilities(
    new: Any, old: Any, path: str = "", names: tuple[dict[Any, Any], dict[Any, Any]] | None = None
) -> list[str]:
    """Why a reader with schema `new` cannot read everything that was written with `old`; and fields it would lose.

    Stricter than Avro's schema resolution: a removed field is refused, because readers of the old release need it.
    """
    new_names, old_names = names = names or ({}, {})
    new, old = _resolved(new, new_names), _resolved(old, old_names)
    if isinstance(old, list):
        branches = new if isinstance(new, list) else [new]
        return [
            f"{path}: nothing reads the branch {_kind(branch)}"
            for branch in old
            if all(incompatibilities(candidate, branch, path, names) for candidate in branches)
        ]
    if isinstance(new, list):
        if any(not incompatibilities(candidate, old, path, names) for candidate in new):
            return []
        return [f"{path}: no branch reads {_kind(old)}"]
    if _kind(new) != _kind(old):
        return [] if (_kind(old), _kind(new)) in _PROMOTIONS else [f"{path}: {_kind(old)} became {_kind(new)}"]
    if _kind(new) == "array":
        return incompatibilities(new["items"], old["items"], f"{path}[]", names)
    if _kind(new) == "map":
        return incompatibilities(new["values"], old["values"], f"{path}{{}}", names)
    if _kind(new) == "enum":
        return [f"{path}: symbol {s} is gone" for s in old["symbols"] if s not in new["symbols"]]
    if _kind(new) != "record":
        return []
    if new["name"] != old["name"]:
        return [f"{path}: record {old['name']} became {new['name']}"]
    if path and (new["name"], "seen") in new_names:
        return []
    new_names[new["name"], "seen"] = True
    new_fields = {field["name"]: field for field in new["fields"]}
    old_fields = {field["name"]: field for field in old["fields"]}
    found = [f"{path}.{name}: the field is gone" for name in old_fields if name not in new_fields]
    for name, field in new_fields.items():
        if name in old_fields:
            found += incompatibilities(field["type"], old_fields[name]["type"], f"{path}.{name}", names)
        elif "default" not in field:
            found.append(f"{path}.{name}: a new field needs a default")
    return found


def _kind(schema: Any) -> str:
    if isinstance(schema, list):
        return "union"
    kind = schema["type"] if isinstance(schema, dict) else schema
    return kind if isinstance(kind, str) else _kind(kind)


def _resolved(schema: Any, names: dict[Any, Any]) -> Any:
    if isinstance(schema, dict) and schema.get("type") in ("record", "enum", "fixed"):
        names[schema["name"]] = schema
        return schema
    if isinstance(schema, dict) and schema.get("type") not in ("array", "map"):
        return _resolved(schema["type"], names)
    if isinstance(schema, str):
        return names.get(schema.rpartition(".")[2], schema)
    return schema


def _load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def example(schema: Any, names: dict[str, Any], within: tuple[str, ...] = ()) -> Any:
    """Some value of a schema, one entry per array and map; a list of records within one of their kind is empty."""
    schema = _resolved(schema, names)
    if isinstance(schema, list):
        return example(schema[-1], names, within)
    kind = _kind(schema)
    if kind == "record":
        within = (*within, schema["name"])
        return {field["name"]: example(field["type"], names, within) for field in schema["fields"]}
    if kind == "array":
        items = _resolved(schema["items"], names)
        again = _kind(items) == "record" and items["name"] in within
        return [] if again else [example(items, names, within)]
    if kind == "map":
        return {"key": example(schema["values"], names, within)}
    if kind == "enum":
        return schema["symbols"][-1]
    values = {"null": None, "boolean": True, "int": 3, "long": 4, "double": 0.5, "bytes": b"12345678", "string": "s"}
    return values[kind]


def without_new_fields(came: Any, written: Any) -> Any:
    """What came, less what no writer of the older schema knew: the fields, at any depth, that `written` lacks."""
    if isinstance(came, dict) and isinstance(written, dict):
        return {key: without_new_fields(came[key], written[key]) for key in written if key in came}
    if isinstance(came, list) and isinstance(written, list) and len(came) == len(written):
        return [without_new_fields(one, other) for one, other in zip(came, written, strict=True)]
    return came


def test_there_is_a_released_version_of_every_schema() -> None:
    assert {path.name for path in RELEASED} >= {path.name for path in SCHEMAS.glob("*.avsc")}


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_todays_schema_reads_every_released_version(released: Path) -> None:
    assert incompatibilities(_load(SCHEMAS / released.name), _load(released)) == []


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_record_written_with_a_released_version_is_decoded_today(released: Path) -> None:
    written = codec.parse_schema(released.read_text("utf-8"))
    record = example(_load(released), {})
    body = io.BytesIO()
    fastavro.schemaless_writer(body, written.parsed, record)
    name, came = codec.decode(b"\xc3\x01" + written.fingerprint + body.getvalue())
    assert name == written.name
    assert without_new_fields(came, record) == record


def batch_schema() -> Any:
    return copy.deepcopy(_load(SCHEMAS / "prediction_batch.avsc"))


def test_the_checker_accepts_what_is_compatible() -> None:
    new = batch_schema()
    new["fields"].append({"name": "of_a_later_release", "type": ["null", "bytes"], "default": None})
    assert incompatibilities(new, batch_schema()) == []


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda s: s["fields"].pop(0), "deployment_id: the field is gone"),
        (lambda s: s["fields"].append({"name": "extra", "type": "string"}), "extra: a new field needs a default"),
        (lambda s: s["fields"][0].update(type="long"), "deployment_id: string became long"),
        (lambda s: s["fields"][1].update(type="string"), "model_id: nothing reads the branch null"),
        (lambda s: s["fields"][3]["type"].update(items="long"), "prediction_ids"),
        (lambda s: s["fields"][6]["type"]["values"]["fields"].pop(), "categorical{}.codes: the field is gone"),
        (lambda s: s.update(name="Other"), "record PredictionBatch became Other"),
    ],
)
def test_the_checker_refuses_what_would_break_readers(break_it: Any, complaint: str) -> None:
    new = batch_schema()
    break_it(new)
    assert any(complaint in found for found in incompatibilities(new, batch_schema()))


def test_the_checker_refuses_a_symbol_that_is_gone() -> None:
    old = _load(SCHEMAS / "alert.avsc")
    new = copy.deepcopy(old)
    enum = next(f["type"] for f in new["fields"] if f["name"] == "severity")
    enum["symbols"].pop()
    assert incompatibilities(new, old) == [".severity: symbol info is gone"]
