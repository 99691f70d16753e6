"""What stands above a span besides an open one: a span of another process, and what is left of one that ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clearstone.record import identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearstone import run
    from clearstone.record.live_span import LiveSpan


class Identified:
    """What has a trace id of 16 bytes and a span id as a number, and tells both as hex."""

    trace: bytes
    number: int

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return self.trace.hex()

    @property
    def span_id(self) -> str:
        """16 hex digits."""
        return identity.hex_of(self.number)


class RemoteSpan(Identified):
    """A span of another process that spans of this one belong below.

    Args:
        trace: its trace id, 16 bytes.
        number: its span id, as a number.
        recording: gives the Run that records calls below it; asked at each.
        ticket: what it was made by.
    """

    root = parent = end_ns = site = None
    in_boundary = False
    inherited = True

    def __init__(self, trace: bytes, number: int, recording: Callable[[], run.Run], ticket: run.Ticket) -> None:
        self.trace = trace
        self.number = number
        self._recording = recording
        self._ticket = ticket

    @property
    def recording(self) -> run.Run:
        """The Run that records calls below it."""
        return self._recording()

    def draws(self) -> None:
        """No replay comes to what is drawn in another process."""

    def ticket(self) -> run.Ticket:
        """Return what gives it in another process."""
        return self._ticket


class Above:
    """What is left of an ended span that an ended span was below: callbacks that schedule the next would keep them all.

    Args:
        span: the ended span.
    """

    __slots__ = ("inherited", "number", "parent")
    end_ns = 0
    site = None

    def __init__(self, span: Any) -> None:
        self.number = span.number
        self.inherited = span.inherited
        above = span.parent
        while above is not None and not is_open_boundary(above):
            above = above.parent
        self.parent = above


def is_open_boundary(span: Any) -> bool:
    """Whether `span` is a boundary that has not ended."""
    return span.site is not None and span.site.boundary and span.end_ns is None


def shorten(span: LiveSpan | RemoteSpan) -> None:
    """Leave of what ended above an ended `span` only what is still asked for."""
    if span.parent is not None and span.parent.end_ns is not None and type(span.parent) is not Above:
        span.parent = Above(span.parent)
