"""The long lists and dicts of a state, cut into parts, and which of the parts have the items they had.

Idea: a container is one column of items (a list) or two (a dict: keys and values), and a part is a range of them. The
columns are kept as they were. What is in front of the first difference stays; behind it a part goes on where its first
item is found again, so that an insertion or a deletion cuts one part anew and not all that follow.

Invariant: an item is the same if it is the same object. Only where `Container.update` is told to look less closely, and
nothing but plain builtins was seen in a container, it asks the lists for ``==``, which passes over identical items at
half a nanosecond each without touching them. Then an item that was replaced by an equal one (a copy; ``True`` for
``1``) is taken for the same until its part has its turn (`Container.look_again`). Where any other kind of object was
seen, deep in an item too, identity is asked, item by item: no ``__eq__`` of theirs runs. Only one that takes the very
place of a plain item, before it could be seen, may be asked once.

Refused: reading the pointers of a list, or the version of a dict (CPython's own, and not promised to anyone); finding
insertions by comparing contents.
"""

from __future__ import annotations

import copyreg
from collections import deque
from itertools import chain, takewhile
from operator import is_
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.snapshots import Placed, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clearstone.checkpoint.pickling import Replaced
    from clearstone.checkpoint.snapshots import Kind, Place

SIZE = 64
"""Items of a part; a container of fewer is no container here."""

SMALL = 8

DEEPEST = 2
"""Through so many plain objects containers are looked for, from the state's own values."""

REDUCERS = ("__reduce_ex__", "__reduce__", "__getstate__")

NOWHERE: Place = (-1, -1)
UNWRITTEN = Placed(Segment(b""))

PLAIN_ATOMS = frozenset({str, bytes, int, float, bool, complex, type(None)})
PLAIN = PLAIN_ATOMS | {list, dict, tuple, set, frozenset}
PLAIN_DEPTH = 8
PLAIN_MOST = 1 << 14
"""So deep, and for so many objects at one depth, items are looked at before they count as not plain."""


class Part:
    """A range of a container, while its agent lives: where it is, and what of it belongs to it."""

    __slots__ = (
        "count", "is_flat", "owned", "place", "placed", "segment", "shared", "start", "verified",
    )  # fmt: skip

    def __init__(self, start: int, count: int, place: Place = NOWHERE) -> None:
        self.start = start
        self.count = count
        self.place = place
        self.segment: Segment | None = None
        self.placed = UNWRITTEN  # as in the last snapshot
        self.verified = 0  # the snapshot it was last written for
        self.shared: list[Any] = []  # objects that belong to an earlier part
        self.owned: dict[int, int] = {}  # the ids of its objects, and their numbers in its memo
        self.is_flat = False  # it owns nothing but its items: they are the same if its pickle is


class Container:
    """A long list or dict, and its parts in order.

    Attributes:
        number: which of the state's containers it is.
        parts: all of it, without a gap.
        placed: of each part what it is in the snapshot.
        verified: of each part the step it was last written at.
        anew: those of them that the last `update` cut.
        gone: those that it put others in the place of.
        is_shifted: whether a part stands at another place since then.
    """

    def __init__(self, held: Any) -> None:
        self.held = held
        self.kind: Kind = "list" if type(held) is list else "dict"
        self.number = -1
        self.parts: list[Part] = []
        self.placed: list[Placed] = []
        self.verified: list[int] = []
        self.anew: list[Part] = []
        self.gone: list[Part] = []
        self.is_shifted = False
        self._was: list[list[Any]] = [[] for _ in self._columns()]
        self._now = self._was  # other columns where items were compared by ==
        self._looked_at = 0  # from here on they were compared by identity all the same
        self._is_plain = True  # as far as was seen
        self._unseen: set[Part] = set()

    def reset(self, number: int) -> None:
        """Be the container of that number; what its parts were written as is forgotten."""
        self.number = number
        for index, part in enumerate(self.parts):
            part.place = number, index
            part.segment, part.shared, part.owned = None, [], {}

    def items(self, part: Part) -> list[Any]:
        """Return the items of a part: of a dict as pairs."""
        columns = [each[part.start : part.start + part.count] for each in self._was]
        return columns[0] if self.kind == "list" else list(zip(*columns, strict=True))

    def ids(self, part: Part) -> set[int]:
        """Return the ids of its items: of a dict those of keys and values."""
        return {id(item) for each in self._was for item in each[part.start : part.start + part.count]}

    def note_written(self, part: Part, step: int) -> None:
        """Note that a part was written at a step."""
        part.verified = self.verified[part.place[1]] = step

    def note_placed(self, part: Part, placed: Placed) -> None:
        """Note what a part is in the snapshot."""
        part.placed = self.placed[part.place[1]] = placed

    def newest(self) -> list[Part]:
        """Return the last full part and the small ones after it."""
        return self.parts[-1 - len(_trailing_below(SIZE, self.parts)) :]

    # --- what it is now ----------------------------------------------------------------------------------------------

    def update(self, *, closely: bool) -> None:
        """Cut it as it is now.

        Args:
            closely: whether every item is compared by identity, whatever it is.
        """
        self.anew, self.gone, self.is_shifted = [], [], False
        old, now = len(self.parts) - len(self.newest()), self._columns()
        begin = self.parts[old].start if self.parts else 0
        ends = [each[begin:] for each in self._was]
        for was, column in zip(self._was, now, strict=True):
            was[begin:] = column[begin:]
        by_value = not closely and self._are_plain_before(begin)
        if all(map(_are_equal if by_value else _are_identical, now, self._was)):
            self._now, self._looked_at = now if by_value else self._was, begin
            self._recut(old, begin, ends)
            return
        for was, end in zip(self._was, ends, strict=True):
            was[begin:] = end
        before, self._was = self._was, [list(each) for each in self._columns()]
        self._now = self._was
        self._recut(0, 0, before)

    def look_again(self, part: Part) -> None:
        """Take up the items of a part that were replaced by equal ones."""
        if self._now is self._was or part.start >= self._looked_at:
            return
        begin, end = part.start, part.start + part.count
        for was, now in zip(self._was, self._now, strict=True):
            items = now[begin:end]
            if len(items) == part.count and not all(map(is_, items, was[begin:end])):
                was[begin:end] = items
                part.is_flat = False

    def look_into(self, part: Part) -> None:
        """Note that items of a part were edited: they may not be plain any more."""
        self._unseen.add(part)

    def _columns(self) -> list[list[Any]]:
        if self.kind == "list":
            return [self.held]
        return list(map(list, (self.held, self.held.values())))  # in one call: no other thread is let in between

    def _are_plain_before(self, end: int) -> bool:
        """Whether the items up to `end` are plain builtins all the way down, as far as was seen."""
        seen = [part for part in self._unseen if part.start < end] if self._is_plain else []
        self._unseen.difference_update(seen)
        self._is_plain = self._is_plain and all(are_plain(self.items(part)) for part in seen)
        return self._is_plain

    # --- parts -------------------------------------------------------------------------------------------------------

    def _recut(self, first: int, begin: int, before: list[list[Any]]) -> None:
        """Cut the items from `begin` on; the parts from the one numbered `first` on were of the items in `before`."""
        old = _Old(self.parts[first:], begin, before)
        self._shorten(first)
        done = at = begin
        index, end = 0, len(self._was[0])
        while index < len(old.parts):
            part = old.parts[index]
            if not old.is_at(part, self._was, at):
                at, index = old.next_from(index, self._was, at)
                continue
            if done == at or part.count == SIZE:  # a small one joins what is cut anew in front of it
                self._cut(range(done, at, SIZE), at)
                self._keep(part, at)
                done = at + part.count
            at, index = at + part.count, index + 1
        self._cut_the_end(done, end)
        self.placed += [part.placed for part in self.parts[len(self.placed) :]]
        self.verified += [part.verified for part in self.parts[len(self.verified) :]]
        self.gone = list({*self.gone, *old.parts}.difference(self.parts[first:]))
        self._unseen.update(self.anew)
        self._unseen.difference_update(self.gone)

    def _shorten(self, count: int) -> None:
        del self.parts[count:], self.placed[count:], self.verified[count:]

    def _keep(self, part: Part, start: int) -> None:
        place = self.number, len(self.parts)
        self.is_shifted = self.is_shifted or part.place != place
        part.start, part.place = start, place
        self.parts.append(part)

    def _cut(self, starts: range, end: int) -> None:
        for start in starts:
            part = Part(start, min(SIZE, end - start), (self.number, len(self.parts)))
            self.parts.append(part)
            self.anew.append(part)

    def _cut_the_end(self, at: int, end: int) -> None:
        """Cut what is after the last part; small ones before it make room for a larger one of the same items.

        A new item is in a part of one, then of eight, then of 64: it is written three times, and there are never more
        than seven of each.
        """
        for size in (SIZE, SMALL):
            small = _trailing_below(size, self.parts)
            if end > at and end - at + sum(part.count for part in small) >= size:
                at -= sum(part.count for part in small)
                self._shorten(len(self.parts) - len(small))
                self.anew = [part for part in self.anew if part.start < at]
                self.gone += small
                break
        self._cut(range(at, end, SIZE), end)


class _Old:
    """Parts as they were.

    Args:
        parts: in order.
        begin: where the first one began.
        columns: the items from there on.
    """

    def __init__(self, parts: list[Part], begin: int, columns: list[list[Any]]) -> None:
        self.parts = parts
        self._begin = begin
        self._columns = columns
        self._firsts: dict[int, int] = {}

    def is_at(self, part: Part, now: list[list[Any]], at: int) -> bool:
        """Whether the items of a part are at `at`; it must not have been moved."""
        begin = part.start - self._begin
        return all(
            _are_identical(column[at : at + part.count], was[begin : begin + part.count])
            for was, column in zip(self._columns, now, strict=True)
        )

    def next_from(self, index: int, now: list[list[Any]], at: int) -> tuple[int, int]:
        """Return where a part is found again after `at`, and which, of those from `index` on; else both ends."""
        if not self._firsts:
            numbered = list(enumerate(self.parts))[index:]
            self._firsts = {id(self._columns[0][each.start - self._begin]): n for n, each in reversed(numbered)}
        for place in range(at, len(now[0])):
            found = self._firsts.get(id(now[0][place]), -1)
            if found >= index and self.is_at(self.parts[found], now, place):
                return place, found
        return len(now[0]), len(self.parts)


def _are_identical(now: Sequence[Any], was: Sequence[Any]) -> bool:
    return len(now) == len(was) and all(map(is_, now, was))


def _are_equal(now: list[Any], was: list[Any]) -> bool:
    try:
        return now == was
    except Exception:  # something that is not plain has come in: it is looked at closely
        return False


def are_plain(items: Any) -> bool:
    """Whether items are plain builtins all the way down: to compare them runs nobody's code."""
    level = items
    for _ in range(PLAIN_DEPTH):
        kinds = set(map(type, level))
        if not kinds <= PLAIN or len(level) > PLAIN_MOST:
            return False
        if kinds <= PLAIN_ATOMS:
            return True
        level = [each for item in level if type(item) not in PLAIN_ATOMS for each in _inside(item)]
    return False


def _inside(item: Any) -> Any:
    return chain(item, item.values()) if type(item) is dict else item


def _trailing_below(size: int, parts: list[Part]) -> list[Part]:
    """Return the parts at the end of fewer than `size` items."""
    return list(takewhile(lambda part: part.count < size, reversed(parts)))


def containers_in(state: Mapping[str, Any], agent: Any, replaced: Replaced) -> Iterator[Any]:
    """Give the long lists and dicts that are values of the state, or of plain objects in it; each once."""
    left, seen = deque((value, 0) for value in state.values()), {id(agent)}
    while left:
        each, depth = left.popleft()
        if id(each) in seen or id(each) in replaced.objects:
            continue
        if type(each) is list or type(each) is dict:
            if len(each) >= SIZE:
                seen.add(id(each))
                yield each
        elif depth < DEEPEST and _is_plain_object(each):
            seen.add(id(each))
            left.extend((value, depth + 1) for value in list(vars(each).values()))


def _is_plain_object(obj: Any) -> bool:
    """Whether an object is pickled by its attributes, and by nothing of its own."""
    cls = type(obj)
    return (
        isinstance(getattr(obj, "__dict__", None), dict)
        and cls not in copyreg.dispatch_table
        and not isinstance(obj, type | FunctionType | ModuleType)
        and all(getattr(cls, name, None) is getattr(object, name, None) for name in REDUCERS)
    )
