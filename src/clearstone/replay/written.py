"""Answers by a written mock configuration: the outcomes of a type in start order, whatever the arguments."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from clearstone.errors import ReplayDivergence, ReplayError, ReplayExhausted
from clearstone.replay import arguments
from clearstone.replay.match import Served

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clearstone.replay.match import Made
    from clearstone.run import Answer
    from clearstone.span import Span


class Response(NamedTuple):
    """One outcome to be handed out.

    Args:
        produce: makes the answer.
        span: the recorded call it is of; None where a value was given.
    """

    produce: Callable[[], Answer]
    span: Span | None = None


class Responses:
    """Outcomes handed out in order to one mock target, or to several that share them.

    Args:
        responses: one for each call.
    """

    def __init__(self, responses: Sequence[Response]) -> None:
        self._lock = threading.Lock()
        self._responses = list(responses)
        self._attempts = 0

    def __len__(self) -> int:
        return len(self._responses)

    def take(self, target: str) -> Response:
        """Return the next response.

        Raises:
            ReplayExhausted: none is left.
        """
        position = self.attempted()
        if position >= len(self._responses):
            raise ExhaustedResponses(target, self)
        return self._responses[position]

    def attempted(self) -> int:
        """Count a call; return how many there were before it."""
        with self._lock:
            position, self._attempts = self._attempts, self._attempts + 1
        return position

    @property
    def attempts(self) -> int:
        """How many calls asked so far."""
        return self._attempts

    def left(self) -> list[Span]:
        """Return the recorded calls that nobody asked for."""
        return [each.span for each in self._responses[self._attempts :] if each.span is not None]


class ExhaustedResponses(ReplayExhausted):
    """A mock target was called more often than recorded; the count goes on after it was raised."""

    def __init__(self, target: str, responses: Responses) -> None:
        super().__init__(target)
        self.target = target
        self._responses = responses

    def __str__(self) -> str:
        return (
            f"{self.target} has {len(self._responses)} recorded response(s), and was called "
            f"{self._responses.attempts} time(s)."
        )


class WrittenBook:
    """Answers by a written configuration: what it names, and nothing else.

    Args:
        responses: by target (dotted), as written and as understood.
        strict: whether other arguments than the recorded ones are refused.
    """

    def __init__(self, responses: dict[str, Responses], *, strict: bool = False) -> None:
        self._responses = responses
        self._strict = strict

    def answer(self, made: Made) -> Served:
        """Return the next outcome of the call's target (see `clearstone.replay.match.Book`)."""
        site = made.call.site
        responses = self._responses.get(site.target)
        if responses is None:
            raise ReplayError(
                f"{site.target} ({site.span_type}) is an outside call that mock_config does not name. Add "
                f"{{{site.span_type!r}: {site.target!r}}}, or leave mock_config out to have it inferred."
            )
        response = responses.take(site.target)
        span = response.span
        told = arguments.told_differences(span, made.call) if span is not None and span.site == site.key else []
        if told and self._strict:
            raise ReplayDivergence(
                f"call {made.number} of {site.target} got other arguments than the recorded call in its place:\n  "
                + "\n  ".join(told)
                + "\nstrict=False serves it all the same."
            )
        return Served(response.produce(), span, "reused by order", tuple(told))

    def attempted(self, made: Made) -> None:
        """Count a call that is not answered (see `clearstone.replay.match.Book`)."""
        responses = self._responses.get(made.call.site.target)
        if responses is not None:
            responses.attempted()

    def block(self, name: str, span_type: str) -> None:
        """Let it run: the configuration names what is mocked inside it (see `clearstone.replay.match.Book`)."""

    def left(self) -> list[Span]:
        """Return the recorded calls that were not given, those of shared responses once."""
        shared = {id(each): each for each in self._responses.values()}
        found = {span.span_id: span for each in shared.values() for span in each.left()}
        return list(found.values())
