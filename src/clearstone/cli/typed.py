"""Values that were typed on the command line: read as JSON or Python, and brought into the shape of what they replace.

Idea: what was recorded says what a value is to be. A text stays a text though it looks like JSON, and JSON becomes the
model or dataclass that stood in its place, at any depth.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import enum
import json
from copy import copy
from functools import partial
from typing import Any

import click

from clearstone.checkpoint.missing import Missing
from clearstone.codec.exceptions import Unpicklable
from clearstone.errors import ConfigurationError
from clearstone.replay.changes import Shaped


def typed(text: str) -> Shaped:
    """Return a typed value.

    Args:
        text: JSON, a Python literal, ``@file`` with one of them (``@-`` is standard input), or else the text itself.

    Raises:
        ConfigurationError: the file cannot be read, or it is no JSON though it is named so.
    """
    text = text.strip()
    if not text.startswith("@"):
        return Shaped(_read(text), partial(_like, text))
    name = text[1:]
    try:
        with click.open_file(name, encoding="utf-8") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{name} cannot be read: {error}") from None
    return Shaped(_of_file(name, text), partial(_like, text))


def _read(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(text)
    return text


def _of_file(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        if name.endswith(".json"):
            raise ConfigurationError(f"{name} is no JSON: {error}") from None
        return text


def _like(text: str, recorded: Any, value: Any) -> Any:
    """Turn a value that was read from `text` into what can stand for `recorded`.

    Raises:
        ConfigurationError: it cannot be made of it.
    """
    if type(recorded) is str:
        return value if isinstance(value, str) else text
    if isinstance(value, str) and value == text and text[:1] in set("{[(\"'") and recorded is not None:
        raise ConfigurationError(f"{text!r} is neither JSON nor a Python value")
    return _shaped(recorded, value)


def _shaped(recorded: Any, value: Any) -> Any:
    kind = type(recorded)
    try:
        made = _made(kind, recorded, value)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"{value!r} is no {kind.__qualname__}, as was recorded: {type(error).__name__}: {error}"
        ) from None
    if made is _NO_WAY:
        raise ConfigurationError(
            f"a {kind.__qualname__} was recorded, which {value!r} does not make; change a place in it "
            f"(llm[2].text=...), or give one in Python: engine.fork(respond={{...}}, state={{...}})"
        )
    return made


_NO_WAY = object()
_PLAIN = frozenset({type(None), str, int, float, bool, bytes, list, dict, Missing, Unpicklable})
"""Types in whose place a value stands as it is: what was not recorded says nothing of it."""


def _made(kind: Any, recorded: Any, value: Any) -> Any:
    is_list, has_names = isinstance(value, list | tuple), hasattr(kind, "_fields")
    if (kind is list and is_list) or (kind is dict and isinstance(value, dict)):
        made = _contents(recorded, value)
    elif kind in _PLAIN or (type(value) is kind and kind is not tuple):
        made = value
    elif hasattr(kind, "model_validate"):  # pydantic's
        made = kind.model_validate(value)
    elif isinstance(value, dict) and (dataclasses.is_dataclass(kind) or has_names):
        made = kind(**{name: _shaped(getattr(recorded, name, None), each) for name, each in value.items()})
    elif issubclass(kind, tuple) and is_list:
        made = kind(*_contents([*recorded], value)) if has_names else kind(_contents([*recorded], value))
    elif (issubclass(kind, set | frozenset) and isinstance(value, list | set)) or issubclass(kind, enum.Enum):
        made = kind(value)
    elif isinstance(recorded, dict) and isinstance(value, dict):
        made = copy(recorded)  # of its own kind: with its default, in its order
        made.clear()
        made.update(_contents(recorded, value))
    elif isinstance(value, str):
        made = _of_text(kind, value)
    else:
        made = _NO_WAY
    return made


def _of_text(kind: Any, value: str) -> Any:
    """Make a value of its text: a path, a date, a number; `_NO_WAY` where its text is not what it is made of."""
    made = kind.fromisoformat(value) if hasattr(kind, "fromisoformat") else kind(value)
    return made if str(made) == value or hasattr(kind, "fromisoformat") else _NO_WAY


def _contents(recorded: Any, value: Any) -> Any:
    """Shape what is in a list or dict; more items than were recorded are as the last of them."""
    if isinstance(value, dict):
        return {key: _shaped(recorded[key], each) if key in recorded else each for key, each in value.items()}
    patterns = [*recorded, *(recorded[-1:] or [None]) * len(value)]
    return [_shaped(pattern, each) for pattern, each in zip(patterns, value, strict=False)]
