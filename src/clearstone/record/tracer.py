"""Tracers, and the span that is open.

Idea: `LiveSpan` is the one mutable thing of the recording half. It is started, filled in and ended by the calling
thread, which leaves a record of each in the journal; whoever looks in between gets a frozen `Span`.

Invariant: a span is recorded twice (started, ended) and ends once, in the process that started it; ending it again
changes nothing. What most spans never have (attributes, events, chunks, a failure) costs them nothing: it stands on the
class until it is set.
"""

from __future__ import annotations

import math
import sys
from time import perf_counter_ns, time_ns
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from clearstone import run
from clearstone.codec import payload
from clearstone.codec.exceptions import dump_exception
from clearstone.codec.redact import active
from clearstone.errors import ConfigurationError
from clearstone.record import faults, identity, layout
from clearstone.span import BLOB, Chunk, Event, Outcome, Span, SpanKind, Status, StatusCode, Trace, replay_mode
from clearstone.store import blobs
from clearstone.store.base import SiteRow

Encoded = tuple[int, bytes]
"""A payload as a form and bytes (see `clearstone.codec.payload.encode`)."""

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import Token

    from clearstone.record.provider import TracerProvider
    from clearstone.span import Failure, Site

LARGEST_INT_BITS = 1024
"""A larger int is kept as its repr: Python refuses to print very large ones."""

NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})
UNSET = Status()


class Tracer:
    """Opens spans for one component. Made by `TracerProvider.get_tracer`.

    Args:
        provider: where its spans go.
        name: the component's name.
        version: the component's version.
    """

    recording: run.Run
    """The Run that records decorated calls under this name."""

    def __init__(self, provider: TracerProvider, name: str = "", version: str = "") -> None:
        self.provider = provider
        self.journal = provider.journal
        self.append = provider.journal.append
        self.payload_limit = provider.payload_limit
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
        name, span_type = active().text(str(name)), str(span_type or attributes.get("span_type", ""))
        override = run.override.get()
        if override is not None or run.is_disabled():
            return PassingSpan(name, span_type, override)
        span = LiveSpan(self, name, span_type, run.current_span.get())
        span.kind = _kind(kind)
        span.set_attributes(attributes)
        return span

    def fitting(self, form: int, data: bytes) -> Encoded:
        """Return a payload as the journal takes it: one beyond the limit stands in a file and is named."""
        return self.aside(form, data) if len(data) > self.payload_limit else (form, data)

    def aside(self, form: int, data: bytes) -> Encoded:
        """Put a payload into a blob file; where that cannot be written it stays what it is."""
        folder = self.provider.blobs
        if folder is None:
            return form, data
        try:
            return form | BLOB, blobs.write(folder, data)
        except OSError as error:
            faults.report(f"putting a payload of {len(data):,} bytes into a file", error)
            return form, data


class LiveSpan:
    """A span that is open (see `clearstone.span.Span` for what its fields mean).

    Args:
        tracer: whose it is.
        name: its name.
        span_type: its type.
        parent: the span it belongs below.
    """

    site: Site | None = None
    kind = SpanKind.INTERNAL
    status = UNSET
    attributes: Mapping[str, Any] = NO_ATTRIBUTES
    events: tuple[Event, ...] = ()
    input: Encoded | None = None
    output: Encoded | None = None
    effects: Encoded | None = None
    failure: Failure | None = None
    chunks: list[tuple[int, int, bytes]] | None = None
    complete = True
    instance = ""
    trace: bytes
    root: LiveSpan | RemoteSpan | None = None
    start_ns = 0
    end_ns: int | None = None
    providers: tuple[TracerProvider, ...] = ()
    """Of a trace's first span: the providers that spans below it record into, beside its own."""

    started = 0
    inherited = False
    _token: Token[run.SpanAbove | None] | None = None

    def __init__(self, tracer: Tracer, name: str, span_type: str = "", parent: Any = None) -> None:
        self.tracer = tracer
        self.name = name
        self.span_type = span_type
        self.number = identity.next_span()
        self.parent = parent
        if parent is None:
            self.trace = identity.next_trace(self.number)
        else:
            self.place_below(parent)

    def place_below(self, parent: LiveSpan | RemoteSpan) -> None:
        """Take the trace of `parent`, and tell its first span which provider records this one."""
        if parent.end_ns is not None:
            _shorten(parent)
        self.trace = parent.trace
        root = self.root = parent.root or parent
        provider = self.tracer.provider
        if isinstance(root, LiveSpan) and provider is not root.tracer.provider and provider not in root.providers:
            root.providers = (*root.providers, provider)

    # --- the user's side ---------------------------------------------------------------------------------------------

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute.

        Args:
            key: its name; https://opentelemetry.io/docs/specs/semconv/ lists the usual ones.
            value: str, bool, int, float, None, or a sequence of those; of anything else the repr is kept.
        """
        if self.attributes is NO_ATTRIBUTES:
            self.attributes = {}
        self.attributes[active().text(str(key))] = _attribute(str(key), value)  # type: ignore[index]  # a dict from here on

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Note that something happened now."""
        kept = {active().text(str(key)): _attribute(str(key), value) for key, value in (attributes or {}).items()}
        self.events = (*self.events, Event(active().text(str(name)), time_ns(), kept))

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
        given = status if isinstance(status, Status) else Status(_status_code(status), str(description))
        self.status = Status(given.code, active().text(given.description)) if given.description else given

    def set_input(self, value: Any) -> None:
        """Record what the call was given, as it is now."""
        self.input = payload.encode(value, f"{self.name} given")

    def set_output(self, value: Any) -> None:
        """Record what the call gave, as it is now; a replay can then serve it like a decorated call's."""
        self.output = payload.encode(value, f"{self.name} gave")

    def __enter__(self) -> Self:
        self.start()
        self._token = run.current_span.set(self)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._token is not None:
            run.leave(self._token, self)
            self._token = None
        try:
            if error is not None:
                self.fail(error)
        except Exception as fault:
            faults.report(f"recording the failure of {self.name}", fault)
        finally:
            self.end()

    # --- the recorder's side -----------------------------------------------------------------------------------------

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return self.trace.hex()

    @property
    def span_id(self) -> str:
        """16 hex digits."""
        return identity.hex_of(self.number)

    @property
    def in_boundary(self) -> bool:
        """Whether this span, or one above it, is a boundary that has not ended (a thread may outlive it)."""
        span: Any = self
        while span is not None and not span.inherited:  # a deep chain of calls would meet the recursion limit here
            if _is_open_boundary(span):
                return True
            span = span.parent
        return False

    @property
    def recording(self) -> run.Run:
        """The Run that records into this span's provider."""
        return self.tracer.provider.recording

    def ticket(self) -> run.Ticket:
        """Return what gives a span to be below, in another process (see `TracerProvider.ticket`)."""
        return self.tracer.provider.ticket(self.trace, self.number)

    def start(self) -> None:
        """Start the clock and record the span as open."""
        self.start_ns, self.started = time_ns(), perf_counter_ns()
        run.opened(self)
        row = SiteRow(
            "", self.name, self.span_type, replay_mode(self.span_type), self.kind, self.tracer.name, self.tracer.version
        )
        site = self.tracer.journal.site_number(row)
        parts = b"" if site else layout.named_site_part(row)
        self._append_start(site, layout.NOTHING, b"", parts + self._attribute_part())

    def _append_start(self, site: int, form: int, data: bytes, parts: bytes) -> None:
        parent = self.parent
        above, flags = (parent.number, parent.inherited) if parent is not None else (0, layout.TOP)
        self.tracer.append(
            layout.START.pack(
                layout.START_KIND, form, flags, site, self.number, above, self.trace, self.start_ns,
                self.number & 0xFFFFFFFF, len(data),
            ) + data + parts
        )  # fmt: skip

    def fail(self, error: BaseException) -> None:
        """Record that `error` ended the span. OpenTelemetry has no status for what was cancelled: the words say it."""
        told = self.failure = dump_exception(error)
        if _is_cancelled(error):
            self.set_status(StatusCode.ERROR, f"cancelled: {told.message}" if told.message else "cancelled")
        else:
            self.set_status(StatusCode.ERROR, f"{told.type_name}: {told.message}")

    def end(self, elapsed_ns: int | None = None) -> None:
        """Record the end. It is start plus elapsed time: never before the start, whatever became of the clock.

        A span that is not open in this process (it has ended, or was inherited by a fork) is left alone.

        Args:
            elapsed_ns: nanoseconds since the start; None: until now.
        """
        run.closed(self)
        if self.end_ns is not None or self.inherited:
            return
        self.end_ns = self.start_ns + (perf_counter_ns() - self.started if elapsed_ns is None else elapsed_ns)
        try:
            form, data = self.tracer.fitting(*self.output) if self.output is not None else (layout.NOTHING, b"")
            self.tracer.append(
                layout.END.pack(
                    layout.END_KIND, form, self._outcome_code(), layout.STATUSES.index(self.status.code), self.number,
                    self.end_ns, len(data),
                ) + data + self._end_parts()
            )  # fmt: skip
        except Exception as error:
            faults.report(f"recording the end of the span {self.name!r}", error)

    def _outcome_code(self) -> int:
        if self.chunks is not None:
            return 3 if self.complete else 3 | layout.INCOMPLETE
        return 2 if self.failure is not None else 1 if self.output is not None else 0

    def _end_parts(self) -> bytes:
        parts = [self._attribute_part(), self._payload_part(layout.INPUT, self.input if self.site is None else None)]
        if self.events:
            listed = [{"name": each.name, "at_ns": each.at_ns, "attributes": each.attributes} for each in self.events]
            parts.append(layout.json_part(layout.EVENTS, listed))
        if self.status.description:
            parts.append(layout.text_part(layout.STATUS_TEXT, self.status.description))
        if self.failure is not None:
            told = self.failure
            parts.append(layout.failure_part((told.type_name, told.message, told.traceback, told.raised_at)))
            parts.append(self._payload_part(layout.ERROR, payload.to_raw(told.value)))
        parts.append(self._payload_part(layout.EFFECTS, self.effects))
        return b"".join(parts)

    def _payload_part(self, role: int, given: Encoded | None) -> bytes:
        if given is None:
            return b""
        form, data = self.tracer.fitting(*given)
        return layout.part(role, data, form)

    def _attribute_part(self) -> bytes:
        return layout.json_part(layout.ATTRIBUTES, dict(self.attributes)) if self.attributes else b""

    def snapshot(self) -> Span:
        """Return the span as it is now."""
        site, parent = self.site, self.parent
        return Span(
            trace_id=self.trace_id,
            span_id=self.span_id,
            parent_id=identity.hex_of(parent.number) if parent is not None else None,
            name=self.name,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            observed_ns=self.start_ns + perf_counter_ns() - self.started if self.end_ns is None else 0,
            order=self.number & 0xFFFFFFFF,
            kind=self.kind,
            span_type=self.span_type,
            site=site.key if site is not None else "",
            replay=site.replay if site is not None else replay_mode(self.span_type),
            tracer_name=self.tracer.name,
            tracer_version=self.tracer.version,
            status=self.status,
            attributes=dict(self.attributes),
            events=self.events,
            input=payload.of_raw(*self.input) if self.input is not None else None,
            outcome=self._outcome(),
            instance=self.instance,
        )

    def trace_so_far(self) -> Trace:
        """Return every span of this trace known to its providers."""
        root = self.root if isinstance(self.root, LiveSpan) else self
        trace = Trace(self.trace_id)
        for provider in dict.fromkeys((root.tracer.provider, self.tracer.provider, *root.providers)):
            trace = trace.merged(provider.trace_so_far(self.trace_id))
        return trace

    def _outcome(self) -> Outcome | None:
        output = payload.of_raw(*self.output) if self.output is not None else None
        effects = payload.of_raw(*self.effects) if self.effects is not None else None
        if self.chunks is not None:
            if self.end_ns is None and not self.chunks:
                return None
            ended = self.complete and self.end_ns is not None
            return Outcome("streamed", output, self.failure, _chunks(self.chunks), ended, effects)
        if self.failure is not None:
            return Outcome("raised", failure=self.failure, effects=effects)
        return Outcome("returned", output, effects=effects) if output is not None else None


class RemoteSpan:
    """A span of another process that spans of this one belong below.

    Args:
        trace: its trace id, 16 bytes.
        number: its span id, as a number.
        recording: gives the Run that records calls below it; asked at each.
        ticket: what it was made by.
    """

    root = parent = end_ns = None
    in_boundary = False
    inherited = True

    def __init__(self, trace: bytes, number: int, recording: Callable[[], run.Run], ticket: run.Ticket) -> None:
        self.trace = trace
        self.number = number
        self._recording = recording
        self._ticket = ticket

    @property
    def recording(self) -> run.Run:
        """The Run that records calls below it."""
        return self._recording()

    def ticket(self) -> run.Ticket:
        """Return what gives it in another process."""
        return self._ticket

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return self.trace.hex()

    @property
    def span_id(self) -> str:
        """16 hex digits."""
        return identity.hex_of(self.number)


class Above:
    """What is left of an ended span that an ended span was below: callbacks that schedule the next would keep them all.

    Args:
        span: the ended span.
    """

    __slots__ = ("inherited", "number", "parent")
    end_ns = 0

    def __init__(self, span: Any) -> None:
        self.number = span.number
        self.inherited = span.inherited
        above = span.parent
        while above is not None and not _is_open_boundary(above):
            above = above.parent
        self.parent = above


def _is_open_boundary(span: Any) -> bool:
    return isinstance(span, LiveSpan) and span.site is not None and span.site.boundary and span.end_ns is None


def _shorten(span: LiveSpan | RemoteSpan) -> None:
    if span.parent is not None and span.parent.end_ns is not None and type(span.parent) is not Above:
        span.parent = Above(span.parent)


def _is_cancelled(error: BaseException) -> bool:
    asyncio = sys.modules.get("asyncio.exceptions")  # where it is not loaded, nothing of it was raised
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def _chunks(chunks: Sequence[tuple[int, int, bytes]]) -> tuple[Chunk, ...]:
    return tuple(Chunk(at_ns, payload.of_raw(form, data)) for at_ns, form, data in chunks)


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


def _attribute(key: str, value: Any) -> Any:
    """Return an attribute as it is kept: plain, and without secrets."""
    if isinstance(value, list | tuple) and all(_is_plain(item) for item in value):
        return active().attribute(key, list(value))
    return active().attribute(key, value if _is_plain(value) else active().shown(payload.safe_repr(value)))


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
