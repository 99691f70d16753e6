"""`Checkpoint`: the agent's state at one position of a trace, with the call in progress and the trace so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from clearstone.checkpoint import state as states
from clearstone.errors import CheckpointError, UntrustedCheckpointError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator
    from pathlib import Path

    from clearstone.checkpoint.environment import Environment
    from clearstone.checkpoint.fingerprints import Fingerprint
    from clearstone.checkpoint.frames import Frame
    from clearstone.checkpoint.missing import MissingMember
    from clearstone.checkpoint.state import AgentState
    from clearstone.checkpoint.timeline import Reading
    from clearstone.codec.difference import Difference
    from clearstone.span import Failure, Payload, Span, Trace


Moment = Literal["failure", "exit", "entry", "made", "unfinished", "signal"]


@dataclass(frozen=True, slots=True)
class TakenCall:
    """The call an automatic checkpoint was taken of.

    Args:
        site: ``module:qualname`` of the decorated callable.
        method: the method's name, if the call was bound to an agent; else empty.
        input: the arguments, as ``(args, kwargs)``.
    """

    site: str
    method: str
    input: Payload


@dataclass(frozen=True, slots=True)
class EarlierCall:
    """A call between a state and the call a checkpoint is of: a replay makes it again first.

    Args:
        method: the agent's method.
        input: the arguments, as ``(args, kwargs)``.
        trace_id: its trace, often another one than the checkpoint's.
        span_id: its span.
    """

    method: str
    input: Payload
    trace_id: str
    span_id: str


@dataclass(frozen=True)
class Checkpoint:
    """An agent's state at one position of a trace.

    Everything but `metadata` is as it was when the checkpoint was taken. Made by `CheckpointManager.create_checkpoint`,
    and by itself when an exception leaves a ``@checkpointable`` call.

    Args:
        checkpoint_id: ``ckpt_`` and hex digits.
        trace: the spans up to that point.
        span_id: the span it was taken at.
        timestamp: when the state was taken (aware, UTC); a replay's clock starts here.
        created_ns: when the checkpoint was made, nanoseconds since the epoch; later than `timestamp` where the state
            is from a call's entry and the checkpoint from its failure.
        version: the tracer's version.
        agent_class_name: the class's qualified name; empty for a function.
        agent_module: its module.
        agent_class: the class, pickled: by name, or with its code where it cannot be imported.
        state: the agent's state, serialised.
        environment: the process it was taken in.
        metadata: yours to fill, saved with the checkpoint.
        call: the call it was taken of, if it was not made by hand.
        failure: the exception that left it, if one did.
        state_at_end: the agent's state when the call had ended; None before that.
        moment: ``"failure"``, ``"exit"`` or ``"entry"`` of the call, ``"unfinished"`` for one that has not ended (its
            process was killed, or still runs), ``"signal"`` for one that a signal interrupted: `state` is the one at
            its entry. ``"made"`` for one made by hand.
        random_state: ``random.getstate()`` at `timestamp`.
        occurrences: how many times this failure (same type, same line) has been seen in this folder.
        stack: the frames the exception went through, with their local variables as texts.
        earlier: the calls on the agent between `state` and `call`, where the time budget left no room for a snapshot at
            the entry of `call`.
        code: what the agent's class and the recorded functions were, with their source.
        holds_code: whether anything in it is code stored by value, which only the same Python can run.
        untrusted: why nothing of it may be loaded, as a sentence; empty where it may.
        path: the file it was loaded from; None for one that was made here.
    """

    checkpoint_id: str
    trace: Trace
    span_id: str
    timestamp: dt.datetime
    created_ns: int
    version: str
    agent_class_name: str
    agent_module: str
    agent_class: Payload | None = field(repr=False)
    state: AgentState = field(repr=False)
    environment: Environment = field(repr=False)
    metadata: dict[str, Any] = field(default_factory=dict)
    call: TakenCall | None = None
    failure: Failure | None = None
    state_at_end: AgentState | None = field(default=None, repr=False)
    random_state: tuple[Any, ...] | None = field(default=None, repr=False)
    occurrences: int = 1
    moment: Moment = "made"
    stack: tuple[Frame, ...] = field(default=(), repr=False)
    earlier: tuple[EarlierCall, ...] = field(default=(), repr=False)
    code: tuple[Fingerprint, ...] = field(default=(), repr=False)
    holds_code: bool = field(default=True, repr=False, compare=False)
    untrusted: str = field(default="", repr=False)
    path: Path | None = field(default=None, repr=False, compare=False)

    @property
    def span(self) -> Span:
        """The span it was taken at."""
        span = self.trace.span(self.span_id)
        if span is None:
            raise CheckpointError(f"checkpoint {self.checkpoint_id} does not hold its own span {self.span_id}")
        return span

    @property
    def agent_name(self) -> str:
        """``module.Class`` of the agent, or ``module.function`` of a decorated function."""
        if self.agent_class_name:
            return f"{self.agent_module}.{self.agent_class_name}"
        return self.call.site.replace(":", ".", 1) if self.call is not None else self.agent_module

    @cached_property
    def agent_state(self) -> dict[str, Any]:
        """The state as a dict, loaded when first asked for. Loading runs code: only for checkpoints you trust.

        Raises:
            UntrustedCheckpointError: nobody this machine trusts has signed it.
            CheckpointError: it was taken by another Python, or does not load today.
        """
        self.require_loadable()
        return states.load_values(self.state, f"<the agent {self.agent_name}>")

    @property
    def missing(self) -> tuple[MissingMember, ...]:
        """What of the state was not saved: what does not pickle, secrets, and what the class excludes."""
        return self.state.missing

    @property
    def concurrent(self) -> tuple[str, ...]:
        """Who may have changed the state while it was taken: names of calls on the same agent that were at work."""
        return self.state.concurrent

    def payloads(self) -> Iterator[Payload]:
        """Give every value it holds besides its states: a replay may load any of them."""
        call, failure = self.call, self.failure
        inputs = (each.input for each in self.earlier)
        held = (self.agent_class, call.input if call else None, failure.value if failure else None, *inputs)
        yield from (each for each in held if each is not None)
        for span in self.trace:
            yield from span.payloads()

    def diff(self, other: Checkpoint | None = None) -> tuple[Difference, ...]:
        """Compare the state with another's, by path; nothing of either is loaded.

        Args:
            other: what it is compared with; None for this checkpoint's own state at the end of its call.

        Raises:
            CheckpointError: `other` is None, and there is no state at an end.
        """
        from clearstone.checkpoint.joining import looked_at
        from clearstone.codec.difference import differences

        after = other.state if other is not None else self.state_at_end
        if after is None:
            raise CheckpointError(
                f"checkpoint {self.checkpoint_id} holds one state; name another checkpoint to compare it with"
            )
        # as attributes of the agent, not as entries of a dict
        one, two = (looked_at(each.snapshot) for each in (self.state, after))
        return tuple(differences(_as_agent(one), _as_agent(two), "self"))

    def timeline(self, expression: str) -> tuple[Reading, ...]:
        """Evaluate an expression such as ``len(self.memory)`` at every checkpoint of this one's trace.

        Args:
            expression: Python; ``self`` is the agent as it was, restored from its stored class. It runs your code.

        Returns:
            A reading for each state in the checkpoint's folder, oldest first. What the expression raises, or a state
            that does not load or is not trusted, is the error of that reading.

        Raises:
            ConfigurationError: `expression` is none; says where.
            UntrustedCheckpointError: nobody this machine trusts has signed this checkpoint.
            CheckpointError: it was not loaded from a file, or was taken by another Python.
        """
        from clearstone.checkpoint import timeline

        return timeline.readings(self, expression)

    def of_plain_data(self) -> Checkpoint:
        """Return the checkpoint with nothing but plain data in it: for another Python than it was taken on.

        Of the state, values of builtin types are left; each object in it is missing, as if it did not pickle
        (``rebuild=`` and ``on_restore`` bring it back). Values of the trace that hold code are not there to be served.
        """
        from clearstone.checkpoint.plain import of_plain_data

        return of_plain_data(self)

    def require_loadable(self) -> None:
        """Refuse to load what nobody trusted wrote, and code of another Python: its bytecode would crash this one.

        Raises:
            UntrustedCheckpointError: nobody this machine trusts has signed it.
            CheckpointError: the minor versions differ, and it holds code.
        """
        import platform  # its expressions take a while to compile

        if self.untrusted:
            raise UntrustedCheckpointError(self.untrusted)
        here = platform.python_version()
        if self.holds_code and self.environment.python_minor != here.rpartition(".")[0]:
            raise CheckpointError(
                f"checkpoint {self.checkpoint_id} was taken on Python {self.environment.python}, this is "
                f"{here}: stored code does not load across minor versions. Replay it with python"
                f"{self.environment.python_minor}, or what is plain data with '--state-only data' "
                f"(Checkpoint.of_plain_data); 'clearstone inspect' works here."
            )


def _as_agent(state: Any) -> Any:
    """Return a state's dict as the agent that has it, so that a path says ``self.name``."""
    from clearstone.codec.nodes import Name, Object

    if not isinstance(state, dict):
        return state  # no state at all, shown as what it is
    return Object(Name("builtins", "object"), (), origin="created", states=[state])
