"""Tracers, and the span that is open.

Idea: `LiveSpan` is the one mutable thing of the recording half. It is started, filled in and ended by the calling
thread, and hands out frozen `Span` values: one when it starts, one when it ends, one to whoever looks in between.

Invariant: a span is stored twice at most (started, ended) and ends once; ending it again changes nothing.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import TYPE_CHECKING, Any, Self

from clearstone import run
from clearstone.codec import payload
from clearstone.codec.exceptions import dump_exception
from clearstone.errors import ConfigurationError
from clearstone.record import faults
from clearstone.span import (
    Event,
    Outcome,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Trace,
    new_span_id,
    new_trace_id,
    replay_mode,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token

    from clearstone.record.provider import TracerProvider
    from clearstone.span import Chunk, Failure, Payload, Site

LARGEST_INT_BITS = 1024
"""A larger int is kept as its repr: Python refuses to print very large ones."""

_starts = itertools.count(1)


class Tracer:
    """Opens spans for one component. Made by `TracerProvider.get_tracer`.

    Args:
        provider: where its spans go.
        name: the component's name.
        version: the component's version.
    """

    def __init__(self, provider: TracerProvider, name: str = "", version: str = "") -> None:
        self.provider = provider
        self.name = str(name)
        self.version = str(version)

    def span(
        self,
        name: str,
        span_type: str = "",
        kind: SpanKind | str = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
    ) -> LiveSpan | PassingSpan:
        """Return a span to be used in a ``with`` statement.

        Args:
            name: its name.
            span_type: ``"llm"``, ``"tool"``, ``"agent"``, ...; may also stand in `attributes` under that name.
            kind: OpenTelemetry's span kind.
            attributes: what it starts with.

        Returns:
            The span. Inside a replay, one that records nothing.

        Raises:
            ConfigurationError: `kind` is none of OpenTelemetry's.
        """
        attributes = dict(attributes or {})
        name, span_type = str(name), str(span_type or attributes.get("span_type", ""))
        override = run.override.get()
        if override is not None or run.is_disabled():
            return PassingSpan(name, span_type, override)
        span = LiveSpan(self, name, span_type, run.current_span.get())
        span.kind = _kind(kind)
        span.set_attributes(attributes)
        return span


class LiveSpan:
    """A span that is open (see `clearstone.span.Span` for what its fields mean)."""

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        span_type: str = "",
        parent: run.OpenSpan | None = None,
        site: Site | None = None,
    ) -> None:
        self.tracer = tracer
        self.name = name
        self.span_type = span_type
        self.site = site
        self.parent = parent
        self.trace_id = parent.trace_id if parent is not None else new_trace_id()
        self.span_id = new_span_id()
        self.kind = SpanKind.INTERNAL
        self.providers: set[TracerProvider] = parent.providers if isinstance(parent, LiveSpan) else set()
        self.providers.add(tracer.provider)
        self.status = Status()
        self.attributes: dict[str, Any] = (
            {key: _attribute(value) for key, value in site.attributes} if site is not None else {}
        )
        self.events: list[Event] = []
        self.input: Payload | None = None
        self.output: Payload | None = None
        self.failure: Failure | None = None
        self.chunks: list[Chunk] | None = None
        self.complete = True
        self.start_ns = 0
        self.end_ns: int | None = None
        self._started = 0
        self._order = 0
        self._token: Token[run.OpenSpan | None] | None = None

    # --- the user's side ---------------------------------------------------------------------------------------------

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute.

        Args:
            key: its name; https://opentelemetry.io/docs/specs/semconv/ lists the usual ones.
            value: str, bool, int, float, None, or a sequence of those; of anything else the repr is kept.
        """
        self.attributes[str(key)] = _attribute(value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Note that something happened now."""
        kept = {str(key): _attribute(value) for key, value in (attributes or {}).items()}
        self.events.append(Event(str(name), time.time_ns(), kept))

    def record_exception(self, exception: BaseException) -> None:
        """Note an exception as an event, under OpenTelemetry's attribute names. The status is left alone."""
        failure = dump_exception(exception)
        self.add_event(
            "exception",
            {
                "exception.type": failure.type_name,
                "exception.message": failure.message,
                "exception.stacktrace": failure.traceback,
            },
        )

    def set_status(self, status: Status | StatusCode | str, description: str = "") -> None:
        """Set the status.

        Args:
            status: ``"OK"``, ``"ERROR"``, ``"UNSET"`` (in any case), a `StatusCode` or a `Status`.
            description: one sentence, for errors.

        Raises:
            ConfigurationError: it is none of these.
        """
        self.status = status if isinstance(status, Status) else Status(_status_code(status), str(description))

    def set_input(self, value: Any) -> None:
        """Record what the call was given, as it is now."""
        self.input = payload.dump(value)

    def set_output(self, value: Any) -> None:
        """Record what the call gave, as it is now; a replay can then serve it like a decorated call's."""
        self.output = payload.dump(value)

    def __enter__(self) -> Self:
        self.start()
        self._token = run.current_span.set(self)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._token is not None:
            run.leave(self._token, self.parent)
            self._token = None
        if error is not None:
            self.fail(error)
        self.end()

    # --- the recorder's side -----------------------------------------------------------------------------------------

    @property
    def in_boundary(self) -> bool:
        """Whether this span, or one above it, is a boundary that has not ended (a thread may outlive it)."""
        span: run.OpenSpan | None = self
        while isinstance(span, LiveSpan):  # a loop: a deep chain of calls would meet the recursion limit here
            if span.site is not None and span.site.boundary and span.end_ns is None:
                return True
            span = span.parent
        return False

    @property
    def recording(self) -> run.Run:
        """The Run that records into this span's provider."""
        return self.tracer.provider.recording

    def start(self) -> None:
        """Start the clock and store the span as open."""
        self.start_ns, self._started, self._order = time.time_ns(), time.perf_counter_ns(), next(_starts)
        run.opened(self)
        self._store()

    def fail(self, error: BaseException) -> None:
        """Record that `error` ended the span."""
        self.failure = dump_exception(error)
        self.set_status(StatusCode.ERROR, f"{self.failure.type_name}: {self.failure.message}")

    def end(self) -> None:
        """Stop the clock and store the span as ended. The end is start plus elapsed time: never before the start."""
        if self.end_ns is None:
            self.end_ns = self.start_ns + time.perf_counter_ns() - self._started
            run.closed(self)
            self._store()

    def snapshot(self) -> Span:
        """Return the span as it is now."""
        return Span(
            trace_id=self.trace_id,
            span_id=self.span_id,
            parent_id=self.parent.span_id if self.parent is not None else None,
            name=self.name,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            observed_ns=self.start_ns + time.perf_counter_ns() - self._started if self.end_ns is None else 0,
            order=self._order,
            kind=self.kind,
            span_type=self.span_type,
            site=self.site.key if self.site is not None else "",
            replay=self.site.replay if self.site is not None else replay_mode(self.span_type),
            tracer_name=self.tracer.name,
            tracer_version=self.tracer.version,
            status=self.status,
            attributes=dict(self.attributes),
            events=tuple(self.events),
            input=self.input,
            outcome=self._outcome(),
        )

    def trace_so_far(self) -> Trace:
        """Return every span of this trace known to its providers."""
        trace = Trace(self.trace_id)
        for provider in tuple(self.providers):
            trace = trace.merged(provider.trace_so_far(self.trace_id))
        return trace

    def _outcome(self) -> Outcome | None:
        if self.chunks is not None:
            if self.end_ns is None and not self.chunks:
                return None
            ended = self.complete and self.end_ns is not None
            return Outcome("streamed", self.output, self.failure, tuple(self.chunks), ended)
        if self.failure is not None:
            return Outcome("raised", failure=self.failure)
        return Outcome("returned", self.output) if self.output is not None else None

    def _store(self) -> None:
        try:
            self.tracer.provider.put(self.snapshot())
        except Exception as error:
            faults.report(f"storing the span {self.name!r}", error)


class PassingSpan:
    """A span that records nothing: what `Tracer.span` gives inside a replay, and where Clearstone is disabled."""

    def __init__(self, name: str, span_type: str, override: run.Run | None) -> None:
        self.name = name
        self.span_type = span_type
        self.trace_id = "0" * 32
        self.span_id = "0" * 16
        self._override = override

    def __enter__(self) -> Self:
        entering = getattr(self._override, "entering", None)
        if entering is not None:
            entering(self.name, self.span_type)
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def _ignore(self, *_: Any, **__: Any) -> None:
        """Record nothing."""

    set_attribute = set_attributes = add_event = record_exception = set_status = set_input = set_output = _ignore


def _attribute(value: Any) -> Any:
    if _is_plain(value):
        return value
    if isinstance(value, list | tuple) and all(_is_plain(item) for item in value):
        return list(value)
    return payload.safe_repr(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no NaN and no infinity
    if isinstance(value, int):
        return value.bit_length() <= LARGEST_INT_BITS
    return value is None or isinstance(value, str)


def _kind(kind: SpanKind | str) -> SpanKind:
    try:
        return SpanKind(str(kind).upper())
    except ValueError:
        raise ConfigurationError(f"{kind!r} is no span kind; use one of {', '.join(SpanKind)}") from None


def _status_code(status: StatusCode | str) -> StatusCode:
    try:
        return StatusCode(str(status).upper())
    except ValueError:
        raise ConfigurationError(f"{status!r} is no span status; use one of {', '.join(StatusCode)}") from None
