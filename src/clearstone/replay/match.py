"""Which recorded call answers a call made in a replay.

Two ways, one interface (`Book.answer`):

- `InferredBook`, without a mock configuration: by site and by the arguments' values. Calls that arguments tell apart
  (`gather`, threads) get their own answers in any order; equal ones get theirs in the order they were recorded.
- `WrittenBook`, for a written mock configuration: the outcomes of a type, in start order, whatever the arguments.

Invariant: a recorded call is given once. A call that finds none is refused with an error that names the site, what is
left, and the next step; it is never answered by a guess.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Protocol

from clearstone.codec import payload
from clearstone.codec.arguments import as_recorded
from clearstone.errors import BeyondRecord, ReplayDivergence, ReplayError, ReplayExhausted
from clearstone.replay import outcomes
from clearstone.replay.compare import Difference, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clearstone.run import Answer, BoundCall
    from clearstone.span import Span, Trace


class Book(Protocol):
    """Recorded calls, given out one by one."""

    def answer(self, call: BoundCall) -> Answer:
        """Return the outcome recorded for `call`.

        Raises:
            ReplayError: there is none, or it cannot be served.
        """

    def attempted(self, call: BoundCall) -> None:
        """Count a call that is not answered, because an earlier one was refused."""

    def block(self, name: str, span_type: str) -> None:
        """A hand-written span of a served type is entered, whose body will run.

        Raises:
            ReplayError: nothing would answer the calls in it.
        """


# --- inferred --------------------------------------------------------------------------------------------------------


class _Recorded:
    """One recorded call: its arguments are loaded when first compared."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self._arguments: Any = None
        self._loaded = False

    def difference(self, call: BoundCall) -> Difference | None:
        recorded = self._load()
        if recorded is None:
            return None
        given = self.span.input
        if given is not None and given.redacted:  # secrets are compared as what the record has in their place
            return difference(recorded, as_recorded(call.args, call.kwargs, call.site.parameters))
        return difference(recorded, (call.args, dict(call.kwargs)))

    def _load(self) -> Any:
        if not self._loaded:
            given = self.span.input
            self._arguments = payload.load(given) if given is not None and given.codec != "stand-in" else None
            self._loaded = True
        return self._arguments


class InferredBook:
    """Answers decorated calls from the record, by site and arguments.

    Args:
        trace: the calls that may be given: everything below the call that is replayed.
    """

    def __init__(self, trace: Trace) -> None:
        self._lock = threading.Lock()
        self._left: dict[str, list[_Recorded]] = defaultdict(list)
        self._attempts: dict[str, int] = defaultdict(int)
        self.spans = [span for span in outcomes.outermost_served(trace) if span.outcome is not None and span.site]
        for span in self.spans:
            self._left[span.site].append(_Recorded(span))

    @property
    def unused(self) -> int:
        """How many recorded calls have not been given."""
        with self._lock:
            return sum(len(left) for left in self._left.values())

    def config(self) -> dict[str, list[str]]:
        """Return the equivalent mock configuration: span type to targets, in the order they were first called."""
        found: dict[str, list[str]] = {}
        for span in self.spans:
            targets = found.setdefault(span.span_type, [])
            target = span.site.replace(":", ".", 1)
            if target not in targets:
                targets.append(target)
        return found

    def answer(self, call: BoundCall) -> Answer:
        """Return the outcome recorded for `call` (see `Book.answer`)."""
        with self._lock:
            self._attempts[call.site.key] += 1
            recorded = self._take(call)
        if recorded.span.outcome is None:  # `spans` holds none without one
            raise ReplayError(f"{call.site.target} has no recorded outcome")
        return outcomes.answer(recorded.span.outcome, recorded.span.attributes)

    def attempted(self, call: BoundCall) -> None:
        """Count a call that is not answered (see `Book.attempted`)."""
        with self._lock:
            self._attempts[call.site.key] += 1

    def block(self, name: str, span_type: str) -> None:
        """Refuse: the body of a hand-written span cannot be skipped (see `Book.block`)."""
        raise ReplayError(
            f"the hand-written span {name!r} (type {span_type!r}) would run its body live. Decorate the call in it "
            f"with @traced(span_type={span_type!r}), or name its target: mock_config={{{span_type!r}: 'module.name'}}"
        )

    def _take(self, call: BoundCall) -> _Recorded:
        left = self._left[call.site.key]
        differences = []
        for position, recorded in enumerate(left):
            found = recorded.difference(call)
            if found is None:
                return left.pop(position)
            differences.append((recorded.span, found))
        raise self._refusal(call, differences)

    def _refusal(self, call: BoundCall, differences: Sequence[tuple[Span, Difference]]) -> ReplayError:
        site, attempts = call.site, self._attempts[call.site.key]
        recorded = sum(span.site == site.key for span in self.spans)
        if differences:
            return ReplayDivergence(_diverged(site.target, differences, attempts, recorded))
        sentence = f"{site.target} was called {attempts} time(s); the record holds {recorded}."
        if any(self._left.values()):
            unused = ", ".join(sorted(one[0].span.site.replace(":", ".", 1) for one in self._left.values() if one))
            return ReplayDivergence(f"{sentence} Recorded but not called yet: {unused}. The code took another way.")
        return BeyondRecord(f"{sentence} Everything recorded was used: the code got further than when it was recorded.")


def _diverged(target: str, differences: Sequence[tuple[Span, Difference]], attempts: int, recorded: int) -> str:
    lines = [f"call {attempts} of {target} differs from every unused one of its {recorded} recorded call(s):"]
    lines += [f"  {span.name} ({span.span_id}): {found}" for span, found in differences[:3]]
    if len(differences) > 3:  # noqa: PLR2004 - as many as are printed
        lines.append(f"  and {len(differences) - 3} more")
    lines.append("The code gave this call other arguments than it did then; debug it with 'clearstone debug'.")
    return "\n".join(lines)


# --- written ---------------------------------------------------------------------------------------------------------


class Responses:
    """Outcomes handed out in order to one mock target, or to several that share them.

    Args:
        produce: one function per outcome.
    """

    def __init__(self, produce: Sequence[Callable[[], Answer]]) -> None:
        self._lock = threading.Lock()
        self._produce = list(produce)
        self._attempts = 0

    def __len__(self) -> int:
        return len(self._produce)

    def take(self, target: str) -> Answer:
        """Return the next answer.

        Raises:
            ReplayExhausted: none is left.
            UnservableOutcome: it was not recorded, or does not load today.
        """
        position = self.attempted()
        if position >= len(self._produce):
            raise ExhaustedResponses(target, self)
        return self._produce[position]()

    def attempted(self) -> int:
        """Count a call; return how many there were before it."""
        with self._lock:
            position, self._attempts = self._attempts, self._attempts + 1
        return position

    @property
    def attempts(self) -> int:
        """How many calls asked so far."""
        return self._attempts


class ExhaustedResponses(ReplayExhausted):
    """A mock target was called more often than recorded; the count goes on after it was raised."""

    def __init__(self, target: str, responses: Responses) -> None:
        super().__init__(target)
        self.target = target
        self._responses = responses

    def __str__(self) -> str:
        return (
            f"{self.target} has {len(self._responses)} recorded response(s), and was called "
            f"{self._responses.attempts} time(s)."
        )


class WrittenBook:
    """Answers by a written configuration: what it names, and nothing else.

    Args:
        responses: by target (dotted), as written and as understood.
    """

    def __init__(self, responses: dict[str, Responses]) -> None:
        self._responses = responses

    def answer(self, call: BoundCall) -> Answer:
        """Return the next outcome of the call's target (see `Book.answer`)."""
        responses = self._responses.get(call.site.target)
        if responses is None:
            raise ReplayError(
                f"{call.site.target} ({call.site.span_type}) is an outside call that mock_config does not name. Add "
                f"{{{call.site.span_type!r}: {call.site.target!r}}}, or leave mock_config out to have it inferred."
            )
        return responses.take(call.site.target)

    def attempted(self, call: BoundCall) -> None:
        """Count a call that is not answered (see `Book.attempted`)."""
        if call.site.target in self._responses:
            self._responses[call.site.target].attempted()

    def block(self, name: str, span_type: str) -> None:
        """Let it run: the configuration names what is mocked inside it (see `Book.block`)."""
