"""How each kind of callable is driven through a Run: functions and coroutines here, generators in `generators`.

Idea: the same five steps for all: choose the `Run`, begin, make the call's span current, run the user's code, report
what came out. A replay's answer takes the place of the last three. What a plain function returns may go on by itself: a
coroutine is followed here, a stream in `clearstone.streams`.

Invariant: the user's exception passes through one frame of this file at most per decorated call. A call with wrong
arguments fails where it is made, as undecorated: the user's coroutine or generator is made there, and started later.
"""

from __future__ import annotations

import inspect
import sys
from functools import cache, partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from clearstone import generators, streams
from clearstone import run as runs
from clearstone.callables import begin, default_run, holds_its_object, is_recorders, made_of, named, run_for
from clearstone.callers import place_above
from clearstone.proxies import wrapper_of
from clearstone.run import SUSPENDED
from clearstone.streams import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from clearstone.callables import Decoration, Given, Kind


def driver(kind: Kind, decoration: Decoration) -> Callable[..., Any]:
    """Return the wrapper, as wrapt calls it, for a callable of that kind."""
    return _pass if runs.is_disabled() else _DRIVERS[kind](decoration)


# --- functions -------------------------------------------------------------------------------------------------------

_override, _current = runs.override.get, runs.current_span.get
_set_current, _reset_current = runs.current_span.set, runs.current_span.reset


def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: C901 - the way of every call
    """Call a decorated function that is bound to nothing: the ``__call__`` of its wrapper.

    In place of wrapt's own, which asks a function for its ``__self__`` at every call: it has none, and the error that
    says so costs as much as all the rest. Its steps are those of `_function`; to share them would take a frame more, in
    time and in the user's tracebacks.
    """
    of, run = wrapper_of(self).of, _override()
    wrapped = of.function
    if run is SUSPENDED:
        return wrapped(*args, **kwargs)
    if run is None and of.tracer is not None:
        run = of.tracer.recording
    elif run is None:
        span = _current()
        run = span.recording if span is not None else runs.usual or default_run()
    if run is None or (of.shared and is_recorders(sys._getframe(1))):
        return wrapped(*args, **kwargs)
    if of.of_method and holds_its_object(wrapped, args):
        call = run.begin(of.site, args[0], args[1:], kwargs)
    else:
        call = run.begin(of.site, None, args, kwargs)
    if call.answer is not None:
        return _answers().answered(call.answer)
    token = _set_current(call) if call.is_span else None  # type: ignore[arg-type]  # as `runs.enter`
    try:
        result = wrapped(*args, **kwargs)
    except BaseException as error:
        runs.leave(token, call)
        call.raised(error)
        raise
    try:  # as `runs.leave`
        if token is not None:
            _reset_current(token)
    except ValueError:
        runs.left_elsewhere(call)
    try:
        plain = type(result) in PLAIN
    except Exception:  # its class has a metaclass without a hash
        plain = False
    if plain:
        call.returned(result)
        return result
    return _returned(call, result, None)


def _function(of: Decoration) -> Callable[..., Any]:  # noqa: C901
    """Return the wrapper, as wrapt calls it, for bound functions and all that is called like one."""
    site, tracer, of_method, shared = of.site, of.tracer, of.of_method, of.shared

    def call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:  # noqa: C901
        run = _override()
        if run is SUSPENDED:
            return wrapped(*args, **kwargs)
        if run is None and tracer is not None:
            run = tracer.recording
        elif run is None:
            span = _current()
            run = span.recording if span is not None else runs.usual or default_run()
        if run is None or (shared and is_recorders(sys._getframe(1))):
            return wrapped(*args, **kwargs)
        if of_method and instance is None and holds_its_object(wrapped, args):
            call = run.begin(site, args[0], args[1:], kwargs)
        else:
            call = run.begin(site, instance, args, kwargs)
        if call.answer is not None:
            return _answers().answered(call.answer)
        token = _set_current(call) if call.is_span else None  # type: ignore[arg-type]
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            runs.leave(token, call)
            call.raised(error)
            raise
        try:
            if token is not None:
                _reset_current(token)
        except ValueError:
            runs.left_elsewhere(call)
        try:
            plain = type(result) in PLAIN
        except Exception:
            plain = False
        if plain:
            call.returned(result)
            return result
        return _returned(call, result, instance)

    call.of = of  # type: ignore[attr-defined]  # for the other `call`
    return call


@cache
def _answers() -> Any:
    from clearstone import answers  # in a replay: who records needs none

    return answers


def _pass(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


def _returned(call: runs.OpenCall, result: Any, instance: Any) -> Any:
    if streams.kind_of(type(result)) == "coroutine" and call.awaiting():
        followed = _follow(call, _Unstarted(result, call))
        return named(followed, result) if type(result) is CoroutineType else followed
    return streams.returned(call, result, instance)


# --- coroutines ------------------------------------------------------------------------------------------------------


class _Unstarted:
    """The user's coroutine until it is awaited. One that never is must not warn beside the one that was handed out.

    Args:
        coroutine: the user's.
        call: its call, where it is open already.
    """

    __slots__ = ("call", "coroutine")

    def __init__(self, coroutine: Any, call: runs.OpenCall | None = None) -> None:
        self.coroutine = coroutine
        self.call = call

    def __call__(self) -> Any:
        self.call = None
        return self.coroutine

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        self.coroutine.close()
        if self.call is not None and not is_finalizing():
            self.call.closed()


def _coroutine(of: Decoration) -> Callable[..., Any]:
    override, serves = runs.override.get, of.site.replay == "serve"

    def call_async(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        if override() is SUSPENDED:
            return wrapped(*args, **kwargs)
        place = place_above() if serves else None  # it begins where it is awaited
        function, given = made_of(wrapped, inspect.CO_COROUTINE), (wrapped, instance, args, kwargs, place)
        if function is None:
            return _awaited(of, partial(wrapped, *args, **kwargs), given)
        start = _Unstarted(wrapped(*args, **kwargs))
        return named(_awaited(of, start, given), function)

    return call_async


async def _awaited(of: Decoration, start: Callable[[], Any], given: Given) -> Any:
    """Drive a coroutine: its call begins when it is first awaited, in the task that does it."""
    run = run_for(of.tracer)
    if run is None:
        return await start()
    call = None
    try:
        call = begin(run, of, *given)
    finally:
        if (call is None or call.answer is not None) and type(start) is _Unstarted:
            start.coroutine.close()  # not left to its end: a traceback may hold it until the collector comes
    if call.answer is not None:
        return await _answers().given_later(call.answer)
    token = runs.enter(call)
    try:
        result = await start()
    except BaseException as error:
        runs.leave(token, call)
        call.raised(error)
        raise
    runs.leave(token, call)
    return streams.returned(call, result, given[1])


async def _follow(call: runs.OpenCall, start: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Drive the coroutine that a plain function returned."""
    token = runs.enter(call)
    try:
        result = await start()
    except BaseException as error:
        runs.leave(token, call)
        call.raised(error)
        raise
    runs.leave(token, call)
    return streams.returned(call, result, None)


_DRIVERS = {
    "function": _function,
    "coroutine": _coroutine,
    "generator": generators.generator,
    "async generator": generators.async_generator,
}
