"""Generators and async generators, driven through a Run step by step.

Idea: what is handed out is a generator of ours around the user's, so it is one to whoever asks. Each next, send, throw
and close goes on to the user's; closing is throwing GeneratorExit, as in Python itself.

Invariant: the call's span is current only while the generator's own code runs, never across a ``yield``, and no item,
and nothing that was sent or thrown in, is held across one; an exception passes through one frame of this file at most.
"""

from __future__ import annotations

import inspect
import sys
import types
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone import run as runs
from clearstone.callables import begin, made_of, named, run_for
from clearstone.callers import place_above

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from clearstone.callables import Decoration, Given


class _Made(NamedTuple):
    """A generator that was made and not started. Its call begins when its code does, below the span it was made in.

    Args:
        run: what becomes of the call.
        parent: the span it was made in.
        of: what its decorator knows.
        given: the call.
        start: gives the user's generator.
    """

    run: runs.Run
    parent: runs.SpanAbove | None
    of: Decoration
    given: Given
    start: Callable[[], Any]

    def begin(self) -> runs.OpenCall:
        """Open the call."""
        caller = runs.current_span.set(self.parent)
        try:
            return begin(self.run, self.of, *self.given, streams=True)
        finally:
            runs.current_span.reset(caller)


def generator(of: Decoration) -> Callable[..., Any]:
    """Return the wrapper for a generator function."""
    return _streaming(of, inspect.CO_GENERATOR, _stream)


def async_generator(of: Decoration) -> Callable[..., Any]:
    """Return the wrapper for an async generator function."""
    return _streaming(of, inspect.CO_ASYNC_GENERATOR, _async_stream)


def _streaming(of: Decoration, flag: int, drive: Callable[[_Made], Any]) -> Callable[..., Any]:
    serves = of.site.replay == "serve"

    def call_stream(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        run = run_for(of.tracer)
        if run is None:
            return wrapped(*args, **kwargs)
        place = place_above() if serves else None
        function, given = made_of(wrapped, flag), (wrapped, instance, args, kwargs, place)
        if function is None:
            return drive(_Made(run, runs.current_span.get(), of, given, partial(wrapped, *args, **kwargs)))
        stream = wrapped(*args, **kwargs)
        made = _Made(run, runs.current_span.get(), of, given, lambda: stream)
        awaited = function.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
        return named(_awaited_stream(made) if awaited else drive(made), function)

    return call_stream


def _stream(made: _Made) -> Generator[Any, Any, Any]:
    """Drive a generator; closing it is throwing GeneratorExit into it, as Python does."""
    call = made.begin()
    if call.answer is not None:
        from clearstone.answers import played

        return (yield from played(call.answer))
    stream: Any = None
    step: Any = None
    given: Any = None
    chunk: list[Any] = []  # a consumer that is done with an item finds it gone: nothing of ours holds it at a yield
    while True:
        token = runs.enter(call)
        try:
            if stream is None:
                stream = made.start()
                chunk.append(next(stream))
            else:
                call.resumed()
                chunk.append(step(given))
        except StopIteration as end:
            runs.leave(token, call)
            call.closed() if isinstance(given, GeneratorExit) else call.returned(end.value)
            return end.value
        except BaseException as error:
            runs.leave(token, call)
            call.closed() if isinstance(error, GeneratorExit) else call.raised(error)
            raise
        runs.leave(token, call)
        call.chunk(chunk[0])
        given = None
        try:
            step, given = stream.send, (yield chunk.pop())
        except BaseException as error:
            step, given = stream.throw, _as_thrown(error)


_awaited_stream = types.coroutine(_stream)
"""For functions under `types.coroutine`: a generator that can be awaited."""


async def _async_stream(made: _Made) -> AsyncGenerator[Any, Any]:
    """Drive an async generator (see `_stream`)."""
    call = made.begin()
    if call.answer is not None:
        from clearstone.answers import Coming

        coming = Coming(call.answer)
        try:
            async for recorded in coming:
                yield recorded
        finally:
            coming.close()
        return
    stream: Any = None
    step: Any = None
    given: Any = None
    chunk: list[Any] = []  # a consumer that is done with an item finds it gone: nothing of ours holds it at a yield
    while True:
        token = runs.enter(call)
        try:
            if stream is None:
                stream = made.start()
                chunk.append(await _first_step(stream))
            else:
                call.resumed()
                chunk.append(await step(given))
        except StopAsyncIteration:
            runs.leave(token, call)
            call.closed() if isinstance(given, GeneratorExit) else call.returned(None)
            return
        except BaseException as error:
            runs.leave(token, call)
            call.closed() if isinstance(error, GeneratorExit) else call.raised(error)
            raise
        runs.leave(token, call)
        call.chunk(chunk[0])
        given = None
        try:
            step, given = stream.asend, (yield chunk.pop())
        except BaseException as error:
            step, given = stream.athrow, _as_thrown(error)


def _as_thrown(error: BaseException) -> BaseException:
    """Return `error` without our own frame, which it got on its way in and gets on its way out again."""
    trace = error.__traceback__
    return error.with_traceback(trace.tb_next) if trace is not None else error


def _first_step(stream: Any) -> Any:
    """Begin an async generator of the user's without the event loop's notice: it knows the one that is handed out.

    It closes those it knows at its end, all at once; closing both would close one while the other does.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return stream.asend(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)
