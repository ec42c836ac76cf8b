"""What people read when it is outcomes that changed."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.alerting.words.message import describe_alert
from services.alerting.words.outcomes import mean_rank, rate_move
from services.alerting.words.readings import reading

NOMINAL = [0.0, 0.005, *([0.099] * 10), 0.005, 0.0, 0.0]
TAIL = [0.945, *np.diff([*(-0.055 * np.exp(-1.3 * np.arange(13))), 0.0]).tolist(), 0.0]
UNCHANGED = [0, 5, *([99] * 10), 5, 0, 0]
LARGE = [0, 2, *([76] * 9), 296, 18, 0, 0]
SMALL = [*LARGE[13::-1], 0]
HOSTILE = ["<!channel>", "a`b*c_d~e", "line\nline", "\x1b[31mred", "\u202etxet", "x" * 10_000, "`" * 10_000, ""]


def cause_of(
    make_alert: Any, role: str, stream: str, observed: Any, expected: Any = NOMINAL, **changes: Any
) -> dict[str, Any]:
    bins = ["known", "open", *([""] * 18), "(other)", "(unseen)", "(missing)"] if role == "labels" else ["x"] * 15
    cause: dict[str, Any] = make_alert()["causes"][0]
    shape = {"bins": bins, "observed": list(observed), "expected": list(expected), "rows": sum(observed)}
    return cause | {"stream": stream, "role": role, "segment": "", "inputs": [], "interval_ms": 0} | shape | changes


def labels_of(make_alert: Any, step: int, known: int, waiting: int, expected: float, **changes: Any) -> dict[str, Any]:
    rest = [0] * 21
    return cause_of(
        make_alert, "labels", f"labels:{step}", [known, waiting, *rest], [expected, 1 - expected, *rest], **changes
    )


def told(make_alert: Any, monitor: str, *causes: Any, **changes: Any) -> list[str]:
    alert = make_alert(monitor=monitor, causes=list(causes), rows_since_change=causes[0]["rows"], **changes)
    text = describe_alert(alert)
    return [str(text.headline), *map(str, text.sentences), str(text.causes[0]), str(text.steps)]


def rates(before: float, after: float, rows: int = 1_000_000) -> list[int]:
    """Counts of a rate that moved, spread over the ranks of the reference's zeros and ones."""
    edges = np.cumsum(NOMINAL[1:13])
    cumulative = np.where(
        edges <= 1 - before,
        edges * (1 - after) / (1 - before),
        (1 - after) + (edges - (1 - before)) * after / before,
    )
    return [0, *np.round(rows * np.diff(cumulative, prepend=0.0)).astype(int).tolist(), 0, 0]


def test_losses_are_compared_with_those_known_at_the_same_age(make_alert: Any) -> None:
    loss = cause_of(make_alert, "outcome", "loss", LARGE)
    headline, what, since, _, bad, first, steps = told(make_alert, "concept_drift", loss, diagnosis="relation")
    assert headline == "Concept drift in credit, version 1"
    assert what == "The relation between inputs and outcome has changed in credit; most changed: the loss."
    assert "(estimated, by when outcomes came)" in since and since.endswith("3 h 20 min and 1,000 outcomes later.")
    assert bad == (
        "The change is large by the usual reading of PSI: 52 % of outcomes (95 % interval 47 % to 57 %) would have to "
        "be others to look like the reference again. Losses are larger on the whole."
    )
    assert first.startswith(
        "the loss: 31 % of outcomes have a larger loss than 90 % of the reference's outcomes known at the same age, "
        "expected 10 %. PSI 0.83 (large), total variation 52 %"
    )
    assert "1,000 outcomes; 80 % of the evidence" in first
    assert steps.startswith(
        "Next: follow the runbook; compare how right it was: driftline windows show credit --metric accuracy; "
        "rule out that the outcome was redefined"
    )
    assert "estimates assume the old relation" in steps
    assert steps.endswith(
        "a baseline of the time since, once its outcomes are known, ends the alarm: "
        "driftline baseline build credit --from-topic --version 1 --from 2013-06-13."
    )


@pytest.mark.parametrize(
    ("diagnosis", "observed", "what", "step"),
    [
        (
            "relation",
            LARGE,
            "The relation between inputs and outcome has changed in credit;",
            "retraining on what came",
        ),
        ("outcome_rate", LARGE, "The outcome's rate has moved in credit;", "labels of one kind are lost"),
        (
            "inputs",
            LARGE,
            "The model meets inputs on which it is worse in credit;",
            "alarms on inputs of the same time",
        ),
        ("inputs", SMALL, "The model meets inputs on which it is better in credit;", "parts of the traffic"),
        ("", LARGE, "The outcomes of credit no longer fit its predictions as in the reference;", "was redefined"),
        ("of a later release", LARGE, "The outcomes of credit no longer fit its predictions", "was redefined"),
    ],
)
def test_a_diagnosis_says_what_changed_and_what_to_look_at_first(
    make_alert: Any, diagnosis: str, observed: list[int], what: str, step: str
) -> None:
    cause = cause_of(make_alert, "outcome", "loss", observed)
    said = told(make_alert, "concept_drift", cause, diagnosis=diagnosis)
    assert said[1].startswith(what) and step in said[-1]


def test_an_alert_of_an_earlier_release_has_no_diagnosis(make_alert: Any) -> None:
    alert = make_alert(monitor="concept_drift", causes=[cause_of(make_alert, "outcome", "loss", LARGE)])
    del alert["diagnosis"]
    assert "no longer fit its predictions" in str(describe_alert(alert).sentences[0])


def test_what_speaks_for_a_diagnosis_is_told_with_its_figures(make_alert: Any) -> None:
    reason = "at equal predictions outcomes are others, in 17 in 100 on average; more than 99 % sure"
    alert = make_alert(
        monitor="concept_drift",
        causes=[cause_of(make_alert, "outcome", "loss", LARGE)],
        diagnosis="relation",
        diagnosis_reason=reason,
        diagnosis_probability=0.997,
    )
    said = list(map(str, describe_alert(alert).sentences))
    assert said[1] == f"What speaks for that: {reason}." and len(said) == 5


@pytest.mark.parametrize(
    ("stream", "observed", "name", "said", "side"),
    [
        ("residual", SMALL, "the residual", "have a lower residual than 90 % of the reference's outcomes with a like "
         "prediction, known at the same age", "Actual values lie lower below the predictions than they used to."),
        ("outcome", SMALL, "the outcome", "have a lower outcome than 90 % of the reference's outcomes known at the "
         "same age", "Outcomes lie lower on the whole; of classes, the earlier ones in their order are more frequent."),
        ("loss", [0, 2, *([10] * 5), *([190] * 4), 180, 8, 0, 0], "the loss", "95 % of outcomes have a larger loss "
         "than 50 % of the reference's outcomes known at the same age", "Losses are larger on the whole."),
        ("residual", [0, 90, 300, *([10] * 8), 300, 90, 0, 0], "the residual", "have a residual outside the middle 80 "
         "% of the reference's outcomes with a like prediction, known at the same age", ""),
        ("loss", [0, 0, 0, 5, *([200] * 6), 5, 0, 0, 0, 0], "the loss",
         "99 % of outcomes have a loss within the middle", ""),
        ("loss", [0, 5, *([99] * 10), 5, 300, 0], "the loss", "have a larger loss than any of the reference's", None),
        ("loss", [0, 5, *([99] * 10), 5, 0, 300], "the loss", "have no loss that can be computed, expected 0 %", None),
    ],
)  # fmt: skip
def test_ranks_among_the_reference_are_read_as_what_they_mean(
    make_alert: Any, stream: str, observed: list[int], name: str, said: str, side: str | None
) -> None:
    *_, bad, first, _ = told(make_alert, "concept_drift", cause_of(make_alert, "outcome", stream, observed))
    assert first.startswith(f"{name}: ") and said in first
    if side is not None:
        assert bad.endswith(f"again. {side}" if side else "again.")


def test_very_large_losses_are_told_by_how_few_of_the_reference_were_as_large(make_alert: Any) -> None:
    observed = [940, 40, 5, 5, 0, 0, 0, 4, 3, 3, 0, 0, 0, 0, 0]
    *_, bad, first, _ = told(make_alert, "concept_drift", cause_of(make_alert, "outcome", "loss_tail", observed, TAIL))
    assert first.startswith(
        "the largest losses: 1.0 % of outcomes have a loss beyond all but next to none of the reference's outcomes "
        "known at the same age, expected next to none"
    )
    assert bad.endswith("Very large losses are more frequent.")
    more = [800, 150, 40, 10, *([0] * 11)]
    read = str(reading(cause_of(make_alert, "outcome", "loss_tail", more, TAIL)))
    assert read.startswith("20 % of outcomes have a loss beyond all but 5.5 % of the reference's outcomes known")
    assert read.endswith("expected 5.5 %")


def test_an_unchanged_tail_is_not_said_to_have_shrunk(make_alert: Any) -> None:
    """What the tail is compared with has its margin in it: the reference itself lies below."""
    cause = cause_of(make_alert, "outcome", "loss_tail", [950, 40, 10, *([0] * 12)], TAIL)
    assert told(make_alert, "concept_drift", cause)[4].endswith("again.")


@pytest.mark.parametrize(
    ("known", "waiting", "what"),
    [
        (0, 1000, "The outcomes of credit have stopped coming, or come much later than in the reference; most"),
        (120, 880, "The outcomes of credit come later than in the reference, or not at all; most changed: "),
        (900, 100, "The outcomes of credit come sooner than in the reference; most changed: "),
        (400, 600, "The outcomes of credit no longer come as in the reference; most changed: "),
    ],
)
def test_labels_stop_coming_come_later_or_come_sooner(make_alert: Any, known: int, waiting: int, what: str) -> None:
    cause = labels_of(make_alert, 1, known, waiting, 0.4, interval_ms=7_200_000)
    headline, said, since, _, bad, first, steps = told(make_alert, "labels", cause)
    assert headline == "Label arrival change in credit, version 1"
    assert said.startswith(what) and said.endswith("outcomes known within 2 hours.")
    assert since.endswith("1,000 predictions later.")
    assert bad == (
        f"Since then {known} of 1,000 predictions had their outcome within 2 hours; the reference leads to expect "
        "about 400."
    )
    assert first.startswith("outcomes known within 2 hours: ") and "PSI" not in first
    assert ("before they are settled" in steps) == (known > 400)
    assert ("is the job late" in steps) == (
        known <= 400
    ) and "driftline windows show credit --metric coverage; how many were refused: driftline status." in steps


@pytest.mark.parametrize(
    ("age_ms", "said"),
    [
        (
            0,
            "outcomes known by step 2 of the reference's delays: 5.0 % of predictions that still waited got it by that",
        ),
        (
            5_400_000,
            "outcomes known within 90 minutes: 5.0 % of predictions that still waited got it within 90 minutes",
        ),
        (86_400_000, "outcomes known within 1 day: "),
        (45 * 86_400_000, "outcomes known within 45 days: "),
        (9_000_000, "outcomes known within 2.5 hours: "),
        (1_000, "outcomes known within 1 second: "),
        (-5, "outcomes known by step 2 "),
    ],
)
def test_later_ages_are_about_those_that_still_waited(make_alert: Any, age_ms: int, said: str) -> None:
    cause = labels_of(make_alert, 2, 50, 950, 0.4, interval_ms=age_ms)
    assert told(make_alert, "labels", cause)[-2].startswith(said)


@pytest.mark.parametrize(
    ("stream", "after", "said", "counted"),
    [
        ("selected", 0.31, "11 in 100 more are predicted positive than in the reference", "outcomes"),
        ("true_positive", 0.1, "10 in 100 fewer of the actual positives are predicted positive", "actual positives"),
        ("false_positive", 0.26, "6.0 in 100 more of the actual negatives are predicted", "actual negatives"),
        (
            "false_positive",
            0.2,
            "as many as in the reference",
            "actual negatives",
        ),
    ],
)
def test_a_groups_rates_are_told_as_people(make_alert: Any, stream: str, after: float, said: str, counted: str) -> None:
    cause = cause_of(make_alert, "fairness", stream, rates(0.203, after + 0.003), segment="region=north")
    headline, what, since, _, bad, first, steps = told(make_alert, "fairness", cause)
    assert headline == "Fairness change in credit, version 1"
    assert what.startswith(
        "Parts of the traffic of credit are treated otherwise than in the reference; most changed: the "
    )
    assert what.endswith(" in region=north.")
    assert f" {counted} of region=north later." in since
    assert bad.startswith(f"52 % of {counted} (95 % interval 47 % to 57 %) would have to be predicted otherwise")
    assert f" in region=north: about {said}" in first and "PSI" not in first
    assert "driftline windows show credit --metric fairness --segment region;" in steps
    assert "does not by itself show discrimination" in steps


@pytest.mark.parametrize(
    ("stream", "after", "name", "said", "side"),
    [
        ("calibration", 0.3, "calibration", "10 in 100 more come true than in the reference at like scores",
         "What the scores speak of comes true more often than the same scores used to mean."),
        ("calibration", 0.1, "calibration", "10 in 100 fewer come true than in the reference at like scores",
         "What the scores speak of comes true less often than the same scores used to mean."),
        ("calibration_slope", 0.3, "how outcomes follow the scores", "10 in 100 more of the low scores come true than "
         "in the reference, and fewer of the high ones",
         "Low scores come true more often than they did, and high ones less: scores tell less."),
        ("calibration_slope", 0.1, "how outcomes follow the scores", "10 in 100 fewer of the low scores come true "
         "than in the reference, and more of the high ones",
         "Low scores come true less often than they did, and high ones more: scores tell more."),
    ],
)  # fmt: skip
def test_calibration_is_told_as_a_rate(
    make_alert: Any, stream: str, after: float, name: str, said: str, side: str
) -> None:
    cause = cause_of(make_alert, "outcome", stream, rates(0.203, after + 0.003))
    *_, bad, first, _ = told(make_alert, "concept_drift", cause, diagnosis="relation")
    assert first.startswith(f"{name}: about {said}. PSI ") and bad.endswith(side)


def test_residuals_that_turn_are_told_by_low_and_high_predictions(make_alert: Any) -> None:
    cause = cause_of(make_alert, "outcome", "residual_slope", LARGE)
    *_, bad, first, steps = told(make_alert, "concept_drift", cause, diagnosis="relation")
    assert first.startswith("how actual values follow the predictions: 31 % of outcomes have a higher residual, turned")
    assert bad.endswith(
        "Low predictions are too low more than they were, and high ones too high: predictions tell less."
    )
    assert "--metric mae" in steps


def test_the_loss_of_a_group_is_compared_with_that_groups_reference(make_alert: Any) -> None:
    cause = cause_of(make_alert, "fairness", "loss", LARGE, segment="region=north")
    *_, bad, first, _ = told(make_alert, "fairness", cause)
    assert first.startswith(
        "the loss in region=north: 31 % of outcomes have a larger loss than 90 % of the reference's"
    )
    assert bad.endswith("to look like the reference again. Losses are larger on the whole.")


@given(before=st.integers(1, 9), after=st.floats(0.01, 0.99))
def test_a_rates_move_is_read_back_from_ranks(before: int, after: float) -> None:
    """Exactly where a bin ends at the reference's rate."""
    rate = 1 - float(np.cumsum(NOMINAL)[1 + before])
    counts = np.array(rates(rate, after))
    assert rate_move((counts / counts.sum()).tolist(), NOMINAL) == pytest.approx(after - rate, abs=1e-4)


@given(values=st.lists(st.integers(0, 30), min_size=3, max_size=15), others=st.lists(st.integers(0, 30), min_size=15))
def test_the_mean_rank_is_that_of_all_pairs(values: list[int], others: list[int]) -> None:
    size = len(values)
    others = others[:size]
    if not sum(values[:-1]) or not sum(others[:-1]):
        assert mean_rank(values, others) == 0.5
        return
    pairs = [
        (o * e, 1.0 if i > j else 0.5 if i == j else 0.0)
        for (i, o), (j, e) in itertools.product(enumerate(values[:-1]), enumerate(others[:-1]))
    ]
    naive = sum(n * rank for n, rank in pairs) / sum(n for n, _ in pairs)
    assert mean_rank(values, others) == pytest.approx(naive)


def test_steps_name_the_error_where_values_are_predicted(make_alert: Any) -> None:
    causes = [cause_of(make_alert, "outcome", name, LARGE) for name in ("loss", "residual")]
    assert "windows show credit --metric mae;" in told(make_alert, "concept_drift", *causes)[-1]


def test_an_end_of_concept_drift_is_told_as_any_other(make_alert: Any) -> None:
    text = describe_alert(make_alert(status="resolved", monitor="concept_drift", causes=[]))
    assert str(text.headline) == "Resolved: Concept drift in credit, version 1" and text.steps is None


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("monitor", ["concept_drift", "labels", "fairness"])
def test_hostile_names_stay_harmless(make_alert: Any, lines_of: Any, monitor: str, name: str) -> None:
    roles = {"concept_drift": "outcome", "labels": "labels", "fairness": "fairness"}
    streams = {"concept_drift": "loss", "labels": "labels:" + name, "fairness": "selected"}
    kept = labels_of(make_alert, 1, 5, 5, 0.5) if monitor == "labels" else cause_of(make_alert, "outcome", "x", LARGE)
    causes = [kept | {"role": roles[monitor], "stream": stream, "segment": name} for stream in (streams[monitor], name)]
    alert = make_alert(
        monitor=monitor, causes=causes, diagnosis=name, diagnosis_reason=name, deployment_id=name, model_version=name
    )
    lines_of(describe_alert(alert))
