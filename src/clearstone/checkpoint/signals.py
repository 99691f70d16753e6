"""Checkpoints of a process that runs, or is about to be ended, when a signal says so.

Idea: the handler saves every outermost boundary's call that is open, with the state at its entry and as it is now, its
outcomes so far and, where it is the code that the signal interrupted, its frames. Then the signal goes on to whoever
had it before: a default that ends the process ends it; a signal that nobody had is there for this alone, and the
process runs on.

Invariant: nothing here raises into the code that was interrupted.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from clearstone import notice, run
from clearstone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

ENDING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
"""Signals whose default ends the process as it should; with any other, saving is all that was asked for."""

_before: dict[int, Any] = {}
_saving = False


def follow(names: Iterable[str]) -> None:
    """Save checkpoints when one of these signals comes, instead of those named before.

    Args:
        names: as in ``("SIGTERM", "SIGUSR1")``.

    Raises:
        ConfigurationError: one of them is no signal here, cannot be handled, or this is not the main thread.
    """
    numbers = {_number(name): name for name in ([names] if isinstance(names, str) else names)}
    try:
        for number in [each for each in _before if each not in numbers]:
            before = _before.pop(number)
            if signal.getsignal(number) is _came:  # else somebody has another handler there by now
                signal.signal(number, before)
        for number in numbers:
            if signal.getsignal(number) is not _came:
                _before[number] = signal.signal(number, _came)
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"signals={tuple(numbers.values())!r}: {error}") from error


def _number(name: str) -> int:
    found = signal.Signals.__members__.get(name)
    if found is None:
        raise ConfigurationError(f"signals: {name!r} is no signal of this system; write signals=('SIGTERM', 'SIGUSR1')")
    return int(found)


def _came(number: int, frame: FrameType | None) -> None:
    global _saving  # noqa: PLW0603 - one main thread
    name = signal.Signals(number).name
    if not _saving:  # else it came while one before it was answered
        _saving = True
        try:
            _save_all(name, frame)
        except Exception as problem:
            notice.say(f"no checkpoint at {name}: {type(problem).__name__}: {problem}")
        finally:
            _saving = False
    _go_on(number, frame, name)


def _save_all(name: str, frame: FrameType | None) -> None:
    from clearstone.checkpoint import policy
    from clearstone.checkpoint.frames import frames_above

    stack, above = frames_above(frame), _spans_above()
    # an entry is asked for once: another thread's call may end at any time
    calls = [(call, entry) for call in run.open_spans() if (entry := _entry(call)) is not None]
    saved = sum(policy.at_signal(entry, call, name, stack if call in above else ()) for call, entry in calls)
    told = f"{saved} checkpoint(s) saved; next: clearstone debug latest" if saved else "no checkpoint was saved"
    notice.say(f"{name}: {told if calls else 'no @checkpointable call runs'}")


def _spans_above() -> list[Any]:
    """Return the spans of the code that was interrupted; those of other threads and tasks are at work elsewhere."""
    span: Any = run.current_span.get()
    found = []
    while span is not None:
        found.append(span)
        span = getattr(span, "parent", None)
    return found


def _entry(call: Any) -> Any:
    """Return what was taken at the entry of an outermost boundary's call; None while that is being done."""
    entry = getattr(call, "entry", None)
    return entry if entry is not True else None


def _go_on(number: int, frame: FrameType | None, name: str) -> None:
    before = _before.get(number)
    if callable(before):
        before(number, frame)
    elif before is signal.SIG_DFL and name in ENDING:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
