"""The call that a replay makes, and those it makes first: also where coroutines need an event loop of their own."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clearstone import nondet
from clearstone.replay import stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a restored agent's method, or of a function.

    Args:
        function: what is called.
        args: its positional arguments.
        kwargs: its keyword arguments.
        before: the calls to make first: the agent's state is from before them.
        may_fail: of a call made first, whether an exception left it when it was recorded: then one may leave it now.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    before: tuple[Call, ...] = ()
    may_fail: bool = False

    def __call__(self) -> Any:
        """Make the call and wait for what it gives: coroutines are run, generators are read to their end."""
        result = self.function(*self.args, **self.kwargs)
        if inspect.iscoroutine(result):
            return nondet.run(_stoppable(result))
        if inspect.isasyncgen(result):
            return nondet.run(_stoppable(_collected(result)))
        return list(result) if inspect.isgenerator(result) else result

    def driven(self, make: Callable[[], Any]) -> Any:
        """Make the calls that come first, then this one through `make`."""
        for each in self.before:
            each.repeat()
        return self._where_it_runs(make)

    def repeat(self) -> None:
        """Make a call that comes first; what it gives is in the agent."""
        try:
            self._where_it_runs(self)
        except Exception:
            if not self.may_fail:
                raise

    def _where_it_runs(self, make: Callable[[], Any]) -> Any:
        is_async = inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function)
        return _in_thread(make) if is_async and _in_a_loop() else make()

    @property
    def first_code(self) -> Any:
        """The code of the innermost function: decorators that say what they wrap are looked through."""
        return getattr(inspect.unwrap(getattr(self.function, "__func__", self.function)), "__code__", None)


def _stoppable(coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
    stop = stopping.current.get()
    return coroutine if stop is None else stop.over(coroutine)


async def _collected(stream: Any) -> list[Any]:
    return [item async for item in stream]


def _in_a_loop() -> bool:
    """Whether this thread runs an event loop, as a notebook's does: a coroutine then needs a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(function: Callable[[], Any]) -> Any:
    context, outcome = contextvars.copy_context(), list[tuple[Any, BaseException | None]]()

    def work() -> None:
        try:
            outcome.append((context.run(function), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, name="clearstone-replay")
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
