"""Whatever arrives becomes a dead letter with its reason, and the rest of the partition goes on."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from driftline.codec import encode
from driftline.events import CategoricalColumn

EMPTY_ALERT = {
    "id": "1",
    "incident_key": "k",
    "deployment_id": "d",
    "model_id": "m",
    "model_version": "1",
    "monitor": "data_drift",
    "severity": "error",
    "status": "firing",
    "episode": 1,
    "change_time_us": 0,
    "detection_time_us": 0,
    "trigger_time_ms": 0,
    "log_evidence_nats": 0.0,
    "threshold_nats": 0.0,
    "rows_since_change": 0,
    "causes": [],
    "evidence_offsets": [],
    "baseline_digest": "",
    "spec_revision": 1,
}


def test_every_kind_of_bad_input_is_a_dead_letter_and_stops_nothing(worlds: Any, samples: Any) -> None:
    world = worlds(partitions=1)
    world.put(samples.spec(), samples.baseline())
    expected: list[tuple[str, str]] = []  # what it was, the reason
    published = good = rejected = duplicates = 0
    now = {"timestamp": samples.t0 // 1000 + 3_600_000}

    def rows(count: int = 10, **options: Any) -> Any:
        nonlocal published, good
        published += count
        good += count
        return samples.rows(count, first=published - count, at=published * 0.01, every=0.001, **options)

    def bad(reason: str, value: bytes | None, what: str, key: bytes | None = b"d") -> None:
        expected.append((what, reason))
        world.send(value, key=key, headers=[("what", what.encode())], **now)
        world.send(rows(), **now)  # every bad message has a good one behind it

    def without(columns: Any, **changes: Any) -> bytes:
        return encode("PredictionBatch", columns.to_record() | changes)

    spare = samples.rows(10, prefix="spare")
    whole = encode("PredictionBatch", spare.to_record())
    bad("undecodable", b"\xff\xfe\x00 not a record", "undecodable bytes")
    bad("undecodable", whole[: len(whole) // 2], "truncated Avro")
    bad("undecodable", whole + b"x", "bytes left over")
    bad("wrong_schema", encode("Alert", EMPTY_ALERT), "another record")
    bad("wrong_schema", b"\xc3\x01" + b"\x11" * 8 + whole[10:], "unknown fingerprint")
    bad("wrong_schema", b"\x00\x00\x00\x00\x07" + whole[10:], "registry id without a registry")
    bad("undecodable", None, "tombstone")
    bad("undecodable", b"", "empty value")
    event = {
        "prediction_id": "json-1",
        "deployment_id": "d",
        "model_version": "1",
        "timestamp": samples.t0,
        "features": {"x": 0.1, "y": float("nan"), "c": "a"},
        "prediction": 0.5,
    }
    bad("wrong_schema", json.dumps(event | {"surprise": 1}).encode(), "JSON with an unknown field")
    bad("undecodable", b'{"prediction_id": ', "half a JSON object")
    bad("too_large", b'{"x": "' + b"y" * (2 << 20) + b'"}', "a JSON object of 2 MB")
    bad("unknown_deployment", without(spare, deployment_id="unheard"), "unknown deployment")
    bad("missing_baseline", without(spare, model_version="99"), "missing baseline")
    bad("empty_batch", without(spare, prediction_ids=[]), "no rows")
    bad("unequal_columns", without(spare, timestamps_us=spare.timestamps_us[:9].tobytes()), "unequal columns")
    bad("wrong_key", whole, "another deployment's key", b"other")
    bad("wrong_key", whole, "no key", None)
    bad("undecodable", np.random.default_rng(0).bytes(10 << 20), "garbage of 10 MB")
    far = CategoricalColumn(["a"], np.full(10, 3, np.int32))
    bad("wrong_schema", without(dataclasses.replace(spare, categorical={"c": far})), "codes out of range")

    world.send(json.dumps(event).encode(), key=b"d", **now)
    good += 1
    odd = rows(6)
    odd_numbers = {"x": np.array([np.nan, np.inf, -np.inf, 1e308, -0.0, 5e-324]), "y": odd.numeric["y"]}
    world.send(dataclasses.replace(odd, numeric=odd_numbers), **now)
    for year in (1900, 3000):
        times = rows(10)
        good -= 4
        rejected += 4
        wrong = times.timestamps_us.copy()
        wrong[3:7] = np.datetime64(f"{year}-01-01", "us").astype(np.int64)
        expected.append((f"year {year}", "event_time"))
        world.send(dataclasses.replace(times, timestamps_us=wrong), headers=[("what", f"year {year}".encode())], **now)
    repeated = rows(10)
    world.send(samples.part(repeated, [*range(10), 0, 0]), **now)
    world.send(repeated, **now)
    duplicates += 12
    large = samples.rows(200_000, first=10_000_000, at=100, every=0.0001, prefix="large batch ")
    assert 10 << 20 < len(encode("PredictionBatch", large.to_record())) < 12 << 20
    world.send(large, **now)
    good += large.rows

    worker = world.start()
    world.wait_applied()
    letters = world.dead_letters()
    headers = [{header["name"]: header["value"].decode() for header in letter["headers"]} for letter in letters]
    assert [(h["what"], letter["reason"]) for h, letter in zip(headers, letters, strict=True)] == expected
    assert all(letter["error"] for letter in letters)
    by_what = dict(zip((h["what"] for h in headers), letters, strict=True))
    assert by_what["garbage of 10 MB"]["value_bytes"] == 10 << 20
    assert by_what["truncated Avro"]["value"] == whole[: len(whole) // 2]
    assert by_what["year 1900"]["rows"] == [3, 4, 5, 6]
    assert world.counters("d") == {
        "rows": good,
        "late_rows": 0,
        "duplicate_rows": duplicates,
        "rejected_rows": rejected,
        "outcome_rows": 0,
    }
    # bad outcomes are no better treated
    world.send(whole, key=b"d", topic=world.topics.outcomes)
    world.send(b"?", key=b"d", topic=world.topics.outcomes)
    outcome = {
        "deployment_id": "d",
        "prediction_ids": ["0"],
        "actual_timestamps_us": np.array([0], "<i8").tobytes(),
        "actual_value": np.array([1.0]).tobytes(),
    }
    world.send(encode("OutcomeBatch", outcome | {"actual_value": None}), key=b"d", topic=world.topics.outcomes)
    world.send(encode("OutcomeBatch", outcome), key=b"d", topic=world.topics.outcomes)
    world.wait_applied()
    reasons = [letter["reason"] for letter in world.dead_letters() if letter["source_topic"] == world.topics.outcomes]
    assert reasons == ["wrong_schema", "undecodable", "outcome_value"]
    assert world.counters("d")["outcome_rows"] == 1
    assert worker.stop() == 0
