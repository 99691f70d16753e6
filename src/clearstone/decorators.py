"""`traced` and `checkpointable`: what a user writes above a callable.

Idea: a decorated callable is one wrapt proxy with one `Site`; calling it goes through `clearstone.drivers`. Decorating
twice (`@checkpointable` above `@traced`) changes the site, not the nesting.

Invariant: a decorated callable keeps its signature, its descriptor behaviour, its kind, and pickles by name.

Refused: closures that copy a function's metadata (signature, pickling by name, descriptor behaviour and isinstance
would be ours to imitate; wrapt has them).
"""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import sys
from dataclasses import replace as with_changes
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from clearstone import drivers, run
from clearstone.callables import Decoration, kind_of
from clearstone.checkpoint.origin import is_installed
from clearstone.errors import ConfigurationError
from clearstone.proxies import BoundFunctionWrapper, FunctionWrapper
from clearstone.sites import check_options, described, key_of, name_in, positional_names, span_name
from clearstone.span import ReplayMode, Site

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping

    from clearstone.checkpoint.schedule import On
    from clearstone.record.tracer import Tracer

F = TypeVar("F", bound="Callable[..., Any]")
C = TypeVar("C")

_DESCRIPTORS = (classmethod, staticmethod, functools.partialmethod, functools.singledispatchmethod)
NOT_BOUNDARIES = frozenset({"get_state", "load_state", "on_restore"})


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
        key, known = key_of(wrapped), _site_of(wrapped)
        site = described(known, key, wrapped, span_type, name, replay, attributes, record_effects)
        return decorated(wrapped, site, tracer)

    return decorate if function is None else decorate(function)


@overload
def checkpointable(target: C, /) -> C: ...
@overload
def checkpointable(
    *,
    exclude: Iterable[str] = (),
    rebuild: Mapping[str, Callable[[], Any]] | None = None,
    on: On = "error",
    every: int = 1,
    interval: float = 0.0,
    when: Callable[[Any], Any] | None = None,
    keep: int | None = None,
    keep_runs: int = 0,
    nested: bool = False,
) -> Callable[[C], C]: ...
def checkpointable(
    target: Any = None,
    /,
    *,
    exclude: Iterable[str] = (),
    rebuild: Mapping[str, Callable[[], Any]] | None = None,
    on: On = "error",
    every: int = 1,
    interval: float = 0.0,
    when: Callable[[Any], Any] | None = None,
    keep: int | None = None,
    keep_runs: int = 0,
    nested: bool = False,
) -> Any:
    """Save the agent's state when an exception leaves it.

    Above a class, every public method becomes a boundary, also those its subclasses override or add; properties and
    dunder methods do not. The class is changed in place. Above one method or function, that one is a boundary. When an
    exception leaves the outermost boundary, a checkpoint is saved with the state at entry, the call, everything
    recorded so far and the exception, which then goes on unchanged. A boundary that is not `traced` has a span of its
    own, of type ``agent``.

    What of the state does not pickle is left out and named (see `Checkpoint.missing`), as are secrets. A class may have
    a method ``on_restore(self, missing)``: it is called when a state is restored, with what is still missing of it.

    Args:
        target: the class, method or function, when used without parentheses.
        exclude: names of attributes that are not saved. Above a class only, as is `rebuild`.
        rebuild: makers of attributes that are not saved, by name, called without arguments when a state is restored:
            ``rebuild={"client": make_client}``. ``"search.client"`` names an attribute of another object.
        on: when a call that does not fail is saved too: ``"entry"`` (before its code runs), ``"exit"`` (when it has
            ended) or ``"always"`` (both). Failures are saved whatever this says.
        every: of so many calls one, the first among them.
        interval: none for so many seconds after one.
        when: called with the agent (None for a function) at entry; only calls for which it returns true.
        keep: of each trace the newest so many of these; None for all.
        keep_runs: keep the newest so many calls that did not fail, so that a wrong answer can be replayed later.
        nested: whether a call inside another boundary's is saved on its own.

    Returns:
        The same class, or the decorated callable.

    Raises:
        ConfigurationError: what is decorated is neither, or an option cannot be meant.
    """
    from clearstone.checkpoint import options, policy  # noqa: F401 - no part of the import, nor of the first call
    from clearstone.checkpoint import schedule as schedules

    chosen = options.checked(exclude, {} if rebuild is None else rebuild)
    plan = schedules.checked(
        on=on, every=every, interval=interval, when=when, keep=keep, keep_runs=keep_runs, nested=nested
    )

    def decorate(target: Any) -> Any:
        if isinstance(target, type):
            if chosen != options.StateOptions():
                setattr(target, options.ATTRIBUTE, chosen)
            if plan != schedules.ON_ERROR:
                setattr(target, schedules.ATTRIBUTE, plan)
            return _bounded_class(target)
        if chosen != options.StateOptions():
            raise ConfigurationError("exclude= and rebuild= are about an agent's state: put them above its class")
        bounded = _bounded(target)
        if plan != schedules.ON_ERROR:
            schedules.of_site(_site_key(bounded), plan)
        return bounded

    return decorate if target is None else decorate(target)


def _site_key(bounded: Any) -> str:
    site = _site_of(bounded) or _site_of(bounded.__func__)  # of a classmethod around a decorated function
    return site.key if site is not None else ""


# --- making wrappers -------------------------------------------------------------------------------------------------


def _site_of(target: Any) -> Site | None:
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


def _bounded(target: Any, key: str = "") -> Any:
    """Return `target` as a boundary; `key` is its site where its own name would not find it again."""
    if isinstance(target, classmethod | staticmethod) and isinstance(target.__func__, TracedFunction):
        return type(target)(_bounded(target.__func__, key))
    key = key or key_of(target)
    known = _site_of(target)
    site = known or Site(key, name_in(key), "agent", "run", parameters=positional_names(target))
    return decorated(target, with_changes(site, key=key, boundary=True), None)


def _bounded_member(cls: type, name: str, member: Any) -> Any:
    """A method is found again by its name in the class: a lambda's or a careless decorator's own name is another."""
    named = key_of(member).rpartition(".")[2] == name
    return _bounded(member, "" if named else f"{key_of(cls)}.{name}")


# --- classes ---------------------------------------------------------------------------------------------------------


def _bounded_class(cls: type) -> type:
    for name, member in list(vars(cls).items()):
        if _is_public_method(name, member):
            setattr(cls, name, _bounded_member(cls, name, member))
    for name, member in _inherited_from_user_code(cls).items():
        key, parameters = f"{key_of(cls)}.{name}", positional_names(member)
        site = Site(key, f"{span_name(cls)}.{name}", "agent", "run", boundary=True, parameters=parameters)
        setattr(cls, name, InheritedMethod(cls, name, site, member))
    _follow_subclasses(cls)
    return cls


def _is_public_method(name: str, member: Any) -> bool:
    if name.startswith("_") or name in NOT_BOUNDARIES or getattr(member, "__isabstractmethod__", False):
        return False
    return isinstance(member, TracedFunction | classmethod | staticmethod) or (
        callable(member) and inspect.isroutine(member)  # a cached_property is a routine to inspect, and not callable
    )


def _follow_subclasses(cls: type) -> None:
    """Make methods of later subclasses boundaries too, through the hook Python offers for it."""
    if "__clearstone_follows__" in vars(cls):
        return
    original = vars(cls).get("__init_subclass__")

    def __init_subclass__(subclass: type[Any], /, **kwargs: Any) -> None:  # noqa: N807 - the name of the hook
        if original is not None:
            original.__get__(None, subclass)(**kwargs)
        else:
            # the class it stands in: @dataclass(slots=True) puts another one in the place of the decorated one
            owner = next((base for base in subclass.__mro__[1:] if vars(base).get("__init_subclass__") is hook), cls)
            super(owner, subclass).__init_subclass__(**kwargs)  # type: ignore[arg-type]  # a class it is
        for name, member in list(vars(subclass).items()):
            if _is_public_method(name, member):
                setattr(subclass, name, _bounded_member(subclass, name, member))

    hook = classmethod(__init_subclass__)
    cls.__init_subclass__ = hook  # type: ignore[assignment]  # the language allows it
    cls.__clearstone_follows__ = True  # type: ignore[attr-defined]


def _inherited_from_user_code(cls: type) -> dict[str, Any]:
    """Public methods of plain bases, by name. Bases of installed libraries keep their methods as they are."""
    found: dict[str, Any] = {}
    for base in cls.__mro__[1:]:
        if is_installed(base) or "__clearstone_follows__" in vars(base):
            continue
        for name, member in vars(base).items():
            own = name in vars(cls) or name in found or isinstance(member, TracedFunction | classmethod | staticmethod)
            if not own and _is_public_method(name, member):
                found[name] = member
    return found


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
