"""Recorded values for people and for JSON, through the inert reader: nothing is loaded, nothing runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.joining import looked_at
from clearstone.codec import inert, show
from clearstone.store import blobs, texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clearstone.checkpoint.snapshots import Snapshot
    from clearstone.span import Failure, Outcome, Payload, Span
    from clearstone.store.texts import Term

CANCELLED = frozenset({"asyncio.exceptions.CancelledError", "asyncio.CancelledError"})


def text(payload: Payload | None, width: int = 100) -> str:
    """Return one line of about `width` characters about a payload; empty for none."""
    if payload is None:
        return ""
    if payload.codec == "stand-in":
        return _stand_in_text(payload) + _marks(payload)
    return show.render(_node(payload), width=width) + _marks(payload)


def _node(payload: Payload) -> Any:
    return inert.read(payload.data, buffers=payload.buffers)


def _marks(payload: Payload) -> str:
    """What is to be known about a payload beside its value."""
    size = len(payload.data) + sum(map(len, payload.buffers))
    large = f" <{size / (1 << 20):.1f} MB>" if size > blobs.DEFAULT_LIMIT else ""
    return f"{large} <redacted>" if payload.redacted else large


def arguments_text(payload: Payload | None, width: int = 100) -> str:
    """Return the recorded ``(args, kwargs)`` as they stood in the call."""
    if payload is None or payload.codec == "stand-in":
        return text(payload, width)
    match _node(payload):
        case (tuple() as args, dict() as kwargs):
            share = max(20, width // max(1, len(args) + len(kwargs)))
            parts = [show.render(value, width=share) for value in args]
            parts += [f"{name}={show.render(value, width=share)}" for name, value in kwargs.items()]
            return ", ".join(parts) + _marks(payload)
        case given:  # a hand-written span's set_input
            return show.render(given, width=width) + _marks(payload)


def members(snapshot: Snapshot, width: int = 100) -> list[tuple[str, str]]:
    """Return one line for each attribute of a state, by name; one line for anything else."""
    state = looked_at(snapshot)
    entries = state.items() if isinstance(state, dict) else [("state", state)]
    return [(str(name), show.render(value, width=width)) for name, value in entries]


def as_json(payload: Payload | None) -> Any:
    """Return a payload as JSON-ready values; None for none."""
    if payload is None:
        return None
    if payload.codec == "stand-in":
        return {"$stand_in": json.loads(payload.data)}
    return show.to_json(_node(payload))


def state_json(snapshot: Snapshot) -> Any:
    """Return a state as JSON-ready values."""
    return show.to_json(looked_at(snapshot))


def is_cancelled(failure: Failure) -> bool:
    """Whether the call did not fail: its task was cancelled."""
    return failure.type_name in CANCELLED


def outcome_text(outcome: Outcome | None, width: int = 100, *, ended: bool = True) -> str:
    """Return one line about what a call gave; so far, where it has not ended."""
    if outcome is None:
        return ""
    if outcome.failure is not None and outcome.failure.type_name in CANCELLED:
        return f"cancelled: {outcome.failure.message}" if outcome.failure.message else "cancelled"
    if outcome.failure is not None:
        return _failure_text(outcome.failure) + _marks(outcome.failure.value)
    if outcome.kind == "streamed":
        early = ", closed early" if ended and not outcome.complete else ""
        marks = " <redacted>" if any(chunk.value.redacted for chunk in outcome.chunks) else ""
        return f"{len(outcome.chunks)} chunk(s){early}{marks}"
    return text(outcome.value, width)


def _failure_text(failure: Failure) -> str:
    if is_cancelled(failure):
        return f"cancelled: {failure.message}" if failure.message else "cancelled"
    return f"raised {failure.type_name}: {failure.message}"


def outcome_json(outcome: Outcome | None) -> dict[str, Any] | None:
    """Return an outcome as JSON-ready values; None for none."""
    if outcome is None:
        return None
    failure = outcome.failure
    return {
        "kind": outcome.kind,
        "value": as_json(outcome.value),
        "error": {"type": failure.type_name, "message": failure.message, "cancelled": is_cancelled(failure)}
        if failure is not None
        else None,
        "chunks": [{"at_ns": chunk.at_ns, "value": as_json(chunk.value)} for chunk in outcome.chunks],
        "complete": outcome.complete,
        "effects": as_json(outcome.effects),
    }


def redacted_parts(span: Span) -> list[str]:
    """Return which payloads of a span had secrets replaced before they were recorded."""
    outcome = span.outcome
    parts = {"input": span.input}
    if outcome is not None:
        parts |= {"value": outcome.value, "effects": outcome.effects}
        parts["error"] = outcome.failure.value if outcome.failure is not None else None
        parts |= {f"chunks/{number}": chunk.value for number, chunk in enumerate(outcome.chunks)}
    return [name for name, payload in parts.items() if payload is not None and payload.redacted]


# --- effects ---------------------------------------------------------------------------------------------------------

_CHANGES = {
    "set": "self.{name} = {value}",
    "extended": "self.{name} += {value}",
    "added": "self.{name} |= {value}",
    "contents": "self.{name}[:] = {value}",
}


def effects_lines(payload: Payload | None, width: int = 100) -> list[str]:
    """Return one line for each thing a call did to its object or its arguments (see `clearstone.record.effects`)."""
    if payload is None:
        return []
    node = _node(payload) if payload.codec != "stand-in" else None
    if not isinstance(node, dict):  # it could not be recorded, or is no dict of ours
        return [f"effects: {text(payload, width)}"]
    lines = list(_effects(node, width))
    if node.get("ambiguous") is True:
        lines.append("(another call was at work on the same object: who changed what cannot be told)")
    return [line + _marks(payload) for line in lines]


def _effects(node: dict[Any, Any], width: int) -> Iterator[str]:
    for kind, form in _CHANGES.items():
        changed = node.get(kind)
        for name, value in changed.items() if isinstance(changed, dict) else ():
            yield form.format(name=name, value=show.render(value, width=width))
    deleted = node.get("deleted")
    for name in deleted if isinstance(deleted, list) else ():
        yield f"del self.{name}"
    steps = node.get("steps")
    for number, step in steps.items() if isinstance(steps, dict) else ():
        if isinstance(step, dict):
            yield from (f"{line} (before item {number})" for line in _effects(step, width))
    if "arguments" in node:
        yield f"arguments afterwards: {show.render(node['arguments'], width=width)}"


# --- what was searched for -------------------------------------------------------------------------------------------


def excerpt(span: Span, wanted: Sequence[Term], width: int) -> str:
    """Return the part of a span's texts that holds the first word searched for; empty where it cannot be shown."""
    first = wanted[0][0]
    for found in texts.texts(span):
        at = found.casefold().find(first)
        if at >= 0:
            begin = max(0, at - width // 3)
            part = " ".join(found[begin : begin + width].split())
            return f"{'...' if begin else ''}{part}{'...' if begin + width < len(found) else ''}"
    return ""


def _stand_in_text(payload: Payload) -> str:
    told = json.loads(payload.data)
    return f"<not recorded: {told['repr']} of type {told['type']}, {told['reason']}>"
