"""A state in segments, so that a step costs what it changed: what the same agent's last snapshot has is not made again.

Idea: most of a large state is in a few long lists and dicts (messages, facts, results). Each of them is cut into
segments of 64 items (`checkpoint.containers`), and every segment is a pickle of its own; whatever is in none of these
containers is the last segment, the *rest*. A segment whose pickle is as it was is the very object of the snapshot
before. The newest items of a list are in small segments first, in one of 8 and one of 64 when there are so many.

One pickler writes all of them. Before each its memo is set to the agent and the containers (the *seeds*), so a
reference to one of them is two bytes and not a copy of it. An object that two segments hold belongs to the first of
them; in the other it is a seed too, named by the owner and its place in the owner's memo. References only point
backwards, so a snapshot is loaded front to back (`checkpoint.joining`).

Invariant: a snapshot is what one pickle of the whole state would be, aliases and cycles included, but for tuples that
two segments share (they come back equal, not the same). Every segment is written anew at every snapshot, however old
it is; it is the one of before if its pickle is, and the objects in it are: one that was replaced by an equal one, or by
one of another segment, makes the same pickle and another state. Between snapshots what is in the containers is held, so
that no id becomes another object's; the agent is not, nor what is in none of them.

The fast mode (a snapshot that is not `whole`) writes anew the rest, the newest segments, those whose items are others
than before, those in which something is left out, and those that own what one of these refers to; of the others only
those whose turn it is (`checkpoint.rotation`). A segment that has to wait is what it was when it was last written, and
so are the objects it owns; which object is which is right among all segments all the same, for the owners are of the
same writing (`checkpoint.owners`).

Refused: trusting that old items are as they were (an edit in place would be missed); one pickler whose memo lives on
(it never writes an object twice, so it misses every later change of it); cutting by content (it takes one pickle of the
whole first).
"""

from __future__ import annotations

import io
import itertools
import pickle
import sys
from operator import attrgetter
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.containers import SIZE, Container, Part, containers_in
from clearstone.checkpoint.owners import Owners
from clearstone.checkpoint.pickling import Replaced, StatePickler
from clearstone.checkpoint.rotation import Rotation, verified
from clearstone.checkpoint.snapshots import Placed, Segment, Snapshot
from clearstone.codec import payload
from clearstone.codec.redact import active

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["SIZE", "Segmenter"]

ATOMS = frozenset({str, bytes, int, float, bool, complex, type(None), type, tuple, ModuleType, BuiltinFunctionType})
"""Of these nobody notices which of two equal ones it is."""

NOT_MET = (-1, None)

MOST_ROUNDS = 16
"""So often the fast mode writes what the parts written before bring with them; they may change meanwhile."""


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
        steps: numbers the snapshots, rising.
        rotation: whose turn it is in the fast mode.
    """

    def __init__(
        self,
        replaced: Replaced | None = None,
        *,
        with_code: bool = True,
        cuts: bool = True,
        steps: Iterator[int] | None = None,
        rotation: Rotation | None = None,
    ) -> None:
        self.cuts = cuts
        self._steps = steps if steps is not None else itertools.count(1)
        self._step = 0
        self._rotation = rotation if rotation is not None else Rotation()
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
        self._redactor = active()
        self._uncut: set[int] = set()  # the ids of containers that are not cut: one before them refers to them
        self._containers: list[Container] = []
        self._rest = Part(0, 0)
        self._owners = Owners()
        self._with_missing: set[Part] = set()

    @property
    def met_definitions(self) -> bool:
        """Whether a definition of the script was written."""
        return self._pickler.met_definitions

    def snapshot(self, agent: Any, state: Mapping[str, Any], *, whole: bool = True) -> Snapshot:
        """Return the state as it is now.

        Args:
            agent: whose state it is, the same each time; in it, it is the first seed.
            state: the attributes by name.
            whole: whether all of it is written anew; else an edit in place of an old item may be seen late.

        Raises:
            Exception: what a value's own reduction raises. The next snapshot is made from scratch.
        """
        try:
            while True:
                try:
                    return self._taken(agent, dict(state), whole=whole)
                except _Forwards as found:
                    self._uncut.add(found.container)
        except BaseException:
            self._seeded, self._containers, self._rest = (), [], Part(0, 0)
            self._owners.clear()
            self._with_missing.clear()
            raise
        finally:
            self._seeds = {}
            self._seeder.clear_memo()
            self._pickler.clear_memo()
            self._left_out.clear()

    def _taken(self, agent: Any, state: dict[str, Any], *, whole: bool) -> Snapshot:
        self._step = next(self._steps)
        found = containers_in(state, agent, self._replaced) if self.cuts else ()
        is_as_before = self._seed(agent, [each for each in found if id(each) not in self._uncut])
        whole = whole or not is_as_before or active() is not self._redactor
        self._redactor = active()
        for container in self._containers:
            container.update(closely=whole)
            for part in container.gone:
                self._drop(part)
            if container.is_shifted:
                self._owners.all_moved()
        if whole:
            self._write_all(state)
        else:
            self._write_some(state)
        return self._snapshot()

    def _snapshot(self) -> Snapshot:
        for part in self._owners.moved:
            if part.segment is None:
                raise RuntimeError(f"segment {part.place} was not written")  # a fault of ours
            placed = Placed(part.segment, self._owners.references(part))
            if part is self._rest:
                part.placed = placed
            else:
                self._containers[part.place[0]].note_placed(part, placed)
        self._owners.moved.clear()
        return Snapshot(
            tuple((each.kind, tuple(each.placed)) for each in self._containers),
            self._rest.placed,
            self._step,
            verified(self._containers, self._step),
        )

    def _seed(self, agent: Any, found: list[Any]) -> bool:
        """Begin with these containers; where they are others than before, or in another order, nothing is kept.

        Returns:
            Whether they are the same.
        """
        self._seeds = {id(each): (number, each) for number, each in enumerate([agent, *found])}
        self._seeder.memo = self._seeds
        if tuple(self._seeds) == self._seeded:
            return True
        self._seeded = tuple(self._seeds)
        known = {id(each.held): each for each in self._containers}
        self._containers = [known.get(id(each)) or Container(each) for each in found]
        for number, container in enumerate(self._containers):
            container.reset(number)
        self._rest = Part(0, 0, (len(found), 0))
        self._owners.clear()
        self._with_missing.clear()
        return False

    # --- which parts are written -------------------------------------------------------------------------------------

    def _write_all(self, state: dict[str, Any]) -> None:
        for container in self._containers:
            for part in container.parts:
                self._write(part, state)
        self._write(self._rest, state)

    def _write_some(self, state: dict[str, Any]) -> None:
        for part in self._rotation.turn(self._containers):
            self._write(part, state)
        anew = {*self._with_missing, self._rest}
        for container in self._containers:
            anew.update(container.anew, container.newest())
        due = anew | self._owners.outdated
        for _ in range(MOST_ROUNDS):
            for part in sorted(due, key=attrgetter("place")):
                self._write(part, state)
            owners = {owner for part in anew for owner in self._owners.of_shared(part)}
            due = self._owners.outdated | {each for each in owners if each.verified != self._step}
            if not due:
                return
        self._write_all(state)

    def _drop(self, part: Part) -> None:
        self._owners.drop(part)
        self._with_missing.discard(part)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _write(self, part: Part, state: dict[str, Any]) -> None:
        """Bring a part's segment up to date."""
        self._owners.outdated.discard(part)
        if part.shared and not all(self._owners.is_before(each, part) for each in part.shared):
            part.segment = None
            self._owners.share(part, [])
        replaced, unplaced = self._replaced, self._replaced.unplaced
        met, replaced.met = replaced.met, set()
        if part is self._rest:
            self._write_rest(part, state)
        else:
            self._write_items(part, self._containers[part.place[0]])
        if replaced.met or replaced.unplaced > unplaced:  # the next snapshot has to meet it again
            self._with_missing.add(part)
            replaced.met |= met
        else:
            self._with_missing.discard(part)
            replaced.met = met

    def _write_items(self, part: Part, container: Container) -> None:
        container.note_written(part, self._step)
        container.look_again(part)
        items = container.items(part)
        known, (data, buffers) = part.segment, self._pickled(items, part)
        is_same = known is not None and known.data == data and known.buffers == buffers
        if is_same and (part.is_flat or self._has_met(part)):
            return
        met = self._met(part, items)
        if self._shares_others(part, data, met):
            data, buffers = self._pickled(items, part)
            met = self._met(part, items)
        container.look_into(part)
        self._refuse_forwards(data, part.place[0])
        self._put(part, data, buffers)
        self._owners.own(part, met)
        part.is_flat = part.owned.keys() <= container.ids(part)

    def _write_rest(self, rest: Part, state: dict[str, Any]) -> None:
        """It comes last, so nobody refers to what is in it."""
        data, buffers = self._pickled(state, rest)
        if self._owners and self._shares_others(rest, data, self._met(rest, state)):
            data, buffers = self._pickled(state, rest)
        self._put(rest, data, buffers)

    def _shares_others(self, part: Part, data: bytes, met: list[tuple[int, Any]]) -> bool:
        """Whether a part shares other objects than those it was written with; then note it."""
        begin = len(self._seeds)
        fetched = [each for number, each in enumerate(part.shared, begin) if _fetching(number) in data]
        others = [each for _, each in met if self._owners.is_before(each, part)]
        if not others and len(fetched) == len(part.shared):
            return False
        self._owners.share(part, [*fetched, *others])
        return True

    def _put(self, part: Part, data: bytes, buffers: tuple[bytes, ...]) -> None:
        known = part.segment
        if known is None or known.data != data or known.buffers != buffers:
            part.segment = Segment(data, buffers)
            self._owners.moved.add(part)

    def _refuse_forwards(self, data: bytes, number: int) -> None:
        """A container is whole when the next is loaded: what is made of one that comes later would find it empty.

        Raises:
            _Forwards: a container before another refers to it. (Other bytes may read so: then one is cut less.)
        """
        for later in range(number + 1, len(self._containers)):
            if _fetching(later + 1) in data:  # the agent is the first seed
                raise _Forwards(id(self._containers[later].held))

    def _pickled(self, value: Any, part: Part) -> tuple[bytes, tuple[bytes, ...]]:
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
        return buffer.getvalue(), tuple([bytes(each.raw()) for each in self._left_out])

    def _has_met(self, part: Part) -> bool:
        """Whether a part whose pickle is as it was is of the same objects: then each has its number in the memo yet."""
        memo = self._pickler.memo.copy()
        found = [memo.get(each, NOT_MET)[0] for each in part.owned]
        return found == [*part.owned.values()]

    def _met(self, part: Part, value: Any) -> list[tuple[int, Any]]:
        """Return the objects in `value`, which was written last, with their numbers in the memo."""
        begin = len(self._seeds) + len(part.shared)
        return [
            (number, each)
            for number, each in self._pickler.memo.copy().values()
            if number >= begin and type(each) not in ATOMS and each is not value and not _is_global(each)
        ]


def _fetching(number: int) -> bytes:
    """Return what is in a pickle that fetches a number of the memo by BINGET or LONG_BINGET, and seldom in another."""
    return b"h%c" % number if number < 256 else b"j" + number.to_bytes(4, "little")  # noqa: PLR2004 - a byte


def _is_global(obj: Any) -> bool:
    """Whether it is pickled by a name under which it is found: then it is one object everywhere."""
    if not isinstance(obj, FunctionType | type):
        return False
    module = sys.modules.get(obj.__module__ or "")
    return module is not None and payload.find_definition(module, obj.__qualname__) is obj
