"""A state in segments, loaded: front to back, each segment with the objects before it that it refers to.

The memo of an `Unpickler` cannot be set (its setter is broken in CPython: memo entries come out missing or as others).
What is to be in it is given by a first pickle through the same unpickler, which fetches each seed and memoizes it; the
memo lives on to the second.
"""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearstone.checkpoint.segments import Place, Placed, Snapshot


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, seeds: list[Any], buffers: list[bytearray]) -> None:
        super().__init__(file, buffers=buffers)
        self._seeds = seeds

    def persistent_load(self, number: Any) -> Any:
        return self._seeds[number]


def joined(snapshot: Snapshot, agent: Any = None) -> dict[str, Any]:
    """Load a state. This can execute code: only for what is trusted.

    Args:
        snapshot: the state.
        agent: the object the state refers to as its agent; None if it was taken without one.

    Raises:
        Exception: a segment does not load today.
    """
    asked: dict[Place, list[int]] = {}
    for placed in _all_of(snapshot):
        for owner, number in placed.shared:
            asked.setdefault(owner, []).append(number)
    containers: list[Any] = [[] if kind == "list" else {} for kind, _ in snapshot.containers]
    seeds = ([agent] if agent is not None else []) + containers
    found: dict[tuple[Place, int], Any] = {}
    for number, ((kind, parts), container) in enumerate(zip(snapshot.containers, containers, strict=True)):
        add: Callable[[Any], None] = container.extend if kind == "list" else container.update
        for index, placed in enumerate(parts):
            add(_loaded((number, index), placed, seeds, found, asked))
    state: dict[str, Any] = _loaded((len(containers), 0), snapshot.rest, seeds, found, asked)
    return state


def _all_of(snapshot: Snapshot) -> list[Placed]:
    return [*(placed for _, parts in snapshot.containers for placed in parts), snapshot.rest]


def _loaded(
    place: Place,
    placed: Placed,
    seeds: list[Any],
    found: dict[tuple[Place, int], Any],
    asked: dict[Place, list[int]],
) -> Any:
    segment = placed.segment
    own = [*seeds, *(found[shared] for shared in placed.shared)]
    file = io.BytesIO(_fetching(len(own)) + segment.data)
    unpickler = _Unpickler(file, own, [bytearray(each) for each in segment.buffers])
    unpickler.load()
    value = unpickler.load()
    if place in asked:
        memo = unpickler.memo.copy()  # type: ignore[attr-defined]  # there, if undocumented
        found.update(((place, number), memo[number]) for number in asked[place])
    return value


def _fetching(count: int) -> bytes:
    """Return a pickle that memoizes `count` seeds: for each BININT its number, BINPERSID, MEMOIZE, POP."""
    return b"\x80\x05" + b"".join(b"J" + n.to_bytes(4, "little") + b"Q\x940" for n in range(count)) + b"N."
