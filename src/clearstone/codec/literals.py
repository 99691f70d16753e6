"""The builtin values of a pickle: how bytes become values, and the few calls whose result is a builtin value anyway.

Idea: old protocols have no opcode for bytes, sets or complex numbers, and write a call that makes them. Those calls are
known by name and shape, so their result is made here.

Invariant: a decoder returns a builtin value or raises ValueError. A call is made by this file's own code, from builtin
values, and is paid for in the machine's limits; whatever deviates in name or shape stays an `Object`.

Refused: `codecs.escape_decode` and `ast.literal_eval`, which warn about escapes they do not know.
"""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from clearstone.codec.machine import Machine, keys
from clearstone.codec.nodes import Name, Node, Object

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_NUMBER = 5_000
"""Digits of a number written as text; Python itself refuses more than 4,300."""

# --- bytes -----------------------------------------------------------------------------------------------------------


def text(raw: bytes) -> str:
    """Decode UTF-8, lone surrogates included."""
    return raw.decode("utf-8", "surrogatepass")


def ascii_text(raw: bytes) -> str | bytes:
    """Decode a text of Python 2; what is not ASCII stays bytes, as its encoding is not known."""
    return raw.decode("ascii") if raw.isascii() else raw


def escaped_text(raw: bytes) -> str:
    r"""Decode a text of protocol 0, in which only ``\u`` escapes."""
    return codecs.raw_unicode_escape_decode(raw)[0]


def quoted_text(raw: bytes) -> str | bytes:
    """Decode a quoted text of Python 2, with its escapes."""
    if len(raw) < len("''") or raw[0] != raw[-1] or raw[:1] not in {b"'", b'"'}:
        raise ValueError("a text without its quotes")
    return ascii_text(_ESCAPE.sub(_unescaped, raw[1:-1]))


_ESCAPE = re.compile(rb"""\\([\\'"abfnrtv]|[0-7]{1,3}|x[0-9a-fA-F]{2})""")
_ESCAPED = dict(zip(b"\\'\"abfnrtv", b"\\'\"\a\b\f\n\r\t\v", strict=True))


def _unescaped(found: re.Match[bytes]) -> bytes:
    escape = found[1]
    if escape[0] in _ESCAPED:
        return bytes([_ESCAPED[escape[0]]])
    return bytes([int(escape[1:], 16) if escape.startswith(b"x") else int(escape, 8) & 0xFF])


def binary_int(raw: bytes) -> int:
    """Decode a little-endian number of any length."""
    return int.from_bytes(raw, "little", signed=True)


def decimal_int(raw: bytes) -> int:
    """Decode an integer literal, with or without Python 2's ``L``."""
    return int(_short(raw).removesuffix(b"L"), 0)


def decimal_int_or_bool(raw: bytes) -> int:
    """Decode an integer literal; ``00`` and ``01`` are False and True."""
    return raw == b"01" if raw in {b"00", b"01"} else decimal_int(raw)


def decimal_float(raw: bytes) -> float:
    """Decode a float literal."""
    return float(_short(raw))


def memo_index(raw: bytes) -> int:
    """Decode the number of a memo entry."""
    return int(_short(raw))


def _short(raw: bytes) -> bytes:
    """Return the digits. As a C string, they end at a zero byte: the C loader reads on after such a line."""
    if len(raw) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(raw)} digits")
    return raw.partition(b"\0")[0]


# --- calls -----------------------------------------------------------------------------------------------------------


def called(m: Machine, maker: Node, args: Node) -> Node:
    """Return what ``maker(*args)`` stands for: a builtin value where that is known, else an `Object`."""
    rebuild = _REBUILT.get(maker.key) if isinstance(maker, Name) else None
    if rebuild is None or not isinstance(args, tuple):
        return Object(maker, args)
    m.count(len(args))
    built = rebuild(m, args)
    return Object(maker, args) if built is None else built


def _encoded(m: Machine, args: tuple[Node, ...]) -> Node:
    """How protocols 0 to 2 write bytes."""
    match args:
        case (str(latin), "latin1" | "latin-1") if m.affords(len(latin)):
            with suppress(UnicodeEncodeError):
                return latin.encode("latin-1")
    return None


def _bytes(_: Machine, args: tuple[Node, ...]) -> Node:
    match args:
        case ():
            return b""
        case (bytes(raw),):
            return raw
    return None


def _bytearray(m: Machine, args: tuple[Node, ...]) -> Node:
    raw = _encoded(m, args) or _bytes(m, args)
    return bytearray(raw) if isinstance(raw, bytes) and m.affords(len(raw)) else None


def _set(m: Machine, args: tuple[Node, ...]) -> Node:
    match args:
        case (list(items),):
            m.count(len(items))
            return set(keys(items, 0))
    return None


def _frozenset(m: Machine, args: tuple[Node, ...]) -> Node:
    members = _set(m, args)
    return frozenset(members) if isinstance(members, set) else None


def _complex(_: Machine, args: tuple[Node, ...]) -> Node:
    match args:
        case (float(real), float(imaginary)):
            return complex(real, imaginary)
    return None


def _reconstructed(_: Machine, args: tuple[Node, ...]) -> Node:
    """How protocols 0 and 1 create objects: class, nearest builtin base, that base's value."""
    match args:
        case (maker, Name("builtins", "object"), None):
            return Object(maker, origin="created")
        case (maker, Name("builtins"), value):
            return Object(maker, (value,), origin="created")
    return None


def _created(_: Machine, args: tuple[Node, ...]) -> Node:
    return Object(args[0], args[1:], origin="created") if args else None


def _created_with_keywords(_: Machine, args: tuple[Node, ...]) -> Node:
    match args:
        case (maker, given, keywords):
            return Object(maker, given, keywords, "created")
    return None


_REBUILT: dict[str, Callable[[Machine, tuple[Node, ...]], Node]] = {
    "_codecs:encode": _encoded,
    "builtins:bytes": _bytes,
    "builtins:bytearray": _bytearray,
    "builtins:set": _set,
    "builtins:frozenset": _frozenset,
    "builtins:complex": _complex,
    "copyreg:_reconstructor": _reconstructed,
    "copyreg:__newobj__": _created,
    "copyreg:__newobj_ex__": _created_with_keywords,
}
