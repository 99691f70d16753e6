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
    from clearstone.run import OpenSpan
    from clearstone.span import Payload, Site, Span

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
    def wants_entry(self) -> bool:
        """Whether the call is saved before its code runs."""
        return self.due and self.schedule.at_entry

    @property
    def wants_exit(self) -> bool:
        """Whether the call is saved when it ends, though it does not fail."""
        return self.due and self.schedule.at_exit


def at_entry(site: Site, instance: Any, taken_ns: int, call: OpenSpan) -> Entry:
    """Take the state of the agent that a call is bound to. Never raises for its sake.

    Args:
        site: the call's.
        instance: the object or class it is bound to; None for a function.
        taken_ns: when it began, nanoseconds since the epoch.
        call: the call, open.
    """
    agent, key = (None, _on_class(site, instance)) if isinstance(instance, type) else (instance, site.key)
    schedule, problem = schedule_of(site.key, instance), ""
    with run.suspended():
        due = is_due(schedule, site.key, agent)
    try:
        taken = _take(agent, call, at_entry=True) if agent is not None else state.NO_STATE
    except (Exception, SystemExit) as error:
        taken, problem = state.NO_STATE, f"{type(error).__name__}: {error}"
    return Entry(agent, key, taken, taken_ns, random.getstate(), problem, schedule, due)


def save_entry(entry: Entry, call: OpenSpan) -> None:
    """Save a call that is due at its entry. Never raises for its sake."""
    _save_due(entry, call, "entry")


def at_exit(entry: Entry, call: OpenSpan) -> None:
    """Save a call that is due at its exit, has ended and did not fail. Never raises for its sake."""
    _save_due(entry, call, "exit")


def _save_due(entry: Entry, call: OpenSpan, moment: Moment) -> None:
    try:
        _require_state(entry)
        mark = _mark(f"{entry.site} {moment}")
        now = _state_now(entry.agent, call) if moment == "exit" else None
        checkpoint = _checkpoint(entry, call, mark, moment=moment, state_at_end=now)
        folder = _folder()
        CheckpointManager(folder).save_checkpoint(checkpoint)
        _prune(entry.schedule, folder, checkpoint.trace.trace_id, mark, moment)
    except Exception as problem:
        notice.say(f"no checkpoint at the {moment} of {entry.site}: {type(problem).__name__}: {problem}")


def _prune(schedule: Schedule, folder: Path, trace_id: str, mark: str, moment: Moment) -> None:
    """Remove what is older than is to be kept: of this trace, and of runs that did not fail."""
    if schedule.keep is not None:
        _remove(_found(folder, f"{trace_id}_ckpt_{mark}*{SUFFIX}")[schedule.keep :])
    if moment == "exit" and schedule.keep_runs:
        _remove(_found(folder, f"*_ckpt_{mark}*{SUFFIX}")[schedule.keep_runs :])


def _remove(found: list[tuple[int, int, Path]]) -> None:
    for _, _, old in found:
        with contextlib.suppress(OSError):  # another process removed it, or may
            old.unlink()


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
        path = _save(entry, call, error)
    except Exception as problem:
        notice.say(f"no checkpoint of the failed {entry.site}: {type(problem).__name__}: {problem}")
    else:
        notice.say(
            f"{call.name} failed with {type(error).__name__}; checkpoint {_short(path)}; next: clearstone debug latest"
        )


def _save(entry: Entry, call: OpenSpan, error: BaseException) -> Path:
    _require_state(entry)
    failure, folder = dump_exception(error), _folder()
    mark = _mark(f"{failure.type_name}@{failure.raised_at}")
    earlier = _found(folder, f"*_ckpt_{mark}*{SUFFIX}")
    checkpoint = _checkpoint(
        entry,
        call,
        mark,
        moment="failure",
        failure=failure,
        state_at_end=_state_now(entry.agent, call),
        stack=_stack(error),
        occurrences=1 + max((occurrences for _, occurrences, _ in earlier), default=0),
    )
    path = CheckpointManager(folder).save_checkpoint(checkpoint)
    _remove(earlier[KEPT_PER_FAILURE - 1 :])
    return path


def _require_state(entry: Entry) -> None:
    if entry.problem:
        raise CheckpointError(f"its state at entry could not be taken ({entry.problem})")


def _folder() -> Path:
    home.ensure_home()
    return home.checkpoint_folder()


def _checkpoint(entry: Entry, call: OpenSpan, mark: str, **more: Any) -> Checkpoint:
    """Return a checkpoint of a call; its id begins with `mark`, by which others of its kind are found."""
    span = call.snapshot()
    method = span.site.rpartition(".")[2] if entry.agent is not None else ""
    return new_checkpoint(
        entry.agent,
        entry.taken,
        trace=call.trace_so_far(),
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


def _state_now(agent: Any, call: OpenSpan) -> state.AgentState | None:
    try:
        return _take(agent, call) if agent is not None else None
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
