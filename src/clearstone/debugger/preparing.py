"""Before the call of a replay: the agent restored, the call made ready, and what is answered from where.

Idea: a checkpoint says which call to make and with what; today's source says what it is called on. What stands against
a replay is said before anything runs.

Invariant: nothing goes out while an agent is restored.
"""

from __future__ import annotations

import contextlib
from copy import copy
from typing import TYPE_CHECKING, Any, Self

from clearstone import run
from clearstone.checkpoint import state
from clearstone.checkpoint.environment import known, other_hash_seed
from clearstone.checkpoint.fingerprints import in_one_line
from clearstone.codec.arguments import load_arguments
from clearstone.debugger import unfit
from clearstone.debugger.calls import Call
from clearstone.errors import ConfigurationError, TargetError, TraceNotFoundError
from clearstone.replay import guard, moved
from clearstone.replay.engine import Replay
from clearstone.replay.guard import unseen
from clearstone.replay.match import InferredBook, served
from clearstone.replay.source import Code, Source
from clearstone.span import FORK_AT, FORK_CHANGES, FORK_CHECKPOINT, FORK_PARENT, Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from clearstone.checkpoint.fingerprints import Change
    from clearstone.checkpoint.model import Checkpoint
    from clearstone.codec.renames import Renames
    from clearstone.span import Span
    from clearstone.store.base import TraceReader


class Preparation:
    """What an engine knows of its checkpoint, and how a replay of it begins."""

    _code: Code
    _renames: Renames
    _recorded: Trace
    _checkpoint: Checkpoint
    _source: Source
    _whole: Trace
    _trace: Trace
    _strict: bool | None
    _permissions: tuple[frozenset[str], frozenset[str]]
    _passthrough: set[str]
    _pace: bool
    _everywhere: bool
    _agent: Any
    _changes: tuple[Change, ...]
    _unseen: list[str]

    def _of(self, checkpoint: Checkpoint) -> Self:
        """Return an engine of another checkpoint of the same trace, which replays as this one does."""
        other = copy(self)
        other._use(checkpoint, checkpoint.trace.merged(self._recorded))
        return other

    def _use(self, checkpoint: Checkpoint, recorded: Trace) -> None:
        """Replay this checkpoint; what of its record has another name today is renamed."""
        self._recorded = recorded
        self._checkpoint = moved.checkpoint_of(checkpoint, self._renames)
        self._source = Source(self._checkpoint, self._code, self._renames)
        self._whole = moved.trace_of(recorded, self._renames)
        self._trace = _scope(self._checkpoint, self._whole)
        self._source.finder.used(*moved.names_in(checkpoint, _scope(checkpoint, recorded)))

    @contextlib.contextmanager
    def _prepared(
        self,
        function: str | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        make: Callable[..., Any] = Replay,
    ) -> Iterator[tuple[Any, Call]]:
        self._checkpoint.require_loadable()
        moved.require_there(self._renames, self._source)
        with self._source.loading():
            replay = self._replay(make)
            with self._restoring(replay):
                call = self._call(function, args, kwargs)
            self._unseen = unseen()
            self._changes = self._source.changes()
            yield replay, call

    def _replay(self, make: Callable[..., Any]) -> Any:
        permissions, live = self._permissions, self._passthrough
        return make(self._source.loading, self._trace, permissions=permissions, passthrough=live, paced=self._pace)

    @contextlib.contextmanager
    def _restoring(self, replay: Replay) -> Iterator[None]:
        """Restore an agent in the ``with``: what `load_state` or `on_restore` sends must not go out."""
        with run.overriding(replay), guard.watching(replay.guard, everywhere=self._everywhere):
            yield

    def _call(self, function: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        if function is None and args:
            function, args = args[0], args[1:]
        if function is None:
            return self._failed_call(kwargs)
        if not isinstance(function, str):
            raise ConfigurationError(f"{function!r} is no method name; the first positional argument must be one")
        method = self._method(function)
        return Call(method, args, kwargs, self._earlier())

    def _failed_call(self, kwargs: dict[str, Any]) -> Call:
        call = self._checkpoint.call
        if call is None:
            raise ConfigurationError(
                f"checkpoint {self._checkpoint.checkpoint_id} was made by hand and holds no failed call; name the "
                f"method to replay"
            )
        args, recorded = load_arguments(call.input)
        if kwargs:
            raise ConfigurationError(
                f"the failed call has its own arguments; to pass {', '.join(kwargs)}, name the method too"
            )
        if call.input.redacted:
            self._source.notes.append(
                f"Secrets among the arguments of {call.site.replace(':', '.', 1)} were redacted: it is called with "
                f"markers in their place, and may fail otherwise than it did. Name the method and give its arguments "
                f"to have others."
            )
        function = self._method(call.method) if call.method else self._source.function(call.site)
        return Call(function, args, recorded, self._earlier())

    def _earlier(self) -> tuple[Call, ...]:
        """Return the calls to make first, where the state is from before of an earlier call (see `Checkpoint`)."""
        found = []
        for each in self._checkpoint.earlier:
            args, kwargs = load_arguments(each.input)
            span = self._trace.span(each.span_id)
            failed = span is not None and span.outcome is not None and span.outcome.kind == "raised"
            found.append(Call(getattr(self._agent, each.method), args, kwargs, may_fail=failed))
        if found:
            told = "the time budget left no room for a snapshot at its entry"
            self._source.notes.append(f"{len(found)} earlier call(s) on the agent are made again first: {told}.")
        return tuple(found)

    def _method(self, name: str) -> Any:
        if not self._checkpoint.agent_class_name:
            return self._function(name)
        tell = self._source.notes.append
        agent = state.restore(
            self._source.agent_class(), self._checkpoint.state, lambda *lost: tell(unfit.no_place(*lost))
        )
        self._agent, method = agent, getattr(agent, name, None)
        if not callable(method):
            raise TargetError(unfit.no_such_method(agent, name, self._checkpoint))
        return method

    def _function(self, name: str) -> Any:
        site = self._checkpoint.call.site if self._checkpoint.call is not None else ""
        if name not in {site, site.replace(":", ".", 1), site.rpartition(":")[2], site.rpartition(".")[2]}:
            raise TargetError(f"the checkpoint is of the function {site!r} and holds no agent with a method {name!r}")
        return self._source.function(site)

    def _infer(self, replay: Replay, call: Call) -> list[tuple[str, str, int]]:
        self._note_what_is_served(call)
        replay.follows = True
        replay.book = InferredBook(
            replay.record,
            strict=self._strict is not False,
            changes=self._since,
            quoted_then=self._source.quoted_then,
        )
        spans = served(self._below(call))
        self._require_decorated(spans)
        counts: dict[tuple[str, str], int] = {}
        for span in spans:
            key = (span.site.replace(":", ".", 1), span.span_type)
            counts[key] = counts.get(key, 0) + 1
        return [(target, span_type, count) for (target, span_type), count in counts.items()]

    def _since(self) -> str:
        """Say what changed in the code; where nothing did, that the hash seed is another one: in one line."""
        return in_one_line(self._changes) or other_hash_seed(self._checkpoint.environment, known())

    def _of_a_fork(self) -> list[str]:
        """Say so where the recorded run is a fork: with what in it, and what of that a replay does not have."""
        first = next(iter(self._whole), None)
        parent = first.attributes.get(FORK_PARENT) if first is not None else None
        if first is None or parent is None:
            return []
        told: Any = first.attributes.get(FORK_CHANGES) or ["nothing"]
        since = f", as {first.attributes[FORK_CHECKPOINT]}" if FORK_CHECKPOINT in first.attributes else ""
        notes = [f"This run is itself a fork of {str(parent)[:12]}{since} with {'; '.join(told)}."]
        if FORK_AT in first.attributes:
            notes.append("Its state was changed in the middle of it, at a call; a replay does not do that again.")
        return notes

    def _own(self, call: Call) -> Span | None:
        """The recorded call that is made again; None where another one is made."""
        site = run.site_of(call.function)
        own = self._trace.span(self._checkpoint.span_id) if self._checkpoint.call is not None else None
        return own if site is not None and own is not None and own.site == site.key else None

    def _note_what_is_served(self, call: Call) -> None:
        """Say so where the replayed call is itself answered from the record."""
        site = run.site_of(call.function)
        if self._own(call) is not None and site is not None and site.replay == "serve":
            self._source.notes.append(
                f"{site.target} is itself an outside call: its recorded outcome is served, and its code does not run. "
                f"@traced(span_type={site.span_type!r}, replay='run') runs it again."
            )

    def _below(self, call: Call) -> Trace:
        """The calls that may be served: without the replayed call itself, where that runs again today."""
        site, own = run.site_of(call.function), self._own(call)
        if own is None or site is None or site.replay == "serve":
            return self._trace
        again = {own.span_id, *(each.span_id for each in self._checkpoint.earlier)}
        return Trace(self._trace.trace_id, tuple(span for span in self._trace if span.span_id not in again))

    def _require_decorated(self, spans: Sequence[Span]) -> None:
        """A site that lost its decorator since would go out live: say so before anything runs."""
        for site in dict.fromkeys(span.site for span in spans):
            with contextlib.suppress(TargetError):  # moved or local: it cannot be called under this name either
                if run.site_of(self._source.function(site)) is None:
                    raise ConfigurationError(
                        f"{site.replace(':', '.', 1)} was recorded as an outside call and is not decorated today, so "
                        f"it would go out live. Decorate it again, or name it in a mock_config"
                    )


def whole(checkpoint: Checkpoint, trace_store: TraceReader | None) -> Trace:
    """Return the trace of a checkpoint, with what a store holds of it besides."""
    trace = checkpoint.trace
    if trace_store is not None:
        with contextlib.suppress(TraceNotFoundError):  # another store: the checkpoint's own spans are enough
            trace = trace.merged(trace_store.get_trace(trace.trace_id))
    return trace


def _scope(checkpoint: Checkpoint, trace: Trace) -> Trace:
    """The calls a replay may be given: for a failed call those below it, else the whole trace."""
    if checkpoint.call is None:
        return trace
    own = trace.subtree(checkpoint.span_id)
    for each in checkpoint.earlier:
        own = own.merged(trace.subtree(each.span_id))
    return own
