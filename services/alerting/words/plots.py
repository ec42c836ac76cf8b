"""Small pictures of expected against observed shares.

Drawn by matplotlib without its global state (no pyplot), one at a time: its font cache and its settings belong to the
process. Settings of the machine it runs on (a matplotlibrc, a backend, installed fonts) change nothing. Names from data
are drawn as they are, cleaned and cut to the room there is; nothing in them is read as mathematics.

Colours are two of those that Okabe and Ito chose to be told apart by everybody (Color Universal Design, 2002), and
shapes say the same: expected is a wide pale bar, observed a narrow dark one. The background is opaque, so that the
picture can be read on dark and on light pages.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from driftline.codec import Record
from services.alerting.words.bars import Bars, bars
from services.alerting.words.message import format_time, stream_line
from services.alerting.words.readings import reading, unit
from services.alerting.words.statements import percent
from services.alerting.words.text import REPLACEMENT, Value, clean, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_PIXELS, HEIGHT_PIXELS = 640, 240

_DPI = 100
_BACKGROUND, _INK, _FAINT = "#fafaf7", "#1c1c1c", "#5c5c5c"
_EXPECTED, _EXPECTED_EDGE, _OBSERVED = "#c8ccd0", "#7d848a", "#0072b2"
_PALETTE = 96
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_SETTINGS: dict[str, Any] = {
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": ["DejaVu Sans"],
    "svg.fonttype": "none",
    "svg.hashsalt": "driftline",
    "path.sketch": None,
    "figure.dpi": _DPI,
    "savefig.dpi": _DPI,
}
_TITLE_POINTS, _TEXT_POINTS, _TICK_POINTS = 9.5, 7.5, 7.0
_MARGIN = 12
_LINE_PIXELS = 13
_LABEL_PIXELS = 165
_LEAST_SHARE = 1e-9
_LEGEND_PIXELS = 165
_ALTERNATIVE_CHARACTERS = 600
_LOCK = threading.Lock()

_KEPT_PICTURES = 100
_KEPT: dict[bytes, bytes] = {}
"""The latest pictures, under the lock: chat and mail show the same ones, and a picture takes a tenth of a second."""


def plot_png(cause: Record) -> bytes:
    """A PNG of a cause's bins: expected beside observed shares, 640 x 240 pixels.

    Takes any decoded cause, however odd: NaN, no bins, labels of ten thousand characters.
    """
    key = hashlib.sha256(repr(cause).encode("utf-8", "replace")).digest()
    buffer = io.BytesIO()
    with _drawing():
        if (kept := _KEPT.get(key)) is not None:
            return kept
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        canvas: Any = FigureCanvasAgg(_figure(cause))
        canvas.draw()
        drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        # A palette makes a third of the size: mail and chat carry many of these.
        drawn.quantize(_PALETTE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        _KEPT[key] = buffer.getvalue()
        if len(_KEPT) > _KEPT_PICTURES:
            del _KEPT[next(iter(_KEPT))]
        return _KEPT[key]


def plot_svg(cause: Record) -> bytes:
    """The same as SVG, with a text that screen readers read out."""
    buffer = io.StringIO()
    with _drawing():
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        canvas: Any = FigureCanvasSVG(_figure(cause))
        canvas.print_svg(buffer, metadata={"Title": plot_alternative(cause), **_NO_METADATA})
    drawn = buffer.getvalue()
    # Without the document type: it names an address that a reader may fetch. Verdana is as wide as the font measured.
    drawn = drawn[drawn.index("<svg ") :].replace("<svg ", '<svg role="img" ', 1)
    return drawn.replace("font-family: 'DejaVu Sans'", "font-family: 'DejaVu Sans', Verdana, sans-serif").encode()


def plot_alternative(cause: Record) -> str:
    """What the picture shows, in words, for those who do not see it."""
    told = reading(cause)
    said = f": {told}" if told is not None else ": there are no counts"
    return shorten(f"Expected and observed shares of {stream_line(cause)}{said}.", _ALTERNATIVE_CHARACTERS)


@contextmanager
def _drawing() -> Iterator[None]:
    """One at a time, with settings of our own."""
    with _LOCK:
        import matplotlib

        with matplotlib.rc_context():
            settings: Any = {**matplotlib.rcParamsDefault, "backend": "agg", **_SETTINGS}
            matplotlib.rcParams.update(settings)
            yield


def _figure(cause: Record) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_PIXELS / _DPI, HEIGHT_PIXELS / _DPI), dpi=_DPI, facecolor=_BACKGROUND)
    title, told = stream_line(cause), reading(cause)
    ours = not isinstance(title.parts[0], Value)
    name = str(title)[:1].upper() + str(title)[1:] if ours else str(title)
    _write(figure, name, 10, _TITLE_POINTS, WIDTH_PIXELS - _LEGEND_PIXELS - 2 * _MARGIN)
    said = _in_two(str(told or "no counts came with this alarm"), _TEXT_POINTS, WIDTH_PIXELS - 2 * _MARGIN)
    for place, words in enumerate(said):
        _write(figure, words, 27 + _LINE_PIXELS * place, _TEXT_POINTS, WIDTH_PIXELS - 2 * _MARGIN)
    found = bars(cause)
    if found is not None and found.labels:
        _legend(figure)
        top = 1 - (50 + _LINE_PIXELS * (len(said) - 1)) / HEIGHT_PIXELS
        (_upright if found.upright else _lying)(figure, found, top)
        since = f"{int(cause['rows']):,} {unit(cause)} since {format_time(cause['change_time_us'])}"
        _write(figure, since, HEIGHT_PIXELS - 15, _TICK_POINTS, WIDTH_PIXELS // 2, color=_FAINT, right=True)
        _write(figure, found.caption, HEIGHT_PIXELS - 15, _TICK_POINTS, WIDTH_PIXELS // 2 - 2 * _MARGIN, color=_FAINT)
    return figure


def _upright(figure: Figure, found: Bars, top: float) -> None:
    """Bins in their order, from left to right; the shares are read off lines."""
    axes = figure.add_axes((0.075, 0.205, 0.905, top - 0.205), facecolor="none")
    places = range(len(found.labels))
    axes.bar(places, found.expected, width=0.86, color=_EXPECTED, edgecolor=_EXPECTED_EDGE, linewidth=0.8)
    axes.bar(places, found.observed, width=0.46, color=_OBSERVED)
    most = max(*found.expected, *found.observed, _LEAST_SHARE) * 1.08
    axes.set_ylim(0, most)
    axes.set_xlim(-0.6, len(found.labels) - 0.4)
    labels = [_drawable(label) for label in found.labels]
    room = 0.905 * WIDTH_PIXELS / len(labels) - 2
    if any(_pixels(label, _TICK_POINTS) > room for label in labels):
        labels = [_fitting(label, _TICK_POINTS, int(2 * room)) if i % 2 else "" for i, label in enumerate(labels)]
    axes.set_xticks(list(places), labels=labels)
    shown = [tick for tick in axes.get_yticks() if 0 <= tick <= most][:6]
    axes.set_yticks(shown, labels=[percent(tick) for tick in shown])
    axes.grid(axis="y", color="#e2e2de", linewidth=0.7)
    axes.set_axisbelow(True)
    _plain(axes)


def _lying(figure: Figure, found: Bars, top: float) -> None:
    """Categories, one below the other, with their shares beside them."""
    axes = figure.add_axes((0.29, 0.095, 0.52, top - 0.095), facecolor="none")
    places = range(len(found.labels))
    axes.barh(places, found.expected, height=0.82, color=_EXPECTED, edgecolor=_EXPECTED_EDGE, linewidth=0.8)
    axes.barh(places, found.observed, height=0.42, color=_OBSERVED)
    most = max(*found.expected, *found.observed, _LEAST_SHARE)
    axes.set_xlim(0, most)
    # With few bins they are not blown up: as many rows as three at least.
    axes.set_ylim(max(len(found.labels), 3) - 0.5, -0.5)
    axes.set_yticks(
        list(places), labels=[_fitting(_drawable(label), _TICK_POINTS, _LABEL_PIXELS) for label in found.labels]
    )
    axes.set_xticks([])
    for place, observed, expected in zip(places, found.observed, found.expected, strict=True):
        words = f"{percent(observed)}, expected {percent(expected)}"
        beside = max(observed, expected) + 0.015 * most
        axes.text(beside, place, words, va="center", fontsize=_TICK_POINTS, color=_INK, clip_on=False)
    _plain(axes)


def _plain(axes: Any) -> None:
    """Without a frame, with small words."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0, labelsize=_TICK_POINTS, labelcolor=_INK, pad=3)


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Rectangle

    right = WIDTH_PIXELS - _MARGIN
    pieces = (
        ("expected", right - 152, _EXPECTED, _EXPECTED_EDGE, 10),
        ("observed", right - 68, _OBSERVED, _OBSERVED, 6),
    )
    for words, left, fill, edge, high in pieces:
        low = 1 - (16 + high / 2) / HEIGHT_PIXELS
        size = (12 / WIDTH_PIXELS, high / HEIGHT_PIXELS)
        box = Rectangle((left / WIDTH_PIXELS, low), *size, facecolor=fill, edgecolor=edge, linewidth=0.8)
        box.set_transform(figure.transFigure)
        figure.add_artist(box)
        _write(figure, words, 10, _TEXT_POINTS, 60, left=left + 16)


def _write(
    figure: Figure,
    words: str,
    top: int,
    points: float,
    room: int,
    *,
    left: int = _MARGIN,
    right: bool = False,
    color: str = _INK,
) -> None:
    """A line of text at so many pixels from the top and from the left (or the right edge), in ``room`` pixels."""
    x = (WIDTH_PIXELS - _MARGIN) / WIDTH_PIXELS if right else left / WIDTH_PIXELS
    fitting = _fitting(_drawable(clean(words[:400])), points, room)
    align = "right" if right else "left"
    figure.text(x, 1 - top / HEIGHT_PIXELS, fitting, ha=align, va="top", fontsize=points, color=color)


def _fitting(words: str, points: float, room: int) -> str:
    """As much of the beginning as there is room for."""
    if _pixels(words, points) <= room:
        return words
    few, many = 0, len(words)
    while few < many:
        middle = (few + many + 1) // 2
        few, many = (middle, many) if _pixels(words[:middle] + "…", points) <= room else (few, middle - 1)
    return words[:few] + "…"


def _in_two(words: str, points: float, room: int) -> list[str]:
    """A sentence in two lines where one has no room for it."""
    words = _drawable(clean(words[:400]))
    if _pixels(words, points) <= room:
        return [words]
    first = _fitting(words, points, room).removesuffix("…").rpartition(" ")[0]
    return [first, words[len(first) :].lstrip()] if first else [words]


def _pixels(words: str, points: float) -> float:
    font = _font()
    font.set_size(points, _DPI)
    font.set_text(words, 0.0)
    width, _ = font.get_width_height()
    return float(width) / 64


def _drawable(words: str) -> str:
    """With what the font lacks replaced: it would be an empty box and a warning."""
    known = _characters()
    return "".join(c if ord(c) in known else REPLACEMENT for c in words)


@cache
def _font() -> Any:
    """The font that comes with matplotlib, whatever the machine has."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    return FT2Font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")))


@cache
def _characters() -> frozenset[int]:
    return frozenset(_font().get_charmap())
