"""The spans of a trace as two sections of a checkpoint: a JSON table, and the payloads one after the other.

Idea: the rows are those of a store (`clearstone.store.base.Batch`), with each payload as where it lies:
``[form, offset, length, name]``. The places that made the calls stand beside the sites: an earlier version passes over
them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from clearstone.codec import payload
from clearstone.codec.spilled import Spill, placed
from clearstone.span import Chunk, Span, Trace
from clearstone.store import rows
from clearstone.store.batch import SiteRow, SpanRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clearstone.span import Payload

_PAYLOADS, _OF_SITE = 4, SiteRow._fields.index("called_at")


class _Pile:
    """Payloads one after the other, equal ones once: a conversation is passed again and again."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._size = 0
        self._begins: dict[bytes, int] = {}

    def place(self, given: Payload | None) -> list[Any] | None:
        if given is None:
            return None
        form, data = payload.to_raw(given)
        begin = self._begins.setdefault(data, self._size)
        if begin == self._size and data:
            self.parts.append(data)
            self._size += len(data)
        return [form, begin, len(data), given.name.hex()]


def pack(trace: Trace) -> tuple[bytes, bytes]:
    """Return the table and the payloads of a trace."""
    batch, pile = rows.batch_of(trace), _Pile()
    table = [_packed(row, span, pile) for row, span in zip(batch.spans, trace, strict=True)]
    held = {
        "sites": [site[:_OF_SITE] for site in batch.sites],
        "called_at": [site.called_at for site in batch.sites],
        "spans": table,
    }
    return json.dumps(held).encode(), b"".join(pile.parts)


def _packed(row: SpanRow, span: Span, pile: _Pile) -> dict[str, Any]:
    plain = row._replace(trace_id=row.trace_id.hex(), input=None, output=None, error=None, effects=None)  # type: ignore[arg-type]
    return {
        "row": plain[:-_PAYLOADS],
        "payloads": [pile.place(each) for each in span.values],
        "chunks": [[each.at_ns, pile.place(each.value)] for each in span.chunks],
        "observed_ns": span.observed_ns,
        "interrupted": span.interrupted,
    }


def unpack(trace_id: str, table: bytes, payloads: bytes | Spill) -> Trace:
    """Return the trace of a table and its payloads.

    Raises:
        KeyError, TypeError, ValueError: they are not a trace's.
    """
    held = json.loads(table)
    sites, taken = [SiteRow(*site) for site in held["sites"]], _Taken(payloads)
    if "called_at" in held:
        sites = [site._replace(called_at=line) for site, line in zip(sites, held["called_at"], strict=True)]
    return Trace(trace_id, tuple(_unpacked(each, sites, taken) for each in held["spans"]))


def _unpacked(held: Mapping[str, Any], sites: list[SiteRow], taken: _Taken) -> Span:
    row = SpanRow(*held["row"], *(None,) * _PAYLOADS)
    row = row._replace(trace_id=bytes.fromhex(row.trace_id))  # type: ignore[arg-type]  # text in JSON
    given = rows.Payloads(*map(taken.at, held["payloads"]))
    chunks = [Chunk(at_ns, taken.at(each)) for at_ns, each in held["chunks"]]  # type: ignore[arg-type]
    told = {"interrupted": held["interrupted"], "observed_ns": held["observed_ns"]}
    return rows.span_of(row, sites[row.site], given, chunks, **told)


class _Taken:
    """Payloads out of a pile: one that stands for several is one object."""

    def __init__(self, payloads: bytes | Spill) -> None:
        self._payloads = payloads
        self._known: dict[tuple[Any, ...], Payload] = {}

    def at(self, place: list[Any] | None) -> Payload | None:
        if place is None:
            return None
        found = self._known.get(key := tuple(place))
        if found is None:
            form, offset, length, name = place
            found = self._known[key] = self._made(form, offset, length, bytes.fromhex(name))
        return found

    def _made(self, form: int, offset: int, length: int, name: bytes) -> Payload:
        if isinstance(self._payloads, Spill):
            return placed(form, name, self._payloads, offset, length)
        return payload.of_raw(form, self._payloads[offset : offset + length], name)
