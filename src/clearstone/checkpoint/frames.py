"""The frames an exception went through, with their local variables as short texts.

Idea: what a debugger's user looks at first, for whoever has the file and nothing else. Values are shown by a walk of
our own over builtin ones, a few items deep; of any other object its type is told.

Invariant: no code of the user's runs: no ``__repr__``, no property. No secret is shown: names and texts go through the
recorder's rules before anything is cut.
"""

from __future__ import annotations

import linecache
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearstone.codec.redact import active

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

MOST_FRAMES, MOST_LOCALS = 30, 50
LONGEST, LONGEST_TEXT = 200, 4096
MOST_ITEMS, DEEPEST = 6, 3
LONGEST_INT = 256
"""Bits of a number that is written out."""

OURS = f"{Path(__file__).parents[1]}{os.sep}"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Args:
        file: the source file.
        line: the line it was at.
        function: the qualified name of its code.
        code: that line; empty where the source is not there.
        variables: local variables as texts, by name.
    """

    file: str
    line: int
    function: str
    code: str
    variables: dict[str, str]


def frames_of(error: BaseException) -> tuple[Frame, ...]:
    """Return the frames an exception went through, the outermost first, without the library's own.

    Of more than `MOST_FRAMES` the innermost are kept.
    """
    found = [each for each in _steps(error.__traceback__) if not each.tb_frame.f_code.co_filename.startswith(OURS)]
    return tuple(_frame(each.tb_frame, each.tb_lineno) for each in found[-MOST_FRAMES:])


def frames_above(frame: FrameType | None) -> tuple[Frame, ...]:
    """Return a frame that runs and those that called it, as `frames_of` does."""
    found: list[FrameType] = []
    while frame is not None:
        if not frame.f_code.co_filename.startswith(OURS):
            found.append(frame)
        frame = frame.f_back
    return tuple(_frame(each, each.f_lineno) for each in reversed(found[:MOST_FRAMES]))


def _steps(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _frame(frame: FrameType, line: int) -> Frame:
    code = frame.f_code
    source = linecache.getline(code.co_filename, line, frame.f_globals).strip()
    of_module = frame.f_locals is frame.f_globals  # then its ``__builtins__`` and the like are no variables of its
    names = [name for name in list(frame.f_locals) if not (of_module and name.startswith("__"))]
    variables = {name: shown(name, frame.f_locals.get(name)) for name in names[:MOST_LOCALS]}
    return Frame(code.co_filename, line, code.co_qualname, active().shown(source), variables)


def shown(name: str, value: Any) -> str:
    """Return a text about the value of a variable, without secrets, of about `LONGEST` characters at most."""
    redactor = active()
    text = redactor.shown(repr(redactor.attribute(name, _plain(value, DEEPEST, set()))))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


class _Said:
    """Something that reads as a text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _plain(value: Any, depth: int, above: set[int]) -> Any:
    """Return a value of builtin types for `repr`, with what is long or deep cut, and other objects by their type."""
    kind = type(value)
    if _is(kind, str, bytes):
        return value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT]
    if kind is int:
        return value if value.bit_length() <= LONGEST_INT else _Said(f"<int of {value.bit_length()} bits>")
    if value is None or _is(kind, bool, float, complex):
        return value
    if _is(kind, list, tuple, dict, set, frozenset):
        if depth == 0 or id(value) in above:
            return _Said(f"<{kind.__name__} of {len(value)}>")
        return _items(value, depth, above | {id(value)})
    return _Said(
        f"<{kind.__module__}.{kind.__qualname__} object>" if kind is not type else f"<class {value.__qualname__}>"
    )


def _is(kind: type, *kinds: type) -> bool:
    """Whether it is one of them; a metaclass of the user's may have an ``==`` and a hash of its own."""
    return any(kind is each for each in kinds)


def _items(value: Any, depth: int, above: set[int]) -> Any:
    rest = len(value) - MOST_ITEMS
    more = [_Said(f"... {rest} more")] if rest > 0 else []
    if type(value) is dict:
        some = list(value.items())[:MOST_ITEMS]
        held = {_key(key): _plain(each, depth - 1, above) for key, each in some}
        return {**held, **{each: _Said("...") for each in more}}
    some = [_plain(each, depth - 1, above) for each in list(value)[:MOST_ITEMS]]
    return tuple(some + more) if type(value) is tuple else some + more


def _key(key: Any) -> Any:
    return key if key is None or _is(type(key), str, int, float, bool) else _Said(repr(_plain(key, 1, set())))
