"""Humility rules on the command line: told in words, compared, and warned about before they are missed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from driftline.settings import KafkaSettings
from services.topics import ensure_topics

SPEC = """\
deployment: delays
model: delay-classifier
task: binary_classification
positive_class: late
features: {temp: numeric, carrier: categorical}
humility:
  guarantees: {novelty: 0.01}
  rules:
  - {name: storm, when: {outlying_input: {feature: temp, low: -10}}, action: refuse, message: Too cold.}
  - {name: "<!channel> [red]x[/]", when: novel_input, action: {route: desk}, dry_run: true}
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def file(settings: KafkaSettings, tmp_path: Path) -> Path:
    ensure_topics(settings, partitions=1)
    (tmp_path / "delays.yaml").write_text(SPEC)
    return tmp_path / "delays.yaml"


def test_rules_are_told_in_words_where_they_are_applied_compared_and_shown(run: Run, file: Path) -> None:
    status, out, _ = run("deployment", "diff", file)
    assert status == 1 and "created, revision 1 (dry run)" in out
    status, out, _ = run("deployment", "apply", file)
    assert status == 0
    assert "Humility: storm: when 'temp' is below -10, refuse the prediction" in out
    assert "Humility: <!channel> [red]x[/]: when the input is novel, route it to desk (dry run)" in out
    assert "Humility: asked for: novel inputs are at most 1 % of unchanged traffic, with confidence 95 %" in out
    assert "Note: rule '<!channel> [red]x[/]' never fires: novel_input: nothing has been fitted yet" in out
    assert "Note: run `driftline baseline build delays`, which fits the rules as well" in out
    assert run("deployment", "diff", file)[0] == 0

    status, out, _ = run("deployment", "show", "delays")
    assert status == 0 and "# humility: storm: when 'temp' is below -10, refuse the prediction\n" in out
    (file.parent / "again.yaml").write_text(out)
    assert run("deployment", "diff", file.parent / "again.yaml")[0] == 0
    document = json.loads(run("deployment", "show", "delays", "--json")[1])
    assert len(document["rules"]) == 3 and document["specification"]["humility"]["rules"][0]["message"] == "Too cold."

    file.write_text(SPEC.replace("low: -10", "low: -12").replace(", dry_run: true", ""))
    status, out, _ = run("deployment", "diff", file)
    assert status == 1 and "changed, revision 2 (dry run)" in out
    assert '"low": -10.0}} → {"outlying_input": {"feature": "temp", "low": -12.0}}' in " ".join(out.split())
    assert "humility.rules.<!channel> [red]x[/].dry_run: True → False" in out
    (entry,) = json.loads(run("deployment", "diff", file, "--json")[1])["deployments"]
    assert [change["field"] for change in entry["changes"]] == [
        "humility.rules.storm.when",
        "humility.rules.<!channel> [red]x[/].dry_run",
    ]
    assert run("deployment", "apply", file, "--reason", "colder")[0] == 0


def test_a_refused_rule_is_named_with_its_line_and_ends_with_status_two(run: Run, file: Path) -> None:
    file.write_text(SPEC.replace("feature: temp", "feature: tmp"))
    for command in ("apply", "diff"):
        status, _, err = run("deployment", command, file)
        assert status == 2
        assert "line 9, humility.rules[0].when.outlying_input.feature: there is no feature 'tmp'" in err


def test_status_and_budget_tell_what_humility_waits_for_and_may_spend(run: Run, file: Path) -> None:
    assert run("deployment", "apply", file)[0] == 0
    found = json.loads(run("status", "--json")[1])["deployments"][0]
    assert found["unarmed_rules"] == [
        "rule '<!channel> [red]x[/]' never fires: novel_input: nothing has been fitted yet"
    ]
    out = run("status")[1]
    assert "delays: rule '<!channel> [red]x[/]' never fires" in out and "run `driftline baseline build delays`" in out
    (account,) = json.loads(run("budget", "delays", "--json")[1])["deployments"]
    parts = {each["monitor"]: each["part"] for each in account["monitors"]}
    assert parts["humility"] == parts["service"] > 0
    file.write_text(SPEC.partition("humility:")[0])
    assert run("deployment", "apply", file)[0] == 0
    assert not json.loads(run("status", "--json")[1])["deployments"][0]["unarmed_rules"]
    rows = [line.split() for line in run("budget", "delays")[1].splitlines()]
    assert next(row for row in rows if row[:1] == ["humility"])[:3] == ["humility", "no", "rules"]


def test_with_a_baseline_rules_are_armed_and_their_delays_told(run: Run, file: Path) -> None:
    rng = np.random.default_rng(1)
    columns = "columns: {prediction_id: id, timestamp: when, class_probabilities: {late: p}}\n"
    file.write_text(SPEC.replace("humility:", columns + "humility:"))
    assert run("deployment", "apply", file)[0] == 0
    rows = ["id,when,temp,carrier,p"]
    for i in range(2_500):
        when = f"2024-03-{1 + i // 125:02d}T{i % 125 // 6:02d}:{i % 6 * 9:02d}:00Z"
        rows.append(f"{i},{when},{rng.normal(5, 8):.2f},{'AA' if i % 3 else 'UA'},{rng.random():.3f}")
    (file.parent / "march.csv").write_text("\n".join(rows) + "\n")
    status, _, err = run("baseline", "build", "delays", file.parent / "march.csv", "--version", "1")
    assert status == 0, err
    assert not json.loads(run("status", "--json")[1])["deployments"][0]["unarmed_rules"]
    out = run("budget", "delays")[1]
    assert "Expected delay until the alarm when humility rules no longer act as they were fitted to, version 1:" in out
    assert "a rule's or an action's share of predictions rises by 10 points" in out
    status, out, _ = run("deployment", "apply", file)
    assert status == 0 and "driftline humility fit" not in out
    file.write_text(file.read_text().replace("low: -10", "low: -12"))
    out = run("deployment", "apply", file)[1]
    assert "Note: what was fitted is of other rules or guarantees: how often rules fire is not watched" in out
    assert "Note: run `driftline humility fit delays --version 1`" in out
