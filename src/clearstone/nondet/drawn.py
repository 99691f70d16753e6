"""What code draws by chance and from clocks: who keeps it while it is recorded, and gives it again in a replay.

Idea: a dispatcher that is asked by a user's code says so to the span the code runs in (`here`). The span of a recorded
call hands out a `Log`, which makes the value and keeps it; that of a step in a replay what plays such a log. A log is
one text among the attributes of its span, so it is wherever the span is: in the store, in a checkpoint, and in a look
at a call that has not ended.

Invariant: values of one source come back in the order they were drawn in one call, whatever other sources and other
calls do. Only the user's draws count, on both sides alike: what the standard library asks on its own account (queues,
the event loop, temporary names), what Clearstone asks, and what a module asks while it is imported is not the call's,
for how often it is asked differs from process to process.

Refused: one log for all (a value more in one call would shift those of every other, and threads would mix theirs);
logging each number of the global generators (`generators` keeps where they stand, which costs the same for a million).
"""

from __future__ import annotations

import base64
import binascii
import functools
import itertools
import json
import os
import time
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args

from clearstone import run
from clearstone.callers import INSTALLED, OURS, STANDARD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

Value = TypeVar("Value")
Kind = Literal["random", "uuid", "time"]

KINDS: tuple[Kind, ...] = get_args(Kind)

CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
"""Sources of whole nanoseconds, by their names in `time`; any other source gives bytes."""

MOST = 1_000_000
"""Values of one source that are kept of one call."""

MOST_BYTES = 1 << 28
"""Of a log that is read; a text that claims more was not written by this file."""

_PASSED = frozenset({"clearstone.drivers", "clearstone.generators", "random", "secrets", "time_machine", "uuid"})
"""Modules that draw for whoever calls them, and those that call decorated functions."""


class Draws(Protocol):
    """Where what is drawn in one call is kept, or comes from."""

    kinds: frozenset[Kind]
    """What it wants to be asked for."""

    def drawn(self, kind: Kind, source: str, make: Callable[[], Value]) -> Value:
        """Return the next value of a source, which `make` makes where there is no other."""


def here(kind: Kind, caller: FrameType) -> Draws | None:
    """Return whom to ask for a value; None where it is simply made.

    Args:
        kind: what is drawn.
        caller: the frame that asks.
    """
    span, override = run.current_span.get(), run.override.get()
    if (span is None and override is None) or not _is_a_users(caller):  # first: a span that is asked looks at clocks
        return None
    draws = span.draws() if span is not None else getattr(override, "draws", None)
    return draws if draws is not None and kind in draws.kinds else None


def _is_a_users(caller: FrameType) -> bool:
    frame: FrameType | None = caller
    while frame is not None and frame.f_globals.get("__name__") in _PASSED:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name != "<module>" and not _is_library(frame.f_code.co_filename)


@functools.cache
def _is_library(file: str) -> bool:
    """Whether a file is of the standard library, of Clearstone, or of hypothesis, which times the collector."""
    if INSTALLED in file:
        return f"{os.sep}hypothesis{os.sep}" in file or file.startswith(OURS)
    return file.startswith((OURS, *STANDARD))


# --- kept ------------------------------------------------------------------------------------------------------------


class Log:
    """What is drawn in one call, from any thread.

    Args:
        kinds: what of it is kept.
    """

    def __init__(self, kinds: frozenset[Kind]) -> None:
        self.kinds = kinds
        self.states: dict[str, bytes] = {}
        """Where the global generators stood (see `clearstone.nondet.generators`)."""

        self.order = 0
        """A number that is higher the later that was looked at."""

        self._values: dict[str, list[Any]] = {}
        self._began: dict[str, int] = {}

    def drawn(self, _: Kind, source: str, make: Callable[[], Value]) -> Value:
        """Make a value and keep it."""
        value = make()
        kept = self._values.get(source)
        if kept is None:
            self._began = self._began or (now() if source in CLOCKS else {})
            kept = self._values.setdefault(source, [])
        if len(kept) < MOST:
            kept.append(value)
        return value

    def text(self) -> str:
        """Return it as `read` reads it; empty where there is nothing in it."""
        values, states = self._values.copy(), self.states.copy()
        if not values and not states:
            return ""
        told: dict[str, Any] = {name: _steps(self._began.get(name, 0), values[name].copy()) for name in values}
        told["began"] = self._began
        told["order"], told["states"] = self.order, {name: state.hex() for name, state in states.items()}
        return base64.b64encode(zlib.compress(json.dumps(told, separators=(",", ":")).encode(), 1)).decode()


def now() -> dict[str, int]:
    """Return what each clock shows, in nanoseconds."""
    return {name: getattr(time, f"{name}_ns")() for name in CLOCKS if hasattr(time, f"{name}_ns")}


def _steps(first: int, values: list[Any]) -> list[Any]:
    """Return moments as how far each is from the one before, and bytes as hex."""
    if values and type(values[0]) is bytes:
        return [value.hex() for value in values]
    return [value - before for before, value in itertools.pairwise([first, *values])]


# --- read again ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """A log as it was read.

    Args:
        values: by source, in order.
        states: see `Log.states`.
        order: see `Log.order`.
        began: what the clocks showed when the first moment in it was drawn; empty where it holds none.
    """

    values: Mapping[str, deque[Any]] = field(default_factory=dict)
    states: Mapping[str, bytes] = field(default_factory=dict)
    order: int = 0
    began: Mapping[str, int] = field(default_factory=dict)


def read(text: str) -> Kept:
    """Return what `Log.text` has written; of what it has not, nothing."""
    try:
        told = json.loads(zlib.decompressobj().decompress(base64.b64decode(text), MOST_BYTES))
        began = {str(name): int(moment) for name, moment in told.pop("began").items()}
        states = {str(name): bytes.fromhex(state) for name, state in told.pop("states").items()}
        order = int(told.pop("order"))
        return Kept({name: _values(name, told[name], began.get(name, 0)) for name in told}, states, order, began)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error, zlib.error):
        return Kept()


def _values(source: str, told: list[Any], first: int) -> deque[Any]:
    if source not in CLOCKS:
        return deque(map(bytes.fromhex, told))
    return deque(itertools.islice(itertools.accumulate(map(int, told), initial=first), 1, None))
