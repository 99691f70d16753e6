"""A `Checkpoint` as the header and sections of a file, and back. JSON and raw bytes: reading one executes nothing."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, fields
from itertools import chain
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint import snapshots, spans
from clearstone.checkpoint.environment import Environment
from clearstone.checkpoint.frames import Frame
from clearstone.checkpoint.missing import MissingMember
from clearstone.checkpoint.model import Checkpoint, TakenCall
from clearstone.checkpoint.state import AgentState
from clearstone.codec import payload
from clearstone.span import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clearstone.span import Payload


LONGEST_ERROR = 500
"""Characters of an error in a listing."""

SECTIONS = frozenset({"agent_class", "call", "failure", "random", "stack", "trace", "payloads", *snapshots.SECTIONS})


def pack(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the header and sections of a checkpoint.

    Raises:
        TypeError: `metadata` holds something that is not JSON.
    """
    sections: dict[str, bytes] = {}
    header = {
        "summary": _summary(checkpoint),
        "span_id": checkpoint.span_id,
        "timestamp": checkpoint.timestamp.isoformat(),
        "version": checkpoint.version,
        "agent_class_name": checkpoint.agent_class_name,
        "agent_module": checkpoint.agent_module,
        "environment": asdict(checkpoint.environment),
        "state": _state_header(checkpoint.state),
        "holds_code": holds_code(checkpoint),
        "spans": len(checkpoint.trace),
        **_optional(checkpoint, sections),
    }
    states = {"state": checkpoint.state, "state_at_end": checkpoint.state_at_end}
    sections |= snapshots.pack({name: each.snapshot for name, each in states.items() if each is not None})
    sections["trace"], sections["payloads"] = spans.pack(checkpoint.trace)
    return header, sections


def holds_code(checkpoint: Checkpoint) -> bool:
    """Whether a function or class is stored by value in it: only cloudpickle does so, and its makers are named."""
    states = filter(None, (checkpoint.state, checkpoint.state_at_end))
    of_states = (segment.data for each in states for segment in each.snapshot.segments())
    return any(b"cloudpickle" in each for each in chain(of_states, (each.data for each in checkpoint.payloads())))


def _summary(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a listing shows."""
    failure = checkpoint.failure
    return {
        "checkpoint_id": checkpoint.checkpoint_id,
        "trace_id": checkpoint.trace.trace_id,
        "agent": checkpoint.agent_name,
        "span_name": checkpoint.span.name,
        "created_ns": checkpoint.created_ns,
        "error": f"{failure.type_name}: {failure.message}"[:LONGEST_ERROR] if failure is not None else "",
        "occurrences": checkpoint.occurrences,
        "moment": checkpoint.moment,
        "metadata": checkpoint.metadata,
    }


def _optional(checkpoint: Checkpoint, sections: dict[str, bytes]) -> dict[str, Any]:
    """Return the parts of a header that not every checkpoint has, and put their bytes into `sections`."""
    header: dict[str, Any] = {"state_at_end": None, "agent_class": None, "call": None, "failure": None}
    if checkpoint.agent_class is not None:
        header["agent_class"] = _put(sections, "agent_class", checkpoint.agent_class)
    if checkpoint.state_at_end is not None:
        header["state_at_end"] = _state_header(checkpoint.state_at_end)
    if checkpoint.call is not None:
        call = checkpoint.call
        header["call"] = {"site": call.site, "method": call.method, "payload": _put(sections, "call", call.input)}
    if checkpoint.failure is not None:
        header["failure"] = _failure_header(checkpoint.failure, sections)
    if checkpoint.stack:
        sections["stack"] = json.dumps([asdict(frame) for frame in checkpoint.stack]).encode()
    if checkpoint.random_state is not None:
        sections["random"] = json.dumps(checkpoint.random_state).encode()
    return header


def unpack(header: Mapping[str, Any], sections: Mapping[str, bytes], *, untrusted: str = "") -> Checkpoint:
    """Return the checkpoint of a file's header and sections.

    Args:
        header: the header.
        sections: name to bytes.
        untrusted: see `Checkpoint`.

    Raises:
        KeyError, TypeError, ValueError: they are not a checkpoint's.
    """
    summary = header["summary"]
    return Checkpoint(
        checkpoint_id=summary["checkpoint_id"],
        trace=spans.unpack(summary["trace_id"], sections["trace"], sections["payloads"]),
        span_id=header["span_id"],
        timestamp=dt.datetime.fromisoformat(header["timestamp"]),
        created_ns=summary["created_ns"],
        version=header["version"],
        agent_class_name=header["agent_class_name"],
        agent_module=header["agent_module"],
        agent_class=_optional_payload(header["agent_class"], sections.get("agent_class")),
        state=_state(header, sections, "state"),
        environment=_environment(header["environment"]),
        metadata=summary["metadata"],
        call=_call(header["call"], sections),
        failure=_failure(header["failure"], sections),
        state_at_end=_state(header, sections, "state_at_end") if header["state_at_end"] else None,
        random_state=_random_state(sections),
        occurrences=summary["occurrences"],
        moment=summary["moment"],
        stack=tuple(Frame(**frame) for frame in json.loads(sections.get("stack", b"[]"))),
        holds_code=bool(header["holds_code"]),
        untrusted=untrusted,
    )


def _put(sections: dict[str, bytes], name: str, given: Payload) -> int:
    """Put a payload's bytes into a section; return its form (see `clearstone.span.CODEC_MASK`)."""
    form, sections[name] = payload.to_raw(given)
    return form


def _optional_payload(form: int | None, data: bytes | None) -> Payload | None:
    return payload.of_raw(form, data) if form is not None and data is not None else None


def _state_header(state: AgentState) -> dict[str, Any]:
    return {
        "form": state.form,
        "missing": [asdict(member) for member in state.missing],
        "concurrent": state.concurrent,
    }


def _state(header: Mapping[str, Any], sections: Mapping[str, bytes], name: str) -> AgentState:
    described = header[name]
    missing = tuple(MissingMember(**member) for member in described["missing"])
    return AgentState(snapshots.unpack(sections, name), described["form"], missing, tuple(described["concurrent"]))


def _environment(header: Mapping[str, Any]) -> Environment:
    known = {each.name: header[each.name] for each in fields(Environment)}  # a later version may say more
    changed = header["changed"]
    lists = {"argv": tuple(header["argv"]), "sys_path": tuple(header["sys_path"])}
    return Environment(**{**known, **lists, "changed": None if changed is None else tuple(changed)})


def _call(header: Mapping[str, Any] | None, sections: Mapping[str, bytes]) -> TakenCall | None:
    if header is None:
        return None
    return TakenCall(header["site"], header["method"], payload.of_raw(header["payload"], sections["call"]))


def _failure_header(failure: Failure, sections: dict[str, bytes]) -> dict[str, Any]:
    return {
        "type": failure.type_name,
        "message": failure.message,
        "raised_at": failure.raised_at,
        "traceback": failure.traceback,
        "payload": _put(sections, "failure", failure.value),
    }


def _failure(header: Mapping[str, Any] | None, sections: Mapping[str, bytes]) -> Failure | None:
    if header is None:
        return None
    value = payload.of_raw(header["payload"], sections["failure"])
    return Failure(header["type"], header["message"], header["traceback"], header["raised_at"], value)


def _random_state(sections: Mapping[str, bytes]) -> tuple[Any, ...] | None:
    if "random" not in sections:
        return None
    version, words, gauss = json.loads(sections["random"])
    return version, tuple(words), gauss
