"""What a replay's code draws by chance and from clocks: from the record, as far as that holds it.

Idea: each step plays what was kept of the call it is (`clearstone.nondet.drawn`). A step that draws more than there is,
or that the record does not have, gets what a replay without such a record gives: a stream made from the checkpoint, the
clock that follows the record. What came from where is counted, for the ledger.

Invariant: a recorded value is given once, to the step it was drawn in; a step without a recorded call of its own draws
from what is left of the step above.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from clearstone import nondet
from clearstone.nondet import drawn, generators
from clearstone.nondet.drawn import Kept
from clearstone.run import DRAWN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.nondet.clock import VirtualClock
    from clearstone.nondet.drawn import Kind
    from clearstone.span import Span, Trace

Value = TypeVar("Value")

DERIVED = "derived from the checkpoint"

MOST_LOOKED_AT = 100
"""Logs that are read before the replay begins, for the first that holds a moment."""


class Values:
    """What was drawn in one replay, from any thread.

    Args:
        trace: the recorded calls.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._lock = threading.RLock()  # reentrant: a finalizer may draw
        self._counts: Counter[tuple[Kind, bool]] = Counter()
        self._latest = Kept()
        self._has_state = False

    def begin(self, checkpoint: Checkpoint, clock: VirtualClock) -> None:
        """Let the clocks count from where they did, if the record says where.

        Args:
            checkpoint: what is replayed.
            clock: the replay's.
        """
        self._has_state = checkpoint.random_state is not None
        logs = filter(None, map(kept_of, self._trace))
        began = next((dict(log.began) for log in itertools.islice(logs, MOST_LOOKED_AT) if log.began), None)
        if began is not None:
            clock.align(began.pop("time"), began)

    def enter(self, kept: Kept | None) -> bool:
        """Set the global generators to where they stood at the start of a step.

        Returns:
            Whether they have been further already: the step is to `give_back`. Threads run in another order than then.
        """
        if kept is None or not kept.states:
            return False
        is_late = not self._is_latest(kept)
        self._put(kept.states)
        return is_late

    def leave(self, kept: Kept | None, *, in_late: bool) -> None:
        """Set the global generators to where an outside call has left them, unless they have been further already.

        Args:
            kept: of the call.
            in_late: whether it was made in a step that gives them back.
        """
        if kept is not None and (self._is_latest(kept) or in_late):
            self._put(kept.states)

    def give_back(self) -> None:
        """Set the global generators to the furthest that they have been."""
        self._put(self._latest.states)

    def _is_latest(self, kept: Kept) -> bool:
        with self._lock:
            is_latest = kept.order > self._latest.order
            if is_latest:
                self._latest = Kept(states={**self._latest.states, **kept.states}, order=kept.order)
            return is_latest

    def _put(self, states: Mapping[str, bytes]) -> None:
        for name, state in states.items():
            try:
                generators.put(name, state)
            except (ValueError, ImportError):  # of another version of the library: it goes on from where it is
                self.note("random", recorded=False)
            else:
                self.note("random", recorded=True)

    def note(self, kind: Kind, *, recorded: bool) -> None:
        """Count a value."""
        with self._lock:
            self._counts[kind, recorded] += 1

    def told(self, *, follows: bool) -> dict[str, str]:
        """Return where the values of each kind came from.

        Args:
            follows: whether the clock goes as it went then.
        """
        state = "recorded state" if self._has_state else DERIVED
        if self._counts["random", False]:
            state = f"{state}, then derived ({self._counts['random', False]} more)"
        clock = "follows the record" if follows else "frozen"
        return {
            "random": self._recorded("random", "derived") or state,
            "uuid": self._recorded("uuid", "derived") or (DERIVED if self._counts["uuid", False] else "none drawn"),
            "time": self._recorded("time", clock) or clock,
        }

    def _recorded(self, kind: Kind, then: str) -> str:
        """Say how many came from the record, and from where those after them; nothing where none did."""
        if not self._counts[kind, True]:
            return ""
        more = self._counts[kind, False]
        return f"recorded, then {then} ({more} more)" if more else "recorded"


def kept_of(span: Span | None) -> Kept | None:
    """Return what was drawn in a recorded call; None where nothing of it was kept."""
    text = span.attributes.get(DRAWN) if span is not None else None
    return drawn.read(text) if isinstance(text, str) else None


class Played:
    """Plays what was drawn in one call (see `clearstone.nondet.drawn.Draws`).

    Args:
        values: what counts them.
        kept: what was drawn; None where that is not known.
    """

    kinds = frozenset(drawn.KINDS)

    def __init__(self, values: Values, kept: Kept | None = None) -> None:
        self._values = values
        self._left = kept.values if kept is not None else {}

    def drawn(self, kind: Kind, source: str, make: Callable[[], Value]) -> Value:
        """Return the next recorded value of a source, or one that is made."""
        try:
            value: Any = self._left[source].popleft()
        except (KeyError, IndexError):
            self._values.note(kind, recorded=False)
            return make()
        self._values.note(kind, recorded=True)
        clock = nondet.current_clock.get()
        if kind == "time" and clock is not None:
            clock.heard(source, value)
        return value  # type: ignore[no-any-return]
