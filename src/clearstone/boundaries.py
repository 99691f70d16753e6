"""`checkpointable`: methods of a class, or one callable, as boundaries whose failures are saved.

Idea: a boundary is a decorated callable (`clearstone.decorators`) whose site says so. A class is changed in place: its
public methods are replaced, those it inherits from plain bases get a descriptor of their own, and the hook that Python
offers for subclasses makes theirs boundaries too.
"""

from __future__ import annotations

import inspect
from dataclasses import replace as with_changes
from typing import TYPE_CHECKING, Any, TypeVar, overload

from clearstone.checkpoint.budget import SHARE
from clearstone.checkpoint.origin import is_installed
from clearstone.decorators import InheritedMethod, TracedFunction, decorated, own_site
from clearstone.errors import ConfigurationError
from clearstone.sites import key_of, name_in, positional_names, span_name
from clearstone.span import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from clearstone.checkpoint.options import Verify
    from clearstone.checkpoint.schedule import KeptEntry, On

C = TypeVar("C")

NOT_BOUNDARIES = frozenset({"get_state", "load_state", "on_restore"})


@overload
def checkpointable(target: C, /) -> C: ...
@overload
def checkpointable(
    *,
    exclude: Iterable[str] = (),
    rebuild: Mapping[str, Callable[[], Any]] | None = None,
    verify: Verify | None = None,
    on: On = "error",
    every: int = 1,
    interval: float = 0.0,
    when: Callable[[Any], Any] | None = None,
    keep: int | None = None,
    keep_runs: int = 0,
    nested: bool = False,
    entry: KeptEntry = "memory",
    budget: float | None = SHARE,
) -> Callable[[C], C]: ...
def checkpointable(
    target: Any = None,
    /,
    *,
    exclude: Iterable[str] = (),
    rebuild: Mapping[str, Callable[[], Any]] | None = None,
    verify: Verify | None = None,
    on: On = "error",
    every: int = 1,
    interval: float = 0.0,
    when: Callable[[Any], Any] | None = None,
    keep: int | None = None,
    keep_runs: int = 0,
    nested: bool = False,
    entry: KeptEntry = "memory",
    budget: float | None = SHARE,
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
        exclude: names of attributes that are not saved. Above a class only, as are `rebuild` and `verify`.
        rebuild: makers of attributes that are not saved, by name, called without arguments when a state is restored:
            ``rebuild={"client": make_client}``. ``"search.client"`` names an attribute of another object.
        verify: ``"all"`` makes sure at the entry of each call that the whole state is saved as it is; so it is where
            neither the class nor a base says anything. ``"budget"`` does so at a failure, an explicit checkpoint and
            exit; at entry an edit in place of an old element of a long list or dict may be seen some calls late.
        on: when a call that does not fail is saved too: ``"entry"`` (before its code runs), ``"exit"`` (when it has
            ended) or ``"always"`` (both). Failures are saved whatever this says.
        every: of so many calls one, the first among them.
        interval: none for so many seconds after one.
        when: called with the agent (None for a function) at entry; only calls for which it returns true.
        keep: of each trace the newest so many of these; None for all.
        keep_runs: keep the newest so many calls that did not fail, so that a wrong answer can be replayed later.
        nested: whether a call inside another boundary's is saved on its own.
        entry: ``"durable"`` writes the state at entry to the disk at once, and removes it when the call ends: a process
            that is killed, hangs or runs out of memory can then be replayed too.
        budget: the share of the time that snapshots may take. A call that would exceed it starts from the last snapshot
            of its agent, and a replay makes the calls since again first; None takes them all.

    Returns:
        The same class, or the decorated callable.

    Raises:
        ConfigurationError: what is decorated is neither, or an option cannot be meant.
    """
    from clearstone.checkpoint import options, policy  # noqa: F401 - no part of the import, nor of the first call
    from clearstone.checkpoint import schedule as schedules

    chosen = options.checked(exclude, {} if rebuild is None else rebuild, verify)
    plan = schedules.checked(
        on=on,
        every=every,
        interval=interval,
        when=when,
        keep=keep,
        keep_runs=keep_runs,
        nested=nested,
        entry=entry,
        budget=budget,
    )

    def decorate(target: Any) -> Any:
        if isinstance(target, type):
            if chosen != options.StateOptions():
                setattr(target, options.ATTRIBUTE, chosen)
            if plan != schedules.ON_ERROR:
                setattr(target, schedules.ATTRIBUTE, plan)
            return _bounded_class(target)
        if chosen != options.StateOptions():
            raise ConfigurationError(
                "exclude=, rebuild= and verify= are about an agent's state: put them above its class"
            )
        bounded = _bounded(target)
        if plan != schedules.ON_ERROR:
            schedules.of_site(_site_key(bounded), plan)
        return bounded

    return decorate if target is None else decorate(target)


def _site_key(bounded: Any) -> str:
    site = own_site(bounded) or own_site(bounded.__func__)  # of a classmethod around a decorated function
    return site.key if site is not None else ""


def _bounded(target: Any, key: str = "") -> Any:
    """Return `target` as a boundary; `key` is its site where its own name would not find it again."""
    if isinstance(target, classmethod | staticmethod) and isinstance(target.__func__, TracedFunction):
        return type(target)(_bounded(target.__func__, key))
    key = key or key_of(target)
    known = own_site(target)
    site = known or Site(key, name_in(key), "agent", "run", parameters=positional_names(target))
    return decorated(target, with_changes(site, key=key, boundary=True), None)


def _bounded_member(cls: type, name: str, member: Any) -> Any:
    """A method is found again by its name in the class: a lambda's or a careless decorator's own name is another."""
    named = key_of(member).rpartition(".")[2] == name
    return _bounded(member, "" if named else f"{key_of(cls)}.{name}")


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
