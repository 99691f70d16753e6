"""What a state is, exactly: types, values, order, and which object is which. Two states are one if their forms are."""

from __future__ import annotations

from typing import Any

ATOMS = (str, bytes, int, float, bool, complex, type(None))


def form(root: Any) -> Any:
    """Return the form of `root`: a mutable object is a number where it is met again, whatever the way to it."""
    labels: dict[int, int] = {}

    def of(each: Any) -> Any:
        kind = type(each)
        if kind in ATOMS:
            return kind.__name__, repr(each)
        if kind is tuple:
            return "tuple", tuple(map(of, each))
        if id(each) in labels:
            return "again", labels[id(each)]
        labels[id(each)] = len(labels)
        return inside(each)

    def inside(each: Any) -> Any:
        if type(each) is list:
            return "list", tuple(map(of, each))
        if type(each) is dict:
            return "dict", tuple((of(key), of(value)) for key, value in each.items())
        if type(each) is set:
            return "set", tuple(sorted(map(repr, each)))
        if callable(each) and getattr(each, "__closure__", None) is not None:
            return "function", each.__code__.co_code, tuple(of(cell.cell_contents) for cell in each.__closure__)
        return type(each).__qualname__, of(vars(each))

    return of(root)
