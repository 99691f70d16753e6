"""How much of a program's time its snapshots may take, and what a call starts from that had to do without one.

Idea: what snapshots have taken is held against a share of the time since the first of them, with a little to begin
with, so that short programs and rare calls never meet the limit. An outermost call that would exceed it takes no
snapshot of its agent: it starts from the last one, and the calls on that agent since are remembered, so that a replay
can make them again first. After so many of them a snapshot is taken whatever it costs.

A call that is due at its exit is not saved there while there is no room. What writing to the disk takes is not counted:
only what was asked for is written.

Invariant: an outermost call is never without a state because of its costs; one inside another goes without, and the
other has its own. What changed the agent between those calls, other than they, is not seen; the checkpoint names the
calls.

Refused: a limit for each snapshot (a large state would never be saved, and a small one a thousand times a second).
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from clearstone import notice

if TYPE_CHECKING:
    from clearstone.checkpoint.model import EarlierCall
    from clearstone.checkpoint.state import AgentState

SHARE = 0.01
"""Of the time: what snapshots may take unless a class says otherwise."""

TO_BEGIN_WITH_NS = 500_000_000

MOST_CALLS, MOST_BYTES = 100, 16 << 20
"""So many calls on one agent, with arguments of so many bytes together, may go by without a snapshot."""


@dataclass(slots=True)
class Kept:
    """The last snapshot of an agent that an outermost call began with, and the calls on the agent since.

    Args:
        taken: the state.
        taken_ns: when, nanoseconds since the epoch.
        random_state: ``random.getstate()`` then.
        calls: the call it was taken for and those after it, each as it was recorded and as a replay makes it.
    """

    taken: AgentState
    taken_ns: int
    random_state: tuple[Any, ...]
    calls: list[tuple[Any, EarlierCall]] = field(default_factory=list)

    @property
    def can_be_made_again(self) -> bool:
        """Whether the calls came one after the other, each to an end that a replay can bring about, and are not many.

        Streams are none of those, nor calls that are still at work or that ended the program or the task.
        """
        ends = [0, *(call.end_ns for call, _ in self.calls)]
        return (
            len(self.calls) < MOST_CALLS
            and sum(len(each.input.data) for _, each in self.calls) < MOST_BYTES
            and None not in ends
            and all(end <= call.start_ns for end, (call, _) in zip(ends, self.calls, strict=False))
            and not any(call.chunks is not None or call.was_left for call, _ in self.calls)
        )


class Ledger:
    """What the snapshots of this process have taken."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal handler may make a call
        self._began: int | None = None
        self._spent = 0
        self._told = False

    def allows(self, share: float | None, expected_ns: int) -> bool:
        """Whether a snapshot that takes so long fits into a share of the time; any does where there is none."""
        if share is None:
            return True
        with self._lock:
            since = perf_counter_ns() - self._began if self._began is not None else 0
            return self._spent + expected_ns <= TO_BEGIN_WITH_NS + share * since

    def spend(self, begun_ns: int) -> int:
        """Note a snapshot that began then, by `perf_counter_ns`, and has just been taken; return how long it took."""
        cost = perf_counter_ns() - begun_ns
        with self._lock:
            self._began = begun_ns if self._began is None else self._began
            self._spent += cost
        return cost

    def say_once(self, site: str, share: float | None) -> None:
        """Tell that the limit was met."""
        with self._lock:
            told, self._told = self._told, True
        if not told:
            notice.say(
                f"snapshots take more than {share or 0:.0%} of the time, so {site} goes without one for now: a "
                f"checkpoint of it starts from an earlier one and makes the calls since again. budget=None above the "
                f"class takes them all"
            )


ledger = Ledger()


def begin_anew() -> None:
    """Forget what was spent."""
    global ledger  # noqa: PLW0603 - one process, one ledger
    ledger = Ledger()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=begin_anew)
