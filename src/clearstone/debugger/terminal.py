"""pdb for a replay: it starts in the user's function and shows the user's frames only.

Idea: tracing starts before the call, but nothing stops until the frame of the replayed function is reached; from then
on pdb stops in that frame and whatever it calls, never in a frame of ours, of wrapt, or of the event loop below it.

Invariant: leaving (``q``, end of input, no input at all) is quiet and puts the earlier trace function back.

Refused: ``pdb.set_trace()`` before the call (the first prompt would stand in the library).
"""

from __future__ import annotations

import asyncio
import bdb
import contextlib
import inspect
import os
import pdb
import sys
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import clearstone
from clearstone.callers import INSTALLED, STANDARD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HIDDEN_FOLDERS = (
    str(Path(clearstone.__file__).parent) + os.sep,
    str(Path(asyncio.__file__).parent) + os.sep,
)
_HIDDEN_PACKAGES = ("clearstone.", "wrapt.", "time_machine.", "cloudpickle.")


def is_hidden(frame: FrameType) -> bool:
    """Whether a frame is none the user asked to see: the library's own, the event loop's, or one these call."""
    if _is_ours(frame):
        return True
    caller = frame.f_back
    return _is_standard(frame) and caller is not None and is_hidden(caller)


def _is_ours(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", "")) + "."
    return frame.f_code.co_filename.startswith(_HIDDEN_FOLDERS) or module.startswith(_HIDDEN_PACKAGES)


def _is_standard(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(STANDARD) and INSTALLED not in frame.f_code.co_filename


def is_installed(frame: FrameType) -> bool:
    """Whether a frame belongs to the standard library or to an installed package."""
    return frame.f_code.co_filename.startswith(STANDARD) or INSTALLED in frame.f_code.co_filename


# A notebook's kernel puts a subclass of its own in the place of pdb.Pdb, with another prompt and other frames.
if TYPE_CHECKING:
    _Pdb = pdb.Pdb
else:
    _Pdb = next(cls for cls in pdb.Pdb.__mro__ if cls.__module__ == "pdb")


class SessionLeft(BaseException):
    """The user left the session. No `Exception`, so that ``except Exception`` in an agent does not go on."""


class ReplayPdb(_Pdb):
    """A debugger for one call.

    Args:
        first: the code of the function the session starts in; None to stop at the first user frame.
        say: how to print a line.
    """

    def __init__(self, first: CodeType | None, say: Callable[[str], None]) -> None:
        super().__init__(nosigint=True)
        self._first = first
        self._waiting = True
        self._roots: list[FrameType] = []
        self._say = say
        self._looking = False
        self.left = False

    # --- where it stops ----------------------------------------------------------------------------------------------

    def stop_here(self, frame: FrameType) -> bool:
        """Stop in the replayed function, and then in frames below it that are the user's."""
        if self._waiting:
            return frame.f_code is self._first if self._first is not None else not is_hidden(frame)
        return super().stop_here(frame) and not is_hidden(frame) and self._is_inside(frame)

    def user_call(self, frame: FrameType, argument_list: Any) -> None:
        """Entering the replayed function is no stop of its own; its first line is."""
        if not self._waiting:
            super().user_call(frame, argument_list)

    def user_line(self, frame: FrameType) -> None:
        """Stop at a line; at a breakpoint in another task, that task's code belongs to the session from then on."""
        self._waiting = False
        if not self._is_inside(frame):
            self._roots.append(_outermost_user_frame(frame))
        super().user_line(frame)

    def _is_inside(self, frame: FrameType) -> bool:
        above: FrameType | None = frame
        while above is not None:
            if above in self._roots:
                return True
            above = above.f_back
        return False

    def get_stack(self, f: FrameType | None, t: TracebackType | None) -> tuple[list[tuple[FrameType, int]], int]:
        """Return the user's part of the stack: from the replayed function inwards."""
        stack, current = super().get_stack(f, t)
        if self._looking:  # the traceback is cut already; begin in the innermost frame that is the user's own code
            own = [position for position, (frame, _) in enumerate(stack) if not is_installed(frame)]
            return stack, own[-1] if own else current
        chosen = stack[current][0]
        shown = [entry for entry in stack if not is_hidden(entry[0]) and self._is_inside(entry[0])]
        shown = shown or stack[current : current + 1]
        frames = [frame for frame, _ in shown]
        return shown, frames.index(chosen) if chosen in frames else len(shown) - 1

    def dispatch_line(self, frame: FrameType) -> Any:
        """Leave, when asked to, by something that user code does not catch by accident."""
        return self._unless_left(super().dispatch_line, frame)

    def dispatch_return(self, frame: FrameType, arg: Any) -> Any:
        """Leave as in `dispatch_line`."""
        return self._unless_left(super().dispatch_return, frame, arg)

    def dispatch_exception(self, frame: FrameType, arg: Any) -> Any:
        """Leave as in `dispatch_line`."""
        return self._unless_left(super().dispatch_exception, frame, arg)

    def dispatch_call(self, frame: FrameType, arg: Any) -> Any:
        """Leave as in `dispatch_line`."""
        return self._unless_left(super().dispatch_call, frame, arg)

    def _unless_left(self, dispatch: Callable[..., Any], *args: Any) -> Any:
        try:
            return dispatch(*args)
        except bdb.BdbQuit:
            raise SessionLeft from None

    # --- the session -------------------------------------------------------------------------------------------------

    def run_call(self, call: Callable[[], Any]) -> Any:
        """Make the call under the debugger.

        Raises:
            SessionLeft: the user left.
            BaseException: what the call raises.
        """
        before = sys.gettrace()
        self.reset()
        with self._joined_by_breakpoints():
            sys.settrace(self.trace_dispatch)
            try:
                return call()
            finally:
                sys.settrace(before)

    def look_at(self, error: BaseException) -> None:
        """Stop on the line that raised `error`, with its locals; return when the user is done."""
        shown = _user_part(error.__traceback__, self._roots)
        if shown is not None and not self.left:
            self._looking = True
            before = sys.gettrace()
            self.reset()
            try:
                self.interaction(None, shown)
            finally:
                sys.settrace(before)  # quitting takes away whoever traces, a coverage measurement too

    @contextlib.contextmanager
    def _joined_by_breakpoints(self) -> Iterator[None]:
        """Let ``breakpoint()`` and ``pdb.set_trace()`` in user code join this session instead of starting another."""

        def join(*_: Any, **__: Any) -> None:
            if os.environ.get("PYTHONBREAKPOINT") != "0":
                self._join(inspect.currentframe())

        hook, set_trace = sys.breakpointhook, pdb.set_trace
        sys.breakpointhook, pdb.set_trace = join, join
        try:
            yield
        finally:
            sys.breakpointhook, pdb.set_trace = hook, set_trace

    def _join(self, frame: FrameType | None) -> None:
        caller = frame.f_back if frame is not None else None
        if caller is None:
            return
        self._waiting = False
        if not self._is_inside(caller):
            self._roots.append(caller)
        bdb.Bdb.set_trace(self, caller)

    def do_run(self, arg: str) -> None:
        """Say how to start again: the session is one call, and ends with it."""
        del arg
        self.message("The session replays one call; leave it with 'q' and start it again.")

    do_restart = do_run

    def do_quit(self, arg: str) -> bool | None:
        """Leave the session."""
        self.left = True
        return super().do_quit(arg)

    do_q = do_exit = do_quit

    def do_EOF(self, arg: str) -> bool | None:  # noqa: N802 - cmd's name for the end of input
        """Leave the session: there is no more input."""
        self.left = True
        return super().do_EOF(arg)

    def cmdloop(self, intro: Any = None) -> None:
        """Read commands; where there is nobody to ask (a captured or missing standard input), leave."""
        try:
            super().cmdloop(intro)
        except (OSError, RuntimeError, ValueError):  # pytest's, Jupyter's and a closed standard input
            self.do_EOF("")

    def message(self, msg: str, *_: Any, **__: Any) -> None:
        """Print a line, in ASCII where the terminal knows no better."""
        self._say(str(msg))

    def error(self, msg: str) -> None:
        """Print an error line."""
        self._say(f"*** {msg}")


def _outermost_user_frame(frame: FrameType) -> FrameType:
    outermost = frame
    above: FrameType | None = frame
    while above is not None and not _is_ours(above):
        outermost, above = above, above.f_back
    return outermost


def _user_part(traceback: TracebackType | None, roots: list[FrameType]) -> TracebackType | None:
    """Return the traceback without frames of the library and without what lies above the replayed function."""
    entries = []
    while traceback is not None:
        entries.append(traceback)
        traceback = traceback.tb_next
    inside = next((i for i, entry in enumerate(entries) if entry.tb_frame in roots), 0)
    shown: TracebackType | None = None
    for entry in reversed(entries[inside:]):
        if not is_hidden(entry.tb_frame):
            shown = TracebackType(shown, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return shown
