"""Back-tests of humility rules as tables on a terminal."""

from __future__ import annotations

from driftline.humility.rules import ACTIONS
from services.cli.humility_report import (
    BENEFIT,
    NAMES,
    error_cell,
    limits_text,
    loss_title,
    say_harm,
    show_rule_lines,
    time_text,
)
from services.cli.humility_tables import say, share_text
from services.cli.output import print_table
from services.humility.backtest import Backtested
from services.humility.report import decision_lines
from services.humility.verdict import rule_words
from services.humility.worth import DECIDED, ERROR, loss_name
from streams.specification import DeploymentSpec


def show_backtest(spec: DeploymentSpec, found: Backtested) -> None:
    """Print rules that were tried beside those in force."""
    is_share = loss_name(found.task) == ERROR
    now, would = found.now, found.would
    fit = "by the fit in force" if not found.fit else f"both fitted to {found.fit}"
    say(
        f" {time_text(now.stretch.start_us)} to {time_text(now.stretch.end_us)} by event time, UTC; "
        f"{found.rows:,} rows, {share_text(now.stretch.part(DECIDED).resolved, found.rows)} with an outcome, {fit}",
        lead=f"{spec.deployment_id}@{found.model_version}",
    )
    _show_sides(found, is_share=is_share)
    show_rule_lines(now.rules, with_values=found.with_values, is_share=is_share, title="Rules in force")
    show_rule_lines(would.rules, with_values=found.with_values, is_share=is_share, title="Rules that are tried")
    moved = found.rows - int(found.moved.trace())
    say(f" {moved:,} of {found.rows:,} ({share_text(moved, found.rows)})", lead="decided otherwise:")
    for before, row in zip(ACTIONS, found.moved.tolist(), strict=True):
        told = [f"{rows:,} {after}" for after, rows in zip(ACTIONS, row, strict=True) if rows and after != before]
        if told:
            say(f"  now {before}, would be: {', '.join(told)}")
    say_harm(would.stretch, is_share=is_share)
    for text in now.unarmed:
        say(text, lead="Unarmed in force: ")
    for text in would.unarmed:
        say(text, lead="Unarmed of those that are tried: ")
    if would.unarmed and not found.fit:
        say("fit both sets of rules to the first part of history: --fit-on 50%", dim=True)
    for text in found.notes:
        say(text, dim=True)
    if found.repeated:
        say(f"{found.repeated:,} repeated rows counted once", dim=True)
    say(BENEFIT, dim=True)
    say(rule_words(found.standard, with_values=found.with_values), dim=True)


def _show_sides(found: Backtested, *, is_share: bool) -> None:
    loss = loss_title(is_share=is_share)
    heads = ["decision", "now", "share", loss, "95 %", "would", "its share", f"its {loss}", "its 95 %"]
    rows = []
    sides = (found.now.stretch, found.would.stretch)
    for one, other in zip(*map(decision_lines, sides), strict=True):
        cells: list[str] = [NAMES.get(one.name, one.name)]
        for line, stretch in zip((one, other), sides, strict=True):
            cells += [
                "" if line.rows is None else f"{line.rows:,}",
                "" if line.rows is None else share_text(line.rows, stretch.counts.rows),
                error_cell(line.worth, is_share=is_share),
                limits_text(line.worth.loss, is_share=is_share),
            ]
        rows.append(cells)
    print_table(heads, rows, numbers=heads[1:])
