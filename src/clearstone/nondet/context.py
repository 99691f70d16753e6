"""Enter and leave: what `deterministic` sets for a context, and what it installs for the process.

Idea: the context gets two variables, the process gets dispatchers that ask them. The dispatchers are installed when
the first context is entered and removed when the last is left. `keeping` has them installed for a recorder, which keeps
what is drawn without any such context.

Invariant: after the last exit nothing is patched, whatever was raised in between; everything is undone in the opposite
order by one stack, and the next thing is undone although undoing one failed.

Refused: dispatchers that stay for good (cheaper to enter, but a program that replayed once would run patched for ever).
time-machine, ctypes and asyncio are imported here at the first entry, not with the package.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from clearstone.nondet import clock as clocks
from clearstone.nondet import entropy as entropies
from clearstone.nondet.drawn import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from contextlib import AbstractContextManager
    from contextvars import ContextVar

    from clearstone.nondet.drawn import Kind
    from clearstone.nondet.patches import Patch

Value = TypeVar("Value")
Result = TypeVar("Result")


class _Installation:
    """Dispatchers, while at least one context is open.

    Args:
        install: puts them in place; returns what takes them away.
    """

    def __init__(self, install: Callable[[], contextlib.ExitStack]) -> None:
        self._install = install
        self._lock = threading.Lock()
        self._contexts = 0
        self._removal = contextlib.ExitStack()

    @contextlib.contextmanager
    def needed(self) -> Iterator[None]:
        """Have the dispatchers in place inside the ``with``."""
        with self._lock:
            if not self._contexts:
                self._removal = self._install()
            self._contexts += 1
        try:
            yield
        finally:
            with self._lock:
                self._contexts -= 1
                if not self._contexts:
                    self._removal.close()


def _installed(patches: Iterable[Patch], more: Callable[[], AbstractContextManager[None]]) -> contextlib.ExitStack:
    with contextlib.ExitStack() as undo:
        for patch in patches:
            undo.callback(patch.remove)
            patch.install()
        undo.enter_context(more())
        return undo.pop_all()


def _install_entropy() -> contextlib.ExitStack:
    from clearstone.nondet import dispatch, uuids

    patches = (*dispatch.entropy_patches(), *entropies.seed_patches())
    return _installed(patches, lambda: uuids.installed(uuids.system_generator()))


def _install_clocks() -> contextlib.ExitStack:
    from clearstone.nondet import dispatch, loop, wall

    return _installed((*dispatch.patches(), *loop.patches()), wall.installed)


_entropy, _clocks = _Installation(_install_entropy), _Installation(_install_clocks)


@contextlib.contextmanager
def keeping(kinds: frozenset[Kind]) -> Iterator[None]:
    """Have the dispatchers in place that ask spans for what is drawn (see `clearstone.nondet.drawn`).

    Args:
        kinds: what; for none of them nothing is put in place.

    Raises:
        ConfigurationError: time-machine cannot be used.
        RuntimeError: freezegun holds the clock.
    """
    with contextlib.ExitStack() as stack:
        if "time" in kinds:  # first: a journey of time-machine puts back what it found at `uuid`
            stack.enter_context(_clocks.needed())
        if kinds & {"random", "uuid"}:
            stack.enter_context(_entropy.needed())
        yield


@contextlib.contextmanager
def deterministic(
    *, start_ns: int, seed: bytes, random_state: tuple[Any, ...] | None = None
) -> Iterator[clocks.VirtualClock]:
    """Give this context a clock that only sleeping moves and entropy that comes from a seed.

    It holds for code run inside the ``with``, for tasks made there, `asyncio.to_thread`, and whatever runs in a copy of
    this context. Other threads and tasks see the real clock and entropy, except through the functions of
    `numpy.random`, whose state exists once per process. Contexts nest; the inner one holds.

    Args:
        start_ns: where the wall clock starts, in nanoseconds since the epoch.
        seed: what all entropy is made from; equal arguments give equal values.
        random_state: a value of ``random.getstate()`` for the functions of `random`, which are seeded from `seed` if
            it is None.

    Yields:
        The clock of the context.

    Raises:
        ConfigurationError: when `random_state` is no such value, or time-machine cannot be used.
        RuntimeError: when freezegun holds the clock.
        FrozenClockError: inside the ``with``, from a clock that a loop polls without ever sleeping.
    """
    clock = clocks.VirtualClock(start_ns)
    with contextlib.ExitStack() as stack:
        entropy = entropies.Entropy(seed, random_state)
        stack.enter_context(entropies.numpy_functions(seed))
        stack.enter_context(keeping(frozenset(KINDS)))
        stack.enter_context(_setting(clocks.current, clock))
        stack.enter_context(_setting(entropies.current, entropy))
        yield clock


def go_live() -> int:
    """Let the clock of this context run with the real one, and its entropy be real, from now on and for all its tasks.

    Returns:
        How far the wall clock went, in nanoseconds.
    """
    clock, entropy = clocks.current.get(), entropies.current.get()
    if entropy is not None:
        entropy.is_live = True
    return clock.go_live() if clock is not None else 0


@contextlib.contextmanager
def real_entropy() -> Iterator[None]:
    """Ask for real entropy inside the ``with``: ids of what is recorded must not come twice."""
    entropy = entropies.current.get()
    with _setting(entropies.current, entropy.as_real() if entropy is not None else None):
        yield


@contextlib.contextmanager
def _setting(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run `coroutine` to its end on an event loop of its own, whose timers follow this context's clock.

    Sleeps and timeouts take no real time unless something outside the loop is awaited: an executor job, a file
    descriptor, another thread. At the end remaining tasks are cancelled and generators and the default executor shut
    down, as by `asyncio.run`.

    Args:
        coroutine: runs in a copy of this context.

    Returns:
        What the coroutine returns.

    Raises:
        RuntimeError: inside a running event loop, or outside `deterministic`.
    """
    try:
        clock = _clock_to_run_on()
    except RuntimeError:
        coroutine.close()  # or Python warns that it was never awaited
        raise
    import asyncio

    from clearstone.nondet.loop import VirtualLoop

    with asyncio.Runner(loop_factory=partial(VirtualLoop, clock)) as runner:
        return runner.run(coroutine)


def _clock_to_run_on() -> clocks.VirtualClock:
    import asyncio

    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "run() starts an event loop of its own and this thread is already running one: await the coroutine here, "
            "or call run() in another thread."
        )
    clock = clocks.current.get()
    if clock is None:
        raise RuntimeError("run() needs the clock of a context: call it inside `with deterministic(...)`.")
    return clock
