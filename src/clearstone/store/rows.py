"""Rows of a store as spans, and spans as rows."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone.codec import payload
from clearstone.codec.payload import safe_repr
from clearstone.span import Chunk, Event, Failure, Outcome, Payload, Span, SpanKind, Status, StatusCode
from clearstone.store.batch import Batch, ChunkRow, ProcessRow, RawPayload, SiteRow, SpanRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clearstone.store.batch import EndRow

NO_PROCESS = ProcessRow("", 0, "", "", 0)
ID_BITS = 64


class Payloads(NamedTuple):
    """The payloads of one span, as a reader gets them; None for none."""

    input: Payload | None
    output: Payload | None
    error: Payload | None
    effects: Payload | None


# --- rows as spans ---------------------------------------------------------------------------------------------------


def span_of(
    row: SpanRow,
    site: SiteRow,
    given: Payloads,
    chunks: Iterable[Chunk],
    *,
    interrupted: bool = False,
    observed_ns: int | None = None,
) -> Span:
    """Return the span of a row.

    Args:
        row: its own payloads and site number are not looked at.
        site: its site.
        given: its payloads.
        chunks: the items of its stream, in order.
        interrupted: whether its process died before its end.
        observed_ns: when it was looked at, nanoseconds since the epoch; None for now.
    """
    is_open = row.end_ns is None
    if observed_ns is None:
        observed_ns = time.time_ns() if is_open and not interrupted else 0
    return Span(
        trace_id=row.trace_id.hex(),
        span_id=id_text(row.span_id),
        parent_id=id_text(row.parent_id) if row.parent_id is not None else None,
        name=site.name,
        start_ns=row.start_ns,
        end_ns=row.end_ns,
        observed_ns=observed_ns,
        order=row.start_order,
        kind=SpanKind(site.kind),
        span_type=site.span_type,
        site=site.key,
        replay=site.replay,  # type: ignore[arg-type]  # written by us
        tracer_name=site.tracer_name,
        tracer_version=site.tracer_version,
        status=Status(StatusCode(row.status), row.status_text),
        attributes=json.loads(row.attributes) if row.attributes else {},
        events=_events(row.events) if row.events else (),
        input=given.input,
        outcome=_outcome(row, given, tuple(chunks)),
        instance=row.instance or "",
        interrupted=interrupted,
        called_at=site.called_at,
    )


def bare_span_of(row: SpanRow, site: SiteRow, *, interrupted: bool = False) -> Span:
    """Return the span of a row without its payloads and chunks.

    Args:
        row: its payloads are not looked at.
        site: its site.
        interrupted: whether its process died before its end.
    """
    error = _not_read(row) if row.error_type is not None else None
    return span_of(row, site, Payloads(None, None, error, None), (), interrupted=interrupted)


def _not_read(row: SpanRow) -> Payload:
    told = {"type": row.error_type, "repr": row.error_message or "", "reason": "it was read without payloads"}
    return Payload("stand-in", json.dumps(told).encode())


def id_text(number: int) -> str:
    """Return a span id as 16 hex digits."""
    return f"{number & 0xFFFFFFFFFFFFFFFF:016x}"


def id_number(text: str) -> int:
    """Return a span id of 16 hex digits as SQLite holds it: 64 bits, signed.

    Raises:
        ValueError: it is no such id.
    """
    number = int(text, 16)
    if number >> ID_BITS:
        raise ValueError(f"{text!r} is longer than a span id's 16 hex digits")
    return number - (1 << ID_BITS) if number >> (ID_BITS - 1) else number


def _outcome(row: SpanRow, given: Payloads, chunks: tuple[Chunk, ...]) -> Outcome | None:
    if row.outcome is None and not chunks:
        return None
    return Outcome(
        kind=row.outcome or "streamed",  # type: ignore[arg-type]  # a stream that goes on, or was interrupted
        value=given.output,
        failure=_failure(row, given.error),
        chunks=chunks,
        complete=row.complete and row.outcome is not None,
        effects=given.effects,
    )


def _failure(row: SpanRow, value: Payload | None) -> Failure | None:
    if value is None:
        return None
    return Failure(
        row.error_type or "", row.error_message or "", row.error_traceback or "", row.error_raised_at or "", value
    )


def _events(text: str) -> tuple[Event, ...]:
    found: list[Mapping[str, Any]] = json.loads(text)
    return tuple(Event(event["name"], event["at_ns"], event["attributes"]) for event in found)


# --- spans as rows ---------------------------------------------------------------------------------------------------


def batch_of(spans: Iterable[Span]) -> Batch:
    """Return spans as a batch, of no particular process.

    Raises:
        ValueError: an id is not of OpenTelemetry's shape.
    """
    indexes: dict[SiteRow, int] = {}
    found, chunks = [], []
    for span in spans:
        row = _span_row(span, indexes.setdefault(_site_row(span), len(indexes)))
        found.append(row)
        numbered = enumerate(span.chunks)
        chunks += [ChunkRow(row.span_id, number, each.at_ns, _raw(each.value)) for number, each in numbered]
    return Batch(NO_PROCESS, list(indexes), found, (), chunks)


def _site_row(span: Span) -> SiteRow:
    return SiteRow(
        _text(span.site),
        _text(span.name),
        _text(span.span_type),
        span.replay,
        span.kind.value,
        _text(span.tracer_name),
        _text(span.tracer_version),
        _text(span.called_at),
    )


def _span_row(span: Span, site: int) -> SpanRow:
    outcome = span.outcome
    failure = outcome.failure if outcome is not None else None
    told = (failure.type_name, failure.message, failure.traceback, failure.raised_at) if failure is not None else ()
    error_type, error_message, error_traceback, error_raised_at = map(_text, told) if told else (None,) * 4
    return SpanRow(
        id_number(span.span_id),
        bytes.fromhex(span.trace_id),
        id_number(span.parent_id) if span.parent_id is not None else None,
        site,
        int(span.parent_id is None),
        span.start_ns,
        span.order,
        _text(span.instance) or None,
        span.end_ns,
        span.status.code.value,
        _text(span.status.description),
        outcome.kind if outcome is not None and span.end_ns is not None else None,
        outcome is None or outcome.complete,
        attributes_json(span.attributes) if span.attributes else None,
        _events_json(span.events) if span.events else None,
        error_type,
        error_message,
        error_traceback,
        error_raised_at,
        *(_raw(each) if each is not None else None for each in span.values),
    )


def _raw(value: Payload) -> RawPayload:
    return RawPayload(*payload.to_raw(value))


def _text(text: str) -> str:
    """Write half a surrogate pair out: a cut answer or a file name may hold one, and it is no valid UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def attributes_json(attributes: Mapping[str, Any]) -> str:
    """Return attributes as a JSON object; of what is no JSON, the repr."""
    try:
        return json.dumps(dict(attributes))
    except (TypeError, ValueError, RecursionError):
        return json.dumps({str(key): _plain(value) for key, value in attributes.items()})


def _plain(value: Any) -> Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return safe_repr(value)
    return value


def _events_json(events: Iterable[Event]) -> str:
    listed = (
        f'{{"name": {json.dumps(event.name)}, "at_ns": {event.at_ns}, '
        f'"attributes": {attributes_json(event.attributes)}}}'
        for event in events
    )
    return f"[{', '.join(listed)}]"


# --- merging ---------------------------------------------------------------------------------------------------------

_AT_END = SpanRow._fields.index("end_ns")


def ended(row: SpanRow, end: EndRow) -> SpanRow:
    """Return the row of an open span with its end."""
    of_end = (*end[1:12], end.input if end.input is not None else row.input, *end[12:15])
    return SpanRow._make(itertools.chain(row[:_AT_END], of_end))


def ended_by(row: SpanRow, whole: SpanRow) -> SpanRow:
    """Return the row of an open span with the end that a later row of the same span has."""
    return SpanRow._make(itertools.chain(row[:_AT_END], whole[_AT_END:]))
