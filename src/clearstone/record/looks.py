"""What there is to be noted of an object's attributes, and how two such looks differ.

Idea: an attribute is another one when its identity is; a container has grown, or shrunk, when its length and its ends
say so. Nothing of the object is copied or serialised, so a look costs the same whatever the attributes hold.

Refused: comparing values (see `clearstone.record.effects`).
"""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections import Counter, OrderedDict, defaultdict, deque
from itertools import chain
from typing import Any

from clearstone.checkpoint.attributes import in_dict, slots_of

SEQUENCES = frozenset({list, deque})
DICTS = frozenset({dict, defaultdict, OrderedDict, Counter})
CONTAINERS = SEQUENCES | DICTS | {set, bytearray}
"""Exact types: the length of a subclass is the user's code to tell."""

SMALL = 32
"""Of a container of at most so many items all are noted."""

Look = tuple[Any, int, Any, Any]
"""What is noted of an attribute: its value; of a container the length. Then of a small one `SMALL` and its items, of a
larger one its first and last item (of a dict the last key), by which one that grew at its end is told from one that was
changed elsewhere. What was put in the place of another item in the middle of a large one is not seen."""

_NOTHING: Look = (object(), -1, None, None)


def look(instance: Any) -> dict[str, Look]:
    """Return what there is to be noted of an object's attributes."""
    found = {name: _seen(value) for name, value in (in_dict(instance) or {}).copy().items()}
    for name, slot in slots_of(type(instance)).items():
        with contextlib.suppress(AttributeError):  # not set
            found[name] = _seen(slot.__get__(instance))
    return found


def _seen(value: Any) -> Look:
    kind = type(value)
    if kind not in CONTAINERS:
        return value, -1, None, None
    length = len(value)  # once: another thread may add to it
    if length <= SMALL:
        items = _items(value)
        return value, len(items) // (2 if kind in DICTS else 1), SMALL, items
    if kind in SEQUENCES:
        return value, length, value[0], value[length - 1]
    return value, length, None, next(reversed(value)) if kind in DICTS else None


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(value.items())) if type(value) in DICTS else tuple(value)


def compare(before: dict[str, Look], after: dict[str, Look], found: dict[str, Any]) -> None:
    """Put into `found` what an object's attributes have become (see `clearstone.record.effects.end`).

    Args:
        before: what `look` gave then.
        after: what it gives now.
        found: gets the changes.
    """
    told = set[int]()  # a container that has several names is changed once
    for name, now in after.items():
        value, length, _, _ = now
        known, was, first, _ = then = before.get(name, _NOTHING)
        if value is not known:
            found.setdefault("set", {})[name] = value
        elif length >= 0 and id(value) in told:
            continue
        elif first is SMALL:
            _compare_items(name, then, now, found)
        elif length != was:
            kind, changed = _growth(then, now)
            found.setdefault(kind, {})[name] = changed
        told.add(id(value))
    deleted = [name for name in before if name not in after]
    if deleted:
        found["deleted"] = deleted


def _compare_items(name: str, then: Look, now: Look, found: dict[str, Any]) -> None:
    """Of a container that was small each item is compared, by identity."""
    value, length, size, noted = now
    before, after = then[3], noted if size is SMALL else _items(value)
    if len(after) < len(before) or not all(map(operator.is_, after, before)):
        found.setdefault("contents", {})[name] = value
    elif len(after) > len(before):
        in_order = type(value) in SEQUENCES or type(value) in DICTS
        kind, changed = _growth_of_small(value, then[1], length) if in_order else ("contents", value)
        found.setdefault(kind, {})[name] = changed


def _growth_of_small(value: Any, was: int, length: int) -> tuple[str, Any]:
    if type(value) in DICTS:
        return "added", dict(itertools.islice(value.items(), was, length))
    return "extended", list(itertools.islice(value, was, length))


def _growth(then: Look, now: Look) -> tuple[str, Any]:
    """Say how a large container came to another length. It grew where its ends still stand where they stood."""
    _, was, first, last = then
    value, length, _, _ = now
    if was < length:
        if type(value) in SEQUENCES and value[0] is first and value[was - 1] is last:
            return "extended", list(itertools.islice(value, was, length))
        if type(value) in DICTS:
            items = itertools.islice(value.items(), was - 1, length)
            if next(items)[0] is last:
                return "added", dict(items)
    return "contents", value


def changed_since(before: dict[str, Look], instance: Any) -> set[str]:
    """Return the attributes that are not what they were.

    Args:
        before: what `look` gave then.
        instance: the object.
    """
    found: dict[str, Any] = {}
    compare(before, look(instance), found)
    return {name for names in found.values() for name in names}
