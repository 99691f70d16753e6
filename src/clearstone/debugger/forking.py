"""Forks and positions of one checkpoint's replay: what `ReplayEngine.fork` and `ReplayEngine.at` do.

Idea: both are the replay that the engine makes anyway, by another Run: one that changes something on its way
(`clearstone.whatif`), one that stops at a call and keeps the agent as it was there.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from clearstone import run, whatif
from clearstone.checkpoint import loading
from clearstone.checkpoint import state as states
from clearstone.checkpoint.listing import Wanted, listed
from clearstone.codec.redact import active
from clearstone.errors import ConfigurationError, TargetError, UnservableOutcome
from clearstone.nearest import nearest
from clearstone.record.default import default_provider
from clearstone.record.live_span import LiveSpan
from clearstone.replay import outcomes, places, positions
from clearstone.replay.determinism import staged
from clearstone.replay.engine import Replay
from clearstone.run import Answer
from clearstone.span import FORK_PARENT
from clearstone.whatif import Fork, ForkedReplay, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.debugger.calls import Call
    from clearstone.debugger.session import ReplayEngine
    from clearstone.record.provider import TracerProvider
    from clearstone.span import Span, Trace
    from clearstone.whatif import Changes


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
    tracer = provider.get_tracer()
    parent = engine._whole.trace_id
    root = LiveSpan(tracer, active().text(name or f"fork of {parent[:8]}"))
    root.set_attributes({FORK_PARENT: parent, whatif.CHECKPOINT: engine._checkpoint.checkpoint_id})
    root.set_attributes({whatif.THEN: changes.then, **({whatif.AT: changes.at} if changes.at else {})})
    result = error = None

    def make(*args: Any, **options: Any) -> ForkedReplay:
        return ForkedReplay(*args, recording=tracer.recording, changes=changes, **options)

    with engine._prepared(function, (), {}, make) as (replay, recorded):
        call = _with_arguments(recorded, arguments)
        engine._infer(replay, call)
        replay.book = replay.with_responses(replay.book)
        _checked(changes, replay, engine._trace)
        replay.agent = engine._agent
        replay.told += [f"the argument {each}" for each in arguments]
        if not changes.at:
            replay.change_state()
        with staged(engine._checkpoint, replay, everywhere=engine._everywhere):
            try:
                with root:
                    if changes.then == "live" and (changes.arguments or (changes.state is not None and not changes.at)):
                        replay.go_live()
                    try:
                        result = engine._driven(replay, call)
                    finally:
                        root.set_attribute(whatif.CHANGES, replay.told)
            except Exception as raised:
                error = raised
    provider.flush()
    whole = engine._whole
    notes = (
        *engine.notes,
        *(_not_come_to(each, whole) for each in whole if each.span_id in replay.awaited),
    )
    return Fork(
        root.name, root.trace_id, parent, result, error, tuple(replay.told), engine.ledger, engine._agent, notes
    )


def _not_come_to(span: Span, whole: Trace) -> str:
    at = positions.positions(whole)[span.span_id]
    return f"The fork did not come to {at} ({span.name}): what was to be changed there is as it was."


def _with_arguments(call: Call, given: Mapping[str, Any]) -> Call:
    """Return a call with some of its arguments changed, by name.

    Raises:
        ConfigurationError: the function takes no such argument.
    """
    if not given:
        return call
    bound = inspect.signature(call.function).bind(*call.args, **call.kwargs)
    parameters = bound.signature.parameters
    more = next((each.name for each in parameters.values() if each.kind is each.VAR_KEYWORD), None)
    for name, value in given.items():
        parameter = parameters.get(name)
        if parameter is not None and parameter.kind is not parameter.VAR_KEYWORD:
            bound.arguments[name] = value
        elif more is not None:
            bound.arguments[more] = {**bound.arguments.get(more, {}), name: value}
        else:
            raise ConfigurationError(
                f"{call.function.__qualname__} takes no argument {name!r}; {nearest(name, parameters)}"
            )
    ordered = {each: bound.arguments[each] for each in parameters if each in bound.arguments}
    bound.arguments.clear()
    bound.arguments.update(ordered)
    return dataclasses.replace(call, args=bound.args, kwargs=bound.kwargs)


def state_change(given: Mapping[str, Any] | Callable[[Any], object] | None) -> Callable[[Any], Iterable[str]] | None:
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

        return by_function
    found = [(_of_agent(text), value) for text, value in given.items()]
    return lambda agent: [place.put(agent, value) for place, value in found]


def _of_agent(text: str) -> places.Place:
    place = places.parse(text)
    if place.root != "self":
        place = places.parse(f"self.{text.strip()}")
    if not place.steps:
        raise ConfigurationError(f"{text!r} is the whole agent; name an attribute of it: self.limit")
    return place


def responses(trace: Trace, whole: Trace, given: Mapping[str, Any]) -> dict[str, Response]:
    """Return changed responses by the ids of their recorded calls.

    Args:
        trace: the calls that the replay may be given.
        whole: the trace they are of.
        given: references, each with or without a place in the response, and what is to be there.

    Raises:
        TargetError: a reference names no outside call, or several.
        ConfigurationError: a place is none.
    """
    found: dict[str, Response] = {}
    for text, value in given.items():
        reference, place = _split(text)
        span = positions.find_response(trace, whole, reference)
        of = value if isinstance(value, Response) else Response(value)
        found[span.span_id] = dataclasses.replace(of, name=reference, place=place)
    return found


def _checked(changes: Changes, replay: Replay, trace: Trace) -> None:
    """Refuse, before anything runs, what cannot stand for a recorded response."""
    for span in trace:
        response = changes.responses.get(span.span_id)
        if response is not None and not response.is_function and span.outcome is not None:
            with replay.loading():
                recorded = _recorded(span, response)
                response.given(recorded)


def _recorded(span: Span, response: Response) -> Answer:
    try:
        return outcomes.answer(span.outcome, span.attributes) if span.outcome is not None else Answer()
    except UnservableOutcome:
        if response.place is not None:
            raise
        return Answer()  # what is given whole may stand for what was not recorded


def _split(text: str) -> tuple[str, places.Place | None]:
    """Split ``llm[2].choices[0]`` into the call and the place in its response."""
    call, bracket, rest = text.partition("]")
    if not bracket or not rest.strip():
        return text, None
    place = places.parse(f"response{rest}")
    return f"{call}]", dataclasses.replace(place, text=text, root=f"{call}]")


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
            except (Reached, Exception):  # the way there may end in any way once it has been gone
                if replay.found is None and replay.refusal is not None:
                    raise
        if replay.found is None:
            raise TargetError(
                f"the replay ended without coming to {position} ({target.name}, {target.span_id}): the code takes "
                f"another way today, or the call was made outside of {own.span.name}"
            )
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


# --- values of the command line --------------------------------------------------------------------------------------


def like(recorded: Any, value: Any) -> Any:
    """Turn JSON into what stands for a recorded value: a model or dataclass of its type, from a dict.

    Raises:
        ConfigurationError: it cannot be made of it.
    """
    kind = type(recorded)
    if recorded is None or kind in _PLAIN or type(value) is kind:
        return value
    try:
        if hasattr(kind, "model_validate"):
            return kind.model_validate(value)
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            return kind(**value)
    except Exception as error:
        raise ConfigurationError(
            f"{value!r} is no {kind.__qualname__}, as was recorded: {type(error).__name__}: {error}"
        ) from None
    raise ConfigurationError(
        f"a {kind.__qualname__} was recorded, which JSON does not make; change a place in it "
        f"(llm[2].text=...), or give one in Python: engine.fork(respond={{...}})"
    )


_PLAIN = frozenset({str, int, float, bool, list, dict, tuple, bytes})
