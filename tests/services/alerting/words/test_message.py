"""What people read: true, plain, and harmless whatever the data says."""

import math
import shlex
from typing import Any

import pytest
from fastavro import validate
from hypothesis import given
from hypothesis import strategies as st

from driftline.codec import SCHEMAS, decode, encode
from services.alerting.words.message import describe_alert, format_span, format_time
from services.alerting.words.readings import reading
from services.alerting.words.statements import percent
from services.alerting.words.text import clean, shorten, web_link
from streams.statistics.layouts import ASSOCIATION, QUALITY

ROLES = ["feature", "prediction", "joint", "association", "quality", "service", "rate", "something else"]
ROLES += ["outcome", "labels", "fairness"]
STREAMS = ["loss", "loss_tail", "calibration", "residual", "outcome", "labels:1", "labels:x", "selected"]


def test_it_says_what_changed_since_when_how_sure_and_how_bad(make_alert: Any) -> None:
    text = describe_alert(make_alert())
    assert str(text.headline) == "Data drift in credit, version 1"
    what, since, sure, bad = map(str, text.sentences)
    assert what == "The inputs of credit no longer look like the reference; most changed: temperature, carrier."
    assert since.startswith(
        "Since about 12 Jun 2013 14:00 UTC (estimated); noticed at 12 Jun 2013 17:20 UTC, 3 h 20 min"
    )
    assert sure == (
        "Evidence 21.3 nats against a threshold of 17.4: 49 times what it asks. The threshold keeps this promise on "
        "false alarms: at most 1 false alarm expected per 30 days over the whole fleet."
    )
    assert bad == (
        "The change is large by the usual reading of PSI: 52 % of rows (95 % interval 47 % to 57 %) would have to have "
        "other values of temperature to look like the reference again."
    )
    assert str(text.causes[0]).startswith(
        "temperature: 62 % of rows lie above the reference's 9th decile (90.5), expected 10 %. PSI 0.83 (large)"
    )
    assert str(text.causes[1]).startswith("carrier: 40 % of rows are AA, expected 10 %.")
    assert str(text.command).endswith(f"alerts show {make_alert()['id']}")
    assert ("Owner", "risk-team") in text.facts


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "52 % of rows (95 % interval 47 % to 57 %) would have to have other values of x to"),
        ({"intervals": {"total_variation": [0.11, 1.0]}}, "52 % of rows (at 95 % confidence at least 11 %) would"),
        ({"intervals": {}}, "52 % of rows (90 % interval 30 % to 80 %) would"),
    ],
)
def test_how_sure_the_size_of_a_change_is_is_said(make_alert: Any, changes: dict[str, Any], said: str) -> None:
    cause = make_alert()["causes"][0] | {"stream": "x", "tv_low": 0.3, "tv_high": 0.8}
    cause["effects"] = cause["effects"] | changes
    text = describe_alert(make_alert() | {"causes": [cause]})
    assert said in str(text.sentences[-1])
    assert str(text.sentences[-1]).endswith("to look like the reference again.")


@pytest.mark.parametrize(
    ("independent", "worth"), [(1.0, "no more than one independent"), (4.4, "no more than 4 independent")]
)
def test_an_interval_that_says_nothing_is_left_out_and_the_reason_told(
    make_alert: Any, independent: float, worth: str
) -> None:
    cause = make_alert()["causes"][0]
    nothing = {"independent_rows": independent, "intervals": {"total_variation": [0.0, 1.0]}}
    cause = cause | {"effects": cause["effects"] | nothing}
    text = describe_alert(make_alert() | {"causes": [cause]})
    bad = str(text.sentences[-1])
    assert "interval" not in bad and "%" in bad
    assert "these 1,000 are worth " + worth in bad
    assert "interval" not in str(text.causes[0])


def test_an_end_says_when_it_began_and_ended(make_alert: Any) -> None:
    text = describe_alert(make_alert(status="resolved", causes=[]))
    assert str(text.headline) == "Resolved: Data drift in credit, version 1"
    assert "over at 13 Jun 2013 17:20 UTC" in str(text.sentences[0])
    assert "27 h 20 min" in str(text.sentences[0])


@pytest.mark.parametrize(
    ("stream", "commands"),
    [
        ("temperature", "driftline windows show credit --stream temperature."),
        ("error", "driftline windows show credit --metric accuracy."),
        ("residual", "driftline windows show credit --metric bias."),
        (
            "loss",
            "driftline windows show credit --metric log_loss, or of numbers "
            "driftline windows show credit --metric mae.",
        ),
    ],
)
def test_of_a_detectors_signal_the_command_shows_what_it_follows(make_alert: Any, stream: str, commands: str) -> None:
    text = describe_alert(make_alert() | {"monitor": f"detector:adwin:{stream}", "causes": []})
    assert str(text.steps).endswith("see how far it went: " + commands)


def test_a_detector_outside_the_budget_claims_no_evidence(make_alert: Any) -> None:
    changes = {"monitor": "detector:adwin:temperature", "causes": [], "false_alarms": "1 in a million"}
    text = describe_alert(make_alert() | changes)
    assert str(text.headline) == "Signal of adwin on temperature in credit, version 1"
    said = " ".join(map(str, text.sentences))
    assert said.startswith("adwin on temperature in credit signalled a change at 12 Jun 2013 14:00 UTC")
    assert said.endswith("What that is worth: 1 in a million.")
    assert "nats" not in said and "promise" not in said
    over = describe_alert(make_alert(status="resolved") | changes)
    assert str(over.headline) == "Resolved: Signal of adwin on temperature in credit, version 1"
    assert "over at 13 Jun 2013 17:20 UTC" in str(over.sentences[0])
    assert "27 h 20 min" in str(over.sentences[1])


@pytest.mark.parametrize("status", ["firing", "resolved"])
def test_a_detectors_headline_fits_whatever_it_is_called(make_alert: Any, status: str) -> None:
    long = {"monitor": "detector:" + "d" * 99 + ":" + "s" * 999, "deployment_id": "x" * 200, "model_version": "v" * 99}
    assert len(str(describe_alert(make_alert(status=status) | long).headline)) <= 147


@pytest.mark.parametrize(
    ("observed", "said"),
    [
        ([0, 5, *([99] * 10), 5, 0, 600], "38 % of rows have no value, expected 0.2 %"),
        ([0, 5, *([99] * 10), 5, 200, 0], "17 % of rows lie above everything in the reference, expected 0.01 %"),
        ([300, 5, *([99] * 10), 5, 0, 0], "23 % of rows lie below everything in the reference, expected 0.01 %"),
        ([0, 2, *([300] * 2), *([10] * 8), 1, 0, 0], "88 % of rows lie below the reference's 2nd decile"),
        ([0, 90, 300, *([10] * 8), 300, 90, 0, 0], "91 % of rows lie outside the reference's 1st and 9th decile"),
        ([0, 0, 5, *([200] * 8), 5, 0, 0, 0], "99 % of rows lie between the reference's 1st and 9th decile"),
    ],
)
def test_a_numeric_change_is_read_as_the_statement_that_tells_most(
    make_alert: Any, observed: list[int], said: str
) -> None:
    cause = make_alert()["causes"][0] | {"observed": observed}
    told = str(reading(cause)).replace(" (10.5)", "").replace(" (20.5)", "")
    assert told.startswith(said), told


@pytest.mark.parametrize(
    ("observed", "said"),
    [
        ([0, 500, 390, *([0] * 17), 10, 0, 0], "0 % of rows are AA, expected 10 %"),
        ([100, 500, 390, *([0] * 17), 10, 150, 0], "13 % of rows have a value the reference never had, expected 0 %"),
        ([100, 500, 390, *([0] * 17), 10, 0, 300], "23 % of rows have no value, expected 0 %"),
        ([100, 500, 390, *([0] * 17), 300, 0, 0], "23 % of rows have one of the rarer categories, expected 1.0 %"),
    ],
)
def test_a_categorical_change_is_read_as_the_statement_that_tells_most(
    make_alert: Any, observed: list[int], said: str
) -> None:
    assert str(reading(make_alert()["causes"][1] | {"observed": observed})) == said


def cause_of(make_alert: Any, role: str, stream: str, observed: list[int], expected: list[float], **more: Any) -> Any:
    cause: dict[str, Any] = make_alert()["causes"][0]
    bins = {5: list(QUALITY.bin_names), 10: list(ASSOCIATION.bin_names)}.get(len(observed), cause["bins"])
    counts = {"observed": observed, "expected": expected, "bins": bins, "rows": sum(observed)}
    return cause | {"role": role, "stream": stream} | counts | more


def told(make_alert: Any, monitor: str, cause: Any) -> list[str]:
    text = describe_alert(make_alert(monitor=monitor, causes=[cause], rows_since_change=cause["rows"]))
    return [str(text.headline), *map(str, text.sentences), str(text.causes[0]), str(text.steps)]


def test_missing_values_are_told_by_their_number(make_alert: Any) -> None:
    cause = cause_of(make_alert, "quality", "quality:income", [980, 0, 0, 20, 0], [0.9996, *([0.0001] * 4)])
    headline, what, _, _, size, first, steps = told(make_alert, "data_quality", cause)
    assert headline == "Data quality change in credit, version 1"
    assert what.endswith("are no longer as usable as in the reference; most changed: unusable values of income.")
    assert size == (
        "Since then 20 of 1,000 rows have no value (unusable values of income); "
        "the reference leads to expect fewer than 1."
    )
    assert first.startswith("unusable values of income: 2.0 % of rows have no value, expected 0.01 %. Total variation")
    assert "look where these values come from" in steps


@pytest.mark.parametrize(
    ("bin_number", "said"),
    [
        (1, "lie outside everything in the reference"),
        (2, "have a value the reference never had"),
        (4, "have a value that cannot be read"),
    ],
)
def test_each_kind_of_unusable_value_has_its_words(make_alert: Any, bin_number: int, said: str) -> None:
    observed = [900, 0, 0, 0, 0]
    observed[bin_number] = 100
    cause = cause_of(make_alert, "quality", "quality:x", observed, [0.99996, *([0.00001] * 4)])
    assert str(reading(cause)) == f"10 % of rows {said}, expected next to none"


def test_a_rate_counts_intervals_and_not_rows(make_alert: Any) -> None:
    bins = ["< 0.1", "0.1 – 0.3", *(f"{0.4 + i / 10:g} – {0.5 + i / 10:g}" for i in range(10)), "1.4 – 2", "≥ 2", ""]
    expected = [0.001, 0.005, *([0.0988] * 10), 0.005, 0.0001, 0.0]
    cause = cause_of(
        make_alert, "rate", "rate", [0, 0, 40, 9, 1, *([0] * 10)], expected, bins=bins, interval_ms=300_000
    )
    headline, what, since, _, size, first, steps = told(make_alert, "service", cause)
    assert headline == "Service change in credit, version 1"
    assert what.endswith("no longer behaves as in the reference; most changed: the rate of rows.")
    assert since.endswith("3 h 20 min and 50 intervals of 5 minutes later.")
    assert size == (
        "Since then 49 of 50 intervals of 5 minutes had less than 60 % of the usual number of rows; "
        "the reference leads to expect about 10."
    )
    assert first.startswith("the rate of rows: 98 % of intervals of 5 minutes had less than 60 % of the usual number")
    assert "look at the service" in steps and "rows." not in first
    none = cause | {"observed": [50, *([0] * 14)]}
    assert "100 % of intervals of 5 minutes had fewer rows than any in the reference, or none" in str(reading(none))


def test_errors_are_told_as_failures(make_alert: Any) -> None:
    cause = make_alert()["causes"][1] | {"role": "service", "stream": "error"}
    cause |= {"bins": ["timeout", *([""] * 19), "(other)", "(unseen)", "(missing)"]}
    cause |= {"expected": [0.004, *([0.0] * 21), 0.996], "observed": [4, *([0] * 20), 50, 946]}
    assert str(reading(cause)) == "5.0 % of rows failed with an error the reference never had, expected 0 %"
    more = cause | {"observed": [200, *([0] * 20), 0, 800]}
    assert str(reading(more)) in (
        "20 % of rows failed with timeout, expected 0.4 %",
        "20 % of rows failed, expected 0.4 %",
    )
    fewer = cause | {"expected": [0.2, *([0.0] * 21), 0.8], "observed": [0, *([0] * 21), 1000]}
    assert "0 % of rows failed" in str(reading(fewer))


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("90.5 – 100", "90.5"),
        ("-1.93658e-05 – 1", "-1.937e-05"),
        ("1234567.4 – 2e6", "1,234,567"),
        ("5e300 – 6e300", "5e+300"),
    ],
)
def test_an_edge_is_written_as_people_write_numbers(make_alert: Any, label: str, shown: str) -> None:
    cause = make_alert()["causes"][0]
    bins = [*cause["bins"][:11], label, *cause["bins"][12:]]
    assert f"9th decile ({shown}), expected" in str(reading(cause | {"bins": bins}))


def test_latency_has_its_unit(make_alert: Any) -> None:
    cause = make_alert()["causes"][0] | {"role": "service", "stream": "latency_ms"}
    assert str(reading(cause)).startswith("62 % of rows lie above the reference's 9th decile (90.5 ms)")


def test_a_relation_between_columns_is_named_by_its_columns(make_alert: Any) -> None:
    joint = make_alert()["causes"][0] | {"role": "joint", "stream": "joint.distance"}
    *_, size, first, _ = told(make_alert, "data_drift", joint | {"inputs": ["income", "loan", "age"]})
    assert first.startswith(
        "how income, loan and age go together: 62 % of rows lie, by their distance from the usual row,"
    )
    assert size.endswith("would have to be combined otherwise to look like the reference again.")
    many = joint | {"inputs": list("abcdefg")}
    assert str(describe_alert(make_alert(causes=[many])).causes[0]).startswith(
        "how a, b, c, d and 3 more go together: "
    )
    ninth = [0.111] * 9 + [0.001]
    observed = [300, *([88] * 8), 0]
    follows = cause_of(
        make_alert, "association", "association:income", observed, ninth, inputs=["income", "prediction"]
    )
    assert str(describe_alert(make_alert(causes=[follows])).causes[0]).startswith(
        "how the predicted value follows income: 30 % of rows have a low income and a low predicted value, expected 11"
    )


@pytest.mark.parametrize(
    ("stream", "inputs", "said"),
    [
        ("note.unknown_words", ["note"], "the share of words in note that the reference had not"),
        ("note.length", ["note"], "the length of note"),
        ("face.distance", ["face"], "the distance of face from its usual place"),
        ("face.projection_2", ["face"], "projection 2 of face"),
        ("sepal.length", [], "sepal.length"),
    ],
)
def test_what_is_computed_from_a_column_is_called_by_what_it_is(
    make_alert: Any, stream: str, inputs: list[str], said: str
) -> None:
    cause = make_alert()["causes"][0] | {"stream": stream, "inputs": inputs, "segment": ""}
    assert str(describe_alert(make_alert(causes=[cause])).causes[0]).startswith(said + ": ")
    part = cause | {"segment": "region=north"}
    text = describe_alert(make_alert(causes=[part]))
    assert str(text.sentences[0]).endswith(f"most changed: {said} in region=north.")
    assert "rows of region=north later" in str(text.sentences[1])


def test_it_says_what_to_do_next(make_alert: Any) -> None:
    steps = str(describe_alert(make_alert()).steps)
    assert steps == (
        "Next: follow the runbook; see how far and when: driftline windows show credit --stream temperature. "
        "If this is how things are to be, a baseline of the time since ends the alarm: "
        "driftline baseline build credit --from-topic --version 1 --from 2013-06-13."
    )
    assert "runbook" not in str(describe_alert(make_alert(runbook_url=None)).steps)
    assert describe_alert(make_alert(status="resolved")).steps is None


def test_a_name_cannot_become_a_command(make_alert: Any) -> None:
    steps = describe_alert(make_alert(deployment_id="x; rm -rf $HOME", model_version="`id`")).steps
    commands = [part for part in steps.parts if part.startswith("driftline ")]
    assert [shlex.split(command)[3] for command in commands] == ["x; rm -rf $HOME", "x; rm -rf $HOME"]
    assert shlex.split(commands[1])[6] == "`id`"


def test_a_category_called_missing_is_not_taken_for_the_missing_ones(make_alert: Any) -> None:
    cause = make_alert()["causes"][1]
    cause["bins"] = ["missing", *cause["bins"][1:]]
    assert str(reading(cause)) == "40 % of rows are missing, expected 10 %"


@given(
    counts=st.lists(st.integers(-5, 10**12), min_size=0, max_size=30),
    expected=st.lists(st.floats(), min_size=0, max_size=30),
    labels=st.lists(st.text(max_size=20) | st.sampled_from(["< 1", "1 – 2"]), min_size=0, max_size=30),
    role=st.sampled_from(ROLES),
    inputs=st.lists(st.text(max_size=20), max_size=6),
)
def test_a_reading_never_fails(
    counts: list[int], expected: list[float], labels: list[str], role: str, inputs: list[str]
) -> None:
    for size in (len(labels), 5, 10, 15, 23):
        fit = [(x * size)[:size] if x else [] for x in (counts, expected, labels)]
        cause = {"observed": fit[0], "expected": fit[1], "bins": fit[2], "role": role, "inputs": inputs, "stream": "x"}
        reading(cause)
        for stream in ("error", *STREAMS):
            reading(cause | {"stream": stream})


@pytest.mark.parametrize("status", ["firing", "resolved"])
def test_hostile_names_are_harmless(hostile_alert: Any, hostile_names: Any, lines_of: Any, status: str) -> None:
    for name in hostile_names:
        lines_of(describe_alert(hostile_alert(name, status)))


def test_what_was_cut_is_said(hostile_alert: Any) -> None:
    assert "… (10,000 characters)" in str(describe_alert(hostile_alert("x" * 10_000)).headline)


def test_a_thousand_causes_and_tags_are_told_in_part(make_alert: Any, lines_of: Any) -> None:
    causes = [cause | {"stream": "&" * 200 + str(n)} for n in range(500) for cause in make_alert()["causes"]]
    text = describe_alert(make_alert(causes=causes, tags={"&" * 300 + str(n): "<" * 3000 for n in range(1000)}))
    assert "and 997 more" in str(text.sentences[0]) and len(text.causes) == 5
    assert sum(map(len, lines_of(text))) < 10_000


@given(data=st.data())
def test_every_alert_that_decodes_can_be_told(any_alert: Any, lines_of: Any, data: st.DataObject) -> None:
    alert = data.draw(any_alert)
    assert validate(alert, SCHEMAS["Alert"].parsed, raise_errors=False)
    lines_of(describe_alert(decode(encode("Alert", alert))[1]))


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://wiki.example.org/a b|c>d", "https://wiki.example.org/a%20b%7Cc%3Ed"),
        ("javascript:alert(1)", None),
        ("https://", None),
        ("https://[", None),
        ("", None),
        (None, None),
        ("https://x.org/" + "a" * 3000, None),
    ],
)
def test_a_runbook_is_linked_only_if_it_is_an_address(url: str | None, link: str | None, make_alert: Any) -> None:
    assert web_link(url) == link
    assert describe_alert(make_alert(runbook_url=url)).runbook_url == link


@given(text=st.text(max_size=300), limit=st.integers(0, 300))
def test_shortened_text_fits_and_short_text_stays(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    assert (short == text) == (len(text) <= limit)


@given(text=st.text())
def test_cleaned_text_is_visible_and_as_long(text: str) -> None:
    assert len(clean(text)) == len(text)
    assert clean(clean(text)) == clean(text)
    assert not set(clean(text)) & set("\n\r\t\x1b\u202e\u200b\u2028")


def test_times_and_lengths_of_time_are_said_in_words() -> None:
    assert format_time(0) == "1 Jan 1970 00:00 UTC"
    assert "outside the calendar" in format_time(2**62)
    assert [format_span(s * 1_000_000) for s in (5, 119, 600, 7200, 12_000, 86_400 * 4, -60)] == [
        "5 s",
        "119 s",
        "10 min",
        "2 h",
        "3 h 20 min",
        "4 days",
        "minus 60 s",
    ]


def test_shares_are_said_in_percent() -> None:
    said = [percent(s) for s in (0, 0.00001, 0.0004, 0.012, 0.0996, 0.62, 1, math.nan)]
    assert said == ["0 %", "under 0.01 %", "0.04 %", "1.2 %", "10 %", "62 %", "100 %", "an unknown share"]
