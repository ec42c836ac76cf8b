"""Small pictures of expected against observed shares."""

from __future__ import annotations

from driftline.codec import Record


def plot_png(cause: Record) -> bytes:
    """A PNG of a cause's bins: expected beside observed shares, about 640 x 240 pixels.

    Takes any decoded cause, however odd: NaN, no bins, labels of ten thousand characters.
    """
    raise NotImplementedError


def plot_svg(cause: Record) -> bytes:
    """The same as SVG, with a text that screen readers read out."""
    raise NotImplementedError


def plot_alternative(cause: Record) -> str:
    """What the picture shows, in words, for those who do not see it."""
    raise NotImplementedError
