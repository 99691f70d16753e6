"""Recording: tracers, spans, and the decorators that make both unnecessary. Exports only."""

from clearstone.boundaries import checkpointable
from clearstone.decorators import traced
from clearstone.record.default import configure
from clearstone.record.live_span import LiveSpan
from clearstone.record.provider import TracerProvider
from clearstone.record.tracer import Tracer
from clearstone.span import Event, Outcome, Payload, Span, SpanKind, Status, StatusCode, Trace
from clearstone.store.base import TraceStore, TraceSummary
from clearstone.store.memory import MemoryTraceStore
from clearstone.store.sqlite import SQLiteTraceStore

__all__ = [
    "Event",
    "LiveSpan",
    "MemoryTraceStore",
    "Outcome",
    "Payload",
    "SQLiteTraceStore",
    "Span",
    "SpanKind",
    "Status",
    "StatusCode",
    "Trace",
    "TraceStore",
    "TraceSummary",
    "Tracer",
    "TracerProvider",
    "checkpointable",
    "configure",
    "traced",
]
