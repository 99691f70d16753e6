"""An exception as data and back.

Idea: an exception is its class, its `args`, its attributes, its notes and its cause. It is stored as exactly that,
because exceptions are the values that pickle worst: `openai.RateLimitError` dumps and does not load (its constructor
wants a response object), and one bad attribute loses the whole.

Exceptions inside it (of a group, in an attribute) are stored the same way.

Invariant: what comes back has the same class, `args`, `__dict__` and slots, and no Python-level ``__init__`` or
``__new__`` ran: only the nearest builtin base is initialised, which fills fields such as `OSError.errno`. An exception
written in C that says itself how it pickles (`pydantic.ValidationError`) is made again as it says.

Refused: pickling the exception object.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass, field, replace
from pickle import PicklingError
from types import GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType
from typing import Any

from clearstone.codec import payload, redact
from clearstone.errors import UnservableOutcome
from clearstone.span import Failure, Payload

LONGEST_MESSAGE, LONGEST_TRACEBACK = 16_384, 65_536


@dataclass(frozen=True, slots=True)
class ExceptionData:
    """What an exception consists of. Named by pickles: keep its place and its fields.

    `reduction` is what the ``__reduce__`` of a class written in C gave; None for any other class. `number` is what an
    `Again` refers to.
    """

    cls: type[BaseException]
    args: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    cause: ExceptionData | Again | None = None
    suppress_context: bool = False
    reduction: tuple[Any, ...] | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """Stands where an exception occurs that is stored elsewhere in the same data. Named by pickles: keep its place."""

    number: int


@dataclass(frozen=True, slots=True)
class Unpicklable:
    """Stands where an exception's argument or attribute could not be serialised."""

    type_name: str
    text: str
    reason: str = ""

    def __repr__(self) -> str:
        return f"<not recorded: {self.text} of type {self.type_name}, {self.reason}>"


def dump_exception(error: BaseException) -> Failure:
    """Serialise an exception without its secrets: as text for people and as data for a replay.

    Never raises for its sake.
    """
    redactor = redact.active()
    return Failure(
        type_name=type_name(type(error)),
        message=_cut(redactor.shown(payload.safe_str(error)), LONGEST_MESSAGE),
        traceback=_cut(redactor.shown(_formatted(error)), LONGEST_TRACEBACK),
        raised_at=raised_at(error),
        value=payload.without_secrets(_dump_data(error), "exception"),
    )


def _cut(text: str, longest: int) -> str:
    """What is for people has a bound; the data holds the whole."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text) - longest:,} more characters)"


def load_exception(failure: Failure) -> BaseException:
    """Return a fresh exception equal to the recorded one.

    Raises:
        UnservableOutcome: the class does not load today, or cannot be built from what was recorded.
    """
    data = payload.load(failure.value)
    try:
        return _Making().exception(data)
    except Exception as error:
        raise UnservableOutcome(
            f"the recorded {failure.type_name} cannot be built again today: {type(error).__name__}: {error}. "
            f"Look at it with 'clearstone show'."
        ) from error


def reduce_exception(error: BaseException) -> Any:
    """Say how an exception inside a value is pickled by value: without its constructor, unless it has a way of its own.

    Returns:
        A reduction, or NotImplemented where the class says itself how it pickles.
    """
    if getattr(type(error).__reduce__, "__objclass__", None) not in _builtins_of(type(error)):
        return NotImplemented
    args, attributes = _reduced(error)
    return new_exception, (type(error), args), attributes, None, None, fill_exception


def new_exception(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception of `cls`, initialised as its nearest builtin base. Named by pickles."""
    builtin = _builtins_of(cls)[0]
    error: BaseException = builtin.__new__(cls, *args)
    try:
        builtin.__init__(error, *args)  # fills errno, code, value, encoding, ... where the builtin has such
    except Exception:  # a subclass may hold args its builtin base does not take
        _set(error, "args", args)
    return error


def fill_exception(error: BaseException, attributes: dict[str, Any]) -> None:
    """Give an exception its attributes. Named by pickles."""
    for name, value in attributes.items():
        _set(error, name, value)


def type_name(cls: type) -> str:
    """Return ``module.QualName``, or the bare name of a builtin class."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def raised_at(error: BaseException) -> str:
    """Return ``file:line`` of the innermost frame of the traceback, or an empty string."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _formatted(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as broken:
        return f"<the traceback could not be formatted: {type(broken).__name__}>"


# --- taking ----------------------------------------------------------------------------------------------------------


def _dump_data(error: BaseException) -> Payload:
    try:
        data = _Taking().data(error)
    except Exception as broken:
        return payload.stand_in(error, broken)
    whole = payload.dump(data)
    if whole.codec == "stand-in":
        whole = payload.dump(_only_picklable(data))
    return whole if whole.codec != "stand-in" else payload.stand_in(error, PicklingError("its class does not pickle"))


class _Taking:
    """Turns an exception, and those inside it, into data."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def data(self, error: BaseException) -> ExceptionData | Again:
        if id(error) in self._numbers:
            return Again(self._numbers[id(error)])
        number = self._numbers[id(error)] = len(self._numbers)
        args, attributes = _reduced(error)
        return ExceptionData(
            cls=type(error),
            args=tuple(self._inside(value) for value in args),
            attributes={name: self._inside(value) for name, value in attributes.items()},
            cause=self.data(error.__cause__) if error.__cause__ is not None else None,
            suppress_context=error.__suppress_context__,
            reduction=_own_reduction(error),
            number=number,
        )

    def _inside(self, value: Any) -> Any:
        if isinstance(value, BaseException):
            return self.data(value)
        if type(value) in {list, tuple} and any(isinstance(item, BaseException) for item in value):
            return type(value)(self.data(item) if isinstance(item, BaseException) else item for item in value)
        return value


def _builtins_of(cls: type[BaseException]) -> list[type[BaseException]]:
    return [base for base in cls.__mro__ if base.__module__ == "builtins" and base is not object]


def _reduced(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Ask the builtin base, not the user's class: it knows fields that are in neither args nor __dict__."""
    reduced: Any = _builtins_of(type(error))[0].__reduce__(error)
    state = reduced[2] if len(reduced) > 2 else None  # noqa: PLR2004 - (class, args[, state]), see pickle's docs
    attributes = dict(state) if isinstance(state, dict) else dict(getattr(error, "__dict__", {}))
    if isinstance(error, NameError | AttributeError) and error.name is not None:  # not in its reduction until 3.12
        attributes["name"] = error.name
    return reduced[1], attributes | _slots(error)


def _slots(error: BaseException) -> dict[str, Any]:
    slots = [
        member
        for cls in type(error).__mro__
        if cls.__module__ != "builtins"
        for member in vars(cls).values()
        if isinstance(member, MemberDescriptorType) and hasattr(error, member.__name__)
    ]
    return {member.__name__: member.__get__(error) for member in slots}


def _own_reduction(error: BaseException) -> tuple[Any, ...] | None:
    for cls in type(error).__mro__:
        if isinstance(vars(cls).get("__reduce__"), MethodDescriptorType):
            reduced = error.__reduce__() if cls.__module__ != "builtins" else None
            return reduced if isinstance(reduced, tuple) else None
    return None


def _only_picklable(data: ExceptionData | Again) -> ExceptionData | Again:
    if isinstance(data, Again):
        return data
    return replace(
        data,
        args=tuple(or_described(value) for value in data.args),
        attributes={name: or_described(value) for name, value in data.attributes.items()},
        cause=_only_picklable(data.cause) if data.cause is not None else None,
        reduction=or_described(data.reduction),
    )


LEVELS = 5
"""So deep a value is looked into for the members that do not pickle; what is nested deeper is described as a whole."""


def or_described(value: Any, levels: int = LEVELS) -> Any:
    """Return `value`, or its description where it does not pickle."""
    kind = type(value)
    if issubclass(kind, ExceptionData):  # not isinstance: it asks the value for its `__class__`
        return _only_picklable(value)
    whole = payload.dump(value)
    if whole.codec != "stand-in":
        return value
    if levels and kind in {list, tuple}:
        return kind(or_described(item, levels - 1) for item in value)
    if levels and kind is dict:
        return {key: or_described(item, levels - 1) for key, item in value.items()}
    told = json.loads(payload.without_secrets(whole).data)
    return Unpicklable(type_name(kind), told["repr"], told["reason"])


# --- making ----------------------------------------------------------------------------------------------------------


class _Making:
    """Makes exceptions of data, in the order they were taken."""

    def __init__(self) -> None:
        self._made: dict[int, BaseException] = {}

    def exception(self, data: ExceptionData | Again) -> BaseException:
        if isinstance(data, Again):
            return self._made[data.number]
        if data.reduction:
            error = _from_reduction(data.reduction)
        else:
            error = new_exception(data.cls, tuple(self._inside(value) for value in data.args))
        self._made[data.number] = error
        fill_exception(error, {name: self._inside(value) for name, value in data.attributes.items()})
        _set(error, "__cause__", self.exception(data.cause) if data.cause is not None else None)
        _set(error, "__suppress_context__", data.suppress_context)
        return error

    def _inside(self, value: Any) -> Any:
        if isinstance(value, ExceptionData | Again):
            return self.exception(value)
        if type(value) in {list, tuple} and any(isinstance(item, ExceptionData | Again) for item in value):
            return type(value)(self._inside(item) for item in value)
        return value


def _from_reduction(reduction: tuple[Any, ...]) -> BaseException:
    error: BaseException = reduction[0](*reduction[1])
    return error


def _set(error: BaseException, name: str, value: Any) -> None:
    """Set an attribute where it was, past a `__setattr__` of the user's (a frozen dataclass refuses)."""
    if isinstance(getattr(type(error), name, None), MemberDescriptorType | GetSetDescriptorType):
        object.__setattr__(error, name, value)
    else:
        error.__dict__[name] = value
