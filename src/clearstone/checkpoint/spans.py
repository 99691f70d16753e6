"""The spans of a trace as two sections of a checkpoint: a JSON table, and the payloads one after the other.

Idea: the rows are those of a store (`clearstone.store.base.Batch`), with each payload as where it lies:
``[form, offset, length, name]``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clearstone.codec import payload
from clearstone.span import Chunk, Span, Trace
from clearstone.store import rows
from clearstone.store.batch import SiteRow, SpanRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clearstone.span import Payload

_PAYLOADS = 4


class _Pile:
    """Payloads one after the other."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._size = 0

    def place(self, given: Payload | None) -> list[Any] | None:
        if given is None:
            return None
        form, data = payload.to_raw(given)
        self.parts.append(data)
        self._size += len(data)
        return [form, self._size - len(data), len(data), given.name.hex()]


def pack(trace: Trace) -> tuple[bytes, bytes]:
    """Return the table and the payloads of a trace."""
    batch, pile = rows.batch_of(trace), _Pile()
    table = [_packed(row, span, pile) for row, span in zip(batch.spans, trace, strict=True)]
    return json.dumps({"sites": batch.sites, "spans": table}).encode(), b"".join(pile.parts)


def _packed(row: SpanRow, span: Span, pile: _Pile) -> dict[str, Any]:
    plain = row._replace(trace_id=row.trace_id.hex(), input=None, output=None, error=None, effects=None)  # type: ignore[arg-type]
    return {
        "row": plain[:-_PAYLOADS],
        "payloads": [pile.place(each) for each in span.values],
        "chunks": [[each.at_ns, pile.place(each.value)] for each in span.chunks],
        "observed_ns": span.observed_ns,
        "interrupted": span.interrupted,
    }


def unpack(trace_id: str, table: bytes, payloads: bytes) -> Trace:
    """Return the trace of a table and its payloads.

    Raises:
        KeyError, TypeError, ValueError: they are not a trace's.
    """
    held = json.loads(table)
    sites = [SiteRow(*site) for site in held["sites"]]
    return Trace(trace_id, tuple(_unpacked(each, sites, payloads) for each in held["spans"]))


def _unpacked(held: Mapping[str, Any], sites: list[SiteRow], payloads: bytes) -> Span:
    row = SpanRow(*held["row"], *(None,) * _PAYLOADS)
    row = row._replace(trace_id=bytes.fromhex(row.trace_id))  # type: ignore[arg-type]  # text in JSON
    given = rows.Payloads(*(_taken(each, payloads) for each in held["payloads"]))
    chunks = [Chunk(at_ns, _taken(each, payloads)) for at_ns, each in held["chunks"]]  # type: ignore[arg-type]
    span = rows.span_of(row, sites[row.site], given, chunks, interrupted=held["interrupted"])
    return replace(span, observed_ns=held["observed_ns"])


def _taken(place: list[Any] | None, payloads: bytes) -> Payload | None:
    if place is None:
        return None
    form, offset, length, name = place
    return payload.of_raw(form, payloads[offset : offset + length], bytes.fromhex(name))
