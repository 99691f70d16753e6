"""Writes down what the user's code does in a replay: each line, and what it gave names to.

Idea: a trace function (`sys.settrace`) in every thread that the replay starts. A line is written when it has run, with
the values of the names that it gives a value (its bytecode says which), what a function was passed at its beginning,
and what it returned at its end.

Invariant: what is written of one thread or task does not depend on the others, nor on where objects lie in memory
(`brief`). The code that is followed does what it did: no value is kept, and no code of its own is called.

Before Python 3.13 looking at the locals of a frame writes them back, and with them a closure's variables, which another
thread may have changed meanwhile (bpo-30744). There the names in functions with closures are not looked at. The cyclic
collector is off meanwhile: when it ends a generator depends on all that was allocated before.

Refused: `sys.monitoring` (there is none in Python 3.11, and it is asked in every thread of the process); comparing all
locals after each line (slower by their number, and it would keep them alive).
"""

from __future__ import annotations

import contextlib
import dis
import gc
import inspect
import sys
import threading
import weakref
from contextvars import ContextVar
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from clearstone import threads
from clearstone.debugger.brief import brief
from clearstone.debugger.events import Code, OpenLog, Sequence
from clearstone.replay.lines import is_installed
from clearstone.span import MAIN_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

MAIN = "main"

LONGEST_NAME = 200
"""A callback that calls itself back for ever would have ever longer names."""

PRESSED = 1e-6
CALM = 0.1
"""Seconds between two switches of threads: so often that any line may be the last before one, and so seldom that most
jobs run through. A followed program is some twenty times slower, so this is what 5 ms are otherwise."""

MOST_DELAYED, DELAY = 500, 0.001
"""So many jobs begin later than they were started, by so many seconds times a number that no two of four share."""


class Follower:
    """Follows one replay.

    Args:
        log: where it writes.
        is_pressed: whether threads are made to take turns at every opportunity, and to begin in another order.
    """

    def __init__(self, log: OpenLog, *, is_pressed: bool = False) -> None:
        self._log = log
        self._is_pressed = is_pressed
        self._main = log.sequence(MAIN)
        self._current: ContextVar[_Place] = ContextVar("clearstone_followed", default=_Place(self._main))  # noqa: B039
        self._of_tasks: weakref.WeakKeyDictionary[Any, _Place] = weakref.WeakKeyDictionary()
        self._known: dict[int, Any] = {}
        self._codes: list[CodeType] = []  # an id is its code's as long as that lives
        self._started = 0

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follow what is called in the ``with`` block, in the threads and tasks that are started there too."""
        threads.carry_into_threads()
        before, interval, collects = sys.gettrace(), sys.getswitchinterval(), gc.isenabled()
        sys.setswitchinterval(PRESSED if self._is_pressed else CALM)
        gc.disable()
        try:
            with threads.carrying_also(self._carried):
                _trace_by(self._enter)
                yield
        finally:
            _trace_by(before)
            sys.setswitchinterval(interval)
            gc.enable() if collects else gc.disable()

    # --- threads and tasks -------------------------------------------------------------------------------------------

    def _carried(self, function: Callable[..., Any]) -> Callable[..., Any]:
        place = _Place(self._begun(self._now(), "thread"))
        self._started += 1
        return partial(self._in_thread, place, self._started, function)

    def _in_thread(self, place: _Place, number: int, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self._is_pressed and number <= MOST_DELAYED:
            _pause(DELAY * (3 - number % 4))
        token, before = self._current.set(place), sys.gettrace()
        _trace_by(self._enter)
        try:
            return function(*args, **kwargs)
        finally:
            _trace_by(before)
            self._current.reset(token)

    def _now(self) -> Sequence:
        """Return the sequence of this thread's job, task or callback: one of its own, below who started it."""
        place, task = self._current.get(), threads.running_task()
        if task is None and place.task is None:
            return place.sequence
        if task is None:  # a callback, in a copy of the context of the task that asked for it
            found = _Place(self._begun(place.sequence, "callback"))
        elif place.task is not None and place.task() is task:
            return place.sequence
        else:
            found = self._of_tasks.get(task) or _Place(self._begun(place.sequence, "task"), weakref.ref(task))
            self._of_tasks[task] = found
        self._current.set(found)
        return found.sequence

    def _begun(self, above: Sequence, kind: str) -> Sequence:
        name = f"{above.name}/{above.child_name(kind)}"
        if len(name) > LONGEST_NAME:
            name = f"{blake2b(name.encode(), digest_size=8).hexdigest()}/{kind}"
        return self._log.sequence(name)

    # --- what the interpreter calls ----------------------------------------------------------------------------------

    def _enter(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        known = self._known.get(id(frame.f_code), _UNKNOWN)  # its hash takes as long as it is
        if known is _UNKNOWN:
            known = self._look_at(frame)
        if known is None:
            return None
        if not self._log.complete:
            gc.enable()
            return None
        return _Frame(self._now(), known, frame)

    def _look_at(self, frame: FrameType) -> _Known | None:
        """Return what is to be known of a frame's function; None where it is not the user's."""
        code = frame.f_code
        is_made = code.co_filename == "<string>" and frame.f_globals.get("__name__") not in MAIN_NAMES
        found = None
        if not is_made and not is_installed(code.co_filename):  # what a named tuple is made of is nobody's code
            found = _Known(code)
            self._log.codes[found.key] = Code(code.co_filename, code.co_qualname, code.co_firstlineno)
        self._codes.append(code)
        self._known[id(code)] = found  # last: other threads take what is there
        return found


_UNKNOWN = object()
_installing = threading.RLock()


def _trace_by(function: Any) -> None:
    """Set the trace function of this thread. While another thread does Python refuses it, and audit hooks take time."""
    with _installing:
        sys.settrace(function)


class _Place:
    """Where code runs: its sequence, and the task it is of."""

    __slots__ = ("sequence", "task")

    def __init__(self, sequence: Sequence, task: weakref.ref[Any] | None = None) -> None:
        self.sequence = sequence
        self.task = task


def _pause(seconds: float) -> None:
    """Wait really: the replay's own `time.sleep` does not."""
    lock = threading.Lock()
    with lock:
        lock.acquire(timeout=seconds)


class _Known:
    """What is known of a function beforehand.

    `stores` are the names that a line gives a value to, by the line; `arguments` those that are passed.
    """

    __slots__ = ("_returns", "arguments", "begins", "key", "stores")

    def __init__(self, code: CodeType) -> None:
        name = f"{code.co_filename}\0{code.co_qualname}\0{code.co_firstlineno}"
        self.key = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        self.begins = _beginning(code)
        is_looked_at = sys.version_info >= (3, 13) or not (code.co_cellvars or code.co_freevars)
        self.stores = _stores(code) if is_looked_at else {}
        self.arguments = _arguments(code) if is_looked_at else ()
        waits = code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR)
        self._returns = _returning(code) if waits else None

    def gives(self, at: int, value: Any) -> bool:
        """Whether a function that leaves its frame gives a value; what a coroutine waits for is the event loop's.

        Args:
            at: the place of the instruction it leaves with.
            value: what it hands out.
        """
        return self._returns is None or at in self._returns or type(value).__name__ == _WRAPPED


def _arguments(code: CodeType) -> tuple[str, ...]:
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return tuple(name for name in code.co_varnames[:count] if not name.startswith("."))


_RETURNS = frozenset({"RETURN_VALUE", "RETURN_CONST"})

_WRAPPED = "async_generator_wrapped_value"
"""The type of what an async generator yields; what it waits for comes as it is."""


def _returning(code: CodeType) -> frozenset[int]:
    """Return the places of the instructions that a function returns with."""
    return frozenset(each.offset for each in dis.get_instructions(code) if each.opname in _RETURNS)


def _beginning(code: CodeType) -> int:
    """Return the place of the instruction that a function begins with; a generator goes on at others."""
    return next((each.offset for each in dis.get_instructions(code) if each.opname == "RESUME" and not each.arg), 0)


def _stores(code: CodeType) -> dict[int, tuple[str, ...]]:
    found: dict[int, dict[str, None]] = {}
    line = code.co_firstlineno
    for each in dis.get_instructions(code):
        line = _line_of(each) or line
        if each.opname.startswith("STORE_") and each.opname.endswith(("FAST", "NAME", "DEREF")):
            names = each.argval if isinstance(each.argval, tuple) else (each.argval,)
            found.setdefault(line, {}).update(dict.fromkeys(names))
        elif each.opname == "STORE_FAST_LOAD_FAST":
            found.setdefault(line, {})[each.argval[0]] = None
    return {line: tuple(names) for line, names in found.items()}


def _line_of(instruction: dis.Instruction) -> int | None:
    return instruction.positions.lineno if instruction.positions is not None else None


class _Frame:
    """The trace function of one frame, from where it is entered to where it is left."""

    __slots__ = ("_add", "_known", "_line")

    def __init__(self, sequence: Sequence, known: _Known, frame: FrameType) -> None:
        self._add = sequence.add
        self._known = known
        self._line = frame.f_lineno
        if frame.f_lasti <= known.begins:
            self._add(known.key, self._line, _told(frame, known.arguments) if known.arguments else "")
            self._line = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> _Frame:
        if event == "line":
            if self._line:
                self._ended(frame)
            self._line = frame.f_lineno
        elif event == "return":
            is_given = self._known.gives(frame.f_lasti, arg)
            self._ended(frame, f"gave {brief(arg)}" if is_given else "")
        return self

    def _ended(self, frame: FrameType, gave: str = "") -> None:
        names = self._known.stores.get(self._line, ())
        told = _told(frame, names) if names else ""
        self._add(self._known.key, self._line or frame.f_lineno, f"{told}, {gave}" if told and gave else told or gave)


def _told(frame: FrameType, names: tuple[str, ...]) -> str:
    held = frame.f_locals
    return ", ".join(f"{name} = {brief(held[name])}" for name in names if name in held)
