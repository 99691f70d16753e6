"""Why two runs part at a line, and what to write instead: said from the line's source and from what both did.

Idea: few things differ between two replays: where objects lie, the order of sets, of folders and of threads, time,
randomness that nobody recorded, and what the machine holds. Each has names that a line calls.

Invariant: it is advice. Where nothing fits nothing is said; the parting stands for itself.
"""

from __future__ import annotations

import ast
import functools
import linecache
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.debugger.events import Log
    from clearstone.debugger.parting import Parting

ADDRESS = re.compile(r"0x[0-9a-f]{6,}")

_HASHES = frozenset({"id", "hash", "repr", "object"})
_FOLDERS = frozenset({"listdir", "scandir", "walk", "iterdir", "glob", "rglob", "iglob"})
_FIRST_DONE = frozenset({"as_completed", "imap_unordered", "wait", "put", "put_nowait", "get_nowait"})
_RANDOM = frozenset(
    {
        "random", "randint", "randrange", "choice", "choices", "shuffle", "sample", "uniform", "gauss", "Random",
        "SystemRandom", "default_rng", "RandomState", "randbelow", "token_hex", "uuid4", "urandom",
    }
)  # fmt: skip
_CLOCKS = frozenset(
    {
        "time", "time_ns", "monotonic", "perf_counter", "now", "utcnow", "today", "clock_gettime", "monotonic_ns",
        "perf_counter_ns",
    }
)  # fmt: skip
_MACHINE = frozenset(
    {
        "open", "read_text", "read_bytes", "getenv", "environ", "input", "stat", "exists", "getpid", "get_ident",
        "current_thread", "gethostname",
    }
)  # fmt: skip
_IN_ORDER = frozenset(
    {"list", "tuple", "set", "frozenset", "join", "next", "iter", "pop", "popitem", "enumerate", "zip", "map"}
)

_OF_A_SET = (
    "A set of strings has another order in each process (and so has a list or dict that is made from one): go through "
    "sorted(...) of it, or keep a list or a dict."
)
_OF_ADDRESSES = (
    "Addresses, and hashes of strings, are others in each process: use a number or a name of your own (hashlib for a "
    "hash that stays)."
)
_OF_FOLDERS = "The order of the files in a folder is its file system's: go through sorted(...) of it."
_OF_FIRST_DONE = (
    "Which thread is done first is chance: go through the futures in the order they were submitted, or sort what they "
    "give."
)
_OF_RANDOM = (
    "Threads that draw from one generator draw in the order they run, and one that is seeded by something unseen is "
    "another each time: give each its own, random.Random(a seed of yours)."
)
_OF_CLOCKS = (
    "In threads the clock of a replay is moved by whichever sleeps or is answered first, and time.clock_gettime is "
    "real: take the time once, before they start."
)
_OF_THE_MACHINE = (
    "That is taken from today's machine, and no record answers it: put it into a function with "
    "@traced(span_type='tool')."
)
_OF_A_RACE = (
    "Threads change the same object, and which comes first is chance: hold a lock from the reading to the writing, or "
    "let each thread return what it found and join that afterwards."
)
_OF_LISTS = (
    "What threads add to one list comes in the order in which they are done: sort it, or keep it by who adds it."
)

_BY_NAME = (
    (_FOLDERS, _OF_FOLDERS),
    (_HASHES, _OF_ADDRESSES),
    (_FIRST_DONE, _OF_FIRST_DONE),
    (_RANDOM, _OF_RANDOM),
    (_CLOCKS, _OF_CLOCKS),
    (_MACHINE, _OF_THE_MACHINE),
)


def advice(parting: Parting, *, is_by_seed: bool | None = None) -> str:
    """Return what is probably the cause, and the way out; empty where no rule fits.

    Args:
        parting: where two runs part.
        is_by_seed: whether they do not with the same hash seed; None where that is not known.
    """
    if parting.kind == "alone":  # why it was started is decided elsewhere
        return ""
    nodes = list(_of_line(parting.code.file, parting.line))
    called = set(_called(nodes))
    if ADDRESS.search(parting.one) and ADDRESS.search(parting.other):
        return _OF_ADDRESSES
    if is_by_seed:
        return _OF_ADDRESSES if called & _HASHES else _OF_A_SET
    told = next((told for names, told in _BY_NAME if names & called), "")
    return told or _of_its_form(parting, nodes, called, is_by_seed=is_by_seed)


def _of_its_form(parting: Parting, nodes: list[ast.AST], called: set[str], *, is_by_seed: bool | None) -> str:
    in_thread = "/thread " in parting.sequence
    if in_thread and any(isinstance(each, ast.Attribute | ast.Global | ast.Nonlocal) for each in nodes):
        return _OF_A_RACE
    if parting.is_another_order or _goes_through(nodes, called):
        return _OF_A_SET if is_by_seed is None else _OF_LISTS
    return ""


def changing(attribute: str, log: Log) -> list[str]:
    """Return the lines of a run, with their source, that set an attribute of this name or call a method of it."""
    return [
        f"{code.file}:{line}: {linecache.getline(code.file, line).strip()}"
        for code, line in log.executed()
        if any(_changes(attribute, node) for node in _of_line(code.file, line))
    ]


def _changes(attribute: str, node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        node = node.func.value
    elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        node = node.value
    elif not isinstance(node, ast.Attribute) or isinstance(node.ctx, ast.Load):
        return False
    return isinstance(node, ast.Attribute) and node.attr == attribute


def source(parting: Parting) -> str:
    """Return the source of its line; of a decorated function's beginning its name."""
    text = linecache.getline(parting.code.file, parting.line).strip()
    return text if text and not text.startswith("@") else f"in {parting.code.function}"


def _called(nodes: list[ast.AST]) -> Iterator[str]:
    for each in nodes:
        if isinstance(each, ast.Call):
            named = each.func
            yield named.attr if isinstance(named, ast.Attribute) else named.id if isinstance(named, ast.Name) else ""
        elif isinstance(each, ast.Attribute) and each.attr == "environ":
            yield each.attr


def _goes_through(nodes: list[ast.AST], called: set[str]) -> bool:
    loops = ast.For | ast.AsyncFor | ast.comprehension | ast.Set | ast.SetComp | ast.Starred
    return bool(called & _IN_ORDER) or any(isinstance(each, loops) for each in nodes)


def _of_line(file: str, line: int) -> Iterator[ast.AST]:
    """Give the parts of the statement on a line: of a compound one its head, and what is on the same line."""
    statement = _statements(file).get(line)
    waiting: list[ast.AST] = [statement] if statement is not None else []
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [
            each
            for each in ast.iter_child_nodes(node)
            if not isinstance(each, ast.stmt | ast.ExceptHandler) or each.lineno == line
        ]


@functools.lru_cache(maxsize=32)
def _statements(file: str) -> dict[int, ast.stmt]:
    """Return which statement a line of a file belongs to: the first that begins on it, else the innermost."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[int, ast.stmt] = {}
    for node in ast.walk(tree):  # the outer ones come first
        if isinstance(node, ast.stmt):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                if line not in found or found[line].lineno != line:
                    found[line] = node
    return found
