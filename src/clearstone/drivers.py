"""How each kind of callable is driven through a Run: function, coroutine, generator, async generator.

Idea: the same five steps for all: choose the `Run`, begin, make the call's span current, run the user's code, report
what came out. A replay's answer takes the place of the last three.

Invariant: the user's exception passes through one frame of this file at most per decorated call; a stream's span is
current only while the generator's own code runs, never across a ``yield``.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clearstone import run as runs
from clearstone.record.provider import default_provider
from clearstone.run import SUSPENDED

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from clearstone.record.tracer import Tracer
    from clearstone.span import Site

A_YEAR = 365 * 86400.0
"""Longer than any timeout; a replay's clock gets there at once."""

Kind = Literal["function", "coroutine", "generator", "async generator"]


@dataclass(frozen=True, slots=True)
class Decoration:
    """What a decorator knows: the site, and the tracer it was given (None: see `_run_for`)."""

    site: Site
    tracer: Tracer | None = None


def innermost(target: Any) -> Any:
    """Return the function inside classmethods, staticmethods and partials."""
    while isinstance(target, classmethod | staticmethod | functools.partial):
        target = target.func if isinstance(target, functools.partial) else target.__func__
    return target


def kind_of(target: Any) -> Kind:
    """Say what calling `target` gives: a value, a coroutine, a generator or an async generator."""
    function = innermost(target)
    if inspect.iscoroutinefunction(function):
        return "coroutine"
    if inspect.isasyncgenfunction(function):
        return "async generator"
    return "generator" if inspect.isgeneratorfunction(function) else "function"


def driver(kind: Kind, decoration: Decoration) -> Callable[..., Any]:
    """Return the wrapper, as wrapt calls it, for a callable of that kind."""
    return _DRIVERS[kind](decoration)


def _run_for(tracer: Tracer | None) -> runs.Run | None:
    """Choose what becomes of a call: the override, else the tracer's provider, the open span's, the default one."""
    override = runs.override.get()
    if override is not None:
        return override
    if runs.is_disabled():
        return None
    if tracer is not None:
        return tracer.recording
    span = runs.current_span.get()
    if span is not None:
        return span.recording
    return _default_run()


def _default_run() -> runs.Run | None:
    provider = default_provider()
    return provider.recording if provider is not None else None


def _function(of: Decoration) -> Callable[..., Any]:
    site, tracer = of.site, of.tracer
    if runs.is_disabled():
        return _pass
    override, current, fixed = runs.override.get, runs.current_span.get, tracer.recording if tracer is not None else None

    def call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        run = override()  # from here on as `_run_for`
        if run is None:
            run = fixed
            if run is None:
                span = current()
                run = span.recording if span is not None else _default_run()
                if run is None:
                    return wrapped(*args, **kwargs)
        elif run is SUSPENDED:
            return wrapped(*args, **kwargs)
        call = run.begin(site, instance, args, kwargs)
        if call.answer is not None:
            return _given(call.answer)
        token = call.enter()
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            call.leave(token)
            call.raised(error)
            raise
        call.leave(token)
        call.returned(result)
        return result

    return call


def _pass(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


def _coroutine(of: Decoration) -> Callable[..., Any]:
    site, tracer = of.site, of.tracer

    async def call_async(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        run = _run_for(tracer)
        if run is None:
            return await wrapped(*args, **kwargs)
        call = run.begin(site, instance, args, kwargs)
        if call.answer is not None:
            await _until_cancelled(call.answer)
            return _given(call.answer)
        token = call.enter()
        try:
            result = await wrapped(*args, **kwargs)
        except BaseException as error:
            call.leave(token)
            call.raised(error)
            raise
        call.leave(token)
        call.returned(result)
        return result

    return call_async


def _generator(of: Decoration) -> Callable[..., Any]:
    def call_stream(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        run = _run_for(of.tracer)
        if run is None:
            return wrapped(*args, **kwargs)
        return _stream(_Made(run, runs.current_span.get()), of, wrapped, instance, args, kwargs)

    return call_stream


def _async_generator(of: Decoration) -> Callable[..., Any]:
    def call_async_stream(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        run = _run_for(of.tracer)
        if run is None:
            return wrapped(*args, **kwargs)
        return _async_stream(_Made(run, runs.current_span.get()), of, wrapped, instance, args, kwargs)

    return call_async_stream


async def _until_cancelled(answer: runs.Answer) -> None:
    """Let a call that was cancelled when recorded be cancelled again, by the timeout or task group that did it."""
    import asyncio

    if isinstance(answer.error, asyncio.CancelledError):
        await asyncio.sleep(A_YEAR)


def _given(answer: runs.Answer) -> Any:
    if answer.chunks is not None:
        return _played(answer)
    if answer.error is not None:
        raise answer.error
    return answer.value


def _played(answer: runs.Answer) -> Generator[Any, Any, Any]:
    yield from answer.chunks or ()
    if answer.error is not None:
        raise answer.error
    return answer.value


@dataclass(frozen=True, slots=True)
class _Made:
    """Where a generator was made: its span starts when its code does, but belongs below the span of that moment."""

    run: runs.Run
    parent: runs.OpenSpan | None

    def begin(self, of: Decoration, instance: Any, args: Any, kwargs: Any) -> runs.OpenCall:
        caller = runs.current_span.set(self.parent)
        try:
            return self.run.begin(of.site, instance, args, kwargs, True)  # noqa: FBT003 - positional only
        finally:
            runs.current_span.reset(caller)


def _stream(
    made: _Made, of: Decoration, wrapped: Any, instance: Any, args: Any, kwargs: Any
) -> Generator[Any, Any, Any]:
    """Drive a generator."""
    call = made.begin(of, instance, args, kwargs)
    if call.answer is not None:
        return (yield from _played(call.answer))
    stream = wrapped(*args, **kwargs)
    step, given = stream.send, None
    while True:
        token = call.enter()
        try:
            chunk = step(given)
        except StopIteration as end:
            call.leave(token)
            call.returned(end.value)
            return end.value
        except BaseException as error:
            call.leave(token)
            call.closed() if isinstance(error, GeneratorExit) else call.raised(error)
            raise
        call.leave(token)
        call.chunk(chunk)
        try:
            step, given = stream.send, (yield chunk)
        except GeneratorExit:
            value = _close(call, stream)
            if value is None:
                raise
            return value
        except BaseException as error:
            step, given = stream.throw, error


def _close(call: runs.OpenCall, stream: Any) -> Any:
    """Close the user's generator; from Python 3.13 on `close` returns what the generator returned."""
    token = call.enter()
    try:
        value = stream.close()
    except BaseException as error:
        call.leave(token)
        call.raised(error)
        raise
    call.leave(token)
    call.closed()
    return value


async def _async_stream(
    made: _Made, of: Decoration, wrapped: Any, instance: Any, args: Any, kwargs: Any
) -> AsyncGenerator[Any, Any]:
    """Drive an async generator (see `_stream`)."""
    call = made.begin(of, instance, args, kwargs)
    if call.answer is not None:
        for chunk in _played(call.answer):
            yield chunk
        return
    stream = wrapped(*args, **kwargs)
    step, given = stream.asend, None
    while True:
        token = call.enter()
        try:
            chunk = await step(given)
        except StopAsyncIteration:
            call.leave(token)
            call.returned(None)
            return
        except BaseException as error:
            call.leave(token)
            call.closed() if isinstance(error, GeneratorExit) else call.raised(error)
            raise
        call.leave(token)
        call.chunk(chunk)
        try:
            step, given = stream.asend, (yield chunk)
        except GeneratorExit:
            await _aclose(call, stream)
            raise
        except BaseException as error:
            step, given = stream.athrow, error


async def _aclose(call: runs.OpenCall, stream: Any) -> None:
    token = call.enter()
    try:
        await stream.aclose()
    except BaseException as error:
        call.leave(token)
        call.raised(error)
        raise
    call.leave(token)
    call.closed()


_DRIVERS = {
    "function": _function,
    "coroutine": _coroutine,
    "generator": _generator,
    "async generator": _async_generator,
}
