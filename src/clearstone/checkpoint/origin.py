"""Whose code a class is: the user's, or an installed library's."""

from __future__ import annotations

import functools
import sys
from pathlib import Path


def is_installed(cls: type) -> bool:
    """Whether `cls` comes with Python or an installed distribution."""
    module = cls.__module__
    if module in sys.builtin_module_names or module.partition(".")[0] in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return any(Path(file).is_relative_to(place) for place in installed_places())


@functools.cache
def installed_places() -> tuple[str, ...]:
    """Return the folders that Python and installed distributions are in."""
    import sysconfig

    paths = sysconfig.get_paths()
    return tuple(paths[place] for place in ("stdlib", "purelib", "platlib"))
