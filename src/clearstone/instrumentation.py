"""`instrument`: what `traced` does for your code, for code you do not own; and `uninstrument`.

Idea: a target is a name, ``package.module:Class.method``. What stands under it in its module or class is replaced by a
decorated one, now or when the module is imported, and put back as the very object it was.

Invariant: a target is instrumented once; doing it again replaces the first. A base's method is wrapped on the class
that was named, and the base stays as it is.

Refused: replacing every alias in every module (it would change modules that nobody named); importing the module (code
would run that the user did not ask for).
"""

from __future__ import annotations

import inspect
import re
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone.decorators import InheritedMethod, decorated
from clearstone.errors import ConfigurationError
from clearstone.nearest import nearest
from clearstone.proxies import when_imported
from clearstone.run import site_of
from clearstone.sites import check_options, described, lasting_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from clearstone.record.tracer import Tracer
    from clearstone.span import ReplayMode

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FORM = re.compile(f"({_NAME}):({_NAME})")
_ABSENT: Any = object()


class _Options(NamedTuple):
    """What `instrument` was told."""

    span_type: str | None
    name: str | None
    replay: ReplayMode | None
    attributes: Mapping[str, Any] | None
    record_effects: bool
    tracer: Tracer | None


class _Installed(NamedTuple):
    """Where a wrapper stands, and what stood there."""

    owner: Any
    name: str
    held: Any
    wrapper: Any


_lock = threading.RLock()
_options: dict[str, _Options] = {}
_installed: dict[str, _Installed] = {}


def instrument(
    target: str,
    *,
    span_type: str | None = None,
    name: str | None = None,
    replay: ReplayMode | None = None,
    attributes: Mapping[str, Any] | None = None,
    record_effects: bool = False,
    tracer: Tracer | None = None,
) -> None:
    """Record every call of a function or method you do not own, as `traced` does for your own.

    At once if its module is imported, else as soon as it is; the module is not imported for it. Again with other
    options, the last ones count. Where another module took the function by name before (``from module import name``),
    that module keeps the one it took: instrument first, or name it there.

    Args:
        target: ``package.module:function`` or ``package.module:Class.method``. A method that the class inherits is
            recorded for that class and its subclasses alone.
        span_type: what kind of call it is (see `traced`).
        name: the span's name; by default what stands after the colon.
        replay: ``"serve"`` or ``"run"``, against what the type says.
        attributes: what every span starts with.
        record_effects: whether to record the arguments again after a call that changed them.
        tracer: where the calls are recorded (see `traced`).

    Raises:
        ConfigurationError: the target has another form, does not exist, or is nothing that can be called and replaced;
            an option is of another kind. Where the module is not imported yet, its import raises the former.
    """
    module, _ = _parsed(target)
    if module == "builtins":
        raise ConfigurationError(f"{target} is what the recorder is made of too; name a function that calls it")
    check_options(None, span_type, name, replay, tracer, attributes)
    with _lock:
        waiting = target in _options and target not in _installed
        _options[target] = _Options(span_type, name, replay, attributes, record_effects, tracer)
    if not waiting:
        when_imported(module, partial(_install, target))


def uninstrument(target: str) -> None:
    """Undo `instrument`: the very object that was there is put back; a module not imported yet is left alone.

    Args:
        target: what `instrument` was given.

    Raises:
        ConfigurationError: it is not instrumented, or something else has replaced it since.
    """
    _parsed(target)
    with _lock:
        if target not in _options:
            raise ConfigurationError(f"{target!r} is not instrumented; {nearest(target, _options)}")
        _put_back(target)
        del _options[target]


def _parsed(target: Any) -> tuple[str, list[str]]:
    form = _FORM.fullmatch(target) if isinstance(target, str) else None
    if form is None:
        raise ConfigurationError(
            f"{target!r} is no target; write it as 'package.module:function' or 'package.module:Class.method'"
        )
    return form[1], form[2].split(".")


def _install(target: str, module: ModuleType) -> None:
    if target not in _options:  # it was uninstrumented while it waited
        return
    try:
        owner, name = _resolved(target, module)
        with _lock:
            _put_back(target)
            _installed[target] = _replaced(target, owner, name, _options[target])
    except ConfigurationError:
        if target not in _installed:
            _options.pop(target, None)
        raise


def _resolved(target: str, module: ModuleType) -> tuple[Any, str]:
    _, path = _parsed(target)
    owner: Any = module
    for part in path:
        if not hasattr(owner, part):
            names = [each for each in dir(owner) if not each.startswith("__")]
            where = getattr(owner, "__name__", repr(owner))
            raise ConfigurationError(f"{target!r} does not exist: {where} has no {part!r}; {nearest(part, names)}")
        above, owner = owner, getattr(owner, part)
    return above, path[-1]


def _replaced(target: str, owner: Any, name: str, options: _Options) -> _Installed:
    held = getattr(owner, "__dict__", {}).get(name, _ABSENT)
    wrapper = _wrapper(target, owner, name, held, options)
    try:
        setattr(owner, name, wrapper)
    except (TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{target!r} cannot be replaced ({error}); decorate a function of your own that calls it"
        ) from error
    return _Installed(owner, name, held, wrapper)


def _wrapper(target: str, owner: Any, name: str, held: Any, options: _Options) -> Any:
    inherits = held is _ABSENT and isinstance(owner, type)
    member = inspect.getattr_static(owner, name) if inherits else getattr(owner, name) if held is _ABSENT else held
    module, _, path = target.partition(":")
    key = f"{lasting_name(module)}:{path}"
    told = (options.span_type, options.name, options.replay, options.attributes, options.record_effects)
    site = described(site_of(member), key, member, *told)
    wrapper = decorated(member, site, options.tracer, shared=True)
    return InheritedMethod(owner, name, site, member, options.tracer) if inherits else wrapper


def _put_back(target: str) -> None:
    installed = _installed.get(target)
    if installed is None:
        return
    owner, name = installed.owner, installed.name
    if getattr(owner, "__dict__", {}).get(name) is not installed.wrapper:
        raise ConfigurationError(f"{target!r} was replaced by something else since it was instrumented; undo that")
    del _installed[target]
    if installed.held is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, installed.held)
