"""A state in segments, so that a step costs what it changed: what the same agent's last snapshot has is not made again.

Idea: most of a large state is in a few long lists and dicts (messages, facts, results). Each of them is cut into
segments of 64 items, and every segment is a pickle of its own; whatever is in none of these containers is the last
segment, the *rest*. A segment whose pickle is as it was is the very object of the snapshot before. The newest items of
a list are in small segments first, in one of 8 and one of 64 when there are so many.

One pickler writes all of them. Before each its memo is set to the agent and the containers (the *seeds*), so a
reference to one of them is two bytes and not a copy of it. An object that two segments hold belongs to the first of
them; in the other it is a seed too, named by the owner and its place in the owner's memo. References only point
backwards, so a snapshot is loaded front to back (`checkpoint.joining`).

Invariant: a snapshot is what one pickle of the whole state would be, aliases and cycles included, but for tuples that
two segments share (they come back equal, not the same). Every segment is written anew at every snapshot, however old
it is; it is the one of before if its pickle is, and the objects in it are: one that was replaced by an equal one, or by
one of another segment, makes the same pickle and another state. Between snapshots what is in the containers is held, so
that no id becomes another object's; the agent is not, nor what is in none of them.

Refused: trusting that old items are as they were (an edit in place would be missed); one pickler whose memo lives on
(it never writes an object twice, so it misses every later change of it); cutting by content (it takes one pickle of the
whole first).
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections import deque
from itertools import chain, takewhile
from operator import is_
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.pickling import Replaced, StatePickler
from clearstone.checkpoint.snapshots import Placed, Segment, Snapshot
from clearstone.codec import payload

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clearstone.checkpoint.snapshots import Kind, Place

SIZE = 64
"""Items of a segment; a container of fewer is no container here."""

SMALL = 8

DEEPEST = 2
"""Through so many plain objects containers are looked for, from the state's own values."""

ATOMS = frozenset({str, bytes, int, float, bool, complex, type(None), type, tuple, ModuleType, BuiltinFunctionType})
"""Of these nobody notices which of two equal ones it is."""

REDUCERS = ("__reduce_ex__", "__reduce__", "__getstate__")


class _Part:
    """A segment while its agent lives: what it was made of, and what of it belongs to it."""

    __slots__ = ("is_flat", "items", "owned", "place", "placed", "segment", "shared")

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.segment: Segment | None = None
        self.shared: list[Any] = []  # objects that belong to an earlier part
        self.owned: dict[int, int] = {}  # the ids of its objects, and their numbers in its memo
        self.is_flat = False  # it owns nothing but its items: they are the same if its pickle is
        self.place: Place = (-1, -1)
        self.placed: Placed | None = None  # as in the last snapshot, where it shares nothing


class _Container:
    """A long list or dict, and its parts in order."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.kind: Kind = "list" if type(held) is list else "dict"
        self.parts: list[_Part] = []

    def items(self) -> list[Any]:
        return list(self.held) if self.kind == "list" else list(self.held.items())

    def is_same(self, now: Sequence[Any], before: Sequence[Any]) -> bool:
        if len(now) != len(before):
            return False
        if self.kind == "list":
            return all(map(is_, now, before))
        return all(map(is_, chain.from_iterable(now), chain.from_iterable(before)))  # keys and values


class _Forwards(Exception):  # noqa: N818 - begins the snapshot again, and never leaves it
    """A container refers to a later one."""

    def __init__(self, container: int) -> None:
        super().__init__(container)
        self.container = container


class Segmenter:
    """Takes snapshots of one agent's state, each with what it can of the one before.

    Args:
        replaced: what is left out.
        with_code: see `clearstone.codec.pickler.ByValuePickler`.
        cuts: whether long containers are cut into segments. For one snapshot alone that costs and brings nothing.
    """

    def __init__(self, replaced: Replaced | None = None, *, with_code: bool = True, cuts: bool = True) -> None:
        self.cuts = cuts
        self._buffer = io.BytesIO()
        self._left_out: list[pickle.PickleBuffer] = []
        replaced = replaced if replaced is not None else Replaced()
        self._replaced = replaced
        self._pickler = StatePickler(
            self._buffer, None, replaced, with_code=with_code, buffer_callback=self._left_out.append
        )
        self._seeder = pickle.Pickler(io.BytesIO(), payload.PROTOCOL)  # holds the seeds as the memo to begin with
        self._seeds: dict[int, tuple[int, Any]] = {}  # empty between snapshots
        self._seeded: tuple[int, ...] = ()
        self._whole: set[int] = set()  # the ids of containers that are not cut: one before them refers to them
        self._containers: list[_Container] = []
        self._rest = _Part([])
        self._owners: dict[int, tuple[_Part, int, Any]] = {}

    @property
    def met_definitions(self) -> bool:
        """Whether a definition of the script was written."""
        return self._pickler.met_definitions

    def snapshot(self, agent: Any, state: Mapping[str, Any]) -> Snapshot:
        """Return the state as it is now.

        Args:
            agent: whose state it is, the same each time; in it, it is the first seed.
            state: the attributes by name.

        Raises:
            Exception: what a value's own reduction raises. The next snapshot is made from scratch.
        """
        try:
            while True:
                try:
                    return self._taken(agent, dict(state))
                except _Forwards as found:
                    self._whole.add(found.container)
        except BaseException:
            self._seeded, self._containers, self._rest = (), [], _Part([])
            self._owners.clear()
            raise
        finally:
            self._seeds = {}
            self._seeder.clear_memo()
            self._pickler.clear_memo()
            self._left_out.clear()

    def _taken(self, agent: Any, state: dict[str, Any]) -> Snapshot:
        found = _containers(state, agent, self._replaced) if self.cuts else ()
        self._seed(agent, [each for each in found if id(each) not in self._whole])
        for number, container in enumerate(self._containers):
            self._update(number, container)
        rest = self._rest
        rest.place = len(self._containers), 0
        self._write_rest(rest, state)
        return Snapshot(
            tuple((each.kind, tuple(map(self._placed, each.parts))) for each in self._containers), self._placed(rest)
        )

    def _placed(self, part: _Part) -> Placed:
        if part.segment is None:
            raise RuntimeError(f"segment {part.place} was not written")  # a fault of ours
        if not part.shared:
            if part.placed is None or part.placed.segment is not part.segment:
                part.placed = Placed(part.segment)
            return part.placed
        owners = (self._owners[id(each)] for each in part.shared)
        return Placed(part.segment, tuple((owner.place, number) for owner, number, _ in owners))

    # --- containers --------------------------------------------------------------------------------------------------

    def _seed(self, agent: Any, found: list[Any]) -> None:
        """Begin with these containers; where they are others than before, or in another order, nothing is kept."""
        self._seeds = {id(each): (number, each) for number, each in enumerate([agent, *found])}
        self._seeder.memo = self._seeds
        if tuple(self._seeds) == self._seeded:
            return
        self._seeded = tuple(self._seeds)
        known = {id(each.held): each for each in self._containers}
        self._containers = [known.get(id(each)) or _Container(each) for each in found]
        for part in (part for each in self._containers for part in each.parts):
            part.segment, part.shared, part.owned = None, [], {}
        self._rest = _Part([])
        self._owners.clear()

    def _update(self, number: int, container: _Container) -> None:
        """Write the parts of a container: those it had as far as their items are the same, then new ones."""
        items, at, kept = container.items(), 0, 0
        for part in container.parts:
            now = items[at : at + len(part.items)]
            if not container.is_same(now, part.items):
                break
            part.place = (number, kept)
            self._write(part, part.items)
            at, kept = at + len(now), kept + 1
        for part in container.parts[kept:]:
            self._drop(part)
        parts = container.parts[:kept]
        for start in self._cuts_of(parts, at, len(items)):
            part = _Part(items[start : start + SIZE])
            part.place = (number, len(parts))
            self._write(part, part.items)
            parts.append(part)
        container.parts = parts

    def _cuts_of(self, parts: list[_Part], at: int, end: int) -> range:
        """Return where new parts begin; small ones at the end of `parts` make room for a larger one of the same items.

        A new item is in a part of one, then of eight, then of 64: it is written three times, and there are never more
        than seven of each.
        """
        for size in (SIZE, SMALL):
            small = _trailing_below(size, parts)
            if end > at and end - at + sum(len(each.items) for each in small) >= size:
                for part in small:
                    self._drop(part)
                    at -= len(part.items)
                del parts[len(parts) - len(small) :]
                break
        return range(at, end, SIZE)

    def _drop(self, part: _Part) -> None:
        self._disown(part)
        part.place = (-1, -1)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _write(self, part: _Part, value: Any) -> None:
        """Bring a part's segment up to date."""
        if not all(self._is_before(each, part) for each in part.shared):
            part.segment, part.shared = None, []
        data, buffers = self._pickled(value, part)
        known = part.segment
        is_same = known is not None and known.data == data and known.buffers == buffers
        if is_same and part.is_flat:
            return
        met = self._met(part, value)
        if is_same and {id(each): number for number, each in met} == part.owned:
            return
        self._disown(part)
        others = [each for _, each in met if self._is_before(each, part)]
        if others:
            part.shared = [*part.shared, *others]
            data, buffers = self._pickled(value, part)
            met = self._met(part, value)
        if known is None or known.data != data or known.buffers != buffers:
            self._refuse_forwards(data, part.place[0])
            part.segment = Segment(data, buffers)
        self._own(part, met)

    def _refuse_forwards(self, data: bytes, number: int) -> None:
        """A container is whole when the next is loaded: what is made of one that comes later would find it empty.

        Raises:
            _Forwards: a container before another refers to it. (Other bytes may read so: then one is cut less.)
        """
        for later in range(number + 1, len(self._containers)):
            seed = later + 1  # the agent is the first
            fetched = b"h%c" % seed if seed < 256 else b"j" + seed.to_bytes(4, "little")  # noqa: PLR2004 - BINGET's
            if fetched in data:
                raise _Forwards(id(self._containers[later].held))

    def _write_rest(self, rest: _Part, state: dict[str, Any]) -> None:
        """Bring the rest up to date. It comes last, so nobody refers to what is in it."""
        if not all(self._is_before(each, rest) for each in rest.shared):
            rest.shared = []
        data, buffers = self._pickled(state, rest)
        others = [each for _, each in self._met(rest, state) if self._is_before(each, rest)] if self._owners else []
        if others:
            rest.shared = [*rest.shared, *others]
            data, buffers = self._pickled(state, rest)
        known = rest.segment
        if known is None or known.data != data or known.buffers != buffers:
            rest.segment = Segment(data, buffers)

    def _pickled(self, value: Any, part: _Part) -> tuple[bytes, tuple[bytes, ...]]:
        buffer, pickler, begin = self._buffer, self._pickler, len(self._seeds)
        buffer.seek(0)
        buffer.truncate()
        self._left_out.clear()
        if part.shared:
            shared = {id(each): (begin + number, each) for number, each in enumerate(part.shared)}
            pickler.memo = {**self._seeds, **shared}
        else:
            pickler.memo = self._seeder.memo
        pickle.Pickler.dump(pickler, value)  # cloudpickle's own tells a deep recursion in other words
        return buffer.getvalue(), tuple(bytes(each.raw()) for each in self._left_out)

    def _met(self, part: _Part, value: Any) -> list[tuple[int, Any]]:
        """Return the objects in `value`, which was written last, with their numbers in the memo."""
        begin = len(self._seeds) + len(part.shared)
        return [
            (number, each)
            for number, each in self._pickler.memo.copy().values()
            if number >= begin and type(each) not in ATOMS and each is not value and not _is_global(each)
        ]

    def _own(self, part: _Part, met: list[tuple[int, Any]]) -> None:
        """Note what was met in a part as its own."""
        for number, each in met:
            owner = self._owners.get(id(each))
            if owner is not None:
                owner[0].segment = None  # a later part had it: it is written again when it comes to that
            self._owners[id(each)] = part, number, each
        part.owned = {id(each): number for number, each in met}
        part.is_flat = part.owned.keys() <= {id(each) for each in part.items}

    def _disown(self, part: _Part) -> None:
        for number in part.owned:
            owner = self._owners.get(number)
            if owner is not None and owner[0] is part:
                del self._owners[number]
        part.owned = {}

    def _is_before(self, obj: Any, part: _Part) -> bool:
        """Whether an object belongs to a part before `part`."""
        owner = self._owners.get(id(obj))
        return owner is not None and owner[0] is not part and (0, 0) <= owner[0].place < part.place


def _trailing_below(size: int, parts: list[_Part]) -> list[_Part]:
    """Return the parts at the end of fewer than `size` items."""
    return list(takewhile(lambda part: len(part.items) < size, reversed(parts)))


def _containers(state: Mapping[str, Any], agent: Any, replaced: Replaced) -> Iterator[Any]:
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
        elif depth < DEEPEST and _is_plain(each):
            seen.add(id(each))
            left.extend((value, depth + 1) for value in list(vars(each).values()))


def _is_plain(obj: Any) -> bool:
    """Whether an object is pickled by its attributes, and by nothing of its own."""
    cls = type(obj)
    return (
        isinstance(getattr(obj, "__dict__", None), dict)
        and cls not in copyreg.dispatch_table
        and not isinstance(obj, type | FunctionType | ModuleType)
        and all(getattr(cls, name, None) is getattr(object, name, None) for name in REDUCERS)
    )


def _is_global(obj: Any) -> bool:
    """Whether it is pickled by a name under which it is found: then it is one object everywhere."""
    if not isinstance(obj, FunctionType | type):
        return False
    module = sys.modules.get(obj.__module__ or "")
    return module is not None and payload.find_definition(module, obj.__qualname__) is obj
