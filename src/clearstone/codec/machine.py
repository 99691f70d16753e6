"""The pickle machine with nothing behind its opcodes: see `clearstone.codec.inert`.

Idea: stack, marks and memo as a loader has them, and the few moves that opcodes are made of: bytes in, nodes out.

Invariant: they hold what a loader's would hold, or a node that stands for it. Where a loader would stop with an error
this machine may go on, so that it sees every name that a loader sees. It stops by itself only at its limits, and where
loaders disagree (an opcode across the end of its frame). Every move costs what the bytes and the limits pay for:
nothing that is long or deep is copied, hashed or compared.

Refused: being as strict as a loader (what it rejects can still be looked at).
"""

from __future__ import annotations

import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass
from itertools import chain
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from clearstone.codec.nodes import LEAVES, Aside, Key, Name, Node, Object, Unreadable, walk
from clearstone.codec.renames import current, todays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from struct import Struct


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a pickle is read. The defaults hold a state of 250,000 chat messages, and hostile bytes below 1 GB.

    Args:
        opcodes: how many opcodes are followed.
        nodes: how many containers, objects and memo entries are kept.
        depth: how many marks may be open at once. (Small tuples nest without marks: a tree may be deeper.)
        content: how many bytes of long values (over 1,000 bytes) are taken over; the rest are `Unreadable` leaves.
    """

    opcodes: int = 5_000_000
    nodes: int = 2_000_000
    depth: int = 10_000
    content: int = 128 << 20


DEFAULT: Final = Limits()

FIRST_WITHOUT_PYTHON_2_NAMES = 3
LONG = 1_000
"""Characters or bytes: a longer name is no name, a longer value counts as content."""
LONGEST_KEY = 10_000
CROWD = 1_000
"""So many numbers and tuples per container are hashed: their hashes can be foreseen, hence made to collide."""
FEW = 8
"""A tuple of at most so many members, nested at most twice, may be a key."""


class Halt(Exception):  # noqa: N818 - ends the machine's run, and never leaves it
    """Why the machine cannot go on."""


class Machine:
    """A loader's stack, marks and memo.

    Args:
        data: the pickle.
        buffers: its out-of-band buffers.
        limits: where to stop.
    """

    def __init__(self, data: bytes, buffers: Sequence[bytes], limits: Limits) -> None:
        self.data = bytes(data)
        self.buffers = iter(buffers)
        self.limits = limits
        self.nodes_left = limits.nodes
        self.content_left = limits.content
        self.at = 0
        self.position = 0
        self.frame_end = 0
        self.protocol = 0
        self.stack: list[Node] = []
        self.frames: list[list[Node]] = []
        self.memo: dict[int, Node] = {}
        self.names: dict[str, None] = {}
        self.discarded: list[Node] = []
        self.stopped = False
        self.halted = ""

    def run(self, handlers: Sequence[Callable[[Machine], None]]) -> Node:
        """Follow the pickle to its STOP, or as far as it goes; `halted` then says why no further.

        Args:
            handlers: what each of the 256 opcodes does.
        """
        try:
            self._follow(handlers)
            return self._result()
        except Halt as halt:
            self.halted = str(halt)
        except IndexError:
            self.halted = "an opcode takes more from the stack than is there"
        return Unreadable(self.halted, self.at, tuple(chain(*self.frames, self.stack)))

    def _follow(self, handlers: Sequence[Callable[[Machine], None]]) -> None:
        data, size = self.data, len(self.data)
        for _ in range(self.limits.opcodes):
            self.at = self.position
            if self.at >= size:
                raise Halt("the bytes end before the pickle's STOP")
            self.position += 1
            handlers[data[self.at]](self)
            if self.at < self.frame_end < self.position:
                raise Halt("an opcode across the end of its frame, on which loaders disagree")
            if self.stopped:
                return
        raise Halt(f"more than {self.limits.opcodes} opcodes")

    def _result(self) -> Node:
        value = self.stack.pop()
        for node in chain(*self.frames, self.stack):
            self.discard(node)
        if not self.discarded:
            return value
        seen = {id(node) for node in walk(value)}
        hidden = tuple(node for node in self.discarded if _does_something(node, seen))
        return Aside(value, hidden) if hidden else value

    # --- bytes in ---

    def take(self, size: int) -> int:
        """Move past `size` bytes and return where they begin."""
        start, left = self.position, len(self.data) - self.position
        if not 0 <= size <= left:
            raise Halt(f"{size} bytes are declared, {left} are left")
        self.position += size
        return start

    def open_frame(self, size: int) -> None:
        """Begin a frame: a hint for reading ahead, which no opcode may cross."""
        if self.at < self.frame_end:
            raise Halt("a frame within a frame, on which loaders disagree")
        self.frame_end = self.position + size

    def number(self, layout: Struct) -> Any:
        """Return the next number of a fixed size."""
        return layout.unpack_from(self.data, self.take(layout.size))[0]

    def counted(self, length: Struct, decoder: Callable[[bytes], Node]) -> Node:
        """Return the next value that is preceded by its length."""
        size = self.number(length)
        return self._decoded(self.take(size), size, decoder)

    def line(self, decoder: Callable[[bytes], Node]) -> Node:
        """Return the value that reaches to the next newline."""
        size = self.data.find(b"\n", self.position) - self.position
        if size < 0:
            raise Halt("the bytes end within a line")
        return self._decoded(self.take(size + 1), size, decoder)

    def _decoded(self, start: int, size: int, decoder: Callable[[bytes], Node]) -> Node:
        if size > LONG and not self.affords(size):
            return Unreadable(f"{size} bytes, left out over the limit of {self.limits.content}", self.at)
        try:
            return decoder(self.data[start : start + size])
        except ValueError as error:
            return Unreadable(f"a value that does not decode: {str(error)[:100]}", self.at)

    def affords(self, size: int) -> bool:
        """Take `size` bytes from the limit on content, if it has them."""
        if size > self.content_left:
            return False
        self.content_left -= size
        return True

    # --- nodes out ---

    def count(self, nodes: int) -> None:
        """Take `nodes` from the limit on nodes."""
        self.nodes_left -= nodes
        if self.nodes_left < 0:
            raise Halt(f"more than {self.limits.nodes} nodes")

    def add(self, node: Node) -> None:
        """Push a new container or object."""
        self.count(1)
        self.stack.append(node)

    def open_mark(self) -> None:
        """Begin a new part of the stack."""
        if len(self.frames) >= self.limits.depth:
            raise Halt(f"more than {self.limits.depth} marks open")
        self.frames.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Node]:
        """End the part of the stack that the last mark began, and return it."""
        items, self.stack = self.stack, self.frames.pop()
        return items

    def name(self, module: Node, qualname: Node) -> Node:
        """Note a global, and return the node that stands for it."""
        if _is_name(module) and _is_name(qualname):
            found = _named(str(module), str(qualname), self.protocol)
            found = found if current.get() is None else Name(*todays(found.module, found.qualname))
            self.names[found.key] = None
            return found
        self.names[":".join(str(part) if _is_name(part) else "?" for part in (module, qualname))] = None
        return Unreadable("a name that only loading would compute", self.at, (module, qualname))

    def object_on_top(self) -> Object:
        """Return the object on top of the stack; if there is something else, an object that alters it."""
        top = self.stack[-1]
        if not isinstance(top, Object):
            self.count(1)
            self.stack[-1] = top = Object(top, origin="altered")
        return top

    def append(self, items: list[Node]) -> None:
        """Append `items` to what is on top."""
        top = self.stack[-1]
        if isinstance(top, list):
            top.extend(items)
        else:
            extend(self.object_on_top(), "items", items)

    def add_members(self, items: list[Node]) -> None:
        """Add `items` to the set on top."""
        top = self.stack[-1]
        if isinstance(top, set):
            top.update(keys(items, len(top)))
        else:
            extend(self.object_on_top(), "items", items)

    def set_items(self, items: list[Node]) -> None:
        """Set keys and values, which alternate in `items`, on what is on top."""
        top = self.stack[-1]
        if isinstance(top, dict):
            return self._fill(top, items)
        held = self.object_on_top()
        pairs: dict[Node, Node] = {} if held.pairs is None else held.pairs
        object.__setattr__(held, "pairs", pairs)
        return self._fill(pairs, items)

    def _fill(self, pairs: dict[Node, Node], items: list[Node]) -> None:
        if len(items) % 2:
            raise Halt("a key without its value")
        fresh_keys, values = keys(items[::2], len(pairs)), items[1::2]
        fresh = dict(zip(fresh_keys, values, strict=True))
        if len(fresh) == len(fresh_keys) and pairs.keys().isdisjoint(fresh.keys()):
            return pairs.update(fresh)
        for key, value in zip(fresh_keys, values, strict=True):
            self.discard(pairs.get(key))  # overwritten
            pairs[key] = value
        return None

    def discard(self, node: Node) -> None:
        """Note that a loader would have made `node` and thrown it away."""
        if type(node) in LEAVES:
            return
        self.discarded.append(node)
        target = node.args[0] if isinstance(node, Object) and isinstance(node.args, tuple) and node.args else None
        if isinstance(target, Object):
            extend(target, "setters", [node])


def _does_something(node: Node, seen: set[int]) -> bool:
    """Say whether `node` holds what a loader would import or make, and was not seen yet."""
    acts = [found for found in walk(node, seen) if isinstance(found, Name | Object | Unreadable)]
    return bool(acts)


def _is_name(node: Node) -> bool:
    return isinstance(node, str) and len(node) <= LONG


def _named(module: str, qualname: str, protocol: int) -> Name:
    """Return the name, as pickle's ``fix_imports`` maps those of Python 2."""
    if protocol < FIRST_WITHOUT_PYTHON_2_NAMES:
        module, qualname = NAME_MAPPING.get((module, qualname), (IMPORT_MAPPING.get(module, module), qualname))
    return Name(module, qualname)


def extend(held: Object, field: str, values: Iterable[Node]) -> None:
    """Add to one of the sequences of an object that is being made."""
    before = getattr(held, field)
    if before:
        before.extend(values)
    else:
        object.__setattr__(held, field, list(values))


# --- what is hashed ---------------------------------------------------------------------------------------------------

_BY_IDENTITY = frozenset({NoneType, bool, Object, Key, Unreadable, Aside})


def keys(nodes: list[Node], crowd: int) -> list[Node]:
    """Return `nodes` as keys for a container that already has `crowd` of them."""
    return [node if _is_key(node, crowd + place) else Key(node) for place, node in enumerate(nodes)]


def _is_key(node: Node, crowd: int) -> bool:
    if isinstance(node, str | bytes):
        return len(node) <= LONGEST_KEY
    return type(node) in _BY_IDENTITY or (crowd < CROWD and _is_small(node, 2))


def _is_small(node: Node, levels: int) -> bool:
    if isinstance(node, tuple | frozenset):
        return levels > 0 and len(node) <= FEW and all(_is_small(item, levels - 1) for item in node)
    if isinstance(node, str | bytes):
        return len(node) <= LONG
    return type(node) in _BY_IDENTITY or (isinstance(node, int | float | complex) and sys.getsizeof(node) <= LONG)
