"""The arguments of a call as one payload, in which one that does not pickle costs itself alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clearstone.codec import exceptions, payload
from clearstone.codec.exceptions import Unpicklable
from clearstone.errors import UnservableOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clearstone.span import Payload


def dump_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Payload:
    """Serialise ``(args, kwargs)`` as they are now; an argument that does not pickle becomes an `Unpicklable`."""
    whole = payload.dump((args, dict(kwargs)))
    if whole.codec != "stand-in":
        return whole
    described = exceptions.or_described
    return payload.dump((tuple(map(described, args)), {name: described(value) for name, value in kwargs.items()}))


def encode_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, bytes]:
    """Serialise ``(args, kwargs)`` as `dump_arguments` does, as a form and bytes."""
    return payload.to_raw(dump_arguments(args, kwargs))


def load_arguments(given: Payload) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return fresh arguments of a call that is to be made again.

    Raises:
        UnservableOutcome: one of them could not be recorded, or does not load today.
    """
    args, kwargs = payload.load(given)
    for name, value in [*enumerate(args), *kwargs.items()]:
        if isinstance(value, Unpicklable):
            raise UnservableOutcome(
                f"argument {name!r} of the failed call does not pickle and was not recorded ({value!r}); name the "
                f"method and pass its arguments: engine.replay_from_checkpoint('method', ...)"
            )
    return args, kwargs
