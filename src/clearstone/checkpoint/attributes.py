"""The attributes of objects, past ``__getattr__`` and ``__setattr__``: what is in their ``__dict__`` and their slots.

Idea: an agent may hand every name on to another object, and a frozen or validating one refuses to be filled; its state
is neither's business.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

from clearstone.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NOTHING: Any = object()

NESTED = ("__dict__", "__pydantic_private__", "__pydantic_extra__")
"""Where pydantic's models have their attributes in their state."""

_slots: weakref.WeakKeyDictionary[type, dict[str, MemberDescriptorType]] = weakref.WeakKeyDictionary()


def slots_of(cls: type) -> dict[str, MemberDescriptorType]:
    """Return the slots of a class by the name they have in it; a private one is mangled there."""
    try:
        known = _slots.get(cls)
        if known is None:
            known = _slots[cls] = _listed_slots(cls)
    except TypeError:  # its metaclass has no hash
        return _listed_slots(cls)
    return known


def _listed_slots(cls: type) -> dict[str, MemberDescriptorType]:
    found: dict[str, MemberDescriptorType] = {}
    for base in cls.__mro__:
        if "__slots__" in vars(base):
            members = {name: member for name, member in vars(base).items() if isinstance(member, MemberDescriptorType)}
            found = {**members, **found}
    return found


def in_slots(obj: Any) -> dict[str, Any]:
    """Return what is in an object's slots; those never set are not in it."""
    found = {}
    for name, slot in slots_of(type(obj)).items():
        with contextlib.suppress(AttributeError):
            found[name] = slot.__get__(obj)
    return found


def in_dict(obj: Any) -> dict[str, Any] | None:
    """Return an object's ``__dict__``; None where it has none."""
    held = attribute(obj, "__dict__") if type(obj).__dictoffset__ else None
    return held if isinstance(held, dict) else None


def attributes_of(obj: Any) -> Iterator[Mapping[str, Any]]:
    """Give an object's attributes: of its ``__dict__``, its slots, a named tuple's fields, a model's private ones."""
    held = in_dict(obj)
    if held:
        yield held
    if isinstance(obj, tuple) and isinstance(fields := getattr(type(obj), "_fields", None), tuple):
        yield dict(zip(fields, obj, strict=False))
    slots = in_slots(obj)
    if slots:
        yield from (part for name in NESTED if type(part := slots.get(name)) is dict)
        yield slots


def attribute(obj: Any, name: str) -> Any:
    """Return an attribute; `NOTHING` where there is none of that name, or it is no name."""
    try:
        return object.__getattribute__(obj, name)
    except (AttributeError, TypeError):
        return NOTHING


def follow(obj: Any, names: Sequence[str]) -> Any:
    """Return what is found through attributes of these names; `NOTHING` where they lead nowhere."""
    return functools.reduce(attribute, names, obj)


def has_place(obj: Any, name: str) -> bool:
    """Whether an object has a slot of that name, or a dict."""
    return name in slots_of(type(obj)) or in_dict(obj) is not None


def put(obj: Any, name: str, value: Any) -> None:
    """Set an attribute.

    Raises:
        StateError: there is no place for it.
    """
    slot, attributes = slots_of(type(obj)).get(name), in_dict(obj)
    if slot is not None:
        slot.__set__(obj, value)
    elif attributes is not None:
        attributes[name] = value
    else:
        raise StateError(f"{type(obj).__qualname__} has no slot {name!r} today, but the saved state fills it")
