"""A `Checkpoint` as the header and sections of a file, and back. JSON and raw bytes: reading one executes nothing."""

from __future__ import annotations

import datetime as dt
import functools
import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint import manifests, spans
from clearstone.checkpoint.environment import Environment
from clearstone.checkpoint.frames import Frame
from clearstone.checkpoint.missing import MissingMember
from clearstone.checkpoint.model import Checkpoint, EarlierCall, TakenCall
from clearstone.checkpoint.snapshots import CODE
from clearstone.checkpoint.state import AgentState
from clearstone.codec import payload
from clearstone.span import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clearstone.checkpoint.fingerprints import Fingerprint
    from clearstone.checkpoint.snapshots import Snapshot
    from clearstone.span import Payload, Trace


LONGEST_ERROR = 500
"""Characters of an error in a listing."""

OWN = ("about", "agent_class", "call", "code", "earlier", "failure", "missing", "random", "stack", "trace", "payloads")
SECTIONS = frozenset((*OWN, *manifests.SECTIONS))


def pack(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the header and sections of a checkpoint that stands alone.

    Raises:
        TypeError: `metadata` holds something that is not JSON.
    """
    header, sections = described(checkpoint)
    sections |= manifests.pack(snapshots_of(checkpoint))
    sections["trace"], sections["payloads"] = spans.pack(checkpoint.trace)
    return header, sections


def snapshots_of(checkpoint: Checkpoint) -> dict[str, Snapshot]:
    """Return the states of a checkpoint by what they are of."""
    states = {"state": checkpoint.state, "state_at_end": checkpoint.state_at_end}
    return {name: state.snapshot for name, state in states.items() if state is not None}


def described(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the header and sections of a checkpoint, but for its states and its trace.

    What is often as it was in the step before is a section: then it need not be written again.
    """
    sections: dict[str, bytes] = {}
    header = {
        "summary": _summary(checkpoint),
        "span_id": checkpoint.span_id,
        "timestamp": checkpoint.timestamp.isoformat(),
        "holds_code": holds_code(checkpoint),
        **_optional(checkpoint, sections),
    }
    sections["about"] = _about(checkpoint)
    return header, sections


_last_about: tuple[Environment, tuple[str, str, str], bytes] | None = None


def _about(checkpoint: Checkpoint) -> bytes:
    """Say which process and class it is of: seldom others than in the step before."""
    global _last_about  # noqa: PLW0603 - remembered, no more
    names = checkpoint.version, checkpoint.agent_class_name, checkpoint.agent_module
    if _last_about is None or _last_about[0] is not checkpoint.environment or _last_about[1] != names:
        keys = ("version", "agent_class_name", "agent_module")
        about = {**dict(zip(keys, names, strict=True)), "environment": asdict(checkpoint.environment)}
        _last_about = checkpoint.environment, names, json.dumps(about).encode()
    return _last_about[2]


def holds_code(checkpoint: Checkpoint) -> bool:
    """Whether a function or class is stored by value in it (see `Segment.holds_code`)."""
    states = filter(None, (checkpoint.state, checkpoint.state_at_end))
    in_states = (segment.holds_code for each in states for segment in each.snapshot.segments())
    return any(in_states) or any(CODE in each.data for each in checkpoint.payloads())


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
    header: dict[str, Any] = {"form": checkpoint.state.form}
    if checkpoint.agent_class is not None:
        header["agent_class"] = _put(sections, "agent_class", checkpoint.agent_class)
    states = (checkpoint.state, checkpoint.state_at_end)
    told = [_not_saved(each) if each is not None else [[], []] for each in states]
    if told != [[[], []]] * 2:
        sections["missing"] = json.dumps(told).encode()
    if checkpoint.state_at_end is not None:
        header["form_at_end"] = checkpoint.state_at_end.form
    if checkpoint.call is not None:
        call = checkpoint.call
        header["call"] = [call.site, call.method, _put(sections, "call", call.input)]
    if checkpoint.earlier:
        header["earlier"], sections["earlier"] = _earlier_section(checkpoint)
    if checkpoint.failure is not None:
        header["failure"] = _failure_header(checkpoint.failure, sections)
    if checkpoint.stack:
        sections["stack"] = json.dumps([asdict(frame) for frame in checkpoint.stack]).encode()
    if checkpoint.code:
        from clearstone.checkpoint import fingerprints  # with all that reads source

        sections["code"] = fingerprints.to_json(checkpoint.code)
    if checkpoint.random_state is not None:
        sections["random"] = _random_section(checkpoint.random_state)
    return header


def unpack(header: Mapping[str, Any], sections: Mapping[str, Any], *, untrusted: str = "") -> Checkpoint:
    """Return the checkpoint of the header and sections of a file of one step.

    Args:
        header: the header.
        sections: name to bytes; the payloads of the trace may be in a `Spill`.
        untrusted: see `Checkpoint`.

    Raises:
        KeyError, TypeError, ValueError, IndexError: they are not a checkpoint's.
    """
    trace = spans.unpack(header["summary"]["trace_id"], sections["trace"], sections["payloads"])
    table = manifests.table_of(sections["snapshots"])
    rows = manifests.rows_of(table)
    segments = manifests.segments_of(table, sections, table.numbers)
    found = {name: manifests.snapshot_of(row, segments.__getitem__) for name, row in rows.items()}
    return assembled(header, sections, found, trace, untrusted=untrusted)


def assembled(
    header: Mapping[str, Any],
    sections: Mapping[str, bytes],
    snapshots: Mapping[str, Snapshot],
    trace: Trace,
    *,
    untrusted: str = "",
) -> Checkpoint:
    """Return the checkpoint of what `described` gave, and its states and trace; raise as `unpack` does."""
    summary, about = header["summary"], json.loads(sections["about"])
    told = json.loads(sections.get("missing", b"[[[], []], [[], []]]"))
    states = {
        name: _state(snapshots[name], header[form], missing)
        for (name, form), missing in zip((("state", "form"), ("state_at_end", "form_at_end")), told, strict=True)
        if form in header
    }
    return Checkpoint(
        checkpoint_id=summary["checkpoint_id"],
        trace=trace,
        span_id=header["span_id"],
        timestamp=dt.datetime.fromisoformat(header["timestamp"]),
        created_ns=summary["created_ns"],
        version=about["version"],
        agent_class_name=about["agent_class_name"],
        agent_module=about["agent_module"],
        agent_class=_optional_payload(header.get("agent_class"), sections.get("agent_class")),
        state=states["state"],
        environment=_environment(about["environment"]),
        metadata=summary["metadata"],
        call=_call(header.get("call"), sections),
        failure=_failure(header.get("failure"), sections),
        state_at_end=states.get("state_at_end"),
        random_state=_random_state(sections),
        occurrences=summary["occurrences"],
        moment=summary["moment"],
        stack=tuple(Frame(**frame) for frame in json.loads(sections.get("stack", b"[]"))),
        earlier=_earlier(header.get("earlier", []), sections.get("earlier", b"")),
        code=_code(sections.get("code")),
        holds_code=bool(header["holds_code"]),
        untrusted=untrusted,
    )


def _put(sections: dict[str, bytes], name: str, given: Payload) -> int:
    """Put a payload's bytes into a section; return its form (see `clearstone.span.CODEC_MASK`)."""
    form, sections[name] = payload.to_raw(given)
    return form


def _optional_payload(form: int | None, data: bytes | None) -> Payload | None:
    return payload.of_raw(form, data) if form is not None and data is not None else None


def _not_saved(state: AgentState) -> list[Any]:
    return [[asdict(member) for member in state.missing], list(state.concurrent)]


def _state(snapshot: Snapshot, form: Any, told: Any) -> AgentState:
    missing, concurrent = told
    return AgentState(snapshot, form, tuple(MissingMember(**member) for member in missing), tuple(concurrent))


def _code(data: bytes | None) -> tuple[Fingerprint, ...]:
    if data is None:
        return ()
    from clearstone.checkpoint import fingerprints

    return fingerprints.from_json(data)


def _environment(header: Mapping[str, Any]) -> Environment:
    known = {"hash_mark": "", **header}  # an earlier version says less, a later one may say more
    known = {each.name: known[each.name] for each in fields(Environment)}
    changed = header["changed"]
    lists = {"argv": tuple(header["argv"]), "sys_path": tuple(header["sys_path"])}
    return Environment(**{**known, **lists, "changed": None if changed is None else tuple(changed)})


def _call(told: Any, sections: Mapping[str, bytes]) -> TakenCall | None:
    if told is None:
        return None
    site, method, form = told
    return TakenCall(site, method, payload.of_raw(form, sections["call"]))


def _earlier_section(checkpoint: Checkpoint) -> tuple[list[Any], bytes]:
    raws = [payload.to_raw(each.input) for each in checkpoint.earlier]
    calls = zip(checkpoint.earlier, raws, strict=True)
    told = [[each.method, each.trace_id, each.span_id, form, len(data)] for each, (form, data) in calls]
    return told, b"".join(data for _, data in raws)


def _earlier(told: Any, data: bytes) -> tuple[EarlierCall, ...]:
    found, at = [], 0
    for method, trace_id, span_id, form, length in told:
        if type(length) is not int or not 0 <= length <= len(data) - at:
            raise ValueError("an earlier call ends after its section")
        found.append(EarlierCall(method, payload.of_raw(form, data[at : at + length]), trace_id, span_id))
        at += length
    return tuple(found)


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


@functools.lru_cache(maxsize=4)
def _random_section(state: tuple[Any, ...]) -> bytes:
    """Write ``random.getstate()``: seldom another one than in the step before."""
    return json.dumps(state).encode()


def _random_state(sections: Mapping[str, bytes]) -> tuple[Any, ...] | None:
    if "random" not in sections:
        return None
    version, words, gauss = json.loads(sections["random"])
    return version, tuple(words), gauss
