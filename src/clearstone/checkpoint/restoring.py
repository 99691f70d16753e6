"""Bringing back what a checkpoint could not keep.

Idea: three ways, in this order: the maker that `@checkpointable(rebuild=...)` names, the environment variable that
held the same secret, the agent's own ``on_restore(self, missing)``, which is told what is still missing.

Invariant: what nobody brings back stays a `Missing`, which says so when it is used.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.attributes import NOTHING, attribute, follow, put
from clearstone.checkpoint.missing import Missing
from clearstone.checkpoint.options import options_of
from clearstone.errors import StateError

if TYPE_CHECKING:
    from clearstone.checkpoint.missing import MissingMember


def made(cls: type, member: MissingMember) -> Any:
    """Return what takes a missing member's place; `NOTHING` where neither a maker nor the environment has it.

    Raises:
        StateError: its maker raised.
    """
    make = options_of(cls).rebuild.get(member.name)
    if make is not None:
        try:
            return make()
        except Exception as error:
            raise StateError(
                f"rebuild={{{member.name!r}: ...}} of {cls.__qualname__} raised {type(error).__name__}: {error}"
            ) from error
    value = os.environ.get(member.variable) if member.variable else None
    return NOTHING if value is None else _as_secret(member, value)


def _as_secret(member: MissingMember, value: str) -> Any:
    module, _, name = member.type_name.rpartition(".")
    if module == "pydantic.types":
        import pydantic

        return getattr(pydantic, name)(value.encode() if name == "SecretBytes" else value)
    return value.encode() if member.type_name == "builtins.bytes" else value


def fill(agent: Any, missing: tuple[MissingMember, ...]) -> None:
    """Put back into a restored agent what can be, and let it bring back the rest.

    Args:
        agent: the agent, with its attributes.
        missing: what was not saved.

    Raises:
        StateError: a maker or `on_restore` raised.
    """
    left = []
    for member in missing:
        *way, name = member.name.split(".")
        owner = follow(agent, way)
        held = attribute(owner, name)
        if held is not NOTHING and not isinstance(held, Missing):
            continue  # load_state has brought it back, or put it elsewhere
        value = made(type(agent), member) if held is not NOTHING else NOTHING
        if value is NOTHING:
            left.append(member)
        else:
            put(owner, name, value)
    if left:
        _tell(agent, tuple(left))


def _tell(agent: Any, missing: tuple[MissingMember, ...]) -> None:
    tell = getattr(type(agent), "on_restore", None)
    if tell is None:
        return
    if inspect.iscoroutinefunction(tell):
        raise StateError(f"{type(agent).__qualname__}.on_restore() is a coroutine; write it as a plain method")
    try:
        tell(agent, missing)
    except Exception as error:
        raise StateError(f"{type(agent).__qualname__}.on_restore() raised {type(error).__name__}: {error}") from error
