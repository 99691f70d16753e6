"""Forks and positions of one checkpoint's replay: what `ReplayEngine.fork` and `ReplayEngine.at` do.

Idea: both are the replay that the engine makes anyway, by another Run: one that changes something on its way
(`clearstone.whatif`), one that stops at a call and keeps the agent as it was there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from clearstone import run
from clearstone.checkpoint import loading
from clearstone.checkpoint import state as states
from clearstone.checkpoint.listing import Wanted, listed
from clearstone.codec.exceptions import type_name
from clearstone.codec.payload import safe_repr
from clearstone.codec.redact import MARKER, active
from clearstone.errors import ConfigurationError, TargetError, UnservableOutcome
from clearstone.nearest import nearest
from clearstone.record.default import default_provider
from clearstone.record.live_span import LiveSpan
from clearstone.replay import outcomes, places, positions
from clearstone.replay.changes import Response, StateChange, shaped
from clearstone.replay.determinism import staged
from clearstone.replay.engine import Replay
from clearstone.run import Answer
from clearstone.span import FORK_AT, FORK_CHECKPOINT, FORK_PARENT, FORK_THEN
from clearstone.whatif import Fork, ForkedReplay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.debugger.calls import Call
    from clearstone.debugger.session import ReplayEngine
    from clearstone.record.provider import TracerProvider
    from clearstone.replay.changes import Changes
    from clearstone.span import Span, Trace


# --- a fork ----------------------------------------------------------------------------------------------------------


def forked(
    engine: ReplayEngine,
    changes: Changes,
    arguments: Mapping[str, Any],
    *,
    function: str | None,
    name: str,
    provider: TracerProvider | None,
) -> Fork:
    """Run a fork (see `ReplayEngine.fork`)."""
    provider = provider or default_provider()
    if provider is None:
        raise ConfigurationError("there is no place to record the fork in: give provider=")
    root = _root(engine, changes, provider, name)

    def make(*args: Any, **options: Any) -> ForkedReplay:
        return ForkedReplay(*args, root=root, changes=changes, checkpoint=engine._checkpoint, **options)

    result = error = None
    with engine._prepared(function, (), {}, make) as (replay, recorded):
        call, told = _with_arguments(recorded, arguments)
        replay.tell(told)
        engine._infer(replay, call)
        replay.book = replay.with_responses(replay.book)
        _checked(changes, replay, engine._trace)
        replay.agent = engine._agent
        with staged(engine._checkpoint, replay, everywhere=engine._everywhere):
            if not changes.at:
                replay.change_state()
            try:
                result = _run(engine, replay, call, root)
            except BaseException as raised:
                if not _is_an_end(raised, engine._checkpoint):
                    raise
                error = raised
            finally:
                provider.flush()
    whole = engine._whole
    notes = *engine.notes, *(_not_come_to(each, whole) for each in whole if each.span_id in replay.awaited)
    ran = root.name, root.trace_id, whole.trace_id, result, error
    own = _saved(root.trace_id) if error is not None else ""
    return Fork(*ran, tuple(replay.told), engine.ledger, engine._agent, notes, own)


def _saved(trace_id: str) -> str:
    saved = listed(Wanted(trace=trace_id, moment="failure", limit=1)).found
    return saved[0].checkpoint_id if saved else ""


def _root(engine: ReplayEngine, changes: Changes, provider: TracerProvider, name: str) -> LiveSpan:
    parent = engine._whole.trace_id
    root = LiveSpan(provider.get_tracer(), active().text(name or f"fork of {parent[:8]}"))
    root.set_attributes({FORK_PARENT: parent, FORK_CHECKPOINT: engine._checkpoint.checkpoint_id})
    root.set_attributes({FORK_THEN: changes.then, **({FORK_AT: changes.at} if changes.at else {})})
    return root


def _run(engine: ReplayEngine, replay: ForkedReplay, call: Call, root: LiveSpan) -> Any:
    with root:
        if replay.goes_live and (replay.changes.arguments or replay.changes.state is not None):
            replay.go_live()
        return engine._driven(replay, call)


def _is_an_end(error: BaseException, checkpoint: Checkpoint) -> bool:
    """Whether an exception came of the call: what is no `Exception`, and was not recorded, is whoever forks' own."""
    then = checkpoint.failure.type_name if checkpoint.failure is not None else ""
    return isinstance(error, Exception | asyncio.CancelledError) or type_name(type(error)) == then


def _not_come_to(span: Span, whole: Trace) -> str:
    at = positions.positions(whole)[span.span_id]
    return f"The fork did not come to {at} ({span.name}): what was to be changed there is as it was."


def _with_arguments(call: Call, given: Mapping[str, Any]) -> tuple[Call, list[str]]:
    """Return a call with some of its arguments changed, by name, and what is another one in it, a line each.

    Raises:
        ConfigurationError: the function takes no such argument, or not this one.
    """
    if not given:
        return call, []
    try:
        bound = inspect.signature(call.function).bind_partial(*call.args, **call.kwargs)
    except TypeError as error:
        raise ConfigurationError(
            f"{call.function.__qualname__} does not take the recorded arguments: {error}"
        ) from None
    told = [_put_argument(call.function, bound, name, value) for name, value in given.items()]
    ordered = {each: bound.arguments[each] for each in bound.signature.parameters if each in bound.arguments}
    bound.arguments.clear()
    bound.arguments.update(ordered)
    return dataclasses.replace(call, args=bound.args, kwargs=bound.kwargs), told


def _put_argument(function: Any, bound: inspect.BoundArguments, name: str, value: Any) -> str:
    parameters = bound.signature.parameters
    more = next((each.name for each in parameters.values() if each.kind is each.VAR_KEYWORD), None)
    parameter = parameters.get(name)
    if parameter is not None and parameter.kind is not parameter.VAR_KEYWORD:
        holder, default = bound.arguments, parameter.default
    elif more is not None:
        holder, default = bound.arguments.setdefault(more, {}), inspect.Parameter.empty
    else:
        raise ConfigurationError(f"{function.__qualname__} takes no argument {name!r}; {nearest(name, parameters)}")
    before = holder.get(name, default)
    value = shaped(None if before is inspect.Parameter.empty else before, value)
    if parameter is not None and parameter.kind is parameter.VAR_POSITIONAL:
        if not isinstance(value, list | tuple):
            raise ConfigurationError(f"*{name} takes a list of arguments, not {value!r}")
        value = tuple(value)
    holder[name] = value
    then = "not given" if before is inspect.Parameter.empty else _shown(name, before)
    return f"the argument {name}: {then} -> {_shown(name, value)}"


def _shown(name: str, value: Any) -> str:
    return MARKER if active().is_secret_key(name) else safe_repr(value)


def state_change(given: Mapping[str, Any] | Callable[[Any], object] | None) -> StateChange | None:
    """Return what changes an agent, from places and values or a function.

    Raises:
        ConfigurationError: a place is none.
    """
    if given is None:
        return None
    if callable(given):
        change = given

        def by_function(agent: Any) -> list[str]:
            change(agent)
            return [f"the state, by {getattr(change, '__qualname__', repr(change))}"]

        return StateChange(by_function)
    found = [(_of_agent(text), value) for text, value in given.items()]
    attributes = frozenset(place.attribute for place, _ in found)
    return StateChange(lambda agent: [place.put(agent, value) for place, value in found], attributes)


def _of_agent(text: str) -> places.Place:
    place = places.parse(text)
    if place.root != "self":
        place = places.parse(f"self.{text.strip()}")
    if not place.steps:
        raise ConfigurationError(f"{text!r} is the whole agent; name an attribute of it: self.limit")
    return place


def responses(trace: Trace, whole: Trace, given: Mapping[str, Any]) -> dict[str, tuple[Response, ...]]:
    """Return changed responses by the ids of their recorded calls.

    Args:
        trace: the calls that the replay may be given.
        whole: the trace they are of.
        given: references, each with or without a place in the response, and what is to be there.

    Raises:
        TargetError: a reference names no outside call, or several.
        ConfigurationError: a place is none, or a response is changed as a whole and in a place.
    """
    found: dict[str, tuple[Response, ...]] = {}
    for text, value in given.items():
        reference, place = _split(trace, text)
        span = positions.find_response(trace, whole, reference)
        others = found.get(span.span_id, ())
        if others and (place is None or others[0].place is None):
            raise ConfigurationError(
                f"{text!r} and {others[0].text!r} are the same response ({span.name}, {span.span_id}): give all of "
                f"it once, or places in it"
            )
        found[span.span_id] = (*others, Response(value, reference, place))
    return found


def _checked(changes: Changes, replay: Replay, trace: Trace) -> None:
    """Refuse, before anything runs, what cannot stand for a recorded response."""
    for span in trace:
        if span.span_id in changes.responses:
            with replay.loading():
                changes.response(span.span_id, _recorded(span, changes.responses[span.span_id]))


def _recorded(span: Span, others: tuple[Response, ...]) -> Answer:
    try:
        return outcomes.answer(span.outcome, span.attributes) if span.outcome is not None else Answer()
    except UnservableOutcome:
        if any(each.place is not None for each in others):
            raise
        return Answer()  # what is given whole may stand for what was not recorded


def _split(trace: Trace, text: str) -> tuple[str, places.Place | None]:
    """Split ``llm[2].choices[0]`` into the call and the place in its response; ``llm.choices`` where it is one call."""
    call, bracket, rest = text.partition("]")
    call += bracket
    if not bracket:
        names = [text[:at] for at in range(len(text), 0, -1) if text[at : at + 1] in {"", "."}]
        call = next((each for each in names if positions.is_known(trace, each)), text)
        rest = text[len(call) :]
    if not rest.strip():
        return call, None
    place = places.parse(f"response{rest}")
    return call, dataclasses.replace(place, text=text, root=call)


# --- a position ------------------------------------------------------------------------------------------------------


class Reached(BaseException):
    """Ends a replay at the call that was looked for. No `Exception`: it must not be swallowed."""


class ReachingReplay(Replay):
    """Replays up to a recorded call, and keeps the agent as it is at its beginning (see `Replay`).

    Args:
        *args: see `Replay`.
        target: the id of the recorded call.
        **options: see `Replay`.
    """

    def __init__(self, *args: Any, target: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._target = target
        self.agent: Any = None
        self.found: states.AgentState | None = None

    def begin(self, *call: Any) -> run.OpenCall:
        """Answer a call, or let it run again, up to the one that is looked for (see `Replay.begin`)."""
        if self.found is not None:
            raise Reached
        return super().begin(*call)

    def comes_to(self, span: Span) -> None:
        """Stop where the call is come to (see `Replay.comes_to`)."""
        if span.span_id == self._target:
            with run.suspended():
                self.found = states.take(self.agent)
            raise Reached


MOST_LOOKED_AT = 20
"""Checkpoints near a position that are loaded to find one that it can be come to from."""


def reached(engine: ReplayEngine, position: str) -> Any:
    """Return the agent at a position (see `ReplayEngine.at`)."""
    target = positions.find(engine._whole, position)
    own = _nearest(engine._checkpoint, engine._whole, target)
    engine = engine if own is engine._checkpoint else engine._of(own)
    if not own.agent_class_name:
        raise TargetError(f"checkpoint {own.checkpoint_id} is of the function {own.agent_name} and holds no agent")

    def make(*args: Any, **options: Any) -> ReachingReplay:
        return ReachingReplay(*args, target=target.span_id, **options)

    with engine._prepared(None, (), {}, make) as (replay, call):
        engine._infer(replay, call)
        replay.agent = engine._agent
        with staged(own, replay, everywhere=engine._everywhere):
            try:
                engine._driven(replay, call)
            except BaseException as error:  # the way there may end in any way once it has been gone
                if replay.found is None and (replay.refusal is not None or not isinstance(error, Exception)):
                    raise
        if replay.found is None:
            raise TargetError(
                f"the replay ended without coming to {position} ({target.name}, {target.span_id}): the code takes "
                f"another way today, or the call was made outside of {own.span.name}"
            )
        with engine._restoring(engine._replay(Replay)):
            return states.restore(type(engine._agent), replay.found)


def _nearest(own: Checkpoint, whole: Trace, target: Span) -> Checkpoint:
    """Return the checkpoint from which the way to a call is shortest: of the innermost saved call around it."""
    if own.path is None:
        return own
    around, started = set[str](), {span.span_id: span for span in whole}
    above: Span | None = target
    while above is not None:
        around.add(above.span_id)
        above = started.get(above.parent_id or "")
    infos = listed(Wanted(trace=whole.trace_id), [own.path.parent]).found
    infos.sort(key=lambda info: abs(info.created_ns - target.start_ns))
    best = own
    for info in infos[:MOST_LOOKED_AT]:
        found = loading.load(info.path, info.step)
        is_better = found.span_id in around and found.timestamp > best.timestamp and found.call is not None
        if is_better and found.agent_name == own.agent_name and not found.untrusted:
            best = found
    return best
