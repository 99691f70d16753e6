"""What is used of wrapt: two classes to build on, and its hook after imports. The only importer of wrapt.

Idea: a wrapt proxy keeps what it stands for visible (signature, attributes, `isinstance`, descriptor behaviour), so the
rooms that wrap something say only what is different. The names are bound here once, with the types wrapt's own stubs do
not give at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    FunctionWrapper = wrapt.FunctionWrapper[Any, Any]
    BoundFunctionWrapper = wrapt.BoundFunctionWrapper[Any, Any]
else:
    FunctionWrapper, BoundFunctionWrapper = wrapt.FunctionWrapper, wrapt.BoundFunctionWrapper


def when_imported(module: str, do: Callable[[ModuleType], None]) -> None:
    """Call `do` with a module: now if it is imported, else as soon as it is.

    Args:
        module: its full name.
        do: what it raises lets the import fail.
    """
    wrapt.register_post_import_hook(do, module)
