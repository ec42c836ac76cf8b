"""Bad outcomes and intervals become dead letters that say what is wrong with them, and cost only themselves."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from driftline.codec import decode, encode
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from streams.errors import StreamsError
from streams.messages import Message
from streams.specification import (
    BINARY,
    MULTICLASS,
    OTHER_TASK,
    REGRESSION,
    DecisionValue,
    DeploymentSpec,
    OutcomeSpec,
)

DAY_US = 86_400_000_000
YEAR_US = 366 * DAY_US
HORIZON_MS = 30 * 86_400_000
ROWS = 10
BAD = [1, 3, 5, 7, 9]
CLASSES = {BINARY: ("no", "yes"), MULTICLASS: ("high", "low", "mid")}

Record = dict[str, Any]


def deployment(samples: Any, task: str) -> DeploymentSpec:
    """One that expects outcomes within thirty days."""
    spec: DeploymentSpec = samples.spec(
        "resolved",
        task=task,
        positive_class="yes" if task == BINARY else None,
        outcomes=OutcomeSpec(HORIZON_MS, classes=CLASSES.get(task, ())),
    )
    return spec


def good_outcomes(samples: Any, task: str, rows: int = ROWS, first: int = 0) -> OutcomeColumns:
    """Outcomes that were known a minute after the last prediction."""
    names = CLASSES.get(task)
    return OutcomeColumns(
        "resolved",
        [str(row) for row in range(first, first + rows)],
        np.full(rows, samples.t0 + 120 * samples.second, np.int64),
        np.arange(rows, dtype=np.float64) if names is None else None,
        None if names is None else CategoricalColumn.from_values([names[row % len(names)] for row in range(rows)]),
    )


def with_bad(values: Any, bad: Any) -> Any:
    """A column in which every second value is bad."""
    changed = np.array(values, np.float64)
    changed[BAD] = bad
    return changed


def mixed_labels(task: str, bad: str | None) -> CategoricalColumn:
    """Classes of which every second one is bad."""
    names = CLASSES[task]
    return CategoricalColumn.from_values([bad if row in BAD else names[0] for row in range(ROWS)])


class World:
    """A partition on which ten predictions wait, unless outcomes are early, and what became of outcomes."""

    def __init__(self, samples: Any, task: str, *, early: bool = False) -> None:
        self.samples, self.task = samples, task
        spec = deployment(samples, task)
        self.machine = samples.machine(spec, samples.baseline(spec))
        if not early:
            self.predict()

    def predict(self) -> None:
        """Ten predictions come."""
        columns: PredictionColumns = self.samples.rows(ROWS, deployment_id="resolved")
        if self.task == MULTICLASS:
            labels = CategoricalColumn.from_values([CLASSES[MULTICLASS][row % 3] for row in range(ROWS)])
            columns = dataclasses.replace(columns, prediction=None, prediction_label=labels)
        self.machine.apply(self.samples.message(columns, 0))

    def send(self, value: bytes | None, *, key: bytes | None = b"resolved", after_us: int = 0) -> None:
        """Publish an outcome message, an hour after the predictions or so much later."""
        topic = self.samples.topics.outcomes
        now_ms = self.samples.t0 // 1000 + 3_600_000 + after_us // 1000
        offset = self.machine.partition.position[topic]
        self.machine.apply(Message(topic, 0, offset, now_ms, key, value))

    def letters(self) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = self.machine.emitted("dead_letters")
        assert len({letter["id"] for letter in found}) == len(found)
        for letter in found:
            decode(encode("DeadLetter", letter))
        return found

    def counters(self) -> dict[str, int]:
        self.machine.commit()
        facts: dict[str, int] = json.loads(self.machine.records[b"join/resolved"]["join"])["counters"]
        return facts


@dataclass(frozen=True)
class Case:
    """What is published, and what is to become of it: the rest of its rows are joined."""

    name: str
    task: str
    change: Callable[[OutcomeColumns], Record]
    reason: str
    says: tuple[str, ...]
    rows: list[int] = field(default_factory=lambda: BAD)
    after_us: int = 0


def changed(**changes: Any) -> Callable[[OutcomeColumns], Record]:
    return lambda columns: dataclasses.replace(columns, **changes).to_record()


def times(offset_us: int) -> Callable[[OutcomeColumns], Record]:
    def change(columns: OutcomeColumns) -> Record:
        known = columns.actual_timestamps_us.copy()
        known[BAD] += offset_us
        return dataclasses.replace(columns, actual_timestamps_us=known).to_record()

    return change


def ids(bad: str) -> Callable[[OutcomeColumns], Record]:
    def change(columns: OutcomeColumns) -> Record:
        return columns.to_record() | {
            "prediction_ids": [bad if row in BAD else name for row, name in enumerate(columns.prediction_ids)]
        }

    return change


def chance(bad: float) -> Callable[[OutcomeColumns], Record]:
    return changed(labelling_probability=with_bad(np.full(ROWS, 0.5), bad))


NUMBERS = np.arange(ROWS, dtype=np.float64)
ODD = ("row 1",)
CASES = [
    Case(
        "text for a number",
        REGRESSION,
        changed(actual_value=with_bad(NUMBERS, math.nan), actual_label=mixed_labels(BINARY, "late")),
        "outcome_value",
        ("expected a finite number in actual_value, came 'late'", "as a number", *ODD),
    ),
    Case(
        "no number",
        REGRESSION,
        changed(actual_value=with_bad(NUMBERS, math.nan)),
        "outcome_value",
        ("came neither", "once it is known", *ODD),
    ),
    Case(
        "infinite",
        REGRESSION,
        changed(actual_value=with_bad(NUMBERS, math.inf)),
        "outcome_value",
        ("expected a finite number", "came the number inf", *ODD),
    ),
    Case(
        "minus infinity",
        REGRESSION,
        changed(actual_value=with_bad(NUMBERS, -math.inf)),
        "outcome_value",
        ("came the number -inf", *ODD),
    ),
    Case(
        "unknown class of two",
        MULTICLASS,
        changed(actual_label=mixed_labels(MULTICLASS, "unheard\x1b[31m")),
        "outcome_value",
        ("'high', 'low', 'mid'", "came 'unheard\\x1b[31m'", "outcomes.classes", *ODD),
    ),
    Case(
        "unknown class",
        BINARY,
        changed(actual_label=mixed_labels(BINARY, "maybe")),
        "outcome_value",
        ("'no', 'yes'", "came 'maybe'", *ODD),
    ),
    Case(
        "no class",
        BINARY,
        changed(actual_label=mixed_labels(BINARY, None)),
        "outcome_value",
        ("came neither", *ODD),
    ),
    Case(
        "free text for a class",
        BINARY,
        changed(actual_label=mixed_labels(BINARY, "the customer called and said " * 90)),
        "outcome_value",
        ("at most 256 characters in actual_label, came 2,610 characters", "not a text about it", *ODD),
    ),
    Case(
        "number for a class",
        MULTICLASS,
        changed(actual_label=mixed_labels(MULTICLASS, None), actual_value=np.full(ROWS, 7.25)),
        "outcome_value",
        ("came the number 7.25", *ODD),
    ),
    Case(
        "number that is neither 0 nor 1",
        BINARY,
        changed(actual_label=None, actual_value=with_bad(NUMBERS % 2, 2.0)),
        "outcome_value",
        ("came the number 2.0", *ODD),
    ),
    Case(
        "nothing of an other task",
        OTHER_TASK,
        changed(actual_value=with_bad(NUMBERS, math.nan)),
        "outcome_value",
        ("came neither", *ODD),
    ),
    *(
        Case(
            f"labelling probability {bad}",
            REGRESSION,
            chance(bad),
            "labelling_probability",
            ("above 0 and at most 1", f"came {bad}", *ODD),
        )
        for bad in (0.0, -0.25, 1.0000001, math.nan, math.inf, -math.inf)
    ),
    Case("years late", REGRESSION, times(3 * YEAR_US), "outcome_time", ("horizon", *ODD), after_us=4 * YEAR_US),
    Case("a second late", BINARY, times(30 * DAY_US), "outcome_time", ("horizon", *ODD), after_us=31 * DAY_US),
    Case("in the future", REGRESSION, times(YEAR_US), "outcome_time", ("clock_skew", *ODD)),
    Case("before the prediction", BINARY, times(-2 * DAY_US), "outcome_time", ("before their prediction", *ODD)),
    Case("before the epoch", BINARY, times(-80 * YEAR_US), "outcome_time", ("earliest_event_time", *ODD)),
    Case("without an id", REGRESSION, ids(""), "prediction_id", ("1 to 256 characters, came 0", *ODD)),
    Case("with an endless id", REGRESSION, ids("é" * 257), "prediction_id", ("came 257 characters", *ODD)),
]


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_rows_are_named_with_what_was_expected_and_the_others_count(samples: Any, case: Case, early: bool) -> None:
    """Whether they come after their predictions or wait for them."""
    world = World(samples, case.task, early=early)
    record = case.change(good_outcomes(samples, case.task))
    world.send(encode("OutcomeBatch", record), after_us=case.after_us)
    if early:
        world.predict()
    (letter,) = world.letters()
    assert (letter["reason"], letter["rows"]) == (case.reason, case.rows)
    for text in case.says:
        assert text in letter["error"]
    if not early:
        assert letter["value"] == encode("OutcomeBatch", record), "nothing is lost"
    assert (letter["source_topic"], letter["source_offset"]) == (samples.topics.outcomes, 0)
    counters = world.counters()
    good = ROWS - len(case.rows)
    assert (counters["joined_outcomes"], counters["refused_outcomes"]) == (good, len(case.rows))
    assert world.machine.counters("resolved")["outcome_rows"] == ROWS


WHOLE = [
    (
        "text for a number, as JSON",
        {"actual_value": "late"},
        "wrong_schema",
        "actual_value: expected a number, came str",
    ),
    ("a boolean for a number", {"actual_value": True}, "wrong_schema", "actual_value: expected a number, came bool"),
    ("neither, as JSON", {"actual_value": None}, "outcome_value", "came neither"),
    ("NaN, as JSON", {"actual_value": math.nan}, "outcome_value", "NaN is no outcome"),
    ("infinite, as JSON", {"actual_value": math.inf}, "outcome_value", "came the number inf"),
    ("an impossible labelling probability", {"labelling_probability": 0}, "labelling_probability", "came 0.0"),
    ("no labelling probability", {"labelling_probability": "often"}, "wrong_schema", "expected a number"),
    ("an empty id", {"prediction_id": ""}, "prediction_id", "came 0 characters"),
    ("no id", {"prediction_id": None}, "wrong_schema", "'prediction_id' is required"),
    ("a time without zone", {"actual_timestamp": "2024-05-01T12:00:00"}, "event_time", "has no zone"),
    ("a word for was_acted_on", {"was_acted_on": "perhaps"}, "wrong_schema", "was_acted_on: expected true or false"),
    ("another field", {"outcome": 1}, "wrong_schema", "unknown field 'outcome'"),
    ("an unknown deployment", {"deployment_id": "unheard"}, "unknown_deployment", "deployment apply"),
]


@pytest.mark.parametrize(("change", "reason", "says"), [each[1:] for each in WHOLE], ids=[each[0] for each in WHOLE])
def test_a_bad_event_says_why_and_the_next_one_counts(samples: Any, change: Record, reason: str, says: str) -> None:
    world = World(samples, REGRESSION)
    event = {
        "prediction_id": "1",
        "deployment_id": "resolved",
        "actual_timestamp": samples.t0 + 120 * samples.second,
        "actual_value": 2.5,
    }
    bad = json.dumps(event | change).encode()
    world.send(bad)
    world.send(json.dumps(event).encode())
    (letter,) = world.letters()
    assert (letter["reason"], letter["value"]) == (reason, bad)
    assert says in letter["error"]
    assert world.counters()["joined_outcomes"] == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"actual_timestamps_us": b"\0" * 72}, "unequal_columns"),
        ({"actual_value": b"\0" * 79}, "unequal_columns"),
        ({"labelling_probability": b""}, "unequal_columns"),
        ({"was_acted_on": b"\x07" * 10}, "wrong_schema"),
        ({"prediction_ids": []}, "empty_batch"),
        ({"actual_value": None}, "outcome_value"),
        ({"deployment_id": "a#b"}, "wrong_schema"),
    ],
)
def test_a_batch_that_cannot_be_read_is_kept_whole(samples: Any, changes: Record, reason: str) -> None:
    world = World(samples, REGRESSION)
    record = good_outcomes(samples, REGRESSION).to_record()
    world.send(encode("OutcomeBatch", record | changes))
    world.send(encode("OutcomeBatch", record))
    (letter,) = world.letters()
    assert (letter["reason"], letter["rows"]) == (reason, [])
    assert letter["value"] == encode("OutcomeBatch", record | changes)
    assert world.counters()["joined_outcomes"] == ROWS


@pytest.mark.parametrize("key", [None, b"", b"other", b"resolved#0"])
def test_an_outcome_under_another_key_would_never_find_its_prediction(samples: Any, key: bytes | None) -> None:
    world = World(samples, BINARY)
    world.send(encode("OutcomeBatch", good_outcomes(samples, BINARY).to_record()), key=key)
    (letter,) = world.letters()
    assert letter["reason"] == "wrong_key" and "expected the Kafka key 'resolved'" in letter["error"]
    assert world.counters()["joined_outcomes"] == 0


def test_both_a_value_and_a_class_are_read_as_the_task_says(samples: Any) -> None:
    for task, names in ((REGRESSION, CLASSES[BINARY]), (BINARY, CLASSES[BINARY]), (MULTICLASS, CLASSES[MULTICLASS])):
        world = World(samples, task)
        labels = CategoricalColumn.from_values([names[row % 2] for row in range(ROWS)])
        both = dataclasses.replace(good_outcomes(samples, task), actual_value=NUMBERS, actual_label=labels)
        world.send(encode("OutcomeBatch", both.to_record()))
        assert world.letters() == []
        assert world.counters()["joined_outcomes"] == ROWS


def test_rows_that_are_bad_in_several_ways_are_named_once_and_every_reason_has_its_letter(samples: Any) -> None:
    world = World(samples, REGRESSION)
    columns = good_outcomes(samples, REGRESSION)
    values, known, chances = NUMBERS.copy(), columns.actual_timestamps_us.copy(), np.full(ROWS, 0.5)
    values[[1, 2]], chances[[2, 3]], known[[1, 3, 4]] = math.nan, 0.0, -1
    known[5], values[6] = samples.t0 - 2 * DAY_US, math.inf
    record = dataclasses.replace(
        columns, actual_value=values, actual_timestamps_us=known, labelling_probability=chances
    ).to_record()
    record["prediction_ids"][0] = ""
    world.send(encode("OutcomeBatch", record))
    assert [(letter["reason"], letter["rows"]) for letter in world.letters()] == [
        ("prediction_id", [0]),
        ("outcome_value", [1, 2]),
        ("labelling_probability", [3]),
        ("outcome_time", [4]),
        ("outcome_value", [6]),
        ("outcome_time", [5]),
    ]
    counters = world.counters()
    assert (counters["joined_outcomes"], counters["refused_outcomes"]) == (3, 7)


def test_outcomes_of_other_deployments_predictions_wait_and_are_then_refused(samples: Any) -> None:
    world = World(samples, BINARY)
    foreign = good_outcomes(samples, BINARY, first=1000)
    world.send(encode("OutcomeBatch", foreign.to_record()))
    assert world.letters() == []
    later = samples.rows(1, first=1, at=36 * DAY_US / samples.second, deployment_id="resolved", prefix="later")
    world.machine.apply(samples.message(later, 1))
    last = dataclasses.replace(good_outcomes(samples, BINARY, rows=1, first=5000))
    last.actual_timestamps_us[:] = later.timestamps_us[0] + 1
    world.send(encode("OutcomeBatch", last.to_record()), after_us=36 * DAY_US)
    letters = [letter for letter in world.letters() if letter["reason"] == "unknown_prediction"]
    assert sorted(row for letter in letters for row in letter["rows"]) == list(range(ROWS))
    assert {letter["source_offset"] for letter in letters} == {0}


@pytest.mark.parametrize(
    ("low", "high", "came"),
    [
        (3.0, 2.0, "came 3.0 to 2.0"),
        (math.nan, 2.0, "came nothing to 2.0"),
        (1.0, math.nan, "came 1.0 to nothing"),
        (-math.inf, 2.0, "came -inf to 2.0"),
        (1.0, math.inf, "came 1.0 to inf"),
        (math.inf, -math.inf, "came inf to -inf"),
    ],
)
def test_predictions_with_an_impossible_interval_count_without_it(
    samples: Any, low: float, high: float, came: str
) -> None:
    world = World(samples, REGRESSION)
    columns = samples.rows(ROWS, first=100, deployment_id="resolved")
    ends = with_bad(np.zeros(ROWS), low), with_bad(np.ones(ROWS), high)
    columns = dataclasses.replace(columns, prediction_low=ends[0], prediction_high=ends[1])
    world.machine.apply(samples.message(columns, 1))
    (letter,) = world.letters()
    assert (letter["reason"], letter["rows"]) == ("prediction_interval", BAD)
    assert "both ends of the model's interval" in letter["error"] and came in letter["error"]
    outcomes = good_outcomes(samples, REGRESSION, first=100)
    world.send(encode("OutcomeBatch", dataclasses.replace(outcomes, actual_value=np.full(ROWS, 0.5)).to_record()))
    assert world.counters()["joined_outcomes"] == ROWS
    world.machine.put(dataclasses.replace(deployment(samples, REGRESSION), outcomes=None, revision=2))
    (window,) = [w for w in world.machine.emitted("windows") if "horizon_ms" in w]
    counts = window["parts"][0]["counts"]
    assert (counts["resolved"], counts["with_interval"], counts["inside"]) == ([ROWS], [ROWS - 5], [ROWS - 5])
    assert world.machine.counters("resolved")["rows"] == 2 * ROWS


def test_one_end_alone_and_an_event_with_a_wrong_interval_are_told_as_well(samples: Any) -> None:
    world = World(samples, REGRESSION)
    columns = dataclasses.replace(samples.rows(2, first=50, deployment_id="resolved"), prediction_low=np.zeros(2))
    world.machine.apply(samples.message(columns, 1))
    event = {
        "prediction_id": "wrong",
        "deployment_id": "resolved",
        "model_version": "1",
        "timestamp": samples.t0 + 60 * samples.second,
        "features": {"x": 0.1, "y": 0.2, "c": "a"},
        "prediction": 0.5,
        "prediction_low": 2.0,
        "prediction_high": math.inf,
    }
    message = samples.message(columns, 2)
    world.machine.apply(dataclasses.replace(message, value=json.dumps(event).encode()))
    assert [(letter["reason"], letter["rows"]) for letter in world.letters()] == [
        ("prediction_interval", [0, 1]),
        ("prediction_interval", [0]),
    ]


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, REGRESSION, OTHER_TASK])
def test_good_outcomes_are_all_joined(samples: Any, task: str) -> None:
    """The twin of all of the above."""
    world = World(samples, task)
    columns = good_outcomes(samples, task)
    chances = np.linspace(1e-9, 1.0, ROWS)
    acted = np.array([0, 1, 255] * 3 + [0], np.uint8)
    whole = dataclasses.replace(columns, labelling_probability=chances, was_acted_on=acted)
    world.send(encode("OutcomeBatch", whole.to_record()))
    assert world.letters() == []
    assert world.counters()["joined_outcomes"] == ROWS


def test_bad_rows_are_left_out_again_after_a_restart(samples: Any) -> None:
    columns = good_outcomes(samples, REGRESSION)
    chances = with_bad(np.full(ROWS, 0.5), 0.0)
    worlds = [World(samples, REGRESSION) for _ in range(2)]
    for world in worlds:
        world.send(encode("OutcomeBatch", dataclasses.replace(columns, labelling_probability=chances).to_record()))
        world.machine.commit()
    worlds[1].machine = worlds[1].machine.restarted()
    for world in worlds:
        world.send(encode("OutcomeBatch", columns.to_record()))  # now the others
    assert worlds[1].counters() == worlds[0].counters()
    assert worlds[0].counters()["joined_outcomes"] == ROWS


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_specification_whose_decisions_are_worth_no_number_comes_never_into_force(samples: Any, value: float) -> None:
    spec = deployment(samples, BINARY)
    assert spec.outcomes is not None
    worthless = dataclasses.replace(spec.outcomes, values=(DecisionValue("yes", "no", value),))
    with pytest.raises(StreamsError, match="predicted 'yes' and actual 'no' must be a finite number, is"):
        samples.machine(dataclasses.replace(spec, outcomes=worthless))


def test_texts_that_nobody_knows_to_be_classes_do_not_fill_the_journal(samples: Any) -> None:
    world = World(samples, BINARY, early=True)
    for first in range(0, 3_000, 500):
        texts = [f"{number:04}".ljust(256, "☃") for number in range(first, first + 500)]
        early = OutcomeColumns(
            "resolved",
            texts,
            np.full(500, samples.t0, np.int64),
            actual_label=CategoricalColumn.from_values(texts),
        )
        world.send(encode("OutcomeBatch", early.to_record()))
    assert world.letters() == []
    fields = world.machine.records[b"join/resolved"]
    assert len(encode("JournalRecord", {"kind": "join", "fields": fields})) < 8 << 20
    world.send(encode("OutcomeBatch", good_outcomes(samples, BINARY).to_record()))
    world.predict()
    assert world.letters() == []
    assert world.counters()["joined_outcomes"] == ROWS
