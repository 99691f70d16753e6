"""What a store may offer beyond the protocol, for the writer: nothing of it fails a call, or keeps a batch from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clearstone.errors import StoreError
from clearstone.record import faults

if TYPE_CHECKING:
    from clearstone.store.base import TraceStore


def tidy(store: TraceStore, seconds: float) -> bool:
    """Let a store do what can wait (compress, index).

    Args:
        store: the store.
        seconds: for about so long.

    Returns:
        Whether something is left that may be done now.
    """
    do = getattr(store, "tidy", None)
    try:
        return do is not None and bool(do(seconds))
    except StoreError:  # locked, full or down: at another time
        return False
    except Exception as error:
        faults.report("tidying the store", error)
        return False


def interrupt(store: TraceStore, token: str) -> None:
    """Let a store mark the open spans of a process as interrupted."""
    do = getattr(store, "interrupt", None)
    try:
        if do is not None:
            do(token)
    except Exception as error:
        faults.report("marking interrupted spans", error)


def forget_connection(store: TraceStore) -> None:
    """Let a store of a forked child leave the parent's connection alone."""
    do = getattr(store, "forget_connection", None)
    if do is not None:
        do()
