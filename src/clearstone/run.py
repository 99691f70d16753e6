"""The hinge between a decorated call and whatever should become of it.

Idea: a decorator knows how to drive its kind of callable (sync, coroutine, generator, async generator) and nothing
else. What happens around the call is decided by a `Run`: `record.recording.Recording` proceeds and remembers,
`replay.engine.Replay` answers. Both are found through the context variables of this file, so neither half imports the
other.

Invariant: an override (a replay, or `SUSPENDED`) wins over every recorder, so no call inside a replay is ever recorded
as a new live one. Context variables follow tasks by themselves; `threads` and `processes` carry them further.

Refused: a ``proceed`` callback: it costs a closure and a second library frame per call in the user's traceback.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from clearstone.callers import Place
    from clearstone.span import Payload, Site, Span, Trace


StreamKind = Literal["iterator", "async iterator"]

STREAM, AWAITED, DRAWN, ITSELF = (f"clearstone.{each}" for each in ("stream", "awaited", "drawn", "cancelled_itself"))
"""Attributes of spans: their call returned a stream that is no generator, or an awaitable from a plain function; what
was drawn in it (see `clearstone.nondet.drawn`); nobody cancelled its task, though it raised CancelledError."""


class BoundCall(NamedTuple):
    """A call about to be made: the site, the object it is bound to (None for a function), and its arguments.

    `streams` says that it is a generator's, so that its outcome is a stream of chunks, `place` where it is made (None
    where that is known from the stack).
    """

    site: Site
    instance: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    streams: bool = False
    place: Place | None = None


class Pace(Protocol):
    """How a served call ends."""

    def read(self, items: Iterable[Any]) -> Iterator[Any]:
        """Give the items of a stream, which ends with them."""

    def opened(self) -> None:
        """An async stream is read; it ends with `finish`."""

    async def come(self) -> None:
        """Wait for the next item of an async stream."""

    def at_once(self) -> None:
        """End it: nobody awaits it."""

    async def later(self) -> None:
        """Wait for its end."""

    async def forever(self) -> None:
        """Wait to be cancelled; return where nobody is left who could do it."""

    def finish(self) -> None:
        """Do what is to be done at its end."""


class Answer(NamedTuple):
    """An outcome given instead of calling: `error` if set, else `chunks` as a stream if set, else `value`.

    For a stream `value` is what the generator returns, `error` is raised after the chunks, and `complete` is False
    where its consumer stopped reading before the end. `stream` says how a stream that is no generator's is read,
    `awaited` that a plain function gave an awaitable of it. `pending` gives what is raised where nobody ends a call
    that others have to: it was cancelled, or had not ended when the record did. `pace` is asked when it is to end.
    """

    value: Any = None
    error: BaseException | None = None
    chunks: Iterable[Any] | None = None
    complete: bool = True
    stream: StreamKind = "iterator"
    awaited: bool = False
    pending: Callable[[], BaseException] | None = None
    pace: Pace | None = None

    def failure(self) -> BaseException | None:
        """Return what is to be raised, if anything is."""
        return self.pending() if self.error is None and self.pending is not None else self.error


class OpenCall(Protocol):
    """One call in progress. The decorator reports to it; it never raises into the user's call."""

    @property
    def answer(self) -> Answer | None:
        """The outcome to give without calling; None means: proceed."""

    @property
    def is_span(self) -> bool:
        """Whether it is an open span, which is the current one while the call's code runs."""

    def streaming(self, kind: StreamKind) -> bool:
        """The call returned a stream that is read like this, and its chunks follow; False: nobody wants them."""

    def awaiting(self) -> bool:
        """The call returned an awaitable, and what it gives follows; False: nobody wants that."""

    def chunk(self, value: Any) -> None:
        """A stream yielded `value`."""

    def resumed(self) -> None:
        """Its consumer goes on with a generator that has yielded."""

    def returned(self, value: Any) -> None:
        """The call returned `value` (a generator: ended with it)."""

    def raised(self, error: BaseException) -> None:
        """The call raised `error`."""

    def closed(self) -> None:
        """The consumer closed the stream before its end, or never awaited the awaitable."""


class Run(Protocol):
    """What becomes of decorated calls."""

    def begin(  # noqa: PLR0917 - by name they would cost more
        self,
        site: Site,
        instance: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        streams: bool = False,
        place: Place | None = None,
        /,
    ) -> OpenCall:
        """Open a call; the arguments are `BoundCall`'s fields, not packed: this is on the way of every call.

        `place` is where it is made; None where that is where whoever asks was called.

        Raises:
            ReplayError: when a replay has no answer and must not call either.
        """


class SpanAbove(Protocol):
    """What other rooms may ask of the span a context is in: an open one, or one of another process."""

    inherited: bool
    """Whether it belongs to another process: the one that submitted the job, or that this one was forked from."""

    @property
    def number(self) -> int:
        """The span's id as a number."""

    @property
    def span_id(self) -> str:
        """16 hex digits."""

    @property
    def trace_id(self) -> str:
        """32 hex digits."""

    @property
    def in_boundary(self) -> bool:
        """Whether it is, or lies in, a boundary that has not ended."""

    @property
    def recording(self) -> Run:
        """The Run that records into this span's provider."""

    def draws(self) -> Any:
        """Return whom to ask for what is drawn in it (see `clearstone.nondet.drawn.Draws`); None: nobody."""

    def ticket(self) -> Ticket:
        """Return what gives, in another process, a span to be below in this one's place."""


Ticket = Callable[[], SpanAbove]
"""Made by `SpanAbove.ticket`: picklable."""


class OpenSpan(SpanAbove, Protocol):
    """An open span of this process."""

    @property
    def name(self) -> str:
        """What it is called."""

    def snapshot(self) -> Span:
        """The span as it is now."""

    def others_on(self, instance: Any) -> tuple[str, ...]:
        """The names of calls at work on an object that are neither this one nor above it."""

    def trace_so_far(self, trace_id: str = "") -> Trace:
        """Every span of this trace, or of another one, known in this process: ended, stored and still open ones."""

    def given(self) -> Payload | None:
        """What the call was given, as it was recorded."""

    @property
    def databases(self) -> tuple[Path | None, ...]:
        """Where this trace is recorded; None for a place that does not outlive the process."""

    @property
    def is_outermost(self) -> bool:
        """Whether no boundary is open above it."""


class PassingCall:
    """An open call that remembers nothing and answers nothing: the call is simply made."""

    answer = None
    is_span = False

    def streaming(self, _: StreamKind) -> bool:
        """Leave the stream as it is."""
        return False

    def awaiting(self) -> bool:
        """Leave the awaitable as it is."""
        return False

    def chunk(self, value: Any) -> None:
        """Forget `value`."""

    def resumed(self) -> None:
        """Nothing was remembered."""

    def returned(self, value: Any) -> None:
        """Forget `value`."""

    def raised(self, error: BaseException) -> None:
        """Forget `error`."""

    def closed(self) -> None:
        """Nothing was open."""


PASSING = PassingCall()


class Suspended:
    """The Run of nothing: decorated calls behave as if they were not decorated."""

    def begin(self, *_: Any) -> OpenCall:
        """Let the call pass."""
        return PASSING


SUSPENDED = Suspended()


def site_of(target: Any) -> Site | None:
    """Return the site of a decorated callable, also of a bound method; None where it is not decorated."""
    if isinstance(target, property):
        target = target.fget
    owner = getattr(target, "_self_parent", None) if not hasattr(target, "_self_site") else target
    return getattr(owner, "_self_site", None)


override: ContextVar[Run | None] = ContextVar("clearstone_override", default=None)
current_span: ContextVar[SpanAbove | None] = ContextVar("clearstone_span", default=None)

usual: Run | None = None
"""Where calls go that no override, no tracer and no open span sends elsewhere; None until the first such call asks."""

live: dict[int, OpenSpan] = {}
"""The open spans of this process, by number. Whoever opens one ends it, also where its coroutine is dropped."""

live_streams: weakref.WeakValueDictionary[int, OpenSpan] = weakref.WeakValueDictionary()
"""Those of streams: an object that keeps its own unfinished stream must not be kept by it."""

_overridden = False
_disabled = os.environ.get("CLEARSTONE_DISABLED", "").lower() not in {"", "0", "false", "no", "off"}


def enter(call: Any) -> Token[SpanAbove | None] | None:
    """Make a call's span the current one in this context, if it is one; return a token for `leave`."""
    return current_span.set(call) if call.is_span else None


def leave(token: Token[SpanAbove | None] | None, span: Any) -> None:
    """Make the span above `span` current again."""
    if token is not None:
        try:
            current_span.reset(token)
        except ValueError:
            left_elsewhere(span)


def left_elsewhere(span: Any) -> None:
    """Leave a span in another context than it was entered in, as a collected coroutine does: what is current stays."""
    current: Any = current_span.get()
    if current is span:
        current_span.set(span.parent)


def is_disabled() -> bool:
    """Whether ``CLEARSTONE_DISABLED=1`` stood in the environment when Clearstone was imported."""
    return _disabled


def was_overridden() -> bool:
    """Whether decorated calls of this process were ever sent anywhere but to a recorder: to a replay, mostly."""
    return _overridden


@contextlib.contextmanager
def overriding(run: Run) -> Iterator[None]:
    """Send every decorated call of this context to `run`, whatever provider it belongs to."""
    global _overridden  # noqa: PLW0603 - it is about the process
    _overridden = _overridden or run is not SUSPENDED
    token = override.set(run)
    span = current_span.set(None)
    try:
        yield
    finally:
        current_span.reset(span)
        override.reset(token)


@contextlib.contextmanager
def being_usual(run: Run) -> Iterator[None]:
    """Send the calls to `run` that would go to the default recorder: those of threads that carry no context of ours."""
    global usual  # noqa: PLW0603 - one process, one default
    before, usual = usual, run
    try:
        yield
    finally:
        usual = before


def suspended() -> contextlib.AbstractContextManager[None]:
    """Let decorated calls of this context pass through unrecorded."""
    return overriding(SUSPENDED)


def opened(span: OpenSpan) -> None:
    """Remember that `span` is open."""
    live[span.number] = span


def closed(span: OpenSpan) -> None:
    """Forget `span`; doing so twice is harmless."""
    live.pop(span.number, None)
    live_streams.pop(span.number, None)


def find_open_span(span_id: str) -> OpenSpan | None:
    """Return the open span of this process with that id, or None."""
    try:
        number = int(span_id, 16)
        return live.get(number) or live_streams.get(number)
    except ValueError:  # no span id at all
        return None


def settle() -> None:
    """Bring what this process has recorded into its databases, for a reader of one. The recorder says how."""
    for each in settlers:
        each()


settlers: list[Callable[[], object]] = []


def open_spans() -> tuple[OpenSpan, ...]:
    """Return the open spans of this process."""
    return (*live.values(), *live_streams.values())


def _leave_spans_to_the_parent() -> None:
    """In a forked child: no span is its own, also not one that ended and is still current."""
    span: Any = current_span.get()
    while span is not None:
        span.inherited = True
        span = getattr(span, "parent", None)
    for each in open_spans():
        each.inherited = True
    live.clear()
    live_streams.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_spans_to_the_parent)
