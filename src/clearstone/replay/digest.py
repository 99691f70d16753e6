"""Digests of values, by which a recorded call with the same arguments is found without comparing it with each.

Idea: two of them. `quick` is the hash of what the C pickler writes without a memo, where a value consists of builtins
alone: it costs ten microseconds for a chat history, and equal digests mean equal values. `canonical` walks the value as
`clearstone.replay.compare` does, so that any two values without a difference have the same one; it is asked where the
quick one finds nothing (sets and dicts in another order, objects).

Invariant: no ``__eq__`` and no ``__hash__`` of a user's is called, aliases do not count, and the walk ends on cycles.

Refused: digests of pickles as they were recorded (equal values pickle differently: memo, order of sets), ``hash()``.
"""

from __future__ import annotations

import math
import pickle
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone.codec.exceptions import Unpicklable
from clearstone.replay import compare

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZE = 16

LARGEST = 16 << 20
"""Bytes of a value that has a quick digest."""


class Digest(NamedTuple):
    """What `canonical` gives: the digest, and whether the value holds a part that was not recorded."""

    value: bytes
    is_opaque: bool


def quick(value: Any) -> bytes | None:
    """Return the quick digest of a value; None where something in it is no builtin, or it is very large or circular."""
    sink = _Sink()
    pickler = _Quick(sink, 5)
    pickler.fast = True  # no memo: an alias is written like a copy
    try:
        pickler.dump(value)
    except (_NotPlain, ValueError, RecursionError, pickle.PicklingError):
        return None
    return sink.hash.digest()[:SIZE]


class _Sink:
    """What a pickler writes, hashed."""

    def __init__(self) -> None:
        self.hash = sha256()
        self._size = 0

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > LARGEST:  # without a memo, what is made of one part over and over would be written for ever
            raise _NotPlain
        self.hash.update(data)


class _NotPlain(Exception):  # noqa: N818 - never leaves this file
    """Something is no builtin."""


class _Quick(pickle.Pickler):
    def reducer_override(self, _: Any) -> Any:
        raise _NotPlain


def canonical(value: Any) -> Digest:
    """Return the digest that all values have which `compare.difference` does not tell from this one."""
    walk = _Walk()
    return Digest(_hashed("", [walk.of(value, 0)]), walk.is_opaque)


class _Walk:
    def __init__(self) -> None:
        self.is_opaque = False
        self._known: dict[int, tuple[Any, bytes]] = {}  # keeps each alive, so that its id stays its own
        self._above: dict[int, int] = {}

    def of(self, value: Any, depth: int) -> bytes:
        kind = type(value)
        if kind in compare.ATOMS:
            return _MARKS[kind] + _atom(value)
        if kind is Unpicklable:
            self.is_opaque = True
            return _hashed("opaque", [value.type_name.encode()])
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        if id(value) in self._above:
            return _hashed("above", [b"%d" % (len(self._above) - self._above[id(value)])])
        if depth > compare.DEEPEST:
            return _hashed("deep", [compare.name_of(kind).encode()])
        self._above[id(value)] = len(self._above)
        try:
            found = self._inside(value, kind, depth + 1)
        finally:
            del self._above[id(value)]
        self._known[id(value)] = value, found
        return found

    def _inside(self, value: Any, kind: type, depth: int) -> bytes:
        if kind is list or kind is tuple:
            return _hashed(kind.__name__, [self.of(each, depth) for each in value])
        if kind is dict:
            return self._dict(value, depth)
        if kind is set or kind is frozenset:
            return _hashed(kind.__name__, sorted(self.of(each, depth) for each in value))
        if isinstance(value, compare.NAMED):
            return _hashed("named", [each.encode() for each in compare.names_of(value)])
        return self._object(value, kind, depth)

    def _dict(self, value: dict[Any, Any], depth: int) -> bytes:
        pairs: Iterable[bytes] = (self.of(name, depth) + self.of(each, depth) for name, each in list(value.items()))
        return _hashed("dict", sorted(pairs) if compare.are_plain(value) else list(pairs))

    def _object(self, value: Any, kind: type, depth: int) -> bytes:
        try:
            inside = compare.parts_of(value)
        except Exception:  # as there: what pickling refuses is known by its type alone
            self.is_opaque = True
            return _hashed("opaque", [compare.name_of(kind).encode()])
        return _hashed(compare.name_of(kind), [self.of(inside, depth)])


def _atom(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, float):
        return b"nan" if math.isnan(value) else repr(value + 0.0).encode()  # -0.0 is 0.0
    if isinstance(value, complex):
        return _atom(value.real) + b"," + _atom(value.imag)
    return bytes(value) if isinstance(value, bytes | bytearray) else repr(value).encode()


_MARKS = {kind: f"{compare.name_of(kind)}:".encode() for kind in compare.ATOMS}


def _hashed(kind: str, parts: Iterable[bytes]) -> bytes:
    whole = [kind.encode(), *(part for each in parts for part in (b":%d:" % len(each), each))]
    return blake2b(b"".join(whole), digest_size=SIZE).digest()
