"""Digests of values, by which a recorded call with the same arguments is found without comparing it with each.

Idea: two of them. `quick` is the hash of what the C pickler writes without a memo, where a value consists of builtins
alone: it costs ten microseconds for a chat history, and equal digests mean equal values. `canonical` walks the value as
`clearstone.replay.compare` does, so that any two values without a difference have the same one; it is asked where the
quick one finds nothing (sets and dicts in another order, objects).

Invariant: no ``__eq__`` and no ``__hash__`` of a user's is called, and aliases do not count. The walk ends on cycles
and needs none of the caller's stack (`clearstone.replay.walking`).

Refused: digests of pickles as they were recorded (equal values pickle differently: memo, order of sets), ``hash()``.
"""

from __future__ import annotations

import math
import pickle
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone.codec.exceptions import Unpicklable
from clearstone.codec.renames import todays_dotted
from clearstone.replay import compare
from clearstone.replay.walking import walked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clearstone.replay.walking import Walk

SIZE = 16

LARGEST = 16 << 20
"""Bytes of a value that has a quick digest."""


class Digest(NamedTuple):
    """What `canonical` gives: the digest, and whether the value holds a part that is known by its type alone."""

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
    digest: bytes = sink.hash.digest()
    return digest[:SIZE]


class _Sink:
    """What a pickler writes, hashed: most values come in one piece."""

    __slots__ = ("hash", "size")

    def __init__(self) -> None:
        self.hash: Any = None
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > LARGEST:  # without a memo, what is made of one part over and over would be written for ever
            raise _NotPlain
        if self.hash is None:
            self.hash = sha256(data)
        else:
            self.hash.update(data)


class _NotPlain(Exception):  # noqa: N818 - never leaves this file
    """Something is no builtin."""


class _Quick(pickle.Pickler):
    def reducer_override(self, _: Any) -> Any:
        raise _NotPlain


def canonical(value: Any) -> Digest:
    """Return the digest that all values have which `compare.difference` does not tell from this one."""
    parts = _Parts()
    return Digest(_hashed("", [walked(parts.of(value, 0))]), parts.is_opaque)


class _Parts:
    def __init__(self) -> None:
        self.is_opaque = False
        self._known: dict[int, tuple[Any, bytes]] = {}  # keeps each alive, so that its id stays its own
        self._above: dict[int, int] = {}

    def of(self, value: Any, depth: int) -> Walk[bytes]:
        kind = type(value)
        if kind in compare.ATOMS:
            return _MARKS[kind] + _atom(value)
        if kind is Unpicklable:
            return self._opaque(todays_dotted(value.type_name))
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        if id(value) in self._above:
            return _hashed("above", [b"%d" % (len(self._above) - self._above[id(value)])])
        if depth > compare.DEEPEST:
            return self._opaque(compare.dotted_name(kind))
        self._above[id(value)] = len(self._above)
        try:
            found: bytes = yield self._inside(value, kind, depth + 1)
        finally:
            del self._above[id(value)]
        self._known[id(value)] = value, found
        return found

    def _opaque(self, name: str) -> bytes:
        self.is_opaque = True
        return _hashed("opaque", [name.encode()])

    def _inside(self, value: Any, kind: type, depth: int) -> Walk[bytes]:
        if kind is list or kind is tuple or kind is set or kind is frozenset:
            parts = []
            for each in list(value):
                parts.append((yield self.of(each, depth)))  # noqa: PERF401 - a comprehension cannot yield
            return _hashed(kind.__name__, parts if kind is list or kind is tuple else sorted(parts))
        if kind is dict:
            pairs = []
            for name, each in list(value.items()):
                key: bytes = yield self.of(name, depth)
                pairs.append(_hashed("pair", [key, (yield self.of(each, depth))]))
            return _hashed("dict", sorted(pairs))
        if issubclass(kind, compare.NAMED):
            inside: bytes = yield self.of(compare.closure_of(value), depth)
            return _hashed("named", [*(each.encode() for each in compare.names_of(value)), inside])
        try:
            content = compare.parts_of(value)
        except Exception:  # as there: what pickling refuses is known by its type alone
            return self._opaque(compare.dotted_name(kind))
        content_digest: bytes = yield self.of(content, depth)
        return _hashed(compare.name_of(kind), [content_digest])


def _atom(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, float):
        return b"nan" if math.isnan(value) else repr(value + 0.0).encode()  # -0.0 is 0.0
    if isinstance(value, complex):
        return _atom(value.real) + b"," + _atom(value.imag)
    if isinstance(value, int):
        return b"%x" % value  # in decimals a long one is refused
    return bytes(value) if isinstance(value, bytes | bytearray) else repr(value).encode()


_MARKS = {kind: f"{compare.name_of(kind)}:".encode() for kind in compare.ATOMS}


def _hashed(kind: str, parts: Iterable[bytes]) -> bytes:
    whole = [kind.encode(), *(part for each in parts for part in (b":%d:" % len(each), each))]
    return blake2b(b"".join(whole), digest_size=SIZE).digest()
