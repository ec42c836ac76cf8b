"""Known detectors: they run as river's do, survive restarts bit for bit, and say what they are worth."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from bench.detector_rates import DISTRIBUTIONS, distributions, false_alarms_per_million
from driftline.codec import encode
from streams import detectors as catalogue
from streams import followers as following
from streams.alerts import stable_id
from streams.detectors import (
    DETECTORS,
    MEASURED,
    MEASURED_RIVER,
    build_detector,
    check_detector,
    check_detectors,
    describe_detector,
    signals,
    takes,
)
from streams.errors import JournalError, StreamsError
from streams.followers import QUIET_VALUES, Followers, Turn, detector_alert
from streams.messages import Message
from streams.specification import DetectorSpec

ALL = [DetectorSpec(name, "x") for name in DETECTORS]
RIVER = {
    "adwin": drift.ADWIN,
    "page_hinkley": drift.PageHinkley,
    "kswin": drift.KSWIN,
    "ddm": drift.binary.DDM,
    "eddm": drift.binary.EDDM,
    "hddm_a": drift.binary.HDDMA,
    "hddm_w": drift.binary.HDDMW,
}


def restless(seed: int, n: int) -> np.ndarray:
    """Values of 0 and 1, whose rate changes every 150 rows, with some missing and some that only a few take."""
    rng = np.random.default_rng(seed)
    rates = np.repeat(rng.choice([0.02, 0.3, 0.9], n // 150 + 1), 150)[:n]
    values = (rng.random(n) < rates).astype(np.float64)
    odd = rng.random(n)
    values[odd < 0.02] = np.nan
    values[odd > 0.98] = 7.5
    return values


def times(n: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + n, dtype=np.int64) * 1_000_000


def follow(followers: Followers, values: np.ndarray, cuts: list[int], *, restart: bool = False) -> list[Turn]:
    """Give a stream in pieces; the offset of every piece is the row it begins with."""
    turns = []
    edges = [0, *sorted(cuts), len(values)]
    for low, high in pairwise(edges):
        if restart:
            followers, said = Followers.from_bytes(followers.to_bytes())
            assert said == []
        turns += followers.update({"x": values[low:high]}, times(high - low, low), low)
    return turns


def when(turns: list[Turn]) -> list[tuple[str, str, int, int]]:
    """What does not depend on where a stream was cut."""
    return sorted((turn.spec.detector, turn.status, turn.time_us, turn.incident.number) for turn in turns)


def uncut(followers: Followers) -> Any:
    """A state without the rows of incidents, which are counted in their message."""
    facts = json.loads(followers.to_bytes())["followers"]
    for each in facts:
        each["incident"] = each["incident"] and [each["incident"][0], *each["incident"][3:]]
    return facts


@pytest.mark.parametrize("spec", ALL, ids=DETECTORS)
def test_it_signals_where_rivers_own_does_and_starts_anew_as_river_says(spec: DetectorSpec) -> None:
    values = restless(1, 3000)
    taken = values[(values == 0) | (values == 1)]
    own = RIVER[spec.detector](**({"seed": catalogue.KSWIN_SEED} if spec.detector == "kswin" else {}))
    expected = []
    for index, value in enumerate(taken.tolist()):
        own.update(value)
        if own.drift_detected:
            expected.append(index)
    assert len(expected) > 1
    assert signals(build_detector(spec), taken) == expected


@pytest.mark.parametrize("name", DETECTORS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 900), max_size=4))
def test_stopped_and_restored_it_goes_on_as_one_that_never_stopped(name: str, seed: int, cuts: list[int]) -> None:
    values = restless(seed, 900)
    straight, stopped = Followers([DetectorSpec(name, "x")]), Followers([DetectorSpec(name, "x")])
    straight.update({"x": values}, times(900), 0)
    edges = [0, *sorted(cuts), len(values)]
    for low, high in pairwise(edges):
        stopped.update({"x": values[low:high]}, times(high - low, low), 0)
        written = stopped.to_bytes()
        stopped, said = Followers.from_bytes(written)
        assert said == []
        assert stopped.to_bytes() == written
    assert uncut(stopped) == uncut(straight)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_restored_detector_was_given_something_to_remember(name: str) -> None:
    """The twin of the test above: a state that held nothing would pass it on streams without a signal."""
    values = restless(4, 900)
    whole, half = Followers([DetectorSpec(name, "x")]), Followers([DetectorSpec(name, "x")])
    whole.update({"x": values}, times(900), 0)
    half.update({"x": values[450:]}, times(450), 0)
    facts = [json.loads(followers.to_bytes())["followers"][0] for followers in (whole, half)]
    assert facts[0]["signals"] > 0
    assert facts[0]["state"] != facts[1]["state"] or facts[0]["signals"] != facts[1]["signals"]


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 4000), max_size=6), restart=st.booleans())
def test_any_split_into_messages_gives_the_same_incidents(seed: int, cuts: list[int], restart: bool) -> None:
    values = restless(seed, 4000)
    values[800:2600] = np.where(np.isnan(values[800:2600]), np.nan, 0)  # long enough for incidents to end
    specs = [spec for spec in ALL if spec.detector != "kswin"]
    assert when(follow(Followers(specs), values, cuts, restart=restart)) == when(follow(Followers(specs), values, []))


def test_signals_close_together_are_one_incident_which_ends_by_itself() -> None:
    values = DISTRIBUTIONS["sticky .1"](np.random.default_rng(1), 4000)
    values = np.concatenate([values, np.full(2 * QUIET_VALUES, values[-1])])
    spec = DetectorSpec("hddm_a", "x")
    found = signals(build_detector(spec), values)
    gaps = np.diff(found)
    assert len(found) > 2
    assert gaps.max() <= QUIET_VALUES
    followers = Followers([spec])
    fired, over = followers.update({"x": values}, times(len(values)), 17)
    assert (fired.status, fired.incident.row, fired.incident.offset) == ("firing", found[0], 17)
    assert over.status == "resolved"
    assert over.incident.signals == len(found)
    assert over.time_us == (found[-1] + QUIET_VALUES) * 1_000_000
    (follower,) = followers
    assert (follower.signals, follower.incidents, follower.incident) == (len(found), 1, None)


def test_an_incident_stays_open_until_as_many_quiet_values_have_passed() -> None:
    jump = np.concatenate([np.zeros(500), np.ones(100)])
    spec = DetectorSpec("adwin", "x")
    (first,) = signals(build_detector(spec), jump)
    followers = Followers([spec])
    quiet = np.ones(QUIET_VALUES + first - len(jump))
    assert [turn.status for turn in followers.update({"x": jump}, times(len(jump)), 0)] == ["firing"]
    assert followers.update({"x": quiet}, times(len(quiet)), 1) == []
    assert [turn.status for turn in followers.update({"x": np.ones(1)}, times(1, 9_999), 2)] == ["resolved"]


@pytest.mark.parametrize(
    ("name", "skipped"),
    [("adwin", 3), ("page_hinkley", 3), ("kswin", 3), ("ddm", 6), ("eddm", 6), ("hddm_a", 5), ("hddm_w", 5)],
    ids=DETECTORS,
)
def test_missing_values_are_passed_over_and_others_it_does_not_take_are_counted(name: str, skipped: int) -> None:
    values = np.array([0, np.nan, 1, 0.5, -0.1, 1.1, np.inf, -np.inf, 1e101, np.nan, 1])
    (follower,) = followers = Followers([DetectorSpec(name, "x")])
    followers.update({"x": values}, times(len(values)), 0)
    assert (follower.skipped, follower.followed) == (skipped, len(values) - 2 - skipped)
    plain = Followers([DetectorSpec(name, "x")])
    domain = {3: [0, 1, 0.5, -0.1, 1.1], 5: [0, 1, 0.5], 6: [0, 1]}[skipped]
    taken = values[np.isin(values, np.array(domain))]
    plain.update({"x": taken}, times(len(taken)), 0)
    states = [json.loads(each.to_bytes())["followers"][0]["state"] for each in (followers, plain)]
    assert states[0] == states[1]


def test_each_follows_its_own_stream_and_a_stream_that_is_not_there_changes_nothing() -> None:
    followers = Followers([DetectorSpec("adwin", "x"), DetectorSpec("adwin", "y"), DetectorSpec("ddm", "y")])
    assert followers.streams == ("x", "y")
    jump = np.concatenate([np.zeros(500), np.ones(500)])
    turns = followers.update({"y": jump}, times(1000), 0)
    assert {(turn.spec.detector, turn.spec.stream) for turn in turns} == {("adwin", "y"), ("ddm", "y")}
    assert [follower.followed for follower in followers] == [0, 1000, 1000]


def test_a_new_specification_keeps_what_it_does_not_change_and_ends_the_incidents_of_the_rest() -> None:
    kept, changed, gone = DetectorSpec("adwin", "x"), DetectorSpec("ddm", "x"), DetectorSpec("hddm_a", "x")
    followers = Followers([kept, changed, gone])
    jump = np.concatenate([np.zeros(500), np.ones(200)])
    fired = followers.update({"x": jump}, times(700), 0)
    assert {turn.spec.detector for turn in fired} == {"adwin", "ddm", "hddm_a"}
    other = DetectorSpec("ddm", "x", {"warm_start": 60.0})
    ended = followers.put_in_force([other, kept], 800_000_000)
    assert [(turn.spec, turn.status, turn.time_us) for turn in ended] == [
        (changed, "resolved", 800_000_000),
        (gone, "resolved", 800_000_000),
    ]
    assert [(follower.spec, follower.followed) for follower in followers] == [(other, 0), (kept, 700)]


def test_a_refused_specification_changes_nothing() -> None:
    followers = Followers([DetectorSpec("adwin", "x")])
    before = followers.to_bytes()
    with pytest.raises(StreamsError):
        followers.put_in_force([DetectorSpec("adwin", "x", {"delta": 2.0})], 0)
    assert followers.to_bytes() == before


def test_another_rivers_state_is_not_read_and_it_is_said() -> None:
    followers = Followers([DetectorSpec("adwin", "x")])
    followers.update({"x": np.concatenate([np.zeros(500), np.ones(500)])}, times(1000), 0)
    record = json.loads(followers.to_bytes()) | {"river": "0.1.0"}
    record["followers"][0]["state"] = "something else"
    restored, said = Followers.from_bytes(json.dumps(record).encode())
    assert len(said) == 1
    assert said[0].startswith("detector:adwin:x: start anew, for their state is of river 0.1.0")
    (follower,), (before,) = restored, followers
    assert (follower.followed, follower.signals, follower.incident) == (1000, 1, before.incident)
    fresh = json.loads(Followers([DetectorSpec("adwin", "x")]).to_bytes())["followers"][0]["state"]
    assert json.loads(restored.to_bytes())["followers"][0]["state"] == fresh


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["followers"][0]["state"].pop("window"),
        lambda record: record["followers"][0]["state"].update(update="print"),
        lambda record: record["followers"][0]["state"].update(n={"__class__": "os.system"}),
        lambda record: record["followers"][0]["state"].update(_rng=[3, "AAAA", None]),
        lambda record: record["followers"][0].pop("signals"),
        lambda record: record.pop("river"),
    ],
    ids=["field gone", "method as field", "object for a number", "short generator", "count gone", "no version"],
)
def test_what_is_no_state_is_refused(change: Any) -> None:
    record = json.loads(Followers([DetectorSpec("kswin", "x")]).to_bytes())
    change(record)
    with pytest.raises(JournalError, match="expected the state of detectors"):
        Followers.from_bytes(json.dumps(record).encode())


def test_no_bytes_of_a_pickle_are_ever_run() -> None:
    with pytest.raises(JournalError):
        Followers.from_bytes(b"cos\nsystem\n(S'true'\ntR.")


def test_the_state_is_small() -> None:
    """It is written with every commit of an active deployment."""
    for spec in ALL:
        followers = Followers([spec])
        followers.update({"x": np.random.default_rng(0).integers(2, size=3_000).astype(np.float64)}, times(3_000), 0)
        assert len(followers.to_bytes()) < 8_000, spec.detector


@pytest.mark.parametrize("name", DETECTORS)
def test_every_parameter_that_can_be_set_is_one_of_rivers(name: str) -> None:
    known = catalogue._KNOWN[name]
    theirs = inspect.signature(RIVER[name]).parameters
    assert getattr(importlib.import_module(known.module), known.name) is RIVER[name]
    assert set(theirs) - set(known.parameters) <= {"mode", "seed", "window"}
    for parameter, bounds in known.parameters.items():
        default = theirs[parameter].default
        assert bounds.allow(default), parameter
        assert bounds.whole == isinstance(default, int), parameter


@pytest.mark.parametrize("name", DETECTORS)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_whatever_passes_the_check_runs(name: str, data: st.DataObject) -> None:
    """Not so without it: ADWIN with a clock of 0 ends the worker, KSWIN fails at its hundredth value."""
    parameters = {}
    for parameter, bounds in catalogue._KNOWN[name].parameters.items():
        whole = st.integers(int(bounds.low), int(min(bounds.high, 200))).map(float)
        real = st.floats(bounds.low, bounds.high, exclude_min=bounds.open, exclude_max=bounds.open)
        parameters[parameter] = data.draw(whole if bounds.whole else real)
    if name == "kswin":
        parameters["window_size"] = max(parameters["window_size"], 2 * parameters["stat_size"])
    if name == "eddm":
        parameters["beta"] = min(parameters["beta"], parameters["alpha"])
    spec = DetectorSpec(name, "x", parameters)
    check_detector(spec)
    values = np.concatenate([restless(1, 700), [1e100, -1e100, 1e100, 1e-300] * 20, restless(2, 100)])
    followers = Followers([spec])
    followers.update({"x": values}, times(len(values)), 0)
    assert Followers.from_bytes(followers.to_bytes())[0].to_bytes() == followers.to_bytes()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (DetectorSpec("adwine", "x"), "'adwine' is not known: expected one of adwin, page_hinkley, kswin"),
        (DetectorSpec("adwin", "x", {"alpha": 0.1}), "no parameter 'alpha' that can be set: expected delta, clock"),
        (DetectorSpec("adwin", "x", {"delta": 1.0}), "delta must be a number above 0 and below 1, is 1.0"),
        (DetectorSpec("adwin", "x", {"delta": float("nan")}), "delta must be a number above 0 and below 1, is nan"),
        (DetectorSpec("adwin", "x", {"clock": 1.5}), "clock must be a whole number from 1 to 1e+06, is 1.5"),
        (DetectorSpec("adwin", "x", {"clock": 0.0}), "clock must be a whole number from 1 to 1e+06, is 0.0"),
        (DetectorSpec("kswin", "x", {"seed": 1.0}), "no parameter 'seed'"),
        (DetectorSpec("kswin", "x", {"stat_size": 51.0}), "window_size must be at least twice stat_size"),
        (DetectorSpec("eddm", "x", {"beta": 0.96}), "beta must not be above alpha"),
        (DetectorSpec("hddm_a", "x", {"two_sided_test": 2.0}), "two_sided_test must be a whole number from 0 to 1"),
        (DetectorSpec("ddm", "x", {"warm_start": "30"}), "warm_start must be a whole number from 1 to 1e+06, is '30'"),  # type: ignore[dict-item]  # what a careless caller passes
    ],
    ids=lambda value: None if isinstance(value, str) else f"{value.detector}-{'-'.join(value.parameters)}",
)
def test_what_cannot_run_is_refused_with_what_was_expected(spec: DetectorSpec, said: str) -> None:
    with pytest.raises(StreamsError) as refusal:
        check_detector(spec)
    assert said in str(refusal.value)


def test_a_detector_comes_once_per_stream_and_there_are_not_too_many() -> None:
    check_detectors([DetectorSpec("adwin", "x"), DetectorSpec("adwin", "y"), DetectorSpec("ddm", "x")])
    with pytest.raises(StreamsError, match="detector:adwin:x is there more than once"):
        check_detectors([DetectorSpec("adwin", "x"), DetectorSpec("adwin", "x", {"delta": 0.1})])
    with pytest.raises(StreamsError, match="at most 20 detectors, came 21"):
        check_detectors([DetectorSpec("adwin", f"x{i}") for i in range(21)])


def test_river_is_imported_only_where_a_detector_runs() -> None:
    code = (
        "import sys; from streams.followers import Followers; from streams.detectors import *; "
        "check_detector(DetectorSpec('adwin', 'x')); describe_detector(DetectorSpec('adwin', 'x')); "
        "Followers.from_bytes(Followers().to_bytes()); sys.exit('river' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("name", "distribution"),
    [("page_hinkley", "normal"), ("eddm", "bernoulli .1"), ("hddm_w", "bernoulli .5"), ("adwin", "uniform")],
)
def test_the_rates_that_are_told_are_measured(name: str, distribution: str) -> None:
    """Anew, with another seed and fewer values: within five standard errors of a Poisson count.

    Signals of one detector repel each other (it has to learn anew), so a Poisson error is on the wide side.
    """
    n = 200_000
    told = MEASURED[name].independent[distribution] * n / 1e6
    found = false_alarms_per_million(name, {}, distribution, n, seed=7) * n / 1e6
    assert abs(found - told) <= 5 * np.sqrt(told + found + 1)


@pytest.mark.parametrize("name", ["adwin", "page_hinkley", "eddm"])
def test_the_rates_under_dependence_are_measured(name: str) -> None:
    n = 100_000
    told = MEASURED[name].correlated * n / 1e6
    found = false_alarms_per_million(name, {}, distributions(name)[-1], n, seed=7) * n / 1e6
    assert abs(found - told) <= 5 * np.sqrt(told + found)


@pytest.mark.parametrize("distribution", ["AR(1) .9", "sticky .1"])
def test_dependent_streams_correlate_as_they_say_and_have_the_law_they_say(distribution: str) -> None:
    values = DISTRIBUTIONS[distribution](np.random.default_rng(3), 400_000)
    assert np.corrcoef(values[1:], values[:-1])[0, 1] == pytest.approx(0.9, abs=0.01)
    assert (values.mean(), values.std()) == pytest.approx((0, 1) if "AR" in distribution else (0.1, 0.3), abs=0.03)


def test_the_table_is_whole_and_of_the_river_that_runs() -> None:
    assert tuple(MEASURED) == DETECTORS
    assert following._river_version() == MEASURED_RIVER
    for name, measured in MEASURED.items():
        assert tuple(measured.independent) == distributions(name)[:-1]


def test_it_is_said_what_a_detector_is_worth() -> None:
    adwin = MEASURED["adwin"]
    assert describe_detector(DetectorSpec("adwin", "prediction")) == (
        f"adwin on prediction: measured 0 to 1 false alarms per million unchanged values that are independent, "
        f"{adwin.correlated:,} with autocorrelation .9 (river 0.26.1, defaults); outside the false-alarm budget"
    )
    assert "not measured with clock 1, delta 0.1" in describe_detector(
        DetectorSpec("adwin", "x", {"delta": 0.1, "clock": 1.0})
    )
    for name in DETECTORS:
        said = describe_detector(DetectorSpec(name, "x"))
        assert ("skips other values" in said) == (takes(name) != catalogue.NUMBERS)
        assert ("fill a core" in said) == (name == "kswin")


def test_an_incidents_alerts_fit_the_contract_and_their_ids_are_those_of_their_cause(samples: Any) -> None:
    spec = samples.spec(detectors=(DetectorSpec("adwin", "x"),))
    baseline = samples.baseline(spec)
    followers = Followers([*spec.detectors, DetectorSpec("ddm", "x")])
    jump = np.concatenate([np.zeros(500), np.ones(200 + QUIET_VALUES)])
    turns = followers.update({"x": jump}, times(len(jump)), 5)
    message = Message("t.predictions", 3, 5, 1_700_000_000_000, None, None)
    emitted = [detector_alert(spec, baseline, turn, message, None) for turn in turns]
    assert emitted == [detector_alert(spec, baseline, turn, message, None) for turn in turns]
    fired, over, other, _ = (alert.record for alert, _ in emitted)
    for alert, event in emitted:
        encode("Alert", alert.record)
        encode("AuditEvent", event.record)
        assert event.record["subject"] == f"incident:{alert.record['incident_key']}"
    assert [event.record["action"] for _, event in emitted[:2]] == ["alert.fired", "alert.resolved"]
    assert (fired["status"], over["status"]) == ("firing", "resolved")
    assert (fired["monitor"], fired["severity"]) == ("detector:adwin:x", "info")
    assert fired["incident_key"] == over["incident_key"] != other["incident_key"]
    assert fired["incident_key"] == stable_id("detector", "d", "1", "detector:adwin:x", 3, 5, turns[0].incident.row)
    assert fired["id"] != over["id"]
    assert fired["detection_time_us"] == fired["change_time_us"] == turns[0].incident.fired_us
    assert fired["false_alarms"] == describe_detector(DetectorSpec("adwin", "x"))
    assert (fired["log_evidence_nats"], fired["threshold_nats"], fired["causes"]) == (0.0, 0.0, [])
    offsets = {"topic": "t.predictions", "partition": 3, "first_offset": 5, "last_offset": 5}
    assert fired["evidence_offsets"] == [offsets]
