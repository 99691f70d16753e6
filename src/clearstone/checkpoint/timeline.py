"""The value of an expression at every checkpoint of a trace.

Idea: each state, also the one at the end of a call where a checkpoint has it, goes back into an agent of its class, and
the expression is evaluated with that agent as ``self``.

Invariant: only what is trusted is loaded. Nothing is recorded, and no outside call goes out: one that the expression or
a restoring agent makes is refused. What one reading raises is its error, and the others go on.

Refused: reading values without loading them (an expression wants properties, methods and the classes' own ``len``).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clearstone import run
from clearstone.checkpoint import loading, manager
from clearstone.checkpoint import state as states
from clearstone.checkpoint.making import utc
from clearstone.codec import payload
from clearstone.errors import CheckpointError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import CodeType

    from clearstone.checkpoint.manager import CheckpointInfo
    from clearstone.checkpoint.model import Checkpoint
    from clearstone.checkpoint.state import AgentState
    from clearstone.span import Site


@dataclass(frozen=True, slots=True)
class Reading:
    """What an expression gave with one state.

    Args:
        checkpoint_id: the checkpoint that has the state.
        at: when the state was taken (aware, UTC).
        moment: of the call: ``"entry"``, or how it ended (see `Checkpoint`); ``"made"`` for a checkpoint by hand.
        agent: ``module.Class``.
        span_name: the name of the span the checkpoint was taken at.
        label: the checkpoint's, if it has one.
        value: what the expression gave.
        error: what it raised instead, or why the state is not loaded.
    """

    checkpoint_id: str
    at: dt.datetime
    moment: str
    agent: str
    span_name: str
    label: str = ""
    value: Any = field(default=None)
    error: BaseException | None = None


def stored_class(checkpoint: Checkpoint) -> type:
    """Return the agent's class as the checkpoint has it: by name, or with its code where it cannot be imported.

    Raises:
        UnservableOutcome: it does not load today.
        CheckpointError: the checkpoint is of a function, which has no state.
    """
    if checkpoint.agent_class is None:
        raise CheckpointError(f"checkpoint {checkpoint.checkpoint_id} is of a function: there is no agent")
    cls: type = payload.load(checkpoint.agent_class)
    return cls


def readings(
    checkpoint: Checkpoint, expression: str, class_of: Callable[[Checkpoint], type] = stored_class
) -> tuple[Reading, ...]:
    """Evaluate an expression at every checkpoint of a trace (see `Checkpoint.timeline`).

    Args:
        checkpoint: one of the trace's, loaded from a file of the folder where the others are.
        expression: Python.
        class_of: gives the class that the state of a checkpoint goes into.
    """
    code = compiled(expression)
    checkpoint.require_loadable()
    if checkpoint.path is None:
        raise CheckpointError(
            f"checkpoint {checkpoint.checkpoint_id} was not loaded from a file, so the others of its trace are not "
            f"known; save it and load it with CheckpointManager"
        )
    found: dict[tuple[str, dt.datetime], Reading] = {}
    with run.overriding(_Looking()):
        infos = _of_trace(checkpoint)
        loaded = _loaded({info.path for info in infos}) | {checkpoint.checkpoint_id: checkpoint}  # it may be trusted
        for info in infos:
            for reading in _of_one(info, loaded.get(info.checkpoint_id), code, class_of):
                found.setdefault((reading.agent, reading.at), reading)  # the entry of a call is that of its exit too
    return tuple(sorted(found.values(), key=lambda reading: reading.at))


def compiled(expression: str) -> CodeType:
    """Return an expression's code.

    Raises:
        ConfigurationError: it is none; says where.
    """
    text = expression.strip()
    try:
        return compile(text, "<expression>", "eval")
    except SyntaxError as error:
        lines = f"\n  {error.text.rstrip()}\n  {' ' * ((error.offset or 1) - 1)}^" if error.text else ""
        raise ConfigurationError(f"{text!r} is no expression: {error.msg}{lines}") from error
    except (ValueError, MemoryError, RecursionError) as error:  # a zero byte, nested too deeply
        raise ConfigurationError(f"{text[:100]!r} is no expression: {type(error).__name__}: {error}") from error


class _Looking:
    """The Run while states are restored and looked at: outside calls are refused, others pass unrecorded."""

    def begin(self, site: Site, *_: Any) -> run.OpenCall:
        if site.replay == "serve":
            raise ConfigurationError(
                f"{site.target} is an outside call, and a timeline makes none; evaluate what the agent holds"
            )
        return run.PASSING


def _of_trace(checkpoint: Checkpoint) -> list[CheckpointInfo]:
    """Return the checkpoints of a trace that are where `checkpoint` is, oldest first."""
    path = checkpoint.path
    if path is None:
        return []
    found = [*manager.list_folder(path.parent), *manager.infos(path)]  # its own file may have any name
    own = {info.checkpoint_id: info for info in found if info.trace_id == checkpoint.trace.trace_id}
    return sorted(own.values(), key=lambda info: info.created_ns)


def _loaded(paths: set[Path]) -> dict[str, Checkpoint]:
    """Return what can be read of these files, by id."""
    found: dict[str, Checkpoint] = {}
    for path in paths:
        with contextlib.suppress(CheckpointError):  # it is said where the checkpoint is looked at
            every = (each for each in loading.all_of(path) if not isinstance(each, CheckpointError))
            found.update((each.checkpoint_id, each) for each in every)
    return found


def _of_one(
    info: CheckpointInfo, known: Checkpoint | None, code: CodeType, class_of: Callable[[Checkpoint], type]
) -> Iterator[Reading]:
    label = info.metadata.get("label")
    told = {
        "checkpoint_id": info.checkpoint_id,
        "agent": info.agent,
        "span_name": info.span_name,
        "label": label if isinstance(label, str) else "",
    }
    made = utc(info.created_ns)
    try:
        checkpoint = known or loading.load(info.path, info.step)
        checkpoint.require_loadable()
    except CheckpointError as error:
        yield Reading(**told, at=made, moment=info.moment, error=error)
        return
    if checkpoint.agent_class is None:
        return
    first = "made" if checkpoint.moment == "made" else "entry"
    for state, at, when in (
        (checkpoint.state, checkpoint.timestamp, first),
        (checkpoint.state_at_end, made, checkpoint.moment),
    ):
        if state is not None:
            value, problem = _evaluated(checkpoint, state, code, class_of)
            yield Reading(**told, at=at, moment=when, value=value, error=problem)


def _evaluated(
    checkpoint: Checkpoint, state: AgentState, code: CodeType, class_of: Callable[[Checkpoint], type]
) -> tuple[Any, BaseException | None]:
    """Return what the expression gave, or what was raised instead."""
    try:
        cls = class_of(checkpoint)
        agent = states.restore(cls, state)
        names = {**vars(sys.modules.get(cls.__module__, sys)), "self": agent}  # what the agent's own code could name
        return eval(code, names), None  # noqa: S307 - the user's own expression
    except (Exception, SystemExit) as error:
        return None, error
