"""Two traces side by side: which calls are the same, what is different in them, and which difference came first.

Idea: calls are paired level by level, by their sites and in their order, as lines of two texts are. What a call was
given is compared where it begins, what it gave after the calls below it: so the first difference that is told is where
the two runs part, not the call at the top that gave another result in the end.

Invariant: nothing is loaded. The first span of a fork, which its parent lacks, is looked through.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from clearstone.codec import inert
from clearstone.codec.difference import differences
from clearstone.replay.positions import positions
from clearstone.span import FORK_PARENT, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clearstone.codec.difference import Difference
    from clearstone.codec.nodes import Node
    from clearstone.span import Outcome, Payload, Span


@dataclass(frozen=True, slots=True)
class Parting:
    """A difference between two traces.

    Args:
        what: ``"arguments"``, ``"outcome"``, ``"removed"`` (a call that only the first has) or ``"added"``.
        call: the function's name.
        before: its position in the first trace (``s5``); empty where it has no such call.
        after: its position in the second.
        told: what is different, a line each.
        found: the differences by path, where there are any.
    """

    what: str
    call: str
    before: str
    after: str
    told: tuple[str, ...] = ()
    found: tuple[Difference, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "what": self.what,
            "call": self.call,
            "before": self.before or None,
            "after": self.after or None,
            "told": list(self.told),
            "differences": [each.as_json() for each in self.found],
        }


def partings(one: Trace, other: Trace) -> Iterator[Parting]:
    """Give the differences between two traces, that which came first at first.

    Args:
        one: the first trace.
        other: the second; the calls of a fork of `one` are compared with those below the call it made again.
    """
    alignment = _Alignment(one, other)
    levels = [alignment.of_level("", "")]
    while levels:  # no recursion: traces may be as deep as the recorded code went
        found = next(levels[-1], None)
        if found is None:
            levels.pop()
        elif isinstance(found, Parting):
            yield found
        else:
            levels.append(alignment.of_level(*found))


class _Alignment:
    def __init__(self, one: Trace, other: Trace) -> None:
        self._at = positions(one), positions(other)
        tops = _calls(one), _calls(other)
        if len(tops[1]) == 1 and tops[0] and tops[1][0].site != tops[0][0].site:
            one = _below_the_same(one, tops[1][0])
        self._levels = _levels(one), _levels(other)

    def of_level(self, one: str, other: str) -> Iterator[Parting | tuple[str, str]]:
        """Give the differences between the calls below two; a pair of ids stands for what is below them."""
        before, after = self._levels[0][one], self._levels[1][other]
        for first, second in _paired(before, after):
            if first is not None and second is not None:
                yield from self._of_pair(first, second)
            elif first is not None:
                yield Parting("removed", first.name, self._at[0][first.span_id], "")
            elif second is not None:
                yield Parting("added", second.name, "", self._at[1][second.span_id])

    def _of_pair(self, one: Span, other: Span) -> Iterator[Parting | tuple[str, str]]:
        where = one.name, self._at[0][one.span_id], self._at[1][other.span_id]
        found = tuple(_differences(one.input, other.input))
        if found:
            yield Parting("arguments", *where, tuple(str(each) for each in found), found)
        yield one.span_id, other.span_id
        told, found = _of_outcomes(one.outcome, other.outcome)
        if told:
            yield Parting("outcome", *where, told, found)


MOST_COMPARED = 1_000_000
"""Pairs of calls that are looked at to align two levels; beyond that their calls are paired by their places alone."""


def _paired(before: Sequence[Span], after: Sequence[Span]) -> Iterator[tuple[Span | None, Span | None]]:
    """Pair the calls of two levels, in order; a call that the other level lacks with None."""
    one, other = [_key(each) for each in before], [_key(each) for each in after]
    shorter = min(len(one), len(other))
    start = next((at for at in range(shorter) if one[at] != other[at]), shorter)  # most levels are alike: linear
    rest = shorter - start
    end = next((at for at in range(rest) if one[-1 - at] != other[-1 - at]), rest)
    yield from zip(before[:start], after[:start], strict=True)
    yield from _aligned(before[start : len(one) - end], after[start : len(other) - end])
    yield from zip(before[len(one) - end :], after[len(other) - end :], strict=True)


def _aligned(before: Sequence[Span], after: Sequence[Span]) -> Iterator[tuple[Span | None, Span | None]]:
    if len(before) * len(after) > MOST_COMPARED:
        for first, second in zip_longest(before, after):
            if first is None or second is None or _key(first) == _key(second):
                yield first, second
            else:
                yield from ((first, None), (None, second))
        return
    matcher = SequenceMatcher(None, [_key(each) for each in before], [_key(each) for each in after], autojunk=False)
    for kind, from_one, to_one, from_other, to_other in matcher.get_opcodes():
        if kind == "equal":
            yield from zip(before[from_one:to_one], after[from_other:to_other], strict=True)
        else:
            yield from ((each, None) for each in before[from_one:to_one])
            yield from ((None, each) for each in after[from_other:to_other])


def _calls(trace: Trace) -> list[Span]:
    """Return the topmost calls, past the first span of a fork."""
    ids = {span.span_id for span in trace}
    tops = [span for span in trace if span.parent_id not in ids]
    if len(tops) == 1 and FORK_PARENT in tops[0].attributes:
        return [span for span in trace if span.parent_id == tops[0].span_id]
    return tops


def _below_the_same(trace: Trace, call: Span) -> Trace:
    """Cut a trace down to the first call of the same site, which a fork makes again."""
    found = next((span for span in trace if span.site and span.site == call.site), None)
    return trace.subtree(found.span_id) if found is not None else trace


def _levels(trace: Trace) -> dict[str, list[Span]]:
    """Return the calls of a trace by the call above them, the topmost under the empty id."""
    tops = {span.span_id for span in _calls(trace)}
    found: dict[str, list[Span]] = defaultdict(list)
    for span in trace:
        found["" if span.span_id in tops else span.parent_id or "-"].append(span)
    return found


def _key(span: Span) -> str:
    return span.site or span.name


def _of_outcomes(one: Outcome | None, other: Outcome | None) -> tuple[tuple[str, ...], tuple[Difference, ...]]:
    before, after = _in_a_word(one), _in_a_word(other)
    if before != after:
        return (f"{before}, then {after}",), ()
    if one is None or other is None:
        return (), ()
    found = list(_differences(one.value, other.value, "returned"))
    for number, (first, second) in enumerate(zip_longest(one.chunks, other.chunks)):
        before_item, after_item = (each.value if each is not None else None for each in (first, second))
        found += _differences(before_item, after_item, f"item {number}")
    return tuple(str(each) for each in found), tuple(found)


def _in_a_word(outcome: Outcome | None) -> str:
    if outcome is None:
        return "nothing was recorded"
    if outcome.failure is not None:
        return f"raised {outcome.failure.type_name}: {outcome.failure.message}"
    return "gave a stream" if outcome.kind == "streamed" else "returned"


def _differences(one: Payload | None, other: Payload | None, path: str = "") -> Sequence[Difference]:
    if (
        one is not None
        and other is not None
        and (one.codec, one.data, one.buffers) == (other.codec, other.data, other.buffers)
    ):
        return ()
    return list(differences(_node(one), _node(other), path))


def _node(payload: Payload | None) -> Node:
    if payload is None:
        return None
    if payload.codec == "stand-in":
        found: Node = json.loads(payload.data)
        return found
    found = inert.read(payload.data, buffers=payload.buffers)
    match found:
        case (tuple() as args, dict() as kwargs):
            return {**dict(enumerate(args)), **kwargs}
    return found
