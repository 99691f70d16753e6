"""A recording in today's names: what was called otherwise when it was made (see `clearstone.codec.renames`).

Idea: what names code as text (sites, the agent's class, types of exceptions, fingerprints) is rewritten once, before
the replay begins, so that everything after it compares like with like. What names it in pickles is found when that is
loaded.

Invariant: ids, times and payloads stay as they were recorded, and what no rule names is the same object.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clearstone.codec.renames import HOW, names_of
from clearstone.errors import TargetError
from clearstone.nearest import nearest
from clearstone.span import Trace

if TYPE_CHECKING:
    from types import ModuleType

    from clearstone.checkpoint.model import Checkpoint, TakenCall
    from clearstone.codec.renames import Renames, Rule
    from clearstone.replay.source import Source
    from clearstone.span import Failure, Outcome, Span


def names_in(checkpoint: Checkpoint, trace: Trace) -> list[str]:
    """Return the names of code that stand in a recording as text, ``module:qualname``."""
    agent = f"{checkpoint.agent_module}:{checkpoint.agent_class_name}"
    methods = [f"{agent}.{each.method}" for each in checkpoint.earlier]
    if checkpoint.call is not None:
        methods += [checkpoint.call.site, f"{agent}.{checkpoint.call.method}"]
    return [agent, *methods, *(span.site for span in trace), *(each.name for each in checkpoint.code)]


def checkpoint_of(checkpoint: Checkpoint, renames: Renames) -> Checkpoint:
    """Return a checkpoint in today's names; its trace is left to `trace_of`."""
    if not renames.rules:
        return checkpoint
    agent = f"{checkpoint.agent_module}:{checkpoint.agent_class_name}"
    module, _, name = renames.key(agent).partition(":")
    failure = checkpoint.failure
    return replace(
        checkpoint,
        agent_module=module,
        agent_class_name=name,
        call=_call(checkpoint, agent, renames),
        earlier=tuple(replace(each, method=_method(each.method, agent, renames)) for each in checkpoint.earlier),
        failure=_failure(failure, renames) if failure is not None else None,
        code=tuple(replace(each, name=renames.key(each.name)) for each in checkpoint.code),
        environment=replace(checkpoint.environment, main_module=renames.key(checkpoint.environment.main_module)),
    )


def _call(checkpoint: Checkpoint, agent: str, renames: Renames) -> TakenCall | None:
    call = checkpoint.call
    if call is None:
        return None
    site = renames.key(call.site)
    method = _method(call.method, agent, renames)
    if method == call.method and site != call.site and call.site.endswith(f".{method}"):  # of a base class
        method = site.rpartition(".")[2]
    return replace(call, site=site, method=method)


def _method(name: str, agent: str, renames: Renames) -> str:
    return renames.key(f"{agent}.{name}").rpartition(".")[2] if name else ""


def trace_of(trace: Trace, renames: Renames) -> Trace:
    """Return a trace in today's names."""
    return Trace(trace.trace_id, tuple(_span(span, renames) for span in trace)) if renames.rules else trace


def _span(span: Span, renames: Renames) -> Span:
    site, outcome = renames.key(span.site), _outcome(span.outcome, renames)
    return span if site == span.site and outcome is span.outcome else replace(span, site=site, outcome=outcome)


def _outcome(outcome: Outcome | None, renames: Renames) -> Outcome | None:
    if outcome is None or outcome.failure is None:
        return outcome
    failure = _failure(outcome.failure, renames)
    return outcome if failure is outcome.failure else replace(outcome, failure=failure)


def _failure(failure: Failure, renames: Renames) -> Failure:
    name = renames.dotted(failure.type_name)
    return failure if name == failure.type_name else replace(failure, type_name=name)


# --- whether it is there ---------------------------------------------------------------------------------------------


def require_there(renames: Renames, source: Source) -> None:
    """Make sure that what things are said to be called today is there.

    Raises:
        TargetError: a module is not, or what is in it; names the nearest.
    """
    for rule in renames.rules:
        module, _, qualname = rule.new.partition(":")
        try:
            found = source.module(module)
        except ImportError as error:
            raise TargetError(
                f"{rule.written!r}: the module {module!r} cannot be imported here ({error}); {source.near(module)}. "
                f"What is in a module is named with a colon: {HOW}"
            ) from error
        _require_in(rule, found, qualname)


def _require_in(rule: Rule, module: ModuleType, qualname: str) -> None:
    owner: Any = module
    for part in qualname.split(".") if qualname else ():
        found = getattr(owner, part, None)
        if found is None and isinstance(owner, type):
            return  # an attribute that its instances get
        if found is None:
            raise TargetError(
                f"{rule.written!r}: {module.__name__} has no {qualname!r}; {nearest(part, names_of(owner))}"
            )
        owner = found
