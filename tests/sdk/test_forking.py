"""A fork waits while a Kafka client is made or ended; its child may always make its own."""

import os
import threading
import time

import pytest

from driftline import forking
from driftline.forking import HANDLES


def child_can_have_it() -> bool:
    """Whether a child that is forked now can hold the guard at once."""
    child = os.fork()
    if child == 0:
        had = threading.Event()

        def have() -> None:
            with HANDLES:
                had.set()

        threading.Thread(target=have, daemon=True).start()
        os._exit(0 if had.wait(5) else 1)
    return os.waitpid(child, 0)[1] == 0


def hold(seconds: float) -> threading.Thread:
    """Hold the guard for so long, in another thread."""
    held = threading.Event()

    def holding() -> None:
        with HANDLES:
            held.set()
            time.sleep(seconds)

    thread = threading.Thread(target=holding)
    thread.start()
    assert held.wait(10)
    return thread


def test_a_fork_waits_until_nobody_holds_it() -> None:
    thread, started = hold(0.5), time.monotonic()
    assert child_can_have_it()
    assert time.monotonic() - started > 0.3
    thread.join()
    assert child_can_have_it()


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "_LONGEST_SECONDS", 0.1)
    thread = hold(3.0)
    assert child_can_have_it(), "what the parent's thread holds is nothing to the child"
    assert thread.is_alive()
    thread.join()
    with HANDLES:
        assert child_can_have_it(), "the thread that holds it may fork"
    assert child_can_have_it()
