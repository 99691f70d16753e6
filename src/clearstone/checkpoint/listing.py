"""Listing checkpoints, without loading what reads them before somebody asks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from clearstone.checkpoint.manager import CheckpointInfo


def checkpoints(folder: str | os.PathLike[str] | None = None) -> list[CheckpointInfo]:
    """List checkpoints, newest first.

    Args:
        folder: where to look; None for the default home and ``.checkpoints``.
    """
    from clearstone.checkpoint.manager import default_folders, list_folder  # no part of `import clearstone`

    folders = [Path(folder)] if folder is not None else default_folders()
    found = [info for each in folders for info in list_folder(each)]
    return sorted(found, key=lambda info: info.created_ns, reverse=True)
