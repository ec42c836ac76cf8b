"""Who may speak to an interface: tokens of 256 random bits, of which only the SHA-256 is kept.

The file is YAML, mode 0600, and is read again when it changes::

    tokens:
      - {name: ada, role: operator, sha256: 9f86…, created: 2026-11-21T22:00:00Z}
      - {name: credit-team, role: owner, sha256: 60303…, deployments: ["credit-*"], expires: 2027-11-21T22:00:00Z}

A random token of 256 bits cannot be guessed, so a plain hash keeps it as well as a slow one would, and a request costs
no more than a comparison.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import fnmatch
import hashlib
import hmac
import logging
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from services.access.roles import Permission, Role, allowed
from services.errors import ServicesError

log = logging.getLogger("driftline.access")

TOKEN_PREFIX = "driftline_"
"""So that a secret scanner, and a person, see what it is."""

MAX_TOKEN_CHARACTERS = 256
"""Longer ones are not looked at."""

_RANDOM_BYTES = 32
_MAX_FILE_BYTES = 4 << 20
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"


class TokensError(ServicesError):
    """The tokens file cannot be used; the message never has a token."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks.

    Attributes:
        name: Of the token; what the audit calls the person or machine.
        role: What it may do.
        deployments: Patterns of the only deployments it may see; empty for all.
    """

    name: str
    role: Role
    deployments: tuple[str, ...] = ()

    @property
    def limited(self) -> bool:
        """Whether it sees some deployments only."""
        return bool(self.deployments)

    def may(self, permission: Permission) -> bool:
        """Whether its role has a permission."""
        return allowed(self.role, permission)

    def sees(self, deployment_id: str) -> bool:
        """Whether it may see a deployment. What Driftline says of itself belongs to no deployment, the empty text."""
        return not self.deployments or any(fnmatch.fnmatchcase(deployment_id, p) for p in self.deployments)

    def sees_any(self, deployment_ids: Iterable[str]) -> bool:
        """Whether it may see one of several."""
        return any(map(self.sees, deployment_ids))

    def sees_all(self, deployment_ids: Iterable[str]) -> bool:
        """Whether it may see each of several."""
        return all(map(self.sees, deployment_ids))


@dataclass(frozen=True, slots=True)
class Token:
    """A line of the tokens file: everything but the token."""

    identity: Identity
    sha256: str = field(repr=False)
    created: dt.datetime | None = None
    expires: dt.datetime | None = None

    def valid(self, now: dt.datetime) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires


_Pattern = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(pattern=rf"^{NAME_PATTERN}$")]
    role: Role
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(repr=False)
    # An empty list would say "all" where it reads "none".
    deployments: Annotated[list[_Pattern], Field(min_length=1)] | None = None
    created: AwareDatetime | None = None
    expires: AwareDatetime | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: list[_Line] = []


def new_token() -> tuple[str, str]:
    """A token that nobody has, and its SHA-256."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return token, token_digest(token)


def token_digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


class Tokens:
    """The tokens in force: those of a file, looked at again at each question, and those of this process. Thread-safe.

    Args:
        path: Of the file; None for none. It may be missing at first.
        own: Of this process, which no file has: that in the connection file.

    Raises:
        TokensError: The file cannot be used.
    """

    def __init__(self, path: Path | None, own: Sequence[Token] = ()) -> None:
        self._path = path
        self._own = tuple(own)
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()
        self.trouble = ""
        if path is not None:
            self._seen = _stamp(path)
            self._tokens = read_tokens(path)

    def find(self, presented: str, now: dt.datetime) -> Identity | None:
        """Whose token it is; None for nobody's.

        Compares hashes, all of them and each in constant time: how long it takes says nothing of how near a guess was.
        """
        if not presented or len(presented) > MAX_TOKEN_CHARACTERS:
            return None
        digest = token_digest(presented).encode()
        found: Identity | None = None
        for token in self._current():
            same = hmac.compare_digest(token.sha256.encode(), digest)
            if same and token.valid(now):
                found = token.identity
        return found

    def _current(self) -> tuple[Token, ...]:
        if self._path is None:
            return self._own
        with self._lock:
            stamp = _stamp(self._path)
            if stamp != self._seen:
                self._seen = stamp
                try:
                    self._tokens = read_tokens(self._path)
                    self.trouble = ""
                    log.info("%s: %d token(s)", self._path, len(self._tokens))
                except TokensError as error:
                    # A half-written file must not lock everybody out, nor must a typing error let a revoked token in:
                    # what was in force stays, and the health page says so.
                    self.trouble = f"the tokens file was changed and cannot be used, the tokens before it hold: {error}"
                    log.error("%s", self.trouble)
            return self._own + self._tokens


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file; a missing file has none.

    Raises:
        TokensError: It cannot be read or is wrong; with what was expected and what came.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise TokensError(f"{path}: cannot be read: {error.strerror}") from error
    return tuple(_token(line) for line in _parsed(path, content).tokens)


def _parsed(path: Path, content: bytes) -> _File:
    if len(content) > _MAX_FILE_BYTES:
        raise TokensError(f"{path}: expected a file of tokens, came {len(content):,} bytes")
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise TokensError(f"{where}: expected YAML, this cannot be read as such") from error
    try:
        file = _File.model_validate({} if document is None else document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]  # the input may be a token put in by mistake
        where = ".".join(map(str, first["loc"])) or "the file"
        raise TokensError(
            f"{path}: {where}: {first['msg']}. Expected tokens: [{{name, role, sha256, deployments}}]; "
            "driftline token create writes them"
        ) from error
    names = [line.name for line in file.tokens]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise TokensError(f"{path}: the name {double[0]!r} is there twice; the audit could not tell them apart")
    return file


def _token(line: _Line) -> Token:
    return Token(Identity(line.name, line.role, tuple(line.deployments or ())), line.sha256, line.created, line.expires)


def create_token(
    path: Path,
    name: str,
    role: Role,
    *,
    deployments: Sequence[str] = (),
    now: dt.datetime,
    expires: dt.datetime | None = None,
) -> str:
    """Add a token to a file and return it: the only time that anybody sees it.

    Raises:
        TokensError: The name is taken or unusable, or the file cannot be used.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise TokensError(
            f"expected a name of 1 to 64 letters, digits and . _ @ -, beginning with a letter or digit, came {name!r}"
        )
    if expires is not None and expires <= now:
        raise TokensError("expected a token that expires in the future")
    token, digest = new_token()
    with _locked(path):
        tokens = read_tokens(path)
        if any(known.identity.name == name for known in tokens):
            raise TokensError(
                f"{path} has a token named {name!r} already: revoke it first (driftline token revoke {name}), or take "
                "another name and revoke the old one once the new one is in use"
            )
        created = now.replace(microsecond=0)
        _write(path, [*tokens, Token(Identity(name, role, tuple(deployments)), digest, created, expires)])
    return token


def revoke_token(path: Path, name: str) -> Token:
    """Take a token out of a file: it is refused from the next request on.

    Raises:
        TokensError: There is none of this name, or the file cannot be used.
    """
    with _locked(path):
        tokens = read_tokens(path)
        gone = next((token for token in tokens if token.identity.name == name), None)
        if gone is None:
            known = ", ".join(token.identity.name for token in tokens) or "none"
            raise TokensError(f"{path} has no token named {name!r}; it has: {known}")
        _write(path, [token for token in tokens if token is not gone])
    return gone


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file against another command that changes it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("a")
    except OSError as error:
        raise TokensError(f"{path}: cannot be written: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, tokens: Sequence[Token]) -> None:
    """Replace the file as a whole: who reads it meanwhile sees the one or the other."""
    document = {"tokens": [_document(token) for token in tokens]}
    head = "# Written by driftline token. Only the SHA-256 of each token is here.\n"
    write_private(path, head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, at once as a whole.

    Raises:
        TokensError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600 from the first byte on
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise TokensError(f"{path}: cannot be written: {error.strerror}") from error


def _document(token: Token) -> dict[str, Any]:
    identity = token.identity
    document: dict[str, Any] = {"name": identity.name, "role": identity.role.value, "sha256": token.sha256}
    if identity.deployments:
        document["deployments"] = list(identity.deployments)
    for name, moment in (("created", token.created), ("expires", token.expires)):
        if moment is not None:
            document[name] = moment
    return document
