"""The interface of a trace store.

Idea: a store takes rows (what a journal holds, batch by batch) and gives back spans. A span comes as one row when it
started and ended in the same batch, else as a row without an end and an `EndRow` later. Everything else (when to write,
what is still open) is the recorder's business.

Invariant: applying a batch again changes nothing; that is what makes recovery after any death safe. Driver errors never
escape: every method raises `StoreError` (or what it documents) and nothing else.

Refused: spans as frozen values on the way in. Making them costs more than storing their rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from clearstone.errors import TraceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clearstone.span import Span, Status, Trace


class RawPayload(NamedTuple):
    """A serialised value on its way to the store.

    Args:
        form: `span.PICKLE`, `CLOUDPICKLE` or `STAND_IN`, plus the flags `BUFFERS`, `REDACTED` and `BLOB`.
        data: the bytes; with `BUFFERS` packed as `clearstone.codec.buffers` says; with `BLOB` the name of a blob file.
    """

    form: int
    data: bytes


class SiteRow(NamedTuple):
    """What the spans of one site share."""

    key: str
    name: str
    span_type: str
    replay: str
    kind: str
    tracer_name: str
    tracer_version: str


class ProcessRow(NamedTuple):
    """A process that recorded. `token` is unique among all processes of all machines; the rest is for people."""

    token: str
    pid: int
    host: str
    boot_id: str
    started_ns: int


class SpanRow(NamedTuple):
    """One span as a row; `end_ns` is None while it is open. Text of JSON columns is None where there is nothing.

    The first part is known at its start, the second (from `end_ns` on) at its end.
    """

    span_id: int  # the 8 bytes as a signed integer
    trace_id: bytes  # 16
    parent_id: int | None
    site: int  # index into `Batch.sites`
    top: int  # 1: no span of this process is above it
    start_ns: int
    start_order: int
    instance: str | None  # the object a method was called on: "module:Class#number"
    end_ns: int | None
    status: str
    status_text: str
    outcome: str | None
    complete: bool
    attributes: str | None  # JSON object
    events: str | None  # JSON array of {name, at_ns, attributes}
    error_type: str | None
    error_message: str | None
    error_traceback: str | None
    error_raised_at: str | None
    input: RawPayload | None
    output: RawPayload | None
    error: RawPayload | None
    effects: RawPayload | None  # what the call did to `self`


class EndRow(NamedTuple):
    """The end of a span whose start was in an earlier batch."""

    span_id: int
    end_ns: int
    status: str
    status_text: str
    outcome: str | None
    complete: bool
    attributes: str | None
    events: str | None
    error_type: str | None
    error_message: str | None
    error_traceback: str | None
    error_raised_at: str | None
    output: RawPayload | None
    error: RawPayload | None = None
    effects: RawPayload | None = None
    input: RawPayload | None = None  # of a hand-written span, which may be given one after its start


class ChunkRow(NamedTuple):
    """One item of a stream."""

    span_id: int
    number: int
    at_ns: int
    value: RawPayload


@dataclass(frozen=True, slots=True)
class Batch:
    """What one process has to store: the order among the lists is spans, ends, chunks."""

    process: ProcessRow
    sites: Sequence[SiteRow]
    spans: Sequence[SpanRow] = ()
    ends: Sequence[EndRow] = ()
    chunks: Sequence[ChunkRow] = field(default=())


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """One line about a trace. Times are nanoseconds since the epoch; `end_ns` is None while a span is open.

    Args:
        trace_id: its id.
        name: the name of the span that started first.
        start_ns: when that span started.
        end_ns: when the last span ended; None where one has no end.
        spans: how many spans are stored.
        open_spans: how many of them have not ended.
        status: the first span's.
        interrupted: how many will never end: their process died.
    """

    trace_id: str
    name: str
    start_ns: int
    end_ns: int | None
    spans: int
    open_spans: int
    status: Status
    interrupted: int = 0


class TraceStore(Protocol):
    """Keeps spans by trace."""

    def apply(self, batch: Batch) -> None:
        """Store the rows of `batch`, all or none.

        What is stored of a span that has ended stays. An end whose span is not known is dropped: nothing tells which
        trace it belongs to.

        Args:
            batch: in the order the process recorded them.

        Raises:
            StoreError: nothing was stored.
            UnstorableSpanError: nothing was stored, and trying again with the same rows is no use.
        """

    def interrupt(self, token: str) -> int:
        """Mark the open spans of a process as interrupted: it is dead.

        Args:
            token: the process's (see `ProcessRow`).

        Returns:
            How many were marked now.

        Raises:
            StoreError: they cannot be marked.
        """

    def tidy(self, seconds: float) -> bool:
        """Do what can wait until nobody does: compress, mostly.

        Args:
            seconds: stop after about so many.

        Returns:
            Whether anything is left to do.

        Raises:
            StoreError: it cannot be done now.
        """

    def get_trace(self, trace_id: str) -> Trace:
        """Return every stored span of one trace, in the order they started.

        Args:
            trace_id: the whole id, 32 hex digits.

        Raises:
            TraceNotFoundError: there is none.
            StoreError: it cannot be read.
        """

    def traces(self, limit: int | None = None) -> list[TraceSummary]:
        """Return summaries, the newest trace first, without reading payloads.

        Args:
            limit: at most so many; None for all.

        Raises:
            StoreError: they cannot be read.
        """

    def find(self, reference: str) -> str:
        """Return the trace id that `reference` means.

        Args:
            reference: a trace id, the beginning of one, or ``"latest"``.

        Raises:
            TraceNotFoundError: none, or more than one.
            StoreError: the store cannot be read.
        """

    def close(self) -> None:
        """Let go of files and connections. A closed store opens itself again when it is used."""


def choose_trace(reference: str, newest_first: Sequence[str]) -> str:
    """Resolve a trace reference among the ids of a store (see `TraceStore.find`)."""
    if reference == "latest" and newest_first:
        return newest_first[0]
    found = [trace_id for trace_id in newest_first if reference and trace_id.startswith(reference)]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(trace_id[:12] for trace_id in found[:5])
        raise TraceNotFoundError(f"{reference!r} is the beginning of {len(found)} traces ({listed}); give more digits")
    if not newest_first:
        raise TraceNotFoundError(
            "no trace is recorded here yet; run an agent with a decorated call, or give --home or --db"
        )
    raise TraceNotFoundError(f"no trace begins with {reference!r}; 'clearstone traces' lists {len(newest_first)}")
