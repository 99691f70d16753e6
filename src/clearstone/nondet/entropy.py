"""Random values of a deterministic context: every source of entropy answers from one seed.

Idea: nearly everything in Python that is random asks `os.urandom` in the end: uuid4, secrets, SystemRandom, numpy's
default_rng. `Entropy` is the stream that answers it. What does not ask (`random.Random()`, whose seeding reads the
kernel in C) is seeded from the same stream. Behind the functions of `random` a context has a generator of its own
(`clearstone.nondet.global_random`). That of `numpy.random` exists once per process: it gets a state for the time of the
context and its own back at the end.

Invariant: a generator seeded by its owner, or made before the context, is left alone. The caller's global state
is back when the last context that borrowed it is gone, in whatever order they end.

Refused: a counter that all uses share (one more call anywhere would change every other value; each consumer's own label
keeps the seeds of unlike things apart); a generator per context behind the functions of `numpy.random` (they are bound
to one object of C code, that user code has already imported).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import os
import random
import sys
import threading
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from clearstone.errors import ConfigurationError
from clearstone.nondet import drawn
from clearstone.nondet.patches import AttributePatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, ModuleType

    from clearstone.nondet.patches import Patch

SEED_SIZE = 32

current: ContextVar[Entropy | None] = ContextVar("clearstone_entropy", default=None)


def active() -> Entropy | None:
    """Return the entropy of the context; None where that is real."""
    entropy = current.get()
    return entropy if entropy is not None and not entropy.is_live else None


def derive(seed: bytes, purpose: str) -> bytes:
    """Return 32 bytes made from `seed` that say nothing about those of another purpose (at most 16 letters)."""
    return hashlib.blake2b(seed, digest_size=32, person=purpose.encode()).digest()


class Entropy:
    """An endless stream of bytes fixed by its seed, and what `uuid1` needs to be one too. Safe for several threads.

    Args:
        seed: any bytes; equal seeds give equal streams.
        random_state: what ``random.getstate()`` returned, for the functions of `random`; None for one made from `seed`.

    Raises:
        ConfigurationError: when `random_state` is no such value.
    """

    def __init__(self, seed: bytes, random_state: tuple[Any, ...] | None = None) -> None:
        self.generator = random.Random(derive(seed, "random"))  # noqa: S311 - the user's own random numbers
        if random_state is not None:
            _set(self.generator, random_state)
        self._key = derive(seed, "stream")
        self._blocks = itertools.count()
        own = derive(seed, "uuid1")
        self.node = int.from_bytes(own[:6], "big")
        self.sequence = int.from_bytes(own[6:8], "big") % 2**14
        self._stamp = 0
        self._lock = threading.RLock()
        self.is_live = False
        """Whether the context asks for real entropy again: its code talks to the world."""

    def as_real(self) -> Entropy:
        """Return what draws from the same generator, and has real entropy."""
        twin = copy(self)
        twin.is_live = True
        return twin

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        block = next(self._blocks)  # one step in C: two threads never get the same one
        return hashlib.shake_256(self._key + block.to_bytes(8, "big")).digest(size)

    def later(self, stamp: int) -> int:
        """Return `stamp`, or the first number after the one returned before."""
        with self._lock:
            self._stamp = max(stamp, self._stamp + 1)
            return self._stamp


def _set(generator: random.Random, state: tuple[Any, ...]) -> None:
    try:
        generator.setstate(state)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise ConfigurationError(f"random_state is no value of random.getstate(): {error}") from error


# --- generators without a seed ---------------------------------------------------------------------------------------


def seed_patches() -> list[Patch]:
    """Make ``random.Random()`` take its seed from the context's stream, or from a record."""
    return [AttributePatch(random.Random, "seed", _seeding)]


def _seeding(original: Callable[..., None]) -> Callable[..., None]:
    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        original(self, seed_for(sys._getframe(1)) if a is None else a, version)

    return seed


def seed_for(caller: FrameType) -> int | None:
    """Return a seed for a generator that was given none; None: the system's entropy, as ever.

    Args:
        caller: the frame that asks.
    """
    entropy, draws = active(), drawn.here("random", caller)
    if entropy is None and draws is None:
        return None
    make = partial(os.urandom if entropy is None else entropy.read, SEED_SIZE)
    return int.from_bytes(make() if draws is None else draws.drawn("random", "seed", make), "big")


# --- the generator there is one of ------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Loan:
    before: Any


class Lender:
    """Changes a process-wide state for a while and puts back what was there, in whatever order the whiles end.

    Args:
        get: returns the state.
        put: sets it.
    """

    def __init__(self, get: Callable[[], Any], put: Callable[[Any], object]) -> None:
        self._get, self._put = get, put
        self._loans: list[_Loan] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lending(self, state: Any) -> Iterator[None]:
        """Set `state` inside the ``with``."""
        with self._lock:
            loan = _Loan(self._get())
            self._put(state)
            self._loans.append(loan)
        try:
            yield
        finally:
            self._give_back(loan)

    def _give_back(self, loan: _Loan) -> None:
        with self._lock:
            place = self._loans.index(loan)
            del self._loans[place]
            if place == len(self._loans):
                self._put(loan.before)
            else:  # a later loan is still out: it puts back what this one found
                self._loans[place].before = loan.before


@contextlib.contextmanager
def numpy_functions(seed: bytes) -> Iterator[None]:
    """Give the functions of `numpy.random` a state inside the ``with``, where numpy is imported and uses its default.

    numpy's global generator, when numpy is imported inside, is born from our stream: it gets real entropy at the end.
    Where numpy is there, its generators are loaded before: it does that at their first use, and seeds one from ours.
    """
    if "numpy" in sys.modules:
        importlib.import_module("numpy.random")
    module = sys.modules.get("numpy.random")
    if module is None:
        try:
            yield
        finally:
            _freshen(sys.modules.get("numpy.random"))
    elif module.get_state(legacy=False)["bit_generator"] != "MT19937":
        yield  # the user put another generator there, and seeds it the way that one is seeded
    else:
        with _numpy_lender(module).lending(_numpy_state(module, derive(seed, "numpy"))):
            yield


def _numpy_state(module: ModuleType, key: bytes) -> Any:
    words = [int.from_bytes(key[at : at + 4], "big") for at in range(0, len(key), 4)]
    return module.RandomState(module.MT19937(words)).get_state(legacy=False)  # RandomState(words) asks os.urandom first


_numpy_lenders: dict[int, Lender] = {}


def _numpy_lender(module: ModuleType) -> Lender:
    def get() -> Any:
        return module.get_state(legacy=False)

    return _numpy_lenders.setdefault(id(module), Lender(get, module.set_state))


def _freshen(module: ModuleType | None) -> None:
    if module is not None:
        module.seed()
