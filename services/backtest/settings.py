"""What a back-test changes: fields of the specification by their path, and the margins that follow from them."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.deployments.budget import shared
from services.deployments.checking import parse_specification
from services.deployments.document import read_document
from services.deployments.durations import duration_text
from services.deployments.errors import Flaw, SpecificationError
from services.deployments.specification import Specification, to_document
from streams.association import association_margin
from streams.baseline import (
    ASSOCIATION_ROLE,
    ERROR,
    FAIRNESS_ROLE,
    FEATURE,
    HUMILITY_ROLE,
    LABELS_ROLE,
    OUTCOME_ROLE,
    QUALITY_ROLE,
    Baseline,
    BaselineStream,
)
from streams.outcomes.reading import performance_layout
from streams.reference import REFERENCE_ERROR_PROBABILITY
from streams.specification import DeploymentSpec, OutcomeSpec
from streams.statistics.layouts import LOSS
from streams.statistics.margins import effective_margins

SOURCE = "--set"

_ASSIGNMENT = re.compile(r"\s*([^=\s][^=]*?)\s*=(.*)", re.DOTALL)
_WITHOUT_OUTCOMES = OutcomeSpec(1)
_INDEX = re.compile(r"\[([0-9]{1,6})\]")


@dataclass(frozen=True, slots=True)
class Assignment:
    """A field of the YAML by its path, ``features.temp.importance``, and what it is to be; None leaves it out."""

    path: str
    value: Any


def parse_assignment(text: str) -> Assignment:
    """Read ``PATH=VALUE``, the value as YAML has it: ``margin=0.02``, ``tags={team: risk}``; nothing leaves it out.

    Raises:
        SpecificationError: It is not of this form.
    """
    match = _ASSIGNMENT.fullmatch(text)
    if match is None:
        raise _refused("", f"expected PATH=VALUE, for example margin=0.02 or features.temp.importance=3, came {text!r}")
    path, value = match.groups()
    return Assignment(path, read_document(value.encode(), f"{SOURCE} {path}").value if value.strip() else None)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The settings to try; without any, those that were in force.

    Attributes:
        assignments: Fields that differ, on top of each specification that was in force, or of ``specification``.
        specification: In place of every specification that was in force.
        baseline: In place of every baseline that was in force.
        fleet: The specifications in force, by deployment: a changed risk or scope is another share of the budget.
    """

    assignments: Sequence[Assignment] = ()
    specification: Specification | None = None
    baseline: Baseline | None = None
    fleet: Mapping[str, DeploymentSpec] = dataclasses.field(default_factory=dict)

    def spec(self, recorded: DeploymentSpec) -> DeploymentSpec:
        """What is in force in place of a specification.

        Raises:
            SpecificationError: The result is refused; the flaws are named as for a file.
            DeploymentError: Fleet deployments would promise different things.
        """
        wanted = recorded
        if self.specification is not None:
            wanted = _completed(self.specification.to_spec(), recorded, self.fleet)
        if self.assignments:
            wanted = _completed(assigned(wanted, self.assignments), recorded, self.fleet)
        return wanted

    def reference(self, recorded: Baseline, before: DeploymentSpec, after: DeploymentSpec) -> Baseline:
        """What is in force in place of a baseline, under ``after`` where ``before`` was in force."""
        chosen = recorded
        if self.baseline is not None:
            chosen = dataclasses.replace(self.baseline, model_version=recorded.model_version)
        return _sealed(with_margins(chosen, before, after))

    def require_fit(self, recorded: Baseline, before: DeploymentSpec, after: DeploymentSpec) -> None:
        """Refuse settings under which what a baseline learnt from outcomes would mean something else.

        Raises:
            SpecificationError: Names the field, and what would help.
        """
        if self.baseline is None:
            _require_same_outcomes(recorded, before, after)

    def doubts(self, baseline: Baseline, spec: DeploymentSpec) -> Iterator[str]:
        """What is to be known of a baseline under the settings tried, where that is not what it was learnt with."""
        reference, outcomes = baseline.outcomes, spec.outcomes
        if outcomes is None:
            return
        version = f"the baseline of version {baseline.model_version}"
        if reference is None:
            yield (
                f"{version} knows nothing of outcomes: there is accuracy, and nothing watches it (give --baseline FILE "
                "with predictions and their outcomes)"
            )
            return
        learnt, horizon = duration_text(reference.horizon_ms), duration_text(outcomes.horizon_ms)
        if outcomes.horizon_ms > reference.horizon_ms:
            yield (
                f"{version} was learnt with a horizon of {learnt}: it takes outcomes that come after that, up to "
                f"{horizon}, for its latest ones, and concept_drift may find that they are not"
            )
        elif outcomes.horizon_ms * 1000 < reference.final_age_us:
            yield (
                f"{version} has its outcomes after up to {duration_text(reference.final_age_us // 1000)}, and none "
                f"counts after {horizon}: the monitor labels finds that they do not come any more"
            )
        segments = {s.segment.split("=", 1)[0] for s in baseline.streams if s.role == FAIRNESS_ROLE}
        missing = [name for name in outcomes.fairness if name not in segments]
        if missing:
            yield f"{version} has no streams of fairness for {', '.join(missing)}: the monitor does not watch them"


def assigned(spec: DeploymentSpec, assignments: Sequence[Assignment]) -> DeploymentSpec:
    """A specification with some of its fields changed, checked as a file is.

    Raises:
        SpecificationError: Names every flaw.
    """
    document = to_document(spec)
    document["features"] = {
        feature["name"]: {name: value for name, value in feature.items() if name != "name"}
        for feature in document["features"]
    }
    for assignment in assignments:
        _assign(document, assignment)
    try:
        text = json.dumps(document, ensure_ascii=False)
        return parse_specification(text.encode(), SOURCE).to_spec()
    except SpecificationError as error:
        # the lines are those of a text that nobody wrote
        raise SpecificationError(SOURCE, [dataclasses.replace(f, line=0, column=0) for f in error.flaws]) from error


def _assign(document: dict[str, Any], assignment: Assignment) -> None:
    here: Any = document
    parts = _INDEX.sub(r".\1", assignment.path).split(".")
    done: list[str] = []
    while parts:
        name, parts = _longest_key(here, parts)
        if isinstance(here, list):
            here = _item(here, name, assignment, last=not parts)
            continue
        if done == ["features"] and parts and name not in here:
            raise _refused(assignment.path, f"no feature {name!r}{_close(name, here)}")
        done.append(name)
        if parts:
            below = here.setdefault(name, {})
            if not isinstance(below, dict | list):
                below = here[name] = {"kind": below} if done[:-1] == ["features"] else {}
            here = below
        elif assignment.value is None:
            here.pop(name, None)
        else:
            here[name] = assignment.value


def _longest_key(here: Any, parts: list[str]) -> tuple[str, list[str]]:
    """The key that the next parts of a path name: a feature's name may have dots of its own."""
    if isinstance(here, dict):
        for end in range(len(parts), 1, -1):
            if (name := ".".join(parts[:end])) in here:
                return name, parts[end:]
    return parts[0], parts[1:]


def _item(items: list[Any], name: str, assignment: Assignment, *, last: bool) -> Any:
    if not name.isdigit() or int(name) >= len(items):
        raise _refused(assignment.path, f"expected the number of an item, 0 to {len(items) - 1}, came {name!r}")
    if last:
        items[int(name)] = assignment.value
    return items[int(name)]


def _close(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {close[0]!r}?)" if close else f"; there are {', '.join(sorted(known)[:8])}"


def _completed(wanted: DeploymentSpec, recorded: DeploymentSpec, fleet: Mapping[str, DeploymentSpec]) -> DeploymentSpec:
    """With what no file says: the revision, and the share of the budget."""
    for field, before, after in (
        ("deployment", recorded.deployment_id, wanted.deployment_id),
        ("shards", recorded.shards, wanted.shards),
    ):
        if before != after:
            why = "its messages were published under the keys of another one"
            raise _refused(field, f"cannot be tried, {why}: expected {before}, came {after}")
    before_budget, budget = recorded.false_alarms, wanted.false_alarms
    share = before_budget.share
    if (budget.scope, wanted.risk) != (before_budget.scope, recorded.risk):
        given = {spec.deployment_id: spec for spec in shared(fleet, [wanted])}
        share = given[wanted.deployment_id].false_alarms.share
    return dataclasses.replace(
        wanted, revision=recorded.revision, false_alarms=dataclasses.replace(budget, share=share)
    )


def with_margins(baseline: Baseline, before: DeploymentSpec, after: DeploymentSpec) -> Baseline:
    """The baseline as it would be if it had been built with the margins of ``after`` in place of those of ``before``.

    A margin is what the operator calls no change, widened to what a reference of this size can tell apart
    (:func:`streams.statistics.margins.effective_margins`): the counts of the baseline are enough, the reference itself
    is not read again. Streams whose margin is configured as before keep theirs. What seasonal edges, new categories and
    arming add, the counts do not tell: where it is in force, the margin is not lowered.
    """
    owners = {column: derived.name for derived in baseline.derived for column in derived.columns}
    margins = []
    for stream in baseline.streams:
        owner = owners.get(stream.name, stream.name)
        wanted, had = configured_margin(stream, owner, after), configured_margin(stream, owner, before)
        margins.append(stream.margin_tv if wanted == had else _margin(stream, wanted, had))
    if margins == [stream.margin_tv for stream in baseline.streams]:
        return baseline
    streams = zip(baseline.streams, margins, strict=True)
    return dataclasses.replace(
        baseline, streams=tuple(dataclasses.replace(stream, margin_tv=margin) for stream, margin in streams)
    )


def _margin(stream: BaselineStream, wanted: float, had: float) -> float:
    counts, layout = stream.counts[None], stream.layout
    margin, explained = (
        float(effective_margins(each, counts, REFERENCE_ERROR_PROBABILITY, layout)[0]) for each in (wanted, had)
    )
    return max(margin, stream.margin_tv) if stream.margin_tv > explained else margin


def configured_margin(stream: BaselineStream, owner: str, spec: DeploymentSpec) -> float:
    """What the operator calls no change of a stream; ``owner`` is the feature it is about, if it is about one."""
    if stream.role == QUALITY_ROLE or stream.name == ERROR:
        return spec.quality_margin_tv
    if stream.role == ASSOCIATION_ROLE:
        return association_margin(spec)
    if stream.role in (OUTCOME_ROLE, LABELS_ROLE, FAIRNESS_ROLE):
        # bets on the tail of the losses have none: it is what a margin on all of them would hide
        return 0.0 if stream.layout is LOSS else (spec.outcomes or _WITHOUT_OUTCOMES).margin_tv
    if stream.role == HUMILITY_ROLE:
        return 0.0  # nothing but the fit of the rules sets it
    own = next((f.margin_tv for f in spec.features if f.name == owner and stream.role == FEATURE), None)
    return spec.margin_tv if own is None else own


def _require_same_outcomes(baseline: Baseline, before: DeploymentSpec, after: DeploymentSpec) -> None:
    reference, had, has = baseline.outcomes, before.outcomes, after.outcomes
    if reference is None or had is None or has is None:
        return
    learnt, wanted = (performance_layout(spec, reference) for spec in (before, after))
    assert learnt is not None and wanted is not None
    named = f"the baseline {baseline.digest[:12]} of version {baseline.model_version}"
    help_text = "give one that was built with the new setting: --baseline FILE"
    if before.task != after.task:
        raise _refused("task", f"{named} was learnt from outcomes of {before.task}: {help_text}")
    if before.positive_class != after.positive_class:
        field, came = "positive_class", (before.positive_class, after.positive_class)
        raise _refused(field, f"{named} was learnt with the positive class {came[0]!r}, not {came[1]!r}: {help_text}")
    if learnt.classes != wanted.classes:
        known, came_text = (", ".join(map(repr, layout.classes)) for layout in (learnt, wanted))
        raise _refused("outcomes.classes", f"{named} knows the classes {known}, came {came_text}: {help_text}")
    if had.threshold != has.threshold and has.fairness and any(s.role == FAIRNESS_ROLE for s in baseline.streams):
        raise _refused(
            "outcomes.threshold",
            f"{named} has learnt how often each group is selected at a threshold of {had.threshold}, not of "
            f"{has.threshold}: {help_text}, or leave fairness out: --set outcomes.fairness=",
        )


def _sealed(baseline: Baseline) -> Baseline:
    digest = baseline.content_digest()
    return baseline if digest == baseline.digest else dataclasses.replace(baseline, digest=digest)


def _refused(field: str, message: str) -> SpecificationError:
    return SpecificationError(SOURCE, [Flaw(0, 0, field, message)])
