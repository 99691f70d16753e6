"""The values everything else speaks in: sites, spans, traces, payloads and outcomes.

Idea: what was recorded is frozen. A span that is still open is shown as a frozen value too, taken at one moment; the
thing that changes while a call runs is `clearstone.record.live_span.LiveSpan`, and it hands out these values.

Invariant: nothing here does I/O, serialises or knows a store; every field is a builtin, an enum or another value of
this file. Names follow OpenTelemetry's trace API (trace id of 32 hex digits, span id of 16, parent, kind, status,
events), https://opentelemetry.io/docs/specs/otel/trace/api/.

Refused: one mutable Span class for both halves (a reader could change what was recorded).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


ReplayMode = Literal["serve", "run"]
Codec = Literal["pickle", "cloudpickle", "stand-in"]
OutcomeKind = Literal["returned", "raised", "streamed"]

PICKLE, CLOUDPICKLE, STAND_IN = 0, 1, 2
BUFFERS, REDACTED, BLOB = 0x10, 0x20, 0x40
CODEC_MASK = 0x0F
"""The form of a payload in journals and databases, one byte: a codec, and flags."""

CODECS: tuple[Codec, ...] = ("pickle", "cloudpickle", "stand-in")

MAIN_ALIAS = "__clearstone_main__"
"""The name under which a replay imports a script, so that its ``if __name__ == "__main__"`` block does not run."""

MAIN_NAMES = frozenset({"__main__", "__mp_main__", MAIN_ALIAS})
"""The modules that a script's code may say it is from."""


def module_name(module: str) -> str:
    """Return a module's name as records have it: a script's is ``__main__`` whatever it was imported as."""
    return "__main__" if module in MAIN_NAMES else module


STRUCTURAL_TYPES = frozenset({"", "agent", "chain", "workflow", "task", "step", "function"})
"""Span types that run again in a replay. Every other type is an outside call, served from the record."""


def replay_mode(span_type: str) -> ReplayMode:
    """Say what a replay does with a call of `span_type`: ``"run"`` it again, or ``"serve"`` it from the record."""
    return "run" if span_type in STRUCTURAL_TYPES else "serve"


FORK_PARENT, FORK_CHECKPOINT, FORK_AT, FORK_THEN, FORK_CHANGES = (
    f"clearstone.fork.{each}" for each in ("parent", "checkpoint", "at", "then", "changes")
)
"""Attributes of the first span of a fork (`clearstone.whatif`): the trace and the checkpoint it comes from, where it
was changed, how it went on, and what was changed, a line each."""


class SpanKind(enum.StrEnum):
    """OpenTelemetry's span kinds."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class StatusCode(enum.StrEnum):
    """OpenTelemetry's status codes."""

    UNSET = "UNSET"
    OK = "OK"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Status:
    """How a span ended: a code and, for errors, one sentence."""

    code: StatusCode = StatusCode.UNSET
    description: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.description}" if self.description else str(self.code)


@dataclass(frozen=True, slots=True)
class Site:
    """A decorated callable: where it stands, what type its spans have, and what a replay does with it.

    Args:
        key: ``module:qualname``. A script run as ``__main__`` keeps that module name whatever it is imported as.
        name: the name of its spans.
        span_type: ``"llm"``, ``"tool"``, ``"agent"``, ... or your own; empty for a plain step.
        replay: ``"serve"`` (answer from the record) or ``"run"`` (execute again).
        boundary: whether an exception leaving it saves a checkpoint.
        attributes: attributes every span of it starts with.
        record_effects: whether what a call does to its mutable arguments is recorded too.
        parameters: the names of what is passed by position, ``self`` and ``cls`` aside: some are names of secrets.
    """

    key: str
    name: str
    span_type: str = ""
    replay: ReplayMode = "run"
    boundary: bool = False
    attributes: tuple[tuple[str, Any], ...] = ()
    record_effects: bool = False
    parameters: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """The dotted form a mock configuration uses: ``module.qualname``."""
        return self.key.replace(":", ".", 1)


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """One serialised value.

    Args:
        codec: how `data` was written. ``"stand-in"`` means that the value could not be serialised; `data` then
            describes it as JSON (type, repr, reason).
        data: the bytes.
        buffers: large buffers of it (of arrays, mostly) that pickle protocol 5 left out of `data`, in order (PEP 574).
        redacted: whether secrets in it were replaced before it was recorded.
        name: the keyed BLAKE2b of its bytes under the key of the machine that stored it; empty before that.
    """

    codec: Codec
    data: bytes = field(repr=False)
    buffers: tuple[bytes, ...] = field(default=(), repr=False)
    redacted: bool = False
    name: bytes = field(default=b"", repr=False)

    def __eq__(self, other: object) -> bool:
        return self._compared == other._compared if isinstance(other, Payload) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._compared)

    @property
    def _compared(self) -> tuple[Any, ...]:
        return self.codec, self.redacted, self.data, self.buffers


@dataclass(frozen=True, slots=True)
class Chunk:
    """One item of a recorded stream and when it came (nanoseconds since the epoch)."""

    at_ns: int
    value: Payload


@dataclass(frozen=True, slots=True)
class Failure:
    """A recorded exception, as text for people and as a payload for the replay.

    Args:
        type_name: ``module.QualName`` of the class, or the bare name of a builtin one.
        message: ``str(exception)``.
        traceback: the formatted traceback.
        raised_at: ``file:line`` of the innermost frame.
        value: the exception as data (see `clearstone.codec.exceptions`).
    """

    type_name: str
    message: str
    traceback: str = field(repr=False)
    raised_at: str
    value: Payload


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call gave: a returned value, a raised exception, or a stream of chunks that ended either way.

    Args:
        kind: which of the three.
        value: the returned value; for a stream what the generator returned (None when it was closed early).
        failure: the exception, also the one that ended a stream.
        chunks: the items of a stream.
        complete: False for a stream its consumer closed before the end.
        effects: what the call did to the object it was bound to (see `clearstone.record.effects`).
    """

    kind: OutcomeKind
    value: Payload | None = None
    failure: Failure | None = None
    chunks: tuple[Chunk, ...] = ()
    complete: bool = True
    effects: Payload | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened inside a span, at a moment (nanoseconds since the epoch)."""

    name: str
    at_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One recorded call, OpenTelemetry-shaped. `end_ns` is None while it is open or when it was interrupted.

    Times are nanoseconds since the epoch. `observed_ns` is when this value was taken of an open span. `order` counts
    span starts within one process and breaks ties of the clock. `instance` names the object a method was called on
    (``module:Class#3``, the third object of that process). `interrupted` says that the process died before the end.
    `called_at` is the line of the code that made a served call, ``file:line``; empty where nobody is known to have.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    start_ns: int
    end_ns: int | None = None
    observed_ns: int = 0
    order: int = 0
    kind: SpanKind = SpanKind.INTERNAL
    span_type: str = ""
    site: str = ""
    replay: ReplayMode = "run"
    tracer_name: str = ""
    tracer_version: str = ""
    status: Status = Status()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    input: Payload | None = field(default=None, repr=False)
    outcome: Outcome | None = field(default=None, repr=False)
    instance: str = ""
    interrupted: bool = False
    called_at: str = ""

    @property
    def values(self) -> tuple[Payload | None, Payload | None, Payload | None, Payload | None]:
        """Its input, its output, its error and its effects."""
        if self.outcome is None:
            return self.input, None, None, None
        failure = self.outcome.failure
        return self.input, self.outcome.value, failure.value if failure is not None else None, self.outcome.effects

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The chunks of its stream."""
        return self.outcome.chunks if self.outcome is not None else ()

    def payloads(self) -> Iterator[Payload]:
        """Give every payload it holds: its values, and those of its chunks."""
        return (each for each in (*self.values, *(chunk.value for chunk in self.chunks)) if each is not None)

    @property
    def is_open(self) -> bool:
        """Whether the span had not ended when this value was taken."""
        return self.end_ns is None

    @property
    def duration_ms(self) -> float:
        """Milliseconds from start to end; for a span that has not ended, up to the moment this value was taken."""
        return ((self.end_ns or self.observed_ns or self.start_ns) - self.start_ns) / 1e6


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of one trace, in the order they started."""

    trace_id: str
    spans: tuple[Span, ...] = ()

    def __iter__(self) -> Iterator[Span]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)

    def span(self, span_id: str) -> Span | None:
        """Return the span with that id, or None."""
        return next((span for span in self.spans if span.span_id == span_id), None)

    def subtree(self, span_id: str) -> Trace:
        """Return the trace cut down to the span with that id and everything below it."""
        inside = {span_id}
        for span in self.spans:  # a parent starts before its children
            if span.parent_id in inside:
                inside.add(span.span_id)
        return Trace(self.trace_id, tuple(span for span in self.spans if span.span_id in inside))

    def until(self, at_ns: int) -> Trace:
        """Return the trace as it was at a moment, nanoseconds since the epoch: what ended later is open in it."""
        return Trace(self.trace_id, tuple(_as_it_was(span, at_ns) for span in self.spans if span.start_ns <= at_ns))

    def merged(self, other: Trace) -> Trace:
        """Return both traces as one; where a span is in both, the one that has ended, else the later look, wins."""
        newest = {span.span_id: span for span in self.spans}
        for span in other.spans:
            known = newest.get(span.span_id)
            if known is None or _is_newer(span, known):
                newest[span.span_id] = span if known is None else _with_chunks_of(span, known)
        return Trace(self.trace_id, in_start_order(newest.values()))


def _as_it_was(span: Span, at_ns: int) -> Span:
    if span.end_ns is not None and span.end_ns <= at_ns:
        return span
    chunks = tuple(chunk for chunk in span.chunks if chunk.at_ns <= at_ns)
    return replace(
        span,
        end_ns=None,
        observed_ns=at_ns,
        interrupted=False,
        status=Status(),
        events=tuple(event for event in span.events if event.at_ns <= at_ns),
        outcome=Outcome("streamed", chunks=chunks, complete=False) if chunks else None,
    )


def _with_chunks_of(span: Span, known: Span) -> Span:
    """A look at a stream that goes on may hold none of its many items, where the store has them."""
    held, more = span.outcome, known.outcome
    if more is None or (held is not None and len(held.chunks) >= len(more.chunks)):
        return span
    return replace(span, outcome=replace(held, chunks=more.chunks) if held is not None else more)


def _is_newer(span: Span, known: Span) -> bool:
    if span.is_open != known.is_open:
        return known.is_open
    return span.observed_ns >= known.observed_ns


def in_start_order(spans: Any) -> tuple[Span, ...]:
    """Sort spans by the moment they started; `order` decides where the clock does not."""
    return tuple(sorted(spans, key=lambda span: (span.start_ns, span.order)))
