"""Numbers that stand for sites in one journal.

Idea: a start names its site by a number; what the number means is a record of its own, and stands in every segment's
header, so that each segment can be read alone.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from clearstone.record import layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearstone.store.batch import SiteRow

MOST_SITES = 4000
"""Beyond so many sites a start names its site itself: span names made at run time must not fill every header."""

NO_SITE = 0


class SiteNumbers:
    """The sites of one journal.

    Args:
        append: puts a record into the journal; returns whether it is there.
    """

    def __init__(self, append: Callable[[bytes], bool]) -> None:
        self._append = append
        self._caches: list[dict[str, Any]] = []
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all numbers: a forked child has a journal of its own."""
        for cache in self._caches:
            cache.clear()
        self._numbers: dict[SiteRow, int] = {}
        self._next = itertools.count(1)
        self.definitions: list[bytes] = []

    def number(self, row: SiteRow) -> int:
        """Return the number that stands for `row`; `NO_SITE` when there are too many, or the journal has no room."""
        number = self._numbers.get(row)
        if number is None and len(self._numbers) < MOST_SITES:
            number = next(self._next)  # where two threads define one at once, either number will do
            definition = layout.site_record(number, row)
            self.definitions.append(definition)  # first: the next segment may begin before the record is there
            if not self._append(definition):
                return NO_SITE
            self._numbers[row] = number
        return number or NO_SITE

    def cache(self) -> dict[str, Any]:
        """Return an empty dict for what is kept with a number; it is emptied when they begin anew."""
        cache: dict[str, Any] = {}
        self._caches.append(cache)
        return cache
