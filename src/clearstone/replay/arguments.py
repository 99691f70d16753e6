"""The arguments of a call by name: what of two calls of one site is compared.

Idea: ``ask("x")`` and ``ask(question="x")`` are the same call. Positional arguments get the names that the site knows
for its parameters; those beyond them, and those of a callable that hides its names, are called by their place.

What is recorded without its secrets is compared with what a record of today's arguments would hold.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from clearstone.codec import inert, payload
from clearstone.codec.arguments import as_recorded, dump_arguments, encode_arguments
from clearstone.codec.difference import differences
from clearstone.codec.redact import active
from clearstone.errors import UnservableOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clearstone.codec.difference import Difference
    from clearstone.codec.nodes import Node
    from clearstone.run import BoundCall
    from clearstone.span import Payload, Span

MOST_SHOWN = 12
"""Differences of one call that are told."""


def names_of(call: BoundCall) -> tuple[str, ...]:
    """Return the names of what a call passes by position (see `clearstone.sites.positional_names`)."""
    return _names_of(call.site.parameters, bound=call.instance is not None)


@functools.cache
def _names_of(parameters: tuple[str, ...], *, bound: bool) -> tuple[str, ...]:
    return tuple(name.split("|")[-1 if bound else 0] for name in parameters)


def of_call(call: BoundCall, *, redacted: bool = False, described: bool = False) -> dict[Any, Any]:
    """Return the arguments that are passed now.

    Args:
        call: the call.
        redacted: as a record without secrets would hold them.
        described: as a record would hold them that does not pickle all of them.

    Raises:
        UnservableOutcome: what such a record would hold does not load.
    """
    args, kwargs = call.args, call.kwargs
    if redacted:
        args, kwargs = as_recorded(args, kwargs, call.site.parameters)
    elif described:
        args, kwargs = payload.load(dump_arguments(args, kwargs))
    return by_name(args, kwargs, names_of(call))


def of_span(span: Span, names: Sequence[str]) -> dict[Any, Any]:
    """Return recorded arguments.

    Args:
        span: the call.
        names: see `names_of`.

    Raises:
        UnservableOutcome: they were not recorded, or do not load today.
    """
    if span.input is None:
        raise UnservableOutcome(f"the arguments of {span.name} ({span.span_id}) were not recorded")
    args, kwargs = payload.load(span.input)
    return by_name(args, kwargs, names)


def told_differences(span: Span, call: BoundCall) -> list[str]:
    """Return how the arguments of a call differ from recorded ones, without their secrets; a line each.

    Args:
        span: the recorded call.
        call: the one that is made now.
    """
    if span.input is None or span.input.codec == "stand-in":
        return ["its arguments were not recorded"]
    names = names_of(call)
    hidden = active().secret_positions(call.site.parameters)
    now = payload.of_raw(*encode_arguments(call.args, call.kwargs, None, hidden))
    before, after = (_nodes(each, names) for each in (span.input, now))
    found = [_told(each) for each in differences(before, after)]
    more = len(found) - MOST_SHOWN
    return [*found[:MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _nodes(given: Payload, names: Sequence[str]) -> Node:
    found: Any = inert.read(given.data, buffers=given.buffers)
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], tuple) and isinstance(found[1], dict):  # noqa: PLR2004 - args, kwargs
        return by_name(found[0], found[1], names)
    return found


def by_name(args: Sequence[Any], kwargs: Mapping[Any, Any], names: Sequence[str]) -> dict[Any, Any]:
    """Return arguments by name; what is passed by position and has no name of its own is called by its place.

    Args:
        args: what is passed by position.
        kwargs: what is passed by name.
        names: those of what is passed by position.
    """
    found: dict[Any, Any] = dict(zip(names, args, strict=False))
    for place in range(len(names), len(args)):
        found[place] = args[place]
    if found.keys().isdisjoint(kwargs):
        found.update(kwargs)
        return found
    for name in kwargs:
        if name in found:  # ``def f(x, /, **more)`` takes another x
            found[names.index(name)] = found[name]
        found[name] = kwargs[name]
    return found


def _told(difference: Difference) -> str:
    path, (before, after) = _short(difference.path), difference.shown
    if difference.kind == "moved":
        return f"{path}: {after} was recorded at {_short(difference.moved_from)}"
    return f"{path}: recorded {before or 'nothing'}, now {after or 'nothing'}"


def _short(path: str) -> str:
    """Name an argument as the code does: ``['question'][0]`` is ``question[0]``."""
    return re.sub(r"^\['([\w*]+)'\]", r"\1", path)
