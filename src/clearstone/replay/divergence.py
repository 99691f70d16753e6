"""What is said of a call that the record has no answer for: what was made, what is left, and why none of it fits.

The shape of the message follows vcrpy's: the closest recordings, what differs in each, and how to go on.
"""

from __future__ import annotations

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

LOOKED_AT, SHOWN = 20, 3
"""Unused calls that are compared with a refused one, and how many of them are told."""


def refusal(made: Made, record: RecordedCalls, changes: str) -> ReplayError:
    """Return the error for a call that finds no recorded one.

    Args:
        made: the call.
        record: the recorded calls.
        changes: what of the code has changed since, in one line; empty for nothing.
    """
    site = made.call.site
    recorded, left = record.recorded(site.key), record.left(site.key)
    if left:
        return ReplayDivergence("\n".join([*_diverged(made, record, recorded, left), *_footer(changes)]))
    sentence = f"{_called(made)} was called {made.number} time(s); the record holds {len(recorded)}."
    others = sorted({span.site.replace(":", ".", 1) for span in record.all_left() if span.replay == "serve"})
    if others:
        told = f"{sentence} Recorded but not called yet: {', '.join(others)}. The code took another way."
        return ReplayDivergence("\n".join([told, *_place(made), *_footer(changes)]))
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


def _diverged(made: Made, record: RecordedCalls, recorded: list[Span], left: list[Span]) -> list[str]:
    lines = [
        f"call {made.number} of {_called(made)} differs from every unused one of its {len(recorded)} recorded call(s):",
        *_place(made),
    ]
    compared = [(span, arguments.told_differences(span, made.call)) for span in left[:LOOKED_AT]]
    for span, differences in sorted(compared, key=lambda each: len(each[1]) or LOOKED_AT)[:SHOWN]:
        lines += [f"  {span.name} ({span.span_id}):", *(f"    {each}" for each in differences or [_elsewhere(span)])]
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


def _footer(changes: str) -> list[str]:
    return [
        *([changes] if changes else []),
        HOW_TO_GO_ON,
    ]
