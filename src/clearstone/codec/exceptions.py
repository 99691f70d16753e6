"""An exception as data and back.

Idea: an exception is its class, its `args`, its attributes, its notes and its cause. It is stored as exactly that,
because exceptions are the values that pickle worst: `openai.RateLimitError` dumps and does not load (its constructor
wants a response object), and one bad attribute loses the whole.

Invariant: what comes back has the same class, `args` and `__dict__`, and no Python-level ``__init__`` or ``__new__``
ran: only the nearest builtin base is initialised, which fills fields such as `OSError.errno`.

Refused: pickling the exception object.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any

from clearstone.codec import payload
from clearstone.errors import UnservableOutcome
from clearstone.span import Failure, Payload


@dataclass(frozen=True, slots=True)
class ExceptionData:
    """What an exception consists of. Named by pickles: keep its place and its fields."""

    cls: type[BaseException]
    args: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    cause: ExceptionData | None = None
    suppress_context: bool = False


@dataclass(frozen=True, slots=True)
class Unpicklable:
    """Stands where an exception's argument or attribute could not be serialised."""

    type_name: str
    text: str

    def __repr__(self) -> str:
        return f"<{self.type_name} that was not recorded: {self.text}>"


def dump_exception(error: BaseException) -> Failure:
    """Serialise an exception: as text for people and as data for a replay. Never raises for its sake."""
    return Failure(
        type_name=type_name(type(error)),
        message=_message(error),
        traceback=_formatted(error),
        raised_at=raised_at(error),
        value=_dump_data(error),
    )


def load_exception(failure: Failure) -> BaseException:
    """Return a fresh exception equal to the recorded one.

    Raises:
        UnservableOutcome: the class does not load today, or cannot be built from what was recorded.
    """
    data = payload.load(failure.value)
    try:
        return _build(data)
    except Exception as error:
        raise UnservableOutcome(
            f"the recorded {failure.type_name} cannot be built again today: {type(error).__name__}: {error}. "
            f"Look at it with 'clearstone show'."
        ) from error


def type_name(cls: type) -> str:
    """Return ``module.QualName``, or the bare name of a builtin class."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def raised_at(error: BaseException) -> str:
    """Return ``file:line`` of the innermost frame of the traceback, or an empty string."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"<str() raised {type(broken).__name__}>"


def _formatted(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as broken:
        return f"<the traceback could not be formatted: {type(broken).__name__}>"


def _dump_data(error: BaseException) -> Payload:
    data = _data(error, set())
    whole = payload.dump(data)
    return whole if whole.codec != "stand-in" else payload.dump(_only_picklable(data))


def _data(error: BaseException, seen: set[int]) -> ExceptionData:
    seen.add(id(error))
    cause = error.__cause__
    args, attributes = _reduced(error)
    return ExceptionData(
        cls=type(error),
        args=args,
        attributes=attributes,
        cause=_data(cause, seen) if cause is not None and id(cause) not in seen else None,
        suppress_context=error.__suppress_context__,
    )


def _builtin_base(cls: type[BaseException]) -> type[BaseException]:
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def _reduced(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Ask the builtin base, not the user's class: it knows fields that are in neither args nor __dict__."""
    reduced: Any = _builtin_base(type(error)).__reduce__(error)
    state = reduced[2] if len(reduced) > 2 else None  # noqa: PLR2004 - (class, args[, state]), see pickle's docs
    return reduced[1], dict(state) if isinstance(state, dict) else dict(getattr(error, "__dict__", {}))


def _only_picklable(data: ExceptionData) -> ExceptionData:
    return ExceptionData(
        cls=data.cls,
        args=tuple(_or_described(value) for value in data.args),
        attributes={name: _or_described(value) for name, value in data.attributes.items()},
        cause=_only_picklable(data.cause) if data.cause is not None else None,
        suppress_context=data.suppress_context,
    )


def _or_described(value: Any) -> Any:
    if payload.dump(value).codec != "stand-in":
        return value
    return Unpicklable(type_name(type(value)), payload.safe_repr(value))


def _build(data: ExceptionData) -> BaseException:
    builtin = _builtin_base(data.cls)
    error: BaseException = builtin.__new__(data.cls, *data.args)
    try:
        builtin.__init__(error, *data.args)  # fills errno, code, value, encoding, ... where the builtin has such
    except TypeError:  # a subclass may hold args its builtin base does not take
        error.args = data.args
    BaseException.__setstate__(error, data.attributes)
    error.__cause__ = _build(data.cause) if data.cause is not None else None
    error.__suppress_context__ = data.suppress_context
    return error
