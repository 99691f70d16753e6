"""`ReplayEngine`: a checkpoint's call made again, headless or under the debugger.

Idea: restore the agent from today's source, answer outside calls from the record, give it the checkpoint's time and
randomness, and call the method. The headless replay and the session differ in who drives that call, nothing else.

Invariant: a refusal inside the replay decides its end, whatever the user's code made of it; nothing is recorded.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from clearstone import run
from clearstone.checkpoint import state
from clearstone.checkpoint.fingerprints import in_one_line
from clearstone.codec.arguments import load_arguments
from clearstone.codec.renames import Renames
from clearstone.debugger import console, unfit
from clearstone.debugger.calls import Call
from clearstone.debugger.elsewhere import elsewhere
from clearstone.debugger.terminal import ReplayPdb, SessionLeft
from clearstone.errors import ConfigurationError, TargetError, TraceNotFoundError
from clearstone.replay import mocks, moved
from clearstone.replay.determinism import staged
from clearstone.replay.engine import Replay
from clearstone.replay.guard import chosen, permissions, unseen
from clearstone.replay.ledger import Ledger
from clearstone.replay.match import InferredBook, config, served
from clearstone.replay.source import Code, Source
from clearstone.span import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from clearstone.checkpoint.fingerprints import Change
    from clearstone.checkpoint.model import Checkpoint
    from clearstone.span import Span
    from clearstone.store.base import TraceReader

MockConfig = dict[str, list[str]]


class ReplayEngine:
    """Makes a checkpoint's call again: state restored, outside calls answered from the record.

    Args:
        checkpoint: what to replay.
        trace_store: where the rest of the trace is, what came after the checkpoint included; None for the spans the
            checkpoint itself holds.
        code: ``"today"`` to run the source as it is now; ``"recorded"`` for the stored code of a ``__main__`` script.
        strict: whether a served call with other arguments than any recorded one ends the replay; else it is answered in
            the recorded order, and `ledger` says what differs. None: it does with inferred mocks, and not with a
            written ``mock_config``.
        allow: what the replayed code may do for real: ``"network"``, ``"subprocess"``.
        deny: what it may not, though it is not outside: ``"files"`` refuses to change any.
        passthrough: decorated functions that are called for real, dotted (``"app.tools.search"``) or as sites
            (``"app.tools:search"``). Their calls are ``live`` in the `ledger`.
        everywhere: whether the guard also holds for code that runs beside the replay, in any thread of the process.
        pace: whether the items of recorded streams really take the time that they took; else they are given at once.
        renamed: what has another name today than it had: ``{"old.module": "new.module"}``, or of a class, function,
            method or attribute ``{"old.module:Old": "new.module:New"}``.

    `told` is the exception that ended the last session, after the session has printed it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        trace_store: TraceReader | None = None,
        *,
        code: Code = "today",
        strict: bool | None = None,
        allow: Iterable[str] | str = (),
        deny: Iterable[str] | str = (),
        passthrough: Iterable[str] | str = (),
        everywhere: bool = False,
        pace: bool = False,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        if code not in {"today", "recorded"}:
            raise ConfigurationError(f"code={code!r} is neither 'today' nor 'recorded'")
        self._renames = Renames.of(renamed or {})
        trace = _scope(checkpoint, trace_store)
        self._checkpoint = moved.checkpoint_of(checkpoint, self._renames)
        self._source = Source(self._checkpoint, code, self._renames)
        self._trace = moved.trace_of(trace, self._renames)
        self._source.finder.used(*moved.names_in(checkpoint, trace))
        self._strict = strict
        self._permissions = permissions(allow, deny)
        self._passthrough = {self._renames.dotted(each.replace(":", ".", 1)) for each in chosen(passthrough)}
        self._everywhere = everywhere
        self._pace = pace
        self._ledger = Ledger()
        self._agent: Any = None
        self._changes: tuple[Change, ...] = ()
        self._unseen: list[str] = []
        self.told: BaseException | None = None

    @property
    def mock_config(self) -> MockConfig:
        """The configuration inferred from the decorated call sites: span type to targets, in the order of the calls."""
        return config(self._trace)

    @property
    def ledger(self) -> Ledger:
        """What became of every call of the last replay."""
        return self._ledger

    @property
    def served(self) -> int:
        """How many calls the last replay answered from the record."""
        return self._ledger.served

    @property
    def unused(self) -> int:
        """How many recorded calls the last replay did not come to."""
        return self._ledger.count("unused")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result should know: what is different here, where code came from, what of it changed."""
        unseen = [f"What {each} sends is not seen by the guard." for each in self._unseen]
        return (*self._source.notes, *self._source.finder.notes(), *unseen, *filter(None, [in_one_line(self._changes)]))

    @property
    def changed_code(self) -> tuple[Change, ...]:
        """Which functions and classes are not what they were when the checkpoint was made, as of the last replay."""
        return self._changes

    def replay_from_checkpoint(self, /, *args: Any, function_name: str | None = None, **kwargs: Any) -> Any:
        """Call a method of the restored agent. Inside a running event loop, which would stand still, await `areplay`.

        Args:
            *args: its positional arguments; without `function_name` the first is the method's name. With neither, the
                call that failed is made again with its own arguments.
            function_name: the method's name.
            **kwargs: its keyword arguments.

        Returns:
            What the method returns; of a coroutine its result, of a generator the list of its items.

        Raises:
            TargetError: the class, script or method is not there today.
            StateError: the state does not go back into the class.
            ReplayError: an outside call has no recorded outcome (see `clearstone.errors`).
            BaseException: whatever the method raises.
        """
        with self._prepared(function_name, args, kwargs) as (replay, call):
            self._infer(replay, call)
            self._changes = self._source.changes()
            with staged(self._checkpoint, replay, everywhere=self._everywhere):
                return self._driven(replay, call, call)

    async def areplay(self, /, *args: Any, function_name: str | None = None, **kwargs: Any) -> Any:
        """Call a method of the restored agent in a thread of its own, while the running event loop goes on.

        Other tasks see the real clock and their own random numbers; the agent sees a copy of this task's context
        variables. Replays that are awaited at once take turns. Cancelling it ends the replay and waits for that: what
        is awaited in it is cancelled, plain code ends at its next decorated call.

        Args, Returns, Raises: as `replay_from_checkpoint`.
        """
        return await elsewhere(partial(self.replay_from_checkpoint, *args, function_name=function_name, **kwargs))

    def start_debugging_session(
        self,
        /,
        *args: Any,
        function_to_replay: str | None = None,
        mock_config: Mapping[str, str | Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a method of the restored agent under pdb, from its first line.

        Args:
            *args: as for `replay_from_checkpoint`.
            function_to_replay: the method's name.
            mock_config: span type to the dotted path of the function that makes such calls, or to several paths. It
                serves the outcomes of that type in the order they started, whatever the arguments. None infers it
                from the decorated call sites; an empty one mocks nothing.
            **kwargs: the method's keyword arguments.

        Returns:
            What the method returns; None if the session was left before.

        Raises:
            As `replay_from_checkpoint`; and TargetError: a mock target does not exist (names the nearest).
        """
        with self._prepared(function_to_replay, args, kwargs) as (replay, call), contextlib.ExitStack() as stack:
            given = (
                None
                if mock_config is None
                else mocks.from_config(mock_config, self._trace, self._source.module, self._renames.dotted)
            )
            if given is None:
                lines, notes = self._infer(replay, call), console.by_hand(self._trace)
            else:
                lines, notes = console.written_lines(given)
                notes += console.unknown_types(given, self._trace)
            self._changes = self._source.changes()
            console.welcome(self._checkpoint, self.notes)
            console.preflight(lines, notes)
            stack.enter_context(staged(self._checkpoint, replay, everywhere=self._everywhere))
            if given is not None:
                stack.enter_context(mocks.installed(given, replay, strict=bool(self._strict)))
            return self._debugged(replay, call)

    # --- before the call ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _prepared(
        self, function: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[tuple[Replay, Call]]:
        self._checkpoint.require_loadable()
        moved.require_there(self._renames, self._source)
        with self._source.loading():
            permissions, live = self._permissions, self._passthrough
            replay = Replay(
                self._source.loading, self._trace, permissions=permissions, passthrough=live, paced=self._pace
            )
            with run.overriding(replay):  # an outside call that load_state or on_restore makes must not go out
                call = self._call(function, args, kwargs)
            self._unseen = unseen()
            yield replay, call

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
            replay.record, strict=self._strict is not False, changes=lambda: in_one_line(self._changes)
        )
        spans = served(self._below(call))
        self._require_decorated(spans)
        counts: dict[tuple[str, str], int] = {}
        for span in spans:
            key = (span.site.replace(":", ".", 1), span.span_type)
            counts[key] = counts.get(key, 0) + 1
        return [(target, span_type, count) for (target, span_type), count in counts.items()]

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

    # --- the call ----------------------------------------------------------------------------------------------------

    def _driven(self, replay: Replay, call: Call, make: Callable[[], Any]) -> Any:
        try:
            result = call.driven(make)
        except BaseException as error:
            self._source.notes += unfit.lacking(error, self._agent, self._checkpoint)
            if replay.refusal is not None and error is not replay.refusal:
                raise replay.refusal from error
            raise
        finally:
            self._ledger = replay.ledger()
        if replay.refusal is not None:
            raise replay.refusal
        return result

    def _debugged(self, replay: Replay, call: Call) -> Any:
        debugger = ReplayPdb(call.first_code, console.say)
        try:
            result = self._driven(replay, call, lambda: debugger.run_call(call))
        except SessionLeft:
            return None
        except BaseException as error:
            if debugger.quitting or debugger.left:
                return None
            debugger.look_at(error)
            console.failed(error)
            self.told = error
            raise
        if debugger.left:
            return None
        console.finished(result)
        return result


def _scope(checkpoint: Checkpoint, trace_store: TraceReader | None) -> Trace:
    """The calls a replay may be given: for a failed call those below it, else the whole trace."""
    trace = checkpoint.trace
    if trace_store is not None:
        with contextlib.suppress(TraceNotFoundError):  # another store: the checkpoint's own spans are enough
            trace = trace.merged(trace_store.get_trace(trace.trace_id))
    if checkpoint.call is None:
        return trace
    own = trace.subtree(checkpoint.span_id)
    for each in checkpoint.earlier:
        own = own.merged(trace.subtree(each.span_id))
    return own
