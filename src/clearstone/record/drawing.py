"""What is drawn in recorded calls: which span keeps it, and where the global generators stood.

Idea: what a call draws that runs again in a replay is kept with its span (`clearstone.nondet.drawn.Log`). A served call
does not run again, and draws nothing then; where the global generators stand when it has ended is kept instead, if they
have moved. So they are where a step starts, for the code between two steps draws too.

Invariant: a state is kept once: where it is that of the mark before, a replay has it already. A boundary has its own in
any case, because a replay begins there.

What is not exact: numbers of the global generators that threads draw at one time, and tasks in the middle of a step
while an outside call of another task draws some. There is one of each generator in a process, and who came first is not
kept.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from clearstone.errors import ConfigurationError
from clearstone.nondet import generators
from clearstone.nondet.drawn import KINDS, Log
from clearstone.record import faults

if TYPE_CHECKING:
    from clearstone.nondet.drawn import Kind
    from clearstone.record.live_span import LiveSpan
    from clearstone.record.recording import RecordedCall

_lock = threading.RLock()
_numbers = itertools.count(1)
_marked: dict[str, bytes] = {}
"""The states that were kept last, by generator."""


def kinds_of(names: Any) -> frozenset[Kind]:
    """Return what is to be kept.

    Raises:
        ConfigurationError: it is none of `KINDS`.
    """
    given = (names,) if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
    for name in given:
        if name not in KINDS:
            known = ", ".join(map(repr, KINDS))
            raise ConfigurationError(f"record={names!r} holds {name!r}, which is none of {known}")
    return frozenset(given)


def log_for(span: LiveSpan) -> Log | None:
    """Return where what is drawn in a span is kept: with the nearest decorated call that runs again in a replay.

    None where nothing is to be kept, or a replay does not come to it because an outside call above is answered.
    """
    kinds = span.tracer.provider.kept
    step = _step_of(span) if kinds else None
    if step is None or step is not span:
        return step.draws() if step is not None else None
    span.log, span.plain = Log(kinds), False
    return span.log


def _step_of(span: Any) -> LiveSpan | None:
    """Return the nearest decorated call, from a span upwards; None below an outside one."""
    step: LiveSpan | None = None
    while span is not None:
        if span.site is not None and span.site.replay == "serve":
            return None
        step = span if step is None and span.site is not None else step
        span = span.parent
    return step


def started(call: RecordedCall) -> None:
    """Keep where the generators stand at the start of a step; expect that of an outside call at its end."""
    if call.site.replay == "run":
        log = call.draws()
        if log is not None:
            _mark(call, log, always=call.site.boundary)
    elif call.parent is not None and call.parent.draws() is not None:
        call.log, call.plain = Log(frozenset()), False


def ended(call: Any, log: Log) -> None:
    """Keep where the generators stand at the end of an outside call."""
    if call.site.replay == "serve" and "random" in call.tracer.provider.kept:
        _mark(call, log)


def _mark(call: RecordedCall, log: Log, *, always: bool = False) -> None:
    try:
        with _lock:  # or a state that was looked at before would have a later number
            for name, state in generators.states().items():
                if always or _marked.get(name) != state:
                    log.states[name] = _marked[name] = state
                    log.order = next(_numbers)
    except Exception as error:  # the library is another one than is known here
        faults.report(f"looking at the generators in {call.name}", error)


def _new_lock_in_child() -> None:
    global _lock  # noqa: PLW0603 - one process, one lock: the parent's may be another thread's
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock_in_child)
