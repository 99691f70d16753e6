"""What becomes of writers when the process ends or forks.

Idea: the process has few such moments (interpreter exit, the end of a pool's worker, before and after a fork), and all
its writers go through them together.

Invariant: a writer that has work is kept until it is closed, so what it holds is written even if its provider is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import weakref
from typing import TYPE_CHECKING

from clearstone import run
from clearstone.errors import StoreError
from clearstone.record import faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearstone.record.writer import Writer

EXIT_SECONDS = 10.0
SETTLE_SECONDS = 2.0
"""So long a reader in this process waits for a store that is slow."""

writers: weakref.WeakSet[Writer] = weakref.WeakSet()
"""All of this process."""

running: set[Writer] = set()
"""Those that have work."""


@atexit.register
def _close_all() -> None:
    closing = list(running)
    for writer in closing:
        if not writer.close(EXIT_SECONDS):
            problem = StoreError(f"the store did not take them in {EXIT_SECONDS:g} s; they stay in the journal")
            faults.report("storing the last spans", problem)
    for writer in list(writers):
        if writer.journal.begun and (writer in closing or run.open_spans() or writer.journal.dropped):
            writer.interrupt_open_spans()


def _settle() -> None:
    for writer in list(running):
        writer.flush(SETTLE_SECONDS)


run.settlers.append(_settle)


def close_at_the_end_of_a_pool_worker() -> None:
    """A child of `multiprocessing` leaves through `os._exit`, past atexit; it runs these finalizers before."""
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, _close_all, exitpriority=0)


def _each_writer(do: Callable[[Writer], None]) -> None:
    for writer in list(writers):
        with contextlib.suppress(AttributeError):  # forked in the middle of the writer's construction
            do(writer)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _each_writer(lambda writer: writer.before_fork()),
        after_in_parent=lambda: _each_writer(lambda writer: writer.after_fork_in_parent()),
        after_in_child=lambda: _each_writer(lambda writer: writer.after_fork_in_child()),
    )
