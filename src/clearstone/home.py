"""Where Clearstone keeps its files: one folder, ``.clearstone`` in the working directory unless told otherwise."""

from __future__ import annotations

import functools
import os
from pathlib import Path

_configured: Path | None = None
_resolved: dict[str, Path] = {}  # a program that changes its directory keeps the home it began with


def home() -> Path:
    """Return the folder: what `set_home` was given, else ``CLEARSTONE_HOME``, else ``.clearstone`` here."""
    if _configured is not None:
        return _configured
    named = os.environ.get("CLEARSTONE_HOME") or ".clearstone"
    return _resolved.setdefault(named, Path(named).expanduser().absolute())


def set_home(folder: str | os.PathLike[str] | None) -> None:
    """Keep files in `folder` from now on; None goes back to the default."""
    global _configured  # noqa: PLW0603 - one process, one home
    _configured = Path(folder).absolute() if folder is not None else None
    _resolved.clear()


def follow(folder: Path) -> None:
    """Keep files where the process that started this one does, unless `set_home` said otherwise here."""
    if _configured is None and home() != folder:
        set_home(folder)


def trace_file() -> Path:
    """Return the path of the default trace database."""
    return home() / "traces.db"


def checkpoint_folder() -> Path:
    """Return the folder of automatic checkpoints."""
    return _checkpoints_in(home())


@functools.lru_cache(maxsize=8)
def _checkpoints_in(folder: Path) -> Path:
    return folder / "checkpoints"


def ensure_home() -> Path:
    """Create the folder for its owner alone, with a .gitignore that keeps records out of repositories.

    Raises:
        OSError: it cannot be created.
    """
    folder = home()
    ours = folder.name == ".clearstone" or not folder.exists()  # any other folder that was there is the user's
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if ours and not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
    return folder
