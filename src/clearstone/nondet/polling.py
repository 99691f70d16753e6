"""Notice the loop that waits for a clock nothing will ever move.

Idea: count the reads of each source line since the clock last moved. Honest code reads a clock now and then; a loop
that polls it reads it from one line for ever.

Invariant: what counts is the line, so a second reader elsewhere neither hides the loop nor is blamed for it. Only a
move of the clock starts the count again: the microsecond that each read of a steady clock adds is not a move.

Refused: moving the clock a little with every read of the wall clock (two reads of one moment would differ, and the loop
would still turn ten million times); a limit in real seconds (another machine, another result).
"""

from __future__ import annotations

import linecache
from typing import TYPE_CHECKING

from clearstone.errors import FrozenClockError

if TYPE_CHECKING:
    from types import FrameType

FROZEN_AFTER = 100_000

# One line of these reads the clock on behalf of the whole program: once per log record, per pass of the event loop.
_READS_FOR_OTHERS = frozenset({"asyncio", "clearstone", "logging"})


class PollWatch:
    """Counts reads per line. Not locked: its owner is."""

    __slots__ = ("_reads",)

    def __init__(self) -> None:
        self._reads: dict[tuple[str, int], int] = {}

    def seen(self, caller: FrameType, clock: str) -> None:
        """Count one read.

        Args:
            caller: the frame that reads.
            clock: what it reads, as the message shall name it.

        Raises:
            FrozenClockError: when this line has read a clock `FROZEN_AFTER` times and nothing moved the clocks.
        """
        place = (caller.f_code.co_filename, caller.f_lineno)
        reads = self._reads.get(place, 0) + 1
        self._reads[place] = reads
        if reads > FROZEN_AFTER and not _reads_for_others(caller):
            raise FrozenClockError(_sentence(caller, clock))

    def moved(self) -> None:
        """Start again: somebody moved the clock."""
        self._reads.clear()


def _reads_for_others(caller: FrameType) -> bool:
    module = str(caller.f_globals.get("__name__"))
    return module.partition(".")[0] in _READS_FOR_OTHERS


def _sentence(caller: FrameType, clock: str) -> str:
    code = caller.f_code
    source = linecache.getline(code.co_filename, caller.f_lineno, caller.f_globals).strip()
    return (
        f"{code.co_filename}:{caller.f_lineno}, in {code.co_qualname}: {source or 'this line'}\n"
        f"polls {clock}, which stands still in a replay until something sleeps; it was read {FROZEN_AFTER:,} times and "
        "nothing did. Let the loop call time.sleep() or await asyncio.sleep() between two looks, or decorate the "
        "function that waits as an outside call, so that a replay answers it from the record."
    )
