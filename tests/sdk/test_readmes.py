"""The tables for users of other languages name every topic, record and alias there is."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import driftline
from driftline import codec, rows
from driftline.events import prediction_from_event
from driftline.humility import cache
from driftline.humility.rules import Condition, HumilitySpec, Rule
from driftline.spool import folder_for
from streams.specification import DeploymentSpec, FeatureSpec

ROOT = Path(__file__).parents[2]
CONTRACT = (ROOT / "schemas" / "README.md").read_text("utf-8")


def table_rows(first_heading: str) -> list[list[str]]:
    lines = iter(CONTRACT.splitlines())
    for line in lines:
        if line.startswith(f"| {first_heading} |"):
            break
    next(lines)
    rows_of = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows_of.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows_of


def test_every_topic_is_in_the_table() -> None:
    properties = [name for name, value in vars(driftline.Topics).items() if isinstance(value, property)]
    topics = {getattr(driftline.Topics(), name) for name in properties}
    assert {row[0].strip("`") for row in table_rows("topic")} == topics


def test_every_record_is_in_the_tables_with_its_file() -> None:
    files = {json.loads(path.read_text("utf-8"))["name"]: path.name for path in (ROOT / "schemas").glob("*.avsc")}
    assert files.keys() == codec.SCHEMAS.keys()
    assert {row[0].strip("`"): row[1].strip("`") for row in table_rows("record")} == files
    assert set(re.findall(r"`(\w+)`", " ".join(row[2] for row in table_rows("topic")))) == files.keys()


def test_every_alias_is_in_the_table() -> None:
    written = {row[0].strip("`"): set(re.findall(r"`([^`]+)`", row[1])) for row in table_rows("field")}
    assert written == {field: set(aliases) for field, aliases in rows._ALIASES.items()}


def test_the_json_examples_are_predictions() -> None:
    example = re.search(r"```json\n(.*?)```", CONTRACT, re.DOTALL)
    assert example is not None
    rows_given = re.split(r"\n(?={)", example[1].strip())
    answered, refused, failed = (
        prediction_from_event(codec.decode(row.encode(), json_record="PredictionEvent")[1]) for row in rows_given
    )
    assert answered.prediction is not None and answered.prediction.tolist() == [0.83]
    assert refused.humility is not None and refused.humility.actions.tolist() == [2]
    assert refused.humility.fired.tolist() == [0b101] and refused.challenger_predictions["2026-04"].tolist() == [0.35]
    assert failed.error is not None and failed.error.values() == ["timeout"]
    assert failed.vectors["embedding"].shape == (1, 2)


SDK_EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "sdk" / "README.md").read_text("utf-8"), re.DOTALL)


def test_the_first_lines_of_the_sdks_readme_run(tmp_path: Path) -> None:
    code = SDK_EXAMPLES[0].replace(
        '"2026-03")', '"2026-03", settings=settings, spool_dir=folder, delivery_timeout_seconds=1, strict=True)'
    )
    scope = {"settings": driftline.KafkaSettings("127.0.0.1:1"), "folder": tmp_path}
    exec(code.replace("client.close()", "client.close(0.5)"), scope)
    client = scope["client"]
    assert isinstance(client, driftline.Client)
    assert client.counters() == driftline.Counters(accepted=2, spooled=2)


def test_the_example_of_outcomes_runs(tmp_path: Path) -> None:
    (code,) = (example for example in SDK_EXAMPLES if "a correction" in example)
    settings = driftline.KafkaSettings("127.0.0.1:1")
    with driftline.Client("rents", "v1", settings=settings, spool_dir=tmp_path, strict=True) as client:
        exec(code, {"client": client})
        assert client.counters().accepted == 3
        client.close(0.5)


def test_the_example_of_embeddings_and_errors_runs(tmp_path: Path) -> None:
    def unanswered(embedding: Any) -> float:
        raise TimeoutError

    (code,) = (example for example in SDK_EXAMPLES if "embedding" in example)
    settings = driftline.KafkaSettings("127.0.0.1:1")
    with driftline.Client("support", "v1", settings=settings, spool_dir=tmp_path, strict=True) as client:
        scope = {"client": client, "question": "Where is it?", "embedding": np.ones(8)}
        for answer in (np.mean, unanswered):
            exec(code, {**scope, "answer": answer})
        assert client.counters().accepted == 2
        client.close(0.5)


@pytest.fixture
def rules_on_disk(tmp_path: Path) -> driftline.KafkaSettings:
    """A cluster that is away, and the rules of 'rents' that were known last: nothing without a district."""
    settings = driftline.KafkaSettings("127.0.0.1:1")
    rule = Rule("no-district", Condition("missing_input", columns=("district",)), "refuse", message="Where is it?")
    features = (FeatureSpec("rooms", "numeric"), FeatureSpec("district", "categorical"))
    spec = DeploymentSpec("rents", "m", "regression", features, humility=HumilitySpec((rule,)))
    folder = folder_for(tmp_path, settings.bootstrap_servers, "", "rents")
    cache.write(folder / cache.FILE_NAME, cache.Kept(0, [driftline.encode("DeploymentSpec", spec.to_record())]))
    return settings


def test_the_examples_of_decisions_run(rules_on_disk: driftline.KafkaSettings, tmp_path: Path) -> None:
    one, many = (example for example in SDK_EXAMPLES if "client.decide" in example)
    with driftline.Client("rents", "v1", settings=rules_on_disk, spool_dir=tmp_path, strict=True) as client:
        scope = {"client": client}
        exec(one, scope)
        decision = scope["decision"]
        assert isinstance(decision, driftline.Decision) and scope["rent"] is None
        assert (decision.rule, decision.reasons[0].message) == ("no-district", "Where is it?")
        frame = pd.DataFrame({"income": [1.0, 2.0], "age": [3, 4], "region": ["n", None], "score": [0.5, 0.25]})
        exec(many, scope | {"frame": frame})
        assert client.counters().accepted == 3 and client.humility_status().undecided == 0
        client.close(0.5)
