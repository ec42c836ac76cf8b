"""The engine against a slow implementation from its definition, and the algebra that batches rely on."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.statistics import evidence
from streams.statistics.arrays import log_sum_exp
from streams.statistics.evidence import (
    BLOCK_STREAMS,
    Bets,
    empty_base,
    empty_counts,
    log_e_values,
    make_bets,
    start_slot,
    stream_log_evidence,
    without_idle_tilts,
)
from streams.statistics.layouts import LAYOUTS, Layout, nominal_probabilities
from streams.statistics.tilts import NUMERIC_TILTS, Tilts, tilts_of

CHANGED = np.roll(nominal_probabilities(), 1)


def bets_for(streams: int, margin: float = 0.05, tempering: float = 1.0, tilts: Tilts = NUMERIC_TILTS) -> Bets:
    rng = np.random.default_rng(11)
    counts = rng.multinomial(5_000, rng.dirichlet(np.ones(tilts.layout.size), size=streams))
    return make_bets(tilts, counts, margin, tempering)


def slow_shiryaev_roberts(bets: Bets, stream: int, events: list[int], starts: dict[int, float]) -> list[float]:
    """Equation (1) event by event in Python floats: log M after each event. ``starts``: event index to start mass."""
    m = [0.0] * bets.shapes.shape[0]
    trace = []
    for index, k in enumerate(events):
        m = [value + starts.get(index, 0.0) for value in m]
        for i in range(len(m)):
            gain = bets.shapes[i, k] - bets.log_normaliser[stream, i]
            m[i] *= math.exp(bets.tempering[stream, i] * gain)
        total = math.fsum(math.exp(w) * value for w, value in zip(bets.log_weights[stream].tolist(), m, strict=True))
        trace.append(math.log(total) if total > 0 else -math.inf)
    return trace


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
@pytest.mark.parametrize("tempering", [1.0, 0.3])
def test_the_engine_agrees_with_the_recursion_event_by_event(layout, tempering) -> None:
    bets = bets_for(2, tempering=tempering, tilts=tilts_of(layout))
    rng = np.random.default_rng(5)
    events = rng.integers(0, layout.size, size=(2, 120))
    starts = {0: 1.0, 40: 0.5, 41: 1.0, 90: 0.25}
    base, counts = empty_base(bets), empty_counts(bets)
    expected = [slow_shiryaev_roberts(bets, s, events[s].tolist(), starts) for s in range(2)]
    for index in range(120):
        if index in starts:
            base, counts = start_slot(bets, base, counts, math.log(starts[index]))
        counts[np.arange(2), events[:, index]] += 1
        got = stream_log_evidence(bets, base, counts)
        # the rounding only lowers evidence: by 2^-14 nats at each of four starts, by 2 10^-6 for each event
        assert got == pytest.approx([trace[index] for trace in expected], abs=4 * 2.0**-14 + 2e-4)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@settings(max_examples=40)
@given(drawn=st.lists(st.integers(0, 2**16), max_size=150), data=st.data())
def test_evidence_is_bit_identical_however_a_stream_is_split_and_ordered(
    layout: Layout, drawn: list[int], data: st.DataObject
) -> None:
    bets = bets_for(3, tempering=0.37, tilts=tilts_of(layout))
    events = [code % layout.size for code in drawn]
    start_at = sorted(data.draw(st.sets(st.integers(0, len(events)), max_size=4)))
    cuts = sorted({*data.draw(st.sets(st.integers(0, len(events)))), *start_at, 0, len(events)})

    def run(pieces: list[int], shuffle: bool) -> tuple[bytes, bytes]:
        base, counts = empty_base(bets), empty_counts(bets)
        for begin, end in zip(pieces, [*pieces[1:], len(events)], strict=True):
            if begin in start_at:
                base, counts = start_slot(bets, base, counts)
            batch = data.draw(st.permutations(events[begin:end])) if shuffle else events[begin:end]
            counts += np.bincount(np.array(batch, int), minlength=layout.size)
        return base.tobytes(), stream_log_evidence(bets, base, counts).tobytes()

    assert run(cuts, shuffle=True) == run(sorted({0, *start_at}), shuffle=False)


@given(
    st.lists(st.integers(0, 10**6), min_size=15, max_size=15), st.lists(st.integers(0, 10**6), min_size=15, max_size=15)
)
def test_log_likelihood_ratios_add_without_rounding(left: list[int], right: list[int]) -> None:
    bets = bets_for(1)
    a, b = np.array([left]), np.array([right])
    assert (log_e_values(bets, a) + log_e_values(bets, b) == log_e_values(bets, a + b)).all()


@pytest.mark.parametrize("counted_in", [np.int64, np.int32])
def test_a_stream_has_the_same_evidence_in_any_block(counted_in: type) -> None:
    """Alone, or anywhere among more streams than are worked on at once."""
    streams = 2 * BLOCK_STREAMS + 3
    bets = bets_for(streams, tempering=0.8)
    counts = np.random.default_rng(2).integers(0, 50, size=(streams, 15)).astype(counted_in)
    first, zeros = start_slot(bets, empty_base(bets), counts)
    base, _ = start_slot(bets, first, counts)
    assert zeros.dtype == counted_in and not zeros.any()
    together = stream_log_evidence(bets, base, counts)
    for s in (0, 1, BLOCK_STREAMS - 1, BLOCK_STREAMS, streams - 1):
        alone = Bets(bets.shapes, bets.log_normaliser[[s]], bets.tempering[[s]], bets.log_weights[[s]])
        again, _ = start_slot(alone, first[[s]], counts[[s]])
        assert (again[0] == base[s]).all()
        assert stream_log_evidence(alone, again, counts[[s]])[0] == together[s]


@given(
    st.lists(st.floats(-2_000, 2_000), min_size=1, max_size=40),
    st.sampled_from([0.0, math.log(0.5), math.log(0.25), -17.3]),
)
def test_a_start_adds_its_mass_and_never_more(values: list[float], log_start_mass: float) -> None:
    """Against fractions of the truth in 50 digits."""
    started = evidence._add_start(np.array(values), log_start_mass).astype(np.float64)
    with localcontext() as context:
        context.prec = 50
        truth = [(Decimal(x).exp() + Decimal(log_start_mass).exp()).ln() for x in values]
        assert all(Decimal(got) <= exact for got, exact in zip(started.tolist(), truth, strict=True))
        for got, exact in zip(started.tolist(), truth, strict=True):
            assert exact > 510 or exact - Decimal(got) <= Decimal(2.0**-14 + 1e-6)
    assert (started * 2**15 == np.floor(started * 2**15)).all()
    assert started.max() < 512


def test_evidence_beyond_the_highest_stays_there() -> None:
    bets = make_bets(NUMERIC_TILTS, nominal_probabilities(), 0.0)
    base, counts = start_slot(bets, empty_base(bets), empty_counts(bets))
    for _ in range(3):
        counts = counts + np.rint(5_000 * CHANGED).astype(int)
        assert stream_log_evidence(bets, base, counts)[0] > 500
        base, counts = start_slot(bets, base, counts)
        assert np.isfinite(base).all() and 510 < base.max() < 512


def test_rounding_at_720_starts_costs_less_than_0_044_nats() -> None:
    """A changed stream that nobody looks at for a month, against the recursion in float64 without rounding."""
    bets = make_bets(NUMERIC_TILTS, nominal_probabilities(), 0.05)
    rng = np.random.default_rng(21)
    base, counts = empty_base(bets), empty_counts(bets)
    exact = np.full(bets.log_normaliser.shape, -np.inf)
    for events in rng.multinomial(20, CHANGED, size=720):
        base, counts = start_slot(bets, base, counts)
        counts = counts + events
        exact = np.logaddexp(exact, 0.0) + log_e_values(bets, counts)
    got = stream_log_evidence(bets, base, counts)[0]
    lost = log_sum_exp(exact + bets.log_weights)[0] - got
    assert 100 < got < 510
    assert 0 < lost < 720 * 2.0**-14


def test_tilts_that_nobody_bets_on_can_be_left_out() -> None:
    counts = np.random.default_rng(8).multinomial(5_000, nominal_probabilities(), size=4)
    bets = make_bets(NUMERIC_TILTS, counts, [0.05, 0.1, 0.05, 0.2], 0.5)
    lean = without_idle_tilts(bets)
    assert lean.shapes.shape[0] < bets.shapes.shape[0]
    live = np.random.default_rng(9).multinomial(300, CHANGED, size=4)
    full = start_slot(bets, empty_base(bets), live)[0]
    base = start_slot(lean, empty_base(lean), live)[0]
    assert stream_log_evidence(lean, base, live) == pytest.approx(stream_log_evidence(bets, full, live), rel=1e-12)
    both = make_bets(NUMERIC_TILTS, counts[:2], [0.0, 0.1])
    assert np.isfinite(without_idle_tilts(both).log_weights).any(axis=0).all()


def test_nothing_is_evidence_before_the_first_start() -> None:
    bets = bets_for(2)
    counts = np.full((2, 15), 9)
    assert empty_base(bets).dtype == np.float32
    assert (stream_log_evidence(bets, empty_base(bets), counts) == -np.inf).all()
    base, counts = start_slot(bets, empty_base(bets), counts)
    assert (base == 0).all() and not counts.any()
    assert np.allclose(stream_log_evidence(bets, base, counts), 0, atol=1e-6)


def test_a_stream_of_the_baseline_loses_evidence_and_a_changed_one_gains() -> None:
    bets = make_bets(NUMERIC_TILTS, nominal_probabilities(), 0.05)
    base, _ = start_slot(bets, empty_base(bets), empty_counts(bets))
    n = 2_000
    unchanged = np.rint(n * nominal_probabilities()).astype(int)[None]
    changed = np.rint(n * CHANGED).astype(int)[None]
    assert stream_log_evidence(bets, base, unchanged)[0] < -1
    assert stream_log_evidence(bets, base, changed)[0] > 20


def test_bets_refuse_what_would_break_the_bound() -> None:
    for wrong in (0.0, 1.2, float("nan")):
        with pytest.raises(ValueError, match="tempering"):
            make_bets(NUMERIC_TILTS, np.ones(15), 0.05, wrong)
    with pytest.raises(ValueError, match="at least one event"):
        make_bets(NUMERIC_TILTS, np.zeros(15), 0.05)
    with pytest.raises(ValueError, match="15 bins"):
        make_bets(NUMERIC_TILTS, np.ones(23), 0.05)
