"""What if: a replay with one thing changed, recorded as a trace of its own.

Idea: a fork is a replay up to its change. Each call goes to both halves: the replay answers it or lets it run again,
and a recording Run keeps what became of it, so that the fork can be shown, compared, replayed and forked itself. With
``then="live"`` the replay ends at the change: calls from there on are made for real, on the real clock, and recorded.

Invariant: nothing goes out before the change; what a served call gave is recorded as it was given, at its time.

Refused: answering equal calls from the record after the change (a model named in the state is no argument: the old
model's answers would pass for the new one's).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clearstone import nondet, run
from clearstone.callers import place_here
from clearstone.errors import BeyondRecord, ConfigurationError, ReplayDivergence, ReplayError, ReplayExhausted
from clearstone.forked import ForkedCall, RecordedPace
from clearstone.record import looks
from clearstone.record.live_span import LiveSpan
from clearstone.record.recording import RecordedCall
from clearstone.replay.engine import Replay, ServedCall
from clearstone.replay.match import Served
from clearstone.run import PASSING, BoundCall, Suspended
from clearstone.span import FORK_CHANGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.replay.changes import Changes
    from clearstone.replay.guard import Guard
    from clearstone.replay.ledger import Ledger
    from clearstone.replay.match import Book, Made
    from clearstone.run import Answer, OpenCall
    from clearstone.span import Span

INSTEAD = "its response is another one in this fork"


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork that has run.

    Args:
        name: its name.
        trace_id: its own trace.
        parent: the trace it comes from.
        result: what the call gave; None where it raised.
        error: what the call raised, or the replay refused; None where it gave something.
        changes: what was changed, a line each.
        ledger: what became of every call; those made for real are ``live``.
        agent: the agent afterwards; None for a function.
        notes: what a reader should know.
        checkpoint: the id of the checkpoint that was saved when it failed; empty where none was.
    """

    name: str
    trace_id: str
    parent: str
    result: Any
    error: BaseException | None
    changes: tuple[str, ...]
    ledger: Ledger = field(repr=False)
    agent: Any = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    checkpoint: str = ""


class _GoesLive(BaseException):
    """Leaves the replay of a call that is to be made for real. No `Exception`: `begin` alone may catch it."""


class ForkedReplay(Replay):
    """Replays, records, and goes live where it is told to (see `Replay`).

    Args:
        *args: see `Replay`.
        root: the first span of the fork's own trace.
        changes: what is changed.
        checkpoint: what it is a fork of.
        **options: see `Replay`.
    """

    def __init__(self, *args: Any, root: LiveSpan, changes: Changes, checkpoint: Checkpoint, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fork_of, self.environment = checkpoint.checkpoint_id, checkpoint.environment
        """What its own checkpoints say: what they come from, and the script they are of."""

        self._root = root
        self._recording = root.tracer.recording
        self.changes = changes
        self.agent: Any = None
        self.is_live = False
        self.told: list[str] = []
        """What was changed."""

        self.awaited = {changes.at, *changes.responses} - {""}
        """Recorded calls that something is to be changed at, and that were not come to. Past the last of them a
        fork goes live, if it is to."""

    def begin(self, *given: Any) -> OpenCall:
        """Answer a call, let it run again, or make it, and record it (see `Replay.begin`)."""
        replayed: OpenCall | None = None
        bound = BoundCall(*given)
        place = bound.place or place_here()  # neither half is called by who makes the call
        given = (bound.site, bound.instance, bound.args, bound.kwargs, bound.streams, place)
        if not self.is_live:
            try:
                replayed = super().begin(*given)
            except _GoesLive:
                self.go_live()
            if replayed is PASSING:
                return replayed
        if replayed is None and bound.site.replay == "serve":
            self._enter(self.made(BoundCall(*given)), None, "live")
        with nondet.real_entropy():
            call: Any = self._recording.begin(*given)
        if not isinstance(call, RecordedCall):  # the recorder had a fault
            return replayed if replayed is not None else call
        if replayed is not None and replayed.answer is not None:
            pace = RecordedPace(replayed.answer, call)
            return ServedCall(replayed.answer._replace(chunks=pace.items(), pace=pace))
        call.__class__ = ForkedCall  # made by a recorder that knows nothing of forks, and is to be the current span
        call.replay, call.inside = self, replayed
        return call  # type: ignore[no-any-return]  # of a class that it was not made of

    def above(self) -> Any:
        """Return the call of this replay that the context is in (see `Replay.above`)."""
        current: Any = run.current_span.get()
        while isinstance(current, LiveSpan) and not isinstance(current, RecordedCall) and current.parent is not None:
            current = current.parent  # a hand-written span
        return current.inside if isinstance(current, ForkedCall) and current.inside is not None else current

    def span(self, name: str, span_type: str) -> LiveSpan:
        """Return a hand-written span of the fork (see `clearstone.record.tracer.Tracer.span`).

        Raises:
            ReplayError: its body would go out live before the fork does.
        """
        if not self.is_live:
            self.entering(name, span_type)
        above = run.current_span.get()
        return LiveSpan(self._root.tracer, name, span_type, above if isinstance(above, LiveSpan) else self._root)

    def comes_to(self, span: Span) -> None:
        """Change the state where that is to be done (see `Replay.comes_to`)."""
        if span.span_id == self.changes.at and span.span_id in self.awaited:
            self.awaited.discard(span.span_id)
            try:
                self.change_state()
            except Exception as error:  # in the middle of the user's code, which might swallow it
                told = str(error) if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {error}"
                raise self.latch(ReplayError(f"the state was not changed at {span.name}: {told}")) from error
            if self.goes_live:
                raise _GoesLive

    def unanswered(self, made: Made, error: ReplayError) -> ReplayError:
        """Make a call for real that the record has no answer for, where that is to be (see `Replay.unanswered`)."""
        if self.changes.then == "live" and isinstance(error, ReplayDivergence | BeyondRecord | ReplayExhausted):
            raise _GoesLive from None
        return super().unanswered(made, error)

    def ended_by_nobody(self, made: Made, span: Span, given: Answer) -> BaseException:
        """Say that a call has no answer in this fork: it may be the change that keeps others from cancelling it."""
        if given.error is None:
            return super().ended_by_nobody(made, span, given)
        return self.no_answer(made, span, "was cancelled when it was recorded, and nobody cancels it now")

    def change_state(self) -> None:
        """Change the agent, under the guard. What served calls did to what was changed is not done over it."""
        change = self.changes.state
        if change is not None:
            before = looks.look(self.agent)
            with run.overriding(_Guarded(self.guard)):
                self.tell(change.make(self.agent))
            self._effects.keep(self.agent, change.attributes | looks.changed_since(before, self.agent))

    def tell(self, changes: Iterable[str]) -> None:
        """Say what was changed, a line each: also to who looks at the fork while it runs, as a checkpoint does."""
        self.told += changes
        self._root.set_attribute(FORK_CHANGES, self.told)

    @property
    def goes_live(self) -> bool:
        """Whether all that was to be changed is, and the rest is to be made for real."""
        return self.changes.then == "live" and not self.awaited

    def go_live(self) -> None:
        """Make every call from now on for real, on the real clock; what is open goes on to its recorded end."""
        with self._lock:
            if self.is_live:
                return
            self.is_live = True
        self.guard.allow |= {"network", "subprocess"}
        jump = nondet.go_live()
        for span in run.open_spans():  # their time has gone on with the wall clock
            if isinstance(span, LiveSpan) and span.trace == self._root.trace:
                span.started -= jump

    def with_responses(self, book: Book) -> Book:
        """Return a book that gives the changed responses."""
        return _ChangedBook(book, self, self.changes)


class _Guarded(Suspended):
    """Decorated calls pass unrecorded, and what goes out is refused."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard


class _ChangedBook:
    """Gives other responses than the recorded ones, and leaves to live calls what it cannot answer."""

    def __init__(self, book: Book, fork: ForkedReplay, changes: Changes) -> None:
        self._book = book
        self._fork = fork
        self._changes = changes
        self.attempted, self.block, self.left = book.attempted, book.block, book.left

    def answer(self, made: Made) -> Served:
        """Return the outcome of a call (see `Book.answer`)."""
        served = self._book.answer(made)
        span = served.span
        if span is None or span.span_id not in self._changes.responses:
            if self._changes.then == "live" and (served.refusal is not None or (span and span.outcome is None)):
                raise _GoesLive
            return served
        self._fork.awaited.discard(span.span_id)
        try:
            with run.overriding(_Guarded(self._fork.guard)):  # a function of the user's may make it
                answer, told = self._changes.response(span.span_id, served.answer, made.call)
        except ConfigurationError as error:
            raise ReplayError(str(error)) from None
        self._fork.tell(told)
        if self._fork.goes_live:
            self._fork.go_live()
        return Served(answer, span, "changed", (INSTEAD,), is_instead=True)
