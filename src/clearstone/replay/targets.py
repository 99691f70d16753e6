"""Mock targets: from a dotted path to the callable it names, and a stand-in at every place that holds it.

Idea: ``from tools import invoke`` copies a name, so a target is replaced in every loaded module that holds the same
object, not only where it was defined. The stand-in has the kind of the original: awaitable, streaming or plain.

Invariant: everything is put back when the context ends, in reverse order.

Refused: `unittest.mock.patch` (one place per call, and a MagicMock answers to anything).
"""

from __future__ import annotations

import builtins
import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clearstone import answers
from clearstone.errors import TargetError
from clearstone.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from clearstone.run import Answer


_IMMUTABLE_TYPE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE, https://docs.python.org/3/c-api/typeobj.html


@dataclass(frozen=True, slots=True)
class Target:
    """A resolved target.

    Args:
        written: the path as the user wrote it.
        understood: the path that was meant, if it was not the written one.
        owner: the module or class that holds it.
        name: its name there.
        original: what is there.
    """

    written: str
    understood: str
    owner: Any
    name: str
    original: Any


def resolve(path: str, import_module: Callable[[str], ModuleType]) -> Target:
    """Find what a dotted path names.

    Args:
        path: ``package.module.function`` or ``package.module.Class.method``. ``module.method`` is taken for the one
            class of that module which has such a method.
        import_module: how to import a module by name.

    Raises:
        TargetError: nothing is there; names the nearest.
    """
    module, rest = _longest_module(path, import_module)
    owner: Any = module
    for part in rest[:-1]:
        owner = _member(owner, part, path)
    name = rest[-1]
    if owner is builtins or (isinstance(owner, type) and owner.__flags__ & _IMMUTABLE_TYPE):
        raise TargetError(f"the mock target {path!r} is built into Python; name a function of your own that calls it")
    if hasattr(owner, name):
        return Target(path, path, owner, name, _raw(owner, name))
    classes = _classes_with(owner, name) if owner is module else []
    if len(classes) == 1:
        understood = f"{'.'.join(path.split('.')[:-1])}.{classes[0].__qualname__}.{name}"
        return Target(path, understood, classes[0], name, _raw(classes[0], name))
    raise _not_there(owner, name, path)


@contextlib.contextmanager
def replaced(target: Target, respond: Callable[..., Answer | None]) -> Iterator[None]:
    """Put a stand-in wherever the target's callable is held, for the ``with`` block.

    Args:
        target: what is replaced.
        respond: gives the answer; None outside the replay (another thread, another task): the original is called.
    """
    stand_in = _stand_in(target, respond)
    places = _places(target)
    try:
        for owner, name, _ in places:
            setattr(owner, name, stand_in)
        yield
    finally:
        for owner, name, held in reversed(places):
            _put_back(owner, name, held)


_ABSENT = object()


def _places(target: Target) -> list[tuple[Any, str, Any]]:
    own = vars(target.owner).get(target.name, _ABSENT)
    places = [(target.owner, target.name, own)]
    if isinstance(target.owner, ModuleType):
        for module in list(sys.modules.values()):
            held = getattr(module, "__dict__", None)
            names = [name for name, value in list(held.items()) if value is target.original] if held else []
            places += [(module, name, target.original) for name in names]
    return places


def _put_back(owner: Any, name: str, held: Any) -> None:
    if held is _ABSENT:  # a method the class inherits
        delattr(owner, name)
    else:
        setattr(owner, name, held)


def _raw(owner: Any, name: str) -> Any:
    """Return the member as it is stored: a staticmethod as staticmethod."""
    return inspect.getattr_static(owner, name)


def _longest_module(path: str, import_module: Callable[[str], ModuleType]) -> tuple[ModuleType, list[str]]:
    parts = path.split(".")
    if len(parts) < 2 or not all(parts):  # noqa: PLR2004 - module and name
        raise TargetError(f"{path!r} is no mock target; write it as 'package.module.function'")
    try:
        module, end = import_module(parts[0]), 1
        while end < len(parts) - 1 and _is_submodule(module, parts[end]):
            end += 1
            module = import_module(".".join(parts[:end]))
    except ModuleNotFoundError as error:
        if error.name != parts[0]:  # the module is there and imports something that is not
            raise TargetError(f"the mock target {path!r} cannot be imported: {error}") from error
        near = difflib.get_close_matches(parts[0], [name for name in sys.modules if "." not in name], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "check the spelling, or that its folder is on sys.path"
        raise TargetError(f"the mock target {path!r} names no module ({error}); {hint}") from error
    except TargetError:
        raise
    except Exception as error:  # what importing runs may raise anything
        raise TargetError(f"the mock target {path!r} does not import: {type(error).__name__}: {error}") from error
    return module, parts[end:]


def _is_submodule(module: ModuleType, name: str) -> bool:
    if not hasattr(module, "__path__"):
        return False
    return importlib.util.find_spec(f"{module.__name__}.{name}") is not None


def _member(owner: Any, name: str, path: str) -> Any:
    if not hasattr(owner, name):
        raise _not_there(owner, name, path)
    return getattr(owner, name)


def _classes_with(module: ModuleType, method: str) -> list[type]:
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    return [cls for cls in dict.fromkeys(own) if callable(getattr(cls, method, None))]


def _not_there(owner: Any, name: str, path: str) -> TargetError:
    names = [each for each in dir(owner) if not each.startswith("__")]
    where = getattr(owner, "__name__", repr(owner))
    return TargetError(f"the mock target {path!r} does not exist: {where} has no {name!r}; {nearest(name, names)}")


# --- stand-ins -------------------------------------------------------------------------------------------------------


def _stand_in(target: Target, respond: Callable[..., Answer | None]) -> Any:
    original = _unbound(target)
    made = functools.wraps(original)(_of_kind(original, respond)) if callable(original) else original
    if isinstance(target.original, staticmethod | classmethod) and isinstance(target.owner, type):
        return staticmethod(made)
    return made


def _unbound(target: Target) -> Any:
    """Return what a call of the target reaches: a classmethod bound to its class, a staticmethod's function."""
    if isinstance(target.original, classmethod | staticmethod):
        return target.original.__get__(None, target.owner)
    return target.original


def _of_kind(original: Any, respond: Callable[..., Answer | None]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(original):
        return _awaitable(original, respond)
    if inspect.isasyncgenfunction(original):
        return _async_streaming(original, respond)
    return _streaming(original, respond) if inspect.isgeneratorfunction(original) else _plain(original, respond)


def _plain(original: Any, respond: Callable[..., Answer | None]) -> Callable[..., Any]:
    def respond_plainly(*args: Any, **kwargs: Any) -> Any:
        answer = respond(*args, **kwargs)
        if answer is None:
            return original(*args, **kwargs)
        return answers.answered(answer)

    return respond_plainly


def _awaitable(original: Any, respond: Callable[..., Answer | None]) -> Callable[..., Any]:
    async def respond_awaited(*args: Any, **kwargs: Any) -> Any:
        answer = respond(*args, **kwargs)
        return await (original(*args, **kwargs) if answer is None else answers.given_later(answer))

    return respond_awaited


def _streaming(original: Any, respond: Callable[..., Answer | None]) -> Callable[..., Any]:
    def respond_streaming(*args: Any, **kwargs: Any) -> Any:
        answer = respond(*args, **kwargs)
        return (yield from original(*args, **kwargs) if answer is None else _items(answer))

    return respond_streaming


def _async_streaming(original: Any, respond: Callable[..., Answer | None]) -> Callable[..., Any]:
    async def respond_streaming(*args: Any, **kwargs: Any) -> Any:
        answer = respond(*args, **kwargs)
        if answer is None:
            async for item in original(*args, **kwargs):
                yield item
            return
        coming = answers.Coming(answer._replace(chunks=_chunks(answer)))
        try:
            async for item in coming:
                yield item
        finally:
            coming.close()

    return respond_streaming


def _items(answer: Answer) -> Iterator[Any]:
    items = _chunks(answer)
    yield from answer.pace.read(items) if answer.pace is not None else items
    failure = answer.failure()
    if failure is not None:
        raise failure
    return answer.value if answer.chunks is not None else None  # type: ignore[return-value]  # a generator's return


def _chunks(answer: Answer) -> Iterable[Any]:
    """Return the items of a stream: of the recorded one, or a list of them that was given."""
    if answer.chunks is not None:
        return answer.chunks
    items: Iterable[Any] = answer.value if answer.error is None else ()
    return items
