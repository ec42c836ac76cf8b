"""What Slack would refuse a message or a form for: Block Kit's documented limits, and the total that is not documented.

Source: https://docs.slack.dev/reference/block-kit and https://github.com/slackapi/bolt-js/issues/2509
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_BLOCKS = 50
MAX_TOTAL = 13_200
MAX_MESSAGE_TEXT = 40_000

_STYLES = ("primary", "danger")


def slack_problems(body: Mapping[str, Any]) -> list[str]:
    """What Slack would refuse a message for."""
    blocks = body.get("blocks") or []
    text = body.get("text") or ""
    problems = [] if text or blocks or body.get("attachments") else ["no_text"]
    if len(text) > MAX_MESSAGE_TEXT:
        problems.append("msg_too_long")
    if len(blocks) > MAX_BLOCKS:
        problems.append(f"{len(blocks)} blocks, at most {MAX_BLOCKS}")
    problems += [p for block in blocks for p in _block_problems(block)] + _repeated(blocks)
    if sum(len(json.dumps(block, ensure_ascii=False)) for block in blocks) > MAX_TOTAL:
        problems.append("msg_blocks_too_long")
    return problems + _metadata_problems(body.get("metadata"))


def view_problems(view: Mapping[str, Any]) -> list[str]:
    """What Slack would refuse a form for."""
    problems = [] if view.get("type") == "modal" else [f"view of type {view.get('type')!r}"]
    problems += [p for name in ("title", "submit", "close") for p in _plain(name, view.get(name), 24)]
    problems += _most("private_metadata", view.get("private_metadata", ""), 3000)
    problems += _most("callback_id", view.get("callback_id", ""), 255)
    for block in view.get("blocks") or ["nothing"]:
        if not isinstance(block, dict):
            problems.append("a form without blocks")
        elif block.get("type") == "input":
            problems += _plain("label", block.get("label"), 2000)
            problems += _most("action_id", (block.get("element") or {}).get("action_id", ""), 255)
        else:
            problems += _block_problems(block)
    return problems


def elements_of(blocks: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Everything that can be pressed in a message."""
    for block in blocks:
        yield from block.get("elements", []) if block.get("type") == "actions" else []
        if block.get("accessory"):
            yield block["accessory"]


def _block_problems(block: Mapping[str, Any]) -> list[str]:
    kind = block.get("type")
    problems = _most("block_id", block.get("block_id", ""), 255)
    if kind == "header":
        return problems + _plain("header", block.get("text"), 150)
    if kind == "section":
        fields = block.get("fields") or []
        problems += _text("section", block.get("text"), 3000) if "text" in block else []
        problems += [] if "text" in block or fields else ["a section without text"]
        problems += [] if len(fields) <= 10 else [f"{len(fields)} fields, at most 10"]
        problems += [p for field in fields for p in _text("field", field, 2000)]
        return problems + (_element_problems(block["accessory"]) if block.get("accessory") else [])
    if kind == "context":
        elements = block.get("elements") or []
        problems += [] if 1 <= len(elements) <= 10 else [f"{len(elements)} elements in a context"]
        return problems + [p for e in elements for p in _text("context", e, 3000) if e.get("type") != "image"]
    if kind == "actions":
        elements = block.get("elements") or []
        ids = Counter(e.get("action_id") for e in elements)
        problems += [] if 1 <= len(elements) <= 25 else [f"{len(elements)} elements in actions"]
        problems += [f"action_id {name!r} twice in a block" for name, count in ids.items() if count > 1]
        return problems + [p for e in elements for p in _element_problems(e)]
    return problems + ([] if kind in ("divider", "image", "rich_text") else [f"unknown block {kind!r}"])


def _element_problems(element: Mapping[str, Any]) -> list[str]:
    kind = element.get("type")
    problems = _most("action_id", element.get("action_id", ""), 255)
    problems += _confirm_problems(element.get("confirm"))
    if kind == "button":
        problems += _plain("button", element.get("text"), 75) + _most("value", element.get("value", ""), 2000)
        problems += _most("url", element.get("url", ""), 3000)
        return problems + ([] if element.get("style", _STYLES[0]) in _STYLES else ["unknown style"])
    if kind in ("static_select", "overflow"):
        options = element.get("options") or []
        most = 100 if kind == "static_select" else 5
        problems += _plain("placeholder", element.get("placeholder"), 150) if kind == "static_select" else []
        problems += [] if 1 <= len(options) <= most else [f"{len(options)} options, 1 to {most}"]
        for option in options:
            problems += _plain("option", option.get("text"), 75) + _most("option value", option.get("value", ""), 150)
        return problems
    return problems + ([] if kind == "image" else [f"unknown element {kind!r}"])


def _confirm_problems(confirm: Mapping[str, Any] | None) -> list[str]:
    if confirm is None:
        return []
    problems = _plain("confirm title", confirm.get("title"), 100) + _text("confirm text", confirm.get("text"), 300)
    return problems + [p for name in ("confirm", "deny") for p in _plain(name, confirm.get(name), 30)]


def _metadata_problems(metadata: Mapping[str, Any] | None) -> list[str]:
    if not metadata:
        return []
    name, payload = metadata.get("event_type"), metadata.get("event_payload")
    good = isinstance(name, str) and name.replace("_", "").isalnum() and isinstance(payload, dict)
    return [] if good and len(json.dumps(metadata)) <= 16_384 else ["invalid_metadata_format"]


def _repeated(blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    ids = Counter(block["block_id"] for block in blocks if block.get("block_id"))
    return [f"block_id {name!r} twice" for name, count in ids.items() if count > 1]


def _plain(what: str, text: object, most: int) -> list[str]:
    kind = text.get("type") if isinstance(text, dict) else None
    return _text(what, text, most) + ([] if kind == "plain_text" else [f"{what} is not plain_text"])


def _text(what: str, text: object, most: int) -> list[str]:
    if not isinstance(text, dict) or text.get("type") not in ("plain_text", "mrkdwn"):
        return [f"{what} is no text"]
    length = len(str(text.get("text", "")))
    return [] if 0 < length <= most else [f"{what} of {length} characters, 1 to {most}"]


def _most(what: str, text: object, most: int) -> list[str]:
    return [] if len(str(text)) <= most else [f"{what} of {len(str(text))} characters, at most {most}"]
