"""A value as bytes and back: pickle protocol 5, cloudpickle where that refuses or where `__main__` is named.

Idea: the C pickler is fast and exact for what can be imported again. What lives in `__main__` (a script, a notebook)
can be imported nowhere else; there cloudpickle stores the code itself, and each top-level function or class of the
script is written as a *definition*: its name beside its stored code. Loading prefers the definition of that name in
today's source (`definitions_from`), so a bug fixed in the file is what runs, and takes the stored code otherwise.

Invariant: `dump` never raises for the value's sake and never loads anything; what cannot be serialised becomes a
stand-in that says so. `load` raises `UnservableOutcome` for a stand-in, never hands out a half value.

Refused: cloudpickle for everything (2 to 4 times slower on chat messages, and code by value where a name would do);
rewriting cloudpickle's reduce tuples (their inside is private: only the documented shape, maker - arguments - state -
setter, is used here); loading `__main__` code always as stored (a fixed script would replay its old self).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pickle
import reprlib
import sys
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clearstone.codec import redact, renames
from clearstone.codec.buffers import pack, unpack
from clearstone.errors import UnservableOutcome
from clearstone.span import BLOB, BUFFERS, CODEC_MASK, CODECS, MAIN_NAMES, REDACTED, Payload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAIN_MARKS = tuple((bytes((len(name),)), name.encode()) for name in MAIN_NAMES)
"""As a pickle writes them: a byte of length, then the name."""

PROTOCOL = 5


def encode(value: Any, kin: Hashable = None) -> tuple[int, bytes]:
    """Serialise `value` as it is now, without its secrets, as a form and bytes.

    Args:
        value: anything.
        kin: what it is of (see `clearstone.codec.redact.Redactor.payload`); None costs a scan more often.

    Returns:
        The form (see `clearstone.span.CODEC_MASK`), with `REDACTED` where something was, and the bytes.
    """
    return to_raw(without_secrets(dump(value), kin))


def without_secrets(payload: Payload, kin: Hashable = None) -> Payload:
    """Return a payload without its secrets; itself where there are none."""
    redactor, data = redact.active(), payload.data
    left = redactor.described(data) if payload.codec == "stand-in" else redactor.payload(kin, data)
    if left is None:
        return payload
    return Payload(payload.codec, left, redactor.buffers(data, payload.buffers), redacted=True)


def refuse_buffer(_: pickle.PickleBuffer) -> None:
    """Stop the C pickler at a large buffer: `dump` takes such a value.

    Raises:
        BufferError: always.
    """
    raise BufferError("it has large buffers")


def is_suspicious(kin: Hashable, data: bytes) -> bool:
    """Whether a pickle must not be recorded as it is: it names something of `__main__`, or holds secrets.

    Of one that `clearstone.codec.redact.Redactor.knows` that is answered already.

    Args:
        kin: what it is of (see `clearstone.codec.redact.Redactor.payload`).
        data: the pickle.
    """
    return names_main(data) or redact.active().payload(kin, data) is not None


def names_main(data: bytes) -> bool:
    """Whether a pickle names something of `__main__`; a text that reads just so counts too.

    A search for one byte is thirty times faster than one for a word, and few bytes are followed by the rest.
    """
    for length, name in _MAIN_MARKS:
        at = data.find(length)
        while at >= 0:
            if data.startswith(name, at + 1):
                return True
            at = data.find(length, at + 1)
    return False


def to_raw(payload: Payload) -> tuple[int, bytes]:
    """Return a payload as a form and bytes."""
    form = CODECS.index(payload.codec) | (REDACTED if payload.redacted else 0)
    return (form | BUFFERS, pack(payload.data, payload.buffers)) if payload.buffers else (form, payload.data)


def of_raw(form: int, data: bytes, name: bytes = b"") -> Payload:
    """Return the payload that a form and bytes are.

    Args:
        form: see `clearstone.span.CODEC_MASK`; not `BLOB`, whose bytes are elsewhere.
        data: the bytes.
        name: its name, where it has one (see `clearstone.codec.keys`).

    Raises:
        ValueError: the bytes are not of that form.
    """
    if form & BLOB:
        raise ValueError(f"{data!r} names a file, and is no payload itself")
    buffers: tuple[bytes, ...] = ()
    if form & BUFFERS:
        data, buffers = unpack(data)
    return Payload(CODECS[form & CODEC_MASK], data, buffers, bool(form & REDACTED), name)


def dump(value: Any) -> Payload:
    """Serialise `value` as it is now.

    Args:
        value: anything.

    Returns:
        The payload; of codec ``"stand-in"`` where neither pickle nor cloudpickle takes the value.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=buffers.append)
        if not names_main(data):
            return Payload("pickle", data, tuple(bytes(each.raw()) for each in buffers))
    except Exception:  # noqa: S110 - not lost: cloudpickle is asked next, and its refusal is what gets recorded
        pass
    try:
        return Payload("cloudpickle", dump_by_value(value))
    except Exception as error:
        return stand_in(value, error)


def dump_by_value(value: Any, *, itself: Any = None) -> bytes:
    """Serialise `value` with cloudpickle, code of `__main__` included.

    Where that code does not pickle (a function that uses a global lock), the script's definitions are written by name
    alone: they load as long as the script has them.

    Args:
        value: anything.
        itself: the object whose state `value` is. Where the state refers to it (a closure over ``self``), the loaded
            state will refer to the object given to `restoring`.

    Returns:
        A pickle that `load_bytes` reads.

    Raises:
        Exception: whatever the value's own reduction raises; `pickle.PicklingError` and `TypeError` mostly.
    """
    from clearstone.codec.pickler import ByValuePickler

    pickler = ByValuePickler(buffer := io.BytesIO(), itself)
    try:
        pickler.dump(value)
    except Exception:
        if not pickler.met_definitions:
            raise
        ByValuePickler(buffer := io.BytesIO(), itself, with_code=False).dump(value)
    return buffer.getvalue()


def stand_in(value: Any, reason: BaseException) -> Payload:
    """Describe a value that cannot be serialised: its type, its short repr, and why."""
    kind, short = type(value), _ShortRepr()
    described = {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "repr": short.of(value),
        "reason": f"{type(reason).__name__}: {safe_str(reason)}",
    }
    return Payload("stand-in", json.dumps(described).encode(), redacted=short.redacted)


def safe_str(value: Any) -> str:
    """Return ``str(value)``; one that raises is said instead."""
    try:
        return str(value)
    except Exception as error:
        return f"<str of {type(value).__qualname__} raised {type(error).__name__}>"


class _ShortRepr(reprlib.Repr):
    """Takes secrets out before it cuts: of a half one the rules know nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.maxother = self.maxstring = 200
        self.redacted = False

    def of(self, value: Any) -> str:
        try:
            return self._without_secrets(self.repr(value), redact.active().shown)
        except Exception as error:
            return f"<repr of {type(value).__qualname__} raised {type(error).__name__}>"

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(self._without_secrets(x, redact.active().text), level)

    def repr_instance(self, x: Any, level: int) -> str:  # noqa: ARG002 - the signature is `reprlib`'s
        try:
            text = self._without_secrets(repr(x), redact.active().shown)
        except Exception:
            return f"<{type(x).__name__} instance at {id(x):#x}>"  # as `reprlib` says it
        half = (self.maxother - len(self.fillvalue)) // 2
        return text if len(text) <= self.maxother else f"{text[:half]}{self.fillvalue}{text[-half:]}"

    def _without_secrets(self, text: str, rule: Callable[[str], str]) -> str:
        left = rule(text)
        self.redacted = self.redacted or left != text
        return left


def safe_repr(value: Any) -> str:
    """Return a repr of at most a few hundred characters, without secrets; a repr that raises is said instead."""
    return _ShortRepr().of(value)


def load(payload: Payload) -> Any:
    """Return a fresh copy of the value.

    Raises:
        UnservableOutcome: the payload is a stand-in, or its bytes do not load (a class that is gone, say).
    """
    if payload.codec == "stand-in":
        told = json.loads(payload.data)
        raise UnservableOutcome(
            f"a value of type {told['type']} ({told['repr']}) was not recorded, because it does not pickle: "
            f"{told['reason']}. Return plain data from the recorded call, or let it run again with replay='run'."
        )
    try:
        return load_bytes(payload.data, payload.buffers)
    except Exception as error:
        from clearstone.codec import inert

        gone = renames.lost(error, lambda: inert.names(payload.data))
        then = gone or "Look at it with 'clearstone show'; restore the class or module it names, then replay again."
        raise UnservableOutcome(
            f"a recorded value does not load today: {type(error).__name__}: {error}. {then}"
        ) from error


def load_bytes(data: bytes, buffers: Sequence[bytes] = ()) -> Any:
    """Unpickle `data`. This can execute code: only for bytes this machine wrote.

    Args:
        data: a pickle.
        buffers: what it left out, in order; the loaded value gets copies that can be written to.
    """
    if renames.current.get() is not None:
        return renames.Unpickler(io.BytesIO(data), buffers=map(bytearray, buffers)).load()
    return pickle.loads(data, buffers=[bytearray(each) for each in buffers]) if buffers else pickle.loads(data)


# --- definitions of __main__ -----------------------------------------------------------------------------------------

Definitions = Callable[[], ModuleType | None]

_definitions: ContextVar[Definitions | None] = ContextVar("clearstone_definitions", default=None)
_restored: ContextVar[Callable[[], Any] | None] = ContextVar("clearstone_restored", default=None)


class definitions_from:  # noqa: N801 - written as a function is
    """Take functions and classes of the recorded `__main__` from elsewhere while loading, for a ``with`` block.

    Args:
        source: asked when the first definition is met; returns today's module of the script, or None for the code
            that was stored. Outside this context it is the running ``__main__`` where that is the same file.
        finder: knows what has another name today, in any module.
    """

    __slots__ = ("_finder", "_found", "_source", "_token")

    def __init__(self, source: Definitions, finder: renames.Finder | None = None) -> None:
        self._source = source
        self._finder = finder

    def __enter__(self) -> None:
        self._token, self._found = _definitions.set(self._source), renames.current.set(self._finder)

    def __exit__(self, *_: object) -> None:
        renames.current.reset(self._found)
        _definitions.reset(self._token)


@contextlib.contextmanager
def restoring(itself: Callable[[], Any]) -> Iterator[None]:
    """While loading a state, `itself()` is the object that the state refers to as its own."""
    token = _restored.set(itself)
    try:
        yield
    finally:
        _restored.reset(token)


def the_restored() -> Any:
    """Return the object whose state is being loaded. Named by pickles: keep its place.

    Raises:
        UnservableOutcome: outside `restoring`.
    """
    itself = _restored.get()
    if itself is None:
        raise UnservableOutcome("this state refers to the agent it belongs to; load it through its checkpoint")
    return itself()


def find_definition(module: ModuleType, qualname: str) -> Any:
    """Return what `qualname` names in `module` today, or None."""
    found: Any = module
    for part in qualname.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
        if found is None:
            return None
    return found


def todays_definition(file: str, qualname: str) -> Any:
    """Return the definition that replaces the stored one of the script `file`, or None."""
    finder = renames.current.get()
    found = finder.find("__main__", qualname) if finder is not None else NotImplemented
    if found is not NotImplemented:
        return found
    source = _definitions.get()
    module = source() if source is not None else _running_main(file)
    return find_definition(module, qualname) if module is not None else None


def _running_main(file: str) -> ModuleType | None:
    module = sys.modules.get("__main__")
    return module if module is not None and file and main_file(module) == file else None


def main_file(module: ModuleType) -> str:
    """Return the absolute path of a module's source file, or an empty string."""
    file = getattr(module, "__file__", None)
    return str(Path(file).absolute()) if file else ""


def begin_definition(file: str, qualname: str, maker: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """First half of loading a definition: today's, else the stored one's skeleton. Named by pickles."""
    today = todays_definition(file, qualname)
    return maker(*arguments) if today is None else today


def finish_definition(definition: Any, stored: tuple[str, str, Callable[..., Any], Any]) -> None:
    """Second half: fill the skeleton in; today's definition needs no filling. Named by pickles."""
    file, qualname, setter, state = stored
    if todays_definition(file, qualname) is None:
        setter(definition, state)


def without_code(file: str, qualname: str) -> Any:
    """Make nothing: the script's definition was written by name alone, and today's script lacks it. Named by pickles.

    Raises:
        UnservableOutcome: always.
    """
    raise UnservableOutcome(
        f"{qualname} is not in {file or 'the program'} today, and its code was not stored, because it does not pickle; "
        f"put it back"
    )


# --- decorated methods -----------------------------------------------------------------------------------------------


def named(module: str, qualname: str) -> Any:
    """Return the decorated method of that name as its class holds it, not bound. Named by pickles.

    Raises:
        AttributeError: it is not there today.
    """
    finder = renames.current.get()
    if finder is not None and finder.name(module, qualname) != (module, qualname):
        return finder.find(module, qualname)
    found = find_definition(importlib.import_module(module), qualname)
    if found is None:
        raise AttributeError(f"{module} has no {qualname} today")
    return found


def bound(method: Any, instance: Any, owner: type | None) -> Any:
    """Bind a decorated method again. Named by pickles."""
    return method.__get__(instance, owner)
