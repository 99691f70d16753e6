"""The source of functions and classes, found in their file and proven to be what ran.

Invariant: source is a function's only if compiling its file gives the code of that function under its name, once, with
its constant defaults. It is a class's only if all methods the class made in its body are found there so, and its
constant attributes are as written: what was edited after its import has no source, and the rest of the file has.
Nothing secret is in a text that is given.

Refused: `inspect.getsource` (it goes by line numbers, and after an edit gives another function's).
"""

from __future__ import annotations

import ast
import copy
import linecache
import textwrap
from dataclasses import dataclass
from itertools import chain, pairwise
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

from clearstone.checkpoint.codehash import UNKNOWN, constant, hash_of_code, hash_of_tree
from clearstone.checkpoint.members import dict_of, functions_of, module_at, module_dict_of, qualname_of
from clearstone.codec.redact import active

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from clearstone.checkpoint.members import Thing

LARGEST_FILE = 512 << 10
"""Characters of a source file that is parsed; a larger one was generated, and would take too long."""

_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Fields of statements that hold statements."""

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_Definition: TypeAlias = _Function | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Piece:
    """What the source says of one function or class.

    Args:
        tree: hash of its syntax tree, a class's without the functions in it; empty where its source is not known.
        source: its text, a class's likewise, without secrets.
        first_line: which line of its file the text begins with, as what ran has it; 0 where the lines are not all there
            one by one, as those of a class.
    """

    tree: str = ""
    source: str = ""
    first_line: int = 0


class Sources:
    """Finds source. Each file is read once: make one for each time the code is looked at."""

    def __init__(self) -> None:
        self._files: dict[str, _File | None] = {}

    def piece_of(self, thing: Thing) -> Piece:
        """Return what the source says of a function or class."""
        file = self._file(_file_of(thing))
        try:
            node = None if file is None else file.function(thing) if type(thing) is FunctionType else file.cls(thing)
            if file is None or node is None:
                return Piece()
            text = file.text_of(node)
            return Piece(hash_of_tree(_alone(node)), text, file.first_line(thing, node, text))
        except (RecursionError, MemoryError):  # an expression of a thousand terms
            return Piece()

    def define(self, module: ModuleType | None, qualname: str) -> bool:
        """Return whether a function or class of that name is anywhere in the source of a module."""
        file = self._file(str(module_dict_of(module).get("__file__") or "")) if module is not None else None
        return file is not None and file.defines(qualname)

    def _file(self, name: str) -> _File | None:
        if name not in self._files:
            self._files[name] = _read(name)
        return self._files[name]


def _file_of(thing: Thing) -> str:
    """Return the file of a function; that of a class is where its methods are from, else its module's."""
    if type(thing) is FunctionType:
        return thing.__code__.co_filename
    module = module_at(str(dict_of(thing).get("__module__")), {})
    own = [each.__code__.co_filename for each in _methods(thing)]
    return own[0] if own else str(module_dict_of(module).get("__file__") or "") if module is not None else ""


def _methods(cls: type) -> Iterator[FunctionType]:
    """Give the functions that the body of a class made."""
    begin = f"{qualname_of(cls)}."
    for _, function in functions_of(cls):
        name = function.__code__.co_qualname
        if name.startswith(begin) and "." not in name[len(begin) :] and not name.endswith("<lambda>"):
            yield function


def _read(name: str) -> _File | None:
    """Read a file, or a notebook's cell."""
    try:
        linecache.checkcache(name)
        text = "".join(linecache.getlines(name))
        return _File(text, name) if 0 < len(text) <= LARGEST_FILE else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _alone(node: _Definition) -> _Definition:
    """Return a class without the functions in it; they have fingerprints of their own."""
    if isinstance(node, ast.ClassDef):
        node = copy.copy(node)
        node.body = [each for each in node.body if not isinstance(each, _FUNCTIONS)]
    return node


class _File:
    """A source file: its definitions, and the code it compiles to by qualified name.

    Args:
        text: its content.
        name: what it is called.
    """

    def __init__(self, text: str, name: str) -> None:
        self._lines = text.split("\n")
        self._has_secrets = active().shown(text) != text
        self._functions: dict[tuple[int, str], list[_Function]] = {}
        self._classes: dict[str, list[ast.ClassDef]] = {}
        self._codes: dict[str, list[CodeType]] = {}
        tree = ast.parse(text, name)
        for qualname, node in _definitions(tree, ""):
            if isinstance(node, ast.ClassDef):
                self._classes.setdefault(qualname, []).append(node)
            else:
                self._functions.setdefault((_first_line(node), node.name), []).append(node)
        self._add(compile(tree, name, "exec", dont_inherit=True))

    def _add(self, code: CodeType) -> None:
        self._codes.setdefault(code.co_qualname, []).append(code)
        for each in code.co_consts:
            if type(each) is CodeType:
                self._add(each)

    def defines(self, qualname: str) -> bool:
        """Return whether it has a function or class of that name."""
        return qualname in self._codes

    def function(self, function: FunctionType) -> _Function | None:
        """Return the tree of a function; None where the file has it no more, or several that could be it."""
        code, same = function.__code__, self._same(function.__code__)
        nodes = self._functions.get((same[0].co_firstlineno, code.co_name), []) if len(same) == 1 else []
        return nodes[0] if len(nodes) == 1 and _has_defaults(function, nodes[0].args) else None

    def _same(self, code: CodeType) -> list[CodeType]:
        return [each for each in self._codes.get(code.co_qualname, ()) if hash_of_code(each) == hash_of_code(code)]

    def first_line(self, thing: Thing, node: _Definition, text: str) -> int:
        """Return which line the text of a function begins with where it ran (see `Piece`).

        The file may have moved since, and comments come and go: lines count from where it begins, if they are alike.
        """
        if type(thing) is not FunctionType or text.count("\n") + 1 != len(_lines_of(node)):
            return 0
        (found,), code = self._same(thing.__code__), thing.__code__
        return code.co_firstlineno if _have_the_same_lines(found, code) else 0

    def cls(self, cls: type) -> ast.ClassDef | None:
        """Return the tree of a class; likewise."""
        nodes = self._classes.get(qualname_of(cls), [])
        if len(nodes) != 1 or not _has_attributes(cls, nodes[0]):
            return None
        methods = map(self.function, _methods(cls))
        return nodes[0] if all(each is not None and _is_in(each, nodes[0]) for each in methods) else None

    def text_of(self, node: _Definition) -> str:
        """Return its lines, a class's without those of the functions in it, and without secrets."""
        left = set(_lines_of(node))
        for each in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(each, _FUNCTIONS):
                left.difference_update(_lines_of(each))
        lines = [(number, self._lines[number - 1]) for number in sorted(left)]
        told = _without_secrets(lines, node) if self._has_secrets else [line for _, line in lines]
        return textwrap.dedent("\n".join(told)).rstrip()


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, _Definition]]:
    """Give the functions and classes in a statement, by qualified name."""
    for each in chain.from_iterable(getattr(node, block, ()) for block in _BLOCKS):
        inside = prefix
        if isinstance(each, _Definition):
            yield f"{prefix}{each.name}", each
            inside = f"{prefix}{each.name}.{'' if isinstance(each, ast.ClassDef) else '<locals>.'}"
        yield from _definitions(each, inside)


def _first_line(node: _Definition) -> int:
    return node.decorator_list[0].lineno if node.decorator_list else node.lineno


def _lines_of(node: _Definition) -> range:
    return range(_first_line(node), (node.end_lineno or node.lineno) + 1)


def _have_the_same_lines(one: CodeType, other: CodeType) -> bool:
    """Whether two codes that do the same do it in the same lines, counted from where they begin."""
    inside = ([each for each in code.co_consts if type(each) is CodeType] for code in (one, other))
    return one.co_linetable == other.co_linetable and all(
        a.co_firstlineno - one.co_firstlineno == b.co_firstlineno - other.co_firstlineno and _have_the_same_lines(a, b)
        for a, b in zip(*inside, strict=True)
    )


def _is_in(inner: _Definition, outer: _Definition) -> bool:
    return inner.lineno in _lines_of(outer)


def _without_secrets(lines: list[tuple[int, str]], node: _Definition) -> Iterator[str]:
    """Redact statement by statement: what follows a secret's name ends with its statement at the latest."""
    starts = {each.lineno for each in ast.walk(node) if isinstance(each, ast.stmt)}
    firsts = [place for place, (number, _) in enumerate(lines) if place == 0 or number in starts]
    for first, after in pairwise([*firsts, len(lines)]):
        yield active().shown("\n".join(line for _, line in lines[first:after]))


def _has_defaults(function: FunctionType, arguments: ast.arguments) -> bool:
    held, named = function.__defaults__ or (), function.__kwdefaults__ or {}
    by_name = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    pairs = [*zip(held, arguments.defaults, strict=False), *((named.get(each.arg), node) for each, node in by_name)]
    return len(held) == len(arguments.defaults) and all(_may_be(value, node) for value, node in pairs)


def _has_attributes(cls: type, node: ast.ClassDef) -> bool:
    held = dict_of(cls)
    given: dict[str, ast.expr | None] = {}
    for each in node.body:
        if isinstance(each, ast.Assign | ast.AnnAssign):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            given |= {target.id: each.value for target in targets if isinstance(target, ast.Name)}
    return all(_may_be(held[name], value) for name, value in given.items() if name in held)


def _may_be(value: Any, node: ast.expr | None) -> bool:
    """Whether a value may be that of an expression: not where both are constants, and others."""
    try:
        written = constant(ast.literal_eval(node)) if node is not None else UNKNOWN
    except (ValueError, TypeError):  # it is computed
        return True
    return UNKNOWN in {written, constant(value)} or constant(value) == written
