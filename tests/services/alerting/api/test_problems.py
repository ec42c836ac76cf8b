"""What somebody reads whose request is wrong."""

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("body", "expected", "came"),
    [
        ({"match": {"monitor": "x"}, "duration": "5x", "reason": "r"}, "a duration such as", "5x"),
        ({"match": {"monitor": "x"}, "duration": "1000d", "reason": "r"}, "a duration of more than", "1000d"),
        ({"match": {}, "duration": "5m", "reason": "r"}, "at least one of them", "an object of 0"),
        ([1, 2], "an object of JSON", "a list of 2"),
    ],
)
def test_what_was_expected_is_said_once_and_in_words(api: Any, body: Any, expected: str, came: str) -> None:
    answer = api.post("silences", body)
    assert answer.status == 422
    assert answer.json["expected"].startswith(expected)
    assert answer.json["came"] == came
    assert "expected expected" not in answer.json["detail"]


def test_a_label_that_is_none_is_told_in_one_line(api: Any) -> None:
    answer = api.post("silences", {"match": {"deploymnt": "a"}, "duration": "5m", "reason": "r"})
    assert answer.status in (400, 422)
    assert "did you mean 'deployment'" in answer.json["detail"]
    assert answer.json["detail"].isprintable() and "\N{REPLACEMENT CHARACTER}" not in answer.json["detail"]
