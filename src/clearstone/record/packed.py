"""Starts and ends of spans as the journal keeps them.

Idea: most arguments and results are small. A start or an end with few bytes of them is packed right into its reserved
place, by one call in C that writes its length first and its state last; a longer one is put together and appended.

Invariant: as `Journal.append`'s: the place is reserved by one statement, and a record is whole or not there.
"""

from __future__ import annotations

import functools
from struct import Struct
from typing import TYPE_CHECKING

from clearstone.record.layout import END, END_KIND, PUBLISHED, START, START_KIND, space

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearstone.record.journal import Journal

FEW = 128
"""Bytes of a payload; fewer are packed in place."""


def starts(journal: Journal) -> Callable[..., None]:
    """Return a function that appends a start to `journal`.

    Its arguments are those of `layout.START` without its kind, with the payload in place of the payload's size, and
    then, where there is more to say, parts as `layout.part` makes them.
    """
    in_place = _in_place(START)

    def start(  # noqa: PLR0917 - by position: on the way of every call
        form: int, flags: int, site: int, span: int, parent: int, trace: bytes, start_ns: int, data: bytes,
        parts: bytes = b"",
    ) -> None:  # fmt: skip
        size = len(data)
        if size < FEW and not parts:
            pack, length, room = in_place[size]
            segment, fits = journal.segment, False
            try:  # as in `Journal.append`
                segment.at = after if (fits := (after := (at := segment.at) + room) <= segment.direct) else at
                if fits:
                    pack(
                        segment.data, at, length, START_KIND, form, flags, site, span, parent, trace, start_ns, size,
                        data, PUBLISHED,
                    )  # fmt: skip
            except BaseException:
                if fits:
                    segment.give_up(at, length)
                raise
            if fits:
                if journal.parked:
                    journal.wake()
                return
        journal.append(START.pack(START_KIND, form, flags, site, span, parent, trace, start_ns, size) + data + parts)

    return start


def ends(journal: Journal) -> Callable[..., None]:
    """Return a function that appends an end to `journal`; its arguments are those of `layout.END`, as above."""
    in_place = _in_place(END)

    def end(  # noqa: PLR0917
        form: int, outcome: int, status: int, span: int, end_ns: int, data: bytes, parts: bytes = b""
    ) -> None:
        size = len(data)
        if size < FEW and not parts:
            pack, length, room = in_place[size]
            segment, fits = journal.segment, False
            try:
                segment.at = after if (fits := (after := (at := segment.at) + room) <= segment.direct) else at
                if fits:
                    pack(
                        segment.data, at, length, END_KIND, form, outcome, status, span, end_ns, size, data, PUBLISHED
                    )  # fmt: skip
            except BaseException:
                if fits:
                    segment.give_up(at, length)
                raise
            if fits:
                if journal.parked:
                    journal.wake()
                return
        journal.append(END.pack(END_KIND, form, outcome, status, span, end_ns, size) + data + parts)

    return end


@functools.cache
def _in_place(head: Struct) -> tuple[tuple[Callable[..., None], int, int], ...]:
    """Return, by the size of a payload: what packs the record's length, `head`, payload and state; length and space."""
    made = ((Struct(f"<I{head.format[1:]}{size}sB").pack_into, head.size + size) for size in range(FEW))
    return tuple((pack, length, space(length)) for pack, length in made)
