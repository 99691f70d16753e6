"""Spans as rows of the schema, and rows as spans."""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from clearstone.codec.payload import safe_repr
from clearstone.span import Chunk, Event, Failure, Outcome, Payload, Span, SpanKind, Status, StatusCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SpanRow = tuple[Any, ...]
PayloadRow = tuple[str, str, int, int, str, bytes]
Payloads = dict[str, list[tuple[int, Payload]]]


def span_row(span: Span) -> SpanRow:
    """Return the row of `spans` for one span, in the order of `schema.SPAN_COLUMNS`."""
    outcome = span.outcome
    failure = outcome.failure if outcome is not None else None
    return (
        span.span_id, span.trace_id, span.parent_id, _text(span.name), span.start_ns, span.end_ns, span.order,
        span.kind.value, _text(span.span_type), _text(span.site), span.replay, _text(span.tracer_name),
        _text(span.tracer_version), span.status.code.value, _text(span.status.description),
        _attributes_json(span.attributes), _events_json(span.events),
        outcome.kind if outcome is not None else None, outcome is None or outcome.complete,
        failure and _text(failure.type_name), failure and _text(failure.message), failure and _text(failure.traceback),
        failure and _text(failure.raised_at),
    )  # fmt: skip


def _text(text: str) -> str:
    """Write half a surrogate pair out: a cut answer or a file name may hold one, and it is no valid UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def payload_rows(span: Span) -> Iterator[PayloadRow]:
    """Yield the rows of `payloads` for one span."""
    if span.input is not None:
        yield _row(span, "input", span.input)
    if span.outcome is None:
        return
    if span.outcome.value is not None:
        yield _row(span, "output", span.outcome.value)
    if span.outcome.failure is not None:
        yield _row(span, "error", span.outcome.failure.value)
    for number, chunk in enumerate(span.outcome.chunks):
        yield _row(span, "chunk", chunk.value, number, chunk.at_ns)


def _row(span: Span, role: str, payload: Payload, number: int = 0, at_ns: int = 0) -> PayloadRow:
    return (span.span_id, role, number, at_ns, payload.codec, payload.data)


def spans_of(
    rows: Iterable[SpanRow], payloads: Iterable[PayloadRow], observed: Iterable[int] | None = None
) -> Iterator[Span]:
    """Yield the spans of `rows`, each with its payloads.

    Args:
        rows: in the order of `schema.SPAN_COLUMNS`.
        payloads: of these spans; chunks in their order.
        observed: for each row when the span was looked at, nanoseconds since the epoch; None: now.
    """
    by_span: dict[str, Payloads] = defaultdict(lambda: defaultdict(list))
    for span_id, role, _, at_ns, codec, data in payloads:
        by_span[span_id][role].append((at_ns, Payload(codec, data)))  # type: ignore[arg-type]  # written by us
    for row, seen in zip(rows, itertools.repeat(time.time_ns()) if observed is None else observed, strict=False):
        yield _span(row, by_span[row[0]], seen)


def _span(row: SpanRow, payloads: Payloads, observed_ns: int) -> Span:
    return Span(
        span_id=row[0], trace_id=row[1], parent_id=row[2], name=row[3], start_ns=row[4], end_ns=row[5], order=row[6],
        kind=SpanKind(row[7]), span_type=row[8], site=row[9], replay=row[10], tracer_name=row[11],
        tracer_version=row[12], status=Status(StatusCode(row[13]), row[14]), attributes=json.loads(row[15]),
        events=_events(row[16]), input=_only(payloads, "input"), outcome=_outcome(row[17:], payloads),
        observed_ns=observed_ns if row[5] is None else 0,
    )  # fmt: skip


def _outcome(row: SpanRow, payloads: Payloads) -> Outcome | None:
    kind, complete, *error = row
    if kind is None:
        return None
    raised = _only(payloads, "error")
    return Outcome(
        kind=kind,
        value=_only(payloads, "output"),
        failure=_failure(error, raised),
        chunks=tuple(Chunk(at_ns, payload) for at_ns, payload in payloads["chunk"]),
        complete=bool(complete),
    )


def _failure(texts: Sequence[str], raised: Payload | None) -> Failure | None:
    if raised is None:
        return None
    type_name, message, traceback, raised_at = texts
    return Failure(type_name, message, traceback, raised_at, raised)


def _only(payloads: Payloads, role: str) -> Payload | None:
    return payloads[role][0][1] if payloads[role] else None


def _attributes_json(attributes: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(attributes))
    except (TypeError, ValueError, RecursionError):
        return json.dumps({str(key): _plain(value) for key, value in attributes.items()})


def _plain(value: Any) -> Any:
    """Return the repr of what is no JSON: one odd attribute must not keep a whole batch out of the store."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return safe_repr(value)
    return value


def _events_json(events: tuple[Event, ...]) -> str:
    listed = (
        f'{{"name": {json.dumps(event.name)}, "at_ns": {event.at_ns}, '
        f'"attributes": {_attributes_json(event.attributes)}}}'
        for event in events
    )
    return f"[{', '.join(listed)}]"


def _events(text: str) -> tuple[Event, ...]:
    found: list[Mapping[str, Any]] = json.loads(text)
    return tuple(Event(event["name"], event["at_ns"], event["attributes"]) for event in found)
