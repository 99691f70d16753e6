"""Unloaded pickles as a line of text and as JSON.

Idea: a line has room for so many characters, and every item gets a fair share of what is left. JSON shows a container
once, and refers to it wherever it stands again.

Invariant: both are bounded in depth, items and characters whatever the tree: as deep, wide, cyclic or shared as a
hostile pickle makes it. No text of a pickle reaches a line unescaped. Both are a glance, not an audit (a function shows
its name only): what loading would import is listed by `clearstone.codec.inert.names`.

Refused: ``repr`` of the tree (exponential in shared nodes); cutting the end off (the first item would take all room).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from clearstone.codec.known import view
from clearstone.codec.nodes import LEAVES, Aside, Key, Name, Node, Object, Unreadable
from clearstone.codec.views import View, dotted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

DEEPEST = 50
"""However deep a caller wants to look: both walks recurse, four calls a level."""


def render(node: Node, *, width: int = 160, max_items: int = 10, depth: int = 6) -> str:
    """Return one line that shows a tree.

    Args:
        node: what `clearstone.codec.inert.read` gave, or a part of it.
        width: how long the line may be.
        max_items: how many items to show of each container.
        depth: how many containers to look into, one within the other.

    Returns:
        At most `width` printable characters. What is left out is told as ``...``.
    """
    line = _Line(max_items).fit(node, width, min(depth, DEEPEST))
    return line if len(line) <= width else line[: max(width - 3, 0)] + "..."[:width]


def to_json(node: Node, *, depth: int = 20, max_items: int = 1_000, size: int = 1_000_000) -> Json:
    """Return a tree as what `json.dumps` takes.

    Plain values are themselves; so are lists, and dicts whose keys are short texts that do not begin with ``$``. All
    else is a dict whose keys do: ``$tuple``, ``$set``, ``$frozenset``, ``$dict`` (pairs), ``$bytes`` (their number),
    ``$int`` and ``$float`` (as text, where JSON would lose them), ``$str`` (the beginning of a long text), ``$name``,
    ``$type`` (an object, with ``$text`` or ``$args``, ``$attributes``, ...), ``$unreadable``, ``$discarded``. A
    container that is shown elsewhere is ``{"$ref": "#/path/to/it"}``, a JSON pointer into the result. ``$more`` tells
    how many items are left out, ``$cut`` that a whole container is.

    Args:
        node: what `clearstone.codec.inert.read` gave, or a part of it.
        depth: how many containers to look into, one within the other.
        max_items: how many items to take of each container.
        size: how many characters to spend in all, roughly.
    """
    return _Export(max_items, size).value(node, "#", min(depth, DEEPEST))


def type_name(node: Node) -> str:
    """Return the type of a node as ``module:qualname``, as far as it can be told without loading it."""
    if isinstance(node, Key):
        return type_name(node.value)
    return view(node).type_name if isinstance(node, Object) else f"builtins:{type(node).__name__}"


# --- what both show ---------------------------------------------------------------------------------------------------

LONGEST_INT = 256
"""Bits of a number that is written out."""
SHOWN_BYTES = 40
SORTED_SETS = 10_000
RANKED_BY_TEXT = 1_000


def _members(node: set[Node] | frozenset[Node]) -> Collection[Node]:
    """Return the members, in an order that does not depend on this process where that is cheap."""
    if len(node) > SORTED_SETS:
        return node
    by_text = len(node) <= RANKED_BY_TEXT
    return sorted(node, key=lambda member: _rank(member, by_text=by_text))


def _rank(member: Node, *, by_text: bool) -> tuple[str, int | float | str | bytes]:
    kind = type(member).__name__
    if isinstance(member, int | float | str | bytes):
        return kind, member
    return kind, _Line(3, in_order=False).fit(member, 60, 2) if by_text else ""


# --- a line ----------------------------------------------------------------------------------------------------------

READABLE = 24
"""Characters an item should have: rather fewer items than shorter ones."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """A container as text: ``opening label child, label child closing``."""

    opening: str
    closing: str
    count: int = 0
    entries: Iterable[tuple[Node, Node]] = ()
    between: str = ""


_NO_LABEL = object()
_NOTHING: Collection[Node] = ()


class _Line:
    """Writes a line; `open` are the containers it is in.

    Args:
        max_items: how many items of each container.
        in_order: whether to sort sets. (A line that a set is sorted by does not sort others.)
    """

    def __init__(self, max_items: int, *, in_order: bool = True) -> None:
        self.max_items = max_items
        self.in_order = in_order
        self.open: set[int] = set()

    def fit(self, node: Node, room: int, depth: int) -> str:
        """Return `node` in about `room` characters."""
        if isinstance(node, Key):
            return self.fit(node.value, room, depth)
        if isinstance(node, Name) or type(node) in LEAVES:
            return _leaf(node, room)
        if id(node) in self.open:
            return "<cycle>"
        self.open.add(id(node))
        text = self._joined(self._shape(node, room, depth), room, depth)
        self.open.discard(id(node))
        return text

    def _shape(self, node: Node, room: int, depth: int) -> _Shape:
        if isinstance(node, Object):
            return self._object(view(node), room, depth)
        if isinstance(node, dict):
            return _Shape("{", "}", len(node), node.items(), ": ")
        if isinstance(node, Unreadable):
            told = f"<unreadable at byte {node.offset}: {_escaped(node.reason)}"
            return _of(told + ("; so far: " if node.partial else ""), ">", node.partial)
        if isinstance(node, Aside):
            value = self.fit(node.value, room * 2 // 3, depth)
            return _of(f"{value} <and, thrown away: ", ">", node.discarded)
        return _sequence(node, in_order=self.in_order)

    def _object(self, seen: View, room: int, depth: int) -> _Shape:
        if seen.whole:
            return _Shape(_cut(seen.title, room), "")
        title = seen.title or (self.fit(seen.maker, room // 3, depth - 1) if depth > 0 else "...")
        arguments = ((_NO_LABEL, node) for node in chain.from_iterable(seen.positional))
        attributes = chain.from_iterable(part.items() for part in seen.named)
        count = sum(map(len, seen.positional)) + sum(map(len, seen.named))
        return _Shape(f"{_cut(title, room // 2)}(", ")", count, chain(arguments, attributes), "=")

    def _joined(self, shape: _Shape, room: int, depth: int) -> str:
        room -= len(shape.opening) + len(shape.closing)
        if not shape.count:
            return shape.opening + shape.closing
        if depth <= 0 or room < len("..."):
            return f"{shape.opening}...{shape.closing}"
        return f"{shape.opening}{', '.join(self._parts(shape, room, depth - 1))}{shape.closing}"

    def _parts(self, shape: _Shape, room: int, depth: int) -> list[str]:
        parts: list[str] = []
        for place, (label, child) in enumerate(islice(shape.entries, self.max_items)):
            left = shape.count - place
            spare = room - (len(", ... 999 more") if left > 1 else 0)
            slots = max(1, min(left, self.max_items - place, spare // READABLE))
            part = self._labelled(label, shape.between, spare // slots, depth)
            part += self.fit(child, spare // slots - len(part) - len(", "), depth)
            if parts and len(part) > spare:
                break
            parts.append(part)
            room -= len(part) + len(", ")
        hidden = shape.count - len(parts)
        return [*parts, f"... {hidden} more"] if hidden else parts

    def _labelled(self, label: Node, between: str, room: int, depth: int) -> str:
        if label is _NO_LABEL:
            return ""
        if between == "=" and isinstance(label, str) and label.isidentifier() and label.isprintable():
            return _cut(label, room) + between
        return self.fit(label, room // 2, depth) + between


def _of(opening: str, closing: str, nodes: Collection[Node]) -> _Shape:
    return _Shape(opening, closing, len(nodes), ((_NO_LABEL, node) for node in nodes))


def _sequence(node: Node, *, in_order: bool) -> _Shape:
    members = _members(node) if in_order and isinstance(node, set | frozenset) else _NOTHING
    match node:
        case list():
            return _of("[", "]", node)
        case tuple():
            return _of("(", ",)" if len(node) == 1 else ")", node)
        case set():
            return _of("{", "}", members or node) if node else _Shape("set()", "")
        case frozenset():
            return _of("frozenset({", "})", members or node) if node else _Shape("frozenset()", "")
    return _Shape(f"<{type(node).__name__}>", "")


def _leaf(node: Node, room: int) -> str:
    match node:
        case str():
            return _quoted(node, room)
        case bytes() | bytearray() if len(node) > SHOWN_BYTES:
            return f"<{type(node).__name__} of {len(node)}>"
        case int() if node.bit_length() > LONGEST_INT:
            return f"<int of {node.bit_length()} bits>"
        case Name():
            return _cut(dotted(node.key), room)
    return repr(node)


def _quoted(text: str, room: int) -> str:
    """Return a text as Python writes it, which escapes all that is not printable."""
    room = max(room, len("'abcde...'"))
    whole = repr(text[:room])
    if len(text) <= room and len(whole) <= room:
        return whole
    return whole[: room - len("...'")] + "..." + whole[0]


def _cut(text: str, room: int) -> str:
    room = max(room, len("abcdefgh..."))
    return text if len(text) <= room else text[: room - len("...")] + "..."


def _escaped(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


# --- JSON ------------------------------------------------------------------------------------------------------------

EXACT_INT = 1 << 53
"""JSON's readers hold numbers as floats, exact up to here."""
LONGEST_TEXT = 20_000
LONGEST_KEY = 200
NODE_COST = 8


class _Export:
    """Writes JSON; `paths` tells where each container stands.

    Args:
        max_items: how many items of each container.
        size: how many characters to spend.
    """

    def __init__(self, max_items: int, size: int) -> None:
        self.max_items = max_items
        self.left = size
        self.paths: dict[int, str] = {}

    def value(self, node: Node, path: str, depth: int) -> Json:
        """Return `node`, which will stand at `path`."""
        self.left -= NODE_COST
        if isinstance(node, Key):
            return self.value(node.value, path, depth)
        if isinstance(node, Name):
            return {"$name": node.key}
        if type(node) in LEAVES:
            return self._leaf(node)
        if id(node) in self.paths:
            self.left -= len(self.paths[id(node)])
            return {"$ref": self.paths[id(node)]}
        return self._container(node, path, depth - 1)

    def _container(self, node: Node, path: str, depth: int) -> Json:
        seen = view(node) if isinstance(node, Object) else None
        if seen and seen.whole:
            return {"$type": seen.type_name, "$text": seen.title}
        if depth < 0 or self.left <= 0:
            return {"$cut": type_name(node)}
        if seen or node:
            self.paths[id(node)] = path
        return self._object(seen, path, depth) if seen else self._builtin(node, path, depth)

    def _builtin(self, node: Node, path: str, depth: int) -> Json:
        match node:
            case list():
                return self._items(node, len(node), path, depth)
            case dict():
                return self._pairs(node.items(), len(node), path, depth)
            case Unreadable(reason, offset, ()):
                return {"$unreadable": reason, "$offset": offset}
        return self._marked(node, path, depth)

    def _marked(self, node: Node, path: str, depth: int) -> dict[str, Json]:
        told: dict[str, Json] = {}
        name, held = f"${type(node).__name__}", _NOTHING
        match node:
            case tuple():
                held = node
            case set() | frozenset():
                held = _members(node)
            case Aside(value, discarded):
                told, name, held = {"$value": self.value(value, f"{path}/$value", depth)}, "$discarded", discarded
            case Unreadable(reason, offset, partial):
                told, name, held = {"$unreadable": reason, "$offset": offset}, "$partial", partial
        return {**told, name: self._items(held, len(held), f"{path}/{name}", depth)}

    def _object(self, seen: View, path: str, depth: int) -> Json:
        told: dict[str, Json] = {"$call" if seen.call else "$type": seen.type_name}
        if not seen.title:
            told["$maker"] = self.value(seen.maker, f"{path}/$maker", depth)
        if count := sum(map(len, seen.positional)):
            told["$args"] = self._items(chain.from_iterable(seen.positional), count, f"{path}/$args", depth)
        if count := sum(map(len, seen.named)):
            pairs = chain.from_iterable(part.items() for part in seen.named)
            told["$attributes"] = self._pairs(pairs, count, f"{path}/$attributes", depth)
        return told

    def _items(self, nodes: Iterable[Node], count: int, path: str, depth: int) -> list[Json]:
        shown: list[Json] = []
        for place, node in enumerate(islice(nodes, self.max_items)):
            if self.left <= 0:
                break
            shown.append(self.value(node, f"{path}/{place}", depth))
        hidden = count - len(shown)
        return [*shown, {"$more": hidden}] if hidden else shown

    def _pairs(self, pairs: Iterable[tuple[Node, Node]], count: int, path: str, depth: int) -> dict[str, Json]:
        shown = list(islice(pairs, self.max_items))
        names = [key for key, _ in shown if _is_plain(key)]
        if len(set(names)) < len(shown):
            return {"$dict": self._both(shown, count, f"{path}/$dict", depth)}
        told: dict[str, Json] = {}
        for name, (_, node) in zip(names, shown, strict=True):
            if self.left <= 0:
                break
            self.left -= len(name)
            told[name] = self.value(node, f"{path}/{name.replace('~', '~0').replace('/', '~1')}", depth)
        return {**told, "$more": count - len(told)} if count > len(told) else told

    def _both(self, pairs: list[tuple[Node, Node]], count: int, path: str, depth: int) -> list[Json]:
        shown: list[Json] = []
        for place, pair in enumerate(pairs):
            if self.left <= 0:
                break
            shown.append([self.value(node, f"{path}/{place}/{side}", depth) for side, node in enumerate(pair)])
        hidden = count - len(shown)
        return [*shown, {"$more": hidden}] if hidden else shown

    def _leaf(self, node: Node) -> Json:
        match node:
            case str():
                return self._text(node)
            case bytes() | bytearray():
                return {f"${type(node).__name__}": len(node), "$hex": node[:SHOWN_BYTES].hex()}
            case int() if abs(node) > EXACT_INT:
                bits = node.bit_length()
                return {"$int": str(node) if bits <= LONGEST_INT else f"{bits} bits"}
            case float() if not math.isfinite(node):
                return {"$float": repr(node)}
            case None | int() | float():
                return node
        return {"$complex": repr(node)}

    def _text(self, text: str) -> Json:
        length = min(len(text), LONGEST_TEXT, max(self.left, LONGEST_KEY))
        self.left -= length
        return text if length == len(text) else {"$str": text[:length], "$length": len(text)}


def _is_plain(key: Node) -> TypeGuard[str]:
    return isinstance(key, str) and len(key) <= LONGEST_KEY and not key.startswith("$")
