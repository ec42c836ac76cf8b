"""What each field of a specification allows and the whole does not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from services.deployments.document import Path
from services.deployments.errors import Flaw
from services.deployments.form import Form
from services.deployments.impossible_humility import impossible_humility
from services.deployments.impossible_outcomes import OUTCOME_STREAMS, impossible_outcomes, repeated
from services.deployments.specification import Segment, Specification
from services.deployments.wording import did_you_mean, either
from streams.baseline import ASSOCIATION_PREFIX, ERROR, LATENCY, QUALITY_PREFIX, RATE, SCHEMA
from streams.columns import PREDICTION, PREDICTION_LABEL, PROBABILITY_PREFIX
from streams.derived import JOINT_DISTANCE, Derived
from streams.detectors import (
    DETECTORS,
    MOST_DETECTORS,
    NUMBERS,
    STREAMS_OF_OUTCOMES,
    check_detector,
    outcome_streams,
    takes,
)
from streams.errors import StreamsError
from streams.specification import DEFAULT_BUDGET_KINDS, EMBEDDING, TEXT

MOST_SEGMENTATIONS = 5
"""Each multiplies the streams of a deployment by its parts."""

RESERVED_NAMES = frozenset({PREDICTION, PREDICTION_LABEL, LATENCY, ERROR, SCHEMA, RATE, JOINT_DISTANCE})
RESERVED_PREFIXES = (PROBABILITY_PREFIX, QUALITY_PREFIX, ASSOCIATION_PREFIX)
"""Names of the streams that are no features."""


def contradictions(form: Form, specification: Specification) -> Iterator[Flaw]:
    """What each field allows and the whole does not."""
    yield from _repeated_features(form, specification)
    yield from _reserved_names(form, specification)
    if specification.positive_class is not None and specification.task != "binary_classification":
        message = f"only binary_classification has a positive class, the task is {specification.task}"
        yield form.flaw(("positive_class",), message)
    yield from _overspent_kinds(form, specification)
    yield from _impossible_segments(form, specification)
    yield from _impossible_detectors(form, specification)
    yield from impossible_outcomes(form, specification)
    yield from impossible_humility(form, specification)
    for index in repeated(specification.challengers):
        version = specification.challengers[index]
        yield form.flaw(("challengers", index), f"the challenger {version!r} is given twice")


def _repeated_features(form: Form, specification: Specification) -> Iterator[Flaw]:
    first: dict[str, int] = {}
    for index, feature in enumerate(specification.features):
        if feature.name in first:
            line = form.document.mark(("features", first[feature.name], "name")).line
            mark = form.document.mark(("features", index, "name"))
            message = f"the feature {feature.name!r} is given twice, first on line {line}"
            yield Flaw(mark.line, mark.column, form.text(("features", index)), message)
        first.setdefault(feature.name, index)


def _reserved_names(form: Form, specification: Specification) -> Iterator[Flaw]:
    """A stream has one name: what is derived from a feature must not be called like another one."""
    kinds = {feature.name: feature.kind for feature in specification.features}
    for index, feature in enumerate(specification.features):
        reason = _reserved(feature.name, kinds)
        if not reason and specification.outcomes is not None and OUTCOME_STREAMS.fullmatch(feature.name):
            reason = f"with outcomes, Driftline has a stream {feature.name!r} of its own"
        if reason:
            message = (
                f"a feature cannot be called {feature.name!r}: {reason}; rename it, and give this name as its column"
            )
            yield form.flaw(("features", index, "name"), message)


def _reserved(name: str, kinds: Mapping[str, str]) -> str:
    """Why a feature cannot have a name; empty if it can."""
    if name in RESERVED_NAMES:
        return f"Driftline has a stream {name!r} of its own"
    prefix = next((prefix for prefix in RESERVED_PREFIXES if name.startswith(prefix)), None)
    if prefix is not None:
        return f"names that begin with {prefix!r} are those of derived streams"
    parent = name.rpartition(".")[0]
    kind = kinds.get(parent, "")
    if kind in (TEXT, EMBEDDING) and name in Derived(kind, parent).columns:
        return f"it is a stream that is derived from the {kind} {parent!r}"
    return ""


def _overspent_kinds(form: Form, specification: Specification) -> Iterator[Flaw]:
    parts = {**DEFAULT_BUDGET_KINDS, **{str(kind): part for kind, part in specification.false_alarms.kinds.items()}}
    total = math.fsum(parts.values())
    if total > 1 + 1e-9:
        listed = ", ".join(
            f"{kind} {part:g}{'' if kind in specification.false_alarms.kinds else ' (by default)'}"
            for kind, part in parts.items()
        )
        message = f"the parts must add up to at most 1, and come to {total:g}: {listed}"
        yield form.flaw(("false_alarms", "kinds"), message)


def _impossible_segments(form: Form, specification: Specification) -> Iterator[Flaw]:
    if len(specification.segments) > MOST_SEGMENTATIONS:
        message = f"at most {MOST_SEGMENTATIONS} segmentations, came {len(specification.segments)}"
        yield form.flaw(("segments",), message)
    kinds = {feature.name: feature.kind for feature in specification.features}
    attributes = specification.columns.segments
    known = [*kinds, *(name for name in attributes if name not in kinds)]
    for name, segment in specification.segments.items():
        path: Path = ("segments", name)
        kind = kinds.get(segment.column)
        if kind is None and segment.column not in attributes:
            hint = did_you_mean(segment.column, known) or "; declare attributes that are none under columns.segments"
            message = f"{segment.column!r} is neither a feature nor a segment attribute{hint}"
            yield form.flaw((*path, "column"), message)
        elif segment.is_rule and kind != "numeric":
            of_kind = f"a {kind} feature" if kind else "an attribute of text"
            message = f"from and below make a rule on a number, and {segment.column!r} is {of_kind}: list its values"
            yield form.flaw(path, message)
        elif kind in ("text", "embedding"):
            yield form.flaw((*path, "column"), f"a feature of kind {kind} does not divide the traffic into parts")
        elif kind == "numeric" and not segment.is_rule:
            message = (
                f"{segment.column!r} is numeric: give a rule, as in {{column: {segment.column}, from: 0, below: 10}}"
            )
            yield form.flaw(path, message)
        yield from _contradictory_segment(form, path, segment)


def _contradictory_segment(form: Form, path: Path, segment: Segment) -> Iterator[Flaw]:
    if segment.is_rule and (segment.values or segment.most is not None):
        other = "values" if segment.values else "most"
        yield form.flaw((*path, other), f"a rule (from, below) makes one part: leave {other} out, or the rule")
    elif segment.values and segment.most is not None:
        yield form.flaw((*path, "most"), "the listed values are all watched: leave most out, or the values")
    if segment.low is not None and segment.below is not None and not segment.low < segment.below:
        yield form.flaw((*path, "below"), f"expected a number above from, {segment.low:g}, came {segment.below:g}")
    for index in repeated(segment.values):
        yield form.flaw((*path, "values", index), f"the value {segment.values[index]!r} is given twice")


def _impossible_detectors(form: Form, specification: Specification) -> Iterator[Flaw]:
    if len(specification.detectors) > MOST_DETECTORS:
        message = f"at most {MOST_DETECTORS} detectors, came {len(specification.detectors)}"
        yield form.flaw(("detectors",), message)
    kinds = {feature.name: feature.kind for feature in specification.features}
    can = [PREDICTION, *(name for name, kind in kinds.items() if kind in ("numeric", "boolean"))]
    spec = specification.to_spec()
    can += outcome_streams(spec)
    of_numbers = [name for name in outcome_streams(spec) if name != ERROR]
    any_number = [name for name in DETECTORS if takes(name) == NUMBERS]
    seen: set[tuple[str, str]] = set()
    for index, detector in enumerate(specification.detectors):
        path: Path = ("detectors", index)
        if detector.stream not in can:
            yield form.flaw((*path, "stream"), _not_followed(specification, detector.stream, kinds, can))
            continue
        if (detector.detector, detector.stream) in seen:
            yield form.flaw(path, f"{detector.detector} follows {detector.stream!r} already")
        elif detector.stream in of_numbers and takes(detector.detector) != NUMBERS:
            message = (
                f"{detector.detector} takes {takes(detector.detector)}, and {detector.stream!r} is any number: take "
                f"{either(any_number)}" + (f", or let it follow {ERROR!r}" if ERROR in outcome_streams(spec) else "")
            )
            yield form.flaw((*path, "detector"), message)
        seen.add((detector.detector, detector.stream))
        try:
            check_detector(detector.to_spec())
        except StreamsError as error:
            yield form.flaw((*path, "parameters"), str(error))


def _not_followed(specification: Specification, stream: str, kinds: Mapping[str, str], can: Sequence[str]) -> str:
    """Why a detector cannot follow a stream."""
    if any(stream in names for names in STREAMS_OF_OUTCOMES.values()) and stream not in kinds:
        of_task = STREAMS_OF_OUTCOMES.get(specification.task, ())
        if stream not in of_task:
            others = f"expected {either(of_task)}" if of_task else "there are none that a detector could follow"
            return f"{stream!r} is no stream of outcomes of the task {specification.task}: {others}"
        return (
            f"{stream!r} is a stream of outcomes, and none are expected: say how long they may take, as in "
            "'outcomes: {horizon: 30d}'"
        )
    known = kinds.get(stream)
    what = f"{stream!r} is a {known} feature" if known else f"there is no feature {stream!r}"
    of_outcomes = outcome_streams(specification.to_spec())
    besides = f", or {either(of_outcomes)} of the outcomes" if of_outcomes else ""
    hint = "" if known else did_you_mean(stream, can)
    return f"a detector follows 'prediction' or a numeric or boolean feature{besides}, and {what}{hint}"
