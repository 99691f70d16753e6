"""What a fork changes: other responses, another state, other arguments (see `clearstone.whatif`).

Idea: the values, and how they stand in for recorded ones. A changed response is found by the recorded call that it
stands for, so it comes where that would have come, in any task or thread.

Invariant: what cannot stand there is refused with its reason; where that can be known beforehand, before anything runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from clearstone.codec.payload import safe_repr
from clearstone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clearstone.replay.places import Place
    from clearstone.run import Answer, BoundCall

Then = Literal["recorded", "live"]


@dataclass(frozen=True, slots=True)
class Shaped:
    """A value that is brought into the shape of the recorded one that it stands for.

    Args:
        value: what was given.
        like: ``like(recorded, value)`` returns what stands there.
    """

    value: Any
    like: Callable[[Any, Any], Any]


def shaped(recorded: Any, value: Any) -> Any:
    """Return what stands for a recorded value: a `Shaped` one in its shape, any other as it is.

    Raises:
        ConfigurationError: it has no such shape.
    """
    return value.like(recorded, value.value) if isinstance(value, Shaped) else value


@dataclass(frozen=True, slots=True)
class Response:
    """Another response than the recorded one.

    Args:
        value: what the call gives: an exception is raised, a function is called with the call's arguments; of a stream
            the list of its items.
        name: how the user names the call.
        place: of the recorded value only this place is changed; None for all of it.
    """

    value: Any
    name: str = ""
    place: Place | None = None

    @property
    def text(self) -> str:
        """How the user names what is changed."""
        return self.place.text if self.place is not None else self.name

    def given(self, recorded: Answer, call: BoundCall | None = None) -> tuple[Answer, str]:
        """Return the answer to a call, and what is another one in it, in a line.

        Args:
            recorded: what the record answers, or what another response has made of it.
            call: the call; None before it is made.

        Raises:
            ConfigurationError: the value cannot stand there.
        """
        bare, value = recorded._replace(error=None, pending=None), self.value
        if self.place is not None:
            return bare, self.place.put(recorded.value, value)
        if callable(value) and not isinstance(value, type):
            self._require_plain()
            if call is None:
                return recorded, self.name
            value = self._made(call)
        if isinstance(value, BaseException):
            told = f"{self.name}: {safe_repr(value)}"
            return bare._replace(error=value, chunks=None if recorded.chunks is None else []), told
        if recorded.chunks is None:
            value = shaped(recorded.value, value)
            return bare._replace(value=value), f"{self.name}: {safe_repr(value)}"
        chunks = shaped(list(recorded.chunks), value)
        if not isinstance(chunks, list | tuple):
            raise ConfigurationError(f"{self.name} is a stream; give a list of its items, not {safe_repr(chunks)}")
        return bare._replace(chunks=list(chunks), complete=True), f"{self.name}: {safe_repr(chunks)}"

    def _require_plain(self) -> None:
        kinds = inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction
        if any(is_kind(self.value) for is_kind in kinds):
            raise ConfigurationError(f"{self.name} is answered by a plain function, and {self.value!r} is none")

    def _made(self, call: BoundCall) -> Any:
        try:
            inspect.signature(self.value).bind(*call.args, **call.kwargs)
        except TypeError as error:
            raise ConfigurationError(
                f"the function for {self.name} does not take the call's arguments: {error}"
            ) from None
        except ValueError:
            pass  # a builtin that does not tell: it says so itself
        try:
            return self.value(*call.args, **call.kwargs)
        except Exception as error:
            return error


@dataclass(frozen=True, slots=True)
class StateChange:
    """What is done to the agent.

    Args:
        make: does it; returns what it did, a line each.
        attributes: those whose change it is said to be. A function may change others: they are looked for.
    """

    make: Callable[[Any], Iterable[str]]
    attributes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Changes:
    """What a fork changes, and how it goes on.

    Args:
        state: what is done to the agent; None for nothing.
        responses: other responses, by the ids of the recorded calls: one, or several of places in it.
        arguments: whether the call is made with other arguments.
        at: the id of the recorded call at whose beginning the state is changed; empty for the beginning of all.
        then: ``"recorded"`` to be answered from the record to the end, ``"live"`` to make the calls past the change.
    """

    state: StateChange | None = None
    responses: Mapping[str, tuple[Response, ...]] = field(default_factory=dict)
    arguments: bool = False
    at: str = ""
    then: Then = "recorded"

    def __post_init__(self) -> None:
        if self.then not in get_args(Then):
            raise ConfigurationError(f"then={self.then!r} is neither 'recorded' nor 'live'")

    def response(self, span_id: str, recorded: Answer, call: BoundCall | None = None) -> tuple[Answer, list[str]]:
        """Return the answer in the place of a recorded one, and what is another one in it, a line each.

        Args:
            span_id: the recorded call.
            recorded: its answer.
            call: the call; None before it is made.

        Raises:
            ConfigurationError: a value cannot stand there.
        """
        answer, told = recorded, []
        for each in self.responses[span_id]:
            answer, line = each.given(answer, call)
            told.append(line)
        return answer, told
