"""However a process ends, and whatever it forks, each call that returned is in the store, once."""

import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

HEAD = """
import asyncio, atexit, concurrent.futures, gc, multiprocessing, os, signal, sys, threading, time, warnings
from clearstone import configure, traced
from clearstone.observability import TracerProvider
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which are the subject here

@traced
def step(number):
    return number

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

"""
OPEN = "provider = configure(db_path=sys.argv[1])\n"


@pytest.fixture
def ended(program: Callable[..., Any], database: Any) -> Callable[..., tuple[int, str, str]]:
    """Run a program to its end; return its exit code and what it said."""

    def run(body: str, *, head: str = HEAD + OPEN) -> tuple[int, str, str]:
        import textwrap

        process = program(head + textwrap.dedent(body), database)
        out, errors = process.communicate(timeout=60)
        return process.returncode, out, errors

    return run


def steps(recovered: Callable[[], Any]) -> list[int]:
    found = recovered().given("step")
    assert all(span.end_ns is not None and not span.interrupted for span in found.values())
    return sorted(number for (number,) in found)


def test_a_provider_never_shut_down_is_emptied_at_exit(ended: Any, recovered: Any) -> None:
    assert ended("for number in range(500): step(number)") == (0, "", "")
    assert steps(recovered) == list(range(500))


def test_os_exit_loses_nothing(ended: Any, recovered: Any) -> None:
    assert ended("for number in range(500): step(number)\nos._exit(3)") == (3, "", "")
    assert steps(recovered) == list(range(500))


def test_a_provider_that_is_dropped_and_collected_is_emptied_too(ended: Any, recovered: Any) -> None:
    body = """
    own = TracerProvider(sys.argv[1])
    @traced(tracer=own.get_tracer(), name="step")
    def other(number):
        return number
    for number in range(100): other(number)
    del own, other
    gc.collect()
    """
    assert ended(body, head=HEAD) == (0, "", "")
    assert steps(recovered) == list(range(100))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGABRT, signal.SIGSEGV])
def test_a_signal_that_ends_the_process_loses_no_call_that_returned(number: int, ended: Any, recovered: Any) -> None:
    body = f"""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
    for number in range(500): step(number)
    os.kill(os.getpid(), {int(number)})
    time.sleep(30)
    """
    code, _, _ = ended(body)
    assert code != 0
    assert steps(recovered) == list(range(500))


def test_a_handler_that_records_and_leaves_by_system_exit_loses_nothing(ended: Any, recovered: Any) -> None:
    body = """
    def handler(*_):
        step(-1)
        provider.shutdown(5)
        step(-2)
        sys.exit(7)
    signal.signal(signal.SIGTERM, handler)
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
    number = 0
    while True:
        step(number)
        number += 1
    """
    assert ended(body) == (7, "", "")
    found = recovered().given("step")
    assert found[-1,].end_ns is not None
    assert found[-2,].end_ns is not None
    open_still = [number for (number,), span in found.items() if span.interrupted]
    assert open_still in ([], [len(found) - 3]), "the call that the handler left by its exception"


@pytest.mark.parametrize("moment", range(6))
def test_a_handler_that_shuts_down_while_a_segment_is_made_does_not_wait_for_itself(
    moment: int, ended: Any, recovered: Any
) -> None:
    body = f"""
    from clearstone.record import segments
    made, real = [], segments.in_file
    def in_file(*arguments):
        made.append(1)
        if len(made) == {moment + 1}:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)
        return real(*arguments)
    segments.in_file = in_file
    def handler(*_):
        big(-1)
        provider.shutdown(1)
        big(-2)
        sys.exit(7)
    signal.signal(signal.SIGTERM, handler)
    @traced
    def big(number):
        return number, "x" * 300_000
    for number in range(10_000):
        big(number)
    """
    code, _, errors = ended(body)
    assert code == 7, errors
    assert "Traceback" not in errors
    found = recovered().given("big")
    assert found[-1,].end_ns is not None
    assert found[-2,].end_ns is not None
    assert sum(span.interrupted for span in found.values()) <= 1


def test_a_signal_during_the_exit_handlers_loses_nothing(ended: Any, recovered: Any) -> None:
    body = """
    def handler(*_):
        step(-1)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    handled = []
    step = (lambda real: lambda number: handled.append(0) or real(-len(handled)) if number < 0 else real(number))(step)
    for number in range(3000): step(number)
    """
    silence = "atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)\n"
    head = HEAD.replace("from clearstone import", f"{silence}from clearstone import", 1) + OPEN
    assert ended(body, head=head) == (0, "", "")
    found = steps(recovered)
    assert [number for number in found if number >= 0] == list(range(3000))


def test_exit_handlers_of_the_program_may_record_before_and_after_ours(ended: Any, recovered: Any) -> None:
    head = HEAD.replace("from clearstone import", "atexit.register(lambda: step(1))\nfrom clearstone import", 1) + OPEN
    assert ended("atexit.register(lambda: step(2))\nstep(0)", head=head) == (0, "", "")
    assert steps(recovered) == [0, 1, 2]


def test_daemon_threads_that_record_while_the_interpreter_ends_lose_nothing(ended: Any, recovered: Any) -> None:
    body = """
    counts = [0] * 4
    def record(slot):
        number = slot
        while True:
            step(number)
            counts[slot] += 1
            number += 4
    for slot in range(4):
        threading.Thread(target=record, args=(slot,), daemon=True).start()
    time.sleep(0.1)
    say(*counts)
    """
    code, out, errors = ended(body)
    assert (code, errors) == (0, "")
    found = recovered().given("step")
    for slot, count in enumerate(map(int, out.split())):
        assert all(found[slot + 4 * number,].end_ns is not None for number in range(count))
    assert all(span.interrupted == (span.end_ns is None) for span in found.values())


def test_a_span_still_open_when_the_process_ends_in_order_is_interrupted(ended: Any, recovered: Any) -> None:
    body = """
    inside = threading.Event()
    @traced
    def for_ever():
        step(1)
        inside.set()
        time.sleep(60)
    threading.Thread(target=for_ever, daemon=True).start()
    inside.wait()
    """
    assert ended(body) == (0, "", "")
    spans = {span.name: span for span in recovered().all}
    assert spans["for_ever"].interrupted
    assert spans["step"].parent_id == spans["for_ever"].span_id


FORKS = {
    "that leaves in order": "sys.exit(0)",
    "that leaves at once": "os._exit(0)",
    "that is killed": "os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("leave", FORKS.values(), ids=FORKS)
def test_a_child_forked_inside_a_span_records_below_it(leave: str, ended: Any, recovered: Any) -> None:
    body = f"""
    @traced
    def outer():
        step(0)
        child = os.fork()
        if not child:
            for number in range(1, 200): step(number)
            {leave}
        os.waitpid(child, 0)
        step(200)
    outer()
    """
    assert ended(body) == (0, "", "")
    found = recovered()
    (outer,) = found.named("outer")
    assert outer.end_ns is not None
    steps = found.given("step")
    assert sorted(number for (number,) in steps) == list(range(201))
    assert {span.parent_id for span in steps.values()} == {outer.span_id}


def test_forks_beside_threads_that_record_lose_nothing_and_never_hang(ended: Any, recovered: Any) -> None:
    body = """
    stop = threading.Event()
    def record(slot):
        number = slot
        while not stop.is_set():
            step(number)
            number += 4
            time.sleep(0.0005)
    threads = [threading.Thread(target=record, args=(slot,)) for slot in range(4)]
    for thread in threads: thread.start()
    for child in range(12):
        process = os.fork()
        if not process:
            for number in range(20): step(-1 - child * 20 - number)
            provider.flush() if child % 2 else None
            os._exit(0)
        os.waitpid(process, 0)
    stop.set()
    for thread in threads: thread.join()
    """
    assert ended(body) == (0, "", "")
    assert [number for number in steps(recovered) if number < 0] == list(range(-240, 0))


def test_a_fork_in_a_signal_handler_loses_nothing_and_never_hangs(ended: Any, recovered: Any) -> None:
    body = """
    children = []
    def handler(*_):
        if len(children) >= 20: return
        process = os.fork()
        if not process:
            step(-1 - len(children))
            provider.shutdown()
            os._exit(0)
        children.append(process)
        signal.setitimer(signal.ITIMER_REAL, 0.003)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.003)
    number = 0
    while len(children) < 20:
        step(number)
        number += 1
    for process in children: os.waitpid(process, 0)
    say(number)
    """
    code, out, errors = ended(body)
    assert (code, errors) == (0, "")
    assert steps(recovered) == [*range(-20, 0), *range(int(out))]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_of_processes_record_every_job(method: str, ended: Any, recovered: Any) -> None:
    body = f"""
    if __name__ == "__main__":
        step(-1)
        context = multiprocessing.get_context({method!r})
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(step, range(100))) == list(range(100))
        with context.Pool(2) as pool:  # its workers are ended by a signal
            assert pool.map(step, range(100, 200)) == list(range(100, 200))
    """
    code, out, errors = ended(body)
    said = [line for line in errors.splitlines() if "recorded no call" not in line]  # a worker that got no job
    assert (code, out, said) == (0, "", [])
    assert steps(recovered) == list(range(-1, 200))


def test_flush_and_shutdown_from_many_threads_at_once_lose_nothing(ended: Any, recovered: Any) -> None:
    body = """
    def work(slot):
        for number in range(slot, 2000, 8):
            step(number)
            if number % 7 == 0: provider.flush()
            if number % 500 == slot: provider.shutdown()
    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert provider.shutdown()
    """
    assert ended(body) == (0, "", "")
    assert steps(recovered) == list(range(2000))


def test_a_pause_of_a_writer_without_threads_to_start_is_the_callers(ended: Any, recovered: Any) -> None:
    body = """
    def no_more(self):
        raise RuntimeError("can't start new thread")
    threading.Thread.start = no_more  # as the interpreter does where the system gives no more
    for number in range(50): step(number)
    assert provider.flush()
    """
    assert ended(body) == (0, "", "")
    assert steps(recovered) == list(range(50))


def test_what_died_while_others_live_is_recovered_and_the_living_are_left_alone(
    program: Callable[..., Any], database: Any, recovered: Any
) -> None:
    living = program(HEAD + OPEN + "step(1)\nsay('there')\nsys.stdin.readline()\nstep(2)\n", database)
    assert living.stdout.readline() == "there\n"
    dead = program(HEAD + OPEN + "step(3)\nos._exit(0)\n", database)
    assert dead.communicate(timeout=60)[0] == ""
    opener = program(HEAD + "assert TracerProvider(sys.argv[1]).flush()\n", database)
    opener.communicate(timeout=60)
    assert opener.returncode == 0
    folders = list(database.with_name("traces.db.journal").iterdir())
    assert len(folders) == 1, "the living one's"
    assert living.communicate("\n", timeout=60) == ("", "")
    assert Counter(steps(recovered)) == Counter([1, 2, 3])
