"""`uuid.uuid1`: time of the context's clock, and node and sequence made from its seed.

Idea: `uuid` asks the system for the whole value through one function of its own; a dispatcher stands there and builds
the value from the context. Outside it asks the system as before.

Invariant: every alias of `uuid1` is covered, because it looks that function up at each call. Within a context no value
comes twice although its clock stands still: the time of each is 100 ns after the one before.

Refused: the module's own way of building it, which time-machine falls back on (it takes the node of this machine, or a
random one, and remembers the latest time for all threads together).
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import random
import sys
import time
import uuid
from typing import TYPE_CHECKING

from clearstone.nondet import drawn
from clearstone.nondet import entropy as entropies
from clearstone.nondet.patches import AttributePatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Generator = Callable[[], tuple[bytes, int | None]]

EPOCH_1582 = 0x01B21DD213814000  # 100-nanosecond steps from the epoch of uuid to that of time
MULTICAST = 1 << 40  # marks a node that is no network card


def system_generator() -> Generator | None:
    """Return what `uuid` asks the system with, past a dispatcher; None where it builds the value itself."""
    found: Generator | None = vars(uuid)["_generate_time_safe"]
    return getattr(found, "system", found)


@contextlib.contextmanager
def installed(system: Generator | None) -> Iterator[None]:
    """Build `uuid1` from the context inside the ``with``; outside contexts `system` is asked."""
    patch = AttributePatch(uuid, "_generate_time_safe", lambda _: _generator(system or _as_uuid_does))
    patch.install()
    try:
        yield
    finally:
        patch.remove()


def date_of(value: uuid.UUID) -> datetime.date:
    """Return the date, in UTC, that is in a version 1 `value`."""
    seconds = (value.time - EPOCH_1582) // 10_000_000
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date()


def _generator(system: Generator) -> Generator:
    def generate() -> tuple[bytes, int | None]:
        entropy, draws = entropies.active(), drawn.here("uuid", sys._getframe(1))
        if entropy is not None:
            make = functools.partial(_build, entropy)
            return make() if draws is None else draws.drawn("uuid", "uuid1", make), None
        value, is_safe = system()
        return value if draws is None else draws.drawn("uuid", "uuid1", lambda: value), is_safe

    generate.system = system  # type: ignore[attr-defined]  # for `system_generator`
    return generate


def _build(entropy: entropies.Entropy) -> bytes:
    stamp = entropy.later(time.time_ns() // 100 + EPOCH_1582)
    fields = (
        stamp & 0xFFFFFFFF,
        stamp >> 32 & 0xFFFF,
        stamp >> 48 & 0x0FFF,
        entropy.sequence >> 8 & 0x3F,
        entropy.sequence & 0xFF,
        entropy.node | MULTICAST,
    )
    return uuid.UUID(fields=fields, version=1).bytes


def _as_uuid_does() -> tuple[bytes, None]:
    """Let `uuid` build the value itself: with a sequence given, it does not ask for ours."""
    return uuid.uuid1(clock_seq=random.getrandbits(14)).bytes, None
