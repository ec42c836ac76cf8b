"""An accuracy window fits into its record whatever it counts, and what does not fit is refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from driftline.codec import encode
from streams.baseline import BaselineSegment
from streams.errors import BaselineError
from streams.outcomes.frames import Frame, frame_of
from streams.outcomes.rulebook import Rulebook
from streams.outcomes.sizes import MOST_WINDOW_BYTES, check_parts, fitting, most_parts, part_bytes, too_many_parts
from streams.outcomes.windows import PerformanceWindow, performance_summary
from streams.specification import BINARY, MULTICLASS, REGRESSION, OutcomeSpec
from streams.statistics.performance.pairs import Pairs, PerformanceLayout, Predicted
from streams.statistics.performance.sums import count_pairs, count_predictions, take_group

AGES = np.array([1, 2, 3, 4, 5], np.int64) * 3_600_000_000


def layout_of(task: str, classes: int = 2) -> PerformanceLayout:
    names = tuple(f"class {number}" for number in range(classes)) if task != REGRESSION else ()
    values = np.ones((classes, classes)) if names else None
    return PerformanceLayout(task, names, age_edges_us=AGES, values=values, quantile=0.5 if not names else None)


def segment(values: int, name: str = "s") -> BaselineSegment:
    return BaselineSegment(name, "c", tuple(f"value {number}" for number in range(values)))


def dense(layout: PerformanceLayout, rows: int) -> Any:
    """Sums in which as much as possible is not zero."""
    rng = np.random.default_rng(1)
    classes = max(len(layout.classes), 1)
    width = {BINARY: 1, MULTICLASS: classes, REGRESSION: 3}[layout.task]
    predicted = Predicted(rng.random((rows, width)), rng.integers(0, classes, rows))
    pairs = Pairs(
        predicted,
        rng.integers(0, classes, rows).astype(np.float64),
        np.zeros(rows, np.int64),
        rng.integers(0, 6 * 3_600_000_000, rows),
        rng.uniform(1.0, 5.0, rows),
        rng.choice(np.array([0, 1, 255], np.uint8), rows),
        rng.random(rows),
    )
    index = np.zeros(rows, np.int64)
    calibration = rng.random((classes, layout.bins)) if layout.task == MULTICLASS else None
    counted = count_predictions(layout, predicted, index, 1, calibration=calibration)
    return take_group(count_pairs(layout, pairs, index, 1), 0), take_group(counted, 0)


@pytest.mark.parametrize(
    ("task", "classes"), [(BINARY, 2), (REGRESSION, 0), (MULTICLASS, 3), (MULTICLASS, 20), (MULTICLASS, 60)]
)
def test_a_window_full_of_everything_is_no_larger_than_was_reckoned(samples: Any, task: str, classes: int) -> None:
    layout = layout_of(task, classes)
    parts = min(most_parts(layout), 5)
    frame = Frame(1, "1", "digest", 0, 3_600_000, 3_600_000, 3_600_000, 0, layout, (segment(parts),))
    window = PerformanceWindow(frame, 0, 0, 0)
    for sums in dense(layout, 20_000):
        for name in ("", *frame.segments[0].parts):
            window.add(name, sums)
    record = performance_summary(samples.spec(), window, 0, 0, final=True).record
    size = len(encode("PerformanceWindow", dict(record)))
    reckoned = (parts + 1) * part_bytes(layout)
    assert size <= reckoned <= 12 * size


@pytest.mark.parametrize("classes", [2, 10, 20, 21, 100, 256])
def test_as_many_parts_as_are_promised_fit_and_one_more_is_refused_in_words(classes: int) -> None:
    layout = layout_of(MULTICLASS, classes)
    most = most_parts(layout)
    assert (most + 1) * part_bytes(layout) <= MOST_WINDOW_BYTES < (most + 2) * part_bytes(layout)
    assert too_many_parts(layout, most) == ""
    check_parts(layout, [segment(most)])
    with pytest.raises(BaselineError, match=f"at most {most} parts fit. Watch fewer"):
        check_parts(layout, [segment(most // 2, "a"), segment(most - most // 2 + 1, "b")])


def test_all_traffic_is_counted_of_the_most_classes_there_may_be() -> None:
    assert most_parts(layout_of(MULTICLASS, 256)) >= 1


def test_segmentations_that_do_not_fit_are_left_out_and_the_others_kept_in_order() -> None:
    layout = layout_of(MULTICLASS, 100)
    most = most_parts(layout)
    first, large, last = segment(2, "first"), segment(most - 1, "large"), segment(most - 2, "last")
    assert fitting(layout, [first, large, last]) == (first, last)
    assert fitting(layout, [large]) == (large,)
    assert fitting(layout_of(BINARY), [first, large, last]) == (first, large, last)


def test_a_frame_counts_only_what_fits(samples: Any) -> None:
    names = tuple(str(number) for number in range(200))
    spec = samples.spec(task=MULTICLASS, outcomes=OutcomeSpec(3_600_000, classes=names))
    plain = samples.baseline(samples.spec())
    baseline = type(plain)(**{name: getattr(plain, name) for name in plain.__dataclass_fields__})
    object.__setattr__(baseline, "segments", (segment(100), segment(3, "few")))
    frame = frame_of(spec, baseline, 1, 0)
    assert frame is not None and [each.name for each in frame.segments] == ["few"]


@pytest.mark.parametrize(("classes", "decisions", "rules"), [(2, 4, 64), (100, 4, None), (400, 0, 0)])
def test_parts_by_decision_and_rule_take_the_room_that_segmentations_leave(
    classes: int, decisions: int, rules: int | None
) -> None:
    layout = PerformanceLayout(MULTICLASS, tuple(f"c{n}" for n in range(classes)))
    segments = fitting(
        layout, (BaselineSegment("side", "side", ("up", "down")), BaselineSegment("rule:a", "x", ("in",)))
    )
    asked = Rulebook("p", "", ("a", *(f"r{n}" for n in range(63))), ("",), (float("nan"),), "")
    frame = Frame(1, "1", "b", 0, 1, 1, 2, 0, layout, segments, asked)
    parts = [*frame.decision_parts, *(name for _, name in frame.rule_parts)]
    taken = sum(len(segment.parts) for segment in segments)
    assert len(frame.decision_parts) == decisions
    assert taken + len(parts) + bool(decisions) <= max(most_parts(layout), 0)
    if rules is None:
        assert 0 < len(frame.rule_parts) < 64
    else:
        assert len(frame.rule_parts) == rules
    assert frame.rule_parts[:1] in ((), ((0, "rule:a=fired"),))
    plain = Frame(1, "1", "b", 0, 1, 1, 2, 0, layout, segments)
    assert plain.decision_parts == () and plain.rule_parts == ()


def test_a_segmentation_that_is_called_as_the_decisions_are_keeps_its_parts() -> None:
    layout = PerformanceLayout(BINARY, ("no", "yes"))
    segments = (BaselineSegment("decision", "decision", ("refused",)),)
    frame = Frame(1, "1", "b", 0, 1, 1, 2, 0, layout, segments, Rulebook("p", "", ("a",), ("",), (0.5,), ""))
    assert frame.decision_parts == () and frame.rule_parts == ()
