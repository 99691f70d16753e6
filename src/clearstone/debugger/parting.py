"""Where two runs part: pure comparison of two sequences of executed lines.

Idea: both are read side by side. Where the same line gave something else, the values part; where another line follows,
the ways part, and both are read on to where they meet again: the nearest place at which some lines are the same.

Invariant: at most `WINDOW` lines of each are in memory. Equal blocks are passed over unread.

Refused: `difflib` over all lines (quadratic, and in memory); stopping at the first difference (it is often harmless,
and hides the one that is not).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from clearstone.debugger.events import Code, Event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.debugger.events import Block, Log

WINDOW = 2_000
"""Lines after a fork of the ways in which they are looked for where they meet."""

ALIKE = 3
"""So many lines must be the same for two ways to meet."""

MOST_PLACES = 500
MOST_VALUES = 1_000

Kind = Literal["value", "way", "alone"]

_END = Event("", 0, "")


@dataclass(slots=True)
class Parting:
    """A place where two runs part, and how they first did there.

    Args:
        kind: ``"value"``: the line gave other values; ``"way"``: another line came after it; ``"alone"``: what begins
            there (a thread, a task) was started by one of them alone.
        code: the function it is in.
        line: the line.
        sequence: which thread or task, by who started it; of the first time.
        one: what the first run did: the values, or the line that came next; empty for nothing.
        other: what the other did.
        number: when, among the lines of a run.
        times: how often they part there.
    """

    kind: Kind
    code: Code
    line: int
    sequence: str
    one: str
    other: str
    number: int
    times: int = 1
    _values: tuple[set[str], set[str]] = field(default_factory=lambda: (set(), set()), repr=False)

    @property
    def is_another_order(self) -> bool:
        """Whether both runs had the same values there, one after another in other orders."""
        one, other = self._values
        return self.kind == "value" and self.times > 1 and one == other

    def again(self, one: str, other: str) -> None:
        """Take note of what both did another time."""
        for values, each in zip(self._values, (one, other), strict=True):
            if len(values) < MOST_VALUES:
                values.add(each)


def partings(one: Log, other: Log) -> list[Parting]:
    """Return where two runs part, in the order in which they first did; at most `MOST_PLACES` places.

    Args:
        one: the first run.
        other: the second. Where one of them is not complete, its end is no parting.
    """
    found: dict[tuple[Kind, Code, int], Parting] = {}
    codes, are_complete = {**other.codes, **one.codes}, one.complete and other.complete
    for name in dict.fromkeys([*one.sequences, *other.sequences]):
        for kind, place, left, right in _compared(one.blocks(name), other.blocks(name)):
            if _END.code in {left.code, right.code} and not are_complete:
                break
            told = _told(kind, codes, left, right)
            key = kind, codes[place.code], place.line
            met = found.get(key)
            if met is None and len(found) < MOST_PLACES:
                met = found[key] = Parting(*key, name, *told, place.number, 0)
            if met is not None:
                met.times += 1
                met.again(*told)
    return sorted(found.values(), key=lambda each: each.number)


def _told(kind: Kind, codes: dict[str, Code], left: Event, right: Event) -> tuple[str, str]:
    if kind == "value":
        return left.told, right.told
    return _next(codes, left), _next(codes, right)


def _next(codes: dict[str, Code], event: Event) -> str:
    if event.code not in codes:
        return "nothing more"
    code = codes[event.code]
    return f"line {event.line} of {code.function}"


def _compared(one: Iterator[Block], other: Iterator[Block]) -> Iterator[tuple[Kind, Event, Event, Event]]:
    """Give the partings of one sequence: what kind, where, and what both did."""
    left, right = _Ahead(one), _Ahead(other)
    before: Event | None = None
    while True:
        _pass_equal(left, right)
        a, b = left.first(), right.first()
        if a is _END and b is _END:
            return
        if a[:2] == b[:2]:
            if a.told != b.told:
                yield "value", a, a, b
            before = a
            left.drop(1)
            right.drop(1)
            continue
        is_alone = before is None and _END in {a, b}
        before = _real(a, b) if before is None else before
        yield "alone" if is_alone else "way", before, a, b
        meeting = _meeting(left.window(), right.window())
        if is_alone or meeting is None:
            return
        left.drop(meeting[0])
        right.drop(meeting[1])


def _real(one: Event, other: Event) -> Event:
    return other if one is _END else one


def _meeting(one: list[Event], other: list[Event]) -> tuple[int, int] | None:
    """Return how many lines of each to skip to where they meet, the fewest together; None where they do not."""
    places: dict[tuple[tuple[str, int], ...], int] = {}
    for at, gram in enumerate(_grams(other)):
        places.setdefault(gram, at)
    best: tuple[int, int] | None = None
    for at, gram in enumerate(_grams(one)):
        if best is not None and at >= sum(best):
            break
        there = places.get(gram)
        if there is not None and (best is None or at + there < sum(best)):
            best = at, there
    return best


def _grams(events: list[Event]) -> Iterator[tuple[tuple[str, int], ...]]:
    lines = [(each.code, each.line) for each in events]
    for at in range(len(lines)):
        gram = tuple(lines[at : at + ALIKE])
        if len(gram) == ALIKE or gram[-1] == (_END.code, _END.line):
            yield gram


def _pass_equal(left: _Ahead, right: _Ahead) -> None:
    """Pass over what is equal as a whole."""
    while left.is_between_blocks and right.is_between_blocks:
        one, other = left.block(), right.block()
        if one is None or other is None or one.text != other.text:
            return
        left.skip()
        right.skip()


class _Ahead:
    """A sequence that can be looked ahead in. After its last line comes `_END`, for ever."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self._blocks = blocks
        self._waiting: deque[Block] = deque()
        self._events: deque[Event] = deque()

    @property
    def is_between_blocks(self) -> bool:
        return not self._events

    def block(self) -> Block | None:
        """Return the next block that is not read."""
        if not self._waiting:
            self._waiting.extend(block for block in [next(self._blocks, None)] if block is not None)
        return self._waiting[0] if self._waiting else None

    def skip(self) -> None:
        self._waiting.popleft()

    def first(self) -> Event:
        return self._events[0] if self._read(1) else _END

    def window(self) -> list[Event]:
        if self._read(WINDOW):
            return [self._events[at] for at in range(WINDOW)]
        return [*self._events, _END]

    def drop(self, count: int) -> None:
        for _ in range(min(count, len(self._events))):
            self._events.popleft()

    def _read(self, count: int) -> bool:
        """Read so many lines ahead; return whether there are as many."""
        while len(self._events) < count:
            block = self.block()
            if block is None:
                return False
            self._events.extend(block.events())
            self.skip()
        return True
