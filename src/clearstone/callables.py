"""What is decorated: its kind, the object it is bound to, and the Run its calls go to.

Idea: questions that every driver asks, answered in one place.

Invariant: nothing here calls what is decorated, and no frame of this file is in a user's traceback.
"""

from __future__ import annotations

import functools
import inspect
import sys
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

from clearstone import run as runs
from clearstone.record.default import default_provider
from clearstone.run import SUSPENDED

if TYPE_CHECKING:
    from types import FrameType

    from clearstone.callers import Place
    from clearstone.record.tracer import Tracer
    from clearstone.span import Site

_RECORDERS = frozenset({"record", "codec", "store", "checkpoint", "nondet", "home", "notice"})
"""Rooms whose calls are the recorder's own. The others pass on somebody else's."""

_AROUND = (classmethod, staticmethod, partial, functools.partialmethod, functools.singledispatchmethod)

Given = tuple[Any, Any, Any, Any, "Place | None"]
"""What wrapt gave of a call that begins later (what it wraps, the object, args, kwargs), and where it is made."""

Kind = Literal["function", "coroutine", "generator", "async generator"]


@dataclass(frozen=True, slots=True)
class Decoration:
    """What a decorator knows.

    Args:
        site: the site.
        tracer: the tracer it was given (None: see `run_for`).
        shared: whether the recorder may call it too, as it is nobody's own code: such calls are not recorded.
        function: what is decorated, where that is a plain function.
    """

    site: Site
    tracer: Tracer | None = None
    shared: bool = False
    function: FunctionType | None = None
    of_method: bool = field(init=False)
    """Whether the site is a method, by its name: called without being bound, it may get its object as `self`."""

    def __post_init__(self) -> None:
        owner = self.site.key.partition(":")[2].rpartition(".")[0]
        object.__setattr__(self, "of_method", bool(owner) and not owner.endswith("<locals>"))


def innermost(target: Any) -> Any:
    """Return the function inside classmethods, staticmethods and partials."""
    while isinstance(target, _AROUND):
        target = target.__func__ if isinstance(target, classmethod | staticmethod) else target.func
    return target


def kind_of(target: Any) -> Kind:
    """Say what calling `target` gives: a value, a coroutine, a generator or an async generator."""
    function = innermost(target)
    if not inspect.isroutine(function):
        function = getattr(type(function), "__call__", function)  # noqa: B004 - it is not asked whether, but what
    if inspect.iscoroutinefunction(function):
        return "coroutine"
    if inspect.isasyncgenfunction(function):
        return "async generator"
    return "generator" if inspect.isgeneratorfunction(function) else "function"


def run_for(tracer: Tracer | None) -> runs.Run | None:
    """Choose what becomes of a call: the override, else the tracer's provider, the open span's, the default one."""
    override = runs.override.get()
    if override is not None:
        return override if override is not SUSPENDED else None
    if tracer is not None:
        return tracer.recording
    span = runs.current_span.get()
    if span is not None:
        return span.recording
    return default_run()


def default_run() -> runs.Run | None:
    """Return the default provider's Run; None where there is no such provider."""
    provider = default_provider()
    return provider.recording if provider is not None else None


def holds_its_object(wrapped: Any, args: Any) -> bool:
    """Say whether the first argument is a method's object: a property's is not bound, nor a classmethod's in 3.13."""
    code = getattr(innermost(wrapped), "__code__", None)
    return bool(args) and code is not None and code.co_argcount > 0 and code.co_varnames[0] in {"self", "cls"}


def made_of(wrapped: Any, flag: int) -> Any:
    """Return the function behind `wrapped` where making its coroutine or generator runs no code of the user's."""
    function = getattr(wrapped, "__func__", wrapped)
    return function if type(function) is FunctionType and function.__code__.co_flags & flag else None


def named(made: Any, function: Any) -> Any:
    """Let what is handed out in place of the user's be named as theirs, in warnings and task lists."""
    made.__name__, made.__qualname__ = function.__name__, function.__qualname__
    return made


def begin(
    run: runs.Run,
    of: Decoration,
    wrapped: Any,
    instance: Any,
    args: Any,
    kwargs: Any,
    place: Place | None,
    streams: bool = False,
) -> runs.OpenCall:
    """Open a call; an object among the arguments is what it is bound to."""
    if of.of_method and instance is None and holds_its_object(wrapped, args):
        instance, args = args[0], args[1:]
    return run.begin(of.site, instance, args, kwargs, streams, place)


def is_recorders(caller: FrameType | None) -> bool:
    """Say whether the recorder made a call, itself or through the standard library; `caller` is the frame it is in."""
    while caller is not None:
        module = caller.f_globals.get("__name__") or ""
        room, _, rest = module.partition(".")
        if room == "clearstone":
            if rest.partition(".")[0] in _RECORDERS:
                return True
        elif room not in sys.stdlib_module_names:
            return False
        caller = caller.f_back
    return False
