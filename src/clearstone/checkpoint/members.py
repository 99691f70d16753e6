"""The user's functions and classes, as modules and classes hold them.

Idea: a function is looked for behind whatever wraps it: what an object holds as ``__wrapped__``, ``__func__``, ``fget``
or ``func`` is inside it.

Invariant: nothing of the user's runs and nothing is imported. Only what objects hold themselves is looked at, past
whatever ``__getattribute__``, property, descriptor or metaclass they have.
"""

from __future__ import annotations

import sys
from types import FunctionType, MemberDescriptorType, ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from clearstone.checkpoint.frames import OURS
from clearstone.checkpoint.origin import is_installed_file
from clearstone.proxies import BoundFunctionWrapper, FunctionWrapper
from clearstone.span import MAIN_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import CodeType

DEEPEST = 50
"""Wrappers around a function that are looked into."""

Thing: TypeAlias = FunctionType | type
Modules: TypeAlias = "Mapping[str, ModuleType | None]"
"""Where to look first, by the recorded name: ``{"__main__": script}`` for a script that was imported under another one,
``{"__main__": None}`` where there is none today."""

mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
dict_of: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__
qualname_of: Callable[[type], str] = type.__dict__["__qualname__"].__get__
module_dict_of: Callable[[Any], Mapping[str, Any]] = vars(ModuleType)["__dict__"].__get__

_HELD_AS = ("__wrapped__", "__func__", "fget", "func")
_PROXIES: Any = (FunctionWrapper, BoundFunctionWrapper)
"""Of wrapt's proxies only those around functions: a lazy one would import what it stands for."""
_NO_WRAPPERS = (type, ModuleType, type(None), str, int)


# --- from a name -----------------------------------------------------------------------------------------------------


def module_at(name: str, modules: Modules) -> ModuleType | None:
    """Return a loaded module; None where there is none of that name."""
    found = modules[name] if name in modules else sys.modules.get(name)
    if found is None and name not in modules and name == _name_of_main():
        found = sys.modules["__main__"]
    return found if issubclass(type(found), ModuleType) else None


def member_at(name: str, modules: Modules) -> Any:
    """Return what is called ``module:qualname`` today, wrapped as it is; None where there is nothing."""
    module, _, path = name.partition(":")
    found: Any = module_at(module, modules)
    for part in path.split("."):
        found = _member(found, part)
    return found


def _member(owner: Any, name: str) -> Any:
    kind = type(owner)
    if issubclass(kind, ModuleType):
        return module_dict_of(owner).get(name)
    if issubclass(kind, type):
        return next((held[name] for held in map(dict_of, mro_of(owner)) if name in held), None)
    return None


def lasting_name(module: str) -> str:
    """Name a module as sites do: what ran as ``python -m NAME`` by its name (see `clearstone.sites.lasting_name`)."""
    if module not in MAIN_NAMES:
        return module
    return (_name_of_main() if module == "__main__" else "") or "__main__"


def _name_of_main() -> str:
    main = sys.modules.get("__main__")
    return str(getattr(getattr(main, "__spec__", None), "name", ""))


# --- behind wrappers -------------------------------------------------------------------------------------------------


def unwrapped(thing: Any) -> Thing | None:
    """Return a class as it is, and of anything else the innermost function; None where there is none."""
    for _ in range(DEEPEST):
        inside = _inside(thing)
        if inside is None:
            return thing if type(thing) is FunctionType or issubclass(type(thing), type) else None
        thing = inside
    return None


def _inside(thing: Any) -> Any:
    kind = type(thing)
    if kind is FunctionType:
        return thing.__dict__.get("__wrapped__")
    if issubclass(kind, _PROXIES):
        return object.__getattribute__(thing, "__wrapped__")
    if issubclass(kind, _NO_WRAPPERS):
        return None
    return next((held for name in _HELD_AS if (held := _held(thing, name)) is not None), None)


def _held(thing: Any, name: str) -> Any:
    """Return an attribute that an object holds itself; None for one that is computed."""
    found = _member(type(thing), name)
    if found is not None and type(found) is not MemberDescriptorType:
        return None
    try:  # a slot, or what is in its dict where its class has nothing of that name
        return object.__getattribute__(thing, name)
    except AttributeError:
        return None


# --- whose they are --------------------------------------------------------------------------------------------------


def functions_of(cls: type) -> Iterator[tuple[str, FunctionType]]:
    """Give the functions somebody wrote that a class itself holds, by the name of the attribute."""
    for attribute, member in list(dict_of(cls).items()):
        function = unwrapped(member)
        if type(function) is FunctionType and is_written(function):
            yield attribute, function


def functions_named_by(function: FunctionType) -> Iterator[tuple[str, FunctionType]]:
    """Give the functions of its own module that a function names."""
    around = function.__globals__
    for name in dict.fromkeys(names_in(function.__code__)):
        found = unwrapped(around.get(name))
        if type(found) is FunctionType and found.__globals__ is around and is_written(found):
            yield name, found


def names_in(code: CodeType) -> Iterator[str]:
    """Give the names of globals and attributes in a function and the functions in it."""
    yield from code.co_names
    for each in code.co_consts:
        if type(each) is type(code):
            yield from names_in(each)


def is_users_module(module: str) -> bool:
    """Whether a module comes neither with Python nor with an installed distribution, nor is one of ours."""
    if module in sys.builtin_module_names or module.partition(".")[0] in sys.stdlib_module_names:
        return False
    loaded = module_at(module, {})
    file = module_dict_of(loaded).get("__file__") if loaded is not None else None
    return type(file) is not str or not (is_installed_file(file) or file.startswith(OURS))


def is_written(function: FunctionType) -> bool:
    """Whether its user wrote it: `dataclasses` and its kind make theirs of strings."""
    file = function.__code__.co_filename
    return file != "<string>" and not is_installed_file(file) and not file.startswith((OURS, "<frozen "))
