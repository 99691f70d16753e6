"""How starts and ends are packed, right into the journal.

Idea: one call in C writes the length, the fields, the payload and the state, in this order, to a place in the segment
that was reserved for it; putting bytes together and copying them would cost three. The first four fields are one number
here, their head, which is the same for most calls of a site.

Invariant: what is packed is what `layout` reads (see `layout.START` and `layout.END`).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from clearstone.record.layout import END_KIND, OUTCOMES, START_KIND, space

if TYPE_CHECKING:
    from collections.abc import Callable

START, END = Struct("<QQQ16sqI"), Struct("<IQqI")
pack_start, pack_end = START.pack, END.pack
"""The beginning of a start takes its head, the span's number, that of the span above it (0 for none), the trace, the
time and the size of the payload that follows; that of an end its head, number, time and size."""

RETURNED = END_KIND | OUTCOMES.index("returned") << 16
"""The head of the end of a call that returned; the form of what it returned belongs at bit 8."""

MOST = 2000
"""So many sizes are remembered; past it they are forgotten at once."""

Packing = tuple["Callable[..., None]", int, int]
"""What packs a record, the record's length, and the room it takes."""


class Packings(dict[int, Packing]):
    """What packs records of one kind, by how many bytes follow their fields: a payload, and parts.

    What packs takes the segment's bytes and a place in them, the record's length, the head, the rest of the fields, the
    bytes that follow, and `layout.PUBLISHED`.

    Args:
        fields: the record's.
    """

    def __init__(self, fields: Struct) -> None:
        super().__init__()
        self._fields = fields

    def __missing__(self, size: int) -> Packing:
        length = self._fields.size + size
        if len(self) >= MOST:
            self.clear()
        made = self[size] = Struct(f"<I{self._fields.format[1:]}{size}sB").pack_into, length, space(length)
        return made


STARTS, ENDS = Packings(START), Packings(END)


def start_head(site: int, flags: int = 0) -> int:
    """Return the head of a start; the form of its payload belongs at bit 8, further flags at bit 16.

    Args:
        site: the site's number.
        flags: see `layout.TOP`.
    """
    return START_KIND | flags << 16 | site << 32
