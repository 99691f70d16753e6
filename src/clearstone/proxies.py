"""What is used of wrapt: two classes to build on, and its hook after imports. The only importer of wrapt.

Idea: a wrapt proxy keeps what it stands for visible (signature, attributes, `isinstance`, descriptor behaviour), so the
rooms that wrap something say only what is different. The names are bound here once, with the types wrapt's own stubs do
not give at run time.
"""

from __future__ import annotations

import operator
from types import GetSetDescriptorType
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    FunctionWrapper = wrapt.FunctionWrapper[Any, Any]
    BoundFunctionWrapper = wrapt.BoundFunctionWrapper[Any, Any]
else:
    FunctionWrapper, BoundFunctionWrapper = wrapt.FunctionWrapper, wrapt.BoundFunctionWrapper


def _getter(name: str) -> Callable[[Any], Any]:
    """Return what reads an attribute of a wrapper's own: a lookup through the proxy takes twice the time."""
    for cls in wrapt.FunctionWrapper.__mro__:
        if isinstance(vars(cls).get(name), GetSetDescriptorType):
            return vars(cls)[name].__get__  # type: ignore[no-any-return]
    return operator.attrgetter(name)  # wrapt without its extension in C


wrapper_of = _getter("_self_wrapper")


def when_imported(module: str, do: Callable[[ModuleType], None]) -> None:
    """Call `do` with a module: now if it is imported, else as soon as it is.

    Args:
        module: its full name.
        do: what it raises lets the import fail.
    """
    wrapt.register_post_import_hook(do, module)
