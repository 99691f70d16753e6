"""Put a dispatcher in the place of a function, and the function back.

Idea: a dispatcher asks a context variable and otherwise calls the function it stands in for, so it may be seen by
every thread of the process and changes nothing for those outside a context. How it gets into place is this file's
business: by `method_table` where the function is a builtin and the interpreter allows it, else by the attribute.

Invariant: `remove` leaves what it found. An attribute that somebody else has replaced meanwhile stays theirs.

Refused: searching all modules for aliases, as freezegun does (10 ms, and a default argument is still missed).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    Maker = Callable[[Callable[..., Any]], Callable[..., Any]]


class Patch(Protocol):
    """A dispatcher that can be put in place and taken away, any number of times."""

    @property
    def original(self) -> Callable[..., Any]:
        """The function as it is without the dispatcher; callable at any time."""

    def install(self) -> None:
        """Put the dispatcher in place."""

    def remove(self) -> None:
        """Put the function back."""


class AttributePatch:
    """Replaces ``owner.name``; whoever took the function before keeps the original.

    Args:
        owner: a module or a class that has the attribute itself.
        name: the attribute.
        make: given the function found there, returns the dispatcher.
    """

    def __init__(self, owner: ModuleType | type, name: str, make: Maker) -> None:
        self._owner, self._name, self._make = owner, name, make
        self._dispatcher: Any = None
        self.original: Callable[..., Any] = vars(owner)[name]

    def install(self) -> None:
        """Replace the attribute by a dispatcher for what it is now."""
        self.original = vars(self._owner)[self._name]
        self._dispatcher = self._make(self.original)
        setattr(self._owner, self._name, self._dispatcher)

    def remove(self) -> None:
        """Put the attribute back, unless it is somebody else's by now."""
        if vars(self._owner).get(self._name) is self._dispatcher:
            setattr(self._owner, self._name, self.original)


def builtin_patch(owner: ModuleType, name: str, make: Maker) -> Patch:
    """Return the patch that reaches most holders of the builtin ``owner.name`` in this interpreter.

    Args:
        owner: a module, like `time`.
        name: the name of a builtin function in it.
        make: given the original, returns the dispatcher.
    """
    try:
        from clearstone.nondet import method_table
    except ImportError:  # an interpreter built without ctypes
        return AttributePatch(owner, name, make)
    if not method_table.works():
        return AttributePatch(owner, name, make)
    try:
        return method_table.BuiltinSwap(vars(owner)[name], make)
    except method_table.UnsupportedLayoutError:  # somebody else's function stands there, gevent's for one
        return AttributePatch(owner, name, make)
