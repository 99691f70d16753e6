"""What a decorator is told, as a `Site`: its key, its name and its options.

Idea: a site is found again by its key, ``module:qualname``, in another process and on another day; all else of it
are options. `traced` and `instrument` take the same ones, and refuse the same.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from clearstone.callables import innermost
from clearstone.errors import ConfigurationError
from clearstone.span import MAIN_NAMES, Site, replay_mode

if TYPE_CHECKING:
    from clearstone.span import ReplayMode


def check_options(  # noqa: PLR0917 - the options of `traced`, in its order
    function: Any, span_type: Any, name: Any, replay: Any, tracer: Any = None, attributes: Any = None
) -> None:
    """Refuse what `traced` cannot mean.

    Raises:
        ConfigurationError: an option is of another kind.
    """
    if isinstance(function, str):
        raise ConfigurationError(f"@traced({function!r}) lacks a name; write @traced(span_type={function!r})")
    if replay is not None and replay not in ("serve", "run"):
        raise ConfigurationError(f"replay={replay!r} is neither 'serve' nor 'run'")
    for option, value in (("span_type", span_type), ("name", name)):
        if value is not None and not isinstance(value, str):
            raise ConfigurationError(f"{option}={value!r} is no text; write it as {option}={str(value)!r}")
    if tracer is not None and not _is_tracer(tracer):
        raise ConfigurationError(f"tracer={tracer!r} is no Tracer; TracerProvider.get_tracer(name) gives one")
    if attributes is not None and not isinstance(attributes, Mapping):
        raise ConfigurationError(f"attributes={attributes!r} is no dict of names and values")


def _is_tracer(tracer: Any) -> bool:
    from clearstone.record.tracer import Tracer  # whoever has one has loaded it

    return isinstance(tracer, Tracer)


def described(  # noqa: PLR0917 - the options of `traced`, in its order
    known: Site | None,
    key: str,
    target: Any,
    span_type: str | None,
    name: str | None,
    replay: ReplayMode | None,
    attributes: Mapping[str, Any] | None,
    record_effects: bool,
) -> Site:
    """Return the site `key` of `target` with these options; what they do not say is as in `known`, its site before."""
    kind = span_type if span_type is not None else known.span_type if known and not known.boundary else ""
    return Site(
        key=key,
        name=name or name_in(key),
        span_type=kind,
        replay=replay or replay_mode(kind),
        boundary=known is not None and known.boundary,
        attributes=tuple((attributes or {}).items()),
        record_effects=record_effects,
        parameters=positional_names(target),
    )


def positional_names(target: Any) -> tuple[str, ...]:
    """Return the names of what a call passes by position, without what it is bound to; none if it hides them.

    A function cannot tell whether it will be called bound: of a class's member there may be a ``@staticmethod`` above
    its decorator, and a module's function that takes ``self`` may be put into a class. Such places have both names
    that they may have, as ``"user|password"``.

    Args:
        target: the callable, as a class or a module holds it.
    """
    if isinstance(target, staticmethod):
        return _names_of(target.__func__)
    if isinstance(target, classmethod):
        return _names_of(target.__func__)[1:]
    if isinstance(target, functools.singledispatchmethod):
        return positional_names(target.func)
    if isinstance(target, functools.partialmethod):  # None is the object it will be bound to
        return _names_of(functools.partial(innermost(target), None, *target.args, **target.keywords))
    names = _names_of(target)
    is_bound = isinstance(target, functools.partial) or hasattr(target, "__self__")
    return names if is_bound else _if_called(getattr(target, "__qualname__", ""), names)


def _names_of(function: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(each.name for each in parameters if each.kind in _BY_POSITION)


def _if_called(qualname: str, names: tuple[str, ...]) -> tuple[str, ...]:
    owner = qualname.rpartition(".")[0]
    is_member = bool(owner) and not owner.endswith("<locals>")
    takes_itself = names[:1] in {("self",), ("cls",)}
    if is_member and takes_itself:
        return names[1:]
    if is_member or takes_itself:
        return (*map("|".join, pairwise(names)), *names[-1:])
    return names


_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def key_of(target: Any) -> str:
    """Return ``module:qualname`` of a callable."""
    function = innermost(target)
    module = getattr(function, "__module__", None) or ""
    qualname = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{lasting_name(module)}:{qualname}"


def lasting_name(module: str) -> str:
    """Name a script as ``__main__`` whatever it is imported as; one run with ``python -m`` by its own name."""
    if module not in MAIN_NAMES:
        return module
    spec = getattr(sys.modules.get(module), "__spec__", None) if module == "__main__" else None
    return spec.name if spec is not None else "__main__"


def span_name(target: Any) -> str:
    """Return what its spans are called: its qualified name, as seen from where it is defined."""
    return name_in(key_of(target))


def name_in(key: str) -> str:
    """Return the span name in a key."""
    return key.partition(":")[2].rpartition("<locals>.")[2]
