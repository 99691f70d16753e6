"""When checkpoints are saved of calls that do not fail: what `@checkpointable` is told, and whether a call is due.

Invariant: a failure of an outermost call is always saved; a schedule only adds to that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Literal, get_args

from clearstone import notice
from clearstone.checkpoint.budget import SHARE
from clearstone.errors import ConfigurationError

On = Literal["error", "entry", "exit", "always"]
KeptEntry = Literal["memory", "durable"]
ATTRIBUTE = "__clearstone_schedule__"
"""Where a class keeps its own."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Options of one class, method or function.

    Args:
        on: at which end of a call a checkpoint is saved; ``"error"`` for failures only.
        every: of so many calls one is due, the first among them.
        interval: after one that was due, no other for so many seconds.
        when: called with the agent (None for a function) at entry; the call is due where it returns true.
        keep: of each trace the newest so many are kept; None for all.
        keep_runs: of calls that did not fail the newest so many are saved at exit and kept.
        nested: whether a call inside another boundary's counts as one of its own.
        budget: the share of the time that snapshots may take; None for all they need.
        entry: where the state at entry is until the call ends: ``"memory"``, or ``"durable"`` for the disk.
    """

    on: On = "error"
    every: int = 1
    interval: float = 0.0
    when: Callable[[Any], Any] | None = None
    keep: int | None = None
    keep_runs: int = 0
    nested: bool = False
    entry: KeptEntry = "memory"
    budget: float | None = SHARE

    @property
    def adds(self) -> bool:
        """Whether calls that do not fail are saved."""
        return self.on != "error" or self.keep_runs > 0

    @property
    def at_entry(self) -> bool:
        """Whether a call that is due is saved at its entry."""
        return self.on in {"entry", "always"}

    @property
    def at_exit(self) -> bool:
        """Whether a call that is due is saved when it has ended."""
        return self.on in {"exit", "always"} or self.keep_runs > 0


ON_ERROR = Schedule()

_of_sites: dict[str, Schedule] = {}
_lock = threading.RLock()  # reentrant: a signal handler may make a call that counts
_counts: dict[str, int] = {}
_last: dict[str, float] = {}


def checked(**options: Any) -> Schedule:
    """Return a schedule as a user gave it.

    Raises:
        ConfigurationError: an option cannot be meant.
    """
    schedule = Schedule(**options)
    if schedule.on not in get_args(On):
        raise ConfigurationError(f"on={schedule.on!r} is none of {', '.join(map(repr, get_args(On)))}")
    if not _is_count(schedule.every, 1):
        raise ConfigurationError(f"every={schedule.every!r} is no number of calls, 1 or more")
    if not _is_seconds(schedule.interval):
        raise ConfigurationError(f"interval={schedule.interval!r} is no number of seconds")
    if schedule.entry not in get_args(KeptEntry):
        raise ConfigurationError(f"entry={schedule.entry!r} is none of {', '.join(map(repr, get_args(KeptEntry)))}")
    if schedule.budget is not None and not _is_share(schedule.budget):
        raise ConfigurationError(f"budget={schedule.budget!r} is no share of the time, such as 0.01; None for no limit")
    if schedule.when is not None and not callable(schedule.when):
        raise ConfigurationError(f"when={schedule.when!r} cannot be called with the agent")
    if schedule.keep is not None and not _is_count(schedule.keep, 1):
        raise ConfigurationError(f"keep={schedule.keep!r} is no number of checkpoints, 1 or more; None keeps all")
    if not _is_count(schedule.keep_runs, 0):
        raise ConfigurationError(f"keep_runs={schedule.keep_runs!r} is no number of runs")
    if not schedule.adds and replace(schedule, nested=False, entry="memory", budget=SHARE) != ON_ERROR:
        raise ConfigurationError("every=, interval=, when= and keep= are about calls that do not fail; say on='exit'")
    return schedule


def _is_share(given: Any) -> bool:
    return type(given) in {int, float} and 0 <= given <= 1


def _is_seconds(given: Any) -> bool:
    return isinstance(given, int | float) and 0 <= given < float("inf")


def _is_count(given: Any, least: int) -> bool:
    return type(given) is int and given >= least


def of_site(key: str, schedule: Schedule) -> None:
    """Let calls of the site `key` follow `schedule`."""
    _of_sites[key] = schedule


def schedule_of(key: str, instance: Any) -> Schedule:
    """Return what a call follows: its site's, else that of the class it is bound to, itself or through an object."""
    cls = instance if isinstance(instance, type) else type(instance)
    found = _of_sites.get(key) or getattr(cls, ATTRIBUTE, ON_ERROR)
    return found if isinstance(found, Schedule) else ON_ERROR


def is_due(schedule: Schedule, key: str, agent: Any) -> bool:
    """Whether a call that begins now is due; it is counted."""
    if not schedule.adds:
        return False
    with _lock:
        count = _counts[key] = _counts.get(key, 0) + 1
        if (count - 1) % schedule.every or _is_early(schedule, key):
            return False
    if schedule.when is not None and not _says_yes(schedule.when, key, agent):
        return False
    with _lock:
        if _is_early(schedule, key):  # another thread's call was due meanwhile
            return False
        _last[key] = monotonic()
    return True


def _is_early(schedule: Schedule, key: str) -> bool:
    return monotonic() - _last.get(key, -schedule.interval) < schedule.interval


def _new_lock_in_child() -> None:
    global _lock  # noqa: PLW0603 - one process, one lock: the parent's may be another thread's
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock_in_child)


def _says_yes(when: Callable[[Any], Any], key: str, agent: Any) -> bool:
    try:
        return bool(when(agent))
    except Exception as error:
        notice.say(f"when= of {key} raised {type(error).__name__}: {error}; no checkpoint of this call")
        return False
