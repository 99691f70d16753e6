"""Which recorded call answers a call made in a replay.

Two ways, one interface (`Book`):

- `InferredBook`, without a mock configuration: by site, the arguments' values, and the step the call is made in. Calls
  that arguments tell apart (`gather`, threads) get their own answers in any order; equal ones get theirs in the order
  they were recorded.
- `clearstone.replay.written.WrittenBook`, for a written mock configuration: the outcomes of a type, in start order.

Invariant: a recorded call is given once. A call that finds none is refused with an error that names the site, what is
left, and the next step; it is never answered by a guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from clearstone.callers import line_of
from clearstone.errors import ReplayError, UnservableOutcome
from clearstone.replay import arguments, divergence, outcomes
from clearstone.replay.lines import quoted
from clearstone.run import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearstone.callers import Place
    from clearstone.replay.ledger import Verdict
    from clearstone.replay.recorded import RecordedCalls
    from clearstone.run import BoundCall
    from clearstone.span import Span, Trace


class Made(NamedTuple):
    """A call that is made in a replay.

    Args:
        call: the call.
        step: the id of the recorded step that it is made in; empty where that is not known.
        number: the how-manieth of its site it is.
        place: where it is made.
    """

    call: BoundCall
    step: str
    number: int
    place: Place

    @property
    def line(self) -> str:
        """``file:line`` of the code that makes it; empty where none is known."""
        return line_of(self.place)


class Served(NamedTuple):
    """What a call is answered with.

    Args:
        answer: the outcome.
        span: the recorded call it is of; None where there is none.
        verdict: how it was found.
        told: what is to be said of it.
        refusal: why it is not answered, although it was found.
        is_instead: whether something else is given than was recorded.
    """

    answer: Answer
    span: Span | None
    verdict: Verdict
    told: tuple[str, ...] = ()
    refusal: ReplayError | None = None
    is_instead: bool = False


class Book(Protocol):
    """Recorded calls, given out one by one, to any thread."""

    def answer(self, made: Made) -> Served:
        """Return the outcome recorded for a call.

        Raises:
            ReplayError: there is none, or it cannot be served.
        """

    def attempted(self, made: Made) -> None:
        """Count a call that is not answered, because an earlier one was refused."""

    def block(self, name: str, span_type: str) -> None:
        """A hand-written span of a served type is entered, whose body will run.

        Raises:
            ReplayError: nothing would answer the calls in it.
        """

    def left(self) -> list[Span]:
        """Return the recorded calls that it could still give."""


class InferredBook:
    """Answers decorated calls from the record, by site, arguments and step.

    Args:
        record: the recorded calls.
        strict: whether other arguments than any recorded call's are refused; else the next one of the site is given.
        changes: says in one line what of the code, or about it, has changed since.
        quoted_then: gives the source of a recorded line, behind a colon.
    """

    def __init__(
        self,
        record: RecordedCalls,
        *,
        strict: bool = True,
        changes: Callable[[], str] = str,
        quoted_then: Callable[[str], str] = quoted,
    ) -> None:
        self._record = record
        self._strict = strict
        self._changes = changes
        self._quoted_then = quoted_then

    def answer(self, made: Made) -> Served:
        """Return the outcome recorded for a call (see `Book.answer`)."""
        found = self._record.take(made.call, made.step)
        verdict: Verdict = "reused"
        told: tuple[str, ...] = ()
        if found is not None:
            span = found.span
            if not found.is_exact:
                verdict, told = "reused by order", ("some of its arguments are known by their types alone",)
        else:
            span = self._next(made)
            verdict, told = "reused by order", tuple(arguments.told_differences(span, made.call))
        if span.outcome is None:
            return Served(Answer(), span, "interrupted", ("the record ends while it runs",))
        try:
            return Served(outcomes.answer(span.outcome, span.attributes), span, verdict, told)
        except UnservableOutcome as error:
            return Served(Answer(), span, "diverged", (str(error),), error)

    def attempted(self, made: Made) -> None:
        """Nothing to count: the ledger does (see `Book.attempted`)."""

    def block(self, name: str, span_type: str) -> None:
        """Refuse: the body of a hand-written span cannot be skipped (see `Book.block`)."""
        raise ReplayError(
            f"the hand-written span {name!r} (type {span_type!r}) would run its body live. Decorate the call in it "
            f"with @traced(span_type={span_type!r}), or name its target: mock_config={{{span_type!r}: 'module.name'}}"
        )

    def left(self) -> list[Span]:
        """Return the outside calls that were not given (see `Book.left`)."""
        return [span for span in self._record.all_left() if span.replay == "serve"]

    def _next(self, made: Made) -> Span:
        """Return the next recorded call of the site, whatever its arguments.

        Raises:
            ReplayError: there is none, or arguments must be the same.
        """
        if self._strict:
            raise divergence.refusal(made, self._record, self._changes(), self._quoted_then)
        span = self._record.take_next(made.call.site.key, made.step)
        if span is None:
            raise divergence.refusal(made, self._record, self._changes(), self._quoted_then)
        return span


def config(trace: Trace) -> dict[str, list[str]]:
    """Return the mock configuration that a record stands for: span type to targets, in the order of their calls."""
    found: dict[str, dict[str, None]] = {}
    for span in served(trace):
        found.setdefault(span.span_type, {})[span.site.replace(":", ".", 1)] = None
    return {span_type: list(targets) for span_type, targets in found.items()}


def served(trace: Trace) -> list[Span]:
    """Return the calls that a replay of unchanged code answers."""
    return [span for span in outcomes.outermost_served(trace) if span.outcome is not None and span.site]
