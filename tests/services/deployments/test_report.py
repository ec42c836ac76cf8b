"""A baseline for people: in words, and as a page."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from driftline.events import CategoricalColumn, PredictionColumns
from services.deployments.report import render_report
from services.deployments.summary import OPERATOR, REFERENCE_SIZE, REFUSED, arming_lines, document, summarise
from streams.arming import REFUSED_MARGIN
from streams.baseline import Arming, Baseline, BaselineStream
from streams.reference import build_baseline
from streams.specification import DATA_DRIFT, SERVICE, DeploymentSpec, FeatureSpec, SegmentSpec

HOSTILE = "</script><img src=x onerror=alert(1)>"
HOUR_US = 3_600_000_000
T0 = 1_704_067_200_000_000  # Monday, 2024-01-01, UTC


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    rows = 4 * 168 * 30
    rng = np.random.default_rng(1)
    times = T0 + np.arange(rows) * HOUR_US // 30
    columns = PredictionColumns(
        "d",
        "1",
        [str(i) for i in range(rows)],
        times,
        {
            "daily": 2 * np.sin(2 * np.pi * times / (24 * HOUR_US)) + rng.normal(size=rows),
            "plain": rng.normal(size=rows),
            "zeros": np.where(rng.random(rows) < 0.8, 0.0, rng.exponential(size=rows)),
            "constant": np.full(rows, 7.0),
            "empty": np.full(rows, np.nan),
        },
        {f"text{HOSTILE}": CategoricalColumn([f"a{HOSTILE}", "b"], rng.integers(-1, 2, rows).astype(np.int32))},
        prediction=rng.random(rows),
    )
    names = ["daily", "plain", "zeros", "constant", "empty"]
    features = [FeatureSpec(name, "numeric") for name in names]
    features.append(FeatureSpec(f"text{HOSTILE}", "categorical", margin_tv=0.001))
    spec = DeploymentSpec(
        "d", "m", "other", tuple(features), segments=(SegmentSpec("by", f"text{HOSTILE}"),)
    )  # fmt: skip
    return build_baseline(spec, "1", [columns], source=f"file {HOSTILE}")


def stream_of(baseline: Baseline, name: str) -> BaselineStream:
    return next(stream for stream in baseline.streams if stream.name == name and not stream.segment)


class Page(HTMLParser):
    """What a browser would make of it: elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data


def test_a_stream_is_summed_up(baseline: Baseline) -> None:
    daily, plain = summarise(stream_of(baseline, "daily")), summarise(stream_of(baseline, "plain"))
    text = summarise(stream_of(baseline, f"text{HOSTILE}"))
    assert (daily.season, plain.season) == ("hour_and_weekend", "")
    assert 1 <= daily.inflation < 2, "with seasons nothing of the cycle is left"
    assert plain.inflation <= plain.worst_inflation
    assert plain.margin_source == OPERATOR
    assert text.margin_source == REFERENCE_SIZE
    assert text.missing_share == pytest.approx(1 / 3, abs=0.02)
    refused = dataclasses.replace(stream_of(baseline, "plain"), margin_tv=REFUSED_MARGIN)
    assert summarise(refused).margin_source == REFUSED
    assert summarise(stream_of(baseline, "quality:plain")).missing_share is None


def test_arming_is_told_in_words(baseline: Baseline) -> None:
    streams = tuple(
        dataclasses.replace(s, margin_tv=REFUSED_MARGIN) if s.name == "plain" and not s.segment else s
        for s in baseline.streams
    )
    arming = (
        Arming(DATA_DRIFT, 4000, 31, 40.0, 0.5, float(np.log(100))),
        Arming(SERVICE, 4000, 0, 40.0, 1.0, float(np.log(100))),
    )
    told = arming_lines(dataclasses.replace(baseline, streams=streams, arming=arming))
    assert told == [
        ("data drift", "replayed 4,000 starts: 31 alarms, bound 40: holds, widened by 0.5; refused: plain"),
        ("service", "replayed 4,000 starts: 0 alarms, bound 40: holds"),
    ]
    alone = (Arming(DATA_DRIFT, 4000, 0, 40.0, 0.0, float(np.log(100))),)
    ((_, text),) = arming_lines(dataclasses.replace(baseline, streams=streams, arming=alone))
    assert text.startswith("refused: plain break the bound")


def test_the_document_has_every_stream_and_every_row(baseline: Baseline) -> None:
    found = document(baseline)
    assert len(found["streams"]) == len(baseline.streams)
    assert {item["monitor"] for item in found["arming"]} == {item.monitor for item in baseline.arming}
    for item, stream in zip(found["streams"], baseline.streams, strict=True):
        assert sum(one["rows"] for one in item["bins"]) == int(stream.counts.sum())


def test_the_page_works_offline_and_hostile_names_are_text(baseline: Baseline) -> None:
    page = Page(render_report(baseline))
    tags = [tag for tag, _ in page.elements]
    assert "img" not in tags, "a name with markup is text"
    assert all(not re.match(r"on|src$|href$", name) for _, given in page.elements for name in given), (
        "nothing is loaded"
    )
    assert page.text.count(HOSTILE) >= 4, "title, source, heading of the plot and row of the table"
    drawn = [given for tag, given in page.elements if tag == "div" and "plotly-graph-div" in (given.get("class") or "")]
    values = [s for s in baseline.streams if s.bins is not None and not s.segment]
    assert len(drawn) == len(values)
    for stream in baseline.streams:
        assert stream.label in page.text
    for _, text in arming_lines(baseline):
        assert text in page.text


def test_a_page_without_arming_says_so(baseline: Baseline) -> None:
    assert "were not tried" in render_report(dataclasses.replace(baseline, arming=(), streams=baseline.streams[:1]))
