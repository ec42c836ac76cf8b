"""The novelty score: what is looked up, what is not, and that one row and a batch say the same."""

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from driftline.events import CategoricalColumn, PredictionColumns
from driftline.humility.batch import Batch
from driftline.humility.fit import HumilityFit, NoveltyColumn, NoveltyThreshold
from driftline.humility.layout import Layout
from driftline.humility.novelty import Novelty, novelty_scores
from driftline.humility.policy import Policy
from driftline.humility.row import RowReader
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Rule
from streams.derived import fit_joint, joint_distance

NAMES = ("x", "y", "z")


def learnt(*columns: NoveltyColumn, names: tuple[str, ...] = (), values: Any = None) -> HumilityFit:
    joint = None if values is None else fit_joint(names, values, [1.0] * len(names))
    assert joint is None or joint.inputs == names
    arrays_of = {} if joint is None else {name: tuple(array.tolist()) for name, array in joint.arrays.items()}
    return HumilityFit("", "", 0, 0, 0, 0, 0.95, novelty=columns, joint=arrays_of, joint_columns=names)


def batch(**numeric: list[float]) -> PredictionColumns:
    rows = len(next(iter(numeric.values())))
    values = {name: np.array(column) for name, column in numeric.items()}
    return PredictionColumns("d", "1", ["r"] * rows, np.zeros(rows, np.int64), values)


def test_the_score_is_the_largest_surprise() -> None:
    fit = learnt(
        NoveltyColumn("x", "numeric", (0.0, 1.0), (), (3.0, 1.0, 4.0, 9.0)),
        NoveltyColumn("c", "categorical", (), ("a", "b"), (2.0, 5.0, 6.0, 7.0)),
    )
    columns = PredictionColumns(
        "d",
        "1",
        list("123456"),
        np.zeros(6, np.int64),
        {"x": np.array([-1.0, 0.0, 1.0, np.nan, np.inf, 0.5])},
        {"c": CategoricalColumn(["b", "a", "new", ""], np.array([1, 1, 1, 1, 0, 3], np.int32))},
    )
    assert novelty_scores(fit, columns).tolist() == [3.0, 2.0, 4.0, 9.0, 9.0, 7.0]
    assert novelty_scores(learnt(), columns).tolist() == [-math.inf] * 6


_SURPRISE = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf])
_VALUES = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 1e308, -1e308, math.nan, math.inf, 5e-324])


@st.composite
def _fits(draw: st.DrawFn) -> HumilityFit:
    columns = []
    for name in NAMES:
        edges = tuple(sorted(draw(st.sets(st.sampled_from([-1.0, 0.0, 5e-324, 0.5, 1.0, 2.0]), max_size=5))))
        size = len(edges) + 2
        columns.append(
            NoveltyColumn(name, "numeric", edges, (), tuple(draw(st.lists(_SURPRISE, min_size=size, max_size=size))))
        )
    joint = NoveltyColumn("", "joint", (0.5, 1.0, 1.5), (), (*draw(st.lists(_SURPRISE, min_size=4, max_size=4)), 9.0))
    kept = draw(st.lists(st.sampled_from([*columns, joint]), unique_by=lambda column: column.name, min_size=1))
    return learnt(*kept, names=("x", "z"), values=np.random.default_rng(1).standard_normal((2, 200)))


@settings(max_examples=150, deadline=None)
@given(
    _fits(),
    st.lists(st.tuples(_VALUES, _VALUES, _VALUES), min_size=1, max_size=8),
    st.lists(_SURPRISE, min_size=1, max_size=1),
)
def test_looking_up_only_what_is_unusual_finds_the_same(
    fit: HumilityFit, rows: list[tuple[float, ...]], thresholds: list[float]
) -> None:
    layout = Layout("other", None, None)
    novelty = Novelty(fit, layout)
    novel, reader = novelty.above(thresholds), RowReader(layout)
    columns = batch(**{name: [row[i] for row in rows] for i, name in enumerate(NAMES)})
    with np.errstate(all="ignore"):
        looked_up = Batch(layout, columns, np.zeros(len(rows), np.uint8))
        expected = novelty.scores(looked_up) > thresholds[0]
        assert (novel.holds(looked_up) == expected).all()
    alone = [
        novel.holds_of(reader.read(dict(zip(NAMES, row, strict=True)), None, None, None, None, None, None, 0, None, 0))
        for row in rows
    ]
    assert alone == expected.tolist()


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float64, (32,), elements=st.floats(-1e6, 1e6) | st.sampled_from([math.nan, 1e308, -1e308, 0.0])),
    st.integers(0, 3),
)
def test_the_distance_of_one_row_has_the_bits_it_has_in_a_batch(row: np.ndarray, place: int) -> None:
    names = tuple(f"f{i}" for i in range(32))
    sample = np.random.default_rng(2).standard_normal((32, 300))
    derived = fit_joint(names, sample, [1.0] * 32)
    assert derived is not None
    others = sample[:, :4].copy()
    others[:, place] = row
    distance = joint_distance(derived, others)[place]
    wide = [NoveltyColumn(name, "numeric", (-1e9, 1e9), (), (9.0, 0.0, 9.0, 0.0)) for name in names]
    # one edge at the distance itself, and one just above it, tell its bits
    for edge, expected in ((distance, True), (np.nextafter(distance, np.inf), False)):
        column = NoveltyColumn("", "joint", (float(edge),), (), (0.0, 1.0, 9.0))
        arrays_of = {name: tuple(values.tolist()) for name, values in derived.arrays.items()}
        for columns in ((column,), (*wide, column)):
            fit = HumilityFit("", "", 0, 0, 0, 0, 0.95, novelty=columns, joint=arrays_of, joint_columns=names)
            layout = Layout("other", None, None)
            novel = Novelty(fit, layout).above([0.5])
            read = RowReader(layout).read(dict(zip(names, row.tolist(), strict=True)), *[None] * 6, 0, None, 0)
            is_wild = len(columns) > 1 and bool((np.abs(row) >= 1e9).any())
            assert novel.holds_of(read) == (expected or is_wild)


def test_wild_values_raise_no_warning() -> None:
    fit = learnt(
        NoveltyColumn("", "joint", (1.0,), (), (0.0, 1.0, 9.0)),
        names=("x", "y"),
        values=np.random.default_rng(3).standard_normal((2, 99)),
    )
    layout = Layout("other", None, None)
    novel = Novelty(fit, layout).above([0.5])
    with np.errstate(all="raise"):
        read = RowReader(layout).read({"x": 1e308, "y": -1e308}, *[None] * 6, 0, None, 0)
        assert novel.holds_of(read)


@pytest.mark.parametrize("features", [50])
def test_deciding_holds_on_to_nothing(features: int) -> None:
    columns = [NoveltyColumn(f"x{i}", "numeric", (0.0, 1.0), (), (1.0, 1.0, 1.0, 9.0)) for i in range(features - 1)]
    columns.append(NoveltyColumn("c", "categorical", (), ("a",), (1.0, 9.0, 9.0)))
    asked = HumilitySpec((Rule("r", Condition("novel_input"), "refuse"),), Guarantees(novelty_rate=0.01))
    fit = HumilityFit(
        asked.digest(),
        "",
        0,
        0,
        0,
        0,
        0.95,
        0.01,
        novelty=tuple(columns),
        novelty_thresholds=(NoveltyThreshold("", 9, 5.0, 0.01),),
    )
    kinds = [{"name": column.name, "kind": column.kind} for column in columns]
    spec = {"humility": asked.to_record(), "features": kinds, "task": "other", "positive_class": None, "revision": 1}
    policy = Policy.of(spec, {"humility": fit.to_record(), "segments": []})
    assert policy is not None

    def decide(first: int) -> None:
        for i in range(first, first + 1000):
            row = {f"x{j}": i / 7 for j in range(features - 1)} | {"c": f"value {i}", f"extra {i}": i}
            assert policy.decide_row(row, 0.5, {f"class {i}": 0.5}, challengers={f"{i}": 0.5}).refused

    decide(0)
    tracemalloc.start()
    try:
        decide(1000)
        before, _ = tracemalloc.get_traced_memory()
        decide(2000)
        decide(3000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4096
