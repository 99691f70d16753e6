"""What if: a replay with one thing changed, recorded as a trace of its own.

Idea: a fork is a replay up to its change. Each call goes to both halves: the replay answers it or lets it run again,
and a recording Run keeps what became of it, so that the fork can be shown, compared, replayed and forked itself. With
``then="live"`` the replay ends at the change: calls from there on are made for real, on the real clock, and recorded.

Invariant: nothing goes out before the change; what a served call gave is recorded as it was given, at its time.

Refused: answering equal calls from the record after the change (a model named in the state is no argument: the old
model's answers would pass for the new one's).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from clearstone import nondet, run
from clearstone.callers import place_here
from clearstone.codec.payload import safe_repr
from clearstone.errors import BeyondRecord, ConfigurationError, ReplayDivergence, ReplayError, ReplayExhausted
from clearstone.record.live_span import LiveSpan
from clearstone.record.recording import RecordedCall
from clearstone.replay.engine import Replay, ServedCall
from clearstone.replay.match import Served
from clearstone.replay.steps import Step
from clearstone.run import PASSING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from clearstone.callers import Place as CallPlace
    from clearstone.nondet.drawn import Draws, Kind, Log
    from clearstone.replay.ledger import Ledger
    from clearstone.replay.match import Book, Made
    from clearstone.replay.places import Place
    from clearstone.run import Answer, BoundCall, OpenCall, Pace, Run, StreamKind
    from clearstone.span import Site, Span

Then = Literal["recorded", "live"]

CHECKPOINT, AT, THEN, CHANGES = (f"clearstone.fork.{what}" for what in ("checkpoint", "at", "then", "changes"))
"""Attributes of a fork's first span, beside `FORK_PARENT`: the checkpoint it comes from, where it was changed, how it
went on, and what was changed, a line each."""


@dataclass(frozen=True, slots=True)
class Response:
    """Another response than the recorded one.

    Args:
        value: what the call gives: an exception is raised, a function is called with the call's arguments; of a stream
            the list of its items.
        name: how the user names the call.
        place: of the recorded value only this place is changed; None for all of it.
        like: turns `value` into what can stand for the recorded one; None to take it as it is.
    """

    value: Any
    name: str = ""
    place: Place | None = None
    like: Callable[[Any, Any], Any] | None = None

    @property
    def is_function(self) -> bool:
        """Whether it is made when the call is."""
        return self.place is None and callable(self.value) and not isinstance(self.value, type)

    def given(self, recorded: Answer, call: BoundCall | None = None) -> tuple[Answer, str]:
        """Return the answer to a call, and what is another one in it, in a line.

        Args:
            recorded: what the record answers.
            call: the call; None where the response is no function.

        Raises:
            ConfigurationError: the value cannot stand there.
        """
        bare, value = replace(recorded, error=None, pending=None), self.value
        if self.place is not None:
            return bare, self.place.put(recorded.value, value)
        if self.is_function and call is not None:
            try:
                value = value(*call.args, **call.kwargs)
            except Exception as error:
                value = error
        told = f"{self.name}: {safe_repr(value)}"
        if isinstance(value, BaseException):
            return replace(bare, error=value, chunks=None if recorded.chunks is None else []), told
        if recorded.chunks is None:
            return replace(bare, value=self.like(recorded.value, value) if self.like is not None else value), told
        if not isinstance(value, list | tuple):
            raise ConfigurationError(f"{self.name} is a stream; give a list of its items, not {value!r}")
        return replace(bare, chunks=list(value), complete=True), told


@dataclass(frozen=True, slots=True)
class Changes:
    """What a fork changes, and how it goes on.

    Args:
        state: changes the agent; returns what it did, a line each. None changes nothing.
        responses: other responses, by the ids of the recorded calls.
        arguments: whether the call is made with other arguments.
        at: the id of the recorded call at whose beginning the state is changed; empty for the beginning of all.
        then: ``"recorded"`` to be answered from the record to the end, ``"live"`` to make the calls past the change.
    """

    state: Callable[[Any], Iterable[str]] | None = None
    responses: Mapping[str, Response] = field(default_factory=dict)
    arguments: bool = False
    at: str = ""
    then: Then = "recorded"

    def __post_init__(self) -> None:
        if self.then not in get_args(Then):
            raise ConfigurationError(f"then={self.then!r} is neither 'recorded' nor 'live'")


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


class _GoesLive(BaseException):
    """Leaves the replay of a call that is to be made for real. No `Exception`: `begin` alone may catch it."""


class ForkedReplay(Replay):
    """Replays, records, and goes live where it is told to (see `Replay`).

    Args:
        *args: see `Replay`.
        recording: where the fork is recorded.
        changes: what is changed.
        **options: see `Replay`.
    """

    def __init__(self, *args: Any, recording: Run, changes: Changes, **options: Any) -> None:
        super().__init__(*args, **options)
        self._recording = recording
        self._changes = changes
        self.agent: Any = None
        self.is_live = False
        self.told: list[str] = []
        """What was changed."""

        self.awaited = {changes.at, *changes.responses} - {""}
        """Recorded calls that something is to be changed at, and that were not come to."""

    def begin(  # noqa: PLR0917 - as `run.Run`
        self,
        site: Site,
        instance: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        streams: bool = False,
        place: CallPlace | None = None,
        /,
    ) -> OpenCall:
        """Answer a call, let it run again, or make it, and record it (see `Replay.begin`)."""
        replayed: OpenCall | None = None
        place = place or place_here()  # neither half is called by who makes the call
        if not self.is_live:
            try:
                replayed = super().begin(site, instance, args, kwargs, streams, place)
            except _GoesLive:
                self.go_live()
            if replayed is PASSING:
                return replayed
        if replayed is None and site.replay == "serve":
            self._enter(self.made(run.BoundCall(site, instance, args, kwargs, streams, place)), None, "live")
        with nondet.real_entropy():
            call: Any = self._recording.begin(site, instance, args, kwargs, streams, place)
        if not isinstance(call, RecordedCall):  # the recorder had a fault
            return replayed if replayed is not None else call
        if replayed is not None and replayed.answer is not None:
            pace = _RecordedPace(replayed.answer, call)
            return ServedCall(replace(replayed.answer, chunks=pace.items(), pace=pace))
        call.__class__ = ForkedCall  # made by a recorder that knows nothing of forks, and is to be the current span
        call.inside = replayed
        return call  # type: ignore[no-any-return]  # of a class that it was not made of

    def above(self) -> Any:
        """Return the call of this replay that the context is in (see `Replay.above`)."""
        current = run.current_span.get()
        return current.inside if isinstance(current, ForkedCall) and current.inside is not None else current

    def comes_to(self, span: Span) -> None:
        """Change the state where that is to be done (see `Replay.comes_to`)."""
        if span.span_id == self._changes.at and span.span_id in self.awaited:
            self.awaited.discard(span.span_id)
            try:
                self.change_state()
            except ConfigurationError as error:  # in the middle of the user's code, which might swallow it
                raise self.latch(ReplayError(str(error))) from None
            if self._changes.then == "live":
                raise _GoesLive

    def unanswered(self, made: Made, error: ReplayError) -> ReplayError:
        """Make a call for real that the record has no answer for, where that is to be (see `Replay.unanswered`)."""
        if self._changes.then == "live" and isinstance(error, ReplayDivergence | BeyondRecord | ReplayExhausted):
            raise _GoesLive from None
        return super().unanswered(made, error)

    def change_state(self) -> None:
        """Change the agent."""
        if self._changes.state is not None:
            with run.suspended():
                self.told += self._changes.state(self.agent)

    def go_live(self) -> None:
        """Make every call from now on for real, on the real clock; what is open goes on to its recorded end."""
        with self._lock:
            if self.is_live:
                return
            self.is_live = True
        self.guard.allow |= {"network", "subprocess"}
        jump = nondet.go_live()
        for span in run.open_spans():  # their time has gone on with the wall clock
            if isinstance(span, LiveSpan) and span.tracer.recording is self._recording:
                span.started -= jump

    def with_responses(self, book: Book) -> Book:
        """Return a book that gives the changed responses."""
        return _ChangedBook(book, self, self._changes)


class _ChangedBook:
    """Gives other responses than the recorded ones, and leaves to live calls what it cannot answer."""

    def __init__(self, book: Book, fork: ForkedReplay, changes: Changes) -> None:
        self._book = book
        self._fork = fork
        self._changes = changes
        self.attempted, self.block, self.left = book.attempted, book.block, book.left

    def answer(self, made: Made) -> Served:
        """Return the outcome of a call (see `Book.answer`)."""
        served, live = self._book.answer(made), self._changes.then == "live"
        response = self._changes.responses.get(served.span.span_id) if served.span is not None else None
        if response is None or served.span is None:
            if live and (served.refusal is not None or served.answer.pending is not None):
                raise _GoesLive
            return served
        self._fork.awaited.discard(served.span.span_id)
        try:
            answer, told = response.given(served.answer, made.call)
        except ConfigurationError as error:
            raise ReplayError(str(error)) from None
        self._fork.told.append(told)
        if live:
            self._fork.go_live()
        return Served(answer, served.span, "changed", ("its response is another one in this fork",))


class ForkedCall(RecordedCall):
    """A call of a fork that runs: recorded, and compared with the recorded one where it is a step of the replay.

    `inside` is what the replay has opened for it; None for a live call.
    """

    inside: OpenCall | None = None
    _follows = True

    @property
    def is_live(self) -> bool:
        """Whether the guard leaves it alone."""
        return bool(getattr(self.inside, "is_live", False))

    def draws(self) -> Any:
        """Return what plays what was drawn in it, and keeps it where this fork's recorder does."""
        log, step = super().draws(), self.inside
        if not isinstance(step, Step) or getattr(step.replay, "is_live", False):
            return log
        return step.draws() if log is None else _PlayedAndKept(step.draws(), log)

    def streaming(self, kind: StreamKind) -> bool:
        """Expect the items of a stream."""
        self._follows = self.inside is not None and self.inside.streaming(kind)
        return super().streaming(kind)

    def awaiting(self) -> bool:
        """Expect what the awaitable gives."""
        return super().awaiting()

    def chunk(self, value: Any) -> None:
        """Compare and record an item."""
        if self.inside is not None and self._follows:
            self.inside.chunk(value)
        super().chunk(value)

    def returned(self, value: Any) -> None:
        """Compare and record what it gave."""
        if self.inside is not None:
            self.inside.returned(value)
        with nondet.real_entropy():
            super().returned(value)

    def raised(self, error: BaseException) -> None:
        """Compare and record what it raised."""
        if self.inside is not None:
            self.inside.raised(error)
        if isinstance(error, ReplayError):
            self.entry = None  # the replay was stopped: no failure of the agent's, to make a checkpoint of
        with nondet.real_entropy():  # a checkpoint is made here, whose id must be a new one
            super().raised(error)

    def closed(self) -> None:
        """Record that its consumer is done with it."""
        if self.inside is not None:
            self.inside.closed()
        with nondet.real_entropy():
            super().closed()


class _PlayedAndKept:
    """Plays what was drawn, and keeps it once more (see `clearstone.nondet.drawn.Draws`)."""

    def __init__(self, played: Draws, log: Log) -> None:
        self._played = played
        self._log = log
        self.kinds = played.kinds

    def drawn(self, kind: Kind, source: str, make: Callable[[], Any]) -> Any:
        """Return the next value of a source."""
        play = partial(self._played.drawn, kind, source, make)
        return self._log.drawn(kind, source, play) if kind in self._log.kinds else play()


class _RecordedPace:
    """The end of a served call, told to its record (see `clearstone.run.Pace`).

    Args:
        answer: what is given; its items are to be read through `items`.
        call: the record.
    """

    def __init__(self, answer: Answer, call: RecordedCall) -> None:
        self._answer = answer
        self._call = call
        self._pace: Pace | None = answer.pace
        self._items: deque[Any] = deque()
        self._is_read = self._has_ended = False
        if answer.awaited:
            call.awaiting()

    def items(self) -> Iterator[Any] | None:
        """Give the items of the answer, noting that they will be given."""
        return self._noted(self._answer.chunks) if self._answer.chunks is not None else None

    def _noted(self, items: Iterable[Any]) -> Iterator[Any]:
        try:
            for item in items:
                self._items.append(item)
                yield item
        except Exception as error:  # the record ends before its consumer does
            self._end(error)
            raise
        self._is_read = True

    def at_once(self) -> None:
        """End a call that nobody awaits."""
        if self._pace is not None:
            self._pace.at_once()
        self._end_but_streams()

    async def later(self) -> None:
        """End a call that is awaited."""
        try:
            if self._pace is not None:
                await self._pace.later()
        except BaseException as error:
            self._end(error)
            raise
        self._end_but_streams()

    def opened(self) -> None:
        """Begin to read a stream."""
        if self._call.chunks is None:  # no generator's
            self._call.streaming(self._answer.stream)
        if self._pace is not None:
            self._pace.opened()

    def read(self, items: Iterable[Any]) -> Iterator[Any]:
        """Give the items of a stream, and record each when it is given."""
        self.opened()
        try:
            for item in self._pace.read(items) if self._pace is not None else items:
                self._call.chunk(self._items.popleft())
                yield item
        finally:
            self.finish()

    async def come(self) -> None:
        """Wait for the time of the next item, and record it."""
        if self._pace is not None:
            await self._pace.come()
        self._call.chunk(self._items.popleft())

    def finish(self) -> None:
        """End a stream here, or a call that was cancelled, or had not ended when the record did."""
        if self._pace is not None:
            self._pace.finish()
        answer = self._answer
        if answer.pending is not None or (answer.chunks is None and answer.error is not None):
            self._end(answer.error or asyncio.CancelledError())
        elif answer.chunks is not None and not self._is_read:
            self._end(GeneratorExit())
        else:
            self._end(answer.error)

    def _end_but_streams(self) -> None:
        if self._answer.chunks is None:
            self._end(self._answer.error)

    def _end(self, error: BaseException | None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        with nondet.real_entropy():
            if isinstance(error, GeneratorExit):
                self._call.closed()
            elif error is not None:
                self._call.raised(error)
            else:
                self._call.returned(self._answer.value)
