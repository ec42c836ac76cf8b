"""The tables for users of other languages name every topic, record and alias there is."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

import driftline
from driftline import codec, rows
from driftline.events import prediction_from_event

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
    answered, failed = (
        prediction_from_event(codec.decode(row.encode(), json_record="PredictionEvent")[1]) for row in rows_given
    )
    assert answered.prediction is not None and answered.prediction.tolist() == [0.83]
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
