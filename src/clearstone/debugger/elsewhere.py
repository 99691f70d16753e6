"""A replay in a thread of its own, awaited from a running event loop, which goes on meanwhile.

Idea: the replay's clock, its numbers and its event loop belong to a context, and a thread has one: a copy of the
caller's, so that the agent sees the context variables it would see if it were awaited there, and what it sets stays in
the replay. Whoever awaits is told by a future.

Invariant: when the await ends, however it does, the thread has ended, and with it everything that was patched. One that
is cancelled asks the replay to stop (`clearstone.replay.stopping`) and waits for that.

Replays that are awaited take turns (`clearstone.replay.turns`).

Refused: `asyncio.to_thread` (the default executor's threads are shared, and one that is cancelled goes on for ever).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from clearstone import run
from clearstone.replay import stopping
from clearstone.replay.stopping import Stop
from clearstone.replay.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

_turns = Turns()


async def elsewhere(function: Callable[[], Result]) -> Result:
    """Call a function that makes a replay in a thread of its own, when it is its turn, and wait for it.

    Args:
        function: what is called, in a copy of this context.

    Returns:
        What it returns.

    Raises:
        BaseException: what it raises; `asyncio.CancelledError` where this task is cancelled.
    """
    around: Any = run.override.get()
    async with getattr(around, "turns", _turns).taken():
        return await _in_thread(function)


async def _in_thread(function: Callable[[], Result]) -> Result:
    outcome: Future[Result] = Future()
    ended: Future[None] = Future()
    stop, context = Stop(), contextvars.copy_context()
    context.run(stopping.current.set, stop)
    thread = threading.Thread(target=_work, args=(context, function, outcome, ended), name="clearstone-replay")
    thread.start()
    cancelled = None
    try:
        told = asyncio.wrap_future(ended)
        while not told.done():
            try:
                await asyncio.wait([told])
            except asyncio.CancelledError as error:
                cancelled = error
                stop.ask()
    except BaseException:  # whoever drops this coroutine ends the replay too
        stop.ask()
        raise
    finally:
        thread.join()
    if cancelled is not None:
        raise cancelled
    return outcome.result()


def _work(
    context: contextvars.Context, function: Callable[[], Result], outcome: Future[Result], ended: Future[None]
) -> None:
    """Keep what comes out apart from saying so: an event loop's futures take no StopIteration."""
    try:
        outcome.set_result(context.run(function))
    except BaseException as error:
        outcome.set_exception(error)
    ended.set_result(None)
