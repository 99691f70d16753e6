"""Which provider is the default one: the one that `configure` gave, or one made on first use; also in child processes.

Idea: `import clearstone` needs this file and not the recorder, which is loaded by the first decorator, `configure` or
provider: programs that only import the package do not wait for it.

Invariant: a default provider that cannot be made (its folder cannot be, or the file is a newer version's or another
program's) is said once, and decorated calls then pass through. A call in a child process is recorded where its parent
records, by the parent's rules.
"""

from __future__ import annotations

import atexit
import os
import threading
from functools import partial
from typing import TYPE_CHECKING

from clearstone import home, notice, processes, run, threads
from clearstone.errors import ConfigurationError
from clearstone.record import faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from clearstone.codec.redact import Rules
    from clearstone.record.ancestry import RemoteSpan
    from clearstone.record.inheritance import Inheritance
    from clearstone.record.provider import TracerProvider

_default_lock = threading.RLock()  # reentrant: a signal handler may ask too
_default: TracerProvider | None = None
_default_failed = False


def _new_lock_in_child() -> None:
    global _default_lock  # noqa: PLW0603 - one process, one lock: the parent's may be another thread's
    _default_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock_in_child)


def configure(
    *,
    home: str | os.PathLike[str] | None = None,
    db_path: str | os.PathLike[str] | None = None,
    provider: TracerProvider | None = None,
    redact: Callable[[str], str] | bool | None = None,
    redact_keys: Iterable[str] | None = None,
    redact_keep: Iterable[str] | None = None,
    signals: Iterable[str] | None = None,
    record: Iterable[str] | str = (),
) -> TracerProvider:
    """Set where decorated calls are recorded that name no tracer and run in no open span.

    Args:
        home: the folder for traces and checkpoints, instead of ``.clearstone``.
        db_path: the trace database, instead of ``traces.db`` in that folder.
        provider: a provider of your own, instead of one made from the two.
        redact: what becomes of secrets in everything this process records from now on: True replaces what the built-in
            rules find (docs/redaction.md), False nothing; a function is called with every text that is left, and
            returns the text to record. None, here and in the next two, leaves it as it is.
        redact_keys: further names whose values are secrets, such as ``"badge_number"``.
        redact_keep: names, or paths of names such as ``"config.session_token"``, whose values are recorded all the
            same.
        signals: names of signals, such as ``("SIGTERM", "SIGUSR1")``: when one comes, a checkpoint is saved of every
            ``@checkpointable`` call that runs, and the signal then does what it did before; ``SIGUSR1`` does nothing
            else. Only in the main thread.
        record: what of it is kept that decorated calls draw by chance or from clocks, so that a replay has the same:
            any of ``"random"``, ``"uuid"`` and ``"time"`` (docs/replay.md). Of a `provider` that is given it is that
            one's own, ``TracerProvider(record=...)``.

    Returns:
        The default provider from now on. An earlier default is flushed.

    Raises:
        StoreError: the trace database cannot be used.
        ConfigurationError: `redact_keys` or `redact_keep` hold no names, `signals` no signals, or `record` names
            something else, or is given beside a `provider`.
    """
    from clearstone.codec import redact as redaction
    from clearstone.record.provider import TracerProvider

    global _default, _default_failed
    if provider is not None and not isinstance(provider, TracerProvider):
        raise ConfigurationError(f"provider={provider!r} is no TracerProvider; give one, or db_path= or home=")
    if provider is not None and record:
        raise ConfigurationError(
            f"record={record!r} is for a provider made here: TracerProvider(..., record={record!r})"
        )
    rules = _rules(redact, redact_keys, redact_keep)
    if home is not None:
        _set_home(home)
    chosen = provider if provider is not None else TracerProvider(db_path, record=record)
    if signals is not None:
        from clearstone.checkpoint.signals import follow

        follow(signals)
    redaction.use(rules)
    with _default_lock:
        if _default is None:
            atexit.register(_say_nothing_was_recorded)
        earlier, _default, _default_failed = _default, chosen, False
        run.usual = chosen.recording
    if earlier is not None and earlier is not chosen:
        earlier.shutdown()
    return chosen


def default_provider(payload_limit: int | None = None) -> TracerProvider | None:
    """Return the default provider, made on first use; None if it cannot be made, which is said once.

    Args:
        payload_limit: what it is made with, if it is made now; None for `TracerProvider`'s own.
    """
    if _default is None and not _default_failed:
        with _default_lock:
            _make_default(payload_limit)
    return _default


def _make_default(payload_limit: int | None) -> None:
    global _default, _default_failed  # noqa: PLW0603 - one process, one default
    if _default is not None or _default_failed:
        return  # another thread was faster
    try:
        with run.suspended():  # what it calls may be instrumented
            _default = _opened(None, payload_limit)
            run.usual = _default.recording
    except Exception as error:  # the user's call goes on whatever it is
        _default_failed = True
        faults.report("opening the default trace database", error)


def _opened(database: Path | None, payload_limit: int | None) -> TracerProvider:
    from clearstone.record.provider import TracerProvider

    return TracerProvider(database) if payload_limit is None else TracerProvider(database, payload_limit=payload_limit)


_below_others: dict[Path, TracerProvider] = {}
"""Of a child process: the providers of databases that spans of its parent are in."""


def adopted(trace: bytes, number: int, database: Path | None, folder: Path, inheritance: Inheritance) -> RemoteSpan:
    """Return a span of another process to be below. Named by pickles."""
    from clearstone.record.ancestry import RemoteSpan
    from clearstone.record.inheritance import follow

    home.follow(folder)
    follow(inheritance)
    threads.carry_into_threads()
    processes.carry_into_processes()
    ticket = partial(adopted, trace, number, database, folder, inheritance)
    return RemoteSpan(trace, number, partial(_recording_into, database, inheritance.payload_limit), ticket)


def _recording_into(database: Path | None, payload_limit: int) -> run.Run:
    provider = _below_others.get(database) if database is not None else default_provider(payload_limit)
    try:
        provider = provider or _provider_of(database, payload_limit)
    except Exception as error:  # the user's call goes on whatever it is
        faults.report(f"opening {database} in a child process", error)
    return provider.recording if provider is not None else run.SUSPENDED


def _provider_of(database: Path | None, payload_limit: int) -> TracerProvider | None:
    with _default_lock:
        default = default_provider(payload_limit) if database == home.trace_file() else _default
        if database is None or (default is not None and default.database == database):
            return default
        known = _below_others.get(database) or _opened(database, payload_limit)
        return _below_others.setdefault(database, known)


def _say_nothing_was_recorded() -> None:
    """A program that asked for records and has none is told so; a replay or a child process has none on purpose."""
    from clearstone.record.journal import Journal

    if processes.is_child() or run.was_overridden() or run.is_disabled():
        return
    if _default is not None and not Journal.any_begun:
        notice.say("this run recorded no call: is anything decorated with @traced or @checkpointable called in it?")


def _rules(
    redact: Callable[[str], str] | bool | None, keys: Iterable[str] | None, keep: Iterable[str] | None
) -> Rules | None:
    from clearstone.codec import redact as redaction

    now = redaction.active().rules
    if redact is None and keys is None and keep is None:
        return now
    if redact is False:
        return None
    now = now or redaction.Rules()
    function = now.function if redact is None else None if redact is True else redact
    return redaction.Rules(
        now.keys if keys is None else keys,  # type: ignore[arg-type]  # it makes tuples of them
        now.keep if keep is None else keep,  # type: ignore[arg-type]
        function,
    )


def _set_home(folder: str | os.PathLike[str]) -> None:
    home.set_home(folder)
