"""Streams that are no generators: an iterator or stream object that a call returned.

Idea: what was returned is handed on inside a transparent proxy. Each item is recorded as the consumer takes it, and the
call's outcome ends when the stream does: exhausted, closed, left as a context manager, failed, or collected unread.

Which results are streams: those whose class has ``__next__`` or ``__anext__``. Containers (``__iter__`` alone) are
values, open files are handles, what is also awaited is left alone, and a call that returns the object it is bound to
returns that object.

Invariant: the call's span is current only while the stream's own code runs, never while its consumer's does. The
outcome ends once, whichever of the five comes first.

Refused: `weakref.finalize` for the last of them (its registry would keep a stream alive that is kept on the object its
call is bound to); a generator around the stream (its `close`, its attributes and ``isinstance`` would be lost);
recording all chunks at the end (their times would be lost, and all of them if the process dies).
"""

from __future__ import annotations

import copy
import inspect
import io
import sys
import weakref
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, Literal, Self

from clearstone.proxies import ObjectProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from clearstone.run import Answer, OpenCall, StreamKind

PLAIN: frozenset[type] = frozenset({
    type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset,
})  # fmt: skip
"""Types that are never a stream: one look-up spares most results the question."""


_values: set[weakref.ref[type]] = set()
"""Other types that were looked at and are no streams."""


def kind_of(cls: type) -> StreamKind | Literal["coroutine"] | None:
    """Say what objects of `cls` go on giving after they were returned; None where they are values."""
    try:
        if cls in PLAIN or weakref.ref(cls) in _values:
            return None
        if hasattr(cls, "__await__"):  # what is also entered, or read, would lose that in the place of a coroutine
            return "coroutine" if hasattr(cls, "throw") and not hasattr(cls, "__aenter__") else None
        if hasattr(cls, "__anext__"):
            return "async iterator"
        if hasattr(cls, "__next__") and not issubclass(cls, io.IOBase):
            return "iterator"
        _values.add(weakref.ref(cls, _values.discard))
    except Exception:  # a metaclass of the user's has no hash, or an odd one
        return None
    return None


def returned(call: OpenCall, result: Any, instance: Any) -> Any:
    """Report what a call returned; return what the caller gets in its place.

    Args:
        call: the open call.
        result: what it returned.
        instance: what it was bound to.
    """
    kind = kind_of(type(result)) if result is not instance else None
    if kind is None or kind == "coroutine" or inspect.isawaitable(result) or not call.streaming(kind):
        call.returned(result)
        return result
    return _proxy(result, Reading(call))


def _proxy(stream: Any, reading: Reading) -> ReadStream | ReadAsyncStream:
    return (ReadAsyncStream if kind_of(type(stream)) == "async iterator" else ReadStream)(stream, reading)


# --- recording -------------------------------------------------------------------------------------------------------


class Reading:
    """The reading of one stream: its open call, shared by every proxy of it, and ended once.

    Args:
        call: the open call.
    """

    __slots__ = ("call", "open")

    def __init__(self, call: OpenCall) -> None:
        self.call = call
        self.open = True

    def returned(self, value: Any) -> None:
        """The stream is exhausted."""
        if self.open:
            self.open = False
            self.call.returned(value)

    def raised(self, error: BaseException) -> None:
        """Its code raised `error`."""
        if self.open:
            self.open = False
            self.call.raised(error)

    def closed(self) -> None:
        """Its consumer is done with it."""
        if self.open:
            self.open = False
            self.call.closed()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing():  # a stream that is still there when the interpreter goes down stays interrupted
            self.closed()


def _read(name: str) -> Callable[..., Any]:
    """Return the method `name` of a proxy that takes the next item: one frame in the user's traceback."""

    def read(self: Any, *args: Any) -> Any:
        reading = self._self_reading
        method = getattr(self.__wrapped__, name)
        if not reading.open:
            return method(*args)
        call = reading.call
        token = call.enter()
        try:
            chunk = method(*args)
        except StopIteration as end:
            call.leave(token)
            reading.returned(end.value)
            raise
        except BaseException as error:
            call.leave(token)
            reading.raised(error)
            raise
        call.leave(token)
        call.chunk(chunk)
        return chunk

    return read


def _read_async(name: str) -> Callable[..., Any]:
    """Return the method `name` of a proxy that awaits the next item (see `_read`)."""

    async def read_async(self: Any, *args: Any) -> Any:
        reading = self._self_reading
        method = getattr(self.__wrapped__, name)
        if not reading.open:
            return await method(*args)
        call = reading.call
        token = call.enter()
        try:
            chunk = await method(*args)
        except StopAsyncIteration:
            call.leave(token)
            reading.returned(None)
            raise
        except BaseException as error:
            call.leave(token)
            reading.raised(error)
            raise
        call.leave(token)
        call.chunk(chunk)
        return chunk

    return read_async


def _within(name: str, *, ends: bool) -> Callable[..., Any]:
    """Return the method `name` of a proxy, run inside the call: opening and closing a stream is its own code."""

    def run(self: Any, *args: Any) -> Any:
        reading = self._self_reading
        method = getattr(self.__wrapped__, name)
        token = reading.call.enter() if reading.open else None
        try:
            result = method(*args)
        except BaseException as error:
            if token is not None:
                reading.call.leave(token)
            reading.raised(error)
            raise
        if token is not None:
            reading.call.leave(token)
        if inspect.isawaitable(result):
            return _awaited(self, result, ends=ends)
        return _finished(self, result, ends=ends)

    return run


async def _awaited(proxy: Any, result: Any, *, ends: bool) -> Any:
    reading = proxy._self_reading
    token = reading.call.enter() if reading.open else None
    try:
        result = await result
    except BaseException as error:
        if token is not None:
            reading.call.leave(token)
        reading.raised(error)
        raise
    if token is not None:
        reading.call.leave(token)
    return _finished(proxy, result, ends=ends)


def _finished(proxy: Any, result: Any, *, ends: bool) -> Any:
    """Return what a method gave; a stream that gives itself, or another reader of itself, stays recorded."""
    if ends:
        proxy._self_reading.closed()
        return result
    if result is proxy.__wrapped__:
        return proxy
    return _proxy(result, proxy._self_reading) if kind_of(type(result)) in {"iterator", "async iterator"} else result


class _IfThere:
    """A method of a proxy that is there only if the stream has it."""

    def __init__(self, name: str, method: Callable[..., Any]) -> None:
        self._name, self._method = name, method

    def __get__(self, proxy: Any, owner: type | None = None) -> Any:
        if proxy is None:
            return self
        getattr(proxy.__wrapped__, self._name)  # raises AttributeError as the stream does
        return self._method.__get__(proxy, owner)


class _Stream(ObjectProxy):
    """What both kinds have in common: a context manager, and copied and pickled as what it stands for."""

    def __init__(self, stream: Any, reading: Reading) -> None:
        super().__init__(stream)
        self._self_reading = reading

    close = _IfThere("close", _within("close", ends=True))
    __enter__ = _within("__enter__", ends=False)
    __exit__ = _within("__exit__", ends=True)
    __aenter__ = _within("__aenter__", ends=False)
    __aexit__ = _within("__aexit__", ends=True)

    def __copy__(self) -> Any:
        return copy.copy(self.__wrapped__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.__wrapped__, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__wrapped__.__reduce_ex__(protocol)


class ReadStream(_Stream):
    """An iterator whose items are recorded as they are read.

    Args:
        stream: the iterator.
        reading: the call that returned it.
    """

    __iter__ = _within("__iter__", ends=False)
    __next__ = _read("__next__")
    send = _IfThere("send", _read("send"))
    throw = _IfThere("throw", _read("throw"))


class ReadAsyncStream(_Stream):
    """An async iterator whose items are recorded as they are read.

    Args:
        stream: the async iterator.
        reading: the call that returned it.
    """

    __aiter__ = _within("__aiter__", ends=False)
    __anext__ = _read_async("__anext__")
    asend = _IfThere("asend", _read_async("asend"))
    athrow = _IfThere("athrow", _read_async("athrow"))
    aclose = _IfThere("aclose", _within("aclose", ends=True))


# --- replaying -------------------------------------------------------------------------------------------------------


def served(answer: Answer) -> ServedStream | ServedAsyncStream:
    """Return a recorded stream as an object that is read as the recorded one was."""
    return ServedAsyncStream(answer) if answer.stream == "async iterator" else ServedStream(answer)


def played(answer: Answer) -> Generator[Any, Any, Any]:
    """Yield the recorded items of a stream, then end as it did."""
    yield from answer.chunks or ()
    if answer.error is not None:
        raise answer.error
    return answer.value


class _Served:
    """The record of a stream: its items, without the object they came from."""

    def __init__(self, answer: Answer) -> None:
        self._items: Iterator[Any] = played(answer)

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

    def send(self, _: Any) -> Any:
        """Return the next item."""
        return next(self._items)

    def throw(self, error: Any, *rest: Any) -> Any:
        """End with `error`."""
        return self._items.throw(error, *rest)  # type: ignore[attr-defined]  # a generator

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ServedAsyncStream(_Served, AsyncGenerator[Any, Any]):
    """A served async stream: an async iterator, an async context manager, and what an async generator has.

    Args:
        answer: what was recorded.
    """

    async def asend(self, _: Any) -> Any:
        """Return the next item."""
        try:
            return next(self._items)
        except StopIteration:
            raise StopAsyncIteration from None

    async def athrow(self, error: Any, *rest: Any) -> Any:
        """End with `error`."""
        return self._items.throw(error, *rest)  # type: ignore[attr-defined]  # a generator

    async def close(self) -> None:
        """Read no further."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
