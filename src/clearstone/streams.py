"""Streams that are no generators: an iterator or stream object that a call returned.

Idea: what was returned is handed on inside a transparent proxy. Each item is recorded as the consumer takes it, and the
call's outcome ends when the stream does: exhausted, closed, left as a context manager, failed, or collected unread.

Which results are streams: those whose class has ``__next__`` or ``__anext__``. Containers (``__iter__`` alone) are
values, open files are handles, what is also awaited is left alone, and a call that returns the object it is bound to
returns that object.

Invariant: the call's span is current only while the stream's own code runs, never while its consumer's does. The
outcome ends once, whichever of the five comes first.

Refused: a proxy of wrapt's (its special methods are not the stream's: ``isinstance`` and `itertools.tee` are misled);
`weakref.finalize` for the last of them (its registry would keep a stream alive that is kept on the object its call is
bound to); a generator around the stream (its `close`, its attributes and ``isinstance`` would be lost); recording all
chunks at the end (their times would be lost, and all of them if the process dies).
"""

from __future__ import annotations

import copyreg
import inspect
import io
import sys
import weakref
from types import GeneratorType, MethodType
from typing import TYPE_CHECKING, Any, Literal

from clearstone import run as runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearstone.run import OpenCall, StreamKind

PLAIN: frozenset[type] = frozenset({
    type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset,
})  # fmt: skip
"""Types that are never a stream: one look-up spares most results the question."""

_ITERATORS = frozenset({"iterator", "async iterator"})

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
    awaited = type(result) is GeneratorType and result.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE
    proxy = _class_for(type(result)) if kind in _ITERATORS and not awaited else None
    if proxy is None or not call.streaming(kind):  # type: ignore[arg-type]  # one of the two
        call.returned(result)
        return result
    return proxy(result, Reading(call))


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
        token = runs.enter(call)
        try:
            chunk = method(*args)
        except StopIteration as end:
            runs.leave(token, call)
            reading.returned(end.value)
            raise
        except BaseException as error:
            runs.leave(token, call)
            reading.raised(error)
            raise
        runs.leave(token, call)
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
        token = runs.enter(call)
        try:
            chunk = await method(*args)
        except StopAsyncIteration:
            runs.leave(token, call)
            reading.returned(None)
            raise
        except BaseException as error:
            runs.leave(token, call)
            reading.raised(error)
            raise
        runs.leave(token, call)
        call.chunk(chunk)
        return chunk

    return read_async


def _within(name: str, *, ends: bool) -> Callable[..., Any]:
    """Return the method `name` of a proxy, run inside the call: opening and closing a stream is its own code."""

    def run(self: Any, *args: Any) -> Any:
        reading = self._self_reading
        method = getattr(self.__wrapped__, name)
        token = runs.enter(reading.call) if reading.open else None
        try:
            result = method(*args)
        except BaseException as error:
            runs.leave(token, reading.call)
            reading.raised(error)
            raise
        runs.leave(token, reading.call)
        if inspect.isawaitable(result):
            return _awaited(self, result, ends=ends)
        return _finished(self, result, ends=ends)

    return run


async def _awaited(proxy: Any, result: Any, *, ends: bool) -> Any:
    reading = proxy._self_reading
    token = runs.enter(reading.call) if reading.open else None
    try:
        result = await result
    except BaseException as error:
        runs.leave(token, reading.call)
        reading.raised(error)
        raise
    runs.leave(token, reading.call)
    return _finished(proxy, result, ends=ends)


def _finished(proxy: Any, result: Any, *, ends: bool) -> Any:
    """Return what a method gave; a stream that gives itself, or another reader of itself, stays recorded."""
    if ends:
        proxy._self_reading.closed()
        return result
    if result is proxy.__wrapped__:
        return proxy
    another = _class_for(type(result)) if kind_of(type(result)) in _ITERATORS else None
    return another(result, proxy._self_reading) if another is not None else result


_RECORDED: dict[str, Callable[..., Any]] = {
    "__iter__": _within("__iter__", ends=False),
    "__aiter__": _within("__aiter__", ends=False),
    "__enter__": _within("__enter__", ends=False),
    "__aenter__": _within("__aenter__", ends=False),
    "__exit__": _within("__exit__", ends=True),
    "__aexit__": _within("__aexit__", ends=True),
    "close": _within("close", ends=True),
    "aclose": _within("aclose", ends=True),
    "__next__": _read("__next__"),
    "send": _read("send"),
    "throw": _read("throw"),
    "__anext__": _read_async("__anext__"),
    "asend": _read_async("asend"),
    "athrow": _read_async("athrow"),
}
"""The methods of a stream that mean something to its reading, as its proxy has them."""

_OWN = frozenset({
    "__new__", "__init__", "__init_subclass__", "__subclasshook__", "__class_getitem__", "__class__", "__del__",
    "__getattribute__", "__getattr__", "__setattr__", "__delattr__", "__reduce_ex__",
})  # fmt: skip
"""Special methods that a proxy has itself, or must not have."""

_classes: weakref.WeakKeyDictionary[type, type[StreamProxy]] = weakref.WeakKeyDictionary()
"""The proxy classes, by the class of what they stand for."""


class StreamProxy:
    """Stands for a stream and records what is read of it.

    Python looks special methods up on classes, and so do ``isinstance`` with an abstract class and ``hasattr``: each
    class of streams has a subclass of this one with the special methods it has, and no other.

    Args:
        stream: the iterator, or async iterator.
        reading: the call that returned it.
    """

    __slots__ = ("__weakref__", "__wrapped__", "_self_reading")

    def __init__(self, stream: Any, reading: Reading) -> None:
        object.__setattr__(self, "__wrapped__", stream)
        object.__setattr__(self, "_self_reading", reading)

    @property  # type: ignore[misc]  # nobody sets it
    def __class__(self) -> Any:
        return self.__wrapped__.__class__

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__wrapped__, name)
        method = _RECORDED.get(name)
        return found if method is None or not callable(found) else MethodType(method, self)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__wrapped__, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__wrapped__, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        stream = self.__wrapped__
        registered: Any = copyreg.dispatch_table.get(type(stream))
        return stream.__reduce_ex__(protocol) if registered is None else registered(stream)


def _class_for(cls: type) -> type[StreamProxy] | None:
    """Return the proxy class for streams of class `cls`; None where it says of itself what cannot be."""
    plain = type(cls).__eq__ is type.__eq__ and type(cls).__hash__ is type.__hash__  # else it may be taken for another
    known = _classes.get(cls) if plain else None
    if known is not None:
        return known
    try:
        made = type(cls.__name__, (StreamProxy,), _namespace(cls))
    except Exception:  # what is looked up on a class is the user's code, where its metaclass is
        return None
    if plain:
        _classes[cls] = made
    return made


def _namespace(cls: type) -> dict[str, Any]:
    """Return what a proxy class has of `cls`: its name, its text, its special methods, and those it says it has not."""
    special = {name for base in cls.__mro__ for name in vars(base) if name[:2] == name[-2:] == "__"} - _OWN
    found = {name: getattr(cls, name, ()) for name in special}
    absent = {name: None for name, value in found.items() if value is None}
    methods = {name: _RECORDED.get(name) or _passed_on(name) for name, value in found.items() if callable(value)}
    return {**absent, **methods, "__slots__": (), "__module__": cls.__module__, "__doc__": cls.__doc__}


def _passed_on(name: str) -> Callable[..., Any]:
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.__wrapped__, name)(*args, **kwargs)

    return call
