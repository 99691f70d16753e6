"""The functions of `random`: one generator for the process outside, and one of its own for each context.

Idea: they are all bound to one object of `random`, so that object decides per call whose state it draws from. While a
context is open it has a class of ours. That class comes behind `random.Random` among its bases: a method which user
code has imported before (``from random import seed``) goes through it all the same, for it calls ``super()``. What is
written in C and bound already (``random.random``, ``random.getrandbits``) is swapped as the clocks are.

Invariant: code outside a context draws from the state of the process and never moves a context's, and the other way
round; after the last context the object has its own class back.

Refused: lending the state of the process for a while (tasks beside a replay would draw the replay's numbers, and move
them); a context's functions in the place of the module's (misses every alias).
"""

from __future__ import annotations

import _random
import random
import sys
from typing import TYPE_CHECKING, Any

from clearstone.nondet import entropy as entropies
from clearstone.nondet.patches import builtin_patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clearstone.nondet.patches import Patch

_process: Any = vars(random)["_inst"]


def _own(shared: Any) -> Any:
    """Return the generator of this context; outside one, what stands for all of the process."""
    entropy = entropies.current.get()
    return shared if entropy is None else entropy.generator


class _Beneath(_random.Random):
    """What the methods of `random.Random` are made of, for whoever calls."""

    __slots__ = ()

    def random(self) -> float:
        return _random.Random.random(_own(self))

    def getrandbits(self, k: int, /) -> int:
        return _random.Random.getrandbits(_own(self), k)

    def seed(self, n: Any = None, /) -> None:
        _random.Random.seed(_own(self), entropies.seed_for(sys._getframe(1)) if n is None else n)

    def getstate(self) -> tuple[int, ...]:
        return _random.Random.getstate(_own(self))

    def setstate(self, state: tuple[int, ...], /) -> None:
        _random.Random.setstate(_own(self), state)


class _Shared(random.Random, _Beneath):
    """The class of the object behind the functions of `random` while a context is open."""

    __slots__ = ()

    @property
    def gauss_next(self) -> float | None:  # the second number of a pair, kept until it is asked for
        number: float | None = vars(_own(self))["gauss_next"]
        return number

    @gauss_next.setter
    def gauss_next(self, number: float | None) -> None:
        vars(_own(self))["gauss_next"] = number

    def __reduce__(self) -> Any:
        return random.Random, (), self.getstate()


_Shared.__name__, _Shared.__qualname__, _Shared.__module__ = "Random", "Random", "random"


class _ClassPatch:
    """Gives the object behind the functions of `random` its other class (see `clearstone.nondet.patches.Patch`)."""

    original = random.Random

    def install(self) -> None:
        _process.__class__ = _Shared

    def remove(self) -> None:
        if issubclass(_process.__class__, _Shared):  # not somebody else's by now
            _process.__class__ = self.original


def patches() -> Iterator[Patch]:
    """Give what lets each context draw from its own generator."""
    yield _ClassPatch()
    for name in ("random", "getrandbits"):
        yield builtin_patch(random, name, _drawing(name))


def _drawing(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    draw = vars(_random.Random)[name]

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(*args: Any) -> Any:
            entropy = entropies.current.get()
            return original(*args) if entropy is None else draw(entropy.generator, *args)

        return drawn

    return make
