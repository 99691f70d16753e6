"""A mock configuration put to work: from span types and dotted paths to stand-ins and their recorded responses."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from clearstone import run
from clearstone.errors import ConfigurationError, TargetError
from clearstone.replay import outcomes, targets
from clearstone.replay.match import Served
from clearstone.replay.written import Response, Responses, WrittenBook
from clearstone.run import Answer, BoundCall, site_of
from clearstone.span import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import ModuleType

    from clearstone.replay.engine import Replay
    from clearstone.replay.match import Made
    from clearstone.replay.targets import Target
    from clearstone.span import Span, Trace


@dataclass(frozen=True, slots=True)
class Mock:
    """One mocked target.

    Args:
        span_type: whose outcomes it serves; empty where values were given instead.
        path: the target as it was written.
        target: where it is; None for a decorated function that no path reaches.
        responses: what it answers.
    """

    span_type: str
    path: str
    target: Target | None
    responses: Responses

    @property
    def names(self) -> set[str]:
        """Every dotted name under which a decorated call may turn out to be this target."""
        if self.target is None:
            return {self.path}
        site = site_of(self.target.original)
        return {self.path, self.target.understood} | ({site.target} if site is not None else set())


def from_config(
    config: Mapping[str, str | Sequence[str]],
    trace: Trace,
    import_module: Callable[[str], ModuleType],
    today: Callable[[str], str] = str,
) -> list[Mock]:
    """Return the mocks of a written configuration.

    A target serves the outcomes of its type in the order they started; where spans of the type carry the target's own
    site, only those. Targets of one type without spans of their own share the outcomes.

    Args:
        config: span type to dotted path, or to several.
        trace: where the outcomes are.
        import_module: how to import a module by name.
        today: what a path that names something by another name is today.

    Raises:
        ConfigurationError: the configuration has another shape.
        TargetError: a target does not exist.
    """
    mocks, checked = [], {key: [today(path) for path in paths] for key, paths in _checked(config).items()}
    resolved = {path: _resolved(path, trace, import_module) for paths in checked.values() for path in paths}
    mocked = {name for path, target in resolved.items() for name in Mock("", path, target, Responses(())).names}
    inside = _inside(trace, mocked)
    for span_type, paths in checked.items():
        spans = [span for span in outcomes.of_type(trace, span_type) if span.span_id not in inside]
        shared = _responses(spans)
        for path in paths:
            target = resolved[path]
            names = Mock(span_type, path, target, shared).names
            own = [span for span in spans if span.site.replace(":", ".", 1) in names]
            mocks.append(Mock(span_type, path, target, _responses(own) if own else shared))
    return mocks


def from_values(values: Mapping[str, Sequence[Any]], import_module: Callable[[str], ModuleType]) -> list[Mock]:
    """Return mocks that give the listed values in order; an exception among them is raised.

    Args:
        values: dotted path to values.
        import_module: how to import a module by name.

    Raises:
        TargetError: a target does not exist.
    """
    return [
        Mock(
            "",
            path,
            targets.resolve(path, import_module),
            Responses([Response(partial(_given, one)) for one in listed]),
        )
        for path, listed in values.items()
    ]


@contextlib.contextmanager
def installed(mocks: Sequence[Mock], replay: Replay, *, strict: bool = False) -> Iterator[None]:
    """Answer every mocked target from its responses, for the ``with`` block.

    Args:
        mocks: the targets.
        replay: what they are answered in.
        strict: see `WrittenBook`.
    """
    replay.book = WrittenBook({name: mock.responses for mock in mocks for name in mock.names}, strict=strict)
    with contextlib.ExitStack() as stack:
        for mock in mocks:
            if mock.target is not None:
                stack.enter_context(targets.replaced(mock.target, partial(_respond, replay, mock)))
        yield


def _respond(replay: Replay, mock: Mock, *args: Any, **kwargs: Any) -> Answer | None:
    if run.override.get() is not replay:
        return None  # another thread or task: it is not replayed
    target = mock.target
    site = site_of(target.original) if target is not None else None
    if target is not None and site is not None:  # its decorator is behind the stand-in
        if isinstance(target.owner, type) and not isinstance(target.original, staticmethod | classmethod):
            return replay.serve(BoundCall(site, args[0], args[1:], kwargs))
        return replay.serve(BoundCall(site, None, args, kwargs))
    made = replay.made(BoundCall(Site(mock.path, mock.path, mock.span_type, "serve"), None, args, kwargs))
    return replay.answered(made, partial(_next, mock), lambda _: mock.responses.attempted())


def _next(mock: Mock, _: Made) -> Served:
    response = mock.responses.take(mock.path)
    return Served(response.produce(), response.span, "reused by order")


def _inside(trace: Trace, mocked: set[str]) -> set[str]:
    """Return the ids of calls that were made in one that is mocked itself: a replay does not come to them."""
    around = {span.span_id for span in trace if span.site.replace(":", ".", 1) in mocked}
    found: set[str] = set()
    for span in trace:  # a parent starts before its children
        if span.parent_id in around or span.parent_id in found:
            found.add(span.span_id)
    return found


def _given(value: Any) -> Answer:
    return Answer(error=value) if isinstance(value, BaseException) else Answer(value)


def _responses(spans: Sequence[Span]) -> Responses:
    return Responses(
        [Response(partial(outcomes.answer, span.outcome, span.attributes), span) for span in spans if span.outcome]
    )


def _resolved(path: str, trace: Trace, import_module: Callable[[str], ModuleType]) -> Target | None:
    if "<locals>" in path:
        if any(span.site.replace(":", ".", 1) == path for span in trace):
            return None  # decorated inside a function: reached through its decorator alone
        raise TargetError(f"the mock target {path!r} is defined inside a function, where no path reaches it")
    return targets.resolve(path, import_module)


def _checked(config: Any) -> dict[str, list[str]]:
    try:
        checked = {key: [value] if isinstance(value, str) else list(value) for key, value in dict(config).items()}
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"mock_config is {config!r}; it must map span types to targets, as in {{'llm': 'my_app.llm.invoke'}}"
        ) from None
    for span_type, paths in checked.items():
        if not isinstance(span_type, str) or not all(isinstance(path, str) for path in paths):
            raise ConfigurationError(f"mock_config[{span_type!r}] is {paths!r}; it must be a dotted path, or several")
    return checked
