"""`ReplayEngine`: a checkpoint's call made again, headless or under the debugger.

Idea: restore the agent from today's source, answer outside calls from the record, give it the checkpoint's time and
randomness, and call the method. The headless replay and the session differ in who drives that call, nothing else.

Invariant: a refusal inside the replay decides its end, whatever the user's code made of it; nothing is recorded.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from clearstone.codec.renames import Renames
from clearstone.debugger import console, unfit
from clearstone.debugger.elsewhere import elsewhere
from clearstone.debugger.preparing import Preparation, whole
from clearstone.debugger.terminal import ReplayPdb, SessionLeft
from clearstone.errors import ConfigurationError
from clearstone.replay import mocks, positions
from clearstone.replay.determinism import staged
from clearstone.replay.guard import chosen, permissions
from clearstone.replay.ledger import Ledger
from clearstone.replay.match import config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from clearstone.checkpoint.fingerprints import Change
    from clearstone.checkpoint.model import Checkpoint
    from clearstone.debugger.calls import Call
    from clearstone.record.provider import TracerProvider
    from clearstone.replay.changes import Then
    from clearstone.replay.engine import Replay
    from clearstone.replay.source import Code
    from clearstone.store.base import TraceReader
    from clearstone.whatif import Fork

MockConfig = dict[str, list[str]]


class ReplayEngine(Preparation):
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
        self._code: Code = code
        self._renames = Renames.of(renamed or {})
        self._use(checkpoint, whole(checkpoint, trace_store))
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
        is_unlike = self._changes or self._ledger.count("changed", "beyond")  # of what diverged the error tells
        since = [self._since()] if is_unlike else []
        return (*self._of_a_fork(), *self._source.notes, *self._source.finder.notes(), *unseen, *filter(None, since))

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
            with staged(self._checkpoint, replay, everywhere=self._everywhere):
                return self._driven(replay, call)

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
            console.welcome(self._checkpoint, self.notes)
            console.preflight(lines, notes)
            stack.enter_context(staged(self._checkpoint, replay, everywhere=self._everywhere))
            if given is not None:
                stack.enter_context(mocks.installed(given, replay, strict=bool(self._strict)))
            return self._debugged(replay, call)

    def fork(
        self,
        *,
        state: Mapping[str, Any] | Callable[[Any], object] | None = None,
        respond: Mapping[str, Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
        at: str = "",
        then: Then = "recorded",
        name: str = "",
        function_name: str | None = None,
        provider: TracerProvider | None = None,
    ) -> Fork:
        """Replay with something changed, and record what comes of it as a trace of its own.

        Args:
            state: what is changed of the agent: places (``self.config["model"]``) and their new values, or a function
                of the agent.
            respond: other responses of outside calls: ``"llm[2]"`` is the second recorded call of that type, and
                ``"llm[2].text"`` a place in what it gave; ``"Agent.ask[1]"`` names a function, ``"s12"`` a position. A
                function is called with the call's arguments, an exception is raised; of a stream, give the list of
                its items.
            arguments: other arguments of the call, by name.
            at: the call at whose beginning the state is changed: a position (``"s12"``) or a span id. The beginning of
                all, unless told.
            then: ``"recorded"`` answers every call from the record; ``"live"`` makes for real, and records, the calls
                past the change, and those that the record has no answer for.
            name: what the fork is called.
            function_name: the method to call instead of the one that failed.
            provider: where it is recorded; None for the default one.

        Returns:
            What came of it. What the call raises, and a refusal, is its `error`.

        Raises:
            ConfigurationError: a place, an argument or `then` is none.
            TargetError: a reference names no recorded call, or several; or as `replay_from_checkpoint`.
            StateError: the state does not go back into the class.
        """
        from clearstone.debugger import forking
        from clearstone.replay.changes import Changes

        changes = Changes(
            forking.state_change(state),
            forking.responses(self._trace, self._whole, respond or {}),
            bool(arguments),
            positions.find(self._whole, at).span_id if at else "",
            then,
        )
        return forking.forked(self, changes, arguments or {}, function=function_name, name=name, provider=provider)

    def at(self, position: str) -> Any:
        """Return the agent as it was at the beginning of a recorded call.

        The replay runs up to that call, and the state it has come to is restored into a new object.

        Args:
            position: ``"s12"``, the twelfth call of the trace as ``clearstone show`` lists them, or a span id.

        Raises:
            TargetError: there is no such call, or the replay does not come to it.
            StateError: the state cannot be taken there, or does not go back into the class.
            ReplayError: an outside call before it has no recorded outcome.
        """
        from clearstone.debugger import forking

        return forking.reached(self, position)

    # --- the call ----------------------------------------------------------------------------------------------------

    def _driven(self, replay: Replay, call: Call, make: Callable[[], Any] | None = None) -> Any:
        try:
            result = call.driven(make or call)
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
