"""Checkpoints made: an agent's state with all that is told beside it."""

from __future__ import annotations

import datetime as dt
import os
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from clearstone import nondet, run
from clearstone.checkpoint import state
from clearstone.checkpoint.environment import current, known
from clearstone.checkpoint.model import Checkpoint
from clearstone.codec import payload
from clearstone.errors import TraceNotFoundError
from clearstone.span import MAIN_NAMES

if TYPE_CHECKING:
    from clearstone.checkpoint.fingerprints import Fingerprint
    from clearstone.span import Payload, Span, Trace


def checkpoint_of(agent: Any, trace: Trace, span_id: str, taken_ns: int) -> Checkpoint:
    """Take a checkpoint of an agent as it is now.

    Args:
        agent: any object.
        trace: the trace so far.
        span_id: a span of it.
        taken_ns: now, nanoseconds since the epoch.

    Raises:
        TraceNotFoundError: the trace has no such span.
        StateError: the agent's state cannot be taken.
    """
    span = trace.span(span_id)
    if span is None:
        raise TraceNotFoundError(
            f"trace {trace.trace_id} has no span {span_id!r}; get the trace again after that span has ended"
        )
    above: Any = run.current_span.get()
    others = above.others_on(agent) if above is not None and not above.inherited else ()
    taken = state.take(agent)
    taken = replace(taken, concurrent=tuple(dict.fromkeys((*others, *taken.concurrent))))
    return new_checkpoint(agent, taken, trace=trace, span=span, taken_ns=taken_ns, random_state=random.getstate())


_classes: WeakKeyDictionary[type, Payload] = WeakKeyDictionary()


def _class_of(agent: Any, *, fresh: bool) -> Payload:
    cls = type(agent)
    if fresh or cls not in _classes:
        _classes[cls] = payload.dump(cls)  # a class of a script is pickled with its code
    return _classes[cls]


def new_checkpoint(
    agent: Any,
    taken: state.AgentState,
    *,
    trace: Trace,
    span: Span,
    taken_ns: int,
    fresh: bool = True,
    with_code: bool = True,
    **more: Any,
) -> Checkpoint:
    """Return a checkpoint of a state that has been taken.

    Args:
        agent: the object whose state it is; None for a function.
        taken: its state.
        trace: the spans so far.
        span: the span it was taken at.
        taken_ns: when the state was taken, nanoseconds since the epoch.
        fresh: whether its environment and class are looked at now; else they may be what the last one of this process
            says.
        with_code: whether it says what the code was.
        **more: further fields of `Checkpoint`.
    """
    cls, environment = type(agent), current() if fresh else known()
    module = cls.__module__ if agent is not None else span.site.partition(":")[0]
    recorded = getattr(run.override.get(), "environment", None)
    if module in MAIN_NAMES and recorded is not None:  # a fork: the script is the one that is replayed
        module, environment = "__main__", environment.running(recorded)
    fields = {
        "checkpoint_id": f"ckpt_{os.urandom(6).hex()}",
        "created_ns": nondet.real_time_ns(),  # a fork of a replay has another time
        "agent_class_name": cls.__qualname__ if agent is not None else "",
        "agent_module": module,
        "agent_class": _class_of(agent, fresh=fresh) if agent is not None else None,
        **more,
    }
    return Checkpoint(
        trace=trace,
        span_id=span.span_id,
        timestamp=utc(taken_ns),
        version=span.tracer_version,
        state=taken,
        environment=environment,
        code=_code(agent, trace) if with_code else (),
        **fields,
    )


def _code(agent: Any, trace: Trace) -> tuple[Fingerprint, ...]:
    from clearstone.checkpoint.fingerprints import fingerprints_of  # with all that reads source

    sites = {span.site for span in trace if span.site}
    return fingerprints_of(type(agent) if agent is not None else None, sites)


def utc(time_ns: int) -> dt.datetime:
    """Return a moment, to the microsecond.

    Args:
        time_ns: nanoseconds since the epoch.
    """
    seconds, nanoseconds = divmod(time_ns, 10**9)
    return dt.datetime.fromtimestamp(seconds, dt.UTC).replace(microsecond=nanoseconds // 1000)
