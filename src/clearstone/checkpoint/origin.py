"""Whose code a class is: the user's, or an installed library's."""

from __future__ import annotations

import functools
import os
import sys


def is_installed(cls: type) -> bool:
    """Whether `cls` comes with Python or an installed distribution."""
    module = cls.__module__
    if module in sys.builtin_module_names or module.partition(".")[0] in sys.stdlib_module_names:
        return True
    return is_installed_file(getattr(sys.modules.get(module), "__file__", None) or "")


def is_installed_file(file: str) -> bool:
    """Whether a module's file lies where Python and installed distributions are."""
    return file.startswith(_installed_places())


@functools.cache
def _installed_places() -> tuple[str, ...]:
    import sysconfig

    paths = sysconfig.get_paths()
    return tuple(os.path.join(paths[place], "") for place in ("stdlib", "purelib", "platlib"))  # noqa: PTH118 - a path's own drops the separator at the end
