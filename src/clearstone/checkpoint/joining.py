"""A state in segments, loaded or looked at: front to back, each segment with the objects before it that it refers to.

The memo of an `Unpickler` cannot be set (its setter is broken in CPython: memo entries come out missing or as others).
What is to be in it is given by a first pickle through the same unpickler, which fetches each seed and memoizes it; the
memo lives on to the second.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from clearstone.codec import inert, renames
from clearstone.codec.machine import LONGEST_KEY
from clearstone.codec.nodes import Name, Object, Unreadable

if TYPE_CHECKING:
    from clearstone.checkpoint.snapshots import Place, Segment, Snapshot
    from clearstone.codec.nodes import Node

AGENT = Object(Name("clearstone.codec.payload", "the_restored"), ())
"""The agent, as the inert reader shows it."""

Read = Callable[["Segment", list[Any]], tuple[Any, Callable[[], Mapping[int, Any]]]]
"""Gives what a segment is after its seeds, and what was in the memo then."""


def joined(snapshot: Snapshot, agent: Any) -> dict[str, Any]:
    """Load a state. This can execute code: only for what is trusted.

    Args:
        snapshot: the state.
        agent: the object the state refers to as its agent.

    Raises:
        Exception: a segment does not load today.
    """
    state: dict[str, Any] = _join(snapshot, agent, _load, _fill)
    return state


def looked_at(snapshot: Snapshot) -> Node:
    """Return a state as the inert reader shows it: nothing is loaded, nothing runs (see `clearstone.codec.inert`)."""
    return _join(snapshot, AGENT, _look, _fill_node)


def names_in(snapshot: Snapshot) -> list[str]:
    """Return every global that loading a state would import (see `clearstone.codec.inert.names`).

    What a segment fetches from before it is followed as a loader does: else a name could be put together of parts that
    only the loader has.

    Raises:
        CheckpointDamagedError: a segment cannot be followed to its end, so the list would not be whole.
    """
    found: dict[str, None] = {}

    def read(segment: Segment, seeds: list[Any]) -> tuple[Any, Callable[[], Mapping[int, Any]]]:
        node, memo, names = inert.followed(segment.data, seeds, buffers=segment.buffers)
        found.update(dict.fromkeys(names))
        return node, lambda: _Lenient(memo)

    _join(snapshot, AGENT, read, _fill_node)
    return list(found)


def _join(snapshot: Snapshot, agent: Any, read: Read, fill: Callable[[Any, Any], None]) -> Any:
    containers: list[Any] = [[] if kind == "list" else {} for kind, _ in snapshot.containers]
    asked: dict[Place, list[int]] = {}
    for _, placed in snapshot.placed():
        for owner, number in placed.shared:
            asked.setdefault(owner, []).append(number)
    found: dict[tuple[Place, int], Any] = {}
    value: Any = None
    for place, placed in snapshot.placed():
        value, memo = read(placed.segment, [agent, *containers, *(found[each] for each in placed.shared)])
        if place in asked:
            held = memo()
            found.update(((place, number), held[number]) for number in asked[place])
        if place[0] < len(containers):
            fill(containers[place[0]], value)
    return value


# --- loaded ----------------------------------------------------------------------------------------------------------


class _Unpickler(renames.Unpickler):
    def __init__(self, file: io.BytesIO, seeds: list[Any], buffers: list[bytearray]) -> None:
        super().__init__(file, buffers=buffers)
        self._seeds = seeds

    def persistent_load(self, number: Any) -> Any:
        return self._seeds[number]


def _load(segment: Segment, seeds: list[Any]) -> tuple[Any, Callable[[], Mapping[int, Any]]]:
    file = io.BytesIO(_fetching(len(seeds)) + segment.data)
    unpickler = _Unpickler(file, seeds, [bytearray(each) for each in segment.buffers])
    unpickler.load()
    return unpickler.load(), unpickler.memo.copy  # undocumented, and there in every CPython


@functools.lru_cache(maxsize=64)
def _fetching(count: int) -> bytes:
    """Return a pickle that memoizes `count` seeds: for each BININT its number, BINPERSID, MEMOIZE, POP."""
    return b"\x80\x05" + b"".join(b"J" + n.to_bytes(4, "little") + b"Q\x940" for n in range(count)) + b"N."


def _fill(container: Any, items: Any) -> None:
    add: Callable[[Any], None] = container.extend if type(container) is list else container.update
    add(items)


# --- looked at -------------------------------------------------------------------------------------------------------


def _look(segment: Segment, seeds: list[Any]) -> tuple[Any, Callable[[], Mapping[int, Any]]]:
    node, memo = inert.read_after(segment.data, seeds, buffers=segment.buffers)
    return node, lambda: _Lenient(memo)


class _Lenient(dict[int, Any]):
    """A memo that has an entry for every number: a file may ask for one that is not there."""

    def __missing__(self, number: int) -> Any:
        return Unreadable(f"an object of another segment, number {number}, is not there", 0)


def _fill_node(container: Any, items: Any) -> None:
    """Add what a segment should be, a list of items or pairs; anything else is shown as one item."""
    if type(container) is list:
        container.extend(items if type(items) is list else [items])
        return
    for item in items if type(items) is list else [items]:
        key, value = item if type(item) is tuple and len(item) == 2 else (f"({type(item).__name__})", item)  # noqa: PLR2004
        # the hash of a text cannot be foreseen, hence not be made to collide
        container[key if type(key) is str and len(key) <= LONGEST_KEY else inert.Key(key)] = value
