"""The interface of a trace store.

Idea: a store takes rows (`clearstone.store.batch`: what a journal holds) and gives back spans. Everything else (when to
write, what is still open) is the recorder's business.

Invariant: applying a batch again changes nothing; that is what makes recovery after any death safe. Driver errors never
escape: every method raises `StoreError` (or what it documents) and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from clearstone.errors import TraceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from clearstone.span import Span, Status, StatusCode, Trace
    from clearstone.store.batch import Batch


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
        parent: of a fork the trace it comes from; else empty.
    """

    trace_id: str
    name: str
    start_ns: int
    end_ns: int | None
    spans: int
    open_spans: int
    status: Status
    interrupted: int = 0
    parent: str = ""


@dataclass(frozen=True, slots=True)
class SpanQuery:
    """Which spans to read: those that meet every condition. The default is all of them.

    Args:
        trace_id: of this trace, 32 hex digits.
        name: of exactly this name.
        span_type: of exactly this type; ``""`` for plain steps.
        status: of this status code.
        interrupted: whether their process died before their end; None for either.
        since_ns: started at this time or later (nanoseconds since the epoch).
        until_ns: started before this time.
        text: holding these words in payloads, attributes, events or errors, as `clearstone.store.texts` says: several
            words must all be there, words in double quotes must follow one another.
        limit: at most so many.
        newest_first: in the opposite order.
    """

    trace_id: str | None = None
    name: str | None = None
    span_type: str | None = None
    status: StatusCode | None = None
    interrupted: bool | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    text: str | None = None
    limit: int | None = None
    newest_first: bool = False


EVERY_SPAN = SpanQuery()


@dataclass(frozen=True, slots=True)
class Erased:
    """What `TraceStore.forget` erased.

    Args:
        spans: how many spans.
        payloads: how many payloads that were kept apart, each once however many spans referred to it.
        blobs: how many files of large payloads.
        bytes: by how much the files shrank; 0 in memory. What another process still reads is given back later.
    """

    spans: int
    payloads: int = 0
    blobs: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Collected:
    """What `TraceStore.collect` erased, or would have.

    Args:
        traces: how many traces.
        spans: how many spans they had.
        bytes: by how much the files shrank, or about by how much they would; 0 in memory.
    """

    traces: int
    spans: int
    bytes: int = 0


class TraceReader(Protocol):
    """Gives spans back by trace: a store, or a provider's view of one."""

    def get_trace(self, trace_id: str) -> Trace:
        """Return every span of one trace (see `TraceStore.get_trace`)."""

    def spans(self, query: SpanQuery = EVERY_SPAN, *, payloads: bool = False) -> Generator[Span, None, None]:
        """Yield the spans a query asks for (see `TraceStore.spans`)."""

    def traces(self, limit: int | None = None) -> list[TraceSummary]:
        """Return summaries, newest first (see `TraceStore.traces`)."""

    def find(self, reference: str) -> str:
        """Return the trace id that `reference` means (see `TraceStore.find`)."""


class TraceStore(TraceReader, Protocol):
    """Keeps spans by trace."""

    def apply(self, batch: Batch) -> None:
        """Store the rows of `batch`, all or none.

        What is stored of a span that has ended stays, and so does what was known at its start. An end or a chunk whose
        span is not known is dropped: nothing tells which trace it belongs to.

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

    def spans(self, query: SpanQuery = EVERY_SPAN, *, payloads: bool = False) -> Generator[Span, None, None]:
        """Yield the spans that meet `query`, in the order they started, as they were when the first was asked for.

        They are read one by one, however many there are. Writers are not held up meanwhile. Close the iterator
        (``close()``, or let go of it) to end early.

        Args:
            query: which.
            payloads: whether to read their payloads. Without, `Span.input`, chunks and values are left out, and the
                payload of a failure is a stand-in that says so.

        Raises:
            StoreError: they cannot be read; raised while iterating.
        """

    def traces(self, limit: int | None = None) -> list[TraceSummary]:
        """Return summaries without reading payloads, the newest trace first.

        A trace is as new as the first span in it that no span of its own process is above. One of which no such span
        is stored (its start was dropped) comes after all others.

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

    def forget(self, trace_id: str) -> Erased:
        """Erase a trace: its spans, their payloads where no other trace refers to them, their words in an index.

        What a process that is still at it records of the trace from now on is stored again.

        Args:
            trace_id: the whole id, 32 hex digits.

        Raises:
            TraceNotFoundError: there is none.
            StoreError: nothing was erased; or all was, and the room cannot be given back now.
        """

    def collect(self, older_than_ns: int, *, keep_failed: bool = False, dry_run: bool = False) -> Collected:
        """Erase whole traces that are old, and what nobody refers to any more.

        Args:
            older_than_ns: traces of which nothing started or ended at this time (nanoseconds since the epoch) or later.
            keep_failed: leave traces that have a failed or interrupted span.
            dry_run: erase nothing, only tell.

        Raises:
            StoreError: nothing was erased; or all was, and the room cannot be given back now.
        """

    def close(self) -> None:
        """Let go of files and connections. A closed store opens itself again when it is used."""


MOST_LISTED = 5


def chosen(reference: str, found: Sequence[str], *, empty: bool) -> str:
    """Return the one trace that a reference means, or say why there is none (see `TraceStore.find`).

    Args:
        reference: what was asked for.
        found: the trace ids it fits; more than `MOST_LISTED` + 1 need not be looked for.
        empty: whether the store has no trace at all.

    Raises:
        TraceNotFoundError: `found` is not exactly one.
    """
    if len(found) == 1:
        return found[0]
    if found:
        number = str(len(found)) if len(found) <= MOST_LISTED else f"more than {MOST_LISTED}"
        listed = ", ".join(trace_id for trace_id in found[:MOST_LISTED])
        raise TraceNotFoundError(f"{reference!r} is the beginning of {number} traces ({listed}); give more digits")
    if empty:
        raise TraceNotFoundError(
            "no trace is recorded here yet; run an agent with a decorated call, or give --home or --db"
        )
    raise TraceNotFoundError(f"no trace begins with {reference!r}; 'clearstone traces' lists what is there")
