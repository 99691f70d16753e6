"""What a checkpoint reference on the command line means."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from clearstone.checkpoint import loading, manager
from clearstone.checkpoint.listing import checkpoints
from clearstone.checkpoint.manager import Found
from clearstone.cli.place import place
from clearstone.errors import StoreError

if TYPE_CHECKING:
    from clearstone.checkpoint.model import Checkpoint


def find_checkpoint(reference: str) -> Found:
    """Find ``latest`` (of the home and ``.checkpoints`` together), an id prefix, a file name or a path."""
    if reference == "latest":
        for newest in manager.newest(checkpoints()):
            return Found(newest.path, newest.step)
    return manager.find(reference, manager.default_folders())


def load_checkpoint(reference: str) -> Checkpoint:
    """Load what `find_checkpoint` finds. The trace of a run that was killed may still be in its journal."""
    with contextlib.suppress(StoreError):  # the database is damaged: most checkpoints do without
        place.store_if_there()
    return loading.load(*find_checkpoint(reference))
