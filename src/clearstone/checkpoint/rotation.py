"""Which old parts of a state the fast mode verifies at a step, and when each was last verified.

Idea: the old parts of all containers have their turns, round and round. A step takes as many as fit into `BUDGET`, and
begins where the last one stopped.

Invariant: each step verifies one at least, so that a round ends, however slow a part is. The step at which a part was
last verified is known of each.

Refused: a fixed number of parts at each step (a part may cost a thousand times what another does).
"""

from __future__ import annotations

from itertools import groupby
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from clearstone.checkpoint.containers import Container, Part
    from clearstone.checkpoint.snapshots import Run

BUDGET = 0.0003
"""Seconds of a step for parts whose turn it is."""


class Rotation:
    """Whose turn it is.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._next = 0

    def turn(self, containers: Sequence[Container]) -> Iterator[Part]:
        """Give the parts whose turn it is; each is to be verified before the next is asked for."""
        old = [(each, len(each.parts) - len(each.newest())) for each in containers]
        count, began = sum(number for _, number in old), self._clock()
        until = began + BUDGET
        for _ in range(count):
            self._next = (self._next + 1) % count
            yield _at(self._next, old)
            ended = self._clock()
            if ended + (ended - began) > until:  # the next takes as long as this one, as far as is known
                return
            began = ended


def _at(index: int, old: list[tuple[Container, int]]) -> Part:
    for container, count in old:
        if index < count:
            return container.parts[index]
        index -= count
    raise IndexError(index)


def verified(containers: Sequence[Container], step: int) -> tuple[tuple[Run, ...], ...]:
    """Return when the parts of each container were last verified, as runs; nothing where all were at `step`."""
    found = tuple(tuple(_runs(each.verified)) for each in containers)
    return () if all(last == step for runs in found for _, last in runs) else found


def _runs(steps: list[int]) -> Iterator[Run]:
    return ((len(list(group)), step) for step, group in groupby(steps))
