"""Replace what a builtin function does, for everyone who already holds it.

Idea: ``from time import monotonic`` hands out one object, and every alias is that object. CPython keeps in it a pointer
to its method definition and one to its ``self``; calling it means ``definition.function(self, argument)``. Point the
definition at CPython's own "call this object" and ``self`` at our dispatcher, and every alias calls the dispatcher.

Invariant: the two pointers change in one copy made while holding the GIL, so no thread ever sees one without the
other. Nothing they point to is ever freed: a thread may be inside a dispatcher at the moment of its removal. The
original stays callable through a second builtin, made from a copy of the original definition.

Refused: replacing the attribute of the module (misses every alias, see `patches.AttributePatch`, the fallback);
putting a ctypes callback into the definition (an exception raised in a callback is printed and lost, so ``sleep(-1)``
could not raise); changing the shared definition (the copy leaves other interpreters of the process alone).

Importing this module imports ctypes. `UnsupportedLayoutError` says that this interpreter does not lay builtins out so.
"""

from __future__ import annotations

import ctypes
import functools
import os
import random
import sys
import sysconfig
import time
from types import BuiltinFunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

METH_VARARGS, METH_NOARGS, METH_O = 0x1, 0x4, 0x8
WORD = ctypes.sizeof(ctypes.c_void_p)
OBJECT_HEAD = 2 * WORD  # reference count and type, in a build without tracing or free threading
BUILTIN_SIZE = OBJECT_HEAD + 5 * WORD  # definition, self, module name, weak references, vectorcall

_immortal: list[object] = []


class UnsupportedLayoutError(Exception):
    """This interpreter does not keep builtins the way this file needs it."""


class MethodDef(ctypes.Structure):
    """``PyMethodDef`` of CPython's methodobject.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class BuiltinSwap:
    """A builtin without keywords, and the dispatcher that can stand in for it.

    Args:
        builtin: the function, of a module, like ``time.monotonic``, or of its generator, like ``random.random``.
        make: given the original as a callable of its own, returns the dispatcher.

    Raises:
        UnsupportedLayoutError: when this builtin cannot be swapped in this interpreter.
    """

    def __init__(self, builtin: BuiltinFunctionType, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        definition = _definition(builtin)
        self._pointers = (ctypes.c_char * (2 * WORD)).from_address(id(builtin) + OBJECT_HEAD)
        self._before = self._pointers.raw
        self.original = _second_builtin(builtin, definition)
        agent = _callable(builtin, make(self.original))
        calling = MethodDef(definition.name, _caller_of(definition.flags), definition.flags, definition.doc)
        self._swapped = bytes((ctypes.c_void_p * 2)(ctypes.addressof(calling), id(agent)))
        # The builtin owns a reference to its self: give it one for each side of the swap, for good.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(agent))
        _immortal.extend((builtin, agent, calling))

    def install(self) -> None:
        """Let every holder of the builtin call the dispatcher."""
        self._pointers.raw = self._swapped

    def remove(self) -> None:
        """Let every holder of the builtin call the original again."""
        self._pointers.raw = self._before


def _definition(builtin: BuiltinFunctionType) -> MethodDef:
    """Return the definition of `builtin`, having made sure on the way that the bytes are what we take them for."""
    _require(type(builtin) is BuiltinFunctionType, f"{builtin!r} is no builtin function")
    _require(isinstance(builtin.__self__, ModuleType | random.Random), f"{builtin!r} is no function of a module")
    _require(id(builtin.__self__) == _word_at(id(builtin) + OBJECT_HEAD + WORD), f"{builtin!r} keeps no self")
    definition = MethodDef.from_address(_word_at(id(builtin) + OBJECT_HEAD))
    _require(definition.name == builtin.__name__.encode(), f"{builtin!r} has another name in its definition")
    return definition


def _second_builtin(builtin: BuiltinFunctionType, definition: MethodDef) -> BuiltinFunctionType:
    copy = MethodDef(definition.name, definition.function, definition.flags, definition.doc)
    _immortal.append(copy)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    made: BuiltinFunctionType = make(
        ctypes.byref(copy), ctypes.py_object(builtin.__self__), ctypes.py_object(builtin.__module__)
    )
    return made


def _callable(builtin: BuiltinFunctionType, dispatcher: Callable[..., Any]) -> Any:
    """Wrap `dispatcher` as what a builtin is bound to, so that the builtin shows and pickles as it does."""
    owner: Any = builtin.__self__
    if isinstance(owner, ModuleType):  # builtins of modules pickle by name and show as functions, others do not
        kind = type("module", (ModuleType,), {"__call__": staticmethod(dispatcher)})
        return kind(builtin.__module__, "Stands in for the module while a deterministic context is open.")
    body = {"__call__": staticmethod(dispatcher), "__reduce__": lambda _: owner.__reduce__()}
    return type(type(owner).__name__, (), body)()


def _caller_of(flags: int) -> int:
    """Return the address of the C function that calls the object given as self with the builtin's arguments."""
    names = {
        METH_NOARGS: "PyObject_CallObject",  # with NULL for the arguments, which it takes
        METH_VARARGS: "PyObject_CallObject",
        METH_O: "PyObject_CallOneArg",
    }
    _require(flags in names, f"calling convention {flags:#x} is not supported")
    address = ctypes.cast(getattr(ctypes.pythonapi, names[flags]), ctypes.c_void_p).value
    return address or 0


def _word_at(address: int) -> int:
    return ctypes.c_void_p.from_address(address).value or 0


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UnsupportedLayoutError(otherwise)


# --- does it hold here? ----------------------------------------------------------------------------------------------


@functools.cache
def works() -> bool:
    """Whether swapping works in this interpreter; tried once, on builtins nobody else holds."""
    try:
        _check_build()
        _check_calls(time.monotonic, ())
        _check_calls(os.urandom, (3,))
        _check_calls(time.ctime, (3,))
    except (UnsupportedLayoutError, AttributeError, ValueError):
        return False
    return True


def _check_build() -> None:
    _require(sys.implementation.name == "cpython", "not CPython")
    _require(not hasattr(sys, "gettotalrefcount"), "a debug build")
    _require(not hasattr(sys, "getobjects"), "a build that traces references")
    _require(not sysconfig.get_config_var("Py_GIL_DISABLED"), "a build without a GIL: the swap would not be atomic")
    _require(object.__basicsize__ == OBJECT_HEAD, "another object head")
    _require(BuiltinFunctionType.__basicsize__ == BUILTIN_SIZE, "another builtin layout")


def _check_calls(builtin: Callable[..., Any], arguments: tuple[int, ...]) -> None:
    """Swap a copy of `builtin`; it must follow, and come back."""
    _require(isinstance(builtin, BuiltinFunctionType), f"{builtin!r} is no builtin")
    probe = _second_builtin(builtin, _definition(builtin))  # type: ignore[arg-type]
    swap = BuiltinSwap(probe, lambda _: _echo)
    swap.install()
    try:
        answer = probe(*arguments)
    finally:
        swap.remove()
    _require(answer == arguments and probe(*arguments) != arguments, f"{builtin!r} did not follow its swap")


def _echo(*arguments: Any) -> tuple[Any, ...]:
    return arguments
