"""One call of a fork: what the replay makes of it, and its record (see `clearstone.whatif`).

Idea: a call that runs is a recorded call that also tells the replay's step what becomes of it. A call that is answered
does not run: its record is told of each item and of the end when those are given.

Invariant: a record says what was given, when it was given; where a refusal has ended the replay, no failure of the
agent's is told, whatever the user's code has made of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from clearstone import nondet
from clearstone.record.recording import RecordedCall
from clearstone.replay.steps import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

    from clearstone.nondet.drawn import Draws, Kind, Log
    from clearstone.replay.engine import Replay
    from clearstone.run import Answer, OpenCall, Pace, StreamKind


class ForkedCall(RecordedCall):
    """A call of a fork that runs: recorded, and compared with the recorded one where it is a step of the replay.

    `replay` is what it belongs to, `inside` what that has opened for it; None for a live call.
    """

    replay: Replay
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
        if self.replay.refusal is not None:
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


class RecordedPace:
    """How a served call ends, told to its record (see `clearstone.run.Pace`).

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
        if self._pace is not None:
            await self._waited(self._pace.later())
        self._end_but_streams()

    async def forever(self) -> None:
        """Wait for others to end it."""
        if self._pace is not None:
            await self._waited(self._pace.forever())
        if self._answer.pending is not None:
            self._end(self._answer.pending())

    async def _waited(self, end: Coroutine[Any, Any, None]) -> None:
        try:
            await end
        except BaseException as error:  # it is cancelled
            self._end(error)
            raise

    def opened(self) -> None:
        """Begin to read a stream."""
        if self._pace is not None:
            self._pace.opened()
        if self._call.chunks is None:  # no generator's
            self._call.streaming(self._answer.stream)

    def read(self, items: Iterable[Any]) -> Iterator[Any]:
        """Give the items of a stream, and record each when it is given."""
        self.opened()
        try:
            for item in self._pace.read(items) if self._pace is not None else items:
                self._call.chunk(self._items.popleft())
                yield item
                self._call.resumed()
        finally:
            self.finish()

    async def come(self) -> None:
        """Wait for the time of the next item, and record it."""
        if self._call.chunks:
            self._call.resumed()
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
