"""Signed tree heads: C2SP tlog-checkpoint bodies in C2SP signed notes, with Ed25519.

Sources: c2sp.org/signed-note, c2sp.org/tlog-checkpoint. A note is text that ends in a newline, an empty line, and one
line per signature: ``— NAME BASE64(key id || signature)``. A checkpoint's text is three lines: origin, number of
leaves, root hash in base64. Nothing in it depends on a clock, and Ed25519 is deterministic: one tree head signed
twice by one key gives the same bytes.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import stat
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from services.governance.errors import CheckpointError, KeyFileError
from services.governance.merkle import HASH_BYTES

_ED25519 = b"\x01"  # signature type of the signed-note registry
_PRIVATE_PREFIX = "PRIVATE+KEY+"
_SIGNATURE_PREFIX = "— "  # em dash, space
_MOST_SIGNATURES = 16
_MOST_NOTE_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public half of a signing key.

    Attributes:
        name: The key's name; of a log's key, its origin.
        public_key: 32 bytes, Ed25519.
    """

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """First 4 bytes of ``SHA-256(name || LF || type || public key)``."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:4]

    def __str__(self) -> str:
        """The key as it is handed out: ``NAME+KEYID+BASE64``."""
        return f"{self.name}+{self.key_id.hex()}+{_base64(_ED25519 + self.public_key)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read what ``str()`` gave.

        Raises:
            KeyFileError: It is no such key.
        """
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise KeyFileError(f"expected a public key as NAME+KEYID+BASE64, came {text.strip()[:100]!r}")
        name, key_id, material = parts
        _require_name(name)
        key = cls(name, _key_material(material))
        if key.key_id.hex() != key_id:
            raise KeyFileError(f"public key of {name!r}: its id is {key.key_id.hex()}, came {key_id[:20]!r}: mistyped?")
        return key


class SigningKey:
    """A named Ed25519 key that signs notes."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        _require_name(name)
        self._private = private
        self.verifier = VerifierKey(name, private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def __repr__(self) -> str:
        return f"SigningKey({self.verifier})"

    @classmethod
    def generate(cls, name: str) -> SigningKey:
        """A new random key."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """Read a private key as :meth:`private_text` gave it.

        Raises:
            KeyFileError: It is no such key; the message never holds key material.
        """
        parts = text.strip().removeprefix(_PRIVATE_PREFIX).split("+", 2)
        if not text.startswith(_PRIVATE_PREFIX) or len(parts) != 3:
            raise KeyFileError("expected a private key as PRIVATE+KEY+NAME+KEYID+BASE64")
        name, key_id, material = parts
        key = cls(name, Ed25519PrivateKey.from_private_bytes(_key_material(material)))
        if key.verifier.key_id.hex() != key_id:
            raise KeyFileError(f"private key of {name!r}: its id is {key.verifier.key_id.hex()}, came {key_id[:20]!r}")
        return key

    def private_text(self) -> str:
        """The key as it is kept in its file; secret."""
        seed = self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        verifier = self.verifier
        return f"{_PRIVATE_PREFIX}{verifier.name}+{verifier.key_id.hex()}+{_base64(_ED25519 + seed)}"

    def sign(self, text: str) -> str:
        """The text with this key's signature: a signed note."""
        _require_note_text(text)
        signature = self._private.sign(text.encode())
        return f"{text}\n{_SIGNATURE_PREFIX}{self.verifier.name} {_base64(self.verifier.key_id + signature)}\n"


def load_key(path: Path) -> SigningKey:
    """Read a private key from its file.

    Raises:
        KeyFileError: There is none, it can be read by others than its owner, or it holds no key.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeyFileError(
                    f"{path} can be used by others than its owner (mode {mode:04o}): whoever reads it can sign in this "
                    f"ledger's name. If nobody did, `chmod 600 {path}`; otherwise put a new key in its place."
                )
            text = file.read(10_000)
    except OSError as error:
        raise KeyFileError(f"the audit key {path} cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise KeyFileError(f"{path}: expected the text of a private key") from error
    try:
        return SigningKey.parse(text)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from error


def create_key(path: Path, name: str) -> SigningKey:
    """Make a key and write it to a new file that only its owner can read; nothing is there half-written.

    Raises:
        KeyFileError: The file exists or cannot be written.
    """
    key = SigningKey.generate(name)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(key.private_text() + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # fails where a key is already
        _sync_directory(path.parent)
    except OSError as error:
        raise KeyFileError(f"the audit key {path} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
    return key


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head.

    Attributes:
        origin: The log's name.
        size: Number of leaves.
        root: 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"

    @classmethod
    def parse(cls, body: str) -> Checkpoint:
        """Read a checkpoint's text; further lines (extensions) are allowed and ignored.

        Raises:
            CheckpointError: It is none.
        """
        lines = body.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise CheckpointError(f"expected origin, size and root as three lines, came {body[:200]!r}")
        origin, size, root = lines[:3]
        if not (size.isascii() and size.isdecimal()) or (size[0] == "0" and size != "0") or len(size) > 19:
            raise CheckpointError(f"expected the number of leaves, came {size[:40]!r}")
        hashed = _decoded(root)
        if hashed is None or len(hashed) != HASH_BYTES:
            raise CheckpointError(f"expected a root hash of {HASH_BYTES} bytes in base64, came {root[:80]!r}")
        return cls(origin, int(size), hashed)


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> str:
    """The checkpoint as a signed note."""
    return key.sign(checkpoint.body())


def open_note(note: str, key: VerifierKey) -> str:
    """The text of a note that this key signed. Signatures of other keys are ignored.

    Raises:
        CheckpointError: The note is malformed, not signed by the key, or the key's signature does not stand.
    """
    text, signatures = _split_note(note)
    signed = False
    for line in signatures:
        name, _, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
        signature = _decoded(encoded)
        if not line.startswith(_SIGNATURE_PREFIX) or not name or signature is None or len(signature) < 5:
            raise CheckpointError(f"malformed signature line {line[:120]!r}")
        if name != key.name or signature[:4] != key.key_id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature[4:], text.encode())
        except (InvalidSignature, ValueError) as error:
            raise CheckpointError(f"the signature of {key.name!r} does not stand") from error
        signed = True
    if not signed:
        raise CheckpointError(f"the note carries no signature of {key.name}+{key.key_id.hex()}")
    return text


def open_checkpoint(note: str, key: VerifierKey) -> Checkpoint:
    """The checkpoint in a note that this key signed; its origin is the key's name.

    Raises:
        CheckpointError: See :func:`open_note`; or the text is no checkpoint of this log.
    """
    checkpoint = Checkpoint.parse(open_note(note, key))
    if checkpoint.origin != key.name:
        raise CheckpointError(f"expected a checkpoint of {key.name!r}, came one of {checkpoint.origin[:80]!r}")
    return checkpoint


def _split_note(note: str) -> tuple[str, list[str]]:
    text, found, block = note.rpartition("\n\n")
    if len(note) > _MOST_NOTE_CHARACTERS or not found or not block.endswith("\n"):
        raise CheckpointError(f"expected a signed note (text, empty line, signatures), came {note[:200]!r}")
    text += "\n"
    _require_note_text(text)
    lines = block[:-1].split("\n")
    if len(lines) > _MOST_SIGNATURES:
        raise CheckpointError(f"a note may carry {_MOST_SIGNATURES} signatures, came {len(lines)}")
    return text, lines


def _require_note_text(text: str) -> None:
    if not text.endswith("\n") or any(c < " " and c != "\n" for c in text):
        raise CheckpointError("a note's text ends in a newline and holds no other control characters")
    try:
        text.encode()
    except UnicodeError as error:
        raise CheckpointError("a note's text is Unicode that UTF-8 can hold") from error


def _require_name(name: str) -> None:
    if not name or "+" in name or any(c.isspace() or not c.isprintable() for c in name):
        raise KeyFileError(f"a key's name has no spaces, control characters or '+', came {name[:100]!r}")


def _key_material(encoded: str) -> bytes:
    material = _decoded(encoded)
    if material is None or len(material) != 33 or material[:1] != _ED25519:
        raise KeyFileError("expected an Ed25519 key (type 01 and 32 bytes, in base64)")
    return material[1:]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes | None:
    """Strict base64: one way only to write a value."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if _base64(data) == text else None
