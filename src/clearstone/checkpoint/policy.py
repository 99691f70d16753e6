"""Checkpoints that are taken by themselves: when an exception leaves the outermost boundary, and when one is due.

Idea: at entry of an outermost `@checkpointable` call the agent's state is serialised and kept in memory; if an
exception leaves that call, the state goes to disk with the call, the trace so far and the exception. If none does, it
is dropped, unless the boundary's schedule (`checkpoint.schedule`) says that the call is due at its entry or its exit.

Invariant: nothing here changes what the user's call gives. A snapshot that fails is said in one line on standard
error, and the user's own exception goes on.

Refused: a checkpoint at the raise, by a trace hook (the state is half changed there, and every line would cost).
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from clearstone import notice, run
from clearstone.checkpoint import budget, keeping, packs, seen, state
from clearstone.checkpoint.budget import Kept
from clearstone.checkpoint.frames import frames_of
from clearstone.checkpoint.keeping import KEPT_PER_FAILURE
from clearstone.checkpoint.making import new_checkpoint
from clearstone.checkpoint.model import EarlierCall, TakenCall
from clearstone.checkpoint.schedule import ON_ERROR, Schedule, is_due, schedule_of
from clearstone.checkpoint.takers import taker_of
from clearstone.codec.exceptions import dump_exception
from clearstone.errors import CheckpointError
from clearstone.span import MAIN_NAMES, Trace

if TYPE_CHECKING:
    from clearstone.checkpoint.frames import Frame
    from clearstone.checkpoint.model import Checkpoint, Moment
    from clearstone.run import OpenSpan
    from clearstone.span import Payload, Site, Span


@dataclass(frozen=True, slots=True)
class Entry:
    """What was taken when an outermost boundary was entered.

    Args:
        agent: the object the call is bound to; None for a function, a classmethod or a staticmethod.
        site: where the callable is found again; a classmethod's on the class it was called on.
        taken: its state at entry.
        taken_ns: when, nanoseconds since the epoch.
        random_state: ``random.getstate()`` at entry.
        problem: why there is no state, if taking it failed.
        schedule: what the call follows.
        due: whether it is due.
        earlier: the calls since `taken`, oldest first, where that is not from the entry of this call.
        durable: the id of the checkpoint that is on the disk while the call runs; empty where none is to be.
    """

    agent: Any
    site: str
    taken: state.AgentState
    taken_ns: int
    random_state: tuple[Any, ...]
    problem: str = ""
    schedule: Schedule = ON_ERROR
    due: bool = False
    earlier: tuple[EarlierCall, ...] = ()
    durable: str = ""

    @property
    def wants_entry(self) -> bool:
        """Whether something is to be done before the call's code runs."""
        return bool(self.durable) or (self.due and self.schedule.at_entry)

    @property
    def wants_exit(self) -> bool:
        """Whether something is to be done when the call ends, though it does not fail."""
        return bool(self.durable) or (self.due and self.schedule.at_exit)


def at_entry(site: Site, instance: Any, taken_ns: int, call: OpenSpan) -> Entry:
    """Take the state of the agent that a call is bound to. Never raises for its sake.

    Args:
        site: the call's.
        instance: the object or class it is bound to; None for a function.
        taken_ns: when it began, nanoseconds since the epoch.
        call: the call, open.
    """
    agent, key = (None, _on_class(site, instance)) if isinstance(instance, type) else (instance, site.key)
    schedule = schedule_of(site.key, instance)
    with run.suspended():
        due = is_due(schedule, site.key, agent)
    durable = f"ckpt_{_mark(f'{key} unfinished')}{os.urandom(4).hex()}" if schedule.entry == "durable" else ""
    entry = Entry(agent, key, state.NO_STATE, taken_ns, (), "", schedule, due, (), durable)
    try:
        return _from_kept(entry, call) if agent is not None else replace(entry, random_state=random.getstate())
    except (Exception, SystemExit) as error:
        return replace(entry, random_state=random.getstate(), problem=f"{type(error).__name__}: {error}")


def _from_kept(entry: Entry, call: OpenSpan) -> Entry:
    """Return an entry with the state as it is now, or where the budget has no room for it, with the last one.

    A call inside another one cannot do with an earlier state: the calls since are not over. It goes without.
    """
    taker, kept = taker_of(entry.agent), None
    if not budget.ledger.allows(entry.schedule.budget, taker.cost_ns):
        budget.ledger.say_once(entry.site, entry.schedule.budget)
        if not call.is_outermost:
            return replace(entry, due=False, durable="", problem="the time budget left no room for it")
        kept = taker.kept if taker.kept is not None and taker.kept.can_be_made_again else None
    if kept is None:
        begun, now = perf_counter_ns(), random.getstate()
        if call.is_outermost:
            taker.kept = None  # if it cannot be taken, this call is one that no replay makes again
        kept = Kept(_take(entry.agent, call, at_entry=True), entry.taken_ns, now)
        taker.cost_ns = budget.ledger.spend(begun)
        taker.kept = kept if call.is_outermost else taker.kept
    earlier = tuple(each for _, each in kept.calls)
    if call.is_outermost:
        own = _as_earlier(entry, call)
        if own is None:
            taker.kept = None  # no replay could make this call again
        else:
            kept.calls.append((call, own))
    return replace(entry, taken=kept.taken, taken_ns=kept.taken_ns, random_state=kept.random_state, earlier=earlier)


def _as_earlier(entry: Entry, call: OpenSpan) -> EarlierCall | None:
    """Return a call as a later one's replay makes it; None where it cannot: by name, with all its arguments."""
    method, given = entry.site.rpartition(".")[2], call.given()
    site = run.site_of(getattr(type(entry.agent), method, None))
    is_whole = given is not None and given.codec != "stand-in" and b"Unpicklable" not in given.data
    if given is None or not is_whole or site is None or site.key != entry.site:
        return None
    return EarlierCall(method, given, call.trace_id, call.span_id)


def at_inner_call(call: OpenSpan, agent: Any) -> None:
    """Note a boundary's call that is not the outermost: it may change an agent that none of those above is bound to.

    Such a call is recorded nowhere as one of that agent's, so what comes later must not start from before it.
    """
    span: Any = call
    while span is not None:
        entry = getattr(span, "entry", None)
        if getattr(entry, "agent", None) is agent:
            return
        span = getattr(span, "parent", None)
    taker_of(agent).kept = None


def save_entry(entry: Entry, call: OpenSpan) -> None:
    """Save a call at its entry: while it runs, and where it is due. Never raises for its sake."""
    if entry.durable:
        _save_due(entry, call, "unfinished", checkpoint_id=entry.durable)
    if entry.due and entry.schedule.at_entry:
        _save_due(entry, call, "entry")


def at_exit(entry: Entry, call: OpenSpan) -> None:
    """Save a call that has ended and did not fail, where it is due. Never raises for its sake."""
    if entry.due and entry.schedule.at_exit:
        _save_exit(entry, call)
    _end_durable(entry)


def _save_exit(entry: Entry, call: OpenSpan) -> None:
    share = entry.schedule.budget
    if budget.ledger.allows(share, taker_of(entry.agent).cost_ns if entry.agent is not None else 0):
        _save_due(entry, call, "exit", state_at_end=_state_now(entry.agent, call))
    else:
        budget.ledger.say_once(entry.site, share)


def _end_durable(entry: Entry) -> None:
    if not entry.durable:
        return
    try:
        packs.let_go(entry.durable)
    except Exception as problem:
        notice.say(f"checkpoint {entry.durable} cannot be removed, though {entry.site} ended: {problem}")


def at_signal(entry: Entry, call: OpenSpan, name: str, stack: tuple[Frame, ...]) -> bool:
    """Save a call that a signal has interrupted; return whether it could be. Never raises for its sake.

    Args:
        entry: what `at_entry` took.
        call: the call, open.
        name: the signal's.
        stack: the frames that the signal interrupted, if they are the call's.
    """
    now = _state_now(entry.agent, call)
    return _save_due(entry, call, "signal", state_at_end=now, metadata={"signal": name}, stack=stack)


def _save_due(entry: Entry, call: OpenSpan, moment: Moment, **more: Any) -> bool:
    schedule = entry.schedule
    whole = moment == "signal" or (moment == "exit" and call.is_outermost)
    mark = _mark(f"{entry.site} {moment}")
    try:
        _require_state(entry)
        checkpoint = _checkpoint(entry, call, mark, moment=moment, knows_trace=whole, **more)
        keep, sync = _keep(schedule, moment), moment == "signal"
        path = keeping.save(checkpoint, call, knows_trace=whole, mark=mark, keep=keep, sync=sync)
        if moment == "exit" and schedule.keep_runs:
            keeping.keep_newest(mark, path, checkpoint.checkpoint_id, schedule.keep_runs)
    except Exception as problem:
        when = "entry" if moment == "unfinished" else moment
        notice.say(f"no checkpoint at the {when} of {entry.site}: {type(problem).__name__}: {problem}")
        return False
    return True


def _keep(schedule: Schedule, moment: Moment) -> int | None:
    """Return how many of a kind are kept in one trace; those of calls that have not ended go by themselves."""
    limits = {"entry": [schedule.keep], "exit": [schedule.keep, schedule.keep_runs], "signal": [schedule.keep]}
    return min((each for each in limits.get(moment, []) if each), default=None)


def _on_class(site: Site, cls: type) -> str:
    module = site.key.partition(":")[0] if cls.__module__ in MAIN_NAMES else cls.__module__
    return f"{module}:{cls.__qualname__}.{site.key.rpartition('.')[2]}"


def _take(agent: Any, call: OpenSpan, *, at_entry: bool = False) -> state.AgentState:
    before = call.others_on(agent)
    with run.suspended():  # a get_state that calls decorated methods records nothing
        taken = state.take(agent, at_entry=at_entry)
    who = dict.fromkeys((*before, *call.others_on(agent), *taken.concurrent))
    return replace(taken, concurrent=tuple(who)) if who else taken


def counts(error: BaseException) -> bool:
    """Whether leaving a boundary with `error` is a failure to keep."""
    return isinstance(error, Exception | KeyboardInterrupt)


def at_failure(entry: Entry, call: OpenSpan, error: BaseException) -> None:
    """Save a checkpoint of a call that failed, and say in one line where it is. Never raises for its sake.

    Args:
        entry: what `at_entry` took.
        call: the call, ended.
        error: the exception that leaves it.
    """
    try:
        checkpoint, path = _save(entry, call, error)
    except Exception as problem:
        notice.say(f"no checkpoint of the failed {entry.site}: {type(problem).__name__}: {problem}")
    else:
        notice.say(
            f"{call.name} failed with {type(error).__name__}; checkpoint {checkpoint} in {_short(path)}; next: "
            f"clearstone debug {checkpoint if _fork_of() else 'latest'}"
        )


def _fork_of() -> str:
    """Return the checkpoint that what runs here is a fork of; empty where it is none (see `clearstone.whatif`)."""
    return getattr(run.override.get(), "fork_of", "")


def _mark(kind: str) -> str:
    """Return the mark of a kind (see `seen`). Forks have their own: they are none of a failure's occurrences."""
    return seen.mark_of(f"fork: {kind}" if _fork_of() else kind)


def _save(entry: Entry, call: OpenSpan, error: BaseException) -> tuple[str, Path]:
    _require_state(entry)
    failure = dump_exception(error)
    mark = _mark(f"{failure.type_name}@{failure.raised_at}")
    checkpoint = _checkpoint(
        entry,
        call,
        mark,
        moment="failure",
        failure=failure,
        state_at_end=_state_now(entry.agent, call),
        stack=_stack(error),
        occurrences=1 + keeping.count(mark),
    )
    path = keeping.save(checkpoint, call, mark=mark, keep=KEPT_PER_FAILURE, sync=True)
    _end_durable(entry)
    keeping.keep_newest(mark, path, checkpoint.checkpoint_id, KEPT_PER_FAILURE)
    return checkpoint.checkpoint_id, path


def _require_state(entry: Entry) -> None:
    if entry.problem:
        raise CheckpointError(f"its state at entry could not be taken ({entry.problem})")


def _checkpoint(entry: Entry, call: OpenSpan, mark: str, *, knows_trace: bool = True, **more: Any) -> Checkpoint:
    """Return a checkpoint of a call; its id begins with `mark`, by which others of its kind are found."""
    span = call.snapshot()
    trace = keeping.trace_of(call, span, knows_trace=knows_trace)
    if trace.span(span.span_id) is None:  # in a forked child: the span is its parent's
        trace = trace.merged(Trace(trace.trace_id, (span,)))
    if knows_trace or None in call.databases:
        for other in dict.fromkeys(each.trace_id for each in entry.earlier):
            trace = trace.merged(call.trace_so_far(other))
    method = span.site.rpartition(".")[2] if entry.agent is not None else ""
    metadata = {**more.pop("metadata", {}), **({"fork_of": _fork_of()} if _fork_of() else {})}
    return new_checkpoint(
        entry.agent,
        entry.taken,
        trace=trace,
        span=span,
        taken_ns=entry.taken_ns,
        fresh=knows_trace,
        with_code=knows_trace or bool(entry.durable),
        random_state=entry.random_state,
        call=TakenCall(entry.site, method, _input(span)),
        earlier=entry.earlier,
        metadata=metadata,
        **{"checkpoint_id": f"ckpt_{mark}{os.urandom(4).hex()}", **more},
    )


def _stack(error: BaseException) -> tuple[Frame, ...]:
    try:
        return frames_of(error)
    except Exception as problem:
        notice.say(f"the frames of the failure could not be taken: {type(problem).__name__}: {problem}")
        return ()


def _input(span: Span) -> Payload:
    if span.input is None:
        raise CheckpointError("its arguments were not recorded")
    return span.input


def _state_now(agent: Any, call: OpenSpan) -> state.AgentState | None:
    begun = perf_counter_ns()
    try:
        return _take(agent, call) if agent is not None else None
    except (Exception, SystemExit) as error:
        notice.say(f"the state at the end could not be taken: {type(error).__name__}: {error}")
        return None
    finally:
        budget.ledger.spend(begun)


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
