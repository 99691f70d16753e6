"""What a checkpoint reference on the command line means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clearstone.checkpoint import manager
from clearstone.checkpoint.listing import checkpoints

if TYPE_CHECKING:
    from clearstone.checkpoint.model import Checkpoint


def load_checkpoint(reference: str) -> Checkpoint:
    """Load ``latest`` (of the home and ``.checkpoints`` together), an id prefix, a file name or a path."""
    if reference == "latest":
        everywhere = checkpoints()
        if everywhere:
            return manager.load(everywhere[0].path)
    return manager.load(manager.find(reference, manager.default_folders()))
