"""Tokens: kept by their hash, found in constant time, read again when the file changes."""

import datetime as dt
import hmac
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from services.access import tokens as module
from services.access.roles import PERMISSIONS, Permission, Role, allowed
from services.access.tokens import (
    Identity,
    Token,
    Tokens,
    TokensError,
    create_token,
    new_token,
    read_tokens,
    revoke_token,
    token_digest,
)

NOW = dt.datetime(2026, 11, 21, 22, 0, tzinfo=dt.UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "tokens.yaml"


def touch_later(path: Path) -> None:
    """Move the file's time on: two writes within one tick of the file system's clock look alike otherwise."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def test_a_token_is_shown_once_and_only_its_hash_is_kept(path: Path) -> None:
    token = create_token(path, "ada", Role.OPERATOR, now=NOW)
    assert token.startswith("driftline_") and len(token) >= len("driftline_") + 43  # 256 bits in base64
    content = path.read_text()
    assert token not in content and token.removeprefix("driftline_") not in content
    assert token_digest(token) in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_tokens_are_all_different() -> None:
    assert len({new_token()[0] for _ in range(1000)}) == 1000


def test_whose_token_it_is(path: Path) -> None:
    ada = create_token(path, "ada", Role.OPERATOR, now=NOW)
    eve = create_token(path, "eve", Role.VIEWER, deployments=["credit-*"], now=NOW)
    tokens = Tokens(path)
    assert tokens.find(ada, NOW) == Identity("ada", Role.OPERATOR)
    assert tokens.find(eve, NOW) == Identity("eve", Role.VIEWER, ("credit-*",))


@pytest.mark.parametrize("wrong", ["", " ", "x", "driftline_", "é" * 43, "\ud800", "\x00", "a" * 10_000])
def test_what_is_no_token_is_nobodys(path: Path, wrong: str) -> None:
    create_token(path, "ada", Role.OPERATOR, now=NOW)
    assert Tokens(path).find(wrong, NOW) is None


def test_a_hash_is_no_token(path: Path) -> None:
    token = create_token(path, "ada", Role.OPERATOR, now=NOW)
    assert Tokens(path).find(token_digest(token), NOW) is None
    for changed in (token[:-1], token + "A", token.upper(), f" {token}"):
        assert Tokens(path).find(changed, NOW) is None


def test_every_token_is_compared_in_constant_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = create_token(path, "first", Role.VIEWER, now=NOW)
    for number in range(4):
        create_token(path, f"n{number}", Role.VIEWER, now=NOW)
    compared: list[Any] = []
    genuine = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return genuine(one, other)

    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    assert Tokens(path).find(first, NOW) is not None
    assert len(compared) == 5


def test_a_revoked_token_is_refused_at_the_next_question(path: Path) -> None:
    ada = create_token(path, "ada", Role.OPERATOR, now=NOW)
    bob = create_token(path, "bob", Role.OPERATOR, now=NOW)
    tokens = Tokens(path)
    assert tokens.find(ada, NOW) is not None
    revoke_token(path, "ada")
    assert tokens.find(ada, NOW) is None
    assert tokens.find(bob, NOW) is not None
    carol = create_token(path, "carol", Role.VIEWER, now=NOW)
    assert tokens.find(carol, NOW) == Identity("carol", Role.VIEWER)


def test_a_file_that_is_taken_away_takes_its_tokens_away(path: Path) -> None:
    ada = create_token(path, "ada", Role.OPERATOR, now=NOW)
    tokens = Tokens(path)
    path.unlink()
    assert tokens.find(ada, NOW) is None


def test_a_file_that_cannot_be_used_leaves_what_was_in_force_and_says_so(path: Path) -> None:
    ada = create_token(path, "ada", Role.OPERATOR, now=NOW)
    tokens = Tokens(path)
    good = path.read_text()
    path.write_text("tokens: [{name: x, role: king, sha256: y}]")
    touch_later(path)
    assert tokens.find(ada, NOW) is not None
    assert "cannot be used" in tokens.trouble
    path.write_text(good)
    touch_later(path)
    assert tokens.find(ada, NOW) is not None
    assert tokens.trouble == ""


def test_an_expired_token_is_refused(path: Path) -> None:
    ada = create_token(path, "ada", Role.OPERATOR, now=NOW, expires=NOW + dt.timedelta(days=1))
    tokens = Tokens(path)
    assert tokens.find(ada, NOW + dt.timedelta(hours=23)) is not None
    assert tokens.find(ada, NOW + dt.timedelta(hours=24)) is None


def test_the_token_of_the_process_is_in_no_file(path: Path) -> None:
    token, digest = new_token()
    own = Token(Identity("me", Role.OPERATOR), digest)
    assert Tokens(None, [own]).find(token, NOW) == Identity("me", Role.OPERATOR)
    assert Tokens(path, [own]).find(token, NOW) == Identity("me", Role.OPERATOR)


def test_a_name_is_given_once(path: Path) -> None:
    create_token(path, "ada", Role.OPERATOR, now=NOW)
    with pytest.raises(TokensError, match="revoke it first"):
        create_token(path, "ada", Role.ADMIN, now=NOW)
    assert [token.identity.role for token in read_tokens(path)] == [Role.OPERATOR]


@pytest.mark.parametrize("name", ["", " ", "-x", "a b", "a\nb", "a" * 65, "<script>", "ädä", "a/b"])
def test_a_name_that_the_audit_could_not_show_is_refused(path: Path, name: str) -> None:
    with pytest.raises(TokensError, match="expected a name"):
        create_token(path, name, Role.VIEWER, now=NOW)
    assert not path.exists()


def test_revoking_nobody_says_who_there_is(path: Path) -> None:
    create_token(path, "ada", Role.OPERATOR, now=NOW)
    with pytest.raises(TokensError, match="it has: ada"):
        revoke_token(path, "eve")


GOOD = {"name": "ada", "role": "viewer", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"tokens": [{**GOOD, "role": "king"}]}, "tokens.0.role"),
        ({"tokens": [{**GOOD, "sha256": "0" * 63}]}, "tokens.0.sha256"),
        ({"tokens": [{**GOOD, "sha256": "0" * 64 + "\n"}]}, "tokens.0.sha256"),
        ({"tokens": [{**GOOD, "deployments": []}]}, "tokens.0.deployments"),
        ({"tokens": [{**GOOD, "deployments": [""]}]}, "tokens.0.deployments"),
        ({"tokens": [{**GOOD, "deployment": ["x"]}]}, "tokens.0.deployment"),
        ({"tokens": [GOOD, GOOD]}, "twice"),
        ({"token": [GOOD]}, "token"),
        ([], "the file"),
        ("driftline_secret", "the file"),
    ],
)
def test_a_wrong_file_says_where_and_shows_no_secret(path: Path, document: Any, said: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(TokensError) as refused:
        read_tokens(path)
    assert said in str(refused.value)
    assert "driftline_secret" not in str(refused.value)


def test_a_token_in_place_of_its_hash_is_not_shown(path: Path) -> None:
    token, _ = new_token()
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({"tokens": [{**GOOD, "sha256": token}]}))
    with pytest.raises(TokensError) as refused:
        Tokens(path)
    assert token not in str(refused.value) and token not in repr(refused.value.__cause__)[:100]


def test_what_is_no_yaml_is_refused_with_its_line(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("tokens:\n  - {name: ada\n  - ]")
    with pytest.raises(TokensError, match=r"tokens.yaml:3: expected YAML"):
        read_tokens(path)
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(TokensError, match="expected YAML"):
        read_tokens(path)


@pytest.mark.parametrize(
    ("patterns", "deployment", "sees"),
    [
        ((), "anything", True),
        ((), "", True),
        (("credit-*",), "credit-eu", True),
        (("credit-*",), "fraud", False),
        (("credit-*",), "Credit-eu", False),
        (("credit-*",), "", False),
        (("credit",), "credit-eu", False),
        (("*",), "", True),
        (("a", "b"), "b", True),
    ],
)
def test_which_deployments_somebody_sees(patterns: tuple[str, ...], deployment: str, sees: bool) -> None:
    assert Identity("x", Role.VIEWER, patterns).sees(deployment) is sees


@given(st.lists(st.sampled_from(["a", "b", "c-1", ""])))
def test_seeing_all_and_any_are_made_of_seeing(deployments: list[str]) -> None:
    who = Identity("x", Role.VIEWER, ("a", "c-*"))
    assert who.sees_all(deployments) == all(who.sees(name) for name in deployments)
    assert who.sees_any(deployments) == any(who.sees(name) for name in deployments)


def test_what_the_table_does_not_name_is_forbidden() -> None:
    assert set(PERMISSIONS) == set(Role)
    for role in Role:
        for permission in Permission:
            assert allowed(role, permission) == (permission in PERMISSIONS[role])
    assert not allowed("nobody", Permission.INCIDENTS_READ)  # type: ignore[arg-type]


def test_only_administrators_change_the_configuration() -> None:
    assert [role for role in Role if allowed(role, Permission.CONFIGURATION_WRITE)] == [Role.ADMIN]


def test_those_who_look_change_nothing() -> None:
    writing = {p for p in Permission if not p.value.endswith(":read")}
    for role in (Role.VIEWER, Role.AUDITOR, Role.SERVICE):
        assert not writing & PERMISSIONS[role]
