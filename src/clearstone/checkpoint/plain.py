"""A checkpoint of which only plain data is left: what any Python can load, whatever wrote it.

Idea: the state is read without being loaded (`checkpoint.joining.looked_at`). Values of builtin types are the state;
each object among them is left out like a part that did not pickle, so that ``rebuild=`` and ``on_restore`` bring it
back. Values of the trace that hold code are left out too.

Invariant: no code that is stored in the checkpoint is run, or loaded. Sharing and cycles of what is left are kept.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.joining import AGENT, looked_at
from clearstone.checkpoint.missing import Missing, MissingMember
from clearstone.checkpoint.segments import Segmenter
from clearstone.checkpoint.snapshots import CODE
from clearstone.codec import payload, show
from clearstone.codec.nodes import LEAVES, Key, Name, Object
from clearstone.span import Trace

if TYPE_CHECKING:
    from clearstone.checkpoint.model import Checkpoint
    from clearstone.checkpoint.state import AgentState
    from clearstone.codec.nodes import Node
    from clearstone.span import Failure, Payload, Span

REASON = "it is no plain data, and only that was asked for"
DEEPEST = 100
"""What is in more containers than that is left out: going there would meet the recursion limit."""

MISSING = f"{Missing.__module__}:{Missing.__qualname__}"


def of_plain_data(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint without what any other Python could not load."""
    call, failure, at_end = checkpoint.call, checkpoint.failure, checkpoint.state_at_end
    spans = tuple(map(_of_span, checkpoint.trace))
    return replace(
        checkpoint,
        agent_class=_of_payload(checkpoint.agent_class),
        state=_of_state(checkpoint.state),
        state_at_end=_of_state(at_end) if at_end is not None else None,
        call=replace(call, input=_required(call.input)) if call is not None else None,
        failure=_of_failure(failure),
        earlier=tuple(replace(each, input=_required(each.input)) for each in checkpoint.earlier),
        trace=Trace(checkpoint.trace.trace_id, spans),
        holds_code=False,
    )


def _of_state(state: AgentState) -> AgentState:
    found = looked_at(state.snapshot)
    agent, reading = SimpleNamespace(), _Reading()
    reading.made[id(AGENT)] = agent
    values = {name: reading.value(each, f"self.{name}") for name, each in found.items()} if type(found) is dict else {}
    snapshot = Segmenter(cuts=False).snapshot(agent, values)
    known, own = {member.path for member in state.missing}, state.form == "methods"
    left_out = [replace(each, own_methods=own) for each in reading.missing if each.path not in known]
    return replace(state, snapshot=snapshot, missing=(*state.missing, *left_out))


class _Reading:
    """Nodes on their way to values.

    Attributes:
        made: values by the ids of their nodes.
        missing: what was left out.
    """

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.missing: list[MissingMember] = []
        self._depth = 0

    def value(self, node: Node, path: str) -> Any:
        """Return the value of a node, which is found at `path`."""
        if type(node) in LEAVES:
            return node
        if id(node) not in self.made:
            self._depth += 1
            self.made[id(node)] = self._made(node, path) if self._depth < DEEPEST else self._left_out(node, path)
            self._depth -= 1
        return self.made[id(node)]

    def _made(self, node: Any, path: str) -> Any:
        kind = type(node)
        if kind is list:
            values = self.made[id(node)] = []
            values.extend(self.value(each, f"{path}[{index}]") for index, each in enumerate(node))
            return values
        if kind is dict:
            pairs = self.made[id(node)] = {}
            for key, each in node.items():
                pairs.update(self._pair(key, each, path))
            return pairs
        if kind in {tuple, set, frozenset} and not any(type(each) is Key for each in node):
            return kind(self.value(each, f"{path}[{index}]") for index, each in enumerate(node))
        return self._left_out(node, path)

    def _pair(self, key: Node, each: Node, path: str) -> dict[Any, Any]:
        plain = self._key(key.value if type(key) is Key else key)
        if plain is not _NONE:
            return {plain: self.value(each, f"{path}[{payload.safe_repr(plain)}]")}
        self._left_out(key, f"{path}[...]")
        return {}

    def _key(self, key: Node) -> Any:
        """Return a key that is plain data; `_NONE` for any other."""
        if type(key) is tuple:
            parts = tuple(map(self._key, key))
            return _NONE if _NONE in parts else parts
        return key if type(key) in LEAVES and type(key) is not bytearray else _NONE

    def _left_out(self, node: Any, path: str) -> Missing:
        told = show.render(node)
        named = told.removeprefix("<").removesuffix(">").removesuffix(" object")
        member = _stored(node) or MissingMember(path, named, told, REASON)
        if member not in self.missing:
            self.missing.append(member)
        return Missing(member)


_NONE = object()


def _stored(node: Any) -> MissingMember | None:
    """Return what a stand-in that is in the state already says."""
    if type(node) is not Object or node.maker != Name(*MISSING.split(":")):
        return None
    (member,) = node.args if type(node.args) is tuple and len(node.args) == 1 else (None,)
    told = member.states[0] if type(member) is Object and len(member.states) == 1 else None
    if type(told) is list and len(told) == len(MissingMember.__slots__):
        return MissingMember(*told)
    return None


# --- the trace -------------------------------------------------------------------------------------------------------


def _of_payload(given: Payload | None) -> Payload | None:
    return given if given is None or CODE not in given.data else payload.stand_in(None, ValueError(REASON))


def _required(given: Payload) -> Payload:
    return _of_payload(given) or given


def _of_failure(failure: Failure | None) -> Failure | None:
    return replace(failure, value=_required(failure.value)) if failure is not None else None


def _of_span(span: Span) -> Span:
    outcome = span.outcome
    if outcome is not None:
        outcome = replace(
            outcome,
            value=_of_payload(outcome.value),
            failure=_of_failure(outcome.failure),
            chunks=tuple(replace(each, value=_required(each.value)) for each in outcome.chunks),
            effects=_of_payload(outcome.effects),
        )
    return replace(span, input=_of_payload(span.input), outcome=outcome)
