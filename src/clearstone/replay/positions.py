"""Names for the calls of a trace: ``s12`` is the twelfth that started, ``llm[2]`` the second outside call of type llm.

Invariant: a name means one call, or the error says what there is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clearstone.errors import TargetError
from clearstone.nearest import nearest
from clearstone.replay.outcomes import outermost_served

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clearstone.span import Span, Trace

_POSITION = re.compile(r"s([1-9]\d*)")
_NUMBERED = re.compile(r"(?P<name>.*?)(?:\[(?P<number>\d+)\])?")
SHORTEST_ID = 4
MOST_LISTED = 6


def positions(trace: Trace) -> dict[str, str]:
    """Return the position of each call of a trace, ``s1`` first, by the ids of their spans."""
    return {span.span_id: f"s{number}" for number, span in enumerate(trace, 1)}


def find(trace: Trace, reference: str) -> Span:
    """Return the call that a position (``s12``) or the beginning of a span id names.

    Raises:
        TargetError: none or several are; says what there is.
    """
    spans, position = trace.spans, _POSITION.fullmatch(reference)
    if position is not None:
        number = int(position[1])
        if number <= len(spans):
            return spans[number - 1]
        raise TargetError(f"there is no {reference}: the trace has {len(spans)} call(s), s1 to s{len(spans)}")
    found = [span for span in spans if len(reference) >= SHORTEST_ID and span.span_id.startswith(reference)]
    if len(found) != 1:
        raise TargetError(
            f"{reference!r} names {len(found) or 'no'} call(s) of trace {trace.trace_id}; give a position such as s12, "
            f"as 'clearstone show' lists them, or a span id"
        )
    return found[0]


def find_response(trace: Trace, whole: Trace, reference: str) -> Span:
    """Return the outside call that a reference names.

    Args:
        trace: the calls that a replay may be given.
        whole: the trace they are of, which positions count in.
        reference: a position, a span id, or a span type or the end of a function's dotted name with a number
            (``llm[2]``, ``Agent.ask[1]``), which may be left out where there is one call.

    Raises:
        TargetError: it names no outside call, or several.
    """
    served = [span for span in outermost_served(trace) if span.site]
    match = _NUMBERED.fullmatch(reference)
    name, number = (match["name"], match["number"]) if match is not None else (reference, None)
    named = [span for span in served if name == span.span_type or is_named(span, name)]
    if number is not None and 1 <= int(number) <= len(named):
        return named[int(number) - 1]
    if number is None and len(named) == 1:
        return named[0]
    if named:
        raise TargetError(
            f"{reference!r} names {'several calls' if number is None else 'no call'}: the record has {len(named)} of "
            f"{name}: {_listed(name, named, whole)}"
        )
    if number is None and (_POSITION.fullmatch(name) or any(span.span_id.startswith(name) for span in whole)):
        found = find(whole, name)
        if found in served:
            return found
        raise TargetError(
            f"{reference} ({found.name}) is no outside call: it runs again, and has no response to change"
        )
    names = dict.fromkeys(each for span in served for each in (span.span_type, span.name) if each)
    raise TargetError(f"no recorded outside call is a {name!r}; {nearest(name, names)}")


def is_known(trace: Trace, name: str) -> bool:
    """Whether a span type, a function's name, a position or a span id names a call of a trace."""
    if _POSITION.fullmatch(name) or any(name == span.span_id for span in trace):
        return True
    return any(name == span.span_type or is_named(span, name) for span in outermost_served(trace) if span.site)


def is_named(span: Span, name: str) -> bool:
    """Whether a dotted name, or its end, is the recorded function's."""
    target = span.site.replace(":", ".", 1)
    return bool(name) and f".{target}".endswith(f".{name.replace(':', '.', 1)}")


def _listed(name: str, named: Sequence[Span], whole: Trace) -> str:
    at = positions(whole)
    listed = [f"{name}[{number}] ({at.get(span.span_id, span.span_id)})" for number, span in enumerate(named, 1)]
    more = f" and {len(listed) - MOST_LISTED} more" if len(listed) > MOST_LISTED else ""
    return ", ".join(listed[:MOST_LISTED]) + more
