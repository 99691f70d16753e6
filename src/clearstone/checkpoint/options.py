"""What a class says of its state, through `@checkpointable`: what is left out and made again, and what is verified."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from clearstone.errors import ConfigurationError

EXCLUDED, REBUILT = "@checkpointable excludes it", "@checkpointable rebuilds it"
CHOSEN = frozenset({EXCLUDED, REBUILT})
"""Reasons why a user wants something left out: nothing is told of what it holds."""

ATTRIBUTE = "__clearstone_state__"
"""Where a class keeps them."""

Verify = Literal["all", "budget"]
"""What of a state is made sure of at the entry of a call: all of it, or what has changed most likely and of the rest as
much as the time allows."""


@dataclass(frozen=True, slots=True)
class StateOptions:
    """Options of one class.

    Args:
        exclude: names of attributes that are left out.
        rebuild: makers, called without arguments when a state is restored, by the attribute they make: ``"client"``,
            or ``"search.client"`` for that attribute of another object. Attributes of the agent itself are left out.
        verify: see `Verify`; None where the class does not say.
    """

    exclude: tuple[str, ...] = ()
    rebuild: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    verify: Verify | None = None

    def reason(self, name: str) -> str:
        """Return why an attribute of the agent is left out; empty where it is not. A private one is mangled there."""
        private = name.startswith("_") and "__" in name[2:]
        names = {name, f"__{name[1:].partition('__')[2]}"} if private else {name}
        if not names.isdisjoint(self.exclude):
            return EXCLUDED
        return "" if names.isdisjoint(self.rebuild) else REBUILT


def options_of(cls: type) -> StateOptions:
    """Return what `cls` and its bases say, together; where they say different things, what the most derived says."""
    said = [vars(base)[ATTRIBUTE] for base in reversed(cls.__mro__) if ATTRIBUTE in vars(base)]
    return StateOptions(
        tuple(name for each in said for name in each.exclude),
        {name: make for each in said for name, make in each.rebuild.items()},
        next((each.verify for each in reversed(said) if each.verify is not None), "all"),
    )


def checked(exclude: Any, rebuild: Any, verify: Any = None) -> StateOptions:
    """Return options as a user gave them.

    Raises:
        ConfigurationError: `exclude` holds no names, `rebuild` no makers by name, or `verify` is not one of its words.
    """
    names = (exclude,) if isinstance(exclude, str) else tuple(exclude) if isinstance(exclude, Iterable) else (exclude,)
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigurationError(
                f"exclude={exclude!r}: {name!r} names no attribute of the agent itself; write exclude=('cache',)"
            )
    if not isinstance(rebuild, Mapping):
        raise ConfigurationError(f"rebuild={rebuild!r} is no dict; write rebuild={{'client': make_client}}")
    for name, make in rebuild.items():
        if (
            not isinstance(name, str)
            or not all(part.isidentifier() for part in name.split("."))
            or name.startswith("self.")
        ):
            raise ConfigurationError(
                f"rebuild: {name!r} is no attribute's name from the agent, such as 'client' or 'search.client'"
            )
        if not callable(make):
            raise ConfigurationError(f"rebuild: {name!r} is made by {make!r}, which cannot be called; give a function")
    if verify not in (None, *get_args(Verify)):
        raise ConfigurationError(f"verify={verify!r} is none of {', '.join(map(repr, get_args(Verify)))}")
    return StateOptions(names, dict(rebuild), verify)
