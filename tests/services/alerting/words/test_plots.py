"""Pictures: of every layout, of the odd ones, the same each time, small, and nothing in a name is an order."""

import io
import math
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.alerting.words.bars import ROWS, bars
from services.alerting.words.plots import HEIGHT_PIXELS, WIDTH_PIXELS, plot_alternative, plot_png, plot_svg
from streams.baseline import _CONDITIONAL_LABELS, _LOSS_LABELS
from streams.humility.evidence import RULE_PREFIX

MOST_BYTES = 60_000
SVG = "{http://www.w3.org/2000/svg}"
QUALITY = ["valid", "out of range", "unseen", "missing", "refused"]


def cause_of(make_alert: Any, **changes: Any) -> dict[str, Any]:
    return {**make_alert()["causes"][0], **changes}


def of_every_layout(make_alert: Any) -> dict[str, dict[str, Any]]:
    yes_no = {"bins": ["yes", "no", *([""] * 18), "(other)", "(unseen)", "(missing)"], "role": "humility"}
    numbers = {"observed": [0, 2, 30, 40, 50, 60, 70, 80, 100, 150, 200, 280, 40, 10, 5]}
    ranks = list(next(iter(_CONDITIONAL_LABELS.values())))
    return {
        "numeric": cause_of(make_alert),
        "categorical": make_alert()["causes"][1],
        "quality": cause_of(
            make_alert,
            stream="quality:age",
            role="quality",
            bins=QUALITY,
            expected=[0.99, 0.004, 0.001, 0.004, 0.001],
            observed=[600, 10, 0, 390, 0],
        ),
        "humility": cause_of(
            make_alert,
            stream=RULE_PREFIX + "storm",
            expected=[0.1, 0.9, *([0.0] * 21)],
            observed=[300, 700, *([0] * 21)],
            **yes_no,
        ),
        "outcome": cause_of(make_alert, stream="loss", role="outcome", bins=ranks, **numbers),
        "tail": cause_of(
            make_alert,
            stream="loss_tail",
            role="outcome",
            bins=list(_LOSS_LABELS),
            expected=[0.93, *([0.005] * 14)],
            observed=[800, *([14] * 14)],
        ),
    }


def size_of(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        return picture.size


def texts_of(svg: bytes) -> str:
    return " ".join("".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text"))


@pytest.mark.parametrize("layout", ["numeric", "categorical", "quality", "humility", "outcome", "tail"])
def test_every_layout_has_a_small_picture_that_is_the_same_each_time(make_alert: Any, layout: str) -> None:
    cause = of_every_layout(make_alert)[layout]
    png, svg = plot_png(cause), plot_svg(cause)
    assert size_of(png) == (WIDTH_PIXELS, HEIGHT_PIXELS)
    assert len(png) < MOST_BYTES and len(svg) < MOST_BYTES
    assert plot_png(cause) == png and plot_svg(cause) == svg
    shown = texts_of(svg)
    assert "expected" in shown and "observed" in shown and "since 12 Jun 2013 14:00 UTC" in shown


def test_bars_are_as_long_as_the_shares(make_alert: Any) -> None:
    """Read off the picture itself: the observed bars of two categories, 40 % and 30 %."""
    cause = of_every_layout(make_alert)["categorical"]
    with Image.open(io.BytesIO(plot_png(cause))) as picture:
        pixels = picture.convert("RGB")
    long = [sum(_is_blue(pixels.getpixel((x, y))) for x in range(150, WIDTH_PIXELS)) for y in range(48, HEIGHT_PIXELS)]
    lengths = sorted({n for n in long if long.count(n) > 5 and n > 20}, reverse=True)
    assert lengths[1] / lengths[0] == pytest.approx(30 / 40, abs=0.02)


def _is_blue(pixel: Any) -> bool:
    red, green, blue = pixel
    return bool(blue > 140 and red < 60 and green < 150)


def test_numbers_stand_in_their_order_and_begin_where_they_are_said_to(make_alert: Any) -> None:
    found = bars(of_every_layout(make_alert)["numeric"])
    assert found is not None and found.upright
    assert found.labels[:4] == ("below", "-5", "0.5", "10.5") and found.labels[-2:] == ("above", "none")
    assert sum(found.observed) == pytest.approx(1)


def test_ranks_are_called_by_their_share_of_the_reference(make_alert: Any) -> None:
    found = bars(of_every_layout(make_alert)["outcome"])
    assert found is not None
    assert found.labels[:5] == ("below", "low", "0", "10", "20")
    assert found.caption.startswith("per cent of the reference of its hour")


def test_of_large_losses_only_those_beyond_the_usual_are_drawn(make_alert: Any) -> None:
    found = bars(of_every_layout(make_alert)["tail"])
    assert found is not None and len(found.labels) == 14
    assert "expected 93.0 %" in found.caption


def test_the_categories_that_differ_most_are_shown_and_the_rest_together(make_alert: Any) -> None:
    names = [f"c{i}" for i in range(20)]
    expected = [0.05] * 20 + [0.0, 0.0, 0.0]
    observed = [50] * 20 + [0, 0, 300]
    observed[13] = 400
    cause = cause_of(
        make_alert, bins=[*names, "(other)", "(unseen)", "(missing)"], expected=expected, observed=observed
    )
    found = bars(cause)
    assert found is not None and not found.upright and len(found.labels) == ROWS
    assert {"c13", "no value"} <= set(found.labels) and found.labels[-1] == "14 others"
    assert sum(found.observed) == pytest.approx(1) and sum(found.expected) == pytest.approx(1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_hostile_names_are_drawn_as_they_are(
    make_alert: Any, hostile_alert: Any, hostile_names: Any, number: int
) -> None:
    for name in hostile_names[number::3]:
        alert = hostile_alert(name)
        cause = alert["causes"][1] | {"bins": [name] * 10, "expected": [0.1] * 10, "observed": [90, *range(9)]}
        png, svg = plot_png(cause), plot_svg(cause)
        assert size_of(png) == (WIDTH_PIXELS, HEIGHT_PIXELS) and len(png) < MOST_BYTES and len(svg) < MOST_BYTES
        root = ElementTree.fromstring(svg)
        assert not [e.tag for e in root.iter() if e.tag.rpartition("}")[2] in ("script", "a", "image", "foreignObject")]


def test_a_dollar_is_no_mathematics(make_alert: Any) -> None:
    cause = make_alert()["causes"][1] | {"stream": r"$\frac{a}{$ $x^2$", "inputs": []}
    cause["bins"] = [r"$\undefined$", "$_$", *cause["bins"][2:]]
    shown = texts_of(plot_svg(cause))
    assert r"$\frac{a}{$ $x^2$" in shown and r"$\undefined$" in shown
    assert plot_png(cause)


def test_settings_of_the_machine_change_nothing(make_alert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cause = make_alert()["causes"][0]
    png, svg = plot_png(cause), plot_svg(cause)
    changes: Any = {"axes.grid": True, "font.size": 40.0, "text.color": "red", "savefig.dpi": 30, "axes.linewidth": 9.0}
    with matplotlib.rc_context(changes):
        assert plot_png(cause) == png and plot_svg(cause) == svg
        assert matplotlib.rcParams["font.size"] == 40.0


def test_threads_draw_at_the_same_time(make_alert: Any) -> None:
    causes = list(of_every_layout(make_alert).values())
    alone = [plot_png(cause) for cause in causes]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(plot_png, causes * 3)) == alone * 3


def test_without_counts_the_picture_says_so(make_alert: Any) -> None:
    cause = cause_of(make_alert, bins=[], expected=[], observed=[])
    assert bars(cause) is None
    assert "no counts" in texts_of(plot_svg(cause)) and size_of(plot_png(cause))
    assert plot_alternative(cause) == "Expected and observed shares of temperature: there are no counts."


def test_screen_readers_read_what_it_shows(make_alert: Any) -> None:
    cause = make_alert()["causes"][0]
    said = "Expected and observed shares of temperature: 62 % of rows lie above the reference's 9th decile (90.5)"
    assert plot_alternative(cause).startswith(said)
    root = ElementTree.fromstring(plot_svg(cause))
    assert root.attrib["role"] == "img"
    (title,) = root.findall(f"{SVG}title")
    assert title.text == plot_alternative(cause)


_number = st.sampled_from([0.0, 1.0, 1e300, 5e-324, math.nan, math.inf, -1.0, 0.2])


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_cause_that_decodes_has_a_picture(any_alert: Any, data: st.DataObject) -> None:
    alert = data.draw(any_alert.filter(lambda alert: alert["causes"]))
    cause = alert["causes"][0]
    size = data.draw(st.sampled_from([0, 1, 5, 15, 23]))
    cause["bins"] = data.draw(st.lists(st.text(max_size=30), min_size=size, max_size=size))
    cause["expected"] = data.draw(st.lists(_number, min_size=size, max_size=size))
    cause["observed"] = data.draw(st.lists(st.integers(-1, 2**63 - 1), min_size=size, max_size=size))
    assert size_of(plot_png(cause)) == (WIDTH_PIXELS, HEIGHT_PIXELS)
    ElementTree.fromstring(plot_svg(cause))
