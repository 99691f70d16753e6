"""Hashes of what code does: of a code object within one minor version of Python, of a syntax tree across them.

Idea: a tree has all that a source says (decorators, defaults, annotations and docstrings, which tools hand to a model,
included) and nothing of how that is laid out. A code object is there where no source is; it does not say where it
stands, but keeps traces of where lines break.

Invariant: no value of the user's is asked anything: of constants the exact type is looked at first.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
from types import CodeType
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.members import names_in

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FunctionType

UNKNOWN = "?"
"""What `constant` says of a value that is none."""

_PLAIN = (bytes, float, complex, bool, type(None), type(...))
_KIND_FLAGS = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# --- code objects ----------------------------------------------------------------------------------------------------


def hash_of_function(function: FunctionType) -> str:
    """Hash a function's code and its constant defaults; empty for code that was rewritten when it was imported."""
    if any(name.startswith("@") for name in names_in(function.__code__)):
        return ""  # pytest rewrote its assert statements: no source has such names
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    told = hash_of_code(function.__code__)
    return _hash(told + "".join(map(constant, defaults))) if defaults else told


@functools.lru_cache(maxsize=1024)
def hash_of_code(code: CodeType) -> str:
    """Hash what a code object does, not where it stands."""
    told = (
        (code.co_code, code.co_exceptiontable, code.co_flags & _KIND_FLAGS),
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
        (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars),
        [constant(each) for each in _lasting_constants(code)],
    )
    return _hash(repr(told))


def _lasting_constants(code: CodeType) -> Iterable[Any]:
    """Give its constants; those of a class without its line and with its attributes in order, since Python 3.13."""
    if "__firstlineno__" not in code.co_names:
        return code.co_consts
    held = [each for each in code.co_consts if not (type(each) is int and each == code.co_firstlineno)]
    return [tuple(sorted(each)) if type(each) is tuple and set(map(type, each)) == {str} else each for each in held]


def constant(value: Any) -> str:
    """Write out a constant, so that it differs from all others; `UNKNOWN` for what is none."""
    kind = type(value)
    if kind is str or any(kind is each for each in _PLAIN):
        return repr(value)
    if kind is int:
        return hex(value)  # of any length
    if kind is CodeType:
        return hash_of_code(value)
    if kind is tuple:
        return f"({','.join(map(constant, value))})"
    return f"{{{','.join(sorted(map(constant, value)))}}}" if kind is frozenset else UNKNOWN


# --- syntax trees ----------------------------------------------------------------------------------------------------

_UNTOLD = frozenset({"ctx", "kind"})
"""Fields of nodes that follow from others, or say how a text was written."""


def hash_of_tree(node: ast.AST) -> str:
    """Hash a syntax tree, alike in all versions of Python.

    Raises:
        RecursionError: it is too deep: an expression of a thousand terms.
    """
    out: list[str] = []
    _tell(node, out)
    return _hash("".join(out))


def _tell(node: Any, out: list[str]) -> None:
    """Write a tree out; what is empty is left out, as a later version has more fields."""
    if type(node) is list:
        _tell_all(node, out)
    elif not isinstance(node, ast.AST):
        out.append(constant(node))
    elif type(node) is ast.JoinedStr:  # Python 3.12 puts empty texts between its parts
        out.append("JoinedStr")
        _tell_all([each for each in node.values if getattr(each, "value", None) != ""], out)
    else:
        _tell_fields(node, out)


def _tell_all(nodes: list[Any], out: list[str]) -> None:
    out.append("[")
    for each in nodes:
        _tell(each, out)
        out.append(",")
    out.append("]")


def _tell_fields(node: ast.AST, out: list[str]) -> None:
    held = node.__dict__
    out.append(f"{type(node).__name__}(")
    for name in node._fields:
        value = held.get(name)
        if value is not None and value != [] and name not in _UNTOLD:
            out.append(f"{name}=")
            _tell(value, out)
            out.append(",")
    out.append(")")
