"""The pages that messages lead to: well-formed, complete, and with nothing in them that could act."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from services.alerting.notify.kinds import Kind
from services.alerting.words.incident import describe
from services.alerting.words.pages import STYLE_SOURCE, incident_page, runbook_page

RUNBOOK = (Path(__file__).parents[4] / "docs" / "runbook.md").read_text("utf-8")
VOID = {"meta"}
TAGS = (
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "h1",
    "h2",
    "p",
    "ol",
    "li",
    "pre",
    "code",
    "strong",
    "em",
    "a",
)


class Page(HTMLParser):
    """Collects what a page has, and checks that what opens closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.ids |= {content for name, content in attrs if name == "id"}
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_runbook_has_every_section_under_the_anchor_that_messages_name() -> None:
    page = Page(runbook_page())
    assert set(re.findall(r"^## (\S+)$", RUNBOOK, re.MULTILINE)) <= page.ids
    assert page.tags <= set(TAGS)
    left = page.words.replace('["wind_*"]', "")
    assert "**" not in left and "](" not in left and "```" not in left


def test_every_sentence_of_the_runbook_is_on_its_page() -> None:
    words = re.sub(r"\s+", " ", Page(runbook_page()).words)
    for sentence in re.findall(r"^\d+\. ([^*`\[\n]+)$", RUNBOOK, re.MULTILINE):
        assert re.sub(r"\s+", " ", sentence) in words


def test_a_link_to_what_an_alarm_means_leads_to_a_section(
    make_delivery: Any, make_incident: Any, make_signal: Any
) -> None:
    ids = Page(runbook_page()).ids
    for monitor in ("data_drift", "labels", "detector:adwin:x"):
        text = describe(make_delivery(Kind.TRIGGER, make_incident([make_signal(monitor=monitor)])))
        assert dict(text.links)["What this alarm means"].partition("#")[2] in ids


@pytest.mark.parametrize("incident", ["0123456789ab", ""])
def test_a_page_says_how_to_see_it_and_nothing_of_it(incident: str) -> None:
    page = Page(incident_page(incident))
    assert ("driftline incidents show 0123456789ab" if incident else "driftline incidents list") in page.words
    style = re.findall(r"<style>(.*?)</style>", incident_page(incident))
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert f"'sha256-{digest}'" == STYLE_SOURCE
