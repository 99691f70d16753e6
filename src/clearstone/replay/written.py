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
        self._lock = threading.RLock()
        self._responses = list(responses)
        self._attempts = 0
        self._given: set[int] = set()

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
        self._given.add(position)
        return self._responses[position]

    def refuse(self, response: Response) -> None:
        """Take back a response that was not given after all: its recorded call is left."""
        self._given.discard(self._responses.index(response))

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
        """Return the recorded calls that were not given."""
        left = (each for number, each in enumerate(self._responses) if number not in self._given)
        return [each.span for each in left if each.span is not None]


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
            responses.refuse(response)
            raise self._refusal(made, told)
        return Served(response.produce(), span, "reused by order", tuple(told))

    def _refusal(self, made: Made, told: Sequence[str]) -> ReplayDivergence:
        lines = "\n  ".join(told)
        return ReplayDivergence(
            f"call {made.number} of {made.call.site.target} got other arguments than the recorded call in its place:\n"
            f"  {lines}\nstrict=False serves it all the same."
        )

    def attempted(self, made: Made) -> None:
        """Count a call that is not answered (see `clearstone.replay.match.Book`)."""
        responses = self._responses.get(made.call.site.target)
        if responses is not None:
            responses.attempted()

    def block(self, name: str, span_type: str) -> None:
        """Let it run: the configuration names what is mocked inside it (see `clearstone.replay.match.Book`)."""

    def left(self) -> list[Span]:
        """Return the recorded calls that were not given, those of shared responses once."""
        return list({span.span_id: span for each in self._responses.values() for span in each.left()}.values())
