"""What is kept of an agent between its snapshots: its segments, and what has to be left out of them.

Invariant: an agent lives no longer because its state was taken: it is known by a weak reference, and what is kept of it
goes with it. Only where an item of its own long lists leads back to it does it stay until sixteen others have been
taken. An agent that takes no weak references is taken from scratch each time, as is one that is being taken already, in
another thread or further up in this one.

Refused: an attribute on the agent (it would be in `vars`, in its pickles and in the user's own JSON).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.pickling import Replaced
from clearstone.checkpoint.segments import Segmenter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.checkpoint.budget import Kept

MOST_AGENTS = 16


class Taker:
    """What is kept of one agent.

    Attributes:
        replaced: what is left out of its state.
        with_code: see `clearstone.codec.pickler.ByValuePickler`.
        entries: how often its state was taken at the entry of a call.
        kept: the last snapshot that an outermost call began with.
        cost_ns: how long the last one took.
    """

    def __init__(self) -> None:
        self.replaced = Replaced()
        self.with_code = True
        self.entries = 0
        self.kept: Kept | None = None
        self.cost_ns = 0
        self._lock = threading.Lock()
        self._steps = itertools.count(1)  # numbers the snapshots
        self._segmenter: Segmenter | None = None

    @property
    def segmenter(self) -> Segmenter:
        """What makes its snapshots. A first state is in one piece: most agents are taken once."""
        if self._segmenter is None:
            self._segmenter = Segmenter(self.replaced, with_code=self.with_code, cuts=False, steps=self._steps)
        self._segmenter.cuts = self._segmenter.cuts or self.entries > 1
        return self._segmenter

    def without_code(self) -> None:
        """From now on write definitions of the script by name alone."""
        self.with_code, self._segmenter = False, None

    @contextlib.contextmanager
    def alone(self) -> Iterator[Taker]:
        """Use it, or a new one where it is in use."""
        if not self._lock.acquire(blocking=False):
            yield Taker()
            return
        try:
            yield self
        finally:
            self._lock.release()


_lock = threading.RLock()  # reentrant: a weak reference's callback may come at any time
_takers: OrderedDict[int, tuple[weakref.ref[Any], Taker]] = OrderedDict()


def taker_of(agent: Any) -> Taker:
    """Return what is kept of an agent; a new one where nothing is."""
    with _lock:
        known = _takers.get(id(agent))
        if known is not None and known[0]() is agent:
            _takers.move_to_end(id(agent))
            return known[1]
        taker = Taker()
        with contextlib.suppress(TypeError):  # it takes no weak references
            _takers[id(agent)] = weakref.ref(agent, partial(_forget, id(agent))), taker
            while len(_takers) > MOST_AGENTS:
                _takers.popitem(last=False)
        return taker


def _forget(key: int, gone: weakref.ref[Any]) -> None:
    with _lock:
        known = _takers.get(key)
        if known is not None and known[0] is gone:
            del _takers[key]


def _begin_anew() -> None:
    """In a forked child: a lock may be another thread's, which is not there."""
    global _lock  # noqa: PLW0603 - one process, one lock
    _lock = threading.RLock()
    _takers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
