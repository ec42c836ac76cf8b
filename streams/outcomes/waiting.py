"""Where the predictions of a deployment wait: a table of the store for each frame."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.baseline import Baseline
from streams.outcomes.early import FOREVER_US
from streams.outcomes.frames import EARLY_ROW, Frame, Rows, frame_of
from streams.outcomes.keys import Keys
from streams.outcomes.rulebook import Rulebook
from streams.outcomes.store import PendingStore, PendingTable
from streams.specification import DeploymentSpec

Mask = NDArray[np.bool_]


class Waiting:
    """The predictions of one deployment that wait on one partition.

    They are found for as long as their windows are open, and for as long again as outcomes may be late, so that
    outcomes that come too late can be told from those of nobody.

    Args:
        deployment_id: The deployment.
        store: Where they wait.
        created: Tells the deployment from an earlier one of that name.

    Attributes:
        frames: By number.
        current: Number of the frame in which each version's predictions begin to wait.
    """

    def __init__(self, deployment_id: str, store: PendingStore, created: int) -> None:
        self._deployment_id, self._store, self._created = deployment_id, store, created
        self.frames: dict[int, Frame] = {}
        self.current: dict[str, int] = {}
        self._frames_so_far = 0
        self._tables: dict[int, PendingTable] = {}
        self._forgotten_us: dict[int, int] = {}  # by frame: earlier predictions are not found any more
        self._recent: dict[tuple[int, int], int] = {}  # by frame and time: a message with predictions found until then

    def begin(self, spec: DeploymentSpec, baseline: Baseline, offset: int, humility: Rulebook | None = None) -> bool:
        """Another frame may begin for a version; whether the version's predictions wait for outcomes."""
        frame = frame_of(spec, baseline, self._frames_so_far + 1, offset, humility)
        if frame is None:
            return False
        known = self.frames.get(self.current.get(frame.model_version, 0))
        if known is None or not known.same_as(frame):
            self._frames_so_far += 1
            self.frames[frame.number] = frame
            self.current[frame.model_version] = frame.number
        return True

    def frame_of(self, model_version: str) -> Frame:
        """The frame in which a version's predictions begin to wait."""
        return self.frames[self.current[model_version]]

    def frame_at(self, model_version: str, offset: int) -> Frame | None:
        """The frame in which a version's message was read."""
        mine = [f for f in self.frames.values() if f.model_version == model_version and f.first_offset <= offset]
        return max(mine, key=lambda frame: frame.number, default=None)

    def put(self, frame: Frame, rows: Rows) -> None:
        """Let predictions wait, or put their outcomes in force."""
        self._rows(frame.number).put(rows)

    def find(self, keys: Keys) -> tuple[list[tuple[Frame, NDArray[np.intp], Rows]], NDArray[np.intp]]:
        """Predictions by key: per frame those that wait there, by index, and their rows; and the others, by index."""
        here, left = [], np.arange(len(keys))
        for number in sorted(self.frames, reverse=True):
            if not left.size:
                break
            found, rows = self._rows(number).get(keys[left, 0], keys[left, 1])
            if found.any():
                here.append((self.frames[number], left[found], rows[found]))
                left = left[~found]
        return here, left

    def new_to_it(self, keys: Keys) -> Mask | None:
        """Which predictions do not wait already, bool[n]; None if none does."""
        new = None
        for number in self.frames:
            found, _ = self._rows(number).get(keys[:, 0], keys[:, 1])
            if found.any():
                new = ~found if new is None else new & ~found
        return new

    def is_remembered(self, frame: Frame, rows: Rows) -> Mask:
        """Which predictions are found by their time, once they are put, bool[n]."""
        return np.asarray(rows["time_us"] >= self._forgotten_us.get(frame.number, -FOREVER_US))

    def remember(self, frame: Frame, end_us: int, offset: int) -> None:
        """Predictions of a final window are found for a while.

        Args:
            frame: Their frame.
            end_us: The end of the window.
            offset: The first message with any of them.
        """
        step_us = max(frame.window_ms, frame.lateness_ms // 16) * 1000  # so there are not many entries
        until_us = end_us + (frame.final_after_ms + frame.lateness_ms) * 1000
        key = frame.number, -(-until_us // step_us) * step_us
        self._recent[key] = min(offset, self._recent.get(key, offset))

    def forget(self, known_us: int, used: Collection[int]) -> None:
        """Find predictions no more whose outcomes are not even late, and drop frames that nobody needs.

        Args:
            known_us: What is known by now.
            used: Numbers of frames with open windows.
        """
        self._recent = {key: offset for key, offset in self._recent.items() if key[1] > known_us}
        for number, frame in self.frames.items():
            window_us = frame.window_ms * 1000
            before_us = (known_us - (frame.final_after_ms + frame.lateness_ms) * 1000) // window_us * window_us
            if before_us > self._forgotten_us.get(number, -FOREVER_US):
                self._forgotten_us[number] = before_us
                self._rows(number).forget_before(before_us)
        self.drop_unused(used)

    def drop_unused(self, used: Collection[int]) -> None:
        """Drop frames that nobody needs; those with open windows are used."""
        needed = {*used, *self.current.values(), *(number for number, _ in self._recent)}
        for number in [number for number in self.frames if number not in needed]:
            self._drop(number)

    def drop_all(self) -> None:
        """Nothing waits any more."""
        for number in list(self.frames):
            self._drop(number)
        self._store.drop(self._name("early"))
        self.current.clear()

    def _drop(self, number: int) -> None:
        self._store.drop(self._name("rows", number))
        self._tables.pop(number, None)
        self._forgotten_us.pop(number, None)
        self._recent = {key: offset for key, offset in self._recent.items() if key[0] != number}
        del self.frames[number]

    def first_offsets(self) -> list[int]:
        """Messages of the predictions topic with predictions of final windows that are still found."""
        return list(self._recent.values())

    def begin_recovery(self) -> None:
        """The index may be older than the journal: what is forgotten is found no more."""
        for number, before_us in self._forgotten_us.items():
            self._rows(number).forget_before(before_us)

    def early_table(self) -> PendingTable:
        """The table of outcomes that wait for their prediction."""
        return self._store.table(self._name("early"), EARLY_ROW)

    def table_names(self) -> set[str]:
        """The tables of the store that are in use."""
        return {self._name("rows", number) for number in self.frames} | {self._name("early")}

    def to_fields(self) -> dict[str, Any]:
        """What the journal keeps."""
        return {
            "frames": [frame.to_json() for _, frame in sorted(self.frames.items())],
            "current": self.current,
            "created": self._created,
            "frames_so_far": self._frames_so_far,
            "forgotten": sorted(self._forgotten_us.items()),
            "recent": sorted((number, until_us, offset) for (number, until_us), offset in self._recent.items()),
        }

    def restore(self, fields: Mapping[str, Any]) -> None:
        """Read :meth:`to_fields`."""
        self.frames = {frame.number: frame for frame in map(Frame.from_json, fields["frames"])}
        self.current = fields["current"]
        self._created, self._frames_so_far = fields["created"], fields["frames_so_far"]
        self._forgotten_us = dict(fields["forgotten"])
        self._recent = {(number, until_us): offset for number, until_us, offset in fields["recent"]}

    def _rows(self, number: int) -> PendingTable:
        table = self._tables.get(number)
        if table is None:
            table = self._store.table(self._name("rows", number), self.frames[number].row_dtype)
            self._tables[number] = table
        return table

    def _name(self, kind: str, number: int = 0) -> str:
        return f"{kind} {number} {self._created} {self._deployment_id}"
