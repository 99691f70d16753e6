"""The cloudpickle pickler that knows definitions of `__main__`, the agent itself, and Clearstone's decorators.

Idea: one `reducer_override` decides, in this order: is it the object whose state is being written; is it one of our
decorated functions; is it a top-level definition of the script; is it a live file; else cloudpickle decides.

Invariant: cloudpickle is imported here and nowhere else, on first use (it is not needed to record plain data).

Refused: cloudpickle's own treatment of a decorated function. It asks ``isinstance(f, FunctionType)``, wrapt's proxy
says yes, and the function comes back without its decorator: the restored call would go live (seen).
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

import cloudpickle

from clearstone.codec import payload


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle ships no types
    """A pickler for a value, or for the state of one object.

    Args:
        file: where the bytes go.
        itself: the object whose state is written, or None.
    """

    def __init__(self, file: io.BytesIO, itself: Any = None) -> None:
        super().__init__(file, payload.PROTOCOL)
        self._itself = itself

    def reducer_override(self, obj: Any) -> Any:
        """Decide how `obj` is written. Called by the C pickler for everything but plain builtins."""
        if self._itself is not None and obj is self._itself:
            return payload.the_restored, ()
        reduced = self._reduce(obj)
        if _is_main_definition(obj) and isinstance(reduced, tuple):
            return _as_definition(obj, reduced)
        return reduced

    def _reduce(self, obj: Any) -> Any:
        decorated = getattr(type(obj), "__clearstone_reduce__", None)
        if decorated is not None:
            return NotImplemented if _by_name(obj) else decorated(obj)
        if isinstance(obj, io.IOBase) and not isinstance(obj, io.BytesIO | io.StringIO):
            raise pickle.PicklingError(f"an open file is not read into a record ({payload.safe_repr(obj)})")
        return super().reducer_override(obj)


def _module_and_name(obj: Any) -> tuple[Any, str]:
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    return module, getattr(obj, "__qualname__", None) or ""


def _by_name(obj: Any) -> bool:
    module, qualname = _module_and_name(obj)
    return (
        module is not None
        and module.__name__ not in payload.MAIN_NAMES
        and payload.find_definition(module, qualname) is obj
    )


def _is_main_definition(obj: Any) -> bool:
    if getattr(obj, "__module__", None) not in payload.MAIN_NAMES:
        return False
    module, qualname = _module_and_name(obj)
    return module is not None and bool(qualname) and payload.find_definition(module, qualname) is obj


def _as_definition(obj: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    maker, arguments, state, _, _, setter = (*reduced, None, None, None, None)[:6]
    module, qualname = _module_and_name(obj)
    file = payload.main_file(module)
    begun = (payload.begin_definition, (file, qualname, maker, arguments))
    if setter is None:
        return begun
    return (*begun, (file, qualname, setter, state), None, None, payload.finish_definition)
