"""Decorated calls that run again in a replay: where the calls below them are looked for, and compared at their end.

Idea: a step is the current span while its code runs, so it follows tasks and threads as a recorded span does. When it
has ended, what it gave is compared with what was recorded: a difference is no error, it is what the user came to see.

Invariant: nothing that a step's code does is changed by it, and no value is kept longer than the comparison takes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from clearstone.codec import inert, payload, show
from clearstone.codec.exceptions import dump_exception, load_exception
from clearstone.codec.payload import safe_repr
from clearstone.codec.renames import todays_dotted
from clearstone.errors import ReplayError
from clearstone.replay.compare import difference, dotted_name, is_known_as
from clearstone.replay.values import Played, kept_of
from clearstone.run import PassingCall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clearstone.nondet.drawn import Draws
    from clearstone.replay.engine import Replay
    from clearstone.replay.match import Made
    from clearstone.run import Run, StreamKind
    from clearstone.span import Outcome, Payload, Span


class Inside(PassingCall):
    """A call of a replay whose code runs: the current span of it, as far as a replay asks (`clearstone.run.SpanAbove`).

    No other process is told of it: `clearstone.processes` carries nothing of a replay.

    Args:
        replay: what it belongs to.
    """

    is_span = True
    is_live = inherited = in_boundary = False
    number = 0
    trace_id, span_id, parent = "0" * 32, "0" * 16, None

    def __init__(self, replay: Replay) -> None:
        self.replay = replay

    @property
    def recording(self) -> Run:
        """Nothing in a replay is recorded."""
        return self.replay

    def draws(self) -> Draws:
        """Return what plays what was drawn in it."""
        return self.replay.draws


class LiveCall(Inside):
    """A call that is made for real: the guard leaves it alone."""

    is_live = True


class Step(Inside):
    """A call that runs again, compared with the recorded one.

    Args:
        replay: what it belongs to.
        made: the call; its step is where the calls below it are looked for, where it has no recorded call of its own.
        span: the recorded call that it is; None where the record has none.
        told: what is different already.
        above: the step above it; None for the first.
    """

    def __init__(
        self, replay: Replay, made: Made, span: Span | None, told: Sequence[str], *, above: Step | None = None
    ) -> None:
        super().__init__(replay)
        self.is_first = above is None
        self.made = made
        self.span = span
        self.recorded = span.span_id if span is not None else made.step
        self._chunks = 0
        self._told = list(told)
        kept = kept_of(span)
        self.is_late = replay.values.enter(kept)
        self._draws = above.draws() if span is None and above is not None else Played(replay.values, kept)

    def draws(self) -> Draws:
        """Return what plays what was drawn in it, or in the step above where the record has no such step."""
        return self._draws

    def streaming(self, _: StreamKind) -> bool:
        """Follow a stream that was followed then."""
        return self._outcome is not None and self._outcome.kind == "streamed"

    def awaiting(self) -> bool:
        """Follow what is awaited."""
        return True

    def chunk(self, value: Any) -> None:
        """Compare an item of a stream with the one at its place."""
        number, self._chunks = self._chunks, self._chunks + 1
        chunks = self._outcome.chunks if self._outcome is not None else ()
        if self._told or self.span is None:
            return
        if number < len(chunks):
            self._compare(f"item {number}", chunks[number].value, value)
        else:
            self._told.append(f"it gave {len(chunks)} items, now more")

    def returned(self, value: Any) -> None:
        """Compare what it gave."""
        outcome = self._outcome
        if outcome is not None and outcome.value is not None and outcome.failure is None:
            self._compare("returned", outcome.value, value)
        elif outcome is not None:
            self._told.append(f"{_told(outcome)}, now returned {safe_repr(value)}")
        self._fewer_items()
        self._end()

    def raised(self, error: BaseException) -> None:
        """Compare what it raised."""
        if self.replay.refusal is not None:
            self.replay.ended(self, "interrupted", ["the replay was stopped in it"])
            return
        outcome = self._outcome
        if outcome is not None and outcome.failure is not None:
            failure = outcome.failure
            message = dump_exception(error).message
            with self.replay.loading():
                is_known = failure.message == message and is_known_as(type(error), failure.type_name)
            if is_known:
                self._differs("raised", lambda: _inside(load_exception(failure)), _inside(error))
            else:
                self._told.append(f"{_told(outcome)}, now raised {dotted_name(type(error))}: {message}")
        elif outcome is not None:
            self._told.append(f"{_told(outcome)}, now raised {safe_repr(error)}")
        self._end()

    def closed(self) -> None:
        """Its consumer is done with it."""
        if self._outcome is not None and self._outcome.complete:
            self._told.append("its consumer read all of it, and now stopped before the end")
        self._end()

    @property
    def _outcome(self) -> Outcome | None:
        return self.span.outcome if self.span is not None else None

    def _compare(self, what: str, recorded: Payload, now: Any) -> None:
        if recorded.codec == "stand-in":  # it did not pickle: it is known by its type
            with self.replay.loading():
                then = todays_dotted(json.loads(recorded.data)["type"])
                is_known = is_known_as(type(now), then)
            if not is_known:
                self._told.append(f"{what}: recorded a {then}, now {safe_repr(now)}")
            return
        self._differs(what, lambda: payload.load(recorded), now)

    def _differs(self, what: str, recorded: Callable[[], Any], now: Any) -> None:
        try:
            with self.replay.loading():
                found = difference(recorded(), now)
        except ReplayError as error:
            self._told.append(f"{what}: cannot be compared: {error}")
            return
        if found is not None:
            self._told.append(f"{what}{found.path and ' ' + found.path}: recorded {found.recorded}, now {found.now}")

    def _fewer_items(self) -> None:
        outcome = self._outcome
        if outcome is not None and outcome.kind == "streamed" and self._chunks < len(outcome.chunks):
            self._told.append(f"it gave {len(outcome.chunks)} items, now {self._chunks}")

    def _end(self) -> None:
        if self.span is not None and self.span.outcome is None:
            self.replay.ended(self, "interrupted", ["the record ends in it"])
        else:
            self.replay.ended(self, "changed" if self._told or self.span is None else "again", self._told)


def _inside(error: BaseException) -> dict[str, Any]:
    """Return what an exception holds, by name."""
    return {"args": error.args, **vars(error)}


def _told(outcome: Outcome) -> str:
    if outcome.failure is not None:
        return f"raised {outcome.failure.type_name}: {outcome.failure.message}"
    if outcome.value is None:
        return "recorded nothing that it returned"
    return f"returned {show.render(inert.read(outcome.value.data, buffers=outcome.value.buffers), width=60)}"
