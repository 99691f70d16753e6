"""What an unloaded pickle is a tree of: plain builtin values, and five kinds of node.

Idea: None, bool, int, float, complex, str, bytes, bytearray, list, dict, tuple, set and frozenset stand for themselves,
exactly. Everything else is a `Name` (what a loader would import), an `Object` (what it would make), a `Key` (a key that
is not to be hashed), an `Unreadable` (why there is nothing) or an `Aside` (what it would make and throw away).

Invariant: sharing and cycles are kept, so the same node may stand in many places and inside itself. Nodes are compared
by identity (a `Name` by its two strings), and their ``repr`` shows one level, so neither ever walks a tree. A plain
container does walk: compare with ``==``, hash or ``repr`` only what you know to be shallow, and use `walk`,
`clearstone.codec.show.render` or `clearstone.codec.show.to_json` for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from types import NoneType
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Node: TypeAlias = object
"""A plain builtin value (by its exact type), or one of the five classes of this file."""

Origin: TypeAlias = Literal["called", "created", "altered"]

LEAVES = frozenset({NoneType, bool, int, float, complex, str, bytes, bytearray})
"""The exact types that hold no other node."""


@dataclass(frozen=True, slots=True)
class Name:
    """What a loader would import: ``getattr(import_module(module), qualname)``."""

    module: str
    qualname: str

    @property
    def key(self) -> str:
        """``module:qualname``."""
        return f"{self.module}:{self.qualname}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Object:
    """What a loader would make.

    Args:
        maker: the class or function; a `Name`, or the `Object` that would make it (a class stored by value).
        args: its arguments; a tuple, unless the pickle is malformed.
        kwargs: its keyword arguments; a dict, unless the pickle is malformed. None without any.
        origin: ``"called"`` if `maker` would be called (with all that does), ``"created"`` if its ``__new__`` would be,
            ``"altered"`` if `maker` is no object made here, yet the pickle sets state or items on it.
        items: what would be appended or added to it.
        pairs: what would be set with ``object[key] = value``; None without any.
        states: what would be given to its ``__setstate__`` or set as its attributes, mostly one.
        setters: later calls with it as their first argument, whose result is thrown away (cloudpickle fills in
            functions and classes this way).
    """

    maker: Node
    args: Node = ()
    kwargs: Node = None
    origin: Origin = "called"
    items: Sequence[Node] = ()
    pairs: dict[Node, Node] | None = None
    states: Sequence[Node] = ()
    setters: Sequence[Object] = ()

    def __repr__(self) -> str:
        maker = self.maker.key if isinstance(self.maker, Name) else type(self.maker).__name__
        return f"<{self.origin} {maker!r}, not loaded>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Key:
    """A dict key or set member that is not hashed: unhashable, long, deep, or one number too many. Equal to itself."""

    value: Node

    def __repr__(self) -> str:
        return f"<key of type {type(self.value).__name__}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Unreadable:
    """Stands where a pickle cannot be read.

    Args:
        reason: why, in half a sentence.
        offset: the position of the opcode in the bytes.
        partial: what there is of it: at the root what stood on the stack, bottom first; in a leaf its operands.
    """

    reason: str
    offset: int
    partial: tuple[Node, ...] = ()

    def __repr__(self) -> str:
        return f"<unreadable at byte {self.offset}: {self.reason}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Aside:
    """The root of a pickle that does more than make its value: what it would import or make, and throw away."""

    value: Node
    discarded: tuple[Node, ...]

    def __repr__(self) -> str:
        return f"<a value, and {len(self.discarded)} thrown away>"


def children(node: Node) -> Iterable[Node]:
    """Return what `node` holds directly, in no promised order."""
    if isinstance(node, list | tuple | set | frozenset):
        return node
    if isinstance(node, dict):
        return chain(node, node.values())
    if isinstance(node, Object):
        held = chain(node.items, node.pairs or (), (node.pairs or {}).values(), node.states, node.setters)
        return (node.maker, node.args, node.kwargs, *held)
    if isinstance(node, Aside):
        return (node.value, *node.discarded)
    if isinstance(node, Key):
        return (node.value,)
    return node.partial if isinstance(node, Unreadable) else ()


def walk(root: Node, seen: set[int] | None = None) -> Iterator[Node]:
    """Yield every distinct node of a tree that is no leaf value, each once, however deep, shared or cyclic.

    Args:
        root: where to begin.
        seen: ids of nodes to leave out; those yielded are added.
    """
    seen = set() if seen is None else seen
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen and type(node) not in LEAVES:
            seen.add(id(node))
            yield node
            waiting.extend(child for child in children(node) if type(child) not in LEAVES)
