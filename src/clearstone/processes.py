"""How the current span reaches other processes: `multiprocessing` processes and pools, and `ProcessPoolExecutor`.

Idea: what is submitted goes out bound to the span's ticket, a picklable function that gives, in the other process, a
span to be below. A forked child has the parent's context by itself; it is given the same ticket, so that fork, spawn
and forkserver are alike.

Invariant: a pool's workers belong to no span, only their jobs do, whenever the workers were started. Where nothing is
open, nothing is carried and jobs go out as they are.

Refused: an attribute of the process whose unpickling sets the span (a side effect of reading); an environment variable
(one for all jobs of a worker).
"""

from __future__ import annotations

import contextlib
import sys
import threading
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from clearstone import notice, run, threads
from clearstone.proxies import when_imported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from clearstone.run import Ticket

_lock = threading.Lock()
_carrying = False
_POOL_METHODS = ("apply_async", "_map_async", "imap", "imap_unordered")


def carry_into_processes() -> None:
    """Hand the current span to every process and every job of a process pool from now on. Idempotent.

    The modules are patched when they are imported: `import clearstone` loads none of them.
    """
    global _carrying  # noqa: PLW0603 - one process, one patch
    with _lock:
        if _carrying:
            return
        _carrying = True
    when_imported("multiprocessing.process", partial(_attempt, _patch_process))
    when_imported("multiprocessing.pool", partial(_attempt, _patch_pool))
    when_imported("concurrent.futures.process", partial(_attempt, _patch_executor))


def _attempt(patch: Callable[[Any], None], module: ModuleType) -> None:
    """Patch a module; one that is not as expected is left alone, and the user's import of it goes on."""
    try:
        patch(module)
    except Exception as error:
        notice.say(f"calls in children of {module.__name__} will have no parent: {type(error).__name__}: {error}")


def is_child() -> bool:
    """Whether `multiprocessing` started this process, also as a pool's worker."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


def carried(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` bound to what of this context goes into other processes, or itself where there is nothing."""
    override, span = run.override.get(), run.current_span.get()
    if override is run.SUSPENDED:
        return partial(_call_suspended, function)
    if span is None or override is not None:
        return function
    return partial(_call_below, span.ticket(), function)


def _call_below(ticket: Ticket, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call `function` in this process, below a span of another. Named by pickles."""
    span = run.current_span.set(ticket())
    override = run.override.set(None)
    try:
        return function(*args, **kwargs)
    finally:
        run.override.reset(override)
        run.current_span.reset(span)


def _call_suspended(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call `function` in this process, unrecorded. Named by pickles."""
    with run.suspended():
        return function(*args, **kwargs)


@contextlib.contextmanager
def _starting_workers() -> Iterator[None]:
    """Let processes and threads that are started in the block belong to nothing."""
    tokens = run.current_span.set(None), run.override.set(None), threads.submitting.set(True)
    try:
        yield
    finally:
        threads.submitting.reset(tokens[2])
        run.override.reset(tokens[1])
        run.current_span.reset(tokens[0])


def _patch_process(module: Any) -> None:
    start: Callable[..., None] = module.BaseProcess.start

    @wraps(start)
    def start_carrying(self: Any) -> None:
        if threads.submitting.get():  # a worker; forked, it would keep the mark for its jobs
            token = threads.submitting.set(False)
            try:
                start(self)
            finally:
                threads.submitting.reset(token)
            return
        own, bound = vars(self).get("run"), carried(self.run)
        if not isinstance(bound, partial):
            start(self)
            return
        self.run = bound
        try:
            start(self)
        finally:
            vars(self).pop("run", None)
            if own is not None:
                self.run = own

    module.BaseProcess.start = start_carrying


def _patch_executor(module: Any) -> None:
    submit: Callable[..., Any] = module.ProcessPoolExecutor.submit

    @wraps(submit)
    def submit_carrying(self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        bound = carried(fn)
        if bound is fn:
            return submit(self, fn, *args, **kwargs)
        with _starting_workers():
            return submit(self, bound, *args, **kwargs)

    module.ProcessPoolExecutor.submit = submit_carrying


def _patch_pool(module: Any) -> None:
    pool = module.Pool
    make: Callable[..., None] = pool.__init__

    @wraps(make)
    def make_carrying(self: Any, *args: Any, **kwargs: Any) -> None:
        with _starting_workers():
            make(self, *args, **kwargs)

    pool.__init__ = make_carrying
    for name in _POOL_METHODS:
        setattr(pool, name, _submitting_carried(getattr(pool, name), module.ThreadPool))


def _submitting_carried(method: Callable[..., Any], thread_pool: type) -> Callable[..., Any]:
    @wraps(method)
    def submit(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        bind = threads.carried if isinstance(self, thread_pool) else carried
        return method(self, bind(func), *args, **kwargs)

    return submit
