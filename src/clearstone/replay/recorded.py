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

import contextlib
import itertools
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone.errors import ReplayError
from clearstone.replay import arguments
from clearstone.replay.compare import difference
from clearstone.replay.digest import canonical, quick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from clearstone.run import BoundCall
    from clearstone.span import Span, Trace


MOST_LIKE = 20
"""Calls that are looked at one by one, where digests do not tell."""


class Found(NamedTuple):
    """A recorded call that fits.

    Args:
        span: the call.
        is_exact: whether all of its arguments are known to be the same; not where one could not be recorded.
    """

    span: Span
    is_exact: bool = True


class Steps:
    """Which recorded call is above which, and how far the replay is with each. Not locked: its owner is.

    Args:
        trace: the calls; those without a site are looked through.
    """

    def __init__(self, trace: Trace) -> None:
        self._above: dict[str, str] = {}
        self._entered: set[str] = set()
        self._ended: set[str] = set()
        self._served: set[str] = set()
        self._outside = {span.span_id for span in trace if span.replay == "serve"}
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

    def is_part(self, span_id: str) -> bool:
        """Whether a recorded call was made in an outside one, which does not run again."""
        above = self.of(span_id)
        while above and (above not in self._outside or above in self._entered):
            above = self.of(above)
        return bool(above)


class RecordedCalls:
    """Gives recorded calls out, to any thread.

    Loading and comparing runs code of the user's (how their objects pickle), which may wait for another thread: no lock
    is held meanwhile.

    Args:
        trace: the calls, in the order they started; those without a site are not given.
    """

    def __init__(self, trace: Trace) -> None:
        self._lock = threading.RLock()  # reentrant: the collector may end a step in there
        self._steps = Steps(trace)
        found: dict[str, list[Span]] = defaultdict(list)
        for span in trace:
            if span.site:
                found[span.site].append(span)
        self._sites = {site: _Site(of, self._steps) for site, of in found.items()}

    def take(self, call: BoundCall, step: str, *, runs: bool = False) -> Found | None:
        """Return the recorded call with the arguments of `call`; None where there is none.

        Args:
            call: what is called now.
            step: the recorded step that it is made in; empty where that is not known.
            runs: whether it runs again; else it is answered.
        """
        site = self._sites.get(call.site.key)
        if site is None:
            return None
        queue = site.soon(call)
        span = self._give(site, queue, step, runs=runs) if queue is not None else None
        if span is not None:  # the way of nearly every call
            return Found(span)
        for queue, is_exact in site.queues(call):
            span = self._give(site, queue, step, runs=runs)
            if span is not None:
                return Found(span, is_exact)
        return None

    def _give(self, site: _Site, queue: _Queue, step: str, *, runs: bool) -> Span | None:
        with self._lock:
            span = site.give(queue, step)
            if span is not None:
                self._note(span, runs=runs)
            return span

    def take_next(self, site: str, step: str, *, runs: bool = False) -> Span | None:
        """Return a call of a site that has not been given, whatever its arguments.

        Args:
            site: the site's key.
            step: see `take`.
            runs: see `take`. Then it is given only where it is the last of that step: of several nobody knows which.
        """
        found = self._sites.get(site)
        if found is None:
            return None
        with self._lock:
            span = found.give_the_only_one(step) if runs else found.give(found.all, step)
            if span is not None:
                self._note(span, runs=runs)
            return span

    def _note(self, span: Span, *, runs: bool) -> None:
        if runs:
            self._steps.enter(span.span_id)
        else:
            self._steps.serve(span.span_id)

    def end(self, step: str) -> None:
        """A recorded call that ran again has ended."""
        with self._lock:
            self._steps.end(step)

    def recorded(self, site: str) -> list[Span]:
        """Return every call of a site that is not part of an outside one."""
        with self._lock:
            return self._apart(self._sites[site].spans) if site in self._sites else []

    def left(self, site: str) -> list[Span]:
        """Return the calls of a site that were not given, in the order they started."""
        with self._lock:
            return self._apart(self._sites[site].left()) if site in self._sites else []

    def all_left(self) -> list[Span]:
        """Return what was not given of all sites, those that were called first at first."""
        return [span for site in self._sites for span in self.left(site)]

    def numbers(self) -> dict[str, int]:
        """Return the number of each call among those recorded of its site, from 1, by the ids of their spans."""
        return {span.span_id: number for site in self._sites for number, span in enumerate(self.recorded(site), 1)}

    def equal(self, call: BoundCall) -> list[Span]:
        """Return every recorded call with the arguments of `call`, those that were given too."""
        site = self._sites.get(call.site.key)
        return site.equal(call) if site is not None else []

    def _apart(self, spans: Iterable[Span]) -> list[Span]:
        return [span for span in spans if not self._steps.is_part(span.span_id)]


class _Site:
    """The recorded calls of one site."""

    def __init__(self, spans: list[Span], steps: Steps) -> None:
        self.spans = spans
        self.all = _Queue((steps.of(span.span_id), number) for number, span in enumerate(spans))
        self._steps = steps
        self._given: set[int] = set()
        self._indexes: dict[tuple[str, ...], list[_Index]] = {}
        """By the names of what is passed by position: a function may be called bound and unbound."""

    def left(self) -> list[Span]:
        return [span for number, span in enumerate(self.spans) if number not in self._given]

    def soon(self, call: BoundCall) -> _Queue | None:
        """Return calls with the arguments of `call`, if some are found at once."""
        return next(filter(None, [index.soon(call) for index in self._made(call)]), None)

    def queues(self, call: BoundCall) -> Iterator[tuple[_Queue, bool]]:
        """Give the calls with the arguments of `call`, soonest found first, and whether all of those are known."""
        indexes = self._made(call)
        for index in indexes:
            queue = index.soon(call)
            if queue is not None:
                yield queue, True
        for index in indexes:
            yield from index.queues(call, self._given)

    def equal(self, call: BoundCall) -> list[Span]:
        return [self.spans[number] for number in sorted({each for queue, _ in self.queues(call) for each in queue})]

    def give(self, queue: _Queue, step: str) -> Span | None:
        """Give the first of a queue that a call made in `step` may have."""
        return self._give(queue.next(step, self._given, self._steps))

    def give_the_only_one(self, step: str) -> Span | None:
        """Give what is left of this step, if that is one call."""
        return self._give(self.all.only(step, self._given))

    def _give(self, number: int | None) -> Span | None:
        if number is None:
            return None
        self._given.add(number)
        return self.spans[number]

    def _made(self, call: BoundCall) -> list[_Index]:
        names = arguments.names_of(call)
        found = self._indexes.get(names)
        if found is None:
            parts: dict[bool, list[tuple[int, str, Span]]] = {False: [], True: []}
            for number, span in enumerate(self.spans):
                parts[_is_redacted(span)].append((number, self._steps.of(span.span_id), span))
            made = [_Index(of, names, redacted=redacted) for redacted, of in parts.items() if of]
            found = self._indexes.setdefault(names, made)
        return found


def _is_redacted(span: Span) -> bool:
    return span.input is not None and span.input.redacted


class _Queue:
    """Numbers of recorded calls in their order, and the step each was made in."""

    __slots__ = ("_left", "_of", "numbers")

    def __init__(self, numbers: Iterable[tuple[str, int]] = ()) -> None:
        self.numbers = list(numbers)
        self._left: list[tuple[str, int]] | None = None  # made when it is first asked; the last is the next one
        self._of: dict[str, list[int]] = {}

    def add(self, step: str, number: int) -> None:
        self.numbers.append((step, number))

    def __iter__(self) -> Iterator[int]:
        return (number for _, number in self.numbers)

    def next(self, step: str, given: set[int], steps: Steps) -> int | None:
        """Return the first that was not given: of this step, else of one that it is free for."""
        left = self._left if self._left is not None else self._begun()
        own = self._of.get(step) if step else None
        while own and own[-1] in given:
            own.pop()
        if own:
            return own[-1]
        while left and left[-1][1] in given:
            left.pop()
        free = (each for of, each in reversed(left) if each not in given and steps.is_free_for(step, of))
        return next(free, None)

    def only(self, step: str, given: set[int]) -> int | None:
        """Return the one of this step that was not given; None where there are more, or none."""
        if self._left is None:
            self._begun()
        left = (number for number in reversed(self._of.get(step, ())) if number not in given)
        found, more = next(left, None), next(left, None)
        return found if more is None else None

    def _begun(self) -> list[tuple[str, int]]:
        left = self._left = self.numbers[::-1]
        for step, number in left:
            self._of.setdefault(step, []).append(number)
        return left


class _Index:
    """The recorded calls of a site by their arguments.

    Args:
        calls: of each its number, the step it was made in, and itself.
        names: what the arguments that are passed by position are called.
        redacted: whether they are all recorded without their secrets.
    """

    def __init__(self, calls: Sequence[tuple[int, str, Span]], names: tuple[str, ...], *, redacted: bool) -> None:
        self._calls = calls
        self._names = names
        self._redacted = redacted
        self._unknown = _Queue()
        self._quick = self._indexed(quick, self._unknown)
        self._canonical: dict[bytes, _Queue] | None = None
        self._is_opaque = False

    def soon(self, call: BoundCall) -> _Queue | None:
        """Return the calls with the quick digest of the arguments of `call`."""
        digest = quick(arguments.of_call(call, redacted=self._redacted))
        return self._quick.get(digest) if digest is not None else None

    def queues(self, call: BoundCall, given: set[int]) -> Iterator[tuple[_Queue, bool]]:
        """Give the calls with the arguments of `call`, and whether all of them are known to be the same.

        Args:
            call: what is called now.
            given: the numbers of those that were given.
        """
        if self._canonical is None:
            self._canonical = self._indexed(self._whole, _Queue())
        found = canonical(arguments.of_call(call, redacted=self._redacted))
        if found.value in self._canonical:
            yield self._canonical[found.value], not found.is_opaque
        if found.is_opaque or self._is_opaque:  # a record would hold a client as its type, and no part of it
            found = canonical(arguments.of_call(call, redacted=self._redacted, described=True))
            if found.value in self._canonical:
                yield self._canonical[found.value], not found.is_opaque
            yield self._like(call, given), False
        yield self._unknown, False

    def _like(self, call: BoundCall, given: set[int]) -> _Queue:
        """Return calls against which nothing is known: what pickles here may not have pickled there."""
        now = arguments.of_call(call, redacted=self._redacted)
        left = (each for each in self._calls if each[0] not in given)
        found = _Queue()
        for number, step, span in itertools.islice(left, MOST_LIKE):
            with contextlib.suppress(ReplayError):  # it does not load today
                recorded = arguments.of_span(span, self._names)
                if canonical(recorded).is_opaque and difference(recorded, now) is None:
                    found.add(step, number)
        return found

    def _whole(self, recorded: Any) -> bytes:
        found = canonical(recorded)
        self._is_opaque = self._is_opaque or found.is_opaque
        return found.value

    def _indexed(self, digest_of: Callable[[Any], bytes | None], unknown: _Queue) -> dict[bytes, _Queue]:
        found: dict[bytes, _Queue] = defaultdict(_Queue)
        known: dict[bytes, bytes | None] = {}  # by the names of payloads: many calls are given the same
        for number, step, span in self._calls:
            name = span.input.name if span.input is not None else b""
            if name not in known:
                try:
                    digest = digest_of(arguments.of_span(span, self._names))
                except ReplayError:  # it does not load today: nothing is known to be equal to it
                    if span.input is None or span.input.codec == "stand-in":
                        unknown.add(step, number)
                    continue
                if name:
                    known[name] = digest
            else:
                digest = known[name]
            if digest is not None:
                found[digest].add(step, number)
        return dict(found)
