"""Records of a journal as rows for the store.

Idea: a span that starts and ends among the same records is one row. One that is still open is a row without an end; its
end is a row of its own in a later batch. So nothing is remembered between batches but what the site numbers mean.

Invariant: the same records give the same rows, and applying them again changes nothing (see `TraceStore.apply`); that
is what makes recovery after any death safe.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from clearstone.errors import UnstorableSpanError
from clearstone.record import faults, layout
from clearstone.record.layout import Chunk, End, SiteDefinition, Start
from clearstone.store.base import Batch, ChunkRow, EndRow, SiteRow, SpanRow
from clearstone.store.rows import ended

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clearstone.store.base import ProcessRow, RawPayload, TraceStore

UNKNOWN_SITE = SiteRow("", "?", "", "run", "INTERNAL", "", "")
"""Where the definition of a site number is lost."""

NOT_FAILED = (None, None, None, None)
COMPLETE = True

HOPELESS = (UnstorableSpanError, ValueError, TypeError, LookupError, RecursionError)
"""What is raised again at the next attempt: by a store for a row it cannot take, by us for a record we cannot read."""


def store_records(store: TraceStore, assembler: Assembler, records: list[bytes]) -> None:
    """Apply records as one batch; one that cannot be stored costs itself alone, which is counted and said.

    Args:
        store: where they go.
        assembler: of the process that wrote them.
        records: in the order it wrote them.

    Raises:
        Exception: whatever else `store` raises: it takes nothing now. A part may be stored.
    """
    try:
        store.apply(assembler.batch(records))
    except HOPELESS as error:
        if len(records) == 1:
            faults.report("storing a record", error)
            return
        for record in records:
            store_records(store, assembler, [record])


class Assembler:
    """Makes batches of one process's records.

    Args:
        process: whose they are.
        trusted: whether this machine wrote them (see `clearstone.store.base.Batch`).
    """

    def __init__(self, process: ProcessRow, *, trusted: bool = True) -> None:
        self.process = process
        self.trusted = trusted
        self._sites: dict[int, SiteRow] = {}

    def batch(self, records: Iterable[bytes]) -> Batch:
        """Return the rows of `records`.

        Raises:
            ValueError: one of them cannot be read.
        """
        making = _Making(self._sites)
        for record in records:
            making.take(layout.read(record))
        return making.batch(self.process, self.trusted)


class _Making:
    """One batch in the making."""

    def __init__(self, sites: dict[int, SiteRow]) -> None:
        self._known = sites
        self._indexes: dict[int | SiteRow, int] = {}
        self._sites: list[SiteRow] = []
        self._open: dict[int, Start] = {}
        self._spans: list[SpanRow] = []
        self._ends: list[EndRow] = []
        self._chunks: list[ChunkRow] = []

    def take(self, record: layout.Record) -> None:
        kind = type(record)
        if kind is Start:
            self._open[record.span] = record  # type: ignore[union-attr, assignment]  # a Start it is
        elif kind is End:
            self._end(record)  # type: ignore[arg-type]  # an End
        elif kind is Chunk:
            self._chunks.append(ChunkRow(*record))
        elif kind is SiteDefinition:
            self._known[record.number] = record.row  # type: ignore[union-attr]  # a SiteDefinition

    def _end(self, end: End) -> None:
        start = self._open.pop(end.span, None)
        if start is None:
            self._ends.append(_end_row(end))
        elif start.parts or end.parts:
            self._spans.append(self._span(start, end))
        else:
            self._spans.append(self._plain_span(start, end))

    def batch(self, process: ProcessRow, trusted: bool) -> Batch:
        still_open = [self._span(start, None) for start in self._open.values()]
        return Batch(process, self._sites, [*self._spans, *still_open], self._ends, self._chunks, trusted)

    def _span(self, start: Start, end: End | None) -> SpanRow:
        site = self._indexes.get(start.site) if start.site else None
        if site is None:
            site = self._site(start)
        parts = start.parts
        instance = layout.text_of(parts[layout.INSTANCE]) if layout.INSTANCE in parts else None
        attributes = _text(parts, layout.ATTRIBUTES)
        row = SpanRow(
            start.span, start.trace, start.parent or None, site, start.top, start.start_ns, start.order, instance,
            None, "UNSET", "", None, COMPLETE, attributes, None, *NOT_FAILED, start.input, None, None, None,
        )  # fmt: skip
        return row if end is None else ended(row, _end_row(end))

    def _plain_span(self, start: Start, end: End) -> SpanRow:
        """Return what `_span` does, for the most of spans: those with nothing but an input and an output."""
        span, parent, trace, site, top, start_ns, order, given, _ = start
        _, end_ns, outcome, complete, status, gave, _ = end
        index = self._indexes.get(site)
        if index is None:
            index = self._site(start)
        return tuple.__new__(
            SpanRow,
            (span, trace, parent or None, index, top, start_ns, order, None, end_ns, status, "", outcome, complete,
             None, None, None, None, None, None, given, gave, None, None),
        )  # fmt: skip

    def _site(self, start: Start) -> int:
        if start.site:
            row = self._known.get(start.site, UNKNOWN_SITE)
        else:
            row = SiteRow(*json.loads(layout.text_of(start.parts[layout.NAMED_SITE])))
        key = start.site or row
        index = self._indexes.get(key)
        if index is None:
            index = self._indexes[key] = len(self._sites)
            self._sites.append(row)
        return index


def _end_row(end: End) -> EndRow:
    span, end_ns, outcome, complete, status, output, parts = end
    if not parts:
        return EndRow(span, end_ns, status, "", outcome, complete, None, None, None, None, None, None, output)
    status_text = _text(parts, layout.STATUS_TEXT) or ""
    failure = _failure(parts[layout.FAILURE]) if layout.FAILURE in parts else NOT_FAILED
    error, effects = parts.get(layout.ERROR), parts.get(layout.EFFECTS)
    attributes, events = _text(parts, layout.ATTRIBUTES), _text(parts, layout.EVENTS)
    kind, message, trace, place = failure
    return EndRow(
        span, end_ns, status, status_text, outcome, complete, attributes, events, kind, message, trace, place,
        output, error, effects, parts.get(layout.INPUT),
    )  # fmt: skip


def _failure(part: RawPayload) -> tuple[str, str, str, str]:
    """JSON escapes half a surrogate pair, which is no valid UTF-8 once it is read."""
    kind, message, trace, place = (
        text.encode("utf-8", "backslashreplace").decode() for text in json.loads(layout.text_of(part))
    )
    return kind, message, trace, place


def _text(parts: dict[int, RawPayload], role: int) -> str | None:
    return layout.text_of(parts[role]) if role in parts else None
