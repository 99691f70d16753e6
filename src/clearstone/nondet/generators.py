"""Where the generators stand that a process has one of: behind the functions of `random`, and of `numpy.random`.

Idea: a generator is its state; whoever puts the state back gets the same numbers, however many. Two states are compared
as bytes. Those of `random` are read from the object as they lie there, which costs a tenth of asking for them; the
first look makes sure that they are what ``random.getstate()`` says.

Invariant: looking moves nothing, and imports nothing.

Refused: counting draws (the functions of `random` are bound methods that user code has already imported, and numpy's
are in C).
"""

from __future__ import annotations

import functools
import importlib
import random
import sys
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import TYPE_CHECKING, Any

from clearstone.nondet import entropy as entropies

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = Struct("=625I")  # the place in the row of words, and the words
GAUSS = Struct("=?d")  # whether a second normal number waits, and which
POSITION = Struct("=i?d")  # of numpy: the place, and the same two


def states() -> dict[str, bytes]:
    """Return the states by module: ``random``, and ``numpy`` where its functions are loaded and have their default."""
    is_own = entropies.current.get() is not None  # a context has a generator of its own
    found = {"random": (_asked if is_own else _words())() + _gauss(random.getstate()[2] if is_own else _waiting())}
    module = sys.modules.get("numpy.random")
    if module is not None:
        told = module.get_state(legacy=False)
        if told["bit_generator"] == "MT19937":
            place = POSITION.pack(told["state"]["pos"], bool(told["has_gauss"]), told["gauss"])
            found["numpy"] = place + told["state"]["key"].astype("=u4").tobytes()
    return found


def put(name: str, state: bytes) -> None:
    """Set the state of a module's generator.

    Raises:
        ValueError: `state` is none.
    """
    try:
        {"random": _put_random, "numpy": _put_numpy}[name](state)
    except (KeyError, ValueError, TypeError, IndexError, OverflowError, StructError) as error:
        raise ValueError(f"no state of the generator of {name}: {error}") from error


def _gauss(waits: float | None) -> bytes:
    return GAUSS.pack(waits is not None, waits or 0.0)


def _put_random(state: bytes) -> None:
    place, *words = WORDS.unpack(state[: WORDS.size])
    waits, gauss = GAUSS.unpack(state[WORDS.size :])
    random.setstate((3, (*words, place), gauss if waits else None))


def _put_numpy(state: bytes) -> None:
    module: Any = importlib.import_module("numpy.random")  # it was loaded when it was recorded
    place, waits, gauss = POSITION.unpack(state[: POSITION.size])
    key = importlib.import_module("numpy").frombuffer(state[POSITION.size :], "=u4")
    module.set_state({
        "bit_generator": "MT19937", "state": {"key": key, "pos": place}, "has_gauss": int(waits), "gauss": gauss,
    })  # fmt: skip


@functools.cache
def _words() -> Callable[[], bytes]:
    """Return what reads the words of the generator of `random`: as they lie in memory, where they lie as expected."""
    try:
        import ctypes
    except ImportError:  # an interpreter built without ctypes
        return _asked
    generator, head = _generator(), object.__basicsize__
    read = functools.partial(ctypes.string_at, id(generator) + head, WORDS.size)
    return read if type(generator).__basicsize__ >= head + WORDS.size and read() == _asked() else _asked


def _generator() -> Any:
    return vars(random)["_inst"]


def _waiting() -> float | None:
    number: float | None = _generator().gauss_next
    return number


def _asked() -> bytes:
    *words, place = random.getstate()[1]
    return WORDS.pack(place, *words)
