"""How starts and ends are packed, those with few bytes of payload right into the journal.

Idea: most arguments and results are small. One call in C then writes the length, the fields, the payload and the state,
in this order, to a place in the segment that was reserved for it; putting bytes together and copying them would cost
three. The first four fields are one number here, their head, which is the same for most calls of a site.

Invariant: what is packed is what `layout` reads (see `layout.START` and `layout.END`).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from clearstone.record.layout import END_KIND, OUTCOMES, START_KIND, space

if TYPE_CHECKING:
    from collections.abc import Callable

FEW = 128
"""Bytes of a payload; fewer are packed in place."""

START, END = Struct("<QQQ16sqI"), Struct("<IQqI")
pack_start, pack_end = START.pack, END.pack
"""The beginning of a start takes its head, the span's number, that of the span above it (0 for none), the trace, the
time and the size of the payload that follows; that of an end its head, number, time and size."""

RETURNED = END_KIND | OUTCOMES.index("returned") << 16
"""The head of the end of a call that returned; the form of what it returned belongs at bit 8."""

Packing = tuple["Callable[..., None]", int, int]
"""What packs a record, the record's length, and the room it takes."""


def _by_size(head: Struct) -> tuple[Packing, ...]:
    made = ((Struct(f"<I{head.format[1:]}{size}sB").pack_into, head.size + size) for size in range(FEW))
    return tuple((pack, length, space(length)) for pack, length in made)


STARTS, ENDS = _by_size(START), _by_size(END)
"""By the size of the payload. What packs takes the segment's bytes and a place in them, the record's length, the head,
the rest of the fields, the payload and `layout.PUBLISHED`."""


def start_head(site: int, flags: int = 0) -> int:
    """Return the head of a start; the form of its payload belongs at bit 8, further flags at bit 16.

    Args:
        site: the site's number.
        flags: see `layout.TOP`.
    """
    return START_KIND | flags << 16 | site << 32
