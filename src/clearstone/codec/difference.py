"""What is different between two values that are not loaded, by path.

Idea: both are trees of nodes (`clearstone.codec.inert`). Every subtree gets a digest of its content, so that equal ones
are passed over at once, and items of a list are found again by it: those that stayed in order, those that moved, and
between them those that were added, removed or changed in place.

Invariant: nothing is loaded, and no value of the user's is compared by its own ``==``. Two values without a difference
have the same types, values and order, but for which parts are one object. Cycles and depth are bounded: what is deeper
than `DEEPEST` is compared too, and told as one difference.

Refused: a diff of lines of text (a long message is one line, and a moved one is two changes).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import defaultdict, deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from clearstone.codec import known, show
from clearstone.codec.nodes import LEAVES, Key, Name, Node, Object, children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

DEEPEST = 100

Kind = Literal["added", "removed", "changed", "moved"]
NOTHING: Any = object()

WIDTH = 60
"""Characters of a value that are shown."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference.

    Args:
        kind: what happened on the way from the first value to the second.
        path: where: in the second value, of what was removed in the first.
        before: what was there; `NOTHING` for what was added.
        after: what is there now; `NOTHING` for what was removed.
        moved_from: the path it had; empty unless it moved.
    """

    kind: Kind
    path: str
    before: Node = NOTHING
    after: Node = NOTHING
    moved_from: str = ""

    @property
    def shown(self) -> tuple[str, str]:
        """Both values in short, texts from where they differ; empty for one that is not there."""
        values = self.before, self.after
        if all(isinstance(each, str | bytes) for each in values):
            values = _from_where_they_differ(*values)
        before, after = ("" if each is NOTHING else show.render(each, width=WIDTH) for each in values)
        return before, after

    def __str__(self) -> str:
        before, after = self.shown
        if self.kind == "moved":
            return f"moved {self.moved_from} -> {self.path}: {after}"
        if self.kind == "changed":
            return f"changed {self.path}: {before} -> {after}"
        return f"{self.kind} {self.path}: {before or after}"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-ready values: ``{"kind", "path"}``, with ``before``, ``after``, ``from`` where there is."""
        found: dict[str, Any] = {"kind": self.kind, "path": self.path}
        if self.moved_from:
            found["from"] = self.moved_from
        if self.before is not NOTHING:
            found["before"] = show.to_json(self.before)
        if self.after is not NOTHING:
            found["after"] = show.to_json(self.after)
        return found


def _from_where_they_differ(before: Any, after: Any) -> tuple[Any, Any]:
    """Cut from two texts the beginning that they share, where nothing else of them would be shown."""
    at = next((at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), 0)
    if type(before) is not type(after) or at < WIDTH // 2:
        return before, after
    more = "..." if isinstance(before, str) else b"..."
    return more + before[at - WIDTH // 4 :], more + after[at - WIDTH // 4 :]


def differences(before: Node, after: Node, path: str = "") -> Iterator[Difference]:
    """Give the differences between two values, in the order of the second's paths.

    Args:
        before: the first.
        after: the second.
        path: how both are called.
    """
    yield from _Comparison().between(before, after, path)


class _Comparison:
    def __init__(self) -> None:
        self._tokens: dict[int, bytes] = {}
        self._kept: list[Node] = []  # an id is its node's as long as that lives
        self._open: dict[int, int] = {}  # nodes that are being read, and how deep
        self._compared: set[tuple[int, int]] = set()

    def between(self, before: Node, after: Node, path: str, depth: int = 0) -> Iterator[Difference]:
        if self._token(before) == self._token(after):
            return
        one, other = (_parts(each) for each in (before, after))
        if one is None or other is None or one.kind != other.kind or depth > DEEPEST:
            yield Difference("changed", path, before, after)
            return
        if (id(before), id(after)) in self._compared:  # met before, by another way or on this one
            return
        self._compared.add((id(before), id(after)))
        yield from self._items(one.items, other.items, path, depth)
        yield from self._named(one, other, path, depth)
        if one.in_order and one.named.keys() == other.named.keys() and list(one.named) != list(other.named):
            yield Difference("changed", f"{path} (the order of its keys)", before, after)

    def _named(self, one: _Parts, other: _Parts, path: str, depth: int) -> Iterator[Difference]:
        for name, value in one.named.items():
            if name not in other.named:
                yield Difference("removed", f"{path}{one.label(name)}", before=value)
        for name, value in other.named.items():
            where = f"{path}{other.label(name)}"
            if name in one.named:
                yield from self.between(one.named[name], value, where, depth + 1)
            else:
                yield Difference("added", where, after=value)

    def _items(self, before: Sequence[Node], after: Sequence[Node], path: str, depth: int) -> Iterator[Difference]:
        """Compare between items that are the same in both: what moved aside, the others are taken in pairs."""
        one, other = list(map(self._token, before)), list(map(self._token, after))
        same = _in_place(one, other)
        moved = _moved(one, other, same)
        away = set(moved.values())
        for (old, new), (old_end, new_end) in pairwise([(-1, -1), *same, (len(one), len(other))]):
            left = deque(each for each in range(old + 1, old_end) if each not in away)
            for place in range(new + 1, new_end):
                where = f"{path}[{place}]"
                if place in moved:
                    item = after[place]
                    yield Difference("moved", where, item, item, moved_from=f"{path}[{moved[place]}]")
                elif left:
                    yield from self.between(before[left.popleft()], after[place], where, depth + 1)
                else:
                    yield Difference("added", where, after=after[place])
            for place in left:
                yield Difference("removed", f"{path}[{place}]", before=before[place])

    # --- tokens ------------------------------------------------------------------------------------------------------

    def _token(self, node: Node, depth: int = 0) -> bytes:
        """Return bytes that tell everything in `node`, types and order included: a digest, or a plain value itself."""
        if type(node) in LEAVES:
            return _leaf(node)
        token = self._tokens.get(id(node))
        if token is not None:
            return token
        if id(node) in self._open:  # a cycle: it is told by where it closes
            return b"again %d" % (depth - self._open[id(node)])
        if depth > DEEPEST:
            return _flat(node)
        self._open[id(node)] = depth
        try:
            token = self._digest(node, depth)
        finally:
            del self._open[id(node)]
        self._tokens[id(node)] = token
        self._kept.append(node)
        return token

    def _digest(self, node: Node, depth: int) -> bytes:
        parts = _parts(node)
        if parts is None:  # it reads as one word, which need not say all of it
            return _flat(node)
        found = [parts.kind.encode("utf-8", "surrogatepass"), b"("]
        found += [self._token(item, depth + 1) for item in parts.items]
        named = [_sized(_bytes_of(name)) + self._token(value, depth + 1) for name, value in parts.named.items()]
        found += named if parts.in_order else sorted(named)
        return hashlib.blake2b(b",".join(found), digest_size=16).digest()


def _flat(root: Node) -> bytes:
    """Return a digest of everything below a node, however deep, in the order it is met; each node once."""
    whole, left = hashlib.blake2b(digest_size=16), [root]
    numbers: dict[int, int] = {}
    while left:
        node = left.pop()
        if type(node) in LEAVES:
            whole.update(_leaf(node))
            continue
        if id(node) in numbers:
            whole.update(b"again %d" % numbers[id(node)])
            continue
        numbers[id(node)] = len(numbers)
        held = list(_ordered(node) if isinstance(node, set | frozenset) else children(node))
        name = node.key if isinstance(node, Name) else node.origin if isinstance(node, Object) else ""
        whole.update(f"{type(node).__name__} {name} {len(held)}(".encode("utf-8", "surrogatepass"))
        left.extend(reversed(held))
    return whole.digest()


def _bytes_of(name: Any) -> bytes:
    return name[1] if type(name) is tuple else str(name).encode("utf-8", "surrogatepass")


def _leaf(node: Any) -> bytes:
    if type(node) is str:
        return b"s" + _sized(node.encode("utf-8", "surrogatepass"))
    if type(node) in {bytes, bytearray}:
        return type(node).__name__.encode() + _sized(bytes(node))
    return f"{type(node).__name__} {node!r}".encode()


def _sized(data: bytes) -> bytes:
    return b"%d:%b" % (len(data), data)


# --- what a node is made of ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Parts:
    """A container or object: its items in order, and those with a name.

    Args:
        kind: its type; of two kinds nothing inside is compared.
        items: by place.
        named: by key or attribute.
        label: how a name reads in a path.
        in_order: whether the order of names counts.
    """

    kind: str
    items: Sequence[Node]
    named: dict[Any, Node]
    label: Callable[[Any], str] = str
    in_order: bool = False


def _parts(node: Node) -> _Parts | None:
    """Return what a node holds; None for one that is compared as a whole."""
    kind = type(node).__name__
    if isinstance(node, list | tuple):
        return _Parts(kind, node, {})
    if isinstance(node, dict):
        return _Parts(kind, (), dict(_by_content(node.items())), _key, in_order=True)
    if isinstance(node, set | frozenset):
        return _Parts(kind, (), {("member", _flat(each), _read(each)): each for each in _ordered(node)}, _member)
    view = known.view(node) if isinstance(node, Object) else None
    if view is None or view.whole:
        return None
    named = {name: value for part in view.named for name, value in _by_content(part.items())}
    items = [each for part in view.positional for each in part]
    return _Parts(f"{view.type_name} {view.title}", items, named, _attribute)


def _key(name: Any) -> str:
    """A key that is no text is a mark, its digest and how it reads (see `_by_content`)."""
    return f"[{name[2] if type(name) is tuple else show.render(name, width=60)}]"


def _attribute(name: Any) -> str:
    text = str(name[2] if type(name) is tuple else name)
    return f".{text}" if text.isprintable() else f".{text!r}"


def _member(name: Any) -> str:
    return f"{{{name[2]}}}"


def _read(node: Node) -> str:
    return show.render(node, width=60)


def _by_content(pairs: Iterable[tuple[Node, Node]]) -> Iterator[tuple[Any, Node]]:
    """Give pairs under keys that two trees have in common: a node equals itself alone, and 1 equals True."""
    for key, value in pairs:
        plain = key.value if isinstance(key, Key) else key
        yield (plain if type(plain) is str else ("key", _flat(plain), _read(plain))), value


def _ordered(members: Iterable[Node]) -> list[Node]:
    return sorted(members, key=lambda each: (type(each).__name__, show.render(each, width=1000)))


# --- which item is which ---------------------------------------------------------------------------------------------


def _in_place(one: Sequence[bytes], other: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return pairs of places of equal items that are in the same order in both.

    They are those at both ends, and between these the longest run of items that are in each once.
    """
    start, ends = 0, (len(one), len(other))
    while start < min(ends) and one[start] == other[start]:
        start += 1
    tail = 0
    while tail < min(ends) - start and one[-1 - tail] == other[-1 - tail]:
        tail += 1
    pairs = [(place, place) for place in range(start)]
    middle = _increasing(_unique_pairs(one, other, start, tail))
    return pairs + middle + [(ends[0] - back, ends[1] - back) for back in range(tail, 0, -1)]


def _unique_pairs(one: Sequence[bytes], other: Sequence[bytes], start: int, tail: int) -> list[tuple[int, int]]:
    places: dict[bytes, list[int]] = defaultdict(list)
    for place in range(start, len(one) - tail):
        places[one[place]].append(place)
    again: dict[bytes, list[int]] = defaultdict(list)
    for place in range(start, len(other) - tail):
        again[other[place]].append(place)
    once = (each for each, new in again.items() if len(new) == 1 and len(places.get(each, ())) == 1)
    return sorted(((places[each][0], again[each][0]) for each in once), key=lambda pair: pair[1])


def _increasing(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest run of pairs whose first numbers grow too (they come in the order of their second ones)."""
    tops: list[int] = []  # of runs by length: the least last number
    last: list[int] = []  # which pair that is
    before: list[int] = []
    for number, (old, _) in enumerate(pairs):
        length = bisect_left(tops, old)
        before.append(last[length - 1] if length else -1)
        tops[length : length + 1] = [old]
        last[length : length + 1] = [number]
    found, at = [], last[-1] if last else -1
    while at >= 0:
        found.append(pairs[at])
        at = before[at]
    return found[::-1]


def _moved(one: Sequence[bytes], other: Sequence[bytes], same: list[tuple[int, int]]) -> dict[int, int]:
    """Return where in `one` an item was that is elsewhere in `other`, by its place there; the first of each first."""
    stay = {old for old, _ in same}
    waiting: dict[bytes, deque[int]] = defaultdict(deque)
    for old, token in enumerate(one):
        if old not in stay:
            waiting[token].append(old)
    found, arrived = {}, {new for _, new in same}
    for new, token in enumerate(other):
        if new not in arrived and waiting.get(token):
            found[new] = waiting[token].popleft()
    return found
