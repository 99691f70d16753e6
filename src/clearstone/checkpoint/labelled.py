"""A checkpoint wherever the code says so."""

from __future__ import annotations

from time import time_ns
from typing import Any

from clearstone import run
from clearstone.errors import ConfigurationError


def snapshot(label: str = "", agent: Any = None) -> str | None:
    """Save a checkpoint of the agent as it is now, in the middle of a recorded call.

    Args:
        label: what it is called in ``clearstone checkpoints``; kept in its metadata as ``"label"``.
        agent: whose state; None for the object that the outermost open ``@checkpointable`` call is bound to.

    Returns:
        The id of the checkpoint; None in a replay, where the code runs again, and where nothing is recorded.

    Raises:
        ConfigurationError: no recorded call is open here, none of them is a boundary's that has an agent, or `label` is
            no text.
        StateError: the agent's state cannot be taken.
        CheckpointError: the file cannot be written.
    """
    if not isinstance(label, str):
        raise ConfigurationError(f"snapshot({label!r}): the label must be a text; for another agent write agent=...")
    if run.override.get() is not None or run.is_disabled():
        return None
    span: Any = run.current_span.get()
    if span is None or span.inherited:
        raise ConfigurationError(
            "snapshot() was called outside any recorded call; call it in a function or method with @traced or "
            "@checkpointable"
        )
    agent = agent if agent is not None else _agent_above(span)
    if agent is None:
        raise ConfigurationError(
            "snapshot() was called in no @checkpointable call of an agent; name one with snapshot(label, agent=...)"
        )
    from clearstone.checkpoint import keeping  # no part of `import clearstone`
    from clearstone.checkpoint.making import checkpoint_of

    now = time_ns()
    with run.suspended():  # a get_state that calls decorated methods records nothing
        checkpoint = checkpoint_of(agent, span.trace_so_far(), span.span_id, now)
    checkpoint.metadata.update({"label": label} if label else {})
    keeping.save(checkpoint, span, sync=True)
    return checkpoint.checkpoint_id


def _agent_above(span: Any) -> Any:
    """Return the object that the outermost open boundary is bound to, as its entry knows it."""
    found = None
    while span is not None:
        agent = getattr(getattr(span, "entry", None), "agent", None)
        found = agent if agent is not None else found  # its truth is its own affair
        span = span.parent
    return found
