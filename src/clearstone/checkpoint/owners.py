"""Which part of a state an object belongs to that several parts hold.

Idea: the first part that holds an object owns it, and has a number for it in its memo; the others share it, and refer
to it by the owner's place and that number.

Invariant: what a table says is of the parts as they were written last, however long ago. Whoever shares an object comes
after its owner. Where a part loses an object or takes one from a later part, those that are not right any more are in
`Owners.outdated` until they are written again, and those that are right but refer to another place or number are in
`Owners.moved`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.containers import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.checkpoint.containers import Part
    from clearstone.checkpoint.snapshots import Place


class Owners:
    """The table.

    Attributes:
        outdated: parts that have to be written again before the next snapshot is one.
        moved: parts whose `references` may be others than before.
    """

    def __init__(self) -> None:
        self.outdated: set[Part] = set()
        self.moved: set[Part] = set()
        self._owners: dict[int, tuple[Part, int, Any]] = {}  # holds the objects: no id becomes another's
        self._sharers: dict[int, set[Part]] = {}

    def __bool__(self) -> bool:
        return bool(self._owners)

    def clear(self) -> None:
        """Forget all parts."""
        for each in (self.outdated, self.moved, self._owners, self._sharers):
            each.clear()

    def is_before(self, obj: Any, part: Part) -> bool:
        """Whether an object belongs to a part before `part`."""
        owner = self._owners.get(id(obj))
        return owner is not None and owner[0] is not part and NOWHERE < owner[0].place < part.place

    def of_shared(self, part: Part) -> Iterator[Part]:
        """Give the owners of what a part shares, where they still are."""
        found = map(self._owners.get, map(id, part.shared))
        return (owner[0] for owner in found if owner is not None)

    def references(self, part: Part) -> tuple[tuple[Place, int], ...]:
        """Return where what a part shares is found: each the owner's place, and the number in its memo."""
        found = (self._owners[id(each)] for each in part.shared)
        return tuple((owner.place, number) for owner, number, _ in found)

    def share(self, part: Part, objects: list[Any]) -> None:
        """Note that a part refers to these objects of earlier ones, and to no others."""
        for each in part.shared:
            self._sharers[id(each)].discard(part)
            if not self._sharers[id(each)]:
                del self._sharers[id(each)]
        part.shared = objects
        for each in objects:
            self._sharers.setdefault(id(each), set()).add(part)
        self.moved.add(part)

    def own(self, part: Part, met: list[tuple[int, Any]]) -> None:
        """Note these objects, each with its number, as a part's own, and no others."""
        owned = {id(each): number for number, each in met}
        for gone in part.owned.keys() - owned.keys():
            self._release(gone, part)
        for number, each in met:
            self._take(each, part, number)
        part.owned = owned

    def drop(self, part: Part) -> None:
        """Forget a part that is no longer."""
        for each in part.owned:
            self._release(each, part)
        part.owned = {}
        self.share(part, [])
        part.place = NOWHERE
        self.outdated.discard(part)
        self.moved.discard(part)

    def all_moved(self) -> None:
        """Note that parts stand at other places."""
        self.moved.update(*self._sharers.values())

    def _take(self, obj: Any, part: Part, number: int) -> None:
        before = self._owners.get(id(obj))
        if before is not None and before[0] is not part:
            before[0].segment = None
            self.outdated.add(before[0])
        self._owners[id(obj)] = part, number, obj
        if before is None or before[:2] != (part, number):
            self.moved.update(self._sharers.get(id(obj), ()))

    def _release(self, key: int, part: Part) -> None:
        owner = self._owners.get(key)
        if owner is not None and owner[0] is part:
            del self._owners[key]
            self.outdated.update(self._sharers.get(key, ()))
