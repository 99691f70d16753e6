"""`DeterministicExecutionContext`: time, randomness and chosen functions as a checkpoint has them."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any, Self

from clearstone import nondet, run, threads
from clearstone.errors import ConfigurationError
from clearstone.replay import guard, mocks
from clearstone.replay.engine import Replay
from clearstone.replay.source import Source

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator, Mapping, Sequence

    from clearstone.checkpoint.model import Checkpoint


@contextlib.contextmanager
def staged(checkpoint: Checkpoint, replay: Replay, *, everywhere: bool = False) -> Iterator[None]:
    """Run the ``with`` block inside `replay`, at the checkpoint's time and with its randomness.

    Args:
        checkpoint: whose.
        replay: what decorated calls are sent to.
        everywhere: whether the guard holds in every context of the process.
    """
    threads.carry_into_threads()
    start_ns = _epoch_ns(checkpoint)
    seed = hashlib.blake2b(checkpoint.checkpoint_id.encode()).digest()
    with (
        nondet.deterministic(start_ns=start_ns, seed=seed, random_state=checkpoint.random_state) as clock,
        run.overriding(replay),
        threads.carrying_also(nondet.carried),
        guard.watching(replay.guard, everywhere=everywhere),
        run.being_usual(replay) if everywhere else contextlib.nullcontext(),
    ):
        replay.values.begin(checkpoint, clock)
        yield


class DeterministicExecutionContext:
    """Time, randomness and chosen functions as a checkpoint has them, for a ``with`` block.

    Inside, `time.time` and `datetime.datetime.now` give the checkpoint's timestamp until something sleeps (which
    returns at once and moves the clock); the functions of `random`, `uuid`, `secrets` and `os.urandom` give the same
    values each time; outside calls that no target names are refused.

    Args:
        checkpoint: whose time and random state.
        mock_targets: dotted path to the values its calls return, in order; an exception among them is raised. A call
            past the last raises `ReplayExhausted`, which is a `StopIteration`.

    Raises:
        ConfigurationError: `mock_targets` has another shape.
        TargetError: a target does not exist; names the nearest.
    """

    def __init__(self, checkpoint: Checkpoint, mock_targets: Mapping[str, Sequence[Any]] | None = None) -> None:
        self._checkpoint = checkpoint
        self._values = _checked(mock_targets or {})
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        source = Source(self._checkpoint)
        replay = Replay(source.loading)
        with contextlib.ExitStack() as stack:
            given = mocks.from_values(self._values, source.module)
            stack.enter_context(staged(self._checkpoint, replay))
            stack.enter_context(mocks.installed(given, replay))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def _checked(values: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    try:
        return {path: list(listed) for path, listed in dict(values).items()}
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"mock_targets is {values!r}; it must map dotted paths to lists of values, as in {{'my_app.llm.invoke': "
            f"['first', 'second']}}"
        ) from None


def _epoch_ns(checkpoint: Checkpoint) -> int:
    stamp = checkpoint.timestamp
    return int(stamp.timestamp()) * 10**9 + stamp.microsecond * 1000
