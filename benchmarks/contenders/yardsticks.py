"""What every contender is measured against, in its own process: the bare call and a wrapt pass-through."""

from collections.abc import Callable
from typing import Any

import wrapt


def bare(function: Callable[..., Any], kind: str, *, method: bool = False) -> Callable[..., Any]:
    return function


@wrapt.decorator
def _passing(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


def pass_through(function: Callable[..., Any], kind: str, *, method: bool = False) -> Callable[..., Any]:
    return _passing(function)
