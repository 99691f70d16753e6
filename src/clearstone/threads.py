"""How the current span and override reach threads and the jobs of thread pools.

Idea: a new thread starts with an empty context (until Python 3.14), so a span opened in it would lose its parent and a
replay would not reach it. What is started or submitted goes out bound to the two context variables of `clearstone.run`.

Invariant: only our own variables are carried; the user's keep Python's rules. A pool's workers belong to no span, only
their jobs do. Where nothing is open, nothing is carried.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from clearstone import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.run import Run, SpanAbove

Bind = Callable[[Callable[..., Any]], Callable[..., Any]]

_carry_lock = threading.Lock()
_carrying = False


def carry_into_threads() -> None:
    """Hand the current span and override to every thread and executor job started from now on. Idempotent."""
    global _carrying  # noqa: PLW0603 - one process, one patch
    with _carry_lock:
        if _carrying:
            return
        _carrying = True
        threading.Thread.start = _carrying_start(threading.Thread.start)  # type: ignore[method-assign, assignment]
        ThreadPoolExecutor.submit = _carrying_submit(ThreadPoolExecutor.submit)  # type: ignore[method-assign]


def task_of_now() -> tuple[int, int]:
    """Return what tells this thread from others, and the running task of a thread from its others; 0 without one."""
    task = running_task()
    return threading.get_ident(), id(task) if task is not None else 0


def running_task() -> Any:
    """Return the running task of this thread; None where there is none."""
    tasks = sys.modules.get("asyncio.tasks")  # a program without asyncio is not to wait for its import
    loop = tasks.events._get_running_loop() if tasks is not None else None
    return tasks.current_task(loop) if tasks is not None and loop is not None else None


@contextlib.contextmanager
def carrying_also(bind: Bind) -> Iterator[None]:
    """Let threads started in the ``with`` block carry more.

    Args:
        bind: returns a function bound to something of its context, or the function itself where there is nothing.
    """
    _binds.append(bind)
    try:
        yield
    finally:
        _binds.remove(bind)


def carried(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` bound to what of this context goes into threads, or itself where there is nothing."""
    for bind in tuple(_binds):
        function = bind(function)
    return function


def _bound_to_span(function: Callable[..., Any]) -> Callable[..., Any]:
    span, override = run.current_span.get(), run.override.get()
    if span is None and override is None:
        return function
    return partial(_call_in, span, override, function)


def _call_in(
    span: SpanAbove | None, override: Run | None, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    span_token, override_token = run.current_span.set(span), run.override.set(override)
    try:
        return function(*args, **kwargs)
    finally:
        run.override.reset(override_token)
        run.current_span.reset(span_token)


_binds: list[Bind] = [_bound_to_span]
submitting: ContextVar[bool] = ContextVar("clearstone_submitting", default=False)
"""Whether a pool starts its workers: they serve other jobs too, and carry nothing themselves."""


def _carrying_start(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    @wraps(start)
    def start_carrying(self: threading.Thread) -> None:
        own, users = self.run, vars(self).get("run")
        bound = carried(own) if not submitting.get() else own
        if bound is own:
            start(self)
            return
        self.run = partial(_run_once, self, users, bound)  # type: ignore[method-assign]
        try:
            start(self)
        except Exception:  # started before, or no thread is to be had
            _restore(self, users)
            raise

    return start_carrying


def _run_once(thread: threading.Thread, users: Callable[[], None] | None, bound: Callable[[], None]) -> None:
    """Run a thread, which gets its own `run` back: it would be in a cycle with what is bound to it."""
    _restore(thread, users)
    bound()


def _restore(thread: threading.Thread, users: Callable[[], None] | None) -> None:
    vars(thread).pop("run", None)
    if users is not None:
        thread.run = users  # type: ignore[method-assign]


def _carrying_submit(submit: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(submit)
    def submit_carrying(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        token = submitting.set(True)
        try:
            return submit(self, carried(fn), *args, **kwargs)
        finally:
            submitting.reset(token)

    return submit_carrying
