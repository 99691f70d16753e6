"""Checkpoints that are taken by themselves: when an exception leaves the outermost boundary, and when one is due.

Idea: at entry of an outermost `@checkpointable` call the agent's state is serialised and kept in memory; if an
exception leaves that call, the state goes to disk with the call, the trace so far and the exception. If none does, it
is dropped, unless the boundary's schedule (`checkpoint.schedule`) says that the call is due at its entry or its exit.

Invariant: nothing here changes what the user's call gives. A snapshot that fails is said in one line on standard
error, and the user's own exception goes on.

Refused: a checkpoint at the raise, by a trace hook (the state is half changed there, and every line would cost).
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearstone import home, notice, run
from clearstone.checkpoint import container, state
from clearstone.checkpoint.frames import frames_of
from clearstone.checkpoint.manager import SUFFIX, CheckpointManager, new_checkpoint
from clearstone.checkpoint.model import TakenCall
from clearstone.checkpoint.schedule import ON_ERROR, Schedule, is_due, schedule_of
from clearstone.codec.exceptions import dump_exception
from clearstone.errors import CheckpointError
from clearstone.span import MAIN_NAMES

if TYPE_CHECKING:
    from clearstone.checkpoint.frames import Frame
    from clearstone.checkpoint.model import Checkpoint, Moment
    from clearstone.span import Payload, Site, Span, Trace

KEPT_PER_FAILURE = 20
"""Of identical failures (same type, same raising line) the newest so many files are kept."""


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
    """

    agent: Any
    site: str
    taken: state.AgentState
    taken_ns: int
    random_state: tuple[Any, ...]
    problem: str = ""
    schedule: Schedule = ON_ERROR
    due: bool = False

    @property
    def wants_exit(self) -> bool:
        """Whether the call is saved when it ends, though it does not fail."""
        return self.due and self.schedule.at_exit


Others = Callable[[Any], tuple[str, ...]]
"""Gives the names of calls at work on an object, besides the one that asks."""


def at_entry(site: Site, instance: Any, taken_ns: int, others: Others) -> Entry:
    """Take the state of the agent that a call of `site` is bound to. Never raises for its sake."""
    agent, key = (None, _on_class(site, instance)) if isinstance(instance, type) else (instance, site.key)
    schedule, problem = schedule_of(site.key, instance), ""
    with run.suspended():
        due = is_due(schedule, site.key, agent)
    try:
        taken = _take(agent, others, at_entry=True) if agent is not None else state.NO_STATE
    except (Exception, SystemExit) as error:
        taken, problem = state.NO_STATE, f"{type(error).__name__}: {error}"
    return Entry(agent, key, taken, taken_ns, random.getstate(), problem, schedule, due)


def save_entry(entry: Entry, span: Callable[[], Span], trace: Callable[[], Trace]) -> None:
    """Save a call that is due at its entry. Never raises for its sake.

    Args:
        entry: what `at_entry` took.
        span: gives the boundary's span as it is now.
        trace: gives every span so far.
    """
    if entry.due and entry.schedule.at_entry:
        _save_due(entry, span(), trace(), "entry", None)


def at_exit(entry: Entry, span: Span, trace: Trace, others: Others) -> None:
    """Save a call that is due at its exit and did not fail. Never raises for its sake.

    Args:
        entry: what `at_entry` took.
        span: the boundary's span, ended.
        trace: every span so far.
        others: who else is at work on an object.
    """
    _save_due(entry, span, trace, "exit", _state_now(entry.agent, others))


def _save_due(entry: Entry, span: Span, trace: Trace, moment: Moment, now: state.AgentState | None) -> None:
    try:
        _require_state(entry)
        mark = _mark(f"{entry.site} {moment}")
        checkpoint = _checkpoint(entry, span, trace, mark, moment=moment, state_at_end=now)
        home.ensure_home()
        folder = home.checkpoint_folder()
        CheckpointManager(folder).save_checkpoint(checkpoint)
        _prune(entry.schedule, folder, trace.trace_id, mark, moment)
    except Exception as problem:
        notice.say(f"no checkpoint at the {moment} of {span.site}: {type(problem).__name__}: {problem}")


def _prune(schedule: Schedule, folder: Path, trace_id: str, mark: str, moment: Moment) -> None:
    """Remove what is older than is to be kept: of this trace, and of runs that did not fail."""
    if schedule.keep is not None:
        _keep_newest(folder, f"{trace_id}_ckpt_{mark}*{SUFFIX}", schedule.keep)
    if moment == "exit" and schedule.keep_runs:
        _keep_newest(folder, f"*_ckpt_{mark}*{SUFFIX}", schedule.keep_runs)


def _keep_newest(folder: Path, pattern: str, count: int) -> None:
    for _, _, old in _found(folder, pattern)[count:]:
        with contextlib.suppress(OSError):  # another process removed it, or may
            old.unlink()


def _on_class(site: Site, cls: type) -> str:
    module = site.key.partition(":")[0] if cls.__module__ in MAIN_NAMES else cls.__module__
    return f"{module}:{cls.__qualname__}.{site.key.rpartition('.')[2]}"


def _take(agent: Any, others: Others, *, at_entry: bool = False) -> state.AgentState:
    before = others(agent)
    with run.suspended():  # a get_state that calls decorated methods records nothing
        taken = state.take(agent, at_entry=at_entry)
    who = dict.fromkeys((*before, *others(agent), *taken.concurrent))
    return replace(taken, concurrent=tuple(who)) if who else taken


def counts(error: BaseException) -> bool:
    """Whether leaving a boundary with `error` is a failure to keep."""
    return isinstance(error, Exception | KeyboardInterrupt)


def at_failure(entry: Entry, span: Span, trace: Trace, error: BaseException, others: Others) -> None:
    """Save a checkpoint of a call that failed, and say in one line where it is. Never raises for its sake.

    Args:
        entry: what `at_entry` took.
        span: the boundary's span, ended.
        trace: every span so far.
        error: the exception that leaves the call.
        others: who else is at work on an object.
    """
    try:
        path = _save(entry, span, trace, error, others)
    except Exception as problem:
        notice.say(f"no checkpoint of the failed {span.site}: {type(problem).__name__}: {problem}")
    else:
        notice.say(
            f"{span.name} failed with {type(error).__name__}; checkpoint {_short(path)}; next: clearstone debug latest"
        )


def _save(entry: Entry, span: Span, trace: Trace, error: BaseException, others: Others) -> Path:
    _require_state(entry)
    failure = dump_exception(error)
    home.ensure_home()
    folder = home.checkpoint_folder()
    signature = _mark(f"{failure.type_name}@{failure.raised_at}")
    earlier = _found(folder, f"*_ckpt_{signature}*{SUFFIX}")
    seen = max((occurrences for _, occurrences, _ in earlier), default=0)
    checkpoint = _checkpoint(
        entry,
        span,
        trace,
        signature,
        moment="failure",
        failure=failure,
        state_at_end=_state_now(entry.agent, others),
        stack=_stack(error),
    )
    path = CheckpointManager(folder).save_checkpoint(replace(checkpoint, occurrences=seen + 1))
    for _, _, old in earlier[KEPT_PER_FAILURE - 1 :]:
        with contextlib.suppress(OSError):  # another process removed it, or may
            old.unlink()
    return path


def _require_state(entry: Entry) -> None:
    if entry.problem:
        raise CheckpointError(f"its state at entry could not be taken ({entry.problem})")


def _checkpoint(entry: Entry, span: Span, trace: Trace, mark: str, **more: Any) -> Checkpoint:
    """Return a checkpoint of a call; its id begins with `mark`, by which others of its kind are found."""
    method = span.site.rpartition(".")[2] if entry.agent is not None else ""
    return new_checkpoint(
        entry.agent,
        entry.taken,
        trace=trace,
        span=span,
        taken_ns=entry.taken_ns,
        checkpoint_id=f"ckpt_{mark}{os.urandom(4).hex()}",
        random_state=entry.random_state,
        call=TakenCall(entry.site, method, _input(span)),
        **more,
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


def _state_now(agent: Any, others: Others) -> state.AgentState | None:
    try:
        return _take(agent, others) if agent is not None else None
    except (Exception, SystemExit) as error:
        notice.say(f"the state at the end could not be taken: {type(error).__name__}: {error}")
        return None


def _mark(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]


def _found(folder: Path, pattern: str) -> list[tuple[int, int, Path]]:
    """When each checkpoint was made, which occurrence it is, and its file; newest first."""
    found = []
    for path in folder.glob(pattern):
        try:
            summary = container.read_header(path).summary
            if type(summary["created_ns"]) is int and type(summary["occurrences"]) is int:
                found.append((summary["created_ns"], summary["occurrences"], path))
        except (CheckpointError, KeyError):
            continue  # another process removed it, or it is torn or foreign
    return sorted(found, reverse=True)


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
