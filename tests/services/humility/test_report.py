"""Reports: what windows of decisions and of outcomes say together is what their rows say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from driftline.humility.rules import ACTIONS
from services.humility.counts import Counts, by_period, counts_of, in_force_at, parts_of, stretch_of, total
from services.humility.documents import report_document
from services.humility.report import GONE, decision_lines, report
from services.humility.worth import DECIDED, coverage_of, elsewhere, in_force, loss_name, read_worth
from services.performance.windows import UnreadableWindowError
from streams.outcomes.decided import DECISION_PARTS, SERVED_PART, rule_part
from streams.statistics.performance.pairs import BINARY, REGRESSION, PerformanceLayout
from streams.statistics.performance.sums import Sums, add, subtract

Make = Callable[..., Any]
HOUR_US = 3_600_000_000
MARCH_US, APRIL_US = 1_709_251_200_000_000, 1_711_929_600_000_000
LAYOUT = PerformanceLayout(BINARY, ("on time", "late"), np.linspace(0.1, 0.9, 9), np.array([HOUR_US]))
N = 800


@dataclasses.dataclass
class Month:
    """Rows of a month, what was decided of them, and the records that say so, on two partitions."""

    scores: Any
    actual: Any
    known: Any
    actions: Any
    storm: Any
    counted: list[Any]
    joined: list[Any]


def month(made: Any, make_record: Make, seed: int, start_us: int, layout: PerformanceLayout = LAYOUT) -> Month:
    rng = np.random.default_rng(seed)
    scores, storm = rng.random(N), rng.random(N) < 0.2
    actual = rng.random(N) < np.where(storm, 1 - scores, scores)
    known, actions = rng.random(N) < 0.9, np.where(storm, 2, rng.choice([0, 0, 0, 1, 3], N))
    counted, joined = [], []
    for partition in (0, 1):
        of = np.arange(N) % 2 == partition
        masks = {part: actions[of] == code for code, part in enumerate(DECISION_PARTS)}
        masks |= {SERVED_PART: actions[of] == 1, rule_part("storm"): storm[of]}
        joined.append(
            make_record(
                layout, scores[of], actual[of], resolved=known[of], start_us=start_us, partition=partition,
                parts=masks, baseline_digest=str(partition),
            )
        )  # fmt: skip
        taken = tuple(np.bincount(actions[of], minlength=4).tolist())
        fired = {"storm": (int(storm[of].sum()), int((actions[of] == 2).sum())), "odd": (3, 0)}
        counted.append(made.window(fired, rows=int(of.sum()), actions=taken, window_start_us=start_us,
                                   partition=partition))  # fmt: skip
    return Month(scores, actual, known, actions, storm, counted, joined)


@pytest.fixture
def months(made: Any, make_record: Make) -> list[Month]:
    return [month(made, make_record, 1, MARCH_US), month(made, make_record, 2, APRIL_US)]


def test_a_report_says_what_its_rows_say(made: Any, months: list[Month]) -> None:
    spec = made.spec()
    counted, joined = ([record for each in months for record in getattr(each, name)] for name in ("counted", "joined"))
    found = report(spec, "1", counted, joined, {})
    scores, actual, known, actions, storm = (
        np.concatenate([getattr(each, name) for each in months])
        for name in ("scores", "actual", "known", "actions", "storm")
    )
    wrong = (scores >= 0.5) != actual
    lines = {line.name: line for line in decision_lines(found.whole)}
    for code, name in enumerate(ACTIONS):
        mine = actions == code
        assert lines[name].rows == lines[name].worth.predictions == mine.sum()
        assert lines[name].worth.resolved == (mine & known).sum()
        assert lines[name].worth.loss.value == pytest.approx(wrong[mine & known].mean())
    assert lines["without humility"].worth.loss.value == pytest.approx(wrong[known].mean())
    # here what was served in place of a prediction is the prediction itself
    assert lines["with humility"].worth.loss.value == pytest.approx(wrong[(actions <= 1) & known].mean())
    storm_line, odd = found.rules[0], found.rules[1]
    assert (storm_line.judged, storm_line.fired, storm_line.acted) == (2 * N, storm.sum(), (actions == 2).sum())
    assert storm_line.where_fired.loss.value == pytest.approx(wrong[storm & known].mean())
    assert storm_line.elsewhere.loss.value == pytest.approx(wrong[~storm & known].mean())
    assert storm_line.where_fired.wrong == (wrong & storm & known).sum() and storm_line.verdict.kind == "keep"
    assert odd.dry_run and odd.elsewhere.resolved == known.sum() and odd.verdict.kind == "too few outcomes"
    assert [each.counts.rows for each in found.months] == [N, N] and found.periods == found.months
    assert found.whole.start_us == MARCH_US and found.whole.end_us == APRIL_US + HOUR_US
    windows = report(spec, "1", counted, joined, {}, by="window", segments=True)
    assert [each.start_us for each in windows.periods] == [MARCH_US, APRIL_US]
    assert decision_lines(windows.whole) == decision_lines(found.whole) and windows.rules == found.rules
    assert windows.segments[0][0] == "c=a" and windows.segments[0][1].rows == 4 * (N // 2 // 4)
    for each in (found, windows):
        document = json.loads(json.dumps(report_document(spec, each)))
        assert document["rules"][0]["caught"] == storm_line.where_fired.wrong
        assert [line["decision"] for line in document["all"]["decisions"]][-1] == "without humility"


def test_a_rule_is_compared_with_the_time_in_which_it_was_in_force(made: Any, months: list[Month]) -> None:
    """A rule that came in April is not compared with March, and one that is gone since is told as gone."""
    march, april = months
    for record in march.counted:
        record["rules"][0] = "older"
    for record in march.joined:
        record["parts"] = [part for part in record["parts"] if part["segment"] != rule_part("storm")]
    found = report(made.spec(), "1", march.counted + april.counted, march.joined + april.joined, {})
    rules = {rule.name: rule for rule in found.rules}
    assert list(rules) == ["storm", "odd", "older"]
    assert (rules["storm"].judged, rules["older"].judged) == (N, N) and rules["older"].action == GONE
    wrong = (april.scores >= 0.5) != april.actual
    assert rules["storm"].elsewhere.loss.value == pytest.approx(wrong[~april.storm & april.known].mean())
    assert rules["older"].elsewhere.resolved == march.known.sum() and not rules["older"].where_fired.resolved


def test_windows_before_there_were_rules_do_not_count(made: Any, make_record: Make, months: list[Month]) -> None:
    plain = make_record(LAYOUT, [0.9] * 50, [1] * 50, start_us=MARCH_US - 24 * HOUR_US)
    (_, april) = months
    found = report(made.spec(), "1", april.counted, [plain, *april.joined], {})
    assert found.whole.part(DECIDED).predictions == N and len(found.months) == 1


def test_without_outcomes_there_are_counts_and_no_verdicts(made: Any, months: list[Month]) -> None:
    found = report(made.spec(), "1", months[0].counted, [], {}, by="day")
    assert not found.has_outcomes and not found.with_values and found.rules[0].verdict.kind == "too few outcomes"
    assert found.whole.part(DECIDED).resolved == 0 and not found.whole.provisional
    assert report_document(made.spec(), found)["all"]["coverage"] is None


def test_windows_of_other_classes_are_left_out_and_counted(made: Any, make_record: Make, months: list[Month]) -> None:
    other = dataclasses.replace(LAYOUT, classes=("never", "late"))
    early = month(made, make_record, 3, MARCH_US - 24 * HOUR_US, other)
    found = report(made.spec(), "1", early.counted + months[0].counted, early.joined + months[0].joined, {})
    assert found.left_out == 2 and found.whole.part(DECIDED).predictions == N and found.whole.counts.rows == 2 * N


def test_windows_of_other_bins_add_up_exactly(made: Any, make_record: Make) -> None:
    fine = dataclasses.replace(LAYOUT, score_edges=np.array([0.2, 0.37, 0.5]), age_edges_us=np.zeros(0, np.int64))
    one, other = month(made, make_record, 1, MARCH_US), month(made, make_record, 2, MARCH_US + HOUR_US, fine)
    mixed = report(made.spec(), "1", one.counted + other.counted, one.joined + other.joined, {})
    wrong = sum(int((((each.scores >= 0.5) != each.actual) & each.known).sum()) for each in (one, other))
    assert mixed.whole.part(DECIDED).wrong == wrong


def test_a_record_that_cannot_be_read_is_named(made: Any, months: list[Month]) -> None:
    broken = months[0].joined[0]
    broken["parts"][1]["counts"]["confusion"] = [1]
    with pytest.raises(UnreadableWindowError, match="cannot be read"):
        report(made.spec(), "1", months[0].counted, months[0].joined, {})


def test_what_was_covered_adds_up_by_month(made: Any, make_record: Make) -> None:
    layout = PerformanceLayout(REGRESSION)
    records = []
    for start_us, covered, static in ((MARCH_US, 9, 8), (MARCH_US + HOUR_US, 8, 5)):
        record = make_record(layout, np.zeros(10), np.zeros(10), start_us=start_us,
                             parts={DECISION_PARTS[0]: np.ones(10, bool)})  # fmt: skip
        for part in record["parts"]:
            part["counts"] |= {"with_quantile": [10], "covered": [covered], "with_static": [10]}
            part["counts"] |= {"covered_static": [static]}
            part["sums"] |= {"quantile_sum": [1.0], "adaptive_width": [1.0], "adaptive_width_squared": [1.0]}
        records.append(record)
    counted = [made.window({}, window_start_us=MARCH_US + at * HOUR_US) for at in (0, 1)]
    found = report(made.spec((), task=REGRESSION), "1", counted, records, {}, by="window")
    (only,) = found.months
    adaptive, static = coverage_of(only.worth)
    assert (adaptive.value, static.value, adaptive.rows) == (17 / 20, 13 / 20, 20)
    assert len(found.periods) == 2 and loss_name(REGRESSION) == "mae" and loss_name("other") == ""


def test_elsewhere_is_everything_but_where_it_fired(made: Any, months: list[Month]) -> None:
    found = read_worth(months[0].joined, months[0].counted, made.spec(), "month", HOUR_US)
    (worth,) = found.periods.values()
    rest = elsewhere(worth, "storm")
    assert rest is not None and elsewhere(worth, "nobody") is None
    total_of = add(rest, worth.parts[rule_part("storm")])
    assert _same(total_of, worth.parts[in_force("storm")]) and _same(elsewhere(worth, "odd"), worth.parts[DECIDED])
    assert _same(subtract(total_of, rest), worth.parts[rule_part("storm")])


def _same(one: Sums, other: Sums) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_counts_add_up_by_rule_whatever_rules_windows_had(made: Any) -> None:
    one = made.window({"a": (5, 4), "b": (3, 0)}, window_start_us=MARCH_US)
    two = made.window({"b": (1, 1)}, window_start_us=APRIL_US, rows=40, actions=(39, 1, 0, 0))
    found = total([one, two])
    assert (found.rows, found.decided, found.stale, found.disagreeing) == (140, 70, 2, 4)
    assert found.fired == {"a": 5, "b": 4} and found.acted == {"a": 4, "b": 1}
    assert found.judged == {"a": 100, "b": 140} and found.actions == (139, 1, 0, 0)
    assert counts_of(one, "c=a").rows == 25 and counts_of(one, "none") == Counts() and parts_of([one]) == ["c=a"]
    assert found.share(70) == 0.5 and Counts().share(0) is None
    assert [key[0] for key in by_period([two, one], "month", HOUR_US)] == [MARCH_US, APRIL_US]
    assert stretch_of(one, "window", 24 * HOUR_US) == (MARCH_US, MARCH_US + 24 * HOUR_US)


def test_times_with_the_same_rules_are_one(made: Any) -> None:
    rules = {"a": (1, 1)}
    windows = [made.window(rules, window_start_us=at * HOUR_US) for at in range(3)]
    windows.append(made.window({"b": (1, 1)}, window_start_us=3 * HOUR_US))
    windows.append(made.window(rules, window_start_us=9 * HOUR_US))
    assert in_force_at(windows) == {
        ("1", 0): [
            (0, 3 * HOUR_US, ("a",)),
            (3 * HOUR_US, 4 * HOUR_US, ("b",)),
            (9 * HOUR_US, 10 * HOUR_US, ("a",)),
        ]
    }


def test_outcomes_of_a_sample_weigh_as_many_rows_as_they_stand_for(made: Any, make_record: Make) -> None:
    rng = np.random.default_rng(4)
    scores, actual, weights = rng.random(300), rng.random(300) < 0.5, rng.choice([1.0, 4.0], 300)
    record = make_record(LAYOUT, scores, actual, weights=weights, start_us=MARCH_US,
                         parts={DECISION_PARTS[0]: np.ones(300, bool), rule_part("storm"): scores > 0.7})  # fmt: skip
    counted = [made.window({"storm": (1, 0)}, rows=300, actions=(300, 0, 0, 0), window_start_us=MARCH_US)]
    found = report(made.spec(), "1", counted, [record], {})
    wrong = (scores >= 0.5) != actual
    assert found.whole.part(DECIDED).loss.value == pytest.approx(np.average(wrong, weights=weights))
    (rule,) = found.rules
    for worth, mask in ((rule.where_fired, scores > 0.7), (rule.elsewhere, scores <= 0.7)):
        assert worth.loss.value == pytest.approx(np.average(wrong[mask], weights=weights[mask]))
        assert worth.wrong == wrong[mask].sum()
