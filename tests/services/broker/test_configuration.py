"""The broker's settings: its own stay its own, and values stay values."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.broker.configuration import log4j_properties, server_properties
from services.broker.errors import BrokerError


def parsed(text: str) -> dict[str, str]:
    """Read properties as `java.util.Properties.load` does: escapes, comments, the first `=`."""
    found = {}
    for line in re.split(r"\r\n|\r|\n", text):
        if not line or line.lstrip()[:1] in ("#", "!"):
            continue
        name, _, value = line.partition("=")
        value = re.sub(
            r"\\(u[0-9a-fA-F]{4}|.)",
            lambda m: (
                chr(int(m[1][1:], 16))
                if len(m[1]) == 5
                else {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}.get(m[1], m[1])
            ),
            value.lstrip(" \t\f"),
        )
        found[name] = value.encode("utf-16", "surrogatepass").decode("utf-16")
    return found


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_value_stays_one_value(value: str) -> None:
    text = server_properties(1, 2, {"compression.type": value})
    assert text.isascii()
    properties = parsed(text)
    assert properties["compression.type"] == value
    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2"


@pytest.mark.parametrize("name", ["listeners", "node.id", "log.dirs", "controller.quorum.voters", "listener.name.x.y"])
def test_what_the_broker_decides_itself_is_refused(name: str) -> None:
    with pytest.raises(BrokerError, match=re.escape(name)):
        server_properties(1, 2, {name: "x"})


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a\nlisteners", "a:b", "#a", "ä"])
def test_what_is_no_property_name_is_refused(name: str) -> None:
    with pytest.raises(BrokerError, match="letters, digits"):
        server_properties(1, 2, {name: "x"})


def test_settings_replace_defaults_and_add_to_them() -> None:
    properties = parsed(server_properties(1, 2, {"num.partitions": "7", "log.segment.bytes": "1048576"}))
    assert properties["num.partitions"] == "7"
    assert properties["log.segment.bytes"] == "1048576"
    assert int(properties["message.max.bytes"]) >= 12 * 1024 * 1024


def test_log_is_bounded() -> None:
    properties = parsed(log4j_properties())
    assert properties["appender.file.policies.size.size"] == "10MB"
    assert properties["appender.file.strategy.max"] == "4"
