"""What is said of a call that the record has no answer for: what was made, what is left, and why none of it fits.

The shape of the message follows vcrpy's: the closest recordings, what differs in each, and how to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from clearstone.errors import BeyondRecord, ReplayDivergence, ReplayError
from clearstone.replay import arguments
from clearstone.replay.lines import quoted

if TYPE_CHECKING:
    from clearstone.replay.match import Made
    from clearstone.replay.recorded import RecordedCalls
    from clearstone.span import Span

HOW_TO_GO_ON = (
    "The code gave this call other arguments than it did then, or took another way. Look at it with 'clearstone "
    "debug'; 'clearstone replay --no-strict' (strict=False) answers in the recorded order and lists what differs."
)

Quoting = Callable[[str], str]
"""Gives the source of a line, behind a colon; nothing where it is not known."""

LOOKED_AT, SHOWN = 20, 3
"""Unused calls that are compared with a refused one, and how many of them are told."""


def refusal(made: Made, record: RecordedCalls, changes: str, quoted_then: Quoting) -> ReplayError:
    """Return the error for a call that finds no recorded one.

    Args:
        made: the call.
        record: the recorded calls.
        changes: what of the code has changed since, in one line; empty for nothing.
        quoted_then: gives the source of a recorded line, behind a colon.
    """
    site = made.call.site
    recorded, left = record.recorded(site.key), record.left(site.key)
    if left:
        return ReplayDivergence("\n".join([*_diverged(made, record, recorded, left, quoted_then), *_footer(changes)]))
    sentence = f"{_called(made)} was called {made.number} time(s); the record holds {len(recorded)}."
    others = {span.site: span for span in reversed(record.all_left()) if span.replay == "serve"}
    if others:
        names = ", ".join(site.replace(":", ".", 1) for site in sorted(others))
        told = f"{sentence} Recorded but not called yet: {names}. The code took another way."
        nearest = min(others.values(), key=lambda span: (span.start_ns, span.order))
        return ReplayDivergence("\n".join([told, *_place(made), *_next(nearest, quoted_then), *_footer(changes)]))
    return BeyondRecord(
        "\n".join(
            [
                f"{sentence} Everything recorded was used: the code got further than when it was recorded.",
                *_place(made),
            ]
        )
    )


def _called(made: Made) -> str:
    return made.call.site.target


def _diverged(
    made: Made, record: RecordedCalls, recorded: list[Span], left: list[Span], quoted_then: Quoting
) -> list[str]:
    lines = [
        f"call {made.number} of {_called(made)} differs from every unused one of its {len(recorded)} recorded call(s):",
        *_place(made),
    ]
    compared = [(span, arguments.told_differences(span, made.call)) for span in left[:LOOKED_AT]]
    for span, differences in sorted(compared, key=lambda each: len(each[1]) or LOOKED_AT)[:SHOWN]:
        told = [*_place_then(span, quoted_then), *(differences or [_elsewhere(span)])]
        lines += [f"  {span.name} ({span.span_id}):", *(f"    {each}" for each in told)]
    if len(left) > SHOWN:
        lines.append(f"  and {len(left) - SHOWN} more")
    unused = {span.span_id for span in left}
    used = [span for span in record.equal(made.call) if span.span_id not in unused]
    if used:
        lines.append(f"  {len(used)} recorded call(s) with these arguments were used before: it is called once more.")
    return lines


def _elsewhere(span: Span) -> str:
    return f"the same arguments, but it was recorded in another step ({span.parent_id})"


def _place(made: Made) -> list[str]:
    return [f"  now at {made.line}{quoted(made.line)}"] if made.line else []


def _place_then(span: Span, quoted_then: Quoting) -> list[str]:
    return [f"recorded at {span.called_at}{quoted_then(span.called_at)}"] if span.called_at else []


def _next(span: Span, quoted_then: Quoting) -> list[str]:
    return [f"  {span.name} ({span.span_id}) was {each}" for each in _place_then(span, quoted_then)]


def _footer(changes: str) -> list[str]:
    return [
        *([changes] if changes else []),
        HOW_TO_GO_ON,
    ]
