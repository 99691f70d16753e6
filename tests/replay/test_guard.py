"""In a replay nothing goes out behind the user's back, and outside of it nothing is refused."""

import asyncio
import contextlib
import http.server
import importlib
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import types
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clearstone import checkpointable, traced
from clearstone.debugging import Checkpoint, CheckpointManager, ReplayEngine
from clearstone.errors import ConfigurationError, LiveCallRefused

does: dict[str, Callable[[], Any]] = {}
"""What the code does today; when it was recorded it did nothing."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        requests.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"answer")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


requests: list[str] = []


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url) as response:  # noqa: S310 - loopback
        return bytes(response.read())


@traced(span_type="tool")
def look(what: str) -> Any:
    return does.get("look", lambda: f"recorded {what}")()


@checkpointable
class Agent:
    def run(self) -> None:
        result = does.get("run", lambda: None)()
        look("it")
        raise RuntimeError(result)


@pytest.fixture
def checkpoint() -> Checkpoint:
    does.clear()
    requests.clear()
    with pytest.raises(RuntimeError):
        Agent().run()
    return CheckpointManager().load_checkpoint("latest")


def refused(checkpoint: Checkpoint, does_now: Callable[[], Any], **options: Any) -> str:
    """Replay with something that is to be refused; return what is said."""
    does["run"] = does_now
    with pytest.raises(LiveCallRefused) as caught:
        ReplayEngine(checkpoint, **options).replay_from_checkpoint()
    return str(caught.value)


def gone_through(checkpoint: Checkpoint, does_now: Callable[[], Any], **options: Any) -> tuple[ReplayEngine, Any]:
    does["run"] = does_now
    engine = ReplayEngine(checkpoint, **options)
    with pytest.raises(RuntimeError) as caught:
        engine.replay_from_checkpoint()
    return engine, caught.value.args[0]


# --- the network -----------------------------------------------------------------------------------------------------


def test_a_request_is_refused_with_the_line_that_makes_it_and_what_would_record_it(
    checkpoint: Checkpoint, url: str
) -> None:
    told = refused(checkpoint, lambda: fetched(url))
    assert requests == []
    assert f"at {__file__}:" in told
    assert "with urllib.request.urlopen(url) as response:" in told
    assert "@traced(span_type='tool')" in told
    assert "clearstone.instrument(" in told
    assert "--allow network" in told


ATTEMPTS: dict[str, Callable[[], Any]] = {
    "look up a name": lambda: socket.getaddrinfo("example.org", 80),
    "look up a name of old": lambda: socket.gethostbyname("example.org"),
    "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "listen": lambda: socket.socket().bind(("127.0.0.1", 0)),
    "send a datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
    "run a program": lambda: subprocess.run([sys.executable, "-V"], check=True),
    "use a shell": lambda: os.system("true"),  # noqa: S605
    "fork": os.fork,
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("what", ATTEMPTS)
def test_whatever_goes_out_or_starts_a_process_is_refused(checkpoint: Checkpoint, what: str) -> None:
    assert "the replayed code was about to" in refused(checkpoint, ATTEMPTS[what])


def test_a_refusal_is_latched_though_the_code_swallows_it(checkpoint: Checkpoint, url: str) -> None:
    def insists() -> None:
        for _ in range(3):
            with contextlib.suppress(Exception):
                fetched(url)

    engine = ReplayEngine(checkpoint)
    does["run"] = insists
    with pytest.raises(LiveCallRefused):
        engine.replay_from_checkpoint()
    assert engine.ledger.count("reused") == 0
    assert requests == []


def test_a_connection_that_was_made_before_the_replay_is_refused_too(checkpoint: Checkpoint) -> None:
    near, far = socket.socketpair()
    with near, far:
        assert "on a connection that was there before" in refused(checkpoint, lambda: near.sendall(b"x"))
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(1)
        near.sendall(b"y")
        assert far.recv(1) == b"y"


def test_threads_tasks_and_executors_of_the_replay_are_guarded(checkpoint: Checkpoint, url: str) -> None:
    def in_a_pool() -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(fetched, url).result()

    def fails() -> None:
        with pytest.raises(OSError, match="about to go out"):  # urllib has its own around it
            fetched(url)

    def in_a_thread() -> None:
        thread = threading.Thread(target=fails)
        thread.start()
        thread.join()

    async def as_a_task() -> Any:
        reader, _ = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        return await reader.read()

    for attempt in (in_a_pool, in_a_thread, lambda: asyncio.run(as_a_task())):
        refused(checkpoint, attempt)
    assert requests == []


@contextlib.contextmanager
def beside(work: Callable[[], Any]) -> Iterator[Callable[[], None]]:
    """Run `work` in a thread that was there before the replay; give what the replayed code waits for it with."""
    begun, done = threading.Event(), threading.Event()

    def run() -> None:
        begun.wait(10)
        work()
        done.set()

    def waits() -> None:
        begun.set()
        assert done.wait(10)

    thread = threading.Thread(target=run)
    thread.start()
    yield waits
    thread.join()


def test_who_is_not_in_the_replay_goes_out_as_ever(checkpoint: Checkpoint, url: str) -> None:
    found: list[bytes] = []
    with beside(lambda: found.append(fetched(url))) as waits:
        gone_through(checkpoint, waits)
    assert found == [b"answer"]


def test_where_the_guard_holds_everywhere_other_threads_are_refused_as_well(checkpoint: Checkpoint, url: str) -> None:
    def fails() -> None:
        with pytest.raises(OSError, match="about to go out"):
            fetched(url)

    with beside(fails) as waits:
        refused(checkpoint, waits, everywhere=True)


def test_what_is_allowed_goes_through(checkpoint: Checkpoint, url: str) -> None:
    _, found = gone_through(checkpoint, lambda: fetched(url), allow="network")
    assert found == b"answer"
    _, done = gone_through(
        checkpoint,
        lambda: subprocess.run([sys.executable, "-c", "print(1)"], check=True, capture_output=True).stdout,
        allow=["subprocess"],
    )
    assert done == b"1\n"


def test_a_function_that_is_passed_through_is_live_and_its_recorded_call_is_not_left(
    checkpoint: Checkpoint, url: str
) -> None:
    does["look"] = lambda: fetched(url)
    for name in (f"{__name__}.look", f"{__name__}:look"):
        engine, _ = gone_through(checkpoint, lambda: None, passthrough=[name])
        assert [entry.verdict for entry in engine.ledger] == ["live", "again"]
    assert len(requests) == 2


@traced
def step(url: str) -> Any:
    return fetched(url)


def test_what_a_live_call_calls_is_live_too(checkpoint: Checkpoint, url: str) -> None:
    does["look"] = lambda: (step(url), look_up(url))
    engine, _ = gone_through(checkpoint, lambda: None, passthrough=f"{__name__}.look")
    assert [entry.verdict for entry in engine.ledger] == ["live", "live", "live", "again"]
    assert len(requests) == 2


@traced(span_type="tool")
def look_up(url: str) -> Any:
    return fetched(url)


def test_a_database_that_is_a_file_is_listed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def connect() -> None:
        for name in (":memory:", str(tmp_path / "notes.db")):
            sqlite3.connect(name).close()

    engine, _ = gone_through(checkpoint, connect)
    assert engine.ledger.written == (str(tmp_path / "notes.db"),)


def test_nothing_is_left_of_the_guard_and_the_next_request_goes_out(checkpoint: Checkpoint, url: str) -> None:
    held = {owner: dict(vars(owner)) for owner in (socket.socket, ssl.SSLSocket, type(os.environ))}
    refused(checkpoint, lambda: fetched(url))
    assert {owner: dict(vars(owner)) for owner in held} == held
    assert fetched(url) == b"answer"


def test_a_loaded_module_whose_calls_are_not_seen_is_said(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "grpc", types.ModuleType("grpc"))
    engine, _ = gone_through(checkpoint, lambda: None)
    assert "What grpc (gRPC) sends is not seen by the guard." in engine.notes


@pytest.mark.parametrize("given", [{"allow": "files"}, {"deny": ["network"]}, {"allow": ["network", "disk"]}])
def test_what_cannot_be_allowed_or_denied_is_said_at_once(checkpoint: Checkpoint, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="is none of"):
        ReplayEngine(checkpoint, **given)


# --- files, and what is read -----------------------------------------------------------------------------------------


def test_files_that_are_changed_are_listed_and_refused_only_when_asked(checkpoint: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "notes"

    def write() -> None:
        file.write_text("x")
        file.rename(tmp_path / "other")
        (tmp_path / "folder").mkdir(exist_ok=True)

    engine, _ = gone_through(checkpoint, write)
    assert engine.ledger.written == (str(file), str(tmp_path / "other"), str(tmp_path / "folder"))
    assert (tmp_path / "other").exists()
    told = refused(checkpoint, write, deny=["files"])
    assert f"about to change a file, which deny=('files',) refuses: {file}" in told
    assert not file.exists()


def test_importing_a_module_changes_no_file_of_the_users(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_in_a_replay.py").write_text("answer = 42")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    importlib.invalidate_caches()
    engine, found = gone_through(
        checkpoint, lambda: importlib.import_module("imported_in_a_replay").answer, deny="files"
    )
    assert found == 42
    assert (engine.ledger.written, engine.ledger.unrecorded) == ((), ())
    assert list((tmp_path / "__pycache__").iterdir())


def test_what_is_taken_from_todays_machine_is_listed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("hello")

    def read() -> Any:
        return (tmp_path / "prompt.txt").read_text(), os.environ.get("HOME"), os.getenv("NO_SUCH_VARIABLE")

    engine, _ = gone_through(checkpoint, read)
    assert engine.ledger.unrecorded == (
        f"file {tmp_path / 'prompt.txt'}",
        "environment variable HOME",
        "environment variable NO_SUCH_VARIABLE",
    )
    engine, _ = gone_through(checkpoint, lambda: None)
    assert (engine.ledger.written, engine.ledger.unrecorded) == ((), ())
