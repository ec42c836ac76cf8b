"""Look-alikes for what would be acted upon."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.alerting.channels.harmless import ended, inert, mail_text, plain, unlinked
from services.alerting.words.text import line, value

_ACTED_UPON = ["<", ">", "@", "`", "*", "[", "]", "|", "~", "{", "}", "#", "&", "__", "://", ":\\\\"]
_PIECES = [*"ab .:/\\wWjJ<>@&`*[]|~{}#_", "www.", "WwW.", "://", "mailto:", "JavaScript:"]
_text = st.lists(st.sampled_from(_PIECES), max_size=40).map("".join)


@given(_text)
def test_nothing_that_acts_is_left_and_nothing_else_changes(text: str) -> None:
    shown = inert(text)
    assert not [sign for sign in _ACTED_UPON if sign in shown]
    assert "www." not in shown.lower()
    assert len(shown) == len(text)
    assert inert(shown) == shown
    assert all(a == b or not a.isalnum() for a, b in zip(text, shown, strict=True))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://evil.example/x", "https∶//evil.example/x"),
        ("HTTP://EVIL", "HTTP∶//EVIL"),
        ("see WWW.evil.example", "see WWW․evil.example"),
        ("mailto:a@b.example", "mailto∶a@b.example"),
        ("JavaScript:alert(1)", "JavaScript∶alert(1)"),
        ("12:30, ratio 1:2, metadata:x", "12:30, ratio 1:2, metadata:x"),
        ("wind_speed.max <b>", "wind_speed.max <b>"),
    ],
)
def test_addresses_are_no_links_and_names_stay_as_they_are(text: str, shown: str) -> None:
    assert unlinked(text) == shown


def test_our_own_words_are_left_alone() -> None:
    told = line("see [the page] at https://x, of ", value("<b> https://y"))
    assert plain(told) == "see [the page] at https://x, of ‹b› https∶//y"
    assert mail_text(told) == "see [the page] at https://x, of <b> https∶//y"


@given(text=st.text(max_size=300), end=st.text(min_size=1, max_size=100), limit=st.integers(20, 400))
def test_a_text_is_cut_and_its_end_is_whole_or_not_there(text: str, end: str, limit: int) -> None:
    fitted = ended(text, end, limit)
    assert len(fitted) <= limit
    if 2 * len(end) <= limit:
        assert fitted.endswith(f"\n{end}")
    if len(text) + 1 + len(end) <= limit:
        assert fitted == f"{text}\n{end}"
