"""The recorded calls that a replay has not come to yet, found by site, arguments and the step they were made in.

Idea: the calls of a site are indexed by digests of their arguments (`clearstone.replay.digest`) when the site is first
called, so that a call finds its own among ten thousand without being compared with each. What stays in memory of the
arguments is a digest.

Which one of several with equal arguments: the oldest that was made in the same step. A step is the nearest decorated
call above that runs again; it is the recorded one that it was matched with, so calls of tasks and threads that run at
once stay with their own. One that was recorded in another step is given only if that step will not ask for it any more:
it has ended, or it lies below the one that asks and is none of its own today.

Invariant: a recorded call is given once.

Refused: "the first one left" (the step that calls once more than it did would take the answer of the next step, and
the last one would be blamed).
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone.errors import ReplayError
from clearstone.replay import arguments
from clearstone.replay.compare import difference
from clearstone.replay.digest import canonical, quick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from clearstone.run import BoundCall
    from clearstone.span import Span, Trace


class Found(NamedTuple):
    """A recorded call that fits.

    Args:
        span: the call.
        is_exact: whether all of its arguments are known to be the same; not where one could not be recorded.
    """

    span: Span
    is_exact: bool = True


class Steps:
    """Which recorded call is above which, and how far the replay is with each.

    Args:
        trace: the calls; those without a site are looked through.
    """

    def __init__(self, trace: Trace) -> None:
        self._above: dict[str, str] = {}
        self._entered: set[str] = set()
        self._ended: set[str] = set()
        self._served: set[str] = set()
        near: dict[str | None, str] = {}
        for span in trace:  # a parent starts before its children
            above = self._above[span.span_id] = near.get(span.parent_id, "")
            near[span.span_id] = span.span_id if span.site else above

    def of(self, span_id: str) -> str:
        """Return the decorated call that a recorded call was made in; empty where there is none."""
        return self._above.get(span_id, "")

    def enter(self, step: str) -> None:
        """A recorded call runs again."""
        self._entered.add(step)

    def end(self, step: str) -> None:
        """It has ended."""
        self._ended.add(step)

    def serve(self, call: str) -> None:
        """A recorded call is answered: what was made in it is part of that."""
        self._served.add(call)

    def is_free_for(self, step: str, other: str) -> bool:
        """Whether a call that was recorded in `other` may be given to one that is made in `step`."""
        while other and other != step and other not in self._entered:
            if other in self._served:
                return False
            other = self.of(other)
        return not step or other == step or other in self._ended

    def is_served(self, span_id: str) -> bool:
        """Whether a call above a recorded one was answered."""
        above = self.of(span_id)
        while above and above not in self._served:
            above = self.of(above)
        return bool(above)


class RecordedCalls:
    """Gives recorded calls out. Not locked: its owner is.

    Args:
        trace: the calls, in the order they started; those without a site are not given.
        steps: which steps they were made in.
    """

    def __init__(self, trace: Trace, steps: Steps) -> None:
        self._steps = steps
        found: dict[str, list[Span]] = defaultdict(list)
        for span in trace:
            if span.site:
                found[span.site].append(span)
        self._sites = {site: _Site(of, steps) for site, of in found.items()}

    def take(self, call: BoundCall, step: str) -> Found | None:
        """Return the recorded call with the arguments of `call`; None where there is none.

        Args:
            call: what is called now.
            step: the recorded step that it is made in; empty where that is not known.
        """
        site = self._sites.get(call.site.key)
        return site.take(call, step) if site is not None else None

    def take_next(self, site: str, step: str, *, anywhere: bool = False) -> Span | None:
        """Return the next call of a site that was recorded in a step, whatever its arguments.

        Args:
            site: the site's key.
            step: see `take`.
            anywhere: also one of another step that is free for this one.
        """
        found = self._sites.get(site)
        return found.take_next(step, anywhere=anywhere) if found is not None else None

    def recorded(self, site: str) -> list[Span]:
        """Return every call of a site that is not part of one that was answered."""
        return self._apart(self._sites[site].spans) if site in self._sites else []

    def left(self, site: str) -> list[Span]:
        """Return the calls of a site that were not given, in the order they started."""
        return self._apart(self._sites[site].left()) if site in self._sites else []

    def all_left(self) -> list[Span]:
        """Return what was not given of all sites, those that were called first at first."""
        return [span for site in self._sites for span in self.left(site)]

    def _apart(self, spans: Iterable[Span]) -> list[Span]:
        return [span for span in spans if not self._steps.is_served(span.span_id)]

    def equal(self, call: BoundCall) -> list[Span]:
        """Return every recorded call with the arguments of `call`, those that were given too."""
        site = self._sites.get(call.site.key)
        return site.equal(call) if site is not None else []


class _Site:
    """The recorded calls of one site."""

    def __init__(self, spans: list[Span], steps: Steps) -> None:
        self.spans = spans
        self._steps = steps
        self._given: set[int] = set()
        self._all = _Queue((steps.of(span.span_id), number) for number, span in enumerate(spans))
        self._indexes: list[_Index] = []

    def left(self) -> list[Span]:
        return [span for number, span in enumerate(self.spans) if number not in self._given]

    def take(self, call: BoundCall, step: str) -> Found | None:
        indexes = self._made(call)
        for index in indexes:  # the way of nearly every call
            queue = index.soon(call)
            number = queue.next(step, self._given, self._steps) if queue is not None else None
            if number is not None:
                return Found(self._give(number))
        for index in indexes:
            for queue, is_exact in index.queues(call):
                number = queue.next(step, self._given, self._steps)
                if number is not None:
                    return Found(self._give(number), is_exact)
        return None

    def equal(self, call: BoundCall) -> list[Span]:
        queues = (queue for index in self._made(call) for queue, _ in index.queues(call))
        return [self.spans[number] for number in sorted({each for queue in queues for each in queue})]

    def take_next(self, step: str, *, anywhere: bool) -> Span | None:
        number = self._all.next(step, self._given, self._steps, anywhere=anywhere or not step)
        return self._give(number) if number is not None else None

    def _give(self, number: int) -> Span:
        self._given.add(number)
        return self.spans[number]

    def _made(self, call: BoundCall) -> list[_Index]:
        if not self._indexes:
            numbered = [(number, self._steps.of(span.span_id), span) for number, span in enumerate(self.spans)]
            for redacted in (False, True):
                of = [each for each in numbered if _is_redacted(each[2]) is redacted]
                self._indexes += [_Index(of, call, redacted=redacted)] if of else []
        return self._indexes


def _is_redacted(span: Span) -> bool:
    return span.input is not None and span.input.redacted


class _Queue:
    """Numbers of recorded calls in their order, and the step each was made in."""

    __slots__ = ("_left", "_numbers", "_of")

    def __init__(self, numbers: Iterable[tuple[str, int]] = ()) -> None:
        self._numbers = list(numbers)
        self._left: deque[tuple[str, int]] | None = None  # made when it is first asked
        self._of: dict[str, deque[int]] = {}

    def add(self, step: str, number: int) -> None:
        self._numbers.append((step, number))

    def __iter__(self) -> Iterator[int]:
        return (number for _, number in self._numbers)

    def next(self, step: str, given: set[int], steps: Steps, *, anywhere: bool = True) -> int | None:
        """Return the first that was not given: of this step, else (`anywhere`) of one that it is free for."""
        left = self._left if self._left is not None else self._begun()
        own = self._of.get(step) if step else None
        while own and own[0] in given:
            own.popleft()
        if own:
            return own[0]
        if not anywhere:
            return None
        while left and left[0][1] in given:
            left.popleft()
        return next((each for of, each in left if each not in given and steps.is_free_for(step, of)), None)

    def _begun(self) -> deque[tuple[str, int]]:
        self._left = deque(self._numbers)
        for step, number in self._numbers:
            self._of.setdefault(step, deque()).append(number)
        return self._left


class _Index:
    """The recorded calls of a site by their arguments.

    Args:
        calls: of each its number, the step it was made in, and itself.
        call: one that is made now: it says what the arguments are called.
        redacted: whether they are all recorded without their secrets.
    """

    def __init__(self, calls: Sequence[tuple[int, str, Span]], call: BoundCall, *, redacted: bool) -> None:
        self._calls = calls
        self._names = arguments.names_of(call)
        self._redacted = redacted
        self._unknown: set[int] = set()
        self._opaque: set[int] = set()
        self._quick = self._indexed(lambda _, recorded: quick(recorded))
        self._canonical: dict[bytes, _Queue] | None = None

    def soon(self, call: BoundCall) -> _Queue | None:
        """Return the calls with the quick digest of the arguments of `call`."""
        digest = quick(arguments.of_call(call, redacted=self._redacted))
        return self._quick.get(digest) if digest is not None else None

    def queues(self, call: BoundCall) -> Iterator[tuple[_Queue, bool]]:
        """Give the calls with the arguments of `call`, and whether all of them are known to be the same."""
        now = arguments.of_call(call, redacted=self._redacted)
        if self._canonical is None:
            self._canonical = self._indexed(self._whole)
        whole = canonical(now).value
        if whole in self._canonical:
            yield self._canonical[whole], True
        yield _Queue((step, number) for number, step, span in self._calls if self._is_like(number, span, now)), False

    def _whole(self, number: int, recorded: Any) -> bytes:
        found = canonical(recorded)
        if found.is_opaque:
            self._opaque.add(number)
        return found.value

    def _indexed(self, digest_of: Callable[[int, Any], bytes | None]) -> dict[bytes, _Queue]:
        found: dict[bytes, _Queue] = defaultdict(_Queue)
        known: dict[bytes, bytes | None] = {}  # by the names of payloads: many calls are given the same
        for number, step, span in self._calls:
            name = span.input.name if span.input is not None else b""
            if name not in known:
                try:
                    digest = digest_of(number, arguments.of_span(span, self._names))
                except ReplayError:  # not recorded, or it does not load today: nothing is known to be equal to it
                    self._unknown.add(number)
                    continue
                if name and number not in self._opaque:
                    known[name] = digest
            else:
                digest = known[name]
            if digest is not None:
                found[digest].add(step, number)
        return dict(found)

    def _is_like(self, number: int, span: Span, now: Any) -> bool:
        """Whether nothing that was recorded of a call is against its being the one that is made."""
        if number in self._unknown:
            return span.input is None or span.input.codec == "stand-in"
        return number in self._opaque and difference(arguments.of_span(span, self._names), now) is None
