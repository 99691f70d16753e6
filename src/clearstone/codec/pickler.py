"""The cloudpickle pickler that knows definitions of `__main__`, the agent itself, and Clearstone's decorators.

Idea: one `reducer_override` decides, in this order: is it the object whose state is being written; is it one of our
decorated functions, perhaps bound; is it a top-level definition of the script; is it a live file; is it an exception,
whose constructor may want more than pickle gives it; else cloudpickle decides.

Invariant: cloudpickle is imported here and nowhere else, on first use (it is not needed to record plain data).

Refused: cloudpickle's own treatment of a decorated function. It asks ``isinstance(f, FunctionType)``, wrapt's proxy
says yes, and the function comes back without its decorator: the restored call would go live (seen).
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import TYPE_CHECKING, Any

import cloudpickle

from clearstone.codec import exceptions, payload
from clearstone.span import MAIN_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle ships no types
    """A pickler for a value, or for the state of one object.

    Args:
        file: where the bytes go.
        itself: the object whose state is written, or None.
        with_code: False to write definitions of the script by name alone.
        buffer_callback: see `pickle.Pickler`.

    Attributes:
        met_definitions: whether a definition of the script was written.
    """

    def __init__(
        self,
        file: io.BytesIO,
        itself: Any = None,
        *,
        with_code: bool = True,
        buffer_callback: Callable[[pickle.PickleBuffer], None] | None = None,
    ) -> None:
        _store_code_of_main()
        super().__init__(file, payload.PROTOCOL, buffer_callback)
        self._itself = itself
        self._with_code = with_code
        self.met_definitions = False

    def reducer_override(self, obj: Any) -> Any:
        """Decide how `obj` is written. Called by the C pickler for everything but plain builtins."""
        if self._itself is not None and obj is self._itself:
            return payload.the_restored, ()
        if not _is_main_definition(obj):
            return self._reduce(obj)
        self.met_definitions = True
        reduced = self._reduce(obj) if self._with_code else None
        return _as_definition(obj, reduced) if isinstance(reduced, tuple) else _by_name_alone(obj)

    def _reduce(self, obj: Any) -> Any:
        if hasattr(type(obj), "__clearstone_reduce__"):
            return _decorated(obj)
        if hasattr(type(obj), "_self_parent") and hasattr(type(obj._self_parent), "__clearstone_reduce__"):
            return payload.bound, (obj._self_parent, obj._self_instance, obj._self_owner)
        if isinstance(obj, io.IOBase) and not isinstance(obj, io.BytesIO | io.StringIO):
            raise pickle.PicklingError(f"an open file is not read into a record ({payload.safe_repr(obj)})")
        if isinstance(obj, BaseException):
            return exceptions.reduce_exception(obj)
        return super().reducer_override(obj)


def _store_code_of_main() -> None:
    """Tell cloudpickle that the other names of `__main__` cannot be imported elsewhere either."""
    for name in MAIN_NAMES - cloudpickle.list_registry_pickle_by_value() - {"__main__"}:
        module = sys.modules.get(name)
        if module is not None and module.__name__ == name:
            cloudpickle.register_pickle_by_value(module)


def _module_and_name(obj: Any) -> tuple[Any, str]:
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    return module, getattr(obj, "__qualname__", None) or ""


def _by_name(obj: Any) -> bool:
    module, qualname = _module_and_name(obj)
    return module is not None and module.__name__ not in MAIN_NAMES and payload.find_definition(module, qualname) is obj


def _decorated(obj: Any) -> Any:
    if not _by_name(obj):
        return obj.__clearstone_reduce__()
    if "." not in obj.__qualname__:
        return NotImplemented
    return payload.named, (obj.__module__, obj.__qualname__)  # the pickler would look a method up and find it bound


def _is_main_definition(obj: Any) -> bool:
    if getattr(obj, "__module__", None) not in MAIN_NAMES:
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


def _by_name_alone(obj: Any) -> tuple[Any, ...]:
    module, qualname = _module_and_name(obj)
    where = (payload.main_file(module), qualname)
    return payload.begin_definition, (*where, payload.without_code, where)
