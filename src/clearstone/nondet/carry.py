"""Take the clock and the entropy of a context into a thread.

Idea: a new thread starts with an empty context, so it would see the real clock. `carried` binds a function to the two
variables of this room and to nothing else: the user's own context variables keep Python's rules.

Invariant: outside a deterministic context a function comes back as it is.

Refused: ``copy_context().run`` (the thread would see the user's variables as well, which it does not
see without us).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from clearstone.nondet import clock as clocks
from clearstone.nondet import entropy as entropies

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearstone.nondet.clock import VirtualClock
    from clearstone.nondet.entropy import Entropy

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def carried(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Bind `function` to the deterministic context it is called in.

    Args:
        function: what a thread or an executor will call.

    Returns:
        A callable that runs `function` with this context's clock and entropy; outside a context `function` itself.
    """
    clock, entropy = clocks.current.get(), entropies.current.get()
    if clock is None and entropy is None:
        return function
    return partial(_call_in, clock, entropy, function)


def _call_in(
    clock: VirtualClock | None, entropy: Entropy | None, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    clock_token, entropy_token = clocks.current.set(clock), entropies.current.set(entropy)
    try:
        return function(*args, **kwargs)
    finally:
        entropies.current.reset(entropy_token)
        clocks.current.reset(clock_token)
