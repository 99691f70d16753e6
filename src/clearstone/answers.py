"""An answer in the place of a call: the recorded value, exception or stream, given as the call would have given it.

Idea: what drives a call asks its Run for an `Answer` first; where there is one, the user's code does not run and this
file gives what it gave. Mock targets without a decorator give theirs by the same functions.

Invariant: an answer is given at the time that its pace says, and a served stream can be read as the recorded one was.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from types import TracebackType

    from clearstone.run import Answer


def answered(answer: Answer) -> Any:
    """Give an answer to a call of a plain function: its value or stream, or an awaitable of it."""
    if answer.awaited:
        return given_later(answer)
    if answer.pace is not None:
        answer.pace.at_once()
    return _result(answer)


def _result(answer: Answer) -> Any:
    if answer.chunks is not None:
        return served(answer)
    failure = answer.failure()
    if failure is not None:
        raise failure
    return answer.value


async def given_later(answer: Answer) -> Any:
    """Give an answer to a call that is awaited.

    One that others have to end (see `Answer.pending`) is cancelled again by the timeout or task group that did it then.
    """
    pace = answer.pace
    if answer.pending is not None:
        await _wait_for_others(answer)
        raise answer.pending()
    if pace is not None:
        await pace.later()
    return _result(answer)


async def _wait_for_others(answer: Answer) -> None:
    """Wait to be cancelled, as long as there is something to wait for."""
    if answer.pace is not None:
        try:
            await answer.pace.forever()
        finally:
            answer.pace.finish()


# --- streams ---------------------------------------------------------------------------------------------------------


def served(answer: Answer) -> ServedStream | ServedAsyncStream:
    """Return a recorded stream as an object that is read as the recorded one was."""
    return ServedAsyncStream(answer) if answer.stream == "async iterator" else ServedStream(answer)


def played(answer: Answer) -> Generator[Any, Any, Any]:
    """Yield the recorded items of a stream, then end as it did."""
    items = answer.chunks or ()
    yield from answer.pace.read(items) if answer.pace is not None else items
    failure = answer.failure()
    if failure is not None:
        raise failure
    return answer.value


class Coming:
    """The recorded items of an async stream, each at its time, and its end. No generator: no loop keeps a list of it.

    Args:
        answer: what was recorded.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._items = iter(answer.chunks or ())
        self._next: list[Any] = []
        self._begun = self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Wait for the next item: what is cancelled while it waits gets it the next time."""
        pace = self._answer.pace
        if pace is not None and not self._begun:
            pace.opened()
        self._begun = True
        if not self._next and not self._closed:
            self._next.extend(itertools.islice(self._items, 1))
        if not self._next:
            await self._end()
        elif pace is not None:
            await pace.come()
        return self._next.pop()

    async def _end(self) -> NoReturn:
        """End as the stream did (see `given_later`); once it has, it is at its end."""
        if self._closed:
            raise StopAsyncIteration
        try:
            if self._answer.pending is not None:
                await _wait_for_others(self._answer)
                raise self._answer.pending()
        finally:
            self.close()
        raise self._answer.error or StopAsyncIteration

    def close(self) -> None:
        """End it here."""
        self._closed = True
        self._next.clear()
        if self._answer.pace is not None:
            self._answer.pace.finish()


class _Served:
    """The record of a stream: its items, without the object they came from."""

    _items: Any

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"this stream is served from the record, which holds its items and not its attribute {name!r}; "
            f"return what you need of it from the decorated function"
        )


class ServedStream(_Served, Generator[Any, Any, Any]):
    """A served stream: an iterator, a context manager, and what a generator has.

    Args:
        answer: what was recorded.
    """

    def __init__(self, answer: Answer) -> None:
        self._items: Generator[Any, Any, Any] = played(answer)

    def send(self, _: Any) -> Any:
        """Return the next item."""
        return next(self._items)

    def throw(self, error: Any, *rest: Any) -> Any:
        """End with `error`."""
        return self._items.throw(error, *rest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ServedAsyncStream(_Served, AsyncGenerator[Any, Any]):
    """A served async stream: an async iterator, an async context manager, and what an async generator has.

    Args:
        answer: what was recorded.
    """

    def __init__(self, answer: Answer) -> None:
        self._items = Coming(answer)

    async def asend(self, _: Any) -> Any:
        """Return the next item."""
        return await anext(self._items)

    async def athrow(self, error: Any, value: Any = None, trace: TracebackType | None = None) -> Any:
        """End with `error`: an exception, or its type, and then what it is made of."""
        self._items.close()
        if isinstance(error, type):
            error = value if isinstance(value, BaseException) else error() if value is None else error(value)
        raise error.with_traceback(trace) if trace is not None else error

    async def close(self) -> None:
        """Read no further."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
