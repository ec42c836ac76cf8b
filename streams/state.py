"""The state of a partition as journal records, and back.

Evidence is written in two records: what changes only when a start slot begins, and the counts since then. So a commit
twice a second writes a few kilobytes per deployment that was active.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.codec import decode, encode
from streams.baseline import Baseline
from streams.blocks import BlockState
from streams.history import PastBlock, smallest
from streams.monitor import Episode, Monitors
from streams.specification import DeploymentSpec
from streams.windows import Window

Fields = dict[str, Any]

_EVIDENCE_ARRAYS = ("base", "muted")
_SLOT_ARRAYS = ("slot_counts", "resolve_counts")


def pack(array: NDArray[Any]) -> Fields:
    """An array as ``PackedArray``, little-endian, C order."""
    dtype = array.dtype.newbyteorder("<")
    return {
        "dtype": dtype.str,
        "shape": list(array.shape),
        "data": np.ascontiguousarray(array, dtype=dtype).tobytes(),
    }


def unpack(fields: Mapping[str, Any]) -> NDArray[Any]:
    """The array of a ``PackedArray``, writable."""
    return np.frombuffer(fields["data"], fields["dtype"]).reshape(fields["shape"]).copy()


def evidence_fields(monitors: Monitors) -> Fields:
    """What changes when a start slot begins, an alarm is raised or resolved."""
    fields: Fields = {"monitors": json.dumps(_monitor_facts(monitors), separators=(",", ":"))}
    past = monitors.history.blocks
    facts = [[block.start_us, block.offset, block.slots] for block in past]
    fields["past"] = pack(np.array(facts, dtype=np.int64).reshape(-1, 3))
    fields |= {"slot_start_us": monitors.slot_start_us, "slot_offset": monitors.slot_offset}
    fields["log_start_mass"] = monitors.log_start_mass
    for b, state in enumerate(monitors.states):
        fields |= {f"{name}_{b}": pack(getattr(state, name)) for name in _EVIDENCE_ARRAYS}
        if past:
            fields[f"past_counts_{b}"] = pack(np.stack([block.counts[b] for block in past]))
    if past and monitors.joint is not None:
        fields["past_joint"] = pack(np.stack([block.counts[-1] for block in past]))
    return fields


def slot_fields(monitors: Monitors) -> Fields:
    """What changes with every event."""
    fields: Fields = {}
    for b, state in enumerate(monitors.states):
        fields |= {f"{name}_{b}": pack(getattr(state, name)) for name in _SLOT_ARRAYS}
    if monitors.joint is not None:
        fields["joint"] = pack(smallest(monitors.joint_counts))
    if monitors.rate is not None:
        fields |= monitors.rate.to_fields()
    return fields


def _monitor_facts(monitors: Monitors) -> Any:
    return {name: {"episodes": count, "open": []} for name, count in sorted(monitors.episodes_before.items())} | {
        name: {
            "episodes": monitor.episodes,
            "open": [_episode_facts(episode) for episode in monitor.open],
        }
        for name, monitor in monitors.monitors.items()
    }


def _episode_facts(episode: Episode) -> list[Any]:
    facts = [episode.number, episode.fired_us, episode.change_us, episode.first_offset, episode.causes]
    return [*facts, episode.baseline_digest] if episode.baseline_digest else facts


def restore_monitors(
    spec: DeploymentSpec, baseline: Baseline, evidence: Mapping[str, Any], slot: Mapping[str, Any]
) -> Monitors:
    """The monitors as they were written."""
    monitors = Monitors(spec, baseline, 0, 0)
    for b in range(len(monitors.blocks)):
        arrays = {name: unpack(evidence[f"{name}_{b}"]) for name in _EVIDENCE_ARRAYS}
        arrays |= {name: unpack(slot[f"{name}_{b}"]) for name in _SLOT_ARRAYS}
        monitors.states[b] = BlockState(**arrays, silent=arrays["muted"].copy())
    if monitors.rate is not None:
        monitors.rate.restore(slot)
    monitors.hush()
    monitors.slot_start_us, monitors.slot_offset = evidence["slot_start_us"], evidence["slot_offset"]
    monitors.log_start_mass = evidence["log_start_mass"]
    past_counts = [
        unpack(evidence[name]) for b in range(len(monitors.blocks)) if (name := f"past_counts_{b}") in evidence
    ]
    past = unpack(evidence["past"]).tolist()
    # a journal of an earlier release has no such table
    joint = np.zeros((len(past), *monitors.joint_counts.shape), np.int64)
    if monitors.joint is not None and "joint" in slot:
        monitors.joint_counts = unpack(slot["joint"]).astype(np.int64)
        joint = unpack(evidence["past_joint"]) if "past_joint" in evidence else joint
    past_counts.append(joint)
    monitors.history.blocks = [
        PastBlock(start_us, offset, slots, [smallest(counts[i]) for counts in past_counts])
        for i, (start_us, offset, slots) in enumerate(past)
    ]
    for name, facts in json.loads(evidence["monitors"]).items():
        monitor = monitors.monitors.get(name)
        if monitor is None:
            monitors.episodes_before[name] = facts["episodes"]
            continue
        monitor.episodes = facts["episodes"]
        monitor.open = [
            Episode(number, fired, change, first, [(b, index) for b, index in causes], *digest)
            for number, fired, change, first, causes, *digest in facts["open"]
        ]
    return monitors


def window_fields(window: Window) -> Fields:
    """One open window."""
    fields: Fields = {
        "first_offset": window.first_offset,
        "rows": window.rows,
        "revision": window.revision,
        "next": window.next_revision_rows,
    }
    return fields | {f"counts_{b}": pack(counts) for b, counts in enumerate(window.counts)}


def restore_window(fields: Fields) -> Window:
    """The window as it was written."""
    blocks = sum(name.startswith("counts_") for name in fields)
    counts = [unpack(fields[f"counts_{b}"]) for b in range(blocks)]
    return Window(counts, fields["first_offset"], fields["rows"], fields["revision"], fields["next"])


def spec_fields(spec: DeploymentSpec) -> Fields:
    """The specification in force."""
    return {"record": encode("DeploymentSpec", spec.to_record())}


def restore_spec(fields: Fields) -> DeploymentSpec:
    """The specification as it was written."""
    return DeploymentSpec.from_record(decode(fields["record"])[1])


def baseline_fields(baseline: Baseline) -> Fields:
    """The baseline in force."""
    return {"record": encode("Baseline", baseline.to_record())}


def restore_baseline(fields: Mapping[str, Any]) -> Baseline:
    """The baseline as it was written."""
    return Baseline.from_record(decode(fields["record"])[1])
