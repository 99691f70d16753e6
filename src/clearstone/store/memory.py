"""The store that is a few dicts: for tests, for what is on its way, and the oracle the others are compared with."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from clearstone.codec import payload
from clearstone.codec.keys import machine_key, nobodys
from clearstone.errors import TraceNotFoundError
from clearstone.span import BLOB, FORK_PARENT, Chunk, StatusCode, Trace
from clearstone.store import blobs, texts
from clearstone.store.base import EVERY_SPAN, Collected, Erased, TraceSummary, chosen
from clearstone.store.rows import Payloads, bare_span_of, ended, ended_by, span_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from clearstone.span import Payload, Span
    from clearstone.store.base import SpanQuery
    from clearstone.store.batch import Batch, ChunkRow, RawPayload, SiteRow, SpanRow
    from clearstone.store.texts import Term


class _Kept:
    """One span as it is kept."""

    def __init__(self, row: SpanRow, site: SiteRow, token: str, folder: Path | None) -> None:
        self.row = row
        self.site = site
        self.token = token
        self.folder = folder
        self.interrupted = False
        self.key = machine_key()
        self.chunks: dict[int, ChunkRow] = {}

    def end(self, row: SpanRow) -> None:
        self.row, self.interrupted = row, False

    @property
    def order(self) -> tuple[int, int, int]:
        return self.row.start_ns, self.row.start_order, self.row.span_id


class MemoryTraceStore:
    """Keeps spans in this process (see `TraceStore`).

    Args:
        folder: where the blob files are that its rows name; None where they name none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._spans: dict[int, _Kept] = {}

    def apply(self, batch: Batch) -> None:
        """Store a batch (see `TraceStore.apply`)."""
        with self._lock:
            for row in batch.spans:
                known = self._spans.get(row.span_id)
                if known is None:
                    site = batch.sites[row.site]
                    self._spans[row.span_id] = _Kept(row, site, batch.process.token, self._folder)
                elif known.row.end_ns is None and row.end_ns is not None:
                    known.end(ended_by(known.row, row))
            for end in batch.ends:
                known = self._spans.get(end.span_id)
                if known is not None and known.row.end_ns is None:
                    known.end(ended(known.row, end))
            for chunk in batch.chunks:
                known = self._spans.get(chunk.span_id)
                if known is not None:
                    known.chunks.setdefault(chunk.number, chunk)
            if not batch.trusted:
                self._distrust(batch)

    def _distrust(self, batch: Batch) -> None:
        for rows in (batch.spans, batch.ends, batch.chunks):
            for row in rows:
                if row.span_id in self._spans:
                    self._spans[row.span_id].key = nobodys()

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
            return Trace(trace_id, tuple(map(_span, self._trace(trace_id))))

    def spans(self, query: SpanQuery = EVERY_SPAN, *, payloads: bool = False) -> Generator[Span, None, None]:
        """Yield spans (see `TraceStore.spans`)."""
        with self._lock:
            kept = sorted(self._spans.values(), key=lambda one: one.order, reverse=query.newest_first)
            wanted = texts.terms(query.text) if query.text else None
            found = [one for one in kept if _meets(one, query, wanted)][: query.limit]
        yield from map(_span if payloads else _bare_span, found)

    def traces(self, limit: int | None = None) -> list[TraceSummary]:
        """Return summaries, newest first (see `TraceStore.traces`)."""
        with self._lock:
            return [_summary(trace_id.hex(), kept) for trace_id, kept in self._newest_first()][:limit]

    def find(self, reference: str) -> str:
        """Return the trace id that `reference` means (see `TraceStore.find`)."""
        with self._lock:
            known = [trace_id.hex() for trace_id, _ in self._newest_first()]
        wanted = reference.lower()
        found = known[:1] if wanted == "latest" else [each for each in known if wanted and each.startswith(wanted)]
        return chosen(reference, found, empty=not known)

    def forget(self, trace_id: str) -> Erased:
        """Erase a trace (see `TraceStore.forget`)."""
        with self._lock:
            return Erased(self._erase(self._trace(trace_id)))

    def collect(self, older_than_ns: int, *, keep_failed: bool = False, dry_run: bool = False) -> Collected:
        """Erase old traces (see `TraceStore.collect`)."""
        with self._lock:
            old = [kept for _, kept in self._newest_first() if max(map(_newest, kept)) < older_than_ns]
            old = [kept for kept in old if not (keep_failed and any(map(_failed, kept)))]
            spans = sum(map(len, old))
            if not dry_run:
                for kept in old:
                    self._erase(kept)
        return Collected(len(old), spans)

    def close(self) -> None:
        """Nothing to let go of."""

    def _erase(self, doomed: list[_Kept]) -> int:
        for kept in doomed:
            del self._spans[kept.row.span_id]
        return len(doomed)

    def _trace(self, trace_id: str) -> list[_Kept]:
        key = _key(trace_id)
        found = [kept for kept in self._spans.values() if kept.row.trace_id == key]
        if not found:
            raise TraceNotFoundError(f"no trace {trace_id!r} in this store; list them with traces()")
        return sorted(found, key=lambda kept: kept.order)

    def _newest_first(self) -> list[tuple[bytes, list[_Kept]]]:
        by_trace: dict[bytes, list[_Kept]] = {}
        for kept in sorted(self._spans.values(), key=lambda kept: kept.order):
            by_trace.setdefault(kept.row.trace_id, []).append(kept)
        return sorted(by_trace.items(), key=_age, reverse=True)


def _age(trace: tuple[bytes, list[_Kept]]) -> tuple[bool, int, bytes]:
    trace_id, spans = trace
    tops = [kept.row.start_ns for kept in spans if kept.row.top]
    return bool(tops), tops[0] if tops else spans[0].row.start_ns, trace_id


def _newest(kept: _Kept) -> int:
    return max(kept.row.start_ns, kept.row.end_ns or 0)


def _failed(kept: _Kept) -> bool:
    return kept.interrupted or kept.row.status == StatusCode.ERROR


def _meets(kept: _Kept, query: SpanQuery, wanted: list[Term] | None) -> bool:
    row, site = kept.row, kept.site
    asked = (
        (query.trace_id, query.trace_id is not None and row.trace_id == _key(query.trace_id)),
        (query.name, site.name == query.name),
        (query.span_type, site.span_type == query.span_type),
        (query.status, row.status == query.status),
        (query.interrupted, kept.interrupted == query.interrupted),
        (query.since_ns, row.start_ns >= (query.since_ns or 0)),
        (query.until_ns, row.start_ns < (query.until_ns or 0)),
    )
    if not all(met for condition, met in asked if condition is not None):
        return False
    return wanted is None or (bool(wanted) and texts.matches(_span(kept), wanted))


def _key(trace_id: str) -> bytes:
    try:
        return bytes.fromhex(trace_id)
    except ValueError:
        return b""


def _span(kept: _Kept) -> Span:
    row = kept.row
    raws = (row.input, row.output, row.error, row.effects)
    given = Payloads(*(_payload(kept, raw) if raw is not None else None for raw in raws))
    chunks = [Chunk(each.at_ns, _payload(kept, each.value)) for _, each in sorted(kept.chunks.items())]
    return span_of(row, kept.site, given, chunks, interrupted=kept.interrupted)


def _bare_span(kept: _Kept) -> Span:
    return bare_span_of(kept.row, kept.site, interrupted=kept.interrupted)


def _payload(kept: _Kept, raw: RawPayload) -> Payload:
    form, data = raw
    if form & BLOB and kept.folder is not None:
        form, data = form & ~BLOB, blobs.read(kept.folder, data)
    return payload.of_raw(form, data, name=kept.key.name(form, data))


def _summary(trace_id: str, kept: list[_Kept]) -> TraceSummary:
    first, ends = _bare_span(kept[0]), [each.row.end_ns for each in kept if each.row.end_ns is not None]
    interrupted = sum(each.interrupted for each in kept)
    return TraceSummary(
        trace_id=trace_id,
        name=first.name,
        start_ns=first.start_ns,
        end_ns=max(ends) if len(ends) == len(kept) else None,
        spans=len(kept),
        open_spans=len(kept) - len(ends) - interrupted,
        status=first.status,
        interrupted=interrupted,
        parent=str(first.attributes.get(FORK_PARENT, "")),
    )
