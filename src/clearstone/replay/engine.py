"""`Replay`: the Run that answers. Nothing is recorded in it, and no served call goes out.

Idea: a call of a served site is answered by the book and entered in the ledger; one that runs again is a step
(`clearstone.replay.steps`), which says where the calls below it are looked for.

Invariant: the first refusal is latched. User code may swallow it (``except Exception``, a retry loop, `map`, `gather`
with ``return_exceptions``, a generator that turns StopIteration into RuntimeError): no later call is served, and
whoever drives the replay ends it with `refusal`.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from clearstone import nondet, run
from clearstone.callers import place_above, place_here
from clearstone.errors import BeyondRecord, ReplayError, ReplayExhausted
from clearstone.replay import arguments, outcomes, stopping
from clearstone.replay.effects import Doing, Effects
from clearstone.replay.guard import Guard
from clearstone.replay.ledger import TOLD, VERDICT, LedgerEntry, OpenLedger
from clearstone.replay.match import Made
from clearstone.replay.pace import Pace
from clearstone.replay.recorded import RecordedCalls
from clearstone.replay.steps import LiveCall, Step
from clearstone.replay.stopping import ReplayStopped, Stop
from clearstone.replay.turns import Turns
from clearstone.replay.values import Played, Values, kept_of
from clearstone.run import PASSING, Answer, BoundCall, OpenCall, PassingCall
from clearstone.span import Trace, replay_mode

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from clearstone.callers import Place
    from clearstone.nondet.drawn import Kept
    from clearstone.replay.ledger import Ledger, Verdict
    from clearstone.replay.match import Book, Served
    from clearstone.span import Site, Span


MOST_REFUSALS = 1000
"""After so many further calls the replay is ended: a retry loop would swallow refusals for ever."""


class ServedCall(PassingCall):
    """A call that was answered instead of made."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer  # type: ignore[assignment]  # None in a passing call


class Replay:
    """Answers served calls from a book and lets structural ones run again (see `clearstone.run.Run`).

    Args:
        loading: gives a context in which recorded code is found where it is today.
        trace: the recorded calls; without them no step is compared.
        permissions: what the guard allows and denies (see `clearstone.replay.guard.Guard`).
        passthrough: sites whose calls are made for real, as ``module:qualname`` or dotted.
        paced: whether the items of streams really take the time that they took.
    """

    def __init__(
        self,
        loading: Callable[[], contextlib.AbstractContextManager[None]],
        trace: Trace | None = None,
        *,
        permissions: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset()),
        passthrough: Iterable[str] = (),
        paced: bool = False,
    ) -> None:
        trace = trace if trace is not None else Trace("")
        self.loading = loading
        self._lock = threading.RLock()  # reentrant: the collector may end a step, or a signal handler call, in there
        self._effects = Effects()
        self._open: dict[int, Step] = {}
        self._ledger = OpenLedger()
        self._refusal: ReplayError | None = None
        self._refused = 0
        self.values = Values(trace)
        self.draws = Played(self.values)
        """For what is drawn outside of steps."""

        self.record = RecordedCalls(trace)
        self.book: Book | None = None
        self.guard = Guard(self.latch, *permissions)
        self.live = frozenset(each.replace(":", ".", 1) for each in passthrough)
        self.stop = stopping.current.get() or Stop()
        self.turns = Turns()
        """Those of the replays that are made within it."""
        self._paced = paced
        self.follows = paced
        """Whether the clock goes as it went then: a served call takes as long as it took."""

    @property
    def refusal(self) -> ReplayError | None:
        """The first refusal, if there was one."""
        return self._refusal

    def ledger(self) -> Ledger:
        """Return what became of every call so far."""
        for step in list(self._open.values()):
            self.ended(step, "interrupted", ["it had not ended when the replay did"])
        left = self.book.left() if self.book is not None else []
        left += [span for span in self.record.all_left() if span.replay == "run"]
        numbers, guard = self.record.numbers(), self.guard
        entries = [_left(span, numbers.get(span.span_id, 0)) for span in left]
        written, read = tuple(guard.written), tuple(guard.read)
        return self._ledger.closed(entries, written, read, self.values.told(follows=self.follows))

    # --- the calls of the user's code --------------------------------------------------------------------------------

    def begin(  # noqa: PLR0917 - see `Run`
        self,
        site: Site,
        instance: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        streams: bool = False,
        place: Place | None = None,
        /,
    ) -> OpenCall:
        """Answer a served call, let any other run again.

        Raises:
            ReplayError: a served call has no recorded outcome, or an earlier one had none.
        """
        call = BoundCall(site, instance, args, kwargs, streams, place or place_above(2))  # above what drives the call
        if getattr(self.above(), "is_live", False):  # what a live call calls is live too
            self._enter(self.made(call), None, "live")
            return LiveCall(self)
        if site.replay == "run":
            return self._again(call) if self.book is not None and run.override.get() is self else PASSING
        if self.live and site.target in self.live:
            return self._live(call)
        return ServedCall(self.serve(call))

    def serve(self, call: BoundCall) -> Answer:
        """Return the recorded outcome of `call`; raise as `begin` does."""
        book = self.book
        if book is None:
            raise ReplayError(f"{call.site.target} was called before the replay began")
        return self.answered(self.made(call), book.answer, book.attempted)

    def above(self) -> Any:
        """Return the call of this replay that the context is in, or what it is in else."""
        return run.current_span.get()

    def comes_to(self, span: Span) -> None:
        """A recorded call is about to be given, or to run again."""

    def made(self, call: BoundCall) -> Made:
        """Return a call with its number and its place; none any more where the replay is to end."""
        self.stop.heed()
        above = self.above()
        step = above.recorded if isinstance(above, Step) and above.replay is self else ""
        return Made(call, step, self._ledger.number(call.site.key), call.place or place_here())

    def answered(self, made: Made, find: Callable[[Made], Served], attempted: Callable[[Made], object]) -> Answer:
        """Return what `find` gives; a refusal of it, or an earlier one, is raised.

        Args:
            made: the call.
            find: finds the recorded outcome of a call.
            attempted: called with it instead where an earlier call was refused.

        Raises:
            ReplayError: the first refusal of this replay.
        """
        if self._refusal is not None:
            attempted(made)
            self._refuse_again(made, self._refusal)
        try:
            with self.loading():  # also in threads, which carry the replay and not this
                found = find(made)
        except ReplayError as error:
            raise self.unanswered(made, error) from None
        if found.span is not None:
            self.comes_to(found.span)
        entry = self._enter(made, found.span, found.verdict, found.told)
        if found.refusal is not None:
            raise self.latch(found.refusal) from None
        return found.answer if found.span is None else self._given(made, found, found.span, entry)

    def unanswered(self, made: Made, error: ReplayError) -> ReplayError:
        """Enter a call that nothing recorded answers; return what is raised for it."""
        self._enter(made, None, _verdict(error), (str(error).partition("\n")[0],))
        return self.latch(error)

    def _given(self, made: Made, found: Served, span: Span, entry: list[Any]) -> Answer:
        """Return an answer that ends as the recorded call did: at its time, with what it did to its object."""
        given, outcome = found.answer, span.outcome
        does = outcome is not None and outcome.effects is not None and span.site == made.call.site.key
        kept, is_ended = kept_of(span), outcomes.has_an_end(span)
        clock = nondet.current_clock.get() if self.follows and (is_ended or not found.is_instead) else None
        pending = partial(self.ended_by_nobody, made, span, given) if not is_ended and not found.is_instead else None
        if not does and kept is None and clock is None and given.chunks is None and pending is None:
            return given
        doing = Doing(self._effects, made.call, span) if does else None
        finish = partial(self._finish, doing, kept, entry) if does or kept is not None else None
        item = partial(self._done, entry, doing.item) if doing is not None else None
        chunks: Iterable[Any] | None = given.chunks
        if chunks is not None and not given.complete:
            chunks = self._up_to_the_end(chunks)
        wait = self.stop.sleep if self._paced else None
        pace = Pace(clock, span, finish, at_end=made.call.streams, wait=wait, item=item)
        return Answer(given.value, given.error, chunks, given.complete, given.stream, given.awaited, pending, pace)

    def ended_by_nobody(self, made: Made, span: Span, given: Answer) -> BaseException:
        """Return what is raised for a call that others had to end, where nobody does.

        What cancelled it may have been above all that is replayed: then it was cancelled, and is.
        """
        return given.error or self.no_answer(made, span, "had not returned when the record ended")

    def no_answer(self, made: Made, span: Span, then: str) -> ReplayError:
        """Latch that a call has no answer."""
        told = f"{made.call.site.target} {then} ({span.name}, {span.span_id}): there is nothing to answer it with."
        return self.latch(BeyondRecord(told))

    def _finish(self, doing: Doing | None, kept: Kept | None, entry: list[Any]) -> None:
        """Do what the recorded call did to the generators and to its object; say what of that could not be done."""
        self.values.leave(kept, in_late=getattr(self.above(), "is_late", False))
        if doing is not None:
            self._done(entry, doing.end)

    def _done(self, entry: list[Any], do: Callable[[], list[str]]) -> None:
        with self.loading():
            told = [each for each in do() if each not in entry[TOLD]]  # each step says what is not sure
        if told:
            entry[VERDICT] = "ambiguous" if entry[VERDICT] == "reused" else entry[VERDICT]
            entry[TOLD] = (*entry[TOLD], *told)

    def _refuse_again(self, made: Made, refusal: ReplayError) -> NoReturn:
        with self._lock:
            self._refused += 1
            too_often = self._refused > MOST_REFUSALS
        if too_often:
            raise ReplayStopped(str(refusal))
        self._enter(made, None, _verdict(refusal), ("refused: the replay had ended with the refusal before it",))
        raise refusal

    def _enter(self, made: Made, span: Span | None, verdict: Verdict, told: tuple[str, ...] = ()) -> list[Any]:
        site, span_id = made.call.site, span.span_id if span is not None else ""
        then = span.called_at if span is not None else ""
        return self._ledger.enter(verdict, site.key, site.span_type, made.number, span_id, made.place, then, told)

    def _up_to_the_end(self, chunks: Iterable[Any]) -> Iterator[Any]:
        yield from chunks
        raise self.latch(BeyondRecord("a stream was read past the place where its recorded consumer stopped"))

    def _live(self, call: BoundCall) -> LiveCall:
        """Let a call be made for real; the recorded one in its place is not come to any more."""
        made = self.made(call)
        with self.loading():
            found = self.record.take(call, made.step)
            span = found.span if found is not None else self.record.take_next(call.site.key, made.step)
        self._enter(made, span, "live")
        return LiveCall(self)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _again(self, call: BoundCall) -> Step:
        made = self.made(call)
        told: tuple[str, ...] = ()
        found = span = None
        try:
            with self.loading():
                found = self.record.take(call, made.step, runs=True)
                span = found.span if found is not None else self.record.take_next(call.site.key, made.step, runs=True)
        except ReplayError as error:  # what a record without secrets would hold of them does not load
            told = (f"its arguments cannot be compared: {error}",)
        if span is None:
            told = told or ("the record has no such step here",)
        elif found is None:
            with self.loading():
                told = tuple(f"its arguments: {each}" for each in arguments.told_differences(span, call))
        if span is not None:
            self.comes_to(span)
        above = self.above()
        step = Step(self, made, span, told, above=above if isinstance(above, Step) else None)
        self._open[id(step)] = step
        return step

    def ended(self, step: Step, verdict: Verdict, told: Sequence[str]) -> None:
        """Enter a step that has ended."""
        if self._open.pop(id(step), None) is None:
            return  # of a generator that somebody went on with after the replay
        if step.is_late:
            self.values.give_back()
        if step.span is not None:
            self.record.end(step.span.span_id)
        is_named = step.span is None and step.is_first  # the method that was asked for need not be in the record
        self._enter(step.made, step.span, "again" if is_named else verdict, tuple(told))

    # --- refusals ----------------------------------------------------------------------------------------------------

    def entering(self, name: str, span_type: str) -> None:
        """A hand-written span is entered; one of a served type may be refused.

        Raises:
            ReplayError: its body would go out live.
        """
        if self.book is not None and replay_mode(span_type) == "serve":
            try:
                self.book.block(name, span_type)
            except ReplayError as error:
                raise self.latch(error) from None

    def latch(self, error: ReplayError) -> ReplayError:
        """Keep the first refusal; return the one to raise."""
        with self._lock:
            if self._refusal is None:
                self._refusal = error
            return self._refusal


def _left(span: Span, number: int) -> LedgerEntry:
    verdict: Verdict = "unused" if span.outcome is not None else "interrupted"
    site = span.site or span.name
    return LedgerEntry(verdict, site, span.span_type, number, span.span_id, recorded_line=span.called_at)


def _verdict(error: ReplayError) -> Verdict:
    return "beyond" if isinstance(error, BeyondRecord | ReplayExhausted) else "diverged"
