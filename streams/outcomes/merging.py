"""Which runs are merged, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from streams.outcomes.runs import Run

MOST_RUNS = 12
"""Runs that a lookup may have to ask."""

SMALL_BYTES = 4 << 20
"""Runs up to this size count as one of it: a merge of them takes milliseconds, and a lookup asks one run less."""


def next_merge(sizes: Sequence[int], forgotten: Sequence[float], busy: Sequence[bool]) -> tuple[int, int] | None:
    """The neighbours to merge next: first and end of their places; None if all is well as it is.

    A run is merged with all newer ones once they are as large as it: each row is written about log2(rows / rows of a
    new run) times, and the sizes of the runs at least halve from one to the next. The oldest ones are written again
    without the rows that are not asked for any more once those are half of them.

    Args:
        sizes: Bytes of each run, older ones first.
        forgotten: About how many of them belong to rows that are not asked for any more.
        busy: Whether it is being merged.
    """
    for end in range(len(sizes), 0, -1):
        if sum(forgotten[:end]) * 2 >= sum(sizes[:end]) and not any(busy[:end]):
            return 0, end
    begin = max((at + 1 for at, is_busy in enumerate(busy) if is_busy), default=0)
    newer = [max(size, SMALL_BYTES) for size in sizes]
    for at in range(begin, len(sizes) - 1):
        if sum(newer[at + 1 :]) >= newer[at]:
            return at, len(sizes)
    if len(sizes) > MOST_RUNS and len(sizes) - begin > 1:
        return max(begin, len(sizes) - MOST_RUNS // 2), len(sizes)
    return None


class Merge:
    """A merge on its way.

    Args:
        inputs: The runs it takes the place of.
        steps: See :func:`streams.outcomes.runs.merge`.
    """

    def __init__(self, inputs: Sequence[Run], steps: Iterator[Run | None]) -> None:
        self.inputs = list(inputs)
        self.size = sum(run.size for run in inputs)
        self.result: Run | None = None
        self.error: Exception | None = None
        self.is_done = False
        self._steps = steps

    def step(self) -> None:
        """Do some of it."""
        try:
            self.result = next(self._steps)
        except StopIteration:
            self.is_done = True
        except Exception as error:  # whatever it is, the caller's thread has to hear of it
            self.error = error
            self.is_done = True

    def finish(self) -> None:
        """Do all of it."""
        while not self.is_done:
            self.step()

    def give_up(self) -> None:
        """Stop and leave nothing behind."""
        self._steps.close()  # type: ignore[attr-defined] # a generator
        if self.result is not None and self.result.path is not None:
            self.result.path.unlink(missing_ok=True)


class Merger:
    """A thread that merges, a slice of the smallest merge at a time: a large one never keeps a small one waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Merge] = []
        self._stopping = False
        self._thread: threading.Thread | None = None

    def submit(self, merge: Merge) -> None:
        """Have a merge done."""
        with self._changed:
            self._waiting.append(merge)
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="pending-merges", daemon=True)
            self._thread.start()

    def wait(self, merge: Merge) -> None:
        """Wait until a merge is done."""
        with self._changed:
            self._changed.wait_for(lambda: merge.is_done)

    def stop(self) -> None:
        """Give up what is not done."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for merge in self._waiting:
            merge.give_up()
        self._waiting, self._stopping = [], False

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._waiting)
                if self._stopping:
                    return
                merge = min(self._waiting, key=lambda each: each.size)
            merge.step()
            if merge.is_done:
                with self._changed:
                    self._waiting.remove(merge)
                    self._changed.notify_all()
