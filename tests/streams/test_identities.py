"""What is remembered of prediction ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.identities import Identities

messages = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.lists(st.integers(0, 30).map(str), max_size=6)), max_size=60
)


def feed(identities: Identities, offset: int, deployment_id: str, ids: list[str]) -> list[bool]:
    identities.advance(offset)
    new = identities.unseen(deployment_id, ids)
    return [True] * len(ids) if new is None else new.tolist()


@given(sent=messages)
def test_an_id_is_new_once_within_the_last_generation(sent: list[tuple[str, list[str]]]) -> None:
    identities = Identities(generation_rows=10)
    everything: dict[str, list[tuple[int, str]]] = {"a": [], "b": []}
    for offset, (deployment_id, ids) in enumerate(sent):
        new = feed(identities, offset, deployment_id, ids)
        kept = {i for at, i in everything[deployment_id] if at >= identities.older_offset}
        for is_new, each in zip(new, ids, strict=True):
            assert is_new == (each not in kept)
            kept.add(each)
            everything[deployment_id].append((offset, each))
        assert offset - identities.older_offset <= 20


@given(sent=messages, stop=st.integers(0, 60))
def test_ids_read_from_the_log_again_are_those_that_were_remembered(
    sent: list[tuple[str, list[str]]], stop: int
) -> None:
    stop = min(stop, len(sent))
    uninterrupted, restored = Identities(generation_rows=10), Identities(generation_rows=10)
    for offset, (deployment_id, ids) in enumerate(sent[:stop]):
        feed(uninterrupted, offset, deployment_id, ids)
    restored.restore(uninterrupted.older_offset, uninterrupted.younger_offset)
    for offset, (deployment_id, ids) in enumerate(sent[:stop]):
        if offset >= restored.older_offset:
            restored.replay(deployment_id, ids, offset)
    for offset, (deployment_id, ids) in enumerate(sent[stop:], stop):
        assert feed(restored, offset, deployment_id, ids) == feed(uninterrupted, offset, deployment_id, ids)
        assert restored.older_offset == uninterrupted.older_offset
        assert restored.younger_offset == uninterrupted.younger_offset
