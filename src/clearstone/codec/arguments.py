"""The arguments of a call as one payload, in which one that does not pickle costs itself alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clearstone.codec import exceptions, payload
from clearstone.codec.exceptions import Unpicklable
from clearstone.codec.redact import MARKER, active
from clearstone.errors import UnservableOutcome
from clearstone.span import REDACTED

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from clearstone.span import Payload


def dump_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Payload:
    """Serialise ``(args, kwargs)`` as they are now; an argument that does not pickle becomes an `Unpicklable`."""
    whole = payload.dump((args, dict(kwargs)))
    if whole.codec != "stand-in":
        return whole
    described = exceptions.or_described
    return payload.dump((tuple(map(described, args)), {name: described(value) for name, value in kwargs.items()}))


def encode_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], kin: Hashable = None, hidden: Sequence[int] = ()
) -> tuple[int, bytes]:
    """Serialise ``(args, kwargs)`` as `dump_arguments` does, without secrets (see `payload.encode`).

    Args:
        args: the positional arguments.
        kwargs: the keyword arguments.
        kin: what they are of.
        hidden: positions of arguments that are secrets by their parameter's name, which a pickle does not hold.
    """
    shown = without_hidden(args, hidden)
    form, data = payload.to_raw(payload.without_secrets(dump_arguments(shown, kwargs), kin))
    return (form if shown is args else form | REDACTED), data


def as_recorded(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], parameters: Sequence[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a copy of arguments as a record with secrets would hold them, to compare them with one.

    Args:
        args: the positional arguments.
        kwargs: the keyword arguments.
        parameters: the names of what is passed by position (see `clearstone.span.Site`).

    Raises:
        UnservableOutcome: the copy does not load.
    """
    hidden = active().secret_positions(parameters)
    found: tuple[tuple[Any, ...], dict[str, Any]] = payload.load(
        payload.of_raw(*encode_arguments(args, kwargs, None, hidden))
    )
    return found


def without_hidden(args: tuple[Any, ...], hidden: Sequence[int]) -> tuple[Any, ...]:
    """Return arguments with the marker in the places of `hidden`; themselves where there is nothing to hide."""
    found = {place for place in hidden if place < len(args) and not _is_nothing(args[place])}
    return tuple(MARKER if place in found else each for place, each in enumerate(args)) if found else args


def _is_nothing(value: Any) -> bool:
    return value is None or isinstance(value, bool) or (isinstance(value, str | bytes) and not value)


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
