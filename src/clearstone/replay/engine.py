"""`Replay`: the Run that answers. Nothing is recorded in it, and no served call goes out.

Invariant: the first refusal is latched. User code may swallow it (``except Exception``, a retry loop, `map`, `gather`
with ``return_exceptions``, a generator that turns StopIteration into RuntimeError): no later call is served, and
whoever drives the replay ends it with `refusal`.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clearstone.codec import payload
from clearstone.errors import BeyondRecord, ReplayError
from clearstone.run import PASSING, Answer, BoundCall, OpenCall, PassingCall
from clearstone.span import replay_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from clearstone.codec.payload import Definitions
    from clearstone.replay.match import Book
    from clearstone.span import Site


MOST_REFUSALS = 1000
"""After so many further calls the replay is ended: a retry loop would swallow refusals for ever."""


class ReplayStopped(BaseException):
    """Ends a replay whose code does not stop calling after a refusal. No `Exception`: it must not be swallowed."""


class ServedCall(PassingCall):
    """A call that was answered instead of made."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer  # type: ignore[assignment]  # None in a passing call


class Replay:
    """Answers served calls from a book and lets structural ones run again (see `clearstone.run.Run`).

    Args:
        definitions: where code of the recorded ``__main__`` comes from.
    """

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._lock = threading.Lock()
        self._refusal: ReplayError | None = None
        self._served = 0
        self._refused = 0
        self.book: Book | None = None

    @property
    def served(self) -> int:
        """How many calls were answered from the record."""
        return self._served

    @property
    def refusal(self) -> ReplayError | None:
        """The first refusal, if there was one."""
        return self._refusal

    def begin(
        self, site: Site, instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], streams: bool = False, /
    ) -> OpenCall:
        """Answer a served call, let any other pass.

        Raises:
            ReplayError: a served call has no recorded outcome, or an earlier one had none.
        """
        if site.replay == "run":
            return PASSING
        return ServedCall(self.serve(BoundCall(site, instance, args, kwargs, streams)))

    def serve(self, call: BoundCall) -> Answer:
        """Return the recorded outcome of `call`; raise as `begin` does."""
        book = self.book
        if book is None:
            raise ReplayError(f"{call.site.target} was called before the replay began")
        return self.answered(lambda: book.answer(call), lambda: book.attempted(call))

    def answered(self, answer: Callable[[], Answer], attempted: Callable[[], object]) -> Answer:
        """Return what `answer` gives; a refusal of it, or an earlier one, is raised.

        Args:
            answer: finds the recorded outcome.
            attempted: called instead where an earlier call was refused.

        Raises:
            ReplayError: the first refusal of this replay.
        """
        if self._refusal is not None:
            attempted()
            self._refused += 1
            if self._refused > MOST_REFUSALS:
                raise ReplayStopped(str(self._refusal))
            raise self._refusal
        try:
            with payload.definitions_from(self._definitions):
                found = answer()
        except ReplayError as error:
            raise self.latch(error) from None
        with self._lock:
            self._served += 1
        if found.chunks is not None and not found.complete:
            return replace(found, chunks=self._until_the_record_ends(found.chunks))
        return found

    def _until_the_record_ends(self, chunks: Iterable[Any]) -> Iterator[Any]:
        yield from chunks
        raise self.latch(BeyondRecord("a stream was read past the place where its recorded consumer stopped"))

    def entering(self, name: str, span_type: str) -> None:
        """A hand-written span is entered; one of a served type may be refused.

        Raises:
            ReplayError: its body would go out live.
        """
        if self.book is not None and replay_mode(span_type) == "serve":
            try:
                self.book.block(name, span_type)
            except ReplayError as error:
                raise self.latch(error) from None

    def latch(self, error: ReplayError) -> ReplayError:
        """Keep the first refusal; return the one to raise."""
        with self._lock:
            if self._refusal is None:
                self._refusal = error
            return self._refusal
