"""``driftline humility``: from rules to whether they helped, as a user types it, with a real broker and worker."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from driftline import Client, Decisions
from driftline.codec import decode
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.cli import output
from services.cli.humility_options import complete_cut, complete_version
from services.cli.main import main
from services.deployments.baselines import get_baseline
from services.kafka import read_to_end
from services.positions import stream_positions

HOUR_US = 3_600_000_000
WIDTH = 100
"""Characters: tables are no wider, or fold."""

T0 = 1_717_178_400_000_000 - 4 * HOUR_US
"""2024-05-31T14:00:00Z: eighteen hours from then on are in two months."""

ROWS, STEP_US = 4_500, 14_400_000
REFERENCE_US = T0 - 10 * 24 * HOUR_US
SPEC = """\
deployment: delays
model: delay-classifier
task: binary_classification
positive_class: late
features: {x: numeric, y: numeric, c: categorical}
columns: {prediction_id: id, timestamp: at, actual_timestamp: known, timestamp_format: epoch_us}
segments: [c]
window: 1h
start_slot: 1h
outcomes:
  horizon: 2h
  window: 1h
  lateness: 10m
  margin: 0.05
humility:
  guarantees: {novelty: 0.02, max_error: 0.2, coverage: 0.9, segment: c}
  rules:
  - {name: storm, when: {outlying_input: {feature: y, low: -2, high: 2}}, action: refuse, priority: 10}
  - {name: unsure, when: {uncertain_prediction: {score: {low: 0.45, high: 0.55}}}, action: {route: desk}}
  - {name: odd class, when: {low_observation_region: {feature: c, values: [b]}}, action: record, dry_run: true}
  - name: "[red]<!channel>[/]"
    when: {uncertain_prediction: {score: {low: 0.3, high: 0.45}}}
    action: {override: {label: late}}
  - {name: new, when: novel_input, action: record}
"""


def rows_of(seed: int, rows: int, start_us: int) -> dict[str, Any]:
    """Predictions that are right as often as they say, but in storms, where they are right by chance."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=rows), rng.normal(size=rows)
    score = 1 / (1 + np.exp(-3 * x))
    storm = np.abs(y) > 2
    late = rng.random(rows) < np.where(storm, 0.5, score)
    at = start_us + np.arange(rows) * STEP_US
    return {
        "id": [f"{seed}-{i}" for i in range(rows)],
        "at": at,
        "x": x,
        "y": y,
        "c": np.array(["a", "b"])[np.arange(rows) % 2],
        "prediction": score,
        "prediction_label": np.where(score >= 0.5, "late", "on time"),
        "actual_label": np.where(late, "late", "on time"),
        "known": at + (rng.random(rows) * HOUR_US).astype(np.int64),
    }


def write(path: Path, columns: dict[str, Any], names: tuple[str, ...] = ()) -> Path:
    chosen = {name: column for name, column in columns.items() if not names or name in names}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(chosen)
        writer.writerows(zip(*chosen.values(), strict=True))
    return path


@dataclass
class World:
    """A deployment with rules, fitted, decided by its application, and applied by a worker."""

    settings: KafkaSettings
    folder: Path
    spec: Path
    reference: Path
    predictions: Path
    rows: dict[str, Any]
    fitted: str = ""
    decisions: Decisions | None = None

    def publish(self) -> None:
        """The application decides, serves and logs; outcomes come; a day later, when all is known, some more."""
        with Client("delays", "3", settings=self.settings, strict=True, spool_dir=self.folder / "spool") as client:
            assert client.wait_for_humility(30)
            self.decisions = self._log(client, self.rows)
            self._log(client, rows_of(3, 100, T0 + 24 * HOUR_US))
            self._log(client, rows_of(4, 100, T0 + 48 * HOUR_US))

    def _log(self, client: Client, rows: dict[str, Any]) -> Decisions:
        features = {name: rows[name] for name in ("x", "y", "c")}
        said = {"prediction_label": rows["prediction_label"], "timestamps": rows["at"]}
        decisions = client.decide_many(features, rows["prediction"], **said)
        client.log_predictions(features, rows["prediction"], prediction_ids=rows["id"], decisions=decisions, **said)
        client.log_outcomes(rows["id"], actual_label=rows["actual_label"], actual_timestamps=rows["known"])
        assert client.flush(60) == 0  # rows that are left
        return decisions

    def work(self) -> None:
        """A worker applies all that was published."""
        command = [sys.executable, "-m", "services.cli.main", "worker", "--data-dir", str(self.folder / "worker")]
        with (self.folder / "worker.log").open("ab") as log:
            worker = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while any(position.lag > 0 for position in stream_positions(self.settings)):
                assert worker.poll() is None, (self.folder / "worker.log").read_text()[-3000:]
                assert time.monotonic() < deadline, "the worker does not keep up"
                time.sleep(0.1)
            worker.terminate()
            assert worker.wait(30) == 0
        finally:
            worker.kill()
            worker.wait(20)


def call(*arguments: object) -> tuple[int, str, str]:
    """A command as a user types it: its exit status, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    assert "Traceback" not in err.getvalue()
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def world(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("humility")
    prefix = f"humility-{time.time_ns()}."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIFTLINE_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
        patch.setenv("DRIFTLINE_TOPIC_PREFIX", prefix)
        patch.setenv("DRIFTLINE_APPLICATION_ID", prefix.strip("."))
        patch.setenv("DRIFTLINE_ACTOR", "ada")
        for console in (output.stdout, output.stderr):
            patch.setattr(console, "width", WIDTH)
        settings = KafkaSettings(kafka.bootstrap_servers, Topics(prefix))
        (folder / "delays.yaml").write_text(SPEC)
        reference = write(folder / "reference.csv", rows_of(1, 6_000, REFERENCE_US))
        rows = rows_of(2, ROWS, T0)
        found = World(
            settings, folder, folder / "delays.yaml", reference, write(folder / "predictions.csv", rows), rows
        )
        (folder / "plain.yaml").write_text(SPEC.partition("humility:")[0].replace("delays", "plain"))
        for words in (
            ("topics", "create", "--partitions", 1),
            ("deployment", "apply", found.spec, folder / "plain.yaml"),
            ("baseline", "build", "delays", reference, "--version", "3"),
        ):
            status, out, err = call(*words)
            assert status == 0, out + err
        words = ("humility", "fit", "delays", reference, "--version", "3", "--limit", 5_900, "--reason", "spring")
        status, found.fitted, err = call(*words)
        assert status == 0, err
        found.publish()
        found.work()
        yield found


UNTIL = ("--to", "2024-06-01T08:00:00Z")
"""Before the rows that only let time go on."""


def flat(text: str) -> str:
    return " ".join(text.split())


def document(*arguments: object) -> Any:
    status, out, err = call("humility", *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def lines_of(text: str, *heads: str) -> list[list[str]]:
    """The cells of the lines that begin with one of these, in a table."""
    return [line.split() for line in text.splitlines() if line.strip().startswith(heads)]


def test_a_fit_prints_what_is_guaranteed_in_words_and_puts_it_in_force_with_its_audit_record(world: World) -> None:
    text = flat(world.fitted)
    assert text.startswith("delays@3 fitted: 5,900 rows") and "2,950 of them calibrate" in text
    assert re.search(r"novel_input fires on at most 2 % of unchanged traffic.*, with 95 % confidence: above", text)
    assert re.search(
        r"error among answered predictions.* at most 20 %, answered share at least [\d.]+ %, confidence 95 %", text
    )
    assert re.search(
        r"prediction sets hold the actual value in 90 % of cases in the long run whatever drifts: after [\d,]+ "
        r"outcomes off by at most [\d.]+ %",
        text,
    )
    assert "hold only while nothing changes since calibration" in text and "depend on their neighbours" in text
    assert re.search(r"c=a selective risk 1,\d+ error at most", text) and "'y' is below -2 or" in text
    assert re.search(r"refuse the yes [\d.]+%", text) and "humility: replayed" in text
    stored = get_baseline(world.settings, "delays", "3").baseline
    assert stored.digest in world.fitted and stored.humility is not None and stored.humility.rows == 5_900
    events = [decode(message.value())[1] for message in read_to_end(world.settings, world.settings.topics.audit)]
    built = [event for event in events if event["action"] == "baseline.built"]
    assert built[-1]["before_digest"] == built[-2]["after_digest"] != built[-1]["after_digest"] == stored.digest
    assert built[-1]["reason"] == "spring" and built[-1]["detail"]["humility"] == "reference.csv (5900 rows)"
    before = {stream.name: stream for stream in stored.streams if stream.role != "humility"}
    assert {"x", "y", "c"} <= set(before)
    again = document("fit", "delays", world.reference, "--version", "3", "--limit", 5_900)
    assert again["result"] == "unchanged" and again["before_digest"] == again["after_digest"] == stored.digest
    assert again["fit"]["certificates"] and not again["fit"]["shortfalls"] and again["expected"]["overridden"]["fired"]


def test_a_fit_takes_rows_from_the_topics_and_says_what_few_rows_do_not_allow(world: World) -> None:
    few = document("fit", "delays", "--version", "3", *UNTIL, "--limit", 200, "--dry-run")
    assert few["result"] == "dry run" and few["fit"]["source"].startswith("topic ") and few["read"] >= 200
    assert {each["guarantee"] for each in few["fit"]["shortfalls"]} >= {"novelty"}
    needed = next(each for each in few["fit"]["shortfalls"] if each["guarantee"] == "novelty" and not each["segment"])
    assert needed["needed"] > needed["rows"] == 100
    status, out, _ = call("humility", "fit", "delays", "--version", "3", *UNTIL, "--limit", 200, "--dry-run")
    text = flat(out)
    assert status == 0 and "Not guaranteed: no guarantee of novelty" in text and "it takes 149 calibration rows" in text
    assert "new never fires: novel_input" in text and re.search(r"new the input is novel record it no – –", text)
    half = write(
        world.folder / "half.csv", rows_of(5, 3_000, REFERENCE_US), tuple(set(world.rows) - {"known", "actual_label"})
    )
    other = write(world.folder / "other.csv", rows_of(6, 3_000, REFERENCE_US + 20 * HOUR_US))
    found = document("fit", "delays", half, other, "--version", "3", "--dry-run")
    assert (
        found["fit"]["rows"] == found["read"] == 6_000 and "half.csv (3000 rows); other.csv" in found["fit"]["source"]
    )
    assert 1_000 < found["fit"]["certificates"][0]["rows"] < 1_500  # the second file alone has outcomes


def test_what_cannot_be_fitted_or_shown_is_refused_with_what_to_do(world: World) -> None:
    status, _, err = call("humility", "fit", "delays", world.reference, "--version", "9")
    assert status == 1 and "there is no baseline for 'delays@9': there is one for '3'" in err
    for words in (("fit", "plain", world.reference, "--version", "3"), ("show", "plain"), ("report", "plain")):
        status, _, err = call("humility", *words)
        assert status == 1 and "the specification of 'plain' has no humility section: add humility:" in err
    status, _, err = call("humility", "fit", "delais", world.reference, "--version", "3")
    assert status == 1 and "did you mean 'delays'?" in err
    status, _, err = call("humility", "show", "delays", "--version", "9")
    assert status == 1 and "there is no baseline for delays@9: there is one for '3'" in flat(err)
    assert call("humility", "report", "delays", "--by", "year")[0] == 2
    for part in ("0%", "x%", "yesterday"):
        assert call("humility", "backtest", "delays", "--rules", world.spec, "--fit-on", part)[0] == 2
    assert call("humility", "backtest", "delays", "--rules", world.spec, "--outcomes", world.predictions)[0] == 2
    status, _, err = call("humility", "backtest", "delays", "--rules", world.folder / "plain.yaml")
    assert status == 1 and "is the specification of 'plain': expected one of 'delays'" in flat(err)
    (world.folder / "bare.yaml").write_text(SPEC.partition("humility:")[0])
    status, _, err = call("humility", "backtest", "delays", "--rules", world.folder / "bare.yaml")
    assert status == 1 and "has no humility section: there are no rules to try" in flat(err)
    (world.folder / "new.yaml").write_text(
        SPEC.replace("y: numeric", "y: numeric, z: numeric").replace("feature: y", "feature: z")
    )
    status, _, err = call("humility", "backtest", "delays", "--rules", world.folder / "new.yaml")
    assert status == 2 and "tried on the deployment in force" in flat(err) and "there is no feature 'z'" in flat(err)


def test_rules_are_shown_in_words_with_what_applications_were_told_and_who_decides_by_them(world: World) -> None:
    status, out, _ = call("humility", "show", "delays")
    text = flat(out)
    assert status == 0 and text.index("storm") < text.index("unsure") < text.index("new the input is novel")
    assert "[red]<!channel>[/]" in text and "serve 'late'" in text
    assert re.search(r"0 c=a 0\.\d+ 0\.\d+ [\d,]+ (\d\d\.\d%|–)", text) and "know of: none" in text
    assert "4,700 rows: " in text and "100.0% of the rows came decided, all of them by rules in force" in text
    found = document("show", "delays", "--last", 3)
    (version,) = found["versions"]
    assert found["rules"][0]["rule"] == "storm" and not version["unarmed"]
    assert version["told"][0]["policy"] == version["policy"] == version["lately"]["policy"]
    assert version["lately"]["rows"] == version["lately"]["decided_by_publishers"] == 450
    assert {each["segment"] for each in version["told"][0]["quantiles"]} == {"", "c=a", "c=b"}


def test_a_report_has_the_numbers_of_the_rows_that_were_served(world: World) -> None:
    rows, decisions = world.rows, world.decisions
    assert decisions is not None
    (found,) = document("report", "delays", *UNTIL)
    wrong = rows["prediction_label"] != rows["actual_label"]
    lines = {line["decision"]: line for line in found["all"]["decisions"]}
    for name, mask in {
        "answered": decisions.answered, "overridden": decisions.overridden, "refused": decisions.refused,
        "routed": decisions.routed, "without humility": np.ones(ROWS, bool),
    }.items():  # fmt: skip
        line = lines[name]
        assert (line["rows"], line["outcomes"], line["wrong"]) == (mask.sum(), mask.sum(), wrong[mask].sum())
        assert line["loss"]["value"] == pytest.approx(wrong[mask].mean())
    instead = decisions.overridden & (rows["actual_label"] != "late")
    served = (wrong & decisions.answered) | instead
    assert lines["with humility"]["loss"]["value"] == pytest.approx(
        served.sum() / (decisions.answered | decisions.overridden).sum()
    )
    assert lines["overridden (served)"]["wrong"] == instead.sum()
    rules = {rule["rule"]: rule for rule in found["rules"]}
    storm = np.abs(rows["y"]) > 2
    assert (rules["storm"]["fired"], rules["storm"]["caught"]) == (storm.sum(), wrong[storm].sum())
    assert rules["storm"]["elsewhere"]["wrong"] == wrong[~storm].sum() and rules["storm"]["verdict"] == "keep"
    assert rules["odd class"]["verdict"] == "drop" and rules["odd class"]["acted"] == 0
    assert (
        rules["[red]<!channel>[/]"]["verdict"] == "drop" and "serves is worse" in rules["[red]<!channel>[/]"]["reason"]
    )
    assert [month["start_us"] for month in found["months"]] == [1_714_521_600_000_000, 1_717_200_000_000_000]
    assert found["all"]["coverage"]["static"]["rows"] == ROWS and not found["all"]["provisional"]
    assert [each["segment"] for each in found["segments"]] == ["c=a", "c=b"]


def test_a_report_is_cut_by_periods_parts_and_rules_and_no_table_is_too_wide(world: World) -> None:
    status, out, _ = call("humility", "report", "delays", *UNTIL)
    text = flat(out)
    assert (
        status == 0 and "without humility 4,500 100.0% 100.0%" in text and "Coverage of the actual value; 0.9" in text
    )
    assert "drop if the error where a rule fires is above that elsewhere by no more than 0.05" in text
    assert "what is served in the place of overridden predictions is worse" in text and "[red]<!channel>[/" in text
    for by, head, lines in (
        ("month", "2024-0", 6),
        ("day", "2024-0", 4),
        ("window", "2024-0", 36),
        ("segment", "c=", 2),
    ):
        status, out, _ = call("humility", "report", "delays", *UNTIL, "--by", by)
        assert status == 0 and len(lines_of(out, head)) == lines, out
        tables = [line for line in out.splitlines() if line.startswith(" ")]
        assert tables and max(map(len, tables)) <= WIDTH and "answered" in out and "refused" in out and "routed" in out
    status, out, _ = call("humility", "report", "delays", *UNTIL, "--by", "rule")
    assert (
        status == 0
        and "intervals of the error that the verdicts rest on" in out
        and "storm: keep, it finds errors; acted on 2" in flat(out)
    )
    status, out, _ = call("humility", "report", "delays", *UNTIL, "--plot", "--version", "3")
    assert "error among answered predictions" in out and "○ static" in out and "┤" in out
    assert "no window with humility of version '4'" in call("humility", "report", "delays", "--version", "4")[1]
    assert document("report", "delays", "--from", "2025-01-01") == []


def test_changed_rules_are_tried_on_the_topics_and_on_files_with_the_same_result(world: World) -> None:
    changed = world.folder / "changed.yaml"
    changed.write_text(SPEC.replace("low: -2, high: 2}", "low: -1, high: 1}"))
    topics = document("backtest", "delays", "--rules", changed, *UNTIL)
    files = document("backtest", "delays", world.predictions, "--rules", changed)
    rows, decisions = world.rows, world.decisions
    assert decisions is not None
    assert topics["rows"] == files["rows"] == ROWS and topics["would"]["rules"] == files["would"]["rules"]
    assert [topics["now"][name] for name in ("answered", "overridden", "refused", "routed")] == np.bincount(
        decisions.actions, minlength=4
    ).tolist()
    (report,) = document("report", "delays", *UNTIL)
    assert [rule["caught"] for rule in topics["now"]["rules"]] == [rule["caught"] for rule in report["rules"]]
    assert topics["would"]["refused"] == (np.abs(rows["y"]) > 1).sum()
    assert topics["moved"]["refused"] == {
        "answered": 0,
        "overridden": 0,
        "refused": topics["now"]["refused"],
        "routed": 0,
    }
    status, out, _ = call("humility", "backtest", "delays", "--rules", changed, *UNTIL)
    text = flat(out)
    assert status == 0 and "Rules in force" in text and "Rules that are tried" in text and "decided otherwise:" in text
    assert (
        "now answered, would be:" in text and max(len(line) for line in out.splitlines() if line.startswith(" ")) <= 100
    )
    changed.write_text(SPEC.replace("novelty: 0.02", "novelty: 0.05"))
    status, out, _ = call("humility", "backtest", "delays", "--rules", changed, *UNTIL)
    assert (
        status == 0 and "Unarmed of those that are tried: rule 'new' never fires" in flat(out) and "--fit-on 50%" in out
    )
    status, out, _ = call("humility", "backtest", "delays", world.predictions, "--rules", changed, "--fit-on", "50%")
    assert status == 0 and "Unarmed" not in out and "both fitted to 2,250 rows before" in flat(out)


def test_windows_with_humility_do_not_disturb_others(world: World) -> None:
    status, out, _ = call("windows", "show", "delays", "--last", 1)
    assert status == 0 and "humility" not in out
    status, out, _ = call("windows", "show", "delays", "--metric", "adaptive_coverage", "--by", "month")
    assert status == 0 and "2024-05" in out
    assert call("audit", "replay")[0] == 0


def test_the_shell_completes_versions_and_cuts(world: World) -> None:
    assert complete_cut("w") == ["window", "week"] and "rule" in complete_cut("")
    context = SimpleNamespace(params={"deployment_id": "delays"})
    assert complete_version(context, "") == ["3"] and complete_version(context, "4") == []  # type: ignore[arg-type]
