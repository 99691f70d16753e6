"""The span that is open.

Idea: `LiveSpan` is the one mutable thing of the recording half. It is started, filled in and ended by the calling
thread, which leaves a record of each in the journal; whoever looks in between gets a frozen `Span`.

Invariant: a span is recorded twice (started, ended) and ends once, in the process that started it; ending it again
changes nothing. What most spans never have (attributes, events, chunks, a failure) costs them nothing: it stands on the
class until it is set.
"""

from __future__ import annotations

import sys
from time import perf_counter_ns, time_ns
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from clearstone import run
from clearstone.codec import payload
from clearstone.codec.exceptions import dump_exception
from clearstone.codec.redact import active
from clearstone.errors import ConfigurationError
from clearstone.record import effects, faults, identity, layout
from clearstone.record.ancestry import Identified, is_open_boundary, shorten
from clearstone.record.attributes import kept
from clearstone.record.packed import pack_end, pack_start, start_head
from clearstone.span import Chunk, Event, Outcome, Span, SpanKind, Status, StatusCode, Trace, replay_mode
from clearstone.store.batch import SiteRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextvars import Token
    from pathlib import Path

    from clearstone.nondet.drawn import Log
    from clearstone.record.ancestry import RemoteSpan
    from clearstone.record.effects import Watch
    from clearstone.record.provider import TracerProvider
    from clearstone.record.tracer import Tracer
    from clearstone.span import Failure, Payload, Site

Encoded = tuple[int, bytes]
"""A payload as a form and bytes (see `clearstone.codec.payload.encode`)."""

NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})
UNSET = Status()
UNASKED = object()


class LiveSpan(Identified):
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
    watch: Watch | None = None
    failure: Failure | None = None
    chunks: list[tuple[int, int, bytes]] | None = None
    complete = True
    instance = called_at = ""
    root: LiveSpan | RemoteSpan | None = None
    start_ns = 0
    end_ns: int | None = None
    providers: tuple[TracerProvider, ...] = ()
    """Of a trace's first span: the providers that spans below it record into, beside its own."""

    started = 0
    was_left = False
    """Whether an exception that is no `Exception` ended it."""

    log: Log | None = None
    """What was drawn in it, where that is kept."""

    inherited = False
    plain = True
    """Whether nothing but an output is there to be said of its end."""

    _token: Token[run.SpanAbove | None] | None = None
    _draws: Any = UNASKED

    def __init__(self, tracer: Tracer, name: str, span_type: str = "", parent: Any = None) -> None:
        self.tracer = tracer
        self.name = name
        self.span_type = span_type
        self.number = next(identity.count)
        self.parent = parent
        if parent is None:
            self.trace = identity.next_trace()
        else:
            self.place_below(parent)

    def place_below(self, parent: LiveSpan | RemoteSpan) -> None:
        """Take the trace of `parent`, and tell its first span which provider records this one."""
        if parent.end_ns is not None:
            shorten(parent)
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
            self.attributes, self.plain = {}, False
        self.attributes[active().text(str(key))] = kept(str(key), value)  # type: ignore[index]  # a dict from here on

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Note that something happened now."""
        told = {active().text(str(key)): kept(str(key), value) for key, value in (attributes or {}).items()}
        self.events, self.plain = (*self.events, Event(active().text(str(name)), time_ns(), told)), False

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
        self.plain = False
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
    def in_boundary(self) -> bool:
        """Whether this span, or one above it, is a boundary that has not ended (a thread may outlive it)."""
        span: Any = self
        while span is not None and not span.inherited:  # a deep chain of calls would meet the recursion limit here
            if is_open_boundary(span):
                return True
            span = span.parent
        return False

    @property
    def recording(self) -> run.Run:
        """The Run that records into this span's provider."""
        return self.tracer.provider.recording

    def draws(self) -> Log | None:
        """Return what keeps what is drawn in it; None where nothing does. Only dispatchers ask, and marks of calls."""
        if self._draws is UNASKED:
            try:
                from clearstone.record import drawing  # where something is kept

                self._draws = drawing.log_for(self)
            except Exception as error:
                self._draws = None
                faults.report(f"keeping what is drawn in {self.name}", error)
        return self._draws  # type: ignore[no-any-return]

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
        site = self.tracer.journal.sites.number(row)
        parts = b"" if site else layout.named_site_part(row)
        parent = self.parent
        above, flags = (parent.number, parent.inherited) if parent is not None else (0, layout.TOP)
        head = start_head(site, flags) | layout.NOTHING << 8
        start = pack_start(head, self.number, above, self.trace, self.start_ns, 0)
        self.tracer.journal.append(start + parts + self._attribute_part())

    def fail(self, error: BaseException) -> None:
        """Record that `error` ended the span. OpenTelemetry has no status for what was cancelled: the words say it."""
        told = self.failure = dump_exception(error)
        self.was_left = not isinstance(error, Exception)
        if _is_cancelled(error):
            if not _is_task_cancelled():
                self.set_attribute(run.ITSELF, value=True)
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
            if self.log is not None:
                from clearstone.record import drawing

                drawing.ended(self, self.log)
            form, data = self.tracer.fitting(*self.output) if self.output is not None else (layout.NOTHING, b"")
            status = layout.STATUSES.index(self.status.code)
            head = layout.END_KIND | form << 8 | self._outcome_code() << 16 | status << 24
            end = pack_end(head, self.number, self.end_ns, len(data))
            self.tracer.journal.append(end + data + self._end_parts())
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
        attributes = self._with_drawn()
        return layout.json_part(layout.ATTRIBUTES, attributes) if attributes else b""

    def _with_drawn(self) -> dict[str, Any]:
        """Return the attributes, and what was drawn: no text of a user's, so nothing of it is redacted."""
        drawn = self.log.text() if self.log is not None else ""
        return {**self.attributes, run.DRAWN: drawn} if drawn else dict(self.attributes)

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
            attributes=self._with_drawn(),
            events=self.events,
            input=self.given(),
            outcome=self._outcome(),
            instance=self.instance,
            called_at=self.called_at,
        )

    def others_on(self, instance: Any) -> tuple[str, ...]:
        """Return the names of calls at work on an object that are neither this one nor above it."""
        return effects.others_on(instance, self)

    def trace_so_far(self, trace_id: str = "") -> Trace:
        """Return every span of this trace, or of another one, known to the providers of this one."""
        trace = Trace(trace_id or self.trace_id)
        for provider in self._providers():
            trace = trace.merged(provider.trace_so_far(trace.trace_id))
        return trace

    def given(self) -> Payload | None:
        """Return what the call was given, as it was recorded."""
        return payload.of_raw(*self.input) if self.input is not None else None

    @property
    def databases(self) -> tuple[Path | None, ...]:
        """Where this trace is recorded; None for a place that does not outlive the process."""
        return tuple(provider.database for provider in self._providers())

    @property
    def is_outermost(self) -> bool:
        """Whether no boundary is open above it."""
        return self.parent is None or not self.parent.in_boundary

    def _providers(self) -> dict[TracerProvider, None]:
        root = self.root if isinstance(self.root, LiveSpan) else self
        return dict.fromkeys((root.tracer.provider, self.tracer.provider, *root.providers))

    def _outcome(self) -> Outcome | None:
        output = payload.of_raw(*self.output) if self.output is not None else None
        did = self.effects or effects.so_far(self.watch)
        changed = payload.of_raw(*did) if did is not None else None
        if self.chunks is not None:
            if self.end_ns is None and not self.chunks:
                return None
            ended = self.complete and self.end_ns is not None
            return Outcome("streamed", output, self.failure, _chunks(self.chunks), ended, changed)
        if self.failure is not None:
            return Outcome("raised", failure=self.failure, effects=changed)
        return Outcome("returned", output, effects=changed) if output is not None else None


def _is_cancelled(error: BaseException) -> bool:
    asyncio = sys.modules.get("asyncio.exceptions")  # where it is not loaded, nothing of it was raised
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def _is_task_cancelled() -> bool:
    """Whether somebody has cancelled the task that runs, and it was not caught yet."""
    from asyncio import current_task

    try:
        task = current_task()
    except RuntimeError:  # no loop runs here
        return False
    return task is not None and task.cancelling() > 0


def _chunks(chunks: Sequence[tuple[int, int, bytes]]) -> tuple[Chunk, ...]:
    return tuple(Chunk(at_ns, payload.of_raw(form, data)) for at_ns, form, data in chunks)


def _status_code(status: StatusCode | str) -> StatusCode:
    try:
        return StatusCode(str(status).upper())
    except ValueError:
        raise ConfigurationError(f"{status!r} is no span status; use one of {', '.join(StatusCode)}") from None
