"""What a specification cannot say of outcomes, given its task, its classes and its segments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from services.deployments.document import Path
from services.deployments.durations import duration_text
from services.deployments.errors import Flaw
from services.deployments.form import Form
from services.deployments.outcomes import TASKS_OF_FIELDS, Outcomes
from services.deployments.specification import Segment, Specification
from services.deployments.wording import did_you_mean, either, shown
from streams.outcomes.decided import DECISION_PARTS
from streams.outcomes.reading import performance_layout
from streams.outcomes.sizes import most_parts, part_bytes, too_many_parts
from streams.specification import BINARY, MULTICLASS, OTHER_TASK

MOST_OPEN_WINDOWS = 3_000
"""Windows that wait for their outcomes at a time; each keeps sums of every version and part of the traffic."""

MOST_OPEN_BYTES = 1 << 30
"""Of these sums, of one version: a worker keeps them in memory."""

OUTCOME_STREAMS = re.compile(
    r"loss|loss_tail|calibration(_slope)?|residual(_slope)?|outcome|selected|true_positive|false_positive|labels:.*",
    re.DOTALL,
)
"""Names of the streams that are learnt from outcomes."""


def impossible_outcomes(form: Form, specification: Specification) -> Iterator[Flaw]:
    """What the fields of ``outcomes`` allow and the whole specification does not."""
    outcomes = specification.outcomes
    if outcomes is None:
        return
    yield from _foreign_fields(form, specification.task, outcomes)
    if specification.task == BINARY and specification.positive_class is None:
        message = (
            "outcomes of binary_classification need a positive class: give positive_class, as in positive_class: late"
        )
        yield form.flaw(("outcomes",), message, of_key=True)
    yield from _impossible_classes(form, specification, outcomes)
    yield from _impossible_values(form, outcomes)
    yield from _impossible_fairness(form, specification, outcomes)
    yield from _too_many_windows(form, outcomes)
    yield from _too_large_windows(form, specification, outcomes)


def repeated(names: Sequence[str]) -> list[int]:
    """Where a list says again what it has said before."""
    seen: set[str] = set()
    places = []
    for index, name in enumerate(names):
        if name in seen:
            places.append(index)
        seen.add(name)
    return places


def _foreign_fields(form: Form, task: str, outcomes: Outcomes) -> Iterator[Flaw]:
    """Fields that say nothing about models of this task."""
    for name, tasks in TASKS_OF_FIELDS.items():
        if name not in outcomes.model_fields_set or task in tasks:
            continue
        if task == OTHER_TASK:
            why = "of the task other only the coverage and the delays of outcomes are watched: leave it out"
        else:
            why = f"it is for {either(tasks)}, the task is {task}"
        yield form.flaw(("outcomes", name), why, of_key=True)


def _impossible_classes(form: Form, specification: Specification, outcomes: Outcomes) -> Iterator[Flaw]:
    classes, positive, path = outcomes.classes, specification.positive_class, ("outcomes", "classes")
    if not classes or specification.task not in (BINARY, MULTICLASS):
        return
    for index in repeated(classes):
        yield form.flaw((*path, index), f"the class {classes[index]!r} is given twice")
    if specification.task == BINARY and len(classes) != 2:
        yield form.flaw(path, f"binary_classification has 2 classes, came {len(classes)}")
    elif len(classes) < 2:
        yield form.flaw(path, f"expected at least 2 classes, came {len(classes)}")
    if specification.task == BINARY and positive is not None and positive not in classes:
        message = f"the positive class {positive!r} is not among the classes {_listed(classes)}"
        yield form.flaw(("positive_class",), message + did_you_mean(positive, classes))


def _impossible_values(form: Form, outcomes: Outcomes) -> Iterator[Flaw]:
    if outcomes.values and not outcomes.classes:
        yield form.flaw(("outcomes", "values"), "values of classes need outcomes.classes, in which they are named")
        return
    pairs: dict[tuple[str, str], int] = {}
    for index, each in enumerate(outcomes.values):
        path: Path = ("outcomes", "values", index)
        for field, name in (("predicted", each.predicted), ("actual", each.actual)):
            if name not in outcomes.classes:
                known = f"expected one of the classes {_listed(outcomes.classes)}, came {shown(name)}"
                yield form.flaw((*path, field), known + did_you_mean(name, outcomes.classes))
        first = pairs.setdefault((each.predicted, each.actual), index)
        if first != index:
            line = form.document.mark(("outcomes", "values", first)).line
            pair = f"predicted {each.predicted!r} and actual {each.actual!r}"
            yield form.flaw(path, f"the value of {pair} is given twice, first on line {line}")


def _impossible_fairness(form: Form, specification: Specification, outcomes: Outcomes) -> Iterator[Flaw]:
    known = list(specification.segments)
    for index, name in enumerate(outcomes.fairness):
        if name not in known:
            there = f"declared are {_listed(known)}" if known else "none is declared"
            hint = did_you_mean(name, known) or f"; {there}"
            message = f"fairness compares the parts of a segmentation under segments:, and {name!r} is none{hint}"
            yield form.flaw(("outcomes", "fairness", index), message)
        elif specification.segments[name].is_rule:
            column = specification.segments[name].column
            message = (
                f"fairness compares the parts of a segmentation with each other, and {name!r} has one part only, a "
                f"range of {column!r}: take a segmentation by values, as of an attribute that names the group"
            )
            yield form.flaw(("outcomes", "fairness", index), message)
    for index in repeated(outcomes.fairness):
        yield form.flaw(
            ("outcomes", "fairness", index), f"the segmentation {outcomes.fairness[index]!r} is given twice"
        )


def _too_many_windows(form: Form, outcomes: Outcomes) -> Iterator[Flaw]:
    waits_ms = outcomes.to_spec().final_after_ms
    windows = _open_windows(outcomes)
    if windows > MOST_OPEN_WINDOWS:
        yield form.flaw(
            ("outcomes", _window_or_horizon(outcomes)),
            f"a window of {duration_text(outcomes.window)} waits {duration_text(waits_ms)} for its outcomes (horizon "
            f"and lateness): {windows:,} would be open at a time, at most {MOST_OPEN_WINDOWS:,} may be. Make the "
            "window longer or the horizon shorter",
        )


def _too_large_windows(form: Form, specification: Specification, outcomes: Outcomes) -> Iterator[Flaw]:
    """Windows of many classes and parts; where the classes come from the baseline, that is refused instead."""
    layout = performance_layout(specification.to_spec(), None)
    if layout is None:
        return
    parts = sum(map(_parts, specification.segments.values()))
    why = too_many_parts(layout, parts)
    if why:
        yield form.flaw(("outcomes", "classes") if outcomes.classes else ("outcomes",), why)
        return
    if specification.humility is not None:  # and parts by decision and rule, as many as fit into a record
        parts = min(parts + len(DECISION_PARTS) + 1 + len(specification.humility.rules), most_parts(layout))
    windows, each = _open_windows(outcomes), (parts + 1) * part_bytes(layout)
    if windows <= MOST_OPEN_WINDOWS and windows * each > MOST_OPEN_BYTES:
        yield form.flaw(
            ("outcomes", _window_or_horizon(outcomes)),
            f"{windows:,} windows of all traffic and {parts:,} parts of it would be open at a time, of up to {each:,} "
            f"bytes each: more than the {MOST_OPEN_BYTES:,} that a version may take. Make the window longer or the "
            "horizon shorter, or watch fewer parts",
        )


def _parts(segment: Segment) -> int:
    """How many parts a segmentation has at most, with the one of all other values."""
    return 1 if segment.is_rule else segment.to_spec("").most + 1


def _open_windows(outcomes: Outcomes) -> int:
    return outcomes.to_spec().final_after_ms // outcomes.window + 1


def _window_or_horizon(outcomes: Outcomes) -> str:
    return "window" if "window" in outcomes.model_fields_set else "horizon"


def _listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(repr(name[:40]) for name in names[:8]) + (" …" if len(names) > 8 else "")
