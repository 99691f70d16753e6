"""Records of a journal as rows for the store.

Idea: a span that starts and ends among the same records is one row. One that is still open is a row without an end; its
end is a row of its own in a later batch. So nothing is remembered between batches but what the site numbers mean.

Invariant: the same records give the same rows, and applying them again changes nothing (see `TraceStore.apply`); that
is what makes recovery after any death safe.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, cast

from clearstone.errors import UnstorableSpanError
from clearstone.record import faults, layout
from clearstone.record.layout import END_KIND, NOTHING, START_KIND, TOP, Chunk, End, Start
from clearstone.store.batch import Batch, ChunkRow, EndRow, RawPayload, SiteRow, SpanRow
from clearstone.store.rows import ended

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clearstone.store.base import TraceStore
    from clearstone.store.batch import ProcessRow

UNKNOWN_SITE = SiteRow("", "?", "", "run", "INTERNAL", "", "")
"""Where the definition of a site number is lost."""

NOT_FAILED = (None, None, None, None)
COMPLETE = True

RETURNED = layout.OUTCOMES.index("returned")

unpack_start, unpack_end = layout.START.unpack_from, layout.END.unpack_from
START_SIZE, END_SIZE = layout.START.size, layout.END.size
new = tuple.__new__  # half the cost of calling a NamedTuple's class

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
        making.take_all(records)
        return making.batch(self.process, self.trusted)


class _Making:
    """One batch in the making."""

    def __init__(self, sites: dict[int, SiteRow]) -> None:
        self._known = sites
        self._indexes: dict[int | SiteRow, int] = {}
        self._sites: list[SiteRow] = []
        self._open: dict[int, Start] = {}
        self._plain: dict[int, tuple[tuple[Any, ...], bytes]] = {}  # likewise, as fields of `layout.START` and record
        self._spans: list[SpanRow] = []
        self._ends: list[EndRow] = []
        self._chunks: list[ChunkRow] = []

    def take_all(self, records: Iterable[bytes]) -> None:
        """Take records; the most of spans (nothing but an input and an output) in few steps, all others as they are.

        Raises:
            ValueError: one of them cannot be read.
        """
        plain, indexes, spans = self._plain, self._indexes, self._spans
        for record in records:
            try:
                if record[0] == START_KIND:
                    start = unpack_start(record)
                    if START_SIZE + start[8] == len(record) and start[1] != NOTHING and start[3]:
                        plain[start[4]] = start, record
                        continue
                elif record[0] == END_KIND:
                    _, form, outcome, status, span, end_ns, size = unpack_end(record)
                    if (
                        span in plain
                        and END_SIZE + size == len(record)
                        and form != NOTHING
                        and outcome == RETURNED
                        and not status
                    ):
                        (_, given, flags, site, _, parent, trace, start_ns, _), began = plain.pop(span)
                        index = indexes.get(site)
                        if index is None:
                            index = self._index(site, self._known.get(site, UNKNOWN_SITE))
                        spans.append(
                            new(SpanRow, (
                                span, trace, parent or None, index, flags & TOP, start_ns, span & 0xFFFFFFFF, None,
                                end_ns, "UNSET", "", "returned", COMPLETE, None, None, None, None, None, None,
                                new(RawPayload, (given, began[START_SIZE:])),
                                new(RawPayload, (form, record[END_SIZE:])),
                                None, None,
                            ))
                        )  # fmt: skip
                        continue
            except (struct.error, IndexError):
                pass  # `layout.read` says what is wrong with it
            self.take(layout.read(record))

    def take(self, record: layout.Record) -> None:
        """Take one record."""
        if isinstance(record, Start):
            self._open[record.span] = record
        elif isinstance(record, End):
            start = self._begun(record.span)
            if start is None:
                self._ends.append(_end_row(record))
            else:
                self._spans.append(self._span(start, record))
        elif isinstance(record, Chunk):
            self._chunks.append(ChunkRow(*record))
        else:
            self._known[record.number] = record.row

    def _begun(self, span: int) -> Start | None:
        """Give out the start of a span, if it is among these records."""
        plain = self._plain.pop(span, None)
        return self._open.pop(span, None) if plain is None else cast("Start", layout.read(plain[1]))

    def batch(self, process: ProcessRow, trusted: bool) -> Batch:
        """Return the rows of what was taken."""
        left = [*self._open.values(), *(cast("Start", layout.read(record)) for _, record in self._plain.values())]
        still_open = [self._span(start, None) for start in left]
        return Batch(process, self._sites, [*self._spans, *still_open], self._ends, self._chunks, trusted)

    def _span(self, start: Start, end: End | None) -> SpanRow:
        site = self._indexes.get(start.site) if start.site else None
        if site is None and start.site:
            site = self._index(start.site, self._known.get(start.site, UNKNOWN_SITE))
        elif site is None:
            named = SiteRow(*json.loads(layout.text_of(start.parts[layout.NAMED_SITE])))
            site = self._index(named, named)
        parts = start.parts
        instance = layout.text_of(parts[layout.INSTANCE]) if layout.INSTANCE in parts else None
        attributes = _text(parts, layout.ATTRIBUTES)
        row = SpanRow(
            start.span, start.trace, start.parent or None, site, start.top, start.start_ns, start.order, instance,
            None, "UNSET", "", None, COMPLETE, attributes, None, *NOT_FAILED, start.input, None, None, None,
        )  # fmt: skip
        return row if end is None else ended(row, _end_row(end))

    def _index(self, key: int | SiteRow, row: SiteRow) -> int:
        """Return the place of a site among the batch's."""
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
