"""Calls in child processes belong below the span that submitted them, however the child is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = '''
import asyncio, json, multiprocessing, multiprocessing.pool, os, sys, threading
from concurrent.futures import ProcessPoolExecutor
from clearstone import configure, run, traced
from clearstone.record.default import default_provider
from clearstone.record.provider import TracerProvider

class RowStore:
    def __init__(self):
        self.batches = []
    def apply(self, batch):
        self.batches.append(batch)
    def close(self):
        pass

store = RowStore()
configure(provider=TracerProvider(store=store))

@traced
def work(x):
    return x

@traced
def failing(x):
    raise ValueError(x)

class Agent:
    @traced
    def method(self, x):
        return x

def rows():
    default_provider().flush()
    batches, store.batches = store.batches, []
    return [
        [batch.sites[row.site].name, row.trace_id.hex(), row.parent_id, row.top, os.getpid()]
        for batch in batches for row in batch.spans if row.parent_id is not None
    ]

def job(x):
    work(x)
    return rows()

def in_thread(x):
    thread = threading.Thread(target=work, args=(x,))
    thread.start()
    thread.join()
    return rows()

def put(queue, x):
    queue.put(job(x))

def nothing(x):
    return [run.current_span.get() is None, run.override.get() is None]

class OwnProcess(multiprocessing.Process):
    pass

def main(method, way):
    context = multiprocessing.get_context(method)
    with default_provider().get_tracer().span("root") as root:
        found = WAYS[way](context)
    print(json.dumps({"root": root.number, "trace": root.trace_id, "pid": os.getpid(), "found": found}))

def executor(context):
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(job, 1).result() + next(iter(pool.map(in_thread, [2])))

def loop(context):
    async def submit(pool):
        return await asyncio.get_running_loop().run_in_executor(pool, job, 1)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return asyncio.run(submit(pool))

def pool(context):
    with context.Pool(1) as pool:
        return (pool.apply(job, (1,)) + pool.map(job, [2])[0] + pool.starmap(job, [(3,)])[0]
                + next(pool.imap(job, [4])) + next(pool.imap_unordered(job, [5])) + pool.map_async(job, [6]).get()[0])

def process(context):
    queue = context.SimpleQueue()
    child = context.Process(target=put, args=(queue, 1))
    child.start()
    found = queue.get()
    child.join()
    assert child.exitcode == 0
    assert "run" not in vars(child)
    return found

def grandchild(context):
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(below, context.get_start_method()).result()

def below(method):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        return pool.submit(job, 1).result()

def threads(context):
    with multiprocessing.pool.ThreadPool(1) as pool:
        return pool.apply(job, (1,))

def later(context):
    """Workers that were started in a span, and jobs of no span."""
    token = run.current_span.set(None)
    outside = run.current_span.get()
    run.current_span.reset(token)
    inside = run.current_span.get()
    found = []
    with ProcessPoolExecutor(1, mp_context=context) as executor, context.Pool(1) as pool:
        with multiprocessing.pool.ThreadPool(1) as threads:
            executor.submit(job, 1).result()
            run.current_span.set(None)
            found += [executor.submit(nothing, 1).result(), pool.apply(nothing, (1,)), threads.apply(nothing, (1,))]
            run.current_span.set(inside)
    return found

def suspended(context):
    with ProcessPoolExecutor(1, mp_context=context) as pool, run.suspended():
        return pool.submit(job, 1).result()

def errors(context):
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            pool.submit(failing, "mine").result()
        except ValueError as error:
            return [str(error)] + [pool.submit(Agent().method, 4).result()]

def fork(context):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, json.dumps(job(1)).encode())
        os._exit(0)
    os.close(write)
    found = json.loads(os.fdopen(read).read())
    os.wait()
    return found

WAYS = dict(
    executor=executor, loop=loop, pool=pool, process=process, grandchild=grandchild, threads=threads, later=later,
    suspended=suspended, errors=errors, fork=fork,
)
if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
'''

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def children(tmp_path: Path) -> Any:
    """Run a way of making children under a start method; return what it printed."""
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(method: str, way: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "program.py", method, way],
            cwd=tmp_path,
            env={
                **os.environ,
                "CLEARSTONE_HOME": str(tmp_path / "home"),
                "PYTHONWARNINGS": "ignore",  # from Python 3.12 on it warns of a fork beside threads
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("way", "calls"), [("executor", 2), ("loop", 1), ("pool", 6), ("process", 1), ("grandchild", 1)]
)
def test_calls_in_a_child_are_below_the_span_that_submitted_them(
    children: Any, way: str, method: str, calls: int
) -> None:
    told = children(method, way)
    assert len(told["found"]) == calls
    for name, trace, parent, top, pid in told["found"]:
        assert (name, trace, parent) == ("work", told["trace"], told["root"])
        assert top, "no span of the child is above it"
        assert pid != told["pid"]


def test_a_thread_pool_of_multiprocessing_carries_as_threads_do(children: Any) -> None:
    (call,) = [call for call in children("spawn", "threads")["found"] if call[0] == "work"]
    assert not call[3]


@pytest.mark.parametrize("method", METHODS)
def test_workers_that_were_started_in_a_span_belong_to_none(children: Any, method: str) -> None:
    assert children(method, "later")["found"] == [[True, True]] * 3


@pytest.mark.parametrize("method", METHODS)
def test_jobs_of_a_suspended_block_are_not_recorded(children: Any, method: str) -> None:
    assert children(method, "suspended")["found"] == []


@pytest.mark.parametrize("method", METHODS)
def test_results_errors_and_decorated_methods_pass_through_a_pool(children: Any, method: str) -> None:
    assert children(method, "errors")["found"] == ["mine", 4]


def test_after_a_plain_fork_the_childs_calls_are_below_the_span_it_was_forked_in(children: Any) -> None:
    told = children("fork", "fork")
    ((name, trace, parent, top, pid),) = told["found"]
    assert (name, trace, parent, bool(top)) == ("work", told["trace"], told["root"], True)
    assert pid != told["pid"]


def test_the_span_carries_where_its_database_and_home_are(tmp_path: Path) -> None:
    import pickle

    from clearstone import home
    from clearstone.record.provider import TracerProvider

    provider = TracerProvider(tmp_path / "mine.db", payload_limit=12345)
    below = pickle.loads(pickle.dumps(provider.ticket(b"0123456789abcdef", 255)))()
    again = pickle.loads(pickle.dumps(below.ticket()))()
    assert {each.trace_id for each in (below, again)} == {b"0123456789abcdef".hex()}
    assert {each.span_id for each in (below, again)} == {"00000000000000ff"}
    child = again.recording._tracer.provider
    assert (child.database, child.payload_limit) == (provider.database, 12345)
    assert again.recording is below.recording, "one provider for one database"
    assert home.home() == tmp_path / "home"
    child.shutdown()
    provider.shutdown()


def test_importing_clearstone_and_recording_load_no_multiprocessing() -> None:
    code = "import sys, clearstone; clearstone.traced(abs); print([n for n in sys.modules if 'multiprocessing' in n])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it loads it
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


STORED = """
import json, multiprocessing, os, pathlib, sys
from concurrent.futures import ProcessPoolExecutor
import clearstone
from clearstone.observability import TracerProvider

@clearstone.traced
def work(x):
    return os.getpid()

@clearstone.traced
def run(method, ours):
    context = multiprocessing.get_context(method)
    os.chdir("elsewhere")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pids = list(pool.map(work, range(20)))
    child = context.Process(target=work, args=(21,))
    child.start()
    child.join()
    return pids

if __name__ == "__main__":
    method, where = sys.argv[1:]
    provider = TracerProvider(where) if where != "home" else clearstone.configure(home="configured")
    with provider.get_tracer().span("root") as root:
        pids = run(method, provider)
    provider.shutdown()
    spans = provider.trace_store.get_trace(root.trace_id).spans
    (above,) = [span for span in spans if span.name == "run"]
    below = [span for span in spans if span.name == "work"]
    print(json.dumps({
        "below": [span.parent_id == above.span_id and span.end_ns is not None for span in below],
        "other pids": os.getpid() not in pids,
        "left": sorted(str(path) for path in pathlib.Path("..").glob("**/traces.db")),
        "elsewhere": os.listdir("."),
    }))
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["home", "mine.db"])
def test_children_record_into_the_database_of_the_span_they_are_below(tmp_path: Path, method: str, where: str) -> None:
    (tmp_path / "stored.py").write_text(STORED)
    (tmp_path / "elsewhere").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "CLEARSTONE_HOME"}
    done = subprocess.run(
        [sys.executable, "stored.py", method, str(tmp_path / where) if where != "home" else where],
        cwd=tmp_path,
        env={**environment, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told = json.loads(done.stdout)
    assert told["below"] == [True] * 21
    assert told["other pids"]
    assert told["left"] == (["../configured/traces.db"] if where == "home" else [])
    assert told["elsewhere"] == []


REDACTED = """
import json, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import clearstone, scrub
from clearstone.codec import payload

@clearstone.traced
def work(badge, session_token, text):
    return text

def unfound(text):
    return text

def run(context):
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for _ in range(2):
            pool.submit(work, "B-1", "T-1", "hello Ada").result()

if __name__ == "__main__":
    method, rules = sys.argv[1:]
    scrub.unfound = unfound
    unfound.__module__, unfound.__qualname__ = "scrub", "unfound"
    given = {
        "default": {},
        "keys": dict(redact_keys=["badge"], redact_keep=["session_token"]),
        "function": dict(redact=scrub.names),
        "lambda": dict(redact=lambda text: text.replace("Ada", "somebody")),
        "unfound": dict(redact=unfound),
        "nothing": dict(redact=False),
    }[rules]
    provider = clearstone.configure(home="configured", **given)
    with provider.get_tracer().span("root") as root:
        run(multiprocessing.get_context(method))
    provider.shutdown()
    spans = provider.trace_store.get_trace(root.trace_id).spans
    found = [span for span in spans if span.name == "work"]
    print(json.dumps([[*payload.load(span.input)[0], payload.load(span.outcome.value)] for span in found]))
"""
HIDDEN = "[redacted]"


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize(
    ("rules", "recorded", "elsewhere"),
    [
        ("default", ["B-1", HIDDEN, "hello Ada", "hello Ada"], None),
        ("keys", [HIDDEN, "T-1", "hello Ada", "hello Ada"], None),
        ("function", ["B-1", HIDDEN, "hello somebody", "hello somebody"], None),
        ("nothing", ["B-1", "T-1", "hello Ada", "hello Ada"], None),
        ("lambda", ["B-1", HIDDEN, "hello somebody", "hello somebody"], "cannot be pickled"),
        ("unfound", ["B-1", HIDDEN, "hello Ada", "hello Ada"], "AttributeError"),
    ],
)
def test_children_redact_as_their_parent_does_or_every_text(
    tmp_path: Path, method: str, rules: str, recorded: list[str], elsewhere: str | None
) -> None:
    (tmp_path / "redacted.py").write_text(REDACTED)
    (tmp_path / "scrub.py").write_text("def names(text):\n    return text.replace('Ada', 'somebody')\n")
    done = subprocess.run(
        [sys.executable, "redacted.py", method, rules],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    if elsewhere is None or method == "fork":  # a forked child has the function itself
        assert (json.loads(done.stdout), done.stderr) == ([recorded] * 2, "")
    else:
        assert json.loads(done.stdout) == [[HIDDEN] * 4] * 2
        assert done.stderr.count("did not reach this child process") == 1
        assert elsewhere in done.stderr


def test_a_process_with_rules_of_its_own_keeps_them_and_one_that_follows_follows_on() -> None:
    from clearstone.codec import redact
    from clearstone.record.inheritance import Inheritance, follow

    active = redact.active()
    try:
        redact.use(redact.Rules(keys=("own",)))
        follow(Inheritance(("badge",), (), None, 1))
        assert redact.active().rules == redact.Rules(keys=("own",))
        redact.use(redact.Rules())
        for key in ("badge", "office"):
            follow(Inheritance((key,), (), None, 1))
            assert redact.active().rules == redact.Rules(keys=(key,))
        following = redact.active()
        follow(Inheritance(("office",), (), None, 1))
        assert redact.active() is following, "what it remembers is not thrown away with each job"
    finally:
        redact.use(active.rules)
