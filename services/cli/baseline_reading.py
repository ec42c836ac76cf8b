"""The reference of a baseline as the command line names it: a file, files, or topics; and what is built from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from driftline.events import PredictionColumns
    from driftline.settings import KafkaSettings
    from services.deployments.reference import TopicReference
    from services.deployments.reference_outcomes import ReferenceOutcomes
    from services.publish.reading import OnError, Selection, Tally
    from streams.baseline import Baseline
    from streams.specification import DeploymentSpec

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """Where a reference is.

    Attributes:
        file: Its predictions, and maybe its outcomes; None for the topics.
        outcomes_file: Its outcomes, in a file of their own.
        without_outcomes: Whether outcomes are left alone.
        selection: Which predictions.
        on_error: What to do with a value that cannot be read.
        file_format: Of ``file``; None where its name tells.
    """

    file: Path | None
    outcomes_file: Path | None
    without_outcomes: bool
    selection: Selection
    on_error: OnError
    file_format: str | None


@dataclass(frozen=True, slots=True)
class Built:
    """A baseline, and what is to be told of how it came about.

    Attributes:
        baseline: The baseline.
        tally: Rows of a file of predictions.
        outcomes_tally: Rows of a file of outcomes.
        topic: What was found on the predictions topic, if it was read.
        outcomes: What was found of outcomes.
        notices: What learning from outcomes said.
    """

    baseline: Baseline
    tally: Tally
    outcomes_tally: Tally
    topic: TopicReference | None
    outcomes: ReferenceOutcomes
    notices: Sequence[str]


@dataclass(frozen=True, slots=True)
class Reference:
    """The rows that a baseline, or what is fitted for one, is learnt from.

    Attributes:
        columns: The predictions.
        source: Where they came from, for people.
        outcomes: What was found of outcomes.
        tally: Rows of files of predictions.
        outcomes_tally: Rows of files of outcomes.
        topic: What was found on the predictions topic, if it was read.
    """

    columns: Sequence[PredictionColumns]
    source: str
    outcomes: ReferenceOutcomes
    tally: Tally
    outcomes_tally: Tally
    topic: TopicReference | None


def read(
    settings: KafkaSettings, spec: DeploymentSpec, version: str, requests: Sequence[Request], say: Say
) -> Reference:
    """Read a reference, from one place or several; ``say`` is told what is being done."""
    from services.deployments.reference_outcomes import ReferenceOutcomes
    from services.publish.reading import Tally

    tally, outcomes_tally = Tally(), Tally()
    columns: list[PredictionColumns] = []
    sources: list[str] = []
    found, topic = ReferenceOutcomes(), None
    for request in requests:
        rows, source, topic = _read_predictions(settings, spec, version, request, tally, say)
        outcomes = _read_outcomes(settings, spec, rows, request, outcomes_tally, say)
        columns += rows
        sources.append(source)
        found.columns += outcomes.columns
        found.refused += outcomes.refused
        if outcomes.until_us is not None:
            found.until_us = max(outcomes.until_us, found.until_us or outcomes.until_us)
    return Reference(columns, "; ".join(sources), found, tally, outcomes_tally, topic)


def build(settings: KafkaSettings, spec: DeploymentSpec, version: str, request: Request, say: Say) -> Built:
    """Read a reference and learn a baseline from it; ``say`` is told what is being done."""
    from streams.reference import build_baseline

    reference = read(settings, spec, version, [request], say)
    notices: list[str] = []
    baseline = build_baseline(
        spec,
        version,
        reference.columns,
        source=reference.source,
        outcomes=reference.outcomes.columns,
        outcomes_until_us=reference.outcomes.until_us,
        progress=lambda what: say(f"learning: {what}"),
        notice=notices.append,
    )
    return built_from(baseline, reference, notices)


def built_from(baseline: Baseline, reference: Reference, notices: Sequence[str]) -> Built:
    """A baseline beside what there is to be told of the reference it was learnt from."""
    return Built(baseline, reference.tally, reference.outcomes_tally, reference.topic, reference.outcomes, notices)


def _read_predictions(
    settings: KafkaSettings, spec: DeploymentSpec, version: str, request: Request, tally: Tally, say: Say
) -> tuple[Sequence[PredictionColumns], str, TopicReference | None]:
    if request.file is None:
        return _read_topic(settings, spec, version, request.selection, say)
    from services.publish.files import open_file
    from services.publish.reading import read_reference, source_text

    say(f"reading {request.file.name}")
    opened = open_file(request.file, request.file_format)
    columns = read_reference(
        opened, spec, version, selection=request.selection, on_error=request.on_error, tally=tally
    )  # fmt: skip
    return columns, source_text(request.file, request.selection, sum(batch.rows for batch in columns)), None


def _read_topic(
    settings: KafkaSettings, spec: DeploymentSpec, version: str, selection: Selection, say: Say
) -> tuple[Sequence[PredictionColumns], str, TopicReference]:
    from services.deployments.reference import read_topic, source_text

    topic = settings.topics.predictions
    found = read_topic(settings, spec, version, selection, progress=_counted(say, topic, spec.deployment_id))
    return found.columns, source_text(topic, selection, found), found


def _read_outcomes(
    settings: KafkaSettings,
    spec: DeploymentSpec,
    columns: Sequence[PredictionColumns],
    request: Request,
    tally: Tally,
    say: Say,
) -> ReferenceOutcomes:
    """Outcomes from where the reference is: nowhere, where none are expected or none are there."""
    from services.deployments.reference_outcomes import (
        ReferenceOutcomes,
        file_outcomes,
        has_outcomes,
        topic_outcomes,
    )
    from services.publish.files import open_file

    if spec.outcomes is None or request.without_outcomes or not columns:
        return ReferenceOutcomes()
    file, form = request.outcomes_file, None
    if file is None and request.file is not None and has_outcomes(open_file(request.file, request.file_format), spec):
        file, form = request.file, request.file_format
    if file is not None:
        say(f"reading the outcomes of {file.name}")
        return file_outcomes(file, spec, file_format=form, on_error=request.on_error, tally=tally)
    if request.file is not None:
        return ReferenceOutcomes()
    progress = _counted(say, settings.topics.outcomes, spec.deployment_id)
    return topic_outcomes(settings, spec, columns, request.selection, progress=progress)


def _counted(say: Say, topic: str, deployment_id: str) -> Callable[[int], None]:
    read = 0

    def progress(rows: int) -> None:
        nonlocal read
        read += rows
        say(f"reading {topic}: {read:,} rows of {deployment_id}")

    return progress
