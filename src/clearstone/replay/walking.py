"""Walks through values of any depth, from any depth of the stack.

Idea: a recursive function is written as a generator that yields the generators of its recursive calls; `walked` keeps
them on a list of its own. A user's code may be near the recursion limit when it makes a call, and a value may be deeper
than the limit allows.
"""

from __future__ import annotations

from collections.abc import Generator
from types import GeneratorType
from typing import Any, TypeVar

Result = TypeVar("Result")

Walk = Generator[Any, Any, Result]


def walked(walk: Walk[Result]) -> Result:
    """Return what a walk returns."""
    stack: list[Any] = [walk]
    given: Any = None
    while stack:
        try:
            asked = stack[-1].send(given)
        except StopIteration as end:
            stack.pop()
            given = end.value
        else:
            if type(asked) is not GeneratorType:
                raise TypeError(f"a walk yielded {type(asked).__name__} in the place of a walk")
            stack.append(asked)
            given = None
    return given  # type: ignore[no-any-return]  # the first walk's
