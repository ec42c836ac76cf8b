"""Secrets of receivers: out of files or the environment, never out of the routing file itself."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from services.alerting.policy.fields import Fields

_MOST_CHARACTERS = 64 * 1024
_VISIBLE = re.compile(r"[\x21-\x7e]+")

PLACEHOLDER = "not-read"
"""In place of each secret where they are not to be read; as an address, on ``.invalid``, which nothing has."""


class Secrets:
    """Where secrets come from.

    Args:
        environment: Its variables.
        folder: Files are named from here.
        read: False for placeholders: to look at a file on a machine that must not have the secrets.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path, *, read: bool = True) -> None:
        self.environment = environment
        self.folder = folder
        self.read = read

    def many(self, fields: Fields, name: str, *, default: str = "", url: bool = False) -> tuple[SecretStr, ...]:
        """The secrets of ``NAME_file`` and ``NAME_env``, each a text or a list.

        ``default``: the environment variable (or with ``_FILE`` behind it) that is taken where the receiver names
        none. What is wrong is told to the fields' problems, without any of what was given: it may be the secret.
        """
        files = fields.texts(f"{name}_file", "the path of a file")
        variables = fields.texts(f"{name}_env", "the name of an environment variable")
        if (direct := fields.take(name)) is not None:
            fields.wrong(
                direct,
                f"a secret must not stand in this file: put it into another and give {name}_file, or give {name}_env",
            )
            return (SecretStr(PLACEHOLDER),)
        found = []
        for node in (*files, *variables):
            assert isinstance(node.value, str)
            try:
                text = self._of_file(node.value) if node in files else self._of_variable(node.value)
                found.append(SecretStr(self._checked(text, url=url)))
            except ValueError as error:
                fields.wrong(node, str(error))
                found.append(SecretStr(PLACEHOLDER))
        if not found and default and self.has(default):
            try:
                found.append(SecretStr(self._checked(self.of_environment(default), url=url)))
            except ValueError as error:
                fields.wrong(fields.node, f"{default}: {error}")
        return tuple(found)

    def one(self, fields: Fields, name: str, *, default: str = "", url: bool = False) -> SecretStr | None:
        """The same where there can be but one; None where there is none."""
        found = self.many(fields, name, default=default, url=url)
        if len(found) > 1:
            fields.wrong(fields.node, f"expected one {name}_file or {name}_env, came {len(found)}")
        return found[0] if found else None

    def has(self, name: str) -> bool:
        """Whether the environment has a secret of this name, or names a file with it."""
        return bool(self.environment.get(name) or self.environment.get(f"{name}_FILE"))

    def of_environment(self, name: str) -> str:
        """What an environment variable holds, or the file that ``NAME_FILE`` names.

        Raises:
            ValueError: The file cannot be read.
        """
        if self.environment.get(name):
            return self._of_variable(name)
        try:
            return self._of_file(self.environment[f"{name}_FILE"], Path())
        except ValueError as error:
            raise ValueError(f"{name}_FILE: {error}") from None

    def _of_file(self, name: str, folder: Path | None = None) -> str:
        if not self.read:
            return PLACEHOLDER
        try:
            text = ((self.folder if folder is None else folder) / name).expanduser().read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise ValueError(f"the secret's file cannot be read: {why}") from None
        if not text:
            raise ValueError("the secret's file is empty")
        return text

    def _of_variable(self, name: str) -> str:
        if not self.read:
            return PLACEHOLDER
        text = self.environment.get(name, "").strip()
        if not text:
            raise ValueError("the environment variable of this name is not set")
        return text

    def _checked(self, text: str, *, url: bool) -> str:
        if not self.read:
            return f"https://{PLACEHOLDER}.invalid/" if url else text
        if len(text) > _MOST_CHARACTERS:
            raise ValueError(f"expected a secret of at most {_MOST_CHARACTERS:,} characters")
        if url:
            return check_url(text)
        if any(ord(c) < 32 or ord(c) == 127 for c in text):
            raise ValueError("expected a secret on one line")
        return text


def visible(secret: SecretStr, fields: Fields, what: str, *, longest: int = 4096) -> None:
    """Tell of a secret that a header or a JSON field of its service cannot be."""
    text = secret.get_secret_value()
    if len(text) > longest or not _VISIBLE.fullmatch(text):
        fields.wrong(fields.node, f"{what} has up to {longest} visible ASCII characters and no spaces")


def check_url(url: str, *, plain: bool = False) -> str:
    """The address, if a secret may travel there: https, or this machine (or, ``plain``, anywhere).

    Raises:
        ValueError: It is none, or it may not; the message never shows it: it may be the secret.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.scheme not in ("http", "https") or any(c <= " " or c == "\x7f" for c in url):
        raise ValueError("expected an http(s) address")
    if parts.scheme == "http" and not plain and not is_loopback(host):
        raise ValueError("expected an address that begins with https: a secret would travel in clear text")
    return url


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
