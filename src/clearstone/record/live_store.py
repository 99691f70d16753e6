"""The store of a provider that still records.

Idea: what ended may still be on its way to the store, and what is open is not complete there. `LiveStore` puts the
three together: stored, waiting, open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clearstone.store.base import EVERY_SPAN

if TYPE_CHECKING:
    from collections.abc import Generator

    from clearstone.record.provider import TracerProvider
    from clearstone.span import Span, Trace
    from clearstone.store.base import SpanQuery, TraceStore, TraceSummary


class LiveStore:
    """The provider's store as a reader sees it: flushed first, and with open spans as they are now."""

    def __init__(self, provider: TracerProvider, store: TraceStore) -> None:
        self._provider = provider
        self._store = store

    def get_trace(self, trace_id: str) -> Trace:
        """Return one trace (see `TraceStore.get_trace`), open spans included."""
        self._provider.flush()
        return self._store.get_trace(trace_id).merged(self._provider.open_part(trace_id))

    def traces(self, limit: int | None = None) -> list[TraceSummary]:
        """Return summaries, newest first (see `TraceStore.traces`)."""
        self._provider.flush()
        return self._store.traces(limit)

    def spans(self, query: SpanQuery = EVERY_SPAN, *, payloads: bool = False) -> Generator[Span, None, None]:
        """Yield stored spans (see `TraceStore.spans`)."""
        self._provider.flush()
        return self._store.spans(query, payloads=payloads)

    def find(self, reference: str) -> str:
        """Return the trace id that `reference` means (see `TraceStore.find`)."""
        self._provider.flush()
        return self._store.find(reference)

    def close(self) -> None:
        """Close the store (see `TraceStore.close`)."""
        self._store.close()
