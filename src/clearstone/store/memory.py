"""The store that is a dict: for tests, and the oracle the others are compared with."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from clearstone.errors import TraceNotFoundError
from clearstone.span import Trace, in_start_order
from clearstone.store.base import TraceSummary, choose_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clearstone.span import Span


class MemoryTraceStore:
    """Keeps spans in this process (see `TraceStore`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._traces: dict[str, dict[str, Span]] = {}

    def write(self, spans: Sequence[Span]) -> None:
        """Store `spans` (see `TraceStore.write`)."""
        with self._lock:
            for span in spans:
                known = self._traces.setdefault(span.trace_id, {})
                if span.span_id not in known or known[span.span_id].is_open:
                    known[span.span_id] = span

    def get_trace(self, trace_id: str) -> Trace:
        """Return one trace (see `TraceStore.get_trace`)."""
        with self._lock:
            spans = self._traces.get(trace_id)
            if spans is None:
                raise TraceNotFoundError(f"no trace {trace_id!r} in this store; list them with traces()")
            return Trace(trace_id, in_start_order(spans.values()))

    def traces(self, limit: int | None = None) -> list[TraceSummary]:
        """Return summaries, newest first (see `TraceStore.traces`)."""
        with self._lock:
            found = [_summary(trace_id, in_start_order(spans.values())) for trace_id, spans in self._traces.items()]
        return sorted(found, key=lambda one: (one.start_ns, one.trace_id), reverse=True)[:limit]

    def find(self, reference: str) -> str:
        """Return the trace id that `reference` means (see `TraceStore.find`)."""
        return choose_trace(reference, [one.trace_id for one in self.traces()])

    def close(self) -> None:
        """Nothing to let go of."""


def _summary(trace_id: str, spans: tuple[Span, ...]) -> TraceSummary:
    ends = [span.end_ns for span in spans if span.end_ns is not None]
    return TraceSummary(
        trace_id=trace_id,
        name=spans[0].name,
        start_ns=spans[0].start_ns,
        end_ns=max(ends) if len(ends) == len(spans) else None,
        spans=len(spans),
        open_spans=len(spans) - len(ends),
        status=spans[0].status,
    )
