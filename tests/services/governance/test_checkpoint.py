"""Notes and checkpoints against published vectors; keys and their files."""

from __future__ import annotations

import base64
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.governance.checkpoint import (
    Checkpoint,
    SigningKey,
    VerifierKey,
    create_key,
    load_key,
    open_checkpoint,
    open_note,
    sign_checkpoint,
)
from services.governance.errors import CheckpointError, KeyFileError

# The example in the documentation of golang.org/x/mod/sumdb/note.
PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NOTE = (
    TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

# The example of c2sp.org/signed-note.
SPEC_PUBLIC = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)

ROOT = sha256(b"").digest()
KEY = SigningKey.parse(PRIVATE)
CHECKPOINT = Checkpoint("PeterNeumann", 7, ROOT)
# Made once with this code after the note's vector stood; every later release has to give the same bytes.
GOLDEN = (
    "PeterNeumann\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n"
    "— PeterNeumann x08go6DGB8wP/hsI02cT7qDm+QmuGEp0X2nMs+Hn+OgrzTxXnJqKUlTx6ES0kqwb2JTQ5bs6JqB091+xHVNVogj2jQ0=\n"
)


def test_the_published_note_is_signed_byte_for_byte() -> None:
    assert KEY.sign(TEXT) == NOTE
    assert KEY.private_text() == PRIVATE
    assert str(KEY.verifier) == PUBLIC


@pytest.mark.parametrize(("public", "note"), [(PUBLIC, NOTE), (SPEC_PUBLIC, SPEC_NOTE)])
def test_published_notes_open_with_their_key(public: str, note: str) -> None:
    key = VerifierKey.parse(public)
    assert str(key) == public
    assert open_note(note, key) == note.rpartition("\n\n")[0] + "\n"


def test_a_checkpoint_is_signed_as_in_every_release() -> None:
    assert sign_checkpoint(CHECKPOINT, KEY) == GOLDEN
    assert open_checkpoint(GOLDEN, KEY.verifier) == CHECKPOINT


@given(st.integers(0, 2**62), st.binary(min_size=32, max_size=32))
def test_signed_checkpoints_open_to_what_was_signed(size: int, root: bytes) -> None:
    checkpoint = Checkpoint("PeterNeumann", size, root)
    assert open_checkpoint(sign_checkpoint(checkpoint, KEY), KEY.verifier) == checkpoint


@given(st.data())
def test_a_note_with_any_bit_flipped_does_not_open(data: st.DataObject) -> None:
    raw = bytearray(GOLDEN.encode())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises((CheckpointError, UnicodeDecodeError)):
        open_checkpoint(raw.decode(), KEY.verifier)


def test_signatures_of_others_are_ignored_beside_ours_and_not_enough_alone() -> None:
    other = SigningKey.generate("PeterNeumann")
    ours, theirs = sign_checkpoint(CHECKPOINT, KEY), sign_checkpoint(CHECKPOINT, other)
    both = ours + theirs.rpartition("\n\n")[2]
    assert open_checkpoint(both, KEY.verifier) == CHECKPOINT
    assert open_checkpoint(both, other.verifier) == CHECKPOINT
    with pytest.raises(CheckpointError, match="no signature"):
        open_checkpoint(theirs, KEY.verifier)


def test_a_signature_under_our_key_id_that_does_not_stand_is_refused_even_beside_a_good_one() -> None:
    good = sign_checkpoint(CHECKPOINT, KEY)
    forged = "— PeterNeumann " + base64.b64encode(KEY.verifier.key_id + b"\x00" * 64).decode() + "\n"
    with pytest.raises(CheckpointError, match="does not stand"):
        open_checkpoint(good + forged, KEY.verifier)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        TEXT,
        NOTE[:-1],
        NOTE.replace("— ", "- "),
        NOTE.replace("AM=", "AM"),
        NOTE.replace("AM=", "AN="),  # the same bytes in another spelling
        TEXT + "\n" + "— a b\n",
        TEXT + "\n" + NOTE.rpartition("\n\n")[2] * 17,
        "a\tb\n\n" + NOTE.rpartition("\n\n")[2],
        "x" * 200_000 + NOTE,
    ],
)
def test_malformed_notes_are_refused(note: str) -> None:
    with pytest.raises(CheckpointError):
        open_note(note, KEY.verifier)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "a\n",
        "a\n1\n",
        "a\n01\n" + "A" * 43 + "=\n",
        "a\n-1\n" + "A" * 43 + "=\n",
        "a\n1\nAAAA\n",
        "a\n1\n\n",
        "a\n" + "9" * 5000 + "\n" + "A" * 43 + "=\n",
        "a\n١\n" + "A" * 43 + "=\n",
        "a\n1\n" + "A" * 43 + "=",
    ],
)
def test_what_is_no_checkpoint_is_refused(body: str) -> None:
    with pytest.raises(CheckpointError):
        Checkpoint.parse(body)


def test_extension_lines_are_allowed() -> None:
    assert Checkpoint.parse(CHECKPOINT.body() + "extension\n") == CHECKPOINT


def test_a_checkpoint_of_another_log_is_refused() -> None:
    with pytest.raises(CheckpointError, match="checkpoint of"):
        open_checkpoint(sign_checkpoint(Checkpoint("another", 7, ROOT), KEY), KEY.verifier)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a+b",
        "Peter Neumann+c74f20a3+AA==",
        PUBLIC.replace("c74f20a3", "c74f20a4"),
        PUBLIC + "A",
        PUBLIC[:-4],
        "+c74f20a3+" + PUBLIC.rpartition("+")[2],
        PUBLIC.replace("+AR", "+BR"),
    ],
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(KeyFileError):
        VerifierKey.parse(text)


def test_a_new_key_file_is_for_its_owner_alone_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit-key"
    key = create_key(path, "example.com/audit")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path).verifier == key.verifier
    assert [file.name for file in path.parent.iterdir()] == ["audit-key"]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o610])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "audit-key"
    create_key(path, "a")
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_key(path)


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "audit-key"
    key = create_key(path, "a")
    with pytest.raises(KeyFileError, match="exists"):
        create_key(path, "a")
    assert load_key(path).verifier == key.verifier


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"PRIVATE+KEY+a+00000000+AAAA", PUBLIC.encode()])
def test_a_file_without_a_key_is_refused_and_its_content_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "audit-key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError) as caught:
        load_key(path)
    assert "AAAA" not in str(caught.value)


def test_no_key_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_key(tmp_path / "none")


def test_the_private_key_is_in_no_representation() -> None:
    assert PRIVATE.rpartition("+")[2] not in repr(KEY) + str(KEY)
