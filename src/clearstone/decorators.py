"""`traced`, and what it and `checkpointable` make of a callable.

Idea: a decorated callable is one wrapt proxy with one `Site`; calling it goes through `clearstone.drivers`. Decorating
twice (`@checkpointable` above `@traced`) changes the site, not the nesting.

Invariant: a decorated callable keeps its signature, its descriptor behaviour, its kind, and pickles by name.

Refused: closures that copy a function's metadata (signature, pickling by name, descriptor behaviour and isinstance
would be ours to imitate; wrapt has them).
"""

from __future__ import annotations

import copy
import functools
import pickle
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from clearstone import drivers, run
from clearstone.callables import Decoration, kind_of
from clearstone.errors import ConfigurationError
from clearstone.proxies import BoundFunctionWrapper, FunctionWrapper
from clearstone.sites import check_options, described, key_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping

    from clearstone.record.tracer import Tracer
    from clearstone.span import ReplayMode, Site

F = TypeVar("F", bound="Callable[..., Any]")

_DESCRIPTORS = (classmethod, staticmethod, functools.partialmethod, functools.singledispatchmethod)


class BoundTracedFunction(BoundFunctionWrapper):
    """A decorated method bound to its object: pickled and copied as a bound method is."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        from clearstone.codec import payload

        return payload.bound, (self._self_parent, self._self_instance, self._self_owner)

    def __copy__(self) -> BoundTracedFunction:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        instance = getattr(self.__wrapped__, "__self__", None)
        return self if instance is None else self._self_parent.__get__(copy.deepcopy(instance, memo), type(instance))


class TracedFunction(FunctionWrapper):
    """A decorated callable: behaves as the undecorated one, and knows its site.

    Args:
        wrapped: the callable.
        site: its site.
        tracer: where its calls are recorded.
        shared: see `clearstone.callables.Decoration`.
    """

    __bound_function_wrapper__ = BoundTracedFunction

    def __init__(self, wrapped: Any, site: Site, tracer: Tracer | None = None, *, shared: bool = False) -> None:
        function = wrapped if type(wrapped) is FunctionType else None
        super().__init__(wrapped, drivers.driver(kind_of(wrapped), Decoration(site, tracer, shared, function)))
        self._self_site = site
        self._self_tracer = tracer

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by name, as a function does; a method as its class holds it."""
        from clearstone.codec import payload

        qualname = str(self.__qualname__)
        if "." not in qualname:
            return qualname
        module = sys.modules.get(self.__module__)
        if module is None or payload.find_definition(module, qualname) is not self:
            raise pickle.PicklingError(f"{self.__module__}.{qualname} is not found under its name")
        return payload.named, (self.__module__, qualname)

    def __copy__(self) -> TracedFunction:
        """Copy as a function does: to itself."""
        return self

    def __deepcopy__(self, memo: Any) -> TracedFunction:
        """Copy as a function does: to itself."""
        return self

    def __clearstone_reduce__(self) -> tuple[Any, ...]:
        """Pickle by value, for `clearstone.codec.pickler`: the wrapper first, then what it wraps."""
        begun = (self._self_site, kind_of(self.__wrapped__), type(self.__wrapped__).__name__)
        return _empty_wrapper, begun, self.__wrapped__, None, None, _fill_wrapper


class TracedCall(TracedFunction):
    """A decorated function that is no coroutine and no generator."""

    __call__ = drivers.call


def _wrapper(wrapped: Any, site: Site, tracer: Tracer | None = None, *, shared: bool = False) -> TracedFunction:
    if run.is_disabled():
        return TracedFunction(wrapped, site, tracer, shared=shared)
    from clearstone.record import provider  # noqa: F401 - loaded here: no part of the import, nor of the first call

    direct = type(wrapped) is FunctionType and kind_of(wrapped) == "function"
    return (TracedCall if direct else TracedFunction)(wrapped, site, tracer, shared=shared)


# --- the decorators --------------------------------------------------------------------------------------------------


@overload
def traced(function: F, /) -> F: ...
@overload
def traced(
    *,
    span_type: str | None = None,
    name: str | None = None,
    replay: ReplayMode | None = None,
    tracer: Tracer | None = None,
    attributes: Mapping[str, Any] | None = None,
    record_effects: bool = False,
) -> Callable[[F], F]: ...
def traced(
    function: Any = None,
    /,
    *,
    span_type: str | None = None,
    name: str | None = None,
    replay: ReplayMode | None = None,
    tracer: Tracer | None = None,
    attributes: Mapping[str, Any] | None = None,
    record_effects: bool = False,
) -> Any:
    """Record every call of a function, method, classmethod, staticmethod, coroutine or generator.

    Inputs, outputs, exceptions and streams are recorded as they are at the time of the call.

    Args:
        function: the callable, when used without parentheses.
        span_type: what kind of call it is. Structural types (``agent``, ``chain``, ``workflow``, ``task``, ``step``,
            ``function`` and none) run again in a replay; every other type (``llm``, ``tool``, ``retriever``,
            ``embedding``, ``database``, ``http``, your own) is an outside call and is served from the record.
        name: the span's name; by default the callable's qualified name.
        replay: ``"serve"`` or ``"run"``, against what the type says.
        tracer: where the calls are recorded; by default with the span they are made in, else with the default
            provider (see `clearstone.configure`).
        attributes: what every span starts with.
        record_effects: whether to record the arguments again after a call that changed them (a list it filled, say).
            What a call does to the object it is bound to is recorded without it.

    Returns:
        The decorated callable.

    Raises:
        ConfigurationError: an option is of another kind, or what is decorated is not callable.
    """
    check_options(function, span_type, name, replay, tracer, attributes)

    def decorate(wrapped: Any) -> TracedFunction:
        key, known = key_of(wrapped), own_site(wrapped)
        site = described(known, key, wrapped, span_type, name, replay, attributes, record_effects)
        return decorated(wrapped, site, tracer)

    return decorate if function is None else decorate(function)


# --- making wrappers -------------------------------------------------------------------------------------------------


def own_site(target: Any) -> Site | None:
    """Return the site of a decorated callable; None for any other, also for a method of one that is bound."""
    return target._self_site if isinstance(target, TracedFunction) else None


def decorated(wrapped: Any, site: Site, tracer: Tracer | None, *, shared: bool = False) -> TracedFunction:
    """Return `wrapped` decorated; one wrapper, also where it was decorated before.

    Args:
        wrapped: the callable.
        site: its site.
        tracer: where its calls are recorded.
        shared: see `clearstone.callables.Decoration`.

    Raises:
        ConfigurationError: it is nothing that can be called.
    """
    if isinstance(wrapped, TracedFunction):
        return _wrapper(wrapped.__wrapped__, site, tracer or wrapped._self_tracer, shared=shared)
    if isinstance(wrapped, property | functools.cached_property):
        raise ConfigurationError("a property is no call; put @property above @traced")
    if not callable(wrapped) and not isinstance(wrapped, _DESCRIPTORS):
        raise ConfigurationError(f"{wrapped!r} is not callable; decorate a function or a method")
    if isinstance(wrapped, type):
        raise ConfigurationError(f"{wrapped.__qualname__} is a class; decorate its methods, or use @checkpointable")
    return _wrapper(wrapped, site, tracer, shared=shared)


class InheritedMethod:
    """A method of a base as a decorated method of the class that inherits it; the base itself stays as it is.

    Which method that is follows the method resolution order at each call, as without us. A descriptor rather than a
    function that calls ``super()``: one frame less in the user's traceback.

    Args:
        owner: the class that inherits.
        name: the method's name.
        site: the method's site there.
        inherited: the method as its own class holds it.
        tracer: where its calls are recorded.
    """

    def __init__(self, owner: type, name: str, site: Site, inherited: Any, tracer: Tracer | None = None) -> None:
        self._owner, self._name, self._site, self._inherited, self._tracer = owner, name, site, inherited, tracer
        functools.update_wrapper(self, inherited)  # type: ignore[arg-type]  # a descriptor is enough for it

    def __get__(self, instance: Any, cls: type | None = None) -> Any:
        of_class = isinstance(self._inherited, classmethod | staticmethod)
        if instance is None and not of_class:
            return _wrapper(self._inherited, self._site, self._tracer)
        bound = cls or type(instance) if of_class else instance
        owner = self._owner_in(bound if of_class else type(instance))
        return _wrapper(getattr(super(owner, bound), self._name), self._site, self._tracer)

    def _owner_in(self, cls: type) -> type:
        """The class this stands in: ``@dataclass(slots=True)`` puts another one in the place of the decorated one."""
        return next((base for base in cls.__mro__ if vars(base).get(self._name) is self), self._owner)


# --- by value --------------------------------------------------------------------------------------------------------


def _empty_wrapper(site: Site, kind: str, binding: str) -> TracedFunction:
    """First half of loading a decorated function that was pickled with its code. Named by pickles."""
    placeholder = _PLACEHOLDERS[kind]
    around = {"classmethod": classmethod, "staticmethod": staticmethod}.get(binding)
    return TracedFunction(around(placeholder) if around is not None else placeholder, site)


def _fill_wrapper(wrapper: TracedFunction, wrapped: Any) -> None:
    """Second half: what it wraps, which may refer to the wrapper. Named by pickles."""
    wrapper.__wrapped__ = wrapped


def _function() -> None:
    """Stand where the code comes later."""


async def _coroutine() -> None:
    """Stand where the code comes later."""


def _generator() -> Generator[None, None, None]:
    yield


async def _async_generator() -> AsyncGenerator[None, None]:
    yield


_PLACEHOLDERS = {
    "function": _function,
    "coroutine": _coroutine,
    "generator": _generator,
    "async generator": _async_generator,
}
