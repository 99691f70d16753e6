"""What a replay must not do behind its user's back: talk to the network, start a process; and what it does to files.

Idea: Python tells an audit hook of a connection, a look-up, a process or an open file before it happens (PEP 578). The
hook asks which replay the context is in, if any, and lets that one's guard decide. A connection that was made before
the replay raises no such event when it is used, so the methods of `socket.socket` and `ssl.SSLSocket` that send and
receive ask too.

Invariant: outside a replay nothing is refused: other threads, other tasks, and the event loop's own wake-up calls.

An audit hook cannot be removed and is asked at every event of the process, some hundred nanoseconds each: it is added
by the first replay. Stacks that are native do not ask Python (gRPC, libcurl, libpq, uvloop): `unseen` names those that
are loaded.

Refused: a hook in every process that imports Clearstone (a program that records pays nothing for replays); replacing
``socket.socket`` (whoever has it already keeps it).
"""

from __future__ import annotations

import asyncio.selector_events
import contextlib
import functools
import os
import socket
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from clearstone import run
from clearstone.errors import ConfigurationError, LiveCallRefused
from clearstone.replay.lines import asked_by_us, is_import, is_installed, quoted, users_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from clearstone.errors import ReplayError

Kind = Literal["network", "subprocess", "files", "input"]
ALLOWED, DENIED = ("network", "subprocess"), ("files",)
"""What `allow` and `deny` may name."""

_EVENTS: dict[str, Kind] = {
    **dict.fromkeys(
        (
            "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
            "socket.getnameinfo", "socket.sendto", "socket.sendmsg",
        ),
        "network",
    ),
    **dict.fromkeys(
        (
            "subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system", "os.spawn",
            "os.startfile", "pty.spawn",
        ),
        "subprocess",
    ),
    **dict.fromkeys(
        (
            "open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink",
            "os.chmod", "os.chown", "os.utime", "sqlite3.connect",
        ),
        "files",
    ),
    "builtins.input": "input",
}  # fmt: skip

_OF_TWO = frozenset({"os.rename", "os.link", "os.symlink"})
"""Events that change what their second argument names."""

_METHODS = (
    "send", "sendall", "sendto", "sendmsg", "sendfile", "recv", "recv_into", "recvfrom", "recvmsg", "recvfrom_into",
)  # fmt: skip

NATIVE = {
    "grpc": "gRPC", "uvloop": "uvloop", "pycurl": "libcurl", "psycopg2": "libpq", "psycopg_c": "libpq",
    "zmq": "ZeroMQ", "curl_cffi": "libcurl",
}  # fmt: skip
"""Modules whose network calls Python does not see, and what makes them."""


@dataclass(slots=True)
class Guard:
    """Decides for one replay.

    Args:
        latch: keeps the replay's first refusal, and returns it.
        allow: what may happen all the same: ``"network"``, ``"subprocess"``.
        deny: what is refused that is otherwise only listed: ``"files"``.

    `written` are the files that were changed, and `read` is what was taken from today's machine, in their order.

    """

    latch: Callable[[ReplayError], ReplayError]
    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    written: dict[str, None] = field(default_factory=dict)
    read: dict[str, None] = field(default_factory=dict)

    def met(self, kind: Kind, what: str) -> None:
        """Refuse what is about to happen, or let it be.

        Args:
            kind: what it is.
            what: what exactly, in a few words.

        Raises:
            LiveCallRefused: it must not happen.
        """
        if kind == "files":
            self.written[what] = None
            if "files" not in self.deny:
                return
        elif kind in self.allow:
            return
        raise self.latch(LiveCallRefused(_sentence(kind, what)))


def _sentence(kind: Kind, what: str) -> str:
    line = users_line()
    place = f"\n  at {line}{quoted(line)}" if line else ""
    if kind == "files":
        return f"the replayed code was about to change a file, which deny=('files',) refuses: {what}{place}"
    doing = "go out" if kind == "network" else "start a process"
    return (
        f"the replayed code was about to {doing}: {what}{place}\n"
        f"Nothing recorded answers it. Put @traced(span_type='tool') above the function that does it, or "
        f"clearstone.instrument('module:function', span_type='tool') for code you do not own, and record again; or let "
        f"it happen: allow=({kind!r},), --allow {kind}."
    )


def unseen() -> list[str]:
    """Return which loaded modules go out by ways that the guard does not see, and what makes them."""
    of_the_kernel = {"zmq"} if "ipykernel" in sys.modules else set()
    return [f"{name} ({what})" for name, what in NATIVE.items() if name in sys.modules and name not in of_the_kernel]


# --- what asks -------------------------------------------------------------------------------------------------------

_everywhere: list[Guard] = []
"""Of replays that have the process to themselves: they hold also where no context says so."""


def _guard() -> Guard | None:
    """Return the guard of the replay this context is in."""
    found: Guard | None = getattr(run.override.get(), "guard", None) or (_everywhere[-1] if _everywhere else None)
    return found if found is not None and not getattr(run.current_span.get(), "is_live", False) else None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    kind = _EVENTS.get(event)
    guard = _guard() if kind is not None else None
    if kind is None or guard is None:
        return
    if kind == "input":
        _note(guard, "standard input")
    elif event == "open" and not _writes(*args):
        _note_file(guard, args[0])
    elif kind == "files":
        _note_change(guard, args[:2] if event in _OF_TWO else args[:1])
    elif not (args and _wakes_a_loop(args[0])):
        guard.met(kind, _told(event, args))


def _note(guard: Guard, what: str) -> None:
    if not asked_by_us():
        guard.read[what] = None


def _note_file(guard: Guard, path: Any) -> None:
    name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    if name and not name.endswith(_CODE) and not is_installed(name):
        _note(guard, f"file {name}")


def _note_change(guard: Guard, paths: Iterable[Any]) -> None:
    if not is_import() and not asked_by_us():  # a fork is recorded
        for path in paths:
            name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else repr(path)
            if name not in {"", ":memory:"}:  # databases that are no files
                guard.met("files", name)


_CODE = (".py", ".pyc", ".so", ".pyd", ".pth")


def _writes(path: Any, mode: Any, flags: Any) -> bool:
    if isinstance(path, int):
        return False
    if isinstance(mode, str):
        return any(each in mode for each in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))


def _told(event: str, args: tuple[Any, ...]) -> str:
    shown = [repr(each)[:200] for each in args if not isinstance(each, socket.socket)]
    return f"{event}({', '.join(shown[:2])})"


def _wakes_a_loop(connection: Any) -> bool:
    """Whether an event loop uses the pair of sockets by which threads wake it."""
    if type(connection) is not socket.socket or connection.family != getattr(socket, "AF_UNIX", None):
        return False
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code not in _WAKING:
        frame = frame.f_back if frame.f_code.co_filename == __file__ else None
    return frame is not None


_WAKING = frozenset(
    vars(asyncio.selector_events.BaseSelectorEventLoop)[name].__code__ for name in ("_write_to_self", "_read_from_self")
)


def _asking(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        guard = _guard()
        if guard is not None and not _wakes_a_loop(self):
            guard.met("network", f"socket.{name} on a connection that was there before")
        return method(self, *args, **kwargs)

    return ask


def _reading(get: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(get)
    def ask(self: Any, key: Any) -> Any:
        guard = _guard()
        if guard is not None:
            _note(guard, f"environment variable {key}")
        return get(self, key)

    return ask


# --- in and out of place ---------------------------------------------------------------------------------------------

_lock = threading.Lock()
_replays = 0
_is_hooked = False
_removal = contextlib.ExitStack()


@contextlib.contextmanager
def watching(guard: Guard, *, everywhere: bool) -> Iterator[None]:
    """Have what asks in place, for the ``with`` block.

    Args:
        guard: the replay's.
        everywhere: whether it holds in every context of the process.
    """
    global _replays, _removal  # noqa: PLW0603 - one process, one set of methods
    with _lock:
        _replays += 1
        if _replays == 1:
            _removal = _installed()
    if everywhere:
        _everywhere.append(guard)
    try:
        yield
    finally:
        if everywhere:
            _everywhere.remove(guard)
        with _lock:
            _replays -= 1
            if not _replays:
                _removal.close()


def _installed() -> contextlib.ExitStack:
    global _is_hooked  # noqa: PLW0603 - a hook cannot be removed
    if not _is_hooked:
        sys.addaudithook(_hook)
        _is_hooked = True
    with contextlib.ExitStack() as undo:
        ssl = sys.modules.get("ssl")  # who has not loaded it has no such connection
        for owner in (socket.socket, *([ssl.SSLSocket] if ssl is not None else [])):
            for name in _METHODS:
                if hasattr(owner, name):
                    _replace(undo, owner, name, _asking(name, getattr(owner, name)))
        _replace(undo, type(os.environ), "__getitem__", _reading(type(os.environ).__getitem__))
        return undo.pop_all()


_ABSENT = object()


def _replace(undo: contextlib.ExitStack, owner: type, name: str, by: Any) -> None:
    held = vars(owner).get(name, _ABSENT)  # most methods of a socket are inherited
    setattr(owner, name, by)
    undo.callback(_put_back, owner, name, by, held)


def _put_back(owner: type, name: str, by: Any, held: Any) -> None:
    if vars(owner).get(name) is not by:
        return  # somebody else's by now
    if held is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, held)


def chosen(given: Iterable[str] | str) -> frozenset[str]:
    """Return names as a set; one alone may stand without a list."""
    return frozenset([given] if isinstance(given, str) else given)


def permissions(allow: Iterable[str] | str, deny: Iterable[str] | str) -> tuple[frozenset[str], frozenset[str]]:
    """Return what a guard allows and denies.

    Raises:
        ConfigurationError: one of them names something else than there is.
    """
    for name, given, possible in (("allow", chosen(allow), ALLOWED), ("deny", chosen(deny), DENIED)):
        other = sorted(given.difference(possible))
        if other:
            raise ConfigurationError(f"{name}={other[0]!r} is none of {', '.join(map(repr, possible))}")
    return chosen(allow), chosen(deny)
