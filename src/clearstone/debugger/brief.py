"""Values in a few words, the same in every process: what two runs are compared by, line for line.

Idea: plain values say what they are, long ones their beginning and a checksum; a set is told in the order of its texts.
Any other object is told by its type: its repr is its own code, and often an address.

Invariant: no code of the user's is run, and what it takes does not depend on how large a value is, but for the checksum
of a text.
"""

from __future__ import annotations

import datetime
import decimal
import types
import uuid
import zlib
from itertools import islice
from typing import TYPE_CHECKING, Any

from clearstone.codec.exceptions import type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WIDTH, ITEMS, DEPTH = 60, 8, 2
MOST_MEMBERS = 100
"""Of a larger set the size alone is told: its order is not to be seen."""

_MOST_BITS = 400


def brief(value: Any, depth: int = 0) -> str:
    """Return what a value is, in one line."""
    show = _SHOWN.get(type(value))
    if show is not None:
        return show(value)
    inside = _INSIDE.get(type(value))
    if inside is None:
        return f"<{type_name(type(value))}>"
    try:
        return inside(value, depth) if depth < DEPTH else f"<{type(value).__name__} of {len(value)}>"
    except RuntimeError:  # another thread changes it just now
        return f"<{type(value).__name__} that changes>"


def _integer(value: int) -> str:
    if value.bit_length() <= _MOST_BITS:
        return repr(value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return f"<int of {value.bit_length()} bits, {zlib.crc32(data):08x}>"


def _text(value: str) -> str:
    if len(value) <= WIDTH:
        return repr(value)
    checksum = zlib.crc32(value.encode("utf-8", "surrogatepass"))
    return f"{value[:WIDTH]!r}... ({len(value)} characters, {checksum:08x})"


def _bytes(value: bytes | bytearray) -> str:
    short = bytes(value[:WIDTH])
    return repr(short) if len(value) <= WIDTH else f"{short!r}... ({len(value)} bytes, {zlib.crc32(value):08x})"


def _function(value: Any) -> str:
    return f"<function {value.__qualname__}>"


def _items(opening: str, closing: str) -> Callable[[Any, int], str]:
    def shown(value: Any, depth: int) -> str:
        return _joined(opening, (brief(each, depth + 1) for each in value[:ITEMS]), len(value), closing)

    return shown


def _pairs(value: dict[Any, Any], depth: int) -> str:
    held = list(islice(value.items(), ITEMS))
    return _joined("{", (f"{brief(key, depth + 1)}: {brief(each, depth + 1)}" for key, each in held), len(value), "}")


def _members(value: set[Any] | frozenset[Any], depth: int) -> str:
    if len(value) > MOST_MEMBERS:
        return f"<{type(value).__name__} of {len(value)}>"
    texts = sorted(brief(each, depth + 1) for each in tuple(value))
    return _joined(f"{type(value).__name__}(", texts[:ITEMS], len(value), ")")


def _joined(opening: str, texts: Iterable[str], count: int, closing: str) -> str:
    more = f", ... ({count})" if count > ITEMS else ""
    return f"{opening}{', '.join(texts)}{more}{closing}"


_SHOWN: dict[type, Callable[[Any], str]] = {
    int: _integer,
    str: _text,
    bytes: _bytes,
    bytearray: _bytes,
    type: lambda value: f"<class {type_name(value)}>",
    types.FunctionType: _function,
    datetime.datetime: lambda value: repr(value.replace(tzinfo=None)),  # a time zone may be of the user's class
    **dict.fromkeys(
        (
            bool, float, complex, type(None), type(...), uuid.UUID, decimal.Decimal, datetime.date, datetime.timedelta,
            range,
        ),
        repr,
    ),
}  # fmt: skip

_INSIDE: dict[type, Callable[[Any, int], str]] = {
    list: _items("[", "]"),
    tuple: _items("(", ")"),
    dict: _pairs,
    set: _members,
    frozenset: _members,
}
