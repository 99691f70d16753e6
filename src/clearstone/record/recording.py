"""The Run that proceeds and remembers: each decorated call becomes a span of one provider.

Idea: `begin` serialises the arguments and stores the span as open, the `OpenCall` it returns serialises what comes out
and stores the span as ended. Calls of boundaries also hold the agent's state at entry, for the case that they fail.

Invariant: a fault in here is counted and the user's call goes on: `begin` then gives a call that records nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from clearstone import run
from clearstone.checkpoint import policy
from clearstone.codec import payload
from clearstone.codec.arguments import dump_arguments
from clearstone.record import faults
from clearstone.record.tracer import LiveSpan, Tracer
from clearstone.span import Chunk

if TYPE_CHECKING:
    from contextvars import Token

    from clearstone.record.provider import TracerProvider


class Recording:
    """Records decorated calls into `provider` (see `clearstone.run.Run`)."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = Tracer(provider)

    def begin(self, call: run.BoundCall, tracer: Tracer | None = None) -> run.OpenCall:
        """Open a span for `call`; never raises for the recorder's sake.

        Args:
            call: the call about to be made.
            tracer: the tracer its span belongs to; None for the provider's nameless one.
        """
        try:
            return self._begin(call, tracer or self._tracer)
        except Exception as error:
            faults.report(f"recording a call of {call.site.key}", error)
            return run.PASSING

    def _begin(self, call: run.BoundCall, tracer: Tracer) -> RecordedCall:
        site, parent = call.site, run.current_span.get()
        span = LiveSpan(tracer, site.name, site.span_type, parent, site)
        span.input = dump_arguments(call.args, call.kwargs)
        if call.streams:
            span.chunks = []
        span.start()
        outermost = site.boundary and not (parent is not None and parent.in_boundary)
        return RecordedCall(span, policy.at_entry(call, span.start_ns) if outermost else None)


class RecordedCall:
    """A call that is being recorded (see `clearstone.run.OpenCall`)."""

    answer = None

    def __init__(self, span: LiveSpan, entry: policy.Entry | None) -> None:
        self._span = span
        self._entry = entry

    def enter(self) -> Token[run.OpenSpan | None]:
        """Make this call's span the current one."""
        return run.current_span.set(self._span)

    def leave(self, token: Token[run.OpenSpan | None]) -> None:
        """Make the caller's span current again."""
        run.leave(token, self._span.parent)

    def chunk(self, value: Any) -> None:
        """Record one item of a stream."""
        try:
            if self._span.chunks is not None:
                self._span.chunks.append(Chunk(time.time_ns(), payload.dump(value)))
        except Exception as error:
            faults.report(f"recording a chunk of {self._span.name}", error)

    def returned(self, value: Any) -> None:
        """Record the returned value and end the span."""
        try:
            self._span.output = payload.dump(value)
            self._span.end()
        except Exception as error:
            faults.report(f"recording the result of {self._span.name}", error)

    def raised(self, error: BaseException) -> None:
        """Record the exception and end the span; a boundary saves its checkpoint."""
        try:
            self._span.fail(error)
            self._span.end()
            if self._entry is not None and policy.counts(error):
                policy.at_failure(self._entry, self._span.snapshot(), self._span.trace_so_far(), error)
        except Exception as fault:
            faults.report(f"recording the failure of {self._span.name}", fault)

    def closed(self) -> None:
        """End the span of a stream that its consumer closed early."""
        try:
            self._span.complete = False
            self._span.end()
        except Exception as error:
            faults.report(f"recording the end of {self._span.name}", error)
