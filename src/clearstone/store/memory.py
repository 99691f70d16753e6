"""The store that is a few dicts: for tests, for what is on its way, and the oracle the others are compared with."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from clearstone.codec import payload
from clearstone.codec.keys import machine_key
from clearstone.errors import TraceNotFoundError
from clearstone.span import Chunk, Trace, in_start_order
from clearstone.store.base import ChunkRow, TraceSummary, choose_trace
from clearstone.store.rows import Payloads, ended, span_of

if TYPE_CHECKING:
    from clearstone.span import Payload, Span
    from clearstone.store.base import Batch, RawPayload, SiteRow, SpanRow


class _Kept:
    """One span as it is kept."""

    def __init__(self, row: SpanRow, site: SiteRow, token: str) -> None:
        self.row = row
        self.site = site
        self.token = token
        self.interrupted = False

    def replace(self, row: SpanRow) -> None:
        self.row, self.interrupted = row, False


class MemoryTraceStore:
    """Keeps spans in this process (see `TraceStore`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: dict[int, _Kept] = {}
        self._traces: dict[bytes, list[_Kept]] = {}
        self._chunks: dict[int, dict[int, ChunkRow]] = {}

    def apply(self, batch: Batch) -> None:
        """Store a batch (see `TraceStore.apply`)."""
        with self._lock:
            for row in batch.spans:
                known = self._spans.get(row.span_id)
                if known is None:
                    made = self._spans[row.span_id] = _Kept(row, batch.sites[row.site], batch.process.token)
                    self._traces.setdefault(row.trace_id, []).append(made)
                elif known.row.end_ns is None and row.end_ns is not None:
                    known.replace(row)
            for end in batch.ends:
                known = self._spans.get(end.span_id)
                if known is not None and known.row.end_ns is None:
                    known.replace(ended(known.row, end))
            for chunk in batch.chunks:
                self._chunks.setdefault(chunk.span_id, {}).setdefault(chunk.number, chunk)

    def interrupt(self, token: str) -> int:
        """Mark the open spans of a process (see `TraceStore.interrupt`)."""
        with self._lock:
            found = [
                kept
                for kept in self._spans.values()
                if kept.token == token and kept.row.end_ns is None and not kept.interrupted
            ]
            for kept in found:
                kept.interrupted = True
        return len(found)

    def tidy(self, seconds: float) -> bool:
        """Nothing to tidy (see `TraceStore.tidy`)."""
        del seconds
        return False

    def get_trace(self, trace_id: str) -> Trace:
        """Return one trace (see `TraceStore.get_trace`)."""
        with self._lock:
            found = self._traces.get(_key(trace_id))
            if found is None:
                raise TraceNotFoundError(f"no trace {trace_id!r} in this store; list them with traces()")
            return Trace(trace_id, in_start_order(self._span(kept) for kept in found))

    def _span(self, kept: _Kept) -> Span:
        row = kept.row
        given = Payloads(*map(_payload, (row.input, row.output, row.error, row.effects)))
        chunks = [Chunk(each.at_ns, _named(each.value)) for _, each in sorted(self._chunks.get(row.span_id, {}).items())]
        return span_of(row, kept.site, given, chunks, interrupted=kept.interrupted)

    def traces(self, limit: int | None = None) -> list[TraceSummary]:
        """Return summaries, newest first (see `TraceStore.traces`)."""
        with self._lock:
            found = [
                _summary(trace_id.hex(), in_start_order(map(self._span, kept)))
                for trace_id, kept in self._traces.items()
            ]
        return sorted(found, key=lambda one: (one.start_ns, one.trace_id), reverse=True)[:limit]

    def find(self, reference: str) -> str:
        """Return the trace id that `reference` means (see `TraceStore.find`)."""
        return choose_trace(reference, [one.trace_id for one in self.traces()])

    def close(self) -> None:
        """Nothing to let go of."""


def _key(trace_id: str) -> bytes:
    try:
        return bytes.fromhex(trace_id)
    except ValueError:
        return b""


def _payload(raw: RawPayload | None) -> Payload | None:
    return _named(raw) if raw is not None else None


def _named(raw: RawPayload) -> Payload:
    return payload.of_raw(*raw, name=machine_key().name(*raw))


def _summary(trace_id: str, spans: tuple[Span, ...]) -> TraceSummary:
    ends = [span.end_ns for span in spans if span.end_ns is not None]
    return TraceSummary(
        trace_id=trace_id,
        name=spans[0].name,
        start_ns=spans[0].start_ns,
        end_ns=max(ends) if len(ends) == len(spans) else None,
        spans=len(spans),
        open_spans=sum(span.end_ns is None and not span.interrupted for span in spans),
        status=spans[0].status,
        interrupted=sum(span.interrupted for span in spans),
    )
