"""The state machine of a partition, without Kafka."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.codec import encode
from driftline.events import CategoricalColumn
from streams.decoding import decode_message
from streams.errors import StreamsError
from streams.messages import Message
from streams.partition import Partition
from streams.reference import build_baseline
from streams.specification import DetectorSpec, FalseAlarmBudget, FeatureSpec

ROWS = 400

cuts = st.lists(st.integers(1, ROWS - 1), max_size=12, unique=True).map(sorted)


def shuffled(samples: Any, seed: int) -> Any:
    """400 rows over ten minutes, out of order by up to a minute, some of them twice."""
    rng = np.random.default_rng(seed)
    rows = samples.rows(ROWS, every=1.5)
    order = np.argsort(np.arange(ROWS) * 1.5 + rng.uniform(0, 60, ROWS), kind="stable")
    order[rng.integers(0, ROWS, 20)] = order[0]
    return samples.part(rows, order)


def split(samples: Any, rows: Any, at: list[int], **changes: Any) -> list[Any]:
    bounds = [0, *at, rows.rows]
    log_time_ms = int(rows.timestamps_us.max()) // 1000
    return [
        samples.message(samples.part(rows, slice(a, b)), offset, timestamp_ms=log_time_ms, **changes)
        for offset, (a, b) in enumerate(pairwise(bounds))
    ]


def comparable(records: dict[bytes, Any]) -> dict[bytes, Any]:
    """State without what names messages and looks: offsets, revisions, steps."""
    by_message = {"first_offset", "slot_offset", "past", "revision", "next", "lone_rows", "last_step_us", "delay_ms"}
    return {
        key: {name: value for name, value in fields.items() if name not in by_message}
        for key, fields in records.items()
        if key != b"position"
    }


@settings(max_examples=25)
@given(at=cuts, seed=st.integers(0, 5))
def test_the_split_of_rows_into_batches_changes_neither_counts_nor_evidence(
    samples: Any, final_windows: Any, at: list[int], seed: int
) -> None:
    rows = shuffled(samples, seed)
    whole = samples.machine().apply(*split(samples, rows, []))
    parts = samples.machine().apply(*split(samples, rows, at))
    whole.commit()
    parts.commit()
    assert comparable(parts.records) == comparable(whole.records)
    assert final_windows(parts.emissions) == final_windows(whole.emissions)
    assert whole.counters()["late_rows"] > 0
    assert whole.counters()["duplicate_rows"] > 0


@settings(max_examples=25)
@given(at=cuts, commits=st.sets(st.integers(0, 12)), stop=st.integers(0, 12), seed=st.integers(0, 5))
def test_a_restart_at_any_commit_continues_as_if_nothing_had_happened(
    samples: Any, at: list[int], commits: set[int], stop: int, seed: int
) -> None:
    messages = split(samples, shuffled(samples, seed), at)
    stop = min(stop, len(messages))
    uninterrupted = samples.machine()
    interrupted = samples.machine()
    for number, message in enumerate(messages[:stop]):
        uninterrupted.apply(message)
        interrupted.apply(message)
        if number in commits:
            uninterrupted.commit()
            interrupted.commit()
    interrupted.commit()
    uninterrupted.commit()
    restarted = interrupted.restarted()
    uninterrupted.emissions.clear()
    restarted.apply(*messages[stop:])
    uninterrupted.apply(*messages[stop:])
    assert restarted.digest() == uninterrupted.digest()
    assert restarted.emissions == uninterrupted.emissions


def test_what_was_not_committed_is_applied_again_with_the_same_result(samples: Any) -> None:
    messages = split(samples, shuffled(samples, 1), [50, 100, 150, 200])
    uninterrupted = samples.machine().apply(*messages)
    crashed = samples.machine().apply(*messages[:2])
    crashed.commit()
    survivor = crashed.restarted()
    crashed.apply(*messages[2:4])  # never committed
    survivor.apply(*messages[2:])
    uninterrupted.commit()
    assert survivor.digest() == uninterrupted.digest()
    assert crashed.emissions + survivor.emissions == uninterrupted.emissions


def test_ids_in_the_registry_s_wire_format_are_remembered(samples: Any) -> None:
    class Registry:
        """One that knows what it registered."""

        def __init__(self) -> None:
            self.schemas: list[Any] = []

        def id_of(self, schema: Any) -> int:
            self.schemas.append(schema)
            return len(self.schemas) - 1

        def schema_of(self, schema_id: int) -> Any:
            return self.schemas[schema_id]

    registry = Registry()
    plain = samples.message(samples.rows(10), 0)
    message = dataclasses.replace(plain, value=encode("PredictionBatch", samples.rows(10).to_record(), registry))
    machine = samples.machine()
    machine.partition.apply(decode_message(message, samples.topics, registry))
    machine.commit()
    restarted = Partition(0, samples.topics)
    to_remember = restarted.restore(machine.records)
    restarted.remember([message], registry)
    assert to_remember == range(1)
    restarted.apply(decode_message(dataclasses.replace(plain, offset=1), samples.topics))
    records, _, _ = restarted.take()
    assert records[b"deployment/d"]["duplicate_rows"] == 10  # type: ignore[index]


def test_two_machines_say_the_same(samples: Any) -> None:
    def run() -> Any:
        machine = samples.machine().apply(samples.message(samples.rows(3000, every=0.1), 0))
        machine.apply(samples.message(samples.rows(3000, first=3000, at=300, every=0.1, shift=1.5), 1))
        machine.commit()
        return machine

    one, other = run(), run()
    assert one.emissions == other.emissions
    assert one.digest() == other.digest()
    assert one.emitted("alerts")


def test_a_repeated_prediction_is_counted_once(samples: Any) -> None:
    rows = samples.rows(100)
    machine = samples.machine().apply(
        samples.message(samples.part(rows, [*range(60), *range(40)]), 0),  # within a message
        samples.message(samples.part(rows, slice(50, 100)), 1),  # across messages
        samples.message(rows, 2),  # all of it again
    )
    assert machine.counters() == {
        "rows": 100,
        "late_rows": 0,
        "duplicate_rows": 40 + 10 + 100,
        "rejected_rows": 0,
        "outcome_rows": 0,
    }


def test_equal_ids_of_two_deployments_are_two_predictions(samples: Any) -> None:
    other = samples.spec("other")
    machine = samples.machine(samples.spec(), samples.baseline(), other, samples.baseline(other))
    machine.apply(samples.message(samples.rows(50), 0), samples.message(samples.rows(50, deployment_id="other"), 1))
    assert machine.counters()["rows"] == machine.counters("other")["rows"] == 50


def test_a_window_is_closed_once_and_takes_no_late_rows(samples: Any, final_windows: Any) -> None:
    machine = samples.machine().apply(
        samples.message(samples.rows(60), 0),  # minute 0
        samples.message(samples.rows(1, first=100, at=69.9), 1),  # lateness not over yet
        samples.message(samples.rows(1, first=101, at=59), 2),  # late, in time for its window
        samples.message(samples.rows(1, first=102, at=70), 3),  # closes minute 0
        samples.message(samples.rows(5, first=103, at=30), 4),  # too late
        samples.message(samples.rows(1, first=200, at=300), 5),
    )
    machine.commit()
    finals = {start: rows for (_, start), (rows, _) in final_windows(machine.emissions).items()}
    assert finals == {samples.t0: 61, samples.t0 + 60 * samples.second: 2}
    assert machine.counters()["late_rows"] == 5
    assert machine.counters()["rows"] == 69


def test_a_late_row_is_evidence_all_the_same(samples: Any) -> None:
    machine = samples.machine().apply(samples.message(samples.rows(1, at=300), 0))
    machine.apply(samples.message(samples.rows(10, first=1), 1))
    machine.commit()
    counts = np.frombuffer(machine.records[b"slot/d@1"]["slot_counts_0"]["data"], "<i8").reshape(4, 15)
    assert counts.sum(axis=1).tolist() == [11, 11, 11, 11]


def test_revisions_count_up_and_share_an_id_until_the_final_one(samples: Any) -> None:
    machine = samples.machine()
    for k in range(8):
        machine.apply(samples.message(samples.rows(64, first=64 * k, at=k, every=0.01), k))
    machine.apply(samples.message(samples.rows(1, first=1000, at=100), 8))
    summaries = machine.emitted("windows", window_start_us=samples.t0)
    assert [s["revision"] for s in summaries] == [1, 2, 3]
    assert [s["rows"] for s in summaries] == [64, 256, 512]
    assert [s["status"] for s in summaries] == ["provisional"] * 2 + ["final"]
    assert len({s["id"] for s in summaries}) == 1


@pytest.mark.parametrize("year", ["1900", "3000", "+9999"])
def test_rows_with_impossible_times_are_refused_one_by_one(samples: Any, year: str) -> None:
    rows = samples.rows(10)
    times = rows.timestamps_us.copy()
    times[[3, 7]] = np.iinfo(np.int64).max if year == "+9999" else np.datetime64(year, "us").astype(np.int64)
    bad = dataclasses.replace(rows, timestamps_us=times)
    machine = samples.machine().apply(samples.message(bad, 0, timestamp_ms=int(rows.timestamps_us.max()) // 1000))
    (letter,) = machine.emitted("dead_letters")
    assert (letter["reason"], letter["rows"]) == ("event_time", [3, 7])
    assert machine.counters()["rows"] == 8
    assert machine.counters()["rejected_rows"] == 2
    # what was refused may come again, put right
    machine.apply(samples.message(samples.part(rows, [3, 7]), 1))
    assert machine.counters()["rows"] == 10


def test_a_clock_that_runs_ahead_within_the_skew_is_believed(samples: Any) -> None:
    rows = samples.rows(10, at=3599)
    log_time_ms = samples.t0 // 1000
    machine = samples.machine().apply(samples.message(rows, 0, timestamp_ms=log_time_ms))
    assert machine.counters()["rows"] == 2
    assert machine.counters()["rejected_rows"] == 8


def test_a_message_that_spans_decades_is_counted_window_by_window(samples: Any, final_windows: Any) -> None:
    spec = samples.spec(start_slot_ms=1000, window_ms=1000)
    rows = samples.rows(5, every=86_400 * 365 * 4.0, at=-86_400 * 365 * 20.0)
    machine = samples.machine(spec, samples.baseline()).apply(samples.message(rows, 0))
    machine.commit()
    assert [rows for rows, _ in final_windows(machine.emissions).values()] == [1, 1, 1, 1]
    assert machine.counters()["rows"] == 5


@pytest.mark.parametrize("key", [None, b"", b"other", b"d#0", b"\xff\xfe"])
def test_a_wrong_key_is_refused(samples: Any, key: bytes | None) -> None:
    machine = samples.machine().apply(samples.message(samples.rows(5), 0, key=key))
    (letter,) = machine.emitted("dead_letters")
    assert letter["reason"] == "wrong_key"
    assert letter["key"] == key
    assert machine.counters()["rows"] == 0


def test_shards_have_keys_of_their_own(samples: Any) -> None:
    machine = samples.machine(samples.spec(shards=3), samples.baseline())
    machine.apply(samples.message(samples.rows(5), 0, key=b"d#2"))
    machine.apply(samples.message(samples.rows(5, first=5), 1, key=b"d#3"))
    assert machine.counters()["rows"] == 5
    assert [letter["reason"] for letter in machine.emitted("dead_letters")] == ["wrong_key"]


def test_an_unknown_deployment_and_a_missing_baseline_are_said_so(samples: Any) -> None:
    machine = samples.machine()
    machine.apply(samples.message(samples.rows(5, deployment_id="unheard"), 0))
    machine.apply(samples.message(samples.rows(5, version="2"), 1))
    assert [letter["reason"] for letter in machine.emitted("dead_letters")] == [
        "unknown_deployment",
        "missing_baseline",
    ]
    # the same rows count once they can
    machine.put(samples.baseline(version="2"))
    machine.apply(samples.message(samples.rows(5, version="2"), 2))
    assert machine.counters()["rows"] == 5


def test_numbers_given_as_text_are_read_and_other_text_is_refused(samples: Any) -> None:
    rows = samples.rows(6)
    texts = CategoricalColumn(["1.5", " -2 ", "NA", ""], np.array([0, 1, 2, 3, -1, 0], np.int32))
    as_text = dataclasses.replace(rows, numeric={"y": rows.numeric["y"]}, categorical={**rows.categorical, "x": texts})
    machine = samples.machine().apply(samples.message(as_text, 0))
    machine.commit()
    counts = np.frombuffer(machine.records[b"slot/d@1"]["slot_counts_0"]["data"], "<i8").reshape(4, 15)
    assert counts[0, 14] == 3  # two texts for missing, one missing value
    bad = dataclasses.replace(as_text, categorical={"x": CategoricalColumn(["many"], np.zeros(6, np.int32))})
    machine.apply(samples.message(bad, 1))
    (letter,) = machine.emitted("dead_letters")
    assert letter["reason"] == "wrong_schema"
    assert "'x'" in letter["error"]
    assert "'many'" in letter["error"]
    assert machine.counters()["rows"] == 6


def test_categories_given_as_numbers_are_read(samples: Any) -> None:
    spec = samples.spec(features=(FeatureSpec("c", "categorical"),))
    rows = samples.rows(400)
    as_numbers = dataclasses.replace(rows, numeric={"c": rows.categorical["c"].codes.astype(float)}, categorical={})
    as_text = dataclasses.replace(
        rows, categorical={"c": CategoricalColumn(["0", "1", "2"], rows.categorical["c"].codes)}, numeric={}
    )
    machine = samples.machine(spec, build_baseline(spec, "1", [as_numbers], source=""))
    other = samples.machine(spec, build_baseline(spec, "1", [as_text], source=""))
    machine.apply(samples.message(as_text, 0)).commit()
    other.apply(samples.message(as_numbers, 0)).commit()
    slot = machine.records[b"slot/d@1"]["slot_counts_1"]
    assert slot == other.records[b"slot/d@1"]["slot_counts_1"]
    counts = np.frombuffer(slot["data"], "<i8").reshape(2, 23)
    assert counts[0, 20:].sum() == 0


def test_absent_features_not_a_number_and_infinities_have_bins(samples: Any) -> None:
    rows = samples.rows(6)
    odd = dataclasses.replace(
        rows,
        numeric={"x": np.array([np.nan, np.inf, -np.inf, 0.1, 0.2, 0.3])},
        categorical={},
        prediction=None,
    )
    machine = samples.machine().apply(samples.message(odd, 0))
    machine.commit()
    assert not machine.emitted("dead_letters")
    window = machine.records[f"window/d@1@{samples.t0}".encode()]
    numeric = np.frombuffer(window["counts_0"]["data"], "<i8").reshape(4, 15)
    assert (numeric[0, 14], numeric[0, 13], numeric[0, 0]) == (1, 1, 1)
    assert numeric[1, 14] == 6  # y is absent
    assert numeric[2, 14] == 6  # no prediction
    assert machine.emitted("alerts"), "values that are missing for once are a change"
    assert np.frombuffer(window["counts_1"]["data"], "<i8").reshape(2, 23)[0, 22] == 6


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "undecodable"),
        (b"", "undecodable"),
        (b"\x00\x01garbage", "wrong_schema"),
        (b"hello", "undecodable"),
        (b"\xc3\x01" + b"\x00" * 8, "wrong_schema"),
        (b'{"prediction_id": "1", "surprise": 2}', "wrong_schema"),
        (b"{" * 100_000, "undecodable"),
    ],
)
def test_bytes_that_are_no_prediction_are_dead_letters(samples: Any, value: bytes | None, reason: str) -> None:
    machine = samples.machine().apply(dataclasses.replace(samples.message(samples.rows(1), 0), value=value))
    (letter,) = machine.emitted("dead_letters")
    assert (letter["reason"], letter["value"]) == (reason, value)


def test_a_dead_letter_fits_into_its_topic_whatever_came(samples: Any) -> None:
    huge = dataclasses.replace(
        samples.message(samples.rows(1), 0),
        value=b"\xff" * (12 << 20),
        key=b"k" * (1 << 20),
        headers=tuple((f"h{i}", b"v" * 10_000) for i in range(100)),
    )
    machine = samples.machine().apply(huge)
    (letter,) = machine.emitted("dead_letters")
    assert len(encode("DeadLetter", letter)) < 9 << 20
    assert letter["value_bytes"] == 12 << 20


def test_an_alert_fits_into_its_topic_however_many_features_drift(samples: Any) -> None:
    features = tuple(FeatureSpec(f"f{i}", "categorical") for i in range(60))
    spec = samples.spec(features=features)
    rng = np.random.default_rng(3)
    long = ["é" * 5000 + str(i) for i in range(20)]

    def rows(count: int, first: int, code: Any) -> Any:
        column = CategoricalColumn(long, code(count))
        plain = samples.rows(count, first=first, at=first * 0.1, every=0.1)
        return dataclasses.replace(plain, numeric={}, categorical={f.name: column for f in features}, prediction=None)

    reference = rows(5000, 0, lambda n: rng.integers(0, 20, n).astype(np.int32))
    machine = samples.machine(spec, build_baseline(spec, "1", [reference], source=""))
    machine.apply(samples.message(rows(3000, 0, lambda n: np.zeros(n, np.int32)), 0))
    (alert,) = machine.emitted("alerts")
    assert len(encode("Alert", alert)) < 900_000
    assert len(alert["causes"]) == 50


def test_versions_of_a_deployment_share_the_starts_of_a_slot(samples: Any) -> None:
    machine = samples.machine(samples.spec(), samples.baseline(), samples.baseline(version="2"))
    machine.apply(samples.message(samples.rows(10), 0), samples.message(samples.rows(10, first=10, version="2"), 1))
    machine.commit()

    def start_mass(version: str) -> float:
        base = machine.records[f"evidence/d@{version}".encode()]["base_0"]
        return float(np.exp(np.frombuffer(base["data"], base["dtype"]).max()))

    assert start_mass("1") == pytest.approx(1 / 2, abs=5e-5)
    assert start_mass("2") == pytest.approx(1 / 4, abs=5e-5)
    # the first to be seen in the next slot pays half of it
    machine.apply(
        samples.message(samples.rows(10, first=20, version="2", at=60), 2),
        samples.message(samples.rows(10, first=30, at=60), 3),
    )
    machine.commit()
    assert machine.records[b"deployment/d"]["slot_versions"] == "2\n1"


def test_no_version_of_lone_rows_is_passed_over(samples: Any) -> None:
    """Versions that take turns, row by row, are each looked at."""
    machine = samples.machine(samples.spec(), samples.baseline(), samples.baseline(version="2"))
    offset = 0
    for k in range(1200):
        for version in ("1", "2"):
            shift = 3.0 if version == "1" else 0.0
            row = samples.rows(1, first=k, at=k * 0.001, version=version, shift=shift, prefix=version)
            machine.apply(samples.message(row, offset))
            offset += 1
    assert {alert["model_version"] for alert in machine.emitted("alerts")} == {"1"}


# Alarms


def drifting(samples: Any, machine: Any, shifts: list[float], rows: int = 2000) -> Any:
    """One message of 100 seconds for every shift."""
    first = sum(len(m.value) > 0 for m in machine.log)
    for k, shift in enumerate(shifts, start=first):
        columns = samples.rows(rows, first=k * rows, at=k * 100, every=100 / rows, shift=shift)
        machine.apply(samples.message(columns, k))
    return machine


def test_a_shift_raises_one_alarm_with_its_cause_and_time_and_resolves_when_it_is_over(samples: Any) -> None:
    machine = drifting(samples, samples.machine(), [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1])
    alerts = machine.emitted("alerts")
    assert [(a["status"], a["episode"]) for a in alerts] == [("firing", 1), ("resolved", 1), ("firing", 2)]
    first, resolved, second = alerts
    assert [cause["stream"] for cause in first["causes"]] == ["x"]
    assert first["monitor"] == "data_drift"
    # the shift begins 400 s after the start; start slots are 60 s long
    assert abs(first["change_time_us"] - (samples.t0 + 400 * samples.second)) <= 60 * samples.second
    assert abs(second["change_time_us"] - (samples.t0 + 1100 * samples.second)) <= 60 * samples.second
    assert first["log_evidence_nats"] >= first["threshold_nats"]
    assert first["incident_key"] == resolved["incident_key"] != second["incident_key"]
    assert len({a["id"] for a in alerts}) == 3
    audit = machine.emitted("audit")
    assert [event["action"] for event in audit] == ["alert.fired", "alert.resolved", "alert.fired"]


def test_unchanged_data_raise_no_alarm(samples: Any) -> None:
    machine = drifting(samples, samples.machine(), [0.0] * 30, rows=10_000)
    assert machine.counters()["rows"] == 300_000
    assert not machine.emitted("alerts")


def test_a_cause_that_is_back_is_remembered_though_the_alarm_stays_open(samples: Any) -> None:
    """x and y shift, x returns: its unmuting must survive a restart."""
    machine = samples.machine()

    def message(k: int, x: float, y: float) -> Any:
        rows = samples.rows(2000, first=k * 2000, at=k * 100, every=0.05, shift=x)
        return samples.message(dataclasses.replace(rows, numeric={**rows.numeric, "y": rows.numeric["y"] + y}), k)

    machine.apply(*(message(k, 0, 0) for k in range(3)), *(message(k, 1, 1) for k in range(3, 6)))
    (alert,) = machine.emitted("alerts")
    assert {cause["stream"] for cause in alert["causes"]} == {"x", "y"}
    machine.commit()
    uninterrupted = machine.restarted()
    for k in range(6, 16):
        uninterrupted.apply(message(k, 0, 1))
        machine.apply(message(k, 0, 1))
        machine.commit()
        machine = machine.restarted()
    assert machine.digest() == uninterrupted.digest()
    muted = np.frombuffer(machine.records[b"evidence/d@1"]["muted_0"]["data"], "|b1")
    assert muted.tolist() == [False, True, False, False]


# Changes of specification and baseline


def test_a_changed_specification_keeps_alarms_open_and_evidence_where_bets_stay(samples: Any) -> None:
    machine = drifting(samples, samples.machine(), [0, 0, 0, 1])
    (fired,) = machine.emitted("alerts")
    base = machine.records[b"evidence/d@1"]["base_0"]
    machine.put(samples.spec(description="anew", revision=2, severities={"data_drift": "critical"}))
    machine.commit()
    assert machine.records[b"evidence/d@1"]["base_0"] == base
    drifting(samples, machine, [0, 0, 0])
    _, resolved = machine.emitted("alerts")
    assert (resolved["status"], resolved["incident_key"]) == ("resolved", fired["incident_key"])
    assert (resolved["severity"], resolved["spec_revision"]) == ("critical", 2)


def test_other_importances_give_evidence_up_and_bet_anew_in_the_same_slot(samples: Any) -> None:
    spec = samples.spec(start_slot_ms=3_600_000)
    machine = drifting(samples, samples.machine(spec, samples.baseline()), [0, 0])
    features = (FeatureSpec("x", "numeric", 5.0), *spec.features[1:])
    machine.put(dataclasses.replace(spec, features=features, revision=2))
    machine.commit()
    base = machine.records[b"evidence/d@1"]["base_0"]
    assert np.isneginf(np.frombuffer(base["data"], base["dtype"])).all()
    drifting(samples, machine, [1])
    assert machine.emitted("alerts"), "not blind until the next slot"
    assert machine.records[b"deployment/d"]["slot_versions"] == "1\n1"  # the second start costs half


def test_a_window_of_another_length_closes_what_is_open(samples: Any, final_windows: Any) -> None:
    machine = samples.machine().apply(samples.message(samples.rows(30), 0))
    machine.put(samples.spec(window_ms=120_000, revision=2))
    machine.apply(samples.message(samples.rows(30, first=30, at=30), 1))
    machine.put(samples.spec(revision=3))
    machine.apply(samples.message(samples.rows(1, first=60, at=59.5), 2))
    machine.apply(samples.message(samples.rows(1, first=61, at=500), 3))
    windows = machine.emitted("windows", status="final")
    assert [(w["window_end_us"] - w["window_start_us"], w["rows"]) for w in windows] == [
        (60_000_000, 30),
        (120_000_000, 30),
        (60_000_000, 1),
    ]
    assert len({w["id"] for w in windows}) == 3, "sums of the same window that were closed apart add up"


def test_rows_for_a_window_that_a_longer_lateness_opens_again_do_not_replace_its_sums(samples: Any) -> None:
    machine = samples.machine().apply(samples.message(samples.rows(120), 0))
    machine.put(samples.spec(lateness_ms=600_000, revision=2))
    machine.apply(samples.message(samples.rows(3, first=500, at=10), 1))
    machine.apply(samples.message(samples.rows(1, first=600, at=2000), 2))
    windows = machine.emitted("windows", window_start_us=samples.t0, status="final")
    assert sorted(w["rows"] for w in windows) == [3, 60]
    assert len({w["id"] for w in windows}) == 2


def test_a_new_baseline_closes_windows_and_alarms_and_counts_from_there(samples: Any) -> None:
    machine = drifting(samples, samples.machine(), [0, 0, 0, 1])
    (fired,) = machine.emitted("alerts")
    machine.put(samples.baseline(seed=2))
    _, resolved = machine.emitted("alerts")
    assert (resolved["status"], resolved["incident_key"]) == ("resolved", fired["incident_key"])
    open_windows = [key for key in machine.records if key.startswith(b"window/")]
    assert not open_windows
    assert machine.emitted("windows")[-1]["status"] == "final"
    assert machine.restarted().digest() == machine.digest()


def test_alarms_after_a_baseline_has_returned_have_ids_of_their_own(samples: Any) -> None:
    machine = drifting(samples, samples.machine(), [0, 0, 1])
    machine.put(samples.baseline(seed=2))
    machine.put(samples.baseline(seed=1))
    drifting(samples, machine, [0, 1])
    firing = [alert for alert in machine.emitted("alerts") if alert["status"] == "firing"]
    assert [alert["episode"] for alert in firing] == [1, 2]
    assert len({alert["id"] for alert in firing}) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"window_ms": 0},
        {"start_slot_ms": -1},
        {"shards": 0},
        {"false_alarms": FalseAlarmBudget(count=0.0)},
        {"false_alarms": FalseAlarmBudget(share=2.0)},
        {"features": (FeatureSpec("x", "numeric", -1.0),)},
        {"features": (FeatureSpec("x", "numeric", float("nan")),)},
        {"clock_skew_ms": -1},
    ],
)
def test_an_impossible_specification_is_refused_whole(samples: Any, change: dict[str, Any]) -> None:
    machine = samples.machine().apply(samples.message(samples.rows(10), 0))
    before = machine.digest()
    with pytest.raises(StreamsError):
        machine.put(samples.spec(**change))
    assert machine.digest() == before


@pytest.mark.parametrize(
    "change",
    [
        {"counts": np.zeros(15, np.int64)},
        {"counts": np.ones(3, np.int64)},
        {"tempering": np.ones(4)},
        {"margin_tv": 1.5},
        {"importance": float("nan")},
    ],
)
def test_an_impossible_baseline_is_refused_whole(samples: Any, change: dict[str, Any]) -> None:
    machine = samples.machine().apply(samples.message(samples.rows(10), 0))
    before = machine.digest()
    good = samples.baseline()
    streams = (dataclasses.replace(good.streams[0], **change), *good.streams[1:])
    with pytest.raises(StreamsError):
        machine.put(dataclasses.replace(good, streams=streams))
    assert machine.digest() == before


# Order


def test_the_order_names_runs_of_messages_and_what_came_into_force(samples: Any) -> None:
    machine = samples.machine()
    outcome = {
        "deployment_id": "d",
        "prediction_ids": ["0"],
        "actual_timestamps_us": np.array([samples.t0], "<i8").tobytes(),
        "actual_value": np.array([1.0]).tobytes(),
    }
    topics = samples.topics
    outcomes = [Message(topics.outcomes, 0, k, 0, b"d", encode("OutcomeBatch", outcome)) for k in range(2)]
    messages = [samples.message(samples.rows(5, first=5 * k, at=5 * k), k) for k in range(4)]
    machine.apply(messages[0], messages[1], outcomes[0], outcomes[1], messages[2])
    machine.put(samples.spec(revision=2))
    machine.apply(messages[3])
    machine.commit()
    control = [samples.spec().digest(), samples.baseline().digest, samples.spec(revision=2).digest()]
    runs = [
        entry["digest"] or (entry["source"].removeprefix("t."), entry["first_offset"], entry["last_offset"])
        for entry in machine.order
    ]
    assert runs == [
        *control[:2],
        ("predictions", 0, 1),
        ("outcomes", 0, 1),
        ("predictions", 2, 2),
        control[2],
        ("predictions", 3, 3),
    ]
    assert machine.counters()["outcome_rows"] == 2


def test_a_retired_deployment_leaves_nothing_behind(samples: Any) -> None:
    spec = samples.spec(detectors=(DetectorSpec("adwin", "x"),))
    other = samples.spec("e")
    machine = samples.machine(spec, samples.baseline(), other, samples.baseline(other))
    machine.apply(samples.message(samples.rows(2000, every=0.05, shift=2.0), 0))
    assert machine.emitted("alerts", status="firing")
    machine.partition.end("d")
    fired = {alert["incident_key"] for alert in machine.emitted("alerts", status="firing")}
    assert {alert["incident_key"] for alert in machine.emitted("alerts", status="resolved")} == fired
    assert {window["status"] for window in machine.emitted("windows")} >= {"final"}
    assert {key for key in machine.records if b"/d" in key} == set()
    assert machine.order[-1]["digest"] == "end:d"
    machine.apply(samples.message(samples.rows(10, first=5000, at=200), 1))
    assert [letter["reason"] for letter in machine.emitted("dead_letters")] == ["unknown_deployment"]
    assert machine.restarted().digest() == machine.digest()


def test_evidence_falls_with_its_threshold(samples: Any) -> None:
    def base(machine: Any) -> Any:
        machine.commit()
        packed = machine.records[b"evidence/d@1"]["base_0"]
        return np.frombuffer(packed["data"], packed["dtype"])

    spec = samples.spec()
    machine = samples.machine().apply(samples.message(samples.rows(100), 0))
    before = base(machine)
    smaller = dataclasses.replace(spec.false_alarms, share=0.25)
    machine.put(dataclasses.replace(spec, false_alarms=smaller, revision=2))
    np.testing.assert_array_equal(base(machine), before)
    machine.put(dataclasses.replace(spec, revision=3))
    np.testing.assert_allclose(base(machine), before - np.log(4), atol=1e-4)
