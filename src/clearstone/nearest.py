"""The half sentence of an error about a name that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LISTED = 8


def nearest(name: str, names: Iterable[str]) -> str:
    """Return which of `names` was probably meant, or the first few of them where none is near."""
    import difflib

    there = list(names)
    near = difflib.get_close_matches(name, there, n=1)
    return f"the nearest is {near[0]!r}" if near else f"it has {', '.join(there[:LISTED]) or 'nothing'}"
