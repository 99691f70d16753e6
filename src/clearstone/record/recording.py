"""The Run that proceeds and remembers: each decorated call becomes a span of one provider.

Idea: `begin` serialises the arguments and records the span as open; the call it returns serialises what comes out and
records the end. Calls of boundaries also hold the agent's state at entry, for the case that they fail. This file is on
the way of every call, so it says in few steps what `LiveSpan` says in many.

Invariant: a fault in here is counted and the user's call goes on: `begin` then gives a call that records nothing.
"""

from __future__ import annotations

from pickle import dumps as _dumps
from sys import _getframe
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from clearstone import run
from clearstone.callers import NOWHERE
from clearstone.codec import redact
from clearstone.codec.arguments import encode_arguments
from clearstone.codec.payload import encode, is_suspicious, refuse_buffer
from clearstone.record import effects, faults, identity, layout
from clearstone.record.identity import next_trace
from clearstone.record.layout import PUBLISHED
from clearstone.record.live_span import LiveSpan
from clearstone.record.packed import ENDS, RETURNED, STARTS, pack_end, pack_start
from clearstone.record.sites_in_use import SitesInUse
from clearstone.span import PICKLE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import CodeType

    from clearstone.callers import Place
    from clearstone.record.sites_in_use import SiteInUse
    from clearstone.record.tracer import Tracer
    from clearstone.span import Site

_current = run.current_span.get
_live = run.live
_trace_in_stock = identity.traces.pop
MOST_CHUNK_BYTES = 1 << 20
SCALARS = frozenset({type(None), bool, int, float, str, bytes})  # types that have no buffers


class Recording:
    """Records decorated calls under one tracer (see `clearstone.run.Run`).

    Args:
        tracer: whose spans they are.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._journal = tracer.journal
        self._limit = tracer.payload_limit
        self._sites = SitesInUse(tracer)
        self._uses = self._sites.known

    def begin(  # noqa: C901, PLR0912, PLR0915, PLR0917 - the way of every call: a function called in it is a tenth of it
        self,
        site: Site,
        instance: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        streams: bool = False,
        place: Place | None = None,
        /,
    ) -> run.OpenCall:
        """Open a span for a call; never raises for the recorder's sake."""
        begun = False
        try:
            use = self._uses.get(site.key)
            if use is None or use.site is not site or use.redactor is not redact._active:
                use = self._sites.begun(site)
            if use.places is not None:
                code: CodeType | None
                if place is None:
                    try:
                        caller = _getframe(2)  # of what called this
                        code, at = caller.f_code, caller.f_lasti
                    except ValueError:  # nobody: the interpreter, at its exit
                        code, at = NOWHERE
                else:
                    code, at = place
                here = use.places.get(at)
                use = here if here is not None and here.code is code else self._sites.at(use, (code, at))
            try:
                form, data = PICKLE, _dumps((args, kwargs), 5, buffer_callback=refuse_buffer)
                size = len(data)
                if use.hidden or (
                    size > use.innocent_given
                    and not use.redactor.knows(use.given, data)
                    and is_suspicious(use.given, data)
                ):
                    form, data = encode_arguments(args, kwargs, use.given, use.hidden)
                    size = len(data)
            except Exception:
                form, data = encode_arguments(args, kwargs, use.given, use.hidden)
                size = len(data)
            call = RecordedCall()
            call.tracer, call.use, call.input = self._tracer, use, (form, data)
            parent: Any = _current()
            call.parent = parent
            number = call.number = next(identity.count)
            if parent is None:
                try:
                    call.trace = _trace_in_stock()
                except IndexError:
                    call.trace = next_trace()
                head, above = use.top, 0
            else:
                call.place_below(parent)
                head, above = use.below | parent.inherited << 16, parent.number
            if size > self._limit:
                form, data = self._tracer.aside(form, data)
                size = len(data)
            if form:
                head |= form << 8
            parts = use.part
            if instance is not None or streams or use.prepares:
                parts += call.prepare(instance, args, kwargs, streams)
            all_of_it = data + parts if parts else data
            journal, fits = self._journal, False
            call.start_ns = start_ns = time_ns()
            segment = journal.segment
            pack, length, room = STARTS[len(all_of_it)]
            try:  # as in `Journal.append`
                segment.at = after if (fits := (after := (at := segment.at) + room) <= segment.direct) else at
                if fits:
                    pack(
                        segment.data, at, length, head, number, above, call.trace, start_ns, size, all_of_it, PUBLISHED
                    )  # fmt: skip
            except BaseException:
                begun = fits and segment.give_up(at, length)
                raise
            if not fits:
                journal.append(pack_start(head, number, above, call.trace, start_ns, size) + all_of_it)
            elif journal.parked:
                journal.wake()
            begun = True
            if streams:
                run.live_streams[number] = call
            else:
                _live[number] = call
            call.started = perf_counter_ns()
            if call.entry is not None:
                from clearstone.checkpoint import policy  # with the first boundary: most programs have none

                # part of the call: what it calls starts later
                entry = call.entry = policy.at_entry(site, instance, start_ns, call)
                if entry.due or entry.durable:
                    call.plain = False  # its input is asked for when it ends
                if entry.wants_entry:
                    policy.save_entry(entry, call)
        except Exception as error:
            faults.report(f"recording a call of {site.key}", error)
            return run.PASSING
        except BaseException:  # a signal handler of the user's that leaves: the call is not made
            if begun:
                call.end(0)
            raise
        return call  # type: ignore[no-any-return]  # made without its class being called


class RecordedCall(LiveSpan):
    """A call that is being recorded: an open span, and what a decorator reports to (see `clearstone.run.OpenCall`)."""

    answer = None
    is_span = True
    use: SiteInUse
    entry: Any = None
    """At an outermost boundary: the agent's state at entry (see `clearstone.checkpoint.policy`)."""

    chunk_count = chunk_bytes = 0

    __init__ = object.__init__  # `Recording.begin` sets what there is

    @property
    def site(self) -> Site:  # type: ignore[override]  # a hand-written span has none
        """What is called."""
        return self.use.site

    @property
    def name(self) -> str:  # type: ignore[override]  # a hand-written span has its own
        """The site's."""
        return self.site.name

    @property
    def span_type(self) -> str:  # type: ignore[override]
        """The site's."""
        return self.site.span_type

    @property
    def called_at(self) -> str:  # type: ignore[override]
        """The line that makes the call."""
        return self.use.called_at

    def prepare(self, instance: Any, args: Any, kwargs: Any, streams: bool) -> bytes:
        """Set what only some calls have; return the parts of the start that say it."""
        site, parts = self.site, b""
        if streams:
            self.chunks, self.plain = [], False
        if site.attributes:
            self.set_attributes(dict(site.attributes))
            parts = self._attribute_part()
        if self.use.marks:
            from clearstone.record import drawing  # where something is kept

            drawing.started(self)
        if site.boundary:
            if self._begins_a_boundary(instance):
                self.entry = True  # taken after the start is recorded
            elif instance is not None:
                from clearstone.checkpoint import policy

                policy.at_inner_call(self, instance)
        if instance is not None or site.record_effects:
            parts += self._watch(instance, args, kwargs)
        return parts

    def _begins_a_boundary(self, instance: Any) -> bool:
        """Whether no boundary is open above it, or it is to count as one of its own all the same."""
        if self.is_outermost:
            return True
        from clearstone.checkpoint import schedule

        return schedule.schedule_of(self.site.key, instance).nested

    def _watch(self, instance: Any, args: Any, kwargs: Any) -> bytes:
        try:
            watch = self.watch = effects.begin(self, instance, args, kwargs)
        except Exception as error:
            faults.report(f"looking at the object of {self.name}", error)
            return b""
        self.instance = watch.instance
        return watch.part

    def streaming(self, kind: run.StreamKind) -> bool:
        """Expect the items of a stream. What the call did to its object it has done: a stream must not keep that."""
        try:
            self._ending()
            self.chunks, self.plain = [], False
            run.live_streams[self.number] = self
            _live.pop(self.number, None)
            self.set_attribute(run.STREAM, kind)
        except Exception as error:
            faults.report(f"recording the stream of {self.name}", error)
        return True

    def awaiting(self) -> bool:
        """Expect what the awaitable gives."""
        self.set_attribute(run.AWAITED, value=True)
        return True

    def chunk(self, value: Any) -> None:
        """Record one item of a stream. Its time is start plus elapsed time, as the end's is: never after the end."""
        at_ns = self.start_ns + perf_counter_ns() - self.started
        if self.inherited:
            return
        try:
            if self.watch is not None:
                effects.pause(self.watch, self.chunk_count)
            form, data = encode(value, self.use.item)
            number = self._keep_chunk(at_ns, form, data)
            form, data = self.tracer.fitting(form, data)
            head = layout.CHUNK.pack(layout.CHUNK_KIND, form, 0, number, self.number, at_ns, len(data))
            self.tracer.journal.append(head + data)
        except Exception as error:
            faults.report(f"recording a chunk of {self.name}", error)

    def resumed(self) -> None:
        """Look at the object again: its consumer may have changed it."""
        try:
            if self.watch is not None:
                effects.resume(self.watch)
        except Exception as error:
            faults.report(f"looking at the object of {self.name}", error)

    def _keep_chunk(self, at_ns: int, form: int, data: bytes) -> int:
        """Keep a chunk at hand for whoever looks at the open span, if they are not many; return its number."""
        if self.chunks is None:
            self.chunks, self.plain = [], False
        self.chunk_bytes += len(data)
        if self.chunk_bytes <= MOST_CHUNK_BYTES:
            self.chunks.append((at_ns, form, data))
        elif self.chunks:
            self.chunks = []  # the journal and the store have them all
        self.chunk_count += 1
        return self.chunk_count - 1

    def returned(self, value: Any) -> None:  # noqa: C901, PLR0912, PLR0915 - as `Recording.begin`
        """Record the returned value and the end."""
        elapsed = perf_counter_ns() - self.started
        try:
            try:
                if type(value) in SCALARS:
                    form, data = PICKLE, _dumps(value, 5)
                else:
                    form, data = PICKLE, _dumps(value, 5, buffer_callback=refuse_buffer)
                size = len(data)
                use = self.use
                if (
                    size > use.innocent_gave
                    and not redact._active.knows(use.gave, data)
                    and is_suspicious(use.gave, data)
                ):
                    form, data = encode(value, use.gave)
                    size = len(data)
            except Exception:
                form, data = encode(value, self.use.gave)
                size = len(data)
            entry = self.entry
            if self.watch is not None or entry is not None:
                self._ending()
            if self.plain and not self.inherited:
                number, end_ns, tracer = self.number, self.start_ns + elapsed, self.tracer
                _live.pop(number, None)
                if size > tracer.payload_limit:
                    form, data = tracer.aside(form, data)
                    size = len(data)
                head = RETURNED | form << 8 if form else RETURNED
                journal, fits = tracer.journal, False
                segment = journal.segment
                pack, length, room = ENDS[size]
                try:  # as in `Journal.append`
                    segment.at = after if (fits := (after := (at := segment.at) + room) <= segment.direct) else at
                    if fits:
                        pack(segment.data, at, length, head, number, end_ns, size, data, PUBLISHED)
                except BaseException:
                    if fits:
                        segment.give_up(at, length)
                    self.output = form, data  # for the end that comes now
                    raise
                if not fits:
                    journal.append(pack_end(head, number, end_ns, size) + data)
                elif journal.parked:
                    journal.wake()
                self.end_ns, self.input = end_ns, None
            else:
                self.output = form, data
                self.end(elapsed)
                self._exited(entry)
        except Exception as error:
            faults.report(f"recording the result of {self.name}", error)
            self.output = None
            self.end(elapsed)
        except BaseException:  # a signal handler of the user's that leaves
            self.end(elapsed)
            raise

    def raised(self, error: BaseException) -> None:
        """Record the exception and end the span; a boundary saves its checkpoint."""
        elapsed, entry = perf_counter_ns() - self.started, self.entry
        try:
            self._ending()
            self.fail(error)
            self.end(elapsed)
            if entry is not None:
                from clearstone.checkpoint import policy

                if policy.counts(error):
                    policy.at_failure(entry, self, error)
                else:
                    self._exited(entry)
        except Exception as fault:
            faults.report(f"recording the failure of {self.name}", fault)
        finally:
            self.end(elapsed)
            self.input = self.failure = None

    def closed(self) -> None:
        """End the span of a stream that its consumer closed early."""
        entry = self.entry
        try:
            self.complete = False
            self._ending()
            self.end()
            self._exited(entry)
        except Exception as error:
            faults.report(f"recording the end of {self.name}", error)
        finally:
            self.end()

    def _exited(self, entry: Any) -> None:
        """Save the checkpoint of a boundary that ended without a failure, if one is due."""
        if entry is not None and entry.wants_exit:
            from clearstone.checkpoint import policy

            policy.at_exit(entry, self)

    def _ending(self) -> None:
        """Take down what the call did; what was kept for that is let go of, also where it fails."""
        watch, self.watch, self.entry = self.watch, None, None
        if watch is not None:
            self.effects = effects.end(watch)
            self.plain = self.plain and self.effects is None
