"""Reports and back-tests for machines."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from driftline.humility.rules import ACTIONS
from services.humility.backtest import Backtested, Side
from services.humility.report import RuleLine, Stretch, VersionReport, decision_lines
from services.humility.showing import counts_document
from services.humility.verdict import rule_words
from services.humility.worth import PartWorth, coverage_of, loss_name
from streams.specification import DeploymentSpec
from streams.statistics.performance.metrics import Metric


def report_document(spec: DeploymentSpec, report: VersionReport) -> dict[str, Any]:
    """The report on one version."""
    return {
        "deployment": spec.deployment_id,
        "version": report.model_version,
        "policies": list(report.policies),
        "loss": loss_name(report.task),
        "windows_left_out": report.left_out,
        "all": stretch_document(report.whole),
        "rules": [rule_document(rule) for rule in report.rules],
        "verdict_rule": rule_words(report.standard, with_values=report.with_values),
        "periods": [stretch_document(each) for each in report.periods],
        "months": [stretch_document(each) for each in report.months],
        "segments": [
            {"segment": part, **counts_document(counts), "worth": worth_document(worth)}
            for part, counts, worth in report.segments
        ],
    }


def backtest_document(spec: DeploymentSpec, found: Backtested) -> dict[str, Any]:
    """Rules that were tried beside those in force."""
    return {
        "deployment": spec.deployment_id,
        "version": found.model_version,
        "loss": loss_name(found.task),
        "rows": found.rows,
        "repeated": found.repeated,
        "fitted_to": found.fit,
        "now": _side(found.now),
        "would": _side(found.would),
        "moved": {
            before: dict(zip(ACTIONS, row, strict=True))
            for before, row in zip(ACTIONS, found.moved.tolist(), strict=True)
        },
        "verdict_rule": rule_words(found.standard, with_values=found.with_values),
        "notes": list(found.notes),
    }


def stretch_document(stretch: Stretch) -> dict[str, Any]:
    """One period."""
    coverage = None if stretch.worth is None else coverage_of(stretch.worth)
    return {
        "start_us": stretch.start_us,
        "end_us": stretch.end_us,
        "provisional": stretch.provisional,
        "usually_known": stretch.usual,
        **counts_document(stretch.counts),
        "decisions": [
            {"decision": line.name, "rows": line.rows, **worth_document(line.worth)} for line in decision_lines(stretch)
        ],
        "coverage": None
        if coverage is None
        else {name: metric_document(each) for name, each in zip(("adaptive", "static"), coverage, strict=True)},
    }


def rule_document(rule: RuleLine) -> dict[str, Any]:
    """One rule."""
    verdict = rule.verdict
    return {
        "rule": rule.name,
        "action": rule.action,
        "dry_run": rule.dry_run,
        "rows": rule.judged,
        "fired": rule.fired,
        "acted": rule.acted,
        "where_fired": worth_document(rule.where_fired),
        "elsewhere": worth_document(rule.elsewhere),
        "caught": rule.where_fired.wrong,
        "cost": rule.where_fired.right,
        "verdict": verdict.kind,
        "reason": verdict.reason,
        "difference": _limits(verdict.difference),
        "lift": _limits(verdict.lift),
    }


def worth_document(worth: PartWorth) -> dict[str, Any]:
    """What a part was worth."""
    return {
        "predictions": worth.predictions,
        "outcomes": worth.resolved,
        "known": worth.known,
        "loss": metric_document(worth.loss),
        "value": metric_document(worth.value),
        "wrong": worth.wrong,
        "right": worth.right,
    }


def metric_document(metric: Metric | None) -> dict[str, Any] | None:
    """A number with its interval; None where there is none."""
    return None if metric is None or metric.value is None else dataclasses.asdict(metric)


def _limits(found: tuple[float, float, float] | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    return {
        name: each if math.isfinite(each) else None for name, each in zip(("value", "low", "high"), found, strict=True)
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        **stretch_document(side.stretch),
        "unarmed": list(side.unarmed),
        "rules": [rule_document(rule) for rule in side.rules],
    }
