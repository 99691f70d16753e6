"""Recorded values for people and for JSON, through the inert reader: nothing is loaded, nothing runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from clearstone.codec import inert, show

if TYPE_CHECKING:
    from clearstone.span import Outcome, Payload


CANCELLED = "asyncio.exceptions.CancelledError"


def text(payload: Payload | None, width: int = 100) -> str:
    """Return one line of at most `width` characters about a payload; empty for none."""
    if payload is None:
        return ""
    if payload.codec == "stand-in":
        return _stand_in_text(payload)
    return show.render(inert.read(payload.data, buffers=payload.buffers), width=width)


def arguments_text(payload: Payload | None, width: int = 100) -> str:
    """Return the recorded ``(args, kwargs)`` as they stood in the call."""
    if payload is None or payload.codec == "stand-in":
        return text(payload, width)
    given = inert.read(payload.data, buffers=payload.buffers)
    match given:
        case (tuple() as args, dict() as kwargs):
            share = max(20, width // max(1, len(args) + len(kwargs)))
            parts = [show.render(value, width=share) for value in args]
            return ", ".join([*parts, *(f"{name}={show.render(value, width=share)}" for name, value in kwargs.items())])
        case _:  # a hand-written span's set_input
            return show.render(given, width=width)


def members(payload: Payload, width: int = 100) -> list[tuple[str, str]]:
    """Return one line for each entry of a pickled dict, by name; one line for anything else."""
    state = inert.read(payload.data, buffers=payload.buffers)
    entries = state.items() if isinstance(state, dict) else [("state", state)]
    return [(str(name), show.render(value, width=width)) for name, value in entries]


def as_json(payload: Payload | None) -> Any:
    """Return a payload as JSON-ready values; None for none."""
    if payload is None:
        return None
    if payload.codec == "stand-in":
        return {"$stand_in": json.loads(payload.data)}
    return show.to_json(inert.read(payload.data, buffers=payload.buffers))


def outcome_text(outcome: Outcome | None, width: int = 100) -> str:
    """Return one line about what a call gave."""
    if outcome is None:
        return ""
    if outcome.failure is not None and outcome.failure.type_name == CANCELLED:
        return f"cancelled: {outcome.failure.message}" if outcome.failure.message else "cancelled"
    if outcome.failure is not None:
        return f"raised {outcome.failure.type_name}: {outcome.failure.message}"
    if outcome.kind == "streamed":
        ended = "" if outcome.complete else ", closed early"
        return f"{len(outcome.chunks)} chunk(s){ended}"
    return text(outcome.value, width)


def outcome_json(outcome: Outcome | None) -> dict[str, Any] | None:
    """Return an outcome as JSON-ready values; None for none."""
    if outcome is None:
        return None
    failure = outcome.failure
    return {
        "kind": outcome.kind,
        "value": as_json(outcome.value),
        "error": {"type": failure.type_name, "message": failure.message} if failure is not None else None,
        "chunks": [{"at_ns": chunk.at_ns, "value": as_json(chunk.value)} for chunk in outcome.chunks],
        "complete": outcome.complete,
    }


def _stand_in_text(payload: Payload) -> str:
    told = json.loads(payload.data)
    return f"<not recorded: {told['repr']} of type {told['type']}, {told['reason']}>"
